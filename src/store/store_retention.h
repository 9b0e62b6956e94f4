/* store_retention.h - what is past its time: the settings of retention as points in time, and how a run is
 * told of. Any thread.
 *
 * Nothing is deleted that is younger than retry_window and RETENTION_CLOCKS_MS: until then a retry finds its
 * key in the store, also when the clock of the server that deletes is ahead of the one that gave the time.
 * What is deleted of a room is always its oldest messages, so one number (`gone`) says all about it, and is
 * kept for good, like the room's highest number. */
#ifndef CHATD_STORE_RETENTION_H
#define CHATD_STORE_RETENTION_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/config.h"

enum {
    RETENTION_CLOCKS_MS = 10 * 60 * 1000,
    RETENTION_SEEN_MS = 2 * 60 * 1000, /* what is known of who was seen may be so old */
    RETENTION_ROWS = 500, /* messages in one step: some 10 ms of a database's time */
};

struct retention_cuts {
    int64_t age;       /* Unix ms; a message before this is too old; 0: none is */
    int64_t floor;     /* one that is not before this is never deleted */
    uint64_t messages; /* of a room that are kept; 0: all */
    int64_t rooms;     /* a room that nobody wrote to since this goes; 0: none does */
    int64_t users;     /* likewise, users last seen before */
};

bool store_retention_wanted(const struct config *config);
void store_retention_cuts(const struct config *config, int64_t now_ms, struct retention_cuts *cuts);

/* Whether a message may go, given whether enough newer ones are there. */
static inline bool store_retention_past(const struct retention_cuts *cuts, int64_t time_ms, bool too_many)
{
    return time_ms < cuts->age || (too_many && time_ms < cuts->floor);
}

struct retention_tally {
    uint64_t messages, rooms, users;
};

/* Counts what one step deleted, here and for /metrics. */
void store_retention_count(struct retention_tally *tally, uint64_t messages, uint64_t rooms, uint64_t users);

/* The end of a run that began at `start_ms` (monotonic): counts it, and logs it if it deleted something or
 * failed. `error` is NULL or the reason. */
void store_retention_done(const struct retention_tally *tally, int64_t start_ms, const char *error);

#endif
