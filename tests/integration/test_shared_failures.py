"""What an operator sees, and clients get, when Redis or MongoDB is away, refuses or is slow; what is kept over a
stop, a reload and a kill; sessions; and the metrics that tell of all that.
"""

import asyncio
import json
import signal
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.chatd import DEADLINE, run_chatd, until
from support.client import eventually
from support.crowd import Crowd
from support.redis_groups import REPLICATION
from support.servers import Proxy, Redis

# What chatd may log as an error while a test takes Redis or MongoDB away.
AWAY = ("redis_", "mongodb_", "store_", "bus_")

SECRET = "Zs3cr3tZ"
ENOUGH = 1.5  # seconds in which something that is tried again would have shown several times

QUICK = "serverSelectionTimeoutMS=500&connectTimeoutMS=500&socketTimeoutMS=1000"


def health(server):
    """GET /health: the status, and the parts."""
    status, _, body = server.get("/health")
    return status, json.loads(body)["parts"]


def failing(server, part):
    """The error of a part that fails, None while it is well."""
    status, parts = health(server)
    return parts[part]["error"] if status == 503 and parts[part]["status"] == "failing" else None


async def wait_well(*servers):
    for server in servers:
        await eventually(lambda: health(server)[0] == 200, "it is well")


async def start_unwell(chatd, **options):
    """A server that starts while something it needs is away."""
    server = chatd(start=False, allow=AWAY, **options)
    await asyncio.to_thread(server.start, healthy=False)
    return server


async def unavailable(client, *rooms):
    """Joins fail, all at the same time, and the client is told when to come again."""
    tries = [client.refused("unavailable", "join", room=room) for room in rooms]
    for refusal in await asyncio.gather(*tries):
        assert refusal["retry_ms"] > 0


async def hears(speaker, listener, room):
    """A message goes from one to the other and is acknowledged."""
    ack = await speaker.say(room, "do you hear me?")
    assert (await listener.expect("message", room=room, seq=ack["seq"]))["user"] == speaker.user


async def two_in_the_lobby(people, one, two):
    """ana on one server, bob on the other."""
    return [await people.member(name, "lobby", server=s) for name, s in (("ana", one), ("bob", two))]


async def use(people, *servers, room="afterwards"):
    """A chat over these servers works."""
    first = await people.member("first", room, server=servers[0])
    last = await people.member("last", room, server=servers[-1])
    await hears(first, last, room)
    await hears(last, first, room)


def quick(uri):
    """The same MongoDB, given up sooner than by the defaults."""
    return uri + ("&" if "?" in uri else "?") + QUICK


def stored(mongo, room=None):
    """{key: number} of what MongoDB has; fails when it has one twice."""
    found = list(mongo.db.messages.find({"room": room} if room else {}, {"key": 1, "seq": 1, "room": 1}))
    keys = Counter((m["room"], m["key"]) for m in found)
    assert [key for key, count in keys.items() if count > 1] == []
    return {m["key"]: m["seq"] for m in found}


@contextmanager
def frozen(server):
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


# -- Away at the start ---------------------------------------------------------------------------------------


async def test_redis_away_at_the_start(redis, mongo, chatd, people):
    redis.kill()
    server = await start_unwell(chatd, workers=2, env={"REDIS": redis.url, "MONGODB_URI": mongo.uri})
    address = f"127.0.0.1:{redis.port}"
    assert address in await eventually(lambda: failing(server, "bus"), "/health names Redis")
    await eventually(lambda: health(server)[1]["store"]["status"] == "ok", "MongoDB is well")
    ana = await people.connect("ana")
    await unavailable(ana, "lobby", "attic")
    checked = run_chatd("-t", env=server.env)
    assert checked.returncode == 0
    (warning,) = checked.stderr.splitlines()
    assert warning.startswith("chatd: warning: Redis:") and address in warning
    await asyncio.to_thread(redis.start)
    await wait_well(server)
    bob = await people.member("bob", "lobby")
    await ana.join("lobby")
    await hears(ana, bob, "lobby")
    assert run_chatd("-t", env=server.env).stderr == ""


