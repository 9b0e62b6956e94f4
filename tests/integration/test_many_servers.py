"""Two servers on one Redis and one MongoDB are one chat: everything of src/PROTOCOL.md holds across them, also while Redis
is stopped, emptied or fails over.
"""

import asyncio

import pytest

from support.client import eventually
from support.crowd import Crowd

# What chatd may log as an error while a test takes Redis or MongoDB away.
AWAY = ("redis_", "mongodb_", "store_")


@pytest.mark.timeout(300)
async def test_every_member_gets_every_message_once_in_order_under_the_same_number(fleet, people, redis, mongo):
    servers = fleet(servers=2, workers=2, redis=redis, mongo=mongo)
    crowd = Crowd(servers, people)
    await crowd.enter()
    for server in servers:
        mine = [c.address for c in crowd.clients if c.server is server]
        assert len(set(server.workers_of(mine))) == 2, "clients on every worker"
    await crowd.run()
    await crowd.check(mongo.db)
    assert sum(server.metrics()["messages_total"] for server in servers) == crowd.messages
    each = crowd.count // crowd.rooms
    assert sum(server.metrics()["deliveries_total"] for server in servers) == crowd.messages * each
    crowd.check_connections()


async def survive(crowd, mongo, harm):
    """The crowd sends while `harm` is done; nothing acknowledged is lost or doubled and nobody is disconnected."""
    await crowd.enter()
    running = asyncio.create_task(crowd.run())
    await crowd.sent(0.2)
    await harm()
    await asyncio.wait_for(running, 180)
    await crowd.check(mongo.db, failover=True)
    crowd.check_connections()


SMALLER = {"clients": 64, "rooms": 16, "messages": 3200, "at_once": 2}


@pytest.mark.timeout(300)
async def test_redis_stopped_for_five_seconds_and_started_empty(fleet, people, redis, mongo):
    servers = fleet(servers=2, workers=2, redis=redis, mongo=mongo, allow=AWAY)

    async def harm():
        redis.kill()
        await asyncio.sleep(5)  # the length of the outage is what is tested
        await asyncio.to_thread(redis.start, empty=True)

    await survive(Crowd(servers, people, **SMALLER), mongo, harm)


@pytest.mark.timeout(300)
async def test_the_sentinel_master_is_killed(fleet, people, sentinel, mongo):
    servers = fleet(servers=2, workers=2, redis=sentinel, mongo=mongo, allow=AWAY)

    async def harm():
        old = await asyncio.to_thread(sentinel.kill_master)
        await asyncio.to_thread(sentinel.wait_failover, old)

    await survive(Crowd(servers, people, **SMALLER), mongo, harm)


@pytest.mark.timeout(300)
async def test_a_cluster_master_is_killed(fleet, people, cluster, mongo):
    servers = fleet(servers=2, workers=2, redis=cluster, mongo=mongo, allow=AWAY)

    async def harm():
        slot = cluster.slot_of(partition_of("room0"))
        old = await asyncio.to_thread(cluster.kill_master, slot)
        await asyncio.to_thread(cluster.wait_failover, old, slot)

    await survive(Crowd(servers, people, **SMALLER), mongo, harm)


@pytest.mark.timeout(300)
async def test_slots_move_while_everybody_sends(fleet, people, cluster, mongo):
    servers = fleet(servers=2, workers=2, redis=cluster, mongo=mongo, allow=AWAY)
    crowd = Crowd(servers, people, **SMALLER)

    async def harm():
        for slot in sorted({cluster.slot_of(partition_of(f"room{n}")) for n in range(6)}):
            owner = cluster.master_of(slot)
            to = next(master for master in cluster.masters() if master is not owner)
            await asyncio.to_thread(cluster.move_slot, slot, to)

    await survive(crowd, mongo, harm)


def partition_of(room):
    """The hash tag of a room in a cluster: CRC-16 of its name, modulo 256 partitions."""
    crc = 0
    for byte in room.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return str(crc % 256)


async def test_a_session_resumes_user_and_rooms_on_the_other_server(fleet, people, redis, mongo):
    one, two = fleet(servers=2, workers=2, redis=redis, mongo=mongo)
    ana = await people.connect("ana", server=one)
    await ana.join("general")
    await ana.join("kitchen")
    await ana.join("attic")
    await ana.command("leave", room="attic")
    ana.abort()
    again = people.new(None, server=two)
    await again.connect(hello=False)
    again.welcome = await again.command("hello", session=ana.welcome["session"])
    assert again.welcome["user"] == "ana" and again.welcome["resumed"] is True
    assert sorted(again.welcome["rooms"]) == ["general", "kitchen"]
    ack = await again.say("kitchen", "no join was needed")
    event = await again.expect("message", room="kitchen")
    assert event["seq"] == ack["seq"]


async def test_members_and_presence_across_servers(fleet, people, redis, mongo):
    one, two = fleet(servers=2, workers=2, redis=redis, mongo=mongo)
    ana = await people.member("ana", "general", server=one)
    bob = await people.member("bob", "general", server=two)
    event = await ana.expect("presence", user="bob", event="join")
    assert event["members"] == 2
    second = await people.member("bob", "general", server=one)  # the same user once more: no news
    answer = await ana.members("general")
    assert answer["count"] == 2 and sorted(answer["users"]) == ["ana", "bob"]
    rooms = (await bob.command("rooms"))["rooms"]
    assert [r["members"] for r in rooms if r["room"] == "general"] == [2]
    await bob.close()
    assert (await second.members("general"))["count"] == 2
    await second.close()
    event = await ana.expect("presence", user="bob", event="leave")
    assert event["members"] == 1
    assert not ana.seen("presence", user="bob")


async def test_members_are_right_within_ten_seconds_after_a_server_vanished(fleet, people, redis, mongo):
    one, two = fleet(servers=2, workers=2, redis=redis, mongo=mongo)
    ana = await people.member("ana", "general", server=one)
    for name in ("bob", "eve"):
        await people.member(name, "general", server=two)
    assert (await ana.members("general"))["count"] == 3
    await eventually(lambda: one.metrics()["cluster_connections"] == 3, "connections of both servers are counted")
    two.kill_all()
    gone_at = asyncio.get_running_loop().time()
    await eventually(lambda: ana.seen("presence", user="bob", event="leave"), "bob is gone", 10)
    await eventually(lambda: ana.seen("presence", user="eve", event="leave"), "eve is gone", 10)
    assert (await ana.members("general"))["users"] == ["ana"]
    assert asyncio.get_running_loop().time() - gone_at < 10
    await eventually(lambda: one.metrics()["cluster_connections"] == 1, "and so are the connections")
