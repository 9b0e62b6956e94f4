"""HTTP on the same port: page, health, metrics, the API, and who may upgrade (RFC 6455 section 4)."""

import gzip
import json
import time
from urllib.parse import quote

import pytest

from support.chatd import DEADLINE, until
from support.client import eventually
from wire import CLOSE, PING, PONG, TEXT, Wire, command, frame


def error_of(body):
    """The JSON body every refusal has."""
    error = json.loads(body)["error"]
    assert isinstance(error["code"], str) and error["code"]
    assert isinstance(error["message"], str) and error["message"]
    return error


# -- health, metrics, page -----------------------------------------------------------------------------------


def test_health(server):
    status, headers, body = server.get("/health")
    assert status == 200 and headers["Content-Type"].startswith("application/json")
    assert isinstance(json.loads(body), dict)


def test_page_and_its_files(server):
    for path, kind in (("/", "text/html"), ("/chat.js", "javascript"), ("/chat.css", "text/css")):
        status, headers, body = server.get(path)
        assert status == 200 and kind in headers["Content-Type"] and len(body) > 100, path
    page = server.get("/")[2].decode()
    assert "chat.js" in page and "chat.css" in page


@pytest.mark.parametrize("path", ["/", "/chat.js", "/health", "/metrics", "/alerts", "/api/rooms"])
def test_head_is_get_without_a_body(server2, path):
    with Wire(server2) as wire:
        wire.send(f"HEAD {path} HTTP/1.1\r\nHost: {wire.host}\r\n\r\n")
        head, _ = wire.answer(has_body=False)
        assert head.status == 200 and int(head.headers["content-length"]) > 0
        wire.send(f"GET /health HTTP/1.1\r\nHost: {wire.host}\r\n\r\n")
        assert wire.answer()[0].status == 200, "the next answer starts where the head ended"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/chat.js/",
        "/chat.jsx",
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/api",
        "/api/room",
        "/ws/",
        "/api/rooms/general/nothing",
        "/api/rooms/general",
        "//",
    ],
)
def test_404(server2, path):
    with Wire(server2) as wire:
        wire.send(f"GET {path} HTTP/1.1\r\nHost: {wire.host}\r\n\r\n")
        head, body = wire.answer()
        assert head.status == 404 and head.headers["content-type"].startswith("application/json")
        error_of(body)


@pytest.mark.parametrize(
    "method, path",
    [
        ("POST", "/health"),
        ("DELETE", "/"),
        ("PUT", "/metrics"),
        ("DELETE", "/api/rooms"),
        ("POST", "/ws"),
        ("PATCH", "/chat.js"),
        ("POST", "/health/ready"),
        ("TRACE", "/health/live"),
        ("PROPFIND", "/api/rooms/general/messages"),
        ("POST", "/api/rooms/general/members"),
    ],
)
def test_405(server2, method, path):
    with Wire(server2) as wire:
        for body in (b"", b"x=1", b"x" * 60000):
            head = f"{method} {path} HTTP/1.1\r\nHost: {wire.host}\r\nContent-Length: {len(body)}\r\n\r\n"
            wire.send(head.encode() + body)
            head, answer = wire.answer()
            assert head.status == 405 and head.headers["allow"] == "GET, HEAD, OPTIONS"
            error_of(answer)


ROUTES = ["/", "/index.html", "/chat.js", "/chat.css", "/client.js", "/health", "/health/live", "/health/ready"]
ROUTES += ["/metrics", "/alerts", "/api/rooms", "/api/rooms/general/messages", "/api/rooms/general/members", "/ws"]


@pytest.mark.parametrize("path", [*ROUTES, "*"])
def test_options_says_what_is_allowed(server2, path):
    with Wire(server2) as wire:
        for _ in range(2):
            wire.send(f"OPTIONS {path} HTTP/1.1\r\nHost: {wire.host}\r\n\r\n")
            head, _ = wire.answer()
            assert head.status == 204 and head.headers["allow"] == "GET, HEAD, OPTIONS"
            assert "content-length" not in head.headers