async def test_mongodb_away_at_the_start(redis, mongo, chatd, people):
    mongo.kill()
    server = await start_unwell(chatd, workers=2, env={"REDIS": redis.url, "MONGODB_URI": quick(mongo.uri)})
    address = f"127.0.0.1:{mongo.port}"
    await eventually(lambda: address in (failing(server, "store") or ""), "/health names MongoDB")
    assert health(server)[1]["bus"]["status"] == "ok"
    ana = await people.connect("ana")
    await unavailable(ana, "lobby", "attic")
    checked = await asyncio.to_thread(run_chatd, "-t", env=server.env)
    assert checked.returncode == 0
    (warning,) = checked.stderr.splitlines()
    assert warning.startswith("chatd: warning: MongoDB:") and address in warning
    await asyncio.to_thread(mongo.start)
    await wait_well(server)
    await use(people, server)


async def test_both_away_at_the_start(redis, mongo, chatd, people):
    redis.kill()
    mongo.kill()
    server = await start_unwell(chatd, workers=1, env={"REDIS": redis.url, "MONGODB_URI": quick(mongo.uri)})
    await eventually(lambda: failing(server, "bus") and failing(server, "store"), "/health names both")
    await people.connect("ana")
    checked = await asyncio.to_thread(run_chatd, "-t", env=server.env)
    assert checked.returncode == 0
    assert sorted(line.split(":")[2] for line in checked.stderr.splitlines()) == [" MongoDB", " Redis"]
    await asyncio.to_thread(mongo.start)
    await asyncio.to_thread(redis.start)
    await wait_well(server)
    await use(people, server)


# -- Refused -------------------------------------------------------------------------------------------------


def all_output(server):
    """Everything in which a secret might turn up, but what -t prints of the settings themselves."""
    text = server.log_text() + server.get("/health")[2].decode() + json.dumps(server.metrics())
    text += server.get("/metrics", headers={"Accept": "text/plain"})[2].decode()
    return text + run_chatd("-t", env=server.env).stderr


def complaints(server):
    """Lines about Redis and MongoDB that are no good news, as (worker, event, what)."""
    return [
        (line.get("worker"), line["event"], line.get("fault") or line.get("cause") or line.get("error"))
        for line in server.log_events()
        if line["level"] in ("warn", "error") and line["event"].startswith(("redis_", "mongodb_"))
    ]


async def told_once(server, part, *words):
    """/health names the part and the log the cause, once for each worker however often it is tried."""
    error = await eventually(lambda: failing(server, part), f"/health names {part}")
    assert any(word in error for word in words), error
    said = await eventually(lambda: complaints(server), "the log says it")
    await asyncio.sleep(ENOUGH)
    said = complaints(server)
    assert [line for line, count in Counter(said).items() if count > 1] == [], "no line for each try"
    assert any(word in line[2] for word in words for line in said), said
    assert len({worker for worker, _, _ in said}) <= 2
    assert len(said) <= 2 * 2, said
    text = await asyncio.to_thread(all_output, server)
    assert SECRET not in text


async def test_wrong_redis_password(spawn, mongo, chatd, people):
    redis = spawn(Redis, password="right")
    env = {"REDIS": redis.url, "REDIS_PASSWORD": f"wrong{SECRET}", "MONGODB_URI": mongo.uri}
    server = await start_unwell(chatd, workers=2, env=env)
    await told_once(server, "bus", "wrong_password")
    redis.client().config_set("requirepass", f"wrong{SECRET}")
    redis.password = f"wrong{SECRET}"
    await wait_well(server)
    await use(people, server)


LACKING = {
    "scripts": f"user chat on >{SECRET} ~chatd:* &chatd:* -@all +ping +select +info +client",
    "keys": f"user chat on >{SECRET} ~other:* &chatd:* +@all",
    "channels": f"user chat on >{SECRET} ~chatd:* resetchannels +@all",
}


@pytest.mark.parametrize("rights", LACKING.values(), ids=LACKING.keys())
async def test_redis_user_without_rights(rights, spawn, mongo, chatd, people):
    redis = spawn(Redis, config=[rights])
    env = {"REDIS": f"redis://chat:{SECRET}@127.0.0.1:{redis.port}", "MONGODB_URI": mongo.uri}
    server = await start_unwell(chatd, workers=1, env=env)
    ana = await people.connect("ana")
    # Without its scripts it waits for Redis as for one that is away, which other tests see.
    join = asyncio.create_task(unavailable(ana, *(["lobby"] if "-@all" not in rights else [])))
    await told_once(server, "bus", "NOPERM", "permission")
    await join
    redis.client().execute_command("ACL", "SETUSER", "chat", "~chatd:*", "&chatd:*", "+@all")
    await wait_well(server)
    await use(people, server)


