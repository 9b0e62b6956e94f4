/* Settings: values of each type, files, environment, errors that name everything, the example and `-t`. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/config_row.h"

static char error[CONFIG_ERROR_MAX];

/* From a block of exactly the text's size, so the address sanitizer sees one byte read too many. */
static int parse_bytes(struct config *config, const char *text, size_t length)
{
    char *copy = malloc(length + (length == 0));
    int result;

    memcpy(copy, text, length);
    config_defaults(config);
    result = config_parse(config, "f", copy, length, error);
    free(copy);
    return result;
}

static int parse(struct config *config, const char *text)
{
    return parse_bytes(config, text, strlen(text));
}

static void assert_error(const char *text, const char *expected)
{
    struct config config;

    assert_int_equal(parse(&config, text), -EINVAL);
    assert_string_equal(error, expected);
}

static void values_of_each_type(void **state)
{
    struct config c;

    (void)state;
    assert_int_equal(parse(&c, "port = 0\nworkers=256\nhost=::1\nmode=production\nlog_level=error\n"
                               "max_connections_per_ip = 10000000\n"),
                     0);
    assert_int_equal(c.port, 0);
    assert_int_equal(c.workers, 256);
    assert_string_equal(c.host, "::1");
    assert_int_equal(c.mode, CONFIG_PRODUCTION);
    assert_int_equal(c.log_level, 3);
    assert_int_equal(c.max_connections_per_ip, 10000000);
    assert_int_equal(c.origin[CONFIG_INDEX_host], 1 + 3);
    assert_int_equal(c.origin[CONFIG_INDEX_pid_file], 0);
    assert_int_equal(
        parse(&c, "max_head_bytes=512\nmax_message_bytes=2K\nsend_queue_bytes=3M\nbus_log_bytes=1G"), 0);
    assert_int_equal(c.max_head_bytes, 512);
    assert_int_equal(c.max_message_bytes, 2048);
    assert_int_equal(c.send_queue_bytes, 3 << 20);
    assert_int_equal(c.bus_log_bytes, 1 << 30);
    assert_int_equal(parse(&c, "ping_interval=250ms\nping_timeout=5\nhandshake_timeout=2m\nsession_ttl=30d\n"
                               "drain_timeout=1h"),
                     0);
    assert_int_equal(c.ping_interval, 250);
    assert_int_equal(c.ping_timeout, 5000);
    assert_int_equal(c.handshake_timeout, 120000);
    assert_int_equal(c.session_ttl, 30LL * 86400000);
    assert_int_equal(c.drain_timeout, 3600000);
    assert_int_equal(parse(&c, "retention_age=30d\nretention_users=1h\nretention_rooms=0"), 0);
    assert_int_equal(c.retention_age, 30LL * 86400000);
    assert_int_equal(c.retention_users, 3600000);
    assert_int_equal(c.retention_rooms, 0);
    assert_int_equal(parse(&c, "message_rate_limit=5/s\ntyping_rate_limit=10000000\nabuse_limit=100/10s"), 0);
    assert_int_equal(c.message_rate_limit.count, 5);
    assert_int_equal(c.message_rate_limit.per_ms, 1000);
    assert_int_equal(c.typing_rate_limit.count, 10000000);
    assert_int_equal(c.typing_rate_limit.per_ms, 60000);
    assert_int_equal(c.abuse_limit.per_ms, 10000);
    assert_int_equal(parse(&c, "message_rate_limit=0\nabuse_limit=0/s\nping_interval=0\n"), 0);
    assert_int_equal(c.message_rate_limit.count, 0);
}

static void assert_alert(struct config_alert alert, int64_t threshold, int64_t clear, int64_t for_ms,
                         int64_t window_ms)
{
    assert_int_equal(alert.threshold, threshold);
    assert_int_equal(alert.clear, clear);
    assert_int_equal(alert.for_ms, for_ms);
    assert_int_equal(alert.window_ms, window_ms);
}

