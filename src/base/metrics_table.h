/* metrics_table.h - metrics.def as data, for those who show it. */
#ifndef CHATD_METRICS_TABLE_H
#define CHATD_METRICS_TABLE_H

#include <stddef.h>

#include "chatd/metrics.h"

enum metrics_type { METRICS_COUNTER, METRICS_GAUGE, METRICS_PEAK, METRICS_FAMILY, METRICS_HISTOGRAM };

struct metrics_row {
    enum metrics_type type;
    bool micros; /* held in microseconds, shown in seconds */
    size_t offset;
    const char *name;
    const char *help;
    const char *label;        /* of a family, and its words */
    const char *const *words;
    unsigned word_count;
};

extern const struct metrics_row metrics_rows[];
extern const unsigned metrics_row_count;

/* Of the lists that codes are looked up in. */
extern const char *const metrics_words_ERROR[], *const metrics_words_REFUSAL[];

/* The upper bound of a bucket that has one. */
int64_t metrics_bound(unsigned bucket);

/* A histogram's totals over all slots, the buckets not cumulated. */
struct metrics_distribution {
    int64_t buckets[METRICS_BUCKETS];
    int64_t count, sum_us;
};

void metrics_distribution(const struct metrics *metrics, const struct metrics_row *row,
                          struct metrics_distribution *out);

/* The value of METRIC rows, and of a family's word. */
int64_t metrics_row_total(const struct metrics *metrics, const struct metrics_row *row);
int64_t metrics_word_total(const struct metrics *metrics, const struct metrics_row *row, unsigned word);
int64_t metrics_row_of(const struct metrics_slot *slot, const struct metrics_row *row);

/* A number held in microseconds, as seconds without an exponent. */
void metrics_add_seconds(struct buf *out, int64_t us);

#endif