async def test_mongodb_refuses_the_user(redis, mongo, chatd, people):
    uri = mongo.uri.replace("mongodb://", f"mongodb://ana:{SECRET}@")
    server = await start_unwell(chatd, workers=2, env={"REDIS": redis.url, "MONGODB_URI": uri})
    ana = await people.connect("ana")
    await unavailable(ana, "lobby")
    await told_once(server, "store", "auth")


async def test_redis_is_a_replica(spawn, mongo, chatd, people):
    master = spawn(Redis, config=REPLICATION)
    replica = spawn(Redis, config=[f"replicaof 127.0.0.1 {master.port}", *REPLICATION])
    until(lambda: replica.client().info("replication")["master_link_status"] == "up", "it follows its master")
    server = await start_unwell(chatd, workers=1, env={"REDIS": replica.url, "MONGODB_URI": mongo.uri})
    await told_once(server, "bus", "read_only")
    replica.client().replicaof("NO", "ONE")
    await wait_well(server)
    await use(people, server)


async def test_redis_wants_replicas_that_are_not_there(spawn, mongo, fleet, people):
    redis = spawn(Redis)
    one, two = fleet(servers=2, workers=1, redis=redis, mongo=mongo, allow=AWAY)
    ana, bob = await two_in_the_lobby(people, one, two)
    await hears(ana, bob, "lobby")
    redis.client().config_set("min-replicas-to-write", 1)
    waiting = [await ana.start("message", room="lobby", text=f"{n}", key=f"k{n}") for n in range(20)]
    await eventually(lambda: "NOREPLICAS" in (failing(one, "bus") or ""), "/health says what is missing")
    said = [line for line in one.log_events("redis_refuses") if "NOREPLICAS" in line["error"]]
    assert len(said) == 1, "one line"
    assert not any(future.done() and future.result()["type"] == "ack" for future in waiting)
    redis.client().config_set("min-replicas-to-write", 0)
    for n, future in enumerate(waiting):
        answer = await asyncio.wait_for(future, DEADLINE)
        if answer["type"] == "error":
            assert answer["code"] == "overloaded"
            await ana.deliver("lobby", f"{n}", f"k{n}")
    for n in range(20):
        await bob.expect("message", key=f"k{n}")
    await wait_well(one, two)
    assert {f"k{n}" for n in range(20)} < set(stored(mongo, "lobby"))


async def under_traffic(redis, mongo, fleet, people, harm, times):
    """A crowd talks over two servers while `harm` is done again and again; returns it."""
    servers = fleet(servers=2, workers=2, redis=redis, mongo=mongo, allow=AWAY)
    crowd = Crowd(servers, people, clients=16, rooms=4, messages=480, at_once=1)
    await crowd.enter()
    running = asyncio.create_task(crowd.run())
    for n in range(times):
        await crowd.sent((n + 1) / (times + 2))
        await asyncio.to_thread(harm)
    await asyncio.wait_for(running, 60)
    await crowd.check(mongo.db, failover=True)
    assert sum(s.metrics()["connections_opened_total"] for s in servers) == crowd.count, "nobody came twice"
    return crowd


async def test_scripts_flushed_under_traffic(redis, mongo, fleet, people):
    crowd = await under_traffic(redis, mongo, fleet, people, lambda: redis.client().script_flush(), 5)
    for i, client in enumerate(crowd.clients):
        assert not client.rooms[crowd.room(i)].jumps, "nobody noticed"


async def test_redis_emptied_under_traffic(redis, mongo, fleet, people):
    await under_traffic(redis, mongo, fleet, people, lambda: redis.client().flushall(), 2)


# -- Stopped and started -------------------------------------------------------------------------------------


def spool_of(server):
    return sorted((Path(server.data_dir) / "spool").glob("*"))