static void levels_of_alerts(void **state)
{
    struct config c;

    (void)state;
    assert_int_equal(parse(&c, "alert_memory = 80% for 1m clear 75%\nalert_queue=1000\n"
                               "alert_store = 1s clear 0 for 500ms\nalert_errors = 5/s for 2m clear 1/s\n"
                               "alert_connections = 0\nalert_respawns = off"),
                     0);
    assert_alert(c.alert_memory, 80, 75, 60000, 0);
    assert_alert(c.alert_queue, 1000, 1000, 0, 0);
    assert_alert(c.alert_store, 1000, 0, 500, 0);
    assert_alert(c.alert_errors, 5, 1, 120000, 1000);
    assert_alert(c.alert_connections, 0, 0, 0, 0);
    assert_alert(c.alert_respawns, 0, 0, 0, 0);
    assert_int_equal(parse(&c, "alert_memory = 100%\nalert_errors = 100/10m   clear 0/10m"), 0);
    assert_alert(c.alert_memory, 100, 100, 0, 0);
    assert_alert(c.alert_errors, 100, 0, 0, 600000);
    assert_true(config_alert_on(&c.alert_errors));
    /* The first event is one too many. */
    assert_int_equal(parse(&c, "alert_errors = 0/1m\nalert_respawns = 0/5m for 1s clear 0/5m\n"
                               "alert_store = 0"),
                     0);
    assert_alert(c.alert_errors, 0, 0, 0, 60000);
    assert_alert(c.alert_respawns, 0, 0, 1000, 300000);
    assert_true(config_alert_on(&c.alert_errors));
    assert_false(config_alert_on(&c.alert_store));
    assert_int_equal(parse(&c, "alert_errors = 0\nalert_respawns = off"), 0);
    assert_false(config_alert_on(&c.alert_errors));
    assert_false(config_alert_on(&c.alert_respawns));
}

/* The error of an alert says which part of it is wrong. */
static void wrong_parts_of_alerts_are_named(void **state)
{
    (void)state;
    assert_error("alert_memory = 80% clear 90%",
                 "f:1: alert_memory = 80% clear 90%: clear 90% must not be above 80%");
    assert_error("alert_connections = 800K",
                 "f:1: alert_connections = 800K: 800K: must be a number without K");
    assert_error("alert_queue = 1000 for 10s clear many",
                 "f:1: alert_queue = 1000 for 10s clear many: many: must be a number up to 1000000000");
    assert_error("alert_store = 100", "f:1: alert_store = 100: 100: must have a unit: write 100ms, or 100s");
    assert_error("alert_store = 1s clear 80",
                 "f:1: alert_store = 1s clear 80: 80: must have a unit: write 80ms, or 80s");
    assert_error("alert_store = 2h", "f:1: alert_store = 2h: 2h: must be a time up to 1h, like 100ms");
    assert_error("alert_memory = 80",
                 "f:1: alert_memory = 80: 80: must be a percentage up to 100%, like 80%");
    assert_error("alert_memory = 0%", "f:1: alert_memory = 0%: 0%: must be above 0, or `off`");
    assert_error("alert_memory = 80% for 2d",
                 "f:1: alert_memory = 80% for 2d: for 2d: must be a time up to 1d, like 30s");
    assert_error("alert_memory = 80% for", "f:1: alert_memory = 80% for: for: a time must follow");
    assert_error("alert_memory = 80% for 1m for 1m",
                 "f:1: alert_memory = 80% for 1m for 1m: for is there twice");
    assert_error("alert_memory = 80% 1m",
                 "f:1: alert_memory = 80% 1m: 1m: must be `for` with a time or `clear` with a level");
    assert_error("alert_errors = 5/11m",
                 "f:1: alert_errors = 5/11m: 5/11m: must be a count within 1s to 10m, like 100/1m");
    assert_error("alert_errors = 5/1m clear 1/2m",
                 "f:1: alert_errors = 5/1m clear 1/2m: 1/2m: must be within the time of the first level");
    assert_error("alert_errors = 0 for 1m", "f:1: alert_errors = 0 for 1m: 0: nothing may follow it");
    assert_error("alert_queue = \x1b[31m",
                 "f:1: alert_queue = \\x1b[31m: must be off, or a count, then if wanted `for` and a time up "
                 "to 1d, and `clear` and a level not above the first, like 1000 for 10s clear 500");
}

