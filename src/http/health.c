/* health.c - whether this chatd can serve, part by part. */
#include "chatd/health.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "chatd/clock.h"
#include "chatd/names.h"

enum { ERROR_MAX = sizeof(((struct store_health *)NULL)->error), REASON_MAX = ERROR_MAX + 16 };

struct workers {
    int running;
    int ready;
    int stalled;
    int64_t oldest_ms; /* silence of the one that has been stalled longest */
};

/* All that an answer tells, at one moment. */
struct look {
    struct store_health store;
    struct bus_health bus;
    struct workers workers;
    char workers_error[ERROR_MAX];
    int64_t now_ms;
};

static struct workers count_workers(const struct metrics *metrics)
{
    struct workers workers = {0};
    int64_t now = clock_monotonic_ms();

    for (int i = 0; i < metrics->used; i++) {
        const struct metrics_slot *slot = &metrics->slots[i];
        int64_t silence = now - metrics_get(slot, beat_ms);

        if (metrics_get(slot, pid) == 0)
            continue;
        workers.running++;
        /* Before it is ready a worker may take its time, and has perhaps no beat yet. */
        if (metrics_get(slot, ready) == 0)
            continue;
        workers.ready += metrics_get(slot, draining) == 0;
        if (metrics_get(slot, beat_ms) == 0 || silence < HEALTH_STALL_MS)
            continue;
        workers.stalled++;
        workers.oldest_ms = silence > workers.oldest_ms ? silence : workers.oldest_ms;
    }
    return workers;
}

static struct workers look_at_workers(struct health *health)
{
    struct workers workers = count_workers(health->metrics);
    bool fail = workers.stalled > 0;

    if (fail != health->workers_fail)
        health->workers_ms = clock_wall_ms();
    if (fail)
        health->workers_ms = clock_wall_ms() - workers.oldest_ms;
    health->workers_fail = fail;
    return workers;
}

static struct look look_at(struct health *health)
{
    struct look look = {.now_ms = clock_wall_ms()};

    store_health(health->store, &look.store);
    bus_health(health->bus, &look.bus);
    look.workers = look_at_workers(health);
    snprintf(look.workers_error, sizeof(look.workers_error), "%d of %d workers stalled, for up to %lld ms",
             look.workers.stalled, look.workers.running, (long long)look.workers.oldest_ms);
    return look;
}

void health_init(struct health *health, const struct config *config, const struct metrics *metrics,
                 struct bus *bus, struct store *store)
{
    int64_t now = clock_wall_ms();

    *health = (struct health){.config = config,
                              .metrics = metrics,
                              .bus = bus,
                              .store = store,
                              .phase_ms = now,
                              .started_ms = now,
                              .workers_ms = now};
}

void health_enter(struct health *health, enum health_phase phase)
{
    health->phase = phase;
    health->phase_ms = clock_wall_ms();
}

void health_tick(struct health *health)
{
    look_at_workers(health);
}

/* The error is the store's, with file names and perhaps cut: what is no UTF-8 would break the whole answer.
 * */
static void add_error(struct buf *out, const char *error, size_t most)
{
    char ascii[REASON_MAX];
    size_t length = strnlen(error, most);

    if (text_valid_utf8(error, length)) {
        buf_add_json(out, error, length);
        return;
    }
    for (size_t i = 0; i < length; i++)
        ascii[i] = (unsigned char)error[i] < 0x80 ? error[i] : '?';
    buf_add_json(out, ascii, length);
}

/* The wall clock may have been set back since. */
static long long age(int64_t now_ms, int64_t since_ms)
{
    return now_ms > since_ms ? now_ms - since_ms : 0;
}

static void add_since(struct buf *out, int64_t now_ms, int64_t since_ms)
{
    time_t seconds = (time_t)(since_ms / 1000);
    struct tm utc;
    char since[32];

    gmtime_r(&seconds, &utc);
    strftime(since, sizeof(since), "%Y-%m-%dT%H:%M:%S", &utc);
    buf_printf(out, ",\"since\":\"%s.%03dZ\",\"age_ms\":%lld", since, (int)(since_ms % 1000),
               age(now_ms, since_ms));
}

/* What a part is, and since when; the caller opened the object and closes it. A part that never changed its
 * state has been in it since the start. */
