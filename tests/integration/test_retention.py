"""What is past its time goes, by itself, and nothing else does (rule 2: a room's highest number stays).

Nothing younger than retry_window and ten minutes is ever deleted, and neither can be made short. So the tests
make messages old in the database, as time would.
"""

import asyncio
import datetime
import signal
import sqlite3

import pytest
from support.chatd import until
from support.client import eventually

OLD = 2 * 3600  # seconds
AGE = {"RETENTION_AGE": "1h", "RETENTION_INTERVAL": "200ms"}


class InSqlite:
    """The database of a chatd on one host, looked at from beside it."""

    keeps_users = False

    def __init__(self, server):
        self.path = server.database

    def _run(self, sql, *values):
        db = sqlite3.connect(self.path, timeout=30)
        try:
            with db:
                return db.execute(sql, values).fetchall()
        finally:
            db.close()

    def make_old(self, room, upto=1 << 53, seconds=OLD):
        """The room's messages up to that number, and its last activity."""
        self._run(
            "UPDATE messages SET time = time - ?"
            " WHERE seq <= ? AND room = (SELECT id FROM rooms WHERE name = ?)",
            seconds * 1000,
            upto,
            room,
        )

    def make_idle(self, room, seconds=OLD):
        self.make_old(room, seconds=seconds)
        self._run("UPDATE rooms SET active = active - ? WHERE name = ?", seconds * 1000, room)

    def add_old(self, room, count, seconds=OLD):
        """Old messages with low numbers in a room that is there."""
        self._run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO messages(room, seq, uid, user, key, time, event)"
            " SELECT (SELECT id FROM rooms WHERE name = ?), i, randomblob(16), 'old', CAST(i AS BLOB),"
            " unixepoch() * 1000 - ?, '{}' FROM n",
            count,
            room,
            seconds * 1000,
        )

    def count(self, room):
        return self._run(
            "SELECT count(*) FROM messages WHERE room = (SELECT id FROM rooms WHERE name = ?)", room
        )[0][0]

    def deleting(self, server):
        """Whichever of them it is."""
        return server.workers()

    def room_is_known(self, room):
        return bool(self._run("SELECT 1 FROM rooms WHERE name = ?", room))


class InMongo:
    keeps_users = True

    def __init__(self, mongo):
        self.db = mongo.db

    def make_old(self, room, upto=1 << 53, seconds=OLD):
        time = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=seconds)
        self.db.messages.update_many({"room": room, "seq": {"$lte": upto}}, {"$set": {"time": time}})

    def make_idle(self, room, seconds=OLD):
        newest = self.db.messages.find_one({"room": room}, sort=[("seq", -1)])["seq"]
        until(lambda: self.highest(room) == newest, "what the room's document says is no longer behind")
        self.make_old(room, seconds=seconds)
        active = self.db.rooms.find_one({"_id": room})["active"] - datetime.timedelta(seconds=seconds)
        self.db.rooms.update_one({"_id": room}, {"$set": {"active": active}})

    def add_old(self, room, count, seconds=OLD):
        time = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=seconds)
        messages = [
            {"room": room, "seq": i, "uid": b"%016d" % i, "user": "old", "key": str(i), "time": time}
            | {"event": "{}"}
            for i in range(1, count + 1)
        ]
        self.db.messages.insert_many(messages)
        until(lambda: self.room_is_known(room), "the room is noted")

    def count(self, room):
        return self.db.messages.count_documents({"room": room})

    def deleting(self, server):
        return [int(self.db.leases.find_one({"_id": "retention"})["owner"].split(":")[-2])]

    def highest(self, room):
        return (self.db.rooms.find_one({"_id": room}) or {}).get("highest")

    def room_is_known(self, room):
        return self.highest(room) is not None


class Form:
    """One way to run chatd: starts servers, looks into their database, makes the bus forget."""

    def __init__(self, name, request):
        self.name = name
        self.fleet = request.getfixturevalue("fleet")
        self.mongo = request.getfixturevalue("mongo") if name != "sqlite" else None
        self.redis = request.getfixturevalue("redis") if name == "redis" else None

    def start(self, servers=1, env=None, **options):
        self.servers = self.fleet(
            servers=servers,
            workers=2,
            redis=self.redis,
            mongo=self.mongo,
            env={"FAILOVER_GRACE": "100ms", **(env or {})},
            **options,
        )
        self.server = self.servers[0]
        self.stored = InMongo(self.mongo) if self.mongo else InSqlite(self.server)
        return self.server

    async def lose_bus(self):
        """Stops all, loses what the bus remembered, starts again."""
        for server in self.servers:
            await asyncio.to_thread(server.stop)
            if not self.redis:
                server.forget_bus()
        if self.redis:
            self.redis.flush()
        for server in self.servers:
            await asyncio.to_thread(server.start)

    def total(self, name):
        return sum(server.metrics()[f"retention_{name}_total"] for server in self.servers)


