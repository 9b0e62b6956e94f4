/* test_redis_presence.c - users of all workers are counted, listed and told exactly, whatever becomes of
 * Redis. */
#include "redis_workers.h"

#include "bus/redis_args.h"

/* --- Coming and going --- */

static void test_users_of_all_workers_are_counted_and_listed(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];
    const struct answer *answer;

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    assert_true(enter(a, "lobby", "ann"));
    assert_true(enter(b, "lobby", "bob"));
    assert_true(enter(b, "lobby", "cid"));
    assert_int_equal(bus_count(b->bus, text("lobby")), 3);
    until(all, bus_count(a->bus, text("lobby")) == 3); /* told by the events */
    answer = members(a, "lobby", 10);
    assert_int_equal(answer->members, 3);
    assert_int_equal(answer->listed, 3);
    assert_true(lists(answer, "ann") && lists(answer, "bob") && lists(answer, "cid"));
    answer = members(a, "lobby", 2);
    assert_int_equal(answer->members, 3);
    assert_int_equal(answer->listed, 2);
    assert_int_equal(members(a, "nowhere", 10)->members, 0);
}

static void test_a_user_on_two_workers_counts_once_and_the_last_leave_tells(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    assert_true(enter(b, "lobby", "bob"));
    assert_true(enter(a, "lobby", "ann"));
    assert_false(enter(b, "lobby", "ann"));
    assert_int_equal(count_of(a, "lobby"), 2);
    bus_leave(a->bus, text("lobby"), text("ann"));
    assert_int_equal(count_of(a, "lobby"), 2); /* behind the leave */
    assert_int_equal(gone_in_all(all), 0);
    bus_leave(b->bus, text("lobby"), text("ann"));
    until(all, gone_in_all(all) > 0);
    assert_int_equal(gone_times(all, "lobby", "ann"), 1);
    assert_int_equal(b->gone[0].members, 1);
    until(all, bus_count(a->bus, text("lobby")) == 1);
    assert_int_equal(count_of(b, "lobby"), 1);
}

static void test_only_the_first_connection_and_the_last_concern_redis(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0];
    static struct answer answer;

    subscribe(a, "lobby");
    assert_true(enter(a, "lobby", "ann"));
    for (int i = 0; i < 5; i++) {
        start_enter(a, "lobby", "ann", &answer);
        assert_int_equal(answer.calls, 1); /* at once */
        assert_int_equal(answer.status, BUS_OK);
        assert_int_equal(answer.members, 1);
        assert_false(answer.changed);
    }
    for (int i = 0; i < 5; i++)
        bus_leave(a->bus, text("lobby"), text("ann"));
    assert_int_equal(count_of(a, "lobby"), 1);
    assert_int_equal(gone_in_all(all), 0);
    bus_leave(a->bus, text("lobby"), text("ann"));
    bus_leave(a->bus, text("lobby"), text("ann")); /* one too many */
    until(all, gone_in_all(all) > 0);
    assert_int_equal(count_of(a, "lobby"), 0);
    assert_int_equal(gone_times(all, "lobby", "ann"), 1);
}

static void test_enters_while_the_first_is_under_way_are_answered_once_each(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0];
    static struct answer answers[3];

    subscribe(a, "lobby");
    for (int i = 0; i < 3; i++)
        start_enter(a, "lobby", "ann", &answers[i]);
    bus_leave(a->bus, text("lobby"), text("ann"));
    until(all, answers[0].calls + answers[1].calls + answers[2].calls == 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(answers[i].calls, 1);
        assert_int_equal(answers[i].status, BUS_OK);
        assert_int_equal(answers[i].changed, i == 0);
        assert_int_equal(answers[i].members, 1);
    }
    bus_leave(a->bus, text("lobby"), text("ann"));
    assert_int_equal(count_of(a, "lobby"), 1);
    bus_leave(a->bus, text("lobby"), text("ann"));
    assert_int_equal(count_of(a, "lobby"), 0);
}

static void test_a_leave_before_the_enter_is_answered_comes_behind_it(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0];
    static struct answer first, second;

    subscribe(a, "lobby");
    start_enter(a, "lobby", "ann", &first);
    bus_leave(a->bus, text("lobby"), text("ann"));
    start_enter(a, "lobby", "ann", &second);
    until(all, first.calls + second.calls == 2);
    assert_true(first.changed && second.changed); /* came, went, came */
    assert_int_equal(gone_times(all, "lobby", "ann"), 1);
    assert_int_equal(count_of(a, "lobby"), 1);
    bus_leave(a->bus, text("lobby"), text("ann"));
    until(all, gone_times(all, "lobby", "ann") == 2);
}

