/* mongo_retention.h - the thread that deletes from MongoDB what is past its time (mongo_clean.h), once in
 * retention_interval, on one worker of all servers.
 *
 * Each worker has one, which sleeps until a run is due. Who then gets the lease {_id: "retention"} does it;
 * when the last one began stands in {_id: "retained"}. A worker that dies meanwhile is replaced when nobody
 * has touched its lease for RETENTION_LEASE_MS. With nothing to delete the thread only takes away the index
 * that lets the server delete by itself, if an earlier setting left one, once more when the workers of that
 * setting are gone, and ends.
 *
 * Between two steps the server has as long for others as the step took. Failures end a run, are logged, and
 * are no concern of /health: the next run is due after retention_interval. */
#ifndef CHATD_MONGO_RETENTION_H
#define CHATD_MONGO_RETENTION_H

#include "chatd/store_mongo.h"
#include "mongo_link.h"

enum { RETENTION_LEASE_MS = 5000 };

struct mongo_retention;

struct mongo_retention_options {
    struct mongo_link *link;
    const struct config *config;
    struct ring *ring; /* without Redis; else NULL */
    /* With Redis: bus_redis_forget, and its bus. */
    void (*forget)(void *bus, struct text room, uint64_t upto, bus_redis_on_forgot *done, void *arg);
    void *bus;
    void (*wake)(void *arg); /* asks the loop for mongo_retention_turn; any thread */
    void *wake_arg;
};

/* The options are copied; what they point to stays the caller's. Negative errno. */
int mongo_retention_start(struct mongo_retention **retention, const struct mongo_retention_options *options)
    __attribute__((warn_unused_result));

/* Asks the bus what the thread wants. Loop thread. */
void mongo_retention_turn(struct mongo_retention *retention);

/* Tells the thread to end after the command it is about, and to give the lease back; mongo_retention_stop
 * does so too, and waits for it. */
void mongo_retention_end(struct mongo_retention *retention);
void mongo_retention_stop(struct mongo_retention *retention);

#endif
