/* mongo_lease.h - the right of one host to serve a database without Redis; see mongo_follower.h. The
 * writer's thread. */
#ifndef CHATD_MONGO_LEASE_H
#define CHATD_MONGO_LEASE_H

#include <limits.h>

#include "mongo_link.h"

enum { MONGO_LEASE_OWNER_MAX = 256 + PATH_MAX };

struct mongo_lease {
    char owner[MONGO_LEASE_OWNER_MAX];
    int64_t renewed_ms; /* monotonic; 0: it isn't ours */
    /* Of another owner's: what it looked like, and since when it does. */
    char other[MONGO_LEASE_OWNER_MAX];
    int64_t other_until, other_since_ms;
};

/* Makes the owner's name: host, data directory, and a random word kept in DATA_DIR/host.id, since
 * containers may share the other two. Negative errno with the reason in `error`. */
int mongo_lease_init(struct mongo_lease *lease, const char *data_dir, char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));

/* True when it is ours, renewed if that is due. */
bool mongo_lease_hold(struct mongo_lease *lease, mongoc_client_t *client, const char *database,
                      bson_error_t *error) __attribute__((warn_unused_result));

#endif
