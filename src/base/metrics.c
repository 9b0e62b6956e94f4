/* metrics.c - counters in memory shared by all processes of one chatd. */
#include "chatd/metrics.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "chatd/clock.h"

enum kind { COUNTER, GAUGE, PEAK };

struct row {
    enum kind kind;
    const char *name;
    size_t offset;
};

static const struct row rows[] = {
#define METRIC(kind, name, help) {kind, #name, offsetof(struct metrics_slot, name)},
#include "chatd/metrics.def"
#undef METRIC
};

enum { ROW_COUNT = sizeof(rows) / sizeof(rows[0]) };

static struct metrics_slot private_slot;
struct metrics_slot *metrics_mine = &private_slot;

struct metrics *metrics_map(void)
{
    struct metrics *metrics;

    metrics = mmap(NULL, sizeof(*metrics), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (metrics == MAP_FAILED)
        return NULL;
    metrics->started_ms = clock_wall_ms();
    return metrics;
}

static _Atomic int64_t *row_field(struct metrics_slot *slot, const struct row *row)
{
    return (_Atomic int64_t *)((char *)slot + row->offset);
}

static int64_t row_value(const struct metrics_slot *slot, const struct row *row)
{
    const _Atomic int64_t *field = (const _Atomic int64_t *)((const char *)slot + row->offset);

    return atomic_load_explicit(field, memory_order_relaxed);
}

void metrics_clear(struct metrics *metrics, int worker)
{
    struct metrics_slot *slot = &metrics->slots[worker];

    for (int i = 0; i < ROW_COUNT; i++) {
        if (rows[i].kind != COUNTER)
            atomic_store_explicit(row_field(slot, &rows[i]), 0, memory_order_relaxed);
    }
    atomic_store(&slot->ready, 0);
    atomic_store(&slot->draining, 0);
    atomic_store(&slot->beat_ms, 0);
    atomic_store(&slot->pid, 0);
}

void metrics_enter(struct metrics *metrics, int worker)
{
    metrics_clear(metrics, worker);
    metrics_mine = &metrics->slots[worker];
    metrics_set(beat_ms, clock_monotonic_ms());
    metrics_set(pid, getpid());
}

static void add_member(struct buf *out, const char *name, int64_t value)
{
    buf_printf(out, ",\"%s\":%lld", name, (long long)value);
}

static int64_t total(const struct metrics *metrics, const struct row *row)
{
    int64_t sum = 0;

    for (int i = 0; i < METRICS_WORKERS_MAX; i++) {
        int64_t value = row_value(&metrics->slots[i], row);

        if (row->kind == PEAK)
            sum = value > sum ? value : sum;
        else
            sum += value;
    }
    return sum;
}

static void add_worker(struct buf *out, const struct metrics_slot *slot, int worker, int64_t now)
{
    buf_printf(out, "{\"worker\":%d", worker);
    add_member(out, "pid", metrics_get(slot, pid));
    buf_printf(out, ",\"ready\":%s", metrics_get(slot, ready) ? "true" : "false");
    buf_printf(out, ",\"draining\":%s", metrics_get(slot, draining) ? "true" : "false");
    add_member(out, "beat_age_ms", now - metrics_get(slot, beat_ms));
    add_member(out, "respawns", metrics_get(slot, respawns));
    for (int i = 0; i < ROW_COUNT; i++)
        add_member(out, rows[i].name, row_value(slot, &rows[i]));
    buf_add_literal(out, "}");
}

void metrics_json(const struct metrics *metrics, struct buf *out)
{
    int64_t time = clock_wall_ms(), now = clock_monotonic_ms(), respawns = 0;
    bool first = true;

    for (int i = 0; i < METRICS_WORKERS_MAX; i++)
        respawns += metrics_get(&metrics->slots[i], respawns);
    buf_printf(out, "{\"time\":%lld", (long long)time);
    add_member(out, "uptime_ms", time - metrics->started_ms);
    add_member(out, "respawns", respawns);
    for (int i = 0; i < ROW_COUNT; i++)
        add_member(out, rows[i].name, total(metrics, &rows[i]));
    buf_add_literal(out, ",\"workers\":[");
    for (int i = 0; i < METRICS_WORKERS_MAX; i++) {
        if (metrics_get(&metrics->slots[i], pid) == 0)
            continue;
        if (!first)
            buf_add_literal(out, ",");
        first = false;
        add_worker(out, &metrics->slots[i], i, now);
    }
    buf_add_literal(out, "]}");
}
