"""The servers that other tests stand on do what those tests take for granted."""

import socket
import time

import pymongo
import pytest
import redis as redis_client
from bson import Binary

from support.chatd import until
from support.redis_groups import role
from support.servers import ForeignMongo, Proxy, Redis

DOWN = (redis_client.ConnectionError, redis_client.TimeoutError)


def test_redis_comes_back_on_its_port_empty_or_with_its_data(spawn):
    server = spawn(Redis, save=True)
    port, client = server.port, server.client()
    client.set("k", "v")
    server.kill()
    with pytest.raises(DOWN):
        client.get("k")
    server.start()
    assert (server.port, client.get("k")) == (port, "v")
    server.restart(empty=True)
    assert client.get("k") is None


def test_frozen_redis_keeps_its_connections_and_says_nothing(redis):
    client = redis.client(socket_timeout=0.2)
    assert client.ping()
    redis.freeze()
    with pytest.raises(redis_client.TimeoutError):
        client.ping()
    redis.thaw()
    assert client.ping()


LOGINS = {"password": {"password": "secret"}, "user": {"user": "chat", "password": "secret"}}


@pytest.mark.parametrize("login", LOGINS.values(), ids=LOGINS.keys())
def test_redis_asks_for_its_password(spawn, login):
    server = spawn(Redis, **login)
    assert server.client().ping()
    assert server.cli("PING") == "PONG"
    assert server.env["REDIS_PASSWORD"] == "secret" and server.env.get("REDIS_USER") == login.get("user")
    server.password = server.user = None
    with pytest.raises(redis_client.AuthenticationError):
        server.client().ping()


def test_redis_listens_on_a_unix_socket(spawn):
    server = spawn(Redis, unix=True)
    assert redis_client.Redis.from_url(server.url).ping()


def test_port_of_a_stopped_server_is_refused_and_not_given_away(redis):
    redis.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", redis.port))
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", redis.port))


def test_sentinel_makes_a_replica_the_master_when_that_is_killed(sentinel):
    master = sentinel.masters()[0]
    with master.client() as client:
        client.set("k", "v")
        assert client.wait(2, 5000) == 2
    old = sentinel.kill_master()
    assert old is master
    new = sentinel.wait_failover(old)
    assert new is not old and new.client().get("k") == "v"
    sentinel.heal()
    assert role(old) == ("slave", "up")


def test_sentinel_changes_master_when_asked(sentinel):
    old = sentinel.failover()
    assert sentinel.wait_failover(old) is not old


def cluster_client(cluster):
    port = cluster.alive[0].port
    return redis_client.RedisCluster("127.0.0.1", port, decode_responses=True, socket_timeout=5)


def test_cluster_serves_every_slot(cluster):
    client = cluster_client(cluster)
    for i in range(300):
        client.set(f"k{i}", i)
    assert [client.get(f"k{i}") for i in range(300)] == [str(i) for i in range(300)]
    assert {cluster.master_of(slot) for slot in (0, 8000, 16383)} == set(cluster.masters())


def test_cluster_makes_a_replica_the_master_when_that_is_killed(cluster):
    slot = cluster.slot_of("{room}k")
    with cluster.master_of(slot).client() as client:
        client.set("{room}k", "v")
        assert client.wait(1, 5000) == 1
    old = cluster.kill_master(slot)
    new = cluster.wait_failover(old, slot)
    assert new.client().get("{room}k") == "v"
    cluster.heal()
    assert cluster.master_of(slot) is new and cluster.replica_of(new) is old


def test_cluster_moves_a_slot_with_its_keys(cluster):
    client = cluster_client(cluster)
    slot = cluster.slot_of("{room}0")
    for i in range(250):
        client.set(f"{{room}}{i}", i)
    source = cluster.master_of(slot)
    to = next(node for node in cluster.masters() if node is not source)
    assert cluster.start_move(slot, to) is source
    assert cluster.move_keys(slot, source, to, count=100) == 100
    with pytest.raises(redis_client.exceptions.AskError):
        source.client().get("{room}new")
    assert [client.get(f"{{room}}{i}") for i in range(250)] == [str(i) for i in range(250)]
    assert cluster.move_keys(slot, source, to) == 150
    cluster.finish_move(slot, source, to)
    assert cluster.master_of(slot) is to
    with pytest.raises(redis_client.exceptions.MovedError):
        source.client().get("{room}0")
    assert cluster.move_slot(slot, source) == 250
    assert [client.get(f"{{room}}{i}") for i in range(250)] == [str(i) for i in range(250)]