@pytest.fixture(params=["sqlite", "mongo", "redis"])
def form(request):
    return Form(request.param, request)


async def numbers(client, room, **fields):
    return [message["seq"] for message in await client.history(room, **fields)]


async def say(client, room, count):
    """Messages whose numbers are returned."""
    return [ack["seq"] for ack in await client.say_many(room, [f"text {i}" for i in range(count)])]


async def test_by_age(form, people, room):
    server = form.start(env=AGE)
    ana = await people.member("ana", room, "emptied")
    sent, emptied = await say(ana, room, 30), await say(ana, "emptied", 5)
    form.stored.make_old(room, sent[19])
    form.stored.make_old("emptied")
    await eventually(lambda: form.total("messages") == 25, "25 messages are deleted")

    # What is left can be paged to its end, the window shows no more than that, and `complete` doesn't lie.
    assert await numbers(ana, room, limit=4) == sent[20:]
    assert await numbers(ana, "emptied") == []
    for since, left, complete in [
        (sent[0], sent[20:], False),
        (sent[18], sent[20:], False),
        (sent[19], sent[20:], True),
        (sent[25], sent[26:], True),
    ]:
        answer = await ana.join(room, since=since)
        assert [message["seq"] for message in answer["messages"]] == left
        assert answer["complete"] is complete, since
    assert (await ana.join(room, recent=50))["complete"]
    answer = await ana.join("emptied", since=emptied[3])
    assert answer["messages"] == [] and not answer["complete"] and answer["seq"] == emptied[4]

    # A later run has nothing to do.
    runs = form.total("runs")
    await eventually(lambda: form.total("runs") > runs + 1, "two more runs")
    assert (form.total("messages"), form.total("failures")) == (25, 0)
    assert form.stored.count(room) == 10

    # Everything starts anew, and nobody remembers the numbers but the store.
    await ana.close()
    await form.lose_bus()
    ben = await people.connect("ben")
    for name, last in [(room, sent[-1]), ("emptied", emptied[-1])]:
        answer = await ben.join(name, since=last)
        assert answer["complete"] and answer["messages"] == [] and answer["seq"] >= last
        assert (await ben.say(name, "again"))["seq"] > answer["seq"]
    answer = await ben.join("emptied", since=emptied[3])
    assert not answer["complete"] and len(answer["messages"]) == 1
    assert (await ben.join("emptied", since=emptied[4]))["complete"]
    assert server.log_events("retention") == []  # of this life: nothing was old


async def test_by_count(form, people, room):
    form.start(env={"RETENTION_MESSAGES": "10", "RETENTION_INTERVAL": "200ms"})
    ana = await people.member("ana", room, "young", "few")
    # More than one step takes, where that costs little.
    count = 530 if form.name == "sqlite" else 40
    sent, young, few = await say(ana, room, count), await say(ana, "young", 30), await say(ana, "few", 10)
    form.stored.make_old("few")
    form.stored.make_old(room, sent[count - 20])
    # Of those that are too many the young ones stay: a retry may still ask for them.
    await eventually(lambda: form.total("messages") == count - 19, "what is too many and old is deleted")
    runs = form.total("runs")
    await eventually(lambda: form.total("runs") > runs + 1, "two more runs")
    assert form.total("messages") == count - 19
    assert await numbers(ana, room) == sent[-19:]
    assert await numbers(ana, "young") == young
    assert await numbers(ana, "few") == few
    form.stored.make_old(room)
    await eventually(lambda: form.total("messages") == count - 10, "the last of them are old as well")
    assert await numbers(ana, room) == sent[-10:]


async def test_rooms(form, people, room):
    server = form.start(env={"RETENTION_ROOMS": "1h", "RETENTION_INTERVAL": "200ms"})
    ana = await people.member("ana", room, "left", "sat-in", "young")
    sent = {name: await say(ana, name, 5) for name in ("left", "sat-in", "young")}
    for name in ("left", "young"):
        await ana.command("leave", room=name)
    for name in ("left", "sat-in"):
        form.stored.make_idle(name)
    await eventually(lambda: form.total("rooms") == 1, "one room is deleted")
    runs = form.total("runs")
    await eventually(lambda: form.total("runs") > runs + 1, "two more runs")
    assert (form.total("rooms"), form.total("messages")) == (1, 5)
    assert form.stored.count("left") == 0
    assert await numbers(ana, "sat-in") == sent["sat-in"]
    assert await numbers(ana, "young") == sent["young"]

    listed = {one["room"] for one in server.get_json("/api/rooms")["rooms"]}
    assert "left" not in listed and {room, "sat-in", "young"} <= listed

    # Its numbers aren't given again, by whatever comes; who still has one learns that all is gone.
    await ana.close()
    await form.lose_bus()
    assert "left" not in {one["room"] for one in server.get_json("/api/rooms")["rooms"]}
    ben = await people.connect("ben")
    answer = await ben.join("left", since=sent["left"][2])
    assert answer["messages"] == [] and not answer["complete"] and answer["seq"] >= sent["left"][-1]
    again = await ben.say("left", "again")
    assert again["seq"] > sent["left"][-1]
    assert await numbers(ben, "left") == [again["seq"]]
    await eventually(
        lambda: "left" in {one["room"] for one in server.get_json("/api/rooms")["rooms"]},
        "it is a room again",
    )


