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

/* Who comes while the room has members that are about to go isn't closed for the same gap. */
static void test_a_gap_that_the_store_cannot_fill_closes_the_members_once(void **state)
{
    struct conn *ana, *bob, *eve;
    struct world *w = world_with(3, &ana);

    (void)state;
    bob = sign_in(w, "bob");
    eve = sign_in(w, "eve");
    fill(w, 3);
    lose(w);
    fill(w, 1);
    room_of(w, "r")->window_from = 6;
    w->fails[CALL_PAGE] = STORE_FAILED;
    turn(w);
    say(w, bob, JOIN);
    assert_true(let_go(w, CALL_PAGE));
    assert_true(ana->closing);
    assert_true(bob->closing);
    say(w, eve, JOIN);
    fill(w, 1);
    turn(w);
    assert_non_null(strstr(got(eve), " m8"));
    settle(w);
    assert_false(eve->closing);
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
    w->bus.handler.on_lost(w->bus.handler.arg);
    assert_int_equal(waiting(w, CALL_PAGE), 1);
    fill(w, 1);
    lose(w);
    w->bus.handler.on_lost(w->bus.handler.arg);
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
    w->bus.handler.on_lost(w->bus.handler.arg);
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
    bob->queued = (size_t)w->config.send_queue_bytes / 4 + 1;
    say(w, ana, TYPING);
    turn(w);
    assert_string_equal(got(bob), "");
    bob->queued = 0;
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
        cmocka_unit_test(test_a_gap_that_the_store_cannot_fill_closes_the_members_once),
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
