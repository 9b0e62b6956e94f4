/* mongo_follower.h - without Redis: the writer's office of the ring (store_writer.h), with MongoDB behind
 * it.
 *
 * Two hosts with a ring each would give the same numbers, so one host at a time serves a database: it
 * holds the lease {_id: "host", owner, until}, renewed every MONGO_LEASE_RENEW_MS. No clocks are
 * compared: a lease is free when nobody has touched it for MONGO_LEASE_MS by the watch of the one who
 * waits for it. The owner is a host with its data directory, not a process: the office passes between a
 * host's workers, and through restarts, without waiting. */
#ifndef CHATD_MONGO_FOLLOWER_H
#define CHATD_MONGO_FOLLOWER_H

#include "mongo_link.h"
#include "mongo_notes.h"
#include "store_writer.h"

enum { MONGO_LEASE_MS = 20000, MONGO_LEASE_RENEW_MS = 5000 };

struct mongo_follower {
    struct mongo_link *link;
    struct mongo_notes *notes;
    const char *data_dir;
};

/* What store_writer_start needs; the follower is the caller's for the writer's life. */
struct store_target mongo_follower_target(struct mongo_follower *follower);

#endif
