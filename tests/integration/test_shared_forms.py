"""Every form in which Redis and MongoDB may be given: two servers are one chat with each, and what can't be is
refused with the reason, before anything is done.
"""

import asyncio
import json
import re
import time

import pytest

from support.chatd import DEADLINE, run_chatd, until
from support.client import eventually
from support.servers import Redis

# All that a user of chatd in Redis has to be allowed; the same stands in deploy/README.md.
RIGHTS = (
    "~chatd:* &chatd:* -@all +ping +select +info +client|setname +script|load +evalsha +time "
    "+publish +subscribe +unsubscribe +hget +hmget +hset +hsetnx +hdel +hlen +hgetall +hscan "
    "+xadd +xdel +xrange +xrevrange +zadd +zrem +zscore +zrangebyscore +zrevrange "
    "+sadd +srem +srandmember +smembers +get +set +del +unlink +exists +pexpire"
)

ROOMS = [f"room-{n}" for n in range(8)]  # enough for each shard and each master of a cluster to have some


def health(server):
    """GET /health: the status, and the parts."""
    status, _, body = server.get("/health")
    return status, json.loads(body)["parts"]


def in_file(text):
    """Options of Chatd: the settings stand in a file, not in the environment."""
    return {"conf": text}


def given_by_the_guide(spawn, _):
    redis = spawn(Redis, password="guide-password")
    env = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": redis.port, "REDIS_PASSWORD": redis.password}
    return [redis], {"env": env}


def given_in_a_file_with_a_database(_, request):
    redis = request.getfixturevalue("redis")
    return [redis], in_file(f"redis = {redis.url}/3\n")


def given_with_its_password(spawn, _):
    redis = spawn(Redis, password="p@ss:w/rd,%")
    return [redis], in_file(f"redis = redis://:p%40ss%3Aw%2Frd%2C%25@127.0.0.1:{redis.port}\n")


def given_with_a_user_of_few_rights(spawn, _):
    redis = spawn(Redis, config=[f"user chat on >few-rights {RIGHTS}"])
    return [redis], {"env": {"REDIS": redis.url, "REDIS_USER": "chat", "REDIS_PASSWORD": "few-rights"}}


def given_by_its_socket(spawn, _):
    redis = spawn(Redis, unix=True)
    return [redis], {"env": {"REDIS": redis.url}}


def given_by_sentinels(_, request):
    sentinel = request.getfixturevalue("sentinel")
    return sentinel.masters(), {"env": {"REDIS": sentinel.url}}


def given_as_two_shards(spawn, request):
    shards = [request.getfixturevalue("redis"), spawn(Redis)]
    return shards, {"env": {"REDIS": ",".join(shard.url for shard in shards)}}


def given_as_a_cluster(_, request):
    cluster = request.getfixturevalue("cluster")
    return cluster.masters(), {"env": {"REDIS": cluster.url}}


FORMS = [
    given_by_the_guide, given_in_a_file_with_a_database, given_with_its_password,
    given_with_a_user_of_few_rights, given_by_its_socket, given_by_sentinels, given_as_two_shards, given_as_a_cluster,
]


