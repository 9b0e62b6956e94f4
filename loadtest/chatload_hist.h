/* A log-linear histogram of durations: 64 steps to a doubling, so a value read back is at most 1.6 % off,
 * whatever its size. The maximum is exact. Nanoseconds by convention; the code does not care.
 */
#ifndef CHATLOAD_HIST_H
#define CHATLOAD_HIST_H

#include <stdint.h>

enum {
    HIST_STEP_BITS = 6,
    HIST_BUCKETS = (64 - HIST_STEP_BITS + 1) << HIST_STEP_BITS,
};

/* All zeros is an empty one. */
struct hist {
    uint64_t count, max;
    uint64_t buckets[HIST_BUCKETS];
};

void hist_record(struct hist *hist, uint64_t value);

/* The value below which `share` (0 to 1) of all lie; 0 when it is empty. */
uint64_t hist_quantile(const struct hist *hist, double share);

#endif
