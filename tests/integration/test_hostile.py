"""Peers that misbehave: each gets what the protocol says, and two neighbours in a room notice nothing."""

import asyncio
import json
import selectors
import socket
import struct
import threading
import time

import pytest

from support.chatd import DEADLINE, until
from support.client import eventually
from wire import BINARY, CLOSE, CONTINUE, PING, PONG, TEXT, Wire, command, frame


@pytest.fixture
def wire(server2, room):
    """One raw connection, upgraded. Before and after the test two others chat."""
    with Wire(server2) as ana, Wire(server2) as bob, Wire(server2) as wire:
        ana.chat("ana", room)
        bob.chat("bob", room)
        wire.open()
        yield wire
        for speaker, listener in ((ana, bob), (bob, ana)):
            speaker.send(command(type="message", id="after", room=room, text="still fine"))
            seq = speaker.event("ack", id="after")["seq"]
            assert listener.event("message", seq=seq)["text"] == "still fine"


def close_frame(code, reason=b""):
    return frame(CLOSE, struct.pack("!H", code) + reason)


BROKEN_FRAMES = {
    "binary": (1003, frame(BINARY, b"\x00\x01")),
    "empty binary": (1003, frame(BINARY, b"")),
    "unmasked": (1002, frame(TEXT, "{}", masked=False)),
    "unmasked ping": (1002, frame(PING, b"x", masked=False)),
    "reserved opcode 3": (1002, frame(3, b"x")),
    "reserved opcode 11": (1002, frame(11, b"x")),
    "rsv1": (1002, frame(TEXT, "{}", rsv=4)),
    "rsv2": (1002, frame(TEXT, "{}", rsv=2)),
    "rsv3": (1002, frame(PING, b"", rsv=1)),
    "fragmented ping": (1002, frame(PING, b"x", fin=False)),
    "fragmented close": (1002, frame(CLOSE, b"\x03\xe8", fin=False)),
    "long ping": (1002, frame(PING, b"x" * 126)),
    "long close": (1002, close_frame(1000, b"x" * 124)),
    "continuation of nothing": (1002, frame(CONTINUE, b"x")),
    "text inside text": (1002, frame(TEXT, "{", fin=False) + frame(TEXT, "}")),
    "close of one byte": (1002, frame(CLOSE, b"x")),
    "close code 999": (1002, close_frame(999)),
    "close code 1005": (1002, close_frame(1005)),
    "close code 1006": (1002, close_frame(1006)),
    "close code 2999": (1002, close_frame(2999)),
    "close reason not UTF-8": (1007, close_frame(1000, b"\xff")),
    "text not UTF-8": (1007, frame(TEXT, b'{"type":"\xff"}')),
    "overlong UTF-8": (1007, frame(TEXT, b"\xc0\xaf")),
    "surrogate in UTF-8": (1007, frame(TEXT, b"\xed\xa0\x80")),
    "above U+10FFFF": (1007, frame(TEXT, b"\xf4\x90\x80\x80")),
    "UTF-8 cut at the end": (1007, frame(TEXT, b"\xe8\xaa")),
    "UTF-8 broken over fragments": (1007, frame(TEXT, b"\xe8\xaa", fin=False) + frame(CONTINUE, b"x")),
    "too large": (1009, frame(TEXT, b"x" * 32769)),
    "too large in fragments": (1009, frame(TEXT, b"x" * 20000, fin=False) + frame(CONTINUE, b"x" * 20000)),
    "far too large, only announced": (1009, frame(TEXT, b"", length=2**40)),
}


@pytest.mark.parametrize("name", BROKEN_FRAMES)
def test_broken_frames_close(wire, name):
    code, data = BROKEN_FRAMES[name]
    wire.send(data)
    assert wire.close_code() == code
    wire.send(close_frame(code))
    wire.ended()


@pytest.mark.parametrize("name", ["unmasked", "text not UTF-8", "binary", "fragmented ping"])
def test_broken_frames_close_a_member_and_byte_by_byte_too(wire, name, server2, room):
    code, data = BROKEN_FRAMES[name]
    wire.send(command(type="hello", id=1, user="eve") + command(type="join", id=2, room=room))
    wire.event("joined", id=2)
    for byte in data:
        wire.send(bytes([byte]))
    assert wire.close_code() == code


def test_reserved_length_bit(wire):
    wire.send(frame(TEXT, b"", length=2**63))
    assert wire.close_code() in (1002, 1009)


def test_close_is_answered(wire):
    wire.send(close_frame(1000, b"bye"))
    assert wire.close_code() == 1000
    wire.ended()


def test_close_without_code_is_answered(wire):
    wire.send(frame(CLOSE))
    opcode, payload = wire.frame()
    assert opcode == CLOSE and payload in (b"", b"\x03\xe8")
    wire.ended()