static void wrong_values_are_refused(void **state)
{
    static const char *const wrong[] = {
        "port=65536",
        "port=-1",
        "port=",
        "port=+1",
        "port=0x10",
        "port=1 2",
        "port=1.5",
        "port=99999999999999999999",
        "port=auto",
        "workers=0",
        "workers=257",
        "workers=AUTO",
        "host=localhost",
        "host=",
        "host=1.2.3",
        "host=[::1]",
        "mode=prod",
        "mode=",
        "mode=development|production",
        "log_level=inf",
        "alert_memory=80",
        "alert_memory=101%",
        "alert_memory=0%",
        "alert_memory=off for 1m",
        "alert_memory=80% for",
        "alert_memory=80% for 1m for 1m",
        "alert_memory=80% clear 81%",
        "alert_memory=80% clear 75",
        "alert_memory=80% 1m",
        "alert_memory=",
        "alert_queue=1000%",
        "alert_queue=1/s",
        "alert_queue=1000 for 2d",
        "alert_store=2h",
        "alert_errors=5/500ms",
        "alert_errors=5/11m",
        "alert_errors=5/1m clear 1/2m",
        "alert_webhook=example.com/hook",
        "alert_webhook=ftp://example.com/hook",
        "alert_webhook=http://",
        "alert_webhook=http:///hook",
        "alert_webhook=http://a/b c",
        "alert_webhook=http://a:65536/",
        "alert_webhook=http://a:b/",
        "alert_webhook=http://[::1/hook",
        "alert_webhook=http://[::1]x/hook",
        "alert_store=100",
        "alert_store=1s clear 80",
        "alert_errors=0 for 1m",
        "alert_respawns=0/1m clear 1/1m",
        "retention_age=30",
        "retention_age=59m",
        "retention_users=1",
        "retention_rooms=3599999ms",
        "max_head_bytes=511",
        "max_head_bytes=65K",
        "max_head_bytes=8KB",
        "max_head_bytes=8k",
        "bus_log_bytes=999999999999999999G",
        "ping_timeout=99ms",
        "ping_timeout=1w",
        "ping_timeout=s",
        "ping_timeout=-1s",
        "ping_timeout=1 s",
        "session_ttl=99999999999999999d",
        "message_rate_limit=10000001",
        "message_rate_limit=5/",
        "message_rate_limit=/s",
        "message_rate_limit=5/0s",
        "message_rate_limit=5/2d",
        "message_rate_limit=5/s/s",
        "message_rate_limit=-1",
        "pid_file=a\tb",
        "log_file=\"\x01\"",
    };
    struct config c, defaults;

    (void)state;
    config_defaults(&defaults);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        if (parse(&c, wrong[i]) != -EINVAL)
            fail_msg("%s was accepted", wrong[i]);
        assert_memory_equal(&c, &defaults, sizeof(c));
        /* Which part of an alert is wrong has a test of its own. */
        assert_non_null(strstr(error, strncmp(wrong[i], "alert_", 6) == 0 ? ": " : ": must be "));
    }
}

static void comments_spaces_and_quotes(void **state)
{
    struct config c;

    (void)state;
    assert_int_equal(parse(&c, ""), 0);
    assert_int_equal(
        parse(&c, "\xef\xbb\xbf# a comment\r\n\r\n \t port\t=  81 \t# why\r\n#port=5\n  # port = 6"), 0);
    assert_int_equal(c.port, 81);
    assert_int_equal(parse(&c, "pid_file = /a#b\nlog_file=\" /x # \\\"y\\\\ \" # rest\ndata_dir = # none"),
                     0);
    assert_string_equal(c.pid_file, "/a#b");
    assert_string_equal(c.log_file, " /x # \"y\\ ");
    assert_string_equal(c.data_dir, "");
    assert_int_equal(parse(&c, "pid_file = /a b = c\nlog_file=\"\""), 0);
    assert_string_equal(c.pid_file, "/a b = c");
    assert_string_equal(c.log_file, "");
}