async def stop_with_a_spool(fleet, people, spawn, redis, mongo, allow=(), count=20, **settings):
    """So many messages are seen by bob on server `two` and don't get to MongoDB before their server `one` stops; what was
    on its way there never does. Returns both, bob, and the messages as {key: number}."""
    proxy = spawn(Proxy, mongo)
    env = {"REDIS": redis.url, "DRAIN_TIMEOUT": "500ms", "MESSAGE_RATE_LIMIT": "0", **settings}
    one, two = [
        fleet(servers=1, workers=1, env={**env, "MONGODB_URI": uri}, allow=(*AWAY, *allow))[0]
        for uri in (quick(mongo.uri_through(proxy)), quick(mongo.uri))
    ]
    ana, bob = await two_in_the_lobby(people, one, two)
    await hears(ana, bob, "lobby")
    proxy.stall()
    waiting = [await ana.start("message", room="lobby", text=f"{n}", key=f"k{n}") for n in range(count)]
    seen = {f"k{n}": (await bob.expect("message", key=f"k{n}"))["seq"] for n in range(count)}
    assert not any(future.done() for future in waiting), "no ack before it is stored"
    one.signal(signal.SIGTERM)
    assert await asyncio.to_thread(one.wait_stopped, 15) == 0
    assert len(spool_of(one)) == 1 and int(one.log_events("spooled")[0]["messages"]) == count
    assert not one.log_events("worker_killed"), "it ended by itself"
    await ana.wait_ended()
    proxy.cut()
    proxy.resume()
    return one, two, bob, seen


async def start_again(people, one):
    """Starts it and is let in: from then on nothing of the spool is to be awaited."""
    await asyncio.to_thread(one.start, healthy=False)
    await people.connect("eve", server=one)
    assert not spool_of(one)


async def test_what_mongodb_could_not_take_is_there_after_the_next_start(redis, mongo, spawn, fleet, people):
    one, two, bob, seen = await stop_with_a_spool(fleet, people, spawn, redis, mongo)
    assert not stored(mongo).keys() & seen.keys()
    await start_again(people, one)
    assert stored(mongo).items() >= seen.items()
    assert [m["seq"] for m in await bob.history("lobby")][1:] == list(seen.values())
    await use(people, one, two)


async def test_a_spool_of_more_than_redis_keeps_of_a_room(redis, mongo, spawn, fleet, people):
    """Redis knows the first ones' keys and numbers, but has no record of them any more (whole nodes of a stream are
    cut off, 100 entries each). Only the spool has them."""
    one, two, bob, seen = await stop_with_a_spool(
        fleet, people, spawn, redis, mongo, allow=["message_lost"], count=350, WINDOW_MESSAGES="10"
    )
    await start_again(people, one)
    assert stored(mongo).items() >= seen.items()
    await use(people, one, two)


async def test_what_another_server_stored_meanwhile_is_not_stored_again(redis, mongo, spawn, fleet, people):
    one, two, bob, seen = await stop_with_a_spool(fleet, people, spawn, redis, mongo)
    await eventually(lambda: stored(mongo).keys() >= seen.keys(), "the other server stores what was left")
    assert two.metrics()["orphans_total"] == len(seen) and spool_of(one)
    await start_again(people, one)
    assert stored(mongo).items() >= seen.items()
    assert [m["seq"] for m in await bob.history("lobby")][1:] == list(seen.values())
    await use(people, one, two)


async def test_damaged_spool_loses_no_more_than_what_is_damaged(redis, mongo, spawn, fleet, people):
    one, two, bob, seen = await stop_with_a_spool(fleet, people, spawn, redis, mongo, allow=["spool_damaged"])
    (spool,) = spool_of(one)
    content = bytearray(spool.read_bytes())
    content[content.index(b'"key":"k5"') + 8] ^= 1
    spool.write_bytes(content[:-10])
    (spool.parent / "0-not-ours.spool").write_bytes(b"\0" * 100)
    redis.flush()  # or the other server would find the missing ones there
    await start_again(people, one)
    assert len(one.log_events("spool_damaged")) == 3
    assert stored(mongo).keys() & seen.keys() == seen.keys() - {"k5", "k19"}
    await wait_well(one, two)
    await use(people, one, two)


