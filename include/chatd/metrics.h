/* metrics.h - counters in memory shared by all processes of one chatd.
 *
 * The master maps the slots before it forks; a slot has one writer at a time (its worker), so counting
 * is a plain relaxed add: no lock, no system call. Any worker sums all slots for /metrics. A slot belongs to
 * the worker's number, not to its process: counters go on when a worker is respawned, gauges start at 0
 * again. During a reload old and new workers run side by side under different numbers. */
#ifndef CHATD_METRICS_H
#define CHATD_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "chatd/buf.h"

/* Twice the largest `workers`: while a reload lasts there are two generations. */
enum { METRICS_WORKERS_MAX = 512 };

struct metrics_slot {
#define METRIC(kind, name, help) _Atomic int64_t name;
#include "chatd/metrics.def"
#undef METRIC
    _Atomic int64_t pid;      /* 0 while nobody runs in the slot */
    _Atomic int64_t respawns; /* written by the master */
    _Atomic int64_t draining; /* 1 once told to stop */
    _Atomic int64_t ready;    /* 1 once it serves */
    _Atomic int64_t beat_ms;  /* clock_monotonic_ms of the last loop turn seen by its sweep */
} __attribute__((aligned(64)));

struct metrics {
    int64_t started_ms; /* Unix time of the master's start */
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

/* One JSON object: `time`, `uptime_ms`, `respawns`, one member per row of metrics.def with the host's total
 * (COUNTER over all slots ever used, GAUGE the sum and PEAK the maximum over live ones), and `workers`, a
 * list with the same rows for each live worker beside `worker`, `pid`, `ready`, `draining`, `beat_age_ms`. */
void metrics_json(const struct metrics *metrics, struct buf *out);

#endif
