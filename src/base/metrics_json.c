/* metrics_json.c - /metrics for people with jq. */
#include <string.h>

#include "chatd/clock.h"
#include "metrics_table.h"

static void add_number(struct buf *out, const char *name, int64_t value)
{
    buf_printf(out, ",\"%s\":%lld", name, (long long)value);
}

static void add_value(struct buf *out, const struct metrics_row *row, int64_t value)
{
    if (!row->micros) {
        add_number(out, row->name, value);
        return;
    }
    buf_printf(out, ",\"%s\":", row->name);
    metrics_add_seconds(out, value);
}

static void add_family(struct buf *out, const struct metrics *metrics, const struct metrics_row *row)
{
    size_t stem = strlen(row->name) - strlen("_total");
    int64_t sum = 0;
    const char *comma = "";

    buf_printf(out, ",\"%.*s_by_%s\":{", (int)stem, row->name, row->label);
    for (unsigned i = 0; i < row->word_count; i++) {
        int64_t value = metrics_word_total(metrics, row, i);

        sum += value;
        if (value == 0)
            continue;
        buf_printf(out, "%s\"%s\":%lld", comma, row->words[i], (long long)value);
        comma = ",";
    }
    buf_add_literal(out, "}");
    add_number(out, row->name, sum);
}

/* Within its bucket a percentile is taken to lie where it would if the durations there were spread evenly, as
 * Prometheus' histogram_quantile does. */
static int64_t percentile(const struct metrics_distribution *d, int percent)
{
    int64_t low = 0, below = 0;
    double rank = (double)d->count * percent / 100;

    for (unsigned i = 0; i + 1 < METRICS_BUCKETS; i++) {
        int64_t bound = metrics_bound(i);

        if (d->buckets[i] > 0 && (double)(below + d->buckets[i]) >= rank)
            return low + (int64_t)((double)(bound - low) * (rank - (double)below) / (double)d->buckets[i]);
        below += d->buckets[i];
        low = bound;
    }
    return low;
}

static void add_histogram(struct buf *out, const struct metrics *metrics, const struct metrics_row *row)
{
    static const int percents[] = {50, 90, 99};
    struct metrics_distribution d;

    metrics_distribution(metrics, row, &d);
    buf_printf(out, ",\"%s\":{\"count\":%lld,\"sum\":", row->name, (long long)d.count);
    metrics_add_seconds(out, d.sum_us);
    for (size_t i = 0; i < sizeof(percents) / sizeof(*percents); i++) {
        buf_printf(out, ",\"p%d\":", percents[i]);
        metrics_add_seconds(out, d.count > 0 ? percentile(&d, percents[i]) : 0);
    }
    buf_add_literal(out, "}");
}

static void add_total(struct buf *out, const struct metrics *metrics, const struct metrics_row *row)
{
    if (row->type == METRICS_FAMILY)
        add_family(out, metrics, row);
    else if (row->type == METRICS_HISTOGRAM)
        add_histogram(out, metrics, row);
    else
        add_value(out, row, metrics_row_total(metrics, row));
}

static void add_worker(struct buf *out, const struct metrics_slot *slot, int worker, int64_t now)
{
    buf_printf(out, "{\"worker\":%d", worker);
    add_number(out, "pid", metrics_get(slot, pid));
    buf_printf(out, ",\"ready\":%s", metrics_get(slot, ready) ? "true" : "false");
    buf_printf(out, ",\"draining\":%s", metrics_get(slot, draining) ? "true" : "false");
    add_number(out, "beat_age_ms", now - metrics_get(slot, beat_ms));
    add_number(out, "respawns", metrics_get(slot, respawns));
    for (unsigned i = 0; i < metrics_row_count; i++) {
        if (metrics_rows[i].type <= METRICS_PEAK)
            add_value(out, &metrics_rows[i], metrics_row_of(slot, &metrics_rows[i]));
    }
    buf_add_literal(out, "}");
}

void metrics_json(const struct metrics *metrics, struct buf *out)
{
    int64_t time = clock_wall_ms(), now = clock_monotonic_ms();
    const char *comma = "";

    buf_printf(out, "{\"time\":%lld,\"version\":", (long long)time);
    buf_add_json(out, CHATD_VERSION, strlen(CHATD_VERSION));
    add_number(out, "uptime_ms", time - metrics->started_ms);
    add_number(out, "respawns_total", metrics_sum(metrics, respawns));
    for (unsigned i = 0; i < metrics_row_count; i++)
        add_total(out, metrics, &metrics_rows[i]);
    buf_add_literal(out, ",\"workers\":[");
    for (int i = 0; i < metrics->used; i++) {
        if (metrics_get(&metrics->slots[i], pid) == 0)
            continue;
        buf_printf(out, "%s", comma);
        comma = ",";
        add_worker(out, &metrics->slots[i], i, now);
    }
    buf_add_literal(out, "]}");
}
