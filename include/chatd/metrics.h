/* metrics.h - counters in memory shared by all processes of one chatd.
 *
 * The master maps the slots before it forks; a slot has one process at a time (its worker), so counting is a
 * plain relaxed add: no lock, no system call. Any worker sums all slots for /metrics. A slot belongs to the
 * worker's number, not to its process: counters go on when a worker is respawned, gauges start at 0 again.
 * During a reload old and new workers run side by side under different numbers. Any thread may count. */
#ifndef CHATD_METRICS_H
#define CHATD_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "chatd/buf.h"

/* Twice the largest `workers`: while a reload lasts there are two generations. */
enum { METRICS_WORKERS_MAX = 512 };

/* Upper bounds of the histograms' buckets, in microseconds; one more bucket takes what is beyond. */
#define METRICS_BOUNDS \
    100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, \
        10000000

enum { METRICS_BUCKETS = 17 };

struct metrics_histogram {
    _Atomic int64_t buckets[METRICS_BUCKETS]; /* each by itself, not cumulated */
    _Atomic int64_t sum_us;
};

/* The places of the words in their lists: METRICS_ERROR_bad_json, … METRICS_ERROR_COUNT. */
enum metrics_error {
#define ERROR_WORD(word) METRICS_ERROR_##word,
#include "chatd/labels.def"
    METRICS_ERROR_COUNT
};

enum metrics_refusal {
#define REFUSAL_WORD(word) METRICS_REFUSAL_##word,
#include "chatd/labels.def"
    METRICS_REFUSAL_COUNT
};

enum metrics_limit {
#define LIMIT_WORD(word) METRICS_LIMIT_##word,
#include "chatd/labels.def"
    METRICS_LIMIT_COUNT
};

/* In the order of close_reasons.def, so enum close_reason (net.h) is the place. */
enum metrics_close {
#define CLOSE(name, code, word) METRICS_CLOSE_##name,
#include "chatd/close_reasons.def"
#undef CLOSE
    METRICS_CLOSE_COUNT
};

struct metrics_slot {
#define METRIC(kind, unit, name, help) _Atomic int64_t name;
#define FAMILY(list, label, name, help) _Atomic int64_t name[METRICS_##list##_COUNT];
#define HISTOGRAM(name, help) struct metrics_histogram name;
#include "chatd/metrics.def"
    _Atomic int64_t pid;      /* 0 while nobody runs in the slot */
    _Atomic int64_t respawns; /* written by the master */
    _Atomic int64_t draining; /* 1 once told to stop */
    _Atomic int64_t ready;    /* 1 once it serves */
    _Atomic int64_t beat_ms;  /* clock_monotonic_ms of the last loop turn seen by its sweep */
} __attribute__((aligned(64)));

struct metrics {
    int64_t started_ms; /* Unix time of the master's start */
    _Atomic int used;   /* slots from this one on were never taken */
    struct metrics_slot slots[METRICS_WORKERS_MAX];
};

struct metrics *metrics_map(void); /* anonymous shared mapping; NULL with errno */

/* This process's slot; a private one until metrics_enter names the shared slot (unit tests, tools, master).
 */
extern struct metrics_slot *metrics_mine;

/* Takes the slot for this process: gauges to 0, pid set. */
void metrics_enter(struct metrics *metrics, int worker);

/* For the master, once the slot's process is gone or when it is about to be forked: gauges, pid and flags to
 * 0. */
void metrics_clear(struct metrics *metrics, int worker);

#define metrics_add(name, n) \
    atomic_fetch_add_explicit(&metrics_mine->name, (int64_t)(n), memory_order_relaxed)
#define metrics_set(name, n) atomic_store_explicit(&metrics_mine->name, (int64_t)(n), memory_order_relaxed)
#define metrics_get(slot, name) atomic_load_explicit(&(slot)->name, memory_order_relaxed)

/* One of a family: metrics_add(limited_total[METRICS_LIMIT_messages], 1). Where the word comes as text: */
enum metrics_error metrics_error_of(const char *code);
enum metrics_refusal metrics_refusal_of(const char *code);

/* One duration, or `times` equal ones. Negative ones (a clock was set) count as 0. */
#define metrics_observe(name, us) metrics_observe_many(&metrics_mine->name, us, 1)
void metrics_observe_many(struct metrics_histogram *histogram, int64_t us, int64_t times);

/* The bucket that a duration belongs to, for who counts in a table of its own first. */
unsigned metrics_bucket(int64_t us);

/* The host's total of a field: the sum over all slots ever used, or the largest. For who judges (alerts,
 * health). */
#define metrics_sum(metrics, name) metrics_sum_at(metrics, offsetof(struct metrics_slot, name))
#define metrics_max(metrics, name) metrics_max_at(metrics, offsetof(struct metrics_slot, name))
int64_t metrics_sum_at(const struct metrics *metrics, size_t offset);
int64_t metrics_max_at(const struct metrics *metrics, size_t offset);

/* One JSON object: `time`, `uptime_ms`, `version`, `respawns_total`, one member per row of metrics.def with
 * the host's total (COUNTER over all slots ever used, GAUGE the sum and PEAK the maximum over live ones), a
 * number with a fraction for MICROS. A family has its sum under its name and, with `_by_LABEL` for `_total`,
 * an object of those words that are not 0. A histogram is {"count","sum","p50","p90","p99"} in seconds,
 * percentiles by linear interpolation within their bucket. `workers` is a list with the METRIC rows of each
 * live worker beside `worker`, `pid`, `ready`, `draining`, `beat_age_ms`, `respawns`. */
void metrics_json(const struct metrics *metrics, struct buf *out);

/* The same totals for a scraper: Prometheus text format 0.0.4, or OpenMetrics 1.0.0. No label but the
 * families' own, `le`, `version`, and `worker` for the few rows told for each worker, which have names of
 * their own (chatd_worker_…). */
enum metrics_text { METRICS_PROMETHEUS, METRICS_OPENMETRICS };

void metrics_text(const struct metrics *metrics, enum metrics_text form, struct buf *out);

#endif