async def test_reload_sends_clients_away_and_they_come_back_to_everything(redis, mongo, fleet, people):
    servers = fleet(servers=2, workers=2, redis=redis, mongo=mongo, env={"DRAIN_TIMEOUT": "1s"})
    crowd = Crowd(servers, people, clients=24, rooms=6, messages=1200, at_once=2)
    await crowd.enter()
    running = asyncio.create_task(crowd.run())
    old = {pid for server in servers for pid in server.workers()}
    for part, server in zip((0.1, 0.2), servers):
        await crowd.sent(part)
        server.signal(signal.SIGHUP)
    await asyncio.wait_for(running, 60)
    await eventually(lambda: not old & {pid for s in servers for pid in s.workers()}, "the old ones are gone")
    for server in servers:
        server.settle()
    await crowd.check(mongo.db)
    for i, client in enumerate(crowd.clients):
        assert len(client.rooms[crowd.room(i)].joined) > 1, "everybody had to come back"


async def test_everything_killed_and_started_again(redis, mongo, fleet, people):
    servers = fleet(servers=2, workers=2, redis=redis, mongo=mongo)
    crowd = Crowd(servers, people, clients=24, rooms=6, messages=1200, at_once=2)
    await crowd.enter()
    running = asyncio.create_task(crowd.run())
    await crowd.sent(0.3)
    for server in servers:
        server.kill_all()
    await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
    await asyncio.wait_for(running, 60)
    await crowd.check(mongo.db, failover=True)


async def test_usr1_disturbs_nobody(redis, mongo, fleet, people):
    one, two = fleet(servers=2, workers=1, redis=redis, mongo=mongo)
    ana, bob = await two_in_the_lobby(people, one, two)
    lost = one.metrics()["bus_losses_total"]
    one.signal(signal.SIGUSR1)
    for _ in range(20):
        await hears(ana, bob, "lobby")
    assert one.metrics()["bus_losses_total"] == lost and health(one)[0] == 200


# -- Sessions ------------------------------------------------------------------------------------------------


async def hello(people, server, **fields):
    client = people.new(fields.get("user"), server=server)
    await client.connect(hello=False)
    client.welcome = await client.command("hello", **fields)
    return client


async def test_sessions_that_are_no_more(redis, mongo, fleet, people):
    one, two = fleet(servers=2, workers=1, redis=redis, mongo=mongo, env={"SESSION_TTL": "1s"})
    ana = await people.member("ana", "lobby", server=one)
    token = ana.welcome["session"]
    await asyncio.sleep(1.5)  # longer than session_ttl: who is here keeps it
    assert (await hello(people, two, session=token)).welcome["rooms"] == ["lobby"]
    for client in people.all:
        client.abort()
    await eventually(lambda: not redis.client().keys("chatd:*session*"), "the session's time is over")
    assert (await hello(people, two, user="ana", session=token)).welcome["resumed"] is False
    for forged in (token[:-1] + ("A" if token[-1] != "A" else "Q"), "A" * 22, "", "x", "\0" * 22, "A" * 4000):
        late = people.new(None, server=two)
        await late.connect(hello=False)
        await late.refused("bad_request", "hello", session=forged)
        assert (await late.command("hello", user="eve", session=forged))["resumed"] is False


async def test_session_of_a_vanished_server_goes_on_at_another(redis, mongo, fleet, people):
    one, two = fleet(servers=2, workers=1, redis=redis, mongo=mongo)
    ana = await people.member("ana", "kitchen", "attic", server=one)
    await ana.command("leave", room="attic")
    bob = await people.member("bob", "kitchen", server=two)
    await hears(ana, bob, "kitchen")
    one.kill_all()
    again = await hello(people, two, session=ana.welcome["session"])
    assert again.welcome["resumed"] is True and again.welcome["rooms"] == ["kitchen"]
    again.user = again.welcome["user"]
    await hears(again, bob, "kitchen")
    assert again.user == "ana" and sorted((await bob.members("kitchen"))["users"]) == ["ana", "bob"]


async def test_session_is_lost_with_redis_and_hello_works(redis, mongo, fleet, people):
    (server,) = fleet(servers=1, workers=1, redis=redis, mongo=mongo)
    ana = await people.member("ana", "lobby")
    await ana.close()
    await eventually(lambda: server.metrics()["connections"] == 0, "her session is written for the last time")
    redis.flush()
    again = await hello(people, server, user="ana", session=ana.welcome["session"])
    assert again.welcome["resumed"] is False and again.welcome["session"] != ana.welcome["session"]
    await again.join("lobby")
    await again.say("lobby", "all is well")


