/* test_redis_sessions.c - a session that one worker began is found by another, with its rooms, for
 * session_ttl. */
#include "redis_workers.h"

struct found {
    unsigned calls;
    bool failed;
    char user[16], rooms[8][16];
    uint32_t room_count;
    uint8_t id[SESSIONS_ID_SIZE];
};

static void on_found(void *arg, const struct sessions_found *heard)
{
    struct found *found = arg;

    found->calls++;
    found->failed = heard->failed;
    copy_text(found->user, sizeof(found->user), heard->user);
    memcpy(found->id, heard->id, SESSIONS_ID_SIZE);
    found->room_count = heard->room_count;
    for (uint32_t i = 0; i < heard->room_count; i++)
        copy_text(found->rooms[i], sizeof(found->rooms[i]), heard->rooms[i]);
}

static const struct found *find(struct worker *w, const char *token)
{
    static struct found found;

    found = (struct found){0};
    sessions_find(bus_redis_sessions(w->bus), text(token), on_found, &found);
    until(w->all, found.calls == 1);
    return &found;
}

static bool has_room(const struct found *found, const char *room)
{
    for (uint32_t i = 0; i < found->room_count; i++) {
        if (strcmp(found->rooms[i], room) == 0)
            return true;
    }
    return false;
}

static long long ttl(struct workers *all, const char *kind, const char *name)
{
    return redis_host_number(all->redis, "PTTL chatd:{0}:%s:%s", kind, name);
}

static void test_another_worker_finds_user_and_rooms(void **state)
{
    struct workers *all = *state;
    struct sessions *a = bus_redis_sessions(all->w[0].bus), *b = bus_redis_sessions(all->w[1].bus);
    char token[SESSIONS_TOKEN_MAX], again[SESSIONS_TOKEN_MAX], other[SESSIONS_TOKEN_MAX];
    uint8_t id[SESSIONS_ID_SIZE], other_id[SESSIONS_ID_SIZE];
    const struct found *found;

    sessions_start(a, text("ann"), id, token);
    sessions_start(a, text("ann"), other_id, other);
    assert_int_equal(strlen(token), 22);
    assert_string_not_equal(token, other);
    sessions_room(a, text("ann"), id, text("lobby"), true);
    sessions_room(a, text("ann"), id, text("side"), true);
    sessions_room(a, text("ann"), id, text("back"), true);
    sessions_room(a, text("ann"), id, text("side"), false);
    find(&all->w[0], token); /* all that is on its way is written */
    found = find(&all->w[1], token);
    assert_string_equal(found->user, "ann");
    assert_memory_equal(found->id, id, SESSIONS_ID_SIZE);
    assert_int_equal(found->room_count, 2);
    assert_true(has_room(found, "lobby") && has_room(found, "back"));
    assert_false(found->failed);
    sessions_resume(b, text("ann"), found->id, again);
    assert_string_equal(again, token);
    assert_int_equal(find(&all->w[1], other)->room_count, 0);
}

static void test_it_lasts_for_session_ttl_from_when_it_was_kept(void **state)
{
    struct workers *all = *state;
    struct sessions *a = bus_redis_sessions(all->w[0].bus);
    long long day = all->config.session_ttl;
    char token[SESSIONS_TOKEN_MAX];
    uint8_t id[SESSIONS_ID_SIZE];
    const struct found *found;

    sessions_start(a, text("ann"), id, token);
    find(&all->w[0], token);
    assert_in_range(ttl(all, "session", token), day - 20000, day);
    assert_in_range(ttl(all, "user", "ann"), day - 20000, day);
    redis_host_do(all->redis, "PEXPIRE chatd:{0}:session:%s 60000", token);
    redis_host_do(all->redis, "PEXPIRE chatd:{0}:user:ann 60000");
    sessions_keep(a, text("ann"), id);
    find(&all->w[0], token);
    assert_in_range(ttl(all, "session", token), day - 20000, day);
    assert_in_range(ttl(all, "user", "ann"), day - 20000, day);
    redis_host_do(all->redis, "DEL chatd:{0}:session:%s", token);
    sessions_room(a, text("ann"), id, text("side"), false);
    assert_int_equal(find(&all->w[0], token)->user[0], 0); /* a leave makes nothing */
    assert_int_equal(ttl(all, "session", token), -2);
    sessions_room(a, text("ann"), id, text("lobby"), true); /* but this makes it whole */
    found = find(&all->w[0], token);
    assert_string_equal(found->user, "ann");
    assert_int_equal(found->room_count, 1);
    assert_in_range(ttl(all, "session", token), day - 20000, day);
}

static void test_what_is_no_token_is_answered_at_once(void **state)
{
    struct workers *all = *state;
    /* Too short, too long, other characters, bits beyond the 128. */
    const char *tokens[] = {"",
                            "abc",
                            "AAAAAAAAAAAAAAAAAAAAAAAA",
                            "AAAAAAAAAAAAAAAAAAAA+A",
                            "AAAAAAAAAAAAAAAAAAAAAB",
                            "AAAAAAAAAAAAAAAAAAAA==",
                            "AAAAAAAAAAAA\nAAAAAAAAA",
                            "AAAAAAAAAAAAAAAAAAAAAAA"};

    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
        struct found found = {0};

        sessions_find(bus_redis_sessions(all->w[0].bus), text(tokens[i]), on_found, &found);
        assert_int_equal(found.calls, 1);
        assert_int_equal(found.user[0], 0);
        assert_false(found.failed);
    }
    assert_int_equal(find(&all->w[0], "AAAAAAAAAAAAAAAAAAAAAA")->user[0], 0); /* one, but nobody's */
    assert_false(find(&all->w[0], "AAAAAAAAAAAAAAAAAAAAAA")->failed);
}

static void two_rooms(struct config *config)
{
    config->max_rooms_per_connection = 2;
}

static int set_up_two_rooms(void **state)
{
    *state = workers_new(1, two_rooms);
    return 0;
}

static void test_no_more_rooms_than_a_connection_may_have(void **state)
{
    struct workers *all = *state;
    struct sessions *a = bus_redis_sessions(all->w[0].bus);
    char token[SESSIONS_TOKEN_MAX];
    uint8_t id[SESSIONS_ID_SIZE];

    sessions_start(a, text("ann"), id, token);
    sessions_room(a, text("ann"), id, text("one"), true);
    sessions_room(a, text("ann"), id, text("two"), true);
    sessions_room(a, text("ann"), id, text("three"), true);
    assert_int_equal(find(&all->w[0], token)->room_count, 2);
}

static void test_redis_away_is_no_unknown_token(void **state)
{
    struct workers *all = *state;
    char token[SESSIONS_TOKEN_MAX];
    uint8_t id[SESSIONS_ID_SIZE];

    sessions_start(bus_redis_sessions(all->w[0].bus), text("ann"), id, token);
    find(&all->w[0], token);
    redis_host_kill(all->redis);
    assert_true(find(&all->w[0], token)->failed);
    redis_host_restart(all->redis, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_another_worker_finds_user_and_rooms),
        TEST(test_it_lasts_for_session_ttl_from_when_it_was_kept),
        TEST(test_what_is_no_token_is_answered_at_once),
        cmocka_unit_test_setup_teardown(test_no_more_rooms_than_a_connection_may_have, set_up_two_rooms,
                                        tear_down),
        TEST(test_redis_away_is_no_unknown_token),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
