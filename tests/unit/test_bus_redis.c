/* test_bus_redis.c - bus_redis on a real Redis: two workers on one loop, without chat. Numbers, keys, the
 * window, what is pending, and what happens to all of it when Redis loses what it had. */
#include "redis_host.h"

#include "chatd/bus_redis.h"
#include "chatd/metrics.h"

enum { HEARD_MAX = 4096, TEXT_MAX = 4096, GRACE_MS = 300 };

static struct text text(const char *string)
{
    return (struct text){string, strlen(string)};
}

/* --- Two workers --- */

struct worker {
    struct bus *bus;
    struct pair *pair;
    unsigned records, events, lost;
    uint64_t seqs[HEARD_MAX];
    char last_event[TEXT_MAX], last_user[80];
};

struct pair {
    uv_loop_t loop;
    struct config config;
    struct redis_host *redis;
    struct worker a, b;
};

static void on_record(void *arg, const struct message *message)
{
    struct worker *w = arg;

    assert_true(w->records < HEARD_MAX);
    assert_int_equal(message->previous, message->seq - 1);
    w->seqs[w->records++] = message->seq;
    snprintf(w->last_event, sizeof(w->last_event), "%.*s", (int)message->event.length, message->event.data);
}

static void on_event(void *arg, struct text room, struct text user, struct text event)
{
    struct worker *w = arg;

    assert_int_equal(room.length, 5);
    w->events++;
    snprintf(w->last_user, sizeof(w->last_user), "%.*s", (int)user.length, user.data);
    snprintf(w->last_event, sizeof(w->last_event), "%.*s", (int)event.length, event.data);
}

static void on_lost(void *arg, struct text room)
{
    assert_memory_equal(room.data, "lobby", room.length);
    ((struct worker *)arg)->lost++;
}

static void on_gone(void *arg, struct text room, struct text user, uint32_t members)
{
    (void)arg;
    (void)room;
    (void)user;
    (void)members;
}

static void on_orphan(void *arg, const struct message *message, bool stands)
{
    (void)arg;
    (void)message;
    (void)stands;
}

static void turn(struct pair *pair)
{
    if (pair->a.bus)
        bus_turn(pair->a.bus);
    if (pair->b.bus)
        bus_turn(pair->b.bus);
}

#define until(pair, condition) redis_host_until(&(pair)->loop, condition, turn(pair))

static void run_for(struct pair *pair, int ms)
{
    int64_t end = clock_monotonic_ms() + ms;

    until(pair, clock_monotonic_ms() >= end);
}

static void start(struct worker *w)
{
    const struct bus_handler handler = {w, on_record, on_event, on_lost, on_gone, on_orphan};

    assert_int_equal(bus_redis_new(&w->bus, &w->pair->loop, &w->pair->config, &handler), 0);
}

static bool is_ok(struct worker *w)
{
    struct bus_health health;

    bus_health(w->bus, &health);
    return health.ok;
}

static int setup(void **state)
{
    struct pair *pair = calloc(1, sizeof(*pair));

    assert_non_null(pair);
    pair->redis = redis_host_new(NULL, false);
    uv_loop_init(&pair->loop);
    config_defaults(&pair->config);
    snprintf(pair->config.redis, sizeof(pair->config.redis), "unix://%s", pair->redis->socket);
    pair->config.failover_grace = GRACE_MS;
    pair->a.pair = pair->b.pair = pair;
    start(&pair->a);
    start(&pair->b);
    until(pair, is_ok(&pair->a) && is_ok(&pair->b));
    *state = pair;
    return 0;
}

static void stop(struct worker *w)
{
    if (w->bus)
        redis_host_close_bus(w->bus, &w->pair->loop, 500);
    w->bus = NULL;
}

static int teardown(void **state)
{
    struct pair *pair = *state;

    stop(&pair->a);
    stop(&pair->b);
    redis_host_close_loop(&pair->loop);
    redis_host_free(pair->redis);
    free(pair);
    return 0;
}

/* --- What the bus answers --- */

struct answer {
    int calls;
    enum bus_status status;
    struct message message;
    char event[TEXT_MAX];
    uint64_t seq, below;
    bool pending;
    unsigned count;
    uint64_t seqs[HEARD_MAX];
};

static void on_status(void *arg, enum bus_status status)
{
    struct answer *answer = arg;

    answer->calls++;
    answer->status = status;
}

static void on_published(void *arg, enum bus_status status, const struct message *message)
{
    struct answer *answer = arg;

    on_status(answer, status);
    answer->message = *message;
    answer->message.room = text("lobby");
    snprintf(answer->event, sizeof(answer->event), "%.*s", (int)message->event.length, message->event.data);
}

static void on_subscribed(void *arg, enum bus_status status, uint64_t seq)
{
    on_status(arg, status);
    ((struct answer *)arg)->seq = seq;
}

static void on_window(void *arg, enum bus_status status, const struct page *page, uint64_t below,
                      bool pending)
{
    struct answer *answer = arg;

    on_status(answer, status);
    answer->below = below;
    answer->pending = pending;
    answer->count = page->count;
    for (uint32_t i = 0; i < page->count; i++) {
        char expected[64];
        int length = snprintf(expected, sizeof(expected), "{\"n\":%llu,\"time\":",
                              (unsigned long long)page->entries[i].seq);

        answer->seqs[i] = page->entries[i].seq;
        assert_true(i == 0 || answer->seqs[i] > answer->seqs[i - 1]);
        assert_memory_equal(page->bytes.data + page->entries[i].offset, expected, (size_t)length);
    }
}

static enum bus_status open_room(struct worker *w, uint64_t highest)
{
    struct answer answer = {0};

    bus_open(w->bus, text("lobby"), highest, on_status, &answer);
    until(w->pair, answer.calls > 0);
    assert_int_equal(answer.calls, 1);
    return answer.status;
}

static struct answer subscribe(struct worker *w)
{
    struct answer answer = {0};

    bus_subscribe(w->bus, text("lobby"), on_subscribed, &answer);
    until(w->pair, answer.calls > 0);
    assert_int_equal(answer.calls, 1);
    return answer;
}

static const struct bus_publish PLAIN = {
    .room = {"lobby", 5}, .user = {"ann", 3}, .head = {"{\"n\":", 5}, .tail = {"}", 1}};

static struct answer publish_with(struct worker *w, const struct bus_publish *publish)
{
    struct answer answer = {0};

    bus_publish(w->bus, publish, on_published, &answer);
    until(w->pair, answer.calls > 0);
    assert_int_equal(answer.calls, 1);
    return answer;
}

static struct answer publish(struct worker *w)
{
    return publish_with(w, &PLAIN);
}

static struct answer publish_key(struct worker *w, const char *key, bool retry, bool asked)
{
    struct bus_publish publish = PLAIN;

