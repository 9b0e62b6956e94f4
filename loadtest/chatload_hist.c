/* See chatload_hist.h. Values below 64 have a bucket each; above, the highest set bit picks a row of 64
 * buckets and the six bits behind it the place in it. */
#include "chatload_hist.h"

enum { HIST_STEPS = 1 << HIST_STEP_BITS };

static unsigned bucket_of(uint64_t value)
{
    if (value < HIST_STEPS)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - HIST_STEP_BITS;
    return ((shift + 1) << HIST_STEP_BITS) + (unsigned)((value >> shift) & (HIST_STEPS - 1));
}

/* The middle of a bucket's values. */
static uint64_t bucket_value(unsigned bucket)
{
    if (bucket < HIST_STEPS)
        return bucket;
    unsigned shift = (bucket >> HIST_STEP_BITS) - 1;
    uint64_t low = (uint64_t)(HIST_STEPS + (bucket & (HIST_STEPS - 1))) << shift;
    return low + ((UINT64_C(1) << shift) >> 1);
}

void hist_record(struct hist *hist, uint64_t value)
{
    hist->count++;
    hist->buckets[bucket_of(value)]++;
    if (value > hist->max)
        hist->max = value;
}

uint64_t hist_quantile(const struct hist *hist, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)hist->count), seen = 0;
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        seen += hist->buckets[i];
        if (seen > wanted || (seen == hist->count && seen > 0)) {
            uint64_t value = bucket_value(i);
            return value < hist->max ? value : hist->max;
        }
    }
    return 0;
}
