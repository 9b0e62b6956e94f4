/* test_chat_room.c - what members of a room get: order and gaps, one frame per turn, presence, typing,
 * history. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/chat_fake.h"

#define JOIN "{\"type\":\"join\",\"id\":1,\"room\":\"r\"}"
#define LEAVE "{\"type\":\"leave\",\"id\":2,\"room\":\"r\"}"
#define TYPING "{\"type\":\"typing\",\"room\":\"r\",\"on\":true}"
#define HISTORY "{\"type\":\"history\",\"id\":4,\"room\":\"r\"}"

static void fill(struct world *w, unsigned count)
{
    while (count-- > 0)
        other_says(w, "r", "hi");
}

/* `count` messages are there; ana has joined. */
static struct world *world_with(unsigned count, struct conn **ana)
{
    struct world *w = world_new();

    room_of(w, "r")->open = true;
    fill(w, count);
    *ana = sign_in(w, "ana");
    say(w, *ana, JOIN);
    turn(w);
    got(*ana);
    return w;
}

/* The record again, as the bus may bring it. */
static void bring(struct world *w, uint64_t seq)
{
    struct fake_room *r = room_of(w, "r");
    struct message message = message_of(r, &r->records[seq - 1]);

    w->bus.handler.on_record(w->bus.handler.arg, &message);
}

static void test_a_record_twice_is_delivered_once(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    fill(w, 2);
    turn(w);
    bring(w, 4);
    bring(w, 5);
    bring(w, 2);
    turn(w);
    assert_string_equal(got(ana), "m4+m5");
    world_free(w);
}

static void test_a_gap_is_filled_from_the_window(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    fill(w, 3);
    lose(w);
    fill(w, 1);
    turn(w);
    assert_string_equal(got(ana), "m4+m5+m6+m7");
    assert_int_equal(waiting(w, CALL_KINDS), 0);
    world_free(w);
}

static void test_a_gap_is_filled_from_the_store_and_newer_ones_wait(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    fill(w, 3);
    lose(w);
    fill(w, 1);
    room_of(w, "r")->window_from = 6;
    turn(w);
    fill(w, 2);
    turn(w);
    assert_string_equal(got(ana), "");
    assert_true(let_go(w, CALL_PAGE));
    turn(w);
    assert_string_equal(got(ana), "m4+m5+m6+m7+m8+m9");
    world_free(w);
}

static void test_a_number_that_turned_out_void_ends_the_catch_up(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);
    struct fake_room *r = room_of(w, "r");

    (void)state;
    w->hold[CALL_WINDOW] = true;
    fill(w, 3);
    lose(w);
    bring(w, 5);
    r->records[4].seq = 4; /* the record moved: nobody finds 5 any more */
    assert_true(let_go(w, CALL_WINDOW));
    assert_int_equal(waiting(w, CALL_KINDS), 0);
    r->records[4].seq = 5;
    world_free(w);
}

static void test_too_far_behind_closes_the_members_and_the_room_goes_on(void **state)
{
    struct conn *ana, *bob;
    struct world *w = world_with(3, &ana);

    (void)state;
    fill(w, 10001);
    lose(w);
    fill(w, 1);
    turn(w);
    assert_string_equal(got(ana), "");
    assert_int_equal(ana->reason, CLOSE_SLOW);
    bob = sign_in(w, "bob");
    say(w, bob, JOIN);
    fill(w, 1);
    turn(w);
    assert_string_equal(got(bob), "joined=10005[]#1 m10006");
    hang_up(w, ana);
    world_free(w);
}

/* Time passes for a room that can't catch up. */
static void pass(struct world *w, int64_t ms)
{
    w->chat->rooms->behind_ms -= ms;
    chat_tick(w->chat);
    turn(w);
}

