"""What PROTOCOL.md promises about delivery, kept while workers die, freeze and restart and the store stands still.

The store is held back from outside: the test takes SQLite's write lock on chat.db, so the writer waits.
"""

import asyncio
import os
import signal
import sqlite3
from collections import Counter
from contextlib import contextmanager

import pytest

from support.chatd import DEADLINE
from support.client import Lost, Refused, eventually

TEXT_4K = "z" * 4000

# What the server may log as an error while the test stands on the way of the store or has killed a part.
STORE_HELD = ("store", "busy", "locked")


@contextmanager
def store_held(server):
    """No commit gets through while this lasts."""
    database = sqlite3.connect(server.database, isolation_level=None, timeout=DEADLINE)
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")
        database.close()


async def hot_messages(client, room, count, text=TEXT_4K, at_once=50):
    """`count` acknowledged messages of 4 KB: enough of them wrap a log of 1 MB."""
    return [ack["seq"] for ack in await client.say_many(room, [text] * count, at_once)]


def assert_clean(view):
    """No number twice, none out of order, no hole."""
    assert not view.disorder, view.disorder[:5]
    assert not view.gaps, view.gaps[:5]
    twice = [seq for seq, n in Counter(view.numbers()).items() if n > 1]
    assert not twice, f"shown twice: {twice[:5]}"


# -- load ----------------------------------------------------------------------------------------------------

CLIENTS, ROOMS, MESSAGES = 200, 10, 20_000


