/* test_chat.c - sign-in, refusals, and the way of a message: published, stored, acknowledged, with each
 * answer held back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/chat_fake.h"

#define JOIN "{\"type\":\"join\",\"id\":1,\"room\":\"r\"}"
#define SAY "{\"type\":\"message\",\"id\":3,\"room\":\"r\",\"text\":\"hi\"}"
#define SAY_KEY "{\"type\":\"message\",\"id\":3,\"room\":\"r\",\"text\":\"hi\",\"key\":\"k\"}"
#define RETRY "{\"type\":\"message\",\"id\":4,\"room\":\"r\",\"text\":\"hi\",\"key\":\"k\",\"retry\":true}"

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

static void test_hello_comes_first_and_once_and_may_be_repeated_when_refused(void **state)
{
    struct world *w = world_new();
    struct conn *ana = connect_new(w);

    (void)state;
    say(w, ana, JOIN);
    say(w, ana, "{\"type\":\"hello\",\"id\":1}");
    say(w, ana, "{\"type\":\"hello\",\"id\":2,\"user\":\"a  b\"}");
    say(w, ana, "{\"type\":\"hello\",\"id\":3,\"user\":\"ana\"}");
    say(w, ana, "{\"type\":\"hello\",\"id\":4,\"user\":\"bob\"}");
    say(w, ana, "{\"type\":\"join\",\"id\":5,\"room\":\"\"}");
    say(w, ana, "{\"type\":\"ping\",\"id\":\"x\"}");
    assert_string_equal(got(ana), "error=unauthorized#1 error=bad_request#1 error=bad_name#2 welcome#3 "
                                  "error=bad_request#4 error=bad_room#5 pong#\"x\"");
    world_free(w);
}

static char session_token[SESSIONS_TOKEN_MAX];
static bool resumed;

static void keep_token(struct conn *conn, const json_t *message)
{
    (void)conn;
    snprintf(session_token, sizeof(session_token), "%s", member_text(message, "session"));
    resumed = json_is_true(json_object_get(message, "resumed"));
}

static void test_the_session_of_welcome_resumes_its_user_only(void **state)
{
    static const char *const users[] = {"", ",\"user\":\"ana\"", ",\"user\":\"bob\""};
    struct world *w = world_new();

    (void)state;
    for (int i = -1; i < 3; i++) {
        struct conn *conn = connect_new(w);
        char text[300];

        snprintf(text, sizeof(text), "{\"type\":\"hello\",\"session\":\"%s\"%s}",
                 i < 0 ? "none" : session_token, i < 0 ? users[1] : users[i]);
        conn->on_message = keep_token;
        say(w, conn, text);
        assert_string_equal(got(conn), "welcome");
        assert_int_equal(resumed, i == 0 || i == 1);
    }
    world_free(w);
}

static void test_the_ack_waits_for_the_store_and_the_message_does_not(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    say(w, ana, SAY);
    turn(w);
    assert_string_equal(got(ana), "m1");
    assert_true(let_go(w, CALL_COMMIT));
    assert_string_equal(got(ana), "ack=1#3");
    w->fails[CALL_COMMIT] = STORE_FAILED;
    say(w, ana, SAY);
    settle(w);
    assert_string_equal(got(ana), "m2 error=unavailable+#3");
    w->fails[CALL_COMMIT] = 0;
    say(w, ana, "{\"type\":\"message\",\"room\":\"r\",\"text\":\"no id\"}");
    settle(w);
    assert_string_equal(got(ana), "m3");
    assert_true(room_of(w, "r")->records[2].committed);
    world_free(w);
}

static void test_a_message_that_the_bus_cannot_take_is_seen_by_nobody(void **state)
{
    struct conn *ana, *bob;
    struct world *w = world_with(&ana);

    (void)state;
    bob = sign_in(w, "bob");
    say(w, bob, JOIN);
    turn(w);
    got(ana), got(bob);
    w->fails[CALL_PUBLISH] = BUS_FULL;
    say(w, ana, SAY);
    say(w, ana, "{\"type\":\"message\",\"room\":\"r\",\"text\":\"no id\"}");
    settle(w);
    assert_string_equal(got(ana), "error=overloaded+#3 error=overloaded+");
    assert_string_equal(got(bob), "");
    world_free(w);
}

static void test_a_message_that_the_store_has_no_place_for_is_seen_by_nobody(void **state)
{
    struct conn *ana, *zoe;
    struct world *w = world_with(&ana);

    (void)state;
    zoe = sign_in(w, "zoe");
    say(w, zoe, JOIN);
    turn(w);
    got(zoe), got(ana);
    w->config.message_rate_limit = (struct config_rate){1, 60000};
    w->full = true;
    say(w, zoe, SAY);
    settle(w);
    assert_string_equal(got(zoe), "error=overloaded+#3");
    assert_string_equal(got(ana), "");
    assert_int_equal(room_of(w, "r")->record_count, 0);
    w->full = false;
    say(w, zoe, SAY); /* and it cost no token */
    settle(w);
    assert_string_equal(got(zoe), "m1 ack=1#3");
    world_free(w);
}

