/* test_chat_join.c - the way into a room, with each answer of bus and store held back and let go in any
 * order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/chat_fake.h"

#define JOIN "{\"type\":\"join\",\"id\":1,\"room\":\"r\"}"
#define JOIN_RECENT(n) "{\"type\":\"join\",\"id\":1,\"room\":\"r\",\"recent\":" #n "}"
#define JOIN_SINCE(n) "{\"type\":\"join\",\"id\":1,\"room\":\"r\",\"since\":" #n "}"
#define LEAVE "{\"type\":\"leave\",\"id\":2,\"room\":\"r\"}"

static void fill(struct world *w, const char *room, unsigned count)
{
    while (count-- > 0)
        other_says(w, room, "hi");
}

/* A room with `count` stored messages, the window holding those from `from` on. */
static struct world *world_with(unsigned count, uint64_t from)
{
    struct world *w = world_new();

    fill(w, "r", count);
    room_of(w, "r")->window_from = from;
    return w;
}

static void test_a_room_nobody_opened_is_opened_by_its_first_join(void **state)
{
    struct world *w = world_new();
    struct conn *ana = sign_in(w, "ana");

    (void)state;
    say(w, ana, JOIN);
    assert_string_equal(got(ana), "");
    assert_int_equal(waiting(w, CALL_HIGHEST), 1);
    settle(w);
    assert_string_equal(got(ana), "joined=0[]#1");
    world_free(w);
}

static void test_joins_wait_together_while_the_room_opens(void **state)
{
    struct world *w = world_new();
    struct conn *ana = sign_in(w, "ana"), *bob = sign_in(w, "bob"), *eve = sign_in(w, "eve");

    (void)state;
    say(w, ana, JOIN);
    say(w, bob, JOIN);
    assert_int_equal(waiting(w, CALL_KINDS), 1);
    say(w, ana, JOIN);
    assert_string_equal(got(ana), "error=bad_request#1");
    hang_up(w, bob);
    say(w, eve, JOIN);
    settle(w);
    assert_memory_equal(got(ana), "joined=0[]#1", 12);
    assert_string_equal(got(bob), "");
    assert_memory_equal(got(eve), "joined=0[]#1", 12);
    assert_int_equal(room_of(w, "r")->member_count, 2);
    world_free(w);
}

static void test_a_room_that_cannot_open_sends_everybody_away_and_is_freed(void **state)
{
    static const struct {
        enum call_kind kind;
        int status;
        const char *answer;
    } cases[] = {
        {CALL_HIGHEST, STORE_FAILED, "error=unavailable+#1"},
        {CALL_HIGHEST, STORE_BUSY, "error=overloaded+#1"},
        {CALL_OPEN, BUS_FULL, "error=overloaded+#1"},
        {CALL_OPEN, BUS_FAILED, "error=unavailable+#1"},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct world *w = world_new();
        struct conn *ana = sign_in(w, "ana"), *bob = sign_in(w, "bob"), *eve = sign_in(w, "eve");

        w->fails[cases[i].kind] = cases[i].status;
        say(w, ana, JOIN);
        say(w, bob, JOIN);
        say(w, eve, JOIN);
        hang_up(w, eve);
        say(w, bob, LEAVE);
        assert_string_equal(got(bob), "error=not_joined#1 left#2");
        settle(w);
        assert_string_equal(got(ana), cases[i].answer);
        assert_string_equal(got(bob), "");
        assert_null(w->chat->rooms);
        w->fails[cases[i].kind] = 0;
        say(w, ana, JOIN);
        settle(w);
        assert_string_equal(got(ana), "joined=0[]#1");
        world_free(w);
    }
}

/* Steps of one join in order; whoever leaves or hangs up at any of them leaves nothing behind. */
static const enum call_kind steps[] = {CALL_SUBSCRIBE, CALL_HIGHEST, CALL_OPEN, CALL_SUBSCRIBE,
                                       CALL_ENTER,     CALL_WINDOW,  CALL_PAGE};

enum { STEPS = sizeof(steps) / sizeof(*steps) };

static void hold_all(struct world *w)
{
    for (int kind = 0; kind < CALL_COMMIT; kind++)
        w->hold[kind] = true;
}

/* A new room of the bus with ten messages in the store, joined with `since` up to the step. */
static struct world *world_at_step(unsigned step, struct conn **ana)
{
    struct world *w = world_with(10, 8);