class Load:
    """200 clients in 10 rooms on all workers; each sends its share, a few at a time, until all have their acks."""

    def __init__(self, server, people, each=MESSAGES // CLIENTS):
        self.server, self.each = server, each
        self.people = people
        self.acks = {}  # (room, user, key) -> seq
        self.changed = []  # acks that gave another number the second time

    async def enter(self):
        self.clients = [self.people.new(f"user{i}", quiet=True) for i in range(CLIENTS)]
        for start in range(0, CLIENTS, 20):
            await asyncio.gather(*(client.connect() for client in self.clients[start : start + 20]))
        await asyncio.gather(*(client.join(self.room(i)) for i, client in enumerate(self.clients)))
        assert (
            len(set(self.server.workers_of([(c.address[0], c.address[1]) for c in self.clients])))
            == self.server.n_workers
        )

    @staticmethod
    def room(i):
        return f"room{i % ROOMS}"

    async def run(self):
        await asyncio.gather(
            *(self._send(i, client, part) for i, client in enumerate(self.clients) for part in range(4))
        )

    async def _send(self, i, client, part):
        room = self.room(i)
        for n in range(part, self.each, 4):
            key = f"{client.user}-{n}"
            ack = await client.deliver(room, f"message {n} of {client.user}", key)
            known = self.acks.setdefault((room, client.user, key), ack["seq"])
            if known != ack["seq"]:
                self.changed.append((key, known, ack["seq"]))

    async def check(self):
        per_room = CLIENTS // ROOMS * self.each
        assert len(self.acks) == CLIENTS * self.each and not self.changed
        for i, client in enumerate(self.clients):
            if client.ended.is_set():
                await client.reconnect()
            view = client.rooms[self.room(i)]
            await eventually(
                lambda v=view: len(set(v.keys())) == per_room, f"{client.user} has every message", 60
            )
            assert_clean(view)
            assert len(view.seen) == per_room, "nobody is shown one message under two numbers"
        for n in range(ROOMS):
            room = self.room(n)
            stored = await self.clients[n].history(room)
            assert {(room, m["user"], m["key"]): m["seq"] for m in stored} == {
                k: s for k, s in self.acks.items() if k[0] == room
            }
            assert len(stored) == per_room, "no key twice"
            assert sorted(self.clients[n].rooms[room].numbers()) == [m["seq"] for m in stored]
            times = [m["time"] for m in stored]
            assert times == sorted(times)


@pytest.mark.timeout(300)
async def test_every_member_gets_every_message_once_and_in_order(chatd, people):
    server = chatd(workers=2)
    load = Load(server, people)
    await load.enter()
    await load.run()
    await load.check()
    metrics = server.metrics()
    assert metrics["messages_total"] == MESSAGES
    assert metrics["deliveries_total"] == MESSAGES * CLIENTS // ROOMS


@pytest.mark.timeout(300)
async def test_a_worker_killed_in_the_middle_loses_nothing(chatd, people):
    server = chatd(workers=2)
    load = Load(server, people)
    await load.enter()
    running = asyncio.create_task(load.run())
    await eventually(lambda: len(load.acks) > MESSAGES // 3 or running.done(), "a third is sent")
    gone = server.kill_worker(0)
    await eventually(lambda: len(load.acks) > 2 * MESSAGES // 3 or running.done(), "two thirds are sent", 60)
    server.wait_respawned(gone)
    await running
    assert any(
        len(client.rooms[load.room(i)].joined) > 1 for i, client in enumerate(load.clients)
    ), "some had to come back"
    assert any(
        len(client.rooms[load.room(i)].joined) == 1 for i, client in enumerate(load.clients)
    ), "some had not"
    await load.check()


@pytest.mark.parametrize("reboot", [False, True], ids=["log kept", "log lost"])
async def test_killed_as_a_whole_every_acknowledged_message_is_there(chatd, people, reboot):
    """`log lost`: /dev/shm is empty as after a reboot; what has an ack must be in the store."""
    server = chatd(workers=2)
    writers = await people.spread([f"user{i}" for i in range(20)], quiet=True)
    for i, client in enumerate(writers):
        await client.join(f"room{i % 4}")
    acks = {}

    async def pump(i, client):
        for n in range(100_000):
            try:
                ack = await client.say(f"room{i % 4}", f"text {n}", key=f"{client.user}-{n}")
            except Lost:
                return
            acks[(f"room{i % 4}", client.user, ack["key"])] = ack["seq"]

    pumps = [asyncio.create_task(pump(i, client)) for i, client in enumerate(writers)]
    await eventually(lambda: len(acks) > 2000, "2,000 acks")
    server.kill_all()
    await asyncio.gather(*pumps)
    if reboot:
        server.forget_bus()
    server.start()

    stored = {}
    reader = await people.connect("reader")
    for n in range(4):
        await reader.join(f"room{n}")
        history = await reader.history(f"room{n}")
        assert len({(m["user"], m["key"]) for m in history}) == len(history)
        stored.update({(f"room{n}", m["user"], m["key"]): m["seq"] for m in history})
    lost = {what: seq for what, seq in acks.items() if stored.get(what) != seq}
    assert (
        not lost
    ), f"{len(lost)} of {len(acks)} acknowledged messages are not in history, e.g. {list(lost.items())[:3]}"

    # What had no ack is sent again: once in history, under the number that members may have seen.
    for client in writers:
        await client.reconnect()
        highest = max(int(key.partition("-")[2]) for _, user, key in acks if user == client.user)
        room = list(client.rooms)[0]
        for n in (highest, highest + 1):
            key = f"{client.user}-{n}"
            ack = await client.say(room, f"text {n}", key=key, retry=True)
            known = stored.get((room, client.user, key))
            assert known is None or ack["seq"] == known
    for n in range(4):
        history = await reader.history(f"room{n}")
        assert len({(m["user"], m["key"]) for m in history}) == len(history)


# -- between delivery and commit -----------------------------------------------------------------------------


async def deliver_uncommitted(people, room="r"):
    """Ana's message is delivered to Bob on the other worker, but the store is held: no ack."""
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join(room)
    await bob.join(room)
    await ana.say(room, "before", key="before")
    await bob.expect("message", key="before")
    return ana, bob


async def test_publishers_worker_killed_between_delivery_and_commit_then_retry_elsewhere(chatd, people):
    server = chatd(workers=2, allow=STORE_HELD)
    ana, bob = await deliver_uncommitted(people)
    with store_held(server):
        unanswered = await ana.start("message", room="r", text="precious", key="k1")
        seen = await bob.expect("message", key="k1")
        assert not unanswered.done(), "no ack before it is stored"
        gone = server.kill_pid(ana.worker)
        await ana.wait_ended()
        again = await people.connect_on(bob.worker, "ana")
        joined = await again.join("r", since=seen["seq"] - 1)
        assert [m["seq"] for m in joined["messages"]] in ([seen["seq"]], []) and (
            joined["messages"] or not joined["complete"]
        )
        retry = await again.start("message", room="r", text="precious", key="k1", retry=True)
        await again.command("ping")
        assert not retry.done(), "no ack before it is stored, the retry's neither"
    ack = await asyncio.wait_for(retry, DEADLINE)
    assert (ack["type"], ack["seq"]) == ("ack", seen["seq"])
    server.wait_respawned(gone)
    assert [(m["key"], m["seq"]) for m in await bob.history("r")] == [
        ("before", seen["seq"] - 1),
        ("k1", seen["seq"]),
    ]
    marker = await again.say("r", "marker", key="marker")
    await bob.expect("message", key="marker")
    assert marker["seq"] == seen["seq"] + 1 and bob.rooms["r"].keys() == ["before", "k1", "marker"]


async def test_everything_restarted_between_delivery_and_commit(chatd, people):
    server = chatd(workers=2, allow=STORE_HELD)
    ana, bob = await deliver_uncommitted(people)
    with store_held(server):
        await ana.start("message", room="r", text="precious", key="k1")
        seen = await bob.expect("message", key="k1")
        server.kill_all()
    server.start()
    await ana.reconnect()
    await bob.reconnect()
    ack = await ana.say("r", "precious", key="k1", retry=True)
    assert ack["seq"] == seen["seq"]
    assert [m["key"] for m in await bob.history("r")] == ["before", "k1"]
    assert bob.rooms["r"].keys() == ["before", "k1"] and not bob.rooms["r"].disorder


async def test_stopped_in_good_order_with_uncommitted_messages(chatd, people):
    """The store comes back while chatd stops: everything taken is stored."""
    server = chatd(workers=2, allow=STORE_HELD)
    ana, bob = await deliver_uncommitted(people)
    with store_held(server):
        keys = [f"k{i}" for i in range(50)]
        for key in keys:
            await ana.start("message", room="r", text="precious", key=key)
        await bob.expect("message", key=keys[-1])
        server.signal(signal.SIGTERM)
        await bob.expect("reconnect")
    assert await asyncio.to_thread(server.wait_stopped) == 0
    server.start()
    await bob.reconnect()
    assert [m["key"] for m in await bob.history("r")] == ["before", *keys]


async def test_commit_done_and_ack_lost(chatd, people):
    server = chatd(workers=2)
    ana, bob = await deliver_uncommitted(people)
    for i in range(20):
        await ana.start("message", room="r", text="precious", key=f"k{i}")
        await eventually(lambda n=i: server.metrics()["store_rows_total"] >= n + 2, "it is stored")
    gone = server.kill_pid(ana.worker)
    await ana.wait_ended()
    await ana.reconnect()
    numbers = {m["key"]: m["seq"] for m in await bob.history("r")}
    for i in range(20):
        assert (await ana.say("r", "precious", key=f"k{i}", retry=True))["seq"] == numbers[f"k{i}"]
    assert len(await bob.history("r")) == 21
    server.wait_respawned(gone)


async def test_writer_killed_with_records_on_the_way(chatd, people):
    """Kills the workers in turn while the store is held; one of them is the writer inside its transaction."""
    server = chatd(workers=2, allow=STORE_HELD)
    ana = await people.member("ana", "r", quiet=True)
    keys = [f"k{i}" for i in range(60)]
    for round, start in enumerate(range(0, 60, 20)):
        with store_held(server):
            sending = [asyncio.create_task(ana.deliver("r", "x", key)) for key in keys[start : start + 20]]
            await eventually(lambda: len(ana.rooms["r"].seen) >= start + 20, "all are delivered")
            gone = server.kill_worker(0)
            await asyncio.to_thread(server.wait_respawned, gone)
        await asyncio.gather(*sending)
    assert sorted(m["key"] for m in await ana.history("r")) == sorted(keys)


@pytest.mark.parametrize("by", ["removed", "replaced"])
async def test_a_database_taken_away_while_running_is_noticed_before_any_ack(chatd, people, by):
    server = chatd(workers=2, allow=("store_failed",))
    ana = await people.member("ana", "r")
    await ana.say("r", "stored", key="stored")
    files = [f for f in (f"{server.database}{end}" for end in ("", "-wal", "-shm")) if os.path.exists(f)]
    for file in files:
        os.rename(file, f"{file}.away")
    if by == "replaced":
        with sqlite3.connect(server.database) as other:
            other.execute("CREATE TABLE meta(name TEXT PRIMARY KEY, value)")
        other.close()
    waiting = await ana.start("message", room="r", text="not stored", key="late")
    await eventually(lambda: server.get("/health")[0] == 503, "health says so")
    assert not waiting.done()
    for file in files:
        os.rename(f"{file}.away", file)
    assert (await asyncio.wait_for(waiting, DEADLINE))["type"] == "ack", "the right one is back"
    assert sorted(m["key"] for m in await ana.history("r")) == ["late", "stored"]


async def test_a_retry_long_after_a_restart_asks_the_store(chatd, people):
    server = chatd(workers=2)
    ana = await people.member("ana", "r")
    acks = [await ana.say("r", f"text {i}", key=f"k{i}") for i in range(10)]
    assert await asyncio.to_thread(server.stop) == 0
    server.forget_bus()
    server.start()
    await ana.reconnect()
    for i, ack in enumerate(acks):
        assert (await ana.say("r", f"text {i}", key=f"k{i}", retry=True))["seq"] == ack["seq"]
    assert len(await ana.history("r")) == 10


async def test_numbers_seen_but_never_stored_are_not_given_again_after_a_power_cut(chatd, people):
    server = chatd(workers=2, allow=STORE_HELD)
    ana = await people.member("ana", "old")
    await ana.say("old", "stored")
    seen = {}
    for life in range(3):
        assert await asyncio.to_thread(server.stop) == 0
        server.forget_bus()
        server.start()
        bob = await people.connect(f"bob{life}")
        for room in ("old", "new"):
            await bob.join(room)
        with store_held(server):
            for room in ("old", "new"):
                await bob.start("message", room=room, text=f"life {life}", key=f"{room}{life}")
                event = await bob.expect("message", room=room)
                assert event["seq"] > seen.get(room, 0), "nobody stored the one before, but somebody saw it"
                seen[room] = event["seq"]
            server.kill_all()
        server.forget_bus()
        server.start()


async def test_a_room_that_was_emptied_and_forgotten_never_gives_a_number_twice(chatd, people):
    """Retention takes all messages of a room, then the bus forgets it: the room's row in the store still knows."""
    server = chatd(workers=2)
    ana = await people.member("ana", "r")
    last = [await ana.say("r", f"text {i}") for i in range(10)][-1]["seq"]
    assert await asyncio.to_thread(server.stop) == 0
    server.forget_bus()
    with sqlite3.connect(server.database) as database:
        database.execute("DELETE FROM messages")
    database.close()
    server.start()
    bob = await people.connect("bob")
    joined = await bob.join("r", since=last)
    assert joined["messages"] == [] and joined["complete"] is True and joined["seq"] >= last
    assert (await bob.say("r", "after"))["seq"] > joined["seq"]
    assert [m["text"] for m in await bob.history("r")] == ["after"]


# -- opening rooms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 4])
async def test_two_workers_open_a_room_at_once(chatd, people, workers):
    """Rooms nobody remembers, first fresh ones, then those only the store knows: each is opened once."""
    server = chatd(workers=workers)
    clients = await people.spread([f"user{i}" for i in range(workers)])
    rooms = [f"room{i}" for i in range(30)]
    highest = dict.fromkeys(rooms, 0)
    history = {room: [] for room in rooms}
    for life in range(2):
        for room in rooms:
            joins = [await client.start("join", room=room, since=highest[room]) for client in clients]
            joined = [await asyncio.wait_for(join, DEADLINE) for join in joins]
            assert all(answer["type"] == "joined" and answer["complete"] for answer in joined), joined
            sends = [
                await client.start("message", room=room, text=f"{life}", key=f"{life}-{client.user}")
                for client in clients
            ]
            acks = [await asyncio.wait_for(send, DEADLINE) for send in sends]
            numbers = sorted(ack["seq"] for ack in acks)
            assert numbers == list(range(numbers[0], numbers[0] + workers)) and numbers[0] > highest[room]
            if life:
                assert numbers[0] - highest[room] <= 2 << 20, "the next multiple of 2^20, opened once"
                assert all(
                    answer["seq"] >= highest[room] for answer in joined
                ), "nobody is told that the room was reset"
            highest[room] = numbers[-1]
            history[room] += numbers
            for client in clients:
                for number in numbers:
                    await client.expect("message", room=room, seq=number)
        assert not any(client.rooms[room].disorder for client in clients for room in rooms)
        if life == 0:
            assert await asyncio.to_thread(server.stop) == 0
            server.forget_bus()
            server.start()
            workers_now = server.workers()
            clients = [await people.connect_on(pid, client.user) for pid, client in zip(workers_now, clients)]
    reader = clients[0]
    for room in rooms:
        assert [m["seq"] for m in await reader.history(room)] == history[room]


# -- a store that stands still, a log that is full -----------------------------------------------------------


async def fill_the_log(ana, room, limit=2000):
    """Sends 4 KB texts until the server takes no more: (keys taken, not yet acknowledged; errors)."""
    taken, errors = {}, []
    n = 0
    while not errors:
        assert n < limit, "a held store must lead to overloaded"
        batch = {
            f"fill-{i}": await ana.start("message", room=room, text=TEXT_4K, key=f"fill-{i}")
            for i in range(n, n + 20)
        }
        n += 20
        await ana.command("ping")  # the refusals are here by now
        for key, future in batch.items():
            if future.done():
                answer = future.result()
                assert answer["type"] == "error", "no ack while the store is held"
                errors.append((key, answer))
            else:
                taken[key] = future
    return taken, errors


async def test_store_frozen_longer_than_the_window_while_a_room_is_hot(chatd, people):
    server = chatd(
        workers=2, env={"BUS_LOG_BYTES": "1M", "MAX_PENDING_PER_CONNECTION": "100000"}, allow=STORE_HELD
    )
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join("hot")
    await bob.join("hot")
    await hot_messages(ana, "hot", 300)  # the log has wrapped once before
    seen_before = len(bob.rooms["hot"].seen)
    with store_held(server):
        taken, errors = await fill_the_log(ana, "hot")
        assert all((e["code"]) == "overloaded" and e["retry_ms"] > 0 for _, e in errors)
        assert len(taken) > 50, "most of the log can be filled"
        await eventually(
            lambda: len(bob.rooms["hot"].seen) >= seen_before + len(taken), "what was taken is delivered"
        )

        # Others are told the same, typing may be dropped, reading goes on, nobody is cut.
        refused = await bob.refused("overloaded", "message", room="hot", text=TEXT_4K, key="bob-1")
        assert refused["retry_ms"] > 0
        page = await bob.command("history", room="hot", limit=50)
        assert page["messages"][-1]["key"] == list(taken)[-1]
        late = await people.connect("late")
        joined = await late.join("hot", since=bob.rooms["hot"].last - 10)
        assert joined["messages"] == [] or joined["messages"][-1]["seq"] == bob.rooms["hot"].last
        assert len(joined["messages"]) == 10 or joined["complete"] is False
    acks = {key: (await asyncio.wait_for(future, DEADLINE)) for key, future in taken.items()}
    assert all(ack["type"] == "ack" for ack in acks.values())
    for key, _ in errors:  # the refused ones, again, now get through
        acks[key] = await ana.deliver("hot", TEXT_4K, key)
    await eventually(lambda: len(bob.rooms["hot"].seen) == seen_before + len(acks), "bob has everything")
    view = bob.rooms["hot"]
    assert_clean(view)
    keys = view.keys()[seen_before:]
    assert sorted(keys) == sorted(acks) and "bob-1" not in keys, "refused before anyone has seen it"
    stored = await bob.history("hot")
    assert [m["seq"] for m in stored] == view.numbers()
    assert {m["key"]: m["seq"] for m in stored if m.get("key")} == {
        key: ack["seq"] for key, ack in acks.items()
    }
    await eventually(lambda: server.get("/health")[0] == 200, "all is well again")


async def test_full_log_for_many_writers(chatd, people):
    """Ten clients push against a held store; when it is released each gets an ack for everything, once."""
    server = chatd(workers=2, env={"BUS_LOG_BYTES": "1M"}, allow=STORE_HELD)
    clients = await people.spread([f"user{i}" for i in range(10)], quiet=True)
    for client in clients:
        await client.join("r")
    refusals = []

    async def push(client):
        acks = {}
        for n in range(60):
            key = f"{client.user}-{n}"
            while True:
                try:
                    acks[key] = (await client.say("r", TEXT_4K, key=key))["seq"]
                    break
                except Refused as refusal:
                    assert refusal.code == "overloaded"
                    refusals.append(refusal.answer["retry_ms"])
                    await asyncio.sleep(refusal.answer["retry_ms"] / 1000)
        return acks

    with store_held(server):
        pushing = [asyncio.create_task(push(client)) for client in clients]
        filler = await people.member("filler", "r", quiet=True)
        await fill_the_log(filler, "r")
    acks = {}
    for task in pushing:
        acks.update(await task)
    assert len(acks) == 600
    reader = await people.member("reader", "r")
    stored = {m["key"]: m["seq"] for m in await reader.history("r")}
    assert all(stored[key] == seq for key, seq in acks.items())
    for client in clients:
        await eventually(
            lambda c=client: set(acks) <= set(c.rooms["r"].keys()), "every member has everything"
        )
        assert_clean(client.rooms["r"])


async def freeze_reader(server, ana, bob, room):
    """Stops the worker of ana or bob, the one that is not the writer: (who goes on, who stands still, pid).

    A frozen writer stops every commit, so an ack shows that the other one writes."""
    for frozen, free in ((bob, ana), (ana, bob)):
        pid = frozen.worker
        os.kill(pid, signal.SIGSTOP)
        probe = await free.start("message", room=room, text="probe", key=f"probe-{pid}")
        done, _ = await asyncio.wait([probe], timeout=2)
        if done and probe.result()["type"] == "ack":
            return free, frozen, pid
        os.kill(pid, signal.SIGCONT)
        assert (await asyncio.wait_for(probe, DEADLINE))["type"] == "ack", "a thawed writer goes on"
    raise AssertionError("both workers are needed for an ack")


async def test_worker_frozen_while_the_log_wraps_round(chatd, people):
    server = chatd(workers=2, env={"BUS_LOG_BYTES": "1M"}, allow=STORE_HELD)
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join("r")
    await bob.join("r")
    await ana.say("r", "first")
    free, frozen, pid = await freeze_reader(server, ana, bob, "r")
    try:
        await hot_messages(free, "r", 900)  # 3.6 MB through a log of 1 MB
    finally:
        os.kill(pid, signal.SIGCONT)
    last = await free.say("r", "last")
    await eventually(
        lambda: frozen.rooms["r"].last == last["seq"], "the thawed worker's member has caught up"
    )
    for client in (free, frozen):
        assert_clean(client.rooms["r"])
    assert frozen.rooms["r"].seen == free.rooms["r"].seen
    assert [m["seq"] for m in await frozen.history("r")] == free.rooms["r"].numbers()


async def test_join_with_since_after_the_log_has_wrapped(chatd, people):
    chatd(workers=2, env={"BUS_LOG_BYTES": "1M"})
    ana, bob = await people.spread(["ana", "bob"])
    await ana.join("r")
    await ana.join("other")
    quiet = [(await ana.say("other", f"text {i}"))["seq"] for i in range(5)]
    sent = await hot_messages(ana, "r", 800)
    for since in (0, sent[4], sent[400], sent[-3], sent[-1]):
        joined = await bob.join("r", since=since)
        assert [m["seq"] for m in joined["messages"]] == [seq for seq in sent if seq > since]
        assert joined["complete"] is True
    joined = await bob.join("other", since=quiet[1])
    assert [m["seq"] for m in joined["messages"]] == quiet[2:] and joined["complete"] is True
    assert (await ana.say("other", "next"))["seq"] == quiet[
        -1
    ] + 1, "a room whose records are overwritten goes on counting"


async def test_joins_while_the_log_wraps_and_the_store_writes(chatd, people):
    """Members come in with `since` while a room is hot: window and store together leave no hole."""
    chatd(workers=2, env={"BUS_LOG_BYTES": "1M"})
    ana = await people.member("ana", "r", quiet=True)
    sending = asyncio.create_task(hot_messages(ana, "r", 900, at_once=30))
    comers = []
    while not sending.done():
        comer = await people.connect(f"comer{len(comers)}", quiet=True)
        known = ana.rooms["r"].numbers()
        joined = await comer.join("r", since=known[len(known) // 2] if known else 0)
        comers.append((comer, joined))
        await asyncio.sleep(0.02)
    sent = await sending
    for comer, joined in comers:
        view = comer.rooms["r"]
        await eventually(lambda v=view: v.last == sent[-1], f"{comer.user} is at the end")
        assert_clean(view)
        if joined["complete"] and view.seen:
            assert view.numbers() == sent[sent.index(view.numbers()[0]) :]
    assert len(comers) >= 3 and any(joined["complete"] for _, joined in comers)


async def test_history_and_resume_never_show_a_hole_while_uncommitted(chatd, people):
    """What is delivered but not stored yet stands in history and in `since` answers, in its place."""
    server = chatd(workers=2, allow=STORE_HELD)
    ana, bob = await deliver_uncommitted(people)
    first = bob.rooms["r"].last
    with store_held(server):
        futures = [await ana.start("message", room="r", text=f"text {i}", key=f"k{i}") for i in range(30)]
        await bob.expect("message", key="k29")
        numbers = list(range(first, first + 31))
        assert [m["seq"] for m in await bob.history("r", limit=7)] == numbers
        joined = await bob.join("r", since=first + 4)
        got = [m["seq"] for m in joined["messages"]]
        assert got == numbers[5:] or joined["complete"] is False
        assert not any(future.done() for future in futures)
    assert [(await asyncio.wait_for(future, DEADLINE))["seq"] for future in futures] == numbers[1:]


# -- workers come and go -------------------------------------------------------------------------------------


async def test_presence_is_right_again_after_a_worker_was_killed(chatd, people):
    server = chatd(workers=2)
    ana, bob = await people.spread(["ana", "bob"])
    twin = await people.connect_on(ana.worker, "bob")
    for client in (ana, bob, twin):
        await client.join("r")
    await eventually_members(bob, "r", ["ana", "bob"])
    gone = server.kill_pid(ana.worker)
    await eventually_members(bob, "r", ["bob"])
    event = await bob.expect("presence", event="leave")
    assert (event["user"], event["members"]) == ("ana", 1)
    server.wait_respawned(gone)
    await ana.reconnect()
    await eventually_members(bob, "r", ["ana", "bob"])


async def eventually_members(client, room, users):
    async def agree():
        answer = await client.members(room)
        return answer["count"] == len(users) and sorted(answer["users"]) == users

    await eventually(agree, f"members are {users}")


async def test_every_worker_killed_again_and_again(chatd, people):
    """A worker dies wherever it stands, inside the log's lock too: nothing half visible, nobody stuck."""
    server = chatd(workers=2)
    clients = [await people.member(f"user{i}", "r", quiet=True) for i in range(8)]
    acks = {}
    stop = asyncio.Event()

    async def pump(client):
        n = 0
        while not stop.is_set():
            key = f"{client.user}-{n}"
            acks[key] = (await client.deliver("r", f"text {n}", key))["seq"]
            n += 1

    pumps = [asyncio.create_task(pump(client)) for client in clients]
    for _ in range(4):
        level = len(acks)
        await eventually(lambda: len(acks) > level + 200, "it goes on")
        gone = server.kill_worker(0)  # the oldest: they take turns
        await asyncio.to_thread(server.wait_respawned, gone)
    stop.set()
    await asyncio.gather(*pumps)
    for client in clients:
        if client.ended.is_set():
            await client.reconnect()
        await eventually(
            lambda c=client: set(acks) <= set(c.rooms["r"].keys()), f"{client.user} has everything"
        )
        assert_clean(client.rooms["r"])
    stored = await clients[0].history("r")
    assert {m["key"]: m["seq"] for m in stored} == acks and len(stored) == len(acks)
