/* store_retention.c - see store_retention.h */
#include "store_retention.h"

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/metrics.h"

bool store_retention_wanted(const struct config *config)
{
    return config->retention_age > 0 || config->retention_messages > 0 || config->retention_users > 0 ||
           config->retention_rooms > 0;
}

/* The point in time that lies `age_ms`, but at least `least_ms`, back. */
static int64_t back(int64_t now_ms, int64_t age_ms, int64_t least_ms)
{
    if (age_ms == 0)
        return 0;
    return now_ms - (age_ms > least_ms ? age_ms : least_ms);
}

void store_retention_cuts(const struct config *config, int64_t now_ms, struct retention_cuts *cuts)
{
    int64_t least_ms = config->retry_window + RETENTION_CLOCKS_MS;

    cuts->age = back(now_ms, config->retention_age, least_ms);
    cuts->floor = now_ms - least_ms;
    cuts->messages = (uint64_t)config->retention_messages;
    cuts->rooms = back(now_ms, config->retention_rooms, least_ms);
    /* Who stays connected is noted twice in a session_ttl; and nobody more than once a minute. */
    cuts->users = back(now_ms, config->retention_users, config->session_ttl + RETENTION_SEEN_MS);
}

void store_retention_count(struct retention_tally *tally, uint64_t messages, uint64_t rooms, uint64_t users)
{
    tally->messages += messages;
    tally->rooms += rooms;
    tally->users += users;
    metrics_add(retention_messages_total, messages);
    metrics_add(retention_rooms_total, rooms);
    metrics_add(retention_users_total, users);
}

void store_retention_done(const struct retention_tally *tally, int64_t start_ms, const char *error)
{
    long long took_ms = clock_monotonic_ms() - start_ms;

    metrics_add(retention_runs_total, 1);
    if (error) {
        metrics_add(retention_failures_total, 1);
        log_warn("retention_failed", "error=%s messages=%llu rooms=%llu users=%llu took_ms=%lld", error,
                 (unsigned long long)tally->messages, (unsigned long long)tally->rooms,
                 (unsigned long long)tally->users, took_ms);
    } else if (tally->messages + tally->rooms + tally->users > 0) {
        log_info("retention", "messages=%llu rooms=%llu users=%llu took_ms=%lld",
                 (unsigned long long)tally->messages, (unsigned long long)tally->rooms,
                 (unsigned long long)tally->users, took_ms);
    }
}