static void errors_name_file_line_key_value_and_what_is_allowed(void **state)
{
    (void)state;
    assert_error("\n\nport = 70000\n", "f:3: port = 70000: must be a number from 0 to 65535");
    assert_error("workers = x", "f:1: workers = x: must be auto or a number from 1 to 256");
    assert_error("log_level = x", "f:1: log_level = x: must be debug, info, warn or error");
    assert_error("host = x", "f:1: host = x: must be an IPv4 or IPv6 address");
    assert_error("prot = 1", "f:1: prot: unknown key; did you mean `port`?");
    assert_error("MAX_WORKERS = 1", "f:1: MAX_WORKERS: unknown key; did you mean `workers`?");
    assert_error("alert_webhook = hook",
                 "f:1: alert_webhook = ********: must be empty, or an http:// or https:// address of at most "
                 "1000 bytes");
    assert_error("retention_age = 30",
                 "f:1: retention_age = 30: must be 0 or a time from 1h to 3650d: a number with ms, s, m, h "
                 "or d, alone in seconds (write 30d for days)");
    assert_error("zzzzzz = 1", "f:1: zzzzzz: unknown key, chatd -t prints all that are known");
    assert_error("port = 1\n\nport = 2", "f:3: port = 2: is set twice, first in line 1");
    assert_error("what\n= 3\nhost", "f:1: must be `key = value`\nf:2: must be `key = value`\n"
                                    "f:3: host: must be `key = value`");
    assert_error("log_file = \"a",
                 "f:1: log_file = \"a: a quoted value must end with its quote, with only \\\" and "
                 "\\\\ escaped inside");
    assert_error("port = \x1b[31m\xff", "f:1: port = \\x1b[31m\\xff: must be a number from 0 to 65535");
}

static void every_problem_is_reported(void **state)
{
    struct config c;
    char text[CONFIG_LINE_MAX * 2], *many;

    (void)state;
    assert_error("port=a\nfoo_=1\nhistory_limit=0",
                 "f:1: port = a: must be a number from 0 to 65535\n"
                 "f:2: foo_: unknown key, chatd -t prints all that are known\n"
                 "f:3: history_limit = 0: must be a number from 1 to 1000");
    assert_int_equal(parse_bytes(&c, "port=1\nport\0=2\n", 15), -EINVAL);
    assert_string_equal(error, "f:2: contains a NUL byte");
    memset(text, 'a', sizeof(text));
    assert_int_equal(parse_bytes(&c, text, CONFIG_LINE_MAX + 1), -EINVAL);
    assert_string_equal(error, "f:1: a line must be at most 4096 bytes");
    assert_int_equal(parse_bytes(&c, text, CONFIG_LINE_MAX), -EINVAL);
    /* More than fits into the text: the rest is counted. */
    many = malloc(2 * 10000);
    for (int i = 0; i < 10000; i++)
        memcpy(many + 2 * i, "x\n", 2);
    assert_int_equal(parse_bytes(&c, many, 2 * 10000), -EINVAL);
    assert_non_null(strstr(error, "\nand "));
    assert_string_equal(error + strlen(error) - 14, " more problems");
    free(many);
}

/* ---- files, environment, resolution ---- */

static char folder[64];

static void clear_environment(void)
{
    for (int i = 0; i < CONFIG_COUNT; i++)
        unsetenv(config_rows[i].env);
    unsetenv("STATE_DIRECTORY");
    setenv("HOME", "/home/x", 1);
}

