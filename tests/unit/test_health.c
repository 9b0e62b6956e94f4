/* test_health.c - what GET /health and its two shorter forms say when all is well, and who is named when not.
 * */
#include "chatd/health.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "chatd/clock.h"

static struct store_health told;

static void tell_health(struct store *store, struct store_health *health)
{
    (void)store;
    *health = told;
}

static const struct store_ops store_ops = {.health = tell_health};

static struct bus_health link_told;

static void tell_link(struct bus *bus, struct bus_health *health)
{
    (void)bus;
    *health = link_told;
}

static const struct bus_ops bus_ops = {.health = tell_link};

/* Two workers that serve, started a minute and a half ago. */
static int setup(void **state)
{
    struct metrics *metrics = metrics_map();

    if (metrics == NULL)
        return -1;
    metrics->started_ms = clock_wall_ms() - 90000;
    metrics->used = 3;
    for (int i = 0; i < 2; i++) {
        metrics->slots[i].pid = 100 + i;
        metrics->slots[i].ready = 1;
        metrics->slots[i].beat_ms = clock_monotonic_ms();
    }
    told = (struct store_health){.ok = true, .since_ms = metrics->started_ms};
    link_told = (struct bus_health){.ok = true};
    *state = metrics;
    return 0;
}

static struct health *made(struct metrics *metrics, enum health_phase phase)
{
    static struct config config = {.workers = 2};
    static struct store store = {.ops = &store_ops};
    static struct bus bus = {.ops = &bus_ops};
    static struct health health;

    health_init(&health, &config, metrics, &bus, &store);
    assert_int_equal(health.phase, HEALTH_STARTING);
    health_enter(&health, phase);
    return &health;
}

static json_t *parsed(struct buf *out)
{
    json_error_t error;
    json_t *json = json_loadb(out->data, out->length, JSON_REJECT_DUPLICATES, &error);

    if (json == NULL)
        fail_msg("%s in %.*s", error.text, (int)out->length, out->data);
    buf_deinit(out);
    return json;
}

static json_t *ask(struct metrics *metrics, enum health_phase phase, int expected_status)
{
    struct buf out = BUF_INIT;

    assert_int_equal(health_json(made(metrics, phase), &out), expected_status);
    return parsed(&out);
}

/* Texts and numbers along a path such as "parts.store.status", as text; empty when there is nothing. */
static const char *at(json_t *json, const char *path)
{
    static char text[256];
    char name[32];

    while (*path != '\0') {
        size_t length = strcspn(path, ".");

        snprintf(name, sizeof(name), "%.*s", (int)length, path);
        json = json_object_get(json, name);
        path += length + (path[length] == '.');
    }
    snprintf(text, sizeof(text), "%s", json_is_string(json) ? json_string_value(json) : "");
    if (json_is_integer(json))
        snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(json));
    return text;
}

static void test_all_well_is_200_and_names_every_part(void **state)
{
    json_t *json = ask(*state, HEALTH_SERVING, 200);

    assert_string_equal(at(json, "status"), "ok");
    assert_string_not_equal(at(json, "version"), "");
    assert_true(atoi(at(json, "uptime_s")) >= 90 && atoi(at(json, "uptime_s")) < 120);
    assert_string_equal(at(json, "parts.store.status"), "ok");
    /* Both parts say since when they are well. The bus doesn't know: since this worker's start. */
    assert_true(atoi(at(json, "parts.store.age_ms")) >= 90000);
    assert_true(atoi(at(json, "parts.bus.age_ms")) < 60000);
    assert_int_equal(strlen(at(json, "parts.bus.since")), strlen("2026-11-21T00:00:00.123Z"));
    assert_null(json_object_get(json_object_get(json, "parts"), "spool"));
    assert_string_equal(at(json, "parts.bus.status"), "ok");
    assert_string_equal(at(json, "parts.workers.status"), "ok");
    assert_string_equal(at(json, "parts.workers.configured"), "2");
    assert_string_equal(at(json, "parts.workers.running"), "2");
    assert_string_equal(at(json, "parts.workers.ready"), "2");
    json_decref(json);
}