static void test_a_catch_up_that_fails_keeps_the_members_and_is_tried_again(void **state)
{
    static const struct {
        enum call_kind kind;
        int status;
    } cases[] = {{CALL_PAGE, STORE_FAILED}, {CALL_PAGE, STORE_BUSY}, {CALL_WINDOW, BUS_FAILED}};

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct conn *ana, *bob;
        struct world *w = world_with(3, &ana);

        fill(w, 3);
        lose(w);
        fill(w, 1);
        room_of(w, "r")->window_from = 6;
        w->fails[cases[i].kind] = cases[i].status;
        turn(w);
        let_go(w, CALL_PAGE);
        bob = sign_in(w, "bob");
        say(w, bob, JOIN);
        assert_string_equal(got(bob), "joined=3[]#1");
        for (int tick = 0; tick < 3; tick++) {
            chat_tick(w->chat);
            let_go(w, CALL_PAGE);
            fill(w, 1);
            turn(w);
            got(bob);
            assert_null(strstr(got(ana), "m"));
        }
        assert_false(ana->closing || bob->closing);
        w->fails[cases[i].kind] = 0;
        chat_tick(w->chat);
        assert_true(let_go(w, CALL_PAGE));
        turn(w);
        assert_string_equal(got(ana), "m4+m5+m6+m7+m8+m9+m10");
        assert_string_equal(got(bob), "m4+m5+m6+m7+m8+m9+m10");
        assert_int_equal(waiting(w, CALL_KINDS), 0);
        world_free(w);
    }
}

/* Without the bus there is nothing to go on with. */
static void test_a_room_waits_for_the_bus_as_long_as_it_takes(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    w->fails[CALL_WINDOW] = BUS_FAILED;
    fill(w, 2);
    lose(w);
    w->bus.handler.on_lost(w->bus.handler.arg, NOBODY);
    for (int i = 0; i < 10; i++)
        pass(w, 1000);
    assert_string_equal(got(ana), "");
    w->fails[CALL_WINDOW] = 0;
    pass(w, 1000);
    assert_string_equal(got(ana), "m4+m5");
    assert_int_equal(waiting(w, CALL_KINDS), 0);
    world_free(w);
}

enum { BLOCK = 1 << 20 };

/* After a failover: the room's numbers go on in a new block, and the window begins with it. */
static void open_anew(struct world *w)
{
    struct fake_room *r = room_of(w, "r");

    r->seq = BLOCK - 1;
    r->window_from = BLOCK;
}

static void test_a_room_that_was_opened_anew_goes_on_while_the_store_is_frozen(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    ana->gaps = true;
    open_anew(w);
    fill(w, 1);
    turn(w);
    assert_int_equal(waiting(w, CALL_PAGE), 1);
    fill(w, 1);
    turn(w);
    pass(w, 1000);
    assert_string_equal(got(ana), "");
    pass(w, 1000);
    assert_string_equal(got(ana), "m1048576+m1048577");
    fill(w, 1);
    turn(w);
    assert_string_equal(got(ana), "m1048578");
    assert_int_equal(waiting(w, CALL_KINDS), 1);
    assert_true(let_go(w, CALL_PAGE)); /* too late */
    fill(w, 1);
    turn(w);
    assert_string_equal(got(ana), "m1048579");
    assert_false(ana->closing);
    world_free(w);
}

static void test_a_room_that_was_opened_anew_goes_on_while_the_store_fails(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    ana->gaps = true;
    open_anew(w);
    w->fails[CALL_PAGE] = STORE_FAILED;
    fill(w, 1);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(got(ana), "");
        turn(w);
        assert_true(let_go(w, CALL_PAGE));
        pass(w, 1000);
    }
    assert_string_equal(got(ana), "m1048576");
    fill(w, 1);
    settle(w);
    assert_string_equal(got(ana), "m1048577");
    world_free(w);
}

/* With an answer of the store in time nothing is missing. */
static void test_a_room_that_was_opened_anew_asks_the_store_first(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    ana->gaps = true; /* the jump */
    fill(w, 1);
    lose(w);
    open_anew(w);
    fill(w, 1);
    turn(w);
    pass(w, 1000);
    assert_true(let_go(w, CALL_PAGE));
    turn(w);
    assert_string_equal(got(ana), "m4+m1048576");
    world_free(w);
}