    publish.key = text(key);
    publish.retry = retry;
    publish.asked = asked;
    return publish_with(w, &publish);
}

static struct answer window(struct worker *w, uint64_t above, uint64_t upto, uint32_t limit)
{
    struct answer answer = {0};

    bus_window(w->bus, text("lobby"), above, upto, limit, on_window, &answer);
    until(w->pair, answer.calls > 0);
    assert_int_equal(answer.calls, 1);
    return answer;
}

static void open_and_subscribe(struct pair *pair)
{
    assert_int_equal(open_room(&pair->a, 0), BUS_OK);
    assert_int_equal(subscribe(&pair->a).status, BUS_OK);
    assert_int_equal(subscribe(&pair->b).status, BUS_OK);
}

static long long pending(struct pair *pair)
{
    return redis_host_number(pair->redis, "ZCARD chatd:{0}:pending");
}

/* Begins anew with nothing, and both workers have noticed. */
static void empty_redis(struct pair *pair)
{
    unsigned a = pair->a.lost, b = pair->b.lost;

    redis_host_restart(pair->redis, false);
    until(pair, is_ok(&pair->a) && is_ok(&pair->b) && pair->a.lost > a && pair->b.lost > b);
}

/* --- Numbers --- */

static void test_numbers_rise_by_one_and_all_workers_get_all_records(void **state)
{
    struct pair *pair = *state;
    struct answer answers[200] = {0};
    uint64_t first;

    open_and_subscribe(pair);
    for (int i = 0; i < 200; i++)
        bus_publish(i % 2 ? pair->a.bus : pair->b.bus, &PLAIN, on_published, &answers[i]);
    until(pair, pair->a.records == 200 && pair->b.records == 200 && answers[198].calls && answers[199].calls);
    first = pair->a.seqs[0];
    assert_int_equal(first % (1 << 20), 0);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(pair->a.seqs[i], first + i);
        assert_int_equal(pair->b.seqs[i], first + i);
        assert_int_equal(answers[i].calls, 1);
        assert_int_equal(answers[i].status, BUS_OK);
        assert_in_range(answers[i].message.seq, first, first + 199);
    }
    for (unsigned i = 2; i < 200; i++) /* of one worker in the order they were published */
        assert_true(answers[i].message.seq > answers[i - 2].message.seq);
    for (unsigned i = 0; i < 200; i++) {
        if (answers[i].message.seq == first + 199)
            assert_string_equal(answers[i].event, pair->a.last_event);
    }
}

static void test_a_room_that_is_not_open_says_so(void **state)
{
    struct pair *pair = *state;
    struct answer answer = {0};
    static const uint8_t NO_UID[MESSAGE_UID_SIZE];

    assert_int_equal(subscribe(&pair->a).status, BUS_NOT_OPEN);
    answer = publish(&pair->a);
    assert_int_equal(answer.status, BUS_NOT_OPEN);
    assert_memory_not_equal(answer.message.uid, NO_UID, MESSAGE_UID_SIZE); /* to be tried again with */
    answer = window(&pair->a, 5, 100, 10);
    assert_int_equal(answer.status, BUS_NOT_OPEN);
    assert_int_equal(answer.below, 100);
    assert_false(answer.pending);
    open_and_subscribe(pair);
    assert_int_equal(publish(&pair->a).status, BUS_OK);
}

static void test_a_second_opener_takes_what_it_finds(void **state)
{
    struct pair *pair = *state;
    struct answer one = {0}, two = {0};

    bus_open(pair->a.bus, text("lobby"), 0, on_status, &one);
    bus_open(pair->b.bus, text("lobby"), 7ULL << 50, on_status, &two);
    until(pair, one.calls && two.calls);
    assert_int_equal(one.status, BUS_OK);
    assert_int_equal(two.status, BUS_OK);
    one = publish(&pair->a);
    two = publish(&pair->b);
    assert_int_equal(two.message.seq, one.message.seq + 1);
    assert_int_equal(redis_host_number(pair->redis, "HGET chatd:{0}:room:lobby b"), one.message.seq - 1);
}

static void test_a_subscription_that_is_given_up_on_its_way_is_answered(void **state)
{
    struct pair *pair = *state;
    struct answer answer = {0};

    open_and_subscribe(pair);
    bus_unsubscribe(pair->a.bus, text("lobby"));
    bus_subscribe(pair->a.bus, text("lobby"), on_subscribed, &answer);
    bus_unsubscribe(pair->a.bus, text("lobby"));
    assert_int_equal(answer.calls, 1);
    assert_int_equal(answer.status, BUS_FAILED);
    publish(&pair->b);
    until(pair, pair->b.records == 1);
    assert_int_equal(pair->a.records, 0);
    answer = subscribe(&pair->a);
    assert_int_equal(answer.status, BUS_OK);
    assert_int_equal(answer.seq, pair->b.seqs[0]);
}

static void test_500_publishes_of_a_turn_are_one_write(void **state)
{
    struct pair *pair = *state;
    static struct answer answers[500];
    int64_t writes, commands;

    assert_int_equal(open_room(&pair->a, 0), BUS_OK);
    memset(answers, 0, sizeof(answers));
    writes = metrics_get(metrics_mine, bus_writes_total);
    commands = metrics_get(metrics_mine, bus_commands_total);
    for (int i = 0; i < 500; i++)
        bus_publish(pair->a.bus, &PLAIN, on_published, &answers[i]);
    assert_int_equal(metrics_get(metrics_mine, bus_writes_total), writes);
    turn(pair);
    assert_int_equal(metrics_get(metrics_mine, bus_writes_total), writes + 1);
    assert_int_equal(metrics_get(metrics_mine, bus_commands_total), commands + 500);
    until(pair, answers[499].calls == 1);
    assert_int_equal(answers[499].message.seq, answers[0].message.seq + 499);
}

/* --- Keys --- */

static void test_a_key_in_the_window_is_a_duplicate(void **state)
{
    struct pair *pair = *state;
    struct answer first, again;

    open_and_subscribe(pair);
    first = publish_key(&pair->a, "k", false, false);
    assert_int_equal(first.status, BUS_OK);
    for (int i = 0; i < 3; i++) {
        again = publish_key(&pair->b, "k", i > 0, i > 1);
        assert_int_equal(again.status, BUS_DUPLICATE);
        assert_int_equal(again.message.seq, first.message.seq);
        assert_int_equal(again.message.time_ms, first.message.time_ms);
        assert_memory_equal(again.message.uid, first.message.uid, MESSAGE_UID_SIZE);
        assert_string_equal(again.event, first.event);
    }
    assert_int_equal(publish_key(&pair->b, "other", false, false).status, BUS_OK);
    until(pair, pair->b.records == 2);
}