static void test_a_room_that_is_not_subscribed_is_refused(void **state)
{
    struct workers *all = *state;
    static struct answer answer;

    start_enter(&all->w[0], "nowhere", "ann", &answer);
    assert_int_equal(answer.calls, 1);
    assert_int_equal(answer.status, BUS_NOT_OPEN);
    bus_leave(all->w[0].bus, text("nowhere"), text("ann"));
    assert_int_equal(bus_count(all->w[0].bus, text("nowhere")), 0);
}

/* The last one here leaves, and the room is no longer subscribed when that is answered: those elsewhere
 * hear the right count all the same. */
static void test_who_leaves_with_the_subscription_is_told_elsewhere(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    enter(a, "lobby", "ann");
    enter(b, "lobby", "bob");
    until(all, bus_count(a->bus, text("lobby")) == 2);
    bus_leave(b->bus, text("lobby"), text("bob"));
    bus_unsubscribe(b->bus, text("lobby"));
    until(all, bus_count(a->bus, text("lobby")) == 1);
    assert_int_equal(gone_times(all, "lobby", "bob"), 1);
}

static void test_an_empty_room_leaves_nothing_and_its_version_rises_all_the_same(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0];
    struct redis_room *room;
    uint64_t before;

    subscribe(a, "lobby");
    room = redis_bus_room(redis_of(a), text("lobby"));
    for (int i = 0; i < 3; i++) {
        before = room->version;
        enter(a, "lobby", "ann");
        assert_true(room->version > before);
        before = room->version;
        bus_leave(a->bus, text("lobby"), text("ann"));
        until(all, gone_in_all(all) == (unsigned)i + 1);
        assert_int_equal(room->members, 0);
        assert_true(room->version > before);
        assert_int_equal(redis_host_number(all->redis, "EXISTS chatd:{0}:members:lobby chatd:{0}:active "
                                                       "chatd:{0}:owners"), 0);
    }
}

#define KEYS_OF_X "chatd:{0}:members:x chatd:{0}:active chatd:{0}:of:elsewhr0 chatd:{0}:owners"

/* As after a lost connection: the second answer is the one that is heard. */
static void test_a_call_that_is_carried_out_twice_answers_the_same(void **state)
{
    struct workers *all = *state;

    subscribe(&all->w[0], "lobby"); /* the scripts are loaded */
    for (int i = 0; i < 4; i++) {
        redisReply *reply =
            i < 2 ? redis_host_command(all->redis, "EVALSHA %s 4 " KEYS_OF_X " elsewhr0 x ann",
                                       redis_scripts()[SCRIPT_ENTER].sha)
                  : redis_host_command(all->redis, "EVALSHA %s 4 " KEYS_OF_X " elsewhr0 x ann 1",
                                       redis_scripts()[SCRIPT_LEAVE].sha);

        assert_int_equal(redis_reply_number(reply, 0), i < 2); /* users */
        assert_int_equal(redis_reply_number(reply, 2), 1);     /* came, or gone */
        freeReplyObject(reply);
    }
    assert_int_equal(redis_host_number(all->redis, "EXISTS " KEYS_OF_X), 0);
}

static void test_an_enter_that_is_under_way_when_the_worker_ends_is_taken_back(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0];
    static struct answer answer;

    subscribe(a, "lobby");
    start_enter(a, "lobby", "ann", &answer);
    stop_worker(a);
    assert_int_equal(answer.calls, 1);
    assert_int_equal(answer.status, BUS_FAILED);
    assert_int_equal(redis_host_number(all->redis, "EXISTS chatd:{0}:members:lobby chatd:{0}:owners"), 0);
}

static void low_limit(struct config *config)
{
    config->presence_limit = 2;
}

static int set_up_low_limit(void **state)
{
    *state = workers_new(2, low_limit);
    return 0;
}

