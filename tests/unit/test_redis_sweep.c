/* test_redis_sweep.c - workers that die: who is told so, what becomes of their messages, and who is not
 * taken for dead. Redis' clock can't be moved; where the seconds themselves aren't the point, what it
 * noted is. */
#include "redis_cluster_host.h"
#include "redis_workers.h"

/* Moves a worker's last beat, and since when it beats, so many seconds back. */
static void make_entry_older(struct workers *all, const char *id, int beat_s, int since_s)
{
    redis_host_do(all->redis, "EVAL %s 1 chatd:{0}:workers %s %d %d",
                  "local entry = redis.call('HGET', KEYS[1], ARGV[1]) "
                  "local beat, middle, since = string.match(entry, '^(%d+) (.*) (%d+)$') "
                  "beat, since = beat - ARGV[2] * 1000, since - ARGV[3] * 1000 "
                  "entry = string.format('%.0f %s %.0f', beat, middle, since) "
                  "return redis.call('HSET', KEYS[1], ARGV[1], entry)",
                  id, beat_s, since_s);
}

/* Each has beaten for long enough to judge the others. */
static void make_steady(struct workers *all)
{
    for (int i = 0; i < WORKERS_MAX; i++) {
        struct worker *w = &all->w[i];

        if (!w->bus)
            continue;
        until(all, redis_host_number(all->redis, "HEXISTS chatd:{0}:workers %s", redis_of(w)->id) == 1);
        make_entry_older(all, redis_of(w)->id, 0, 10);
    }
}

static void make_dead(struct worker *w)
{
    w->silent = true;
    make_entry_older(w->all, redis_of(w)->id, 6, 0);
}

/* --- Users --- */

static void test_a_dead_workers_users_are_gone_within_ten_seconds_and_told_once(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1], *c = &all->w[2];
    int64_t begin;

    for (int i = 0; i < 3; i++)
        subscribe(&all->w[i], "lobby");
    subscribe(c, "side");
    enter(a, "lobby", "ann");
    enter(b, "lobby", "bob");
    enter(c, "lobby", "cid");
    enter(c, "lobby", "bob");
    enter(c, "side", "dan");
    until(all, bus_count(a->bus, text("lobby")) == 3);
    make_steady(all);
    run_for(all, 2000);
    assert_int_equal(gone_in_all(all), 0);
    c->silent = true;
    begin = clock_monotonic_ms();
    until(all, gone_times(all, "lobby", "cid") == 1 && gone_times(all, "side", "dan") == 1);
    assert_in_range(clock_monotonic_ms() - begin, 3500, 10000);
    until(all, bus_count(a->bus, text("lobby")) == 2 && bus_count(b->bus, text("lobby")) == 2);
    run_for(all, 2500);
    assert_int_equal(gone_in_all(all), 2); /* bob is still at b's */
    assert_int_equal(redis_host_number(all->redis, "SCARD chatd:{0}:owners"), 2);
    assert_int_equal(redis_host_number(all->redis, "EXISTS chatd:{0}:members:side"), 0);
    assert_int_equal(redis_host_number(all->redis, "HLEN chatd:{0}:workers"), 2);
    c->silent = false;
}

static void test_a_worker_wrongly_taken_for_dead_comes_back(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    enter(a, "lobby", "ann");
    enter(b, "lobby", "bob");
    make_steady(all);
    make_dead(b);
    until(all, gone_times(all, "lobby", "bob") == 1);
    assert_int_equal(count_of(a, "lobby"), 1);
    b->silent = false;
    until(all, count_of(a, "lobby") == 2);
    run_for(all, 4000); /* and stays */
    assert_int_equal(count_of(a, "lobby"), 2);
    assert_int_equal(gone_in_all(all), 1);
    bus_leave(b->bus, text("lobby"), text("bob"));
    until(all, gone_times(all, "lobby", "bob") == 2);
    assert_int_equal(redis_host_number(all->redis, "SCARD chatd:{0}:owners"), 1);
}

static bool is_ok(struct worker *w)
{
    struct bus_health health;

    bus_health(w->bus, &health);
    return health.ok;
}