    room_of(w, "r")->open = false;
    hold_all(w);
    *ana = sign_in(w, "ana");
    say(w, *ana, JOIN_SINCE(4));
    for (unsigned i = 0; i < step; i++) {
        assert_int_equal(waiting(w, CALL_KINDS), 1);
        assert_true(let_go(w, steps[i]));
    }
    assert_int_equal(waiting(w, CALL_KINDS), step < STEPS);
    return w;
}

static void test_leave_at_each_step_of_a_join(void **state)
{
    (void)state;
    for (unsigned step = 0; step < STEPS; step++) {
        struct conn *ana;
        struct world *w = world_at_step(step, &ana);

        say(w, ana, LEAVE);
        assert_string_equal(got(ana), "error=not_joined#1 left#2");
        settle(w);
        assert_string_equal(got(ana), "");
        assert_null(w->chat->rooms);
        assert_int_equal(room_of(w, "r")->unsubscribed, 1);
        assert_int_equal(room_of(w, "r")->member_count, 0);
        world_free(w);
    }
}

static void test_hanging_up_at_each_step_of_a_join(void **state)
{
    (void)state;
    for (unsigned step = 0; step < STEPS; step++) {
        struct conn *ana;
        struct world *w = world_at_step(step, &ana);

        hang_up(w, ana);
        settle(w);
        assert_null(w->chat->rooms);
        assert_int_equal(room_of(w, "r")->unsubscribed, 1);
        assert_int_equal(room_of(w, "r")->member_count, 0);
        world_free(w);
    }
}

static void test_leave_and_join_again_at_each_step_of_a_join(void **state)
{
    (void)state;
    for (unsigned step = 0; step < STEPS; step++) {
        struct conn *ana;
        struct world *w = world_at_step(step, &ana);

        say(w, ana, LEAVE);
        say(w, ana, "{\"type\":\"join\",\"id\":3,\"room\":\"r\",\"since\":8}");
        assert_string_equal(got(ana), "error=not_joined#1 left#2");
        settle(w);
        assert_string_equal(got(ana), "joined=10[9 10]#3");
        assert_int_equal(room_of(w, "r")->members[0].connections, 1);
        world_free(w);
    }
}

/* Its sender sees it like everybody else, behind `joined`. */
static void test_a_message_does_not_overtake_the_join_before_it(void **state)
{
    (void)state;
    for (unsigned held = 0; held < 2; held++) {
        struct world *w = world_with(10, 8);
        struct conn *ana = sign_in(w, "ana");

        w->hold[held == 0 ? CALL_SUBSCRIBE : CALL_ENTER] = true;
        say(w, ana, JOIN);
        say(w, ana, "{\"type\":\"message\",\"id\":2,\"room\":\"r\",\"text\":\"hi\"}");
        settle(w);
        assert_string_equal(got(ana), "joined=10[]#1 m11 ack=11#2");
        world_free(w);
    }
}

static void test_a_join_fails_at_each_step_that_can(void **state)
{
    static const int statuses[CALL_KINDS] = {[CALL_SUBSCRIBE] = BUS_FAILED,
                                             [CALL_WINDOW] = BUS_FAILED,
                                             [CALL_HIGHEST] = STORE_FAILED,
                                             [CALL_OPEN] = BUS_FULL,
                                             [CALL_ENTER] = BUS_FULL,
                                             [CALL_PAGE] = STORE_FAILED};

    (void)state;
    for (unsigned step = 0; step < STEPS; step++) {
        bool gone = false;

        do {
            struct conn *ana;
            struct world *w = world_at_step(step, &ana);

            w->fails[steps[step]] = statuses[steps[step]];
            if (gone)
                hang_up(w, ana);
            settle(w);
            if (!gone && statuses[steps[step]] != 0) {
                assert_non_null(strstr(got(ana), "+#1"));
                assert_null(w->chat->rooms);
                assert_int_equal(room_of(w, "r")->member_count, 0);
                say(w, ana, "{\"type\":\"typing\",\"id\":4,\"room\":\"r\",\"on\":true}");
                assert_string_equal(got(ana), "error=not_joined#4");
            }
            world_free(w);
            gone = !gone;
        } while (gone);
    }
}