def test_any_redis_is_empty_and_whole(any_redis):
    assert all(node.client().dbsize() == 0 for node in any_redis.masters())


def test_mongo_refuses_what_a_unique_index_has(mongo):
    messages = mongo.db.messages
    messages.create_index([("room", 1), ("seq", 1)], unique=True)
    messages.create_index([("room", 1), ("user", 1), ("key", 1)], unique=True)
    messages.insert_one({"room": "r", "seq": 1, "user": "u", "key": Binary(b"k")})
    with pytest.raises(pymongo.errors.BulkWriteError) as refused:
        messages.insert_many(
            [
                {"room": "r", "seq": 1, "user": "u", "key": "a"},
                {"room": "r", "seq": 2, "user": "u", "key": Binary(b"k")},
                {"room": "r", "seq": 3, "user": "u", "key": "c"},
            ],
            ordered=False,
        )
    errors = refused.value.details["writeErrors"]
    assert [(error["index"], error["code"]) for error in errors] == [(0, 11000), (1, 11000)]
    assert sorted(row["seq"] for row in messages.find()) == [1, 3]


def test_mongo_has_after_a_kill_what_it_said_it_stored(mongo):
    mongo.db.messages.insert_many([{"seq": i} for i in range(500)])
    mongo.kill()
    mongo.start()
    assert mongo.db.messages.count_documents({}) == 500


def test_frozen_mongo_answers_when_it_is_thawed(mongo):
    mongo.db.messages.insert_one({"seq": 1})
    mongo.freeze()
    timeouts = {f"{kind}TimeoutMS": 300 for kind in ("serverSelection", "socket", "connect")}
    with pymongo.MongoClient(mongo.uri, **timeouts) as impatient:
        with pytest.raises(pymongo.errors.ServerSelectionTimeoutError):
            impatient.admin.command("ping")
    mongo.thaw()
    assert mongo.db.messages.count_documents({}) == 1


def test_each_test_has_a_mongo_database_of_its_own(mongo):
    assert mongo.db.list_collection_names() == []
    assert mongo.uri.endswith("/" + mongo.name)


def test_database_of_a_given_mongo_keeps_the_users_database():
    given = ForeignMongo("mongodb://u:p@a:1,b:2/main?replicaSet=rs")
    assert given.uri("mine") == "mongodb://u:p@a:1,b:2/mine?authSource=main&replicaSet=rs"
    assert ForeignMongo("mongodb://a:1").uri("mine") == "mongodb://a:1/mine"


def test_proxy_stalls_and_goes_on_without_losing_a_byte(redis, spawn):
    proxy = spawn(Proxy, redis)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2) as peer:
        peer.sendall(b"PING\r\n")
        assert peer.recv(100) == b"+PONG\r\n"
        proxy.stall()
        peer.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            peer.recv(100)
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as late:
            late.sendall(b"PING\r\n")
            proxy.resume()
            peer.settimeout(5)
            assert peer.recv(100) == b"+PONG\r\n"
            assert late.recv(100) == b"+PONG\r\n"
    until(lambda: proxy.connections == 0, "the proxy noticed that its clients went")


def test_proxy_cuts_with_a_reset(redis, spawn):
    proxy = spawn(Proxy, redis)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as peer:
        peer.sendall(b"PING\r\n")
        assert peer.recv(100) == b"+PONG\r\n"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            peer.recv(100)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as peer:
        peer.sendall(b"PING\r\n")
        assert peer.recv(100) == b"+PONG\r\n"


def test_proxy_delays_answers(mongo, spawn):
    if isinstance(mongo.server, ForeignMongo):
        pytest.skip("needs a MongoDB of its own: MONGODB_URI is set")
    proxy = spawn(Proxy, mongo)
    with pymongo.MongoClient(mongo.uri_through(proxy)) as client:
        client.admin.command("ping")
        proxy.delay(0.3)
        started = time.monotonic()
        client.admin.command("ping")
        assert time.monotonic() - started >= 0.3
