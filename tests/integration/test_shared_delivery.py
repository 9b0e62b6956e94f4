"""What src/PROTOCOL.md promises about delivery, kept by servers that share Redis and MongoDB while parts of them are
killed, frozen, emptied or cut off in the worst moment. test_delivery.py is the same for one host without both.
"""

import asyncio
import glob
import json
from collections import Counter
from contextlib import contextmanager
from datetime import datetime

import pytest

from support.chatd import DEADLINE
from support.client import eventually
from support.crowd import Crowd
from support.servers import Database, Mongo, Proxy, Redis

# What chatd may log as an error while a test takes Redis or MongoDB away.
AWAY = ("redis_", "mongodb_", "store_")

# Entries of a dead worker are looked at when they are 10 s old, every 2 s.
SWEPT = 25

# Redis cuts a stream by whole nodes, of 4 KB: some 20 records stay, all others are the store's.
SMALL_WINDOW = {"WINDOW_MESSAGES": "10"}

OUTAGE = 10  # seconds

# No figure of speed: a loop that waits for a server that is away would stand for longer (seconds).
BLOCKED = 1.0


@contextmanager
def frozen(*servers):
    for server in servers:
        server.freeze()
    try:
        yield
    finally:
        for server in servers:
            server.thaw()


@contextmanager
def stalled(proxy):
    proxy.stall()
    try:
        yield
    finally:
        proxy.resume()


def stored(mongo, room):
    """What the database has of a room: {key: number}, each key and number once, times never falling."""
    rows = list(mongo.db.messages.find({"room": room}, {"_id": 0, "key": 1, "seq": 1, "time": 1}))
    rows.sort(key=lambda row: row["seq"])
    found = {row["key"]: row["seq"] for row in rows}
    assert len(found) == len({row["seq"] for row in rows}) == len(rows), "a key or a number is there twice"
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    return found


async def eventually_stored(mongo, room, keys, deadline=SWEPT):
    async def there():
        found = await asyncio.to_thread(stored, mongo, room)
        return found if set(found) >= set(keys) else None

    return await eventually(there, f"{room}: {len(keys)} messages are stored", deadline)


async def send(client, room, keys, text="text", **fields):
    """Messages nobody waits for: {key: future of the answer}."""
    return {key: await client.start("message", room=room, text=text, key=key, **fields) for key in keys}


async def acked(futures):
    """Their acks: {key: number}."""
    answers = {key: await asyncio.wait_for(future, DEADLINE) for key, future in futures.items()}
    refused = [answer for answer in answers.values() if answer["type"] != "ack"]
    assert not refused, refused[:3]
    return {key: answer["seq"] for key, answer in answers.items()}


async def shown(client, room, keys):
    """Until the member has been given all of these: {key: number it was last given under}."""
    view = client.rooms[room]
    await eventually(lambda: set(keys) <= set(view.keys()), f"{client.user} has {len(keys)} messages of {room}")
    return {key: seq for seq, _, key in view.seen}


def assert_in_order(view, twice=False):
    """Numbers rose and none came twice; `twice`: but a message may have come under two of them."""
    assert not view.disorder, view.disorder[:5]
    assert max(Counter(view.numbers()).values(), default=1) == 1
    if not twice:
        again = [key for key, n in Counter(view.keys()).items() if n > 1]
        assert not again, f"shown twice: {again[:5]}"


def assert_whole(joined, since, numbers):
    """A `joined` that says complete has each of these numbers above `since`, up to its own."""
    got = [message["seq"] for message in joined["messages"]]
    assert got == sorted(set(got)) and all(since < seq <= joined["seq"] for seq in got)
    if joined["complete"]:
        missing = {seq for seq in numbers if since < seq <= joined["seq"]} - set(got)
        assert not missing, f"complete, but {len(missing)} are missing, as {sorted(missing)[:3]}"


async def assert_history(reader, mongo, room, acks):
    """Members read, and the database holds, exactly what has an ack, each key once and under that number."""
    assert await eventually_stored(mongo, room, acks) == acks
    history = await reader.history(room)
    assert [(m["key"], m["seq"]) for m in history] == sorted(acks.items(), key=lambda ack: ack[1])