static void test_since_gives_what_came_after_it_from_window_and_store(void **state)
{
    static const struct {
        const char *command, *answer;
        uint64_t window_from;
    } cases[] = {
        {JOIN, "joined=10[]#1", 1},
        {JOIN_SINCE(7), "joined=10[8 9 10]#1", 1},
        {JOIN_SINCE(7), "joined=10[8 9 10]#1", 8},
        {JOIN_SINCE(7), "joined=10[8 9 10]#1", 9},
        {JOIN_SINCE(7), "joined=10[8 9 10]#1", 11},
        {JOIN_SINCE(10), "joined=10[]#1", 11},
        {JOIN_SINCE(11), "joined=10[]#1", 1},
        {JOIN_SINCE(0), "joined=10[6 7 8 9 10]...#1", 9},
        {JOIN_SINCE(5), "joined=10[6 7 8 9 10]#1", 6},
        {JOIN_RECENT(0), "joined=10[]#1", 1},
        {JOIN_RECENT(3), "joined=10[8 9 10]#1", 1},
        {JOIN_RECENT(3), "joined=10[8 9 10]#1", 10},
        {JOIN_RECENT(5), "joined=10[6 7 8 9 10]#1", 10},
        {JOIN_RECENT(6), "joined=10[6 7 8 9 10]...#1", 10},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct world *w = world_with(10, cases[i].window_from);
        struct conn *ana;

        w->config.join_limit = 5;
        ana = sign_in(w, "ana");
        say(w, ana, cases[i].command);
        settle(w);
        assert_string_equal(got(ana), cases[i].answer);
        world_free(w);
    }
}

/* Live messages while the look-up runs: in the page or behind `joined`, each once, whatever the order of
 * answers. */
static void test_messages_during_the_look_up_of_a_join(void **state)
{
    (void)state;
    for (unsigned early = 0; early < 3; early++) {
        struct world *w = world_with(10, 8);
        struct conn *ana = sign_in(w, "ana"), *bob = sign_in(w, "bob");

        say(w, bob, JOIN);
        got(bob);
        w->hold[CALL_WINDOW] = early > 0;
        say(w, ana, JOIN_SINCE(5));
        fill(w, "r", early);
        turn(w);
        if (early > 0)
            assert_true(let_go(w, CALL_WINDOW));
        fill(w, "r", 1);
        turn(w);
        assert_true(let_go(w, CALL_PAGE));
        if (early > 0) {
            fill(w, "r", 1);
            turn(w);
            assert_true(let_go(w, CALL_WINDOW));
            fill(w, "r", 1);
            turn(w);
            assert_true(let_go(w, CALL_WINDOW));
            assert_true(let_go(w, CALL_WINDOW));
        }
        fill(w, "r", 1);
        settle(w);
        assert_string_equal(got(ana), early == 0   ? "joined=11[6 7 8 9 10 11]#1 m12"
                                      : early == 1 ? "joined=14[6 7 8 9 10 11 12 13 14]#1 m15"
                                                   : "joined=15[6 7 8 9 10 11 12 13 14 15]#1 m16");
        world_free(w);
    }
}

static void test_recent_stays_recent_when_messages_come_during_the_look_up(void **state)
{
    struct world *w = world_with(10, 11);
    struct conn *ana = sign_in(w, "ana");

    (void)state;
    say(w, ana, JOIN_RECENT(3));
    fill(w, "r", 2);
    turn(w);
    settle(w);
    assert_string_equal(got(ana), "joined=12[10 11 12]#1");
    world_free(w);
}

/* A room so busy that each look-up finds it further on: the client pages the rest. */
static void test_a_join_gives_up_after_ten_rounds(void **state)
{
    struct world *w = world_with(10, 1);
    struct conn *ana = sign_in(w, "ana"), *bob = sign_in(w, "bob");
    char expected[256] = "joined=20[";

    (void)state;
    say(w, bob, JOIN);
    w->hold[CALL_WINDOW] = true;
    say(w, ana, JOIN_SINCE(5));
    for (int i = 0; i < 10; i++) {
        fill(w, "r", 1);
        turn(w);
        assert_string_equal(got(ana), "");
        assert_true(let_go(w, CALL_WINDOW));
    }
    for (int seq = 6; seq <= 19; seq++)
        snprintf(expected + strlen(expected), sizeof(expected) - strlen(expected), "%s%d", seq > 6 ? " " : "",
                 seq);
    strcat(expected, "]...#1");
    assert_string_equal(got(ana), expected);
    fill(w, "r", 1);
    turn(w);
    assert_string_equal(got(ana), "m21");
    world_free(w);
}