static void test_a_message_that_nobody_wants_any_more_is_dropped_while_it_is_unwritten(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    w->asks = w->hold[CALL_PUBLISH] = true;
    say(w, ana, SAY);
    hang_up(w, ana);
    settle(w);
    assert_int_equal(room_of(w, "r")->record_count, 0);
    world_free(w);
}

/* After a failover everybody writes to a room that is to be opened again. */
static void test_all_who_wait_for_a_room_share_its_opening(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    w->hold[CALL_OPEN] = true;
    room_of(w, "r")->open = false;
    say(w, ana, SAY);
    say(w, ana, SAY);
    assert_int_equal(waiting(w, CALL_HIGHEST), 1);
    assert_true(let_go(w, CALL_HIGHEST));
    say(w, ana, SAY);
    assert_int_equal(waiting(w, CALL_KINDS), 1);
    assert_true(let_go(w, CALL_OPEN));
    settle(w);
    assert_string_equal(got(ana), "m1+m2+m3 ack=1#3 ack=2#3 ack=3#3");
    world_free(w);
}

static void test_a_room_that_does_not_stay_open_is_given_up(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    w->fails[CALL_PUBLISH] = BUS_NOT_OPEN;
    say(w, ana, SAY);
    settle(w);
    assert_string_equal(got(ana), "error=unavailable+#3");
    assert_int_equal(room_of(w, "r")->record_count, 0);
    world_free(w);
}

static void test_a_key_that_was_stored_before_is_acknowledged_under_its_number(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    say(w, ana, SAY_KEY);
    w->conflict = 77;
    settle(w);
    assert_string_equal(got(ana), "m1 ack=77#3");
    world_free(w);
}

static void test_a_retry_is_found_in_the_window_in_the_store_or_is_new(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    say(w, ana, RETRY);
    assert_int_equal(waiting(w, CALL_FIND), 1);
    settle(w);
    assert_string_equal(got(ana), "m1 ack=1#4");
    say(w, ana, RETRY);
    assert_int_equal(waiting(w, CALL_COMMIT), 1);
    settle(w);
    assert_string_equal(got(ana), "ack=1#4");
    say(w, ana, SAY_KEY);
    settle(w);
    assert_string_equal(got(ana), "ack=1#3");
    room_of(w, "r")->window_from = 2;
    say(w, ana, RETRY);
    assert_int_equal(waiting(w, CALL_FIND), 1);
    settle(w);
    assert_string_equal(got(ana), "ack=1#4");
    assert_int_equal(room_of(w, "r")->record_count, 1);
    world_free(w);
}

static void test_a_retry_gets_no_number_while_the_store_cannot_say(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    w->fails[CALL_FIND] = STORE_BUSY;
    say(w, ana, RETRY);
    settle(w);
    w->fails[CALL_FIND] = STORE_FAILED;
    say(w, ana, RETRY);
    settle(w);
    assert_string_equal(got(ana), "error=overloaded+#4 error=unavailable+#4");
    assert_int_equal(room_of(w, "r")->record_count, 0);
    world_free(w);
}

/* The first attempt gets through while the retry asks the store. */
static void test_first_attempt_and_retry_become_one_message(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    say(w, ana, RETRY);
    say(w, ana, SAY_KEY);
    settle(w);
    assert_string_equal(got(ana), "m1 ack=1#3 ack=1#4");
    assert_int_equal(room_of(w, "r")->record_count, 1);
    world_free(w);
}

/* Each step of a publish to a room that the bus has forgotten, then a retry's question to the store. */
static const enum call_kind steps[] = {CALL_PUBLISH, CALL_HIGHEST, CALL_OPEN,  CALL_PUBLISH,
                                       CALL_FIND,    CALL_PUBLISH, CALL_COMMIT};

enum { STEPS = sizeof(steps) / sizeof(*steps) };

static struct world *world_at_step(unsigned step, struct conn **ana)
{
    struct world *w = world_with(ana);

    w->hold[CALL_PUBLISH] = w->hold[CALL_OPEN] = true;
    room_of(w, "r")->open = false;
    say(w, *ana, RETRY);
    for (unsigned i = 0; i < step; i++)
        assert_true(let_go(w, steps[i]));
    assert_int_equal(waiting(w, CALL_KINDS), 1);
    return w;
}

