/* store_latency.h - how long the store takes to commit, as /metrics shows it: also while it hangs.
 *
 * A commit begins with the first try of its batch and ends when it is stored, so a store that refuses is as
 * slow as one that doesn't answer. A zeroed struct is idle. One thread commits, any shows. */
#ifndef CHATD_STORE_LATENCY_H
#define CHATD_STORE_LATENCY_H

#include <stdatomic.h>
#include <stdint.h>

struct store_latency {
    _Atomic int64_t began_us; /* monotonic; 0: nothing is under way */
    _Atomic int64_t took_us;
    _Atomic int64_t ended_us;
};

void store_latency_begin(struct store_latency *latency); /* one that is under way goes on */
void store_latency_end(struct store_latency *latency);
void store_latency_give_up(struct store_latency *latency); /* what was tried is nobody's here any more */

/* Sets store_latency_seconds: the last commit's, or the age of the one under way if that is longer; 0 when
 * none ended for STORE_LATENCY_KEPT_MS. About once a second. */
void store_latency_show(struct store_latency *latency);

enum { STORE_LATENCY_KEPT_MS = 5000 };

#endif
