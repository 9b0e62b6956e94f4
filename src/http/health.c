/* health.c - whether this chatd can serve, part by part. */
#include "chatd/health.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "chatd/clock.h"
#include "chatd/names.h"

struct workers {
    int running;
    int ready;
    int stalled;
    int64_t oldest_ms; /* silence of the one that has been stalled longest */
};

static struct workers count_workers(const struct metrics *metrics)
{
    struct workers workers = {0};
    int64_t now = clock_monotonic_ms();

    for (int i = 0; i < METRICS_WORKERS_MAX; i++) {
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

/* The error is the store's, with file names and perhaps cut: what is no UTF-8 would break the whole answer.
 * */
static void add_error(struct buf *out, const char *error)
{
    char ascii[sizeof(((struct store_health *)NULL)->error)]; /* bus_health has as much */
    size_t length = strnlen(error, sizeof(ascii));

    if (text_valid_utf8(error, length)) {
        buf_add_json(out, error, length);
        return;
    }
    for (size_t i = 0; i < length; i++)
        ascii[i] = (unsigned char)error[i] < 0x80 ? error[i] : '?';
    buf_add_json(out, ascii, length);
}

/* `"status":…` and, for a failing part, why and since when; the caller opened the object and closes it. */
static void add_state(struct buf *out, bool ok, const char *error, int64_t since_ms)
{
    time_t seconds = (time_t)(since_ms / 1000);
    struct tm utc;
    char since[32];

    if (ok) {
        buf_add_literal(out, "\"status\":\"ok\"");
        return;
    }
    buf_add_literal(out, "\"status\":\"failing\",\"error\":");
    add_error(out, error);
    gmtime_r(&seconds, &utc);
    strftime(since, sizeof(since), "%Y-%m-%dT%H:%M:%S", &utc);
    buf_printf(out, ",\"since\":\"%s.%03dZ\"", since, (int)(since_ms % 1000));
}

/* The kind says where to look. */
static void add_kind(struct buf *out, const char *kind)
{
    buf_printf(out, "\"kind\":\"%s\",", kind);
}

static void add_workers(struct buf *out, const struct config *config, const struct workers *workers)
{
    char error[100];

    snprintf(error, sizeof(error), "%d of %d workers stalled, for up to %lld ms", workers->stalled,
             workers->running, (long long)workers->oldest_ms);
    add_state(out, workers->stalled == 0, error, clock_wall_ms() - workers->oldest_ms);
    buf_printf(out, ",\"configured\":%lld,\"running\":%d,\"ready\":%d", (long long)config->workers,
               workers->running, workers->ready);
}

int health_json(const struct config *config, const struct metrics *metrics, struct bus *bus,
                struct store *store, bool draining, struct buf *out)
{
    struct workers workers = count_workers(metrics);
    int64_t uptime_ms = clock_wall_ms() - metrics->started_ms;
    struct store_health health = {0};
    struct bus_health link = {0};
    bool ok;

    store_health(store, &health);
    bus_health(bus, &link);
    ok = health.ok && link.ok && workers.stalled == 0;
    buf_printf(out, "{\"status\":\"%s\",\"version\":", !ok ? "failing" : draining ? "draining" : "ok");
    buf_add_json(out, CHATD_VERSION, strlen(CHATD_VERSION));
    /* The wall clock may have been set back since the start. */
    buf_printf(out, ",\"uptime_s\":%lld,\"parts\":{\"store\":{",
               (long long)(uptime_ms > 0 ? uptime_ms / 1000 : 0));
    add_kind(out, config->store[0] ? "mongodb" : "sqlite");
    add_state(out, health.ok, health.error, health.since_ms);
    buf_add_literal(out, "},\"bus\":{");
    add_kind(out, config->redis[0] || config->redis_host[0] ? "redis" : "shared memory");
    add_state(out, link.ok, link.error, link.since_ms);
    buf_add_literal(out, "},\"workers\":{");
    add_workers(out, config, &workers);
    buf_add_literal(out, "}}}");
    return ok && !draining ? 200 : 503;
}