static void test_an_unknown_retry_is_asked_for_first(void **state)
{
    struct pair *pair = *state;
    struct bus_publish again = PLAIN;
    uint8_t uid[MESSAGE_UID_SIZE] = "a uid of before";
    struct answer answer;

    open_and_subscribe(pair);
    assert_int_equal(publish_key(&pair->a, "k", true, false).status, BUS_NOT_FOUND_IN_WINDOW);
    assert_int_equal(publish_key(&pair->a, "k", true, false).status, BUS_NOT_FOUND_IN_WINDOW);
    answer = publish_key(&pair->a, "k", true, true);
    assert_int_equal(answer.status, BUS_OK);
    assert_int_equal(publish_key(&pair->b, "k", true, false).message.seq, answer.message.seq);
    again.retry = true;
    assert_int_equal(publish_with(&pair->a, &again).status, BUS_OK); /* nothing to ask for */
    again.uid = uid;
    assert_int_equal(publish_with(&pair->a, &again).status, BUS_NOT_FOUND_IN_WINDOW);
    again.asked = true;
    assert_int_equal(publish_with(&pair->a, &again).status, BUS_OK);
    assert_int_equal(pending(pair), 3);
}

static void test_keys_are_known_for_one_to_two_times_of_the_retry_window(void **state)
{
    struct pair *pair = *state;
    struct answer first;

    pair->config.retry_window = 100;
    open_and_subscribe(pair);
    first = publish_key(&pair->a, "k", false, false);
    run_for(pair, 110);
    publish(&pair->a); /* the hashes change places */
    assert_int_equal(publish_key(&pair->b, "k", false, false).message.seq, first.message.seq);
    run_for(pair, 110);
    publish(&pair->a);
    assert_int_equal(publish_key(&pair->b, "k", true, false).status, BUS_NOT_FOUND_IN_WINDOW);
}

/* --- An answer that was lost --- */

static void test_a_publish_carried_out_twice_has_its_first_number(void **state)
{
    struct pair *pair = *state;
    uint8_t uid[MESSAGE_UID_SIZE] = "sixteen bytes..";
    const char *keys[] = {"", "k"};

    open_and_subscribe(pair);
    for (unsigned i = 0; i < 2; i++) {
        struct bus_publish publish = PLAIN;
        struct answer first, again;

        publish.key = text(keys[i]);
        publish.uid = uid;
        first = publish_with(&pair->a, &publish);
        again = publish_with(&pair->b, &publish);
        assert_int_equal(first.status, BUS_OK);
        assert_int_equal(again.status, BUS_OK);
        assert_int_equal(again.message.seq, first.message.seq);
        assert_string_equal(again.event, first.event);
    }
    assert_int_equal(redis_host_number(pair->redis, "XLEN chatd:{0}:window:lobby"), 2);
}

static void test_a_lost_answer_does_not_number_a_message_twice(void **state)
{
    struct pair *pair = *state;
    struct answer answers[10] = {0};

    open_and_subscribe(pair);
    publish(&pair->b);
    redis_host_freeze(pair->redis);
    for (int i = 0; i < 10; i++)
        bus_publish(pair->a.bus, &PLAIN, on_published, &answers[i]);
    until(pair, !is_ok(&pair->a)); /* it has given up that connection; what was written lies there */
    redis_host_thaw(pair->redis);
    until(pair, answers[9].calls > 0);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(answers[i].calls, 1);
        assert_int_equal(answers[i].status, BUS_OK);
        assert_int_equal(answers[i].message.seq, answers[0].message.seq + i);
    }
    assert_int_equal(redis_host_number(pair->redis, "XLEN chatd:{0}:window:lobby"), 11);
}

static void test_one_whose_record_is_cut_off_but_pending_is_not_published_again(void **state)
{
    struct pair *pair = *state;
    uint8_t uid[MESSAGE_UID_SIZE] = "sixteen bytes..";
    struct bus_publish own = PLAIN;
    struct answer first, again;

    open_and_subscribe(pair);
    own.uid = uid;
    first = publish_with(&pair->a, &own);
    publish_key(&pair->a, "k", false, false);
    redis_host_do(pair->redis, "XTRIM chatd:{0}:window:lobby MAXLEN 0");
    /* Somebody may be storing it. */
    assert_int_equal(publish_key(&pair->b, "k", true, false).status, BUS_FULL);
    again = publish_with(&pair->a, &own); /* this one is ours: its bytes can be made again */
    assert_int_equal(again.status, BUS_OK);
    assert_string_equal(again.event, first.event);
    redis_host_do(pair->redis, "DEL chatd:{0}:pending");
    assert_int_equal(publish_key(&pair->b, "k", true, false).status, BUS_NOT_FOUND_IN_WINDOW);
    assert_int_equal(publish_with(&pair->a, &own).status, BUS_NOT_FOUND_IN_WINDOW);
    assert_int_equal(publish_key(&pair->b, "k", true, true).status, BUS_OK);
}

/* --- Pending, settled, void --- */

static void test_settled_messages_are_not_pending(void **state)
{
    struct pair *pair = *state;
    struct answer answers[3];
    int64_t commands;

    open_and_subscribe(pair);
    for (int i = 0; i < 3; i++)
        answers[i] = publish(&pair->a);
    assert_int_equal(pending(pair), 3);
    commands = metrics_get(metrics_mine, bus_commands_total);
    for (int i = 0; i < 3; i++)
        bus_settle(pair->a.bus, &answers[i].message, answers[i].message.seq);
    turn(pair);
    assert_int_equal(metrics_get(metrics_mine, bus_commands_total), commands + 1);
    until(pair, pending(pair) == 0);
}

static void test_a_message_stored_under_another_number_leaves_the_window(void **state)
{
    struct pair *pair = *state;
    struct answer kept, gone, page;

    open_and_subscribe(pair);
    kept = publish(&pair->a);
    gone = publish(&pair->a);
    bus_settle(pair->a.bus, &kept.message, kept.message.seq);
    bus_settle(pair->a.bus, &gone.message, kept.message.seq - 1);
    until(pair, pending(pair) == 0);
    page = window(&pair->b, kept.message.seq - 1, gone.message.seq, 10);
    assert_int_equal(page.count, 1);
    assert_int_equal(page.seqs[0], kept.message.seq);
    assert_false(page.pending);
}