static void test_the_count_of_a_large_room_is_asked_for(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];
    char user[16];
    unsigned events;

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    enter(a, "lobby", "ann");
    enter(b, "lobby", "bob");
    until(all, bus_count(a->bus, text("lobby")) == 2);
    events = a->events;
    for (int i = 0; i < 20; i++) {
        snprintf(user, sizeof(user), "user%d", i);
        enter(b, "lobby", user);
    }
    until(all, bus_count(a->bus, text("lobby")) == 22);
    assert_int_equal(a->events, events);
    for (int i = 0; i < 20; i++) {
        snprintf(user, sizeof(user), "user%d", i);
        bus_leave(b->bus, text("lobby"), text(user));
    }
    until(all, bus_count(a->bus, text("lobby")) == 2);
}

/* --- Lists --- */

static void test_a_thousand_names_of_a_room_that_lost_most_of_its_users(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0];
    const struct answer *answer;

    /* As if they were of another worker: a hash that keeps its size for a while. */
    redis_host_do(all->redis, "EVAL %s 0",
                  "for i = 1, 20000 do redis.call('HSET', 'chatd:{0}:members:big', 'u' .. i, 'elsewhr0') end "
                  "redis.call('HSET', 'chatd:{0}:members:big', '', '5') "
                  "for i = 1, 19500 do redis.call('HDEL', 'chatd:{0}:members:big', 'u' .. i) end");
    answer = members(a, "big", 1000);
    assert_int_equal(answer->members, 500);
    assert_int_equal(answer->listed, 500);
    answer = members(a, "big", 100);
    assert_int_equal(answer->members, 500);
    assert_int_equal(answer->listed, 100);
    assert_false(lists(answer, ""));
}

static void test_rooms_come_by_members_and_at_most_so_many(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];
    static struct answer answer, again;
    uint64_t seq = subscribe(a, "two");

    subscribe(a, "one");
    subscribe(b, "three");
    subscribe(b, "two");
    enter(a, "one", "ann");
    enter(a, "two", "ann");
    enter(b, "two", "bob");
    enter(b, "three", "bob");
    enter(b, "three", "cid");
    enter(b, "three", "dan");
    bus_rooms(a->bus, 2, on_rooms, &answer);
    bus_rooms(a->bus, 2, on_rooms, &again); /* waits for the same */
    until(all, answer.calls == 1 && again.calls == 1);
    assert_int_equal(answer.listed, 2);
    assert_int_equal(again.listed, 2);
    assert_int_equal(answer.members, 3);
    assert_string_equal(answer.names[0], "three");
    assert_string_equal(answer.names[1], "two");
    bus_rooms(a->bus, 1, on_rooms, &answer); /* kept for a second */
    assert_int_equal(answer.calls, 2);
    assert_int_equal(answer.listed, 1);
    bus_rooms(a->bus, 100, on_rooms, &answer); /* more than is kept */
    until(all, answer.calls == 3);
    assert_int_equal(answer.listed, 3);
    assert_string_equal(answer.names[2], "one");
    bus_leave(b->bus, text("three"), text("bob"));
    bus_leave(b->bus, text("three"), text("cid"));
    until(all, gone_in_all(all) == 2);
    run_for(all, 1000);
    bus_rooms(a->bus, 100, on_rooms, &answer);
    until(all, answer.calls == 4);
    assert_string_equal(answer.names[0], "two");
    assert_int_equal(answer.seq, seq);
}

static void test_rooms_of_all_shards_are_one_list(void **state)
{
    struct redis_host *second = redis_host_new(NULL, true);
    struct workers *all = workers_new(0, NULL);
    static struct answer answer;
    char room[16];

    (void)state;
    snprintf(all->config.redis, sizeof(all->config.redis), "redis://127.0.0.1:%d,redis://127.0.0.1:%d",
             all->redis->port, second->port);
    start_worker(all, 0);
    until(all, redis_bus_usable(redis_of(&all->w[0]), 0) && redis_bus_usable(redis_of(&all->w[0]), 1));
    for (int i = 0; i < 12; i++) {
        snprintf(room, sizeof(room), "room%d", i);
        subscribe(&all->w[0], room);
        enter(&all->w[0], room, "ann");
    }
    enter(&all->w[0], "room7", "bob");
    assert_true(redis_host_number(all->redis, "ZCARD chatd:{0}:active") > 0);
    assert_true(redis_host_number(second, "ZCARD chatd:{1}:active") > 0);
    answer = (struct answer){0};
    bus_rooms(all->w[0].bus, 100, on_rooms, &answer);
    until(all, answer.calls == 1);
    assert_int_equal(answer.listed, 12);
    assert_string_equal(answer.names[0], "room7");
    workers_free(all);
    redis_host_free(second);
}

