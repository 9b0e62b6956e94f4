/* sample.h - what a server said at one time, and the difference of two such times.
 *
 * Numbers are doubles; one that is not there, or makes no sense, is NAN and is shown as `-`. So a server of
 * another version, which has other rows, is no error. */
#ifndef CHATD_TOP_SAMPLE_H
#define CHATD_TOP_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "fetch.h"

enum sample_histogram { SAMPLE_DELIVERY, SAMPLE_STORE, SAMPLE_BUS, SAMPLE_LOOP, SAMPLE_HISTOGRAMS };

/* Lists of workers and alerts that are longer come from no chatd, and drawing them would hold up the keys. */
enum { SAMPLE_BUCKETS_MAX = 64, SAMPLE_LIST_MAX = 1024 };

/* As Prometheus has them: counts rise from bucket to bucket, the last bound is infinite. */
struct sample_buckets {
    unsigned count;
    double bounds[SAMPLE_BUCKETS_MAX];
    double counts[SAMPLE_BUCKETS_MAX];
};

struct sample {
    int64_t at_ms;                                    /* our monotonic clock, when the answer was here */
    json_t *metrics;                                  /* an object */
    json_t *health;                                   /* an object or NULL */
    json_t *alerts;                                   /* a list or NULL */
    struct sample_buckets buckets[SAMPLE_HISTOGRAMS]; /* count 0: the server gave none */
};

/* NULL with the reason in *error (a literal, or `text` filled) when that was no answer of a chatd. */
enum { SAMPLE_ERROR_MAX = 128 };
struct sample *sample_new(const struct fetch_answer answers[FETCH_PAGES], char error[SAMPLE_ERROR_MAX]);
void sample_free(struct sample *sample); /* NULL is fine */

double sample_number(const json_t *object, const char *name);
const char *sample_string(const json_t *object, const char *name); /* NULL when it is none */

/* The worker of this number, NULL when it isn't there. */
const json_t *sample_worker(const struct sample *sample, double number);

/* Seconds from one to the other, by the server's clock unless that was set meanwhile. NAN when there is no
 * way from one to the other: no `before`, or the server was started again between them. */
double sample_seconds(const struct sample *before, const struct sample *now);

/* How fast a counter rose; NAN for one that fell. */
double sample_rate(const json_t *before, const json_t *now, const char *name, double seconds);

/* The percentile of what was observed between the two, as Prometheus' histogram_quantile takes it. NAN:
 * nothing was, or a server without buckets. INFINITY: it lies beyond the last bound, which is in *last. */
double sample_percentile(const struct sample_buckets *before, const struct sample_buckets *now,
                         double fraction, double *last);

#endif