static void test_a_void_number_is_taken_back(void **state)
{
    struct pair *pair = *state;
    const char *keys[] = {"", "k"};
    struct bus_publish other = PLAIN;
    struct answer again;

    open_and_subscribe(pair);
    for (unsigned i = 0; i < 2; i++) {
        struct bus_publish publish = PLAIN;
        struct answer first, page;

        publish.key = text(keys[i]);
        first = publish_with(&pair->a, &publish);
        publish.uid = first.message.uid;
        publish.instead_of = first.message.seq;
        again = publish_with(&pair->a, &publish);
        assert_int_equal(again.status, BUS_OK);
        assert_int_equal(again.message.seq, first.message.seq + 1);
        page = window(&pair->b, first.message.seq - 1, first.message.seq + 1, 10);
        assert_int_equal(page.count, 1);
        assert_int_equal(page.seqs[0], again.message.seq);
        assert_int_equal(pending(pair), i + 1);
        publish.instead_of = 0;
        assert_int_equal(publish_with(&pair->a, &publish).message.seq, again.message.seq);
    }
    /* Also if its key isn't known here any more. */
    again = publish(&pair->a);
    other.key = text("other");
    other.instead_of = again.message.seq;
    assert_int_equal(publish_with(&pair->a, &other).status, BUS_OK);
    assert_int_equal(window(&pair->b, again.message.seq - 1, again.message.seq, 10).count, 0);
    assert_int_equal(pending(pair), 3);
}

static long long listeners(struct redis_host *redis)
{
    return redis_host_number(redis, "EVAL %s 0",
                             "return redis.call('PUBSUB', 'NUMSUB', 'chatd:0:{0}:lobby')[2]");
}

static void test_whether_a_number_stands(void **state)
{
    struct pair *pair = *state;
    struct answer answer;
    int64_t frozen;

    open_and_subscribe(pair);
    answer = publish(&pair->a);
    assert_true(answer.message.position > 0);
    assert_int_equal(bus_redis_stand(pair->a.bus, &answer.message), BUS_STANDS);
    redis_host_freeze(pair->redis);
    frozen = clock_monotonic_ms();
    until(pair, bus_redis_stand(pair->a.bus, &answer.message) == BUS_WAITS);
    assert_in_range(clock_monotonic_ms() - frozen, 0, 1500);
    redis_host_thaw(pair->redis);
    until(pair, bus_redis_stand(pair->a.bus, &answer.message) == BUS_STANDS);
    empty_redis(pair);
    assert_int_equal(bus_redis_stand(pair->a.bus, &answer.message), BUS_MOVED);
}

/* Whoever comes back to a busy room hears the next message before the room's state: that isn't a jump. */
static void test_a_room_that_is_heard_anew_has_not_moved(void **state)
{
    struct pair *pair = *state;
    int64_t end = clock_monotonic_ms() + REDIS_HOST_DEADLINE_MS;
    struct answer first, second, again = {0};

    open_and_subscribe(pair);
    first = publish(&pair->a);
    until(pair, pair->a.records == 1);
    bus_unsubscribe(pair->a.bus, text("lobby"));
    until(pair, listeners(pair->redis) == 1);
    second = publish(&pair->b);
    until(pair, pair->b.records == 2);
    bus_subscribe(pair->a.bus, text("lobby"), on_subscribed, &again);
    turn(pair);
    while (listeners(pair->redis) < 2) /* and nobody here has read anything yet */
        assert_true(clock_monotonic_ms() < end);
    redis_host_do(pair->redis, "PUBLISH chatd:0:{0}:lobby %s%llu%s", "m",
                  (unsigned long long)second.message.seq, " {}");
    until(pair, again.calls == 1);
    assert_int_equal(pair->a.records, 2);
    assert_int_equal(again.seq, second.message.seq);
    assert_int_equal(bus_redis_stand(pair->a.bus, &first.message), BUS_STANDS);
}

/* --- The window --- */

static void settle(struct worker *w, uint64_t first, uint64_t last)
{
    for (uint64_t seq = first; seq <= last; seq++)
        bus_settle(w->bus, &(struct message){.room = text("lobby"), .seq = seq}, seq);
}

static void test_a_window_in_all_its_bounds(void **state)
{
    struct pair *pair = *state;
    struct worker *a = &pair->a;
    struct answer answer;
    uint64_t first;

    open_and_subscribe(pair);
    first = publish(a).message.seq;
    for (int i = 1; i < 10; i++)
        publish(&pair->b);
    /* above, upto, limit -> number of the first, how many, below; counted from the room's first number */
    static const struct {
        int64_t above, upto, limit, from, count, below;
    } ROWS[] = {
        {-1, 9, 20, 0, 10, -1}, {-1, 9, 10, 0, 10, -1},   {-1, 9, 9, 1, 9, 0},
        {4, 9, 20, 5, 5, 4},    {9, 9, 20, 0, 0, 9},      {-1, 4, 20, 0, 5, -1},
        {-1, 4, 2, 3, 2, 2},    {9, 1000000, 20, 0, 0, 9}, {2, 1000000, 20, 3, 7, 2},
        {-5, 9, 20, 0, 10, -1}, /* what is older is the store's */
        {-5, -2, 20, 0, 0, -2},
    };
    for (unsigned i = 0; i < sizeof(ROWS) / sizeof(ROWS[0]); i++) {
        answer = window(a, (uint64_t)((int64_t)first + ROWS[i].above),
                        (uint64_t)((int64_t)first + ROWS[i].upto), (uint32_t)ROWS[i].limit);
        assert_int_equal(answer.status, BUS_OK);
        assert_int_equal(answer.count, ROWS[i].count);
        if (answer.count > 0)
            assert_int_equal(answer.seqs[0], first + (uint64_t)ROWS[i].from);
        assert_int_equal(answer.below, (uint64_t)((int64_t)first + ROWS[i].below));
        assert_false(answer.pending);
    }
    assert_int_equal(window(a, 0, UINT64_MAX, 100).count, 10);
    assert_int_equal(window(a, first - 1, UINT64_MAX, 100).below, first - 1);
    /* Nothing of it: only whether the store has all, once it has. */
    settle(a, first, first + 9);
    until(pair, pending(pair) == 0);
    answer = window(a, first - 1, first + 4, 0);
    assert_int_equal(answer.status, BUS_OK);
    assert_int_equal(answer.count, 0);
    assert_int_equal(answer.below, first + 4);
}

static void test_what_was_cut_off_the_window_is_waited_for(void **state)
{
    struct pair *pair = *state;
    struct bus_publish large = PLAIN;
    struct answer answer = {0};
    char tail[1001];
    int64_t asked;
    uint64_t first;

    memset(tail, ' ', 1000);
    tail[999] = '}';
    tail[1000] = 0;
    large.tail = text(tail);
    pair->config.window_messages = 10;
    open_and_subscribe(pair);
    for (int i = 0; i < 60; i++)
        publish_with(&pair->a, &large);
    first = pair->a.seqs[0];
    asked = clock_monotonic_ms();
    answer = window(&pair->b, first - 1, UINT64_MAX, 100);
    assert_true(answer.pending);
    assert_in_range(clock_monotonic_ms() - asked, BUS_PENDING_MS, BUS_PENDING_MS + 3000);
    assert_in_range(answer.count, 10, 30);
    assert_int_equal(answer.below, answer.seqs[0] - 1);
    assert_int_equal(answer.seqs[answer.count - 1], first + 59);

    memset(&answer, 0, sizeof(answer)); /* of what is in the page, it doesn't matter that it isn't stored */
    bus_window(pair->b.bus, text("lobby"), first - 1, UINT64_MAX, 100, on_window, &answer);
    run_for(pair, 150);
    assert_int_equal(answer.calls, 0);
    settle(&pair->a, first, first + 49);
    until(pair, answer.calls == 1);
    assert_false(answer.pending);
    assert_true(pending(pair) > 0);
}