/* --- When Redis isn't well --- */

static void enter_crowd(struct worker *w, const char *room, int count)
{
    static struct answer answers[1500];
    static char users[1500][16];

    for (int i = 0; i < count; i++) {
        snprintf(users[i], sizeof(users[i]), "crowd%d", i);
        start_enter(w, room, users[i], &answers[i]);
    }
    until(w->all, answers[count - 1].calls == 1); /* in order */
    for (int i = 0; i < count; i++)
        assert_int_equal(answers[i].calls == 1 && answers[i].status == BUS_OK, 1);
}

/* Which ids are on the room's users, besides `version`. */
static long long ids_in(struct workers *all, const char *room)
{
    return redis_host_number(all->redis, "EVAL %s 1 chatd:{0}:members:%s",
                             "local seen, count = {}, 0 "
                             "for _, ids in ipairs(redis.call('HVALS', KEYS[1])) do "
                             "    if string.match(ids, '%a') and not seen[ids] then "
                             "        seen[ids] = 1; count = count + 1 end end return count",
                             room);
}

static void test_redis_started_empty_has_everybody_again(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];

    subscribe(a, "lobby");
    subscribe(a, "side");
    subscribe(b, "lobby");
    enter_crowd(a, "lobby", 1000);
    enter(a, "side", "ann");
    enter(b, "lobby", "bob");
    redis_host_restart(all->redis, false);
    until(all, count_of(a, "lobby") == 1001);
    until(all, count_of(b, "side") == 1);
    until(all, bus_count(a->bus, text("lobby")) == 1001 && bus_count(b->bus, text("lobby")) == 1001);
    assert_int_equal(gone_in_all(all), 0);
    bus_leave(a->bus, text("side"), text("ann"));
    until(all, gone_times(all, "side", "ann") == 1);
    assert_int_equal(count_of(a, "side"), 0);
}

static void test_redis_emptied_under_way_has_everybody_again(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    enter(a, "lobby", "ann");
    enter(b, "lobby", "bob");
    run_for(all, 1500); /* both have beaten */
    redis_host_do(all->redis, "FLUSHALL");
    assert_int_equal(count_of(a, "lobby"), 0);
    until(all, count_of(a, "lobby") == 2);
    assert_int_equal(gone_in_all(all), 0);
}

/* Who beats, and knows of that, is noted in the first shard alone. */
static void test_another_shard_that_is_emptied_has_everybody_again(void **state)
{
    struct redis_host *second = redis_host_new(NULL, true);
    struct workers *all = workers_new(0, NULL);
    struct worker *a = &all->w[0];
    struct answer answer = {0};
    char room[16] = "room0";

    (void)state;
    snprintf(all->config.redis, sizeof(all->config.redis), "redis://127.0.0.1:%d,redis://127.0.0.1:%d",
             all->redis->port, second->port);
    start_worker(all, 0);
    until(all, redis_bus_usable(redis_of(a), 0) && redis_bus_usable(redis_of(a), 1));
    while (redis_bus_partition(redis_of(a), text(room)) != 1)
        room[4]++;
    subscribe(a, room);
    enter(a, room, "ann");
    enter(a, room, "bob");
    redis_host_do(second, "FLUSHALL");
    assert_int_equal(count_of(a, room), 0);
    bus_open(a->bus, text(room), 0, on_status, &answer); /* as the next message does */
    until(all, answer.calls == 1);
    assert_int_equal(answer.status, BUS_OK);
    until(all, count_of(a, room) == 2);
    assert_int_equal(gone_in_all(all), 0);
    workers_free(all);
    redis_host_free(second);
}

/* What only Redis has of this worker, for example after a leave that it never saw, goes; nobody else does,
 * not even for a moment. */
static void test_entering_again_tells_only_who_is_gone(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];
    int64_t end = clock_monotonic_ms() + REDIS_HOST_DEADLINE_MS;
    uint32_t seen;

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    enter_crowd(a, "lobby", 700);
    enter(b, "lobby", "bob");
    enter(b, "lobby", "crowd5");
    redis_host_do(all->redis, "EVAL %s 1 chatd:{0}:members:lobby",
                  "return redis.call('HSET', KEYS[1], 'ghost', redis.call('HGET', KEYS[1], 'crowd6'))");
    redis_presence_again(redis_of(a), 0);
    do {
        seen = count_of(b, "lobby");
        assert_true(seen == 702 || seen == 701);
        assert_true(clock_monotonic_ms() < end);
    } while (seen != 701);
    until(all, gone_times(all, "lobby", "ghost") == 1);
    assert_int_equal(gone_in_all(all), 1);
    until(all, redis_host_number(all->redis, "SCARD chatd:{0}:owners") == 2);
    assert_int_equal(ids_in(all, "lobby"), 3); /* a's new one, b's, and both of crowd5 */
    bus_leave(a->bus, text("lobby"), text("crowd5"));
    assert_int_equal(count_of(a, "lobby"), 701);
    assert_int_equal(gone_in_all(all), 1);
}