static void test_a_publish_goes_on_when_its_connection_is_gone(void **state)
{
    (void)state;
    for (unsigned step = 0; step < STEPS; step++) {
        struct conn *ana;
        struct world *w = world_at_step(step, &ana);

        hang_up(w, ana);
        settle(w);
        assert_int_equal(room_of(w, "r")->record_count, 1);
        assert_true(room_of(w, "r")->records[0].committed);
        assert_null(w->chat->rooms);
        world_free(w);
    }
}

static void test_a_publish_fails_at_each_step_that_can(void **state)
{
    static const int statuses[CALL_KINDS] = {[CALL_PUBLISH] = BUS_FULL,
                                             [CALL_HIGHEST] = STORE_FAILED,
                                             [CALL_OPEN] = BUS_FULL,
                                             [CALL_FIND] = STORE_BUSY,
                                             [CALL_COMMIT] = STORE_FAILED};

    (void)state;
    for (unsigned step = 0; step < STEPS; step++) {
        struct conn *ana;
        struct world *w = world_at_step(step, &ana);

        w->fails[steps[step]] = statuses[steps[step]];
        settle(w);
        assert_non_null(strstr(got(ana), "+#4"));
        world_free(w);
    }
}

/* A first try that got through is found by its uid when its answer was another. */
static void test_each_try_of_a_message_has_the_same_uid(void **state)
{
    struct conn *ana;
    struct world *w = world_at_step(0, &ana);
    const struct fake_record *record;

    (void)state;
    settle(w);
    record = room_of(w, "r")->records;
    assert_string_equal(got(ana), "m1 ack=1#4");
    assert_int_equal(w->uids, 3); /* tries: not open, not in the window, done */
    assert_int_equal(record->uid[0], 1);
    world_free(w);
}

/* Numbers that members were given aren't given again, though the store hasn't got them yet. */
static void test_a_room_is_opened_anew_above_what_was_seen_here(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    say(w, ana, SAY);
    say(w, ana, SAY);
    turn(w);
    got(ana);
    room_of(w, "r")->open = false;
    room_of(w, "r")->seq = 0;
    say(w, ana, SAY);
    assert_true(let_go(w, CALL_HIGHEST));
    settle(w);
    assert_string_equal(got(ana), "m3 ack=1#3 ack=2#3 ack=3#3");
    world_free(w);
}

static void test_what_is_wrong_with_a_message_is_said(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);
    char text[400], key[130];

    (void)state;
    memset(key, 'k', 129);
    key[129] = 0;
    w->config.max_text_bytes = 5;
    say(w, ana, "{\"type\":\"message\",\"id\":1,\"room\":\"s\",\"text\":\"hi\"}");
    say(w, ana, "{\"type\":\"message\",\"id\":2,\"room\":\"r\",\"text\":\"\"}");
    say(w, ana, "{\"type\":\"message\",\"id\":3,\"room\":\"r\",\"text\":\"123456\"}");
    snprintf(text, sizeof(text),
             "{\"type\":\"message\",\"id\":4,\"room\":\"r\",\"text\":\"hi\",\"key\":\"%s\"}", key);
    say(w, ana, text);
    assert_string_equal(got(ana),
                        "error=not_joined#1 error=bad_request#2 error=too_large#3 error=bad_request#4");
    snprintf(text, sizeof(text),
             "{\"type\":\"message\",\"id\":5,\"room\":\"r\",\"text\":\"\\u0000\",\"key\":\"%s\"}", key + 1);
    say(w, ana, text);
    settle(w);
    assert_string_equal(got(ana), "m1 ack=1#5");
    world_free(w);
}

static void test_rates_are_limited_and_say_when_to_come_back(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    w->config.message_rate_limit = w->config.typing_rate_limit = (struct config_rate){1, 60000};
    w->config.abuse_limit = (struct config_rate){1, 10000};
    say(w, ana, SAY);
    say(w, ana, SAY);
    say(w, ana, SAY);
    say(w, ana, "{\"type\":\"typing\",\"room\":\"r\",\"on\":false}");
    say(w, ana, "{\"type\":\"typing\",\"room\":\"r\",\"on\":false}");
    say(w, ana, "{\"type\":\"typing\",\"room\":\"r\",\"on\":false}");
    settle(w);
    assert_false(ana->closing);
    assert_string_equal(got(ana),
                        "error=rate_limited+#3 error=rate_limited+#3 error=rate_limited+ error=rate_limited+ "
                        "m1 ack=1#3");
    world_free(w);
}

