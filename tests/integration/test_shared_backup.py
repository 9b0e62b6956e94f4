"""Backups of what several servers share: MongoDB in full and incremental, Redis in each of its forms, saved while
people write and put back into empty ones."""

import asyncio
import subprocess
import time
from contextlib import contextmanager

import pytest

from support.backups import (
    DAMAGED, FAILED, NOT_EMPTY, USAGE, Load, backups_in, check_history, has_mongo_tools, processes_named,
    restore, run_script,
)
from support.chatd import until
from support.redis_groups import Sentinel
from support.servers import Database, Redis

needs_tools = pytest.mark.skipif(not has_mongo_tools(), reason="no mongodump and mongorestore, and none were built")

ROOMS = ("one", "two")
# Redis waits that long for more replicas before it sends a snapshot; there are none.
AT_ONCE = ("repl-diskless-sync-delay 0",)
# At a stop nobody has to be let down gently.
NO_DRAIN = {"DRAIN_TIMEOUT": "0"}


def save_mongo(uri, directory, what, code=0, **env):
    """At most one a second: that is what they are named by."""
    made = backups_in(directory / "mongodb")
    until(lambda: not made or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) > made[-1].name[:16], "the next second")
    run_script("chatd-backup-mongodb", what, code=code, MONGODB_URI=uri, BACKUP_DIR=directory, **env)
    return backups_in(directory / "mongodb")[-1]


def save_redis(directory, code=0, **env):
    log = run_script("chatd-backup-redis", code=code, BACKUP_DIR=directory, **env)
    return backups_in(directory / "redis")[-1] if code == 0 else log


@pytest.fixture
def empty_database(mongo):
    """Another database on the same server."""
    one = Database(mongo.server, f"{mongo.name}_restored")
    yield one
    one.close()


@needs_tools
async def test_backups_under_load_are_restored(fleet, spawn, mongo, empty_database, people, tmp_path):
    first_redis = spawn(Redis, config=AT_ONCE)
    servers = fleet(servers=2, workers=1, redis=first_redis, mongo=mongo, env=NO_DRAIN)
    writers = [await people.member(f"user{i}", *ROOMS, server=server) for i, server in enumerate(servers)]
    session = writers[0].welcome["session"]
    # The stand-in for MongoDB reads everything for each question: some hundred messages are enough.
    load = Load(writers, ROOMS, pause=0.05)
    for made, what in enumerate(("full", "incremental", "incremental")):
        await load.until(60)
        before = load.snapshot()
        # One that saves all of it again, one that saves little: the same must come out.
        overlap = "3600" if made == 1 else "2"
        last = await load.beside(save_mongo, mongo.uri, tmp_path, what, BACKUP_OVERLAP=overlap)
    assert last.name.endswith("-incremental")
    snapshot = await load.beside(save_redis, tmp_path, REDIS=first_redis.url)
    await load.until(30)
    await load.stop()
    highest = {room: max(load.acked[room].values()) for room in ROOMS}
    for server in servers:
        await asyncio.to_thread(server.stop)

    second_redis = spawn(Redis, start=False)
    restore("redis", snapshot, second_redis.data_dir)
    restore("redis", snapshot, second_redis.data_dir, code=NOT_EMPTY)
    second_redis.start()
    restore("mongodb", last, MONGODB_URI=empty_database.uri)
    restore("mongodb", last, code=NOT_EMPTY, MONGODB_URI=empty_database.uri)

    # With the Redis of the backup people are back in their rooms. It knows keys and messages that the restored
    # database doesn't, and must not be asked about them.
    keep_sessions(second_redis)
    (one,) = fleet(servers=1, workers=2, redis=second_redis, mongo=empty_database, env=NO_DRAIN)
    await check_restored(people, one, before, load.acked, highest, session)
    await lost_message_is_stored_when_it_is_sent_again(people, one, empty_database, load.acked)
    await asyncio.to_thread(one.stop)
    # With an empty one they join again. Numbers follow the clock all the same.
    second_redis.flush()
    (two,) = fleet(servers=1, workers=2, redis=second_redis, mongo=empty_database, env=NO_DRAIN)
    await check_restored(people, two, before, load.acked, highest, None)