static void small_queue(struct config *config)
{
    config->bus_queue_bytes = 65536;
}

static int set_up_small_queue(void **state)
{
    *state = workers_new(2, small_queue);
    return 0;
}

static void test_more_users_than_the_queue_holds_are_entered_again_bit_by_bit(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0];
    char user[MESSAGE_USER_MAX], room[16];
    static struct answer answer;

    for (int i = 0; i < 40; i++) {
        snprintf(room, sizeof(room), "room%d", i);
        subscribe(a, room);
        for (int u = 0; u < 40; u++) {
            snprintf(user, sizeof(user), "%s-%02d",
                     "user-with-a-name-that-fills-the-queue-some-more-than-others", u);
            start_enter(a, room, user, &answer);
            until(all, answer.calls == 1);
            assert_int_equal(answer.status, BUS_OK);
        }
    }
    redis_host_do(all->redis, "FLUSHALL");
    for (int i = 0; i < 40; i++) {
        snprintf(room, sizeof(room), "room%d", i);
        until(all, count_of(a, room) == 40);
    }
    assert_int_equal(gone_in_all(all), 0);
}

static void test_an_enter_that_redis_never_answered_leaves_no_ghost(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0];
    static struct answer answers[2];

    subscribe(a, "lobby");
    redis_host_freeze(all->redis);
    start_enter(a, "lobby", "ann", &answers[0]);
    start_enter(a, "lobby", "ann", &answers[1]);
    until(all, answers[0].calls == 1 && answers[1].calls == 1);
    assert_int_equal(answers[0].status, BUS_FAILED);
    assert_int_equal(answers[1].status, BUS_FAILED);
    assert_int_equal(members(a, "lobby", 5)->members, 0); /* nor is anything known */
    redis_host_thaw(all->redis);
    assert_true(enter(a, "lobby", "bob"));
    until(all, count_of(a, "lobby") == 1);
    assert_true(lists(members(a, "lobby", 5), "bob"));
    assert_int_equal(gone_in_all(all), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_users_of_all_workers_are_counted_and_listed),
        TEST(test_a_user_on_two_workers_counts_once_and_the_last_leave_tells),
        TEST(test_only_the_first_connection_and_the_last_concern_redis),
        TEST(test_enters_while_the_first_is_under_way_are_answered_once_each),
        TEST(test_a_leave_before_the_enter_is_answered_comes_behind_it),
        TEST(test_a_room_that_is_not_subscribed_is_refused),
        TEST(test_who_leaves_with_the_subscription_is_told_elsewhere),
        TEST(test_an_empty_room_leaves_nothing_and_its_version_rises_all_the_same),
        TEST(test_a_call_that_is_carried_out_twice_answers_the_same),
        TEST(test_an_enter_that_is_under_way_when_the_worker_ends_is_taken_back),
        cmocka_unit_test_setup_teardown(test_the_count_of_a_large_room_is_asked_for, set_up_low_limit,
                                        tear_down),
        TEST(test_a_thousand_names_of_a_room_that_lost_most_of_its_users),
        TEST(test_rooms_come_by_members_and_at_most_so_many),
        cmocka_unit_test(test_rooms_of_all_shards_are_one_list),
        TEST(test_redis_started_empty_has_everybody_again),
        TEST(test_redis_emptied_under_way_has_everybody_again),
        cmocka_unit_test(test_another_shard_that_is_emptied_has_everybody_again),
        TEST(test_entering_again_tells_only_who_is_gone),
        cmocka_unit_test_setup_teardown(test_more_users_than_the_queue_holds_are_entered_again_bit_by_bit,
                                        set_up_small_queue, tear_down),
        TEST(test_an_enter_that_redis_never_answered_leaves_no_ghost),
    };

    return redis_host_run_all(tests);
}