/* With nothing newer in the window nobody is held up, and the store is waited for. */
static void test_nothing_is_skipped_while_nothing_newer_is_known(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    fill(w, 2);
    lose(w);
    room_of(w, "r")->window_from = 6;
    w->bus.handler.on_lost(w->bus.handler.arg, NOBODY);
    for (int i = 0; i < 10; i++)
        pass(w, 1000);
    assert_int_equal(waiting(w, CALL_KINDS), 1);
    assert_true(let_go(w, CALL_PAGE));
    turn(w);
    assert_string_equal(got(ana), "m4+m5");
    world_free(w);
}

static void test_the_last_member_goes_while_the_room_cannot_catch_up(void **state)
{
    struct conn *ana, *eve;
    struct world *w = world_with(3, &ana);

    (void)state;
    eve = sign_in(w, "eve");
    fill(w, 3);
    lose(w);
    room_of(w, "r")->window_from = 6;
    w->fails[CALL_PAGE] = STORE_FAILED;
    fill(w, 1);
    turn(w);
    say(w, eve, "{\"type\":\"join\",\"id\":1,\"room\":\"r\",\"since\":1}");
    assert_true(let_go(w, CALL_PAGE));
    w->fails[CALL_PAGE] = 0;
    hang_up(w, ana);
    chat_tick(w->chat);
    settle(w);
    assert_string_equal(got(eve), "joined=7[2 3 4 5 6 7]#1");
    fill(w, 1);
    turn(w);
    assert_string_equal(got(eve), "m8");
    world_free(w);
}

/* Nobody but its join holds the room by then. */
static void test_who_waits_for_a_catch_up_hangs_up(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    fill(w, 2);
    lose(w);
    w->hold[CALL_WINDOW] = true;
    say(w, ana, "{\"type\":\"join\",\"id\":1,\"room\":\"r\",\"since\":5}");
    assert_true(let_go(w, CALL_WINDOW)); /* its record is there: this worker is behind */
    w->fails[CALL_WINDOW] = BUS_FAILED;
    assert_true(let_go(w, CALL_WINDOW));
    assert_int_equal(waiting(w, CALL_KINDS), 0);
    hang_up(w, ana);
    assert_non_null(w->chat->rooms);
    chat_tick(w->chat);
    assert_null(w->chat->rooms);
    world_free(w);
}

static void test_one_room_is_caught_up_when_its_records_are_lost(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    room_of(w, "s")->open = true;
    say(w, ana, "{\"type\":\"join\",\"id\":1,\"room\":\"s\"}");
    turn(w);
    got(ana);
    fill(w, 1);
    other_says(w, "s", "hi");
    lose(w);
    w->bus.handler.on_lost(w->bus.handler.arg, (struct text){"s", 1});
    w->bus.handler.on_lost(w->bus.handler.arg, (struct text){"nobody", 6});
    turn(w);
    assert_string_equal(got(ana), "m1");
    world_free(w);
}

static void test_lost_records_are_caught_up_also_when_lost_during_a_catch_up(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    room_of(w, "r")->window_from = 6;
    fill(w, 2);
    lose(w);
    w->bus.handler.on_lost(w->bus.handler.arg, NOBODY);
    assert_int_equal(waiting(w, CALL_PAGE), 1);
    fill(w, 1);
    lose(w);
    w->bus.handler.on_lost(w->bus.handler.arg, NOBODY);
    assert_true(let_go(w, CALL_PAGE));
    turn(w);
    assert_string_equal(got(ana), "m4+m5+m6");
    assert_int_equal(waiting(w, CALL_KINDS), 0);
    world_free(w);
}

