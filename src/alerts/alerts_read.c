/* alerts_read.c - the values that alerts are judged by. */
#include <stddef.h>

#include "alerts_shared.h"

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* What the server could not do, not what a client did wrong. */
static int64_t count_errors(const struct metrics *metrics)
{
    return metrics_sum(metrics, errors_total[METRICS_ERROR_overloaded]) +
           metrics_sum(metrics, errors_total[METRICS_ERROR_unavailable]) +
           metrics_sum(metrics, refused_total[METRICS_REFUSAL_no_descriptors]);
}

void alerts_read(const struct metrics *metrics, struct alerts_reading *reading)
{
    int64_t to_store = larger(metrics_sum(metrics, ack_queue), metrics_sum(metrics, store_queue));
    double *values;

    *reading = (struct alerts_reading){.memory_used = 0};
    values = reading->values;
    for (unsigned i = 0; i < ALERTS_COUNT; i++)
        reading->known[i] = true;
    reading->known[ALERTS_memory] = alerts_memory("", &reading->memory_used, &reading->memory_limit);
    if (reading->known[ALERTS_memory])
        values[ALERTS_memory] = 100.0 * (double)reading->memory_used / (double)reading->memory_limit;
    values[ALERTS_connections] =
        (double)larger(metrics_max(metrics, cluster_connections), metrics_sum(metrics, connections));
    values[ALERTS_queue] = (double)larger(metrics_sum(metrics, bus_queue), to_store);
    /* Held in microseconds, judged in milliseconds. */
    values[ALERTS_store] = (double)metrics_max(metrics, store_latency_seconds) / 1000;
    values[ALERTS_errors] = (double)count_errors(metrics);
    values[ALERTS_respawns] = (double)metrics_sum(metrics, respawns);
}
