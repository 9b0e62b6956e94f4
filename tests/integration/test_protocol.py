"""PROTOCOL.md, row by row: what a command answers and what the others in the room get."""

import asyncio
import json
import time

import pytest

from support.client import Refused, eventually

GOOD_NAMES = [
    "ana",
    "a",
    "João",
    "Ана-Мария",
    "山田 太郎",
    "مريم",
    "अनीता",
    "ทดสอบ",
    "Ελένη_2",
    "a.b-c_d:e@f",
    "one two three",
    "007",
]
BAD_NAMES = [
    "",
    " ",
    " ana",
    "ana ",
    "a  b",
    "a\tb",
    "a\nb",
    "a\u0000b",
    "\u007f",
    "a\u0085b",
    "😀",
    "a/b",
    "<b>",
    "a,b",
    "a\u200bb",
    "a\u202eb",
    "a\u00a0b",
    "a\u3000b",
    "\ufeffana",
]

# Wrong names are bad_name and bad_room, wrong members bad_request: a name of the wrong type is both.
NO_STRINGS = [5, None, True, ["ana"], {"a": 1}]


async def pair(people, room):
    """Ana and Bob in one room, on different workers when there are several. Ana knows that Bob came."""
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join(room)
    await bob.join(room)
    await ana.expect("presence", room=room, user="bob", event="join")
    return ana, bob


async def settled(people, room, count):
    """Waits until every member's worker counts that many users."""

    async def all_agree():
        for client in people.all:
            if room in client.rooms and (await client.members(room))["count"] != count:
                return False
        return True

    await eventually(all_agree, f"{room} has {count} members everywhere")


# -- hello ---------------------------------------------------------------------------------------------------


async def test_welcome_names_user_session_and_limits(server, people):
    ana = await people.connect("ana")
    welcome = ana.welcome
    assert (welcome["type"], welcome["user"], welcome["resumed"]) == ("welcome", "ana", False)
    assert isinstance(welcome["session"], str) and welcome["session"]
    limits = welcome["limits"]
    assert (limits["text"], limits["history"], limits["join"]) == (4096, 100, 1000)
    assert ana.ws.subprotocol == "chatd.v1"


async def test_sessions_differ(server, people):
    sessions = [(await people.connect("ana")).welcome["session"] for _ in range(8)]
    assert len(set(sessions)) == 8


async def test_session_offered_again_is_resumed(server, people):
    ana = await people.connect("ana")
    session = ana.welcome["session"]
    await ana.close()
    await ana.connect(session=session)
    assert ana.welcome["resumed"] is True and ana.welcome["user"] == "ana"


@pytest.mark.parametrize("session", ["never heard of", "", "x" * 100])
async def test_unknown_session_is_not_resumed(server2, people, session):
    ana = people.new("ana")
    await ana.connect(session=session)
    assert ana.welcome["resumed"] is False


async def test_session_of_another_user_is_not_resumed(server2, people):
    ana = await people.connect("ana")
    eve = people.new("eve")
    await eve.connect(session=ana.welcome["session"])
    assert eve.welcome["resumed"] is False and eve.welcome["user"] == "eve"


@pytest.mark.parametrize("known", [True, False], ids=["resumed", "unknown"])
async def test_commands_sent_behind_the_hello_are_carried_out(server, people, room, known):
    ana = await people.connect("ana")
    session = ana.welcome["session"] if known else "never heard of"
    await ana.close()
    await ana.connect(hello=False)
    hello = await ana.start("hello", user="ana", session=session)
    rest = [
        await ana.start("join", room=room),
        await ana.start("message", room=room, text="hi", key="k"),
        await ana.start("ping"),
        await ana.start("hello", user="bob"),
    ]
    answers = [await asyncio.wait_for(future, 10) for future in [hello, *rest]]
    assert [a["type"] for a in answers] == ["welcome", "joined", "ack", "pong", "error"]
    assert answers[0]["resumed"] is known
    assert answers[4]["code"] == "bad_request"