static void test_a_failing_store_is_503_with_error_and_since(void **state)
{
    json_t *json;

    told = (struct store_health){.ok = false, .since_ms = 1795219200123, .error = "disk \"full\""};
    json = ask(*state, HEALTH_SERVING, 503);
    assert_string_equal(at(json, "status"), "failing");
    assert_string_equal(at(json, "parts.store.status"), "failing");
    assert_string_equal(at(json, "parts.store.error"), "disk \"full\"");
    assert_string_equal(at(json, "parts.store.since"), "2026-11-21T00:00:00.123Z");
    assert_string_equal(at(json, "parts.workers.status"), "ok");
    json_decref(json);
}

static void test_a_bus_that_is_away_is_503_and_named(void **state)
{
    json_t *json;

    link_told = (struct bus_health){.ok = false, .since_ms = 1795219200123, .error = "wrong password"};
    json = ask(*state, HEALTH_SERVING, 503);
    assert_string_equal(at(json, "parts.bus.status"), "failing");
    assert_string_equal(at(json, "parts.bus.error"), "wrong password");
    assert_string_equal(at(json, "parts.bus.since"), "2026-11-21T00:00:00.123Z");
    assert_string_equal(at(json, "parts.store.status"), "ok");
    json_decref(json);
}

static void test_an_error_that_is_no_utf8_leaves_the_answer_json(void **state)
{
    json_t *json;

    told = (struct store_health){.ok = false, .since_ms = 1000};
    memset(told.error, 0xc3, sizeof(told.error)); /* not even terminated */
    json = ask(*state, HEALTH_SERVING, 503);
    assert_int_equal(strlen(at(json, "parts.store.error")), sizeof(told.error));
    json_decref(json);
    snprintf(told.error, sizeof(told.error), "can't open /home/bjørn");
    json = ask(*state, HEALTH_SERVING, 503);
    assert_string_equal(at(json, "parts.store.error"), "can't open /home/bjørn");
    json_decref(json);
}

static void test_draining_is_503_and_a_failure_is_said_first(void **state)
{
    json_t *json = ask(*state, HEALTH_DRAINING, 503);

    assert_string_equal(at(json, "status"), "draining");
    json_decref(json);
    told.ok = false;
    json = ask(*state, HEALTH_DRAINING, 503);
    assert_string_equal(at(json, "status"), "failing");
    json_decref(json);
}

/* What a probe asks. */
static json_t *ask_ready(struct metrics *metrics, enum health_phase phase, int expected_status)
{
    struct buf out = BUF_INIT;

    assert_int_equal(health_ready(made(metrics, phase), &out), expected_status);
    return parsed(&out);
}