@pytest.mark.parametrize("given", FORMS, ids=lambda form: form.__name__)
async def test_two_servers_are_one_chat(given, request, spawn, backends, chatd, people, mongo):
    masters, options = given(spawn, request)
    env = {"MONGODB_URI": mongo.uri, **options.pop("env", {})}
    one, two = [chatd(workers=2, env=env, **options) for _ in range(2)]
    ana = await people.member("ana", *ROOMS, server=one)
    bob = await people.member("bob", *ROOMS, server=two)
    said = {}
    for room in ROOMS:
        await ana.expect("presence", room=room, user="bob", event="join")
        said[room] = [(await who.say(room, f"{who.user} is here"))["seq"] for who in (ana, bob)]
        assert said[room][1] == said[room][0] + 1
        for who in (ana, bob):
            heard = [await who.expect("message", room=room) for _ in range(2)]
            assert [(m["seq"], m["user"]) for m in heard] == list(zip(said[room], ("ana", "bob")))
            assert [m["seq"] for m in await who.history(room)] == said[room]
            assert sorted((await who.members(room))["users"]) == ["ana", "bob"]
    listed = {room: (2, seqs[1]) for room, seqs in said.items()}
    await eventually(lambda: knows(bob, listed), "bob has the list of rooms")
    stored = mongo.db.messages.find({}, {"room": 1, "seq": 1})
    assert sorted((m["room"], m["seq"]) for m in stored) == sorted((r, seq) for r in ROOMS for seq in said[r])
    for master in masters:
        keys = list(keys_of(master, 3 if given is given_in_a_file_with_a_database else 0))
        assert any(":window:" in key for key in keys), "every server has a part of the rooms"
        assert all(key.startswith("chatd:") for key in keys)
        assert not master.client().acl_log(), "nothing was asked that the rights forbid"
    await come_back(people, ana, two)
    for server in (one, two):
        assert not server.log_events("redis_refuses") and not server.log_events("redis_subscriber_refused")
    checked = run_chatd(*(["-t", "-c", str(one.conf_path)] if one.conf_path else ["-t"]), env=one.env)
    assert checked.returncode == 0 and "warning" not in checked.stderr


async def knows(client, wanted):
    rooms = (await client.command("rooms"))["rooms"]
    return {r["room"]: (r["members"], r["seq"]) for r in rooms} == wanted


def keys_of(redis, database):
    with redis.client(db=database) as client:
        yield from client.scan_iter(count=1000)


async def come_back(people, client, server):
    """The session goes on at another server, in its rooms."""
    client.abort()
    again = people.new(None, server=server)
    await again.connect(hello=False)
    welcome = await again.command("hello", session=client.welcome["session"])
    assert welcome["resumed"] is True and welcome["user"] == client.user
    assert sorted(welcome["rooms"]) == sorted(ROOMS)
    for room in ROOMS:
        ack = await again.say(room, "back")
        assert (await again.expect("message", room=room))["seq"] == ack["seq"]


async def test_two_chats_on_two_databases_of_one_redis_are_strangers(redis, mongo, chatd, people):
    urls = [(f"{redis.url}/{n}", mongo.server.uri(f"{mongo.name}_{n}")) for n in (0, 5)]
    servers = [chatd(workers=1, env={"REDIS": r, "MONGODB_URI": m}) for r, m in urls]
    try:
        ana, bob = [await people.member(f"user{n}", "lobby", server=one) for n, one in enumerate(servers)]
        assert len(redis.client().pubsub_channels("*lobby")) == 2, "a channel's name has its database"
        for n in range(5):
            for who in (ana, bob):
                await who.say("lobby", f"{n}")
        for who in (ana, bob):
            assert {m["user"] for m in await who.history("lobby")} == {who.user}
            await who.command("ping")
            assert {m["user"] for m in who.seen("message")} == {who.user}
            assert not who.seen("presence") and (await who.members("lobby"))["users"] == [who.user]
            assert len(who.seen("message")) == 5
    finally:
        for n in (0, 5):
            mongo.client.drop_database(f"{mongo.name}_{n}")


# -- Lists of shards -----------------------------------------------------------------------------------------


DIFFERENT = ("redis_shards_differ",)


def rooms_of(shards):
    """What each of them knows of rooms."""
    found = {(n, key) for n, redis in enumerate(shards) for key in keys_of(redis, 0) if ":room:" in key}
    assert len(found) == len(ROOMS)
    return {(n, key): shards[n].client().hgetall(key) for n, key in found}


