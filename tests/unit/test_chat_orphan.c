/* test_chat_orphan.c - messages whose number is void before they are stored, and messages whose publisher
 * is gone: stored once, under one number, and settled under the number that they were published under. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/chat_fake.h"

#define JOIN "{\"type\":\"join\",\"id\":1,\"room\":\"r\"}"
#define SAY "{\"type\":\"message\",\"id\":3,\"room\":\"r\",\"text\":\"hi\"}"
#define SAY_KEY "{\"type\":\"message\",\"id\":3,\"room\":\"r\",\"text\":\"hi\",\"key\":\"k\"}"

static struct world *world_with(struct conn **ana)
{
    struct world *w = world_new();

    room_of(w, "r")->open = true;
    *ana = sign_in(w, "ana");
    say(w, *ana, JOIN);
    turn(w);
    got(*ana);
    return w;
}

static const char *settled(struct world *w)
{
    buf_add(&w->settled, "", 1);
    w->settled.length = 0;
    return w->settled.data;
}

static void test_a_stored_message_is_settled_under_the_number_it_was_published_under(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    say(w, ana, SAY_KEY);
    w->conflict = 77;
    assert_string_equal(settled(w), "");
    settle(w);
    assert_string_equal(got(ana), "m1 ack=77#3");
    assert_string_equal(settled(w), "r/1 as 77 ");
    w->conflict = 0;
    say(w, ana, SAY_KEY); /* a duplicate: that it is stored is seen to again */
    settle(w);
    assert_string_equal(settled(w), "r/1 ");
    w->fails[CALL_COMMIT] = STORE_FAILED;
    say(w, ana, SAY);
    settle(w);
    assert_string_equal(settled(w), "");
    world_free(w);
}

static void test_a_message_whose_number_is_void_is_published_again(void **state)
{
    static const char *const commands[] = {SAY, SAY_KEY};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct conn *ana;
        struct world *w = world_with(&ana);
        const struct fake_record *records;
        int64_t counted = metrics_get(metrics_mine, messages_total);

        w->moved = 2;
        say(w, ana, commands[i]);
        settle(w);
        assert_string_equal(got(ana), "m1 m2 m3 ack=3#3");
        assert_int_equal(metrics_get(metrics_mine, messages_total), counted + 1);
        assert_string_equal(settled(w), "r/3 ");
        records = room_of(w, "r")->records;
        assert_memory_equal(records[2].uid, records[0].uid, MESSAGE_UID_SIZE);
        assert_false(records[0].committed || records[1].committed);
        assert_true(records[2].committed);
        world_free(w);
    }
}

static void test_a_duplicate_whose_number_is_void_is_published_again(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    w->fails[CALL_COMMIT] = STORE_FAILED;
    say(w, ana, SAY_KEY);
    settle(w);
    w->fails[CALL_COMMIT] = 0;
    got(ana);
    w->moved = 1;
    say(w, ana, SAY_KEY);
    settle(w);
    assert_string_equal(got(ana), "m2 ack=2#3");
    assert_string_equal(settled(w), "r/2 ");
    world_free(w);
}

static void test_a_number_that_is_void_again_and_again_is_given_up(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    w->moved = 100;
    say(w, ana, SAY);
    settle(w);
    assert_string_equal(got(ana), "m1 m2 m3 m4 m5 m6 error=unavailable+#3");
    world_free(w);
}

/* Members have seen it: it isn't dropped because its sender is gone. */
static void test_a_void_message_whose_sender_is_gone_is_published_again(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    w->asks = true;
    w->moved = 1;
    say(w, ana, SAY);
    hang_up(w, ana);
    settle(w);
    assert_int_equal(room_of(w, "r")->record_count, 2);
    assert_true(room_of(w, "r")->records[1].committed);
    world_free(w);
}

/* A record whose publisher died before it was stored. */
static struct message orphan(struct world *w, const char *key)
{
    struct fake_room *r = room_of(w, "r");
    struct buf bytes = BUF_INIT;
    struct message message;
    size_t head;