static void test_ready_says_why_not(void **state)
{
    static const struct {
        enum health_phase phase;
        bool store, bus;
        int status;
        const char *word, *reason;
    } cases[] = {
        {HEALTH_SERVING, true, true, 200, "ok", ""},
        {HEALTH_SERVING, false, true, 503, "failing", "store: no disk"},
        {HEALTH_SERVING, true, false, 503, "failing", "bus: no Redis"},
        {HEALTH_SERVING, false, false, 503, "failing", "store: no disk"},
        {HEALTH_STARTING, true, true, 503, "starting", "clients are not let in yet"},
        {HEALTH_STARTING, false, false, 503, "starting", "clients are not let in yet"},
        {HEALTH_DRAINING, true, true, 503, "draining", "clients are being sent away"},
        {HEALTH_DRAINING, true, false, 503, "failing", "bus: no Redis"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        json_t *json;

        told = (struct store_health){.ok = cases[i].store, .error = "no disk"};
        link_told = (struct bus_health){.ok = cases[i].bus, .error = "no Redis"};
        json = ask_ready(*state, cases[i].phase, cases[i].status);
        assert_string_equal(at(json, "status"), cases[i].word);
        assert_int_equal(strncmp(at(json, "reason"), cases[i].reason, strlen(cases[i].reason)), 0);
        json_decref(json);
        json_decref(ask(*state, cases[i].phase, cases[i].status)); /* /health has the same status */
    }
}

static void test_live_is_200_whatever_fails(void **state)
{
    told.ok = link_told.ok = false;
    for (enum health_phase phase = HEALTH_STARTING; phase <= HEALTH_DRAINING; phase++) {
        struct buf out = BUF_INIT;
        json_t *json;

        assert_int_equal(health_live(made(*state, phase), &out), 200);
        json = parsed(&out);
        assert_string_equal(at(json, "status"), "ok");
        assert_true(atoi(at(json, "uptime_s")) >= 90); /* the host's, as in health_json */
        json_decref(json);
    }
}

static void test_while_starting_the_spool_is_a_part(void **state)
{
    struct metrics *metrics = *state;
    json_t *json;

    metrics->slots[0].spool_messages = 12;
    json = ask(metrics, HEALTH_STARTING, 503);
    assert_string_equal(at(json, "status"), "starting");
    assert_string_equal(at(json, "parts.spool.status"), "replaying");
    assert_string_equal(at(json, "parts.spool.messages"), "12");
    json_decref(json);
}

static void test_workers_are_well_since_the_last_one_came_back(void **state)
{
    struct metrics *metrics = *state;
    struct health *health = made(metrics, HEALTH_SERVING);
    struct buf out = BUF_INIT;
    json_t *json;

    health->started_ms = health->workers_ms = 1795219200123;
    metrics->slots[1].beat_ms = clock_monotonic_ms() - 60000;
    health_tick(health);
    assert_true(health->workers_ms <= clock_wall_ms() - 60000);
    metrics->slots[1].beat_ms = clock_monotonic_ms();
    health_tick(health);
    assert_int_equal(health_json(health, &out), 200);
    json = parsed(&out);
    assert_true(atoi(at(json, "parts.workers.age_ms")) < 30000);
    assert_string_equal(at(json, "parts.bus.since"), "2026-11-21T00:00:00.123Z");
    json_decref(json);
}

static void test_a_stalled_worker_fails(void **state)
{
    struct metrics *metrics = *state;
    json_t *json;

    metrics->slots[1].beat_ms = clock_monotonic_ms() - HEALTH_STALL_MS - 1;
    json = ask(metrics, HEALTH_SERVING, 503);
    assert_string_equal(at(json, "parts.workers.status"), "failing");
    assert_int_equal(strncmp(at(json, "parts.workers.error"), "1 of 2 workers", 14), 0);
    assert_int_equal(strlen(at(json, "parts.workers.since")), strlen("2026-11-21T00:00:00.123Z"));
    assert_string_equal(at(json, "parts.store.status"), "ok");
    json_decref(json);
}

static void test_workers_that_start_drain_or_are_missing_are_no_failure(void **state)
{
    struct metrics *metrics = *state;
    json_t *json;

    metrics->slots[1].ready = 0;
    metrics->slots[1].beat_ms = 0;
    metrics->slots[2].pid = 102;
    metrics->slots[2].ready = 1;
    metrics->slots[2].draining = 1;
    json = ask(metrics, HEALTH_SERVING, 200);
    assert_string_equal(at(json, "parts.workers.running"), "3");
    assert_string_equal(at(json, "parts.workers.ready"), "1");
    json_decref(json);
}

static void test_a_clock_set_back_gives_no_negative_uptime(void **state)
{
    struct metrics *metrics = *state;
    json_t *json;

    metrics->started_ms = clock_wall_ms() + 3600000;
    json = ask(metrics, HEALTH_SERVING, 200);
    assert_string_equal(at(json, "uptime_s"), "0");
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_all_well_is_200_and_names_every_part, setup),
        cmocka_unit_test_setup(test_a_failing_store_is_503_with_error_and_since, setup),
        cmocka_unit_test_setup(test_a_bus_that_is_away_is_503_and_named, setup),
        cmocka_unit_test_setup(test_an_error_that_is_no_utf8_leaves_the_answer_json, setup),
        cmocka_unit_test_setup(test_draining_is_503_and_a_failure_is_said_first, setup),
        cmocka_unit_test_setup(test_ready_says_why_not, setup),
        cmocka_unit_test_setup(test_live_is_200_whatever_fails, setup),
        cmocka_unit_test_setup(test_while_starting_the_spool_is_a_part, setup),
        cmocka_unit_test_setup(test_workers_are_well_since_the_last_one_came_back, setup),
        cmocka_unit_test_setup(test_a_stalled_worker_fails, setup),
        cmocka_unit_test_setup(test_workers_that_start_drain_or_are_missing_are_no_failure, setup),
        cmocka_unit_test_setup(test_a_clock_set_back_gives_no_negative_uptime, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
