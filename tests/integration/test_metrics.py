"""/metrics counts exactly: what clients can count themselves is compared with what each worker says, in JSON and in the
text that Prometheus reads.
"""

import asyncio
import http.client
import json
import os
import signal
import socket
import sqlite3
import struct
import time
from collections import Counter

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as prometheus_families
from support.chatd import DEADLINE
from support.client import eventually
from wire import BINARY, Wire, frame

PROMETHEUS = "text/plain;version=0.0.4;q=0.9,*/*;q=0.1"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

# Upper bounds of the buckets, in seconds.
BOUNDS = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, float("inf"),
]

# Labels and what they may say besides `le`, `worker` and `version`.
LABELS = {
    "reason": {
        "normal", "stopping", "protocol", "binary", "utf8", "abuse", "too_large", "slow", "peer", "gone", "timeout",
        "http", "bad_request", "bad_handshake", "head_too_large", "not_found", "rate_limited", "unavailable",
        "no_descriptors", "other",
    },
    "code": {
        "bad_json", "bad_request", "unknown_type", "unauthorized", "forbidden", "bad_name", "bad_room", "not_joined",
        "too_large", "rate_limited", "overloaded", "unavailable", "other",
    },
    "kind": {
        "connections_per_ip", "messages", "typing", "abuse", "rooms", "pending", "send_queue", "bus_queue",
        "store_queue", "other",
    },
}

# What goes on counting while nobody does anything, and what asking changes.
RESTLESS = {
    "time", "uptime_ms", "workers", "loop_turn_seconds", "loop_turn_max_seconds", "process_cpu_seconds_total",
    "process_resident_memory_bytes", "process_open_fds", "memory_used_bytes", "http_requests_total", "bytes_in_total",
    "bytes_out_total", "writes_total", "pings_total", "store_latency_seconds", "http_compressed_total",
    "http_compressed_bytes_total", "http_uncompressed_bytes_total", "bus_latency_seconds", "bus_call_seconds",
    "bus_commands_total", "bus_writes_total", "send_queue_bytes", "closes_total", "http_connections",
}


PENDING = 16  # commands of one connection that may wait


class Tally:
    """What the clients of one test have counted together."""

    def __init__(self, people):
        self.events = Counter()  # by type
        self.errors = Counter()  # by code
        self.replayed = 0
        self.waits = []  # seconds from a message's sending to its arrival
        self.made = 0
        make = people.new

        def new(*args, **options):
            client = make(*args, **options)
            self.made += 1
            take = client._take

            def count(event):
                self.take(event)
                take(event)

            client._take = count
            return client

        people.new = new

    def take(self, event):
        kind = event["type"]
        self.events[kind] += 1
        if kind == "error":
            self.errors[event["code"]] += 1
        if kind in ("joined", "history"):
            self.replayed += len(event["messages"])
        if kind == "message" and event["text"].startswith("at "):
            self.waits.append(time.time() - float(event["text"][3:]))


def each_worker(server, accept=None):
    """GET /metrics once of each worker: {process id: (headers, body)}."""
    asked = {}
    end = time.monotonic() + DEADLINE
    while set(asked) != set(server.workers()):
        assert time.monotonic() < end, "connections come to every worker"
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        connection.connect()
        connection.request("GET", "/metrics", headers={"Accept": accept} if accept else {})
        # While the answer is not read the connection is there to be looked for.
        answer = connection.getresponse()
        body = answer.read()
        pid = server.worker_of(connection.sock.getsockname()[1]) if connection.sock else None
        connection.close()
        if pid:
            asked[pid] = (answer.headers, body.decode())
    return asked


def parsed(families):
    """{(sample's name, sorted labels): value}, and that each family is described and bounded."""
    values = {}
    for family in families:
        assert family.documentation, f"{family.name} has no HELP"
        assert family.type in ("counter", "gauge", "histogram"), f"{family.name} has type {family.type}"
        assert family.name.startswith(("chatd_", "process_")), family.name
        for sample in family.samples:
            for label, word in sample.labels.items():
                if label in LABELS:
                    assert word in LABELS[label], f"{sample.name}: {label}={word}"
                elif label == "worker":
                    assert sample.name.startswith("chatd_worker_") and word.isdigit()
                else:
                    assert label in ("le", "version"), f"{sample.name}: {label}"
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in values, f"{key} twice"
            values[key] = sample.value
    return values


