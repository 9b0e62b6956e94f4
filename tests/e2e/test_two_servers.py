"""The page on two servers: people whose pages came from different hosts are in one chat."""

from support.chatd import until


def test_two_servers_are_one_chat_also_after_redis_lost_everything(fleet, redis, mongo, window):
    one, two = fleet(servers=2, workers=1, redis=redis, mongo=mongo, allow=("redis_",))
    ana = window().sign_in(one.url, "ana")
    bob = window().sign_in(two.url, "bob")
    for page in (ana, bob):
        until(lambda: "2" in page.text("members-title"), "they see each other")
    ana.say("hello from here")
    bob.wait_for("hello from here")
    redis.restart(empty=True)
    bob.say("and from there")
    for page in (ana, bob):
        page.wait_for("hello from here", "and from there")
    ana.say("still here")
    bob.wait_for("hello from here", "and from there", "still here")
    until(lambda: ana.pending() == bob.pending() == 0, "everything has its ack")