static void add_state(struct buf *out, const struct health *health, bool ok, const char *error,
                      int64_t since_ms)
{
    if (ok) {
        buf_add_literal(out, "\"status\":\"ok\"");
    } else {
        buf_add_literal(out, "\"status\":\"failing\",\"error\":");
        add_error(out, error, ERROR_MAX);
    }
    add_since(out, clock_wall_ms(), since_ms != 0 ? since_ms : health->started_ms);
}

/* The kind says where to look. */
static void add_kind(struct buf *out, const char *kind)
{
    buf_printf(out, "\"kind\":\"%s\",", kind);
}

static void add_parts(struct buf *out, const struct health *health, const struct look *look)
{
    const struct config *config = health->config;
    const struct workers *workers = &look->workers;

    buf_add_literal(out, "{\"store\":{");
    add_kind(out, config->store[0] ? "mongodb" : "sqlite");
    add_state(out, health, look->store.ok, look->store.error, look->store.since_ms);
    buf_add_literal(out, "},\"bus\":{");
    add_kind(out, config->redis[0] || config->redis_host[0] ? "redis" : "shared memory");
    add_state(out, health, look->bus.ok, look->bus.error, look->bus.since_ms);
    buf_add_literal(out, "},\"workers\":{");
    add_state(out, health, workers->stalled == 0, look->workers_error, health->workers_ms);
    buf_printf(out, ",\"configured\":%lld,\"running\":%d,\"ready\":%d,\"stalled\":%d",
               (long long)config->workers, workers->running, workers->ready, workers->stalled);
    if (health->phase == HEALTH_STARTING) {
        buf_add_literal(out, "},\"spool\":{\"status\":\"replaying\"");
        add_since(out, look->now_ms, health->phase_ms);
        buf_printf(out, ",\"messages\":%lld", (long long)metrics_max(health->metrics, spool_messages));
    }
    buf_add_literal(out, "}}");
}

/* The first part that fails, NULL when all is well. */
static const char *find_failing(const struct look *look, const char **error)
{
    if (!look->store.ok) {
        *error = look->store.error;
        return "store";
    }
    if (!look->bus.ok) {
        *error = look->bus.error;
        return "bus";
    }
    *error = look->workers_error;
    return look->workers.stalled > 0 ? "workers" : NULL;
}

static const char *judge(const struct health *health, const struct look *look)
{
    const char *error;

    if (health->phase == HEALTH_STARTING)
        return "starting";
    if (find_failing(look, &error) != NULL)
        return "failing";
    return health->phase == HEALTH_DRAINING ? "draining" : "ok";
}

static int status_of(const char *word)
{
    return strcmp(word, "ok") == 0 ? 200 : 503;
}

static void add_program(struct buf *out, const char *status, int64_t uptime_ms)
{
    buf_printf(out, "{\"status\":\"%s\",\"version\":", status);
    buf_add_json(out, CHATD_VERSION, strlen(CHATD_VERSION));
    buf_printf(out, ",\"uptime_s\":%lld", (long long)(uptime_ms / 1000));
}

int health_live(const struct health *health, struct buf *out)
{
    add_program(out, "ok", age(clock_wall_ms(), health->metrics->started_ms));
    buf_add_literal(out, "}");
    return 200;
}

int health_ready(struct health *health, struct buf *out)
{
    struct look look = look_at(health);
    const char *status = judge(health, &look), *error, *part = find_failing(&look, &error);
    char reason[REASON_MAX] = "clients are not let in yet: what is left of an earlier life comes first";

    buf_printf(out, "{\"status\":\"%s\"", status);
    if (strcmp(status, "failing") == 0)
        snprintf(reason, sizeof(reason), "%s: %.*s", part, (int)ERROR_MAX, error);
    else if (strcmp(status, "draining") == 0)
        snprintf(reason, sizeof(reason), "clients are being sent away");
    if (status_of(status) != 200) {
        buf_add_literal(out, ",\"reason\":");
        add_error(out, reason, sizeof(reason));
    }
    buf_add_literal(out, "}");
    return status_of(status);
}

int health_json(struct health *health, struct buf *out)
{
    struct look look = look_at(health);
    const char *status = judge(health, &look);

    add_program(out, status, age(look.now_ms, health->metrics->started_ms));
    buf_add_literal(out, ",\"parts\":");
    add_parts(out, health, &look);
    buf_add_literal(out, "}");
    return status_of(status);
}