static void test_a_page_with_pending_numbers_is_not_complete(void **state)
{
    struct world *w = world_with(10, 1);
    struct conn *ana = sign_in(w, "ana");

    (void)state;
    w->pending = true;
    say(w, ana, JOIN_SINCE(8));
    say(w, ana, JOIN);
    assert_string_equal(got(ana), "joined=10[9 10]...#1 joined=10[]#1");
    say(w, ana, "{\"type\":\"history\",\"id\":2,\"room\":\"r\",\"limit\":2}");
    assert_string_equal(got(ana), "history[9 10]...#2");
    world_free(w);
}

/* A room that the bus forgets again and again, as in a storm of failovers. */
static void test_a_room_that_does_not_stay_open_is_given_up(void **state)
{
    struct world *w = world_new();
    struct conn *ana = sign_in(w, "ana");

    (void)state;
    w->fails[CALL_SUBSCRIBE] = BUS_NOT_OPEN;
    say(w, ana, JOIN);
    settle(w);
    assert_string_equal(got(ana), "error=unavailable+#1");
    assert_null(w->chat->rooms);
    w->fails[CALL_SUBSCRIBE] = 0;
    say(w, ana, JOIN);
    settle(w);
    assert_string_equal(got(ana), "joined=0[]#1");
    world_free(w);
}

static void test_joining_again_gives_each_number_once(void **state)
{
    struct world *w = world_with(10, 11);
    struct conn *ana = sign_in(w, "ana");

    (void)state;
    say(w, ana, JOIN);
    fill(w, "r", 1);
    turn(w);
    assert_string_equal(got(ana), "joined=10[]#1 m11");
    fill(w, "r", 1);
    say(w, ana, "{\"type\":\"join\",\"id\":3,\"room\":\"r\",\"since\":9}");
    turn(w);
    assert_string_equal(got(ana), "");
    settle(w);
    assert_string_equal(got(ana), "joined=12[10 11 12]#3");
    fill(w, "r", 1);
    turn(w);
    assert_string_equal(got(ana), "m13");
    assert_int_equal(room_of(w, "r")->members[0].connections, 1);
    world_free(w);
}

/* A refused command takes nothing away: the next number tells the client what it has missed. */
static void test_a_member_whose_second_join_fails_stays(void **state)
{
    struct world *w = world_with(10, 11);
    struct conn *ana = sign_in(w, "ana"), *bob = sign_in(w, "bob");

    (void)state;
    say(w, bob, JOIN);
    say(w, ana, JOIN);
    turn(w);
    got(bob), got(ana);
    w->fails[CALL_PAGE] = STORE_FAILED;
    say(w, ana, JOIN_SINCE(4));
    fill(w, "r", 1);
    turn(w);
    settle(w);
    fill(w, "r", 1);
    turn(w);
    assert_string_equal(got(ana), "error=unavailable+#1 m12");
    assert_string_equal(got(bob), "m11 m12");
    world_free(w);
}

static void test_an_answer_behind_others_is_trimmed_to_half_the_send_queue(void **state)
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
    say(w, ana, JOIN_SINCE(4));
    assert_string_equal(got(ana), "joined=10[5 6 7 8 9 10]#1");
    ana->queued = 1;
    say(w, ana, JOIN_SINCE(4));
    assert_string_equal(got(ana), "joined=10[8 9 10]...#1");
    say(w, ana, JOIN_RECENT(9));
    assert_string_equal(got(ana), "joined=10[8 9 10]...#1");
    say(w, ana, JOIN_SINCE(7));
    assert_string_equal(got(ana), "joined=10[8 9 10]#1");
    w->config.send_queue_bytes = 2000;
    say(w, ana, JOIN_SINCE(9));
    assert_string_equal(got(ana), "joined=10[]...#1");
    world_free(w);
}