async def test_resumed_session_goes_on_and_its_rooms_can_be_joined_at_once(server, people, room):
    ana = await people.connect("ana")
    first = await ana.join(room)
    ack = await ana.say(room, "before")
    session = ana.welcome["session"]
    await ana.close()
    await ana.connect(session=session)
    assert ana.welcome["resumed"] is True
    assert ana.welcome.get("rooms", [room]) == [room]
    joined = await ana.join(room, since=first["seq"])
    assert [m["seq"] for m in joined["messages"]] == [ack["seq"]] and joined["complete"] is True
    assert (await ana.members(room))["count"] == 1
    await ana.command("leave", room=room)
    await eventually(ana_is_gone(ana, room), "the room is left")


def ana_is_gone(ana, room):
    async def gone():
        return (await ana.members(room))["count"] == 0

    return gone


COMMANDS = [
    ("join", {"room": "r"}),
    ("message", {"room": "r", "text": "hi"}),
    ("history", {"room": "r"}),
    ("members", {"room": "r"}),
    ("rooms", {}),
    ("leave", {"room": "r"}),
    ("ping", {}),
]


@pytest.mark.parametrize("type, fields", COMMANDS, ids=[c[0] for c in COMMANDS])
async def test_before_hello_everything_is_unauthorized(server2, people, type, fields):
    ana = people.new("ana")
    await ana.connect(hello=False)
    await ana.refused("unauthorized", type, **fields)
    assert (await ana.command("hello", user="ana"))["type"] == "welcome"


async def test_refused_hello_may_be_repeated(server, people):
    ana = people.new("ana")
    await ana.connect(hello=False)
    await ana.refused("bad_name", "hello", user=" ana")
    await ana.refused("bad_name", "hello", user="")
    await ana.refused("unauthorized", "rooms")
    assert (await ana.command("hello", user="ana"))["user"] == "ana"
    assert (await ana.command("rooms"))["type"] == "rooms"


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD_NAMES + ["a" * 64, "é" * 32])
async def test_good_user_names(server2, people, name):
    assert (await people.connect(name)).welcome["user"] == name


async def test_bad_user_names(server2, people):
    eve = people.new("eve")
    await eve.connect(hello=False)
    for name in BAD_NAMES + ["a" * 65, "é" * 33]:
        await eve.refused("bad_name", "hello", user=name)
    for name in NO_STRINGS:
        await eve.refused(("bad_name", "bad_request"), "hello", user=name)
    await eve.refused(("bad_name", "bad_request"), "hello")


async def test_good_room_names(server2, people, room):
    ana = await people.connect("ana")
    for name in GOOD_NAMES + ["a" * 128, "é" * 64]:
        assert (await ana.join(name))["room"] == name
        ack = await ana.say(name, "hi")
        assert (await ana.expect("message", room=name))["seq"] == ack["seq"]


@pytest.mark.parametrize(
    "type, fields", [c for c in COMMANDS if "room" in c[1]], ids=lambda v: v if isinstance(v, str) else ""
)
async def test_bad_room_names(server2, people, type, fields):
    ana = await people.connect("ana")
    for name in BAD_NAMES + ["a" * 129, "é" * 65]:
        await ana.refused("bad_room", type, **{**fields, "room": name})
    for name in NO_STRINGS:
        await ana.refused(("bad_room", "bad_request"), type, **{**fields, "room": name})
    fields = {k: v for k, v in fields.items() if k != "room"}
    await ana.refused(("bad_room", "bad_request"), type, **fields)


# -- ids, unknown members, unknown types ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "id", [0, 1, -7, 9007199254740991, 1.5, "", "c-81", "ключ", "x" * 100], ids=lambda v: str(v)[:8]
)
async def test_id_comes_back(server2, people, id):
    ana = await people.connect("ana")
    for _ in range(2):  # an id may be used again
        pong = await ana.command("ping", id=id)
        assert pong["id"] == id and isinstance(pong["id"], type(id))
    error = await ana.refused("unknown_type", "dance", id=id)
    assert error["id"] == id and isinstance(error["id"], type(id))


@pytest.mark.parametrize("id", ["[1]", '{"a":1}', "true"])
async def test_id_of_another_kind_is_refused(server2, people, id):
    ana = await people.connect("ana")
    await ana.send_raw('{"type":"ping","id":%s}' % id)
    error = await ana.expect("error")
    assert error["code"] == "bad_request" and "id" in error["message"]