static void test_the_last_member_goes_during_a_catch_up(void **state)
{
    struct conn *ana;
    struct world *w = world_with(3, &ana);

    (void)state;
    room_of(w, "r")->window_from = 6;
    fill(w, 2);
    lose(w);
    w->bus.handler.on_lost(w->bus.handler.arg, NOBODY);
    hang_up(w, ana);
    assert_non_null(w->chat->rooms);
    assert_int_equal(room_of(w, "r")->unsubscribed, 0);
    settle(w);
    assert_null(w->chat->rooms);
    assert_int_equal(room_of(w, "r")->unsubscribed, 1);
    world_free(w);
}

static void test_a_turn_is_one_frame_for_those_who_were_members_then(void **state)
{
    struct conn *ana, *bob, *eve;
    struct world *w = world_with(3, &ana);

    (void)state;
    bob = sign_in(w, "bob");
    eve = sign_in(w, "eve");
    say(w, bob, JOIN);
    turn(w);
    got(ana), got(bob);
    fill(w, 2);
    for (int i = 4; i <= 5; i++)
        bring(w, (uint64_t)i);
    lose(w);
    say(w, eve, JOIN);
    got(eve);
    fill(w, 1);
    bring(w, 6);
    lose(w);
    say(w, bob, LEAVE);
    fill(w, 1);
    bring(w, 7);
    lose(w);
    say(w, ana, "{\"type\":\"join\",\"id\":3,\"room\":\"r\",\"since\":7}");
    fill(w, 1);
    turn(w);
    assert_string_equal(got(ana), "m4+m5 m6 m7 joined=7[]#3 join:eve/2 leave:bob/2 m8");
    assert_string_equal(got(bob), "m4+m5 m6 left#2");
    assert_string_equal(got(eve), "m6 m7 leave:bob/2 m8");
    world_free(w);
}

static void test_a_turn_larger_than_a_frame_is_cut_between_messages(void **state)
{
    struct conn *ana;
    struct world *w = world_with(0, &ana);
    char text[4001];

    (void)state;
    memset(text, 'x', 4000);
    text[4000] = 0;
    for (int i = 0; i < 20; i++)
        other_says(w, "r", text);
    ana->frames = 0;
    turn(w);
    assert_int_equal(ana->frames, 2);
    assert_non_null(strstr(got(ana), "m16 m17"));
    world_free(w);
}

static void test_presence_is_told_up_to_its_limit_and_counted_beyond(void **state)
{
    struct conn *ana, *bob;
    struct world *w = world_with(0, &ana);

    (void)state;
    bob = sign_in(w, "bob");
    w->config.presence_limit = 3;
    room_of(w, "r")->others = 1;
    say(w, bob, JOIN);
    turn(w);
    assert_string_equal(got(ana), "join:bob/3");
    say(w, bob, LEAVE);
    room_of(w, "r")->others = 2;
    turn(w);
    assert_string_equal(got(ana), "leave:bob/3"); /* the count of the moment it is told */
    say(w, bob, JOIN);
    turn(w);
    chat_tick(w->chat);
    chat_tick(w->chat);
    assert_string_equal(got(ana), "count/4");
    room_of(w, "r")->others = 9;
    chat_tick(w->chat);
    assert_string_equal(got(ana), "count/11");
    room_of(w, "r")->others = 2;
    say(w, bob, LEAVE);
    turn(w);
    chat_tick(w->chat);
    assert_string_equal(got(ana), "leave:bob/3");
    world_free(w);
}

static void test_typing_reaches_others_but_neither_the_sender_nor_slow_readers(void **state)
{
    struct conn *ana, *bob, *other;
    struct world *w = world_with(0, &ana);
    int64_t told, dropped;

    (void)state;
    bob = sign_in(w, "bob");
    other = sign_in(w, "ana");
    say(w, bob, JOIN);
    say(w, other, JOIN);
    turn(w);
    got(ana), got(bob), got(other);
    say(w, ana, TYPING);
    turn(w);
    assert_string_equal(got(ana), "");
    assert_string_equal(got(other), "");
    assert_string_equal(got(bob), "on:ana");
    told = metrics_get(metrics_mine, typing_events_total);
    dropped = metrics_get(metrics_mine, events_dropped_total);
    bob->queued = (size_t)w->config.send_queue_bytes / 4 + 1;
    say(w, ana, TYPING);
    turn(w);
    assert_string_equal(got(bob), "");
    assert_int_equal(metrics_get(metrics_mine, events_dropped_total), dropped + 1);
    bob->queued = 0;
    say(w, ana, TYPING);
    turn(w);
    assert_string_equal(got(bob), "on:ana");
    assert_int_equal(metrics_get(metrics_mine, typing_events_total), told + 1);
    assert_int_equal(metrics_get(metrics_mine, events_dropped_total), dropped + 1);
    w->config.presence_limit = 1;
    say(w, ana, TYPING);
    turn(w);
    assert_string_equal(got(bob), "");
    world_free(w);
}