/* Not even who finds Redis again seconds after the others. */
static void test_redis_that_hangs_kills_nobody(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];
    int64_t end;

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    enter(a, "lobby", "ann");
    enter(b, "lobby", "bob");
    make_steady(all);
    b->silent = true; /* no beat of its own waits for Redis */
    run_for(all, 200);
    redis_host_freeze(all->redis);
    run_for(all, 6000);
    redis_host_thaw(all->redis);
    until(all, is_ok(a));
    run_for(all, 2500);
    b->silent = false;
    for (end = clock_monotonic_ms() + 6000; clock_monotonic_ms() < end;) {
        assert_int_equal(count_of(a, "lobby"), 2);
        run_for(all, 50);
    }
    assert_int_equal(gone_in_all(all), 0);
}

static void test_a_worker_that_says_goodbye_leaves_nothing(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    enter(a, "lobby", "ann");
    enter(b, "lobby", "bob");
    run_for(all, 1500);
    bus_leave(b->bus, text("lobby"), text("bob"));
    stop_worker(b);
    assert_int_equal(redis_host_number(all->redis, "HEXISTS chatd:{0}:members:lobby bob"), 0);
    assert_int_equal(redis_host_number(all->redis, "SCARD chatd:{0}:owners"), 1);
    until(all, redis_host_number(all->redis, "HLEN chatd:{0}:workers") == 1);
}

static void test_large_rooms_of_a_dead_worker_are_purged_bit_by_bit(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0];

    /* As a worker of which nothing is known but what it left behind. */
    redis_host_do(all->redis, "EVAL %s 0",
                  "local P = 'chatd:{0}:' "
                  "for i = 1, 3000 do redis.call('HSET', P .. 'members:big', 'u' .. i, 'elsewhr0') end "
                  "redis.call('HSET', P .. 'members:big', 'both', 'elsewhr0other670') "
                  "redis.call('HSET', P .. 'members:big', '', '5') "
                  "redis.call('ZADD', P .. 'active', 3001, 'big') "
                  "redis.call('SADD', P .. 'of:elsewhr0', 'big') "
                  "for r = 1, 60 do "
                  "    redis.call('HSET', P .. 'members:r' .. r, 'ann', 'elsewhr0', '', '5') "
                  "    redis.call('ZADD', P .. 'active', 1, 'r' .. r) "
                  "    redis.call('SADD', P .. 'of:elsewhr0', 'r' .. r) "
                  "end "
                  "redis.call('SADD', P .. 'owners', 'elsewhr0') return 1");
    make_steady(all);
    until(all, gone_in_all(all) == 3060);
    for (int i = 1; i <= 3000; i += 7) {
        char user[16];

        snprintf(user, sizeof(user), "u%d", i);
        assert_int_equal(gone_times(all, "big", user), 1);
    }
    until(all, redis_host_number(all->redis, "SCARD chatd:{0}:owners") == 0);
    assert_int_equal(count_of(a, "big"), 1);
    assert_int_equal(redis_host_number(all->redis, "ZCARD chatd:{0}:active"), 1);
    assert_int_equal(redis_host_number(all->redis, "EXISTS chatd:{0}:of:elsewhr0 chatd:{0}:members:r60"), 0);
}