async def test_command_without_id_is_carried_out(server, people, room):
    ana, bob = await pair(people, room)
    await ana.send("message", room=room, text="no id")
    message = await bob.expect("message", room=room)
    assert message["text"] == "no id"
    await ana.send("leave", room=room)
    await bob.expect("presence", user="ana", event="leave")
    await ana.command("ping")
    assert not ana.seen("ack") and not ana.seen("left")


async def test_error_without_id_has_none(server2, people):
    ana = await people.connect("ana")
    await ana.send("dance")
    error = await ana.expect("error")
    assert error["code"] == "unknown_type" and error.get("id") is None


async def test_unknown_members_are_ignored(server2, people, room):
    ana = people.new("ana")
    await ana.connect(shoe_size=43, nested={"a": [1, {"b": None}]})
    await ana.join(room, why="because")
    ack = await ana.say(room, "hi", colour="red", user="eve", seq=1, time=1)
    message = await ana.expect("message", room=room)
    assert (message["seq"], message["user"]) == (ack["seq"], "ana") and "colour" not in message
    assert message["time"] > 1_600_000_000_000


async def test_unknown_type(server2, people):
    ana = await people.connect("ana")
    for name in ("dance", "", "HELLO", "welcome", "a\u0000b", "ping "):
        await ana.refused("unknown_type", name)


@pytest.mark.parametrize(
    "raw, codes",
    [
        ("{}", ("bad_request",)),
        ('{"type":5}', ("bad_request",)),
        ('{"type":null}', ("bad_request",)),
        ("[]", ("bad_request", "bad_json")),
        ('"ping"', ("bad_request", "bad_json")),
        ("null", ("bad_request", "bad_json")),
        ("", ("bad_json",)),
        ("{", ("bad_json",)),
        ('{"type":"ping"', ("bad_json",)),
        ("ping", ("bad_json",)),
        ('{"type":"ping"}x', ("bad_json",)),
        ("{'type':'ping'}", ("bad_json",)),
        ('{"type":"\\ud800"}', ("bad_json",)),
        ('{"type":"ping",}', ("bad_json",)),
        ('{"type":"ping","n":NaN}', ("bad_json",)),
        ('{"type":"a\nb"}', ("bad_json",)),
    ],
)
async def test_wrong_json_is_refused_and_the_connection_stays(server2, people, raw, codes):
    ana = await people.connect("ana")
    await ana.send_raw(raw)
    assert (await ana.expect("error"))["code"] in codes
    await ana.command("ping")


@pytest.mark.parametrize(
    "type, member, fields",
    [
        ("join", "since", {"since": -1}),
        ("join", "since", {"since": "5"}),
        ("join", "recent", {"recent": -1}),
        ("join", "recent", {"recent": []}),
        ("history", "before", {"before": "x"}),
        ("history", "limit", {"limit": -5}),
        ("history", "limit", {"limit": "all"}),
        ("message", "text", {}),
        ("message", "text", {"text": 5}),
        ("message", "key", {"text": "hi", "key": 5}),
        ("message", "retry", {"text": "hi", "key": "k", "retry": "yes"}),
        ("typing", "on", {"on": "yes"}),
        ("typing", "on", {}),
    ],
)
async def test_bad_request_says_which_member(server2, people, room, type, member, fields):
    ana = await people.member("ana", room)
    error = await ana.refused("bad_request", type, room=room, **fields)
    assert member in error["message"]


# -- join ----------------------------------------------------------------------------------------------------


async def test_join_an_empty_room(server, people, room):
    ana = await people.connect("ana")
    joined = await ana.join(room)
    assert (joined["room"], joined["messages"], joined["complete"], joined["members"]) == (room, [], True, 1)
    assert isinstance(joined["seq"], int) and joined["seq"] >= 0


