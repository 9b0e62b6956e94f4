/* store_latency.c - how long the store takes to commit. */
#include "store_latency.h"

#include "chatd/clock.h"
#include "chatd/metrics.h"

void store_latency_begin(struct store_latency *latency)
{
    if (atomic_load(&latency->began_us) == 0)
        atomic_store(&latency->began_us, clock_monotonic_us());
}

void store_latency_end(struct store_latency *latency)
{
    int64_t now = clock_monotonic_us(), began = atomic_load(&latency->began_us);

    if (began == 0)
        return;
    atomic_store(&latency->took_us, now - began);
    atomic_store(&latency->ended_us, now);
    atomic_store(&latency->began_us, 0);
}

void store_latency_give_up(struct store_latency *latency)
{
    atomic_store(&latency->began_us, 0);
}

void store_latency_show(struct store_latency *latency)
{
    int64_t now = clock_monotonic_us(), began = atomic_load(&latency->began_us), shown = 0;

    if (now - atomic_load(&latency->ended_us) < STORE_LATENCY_KEPT_MS * 1000LL)
        shown = atomic_load(&latency->took_us);
    if (began != 0 && now - began > shown)
        shown = now - began;
    metrics_set(store_latency_seconds, shown);
}