static void test_history_is_pages_of_window_and_store(void **state)
{
    static const struct {
        const char *members, *answer;
    } cases[] = {
        {"", "history[4 5 6 7 8]...#4"},
        {",\"limit\":3", "history[6 7 8]...#4"},
        {",\"limit\":1000", "history[4 5 6 7 8]...#4"},
        {",\"before\":4", "history[1 2 3]#4"},
        {",\"before\":7,\"limit\":2", "history[5 6]...#4"},
        {",\"before\":1", "history[]#4"},
        {",\"before\":0", "history[]#4"},
        {",\"before\":9007199254740991,\"limit\":1", "history[8]...#4"},
        {",\"limit\":0", "error=bad_request#4"},
    };
    struct world *w = world_new();
    struct conn *ana = sign_in(w, "ana");

    (void)state;
    fill(w, 8);
    w->config.history_limit = 5;
    for (uint64_t from = 1; from <= 9; from++) {
        room_of(w, "r")->window_from = from;
        room_of(w, "r")->open = from < 9;
        for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
            char text[128];

            snprintf(text, sizeof(text), "{\"type\":\"history\",\"id\":4,\"room\":\"r\"%s}",
                     cases[i].members);
            say(w, ana, text);
            settle(w);
            assert_string_equal(got(ana), cases[i].answer);
        }
    }
    world_free(w);
}

static void test_history_behind_others_is_trimmed_but_never_empty(void **state)
{
    struct world *w = world_new();
    struct conn *ana = sign_in(w, "ana");
    char text[1001];

    (void)state;
    memset(text, 'x', 1000);
    text[1000] = 0;
    for (int i = 0; i < 10; i++)
        other_says(w, "r", text);
    w->config.send_queue_bytes = 8192;
    say(w, ana, HISTORY);
    assert_string_equal(got(ana), "history[1 2 3 4 5 6 7 8 9 10]#4");
    ana->queued = 1;
    say(w, ana, HISTORY);
    assert_string_equal(got(ana), "history[8 9 10]...#4");
    w->config.send_queue_bytes = 1000;
    say(w, ana, HISTORY);
    assert_string_equal(got(ana), "history[10]...#4");
    world_free(w);
}

static void keep_users(struct conn *conn, const json_t *message)
{
    const json_t *users = json_object_get(message, "users");

    if (users)
        assert_int_equal(json_array_size(users), (size_t)conn->id);
}

static void test_members_are_listed_for_anybody_who_asks(void **state)
{
    struct conn *ana, *bob;
    struct world *w = world_with(0, &ana);

    (void)state;
    bob = sign_in(w, "bob"); /* the second connection, as many as there are members */
    say(w, sign_in(w, "bob"), JOIN);
    bob->on_message = keep_users;
    say(w, bob, "{\"type\":\"members\",\"id\":1,\"room\":\"r\"}");
    assert_string_equal(got(bob), "members#1");
    say(w, ana, "{\"type\":\"members\",\"id\":1,\"room\":\"nobody\"}");
    assert_string_equal(got(ana), "members#1");
    world_free(w);
}

