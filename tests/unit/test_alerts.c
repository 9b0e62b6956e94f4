/* Alerts: when they fire and clear, that a death in the middle of a change loses and doubles nothing, how
 * the notices wait, what memory is, and what is said of it all. Time and values are fed. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "alerts/alerts_shared.h"
#include "chatd/rules.h"

enum { WALL_MS = 1000000 }; /* what Unix time is ahead of the fed clock */

static struct config config;
static struct alerts *alerts;
static struct alerts_reading reading;
static int64_t now_ms;

static int set_up(void **state)
{
    (void)state;
    config_defaults(&config);
    alerts = alerts_map();
    memset(&reading, 0, sizeof(reading));
    for (unsigned i = 0; i < ALERTS_COUNT; i++)
        reading.known[i] = true;
    now_ms = 5000;
    return alerts ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    alerts_unmap(alerts);
    return 0;
}

static void set(const char *text)
{
    char error[CONFIG_ERROR_MAX];

    if (config_parse(&config, "f", text, strlen(text), error) != 0)
        fail_msg("%s", error);
}

/* The value for so many seconds, judged once in each. */
static void feed(enum alerts_name alert, double value, int seconds)
{
    reading.values[alert] = value;
    for (int i = 0; i < seconds; i++) {
        now_ms += 1000;
        alerts_judge(alerts, &config, &reading, now_ms, WALL_MS + now_ms, true);
    }
}

static enum alerts_state state_of(enum alerts_name alert)
{
    return alerts->rules[alert].state;
}

/* The next notice, done with; fails when it is not this one. */
static struct alerts_notice expect_notice(enum alerts_name alert, bool firing)
{
    struct alerts_notice notice;
    uint64_t number;

    assert_true(alerts_notice_first(alerts, &notice, &number));
    assert_int_equal(notice.alert, alert);
    assert_int_equal(notice.firing, firing);
    alerts_notice_done(alerts, number, false);
    return notice;
}

static void expect_silence(void)
{
    struct alerts_notice notice;
    uint64_t number;

    assert_false(alerts_notice_first(alerts, &notice, &number));
}

/* ---- the state machine ---- */

static void fires_once_it_was_above_for_long_enough_and_clears_the_same_way(void **state)
{
    struct alerts_notice notice;
    int64_t fired_ms;

    (void)state;
    set("alert_queue = 1000 for 10s clear 500");
    feed(ALERTS_queue, 1000, 20);
    assert_int_equal(state_of(ALERTS_queue), ALERTS_OK);
    feed(ALERTS_queue, 1001, 10);
    assert_int_equal(state_of(ALERTS_queue), ALERTS_PENDING);
    expect_silence();
    feed(ALERTS_queue, 1001, 1);
    assert_int_equal(state_of(ALERTS_queue), ALERTS_FIRING);
    fired_ms = WALL_MS + now_ms;
    feed(ALERTS_queue, 700, 60); /* between the levels */
    feed(ALERTS_queue, 500, 10);
    assert_int_equal(state_of(ALERTS_queue), ALERTS_FIRING);
    notice = expect_notice(ALERTS_queue, true);
    assert_int_equal(notice.started_ms, fired_ms);
    assert_int_equal(notice.ended_ms, 0);
    expect_silence();
    feed(ALERTS_queue, 500, 1);
    assert_int_equal(state_of(ALERTS_queue), ALERTS_OK);
    notice = expect_notice(ALERTS_queue, false);
    assert_int_equal(notice.started_ms, fired_ms);
    assert_int_equal(notice.ended_ms, WALL_MS + now_ms);
    expect_silence();
}

static void what_comes_and_goes_neither_fires_nor_clears(void **state)
{
    (void)state;
    set("alert_queue = 1000 for 10s clear 500");
    for (int i = 0; i < 10; i++) {
        feed(ALERTS_queue, 5000, 10);
        feed(ALERTS_queue, 1000, 1);
    }
    expect_silence();
    feed(ALERTS_queue, 5000, 11);
    expect_notice(ALERTS_queue, true);
    for (int i = 0; i < 10; i++) {
        feed(ALERTS_queue, 0, 10);
        feed(ALERTS_queue, 501, 1);
    }
    expect_silence();
    assert_int_equal(state_of(ALERTS_queue), ALERTS_FIRING);
}