@pytest.mark.parametrize("list_of_two", ["other order", "one more", "one less"])
async def test_server_with_another_list_of_shards_is_kept_out(list_of_two, spawn, redis, mongo, chatd, people):
    shards = [redis, spawn(Redis), spawn(Redis)]
    lists = {"other order": ([0, 1], [1, 0]), "one more": ([0, 1], [0, 1, 2]), "one less": ([0, 1], [0])}
    urls = [",".join(shards[n].url for n in numbers) for numbers in lists[list_of_two]]
    one = chatd(workers=1, env={"REDIS": urls[0], "MONGODB_URI": mongo.uri})
    ana = await people.member("ana", *ROOMS, server=one)
    for room in ROOMS:
        await ana.say(room, "before")
    before = rooms_of(shards)
    two = chatd(workers=1, env={"REDIS": urls[1], "MONGODB_URI": mongo.uri}, allow=DIFFERENT, start=False)
    await asyncio.to_thread(two.start, healthy=False)
    two.wait_log("redis_shards_differ")
    status, parts = health(two)
    assert status == 503 and parts["bus"]["status"] == "failing" and "shards" in parts["bus"]["error"]
    bob = await people.connect("bob", server=two)
    for room in ROOMS:
        refusal = await bob.refused("unavailable", "join", room=room)
        assert refusal["retry_ms"] > 0
    assert rooms_of(shards) == before
    assert len(two.log_events("redis_shards_differ")) <= len(urls[1].split(","))
    for room in ROOMS:
        await ana.say(room, "after")
        assert (await ana.members(room))["users"] == ["ana"]
    assert health(one)[0] == 200


async def test_the_pool_is_split_over_the_workers(redis, mongo, fleet, people):
    (server,) = fleet(servers=1, workers=2, redis=redis, mongo=mongo, env={"REDIS_POOL_SIZE": 4})
    for client in await people.spread(["ana", "bob"]):
        await client.join("lobby")
        await client.close()
    names = [one["name"] for one in redis.client().client_list()]
    assert names.count("chatd") == 2 * (2 + 1), "two for commands and one for channels each"
    server.stop()
    until(lambda: "chatd" not in [one["name"] for one in redis.client().client_list()], "all are closed")


# -- Settings that can't be ----------------------------------------------------------------------------------


SECRET = "Zs3cr3tZ"
MONGODB = {"MONGODB_URI": "mongodb://127.0.0.1:1/db"}


def refused(env, tmp_path):
    """What chatd says, at its start and with -t, to settings that it doesn't take."""
    env = {"DATA_DIR": str(tmp_path), "HOST": "127.0.0.1", "PORT": "0", **env}
    said = []
    for args in ((), ("-t",)):
        done = run_chatd(*args, env=env, timeout=5)
        assert done.returncode == 1 and done.stdout == "", done
        assert SECRET not in done.stderr
        said.append(done.stderr)
    assert said[0] == said[1] and said[0].startswith("chatd: wrong settings\n")
    return said[0]


WRONG = {
    "no such scheme": (f"http://u:{SECRET}@h", "redis: begins with none of redis://"),
    "scheme of another kind": (f"redis+cluter://u:{SECRET}@h", "redis+cluster://"),
    "no host": ("redis://", "no host"),
    "user and no host": (f"redis://u:{SECRET}@", "no host"),
    "port is a word": ("redis://h:port", "the port is not a number from 1 to 65535"),
    "port too large": ("redis://h:65536", "the port is not a number"),
    "at sign in the password": (f"redis://u:{SECRET}@x@h:1:2", "%40"),
    "slash in the password": (f"redis://u:a/{SECRET}@h", "%2F"),
    "percent sign in the password": (f"redis://u:{SECRET}%zz@h", "%25"),
    "IPv6 without brackets": ("redis://::1", "brackets"),
    "no IPv6 in the brackets": ("redis://[h]:6379", "not an IPv6 address"),
    "database is a word": (f"redis://u:{SECRET}@h/db", "the database is not a number"),
    "two databases": ("redis://a/1,redis://b/2", "server 2: another database"),
    "two passwords": (f"redis://:{SECRET}@a,redis://:other@b", "server 2: another password"),
    "the same shard twice": ("redis://a,redis://b,redis://a:6379", "server 3: the same as server 1"),
    "shards of two kinds": (f"redis://a,redis+cluster://:{SECRET}@b", "server 2: doesn't begin with redis:"),
    "no master's name": (f"redis+sentinel://u:{SECRET}@h:1", "the name of the master is missing"),
    "database of a cluster": ("redis+cluster://h/1", "a cluster has database 0 alone"),
    "socket without a path": ("unix://redis.sock", "begins with /"),
    "user without a password": ("redis://u@h", "a user without a password"),
}