async def test_users(fleet, mongo, redis, people, room):
    (server,) = fleet(
        servers=1,
        redis=redis,
        mongo=mongo,
        env={"RETENTION_USERS": "1h", "SESSION_TTL": "1h", "RETENTION_INTERVAL": "200ms"},
    )
    ana, ben = await people.member("ana", room), await people.member("ben", room)
    await ben.close()
    users = mongo.db.users
    await eventually(lambda: users.count_documents({}) == 2, "both are noted")
    ancient = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    users.update_one({"_id": "ben"}, {"$set": {"last": ancient}})
    users.insert_many([{"_id": f"old {i:04}", "first": ancient, "last": ancient} for i in range(700)])
    await eventually(lambda: server.metrics()["retention_users_total"] == 701, "701 users are deleted")
    assert [user["_id"] for user in users.find()] == ["ana"]
    assert server.metrics()["retention_messages_total"] == 0
    await ana.say(room, "still here")


async def test_off_by_default_and_changed_while_running(form, people, room):
    server = form.start(conf="")
    ana = await people.member("ana", room)
    sent = await say(ana, room, 5)
    form.stored.make_old(room, seconds=400 * 86400)
    await say(ana, room, 1)
    assert form.total("runs") == 0 and form.stored.count(room) == 6
    if form.mongo:
        until(lambda: form.stored.room_is_known(room), "the room is noted")
    await ana.close()
    server.conf_path.write_text("retention_age = 1d\nretention_interval = 200ms\n")
    server.signal(signal.SIGHUP)
    await eventually(lambda: form.stored.count(room) == 1, "the new setting counts")
    server.settle()
    ben = await people.connect("ben")
    assert await numbers(ben, room) == [sent[-1] + 1]


async def test_one_server_at_a_time(fleet, mongo, redis, people):
    servers = fleet(servers=2, workers=2, redis=redis, mongo=mongo, env=AGE)
    stored = InMongo(mongo)
    rooms = [f"room {i}" for i in range(3)]
    ana = await people.member("ana", *rooms)
    for name in rooms:
        await say(ana, name, 2)
        stored.add_old(name, 60)
    total = lambda name: sum(server.metrics()[f"retention_{name}_total"] for server in servers)
    await eventually(lambda: total("messages") == 180, "all that is old is deleted")
    runs = total("runs")
    await eventually(lambda: total("runs") > runs + 1, "more runs")
    # Each counts what it deleted itself.
    assert (total("messages"), total("failures")) == (180, 0)
    assert mongo.db.leases.count_documents({"_id": "retention"}) <= 1
    assert all(stored.count(name) == 2 for name in rooms)


@pytest.mark.parametrize("name, old", [("sqlite", 30000), ("redis", 1100)])
async def test_worker_killed_meanwhile(name, old, request, people, room):
    form = Form(name, request)
    server = form.start(env=AGE)
    ana = await people.member("ana", room, "history")
    await say(ana, "history", 3)
    form.stored.add_old("history", old)
    acked = []

    async def load():
        while form.stored.count("history") > 3:
            ack = await ana.deliver(room, f"text {len(acked)}")
            acked.append(ack["seq"])

    async def kill():
        await eventually(lambda: form.stored.count("history") < old, "it begins")
        for pid in form.stored.deleting(server):
            server.kill_pid(pid, signal.SIGKILL)
            await asyncio.to_thread(server.wait_respawned, pid)

    await asyncio.gather(load(), kill())
    # What was acknowledged meanwhile is there, once, in order, and so is what is young.
    assert acked == sorted(set(acked)) and len(acked) > 0
    history = [m["seq"] for m in await ana.history(room)]
    assert [seq for seq in history if seq in set(acked)] == acked
    assert len(await numbers(ana, "history")) == 3
    assert not (await ana.join("history", since=1))["complete"]
    assert not form.total("failures")