static const char *write_file(const char *text)
{
    static char path[96];
    FILE *file;

    snprintf(path, sizeof(path), "%s/chat.conf", folder);
    file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

static void environment_wins_over_the_file(void **state)
{
    struct config c;

    (void)state;
    clear_environment();
    setenv("PORT", "81", 1);
    setenv("MAX_WORKERS", "3", 1);
    setenv("NODE_ENV", "production", 1);
    assert_int_equal(config_load(&c, write_file("port=80\nhistory_limit=7"), error), 0);
    assert_int_equal(c.port, 81);
    assert_int_equal(c.workers, 3);
    assert_false(c.workers_auto);
    assert_int_equal(c.mode, CONFIG_PRODUCTION);
    assert_int_equal(c.history_limit, 7);
    assert_int_equal(c.origin[CONFIG_INDEX_port], 1);
    assert_int_equal(c.origin[CONFIG_INDEX_history_limit], 3);
    setenv("PORT", "abc", 1);
    setenv("HISTORY_LIMIT", "", 1);
    assert_int_equal(config_load(&c, NULL, error), -EINVAL);
    assert_string_equal(error, "environment PORT=abc: must be a number from 0 to 65535\n"
                               "environment HISTORY_LIMIT=: must be a number from 1 to 1000");
    clear_environment();
}

static void files_that_cannot_be_read(void **state)
{
    struct config c;
    char path[96], expected[256], *large = malloc(CONFIG_FILE_MAX + 2);

    (void)state;
    clear_environment();
    snprintf(path, sizeof(path), "%s/absent", folder);
    assert_int_equal(config_load(&c, path, error), -EINVAL);
    snprintf(expected, sizeof(expected), "%s: can't be read: No such file or directory", path);
    assert_string_equal(error, expected);
    assert_int_equal(config_load(&c, folder, error), -EINVAL);
    assert_non_null(strstr(error, "can't be read: Is a directory"));
    memset(large, '\n', CONFIG_FILE_MAX + 1);
    large[CONFIG_FILE_MAX + 1] = '\0';
    assert_int_equal(config_load(&c, write_file(large), error), -EINVAL);
    assert_non_null(strstr(error, "can't be read: larger than 1 MB"));
    large[CONFIG_FILE_MAX] = '\0';
    assert_int_equal(config_load(&c, write_file(large), error), 0);
    free(large);
}

static void the_data_directory_has_a_default_and_becomes_absolute(void **state)
{
    struct config c;
    char cwd[512], expected[600], text[400];

    (void)state;
    clear_environment();
    assert_int_equal(config_load(&c, NULL, error), 0);
    assert_string_equal(c.data_dir, "/home/x/.local/state/chatd");
    assert_true(c.data_dir_default);
    setenv("STATE_DIRECTORY", "/var/lib/chatd:/var/lib/other", 1);
    assert_int_equal(config_load(&c, NULL, error), 0);
    assert_string_equal(c.data_dir, "/var/lib/chatd");
    assert_int_equal(config_load(&c, write_file("data_dir = sub"), error), 0);
    assert_false(c.data_dir_default);
    assert_non_null(getcwd(cwd, sizeof(cwd)));
    snprintf(expected, sizeof(expected), "%s/sub", cwd);
    assert_string_equal(c.data_dir, expected);
    memset(text, 'a', sizeof(text));
    text[200] = '\0';
    setenv("DATA_DIR", text, 1);
    assert_int_equal(config_load(&c, NULL, error), -EINVAL);
    assert_non_null(strstr(error, "must be at most 200 bytes as an absolute path"));
    clear_environment();
    unsetenv("HOME"); /* the password file knows */
    assert_int_equal(config_load(&c, NULL, error), 0);
    assert_non_null(strstr(c.data_dir, "/.local/state/chatd"));
    clear_environment();
}

static void reload_takes_what_it_may_and_names_the_rest(void **state)
{
    struct config current, next;
    char kept[CONFIG_ERROR_MAX];

    (void)state;
    clear_environment();
    assert_int_equal(config_load(&current, write_file("port=80\nworkers=2\ndata_dir=/a"), error), 0);
    assert_int_equal(
        config_load(&next, write_file("\nport=80\nworkers=4\ndata_dir=/a\nhistory_limit=7\n"), error), 0);
    config_reload(&current, &next, kept);
    assert_string_equal(kept, "");
    assert_int_equal(current.workers, 4);
    assert_int_equal(current.history_limit, 7);
    assert_int_equal(current.origin[CONFIG_INDEX_port], 1 + 2);
    assert_int_equal(
        config_load(&next, write_file("port=81\ndata_dir=/b\nlog_level=debug\nworkers=4"), error), 0);
    config_reload(&current, &next, kept);
    assert_string_equal(kept, "port,data_dir");
    assert_int_equal(current.port, 80);
    assert_string_equal(current.data_dir, "/a");
    assert_int_equal(current.log_level, 0);
    assert_int_equal(current.history_limit, 100);
}

/* ---- on paper ---- */

static char *printed(const struct config *config)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (config != NULL)
        config_print(config, out);
    else
        config_print_example(out);
    fclose(out);
    return text;
}