static void test_pending_of_another_room_is_not_waited_for(void **state)
{
    struct pair *pair = *state;
    struct answer answer;
    uint64_t first;

    open_and_subscribe(pair);
    first = publish(&pair->a).message.seq;
    settle(&pair->a, first, first);
    until(pair, pending(pair) == 0);
    redis_host_do(pair->redis, "EVAL %s 1 chatd:{0}:pending",
                  "return redis.call('ZADD', KEYS[1], 1, 'lobby2\\0001')");
    redis_host_do(pair->redis, "XTRIM chatd:{0}:window:lobby MAXLEN 0");
    answer = window(&pair->a, 0, UINT64_MAX, 10);
    assert_false(answer.pending);
    assert_int_equal(answer.count, 0);
    assert_int_equal(answer.below, first);
}

/* --- Redis forgets --- */

static void test_after_a_restart_empty_a_room_is_opened_in_a_higher_block(void **state)
{
    struct pair *pair = *state;
    struct answer answer;
    uint64_t before;
    int64_t back;

    open_and_subscribe(pair);
    before = publish(&pair->a).message.seq;
    until(pair, pair->a.records == 1 && pair->b.records == 1);
    redis_host_restart(pair->redis, false);
    back = clock_monotonic_ms();
    until(pair, is_ok(&pair->a) && pair->a.lost > 0 && pair->b.lost > 0);
    assert_int_equal(publish(&pair->b).status, BUS_NOT_OPEN);
    assert_int_equal(open_room(&pair->b, 0), BUS_OK); /* the store had nothing yet */
    assert_true(clock_monotonic_ms() - back >= GRACE_MS);
    answer = publish(&pair->b);
    assert_int_equal(answer.status, BUS_OK);
    assert_true(answer.message.seq >> 20 > before >> 20);
    until(pair, pair->a.records == 2 && pair->b.records == 2); /* subscriptions come back by themselves */
    answer = window(&pair->a, before - 1, UINT64_MAX, 10);
    assert_int_equal(answer.count, 1);
    assert_int_equal(answer.below, answer.seqs[0] - 1); /* all before is the store's */
}

static void test_after_a_loss_the_store_is_given_time_before_it_is_asked(void **state)
{
    struct pair *pair = *state;
    struct answer answer;
    uint64_t first;
    int64_t asked;

    open_and_subscribe(pair);
    first = publish(&pair->a).message.seq;
    until(pair, pair->a.records == 1);
    pair->config.failover_grace = 600;
    empty_redis(pair);
    asked = clock_monotonic_ms();
    answer = window(&pair->a, first - 1, first, 10);
    assert_true(clock_monotonic_ms() - asked >= 200);
    assert_int_equal(answer.status, BUS_NOT_OPEN);
    assert_int_equal(answer.below, first);
    assert_false(answer.pending);
}

/* FLUSHALL: the life goes on, and what was numbered a moment ago may be in no window and not in the store. */
static void test_an_emptied_redis_gives_the_store_time_though_its_life_goes_on(void **state)
{
    struct pair *pair = *state;
    struct answer answer;
    uint64_t before;
    int64_t emptied;

    pair->config.failover_grace = 1500;
    assert_int_equal(open_room(&pair->a, 0), BUS_OK);
    assert_int_equal(subscribe(&pair->a).status, BUS_OK);
    before = publish(&pair->a).message.seq;
    until(pair, pair->a.records == 1);
    run_for(pair, 1500); /* whatever is waited for now isn't the first start */
    redis_host_do(pair->redis, "FLUSHALL");
    emptied = clock_monotonic_ms();
    assert_int_equal(publish(&pair->a).status, BUS_NOT_OPEN);
    answer = window(&pair->b, before - 1, before, 10);
    assert_int_equal(answer.status, BUS_NOT_OPEN);
    assert_true(answer.pending);
    assert_true(clock_monotonic_ms() - emptied >= BUS_PENDING_MS);
    assert_int_equal(open_room(&pair->a, 0), BUS_OK); /* it has heard of numbers there */
    assert_in_range(clock_monotonic_ms() - emptied, 1500, 3000);
    assert_true(publish(&pair->a).message.seq >> 20 > before >> 20);
    redis_host_do(pair->redis, "FLUSHALL");
    emptied = clock_monotonic_ms();
    assert_int_equal(open_room(&pair->b, before), BUS_OK); /* it knows of them from the store alone */
    assert_true(clock_monotonic_ms() - emptied >= 1500);
}

static void test_a_room_that_is_gone_by_itself_is_opened_at_once(void **state)
{
    struct pair *pair = *state;
    int64_t began;
    struct answer answer;

    open_and_subscribe(pair);
    run_for(pair, GRACE_MS);
    redis_host_do(pair->redis, "DEL chatd:{0}:room:lobby");
    began = clock_monotonic_ms();
    answer = window(&pair->a, 5, 100, 10);
    assert_int_equal(answer.status, BUS_NOT_OPEN);
    assert_false(answer.pending);
    assert_int_equal(open_room(&pair->a, 5), BUS_OK);
    assert_true(clock_monotonic_ms() - began < GRACE_MS);
}

static void test_a_fresh_worker_waits_before_it_opens_what_the_store_knows(void **state)
{
    struct pair *pair = *state;
    int64_t began = clock_monotonic_ms();
    struct answer answer;

    stop(&pair->a);
    pair->config.failover_grace = 1000;
    start(&pair->a);
    assert_int_equal(open_room(&pair->a, 5000ULL << 40), BUS_OK);
    assert_true(clock_monotonic_ms() - began >= 1000);
    answer = publish(&pair->a);
    assert_int_equal(answer.message.seq, ((5000ULL << 20) + 2) << 20);
}

