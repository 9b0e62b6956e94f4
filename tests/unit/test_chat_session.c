/* test_chat_session.c - who comes back: sessions that are looked up late, what is sent behind such a
 * hello, rooms that a session goes on in, and how long sessions are kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/chat_fake.h"

#define HELLO_SESSION "{\"type\":\"hello\",\"id\":1,\"session\":\"s0\"}"
#define HELLO_BOTH(user) "{\"type\":\"hello\",\"id\":1,\"session\":\"s0\",\"user\":\"" user "\"}"
#define JOIN "{\"type\":\"join\",\"id\":2,\"room\":\"r\"}"
#define JOIN_SINCE "{\"type\":\"join\",\"id\":2,\"room\":\"r\",\"since\":1}"
#define LEAVE "{\"type\":\"leave\",\"id\":4,\"room\":\"r\"}"
#define PING "{\"type\":\"ping\",\"id\":3}"

/* Session s0 is ana's, whose connection is gone; look-ups are held. */
static struct world *world_with_session(const char *room)
{
    struct world *w = world_new();

    room_of(w, "r")->open = true;
    hang_up(w, sign_in(w, "ana"));
    snprintf(w->table[0].rooms[0], sizeof(w->table[0].rooms[0]), "%s", room);
    w->hold[CALL_SESSION] = true;
    return w;
}

static void test_commands_behind_a_hello_wait_for_its_session(void **state)
{
    struct world *w = world_with_session("");
    struct conn *ana = connect_new(w);

    (void)state;
    say(w, ana, HELLO_SESSION);
    say(w, ana, JOIN);
    say(w, ana, "{");
    say(w, ana, HELLO_BOTH("bob"));
    say(w, ana, PING);
    assert_string_equal(got(ana), "");
    assert_true(let_go(w, CALL_SESSION));
    assert_string_equal(got(ana), "welcome#1 joined=0[]#2 error=bad_json error=bad_request#1 pong#3");
    assert_int_equal(w->table[0].resumed, 1);
    assert_int_equal(w->session_count, 1);
    world_free(w);
}

static void test_a_session_that_is_another_users_or_unknown_is_a_new_one(void **state)
{
    static const struct {
        const char *hello, *answer;
        bool lost;
        unsigned sessions;
    } cases[] = {
        {HELLO_BOTH("ana"), "welcome#1", false, 1},
        {HELLO_BOTH("bob"), "welcome#1", false, 2},
        {HELLO_BOTH("bob"), "welcome#1", true, 2},
        {HELLO_SESSION, "error=unavailable+#1", true, 1},
        {"{\"type\":\"hello\",\"id\":1,\"session\":\"s9\"}", "error=bad_request#1", false, 1},
        {"{\"type\":\"hello\",\"id\":1,\"session\":\"s9\",\"user\":\"bob\"}", "welcome#1", false, 2},
        {"{\"type\":\"hello\",\"id\":1,\"session\":\"s0\",\"user\":\"\"}", "error=bad_name#1", false, 1},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct world *w = world_with_session("");
        struct conn *conn = connect_new(w);

        w->lost_sessions = cases[i].lost;
        say(w, conn, cases[i].hello);
        let_go(w, CALL_SESSION);
        assert_string_equal(got(conn), cases[i].answer);
        assert_int_equal(w->session_count, cases[i].sessions);
        world_free(w);
    }
}

static void test_commands_behind_a_refused_hello_are_unauthorized_and_another_hello_is_not(void **state)
{
    struct world *w = world_with_session("");
    struct conn *ana = connect_new(w);

    (void)state;
    say(w, ana, "{\"type\":\"hello\",\"id\":1,\"session\":\"s9\"}");
    say(w, ana, PING);
    say(w, ana, "{\"type\":\"hello\",\"id\":2,\"session\":\"s0\"}");
    say(w, ana, PING);
    assert_true(let_go(w, CALL_SESSION));
    assert_string_equal(got(ana), "error=bad_request#1 error=unauthorized#3");
    assert_true(let_go(w, CALL_SESSION));
    assert_string_equal(got(ana), "welcome#2 pong#3");
    world_free(w);
}