async def test_join_with_since_recent_or_neither(server, people, room):
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join(room)
    sent = [(await ana.say(room, f"text {i}", key=f"k{i}"))["seq"] for i in range(10)]

    joined = await bob.join(room)
    assert joined["messages"] == [] and joined["seq"] == sent[-1] and joined["complete"] is True

    joined = await bob.join(room, since=sent[3])
    assert [m["seq"] for m in joined["messages"]] == sent[4:] and joined["complete"] is True
    assert [m["text"] for m in joined["messages"]] == [f"text {i}" for i in range(4, 10)]
    assert all((m["user"], m["room"]) == ("ana", room) for m in joined["messages"])
    assert [m["key"] for m in joined["messages"]] == [f"k{i}" for i in range(4, 10)]

    joined = await bob.join(room, since=sent[-1])
    assert joined["messages"] == [] and joined["complete"] is True
    joined = await bob.join(room, since=0)
    assert [m["seq"] for m in joined["messages"]] == sent and joined["complete"] is True

    joined = await bob.join(room, recent=3)
    assert [m["seq"] for m in joined["messages"]] == sent[-3:]
    joined = await bob.join(room, recent=50)
    assert [m["seq"] for m in joined["messages"]] == sent
    joined = await bob.join(room, recent=0)
    assert joined["messages"] == []


async def test_since_above_the_rooms_number_shows_that_it_was_reset(server2, people, room):
    ana = await people.connect("ana")
    joined = await ana.join(room, since=10**9)
    assert joined["seq"] < 10**9 and joined["messages"] == []


async def test_join_above_its_limit_is_not_complete_and_history_fills_the_rest(server2, people, room):
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join(room)
    sent = [ack["seq"] for ack in await ana.say_many(room, [f"text {i}" for i in range(1050)])]

    joined = await bob.join(room, since=sent[9])
    assert joined["complete"] is False
    numbers = [m["seq"] for m in joined["messages"]]
    assert numbers == sent[-1000:], "the newest limits.join"
    older = [m["seq"] for m in await bob.history(room, since=sent[9]) if m["seq"] < numbers[0]]
    assert older + numbers == sent[10:]

    joined = await bob.join(room, since=sent[49])
    assert joined["complete"] is True and [m["seq"] for m in joined["messages"]] == sent[50:]
    joined = await bob.join(room, recent=5000)
    assert [m["seq"] for m in joined["messages"]] == sent[-1000:]


async def test_first_message_after_joined_has_a_higher_number(server, people, room):
    ana = await people.member("ana", room)
    await ana.say(room, "the first")
    stop = asyncio.Event()

    async def pump():
        while not stop.is_set():
            await ana.say(room, "pump")

    pumping = asyncio.create_task(pump())
    try:
        for i, options in enumerate([{}, {"since": 0}, {"recent": 5}] * 4):
            bob = await people.connect(f"bob{i}")
            joined = await bob.join(room, **options)
            message = await bob.expect("message", room=room)
            assert message["seq"] == joined["seq"] + 1
            if options and joined["seq"]:
                assert joined["messages"][-1]["seq"] == joined["seq"]
    finally:
        stop.set()
        await pumping
    assert all(not view.disorder and not view.gaps for c in people.all for view in c.rooms.values())


async def test_numbers_rise_one_by_one_and_every_member_sees_the_same(server, people, room):
    clients = await people.spread([f"user{i}" for i in range(8)])
    for client in clients:
        await client.join(room)
    futures = [
        await client.start("message", room=room, text=f"{client.user} {i}", key=f"{client.user}-{i}")
        for i in range(25)
        for client in clients
    ]
    acks = [await future for future in futures]
    numbers = sorted(ack["seq"] for ack in acks)
    assert numbers == list(range(numbers[0], numbers[0] + 200))
    for client in clients:
        await eventually(lambda c=client: len(c.rooms[room].seen) == 200, "every member has every message")
        assert client.rooms[room].numbers() == numbers
        assert client.rooms[room].seen == clients[0].rooms[room].seen
        assert not client.rooms[room].disorder and not client.rooms[room].gaps
    stored = await clients[0].history(room)
    assert [m["seq"] for m in stored] == numbers
    times = [m["time"] for m in stored]
    assert times == sorted(times) and abs(times[-1] / 1000 - time.time()) < 300
    assert {m["key"]: m["seq"] for m in stored} == {ack["key"]: ack["seq"] for ack in acks}


# -- message -------------------------------------------------------------------------------------------------


async def test_message_reaches_everybody_and_the_sender(server, people, room):
    ana, bob = await pair(people, room)
    ack = await ana.say(room, 'grüße 👋 "quoted" \\ \n\t/', key="c-81")
    assert (ack["type"], ack["room"], ack["key"]) == ("ack", room, "c-81")
    for client in (ana, bob):
        message = await client.expect("message", room=room)
        assert set(message) >= {"type", "room", "seq", "user", "text", "time", "key"} and "id" not in message
        assert (message["seq"], message["user"], message["key"]) == (ack["seq"], "ana", "c-81")
        assert message["text"] == 'grüße 👋 "quoted" \\ \n\t/'
        assert abs(message["time"] / 1000 - time.time()) < 300
    assert (await bob.history(room))[-1] == message