    proto_message_head(&bytes, (struct text){"r", 1});
    head = bytes.length;
    proto_message_tail(&bytes, (struct text){"eve", 3}, (struct text){"\"seq\":1,\"time\":1", 16},
                       (struct text){key, strlen(key)});
    fake_append(r, (struct text){"eve", 3}, (struct text){key, strlen(key)}, (struct text){bytes.data, head},
                (struct text){bytes.data + head, bytes.length - head});
    buf_deinit(&bytes);
    message = message_of(r, &r->records[r->record_count - 1]);
    message.user.data = "eve"; /* the records move */
    return message;
}

static void hand_up(struct world *w, const struct message *message, bool stands)
{
    w->bus.handler.on_orphan(w->bus.handler.arg, message, stands);
}

static void test_an_orphan_whose_number_stands_is_committed_under_it(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);
    struct message message = orphan(w, "");

    (void)state;
    turn(w);
    assert_string_equal(got(ana), "m1");
    w->fails[CALL_COMMIT] = STORE_FAILED;
    hand_up(w, &message, true);
    settle(w);
    assert_string_equal(settled(w), "");
    w->fails[CALL_COMMIT] = 0;
    hand_up(w, &message, true);
    assert_int_equal(waiting(w, CALL_COMMIT), 1);
    settle(w);
    assert_string_equal(settled(w), "r/1 ");
    assert_true(room_of(w, "r")->records[0].committed);
    assert_int_equal(room_of(w, "r")->record_count, 1);
    assert_string_equal(got(ana), "");
    world_free(w);
}

static void keep_text(struct conn *conn, const json_t *message)
{
    if (strcmp(member_text(message, "type"), "message") == 0)
        assert_string_equal(member_text(message, "text"), "\"seq\":1,\"time\":1");
    (void)conn;
}

static void test_an_orphan_whose_number_is_void_is_published_again(void **state)
{
    static const char *const keys[] = {"", "k"};

    (void)state;
    for (int i = 0; i < 4; i++) {
        struct conn *ana;
        struct world *w = world_with(&ana);
        struct message message = orphan(w, keys[i / 2]);
        const struct fake_record *records;
        int64_t counted = metrics_get(metrics_mine, messages_total);

        ana->on_message = keep_text;
        w->moved = i % 2; /* it may also be the store that finds its number void */
        hand_up(w, &message, i % 2 == 1);
        settle(w);
        assert_string_equal(got(ana), "m1 m2");
        assert_string_equal(settled(w), "r/2 ");
        records = room_of(w, "r")->records;
        assert_memory_equal(records[1].uid, records[0].uid, MESSAGE_UID_SIZE);
        assert_true(!records[0].committed && records[1].committed);
        assert_int_equal(metrics_get(metrics_mine, messages_total), counted);
        /* It comes a second time, from a worker that had it too. */
        hand_up(w, &message, false);
        settle(w);
        assert_int_equal(room_of(w, "r")->record_count, 2);
        assert_string_equal(settled(w), "r/2 ");
        world_free(w);
    }
}

static void test_an_orphan_that_the_store_has_is_only_settled(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);
    struct message message = orphan(w, "k");

    (void)state;
    room_of(w, "r")->records[0].committed = true;
    room_of(w, "r")->window_from = 2;
    hand_up(w, &message, false);
    settle(w);
    assert_int_equal(room_of(w, "r")->record_count, 1);
    assert_string_equal(settled(w), "r/1 ");
    world_free(w);
}

static void test_only_so_many_orphans_are_in_work(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);
    struct message message = orphan(w, "");

    (void)state;
    for (int i = 0; i < 1100; i++)
        hand_up(w, &message, true);
    assert_int_equal(waiting(w, CALL_COMMIT), 1000);
    settle(w);
    hand_up(w, &message, true);
    assert_int_equal(waiting(w, CALL_COMMIT), 1);
    world_free(w);
}

struct done {
    unsigned count;
    enum store_status status;
    uint64_t seq;
};