static void without_for_and_clear_one_look_is_enough(void **state)
{
    (void)state;
    set("alert_store = 100ms");
    feed(ALERTS_store, 100, 3);
    expect_silence();
    feed(ALERTS_store, 100.5, 1);
    expect_notice(ALERTS_store, true);
    feed(ALERTS_store, 100, 1);
    expect_notice(ALERTS_store, false);
    expect_silence();
}

static void an_alert_that_is_off_never_fires_and_one_set_to_off_is_over(void **state)
{
    (void)state;
    set("alert_queue = off");
    feed(ALERTS_queue, 1e9, 5);
    assert_int_equal(state_of(ALERTS_queue), ALERTS_OFF);
    expect_silence();
    set("alert_queue = 10");
    feed(ALERTS_queue, 1e9, 5);
    expect_notice(ALERTS_queue, true);
    set("alert_queue = 0");
    feed(ALERTS_queue, 1e9, 5);
    expect_notice(ALERTS_queue, false);
    expect_silence();
    assert_int_equal(state_of(ALERTS_queue), ALERTS_OFF);
}

static void other_levels_after_a_reload_judge_what_fires_already(void **state)
{
    (void)state;
    set("alert_queue = 1000 for 5s");
    feed(ALERTS_queue, 1500, 6);
    expect_notice(ALERTS_queue, true);
    set("alert_queue = 2000 for 5s clear 1200");
    feed(ALERTS_queue, 1500, 20); /* would not fire any more, but has not cleared either */
    expect_silence();
    set("alert_queue = 2000 for 5s");
    feed(ALERTS_queue, 1500, 6);
    expect_notice(ALERTS_queue, false);
    set("alert_queue = 1000 for 5s");
    feed(ALERTS_queue, 1500, 6);
    expect_notice(ALERTS_queue, true);
    expect_silence();
}

static void a_value_that_is_not_known_changes_nothing(void **state)
{
    (void)state;
    set("alert_memory = 80% for 5s");
    feed(ALERTS_memory, 90, 4);
    reading.known[ALERTS_memory] = false;
    feed(ALERTS_memory, 0, 10);
    expect_silence();
    reading.known[ALERTS_memory] = true;
    feed(ALERTS_memory, 90, 6);
    expect_notice(ALERTS_memory, true);
    reading.known[ALERTS_memory] = false;
    feed(ALERTS_memory, 0, 10);
    expect_silence();
    assert_int_equal(state_of(ALERTS_memory), ALERTS_FIRING);
}

static void events_are_counted_within_their_window(void **state)
{
    (void)state;
    set("alert_errors = 5/10s clear 0/10s\nalert_respawns = 1/5m clear 0/5m");
    feed(ALERTS_errors, 5, 1); /* before the first look: the counters began at 0 */
    assert_int_equal(alerts->rules[ALERTS_errors].value, 5);
    expect_silence();
    feed(ALERTS_errors, 6, 1);
    expect_notice(ALERTS_errors, true);
    feed(ALERTS_errors, 6, 9);
    assert_int_equal(alerts->rules[ALERTS_errors].value, 1);
    assert_int_equal(state_of(ALERTS_errors), ALERTS_FIRING);
    feed(ALERTS_errors, 6, 1);
    expect_notice(ALERTS_errors, false);
    feed(ALERTS_errors, 11, 1);
    expect_silence();
    reading.values[ALERTS_respawns] = 2;
    feed(ALERTS_errors, 11, 1);
    expect_notice(ALERTS_respawns, true);
    feed(ALERTS_errors, 11, 299);
    expect_silence();
    feed(ALERTS_errors, 11, 1);
    expect_notice(ALERTS_respawns, false);
    /* All samples have been used more than once by then. */
    set("alert_errors = 5/10m");
    feed(ALERTS_errors, 100, 1);
    expect_notice(ALERTS_errors, true);
    feed(ALERTS_errors, 100, 599);
    assert_int_equal(state_of(ALERTS_errors), ALERTS_FIRING);
    feed(ALERTS_errors, 100, 1);
    expect_notice(ALERTS_errors, false);
}