class Flow(Crowd):
    """A crowd that sends at an even pace until it is stopped."""

    def __init__(self, servers, people, clients=16, rooms=4, at_once=2, pause=0.05):
        super().__init__(servers, people, clients=clients, rooms=rooms, messages=0, at_once=at_once)
        self.pause = pause
        self.stopped = False

    async def _send(self, i, client, part):
        room = self.room(i)
        n = part
        while not self.stopped:
            key = f"{client.user}-{n}"
            ack = await client.deliver(room, f"message {n} of {client.user}", key)
            self.acks[room, client.user, key] = ack["seq"]
            n += self.at_once
            await asyncio.sleep(self.pause)

    async def goes_on(self, more=50):
        """Until so many acks more are there."""
        level = len(self.acks)
        await eventually(lambda: len(self.acks) >= level + more, f"{more} more acks")

    async def during(self, harm, mongo, failover=False, kept=True):
        """Sends before, while and after `harm` is done; `kept`: and nobody's connection is closed."""
        await self.enter()
        running = asyncio.create_task(self.run())
        try:
            await self.goes_on()
            await harm()
            await self.goes_on()
        finally:
            self.stopped = True
            await asyncio.wait_for(running, 2 * DEADLINE)
        self.messages = len(self.acks)
        for client in self.clients:
            if client.ended.is_set():
                await client.reconnect()
        await self.check(mongo.db, failover=failover)
        for i in range(0, self.count, self.count // self.rooms):
            acks = {(user, key): seq for (room, user, key), seq in self.acks.items() if room == self.room(i)}
            history = await self.clients[i].history(self.room(i))
            assert {(m["user"], m["key"]): m["seq"] for m in history} == acks and len(history) == len(acks)
        assert not kept or not any(client.disconnects for client in self.clients), "somebody was disconnected"

    def delivered_before_ack(self):
        """Messages that somebody else than their sender has, and that have no ack yet."""
        found = set()
        for i, client in enumerate(self.clients):
            room = self.room(i)
            found |= {(room, user, key) for _, user, key in client.rooms[room].seen if user != client.user}
        return found - set(self.acks)


# -- between delivery and commit -----------------------------------------------------------------------------


@pytest.mark.timeout(150)
async def test_publishers_worker_killed_between_delivery_and_commit(fleet, people, redis, sentinel, cluster, mongo):
    """Somebody else stores what members have seen. With each form of Redis, side by side: most of it is waiting."""
    forms = {"redis": redis, "sentinel": sentinel, "cluster": cluster}
    pairs = {room: fleet(workers=1, redis=form, mongo=mongo, allow=AWAY) for room, form in forms.items()}
    acks, seen, bobs = {}, {}, {}
    for room, (one, two) in pairs.items():
        ana = await people.member("ana", room, server=one)
        bobs[room] = await people.member("bob", room, server=two)
        acks[room] = await acked(await send(ana, room, ["before"]))
        ana.pid = ana.worker
    with frozen(mongo):
        for ana in [client for client in people.all if client.user == "ana"]:
            (room,) = ana.rooms
            # The first ones may be on their way to MongoDB already; the last ones wait in the worker.
            for keys in (["k0"], ["k1", "k2"], ["k3", "k4"]):
                futures = await send(ana, room, keys)
                seen[room] = await shown(bobs[room], room, keys)
            assert not any(future.done() for future in futures.values()), "no ack before it is stored"
            ana.server.kill_pid(ana.pid)
            ana.server.wait_respawned(ana.pid)
    for room, (one, two) in pairs.items():
        assert await eventually_stored(mongo, room, seen[room]) == seen[room], "under the numbers that bob saw"
        eve = await people.member("eve", room, server=one)
        after = await acked(await send(eve, room, ["after"]))
        await shown(bobs[room], room, after)
        assert_in_order(bobs[room].rooms[room])
        assert not bobs[room].rooms[room].gaps
        await assert_history(bobs[room], mongo, room, {**seen[room], **after})
        assert sum(server.metrics()["orphans_total"] for server in (one, two)) >= 2


@pytest.mark.parametrize("lands", ["on another worker", "on another server"])
async def test_publishers_worker_killed_and_the_retry_lands(fleet, people, redis, mongo, lands):
    one, two = fleet(workers=2, redis=redis, mongo=mongo, allow=AWAY)
    pids = one.workers()
    ana = await people.connect_on(pids[0], "ana", server=one)
    await ana.join("r")
    bob = await people.member("bob", "r", server=two)
    acks = await acked(await send(ana, "r", ["before"]))
    keys = ["k0", "k1", "k2"]
    with frozen(mongo):
        for key in keys:
            await send(ana, "r", [key])
            seen = await shown(bob, "r", [key])
        gone = one.kill_pid(pids[0])
        await ana.wait_ended()
        if lands == "on another worker":
            again = await people.connect_on(pids[1], "ana", server=one)
        else:
            again = await people.connect("ana", server=two)
        # What can't be answered from the window waits for the store; either is fine, but no hole.
        joined = await again.join("r", since=seen["k1"])
        assert_whole(joined, seen["k1"], seen.values())
        retries = await send(again, "r", keys, retry=True)
        await again.command("ping")
        assert not any(future.done() for future in retries.values()), "the retry's ack neither"
    acks |= await acked(retries)
    assert acks == seen
    one.wait_respawned(gone)
    acks |= await acked(await send(again, "r", ["after"]))
    await shown(bob, "r", acks)
    assert_in_order(bob.rooms["r"])
    await assert_history(bob, mongo, "r", acks)


async def test_everything_restarted_between_delivery_and_commit(fleet, people, spawn, mongo):
    """All servers and Redis, which keeps its data but opens rooms anew: k0 reached MongoDB, the others did not."""
    redis = spawn(Redis, save=True)
    one, two = servers = fleet(workers=1, redis=redis, mongo=mongo, allow=AWAY)
    ana = await people.member("ana", "r", server=one)
    bob = await people.member("bob", "r", server=two)
    acks = await acked(await send(ana, "r", ["before"]))
    keys = ["k0", "k1", "k2"]
    with frozen(mongo):
        for key in keys:
            await send(ana, "r", [key])
            seen = await shown(bob, "r", [key])
        for server in servers:
            server.kill_all()
        redis.kill()
    redis.start()
    for server in servers:
        server.start()
    ana.server, bob.server = two, one
    await asyncio.gather(ana.reconnect(), bob.reconnect())
    acks |= await acked(await send(ana, "r", keys, retry=True))
    assert all(acks[key] >= seen[key] for key in keys)
    again = await acked(await send(ana, "r", keys, retry=True))
    assert again == {key: acks[key] for key in keys}, "once more, the same numbers"
    acks |= await acked(await send(ana, "r", ["after"]))
    await shown(bob, "r", acks)
    assert_in_order(bob.rooms["r"], twice=True)
    await assert_history(bob, mongo, "r", acks)


async def test_commit_done_and_ack_lost(fleet, people, redis, mongo, spawn):
    """A is slow to hear that it is stored, and ana's connection is gone by then: she asks B."""
    slow = spawn(Proxy, mongo)
    (one,) = fleet(1, 1, redis, env={"MONGODB_URI": mongo.uri_through(slow)}, allow=AWAY)
    (two,) = fleet(1, 1, redis, mongo, allow=AWAY)
    ana = await people.member("ana", "r", server=one)
    bob = await people.member("bob", "r", server=two)
    slow.delay(0.5)
    keys = [f"k{i}" for i in range(20)]
    futures = await send(ana, "r", keys)
    seen = await shown(bob, "r", keys)
    numbers = await eventually_stored(mongo, "r", keys[:1])
    ana.abort()
    assert not any(future.done() for future in futures.values()), "the acks are on their way at best"
    again = await people.member("ana", "r", server=two)
    acks = await acked(await send(again, "r", keys, retry=True))
    assert acks == seen and acks.items() >= numbers.items()
    slow.delay(0)
    late = await people.member("ana", "r", server=one)
    assert await acked(await send(late, "r", keys, retry=True)) == seen, "long after, and on A, the same"
    await assert_history(bob, mongo, "r", seen)
    assert_in_order(bob.rooms["r"])


# -- more than the window ------------------------------------------------------------------------------------


async def test_store_frozen_for_longer_than_the_window_while_a_room_is_hot(fleet, people, redis, mongo):
    """The stream is cut above numbers that are not stored, and somebody joins just then."""
    one, two = fleet(workers=1, redis=redis, mongo=mongo, env=SMALL_WINDOW, allow=AWAY)
    ana = await people.member("ana", "hot", server=one)
    bob = await people.member("bob", "hot", server=two)
    eve, kim = [await people.connect(name, server=server) for name, server in (("eve", two), ("kim", one))]
    acks = await acked(await send(ana, "hot", ["before"]))
    first = acks["before"]
    keys = [f"k{i}" for i in range(400)]
    with frozen(mongo):
        futures = await send(ana, "hot", keys[:200])
        for member in (ana, bob):
            await shown(member, "hot", keys[:200])  # both servers have heard of them
        joins = [await client.start("join", room="hot", since=first) for client in (eve, kim)]
        futures |= await send(ana, "hot", keys[200:])
        seen = await shown(bob, "hot", keys)
        assert not bob.rooms["hot"].gaps, "deliveries don't wait for the store"
        with redis.client() as client:
            (window,) = client.scan_iter("*:window:hot")
            assert client.xlen(window) < 300, "the window is shorter than what is not stored"
        for join in joins:
            answer = await asyncio.wait_for(join, DEADLINE)
            assert answer.get("code") == "unavailable" or answer["complete"] is False, answer
        last = await eve.start("join", room="hot", since=first)
        assert not any(future.done() for future in futures.values())
    answer = await asyncio.wait_for(last, DEADLINE)
    if answer["type"] == "joined":
        assert_whole(answer, first, seen.values())
    acks |= await acked(futures)
    assert acks == seen
    for client in (eve, kim):
        joined = await client.join("hot", since=first)
        assert joined["complete"] is True and len(joined["messages"]) == len(keys)
        assert_whole(joined, first, seen.values())
    assert_in_order(bob.rooms["hot"])
    await assert_history(bob, mongo, "hot", acks)


async def test_a_slow_store_read_while_the_room_is_busy(fleet, people, redis, mongo, spawn):
    """B waits for MongoDB while numbers go on: members come in without a hole, and nothing is shown twice."""
    slow = spawn(Proxy, mongo)
    (one,) = fleet(1, 1, redis, mongo, env=SMALL_WINDOW, allow=AWAY)
    (two,) = fleet(1, 1, redis, env={**SMALL_WINDOW, "MONGODB_URI": mongo.uri_through(slow)}, allow=AWAY)
    ana = await people.member("ana", "r", server=one)
    acks = await acked(await send(ana, "r", [f"old{i}" for i in range(400)]))
    first = min(acks.values())
    slow.delay(0.7)
    comers = [await people.connect(f"comer{i}", server=two) for i in range(3)]
    joins = [
        await client.start("join", room="r", **how)
        for client, how in zip(comers, ({"since": first}, {"since": first + 200}, {"recent": 350}))
    ]
    live = 0
    while not all(join.done() for join in joins):
        acks |= await acked(await send(ana, "r", [f"live{live}"]))
        live += 1
        await asyncio.sleep(0.1)  # while the store is read fewer come than the window holds: joins get to an end
    slow.delay(0)
    acks |= await acked(await send(ana, "r", [f"more{i}" for i in range(50)]))
    for client, join in zip(comers, joins):
        joined = join.result()
        assert joined["type"] == "joined" and joined["complete"] is True, str(joined)[:300]
        view = client.rooms["r"]
        await shown(client, "r", ["more49"])
        assert_in_order(view)
        numbers = view.numbers()
        assert numbers == list(range(numbers[0], max(acks.values()) + 1)), "no hole from the first to the last"
    assert comers[0].rooms["r"].numbers()[0] == first + 1
    assert comers[1].rooms["r"].numbers()[0] == first + 201
    assert len(joins[2].result()["messages"]) >= 350


async def test_a_catch_up_larger_than_the_send_queue(fleet, people, redis, mongo, spawn):
    way = spawn(Proxy, redis)
    small = {"SEND_QUEUE_BYTES": "65536"}
    (one,) = fleet(1, 1, mongo=mongo, env={**small, "REDIS": f"redis://127.0.0.1:{way.port}"}, allow=AWAY)
    (two,) = fleet(1, 1, redis, mongo, env=small, allow=AWAY)
    ana = await people.member("ana", "r", server=one, quiet=True)
    bob = await people.member("bob", "r", server=two, quiet=True)
    acks = await acked(await send(bob, "r", ["before"]))
    await shown(ana, "r", acks)
    with stalled(way):
        for start in range(0, 500, 10):
            keys = [f"k{i}" for i in range(start, start + 10)]
            acks |= await acked(await send(bob, "r", keys, text="z" * 4000))
        await asyncio.to_thread(one.wait_log, "redis_subscriber_lost")

    async def has_all():
        if ana.ended.is_set():
            assert ana.close_code == 1013, "closed for no other reason"
            await ana.reconnect()
        return set(acks) <= set(ana.rooms["r"].keys())

    await eventually(has_all, "ana has everything")
    view = ana.rooms["r"]
    assert not view.disorder and sorted(view.numbers()) == sorted(acks.values())
    await assert_history(bob, mongo, "r", acks)


# -- the way to Redis ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("noticed", [False, True], ids=["within the silence", "after the connection was given up"])
async def test_first_attempt_still_queued_for_redis_when_the_retry_succeeds(
    fleet, people, redis, mongo, spawn, noticed
):
    way = spawn(Proxy, redis)
    (one,) = fleet(1, 1, mongo=mongo, env={"REDIS": f"redis://127.0.0.1:{way.port}"}, allow=AWAY)
    (two,) = fleet(1, 1, redis, mongo, allow=AWAY)
    ana = await people.member("ana", "r", server=one)
    zoe = await people.member("zoe", "r", server=one)  # who stays
    bob = await people.member("bob", "r", server=two)
    acks = await acked(await send(ana, "r", ["before"]))
    with stalled(way):
        await send(ana, "r", ["k0", "k1"])
        await ana.command("ping")  # A has them
        ana.abort()
        again = await people.member("ana", "r", server=two)
        acks |= await acked(await send(again, "r", ["k0", "k1"], retry=True))
        if noticed:
            await asyncio.to_thread(one.wait_log, "redis_lost")
    # Behind what was queued.
    await shown(zoe, "r", acks)
    acks |= {"after": (await zoe.deliver("r", "after", "after"))["seq"]}
    for client in (bob, zoe, again):
        await shown(client, "r", ["after"])
        assert_in_order(client.rooms["r"])
    # Retries ask the store: which of two that are under way together comes first isn't said.
    keys = bob.rooms["r"].keys()
    assert keys[0] == "before" and sorted(keys[1:3]) == ["k0", "k1"] and keys[3:] == ["after"]
    await assert_history(bob, mongo, "r", acks)


async def test_an_idle_subscriber_whose_connection_is_half_open(fleet, people, redis, mongo, spawn):
    way = spawn(Proxy, redis)
    (one,) = fleet(1, 1, mongo=mongo, env={"REDIS": f"redis://127.0.0.1:{way.port}"}, allow=AWAY)
    (two,) = fleet(1, 1, redis, mongo, allow=AWAY)
    ana = await people.member("ana", "r", server=one)
    bob = await people.member("bob", "r", server=two)
    acks = await acked(await send(bob, "r", ["before"]))
    await shown(ana, "r", acks)
    with stalled(way):
        acks |= await acked(await send(bob, "r", [f"k{i}" for i in range(30)]))
        await asyncio.to_thread(one.wait_log, "redis_subscriber_lost")
        assert ana.rooms["r"].keys() == ["before"]
    await shown(ana, "r", acks)
    acks |= await acked(await send(bob, "r", ["after"]))
    await shown(ana, "r", acks)
    assert ana.rooms["r"].numbers() == sorted(acks.values()) and not ana.rooms["r"].gaps
    assert not ana.ended.is_set()


def subscribers(redis):
    return len(redis.cli("CLIENT", "LIST", "TYPE", "pubsub").splitlines())


async def test_subscriptions_killed_again_and_again_under_load(fleet, people, redis, mongo):
    """As client-output-buffer-limit does."""
    servers = fleet(workers=2, redis=redis, mongo=mongo, allow=AWAY)
    flow = Flow(servers, people)

    async def harm():
        for _ in range(4):
            await eventually(lambda: subscribers(redis) == 4, "each worker subscribes again")
            assert int(redis.cli("CLIENT", "KILL", "TYPE", "pubsub")) == 4
            await flow.goes_on(10)

    await flow.during(harm, mongo)
    assert sum(server.metrics()["catchups_total"] for server in servers) > 0


async def test_a_join_on_a_server_that_is_behind_is_not_told_that_the_room_was_reset(fleet, people, redis, mongo):
    """What a member has seen by one server, another one may not have heard of yet."""
    one, two = fleet(workers=1, redis=redis, mongo=mongo, allow=AWAY)
    zoe = await people.member("zoe", "r", server=one)
    bob = await people.member("bob", "r", server=two)
    ana = await people.connect("ana", server=one)
    acks = await acked(await send(bob, "r", ["before"]))
    await shown(zoe, "r", acks)
    for _ in range(5):  # each time it is longer until they subscribe again
        await eventually(lambda: subscribers(redis) == 2, "both subscribe again")
        redis.cli("CLIENT", "KILL", "TYPE", "pubsub")
    acks |= await acked(await send(bob, "r", [f"k{i}" for i in range(10)]))
    joined = await ana.join("r", since=max(acks.values()))
    assert joined["messages"] == [] and joined["complete"] is True and joined["seq"] == max(acks.values())
    acks |= await acked(await send(bob, "r", ["after"]))
    for client in (ana, bob, zoe):
        await shown(client, "r", ["after"])
        assert_in_order(client.rooms["r"])
    assert ana.rooms["r"].keys() == ["after"]
    assert zoe.rooms["r"].numbers() == bob.rooms["r"].numbers() == sorted(acks.values())


# -- Redis with another past ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flushed", "restarted empty", "restarted with its data"])
async def test_redis_loses_its_memory_under_load(fleet, people, spawn, mongo, how):
    redis = spawn(Redis, save=how == "restarted with its data")
    flow = Flow(fleet(workers=1, redis=redis, mongo=mongo, allow=AWAY), people)

    async def harm():
        if how == "flushed":
            await asyncio.to_thread(redis.flush)
        else:
            redis.kill()
            await asyncio.to_thread(redis.start, empty=how == "restarted empty")

    await flow.during(harm, mongo, failover=True)


@pytest.mark.timeout(150)
async def test_redis_fails_over_with_its_tail_lost_and_is_switched_back(fleet, people, sentinel, mongo):
    """Members have seen numbers that the new master never heard of, and that MongoDB hasn't got either."""
    one, two = servers = fleet(workers=1, redis=sentinel, mongo=mongo, allow=AWAY)
    ana = await people.member("ana", "r", server=one)
    bob = await people.member("bob", "r", server=two)
    acks = await acked(await send(ana, "r", ["before"]))
    (master,) = sentinel.masters()
    replicas = [node for node in sentinel.nodes if node is not master]
    keys = [f"k{i}" for i in range(5)]
    with frozen(mongo):
        with frozen(*replicas):
            master.cli("CLIENT", "KILL", "TYPE", "replica")  # nor waits anything for them in a socket
            futures = {}
            for key in keys:
                futures |= await send(ana, "r", [key])
                seen = await shown(bob, "r", [key])
            sentinel.kill_master()
        await asyncio.to_thread(sentinel.wait_failover, master)
        (new,) = sentinel.masters()
        with new.client() as client:
            (window,) = client.scan_iter("*:window:r")
            assert client.xlen(window) == 1, "the tail is lost"
    acks |= await acked(futures)
    acks |= await acked(await send(bob, "r", ["after"]))
    assert acks["after"] > max(seen.values()) and acks["after"] == max(acks.values())

    # The old master comes back as a replica, and is switched to.
    await asyncio.to_thread(master.start)
    await asyncio.to_thread(sentinel.wait_ok)
    others = [node for node in sentinel.nodes if node not in (master, new)]
    flow = Flow(servers, people, clients=4, rooms=2)

    async def switch():
        for node in others:
            node.cli("CONFIG", "SET", "replica-priority", "0")
        try:
            await eventually(lambda: passed_over(sentinel, others), "the sentinels know")
            await asyncio.to_thread(sentinel.failover)
            assert await asyncio.to_thread(sentinel.wait_failover, new) is master
        finally:
            for node in others:
                node.cli("CONFIG", "SET", "replica-priority", "100")

    # The flow's check of the database expects these in it as well.
    flow.acks = {("r", "bob" if key == "after" else "ana", key): seq for key, seq in acks.items()}
    await flow.during(switch, mongo, failover=True)
    acks |= {"back": (await ana.deliver("r", "back", "back"))["seq"]}
    assert acks["back"] > acks["after"]
    for client in (ana, bob):
        await shown(client, "r", acks)
        assert_in_order(client.rooms["r"], twice=True)
        assert not client.ended.is_set(), "nobody is disconnected"
    await assert_history(bob, mongo, "r", acks)


def passed_over(sentinel, nodes):
    ports = {str(node.port) for node in nodes}
    for one in sentinel.sentinels:
        with one.client() as client:
            known = client.sentinel_slaves(sentinel.master_name)
        if any(int(found["slave-priority"]) for found in known if str(found["port"]) in ports):
            return False
    return True


async def test_two_servers_open_a_room_at_once(fleet, people, redis, mongo):
    """Rooms that nobody remembers, first new ones, then those only the store knows: each is opened once."""
    one, two = fleet(workers=1, redis=redis, mongo=mongo, allow=AWAY)
    clients = [await people.connect(f"user{i}", server=server) for i, server in enumerate((one, two, one, two))]
    rooms = [f"room{i}" for i in range(20)]
    acks = {room: {} for room in rooms}
    for life in range(2):
        highest = {room: max(acks[room].values(), default=0) for room in rooms}
        joins = [
            await client.start("join", room=room, since=highest[room]) for room in rooms for client in clients
        ]
        for join in joins:
            answer = await asyncio.wait_for(join, DEADLINE)
            assert answer["type"] == "joined" and answer["complete"] is True, answer
            assert answer["seq"] >= highest[answer["room"]], "nobody is told that the room was reset"
        sends = {
            room: {
                key: future
                for client in clients
                for key, future in (await send(client, room, [f"{life}-{client.user}"])).items()
            }
            for room in rooms
        }
        for room in rooms:
            given = await acked(sends[room])
            numbers = sorted(given.values())
            assert numbers == list(range(numbers[0], numbers[0] + len(clients)))
            assert numbers[0] > highest[room]
            acks[room] |= given
            for client in clients:
                await shown(client, room, given)
                assert_in_order(client.rooms[room])
        if life == 0:
            for room in rooms:
                for client in clients:
                    await client.command("leave", room=room)
            redis.flush()
    for room in rooms:
        assert stored(mongo, room) == acks[room]


async def test_numbers_in_flight_to_the_store_while_another_server_opens_the_room(
    fleet, people, mongo, redis, spawn
):
    way = spawn(Proxy, mongo)
    (one,) = fleet(1, 1, redis, env={"MONGODB_URI": mongo.uri_through(way)}, allow=AWAY)
    (two,) = fleet(1, 1, redis, mongo, allow=AWAY)
    ana = await people.member("ana", "r", server=one)
    bob = await people.member("bob", "r", server=two)
    acks = await acked(await send(ana, "r", ["before"]))
    with stalled(way):
        futures = {}
        for i in range(5):
            futures |= await send(ana, "r", [f"k{i}"])
            seen = await shown(bob, "r", [f"k{i}"])
        redis.kill()
        redis.start(empty=True)
        acks["anew"] = (await bob.deliver("r", "anew", "anew"))["seq"]
        assert acks["anew"] >> 20 > max(seen.values()) >> 20, "in a higher block"
        assert not any(future.done() for future in futures.values())
    acks |= await acked(futures)
    acks |= {"after": (await ana.deliver("r", "after", "after"))["seq"]}
    for client in (ana, bob):
        await shown(client, "r", acks)
        assert_in_order(client.rooms["r"], twice=True)
        assert not client.ended.is_set()
    await assert_history(bob, mongo, "r", acks)


async def test_retention_empties_a_room_and_the_bus_forgets_it(fleet, people, redis, mongo):
    """The room's row in the store still knows how far it was."""
    one, two = fleet(workers=1, redis=redis, mongo=mongo, allow=AWAY)
    ana = await people.member("ana", "r", server=one)
    last = max((await acked(await send(ana, "r", [f"k{i}" for i in range(10)]))).values())
    await ana.command("leave", room="r")
    noted = {"_id": "r", "highest": last}
    await eventually(lambda: mongo.db.rooms.find_one(noted), "the room's row has its highest number")
    mongo.db.messages.delete_many({"room": "r"})
    with redis.client() as client:
        keys = list(client.scan_iter("chatd:*:r"))
        assert keys and client.delete(*keys) == len(keys)
    bob = await people.connect("bob", server=two)
    joined = await bob.join("r", since=last)
    assert joined["messages"] == [] and joined["complete"] is True and joined["seq"] >= last
    ack = await acked(await send(bob, "r", ["after"]))
    assert ack["after"] > joined["seq"]
    await assert_history(bob, mongo, "r", ack)


# -- workers and MongoDB come and go -------------------------------------------------------------------------


@pytest.mark.timeout(150)
async def test_a_worker_of_either_server_killed_again_and_again_under_load(fleet, people, redis, mongo):
    servers = fleet(workers=2, redis=redis, mongo=mongo, allow=AWAY)
    flow = Flow(servers, people)

    async def harm():
        for round in range(6):
            server = servers[round % 2]
            gone = server.kill_worker(0)  # the oldest: they take turns
            await asyncio.to_thread(server.wait_respawned, gone)
            await flow.goes_on()

    await flow.during(harm, mongo, kept=False)
    assert any(client.disconnects for client in flow.clients)


async def longest_turn(servers):
    """Seconds that a worker's loop was held up in the last five seconds."""
    return max([(await asyncio.to_thread(server.metrics))["loop_turn_max_seconds"] for server in servers])


@pytest.mark.timeout(150)
async def test_mongodb_away_under_load(fleet, people, redis, mongo, spawn):
    """Members get what is sent, acks wait, and no loop does. Frozen for some servers and killed for others at the same
    time: most of it is waiting."""
    other = Database(spawn(Mongo), mongo.name)
    pairs = [
        fleet(workers=1, redis=redis, mongo=mongo, allow=AWAY),
        fleet(workers=1, redis=spawn(Redis), mongo=other, allow=AWAY),
    ]

    async def away(flow):
        """All that may be under way at once is delivered and has no ack; then the rest of the time goes by."""
        waiting = flow.count * flow.at_once
        await eventually(lambda: len(flow.delivered_before_ack()) == waiting, "members have what has no ack")
        acks = len(flow.acks)
        end = asyncio.get_running_loop().time() + OUTAGE
        while asyncio.get_running_loop().time() < end:  # the length of the outage is what is tested
            assert await longest_turn(flow.servers) < BLOCKED
            await asyncio.sleep(1)
        assert len(flow.acks) == acks and len(flow.delivered_before_ack()) == waiting
        assert all(server.get("/health")[0] == 503 for server in flow.servers)

    async def freeze(flow):
        with frozen(mongo):
            await away(flow)

    async def kill(flow):
        other.kill()
        await away(flow)
        await asyncio.to_thread(other.start)

    one, two = [Flow(pair, people) for pair in pairs]
    await asyncio.gather(one.during(lambda: freeze(one), mongo), two.during(lambda: kill(two), other))
    for server in [*pairs[0], *pairs[1]]:
        await eventually(lambda: server.get("/health")[0] == 200, "all is well again")


async def test_mongodb_slow_under_load(fleet, people, redis, mongo, spawn):
    way = spawn(Proxy, mongo)
    servers = fleet(workers=1, redis=redis, env={"MONGODB_URI": mongo.uri_through(way)}, allow=AWAY)
    flow = Flow(servers, people)

    async def harm():
        way.delay(0.2)
        for _ in range(3):
            await eventually(flow.delivered_before_ack, "members don't wait for acks")
            await flow.goes_on()
            assert await longest_turn(servers) < BLOCKED

    await flow.during(harm, mongo)


# -- clocks --------------------------------------------------------------------------------------------------


async def test_two_servers_whose_clocks_differ_by_minutes(fleet, people, redis, mongo):
    library = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not library:
        pytest.skip("no libfaketime: tests/support/install test")
    ahead = {"LD_PRELOAD": library[0], "FAKETIME": "+300s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    (one,) = fleet(1, 1, redis, mongo, allow=AWAY)
    (two,) = fleet(1, 1, redis, mongo, env=ahead, allow=AWAY)
    started = [datetime.fromisoformat(server.log_events()[0]["time"]) for server in (one, two)]
    assert 290 < (started[1] - started[0]).total_seconds() < 360, "their clocks do differ"
    ana = await people.member("ana", "r", server=one)
    bob = await people.member("bob", "r", server=two)
    event = await ana.expect("presence", user="bob", event="join")
    assert event["members"] == 2
    acks = {}
    for i in range(20):
        for client in (ana, bob):
            acks |= await acked(await send(client, "r", [f"{client.user}{i}"]))
    for client in (ana, bob):
        await shown(client, "r", acks)
        assert_in_order(client.rooms["r"])
        events = client.seen("message", room="r")
        assert [e["time"] for e in events] == sorted(e["time"] for e in events)
        assert events[-1]["time"] - events[0]["time"] < 60_000, "one clock for both"
        answer = await client.members("r")
        assert answer["count"] == 2 and sorted(answer["users"]) == ["ana", "bob"]
    await assert_history(ana, mongo, "r", acks)

    # Nobody was taken for dead, and a dead one's members vanish though its last word is from the future.
    assert not bob.seen("presence", event="leave") and not ana.seen("presence", event="leave")
    eve = await people.member("eve", "r", server=two)
    await ana.expect("presence", user="eve", event="join")
    two.kill_all()
    for _ in (bob, eve):
        event = await asyncio.wait_for(ana.expect("presence", event="leave"), 10)
    assert event["members"] == 1 and (await ana.members("r"))["users"] == ["ana"]
    await assert_history(ana, mongo, "r", acks)


# -- full ----------------------------------------------------------------------------------------------------


async def test_a_full_queue_to_mongodb_refuses_before_anyone_has_seen_it(fleet, people, redis, mongo):
    one, two = fleet(workers=1, redis=redis, mongo=mongo, env={"STORE_QUEUE_BYTES": "65536"}, allow=AWAY)
    ana = await people.member("ana", "r", server=one)
    bob = await people.member("bob", "r", server=two)
    acks = await acked(await send(ana, "r", ["before"]))
    taken, errors = {}, {}
    with frozen(mongo):
        for start in range(0, 1000, 10):
            batch = await send(ana, "r", [f"k{i}" for i in range(start, start + 10)], text="z" * 1000)
            await ana.command("ping")
            done = {key: future.result() for key, future in batch.items() if future.done()}
            assert all(answer["type"] == "error" for answer in done.values()), "no ack while it is frozen"
            errors |= done
            taken |= {key: future for key, future in batch.items() if key not in done}
            if errors:
                break
        await shown(bob, "r", taken)
        assert errors and len(taken) > 20
        assert {answer["code"] for answer in errors.values()} == {"overloaded"}
        assert all(answer["retry_ms"] > 0 for answer in errors.values())
        await ana.refused("overloaded", "message", room="r", text="no place for this either", key="late")
        acks_of_bob = await send(bob, "r", ["bob"])  # B's queue is its own
        seen = await shown(bob, "r", ["bob"])
        assert not set(seen) & {*errors, "late"}, "seen by nobody"
    acks |= await acked(taken) | await acked(acks_of_bob)
    assert acks == seen
    await eventually(lambda: one.get("/health")[0] == 200, "all is well again")
    for key in [*errors, "late"]:
        acks[key] = (await ana.deliver("r", "now", key))["seq"]
    await shown(bob, "r", acks)
    assert_in_order(bob.rooms["r"])
    await assert_history(bob, mongo, "r", acks)


async def test_a_full_redis_refuses_and_says_why(fleet, people, spawn, mongo):
    redis = spawn(Redis, config=("maxmemory-policy noeviction",))
    servers = one, two = fleet(workers=2, redis=redis, mongo=mongo, allow=AWAY)
    ana = await people.member("ana", "r", server=one)
    bob = await people.member("bob", "r", server=two)
    acks = await acked(await send(ana, "r", ["before"]))
    redis.cli("CONFIG", "SET", "maxmemory", "1mb")
    for i in range(30):
        refusal = await ana.refused("overloaded", "message", room="r", text="no place", key=f"k{i}")
        assert refusal["retry_ms"] > 0

    def told(server):
        status, _, body = server.get("/health")
        return status == 503 and "OOM" in json.loads(body)["parts"]["bus"].get("error", "")

    for server in servers:
        await eventually(lambda: told(server), "health names it")
    page = await bob.history("r")
    assert [m["key"] for m in page] == ["before"], "reading goes on"
    redis.cli("CONFIG", "SET", "maxmemory", "0")
    for i in range(30):
        acks[f"k{i}"] = (await ana.deliver("r", "again", f"k{i}"))["seq"]
    await shown(bob, "r", acks)
    assert_in_order(bob.rooms["r"])
    for server in servers:
        await eventually(lambda: server.get("/health")[0] == 200, "all is well again")
        lines = [event for event in server.log_events() if event["level"] in ("warn", "error")]
        told_by = Counter((event["event"], event["pid"]) for event in lines)
        assert max(told_by.values(), default=0) <= 1, f"one line per cause and worker: {told_by}"
    assert any(server.log_events("redis_refuses") for server in servers)
    answer = await bob.members("r")
    assert sorted(answer["users"]) == ["ana", "bob"]
    assert not ana.ended.is_set() and not bob.ended.is_set()
    await assert_history(bob, mongo, "r", acks)