static void on_done(void *arg, enum store_status status, uint64_t seq)
{
    struct done *done = arg;

    done->count++;
    done->status = status;
    done->seq = seq;
}

static void test_a_spooled_message_is_found_in_the_window_or_the_store_or_is_published(void **state)
{
    static const char *const keys[] = {"", "k"};

    (void)state;
    for (int i = 0; i < 6; i++) {
        bool in_store = i % 3 == 1, nowhere = i % 3 == 2;
        struct conn *ana;
        struct world *w = world_with(&ana);
        struct message message = orphan(w, keys[i / 3]);
        struct done done = {0};

        room_of(w, "r")->records[0].committed = in_store;
        if (in_store || nowhere)
            room_of(w, "r")->window_from = 2;
        chat_spooled(w->chat, &message, on_done, &done);
        settle(w);
        assert_int_equal(done.count, 1);
        assert_int_equal(done.status, STORE_OK);
        assert_int_equal(done.seq, nowhere ? 2 : 1);
        assert_int_equal(room_of(w, "r")->record_count, nowhere ? 2 : 1);
        assert_string_equal(settled(w), nowhere ? "r/2 " : "r/1 ");
        world_free(w);
    }
}

static void test_a_spooled_message_that_cannot_be_stored_is_said_so_once(void **state)
{
    static const struct {
        enum call_kind kind;
        int status;
        enum store_status expected;
    } cases[] = {
        {CALL_PUBLISH, BUS_FULL, STORE_BUSY},      {CALL_PUBLISH, BUS_FAILED, STORE_FAILED},
        {CALL_PUBLISH, BUS_NOT_OPEN, STORE_FAILED}, {CALL_FIND, STORE_FAILED, STORE_FAILED},
        {CALL_COMMIT, STORE_BUSY, STORE_BUSY},     {CALL_COMMIT, STORE_MOVED, STORE_FAILED},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct conn *ana;
        struct world *w = world_with(&ana);
        struct message message = orphan(w, "k");
        struct done done = {0};

        room_of(w, "r")->window_from = 2;
        w->fails[cases[i].kind] = cases[i].status;
        chat_spooled(w->chat, &message, on_done, &done);
        settle(w);
        assert_int_equal(done.count, 1);
        assert_int_equal(done.status, cases[i].expected);
        w->fails[cases[i].kind] = 0;
        world_free(w);
    }
}

static void test_an_event_that_is_none_of_ours_is_not_published(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);
    struct message message = orphan(w, "k");
    struct done done = {0};

    (void)state;
    message.seq = 9;
    chat_spooled(w->chat, &message, on_done, &done);
    assert_int_equal(done.count, 1);
    assert_int_equal(done.status, STORE_FAILED);
    message.event = (struct text){NULL, 0};
    chat_spooled(w->chat, &message, on_done, &done);
    assert_int_equal(done.count, 2);
    hand_up(w, &message, false);
    settle(w);
    assert_int_equal(room_of(w, "r")->record_count, 1);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stored_message_is_settled_under_the_number_it_was_published_under),
        cmocka_unit_test(test_a_message_whose_number_is_void_is_published_again),
        cmocka_unit_test(test_a_duplicate_whose_number_is_void_is_published_again),
        cmocka_unit_test(test_a_number_that_is_void_again_and_again_is_given_up),
        cmocka_unit_test(test_a_void_message_whose_sender_is_gone_is_published_again),
        cmocka_unit_test(test_an_orphan_whose_number_stands_is_committed_under_it),
        cmocka_unit_test(test_an_orphan_whose_number_is_void_is_published_again),
        cmocka_unit_test(test_an_orphan_that_the_store_has_is_only_settled),
        cmocka_unit_test(test_only_so_many_orphans_are_in_work),
        cmocka_unit_test(test_a_spooled_message_is_found_in_the_window_or_the_store_or_is_published),
        cmocka_unit_test(test_a_spooled_message_that_cannot_be_stored_is_said_so_once),
        cmocka_unit_test(test_an_event_that_is_none_of_ours_is_not_published),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