/* A replica that took over has the room, but under the life of the one before. */
static void test_what_is_pending_of_an_earlier_life_moves_to_a_new_number(void **state)
{
    struct pair *pair = *state;
    struct answer stored, first, again;

    open_and_subscribe(pair);
    stored = publish_key(&pair->a, "stored", false, false);
    first = publish_key(&pair->a, "k", false, false);
    settle(&pair->a, stored.message.seq, stored.message.seq);
    until(pair, pending(pair) == 1);
    redis_host_do(pair->redis, "HSET chatd:{0}:room:lobby life another");
    assert_int_equal(publish_key(&pair->b, "k", true, false).status, BUS_NOT_OPEN);
    again = window(&pair->b, 0, first.message.seq, 10);
    assert_int_equal(again.count, 0); /* all of it is the store's, and not all of it is there */
    assert_true(again.pending);
    assert_int_equal(open_room(&pair->b, 0), BUS_OK);
    again = publish_key(&pair->b, "k", true, false);
    assert_int_equal(again.status, BUS_OK);
    assert_true(again.message.seq >> 20 > first.message.seq >> 20);
    assert_int_equal(publish_key(&pair->b, "stored", true, false).status, BUS_DUPLICATE);
    assert_int_equal(pending(pair), 1);
    until(pair, pair->a.records == 3);
    assert_int_equal(bus_redis_stand(pair->a.bus, &first.message), BUS_MOVED);
    until(pair, bus_redis_stand(pair->a.bus, &again.message) == BUS_STANDS); /* once it hears Redis again */
}

/* The same in full: all data is there, but what it descends from is another now. */
static void test_a_failover_without_a_loss_moves_what_is_not_stored(void **state)
{
    struct pair *pair = *state;
    struct bus_publish again = PLAIN;
    struct answer stored, first, moved, page = {0};
    uint64_t base;

    open_and_subscribe(pair);
    stored = publish(&pair->a);
    first = publish(&pair->a);
    settle(&pair->a, stored.message.seq, stored.message.seq);
    until(pair, pair->b.records == 2);
    redis_host_do(pair->redis, "DEBUG CHANGE-REPL-ID");
    until(pair, pair->a.lost == 1 && pair->b.lost == 1);
    assert_int_equal(bus_redis_stand(pair->a.bus, &first.message), BUS_MOVED);
    bus_window(pair->b.bus, text("lobby"), stored.message.seq - 1, UINT64_MAX, 10, on_window, &page);
    again.uid = first.message.uid;
    again.instead_of = first.message.seq;
    assert_int_equal(publish_with(&pair->a, &again).status, BUS_NOT_OPEN);
    assert_int_equal(open_room(&pair->a, first.message.seq), BUS_OK);
    moved = publish_with(&pair->a, &again);
    assert_int_equal(moved.status, BUS_OK);
    assert_int_equal(pending(pair), 1);
    until(pair, page.calls == 1);
    base = (uint64_t)redis_host_number(pair->redis, "HGET chatd:{0}:room:lobby b");
    assert_int_equal(moved.message.seq, base + 1);
    assert_false(page.pending); /* it has waited for that */
    assert_int_equal(page.below, base); /* others may have been stored that this Redis doesn't have */
    assert_int_equal(page.count, 1);
    until(pair, pair->a.records == 3 && pair->b.records == 3);
}

static void lead_to(const char *path, const struct redis_host *redis)
{
    unlink(path);
    assert_int_equal(symlink(redis->socket, path), 0);
}

/* As with a name or a proxy: commands go to another server now, and the one before lives on. */
static void test_an_address_that_leads_to_another_server_takes_the_channels_along(void **state)
{
    struct pair *pair = *state;
    struct redis_host *second = redis_host_new(NULL, false);
    char path[128];
    uint64_t before;

    snprintf(path, sizeof(path), "%s/address", pair->redis->dir);
    lead_to(path, pair->redis);
    stop(&pair->a);
    stop(&pair->b);
    snprintf(pair->config.redis, sizeof(pair->config.redis), "unix://%s", path);
    start(&pair->a);
    start(&pair->b);
    open_and_subscribe(pair);
    before = publish(&pair->a).message.seq;
    until(pair, pair->a.records == 1 && pair->b.records == 1);
    lead_to(path, second);
    redis_host_do(pair->redis, "CLIENT KILL TYPE normal");
    until(pair, pair->a.lost > 0 && pair->b.lost > 0);
    until(pair, listeners(second) == 2);
    assert_int_equal(open_room(&pair->a, before), BUS_OK);
    assert_true(publish(&pair->a).message.seq > before);
    until(pair, pair->a.records == 2 && pair->b.records == 2);
    stop(&pair->a);
    stop(&pair->b);
    redis_host_free(second);
}

static bool unwanted(void *arg)
{
    (void)arg;
    return false;
}

static void test_while_redis_is_away_publishes_wait_and_the_unwanted_are_dropped(void **state)
{
    struct pair *pair = *state;
    struct bus_publish dropped = PLAIN;
    struct answer waits = {0}, goes = {0};

    open_and_subscribe(pair);
    dropped.wanted = unwanted;
    assert_int_equal(publish_with(&pair->a, &dropped).status, BUS_OK); /* it didn't have to wait */
    redis_host_kill(pair->redis);
    until(pair, !is_ok(&pair->a));
    bus_publish(pair->a.bus, &PLAIN, on_published, &waits);
    bus_publish(pair->a.bus, &dropped, on_published, &goes);
    assert_false(bus_emit(pair->a.bus, text("lobby"), text("ann"), text("{}")));
    run_for(pair, 100);
    assert_int_equal(waits.calls, 0);
    redis_host_restart(pair->redis, false);
    until(pair, waits.calls && goes.calls);
    assert_int_equal(waits.status, BUS_NOT_OPEN);
    assert_int_equal(goes.status, BUS_FAILED);
}

static void test_a_full_queue_and_a_full_redis_refuse(void **state)
{
    struct pair *pair = *state;
    struct answer answer = {0};

    open_and_subscribe(pair);
    publish(&pair->a);
    redis_host_do(pair->redis, "CONFIG SET maxmemory 1");
    assert_int_equal(publish(&pair->a).status, BUS_FULL);
    assert_int_equal(redis_host_number(pair->redis, "XLEN chatd:{0}:window:lobby"), 1);
    redis_host_do(pair->redis, "CONFIG SET maxmemory 0");
    until(pair, publish(&pair->a).status == BUS_OK);
    stop(&pair->a);
    pair->config.bus_queue_bytes = 100;
    start(&pair->a);
    bus_publish(pair->a.bus, &PLAIN, on_published, &answer);
    assert_int_equal(answer.calls, 1);
    assert_int_equal(answer.status, BUS_FULL);
}

static void test_closing_answers_what_is_still_open(void **state)
{
    struct pair *pair = *state;
    struct answer answers[5] = {0};
    int64_t began;

    open_and_subscribe(pair);
    redis_host_freeze(pair->redis);
    bus_publish(pair->a.bus, &PLAIN, on_published, &answers[0]);
    bus_open(pair->a.bus, text("den"), 0, on_status, &answers[1]);
    bus_subscribe(pair->a.bus, text("den"), on_subscribed, &answers[2]);
    bus_window(pair->a.bus, text("lobby"), 0, 100, 10, on_window, &answers[3]);
    turn(pair);
    bus_publish(pair->a.bus, &PLAIN, on_published, &answers[4]);
    began = clock_monotonic_ms();
    redis_host_close_bus(pair->a.bus, &pair->loop, 300);
    pair->a.bus = NULL;
    assert_in_range(clock_monotonic_ms() - began, 300, 1500);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(answers[i].calls, 1);
        assert_int_equal(answers[i].status, BUS_FAILED);
    }
    redis_host_thaw(pair->redis);
}

