"""/health, /health/ready and /health/live: what a probe and a load balancer see while parts are away, at a start and in
a drain."""

import json
import socket
import threading
import time
from datetime import datetime, timezone

import pytest

from support.chatd import DEADLINE, until
from support.servers import Proxy
from wire import Wire, command

AWAY = ("redis_", "mongodb_", "store_", "bus_")
QUICK = "serverSelectionTimeoutMS=500&connectTimeoutMS=500&socketTimeoutMS=1000"


def ask(server, path="/health/ready"):
    """The status, and the JSON object."""
    status, headers, body = server.get(path)
    assert headers["Cache-Control"] == "no-store"
    return status, json.loads(body)


def age_of(part):
    """`since` and `age_ms` of a part say the same; returns the age in seconds."""
    since = datetime.strptime(part["since"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    assert abs((datetime.now(timezone.utc) - since).total_seconds() - part["age_ms"] / 1000) < 5
    return part["age_ms"] / 1000


def stays_alive(server):
    status, answer = ask(server, "/health/live")
    return status == 200 and answer["status"] == "ok"


def test_all_is_well(server):
    assert ask(server) == (200, {"status": "ok"})
    assert stays_alive(server)
    status, answer = ask(server, "/health")
    assert status == 200 and answer["status"] == "ok"
    assert set(answer["parts"]) == {"store", "bus", "workers"}
    for part in answer["parts"].values():
        assert part["status"] == "ok" and age_of(part) >= 0
    workers = answer["parts"]["workers"]
    assert workers["ready"] == workers["configured"] == server.n_workers and workers["stalled"] == 0


@pytest.mark.parametrize("part", ["store", "bus"])
def test_a_part_that_is_away_makes_it_unready_but_not_dead(fleet, redis, mongo, part):
    env = {"MONGODB_URI": mongo.uri + "?" + QUICK}
    (server,) = fleet(servers=1, workers=1, redis=redis, env=env, allow=AWAY)
    began = time.monotonic()
    away = mongo if part == "store" else redis

    def judged():
        if part == "store":
            server.get("/api/rooms/any/messages")  # else it would be noticed when it is looked after, in some seconds
        return ask(server)

    away.stop()
    try:
        until(lambda: judged()[0] == 503, "it is not ready")
        status, answer = ask(server)
        assert answer["status"] == "failing" and answer["reason"].startswith(f"{part}: ")
        assert stays_alive(server)
        status, answer = ask(server, "/health")
        assert status == 503 and answer["status"] == "failing"
        assert answer["parts"][part]["status"] == "failing" and answer["parts"][part]["error"]
        assert age_of(answer["parts"][part]) <= time.monotonic() - began + 1
        other = answer["parts"]["bus" if part == "store" else "store"]
        assert other["status"] == "ok"
    finally:
        away.start()
    until(lambda: judged() == (200, {"status": "ok"}), "it is ready again")
    state = ask(server, "/health")[1]["parts"][part]
    assert state["status"] == "ok" and age_of(state) <= time.monotonic() - began, "well since it came back, not before"


def test_while_starting_probes_are_answered_and_clients_wait(fleet, spawn, redis, mongo):
    """It doesn't know yet whether there is something to be stored first, since MongoDB doesn't answer."""
    proxy = spawn(Proxy, mongo)
    env = {"MONGODB_URI": mongo.uri_through(proxy)}
    (server,) = fleet(servers=1, workers=1, redis=redis, env=env, allow=AWAY)
    server.stop()
    proxy.stall()
    starting = threading.Thread(target=server.start, daemon=True)
    starting.start()

    def reached():
        try:
            return ask(server)
        except OSError:
            return None

    status, answer = until(reached, "it listens")
    assert (status, answer["status"]) == (503, "starting") and answer["reason"]
    assert stays_alive(server)
    status, answer = ask(server, "/health")
    assert (status, answer["status"]) == (503, "starting")
    assert answer["parts"]["spool"]["status"] == "replaying" and age_of(answer["parts"]["spool"]) < DEADLINE
    assert ask(server, "/metrics")[0] == 200
    with Wire(server) as client, Wire(server) as browser:
        client.send(client.upgrade_head().encode() + command(type="hello", id=1, user="ana"))
        browser.send(f"GET / HTTP/1.1\r\nHost: {browser.host}\r\n\r\n")
        for early in (client, browser):
            early.sock.settimeout(0.2)
            with pytest.raises(socket.timeout):
                early.sock.recv(1)
            early.sock.settimeout(DEADLINE)
        assert ask(server)[1]["status"] == "starting"
        proxy.resume()
        assert client.answer()[0].status == 101
        client.event("welcome", id=1)
        assert browser.answer()[0].status == 200
    starting.join(DEADLINE)
    assert ask(server) == (200, {"status": "ok"})


def test_a_drain_closes_the_port_and_idle_connections_at_once(chatd):
    """What a load balancer sees: refused, so it takes another server; requests under way are answered to their end."""
    server = chatd(workers=2, env={"DRAIN_TIMEOUT": "20s"})
    with Wire(server) as client, Wire(server) as idle:
        client.open()
        idle.send(f"GET /health/ready HTTP/1.1\r\nHost: {idle.host}\r\n\r\n")
        assert idle.answer()[0].status == 200
        server.process.terminate()
        client.event("reconnect")
        assert idle.ended() == b""

        def refused():
            try:
                server.get("/health/ready")
            except ConnectionRefusedError:
                return True
            except OSError:
                return False

        until(refused, "nobody listens any more")
        client.send(b"\x88\x80\0\0\0\0")  # its close, so that the drain ends
    assert server.wait_stopped() == 0