def flat(metrics):
    """The same from the JSON form, as far as it has it."""
    values = {}
    for name, value in metrics.items():
        prefix = "" if name.startswith("process_") else "chatd_"
        if isinstance(value, dict) and "count" in value:
            values[f"{prefix}{name}_count", ()] = value["count"]
            values[f"{prefix}{name}_sum", ()] = value["sum"]
        elif isinstance(value, dict) and "_by_" in name:
            stem, label = name.split("_by_")
            for word, count in value.items():
                values[f"{prefix}{stem}_total", ((label, word),)] = count
        elif isinstance(value, (int, float)) and f"{name.removesuffix('_total')}_by_" not in " ".join(metrics):
            values[prefix + name, ()] = value
    return values


def quiet(metrics):
    steady = {name: value for name, value in metrics.items() if name not in RESTLESS}
    # Each question is an HTTP connection that ends.
    steady["closes_by_reason"] = {r: n for r, n in metrics["closes_by_reason"].items() if r != "http"}
    return steady


async def all_say_the_same(server):
    """Each worker was asked, in each form, and said the same; returns it (JSON)."""

    async def asked():
        answers = await asyncio.to_thread(each_worker, server)
        forms = [quiet(json.loads(body)) for _, body in answers.values()]
        differences.clear()
        differences.update(
            {name: [form.get(name) for form in forms] for name in forms[0]
             if any(form.get(name) != forms[0][name] for form in forms)}
        )
        return None if differences else forms[0]

    differences = {}
    said = await eventually(asked, "every worker says the same")
    for accept, families in ((PROMETHEUS, prometheus_families), (OPENMETRICS, openmetrics_families)):
        for headers, body in (await asyncio.to_thread(each_worker, server, accept)).values():
            kind = accept.split(";")[0]
            assert headers["Content-Type"].startswith(kind), headers["Content-Type"]
            values = parsed(families(body))
            for key, value in flat(said).items():
                assert values[key] == value, f"{key}: {values[key]} in {kind}, {value} in JSON"
    return said


async def counted(server, expected):
    """Waits until /metrics says so; shows what differs if it never does."""
    last = {}

    async def same():
        last.clear()
        metrics = await asyncio.to_thread(server.metrics)
        last.update({name: metrics.get(name) for name in expected if metrics.get(name) != expected[name]})
        return not last

    try:
        await eventually(same, "the numbers are right", 10)
    except AssertionError:
        raise AssertionError(
            "; ".join(f"{name}: {last[name]} instead of {expected[name]}" for name in last)
        ) from None


async def errors_of_each_kind(people):
    """On a connection of its own, so that nobody is cut off for abuse. Returns how many messages were accepted."""
    wrong = people.new("wrong")
    await wrong.connect(hello=False)
    await wrong.refused("unauthorized", "join", room="r1")
    await wrong.refused("bad_name", "hello", user=" no ")
    await wrong.command("hello", user="wrong")
    await wrong.send_raw("{")
    await wrong.expect("error", code="bad_json")
    await wrong.refused("unknown_type", "dance")
    await wrong.refused("bad_room", "join", room=" x")
    await wrong.refused("not_joined", "message", room="r1", text="hello")
    for n in range(3):
        await wrong.join(f"own{n}")
    await wrong.refused("forbidden", "join", room="own3")
    await wrong.refused("bad_request", "message", room="own0", text="")
    await wrong.refused("too_large", "message", room="own0", text="x" * 5000)
    for _ in range(3):
        await wrong.send("typing", room="own0", on=True)
    await wrong.refused("rate_limited", "typing", room="own0", on=True)
    # All in one write: they wait for their commit together.
    ids = [f"all-{n}" for n in range(3 * PENDING)]
    futures = {}
    for n in ids:
        futures[n] = asyncio.get_running_loop().create_future()
        wrong._answers[n] = (futures[n], {"type": "message"})
    lines = (frame(1, json.dumps({"type": "message", "id": n, "room": "own0", "text": n})) for n in ids)
    wrong.ws.transport.write(b"".join(lines))
    answers = [await asyncio.wait_for(future, DEADLINE) for future in futures.values()]
    return sum(answer["type"] == "ack" for answer in answers)


