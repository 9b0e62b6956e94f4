/* metrics_text.c - /metrics for scrapers: https://prometheus.io/docs/instrumenting/exposition_formats/
 * (0.0.4) and https://prometheus.io/docs/specs/om/open_metrics_spec/ (1.0.0), which differ in little:
 * OpenMetrics names a counter's family without its _total, and ends with a line of its own. */
#include <stdio.h>
#include <string.h>

#include "metrics_table.h"

#define METRICS_TOTAL "_total"

enum { BOUND_SIZE = 24 };

/* Told for each worker as well, under a name of its own: a sum over the host's name must not count twice. */
static const struct {
    const char *name;
    size_t offset;
    const char *help;
} by_worker[] = {
    {"chatd_worker_connections", offsetof(struct metrics_slot, connections), "WebSocket connections open"},
    {"chatd_worker_resident_memory_bytes", offsetof(struct metrics_slot, process_resident_memory_bytes),
     "resident memory of the process"},
    {"chatd_worker_ready", offsetof(struct metrics_slot, ready), "1 when the worker serves"},
};

static const char *prefix_of(const char *name)
{
    return strncmp(name, "process_", strlen("process_")) == 0 ? "" : "chatd_";
}

static void add_head(struct buf *out, enum metrics_text form, const char *name, const char *type,
                     const char *help)
{
    const char *prefix = prefix_of(name);
    int length = (int)strlen(name);

    if (strncmp(name, "chatd_", strlen("chatd_")) == 0)
        prefix = "";
    if (form == METRICS_OPENMETRICS && strcmp(type, "counter") == 0)
        length -= (int)strlen(METRICS_TOTAL);
    buf_printf(out, "# HELP %s%.*s %s\n# TYPE %s%.*s %s\n", prefix, length, name, help, prefix, length, name,
               type);
}

static void add_number(struct buf *out, const char *name, int64_t value)
{
    buf_printf(out, "%s%s %lld\n", prefix_of(name), name, (long long)value);
}

static void add_metric(struct buf *out, const struct metrics *metrics, const struct metrics_row *row)
{
    int64_t value = metrics_row_total(metrics, row);

    if (!row->micros) {
        add_number(out, row->name, value);
        return;
    }
    buf_printf(out, "%s%s ", prefix_of(row->name), row->name);
    metrics_add_seconds(out, value);
    buf_add_literal(out, "\n");
}

/* All words, also those at 0: a rate needs to have seen the 0 before the 1. */
static void add_family(struct buf *out, const struct metrics *metrics, const struct metrics_row *row)
{
    for (unsigned i = 0; i < row->word_count; i++)
        buf_printf(out, "%s%s{%s=\"%s\"} %lld\n", prefix_of(row->name), row->name, row->label, row->words[i],
                   (long long)metrics_word_total(metrics, row, i));
}

/* OpenMetrics wants a number that looks like one with a fraction. */
static void write_bound(char bound[BOUND_SIZE], int64_t us)
{
    snprintf(bound, BOUND_SIZE, us % 1000000 == 0 ? "%g.0" : "%g", (double)us / 1e6);
}

static void add_histogram(struct buf *out, const struct metrics *metrics, const struct metrics_row *row)
{
    struct metrics_distribution d;
    char bound[BOUND_SIZE];
    int64_t below = 0;

    metrics_distribution(metrics, row, &d);
    for (unsigned i = 0; i + 1 < METRICS_BUCKETS; i++) {
        below += d.buckets[i];
        write_bound(bound, metrics_bound(i));
        buf_printf(out, "chatd_%s_bucket{le=\"%s\"} %lld\n", row->name, bound, (long long)below);
    }
    buf_printf(out, "chatd_%s_bucket{le=\"+Inf\"} %lld\n", row->name, (long long)d.count);
    buf_printf(out, "chatd_%s_sum ", row->name);
    metrics_add_seconds(out, d.sum_us);
    buf_printf(out, "\nchatd_%s_count %lld\n", row->name, (long long)d.count);
}

static void add_row(struct buf *out, const struct metrics *metrics, enum metrics_text form,
                    const struct metrics_row *row)
{
    static const char *const types[] = {
        [METRICS_COUNTER] = "counter", [METRICS_GAUGE] = "gauge",         [METRICS_PEAK] = "gauge",
        [METRICS_FAMILY] = "counter",  [METRICS_HISTOGRAM] = "histogram",
    };

    add_head(out, form, row->name, types[row->type], row->help);
    if (row->type == METRICS_FAMILY)
        add_family(out, metrics, row);
    else if (row->type == METRICS_HISTOGRAM)
        add_histogram(out, metrics, row);
    else
        add_metric(out, metrics, row);
}

static void add_workers(struct buf *out, const struct metrics *metrics, enum metrics_text form)
{
    for (size_t row = 0; row < sizeof(by_worker) / sizeof(*by_worker); row++) {
        add_head(out, form, by_worker[row].name, "gauge", by_worker[row].help);
        for (int i = 0; i < metrics->used; i++) {
            const struct metrics_slot *slot = &metrics->slots[i];
            const _Atomic int64_t *field =
                (const _Atomic int64_t *)((const char *)slot + by_worker[row].offset);

            if (metrics_get(slot, pid) != 0)
                buf_printf(out, "%s{worker=\"%d\"} %lld\n", by_worker[row].name, i,
                           (long long)atomic_load_explicit(field, memory_order_relaxed));
        }
    }
}

void metrics_text(const struct metrics *metrics, enum metrics_text form, struct buf *out)
{
    int64_t running = 0;

    for (int i = 0; i < metrics->used; i++)
        running += metrics_get(&metrics->slots[i], pid) != 0;
    add_head(out, form, "build_info", "gauge", "1, with the version that runs");
    buf_printf(out, "chatd_build_info{version=\"%s\"} 1\n", CHATD_VERSION);
    add_head(out, form, "process_start_time_seconds", "gauge", "when the master was started, Unix time");
    buf_printf(out, "process_start_time_seconds %lld.%03d\n", (long long)(metrics->started_ms / 1000),
               (int)(metrics->started_ms % 1000));
    add_head(out, form, "workers", "gauge", "worker processes that run");
    add_number(out, "workers", running);
    add_head(out, form, "workers_ready", "gauge", "of these, those that serve");
    add_number(out, "workers_ready", metrics_sum(metrics, ready));
    add_head(out, form, "respawns_total", "counter", "workers started again because they had ended");
    add_number(out, "respawns_total", metrics_sum(metrics, respawns));
    for (unsigned i = 0; i < metrics_row_count; i++)
        add_row(out, metrics, form, &metrics_rows[i]);
    add_workers(out, metrics, form);
    if (form == METRICS_OPENMETRICS)
        buf_add_literal(out, "# EOF\n");
}
