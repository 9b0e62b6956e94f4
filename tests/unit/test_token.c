/* test_token.c - sessions that were given out are known again, and nothing else is. */
#include "chatd/token.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const uint8_t key[TOKEN_KEY_SIZE] = {1, 2, 3}, other_key[TOKEN_KEY_SIZE] = {1, 2, 4};
static const uint8_t id[SESSIONS_ID_SIZE] = {1, 2, 3, 4, 5, 6, 7, 8};

enum { NOW = 1000000, TTL = 5000 };

static size_t check(const uint8_t *with, const char *token, size_t length, int64_t now,
                    char user[MESSAGE_USER_MAX])
{
    uint8_t found[SESSIONS_ID_SIZE];
    size_t user_length = token_check(with, (struct text){token, length}, now, TTL, user, found);

    if (user_length > 0)
        assert_memory_equal(found, id, sizeof(id));
    return user_length;
}

static void test_a_token_gives_its_user_back_until_it_is_too_old(void **state)
{
    char name[MESSAGE_USER_MAX], token[SESSIONS_TOKEN_MAX], user[MESSAGE_USER_MAX];

    (void)state;
    memset(name, 'n', sizeof(name));
    for (size_t length = 1; length <= sizeof(name); length++) {
        token_make(key, (struct text){name, length}, id, NOW, token);
        assert_true(strlen(token) < SESSIONS_TOKEN_MAX);
        assert_int_equal(strspn(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="),
                         strlen(token));
        assert_int_equal(check(key, token, strlen(token), NOW, user), length);
        assert_memory_equal(user, name, length);
        assert_int_equal(check(key, token, strlen(token), NOW + TTL, user), length);
        assert_int_equal(check(key, token, strlen(token), NOW + TTL + 1, user), 0);
        assert_int_equal(check(key, token, strlen(token), NOW - 60001, user), 0);
        assert_int_equal(check(other_key, token, strlen(token), NOW, user), 0);
    }
}

struct found {
    unsigned count, rooms;
    char user[MESSAGE_USER_MAX + 1];
    uint8_t id[SESSIONS_ID_SIZE];
};

static void on_found(void *arg, const struct sessions_found *found)
{
    struct found *f = arg;

    assert_false(found->failed);
    f->count++;
    f->rooms = found->room_count;
    snprintf(f->user, sizeof(f->user), "%.*s", (int)found->user.length, found->user.data);
    memcpy(f->id, found->id, sizeof(f->id));
}

static void test_a_session_goes_on_under_its_id_and_two_of_one_user_differ(void **state)
{
    const struct text ana = {"ana", 3};
    char one[SESSIONS_TOKEN_MAX], two[SESSIONS_TOKEN_MAX];
    uint8_t first[SESSIONS_ID_SIZE], second[SESSIONS_ID_SIZE];
    struct token_sessions sessions;
    struct config config;
    struct found found = {0};

    (void)state;
    config_defaults(&config);
    token_sessions_init(&sessions, key, &config);
    sessions_start(&sessions.sessions, ana, first, one);
    sessions_start(&sessions.sessions, ana, second, two);
    assert_string_not_equal(one, two);
    assert_memory_not_equal(first, second, sizeof(first));
    sessions_room(&sessions.sessions, ana, first, (struct text){"r", 1}, true);
    sessions_keep(&sessions.sessions, ana, first);
    for (int i = 1; i <= 2; i++) {
        sessions_find(&sessions.sessions, (struct text){one, strlen(one)}, on_found, &found);
        assert_int_equal(found.count, i);
        assert_string_equal(found.user, "ana");
        assert_memory_equal(found.id, first, sizeof(first));
        assert_int_equal(found.rooms, 0);
        sessions_resume(&sessions.sessions, ana, found.id, one);
    }
    sessions_find(&sessions.sessions, (struct text){"none", 4}, on_found, &found);
    assert_string_equal(found.user, "");
}

static void test_no_changed_cut_or_longer_token_is_genuine(void **state)
{
    char token[SESSIONS_TOKEN_MAX], user[MESSAGE_USER_MAX], changed[400];
    size_t length;

    (void)state;
    token_make(key, (struct text){"ana", 3}, id, NOW, token);
    length = strlen(token);
    for (size_t i = 0; i < length; i++) {
        memcpy(changed, token, length);
        changed[i] = changed[i] == 'A' ? 'B' : 'A';
        /* The last sign may hold bits that mean nothing. */
        if (i + 1 < strcspn(token, "="))
            assert_int_equal(check(key, changed, length, NOW, user), 0);
        assert_int_equal(check(key, token, i, NOW, user), 0);
    }
    for (size_t more = 4; more < 300; more += 4) {
        memcpy(changed, token, length);
        memset(changed + length, 'A', more);
        assert_int_equal(check(key, changed, length + more, NOW, user), 0);
    }
    memset(changed, 0xff, sizeof(changed));
    assert_int_equal(check(key, changed, 100, NOW, user), 0);
    assert_int_equal(check(key, "", 0, NOW, user), 0);
}

static void test_the_key_is_made_once_and_again_when_it_was_cut(void **state)
{
    char dir[] = "/tmp/chatd-token-XXXXXX", path[64];
    uint8_t made[TOKEN_KEY_SIZE], read_back[TOKEN_KEY_SIZE], anew[TOKEN_KEY_SIZE];
    struct stat st;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/session.key", dir);
    assert_int_equal(token_key(dir, made), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(token_key(dir, read_back), 0);
    assert_memory_equal(made, read_back, sizeof(made));
    assert_int_equal(truncate(path, 5), 0);
    assert_int_equal(token_key(dir, anew), 0);
    assert_memory_not_equal(made, anew, sizeof(made));
    assert_int_equal(token_key(dir, read_back), 0);
    assert_memory_equal(anew, read_back, sizeof(anew));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
    assert_true(token_key(dir, made) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_token_gives_its_user_back_until_it_is_too_old),
        cmocka_unit_test(test_a_session_goes_on_under_its_id_and_two_of_one_user_differ),
        cmocka_unit_test(test_no_changed_cut_or_longer_token_is_genuine),
        cmocka_unit_test(test_the_key_is_made_once_and_again_when_it_was_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