static void test_rooms_with_bytes_of_this_turn_are_freed_in_any_order(void **state)
{
    struct conn *ana;
    struct world *w = world_with(0, &ana);

    (void)state;
    for (int i = 0; i < 6; i++) {
        char text[80];

        snprintf(text, sizeof(text), "{\"type\":\"%s\",\"room\":\"%d\",\"text\":\"x\"}",
                 i < 3 ? "join" : "message", i % 3);
        say(w, ana, text);
        if (i < 3)
            settle(w);
    }
    for (struct fake_room *r = w->rooms; r; r = r->next)
        for (size_t i = 0; i < r->record_count; i++) {
            struct message message = message_of(r, &r->records[i]);

            w->bus.handler.on_record(w->bus.handler.arg, &message);
        }
    lose(w);
    say(w, ana, "{\"type\":\"leave\",\"room\":\"1\"}");
    assert_string_equal(got(ana), "m1");
    say(w, ana, "{\"type\":\"leave\",\"room\":\"0\"}");
    turn(w);
    assert_string_equal(got(ana), "m1 m1");
    world_free(w);
}

static void test_look_ups_whose_asker_is_gone_or_whose_store_is_away(void **state)
{
    struct world *w = world_new();
    struct conn *ana = sign_in(w, "ana"), *bob = sign_in(w, "bob");

    (void)state;
    say(w, ana, HISTORY);
    say(w, bob, HISTORY);
    say(w, bob, "{\"type\":\"history\",\"room\":\"r\"}");
    say(w, bob, "{\"type\":\"rooms\",\"id\":5}");
    say(w, bob, "{\"type\":\"members\",\"id\":6,\"room\":\"r\"}");
    hang_up(w, ana);
    w->fails[CALL_PAGE] = STORE_BUSY;
    settle(w);
    assert_string_equal(got(bob), "members#6 error=overloaded+#4 error=overloaded+ rooms#5");
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_record_twice_is_delivered_once),
        cmocka_unit_test(test_a_gap_is_filled_from_the_window),
        cmocka_unit_test(test_a_gap_is_filled_from_the_store_and_newer_ones_wait),
        cmocka_unit_test(test_a_number_that_turned_out_void_ends_the_catch_up),
        cmocka_unit_test(test_too_far_behind_closes_the_members_and_the_room_goes_on),
        cmocka_unit_test(test_a_catch_up_that_fails_keeps_the_members_and_is_tried_again),
        cmocka_unit_test(test_a_room_waits_for_the_bus_as_long_as_it_takes),
        cmocka_unit_test(test_a_room_that_was_opened_anew_goes_on_while_the_store_is_frozen),
        cmocka_unit_test(test_a_room_that_was_opened_anew_goes_on_while_the_store_fails),
        cmocka_unit_test(test_a_room_that_was_opened_anew_asks_the_store_first),
        cmocka_unit_test(test_nothing_is_skipped_while_nothing_newer_is_known),
        cmocka_unit_test(test_the_last_member_goes_while_the_room_cannot_catch_up),
        cmocka_unit_test(test_who_waits_for_a_catch_up_hangs_up),
        cmocka_unit_test(test_one_room_is_caught_up_when_its_records_are_lost),
        cmocka_unit_test(test_lost_records_are_caught_up_also_when_lost_during_a_catch_up),
        cmocka_unit_test(test_the_last_member_goes_during_a_catch_up),
        cmocka_unit_test(test_a_turn_is_one_frame_for_those_who_were_members_then),
        cmocka_unit_test(test_a_turn_larger_than_a_frame_is_cut_between_messages),
        cmocka_unit_test(test_presence_is_told_up_to_its_limit_and_counted_beyond),
        cmocka_unit_test(test_typing_reaches_others_but_neither_the_sender_nor_slow_readers),
        cmocka_unit_test(test_history_is_pages_of_window_and_store),
        cmocka_unit_test(test_history_behind_others_is_trimmed_but_never_empty),
        cmocka_unit_test(test_members_are_listed_for_anybody_who_asks),
        cmocka_unit_test(test_rooms_with_bytes_of_this_turn_are_freed_in_any_order),
        cmocka_unit_test(test_look_ups_whose_asker_is_gone_or_whose_store_is_away),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