static void test_too_many_refusals_close_the_connection(void **state)
{
    struct world *w = world_new();
    struct conn *ana = connect_new(w);

    (void)state;
    w->config.abuse_limit = (struct config_rate){3, 60000};
    for (int i = 0; i < 3; i++)
        say(w, ana, "{");
    assert_false(ana->closing);
    say(w, ana, "[]");
    assert_true(ana->closing);
    assert_int_equal(ana->reason, CLOSE_ABUSE);
    world_free(w);
}

static void test_only_so_many_commands_may_wait(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    w->config.max_pending_per_connection = 2;
    for (int i = 0; i < 4; i++)
        say(w, ana, SAY);
    say(w, ana, "{\"type\":\"join\",\"id\":5,\"room\":\"s\"}");
    say(w, ana, "{\"type\":\"history\",\"id\":6,\"room\":\"s\"}");
    turn(w);
    assert_string_equal(
        got(ana), "error=overloaded+#3 error=overloaded+#3 error=overloaded+#5 error=overloaded+#6 m1+m2");
    settle(w);
    say(w, ana, SAY);
    settle(w);
    assert_string_equal(got(ana), "ack=1#3 ack=2#3 m3 ack=3#3");
    world_free(w);
}

static void test_going_away_waits_for_the_acks(void **state)
{
    struct conn *ana, *bob;
    struct world *w = world_with(&ana);

    (void)state;
    bob = sign_in(w, "bob");
    say(w, ana, SAY);
    say(w, ana, "{\"type\":\"join\",\"id\":2,\"room\":\"s\"}");
    turn(w);
    got(ana);
    chat_send_away(w->chat, ana, 700);
    chat_send_away(w->chat, ana, 700);
    chat_send_away(w->chat, bob, 700);
    assert_true(bob->closing);
    assert_int_equal(bob->reason, CLOSE_STOPPING);
    say(w, ana, SAY);
    assert_false(ana->closing);
    assert_string_equal(got(ana), "reconnect");
    assert_true(let_go(w, CALL_COMMIT));
    assert_false(ana->closing);
    settle(w);
    assert_true(ana->closing);
    assert_int_equal(ana->reason, CLOSE_STOPPING);
    assert_string_equal(got(ana), "ack=1#3 joined=0[]#2");
    assert_int_equal(room_of(w, "r")->record_count, 1);
    world_free(w);
}

static void test_refresh_has_nothing_to_refresh(void **state)
{
    struct conn *ana;
    struct world *w = world_with(&ana);

    (void)state;
    say(w, ana, "{\"type\":\"refresh\",\"id\":8,\"token\":\"x\"}");
    say(w, ana, "{\"type\":\"leave\",\"id\":9,\"room\":\"s\"}");
    say(w, ana, "{\"type\":\"leave\",\"room\":\"r\"}");
    assert_string_equal(got(ana), "error=bad_request#8 error=not_joined#9");
    assert_null(w->chat->rooms);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello_comes_first_and_once_and_may_be_repeated_when_refused),
        cmocka_unit_test(test_the_session_of_welcome_resumes_its_user_only),
        cmocka_unit_test(test_the_ack_waits_for_the_store_and_the_message_does_not),
        cmocka_unit_test(test_a_message_that_the_bus_cannot_take_is_seen_by_nobody),
        cmocka_unit_test(test_a_message_that_the_store_has_no_place_for_is_seen_by_nobody),
        cmocka_unit_test(test_a_message_that_nobody_wants_any_more_is_dropped_while_it_is_unwritten),
        cmocka_unit_test(test_all_who_wait_for_a_room_share_its_opening),
        cmocka_unit_test(test_a_room_that_does_not_stay_open_is_given_up),
        cmocka_unit_test(test_a_key_that_was_stored_before_is_acknowledged_under_its_number),
        cmocka_unit_test(test_a_retry_is_found_in_the_window_in_the_store_or_is_new),
        cmocka_unit_test(test_a_retry_gets_no_number_while_the_store_cannot_say),
        cmocka_unit_test(test_first_attempt_and_retry_become_one_message),
        cmocka_unit_test(test_a_publish_goes_on_when_its_connection_is_gone),
        cmocka_unit_test(test_a_publish_fails_at_each_step_that_can),
        cmocka_unit_test(test_each_try_of_a_message_has_the_same_uid),
        cmocka_unit_test(test_a_room_is_opened_anew_above_what_was_seen_here),
        cmocka_unit_test(test_what_is_wrong_with_a_message_is_said),
        cmocka_unit_test(test_rates_are_limited_and_say_when_to_come_back),
        cmocka_unit_test(test_too_many_refusals_close_the_connection),
        cmocka_unit_test(test_only_so_many_commands_may_wait),
        cmocka_unit_test(test_going_away_waits_for_the_acks),
        cmocka_unit_test(test_refresh_has_nothing_to_refresh),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