async def test_message_without_key_has_none(server, people, room):
    ana = await people.member("ana", room)
    first, second = await ana.say(room, "same"), await ana.say(room, "same")
    assert first.get("key") is None and second["seq"] == first["seq"] + 1
    assert (await ana.expect("message")).get("key") is None


@pytest.mark.parametrize(
    "text",
    ["x", "x" * 4096, "é" * 2048, "a" + "語" * 1365, "\u0000", "a\u0000b", "\u2028", " ", "\U0010ffff", "{}"],
    ids=lambda t: f"{len(t)}-{ord(t[0]):x}",
)
async def test_texts_come_back_as_sent(server2, people, room, text):
    ana, bob = await pair(people, room)
    await ana.say(room, text)
    assert (await bob.expect("message"))["text"] == text
    assert (await bob.history(room))[0]["text"] == text


async def test_texts_too_long_or_empty_are_refused(server2, people, room):
    ana = await people.member("ana", room)
    for text in ("x" * 4097, "é" * 2049, "x" * 6000):
        await ana.refused("too_large", "message", room=room, text=text)
    error = await ana.refused("bad_request", "message", room=room, text="")
    assert "text" in error["message"]
    assert await ana.history(room) == []


async def test_keys(server2, people, room):
    ana, bob = await pair(people, room)
    keys = ["k", "x" * 128, "é" * 64, " ", "a\u0000b", "😀", "a\nb", "' OR 1=1 --"]
    for key in keys:
        assert (await ana.say(room, "hi", key=key))["key"] == key
        assert (await bob.expect("message"))["key"] == key
    for key in ("x" * 129, "é" * 65):
        await ana.refused(("bad_request", "too_large"), "message", room=room, text="hi", key=key)
    assert [m["key"] for m in await ana.history(room)] == keys


async def test_message_to_a_room_not_joined(server, people, room):
    ana = await people.connect("ana")
    bob = await people.member("bob", room)
    await ana.refused("not_joined", "message", room=room, text="hi")
    await ana.refused("not_joined", "typing", room=room, on=True)
    await ana.refused("not_joined", "leave", room=room)
    assert await bob.history(room) == []


async def test_same_key_is_one_message(server, people, room):
    ana, bob = await pair(people, room)
    first = await ana.say(room, "once", key="k1")
    await ana.say(room, "between")
    again = await ana.say(room, "once", key="k1")
    retried = await ana.say(room, "once", key="k1", retry=True)
    assert first["seq"] == again["seq"] == retried["seq"]
    marker = await ana.say(room, "marker")
    await bob.expect("message", seq=marker["seq"])
    assert [m["text"] for m in await bob.history(room)] == ["once", "between", "marker"]
    assert len(bob.rooms[room].seen) == 3


async def test_same_key_sent_at_once_is_one_message(server, people, room):
    """Retries that overtake each other, over connections on different workers."""
    connections = await people.spread(["ana"] * 4)
    for client in connections:
        await client.join(room)
    for i in range(10):
        futures = [
            await client.start(
                "message", room=room, text=f"t{i}", key=f"k{i}", **({"retry": True} if n else {})
            )
            for n, client in enumerate(connections)
        ]
        assert len({(await future)["seq"] for future in futures}) == 1
    assert [m["key"] for m in await connections[0].history(room)] == [f"k{i}" for i in range(10)]


async def test_key_belongs_to_user_and_room(server, people, room):
    ana, bob = await pair(people, room)
    other = room + "-other"
    await ana.join(other)
    first = await ana.say(room, "ana's", key="k")
    second = await bob.say(room, "bob's", key="k")
    third = await ana.say(other, "elsewhere", key="k")
    assert second["seq"] == first["seq"] + 1
    assert [m["text"] for m in await ana.history(room)] == ["ana's", "bob's"]
    assert [(m["text"], m["seq"]) for m in await ana.history(other)] == [("elsewhere", third["seq"])]