/* --- Lifetimes --- */

static void test_nothing_but_the_pending_list_lives_for_ever(void **state)
{
    struct pair *pair = *state;
    const int64_t window_ttl = pair->config.window_ttl, retry = pair->config.retry_window;
    const int64_t room_ttl = 7LL * 86400 * 1000;

    open_and_subscribe(pair);
    assert_in_range(redis_host_number(pair->redis, "PTTL chatd:{0}:room:lobby"), room_ttl, room_ttl + retry);
    publish_key(&pair->a, "k", false, false);
    publish(&pair->a);
    assert_in_range(redis_host_number(pair->redis, "PTTL chatd:{0}:room:lobby"), room_ttl, room_ttl + retry);
    assert_in_range(redis_host_number(pair->redis, "PTTL chatd:{0}:window:lobby"), window_ttl,
                    window_ttl + retry);
    assert_in_range(redis_host_number(pair->redis, "PTTL chatd:{0}:keys1:lobby"), retry, 2 * retry);
    assert_int_equal(redis_host_number(pair->redis, "EXISTS chatd:{0}:keys0:lobby"), 0);
}

/* --- Passing events --- */

static void test_events_reach_all_workers(void **state)
{
    struct pair *pair = *state;

    open_and_subscribe(pair);
    assert_true(bus_emit(pair->a.bus, text("lobby"), text("a b"), text("{\"x\": 1}")));
    until(pair, pair->a.events == 1 && pair->b.events == 1);
    assert_string_equal(pair->b.last_user, "a b");
    assert_string_equal(pair->b.last_event, "{\"x\": 1}");
}

static void test_what_no_chatd_says_is_dropped(void **state)
{
    struct pair *pair = *state;
    static const char *const ODD[] = {
        "",       "x", "m",    "m1",       "m {}",      "mx {}",
        "m-1 {}", "e", "e1 2", "e1 2 9 a", "e1 2 x {}", "m99999999999999999999999999 {}",
    };

    open_and_subscribe(pair);
    for (unsigned i = 0; i < sizeof(ODD) / sizeof(ODD[0]); i++)
        redis_host_do(pair->redis, "PUBLISH chatd:0:{0}:lobby %s", ODD[i]);
    publish(&pair->a);
    until(pair, pair->a.records == 1 && pair->b.records == 1);
    assert_int_equal(pair->a.events + pair->b.events, 0);
}

/* --- Shards, settings --- */

static void test_a_server_with_another_list_of_shards_is_refused(void **state)
{
    struct pair *pair = *state;
    struct redis_host *one = redis_host_new(NULL, true), *two = redis_host_new(NULL, true);
    struct bus_health health;
    struct answer answer;

    stop(&pair->a);
    stop(&pair->b);
    snprintf(pair->config.redis, sizeof(pair->config.redis), "redis://127.0.0.1:%d,redis://127.0.0.1:%d",
             one->port, two->port);
    start(&pair->a);
    until(pair, is_ok(&pair->a) && open_room(&pair->a, 0) == BUS_OK);
    assert_int_equal(publish(&pair->a).status, BUS_OK);
    stop(&pair->a); /* `config` is the bus's as long as it lives */
    snprintf(pair->config.redis, sizeof(pair->config.redis), "redis://127.0.0.1:%d,redis://127.0.0.1:%d",
             two->port, one->port);
    start(&pair->b);
    until(pair, (bus_health(pair->b.bus, &health), strstr(health.error, "another list")));
    assert_int_equal(subscribe(&pair->b).status, BUS_FAILED);
    answer = publish(&pair->b);
    assert_int_equal(answer.status, BUS_FAILED);
    redis_host_do(one, "DEL chatd:{0}:shards");
    redis_host_do(two, "DEL chatd:{0}:shards");
    until(pair, (bus_tick(pair->b.bus), is_ok(&pair->b)));
    assert_int_equal(open_room(&pair->b, 0), BUS_OK);
    stop(&pair->b);
    redis_host_free(one);
    redis_host_free(two);
}

static void refused_with(struct pair *pair, const char *redis)
{
    struct bus_health health;

    snprintf(pair->config.redis, sizeof(pair->config.redis), "%s", redis);
    start(&pair->b);
    until(pair, (bus_health(pair->b.bus, &health), strstr(health.error, "another list")));
    bus_tick(pair->b.bus);
    for (char name[] = "aaaaa"; name[4] <= 'z'; name[4]++) { /* on whichever shard */
        struct answer answer = {0};

        bus_open(pair->b.bus, text(name), 0, on_status, &answer);
        until(pair, answer.calls > 0);
        assert_int_equal(answer.status, BUS_FAILED);
    }
    stop(&pair->b);
}

static void test_one_shard_more_or_less_is_another_list(void **state)
{
    static const char *const CLUSTER[] = {"--cluster-enabled", "yes", NULL};
    struct pair *pair = *state;
    struct redis_host *one = redis_host_new(NULL, true), *two = redis_host_new(NULL, true);
    struct redis_host *three = redis_host_new(NULL, true), *node = redis_host_new(CLUSTER, true);
    char list[300];

    stop(&pair->a);
    stop(&pair->b);
    snprintf(pair->config.redis, sizeof(pair->config.redis), "redis://127.0.0.1:%d,redis://127.0.0.1:%d",
             one->port, two->port);
    start(&pair->a);
    until(pair, is_ok(&pair->a) && open_room(&pair->a, 0) == BUS_OK);
    stop(&pair->a);
    snprintf(list, sizeof(list), "redis://127.0.0.1:%d,redis://127.0.0.1:%d,redis://127.0.0.1:%d", one->port,
             two->port, three->port);
    refused_with(pair, list);
    snprintf(list, sizeof(list), "redis://127.0.0.1:%d", two->port);
    refused_with(pair, list);

    /* One server by two names is one list; a cluster's node is not a server by itself. */
    snprintf(pair->config.redis, sizeof(pair->config.redis), "redis://localhost:%d", three->port);
    redis_host_do(three, "FLUSHALL");
    start(&pair->a);
    until(pair, redis_host_number(three, "EXISTS chatd:{0}:shards"));
    stop(&pair->a);
    snprintf(pair->config.redis, sizeof(pair->config.redis), "unix://%s", three->socket);
    start(&pair->a);
    until(pair, is_ok(&pair->a) && open_room(&pair->a, 0) == BUS_OK);
    stop(&pair->a);
    redis_host_do(node, "CLUSTER ADDSLOTSRANGE 0 16383");
    snprintf(pair->config.redis, sizeof(pair->config.redis), "redis+cluster://127.0.0.1:%d", node->port);
    start(&pair->a);
    until(pair, is_ok(&pair->a) && open_room(&pair->a, 0) == BUS_OK);
    stop(&pair->a);
    snprintf(list, sizeof(list), "redis://127.0.0.1:%d", node->port);
    refused_with(pair, list);
    redis_host_free(one);
    redis_host_free(two);
    redis_host_free(three);
    redis_host_free(node);
}