/* Rooms are in many partitions on three servers, the beats on one of them. */
static void test_in_a_cluster_the_dead_are_gone_from_all_partitions(void **state)
{
    struct redis_cluster_host *cluster = redis_cluster_host_new();
    struct workers *all = workers_new(0, NULL);
    struct worker *a = &all->w[0], *b = &all->w[1];
    static struct answer answer;
    int64_t begin;
    char room[16];

    (void)state;
    snprintf(all->config.redis, sizeof(all->config.redis), "redis+cluster://127.0.0.1:%d",
             cluster->nodes[0]->port);
    start_worker(all, 0);
    start_worker(all, 1);
    for (int i = 0; i < 30; i++) {
        snprintf(room, sizeof(room), "room%d", i);
        subscribe(a, room);
        subscribe(b, room);
        enter(a, room, "ann");
        enter(b, room, "bob");
    }
    answer = (struct answer){0};
    bus_rooms(a->bus, 100, on_rooms, &answer);
    until(all, answer.calls == 1);
    assert_int_equal(answer.listed, 30);
    assert_int_equal(answer.members, 2);
    run_for(all, 6500);
    assert_int_equal(gone_in_all(all), 0);
    b->silent = true;
    begin = clock_monotonic_ms();
    until(all, gone_in_all(all) == 30);
    assert_in_range(clock_monotonic_ms() - begin, 3500, 10000);
    for (int i = 0; i < 30; i++) {
        snprintf(room, sizeof(room), "room%d", i);
        assert_int_equal(gone_times(all, room, "bob"), 1);
        assert_int_equal(count_of(a, room), 1);
    }
    b->silent = false;
    for (int i = 0; i < 30; i++) {
        snprintf(room, sizeof(room), "room%d", i);
        until(all, count_of(a, room) == 2);
    }
    run_for(all, 3000);
    assert_int_equal(gone_in_all(all), 30);
    workers_free(all);
    redis_cluster_host_free(cluster);
}

static void test_connections_of_all_workers_are_added_up(void **state)
{
    struct workers *all = *state;

    metrics_set(connections, 7); /* one slot for both workers here */
    until(all, metrics_get(metrics_mine, cluster_connections) == 14);
    make_dead(&all->w[1]);
    until(all, metrics_get(metrics_mine, cluster_connections) == 7);
    all->w[1].silent = false;
    metrics_set(connections, 0);
}

/* --- Messages --- */

struct published {
    unsigned calls;
    enum bus_status status;
    uint64_t seq;
};

static void on_published(void *arg, enum bus_status status, const struct message *message)
{
    struct published *published = arg;

    published->calls++;
    published->status = status;
    published->seq = message->seq;
}

static uint64_t publish(struct worker *w, const char *room, const char *key)
{
    static struct published published;
    struct bus_publish publish = {.room = text(room), .user = text("ann"), .key = text(key),
                                  .head = text("{\"n\":"), .tail = text("}")};

    published = (struct published){0};
    bus_publish(w->bus, &publish, on_published, &published);
    until(w->all, published.calls == 1);
    assert_int_equal(published.status, BUS_OK);
    return published.seq;
}

static long long pending(struct workers *all)
{
    return redis_host_number(all->redis, "ZCARD chatd:{0}:pending");
}

/* All that is pending is from `seconds` ago. */
static void make_older(struct workers *all, int seconds)
{
    redis_host_do(all->redis, "EVAL %s 1 chatd:{0}:pending %d",
                  "for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do "
                  "    redis.call('ZINCRBY', KEYS[1], -1000 * ARGV[1], name) end return 1",
                  seconds);
}

static const struct orphan_heard *orphan_find(const struct worker *w, const char *room, uint64_t seq)
{
    for (unsigned i = 0; i < w->orphan_count; i++) {
        if (w->orphans[i].seq == seq && strcmp(w->orphans[i].room, room) == 0)
            return &w->orphans[i];
    }
    return NULL;
}

static void settle(struct worker *w, const char *room, uint64_t seq)
{
    struct message message = {.room = text(room), .seq = seq};

    bus_settle(w->bus, &message, seq);
}