async def test_retry_of_a_fresh_key_is_a_fresh_message(server, people, room):
    ana, bob = await pair(people, room)
    ack = await ana.say(room, "new", key="fresh", retry=True)
    assert (await bob.expect("message"))["seq"] == ack["seq"]
    assert [m["seq"] for m in await bob.history(room)] == [ack["seq"]]


# -- typing, presence, members, rooms, leave -----------------------------------------------------------------


async def test_typing_reaches_the_others_only(server, people, room):
    ana, bob = await pair(people, room)
    await ana.send("typing", room=room, on=True)
    assert await bob.expect("typing", room=room, user="ana", on=True)
    await ana.send("typing", room=room, on=False)
    assert await bob.expect("typing", room=room, user="ana", on=False)
    marker = await bob.say(room, "marker")
    await ana.expect("message", seq=marker["seq"])
    assert not ana.seen("typing")
    assert [m["text"] for m in await ana.history(room)] == ["marker"], "typing is not stored"


async def test_presence_tells_who_comes_and_goes(server, people, room):
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join(room)
    joined = await bob.join(room)
    assert joined["members"] == 2, "the joining user counts"
    came = await ana.expect("presence", room=room, event="join")
    assert (came["user"], came["members"]) == ("bob", 2)
    assert (await bob.command("leave", room=room))["room"] == room
    went = await ana.expect("presence", room=room, event="leave")
    assert (went["user"], went["members"]) == ("bob", 1)
    await bob.join(room)
    await ana.expect("presence", user="bob", event="join")
    bob.abort()
    await ana.expect("presence", user="bob", event="leave")
    assert not ana.seen("presence"), "nothing about oneself, nothing twice"


async def test_members_counts_users_not_connections(server, people, room):
    bob = await people.member("bob", room)
    first, second = await people.spread(["ana", "ana"])
    await first.join(room)
    assert (await bob.expect("presence", event="join"))["members"] == 2
    await second.join(room)
    await settled(people, room, 2)
    members = await bob.members(room)
    assert (members["count"], sorted(members["users"])) == (2, ["ana", "bob"])

    await first.close()
    await second.say(room, "marker")
    await bob.expect("message", room=room)
    assert (await bob.members(room))["count"] == 2
    assert not bob.seen("presence"), "ana is still there and came only once"
    await second.command("leave", room=room)
    assert (await bob.expect("presence", event="leave"))["members"] == 1
    assert (await bob.members(room))["users"] == ["bob"]


async def test_joining_twice_is_no_second_presence(server, people, room):
    ana, bob = await pair(people, room)
    joined = await bob.join(room)
    assert joined["members"] == 2
    await bob.say(room, "marker")
    await ana.expect("message", room=room)
    assert not ana.seen("presence")
    await bob.command("leave", room=room)
    assert (await ana.expect("presence", event="leave"))["members"] == 1


async def test_after_leave_nothing_comes(server, people, room):
    ana, bob = await pair(people, room)
    left = await bob.command("leave", room=room)
    assert left["type"] == "left"
    await ana.say(room, "hi")
    await ana.say(room, "again")
    await bob.refused("not_joined", "message", room=room, text="hi")
    assert not bob.seen("message")
    joined = await bob.join(room, since=left.get("seq", 0))
    assert [m["text"] for m in joined["messages"]] == ["hi", "again"]


async def test_rooms_lists_members_and_number(server, people, room):
    ana, bob = await pair(people, room)
    ack = await ana.say(room, "hi")

    async def listed():
        rooms = {r["room"]: r for r in (await bob.command("rooms"))["rooms"]}
        return room in rooms and (rooms[room]["members"], rooms[room]["seq"]) == (2, ack["seq"])

    await eventually(listed, "rooms shows it")


async def test_rooms_are_separate(server, people, room):
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join(room + "-a")
    await bob.join(room + "-b")
    await ana.say(room + "-a", "for a")
    ack = await bob.say(room + "-b", "for b")
    await bob.expect("message", seq=ack["seq"], room=room + "-b")
    assert [m["text"] for m in await bob.history(room + "-b")] == ["for b"]
    assert not bob.seen("message") and not bob.seen("presence")