async def too_fast(people, room, limit):
    """One user sends more than the limit allows; returns how many were accepted."""
    fast = await people.member("fast", room)
    accepted = refused = 0
    while refused == 0:
        futures = [await fast.start("message", room=room, text="quick") for _ in range(PENDING)]
        answers = [await asyncio.wait_for(future, DEADLINE) for future in futures]
        accepted += sum(answer["type"] == "ack" for answer in answers)
        refused += sum(answer["type"] == "error" for answer in answers)
        assert accepted <= 2 * limit
    return accepted


async def abuser(people):
    one = await people.connect("abuser")
    while not one.ended.is_set():
        try:
            await one.send_raw("nonsense")
            await one.ws.ping()
        except Exception:  # it was cut while this was on its way
            pass
        await asyncio.sleep(0)
    assert await one.wait_ended() == 1008


def refusals(server):
    """Requests that are refused before an upgrade, by reason."""
    seen = Counter()
    for reason, status, options in (
        ("not_found", 404, {"path": "/elsewhere"}),
        ("bad_handshake", 400, {"drop": ("Sec-WebSocket-Key",)}),
        ("head_too_large", 431, {"X_Long": "y" * 20000}),
    ):
        with Wire(server) as wire:
            head, body = wire.upgrade(**options)
            assert head.status == status, body
            wire.ended()
        seen[reason] += 1
    with Wire(server) as wire:
        wire.send("GET / HTTP/1.1\nHost: x\n\n")
        assert wire.answer()[0].status == 400
        wire.ended()
    seen["bad_request"] += 1
    held = [Wire(server, source="127.0.0.9").open() for _ in range(20)]
    for _ in range(2):
        with Wire(server, source="127.0.0.9") as wire:
            assert wire.upgrade()[0].status == 429
            wire.ended()
        seen["rate_limited"] += 1
    for wire in held:
        wire.sock.close()
    return seen, len(held)


def waits_or_not(server):
    """What became of bytes that were waiting: they have gone, or for long enough not."""
    metrics = server.metrics()
    return "slow" if metrics["slow_readers"] == 1 else "gone" if metrics["send_queue_bytes"] == 0 else None


async def slow_reader(server, publisher):
    """A member that reads nothing until it is cut: (messages published, messages that it got)."""
    published = 0
    with Wire(server, rcvbuf=4096) as slow:
        await asyncio.to_thread(slow.chat, "slow", "slow")
        was_slow = False
        while True:
            metrics = await asyncio.to_thread(server.metrics)
            was_slow = was_slow or metrics["slow_readers"] == 1
            if metrics["slow_closed_total"] == 1:
                break
            published += len(await publisher.say_many("slow", ["x" * 4000] * 8, at_once=8))
            if metrics["send_queue_bytes"] > 0 and not was_slow:
                was_slow = await eventually(lambda: waits_or_not(server), "it counts as slow") == "slow"
        assert was_slow, "a slow reader was seen"
        got = 0

        def rest():
            nonlocal got
            while True:
                one = slow.frame()
                if one is None:
                    return
                if one[0] == 1 and json.loads(one[1])["type"] == "message":
                    got += 1

        await asyncio.to_thread(rest)
    return published, got