async def test_commands_right_behind_the_hello_are_carried_out_in_order(redis, mongo, fleet, people):
    one, two = fleet(servers=2, workers=1, redis=redis, mongo=mongo)
    ana = await people.member("ana", "lobby", server=one)
    ana.abort()
    again = people.new(None, server=two)
    await again.connect(hello=False)
    texts = [f"{n}" for n in range(30)]
    futures = [await again.start("hello", session=ana.welcome["session"])]
    futures += [await again.start("message", room="lobby", text=text) for text in texts]
    futures += [await again.start("join", room="kitchen"), await again.start("ping")]
    answers = [await asyncio.wait_for(future, DEADLINE) for future in futures]
    assert [a["type"] for a in answers] == ["welcome"] + ["ack"] * 30 + ["joined", "pong"]
    assert answers[0]["resumed"] is True
    numbers = [a["seq"] for a in answers[1:-2]]
    assert numbers == sorted(numbers)
    for number, text in zip(numbers, texts):
        assert (await again.expect("message", room="lobby"))["seq"] == number, "the sender gets it too"
    assert [(m["seq"], m["text"]) for m in await again.history("lobby")] == list(zip(numbers, texts))


async def test_last_seen_in_redis_and_mongodb(redis, mongo, fleet, people):
    one, two = fleet(servers=2, workers=1, redis=redis, mongo=mongo)
    ana = await people.connect("ana", server=one)

    def seen():
        (key,) = redis.client().keys("chatd:*user:ana")
        return int(redis.client().hget(key, "seen"))

    before = await eventually(seen, "Redis has when she was seen")
    user = await eventually(lambda: mongo.db.users.find_one({"_id": "ana"}), "MongoDB has it")
    assert user["first"] <= user["last"]
    await ana.close()
    await eventually(lambda: seen() > before, "when she left")
    await (await people.connect("ana", server=two)).close()
    later = await eventually(
        lambda: mongo.db.users.find_one({"_id": "ana", "last": {"$gt": user["last"]}}), "when she was here last"
    )
    assert later["first"] == user["first"]


# -- Metrics -------------------------------------------------------------------------------------------------


async def test_metrics_tell_who_is_slow(redis, mongo, fleet, people):
    one, two = fleet(servers=2, workers=1, redis=redis, mongo=mongo, allow=AWAY)
    ana, bob = await two_in_the_lobby(people, one, two)
    await hears(ana, bob, "lobby")
    for server in (one, two):
        await eventually(lambda: server.metrics()["cluster_connections"] == 2, "both are counted by both")
    waiting = []

    async def wait_for_acks():
        answers = [await asyncio.wait_for(future, DEADLINE) for future in waiting]
        assert {answer["type"] for answer in answers} == {"ack"}
        waiting.clear()

    with frozen(redis):
        waiting += [await ana.start("message", room="lobby", text="x", key=f"r{n}") for n in range(50)]
        await eventually(lambda: one.metrics()["bus_queue"] >= 50, "they wait for Redis")
        await eventually(lambda: one.metrics()["bus_latency_seconds"] > 1, "the first one for a second", 10)
        assert one.metrics()["bus_queue_bytes"] > 50 * 100
    await wait_for_acks()
    await eventually(lambda: one.metrics()["bus_queue"] < 10, "nothing waits")
    with frozen(mongo):
        waiting += [await ana.start("message", room="lobby", text="x", key=f"m{n}") for n in range(50)]
        await bob.expect("message", key="m49")
        await eventually(lambda: one.metrics()["store_queue"] >= 50, "they wait for MongoDB")
        assert one.metrics()["store_queue_bytes"] > 50 * 100 and one.metrics()["ack_queue"] >= 50
        assert one.metrics()["loop_turn_max_seconds"] < 1, "the loop doesn't wait with them"
    await wait_for_acks()
    await eventually(lambda: one.metrics()["store_queue"] == one.metrics()["ack_queue"] == 0, "nothing waits")
    assert len(stored(mongo, "lobby")) == 101
    await bob.close()
    await eventually(lambda: one.metrics()["cluster_connections"] == 1, "one less")
