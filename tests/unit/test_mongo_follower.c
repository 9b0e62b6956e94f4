/* test_mongo_follower.c - without Redis: one writer per host follows the ring into MongoDB, and one host
 * per database. */
#include "mongo_host.h"

#include "bus/ring_layout.h"
#include "chatd/bus_log.h"
#include "store/mongo_follower.h"

enum { RING_BYTES = 1 << 20 };

static void ignore_record(void *arg, const struct message *message)
{
    (void)arg;
    (void)message;
}

static void ignore_event(void *arg, struct text room, struct text user, struct text event)
{
    (void)arg;
    (void)room;
    (void)user;
    (void)event;
}

static void ignore_lost(void *arg, struct text room)
{
    (void)arg;
    (void)room;
}

static void ignore_gone(void *arg, struct text room, struct text user, uint32_t members)
{
    (void)arg;
    (void)room;
    (void)user;
    (void)members;
}

static void ignore_orphan(void *arg, const struct message *message, bool stands)
{
    (void)arg;
    (void)message;
    (void)stands;
}

static void start(struct host *f)
{
    const struct bus_handler handler = {NULL,        ignore_record, ignore_event,
                                        ignore_lost, ignore_gone,   ignore_orphan};

    host_start(f);
    assert_int_equal(bus_log_new(&f->bus, &f->loop, f->ring, &handler, store_mongo_on_committed, f->store),
                     0);
}

/* `uri` NULL: a fresh database. */
static void open_follower(struct host *f, const char *uri)
{
    uint8_t id[RING_ID_SIZE];
    char error[RING_ERROR_MAX] = "";

    host_open(f, uri);
    store_mongo_id(&f->config, id);
    if (ring_open(&f->ring, f->dir, id, RING_BYTES, error) != 0)
        fail_msg("ring: %s", error);
    start(f);
}

static void stop(struct host *f, int patience_ms)
{
    store_mongo_close(f->store, patience_ms);
    f->store = NULL;
    bus_log_close(f->bus);
    f->bus = NULL;
    uv_run(&f->loop, UV_RUN_NOWAIT);
}

static void close_follower(struct host *f)
{
    struct ring *ring = f->ring;

    if (f->store)
        stop(f, 5000);
    host_close(f);
    unlink(ring_path(ring));
    ring_close(ring);
}

static struct message publish(struct host *f, const char *room, const char *user, struct text key)
{
    struct ring *ring = f->ring;
    struct ring_append append = {.kind = RING_MESSAGE,
                                 .room = text(room),
                                 .user = text(user),
                                 .key = key,
                                 .head = text("{\"seq\":"),
                                 .tail = text("}")};
    struct message message;
    uint8_t uid[MESSAGE_UID_SIZE];
    uint64_t position;

    assert_int_equal(getrandom(uid, sizeof(uid), 0), sizeof(uid));
    append.uid = uid;
    ring_lock(ring);
    position = ring_append(ring, roster_open(ring, append.room, 0), &append);
    assert_int_not_equal(position, 0);
    ring_record_message(ring_at(ring, position), position, &message);
    ring_unlock(ring);
    ring_kick(ring);
    message.room = append.room;
    message.user = append.user;
    message.key = append.key;
    return message;
}

static struct answer say(struct host *f, const char *room, const char *user, struct text key)
{
    struct message message = publish(f, room, user, key);

    return commit(f, &message);
}

static void test_the_ring_is_committed_in_order_and_keys_are_kept(void **state)
{
    struct answer first, second, again;
    struct host f;

    (void)state;
    need_server(false);
    open_follower(&f, NULL);
    first = say(&f, "a", "ana", text("key"));
    assert_int_equal(first.status, STORE_OK);
    second = say(&f, "a", "ana", NO_KEY);
    assert_answer(second, STORE_OK, first.seq + 1);
    again = say(&f, "a", "ana", text("key")); /* a retry that the window has forgotten */
    assert_answer(again, STORE_OK, first.seq);
    assert_int_equal(count_documents(&f, "messages"), 2);
    assert_true(is_healthy(&f));
    assert_answer(find(&f, "a", "ana", text("key"), NULL), STORE_OK, first.seq);
    close_follower(&f);
}

static void turn_numbers_back(struct host *f, const char *room)
{
    ring_lock(f->ring);
    f->ring->rooms[roster_find(f->ring, text(room))].seq--;
    ring_unlock(f->ring);
}

static void test_a_number_taken_by_another_message_is_given_anew(void **state)
{
    struct answer first, second;
    struct host f;

    (void)state;
    need_server(false);
    open_follower(&f, NULL);
    first = say(&f, "a", "ana", NO_KEY);
    turn_numbers_back(&f, "a");
    second = say(&f, "a", "bob", NO_KEY);
    assert_int_equal(second.status, STORE_OK);
    assert_true(second.seq > first.seq);
    assert_int_equal(count_documents(&f, "messages"), 2);
    close_follower(&f);
}

static void test_numbers_of_an_earlier_ring_are_not_given_again(void **state)
{
    struct answer last;
    struct host f;

    (void)state;
    need_server(false);
    open_follower(&f, NULL);
    last = say(&f, "a", "ana", NO_KEY);
    assert_answer(highest(&f, "a"), STORE_OK, last.seq + (1 << 20));
    assert_answer(highest(&f, "nowhere"), STORE_OK, 1 << 20);
    close_follower(&f);
}

