/* mongo_lease.h - a right that one at a time has: a document of the collection `leases` that its owner keeps
 * touching. No clocks are compared: it is free when nobody has touched it for its time by the watch of the
 * one who waits for it.
 *
 *     "host"       of one host to serve a database without Redis (mongo_follower.h); the writer's thread
 *     "retention"  of one worker to delete what is past its time (mongo_retention.h); a thread of its own */
#ifndef CHATD_MONGO_LEASE_H
#define CHATD_MONGO_LEASE_H

#include <limits.h>

#include "mongo_link.h"

enum { MONGO_LEASE_OWNER_MAX = 256 + PATH_MAX };

struct mongo_lease {
    const char *id;
    int ms, renew_ms;
    char owner[MONGO_LEASE_OWNER_MAX];
    int64_t renewed_ms; /* monotonic; 0: it isn't ours */
    /* Of another owner's: what it looked like, and since when it does. */
    char other[MONGO_LEASE_OWNER_MAX];
    int64_t other_until, other_since_ms;
};

/* "host". Makes the owner's name: host, data directory, and a random word kept in DATA_DIR/host.id, since
 * containers may share the other two. Negative errno with the reason in `error`. */
int mongo_lease_init(struct mongo_lease *lease, const char *data_dir, char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));

/* Another one, of this process alone. Negative errno. */
int mongo_lease_init_worker(struct mongo_lease *lease, const char *id, int ms)
    __attribute__((warn_unused_result));

/* True when it is ours, renewed if that is due. */
bool mongo_lease_hold(struct mongo_lease *lease, mongoc_client_t *client, const char *database,
                      bson_error_t *error) __attribute__((warn_unused_result));

/* Gives it back, if it is ours: the next one need not wait. */
bool mongo_lease_release(struct mongo_lease *lease, mongoc_client_t *client, const char *database,
                         bson_error_t *error);

#endif