static void test_only_so_much_waits_behind_a_hello(void **state)
{
    enum { BIG = 100000 };
    struct world *w = world_with_session("");
    struct conn *ana = connect_new(w), *bob = connect_new(w);
    char *big = malloc(BIG + 1), *answer;

    (void)state;
    say(w, ana, HELLO_SESSION);
    for (int i = 0; i < 65; i++)
        say(w, ana, PING);
    assert_string_equal(got(ana), "error=overloaded+#3");
    memset(big, ' ', BIG);
    memcpy(big, PING, strlen(PING));
    big[BIG] = 0;
    say(w, bob, HELLO_SESSION);
    for (int i = 0; i < 3; i++)
        say(w, bob, big);
    assert_string_equal(got(bob), "error=overloaded+#3");
    free(big);
    settle(w);
    answer = strdup(got(ana));
    assert_int_equal(strlen(answer), strlen("welcome#1") + 64 * strlen(" pong#3"));
    free(answer);
    assert_string_equal(got(bob), "welcome#1 pong#3 pong#3");
    world_free(w);
}

static void test_who_goes_while_its_session_is_looked_up_leaves_nothing_behind(void **state)
{
    struct world *w = world_with_session("r");
    struct conn *gone = connect_new(w), *sent_away = connect_new(w);

    (void)state;
    say(w, gone, HELLO_SESSION);
    say(w, gone, JOIN);
    hang_up(w, gone);
    say(w, sent_away, HELLO_SESSION);
    say(w, sent_away, JOIN);
    chat_send_away(w->chat, sent_away, 700);
    assert_false(sent_away->closing);
    settle(w);
    assert_true(sent_away->closing);
    assert_string_equal(got(sent_away), "reconnect");
    assert_int_equal(w->table[0].resumed, 0);
    assert_null(w->chat->rooms);
    world_free(w);
}

static void test_a_session_goes_on_in_its_rooms(void **state)
{
    struct world *w = world_with_session("r");
    struct conn *bob = sign_in(w, "bob"), *ana = connect_new(w);

    (void)state;
    say(w, bob, JOIN);
    got(bob);
    say(w, ana, HELLO_SESSION);
    assert_true(let_go(w, CALL_SESSION));
    assert_string_equal(got(ana), "welcome[r]#1");
    turn(w);
    assert_string_equal(got(bob), "join:ana/2");
    got(ana); /* what was still to be told of bob */
    other_says(w, "r", "hi");
    turn(w);
    assert_string_equal(got(ana), "m1");
    say(w, ana, JOIN_SINCE);
    assert_string_equal(got(ana), "joined=1[]#2");
    say(w, ana, LEAVE);
    assert_string_equal(got(ana), "left#4");
    assert_string_equal(w->table[0].rooms[0], "");
    world_free(w);
}

static void test_the_rooms_of_a_session_are_those_joined_and_not_left(void **state)
{
    struct world *w = world_with_session("");
    struct conn *bob = sign_in(w, "bob");

    (void)state;
    w->hold[CALL_ENTER] = true;
    say(w, bob, JOIN);
    assert_string_equal(w->table[1].rooms[0], "");
    settle(w);
    assert_string_equal(w->table[1].rooms[0], "r");
    say(w, bob, "{\"type\":\"join\",\"room\":\"s\"}");
    settle(w);
    assert_string_equal(w->table[1].rooms[1], "s");
    say(w, bob, LEAVE);
    hang_up(w, bob);
    assert_string_equal(w->table[1].rooms[0], "");
    assert_string_equal(w->table[1].rooms[1], "s");
    world_free(w);
}