static void test_a_frozen_server_delays_and_nothing_is_lost_or_doubled(void **state)
{
    struct answer answers[200] = {{0}};
    struct message messages[200];
    struct host f;

    (void)state;
    need_server(true);
    open_follower(&f, NULL);
    assert_int_equal(say(&f, "a", "ana", NO_KEY).status, STORE_OK);
    server_freeze();
    for (int i = 0; i < 200; i++) {
        messages[i] = publish(&f, "a", "ana", NO_KEY);
        store_commit(f.store, &messages[i], on_number, &answers[i]);
    }
    wait_until(&f, health_says(&f, "network"));
    assert_int_equal(answers[0].calls, 0);
    server_thaw();
    for (int i = 0; i < 200; i++) {
        wait_until(&f, answers[i].calls > 0);
        assert_answer(answers[i], STORE_OK, messages[i].seq);
    }
    wait_until(&f, is_healthy(&f));
    assert_int_equal(count_documents(&f, "messages"), 201);
    assert_int_equal(log_lines(&f, "mongodb_lost", "cause=network"), 1);
    assert_int_equal(log_lines(&f, "store_failed", ""), 0);
    close_follower(&f);
}

static void test_what_is_left_at_the_end_is_in_the_ring_for_the_next(void **state)
{
    struct answer stuck = {0};
    struct message message;
    struct host f;

    (void)state;
    need_server(true);
    open_follower(&f, NULL);
    assert_int_equal(say(&f, "a", "ana", NO_KEY).status, STORE_OK);
    server_kill();
    message = publish(&f, "a", "ana", NO_KEY);
    store_commit(f.store, &message, on_number, &stuck);
    stop(&f, 100);
    assert_answer(stuck, STORE_FAILED, 0);
    server_start();
    start(&f);
    assert_answer(commit(&f, &message), STORE_OK, message.seq);
    close_follower(&f);
}

/* The office passes between the workers of a host, and a restart takes it over: the lease is the host's. */
static void test_a_restart_need_not_wait_for_its_own_lease(void **state)
{
    struct host f;
    int64_t begin;

    (void)state;
    need_server(false);
    open_follower(&f, NULL);
    assert_int_equal(say(&f, "a", "ana", NO_KEY).status, STORE_OK);
    stop(&f, 5000);
    begin = clock_monotonic_ms();
    start(&f);
    assert_int_equal(say(&f, "a", "ana", NO_KEY).status, STORE_OK);
    assert_true(clock_monotonic_ms() - begin < MONGO_LEASE_MS / 2);
    close_follower(&f);
}

static void test_a_second_host_is_refused_until_the_first_is_gone(void **state)
{
    struct host first, second;
    struct answer answer = {0};
    struct message message;
    int64_t gone;

    (void)state;
    need_server(false);
    open_follower(&first, NULL);
    assert_int_equal(say(&first, "a", "ana", NO_KEY).status, STORE_OK);
    open_follower(&second, first.config.store);
    message = publish(&second, "b", "bob", NO_KEY);
    store_commit(second.store, &message, on_number, &answer);
    wait_until(&second, health_says(&second, "several hosts need redis"));
    assert_int_equal(say(&first, "a", "ana", NO_KEY).status, STORE_OK);
    assert_true(is_healthy(&first));
    assert_int_equal(answer.calls, 0);
    stop(&first, 5000);
    gone = clock_monotonic_ms();
    wait_until(&second, answer.calls > 0); /* when nobody has renewed it for long enough */
    assert_answer(answer, STORE_OK, message.seq);
    assert_true(clock_monotonic_ms() - gone > MONGO_LEASE_MS - 2 * MONGO_LEASE_RENEW_MS);
    wait_until(&second, is_healthy(&second));
    assert_int_equal(log_lines(&second, "mongodb_lost", "cause=lease"), 1);

    /* And the first one, coming back, finds it taken. */
    start(&first);
    message = publish(&first, "a", "ana", NO_KEY);
    answer = (struct answer){0};
    store_commit(first.store, &message, on_number, &answer);
    wait_until(&first, health_says(&first, "several hosts need redis"));
    assert_int_equal(answer.calls, 0);
    stop(&first, 0);
    assert_answer(answer, STORE_FAILED, 0);
    close_follower(&second);
    close_follower(&first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_ring_is_committed_in_order_and_keys_are_kept),
        cmocka_unit_test(test_a_number_taken_by_another_message_is_given_anew),
        cmocka_unit_test(test_numbers_of_an_earlier_ring_are_not_given_again),
        cmocka_unit_test(test_a_frozen_server_delays_and_nothing_is_lost_or_doubled),
        cmocka_unit_test(test_what_is_left_at_the_end_is_in_the_ring_for_the_next),
        cmocka_unit_test(test_a_restart_need_not_wait_for_its_own_lease),
        cmocka_unit_test(test_a_second_host_is_refused_until_the_first_is_gone),
    };

    return cmocka_run_group_tests(tests, server_set_up, server_tear_down);
}