static void test_messages_of_the_dead_are_handed_up_until_they_are_settled(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];
    const struct orphan_heard *orphan;
    uint64_t first, second, old, living;
    char event[64];

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    subscribe(b, "moved");
    first = publish(b, "lobby", "k1");
    second = publish(b, "lobby", "");
    old = publish(b, "moved", "k2");
    living = publish(a, "lobby", "k3");
    redis_host_do(all->redis, "HSET chatd:{0}:room:moved life of-before");
    make_steady(all);
    make_older(all, 11);
    run_for(all, 2500);
    assert_int_equal(a->orphan_count + b->orphan_count, 0); /* all of them live */
    make_dead(b);
    until(all, a->orphan_count == 3);
    orphan = orphan_find(a, "lobby", first);
    assert_non_null(orphan);
    snprintf(event, sizeof(event), "{\"n\":%llu,\"time\":", (unsigned long long)first);
    assert_memory_equal(orphan->event, event, strlen(event));
    assert_string_equal(orphan->user, "ann");
    assert_string_equal(orphan->key, "k1");
    assert_memory_equal(orphan->uid, &redis_of(b)->uid_prefix, 8);
    assert_true(orphan->stands);
    assert_true(orphan_find(a, "lobby", second)->stands);
    assert_false(orphan_find(a, "moved", old)->stands);
    run_for(all, 3000);
    assert_int_equal(a->orphan_count, 3); /* not again while that goes on */
    settle(a, "lobby", first);
    settle(a, "lobby", second);
    until(all, pending(all) == 2);
    until(all, a->orphan_count == 4); /* one is not settled for ten seconds: again */
    assert_int_equal(a->orphans[3].seq, old);
    assert_null(orphan_find(a, "lobby", living));
    assert_int_equal(metrics_get(metrics_mine, orphans_total), 4);
    b->silent = false;
}

static void test_an_old_entry_is_cared_for_though_its_publisher_lives(void **state)
{
    struct workers *all = *state;
    uint64_t seq;

    subscribe(&all->w[1], "lobby");
    seq = publish(&all->w[1], "lobby", "k1");
    make_older(all, 200);
    make_steady(all);
    until(all, all->w[0].orphan_count + all->w[1].orphan_count == 1);
    settle(&all->w[0], "lobby", seq); /* whoever has it */
    settle(&all->w[1], "lobby", seq);
    until(all, pending(all) == 0);
}

static void test_the_dead_are_found_behind_many_of_the_living(void **state)
{
    struct workers *all = *state;
    struct worker *a = &all->w[0], *b = &all->w[1];
    uint64_t last = 0;

    subscribe(a, "lobby");
    subscribe(b, "lobby");
    for (int i = 0; i < 1200; i++)
        publish(a, "lobby", "");
    make_older(all, 3);
    for (int i = 0; i < 150; i++)
        last = publish(b, "lobby", "");
    make_steady(all);
    make_dead(b);
    make_older(all, 11);
    until(all, a->orphan_count == 100); /* a batch */
    assert_int_equal(a->orphans[0].seq, last - 149);
    for (unsigned i = 0; i < 100; i++)
        settle(a, "lobby", a->orphans[i].seq);
    until(all, a->orphan_count == 150);
    assert_non_null(orphan_find(a, "lobby", last));
    b->silent = false;
}

static void test_what_is_nowhere_any_more_is_given_up_after_window_ttl(void **state)
{
    struct workers *all = *state;
    uint64_t seq;

    subscribe(&all->w[0], "lobby");
    seq = publish(&all->w[0], "lobby", "k1");
    redis_host_do(all->redis, "XDEL chatd:{0}:window:lobby %llu", (unsigned long long)seq);
    make_older(all, 3500);
    make_steady(all);
    run_for(all, 3000);
    assert_int_equal(pending(all), 1);
    make_older(all, 200);
    until(all, pending(all) == 0);
    assert_int_equal(all->w[0].orphan_count + all->w[1].orphan_count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        cmocka_unit_test_setup_teardown(test_a_dead_workers_users_are_gone_within_ten_seconds_and_told_once,
                                        set_up_three, tear_down),
        TEST(test_a_worker_wrongly_taken_for_dead_comes_back),
        TEST(test_redis_that_hangs_kills_nobody),
        TEST(test_a_worker_that_says_goodbye_leaves_nothing),
        TEST(test_large_rooms_of_a_dead_worker_are_purged_bit_by_bit),
        cmocka_unit_test(test_in_a_cluster_the_dead_are_gone_from_all_partitions),
        TEST(test_connections_of_all_workers_are_added_up),
        TEST(test_messages_of_the_dead_are_handed_up_until_they_are_settled),
        TEST(test_an_old_entry_is_cared_for_though_its_publisher_lives),
        TEST(test_the_dead_are_found_behind_many_of_the_living),
        TEST(test_what_is_nowhere_any_more_is_given_up_after_window_ttl),
    };

    return redis_host_run_all(tests);
}