def test_nothing_is_carried_out_after_close(wire, server2, room):
    wire.send(command(type="hello", id=1, user="eve") + command(type="join", id=2, room=room))
    wire.event("joined", id=2)
    wire.send(close_frame(1000) + command(type="message", id=3, room=room, text="from the grave"))
    assert wire.close_code() == 1000
    with Wire(server2) as other:
        other.chat("zoe", room)
        other.send(command(type="history", id=3, room=room))
        assert other.event("history")["messages"] == []


def test_ping_pong_and_fragments(wire):
    wire.send(frame(PING, b"") + frame(PING, b"x" * 125) + frame(PONG, b"nobody asked"))
    assert [wire.frame(), wire.frame()] == [(PONG, b""), (PONG, b"x" * 125)]
    text = json.dumps({"type": "hello", "id": "語", "user": "eve"}, ensure_ascii=False).encode()
    parts = [text[i : i + 1] for i in range(len(text))]
    wire.send(frame(TEXT, parts[0], fin=False) + frame(PING, b"between"))
    assert wire.frame() == (PONG, b"between")
    for part in parts[1:-1]:
        wire.send(frame(CONTINUE, part, fin=False) + frame(CONTINUE, b"", fin=False))
    wire.send(frame(CONTINUE, parts[-1]))
    assert wire.event("welcome")["id"] == "語"


def test_half_a_frame_then_silence(wire, server2, room):
    """Nobody waits for the second half; when it comes it counts."""
    half = command(type="hello", id=1, user="eve")
    wire.send(half[:9])
    with Wire(server2) as zoe:
        zoe.chat("zoe", room)
        for i in range(20):
            zoe.send(command(type="message", id=i, room=room, text="on we go"))
            zoe.event("ack", id=i)
    wire.send(half[9:])
    wire.event("welcome", id=1)


def test_many_frames_in_one_segment_and_cut_anywhere(wire):
    data = command(type="hello", id=0, user="eve") + b"".join(
        command(type="ping", id=i) for i in range(1, 200)
    )
    for start in range(0, len(data), 37):
        wire.send(data[start : start + 37])
    wire.event("welcome", id=0)
    for i in range(1, 200):
        wire.event("pong", id=i)