static void the_print_has_no_secrets(void **state)
{
    struct config c;
    char *text;

    (void)state;
    clear_environment();
    assert_int_equal(
        config_load(&c,
                    write_file("redis_password = s3cret\nredis = redis://:s3cret@a:1,redis://u:s3@cret@b\n"
                               "store = mongodb://ana:s3cret@h1,h2/db?w=1\n"
                               "alert_webhook = https://ana:s3%40h:1@h.example:8443/services/s3/s3?k=s3\n"),
                    error),
        0);
    text = printed(&c);
    assert_null(strstr(text, "s3"));
    assert_non_null(strstr(text, "\nredis_password = ********  # "));
    assert_non_null(strstr(text, "\nredis = redis://:********@a:1,redis://u:********@b  # "));
    assert_non_null(strstr(text, "\nstore = mongodb://ana:********@h1,h2/db?w=1  # "));
    assert_non_null(strstr(text, "\nredis_sentinel_password =  # default"));
    assert_non_null(strstr(text, "\nalert_webhook = https://h.example:8443/********  # "));
    free(text);
    assert_int_equal(config_load(&c, write_file("alert_webhook = http://h.example:80\n"), error), 0);
    text = printed(&c);
    assert_non_null(strstr(text, "\nalert_webhook = http://h.example:80  # "));
    free(text);
    assert_int_equal(config_load(&c, write_file("alert_webhook = http://s3cret@h.example\n"), error), 0);
    text = printed(&c);
    assert_non_null(strstr(text, "\nalert_webhook = http://h.example/********  # "));
    free(text);
}

static void errors_have_no_secrets(void **state)
{
    static const char *const keys[] = {"alert_webhook", "redis", "redis_password", "redis_sentinel_password",
                                       "store"};
    struct config c;
    char line[2048], text[4096], fill[1200];

    (void)state;
    clear_environment();
    memset(fill, 'x', sizeof(fill) - 1); /* longer than any of them may be */
    fill[sizeof(fill) - 1] = '\0';
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        snprintf(line, sizeof(line), "%s = ftp:u:s3cret@%s\n", keys[i], fill);
        assert_int_equal(parse(&c, line), -EINVAL);
        assert_non_null(strstr(error, "f:1: "));
        assert_non_null(strstr(error, " = ********: must be "));
        assert_null(strstr(error, "s3cret"));
        snprintf(text, sizeof(text), "%s =\n%s = s3cret\n", keys[i], keys[i]);
        assert_int_equal(parse(&c, text), -EINVAL);
        assert_non_null(strstr(error, " = ********: is set twice, first in line 1"));
        assert_null(strstr(error, "s3cret"));
        snprintf(text, sizeof(text),
                 "%s = \"s3cret\n%sx = s3cret\nx%s=\"s3cret\n%s: s3cret\n%s s3cret\n", keys[i], keys[i],
                 keys[i], keys[i], keys[i]);
        assert_int_equal(parse(&c, text), -EINVAL);
        assert_non_null(strstr(error, " = ********: a quoted value must end"));
        assert_non_null(strstr(error, "x: unknown key; did you mean `"));
        assert_null(strstr(error, "s3cret"));
    }
    setenv("ALERT_WEBHOOK", "u:s3cret@h", 1);
    assert_int_equal(config_load(&c, NULL, error), -EINVAL);
    assert_null(strstr(error, "s3cret"));
    assert_non_null(strstr(error, "environment ALERT_WEBHOOK=********: must be empty, or an http://"));
    clear_environment();
    /* A secret that went to a wrong place, or to none. */
    assert_int_equal(parse(&c, "port = redis://u:s3cret@h\nredis =\n  redis://u:s3cret@h/?s3cret=1\n"),
                     -EINVAL);
    assert_null(strstr(error, "s3cret"));
}