/* The client joins with `since` at once, before its session is in the room again. */
static void test_a_join_behind_the_hello_takes_over_that_of_the_session(void **state)
{
    static const enum call_kind kinds[] = {CALL_SUBSCRIBE, CALL_ENTER};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct world *w = world_with_session("r");
        struct conn *ana = connect_new(w);

        for (int n = 0; n < 3; n++)
            other_says(w, "r", "hi");
        w->hold[kinds[i]] = true;
        say(w, ana, HELLO_SESSION);
        say(w, ana, JOIN_SINCE);
        say(w, ana, JOIN_SINCE);
        assert_true(let_go(w, CALL_SESSION));
        assert_string_equal(got(ana), "welcome[r]#1 error=bad_request#2");
        settle(w);
        assert_memory_equal(got(ana), "joined=3[2 3]#2", 15);
        assert_int_equal(room_of(w, "r")->members[0].connections, 1);
        hang_up(w, ana);
        world_free(w);
    }
}

static void test_a_room_that_a_session_cannot_go_on_in_is_said_so(void **state)
{
    struct world *w = world_with_session("r");
    struct conn *ana = connect_new(w);

    (void)state;
    w->fails[CALL_SUBSCRIBE] = BUS_FAILED;
    say(w, ana, HELLO_SESSION);
    assert_true(let_go(w, CALL_SESSION));
    assert_string_equal(got(ana), "welcome[r]#1 error=unavailable+");
    assert_null(w->chat->rooms);
    assert_string_equal(w->table[0].rooms[0], "r");
    world_free(w);
}

/* Each one's turn comes within half of session_ttl, however many there are; a user is seen when it comes,
 * with each turn, and when it goes. */
static void test_sessions_are_kept_as_long_as_their_connections(void **state)
{
    enum { SESSIONS = 10 };
    struct world *w = world_new();
    struct conn *conns[SESSIONS];

    (void)state;
    w->config.session_ttl = 10000;
    for (int i = 0; i < SESSIONS; i++)
        conns[i] = sign_in(w, "ana");
    assert_int_equal(w->seen, SESSIONS);
    session_keep_some(w->chat, 400);
    assert_int_equal(w->table[0].kept, 0);
    session_keep_some(w->chat, 200);
    assert_int_equal(w->table[0].kept, 1);
    assert_int_equal(w->table[1].kept, 0);
    for (int ms = 600; ms < 5000; ms += 200)
        session_keep_some(w->chat, 200);
    for (int i = 0; i < SESSIONS; i++)
        assert_int_equal(w->table[i].kept, 1);
    hang_up(w, conns[4]);
    hang_up(w, conns[0]);
    hang_up(w, conns[9]);
    assert_int_equal(w->table[4].kept, 2);
    assert_int_equal(w->seen, SESSIONS + SESSIONS + 3);
    session_keep_some(w->chat, 5000);
    for (int i = 0; i < SESSIONS; i++)
        assert_int_equal(w->table[i].kept, 2);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commands_behind_a_hello_wait_for_its_session),
        cmocka_unit_test(test_a_session_that_is_another_users_or_unknown_is_a_new_one),
        cmocka_unit_test(test_commands_behind_a_refused_hello_are_unauthorized_and_another_hello_is_not),
        cmocka_unit_test(test_only_so_much_waits_behind_a_hello),
        cmocka_unit_test(test_who_goes_while_its_session_is_looked_up_leaves_nothing_behind),
        cmocka_unit_test(test_a_session_goes_on_in_its_rooms),
        cmocka_unit_test(test_the_rooms_of_a_session_are_those_joined_and_not_left),
        cmocka_unit_test(test_a_join_behind_the_hello_takes_over_that_of_the_session),
        cmocka_unit_test(test_a_room_that_a_session_cannot_go_on_in_is_said_so),
        cmocka_unit_test(test_sessions_are_kept_as_long_as_their_connections),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