def keep_sessions(redis):
    """As deploy/README.md says."""
    command = """redis-cli -p PORT --scan --pattern 'chatd:*' | grep -v -e ':session:' -e ':user:' |
        xargs -r -d '\\n' redis-cli -p PORT UNLINK"""
    subprocess.run(["sh", "-c", command.replace("PORT", str(redis.port))], check=True, stdout=subprocess.DEVNULL)
    with redis.client() as client:
        kinds = {key.split(":")[2] for key in client.scan_iter("chatd:*")}
    assert kinds <= {"session", "user"} and "session" in kinds


async def lost_message_is_stored_when_it_is_sent_again(people, server, mongo, acked):
    stored = {row["key"] for row in mongo.db.messages.find({"room": ROOMS[0]}, {"key": 1})}
    lost = sorted(key for key in acked[ROOMS[0]].keys() - stored if key.startswith("user0-"))
    assert lost, "everything was saved, so nothing was tried"
    client = await people.member("user0", ROOMS[0], server=server)
    ack = await client.say(ROOMS[0], f"text of {lost[0]}", key=lost[0], retry=True)
    assert mongo.db.messages.find_one({"room": ROOMS[0], "key": lost[0]})["seq"] == ack["seq"]
    acked[ROOMS[0]][lost[0]] = ack["seq"]


async def check_restored(people, server, before, acked, highest, session):
    reader = people.new("user0", server=server)
    await reader.connect(**({"session": session} if session else {}))
    assert reader.welcome["resumed"] == bool(session)
    for room in ROOMS:
        if not session:
            await reader.join(room)
        found = [message for message in await reader.history(room) if message["text"] != "goes on"]
        check_history(found, before[room], acked[room])
        ack = await reader.say(room, "goes on")
        assert ack["seq"] > highest[room], "a number of the lost history is given again"
        highest[room] = ack["seq"]


def documents(start, stop):
    return [{"room": "r", "seq": i, "user": "u", "key": f"k{i}", "event": "{}"} for i in range(start, stop)]


def numbers(database):
    return sorted(row["seq"] for row in database.db.messages.find({}, {"seq": 1}))


@needs_tools
def test_chain_with_a_hole_or_damage_is_refused(mongo, empty_database, tmp_path):
    mongo.db.leases.insert_one({"_id": "host"})
    for i, what in enumerate(("incremental", "incremental", "incremental")):
        mongo.db.messages.insert_many(documents(10 * i, 10 * i + 10))
        mongo.db.rooms.replace_one({"_id": "r"}, {"highest": 10 * i + 9}, upsert=True)
        # The first has nothing to continue, so it is a full one.
        save_mongo(mongo.uri, tmp_path, what, BACKUP_OVERLAP="0")
    full, middle, last = backups_in(tmp_path / "mongodb")
    assert [path.name.split("-")[1] for path in (full, middle, last)] == ["full", "incremental", "incremental"]

    middle.rename(tmp_path / "away")
    restore("mongodb", last, code=DAMAGED, MONGODB_URI=empty_database.uri)
    (tmp_path / "away").rename(middle)
    saved = next(full.glob("dump/*/messages.bson.gz"))
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-9] + b"x" + whole[-8:])
    restore("mongodb", last, code=DAMAGED, MONGODB_URI=empty_database.uri)
    assert numbers(empty_database) == []
    saved.write_bytes(whole)

    restore("mongodb", middle, MONGODB_URI=empty_database.uri)
    assert numbers(empty_database) == list(range(20)), "up to the one that was named"
    assert empty_database.db.rooms.find_one()["highest"] == 19
    empty_database.db.messages.insert_many(documents(90, 95))
    restore("--force", "mongodb", last, MONGODB_URI=empty_database.uri)
    assert numbers(empty_database) == list(range(30))
    assert empty_database.db.rooms.find_one()["highest"] == 29
    assert empty_database.db.leases.count_documents({}) == 0, "a lease belongs to who holds it"