/* ---- notices ---- */

static void too_many_notices_push_out_the_oldest(void **state)
{
    struct alerts_notice notice;
    uint64_t number, first;

    (void)state;
    set("alert_queue = 10");
    for (int i = 0; i < ALERTS_NOTICES_MAX / 2; i++) {
        feed(ALERTS_queue, 11 + i, 1);
        feed(ALERTS_queue, 0, 1);
    }
    assert_int_equal(alerts->dropped, 0);
    assert_true(alerts_notice_first(alerts, &notice, &first));
    feed(ALERTS_queue, 500, 1);
    assert_int_equal(alerts->dropped, 1);
    assert_int_equal(alerts->head - alerts->tail, ALERTS_NOTICES_MAX);
    alerts_notice_done(alerts, first, false); /* sent while it was pushed out: no other is taken for it */
    assert_true(alerts_notice_first(alerts, &notice, &number));
    assert_int_equal(number, first + 1);
    assert_false(notice.firing);
    alerts_notice_done(alerts, number, true);
    assert_int_equal(alerts->dropped, 2);
    alerts_notices_clear(alerts);
    expect_silence();
}

static void without_a_receiver_nothing_waits(void **state)
{
    (void)state;
    set("alert_queue = 10");
    reading.values[ALERTS_queue] = 11;
    alerts_judge(alerts, &config, &reading, 1000, WALL_MS, false);
    assert_int_equal(state_of(ALERTS_queue), ALERTS_FIRING);
    expect_silence();
}

/* ---- deaths ---- */

/* Dies with the lock in hand and a change begun, after `steps` of its parts. */
static void die_in_a_change(int steps)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        alerts_lock(alerts);
        alerts->rules[ALERTS_store].setting = config.alert_store;
        alerts->change.notice = (struct alerts_notice){.alert = ALERTS_store,
                                                       .firing = true,
                                                       .value = 700,
                                                       .started_ms = 77,
                                                       .setting = config.alert_store};
        alerts->change.state = ALERTS_FIRING;
        alerts->change.tell = true;
        alerts->change.number = alerts->head;
        atomic_store(&alerts->change.undone, true);
        if (steps > 0)
            alerts->rules[ALERTS_store].state = ALERTS_FIRING;
        if (steps > 0)
            alerts->rules[ALERTS_store].since_ms = 77;
        if (steps > 1)
            alerts->notices[alerts->head++ % ALERTS_NOTICES_MAX] = alerts->change.notice;
        if (steps > 2)
            atomic_store(&alerts->change.undone, false);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static void a_change_whose_maker_died_is_made_once(void **state)
{
    (void)state;
    for (int steps = 0; steps <= 3; steps++) {
        die_in_a_change(steps);
        expect_notice(ALERTS_store, true);
        expect_silence();
        assert_int_equal(state_of(ALERTS_store), ALERTS_FIRING);
        assert_int_equal(alerts->rules[ALERTS_store].since_ms, 77);
        feed(ALERTS_store, 700, 60);
        expect_silence();
        set("alert_store = 100ms");
        feed(ALERTS_store, 0, 1);
        expect_notice(ALERTS_store, false);
    }
}

