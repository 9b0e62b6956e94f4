/* test_redis_target.c - which Redis the settings mean: every form, every mistake, and no secret in any
 * error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bus/redis_conn.h"
#include "bus/redis_target.h"

static struct config config_of(const char *redis)
{
    struct config config;

    config_defaults(&config);
    snprintf(config.redis, sizeof(config.redis), "%s", redis);
    return config;
}

static struct redis_target parse(const char *redis)
{
    struct config config = config_of(redis);
    struct redis_target target;
    char error[300] = "";

    if (!redis_target_parse(&target, &config, error, sizeof(error)))
        fail_msg("%s: %s", redis, error);
    return target;
}

static void server_is(const struct redis_target *target, unsigned i, const char *host, int port)
{
    struct redis_address address = {.port = port};

    strcpy(address.host, host);
    assert_true(i < target->count);
    if (!redis_address_equal(&target->servers[i], &address))
        fail_msg("%s:%d instead of %s:%d", target->servers[i].host, target->servers[i].port, host, port);
}

struct single {
    const char *url, *host;
    int port, database;
    const char *user, *password, *name;
};

static void one_server_in_every_form(void **state)
{
    static const struct single singles[] = {
        {"redis://host", "host", 6379, 0, "", "", "host:6379"},
        {"redis://host/", "host", 6379, 0, "", "", "host:6379"},
        {"redis://host:7000", "host", 7000, 0, "", "", "host:7000"},
        {"redis://10.0.0.1:65535/15", "10.0.0.1", 65535, 15, "", "", "10.0.0.1:65535"},
        {"host", "host", 6379, 0, "", "", "host:6379"},
        {"host:7000", "host", 7000, 0, "", "", "host:7000"},
        {"host_a.example-b.org:1/2", "host_a.example-b.org", 1, 2, "", "", "host_a.example-b.org:1"},
        {"redis://[::1]", "::1", 6379, 0, "", "", "[::1]:6379"},
        {"redis://[2001:db8::2]:7000/3", "2001:db8::2", 7000, 3, "", "", "[2001:db8::2]:7000"},
        {"[::1]:7000", "::1", 7000, 0, "", "", "[::1]:7000"},
        {"redis://:secret@host", "host", 6379, 0, "", "secret", "host:6379"},
        {"redis://me:secret@host:7000/1", "host", 7000, 1, "me", "secret", "host:7000"},
        {"redis://me:s%3Ae%40c%2Fr%2ce%25t%20@[::1]:7000/1", "::1", 7000, 1, "me", "s:e@c/r,e%t ",
         "[::1]:7000"},
        {"redis://m%C3%BC:a:b@host", "host", 6379, 0, "m\xc3\xbc", "a:b", "host:6379"},
        {"redis://me:a@b@host", "host", 6379, 0, "me", "a@b", "host:6379"},
        {"unix:///run/redis/redis.sock", "/run/redis/redis.sock", 0, 0, "", "", "/run/redis/redis.sock"},
        {"unix:///run/r.sock?db=7", "/run/r.sock", 0, 7, "", "", "/run/r.sock"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(singles) / sizeof(singles[0]); i++) {
        struct redis_target target = parse(singles[i].url);
        char name[REDIS_ADDRESS_MAX];

        assert_int_equal(target.form, REDIS_SINGLE);
        assert_int_equal(target.count, 1);
        assert_false(target.tls);
        server_is(&target, 0, singles[i].host, singles[i].port);
        assert_int_equal(target.database, singles[i].database);
        assert_string_equal(target.user, singles[i].user);
        assert_string_equal(target.password, singles[i].password);
        redis_target_name(&target, name, sizeof(name));
        assert_string_equal(name, singles[i].name);
    }
}

static void shards_keep_their_order(void **state)
{
    struct redis_target target = parse("redis://b:1/4,redis://me:secret@a:2/4,redis://[::1]:3/4");
    char name[100];

    (void)state;
    assert_int_equal(target.form, REDIS_SHARDS);
    assert_int_equal(target.count, 3);
    server_is(&target, 0, "b", 1);
    server_is(&target, 1, "a", 2);
    server_is(&target, 2, "::1", 3);
    assert_int_equal(target.database, 4);
    assert_string_equal(target.user, "me");
    assert_string_equal(target.password, "secret");
    redis_target_name(&target, name, sizeof(name));
    assert_string_equal(name, "shards b:1");
    target = parse("a:1,a:2");
    assert_int_equal(target.form, REDIS_SHARDS);
    assert_int_equal(target.count, 2);
}

static void sentinels_and_clusters(void **state)
{
    struct redis_target target = parse("redis+sentinel://me:secret@a,b:1,[::1]:2/my-master/5");
    char name[100];

    (void)state;
    assert_int_equal(target.form, REDIS_SENTINEL);
    assert_int_equal(target.count, 3);
    server_is(&target, 0, "a", 26379);
    server_is(&target, 1, "b", 1);
    server_is(&target, 2, "::1", 2);
    assert_string_equal(target.master_name, "my-master");
    assert_string_equal(target.user, "me");
    assert_string_equal(target.password, "secret");
    assert_int_equal(target.database, 5);
    redis_target_name(&target, name, sizeof(name));
    assert_string_equal(name, "sentinel my-master");
    target = parse("redis+sentinel://a/m");
    assert_int_equal(target.database, 0);

    target = parse("redis+cluster://:secret@a,[::1]:7001");
    assert_int_equal(target.form, REDIS_CLUSTER);
    assert_int_equal(target.count, 2);
    server_is(&target, 0, "a", 6379);
    server_is(&target, 1, "::1", 7001);
    assert_string_equal(target.password, "secret");
    redis_target_name(&target, name, sizeof(name));
    assert_string_equal(name, "cluster a:6379");
    parse("redis+cluster://a/");
    parse("redis+cluster://a/0");
}

static void tls_is_there_or_refused_by_name(void **state)
{
    static const char *const urls[] = {"rediss://h:1", "rediss+sentinel://h/m", "rediss+cluster://h"};

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct config config = config_of(urls[i]);
        struct redis_target target;
        char error[300] = "";

        assert_int_equal(redis_target_parse(&target, &config, error, sizeof(error)), redis_conn_has_tls());
        assert_true(target.tls);
        if (!redis_conn_has_tls())
            assert_non_null(
                strstr(error, "rediss: needs a hiredis with TLS (1.0 or newer); this chatd was built with"));
    }
}

static void other_settings_fill_what_the_url_leaves_open(void **state)
{
    struct config config = config_of("redis://host/2");
    struct redis_target target;
    char error[300];

    (void)state;
    strcpy(config.redis_user, "me");
    strcpy(config.redis_password, "p%41w");
    strcpy(config.redis_sentinel_password, "watch");
    config.redis_database = 9;
    assert_true(redis_target_parse(&target, &config, error, sizeof(error)));
    assert_string_equal(target.user, "me");
    assert_string_equal(target.password, "p%41w");
    assert_string_equal(target.sentinel_password, "watch");
    assert_int_equal(target.database, 2);
    strcpy(config.redis, "redis://you:else@host");
    assert_true(redis_target_parse(&target, &config, error, sizeof(error)));
    assert_string_equal(target.user, "you");
    assert_string_equal(target.password, "else");
}

static void a_host_alone_is_enough(void **state)
{
    static const char *const hosts[] = {"redis.example.org", "127.0.0.1", "::1", "2001:db8::1"};
    struct config config = config_of("");
    struct redis_target target;
    char error[300];

    (void)state;
    assert_false(redis_target_given(&config));
    config.redis_port = 7000;
    config.redis_database = 3;
    for (int i = 0; i < 4; i++) {
        strcpy(config.redis_host, hosts[i]);
        assert_true(redis_target_given(&config));
        assert_true(redis_target_parse(&target, &config, error, sizeof(error)));
        assert_int_equal(target.form, REDIS_SINGLE);
        server_is(&target, 0, hosts[i], 7000);
        assert_int_equal(target.database, 3);
    }
    strcpy(config.redis_host, "redis://host");
    assert_false(redis_target_parse(&target, &config, error, sizeof(error)));
    assert_non_null(strstr(error, "redis_host: not a host name"));
}

struct mistake {
    const char *url, *part;
};

static void refused(const struct config *config, const char *part)
{
    struct redis_target target;
    char error[400] = "";

    if (redis_target_parse(&target, config, error, sizeof(error)))
        fail_msg("taken: %s", config->redis);
    if (!strstr(error, part) || strncmp(error, "redis", 5) != 0)
        fail_msg("%s: \"%s\" instead of \"%s\"", config->redis, error, part);
    if (strstr(error, "s3cret"))
        fail_msg("%s: %s", config->redis, error);
}

static void mistakes_are_named_and_secrets_are_not(void **state)
{
    static const struct mistake mistakes[] = {
        {"http://s3cret", "begins with none of"},
        {"redis:/s3cret", "database is not a number"},
        {"REDIS://s3cret", "begins with none of"},
        {"redis://", "no host"},
        {"redis://:6379", "no host"},
        {"redis://me:s3cret@", "no host"},
        {"redis://me:s3cret", "port is not a number"},
        {"redis://host:0", "port is not a number"},
        {"redis://host:65536", "port is not a number"},
        {"redis://host:", "port is not a number"},
        {"redis://host:6379x", "port is not a number"},
        {"redis://host:-1", "port is not a number"},
        {"redis://host:99999999999999999999", "port is not a number"},
        {"redis://::1", "port is not a number"},
        {"redis://[::1", "stands in [ ]"},
        {"redis://[::1]7", "stands in [ ]"},
        {"redis://[host]", "not an IPv6 address"},
        {"redis://[]", "no host"},
        {"redis://[::1]:", "port is not a number"},
        {"redis://ho st", "not a host name"},
        {"redis://host?db=1", "not a host name"},
        {"redis://host/x", "database is not a number"},
        {"redis://host/1001", "database is not a number"},
        {"redis://host/1/2", "database is not a number"},
        {"redis://host/-1", "database is not a number"},
        {"redis://me:s3/cret@host", "%2F"},
        {"redis://me:s3cret/@host", "%2F"},
        {"redis://me:s3cret%@host", "% in the password"},
        {"redis://me:s3cret%4@host", "% in the password"},
        {"redis://me:s3cret%zz@host", "% in the password"},
        {"redis://me%4:s3cret@host", "% in the user"},
        {"redis://me:s3cret%00@host", "NUL"},
        {"redis://me@host", "a user without a password"},
        {"redis://me:@host", "a user without a password"},
        {"redis://a,", "server 2: no host"},
        {"redis://a,,redis://b", "server 2: no host"},
        {"redis://a,redis://a:6379", "server 2: the same as server 1"},
        {"redis://a,rediss://b", "server 2: doesn't begin with redis://"},
        {"redis://a,unix:///b", "server 2: doesn't begin with redis://"},
        {"redis://me:12,s3cret@b", "server 2: doesn't begin with redis://"},
        {"redis://a/1,redis://b/2", "server 2: another database"},
        {"redis://a/1,redis://b", "server 2: another database"},
        {"redis://:s3cret@a,redis://:s3cret2@b", "server 2: another password"},
        {"redis://me:s3cret@a,redis://you:s3cret@b", "server 2: another user"},
        {"unix://run/s3cret", "begins with /"},
        {"unix://", "begins with /"},
        {"unix:///r?s3cret", "db=N"},
        {"unix:///r?db=", "database is not a number"},
        {"redis+sentinel://a:1", "name of the master is missing"},
        {"redis+sentinel://a:1/", "name of the master is missing"},
        {"redis+sentinel://a:1//1", "name of the master is missing"},
        {"redis+sentinel://a/m/x", "database is not a number"},
        {"redis+sentinel:///m", "no host"},
        {"redis+sentinel://a,/m", "server 2: no host"},
        {"redis+sentinel://me:s3/cret@a/m", "%2F"},
        {"redis+cluster://", "no host"},
        {"redis+cluster://a/1", "database 0"},
        {"redis+cluster://a,b:x", "server 2: the port"},
        {"redis+cluster://me:s3/cret@a", "%2F"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
        struct config config = config_of(mistakes[i].url);

        refused(&config, mistakes[i].part);
    }
}

static void contradictions_between_settings(void **state)
{
    struct config config = config_of("");

    (void)state;
    refused(&config, "neither this nor redis_host");
    strcpy(config.redis, "redis://a");
    strcpy(config.redis_host, "b");
    refused(&config, "set together with redis_host");
    config = config_of("a");
    strcpy(config.redis_user, "me");
    refused(&config, "a user without a password");
}

static void what_is_too_long_is_refused(void **state)
{
    struct config config = config_of("");
    char *at;

    (void)state;
    at = config.redis + sprintf(config.redis, "redis://:");
    memset(at, 'x', REDIS_SECRET_MAX);
    strcpy(at + REDIS_SECRET_MAX, "@h");
    refused(&config, "password is longer than 255 bytes");
    strcpy(at + REDIS_SECRET_MAX - 1, "@h");
    {
        struct redis_target target;
        char error[100];

        assert_true(redis_target_parse(&target, &config, error, sizeof(error)));
        assert_int_equal(strlen(target.password), REDIS_SECRET_MAX - 1);
    }
    memset(config.redis, 'x', REDIS_HOST_MAX);
    config.redis[REDIS_HOST_MAX] = '\0';
    refused(&config, "host is longer than 255 bytes");
    memset(config.redis + sprintf(config.redis, "unix:///"), 'x', 107);
    config.redis[7 + 108] = '\0';
    refused(&config, "shorter than 108 bytes");
    at = config.redis;
    for (int i = 0; i <= REDIS_SERVERS_MAX; i++)
        at += sprintf(at, "%sa%d", i ? "," : "", i);
    refused(&config, "more than 64 servers");
}

/* Any prefix and any byte changed: it says yes or gives a reason, and touches nothing that isn't its own. */
static void cut_anywhere_it_answers(void **state)
{
    static const char *const urls[] = {
        "redis://me:s%2Fx@[::1]:7000/3,redis://me:s%2Fx@host:1/3", "unix:///run/redis.sock?db=3",
        "redis+sentinel://me:x@a:1,[::1]:2/master/4",              "redis+cluster://:x@a:1,b:2/0",
    };

    (void)state;
    for (int i = 0; i < 4; i++) {
        size_t length = strlen(urls[i]);

        for (size_t cut = 0; cut <= length; cut++) {
            for (const char *other = "\x01/@:,[]%?x"; *other; other++) {
                struct config config = config_of(urls[i]);
                struct redis_target target;
                char error[300] = "";

                config.redis[cut] = '\0';
                assert_true(redis_target_parse(&target, &config, error, sizeof(error)) || error[0] != '\0');
                config = config_of(urls[i]);
                config.redis[cut] = *other;
                error[0] = '\0';
                assert_true(redis_target_parse(&target, &config, error, sizeof(error)) || error[0] != '\0');
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_server_in_every_form),
        cmocka_unit_test(shards_keep_their_order),
        cmocka_unit_test(sentinels_and_clusters),
        cmocka_unit_test(tls_is_there_or_refused_by_name),
        cmocka_unit_test(other_settings_fill_what_the_url_leaves_open),
        cmocka_unit_test(a_host_alone_is_enough),
        cmocka_unit_test(mistakes_are_named_and_secrets_are_not),
        cmocka_unit_test(contradictions_between_settings),
        cmocka_unit_test(what_is_too_long_is_refused),
        cmocka_unit_test(cut_anywhere_it_answers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
