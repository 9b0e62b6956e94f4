/* mongo_clean.h - one run over the database that deletes what is past its time. Knows nothing of threads,
 * leases and schedules (mongo_retention.h).
 *
 * Rooms are looked at by name, one after the other. Before messages of a room are deleted its document says
 * so: `highest` is no lower than their numbers, `gone` is the last of them. So a run may be cut off
 * anywhere, and two may go on at once. A room that is deleted keeps its document, without `active`: no list
 * shows it, and its numbers are never given again.
 *
 * By age the server itself deletes where it can, by an index on `time` with expireAfterSeconds. That is so
 * much later than a message is too old (`ttl_ms`) that a run has noted it as gone by then. Elsewhere, and as
 * long as such a server doesn't get to it, messages are deleted from here, RETENTION_ROWS at a time by the
 * index on (room, seq). */
#ifndef CHATD_MONGO_CLEAN_H
#define CHATD_MONGO_CLEAN_H

#include <mongoc/mongoc.h>

#include "chatd/message.h"
#include "store_retention.h"

enum { RETENTION_TTL_LATE_MS = 3600 * 1000 }; /* a server that is so far behind is not waited for */

struct mongo_clean {
    const char *database;
    struct retention_cuts cuts;
    bool ttl;  /* the server deletes by age, or will, */
    int64_t ttl_ms; /* so much later than that */
    bool late; /* it may have done so before anybody noted what is gone */
    void *arg;
    /* A client for the next step, or NULL: the run is to end, with the reason in `error`. The one of the step
     * before is given back. Waits so long that the server has time for others. */
    mongoc_client_t *(*next)(void *arg, bson_error_t *error);
    /* The bus is to forget a room's messages up to that number (0: none), and says how many users are in it.
     * False: it can't now, with the reason in `error`. */
    bool (*forget)(void *arg, struct text room, uint64_t upto, uint32_t *members, bson_error_t *error);

    struct retention_tally tally;
    bson_error_t error;
    mongoc_client_t *client; /* of this step */
};

/* False: it was cut off, see `error`. */
bool mongo_clean_run(struct mongo_clean *clean) __attribute__((warn_unused_result));

/* Has the server delete messages when they are so old, or (0) no messages any more. *works is false when it
 * can't. False with the reason in `error` when it isn't known. */
bool mongo_clean_expire(mongoc_client_t *client, const char *database, int64_t age_ms, bool *works,
                        bson_error_t *error) __attribute__((warn_unused_result));

#endif