@pytest.mark.parametrize("url, reason", WRONG.values(), ids=WRONG.keys())
def test_wrong_url_is_named(url, reason, tmp_path):
    said = refused({"REDIS": url, **MONGODB}, tmp_path)
    assert reason in said and "redis" in said


WRONG_MONGODB = {
    "no such scheme": (f"http://u:{SECRET}@h/db", "mongodb+srv://"),
    "no host": (f"mongodb://u:{SECRET}@/db", "Empty hostname"),
    "at sign in the password": (f"mongodb://u:x@{SECRET}@h/db", "percent-encoded"),
    "slash in the password": (f"mongodb://u:{SECRET}/x@h/db", "Invalid host"),
    "percent sign in the password": (f"mongodb://u:{SECRET}%zz@h/db", "password"),
    "port is a word": (f"mongodb://u:{SECRET}@h:port/db", "Port"),
    "no such option": (f"mongodb://u:{SECRET}@h/db?jurnal=true", "jurnal"),
}


@pytest.mark.parametrize("uri, reason", WRONG_MONGODB.values(), ids=WRONG_MONGODB.keys())
def test_wrong_uri_of_mongodb_is_named(uri, reason, tmp_path):
    assert reason in refused({"MONGODB_URI": uri}, tmp_path)


@pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel", "rediss+cluster"])
def test_tls_that_this_hiredis_lacks_is_refused(scheme, tmp_path):
    url = f"{scheme}://u:{SECRET}@h:1" + ("/name" if "sentinel" in scheme else "")
    said = refused({"REDIS": url, **MONGODB}, tmp_path)
    assert "rediss" in said and "hiredis with TLS" in said


def test_two_names_for_redis_are_refused(tmp_path):
    said = refused({"REDIS": "redis://h", "REDIS_HOST": "h", **MONGODB}, tmp_path)
    assert "redis: set together with redis_host" in said


@pytest.mark.parametrize("name, value", [("REDIS", f"redis://u:{SECRET}@h"), ("REDIS_HOST", "h")])
def test_redis_without_mongodb_is_refused(name, value, tmp_path):
    said = refused({name: value}, tmp_path)
    assert "MONGODB_URI" in said and "all servers share" in said


# -- MongoDB -------------------------------------------------------------------------------------------------


async def test_documents_are_as_the_header_says(fleet, people, redis, mongo):
    fleet(servers=1, workers=1, redis=redis, mongo=mongo)
    ana = await people.member("ana", "lobby")
    start = time.time()
    keyed = (await ana.say("lobby", "with a key", key="k1"))["seq"]
    plain = (await ana.say("lobby", "without"))["seq"]
    first, second = mongo.db.messages.find().sort("seq")
    for document, seq in ((first, keyed), (second, plain)):
        assert set(document) == {"_id", "room", "seq", "user", "key", "uid", "time", "event"}
        assert (document["room"], document["seq"], document["user"]) == ("lobby", seq, "ana")
        assert len(document["uid"]) == 16 and abs(stamp(document["time"]) - start) < 60
        event = json.loads(document["event"])
        assert event == await ana.expect("message", seq=seq)
        assert event["time"] == round(stamp(document["time"]) * 1000)
    assert first["key"] == "k1" and second["key"] == second["uid"]
    indexes = [(tuple(i["key"].items()), i.get("unique", False)) for i in mongo.db.messages.list_indexes()]
    assert ((("room", 1), ("seq", 1)), True) in indexes
    assert ((("room", 1), ("user", 1), ("key", 1)), True) in indexes
    noted = {"_id": "lobby", "highest": plain}
    room = await eventually(lambda: mongo.db.rooms.find_one(noted), "the room is noted")
    assert start - 60 < stamp(room["created"]) <= stamp(room["active"]) < start + 60
    user = await eventually(lambda: mongo.db.users.find_one({"_id": "ana"}), "the user is noted")
    assert start - 60 < stamp(user["first"]) <= stamp(user["last"]) < start + 60
    assert (await ana.history("lobby"))[0]["text"] == "with a key"