static void test_a_refused_join_opens_no_room(void **state)
{
    struct world *w = world_new();
    struct conn *ana = sign_in(w, "ana");

    (void)state;
    w->config.max_rooms_per_connection = 1;
    say(w, ana, JOIN);
    settle(w);
    got(ana);
    say(w, ana, "{\"type\":\"join\",\"id\":2,\"room\":\"s\"}");
    assert_string_equal(got(ana), "error=forbidden#2");
    assert_int_equal(waiting(w, CALL_KINDS), 0);
    say(w, ana, JOIN);
    assert_string_equal(got(ana), "joined=0[]#1");
    say(w, ana, LEAVE);
    say(w, ana, "{\"type\":\"join\",\"id\":2,\"room\":\"s\"}");
    settle(w);
    assert_string_equal(got(ana), "left#2 joined=0[]#2");
    world_free(w);
}

static void test_a_record_quicker_than_the_answer_to_subscribe(void **state)
{
    struct world *w = world_with(10, 1);
    struct conn *ana = sign_in(w, "ana");

    (void)state;
    w->hold[CALL_ENTER] = w->hold[CALL_SUBSCRIBE] = true;
    say(w, ana, JOIN_SINCE(9));
    room_of(w, "r")->subscribed = true;
    fill(w, "r", 1);
    turn(w);
    room_of(w, "r")->seq = 10; /* what the answer says is older */
    assert_true(let_go(w, CALL_SUBSCRIBE));
    room_of(w, "r")->seq = 11;
    settle(w);
    assert_string_equal(got(ana), "joined=11[10 11]#1");
    world_free(w);
}

static void test_two_connections_of_one_user_are_one_member(void **state)
{
    struct world *w = world_with(1, 1);
    struct conn *one = sign_in(w, "ana"), *two = sign_in(w, "ana"), *bob = sign_in(w, "bob");

    (void)state;
    say(w, bob, JOIN);
    say(w, one, JOIN);
    turn(w);
    assert_string_equal(got(bob), "joined=1[]#1 join:ana/2");
    say(w, two, JOIN);
    hang_up(w, one);
    turn(w);
    assert_string_equal(got(bob), "");
    say(w, two, LEAVE);
    turn(w);
    assert_string_equal(got(bob), "leave:ana/1");
    world_free(w);
}

static void test_one_connection_leaves_while_the_other_is_counted(void **state)
{
    struct world *w = world_with(1, 1);
    struct conn *one = sign_in(w, "ana"), *two = sign_in(w, "ana");

    (void)state;
    say(w, one, JOIN);
    w->hold[CALL_ENTER] = true;
    say(w, two, JOIN);
    say(w, two, LEAVE);
    w->fails[CALL_ENTER] = BUS_FULL;
    settle(w);
    assert_int_equal(room_of(w, "r")->members[0].connections, 1);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_room_nobody_opened_is_opened_by_its_first_join),
        cmocka_unit_test(test_joins_wait_together_while_the_room_opens),
        cmocka_unit_test(test_a_room_that_cannot_open_sends_everybody_away_and_is_freed),
        cmocka_unit_test(test_leave_at_each_step_of_a_join),
        cmocka_unit_test(test_hanging_up_at_each_step_of_a_join),
        cmocka_unit_test(test_leave_and_join_again_at_each_step_of_a_join),
        cmocka_unit_test(test_a_message_does_not_overtake_the_join_before_it),
        cmocka_unit_test(test_a_join_fails_at_each_step_that_can),
        cmocka_unit_test(test_since_gives_what_came_after_it_from_window_and_store),
        cmocka_unit_test(test_messages_during_the_look_up_of_a_join),
        cmocka_unit_test(test_recent_stays_recent_when_messages_come_during_the_look_up),
        cmocka_unit_test(test_a_join_gives_up_after_ten_rounds),
        cmocka_unit_test(test_a_page_with_pending_numbers_is_not_complete),
        cmocka_unit_test(test_a_room_that_does_not_stay_open_is_given_up),
        cmocka_unit_test(test_joining_again_gives_each_number_once),
        cmocka_unit_test(test_a_member_whose_second_join_fails_stays),
        cmocka_unit_test(test_an_answer_behind_others_is_trimmed_to_half_the_send_queue),
        cmocka_unit_test(test_a_refused_join_opens_no_room),
        cmocka_unit_test(test_a_record_quicker_than_the_answer_to_subscribe),
        cmocka_unit_test(test_two_connections_of_one_user_are_one_member),
        cmocka_unit_test(test_one_connection_leaves_while_the_other_is_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
