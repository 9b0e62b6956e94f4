/* metrics_table.c - metrics.def as data, and the host's totals of its rows. */
#include "metrics_table.h"

#include <stdlib.h>

const char *const metrics_words_ERROR[] = {
#define ERROR_WORD(word) #word,
#include "chatd/labels.def"
};

const char *const metrics_words_REFUSAL[] = {
#define REFUSAL_WORD(word) #word,
#include "chatd/labels.def"
};

static const char *const metrics_words_LIMIT[] = {
#define LIMIT_WORD(word) #word,
#include "chatd/labels.def"
};

static const char *const metrics_words_CLOSE[] = {
#define CLOSE(name, code, word) word,
#include "chatd/close_reasons.def"
#undef CLOSE
};

#define ONE false
#define MICROS true

const struct metrics_row metrics_rows[] = {
#define METRIC(kind, unit, name, help) \
    {METRICS_##kind, unit, offsetof(struct metrics_slot, name), #name, help, NULL, NULL, 0},
#define FAMILY(list, label, name, help)                                                              \
    {METRICS_FAMILY, false,  offsetof(struct metrics_slot, name), #name, help, #label, metrics_words_##list, \
     METRICS_##list##_COUNT},
#define HISTOGRAM(name, help) \
    {METRICS_HISTOGRAM, true, offsetof(struct metrics_slot, name), #name, help, NULL, NULL, 0},
#include "chatd/metrics.def"
};

const unsigned metrics_row_count = sizeof(metrics_rows) / sizeof(metrics_rows[0]);

int64_t metrics_row_of(const struct metrics_slot *slot, const struct metrics_row *row)
{
    const _Atomic int64_t *field = (const _Atomic int64_t *)((const char *)slot + row->offset);

    return atomic_load_explicit(field, memory_order_relaxed);
}

int64_t metrics_row_total(const struct metrics *metrics, const struct metrics_row *row)
{
    return row->type == METRICS_PEAK ? metrics_max_at(metrics, row->offset)
                                     : metrics_sum_at(metrics, row->offset);
}

int64_t metrics_word_total(const struct metrics *metrics, const struct metrics_row *row, unsigned word)
{
    return metrics_sum_at(metrics, row->offset + word * sizeof(_Atomic int64_t));
}

void metrics_distribution(const struct metrics *metrics, const struct metrics_row *row,
                          struct metrics_distribution *out)
{
    *out = (struct metrics_distribution){.count = 0};
    for (unsigned i = 0; i < METRICS_BUCKETS; i++) {
        size_t bucket = offsetof(struct metrics_histogram, buckets) + i * sizeof(_Atomic int64_t);

        out->buckets[i] = metrics_sum_at(metrics, row->offset + bucket);
        out->count += out->buckets[i];
    }
    out->sum_us = metrics_sum_at(metrics, row->offset + offsetof(struct metrics_histogram, sum_us));
}

void metrics_add_seconds(struct buf *out, int64_t us)
{
    buf_printf(out, "%s%lld.%06lld", us < 0 ? "-" : "", llabs(us / 1000000), llabs(us % 1000000));
}