@needs_tools
def test_old_full_backups_go_with_what_continues_them(mongo, tmp_path):
    mongo.db.messages.insert_many(documents(0, 5))
    for what in ("full", "incremental", "full"):
        save_mongo(mongo.uri, tmp_path, what, BACKUP_KEEP_FULL="1")
    assert [path.name.split("-")[1] for path in backups_in(tmp_path / "mongodb")] == ["full"]


def test_wrong_settings_are_refused(tmp_path):
    for uri in (None, "http://127.0.0.1/chat_app"):
        run_script("chatd-backup-mongodb", "full", code=USAGE, BACKUP_DIR=tmp_path, MONGODB_URI=uri)
    run_script("chatd-backup-mongodb", "daily", code=USAGE, BACKUP_DIR=tmp_path, MONGODB_URI="mongodb://127.0.0.1")
    for uri in (None, "http://127.0.0.1"):
        save_redis(tmp_path, code=USAGE, REDIS=uri)
    save_redis(tmp_path, code=FAILED, REDIS="redis://127.0.0.1:1")
    assert backups_in(tmp_path / "redis") == []


@contextmanager
def at_once(redis):
    """Without the pause before a snapshot, in servers that other tests have as well."""
    kept = []
    for master in redis.masters():
        kept.append((master, master.cli("CONFIG", "GET", "repl-diskless-sync-delay").split()[-1]))
        master.cli("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    try:
        yield
    finally:
        for master, delay in kept:
            master.cli("CONFIG", "SET", "repl-diskless-sync-delay", delay)


def test_each_form_is_saved_whole(any_redis, tmp_path):
    with at_once(any_redis):
        saved = save_redis(tmp_path, **any_redis.env)
    # A master that sentinels watch is left in peace: they would take redis-cli for one more replica.
    nodes = any_redis.replicas() if isinstance(any_redis, Sentinel) else any_redis.masters()
    names = {path.name.removesuffix(".rdb.gz") for path in saved.glob("*.rdb.gz")}
    assert names <= {f"127.0.0.1_{node.port}" for node in nodes} and len(names) == len(any_redis.masters())
    if len(names) > 1:
        restore("redis", saved, tmp_path, code=USAGE)
    restore("redis", saved, tmp_path, names.pop())
    assert (tmp_path / "dump.rdb").read_bytes().startswith(b"REDIS")


async def test_secrets_are_on_no_command_line(spawn, tmp_path):
    secret = "pa%s:w@rd$HOME&"
    # It waits a second before it sends a snapshot: time to look at what runs.
    redis = spawn(Redis, password=secret, user="saver", config=("repl-diskless-sync-delay 1",))
    redis.cli("SET", "key", "value")
    encoded = "pa%25s%3Aw%40rd%24HOME%26"
    own_name = {"REDIS": redis.url, "REDIS_USER": "saver", "REDIS_PASSWORD": secret}
    for env in (own_name, {"REDIS": redis.url.replace("//", f"//saver:{encoded}@")}):
        seen = 0
        task = asyncio.create_task(asyncio.to_thread(save_redis, tmp_path, **env))
        while not task.done():
            seen += len([line for line in processes_named(str(redis.port)) if line.startswith("redis-cli")])
            assert processes_named(secret) == [] and processes_named(encoded) == []
            await asyncio.sleep(0.02)
        saved = await task
        assert seen > 0, "redis-cli was never seen, so nothing was looked at"
    for path in saved.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), f"{path} holds the password"
    save_redis(tmp_path, code=FAILED, **{**own_name, "REDIS_PASSWORD": "wrong"})