@pytest.mark.timeout(120)
async def test_what_clients_can_count_is_exact_whoever_answers(chatd, people):
    limit = 1000
    server = chatd(
        workers=4,
        env={
            "MESSAGE_RATE_LIMIT": f"{limit}/1h",
            "TYPING_RATE_LIMIT": "3/1h",
            "ABUSE_LIMIT": "20/1h",
            "MAX_ROOMS_PER_CONNECTION": "3",
            "MAX_PENDING_PER_CONNECTION": str(PENDING),
            "MAX_CONNECTIONS_PER_IP": "20",
            "SEND_QUEUE_BYTES": "64K",
            "MAX_HEAD_BYTES": "8K",
        },
    )
    tally = Tally(people)
    members = await people.spread([f"u{n}" for n in range(8)])
    for member in members:
        await member.join("r1")
    for member in members[:5]:
        await member.join("r2")
    for member in members[:2]:
        await member.join("r3")
    live = Counter(r1=8, r2=5, r3=2)
    messages = 0
    for n, member in enumerate(members):
        await member.say_many("r1", [f"{n} {i}" for i in range(3)], at_once=3)
        messages += 3
    for member in members[:5]:
        await member.say_many("r2", ["a", "b"], at_once=2)
        messages += 2
    deliveries = 24 * live["r1"] + 10 * live["r2"]
    for _ in range(2):
        await members[0].say("r3", "once", key="the-key")
        await members[0].say("r3", "once", key="the-key", retry=True)
    messages += 1
    deliveries += live["r3"]
    await members[1].send("typing", room="r1", on=True)
    for member in members[:1] + members[2:]:
        await member.expect("typing", user="u1")

    accepted = await errors_of_each_kind(people) + await too_fast(people, "flood", limit)
    messages += accepted
    deliveries += accepted
    await abuser(people)
    refused, held = await asyncio.to_thread(refusals, server)

    publisher = await people.member("publisher", "slow")
    published, got = await slow_reader(server, publisher)
    messages += published
    deliveries += published + got
    wire = Wire(server).open()
    wire.send(frame(BINARY, b"x"))
    assert wire.close_code() == 1003
    wire.ended()
    wire.sock.close()

    leaver = await people.member("leaver", "r1")
    await leaver.command("leave", room="r1")
    gone = await people.connect("gone")
    gone.abort()
    await people.connect("polite")
    await people.all[-1].close()

    # Slow: its welcome, joined and presence went to a wire that nobody counted.
    by_code = dict(tally.errors)
    tally_presence = tally.events["presence"]
    here = [c for c in people.all if c.ws is not None and not c.ended.is_set()]
    await counted(server, {
        "messages_total": messages,
        "store_rows_total": messages,
        "deliveries_total": deliveries,
        "acks_total": tally.events["ack"],
        "replayed_total": tally.replayed,
        "typing_events_total": tally.events["typing"],
        "errors_by_code": by_code,
        "errors_total": sum(by_code.values()),
        "connections": len(here),
        "connections_opened_total": tally.made + held + 2,
        "memberships": sum(live.values()) + 3 + 1 + 1,
        "store_queue": 0,
        "ack_queue": 0,
        "slow_readers": 0,
        "send_queue_bytes": 0,
        "refused_by_reason": dict(refused),
        "refused_total": sum(refused.values()),
        "slow_closed_total": 1,
        "events_dropped_total": 0,
        "limited_by_kind": {
            "connections_per_ip": 2, "messages": by_code["rate_limited"] - 1, "typing": 1, "abuse": 1, "rooms": 1,
            "pending": by_code["overloaded"], "send_queue": 1,
        },
    })
    assert set(by_code) == LABELS["code"] - {"unavailable", "other"}, "each error was seen"
    assert tally.events["message"] + got == deliveries
    said = await all_say_the_same(server)
    assert said["delivery_latency_seconds"]["count"] == deliveries
    assert said["presence_events_total"] == tally_presence
    assert said["rooms"] == len(
        {(client.worker, room) for client in members for room in ("r1", "r2", "r3") if has(client, room, members)}
    ) + 3 + 1 + 1
    closes = said["closes_by_reason"]
    polite = tally.made - len(people.all) + 1
    assert {r: closes.get(r) for r in ("abuse", "slow", "binary", "peer", "gone")} == {
        "abuse": 1, "slow": 1, "binary": 1, "peer": polite, "gone": held + 1,
    }
    await a_killed_worker_takes_no_counter_along(server, people, members, said)


def has(client, room, members):
    return members.index(client) < {"r1": 8, "r2": 5, "r3": 2}[room]


async def a_killed_worker_takes_no_counter_along(server, people, members, before):
    victim = members[0].worker
    gone = [client for client in people.all if not client.ended.is_set() and client.worker == victim]
    others = [client for client in members if client not in gone]
    server.kill_pid(victim)
    for client in gone:
        await client.wait_ended()
    await asyncio.to_thread(server.wait_respawned, victim)
    await asyncio.to_thread(server.wait_log, "listening")
    left = {
        "respawns_total": 1,
        "connections": before["connections"] - len(gone),
        **{name: before[name] for name in ("messages_total", "deliveries_total", "acks_total", "errors_by_code",
                                           "typing_events_total", "connections_opened_total", "replayed_total")},
    }
    await counted(server, left)
    await others[0].say("r1", "and on")
    await counted(server, {
        "messages_total": before["messages_total"] + 1,
        "deliveries_total": before["deliveries_total"] + len(others),
    })