def stamp(date):
    """Seconds since 1970 of what pymongo gives as UTC without saying so."""
    return (date - type(date)(1970, 1, 1)).total_seconds()


async def test_database_is_that_of_the_uri_or_chat_app(redis, mongo, chatd, people):
    uri = re.sub(f"/{mongo.name}", "/", mongo.uri)
    before = "chat_app" in mongo.client.list_database_names()
    assert not before, "this test would write into somebody's chat_app"
    try:
        server = chatd(workers=1, env={"REDIS": redis.url, "MONGODB_URI": uri})
        ana = await people.member("ana", "lobby")
        ack = await ana.say("lobby", "hi")
        assert mongo.client["chat_app"].messages.find_one({"seq": ack["seq"]})["room"] == "lobby"
        assert not mongo.db.list_collection_names()
        await ana.close()
        server.stop()
    finally:
        mongo.client.drop_database("chat_app")


async def test_the_uri_cant_weaken_an_ack(redis, mongo, chatd, people):
    uri = mongo.uri + ("&" if "?" in mongo.uri else "?") + "w=0&readPreference=secondary&journal=false"
    server = chatd(workers=1, env={"REDIS": redis.url, "MONGODB_URI": uri})
    ana = await people.member("ana", "lobby")
    await ana.say("lobby", "first")
    mongo.freeze()
    waiting = await ana.start("message", room="lobby", text="second", key="k2")
    seen = await ana.expect("message", key="k2")
    await eventually(lambda: server.metrics()["store_queue"] > 0, "it waits for MongoDB")
    await ana.command("ping")
    assert not waiting.done(), "no ack before it is stored"
    mongo.thaw()
    ack = await asyncio.wait_for(waiting, DEADLINE)
    assert ack["type"] == "ack" and ack["seq"] == seen["seq"]
    assert mongo.db.messages.find_one({"room": "lobby", "key": "k2"})["seq"] == ack["seq"]
    options = [line["option"] for line in server.log_events("mongodb_overruled")]
    assert sorted(set(options)) == ["read_preference", "write_concern"]


async def test_mongodb_without_redis_serves_one_host(mongo, chatd, people):
    env = {"MONGODB_URI": mongo.uri, "DRAIN_TIMEOUT": "1s"}
    one = chatd(workers=2, env=env)
    ana, bob = await people.spread(["ana", "bob"])
    for who in (ana, bob):
        await who.join("lobby")
    acks = [(await ana.deliver("lobby", f"{n}"))["seq"] for n in range(20)]
    sending = [asyncio.create_task(ana.deliver("lobby", f"more {n}")) for n in range(50)]
    await bob.expect("message", text="more 0")
    gone = one.kill_pid(ana.worker)
    acks += [(await task)["seq"] for task in sending]
    one.wait_respawned(gone)
    stored = list(mongo.db.messages.find({}, {"seq": 1, "key": 1}))
    assert sorted(m["seq"] for m in stored) == sorted(acks) and len({m["key"] for m in stored}) == 70
    assert [m["seq"] for m in await bob.history("lobby")] == sorted(acks)

    two = chatd(workers=1, env=env, start=False, allow=["mongodb_", "store_"])
    await asyncio.to_thread(two.start, healthy=False)
    error = await eventually(lambda: health(two)[1]["store"].get("error"), "the second host says why not")
    assert re.search("lease|host", error), error
    await asyncio.sleep(0.5)  # in which it would have written, were it allowed to
    assert mongo.db.messages.count_documents({}) == 70
    assert health(one)[0] == 200
    one.signal(15)
    assert await asyncio.to_thread(one.wait_stopped) == 0
    await eventually(lambda: health(two)[0] == 200, "the second host takes over", 40)
    eve = await people.member("eve", "lobby", server=two)
    assert [m["seq"] for m in await eve.history("lobby")] == sorted(acks)
    ack = await eve.say("lobby", "from the other host")
    assert ack["seq"] > max(acks)
    assert mongo.db.messages.count_documents({}) == 71