static void another_process_goes_on_with_the_state(void **state)
{
    pid_t pid;
    int status;

    (void)state;
    set("alert_queue = 10 for 20s clear 5");
    pid = fork();
    if (pid == 0) {
        feed(ALERTS_queue, 11, 15);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    now_ms += 15000;
    assert_int_equal(state_of(ALERTS_queue), ALERTS_PENDING);
    feed(ALERTS_queue, 11, 6);
    expect_notice(ALERTS_queue, true);
    expect_silence();
}

static void assert_shown(int64_t used, int64_t limit, int64_t firing)
{
    assert_int_equal(metrics_get(metrics_mine, memory_used_bytes), used);
    assert_int_equal(metrics_get(metrics_mine, memory_limit_bytes), limit);
    assert_int_equal(metrics_get(metrics_mine, alerts_firing), firing);
}

static void who_does_not_judge_shows_what_was_judged(void **state)
{
    struct alerts_watch *watch;

    (void)state;
    set("alert_queue = 10");
    reading.memory_used = 30;
    reading.memory_limit = 40;
    feed(ALERTS_queue, 11, 1);
    assert_shown(0, 0, 0);
    watch = alerts_watch_new(alerts, NULL, &config, -1);
    assert_shown(30, 40, 1);
    reading.memory_used = 31;
    feed(ALERTS_queue, 0, 1);
    assert_int_equal(pthread_mutex_lock(&alerts->seat), 0); /* as somebody else would */
    alerts_watch_tick(watch);
    assert_shown(31, 40, 0);
    alerts_watch_stop(watch);
    assert_shown(31, 40, 0);
    reading.memory_used = 32;
    feed(ALERTS_queue, 11, 1);
    alerts_watch_tick(watch); /* while it drains */
    assert_shown(32, 40, 1);
    pthread_mutex_unlock(&alerts->seat);
    alerts_watch_free(watch);
}

/* ---- memory ---- */

static char root[64];

static void put(const char *path, const char *text)
{
    char full[600], *slash;
    FILE *file;

    snprintf(full, sizeof(full), "%s%s", root, path);
    for (slash = strchr(full + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void assert_memory(int64_t used, int64_t limit)
{
    int64_t got_used, got_limit;

    assert_true(alerts_memory(root, &got_used, &got_limit));
    assert_int_equal(got_used, used);
    assert_int_equal(got_limit, limit);
}

static void start_tree(void)
{
    strcpy(root, "/tmp/chatd-test-alerts.XXXXXX");
    assert_non_null(mkdtemp(root));
}

static void remove_tree(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

#define MEMINFO "MemTotal:        1000 kB\nMemFree:  1 kB\nMemAvailable:     400 kB\n"
#define V2_MOUNT "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"

static void memory_is_the_hosts_without_a_limit(void **state)
{
    int64_t used, limit;

    (void)state;
    start_tree();
    assert_false(alerts_memory(root, &used, &limit));
    put("/proc/meminfo", MEMINFO);
    assert_memory(600 * 1024, 1000 * 1024);
    put("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/root rw\n" V2_MOUNT);
    put("/proc/self/cgroup", "0::/system.slice/chatd.service\n");
    put("/sys/fs/cgroup/system.slice/chatd.service/memory.max", "max\n");
    put("/sys/fs/cgroup/system.slice/chatd.service/memory.current", "5000\n");
    assert_memory(600 * 1024, 1000 * 1024);
    remove_tree();
}

static void memory_is_that_of_the_tightest_group(void **state)
{
    (void)state;
    start_tree();
    put("/proc/meminfo", MEMINFO);
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/proc/self/cgroup", "0::/a.slice/b.service\n");
    put("/sys/fs/cgroup/a.slice/b.service/memory.max", "100000\n");
    put("/sys/fs/cgroup/a.slice/b.service/memory.current", "60000\n");
    put("/sys/fs/cgroup/a.slice/b.service/memory.stat",
        "anon 1\nfile 30000\ninactive_file_x 5\ninactive_file 20000\n");
    assert_memory(40000, 100000);
    put("/sys/fs/cgroup/a.slice/memory.max", "300000\n");
    put("/sys/fs/cgroup/a.slice/memory.current", "270000\n");
    assert_memory(270000, 300000);
    remove_tree();
}

static void memory_groups_of_version_1_and_of_containers(void **state)
{
    (void)state;
    start_tree();
    put("/proc/meminfo", MEMINFO);
    /* A container sees its own group as the root of the mount. */
    put("/proc/self/mountinfo", "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                                "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("/proc/self/cgroup", "4:cpuset,memory:/docker/abc\n0::/\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "200000\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "150000\n");
    put("/sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 50000\n");
    assert_memory(100000, 200000);
    put("/proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "400000\n");
    put("/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "300000\n");
    assert_memory(300000, 400000);
    remove_tree();
}

/* ---- what is said ---- */

static json_t *parse(struct buf *text)
{
    json_error_t error;
    json_t *root_object = json_loadb(text->data, text->length, JSON_REJECT_DUPLICATES, &error);

    if (!root_object)
        fail_msg("%s in %.*s", error.text, (int)text->length, text->data);
    buf_deinit(text);
    return root_object;
}

static const char *word(json_t *object, const char *name)
{
    assert_true(json_is_string(json_object_get(object, name)));
    return json_string_value(json_object_get(object, name));
}

static void the_answer_has_the_rules_and_those_that_fire(void **state)
{
    struct buf text = BUF_INIT;
    json_t *all, *one;

    (void)state;
    alerts_json(alerts, &text);
    all = parse(&text);
    assert_true(json_is_null(json_object_get(all, "judged")));
    assert_int_equal(json_array_size(json_object_get(all, "rules")), ALERTS_COUNT);
    assert_int_equal(json_array_size(json_object_get(all, "alerts")), 0);
    json_decref(all);
    set("alert_store = 100ms clear 50ms\nalert_memory = off\nalert_errors = 5/1m");
    reading.known[ALERTS_memory] = false;
    feed(ALERTS_store, 123.456, 2);
    alerts_json(alerts, &text);
    all = parse(&text);
    assert_string_equal(word(all, "status"), "firing");
    assert_string_equal(word(all, "judged"), "1970-01-01T00:16:47.000Z");
    one = json_array_get(json_object_get(all, "alerts"), 0);
    assert_int_equal(json_array_size(json_object_get(all, "alerts")), 1);
    assert_string_equal(word(one, "name"), "store");
    assert_string_equal(word(one, "since"), "1970-01-01T00:16:46.000Z");
    assert_string_equal(word(one, "unit"), "ms");
    assert_true(json_real_value(json_object_get(one, "value")) == 123.46);
    assert_int_equal(json_integer_value(json_object_get(one, "threshold")), 100);
    assert_true(strlen(word(one, "advice")) > 0);
    one = json_array_get(json_object_get(all, "rules"), ALERTS_memory);
    assert_string_equal(word(one, "state"), "off");
    assert_true(json_is_null(json_object_get(one, "value")));
    assert_true(json_is_null(json_object_get(one, "threshold")));
    one = json_array_get(json_object_get(all, "rules"), ALERTS_errors);
    assert_string_equal(word(one, "setting"), "alert_errors");
    assert_int_equal(json_integer_value(json_object_get(one, "window_ms")), 60000);
    json_decref(all);
}

static json_t *body_of(const struct alerts_notice *notice, json_t **alert)
{
    struct buf text = BUF_INIT;
    json_t *body;

    alerts_webhook_body(notice, "host:5000", &text);
    body = parse(&text);
    *alert = json_array_get(json_object_get(body, "alerts"), 0);
    return body;
}

/* A level of 0 events is a level, and not `off`. */
static void the_first_event_may_be_too_many(void **state)
{
    struct alerts_notice notice;
    struct buf text = BUF_INIT;
    json_t *all, *body, *one;

    (void)state;
    set("alert_errors = 0/10s");
    feed(ALERTS_errors, 0, 3);
    expect_silence();
    assert_int_equal(state_of(ALERTS_errors), ALERTS_OK);
    feed(ALERTS_errors, 1, 1);
    notice = expect_notice(ALERTS_errors, true);
    body = body_of(&notice, &one);
    assert_string_equal(word(json_object_get(one, "annotations"), "threshold"), "0 errors within 10 s");
    json_decref(body);
    alerts_json(alerts, &text);
    all = parse(&text);
    one = json_array_get(json_object_get(all, "rules"), ALERTS_errors);
    assert_true(json_is_integer(json_object_get(one, "threshold")));
    json_decref(all);
    feed(ALERTS_errors, 1, 10);
    expect_notice(ALERTS_errors, false);
    set("alert_errors = 0");
    feed(ALERTS_errors, 2, 1);
    expect_silence();
    assert_int_equal(state_of(ALERTS_errors), ALERTS_OFF);
}

static void the_two_notices_of_an_alert_belong_together(void **state)
{
    struct alerts_notice notice;
    json_t *fired, *resolved, *first, *last;

    (void)state;
    set("alert_errors = 5/1m");
    feed(ALERTS_errors, 9, 1);
    notice = expect_notice(ALERTS_errors, true);
    fired = body_of(&notice, &first);
    feed(ALERTS_errors, 9, 60);
    notice = expect_notice(ALERTS_errors, false);
    resolved = body_of(&notice, &last);
    assert_string_equal(word(fired, "version"), "4");
    assert_string_equal(word(fired, "status"), "firing");
    assert_string_equal(word(resolved, "status"), "resolved");
    assert_string_equal(word(fired, "groupKey"), word(resolved, "groupKey"));
    assert_string_equal(word(first, "fingerprint"), word(last, "fingerprint"));
    assert_string_equal(word(first, "startsAt"), word(last, "startsAt"));
    assert_string_equal(word(first, "endsAt"), "0001-01-01T00:00:00Z");
    assert_string_equal(word(last, "endsAt"), "1970-01-01T00:17:46.000Z");
    assert_string_equal(word(json_object_get(first, "annotations"), "value"), "9 errors within 60 s");
    assert_string_equal(word(json_object_get(first, "labels"), "alertname"), "ChatdErrors");
    json_decref(fired);
    json_decref(resolved);
}

static char *printed_rules(void)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    rules_print(&config, out);
    fclose(out);
    return text;
}

static void the_rules_have_the_settings_levels(void **state)
{
    const struct config_alert off = {.threshold = 0};
    char *text;

    (void)state;
    set("alert_queue = 7 for 1500ms clear 3\nalert_store = off\nalert_errors = 5/30s");
    text = printed_rules();
    assert_non_null(strstr(text, "_queue\"}) > 7\n"));
    assert_non_null(strstr(text, "_queue\"}) > 3 and ignoring"));
    assert_non_null(strstr(text, "        for: 1500ms\n        keep_firing_for: 1500ms\n"));
    assert_non_null(strstr(text, "[60s]))) * 30 / 60 > 5\n        labels"));
    assert_null(strstr(text, "ChatdStore"));
    free(text);
    for (unsigned i = 0; i < ALERTS_COUNT; i++)
        memcpy((char *)&config + alerts_rows[i].setting, &off, sizeof(off));
    text = printed_rules();
    assert_non_null(strstr(text, "    rules: []\n"));
    free(text);
}

static void the_rules_in_the_tree_are_what_the_table_says(void **state)
{
    static char tree[65536];
    char *text = printed_rules();
    FILE *file = fopen("deploy/prometheus/chatd.rules.yml", "r"); /* tests are run from the top of the tree */

    (void)state;
    assert_non_null(file);
    assert_true(fread(tree, 1, sizeof(tree) - 1, file) > 0);
    fclose(file);
    assert_string_equal(tree, text);
    free(text);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(fires_once_it_was_above_for_long_enough_and_clears_the_same_way),
        TEST(what_comes_and_goes_neither_fires_nor_clears),
        TEST(without_for_and_clear_one_look_is_enough),
        TEST(an_alert_that_is_off_never_fires_and_one_set_to_off_is_over),
        TEST(other_levels_after_a_reload_judge_what_fires_already),
        TEST(a_value_that_is_not_known_changes_nothing),
        TEST(events_are_counted_within_their_window),
        TEST(too_many_notices_push_out_the_oldest),
        TEST(without_a_receiver_nothing_waits),
        TEST(a_change_whose_maker_died_is_made_once),
        TEST(another_process_goes_on_with_the_state),
        TEST(who_does_not_judge_shows_what_was_judged),
        TEST(memory_is_the_hosts_without_a_limit),
        TEST(memory_is_that_of_the_tightest_group),
        TEST(memory_groups_of_version_1_and_of_containers),
        TEST(the_answer_has_the_rules_and_those_that_fire),
        TEST(the_first_event_may_be_too_many),
        TEST(the_two_notices_of_an_alert_belong_together),
        TEST(the_rules_have_the_settings_levels),
        TEST(the_rules_in_the_tree_are_what_the_table_says),
    };
    return cmocka_run_group_tests_name("alerts", tests, NULL, NULL);
}