WRONG_JSON = {
    "deep array": b'{"type":"ping","id":1,"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep object": b'{"type":"ping","id":1,"x":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
    "deep and open": b"[" * 10000,
    "huge number": b'{"type":"ping","id":1,"x":1e999999}',
    "many digits": b'{"type":"ping","id":1,"x":' + b"9" * 5000 + b"}",
    "many members": b'{"type":"ping","id":1' + b"".join(b',"k%d":0' % i for i in range(2000)) + b"}",
    "a member twice": b'{"type":"ping","type":"ping","id":1}',
}


@pytest.mark.parametrize("name", WRONG_JSON)
def test_odd_json_is_answered_and_the_connection_stays(wire, name):
    wire.send(command(type="hello", id=0, user="eve"))
    wire.event("welcome")
    wire.send(frame(TEXT, WRONG_JSON[name]))
    answer = wire.event()
    assert answer["type"] == "pong" or (answer["type"], answer["code"]) in (
        ("error", "bad_json"),
        ("error", "bad_request"),
    )
    wire.ping()


@pytest.mark.parametrize(
    "bad, code",
    [
        ("{", "bad_json"),
        ('{"type":"dance"}', "unknown_type"),
        ('{"type":"join","room":" "}', "bad_room"),
        ('{"type":"message","room":"elsewhere","text":"x"}', "not_joined"),
    ],
    ids=str,
)
def test_refusals_close_only_above_the_abuse_limit(wire, bad, code):
    wire.send(command(type="hello", id=0, user="eve"))
    wire.event("welcome")
    for _ in range(100):
        wire.send(frame(TEXT, bad))
        assert wire.event("error")["code"] == code
    wire.ping()
    wire.send(b"".join(frame(TEXT, bad) for _ in range(50)))
    assert wire.close_code() == 1008


def test_unauthorized_commands_count_as_abuse(wire):
    wire.send(b"".join(command(type="rooms") for _ in range(150)))
    assert wire.close_code() == 1008


# -- many, slow, large ---------------------------------------------------------------------------------------


class Silent:
    """Connections that send nothing, from many addresses, opened and watched by a thread."""

    def __init__(self, port, count):
        self.port, self.count = port, count
        self.opened = self.ended = 0
        self.stop = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        poll = selectors.DefaultSelector()
        try:
            for i in range(self.count):
                peer = socket.socket()
                peer.bind((f"127.0.0.{10 + i % 20}", 0))
                peer.settimeout(DEADLINE)
                peer.connect(("127.0.0.1", self.port))
                peer.setblocking(False)
                poll.register(peer, selectors.EVENT_READ)
                self.opened += 1
            while self.ended < self.count and not self.stop.is_set():
                for key, _ in poll.select(0.2):
                    if self._is_over(key.fileobj):
                        poll.unregister(key.fileobj)
                        key.fileobj.close()
                        self.ended += 1
        except BaseException as error:
            self.error = error
        finally:
            for key in list(poll.get_map().values()):
                key.fileobj.close()
            poll.close()

    @staticmethod
    def _is_over(peer):
        try:
            return not peer.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            return True


async def test_ten_thousand_silent_connections(chatd, people):
    server = chatd(workers=2, env={"HANDSHAKE_TIMEOUT": "2s"})
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join("r")
    await bob.join("r")
    silent = Silent(server.port, 10_000)
    rounds = 0
    try:
        end = time.monotonic() + 60
        while silent.ended < silent.count and silent.error is None:
            assert time.monotonic() < end, f"{silent.opened} opened, {silent.ended} ended"
            ack = await ana.say("r", f"round {rounds}")
            await bob.expect("message", seq=ack["seq"])
            rounds += 1
            await asyncio.sleep(0.01)
    finally:
        silent.stop.set()
        await asyncio.to_thread(silent.thread.join)
    assert silent.error is None and rounds > 10
    assert not bob.rooms["r"].gaps and len(bob.rooms["r"].seen) == rounds
    await eventually(lambda: server.metrics()["connections"] == 2, "only two are left")


async def test_slow_reader_is_cut_and_the_others_see_everything(chatd, people):
    server = chatd(workers=2, env={"SEND_QUEUE_BYTES": "64K"})
    members = await people.spread(["ana", "bob", "cid"])
    for member in members:
        await member.join("r")
    with Wire(server, rcvbuf=4096) as slow:
        slow.chat("slow", "r")
        sent = []

        async def cut():
            return server.metrics()["slow_closed_total"] == 1

        end = time.monotonic() + DEADLINE
        while not await cut():
            assert time.monotonic() < end, f"not cut after {len(sent)} messages of 4 KB"
            # Few at a time: readers that read must stay below the limit themselves.
            sent += [ack["seq"] for ack in await members[0].say_many("r", ["x" * 4096] * 8)]
        code = await asyncio.to_thread(slow_end, slow)
        assert code[0] in (1013, None) and len(code[1]) < len(sent)
        assert code[1] == sent[: len(code[1])], "what it saw before is in order and without holes"
    for member in members:
        await eventually(
            lambda m=member: len(m.rooms["r"].seen) == len(sent), f"{member.user} has everything"
        )
        assert member.rooms["r"].numbers() == sent
    back = await people.connect("slow")
    joined = await back.join("r", since=code[1][-1] if code[1] else 0)
    missed = [m["seq"] for m in joined["messages"]]
    assert missed == [seq for seq in sent if seq > code[1][-1]][-len(missed) :] and missed[-1] == sent[-1]


def slow_end(wire):
    """Reads what the slow reader still gets: (close code or None, the numbers it saw)."""
    numbers = []
    while True:
        got = wire.frame()
        if got is None:
            return None, numbers
        if got[0] == CLOSE:
            return struct.unpack("!H", got[1][:2])[0], numbers
        event = json.loads(got[1])
        if event["type"] == "message":
            numbers.append(event["seq"])


async def test_catch_up_larger_than_the_send_queue(chatd, people):
    """What was missed is more than may wait for one connection: it must come nevertheless."""
    server = chatd(workers=2, env={"SEND_QUEUE_BYTES": "64K"})
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join("r")
    sent = []
    for _ in range(100):
        sent += [ack["seq"] for ack in await ana.say_many("r", ["y" * 4000] * 8)]

    joined = await bob.join("r", since=0)
    got = [m["seq"] for m in joined["messages"]]
    if not joined["complete"]:
        got = [m["seq"] for m in await bob.history("r") if not got or m["seq"] < got[0]] + got
    assert got == sent
    ack = await ana.say("r", "after it")
    assert (await bob.expect("message"))["seq"] == ack["seq"]
    assert (await bob.command("history", room="r", limit=100))["messages"][-1]["seq"] == ack["seq"]
    assert server.metrics()["slow_closed_total"] == 0


def test_silent_websockets_are_pinged_and_then_closed(chatd):
    server = chatd(workers=1, env={"PING_INTERVAL": "1s", "PING_TIMEOUT": "1s"})
    with Wire(server) as dead, Wire(server) as living:
        dead.open()
        living.open()
        opcode, payload = living.frame()
        assert opcode == PING
        living.send(frame(PONG, payload))
        assert dead.frame()[0] == PING
        dead.ended()  # no pong: cut
        opcode, payload = living.frame()
        assert opcode == PING, "one that answers stays"
        living.send(frame(PONG, payload))
        until(lambda: server.metrics()["connections"] == 1, "the dead one is gone")