static void test_a_user_without_rights_shows_in_health_until_it_has_them(void **state)
{
    struct pair *pair = *state;
    struct bus_health health;

    open_and_subscribe(pair);
    redis_host_do(pair->redis, "ACL SETUSER default resetkeys");
    until(pair, (bus_tick(pair->a.bus), bus_health(pair->a.bus, &health), strstr(health.error, "NOPERM")));
    run_for(pair, 300);
    assert_false(is_ok(&pair->a));
    redis_host_do(pair->redis, "ACL SETUSER default allkeys resetchannels");
    /* Redis hangs up on who listens where it may not. Rooms are gone when their joins failed. */
    bus_unsubscribe(pair->a.bus, text("lobby"));
    until(pair, (bus_tick(pair->a.bus), bus_health(pair->a.bus, &health),
                 strstr(health.error, "subscriptions at") && strstr(health.error, "NOPERM")));
    redis_host_do(pair->redis, "ACL SETUSER default allchannels");
    until(pair, (bus_tick(pair->a.bus), is_ok(&pair->a)));
}

static void test_a_cluster_has_a_slot_and_a_sharded_channel_per_partition(void **state)
{
    static const char *const CLUSTER[] = {"--cluster-enabled", "yes", NULL};
    struct pair *pair = *state;
    struct redis_host *node = redis_host_new(CLUSTER, true);
    struct answer answer;

    redis_host_do(node, "CLUSTER ADDSLOTSRANGE 0 16383");
    stop(&pair->a);
    stop(&pair->b);
    snprintf(pair->config.redis, sizeof(pair->config.redis), "redis+cluster://127.0.0.1:%d", node->port);
    start(&pair->a);
    start(&pair->b);
    until(pair, is_ok(&pair->a) && is_ok(&pair->b));
    open_and_subscribe(pair);
    answer = publish(&pair->a);
    assert_int_equal(answer.status, BUS_OK);
    until(pair, pair->a.records == 1 && pair->b.records == 1);
    assert_int_equal(window(&pair->b, 0, UINT64_MAX, 10).count, 1);
    assert_true(bus_emit(pair->a.bus, text("lobby"), text("ann"), text("{}")));
    until(pair, pair->b.events == 1);
    bus_settle(pair->a.bus, &answer.message, answer.message.seq);
    until(pair, redis_host_number(node, "EVAL %s 0", "return #redis.call('KEYS', '*:pending')") == 0);
    stop(&pair->a);
    stop(&pair->b);
    redis_host_free(node);
}

static void test_settings_that_cannot_work_are_refused(void **state)
{
    struct config config;
    char error[BUS_REDIS_ERROR_MAX];

    (void)state;
    config_defaults(&config);
    assert_false(bus_redis_wanted(&config));
    snprintf(config.redis, sizeof(config.redis), "redis://127.0.0.1");
    assert_true(bus_redis_wanted(&config));
    assert_true(bus_redis_check(&config, error) < 0);
    assert_non_null(strstr(error, "MONGODB_URI"));
    snprintf(config.store, sizeof(config.store), "mongodb://127.0.0.1");
    assert_int_equal(bus_redis_check(&config, error), 0);
    snprintf(config.redis, sizeof(config.redis), "http://127.0.0.1");
    assert_true(bus_redis_check(&config, error) < 0);
}

#define case_of(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        case_of(test_numbers_rise_by_one_and_all_workers_get_all_records),
        case_of(test_a_room_that_is_not_open_says_so),
        case_of(test_a_second_opener_takes_what_it_finds),
        case_of(test_a_subscription_that_is_given_up_on_its_way_is_answered),
        case_of(test_500_publishes_of_a_turn_are_one_write),
        case_of(test_a_key_in_the_window_is_a_duplicate),
        case_of(test_an_unknown_retry_is_asked_for_first),
        case_of(test_keys_are_known_for_one_to_two_times_of_the_retry_window),
        case_of(test_a_publish_carried_out_twice_has_its_first_number),
        case_of(test_a_lost_answer_does_not_number_a_message_twice),
        case_of(test_one_whose_record_is_cut_off_but_pending_is_not_published_again),
        case_of(test_settled_messages_are_not_pending),
        case_of(test_a_message_stored_under_another_number_leaves_the_window),
        case_of(test_a_void_number_is_taken_back),
        case_of(test_whether_a_number_stands),
        case_of(test_a_room_that_is_heard_anew_has_not_moved),
        case_of(test_a_window_in_all_its_bounds),
        case_of(test_what_was_cut_off_the_window_is_waited_for),
        case_of(test_pending_of_another_room_is_not_waited_for),
        case_of(test_after_a_restart_empty_a_room_is_opened_in_a_higher_block),
        case_of(test_after_a_loss_the_store_is_given_time_before_it_is_asked),
        case_of(test_an_emptied_redis_gives_the_store_time_though_its_life_goes_on),
        case_of(test_a_room_that_is_gone_by_itself_is_opened_at_once),
        case_of(test_a_fresh_worker_waits_before_it_opens_what_the_store_knows),
        case_of(test_what_is_pending_of_an_earlier_life_moves_to_a_new_number),
        case_of(test_a_failover_without_a_loss_moves_what_is_not_stored),
        case_of(test_an_address_that_leads_to_another_server_takes_the_channels_along),
        case_of(test_while_redis_is_away_publishes_wait_and_the_unwanted_are_dropped),
        case_of(test_a_full_queue_and_a_full_redis_refuse),
        case_of(test_closing_answers_what_is_still_open),
        case_of(test_nothing_but_the_pending_list_lives_for_ever),
        case_of(test_events_reach_all_workers),
        case_of(test_what_no_chatd_says_is_dropped),
        case_of(test_a_server_with_another_list_of_shards_is_refused),
        case_of(test_one_shard_more_or_less_is_another_list),
        case_of(test_a_user_without_rights_shows_in_health_until_it_has_them),
        case_of(test_a_cluster_has_a_slot_and_a_sharded_channel_per_partition),
        cmocka_unit_test(test_settings_that_cannot_work_are_refused),
    };

    return redis_host_run_all(tests);
}