def bucket(seconds):
    return next(i for i, bound in enumerate(BOUNDS) if seconds <= bound)


def buckets(server):
    """The delivery latency's buckets, not cumulated."""
    values = parsed(prometheus_families(server.get("/metrics", headers={"Accept": PROMETHEUS})[2].decode()))
    found = sorted(
        (float(labels[0][1]), int(value))
        for (name, labels), value in values.items()
        if name == "chatd_delivery_latency_seconds_bucket"
    )
    assert [bound for bound, _ in found] == BOUNDS
    counts = [count for _, count in found]
    return [count - below for count, below in zip(counts, [0, *counts])]


@pytest.mark.timeout(60)
async def test_the_latency_histogram_agrees_with_the_clients(chatd, people):
    """The members' worker is stopped for a known time while messages wait for it: what they measure, and what it says,
    is that time."""
    server = chatd(workers=2)
    tally = Tally(people)
    one, two = server.workers()
    publisher = await people.connect_on(one, "publisher")
    members = [await people.connect_on(two, f"m{n}") for n in range(9)]
    for member in [publisher, *members]:
        await member.join("r")
    await publisher.say("r", "at " + repr(time.time()))
    await eventually(lambda: len(tally.waits) == 10, "all have it")
    before = await asyncio.to_thread(buckets, server)
    tally.waits.clear()
    for pause in (0.035, 0.17, 0.7):
        os.kill(two, signal.SIGSTOP)
        try:
            await publisher.say("r", "at " + repr(time.time()))
            await asyncio.sleep(pause)  # the length of the stop is what is measured
        finally:
            os.kill(two, signal.SIGCONT)
        count = len(tally.waits) // 10 * 10 + 10
        await eventually(lambda count=count: len(tally.waits) == count, "all have it")
    after = await eventually(lambda: told(server, before, 30), "all are counted")
    clients = sorted(tally.waits)
    servers = [i for i, count in enumerate(after) for _ in range(count)]
    assert len(servers) == len(clients) == 30
    # The first 3 are the publisher's own, which nothing held up: how long these take in a client is its own affair.
    for mine, its in list(zip(clients, servers))[3:]:
        assert abs(bucket(mine) - its) <= 1, f"{mine} s for the client, up to {BOUNDS[its]} s for the server"
    metrics = await asyncio.to_thread(server.metrics)
    assert abs(bucket(metrics["delivery_latency_seconds"]["p90"]) - bucket(clients[26])) <= 1


def told(server, before, more):
    now = buckets(server)
    difference = [a - b for a, b in zip(now, before)]
    return difference if sum(difference) == more else None


async def test_bytes_are_counted_exactly(chatd):
    server = chatd(workers=1)

    def exchange():
        def ask(wire):
            request = f"GET /metrics HTTP/1.1\r\nHost: {wire.host}\r\n\r\n"
            wire.send(request)
            wire.head_bytes = 0
            while b"\r\n\r\n" not in wire.buffer:
                wire.more()
            start = wire.buffer.index(b"\r\n\r\n") + 4
            head, body = wire.answer()
            return json.loads(body), len(request), start + len(body)

        with Wire(server) as asker, Wire(server) as wire:
            first, _, out = ask(asker)
            handshake = wire.upgrade_head()
            wire.send(handshake)
            texts = [
                frame(1, json.dumps({"type": "hello", "id": 1, "user": "ana"})),
                frame(1, json.dumps({"type": "ping", "id": 2})),
            ]
            got = b""
            while b"\r\n\r\n" not in wire.buffer:
                wire.more()
            for text in texts:
                wire.send(text)
            while b'"pong"' not in wire.buffer or not wire.buffer.endswith(b"}"):
                wire.more()
            got = wire.buffer
            second, asked, _ = ask(asker)
        sent = len(handshake) + sum(map(len, texts)) + asked
        assert second["bytes_in_total"] - first["bytes_in_total"] == sent
        assert second["bytes_out_total"] - first["bytes_out_total"] == len(got) + out
        assert second["http_requests_total"] - first["http_requests_total"] == 1

    await asyncio.to_thread(exchange)