def test_head_says_what_get_would(server2):
    for path in ("/", "/chat.js", "/health/ready", "/api/rooms/never-heard-of/members"):
        for headers in ({}, {"Accept-Encoding": "gzip"}):
            _, got, body = server2.get(path, headers=headers)
            _, head, nothing = server2.get(path, method="HEAD", headers=headers)
            assert not nothing and int(head["Content-Length"]) == len(body)
            assert set(head.keys()) == set(got.keys())
            for name in set(got.keys()) - {"Date"}:
                assert head[name] == got[name], (path, name)


@pytest.mark.parametrize(
    "request_text, status",
    [
        ("POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n", 413),
        ("GET /" + "x" * 9000, 414),
        ("GET / HTTP/1.1\r\nHost: x\r\nX: " + "x" * 9000, 431),
        ("GET / HTTP/1.1\r\nHost: x\r\n" + "X: y\r\n" * 65 + "\r\n", 431),
        ("POST / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\nContent-Length: 1\r\n\r\n", 417),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        ("BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
    ids=["body", "target", "header", "headers", "expectation", "version", "method"],
)
def test_refusals_have_their_own_status(server2, request_text, status):
    before = server2.metrics()
    with Wire(server2) as wire:
        wire.send(request_text)
        head, body = wire.answer()
        assert head.status == status and head.headers["connection"] == "close"
        error_of(body)
    after = server2.metrics()
    assert after["refused_total"] - before["refused_total"] == 1
    assert after["http_requests_total"] - before["http_requests_total"] == 1 + 1  # the refusal, and `before`


# -- what a client would rather have -------------------------------------------------------------------------


def test_metrics_by_accept(server2):
    """All cases: tests/unit/test_routes.c."""
    scraper = (
        "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
        "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    )
    for accept, kind in [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        (scraper, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ]:
        status, headers, body = server2.get("/metrics", headers={"Accept": accept} if accept else {})
        assert status == 200 and headers["Content-Type"] == kind, accept
        assert ", ".join(headers.get_all("Vary")) == "Accept-Encoding, Accept"
        assert body.startswith(b"{") == (kind == "application/json")
        assert body.endswith(b"# EOF\n") == ("openmetrics" in kind)


async def test_gzip_gives_the_same_bytes(chatd, people):
    server = chatd(workers=1)
    ana = await people.member("ana", "r")
    for n in range(60):
        await ana.say("r", f"some text, number {n}, in words and letters, as people write")
    path = "/api/rooms/r/messages"
    plain = server.get(path)[2]
    assert len(plain) > 1024
    before = server.metrics()
    for accept, packed in [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("br", False),
    ]:
        status, headers, body = server.get(path, headers={"Accept-Encoding": accept})
        assert status == 200 and headers["Vary"] == "Accept-Encoding"
        assert headers["Content-Encoding"] == ("gzip" if packed else None), accept
        assert (gzip.decompress(body) if packed else body) == plain
        assert len(body) < len(plain) / 3 or not packed
        size = len(body) if packed else size
    after = server.metrics()
    grown = {name: after[name] - before[name] for name in before if name.startswith("http_")}
    assert grown["http_compressed_total"] == 3 and grown["http_requests_total"] == 7
    assert grown["http_compressed_bytes_total"] == 3 * size
    assert grown["http_uncompressed_bytes_total"] == 3 * len(plain)
    status, headers, body = server.get("/health/ready", headers={"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] is None and headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("path", ["/", "/chat.js", "/chat.css", "/client.js"])
def test_files_of_the_page_are_304_for_who_has_them(server2, path):
    tags, bodies = set(), set()
    for encoding in ("identity", "gzip"):
        ask = {"Accept-Encoding": encoding}
        status, headers, body = server2.get(path, headers=ask)
        tag = headers["ETag"]
        assert status == 200 and tag.startswith('"') and headers["Cache-Control"] == "no-cache"
        assert headers["Content-Encoding"] == (None if encoding == "identity" else "gzip")
        tags.add(tag)
        bodies.add(body if encoding == "identity" else gzip.decompress(body))
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            status, headers, body = server2.get(path, headers={**ask, "If-None-Match": known})
            assert (status, body, headers["ETag"]) == (304, b"", tag)
            assert headers["Vary"] == "Accept-Encoding" and headers["Content-Length"] is None
        assert server2.get(path, headers={**ask, "If-None-Match": '"other"'})[0] == 200
    assert len(tags) == 2 and len(bodies) == 1


def test_hostile_preferences_do_no_harm(chatd):
    server = chatd(workers=1, env={"MAX_HEAD_BYTES": "64K"})
    for value in ("," * 64000, "gzip;q=NaN," * 5000, ";" * 64000, '"' * 63999, "*/*;q=" + "9" * 60000, "a;q=0.5," * 8000):
        for name in ("Accept", "Accept-Encoding", "If-None-Match"):
            for path in ("/metrics", "/chat.js"):
                assert server.get(path, headers={name: value})[0] == 200
    with Wire(server) as wire:
        wire.send(f"GET / HTTP/1.1\r\nHost: x\r\nAccept: {',' * 70000}\r\n\r\n")
        assert wire.answer()[0].status == 431


# -- what the log says of connections ------------------------------------------------------------------------


def test_a_connection_has_one_id_from_welcome_to_its_last_line(chatd):
    server = chatd(workers=2, env={"LOG_LEVEL": "debug", "MAX_CONNECTIONS_PER_IP": "2", "ABUSE_LIMIT": "2/10s"})
    ids = set()
    for life in range(2):
        with Wire(server) as ana, Wire(server) as eve, Wire(server) as third:
            ana.open()
            ana.send(command(type="hello", id=1, user="ana"))
            mine = ana.event("welcome", id=1)["connection"]
            eve.open()
            assert third.upgrade()[0].status == 429
            for _ in range(3):
                eve.send(command(type="nonsense", id=1))
            eve.send(frame(CLOSE, b"\x03\xf0"))
            eve.ended()
        opened = server.wait_log("connection_opened", connection=mine)
        assert opened["peer"] == f"127.0.0.1:{ana.port}"
        assert server.wait_log("signed_in", connection=mine)["user"] == "ana"
        closed = server.wait_log("connection_closed", connection=mine)
        assert (closed["reason"], closed["messages"], closed["level"]) == ("gone", 1, "debug")
        abuse = server.wait_log("connection_closed", reason="abuse")
        assert (abuse["code"], abuse["level"]) == (1008, "warn") and abuse["connection"] != mine
        refused = server.wait_log("connection_refused", reason="rate_limited")
        assert (refused["status"], refused["level"]) == (429, "info")
        ids |= {line["connection"] for line in server.log_events() if "connection" in line}
        assert len(ids) == 3 * (life + 1), "no id is given twice, also not after a restart"
        if life == 0:
            server.stop()
            server.start()


async def test_metrics_agree_with_what_clients_counted(chatd, people):
    server = chatd(workers=2)
    members = await people.spread([f"user{i}" for i in range(6)])
    for member in members:
        await member.join("r")
    for i, member in enumerate(members):
        for n in range(10):
            await member.say("r", f"text {n}", key=f"{i}-{n}")
    await members[0].say("r", "text 0", key="0-0")  # a retry counts as no message
    for member in members:
        await eventually(lambda m=member: len(m.rooms["r"].seen) == 60, "all is delivered")
    metrics = server.metrics()
    assert metrics["connections"] == 6 and metrics["connections_opened_total"] >= 6
    assert metrics["messages_total"] == 60
    assert metrics["deliveries_total"] == 360
    assert metrics["acks_total"] == 61
    assert metrics["store_rows_total"] == 60
    assert metrics["ack_queue"] == 0 and metrics["rooms"] >= 1
    assert metrics["bytes_in_total"] > 0 and metrics["bytes_out_total"] > 0

    workers = metrics["workers"]
    assert sorted(worker["pid"] for worker in workers) == sorted(server.workers())
    assert all(worker["process_resident_memory_bytes"] > 100_000 and worker["connections"] == 3 for worker in workers)
    for name in ("connections", "messages_total", "deliveries_total"):
        assert sum(worker[name] for worker in workers) == metrics[name]
    await people.aclose()
    until(lambda: server.metrics()["connections"] == 0, "closed connections are no longer counted")


def test_every_worker_answers_for_the_host(server):
    """Asked over many connections, which lie on all workers."""
    for _ in range(12):
        assert len(server.metrics()["workers"]) == server.n_workers


# -- API -----------------------------------------------------------------------------------------------------


async def test_api_shows_rooms_messages_and_members(server, people, room):
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join(room)
    await bob.join(room)
    sent = [ack["seq"] for ack in await ana.say_many(room, [f"text {i}" for i in range(120)])]

    def listed():
        rooms = {r["room"]: r for r in server.get_json("/api/rooms")["rooms"]}
        return room in rooms and (rooms[room]["members"], rooms[room]["seq"]) == (2, sent[-1])

    await eventually(listed, "the room is listed")

    page = server.get_json(f"/api/rooms/{room}/messages?limit=50")
    assert [m["seq"] for m in page["messages"]] == sent[70:] and page["more"] is True
    assert page["messages"] == (await ana.command("history", room=room, limit=50))["messages"]
    page = server.get_json(f"/api/rooms/{room}/messages?limit=50&before={sent[20]}")
    assert [m["seq"] for m in page["messages"]] == sent[:20] and page["more"] is False
    page = server.get_json(f"/api/rooms/{room}/messages?limit=9999")
    assert [m["seq"] for m in page["messages"]] == sent[20:]
    assert server.get_json(f"/api/rooms/{room}/messages")["more"] is True

    members = server.get_json(f"/api/rooms/{room}/members")
    assert (members["count"], sorted(members["users"])) == (2, ["ana", "bob"])


async def test_api_room_names_are_percent_encoded(server2, people):
    name = "Große Halle: 山田"
    ana = await people.member("ana", name)
    ack = await ana.say(name, "hi")
    page = server2.get_json(f"/api/rooms/{quote(name)}/messages")
    assert page["messages"][-1]["seq"] == ack["seq"]
    assert server2.get_json(f"/api/rooms/{quote(name)}/members")["users"] == ["ana"]


@pytest.mark.parametrize(
    "path, code",
    [
        ("/api/rooms/%20x/messages", "bad_room"),
        ("/api/rooms/a%00b/members", None),
        ("/api/rooms/%ff/messages", "bad_room"),
        ("/api/rooms/%zz/messages", None),
        ("/api/rooms/" + "x" * 129 + "/messages", "bad_room"),
        ("/api/rooms/r/messages?before=x", "bad_request"),
        ("/api/rooms/r/messages?limit=-1", "bad_request"),
        ("/api/rooms/r/messages?limit=many", "bad_request"),
    ],
)
def test_api_refuses_wrong_names_and_numbers(server2, path, code):
    status, _, body = server2.get(path)
    assert status == 400 and error_of(body)["code"] == (code or error_of(body)["code"])


def test_api_of_a_room_nobody_knows_is_empty(server2):
    assert server2.get_json("/api/rooms/never-heard-of/messages")["messages"] == []
    assert server2.get_json("/api/rooms/never-heard-of/members")["count"] == 0


# -- connections ---------------------------------------------------------------------------------------------


def test_keep_alive(server2):
    with Wire(server2) as wire:
        for path, status in (("/health", 200), ("/api/rooms", 200), ("/chat.css", 200)) * 3:
            wire.send(f"GET {path} HTTP/1.1\r\nHost: {wire.host}\r\n\r\n")
            head, _ = wire.answer()
            assert head.status == status


def test_pipelined_requests_are_answered_in_order(server2):
    with Wire(server2) as wire:
        paths = ["/chat.css", "/health", "/chat.js"]
        wire.send("".join(f"GET {path} HTTP/1.1\r\nHost: {wire.host}\r\n\r\n" for path in paths))
        kinds = [wire.answer()[0].headers["content-type"] for _ in paths]
        assert "css" in kinds[0] and "json" in kinds[1] and "javascript" in kinds[2]


def test_connection_close_is_respected(server2):
    with Wire(server2) as wire:
        wire.send(f"GET /health HTTP/1.1\r\nHost: {wire.host}\r\nConnection: close\r\n\r\n")
        assert wire.answer()[0].status == 200
        assert wire.ended() == b""


def test_http_1_0_is_answered_and_closed(server2):
    with Wire(server2) as wire:
        wire.send("GET /health HTTP/1.0\r\n\r\n")
        assert wire.answer()[0].status == 200
        assert wire.ended() == b""


@pytest.mark.parametrize(
    "head",
    [
        "GARBAGE\r\n\r\n",
        "GET /health\r\n\r\n",
        "GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "GET /he\x00alth HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    ],
    ids=range(9),
)
def test_broken_heads_are_400(server2, head):
    with Wire(server2) as wire:
        wire.send(head.encode("latin-1"))
        answer, body = wire.answer()
        assert answer.status == 400
        error_of(body)
        wire.ended()


# -- the upgrade ---------------------------------------------------------------------------------------------


def test_handshake(server):
    with Wire(server) as wire:
        head, _ = wire.upgrade()
        assert head.status == 101
        assert (
            head.headers["upgrade"].lower() == "websocket" and head.headers["connection"].lower() == "upgrade"
        )
        assert head.headers["sec-websocket-accept"] == wire.accept_key()
        assert "sec-websocket-protocol" not in head.headers and "sec-websocket-extensions" not in head.headers
        wire.send(frame(PING, b"x"))
        assert wire.frame() == (PONG, b"x")


def test_handshake_with_a_query(server2):
    with Wire(server2) as wire:
        assert wire.upgrade(path="/ws?something=else")[0].status == 101


@pytest.mark.parametrize(
    "status, options",
    [
        ((400,), {"drop": ["Host"]}),
        ((426,), {"Sec_WebSocket_Version": "8"}),
        ((426,), {"Sec_WebSocket_Version": "14"}),
        ((400, 426), {"Sec_WebSocket_Version": "x"}),
        ((400, 426), {"drop": ["Sec-WebSocket-Version"]}),
        ((400,), {"drop": ["Sec-WebSocket-Key"]}),
        ((400,), {"Sec_WebSocket_Key": ""}),
        ((400,), {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZ"}),
        ((400,), {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=="[:-4] + "===="}),
        ((400,), {"Sec_WebSocket_Key": "c2hvcnQ="}),
        ((400,), {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZSBpcyB0b28gbG9uZw=="}),
        ((400,), {"Sec_WebSocket_Key": ["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="]}),
        ((400, 426), {"drop": ["Connection"]}),
        ((400, 426), {"Connection": "keep-alive"}),
        ((400, 426), {"drop": ["Upgrade"]}),
        ((400, 426), {"Upgrade": "h2c"}),
        ((400, 426, 505), {"version": "HTTP/1.0"}),
        ((405, 400), {"method": "POST", "Content_Length": "0"}),
        ((404,), {"path": "/wss"}),
        ((404,), {"path": "/ws/x"}),
    ],
    ids=str,
)
def test_wrong_handshakes_are_refused(server2, status, options):
    with Wire(server2) as wire:
        head, body = wire.upgrade(**options)
        assert head.status in status
        error_of(body)
        if head.status == 426:
            assert head.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    "options",
    [
        {"Upgrade": "WebSocket"},
        {"Upgrade": "WEBSOCKET"},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "upgrade,keep-alive"},
        {"Connection": ["keep-alive", "UPGRADE"]},
        {"Upgrade": "h2c, websocket"},
        {"Sec_WebSocket_Extensions": "x-unknown; a=b"},
        {"Cookie": "a=b", "Origin": "http://example.org", "User_Agent": "x" * 500},
        {"drop": ["Upgrade"], "uPGRADE": "websocket"},
        {"drop": ["Sec-WebSocket-Version"], "sec_websocket_version": " 13 "},
    ],
    ids=str,
)
def test_unusual_but_valid_handshakes(server2, options):
    with Wire(server2) as wire:
        head, body = wire.upgrade(**options)
        assert head.status == 101, body
        assert head.headers["sec-websocket-accept"] == wire.accept_key()


@pytest.mark.parametrize(
    "offered, chosen",
    [
        ("chatd.v1", "chatd.v1"),
        ("soap, chatd.v1", "chatd.v1"),
        (["soap", "chatd.v1"], "chatd.v1"),
        ("chatd.v1,chatd.v2", "chatd.v1"),
        ("soap", None),
        ("chatd.v12", None),
        ("CHATD.V1", None),
    ],
    ids=str,
)
def test_subprotocol_is_echoed_when_offered(server2, offered, chosen):
    with Wire(server2) as wire:
        head, body = wire.upgrade(Sec_WebSocket_Protocol=offered)
        assert head.status == 101, body
        assert head.headers.get("sec-websocket-protocol") == chosen


def test_frames_in_the_same_segment_as_the_handshake(server):
    with Wire(server) as wire:
        wire.send(
            wire.upgrade_head().encode()
            + command(type="hello", id=1, user="ana")
            + command(type="join", id=2, room="pipelined")
            + command(type="ping", id=3)[:-3]
        )
        head, _ = wire.answer()
        assert head.status == 101
        wire.event("welcome", id=1)
        wire.event("joined", id=2)


def test_head_byte_by_byte(server):
    with Wire(server) as wire:
        for byte in wire.upgrade_head().encode() + command(type="hello", id=1, user="ana"):
            wire.send(bytes([byte]))
        assert wire.answer()[0].status == 101
        wire.event("welcome", id=1)


@pytest.mark.parametrize(
    "line",
    ["X-Long: " + "x" * 60000 + "\r\n", "X: y\r\n" * 9000, "Cookie: " + "c=d; " * 9000 + "\r\n"],
    ids=["one", "many", "cookie"],
)
def test_over_long_head_is_refused(server2, line):
    """Sent bit by bit until the answer comes, which is before all of it is there."""
    with Wire(server2) as wire:
        raw = (f"GET /ws HTTP/1.1\r\nHost: {wire.host}\r\n" + line).encode()
        wire.sock.settimeout(0.05)
        for start in range(0, len(raw), 1000):
            wire.send(raw[start : start + 1000])
            try:
                wire.buffer += wire.sock.recv(65536)
            except (TimeoutError, ConnectionResetError):
                pass
            if wire.buffer:
                break
        wire.sock.settimeout(DEADLINE)
        head, body = wire.answer()
        assert head.status in (431, 400)
        error_of(body)


def test_over_long_request_line_is_refused(server2):
    with Wire(server2) as wire:
        wire.send(f"GET /{'x' * 8500} HTTP/1.1\r\n")
        head, body = wire.answer()
        assert head.status in (400, 414, 431)
        error_of(body)


def test_slow_handshakes_get_408(chatd):
    server = chatd(workers=2, env={"HANDSHAKE_TIMEOUT": "500ms"})
    with Wire(server) as half, Wire(server) as silent, Wire(server) as dripping:
        half.send("GET /ws HTTP/1.1\r\nHost: x\r\nUpgr")
        head, body = half.answer()
        assert head.status == 408
        error_of(body)
        assert half.ended() == b""

        head, _ = silent.answer()
        assert head is None or head.status == 408
        assert silent.ended() == b""

    # Bytes now and then don't buy time.
    with Wire(server) as dripping:
        dripping.sock.settimeout(0.1)
        end = time.monotonic() + DEADLINE
        while b"\r\n\r\n" not in dripping.buffer and time.monotonic() < end:
            dripping.send(b"X")
            try:
                if not dripping.sock.recv(1, 2):  # MSG_PEEK
                    break
                dripping.buffer += dripping.sock.recv(65536)
            except TimeoutError:
                continue
            except ConnectionResetError:
                break
        assert time.monotonic() < end, "a dripping head is cut"

    # An upgraded connection is not subject to it.
    with Wire(server) as slow:
        slow.open()
        with Wire(server) as other:
            other.send("GET ")
            assert other.answer()[0].status == 408
        slow.send(command(type="hello", id=1, user="ana"))
        slow.event("welcome", id=1)


def test_connections_per_address(chatd):
    server = chatd(workers=2, env={"MAX_CONNECTIONS_PER_IP": "3"})
    held = [Wire(server).open() for _ in range(3)]
    with Wire(server) as fourth:
        head, body = fourth.upgrade()
        assert head.status == 429 and error_of(body)
    with Wire(server, source="127.0.0.2") as elsewhere:
        elsewhere.open()
    held.pop().sock.close()

    def let_in():
        with Wire(server) as again:
            return again.upgrade()[0].status == 101

    until(let_in, "the closed connection's place is free")
    for wire in held:
        wire.sock.close()


def test_text_frame_type(server2):
    """Answers are text frames of one JSON object."""
    with Wire(server2) as wire:
        wire.open()
        wire.send(command(type="hello", id=1, user="ana"))
        opcode, payload = wire.frame()
        assert opcode == TEXT and json.loads(payload)["type"] == "welcome"