static void the_print_is_a_file_that_means_the_same(void **state)
{
    struct config c, again;
    char *text;

    (void)state;
    clear_environment();
    assert_int_equal(config_load(&c,
                                 write_file("pid_file = \" a\\\"b#\\\\ \"\nmessage_rate_limit=7/90s\n"
                                            "ping_interval=1500ms\nabuse_limit=3/h\nmax_text_bytes=1025\n"
                                            "alert_store=90ms for 1500ms\nalert_errors=7/90s clear 1/90s\n"
                                            "alert_queue=0\nalert_respawns=0/5m\nretention_age=30d\n"),
                                 error),
                     0);
    text = printed(&c);
    assert_non_null(strstr(text, "\nmessage_rate_limit = 7/90s  # "));
    assert_non_null(strstr(text, "\nabuse_limit = 3/h  # "));
    assert_non_null(strstr(text, "\nalert_store = 90ms for 1500ms  # "));
    assert_non_null(strstr(text, "\nalert_errors = 7/90s clear 1/90s  # "));
    assert_non_null(strstr(text, "\nalert_queue = off  # "));
    assert_non_null(strstr(text, "\nalert_respawns = 0/5m  # "));
    assert_non_null(strstr(text, "\nretention_age = 30d  # "));
    assert_non_null(strstr(text, "\nworkers = auto  # default, "));
    assert_non_null(strstr(text, "\ndata_dir =  # default, /home/x/.local/state/chatd here\n"));
    assert_int_equal(config_load(&again, write_file(text), error), 0);
    free(text);
    memcpy(again.origin, c.origin, sizeof(c.origin));
    assert_memory_equal(&c, &again, sizeof(c));
}

static void the_example_is_complete_and_means_the_defaults(void **state)
{
    struct config c, defaults;
    char *text = printed(NULL);

    (void)state;
    config_defaults(&c);
    config_defaults(&defaults);
    assert_int_equal(config_parse(&c, "example", text, strlen(text), error), 0);
    for (int i = 0; i < CONFIG_COUNT; i++) {
        if (c.origin[i] == 0)
            fail_msg("%s is not in the example", config_rows[i].key);
    }
    memset(c.origin, 0, sizeof(c.origin));
    assert_memory_equal(&c, &defaults, sizeof(c));
    free(text);
}

static void the_example_in_the_tree_is_what_the_table_says(void **state)
{
    const char *path = "chat.conf.example"; /* tests are run from the top of the tree */
    char *text = printed(NULL), *tree = calloc(1, CONFIG_FILE_MAX);
    FILE *file = fopen(path, "r");

    (void)state;
    if (file == NULL)
        fail_msg("%s can't be opened from here", path);
    assert_true(fread(tree, 1, CONFIG_FILE_MAX - 1, file) > 0);
    fclose(file);
    assert_string_equal(tree, text);
    free(tree);
    free(text);
}

/* Every cut of a file gives settings or errors, and never a value that the whole one has not. */
static void a_file_cut_anywhere_is_handled(void **state)
{
    char *text = printed(NULL);
    struct config c;

    (void)state;
    for (size_t length = 0; length <= strlen(text); length++) {
        int result = parse_bytes(&c, text, length);

        assert_true(result == 0 || (result == -EINVAL && error[0] != '\0'));
    }
    free(text);
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/chatd-test-config.XXXXXX");
    return mkdtemp(folder) != NULL ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(write_file(""));
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_each_type),
        cmocka_unit_test(levels_of_alerts),
        cmocka_unit_test(wrong_parts_of_alerts_are_named),
        cmocka_unit_test(wrong_values_are_refused),
        cmocka_unit_test(comments_spaces_and_quotes),
        cmocka_unit_test(errors_name_file_line_key_value_and_what_is_allowed),
        cmocka_unit_test(every_problem_is_reported),
        cmocka_unit_test(environment_wins_over_the_file),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(the_data_directory_has_a_default_and_becomes_absolute),
        cmocka_unit_test(reload_takes_what_it_may_and_names_the_rest),
        cmocka_unit_test(the_print_has_no_secrets),
        cmocka_unit_test(errors_have_no_secrets),
        cmocka_unit_test(the_print_is_a_file_that_means_the_same),
        cmocka_unit_test(the_example_is_complete_and_means_the_defaults),
        cmocka_unit_test(the_example_in_the_tree_is_what_the_table_says),
        cmocka_unit_test(a_file_cut_anywhere_is_handled),
    };
    return cmocka_run_group_tests_name("config", tests, make_folder, remove_folder);
}