@pytest.mark.timeout(120)
async def test_two_servers_count_exactly_as_a_sum(fleet, people, redis, mongo):
    servers = fleet(servers=2, workers=2, redis=redis, mongo=mongo)
    tally = Tally(people)
    members = []
    for server in servers:
        for pid in server.workers():
            members += [
                await people.connect_on(pid, f"s{server.port}-{pid}-{n}", server=server) for n in range(2)
            ]
    for n, member in enumerate(members):
        await member.join("all")
        if n % 2:
            await member.join("half")
    futures = [member.say_many("all", [f"{i}" for i in range(20)], at_once=5) for member in members]
    sending = asyncio.gather(*futures)
    with redis.client() as client:
        for _ in range(3):  # what is published meanwhile is caught up, and is a live delivery
            client.client_kill_filter(_type="pubsub", skipme=True)
            await asyncio.sleep(0.05)
    await sending
    await asyncio.gather(*(member.say_many("half", ["x", "y"]) for member in members[1::2]))
    messages = 20 * len(members) + 2 * len(members[1::2])
    deliveries = 20 * len(members) * len(members) + 2 * len(members[1::2]) ** 2
    await eventually(lambda: tally.events["message"] == deliveries, "everybody has everything")

    def total(name):
        return sum(server.metrics()[name] for server in servers)

    for name, value in (
        ("messages_total", messages),
        ("deliveries_total", deliveries),
        ("acks_total", tally.events["ack"]),
        ("store_rows_total", messages),
        ("connections", len(members)),
        ("presence_events_total", tally.events["presence"]),
        ("memberships", len(members) + len(members[1::2])),
        ("replayed_total", tally.replayed),
    ):
        await eventually(lambda name=name, value=value: total(name) == value, f"{name} is {value}")
    for server in servers:
        metrics = server.metrics()
        assert metrics["delivery_latency_seconds"]["count"] == metrics["deliveries_total"]
        assert metrics["bus_call_seconds"]["count"] > 0 and metrics["store_commit_seconds"]["count"] > 0
    assert total("catchups_total") > 0, "connections to Redis were lost"


@pytest.mark.timeout(60)
async def test_store_latency_rises_while_the_store_hangs_and_falls_again(chatd, people):
    """Another process holds SQLite's write lock."""
    server = chatd(workers=2, allow=("store_",))
    ana = await people.member("ana", "r")
    await ana.say("r", "one")
    await eventually(lambda: server.metrics()["store_latency_seconds"] < 1, "a commit was quick")
    holder = sqlite3.connect(server.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waiting = [await ana.start("message", room="r", text=f"{n}") for n in range(5)]
    try:
        await eventually(lambda: server.metrics()["store_latency_seconds"] > 1.5, "it rises")
        metrics = server.metrics()
        assert metrics["store_queue"] == metrics["ack_queue"] == 5
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    for future in waiting:
        assert (await asyncio.wait_for(future, DEADLINE))["type"] == "ack"
    await eventually(lambda: server.metrics()["store_queue"] == 0, "all is committed")
    await eventually(lambda: server.metrics()["store_latency_seconds"] == 0, "nothing is under way")


@pytest.mark.timeout(60)
async def test_what_lies_in_the_spool_is_counted_while_mongodb_is_away(chatd, redis):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"mongodb://127.0.0.1:{nobody.getsockname()[1]}/chatd"
        server = chatd(workers=2, start=False, allow=("store_", "mongodb_"),
                       env={"REDIS": redis.url, "MONGODB_URI": uri})
        spool = server.data_dir / "spool"
        spool.mkdir(mode=0o700)
        record = struct.pack("=IIQ", 50, 0, 0) + b"r" * 50
        spool.joinpath("1-1-1.spool").write_bytes(b"chatd spool 1\n" + 2 * record)
        spool.joinpath("1-1-2.spool").write_bytes(b"chatd spool 1\n" + record + record[:30])  # cut off
        await asyncio.to_thread(server.start, healthy=False)
        await eventually(lambda: server.metrics()["spool_messages"] == 3, "they are counted once")