async def test_one_client_in_many_rooms(server, people, room):
    ana, bob = await people.spread(["ana", "bob"])
    names = [f"{room}-{i}" for i in range(50)]
    for name in names:
        await ana.join(name)
        await bob.join(name)
    for name in names:
        await bob.say(name, name)
    for name in names:
        assert (await ana.expect("message", room=name))["text"] == name


# -- history -------------------------------------------------------------------------------------------------


async def test_history_pages_backwards(server, people, room):
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join(room)
    await bob.join(room)
    assert (await bob.command("history", room=room))["messages"] == []
    assert (await bob.command("history", room=room))["more"] is False
    sent = [ack["seq"] for ack in await ana.say_many(room, [f"text {i}" for i in range(130)])]

    page = await bob.command("history", room=room, limit=50)
    assert [m["seq"] for m in page["messages"]] == sent[80:] and page["more"] is True
    page = await bob.command("history", room=room, limit=50, before=sent[80])
    assert [m["seq"] for m in page["messages"]] == sent[30:80] and page["more"] is True
    page = await bob.command("history", room=room, limit=30, before=sent[30])
    assert [m["seq"] for m in page["messages"]] == sent[:30] and page["more"] is False
    page = await bob.command("history", room=room, before=sent[0])
    assert (page["messages"], page["more"]) == ([], False)
    page = await bob.command("history", room=room, limit=5000)
    assert [m["seq"] for m in page["messages"]] == sent[30:] and page[
        "more"
    ] is True, "above limits.history counts as that"
    page = await bob.command("history", room=room, limit=1, before=sent[-1] + 1000)
    assert [m["seq"] for m in page["messages"]] == sent[-1:]
    assert [m["text"] for m in await bob.history(room, limit=7)] == [f"text {i}" for i in range(130)]


async def test_history_outlives_the_members(server, people, room):
    ana = await people.member("ana", room)
    ack = await ana.say(room, "still here")
    await ana.close()
    bob = await people.member("bob", room)
    assert [m["seq"] for m in await bob.history(room)] == [ack["seq"]]


# -- limits --------------------------------------------------------------------------------------------------


async def test_message_rate_limit(chatd, people):
    chatd(workers=2, env={"MESSAGE_RATE_LIMIT": "5"})
    ana = await people.member("ana", "r")
    acked, refused = [], []
    for i in range(8):
        try:
            acked.append(await ana.say("r", f"text {i}"))
        except Refused as refusal:
            refused.append(refusal.answer)
    assert len(acked) == 5 and {error["code"] for error in refused} == {"rate_limited"}
    assert all(0 < error["retry_ms"] <= 60_000 for error in refused)
    assert len(await ana.history("r")) == 5


async def test_refusals_for_rate_never_close(chatd, people):
    chatd(workers=1, env={"MESSAGE_RATE_LIMIT": "1"})
    ana = await people.member("ana", "r")
    await ana.say("r", "the one")
    for _ in range(150):
        await ana.refused("rate_limited", "message", room="r", text="too much")
    await ana.command("ping")


async def test_typing_rate_limit(chatd, people):
    chatd(workers=1, env={"TYPING_RATE_LIMIT": "3"})
    ana = await people.member("ana", "r")
    for _ in range(10):
        await ana.send("typing", room="r", on=True)
    await ana.command("ping")
    errors = ana.seen("error")
    assert len(errors) == 7 and all(e["code"] == "rate_limited" and e["retry_ms"] > 0 for e in errors)


# -- staying -------------------------------------------------------------------------------------------------


async def test_large_fan_out_of_one_message(server, people, room):
    """A text of full length to many members at once."""
    members = [await people.member(f"user{i}", room) for i in range(40)]
    ack = await members[0].say(room, "語" * 1365)
    for member in members:
        assert (await member.expect("message", seq=ack["seq"]))["text"] == "語" * 1365


async def test_json_is_one_object_per_text_message(server2, people, room):
    ana = await people.member("ana", room)
    await ana.send_raw(
        json.dumps({"type": "message", "id": "spread out", "room": room, "text": "hi"}, indent=4)
    )
    assert (await ana.expect("ack", id="spread out"))["room"] == room
    await ana.send_raw('{"id":"escaped","room":"%s","\\u0074ype":"message","text":"\\u0068i"}' % room)
    await ana.expect("ack", id="escaped")
    assert [m["text"] for m in await ana.history(room)] == ["hi", "hi"]
