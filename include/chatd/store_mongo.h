/* store_mongo.h - store.h on MongoDB, or what speaks its protocol, by mongo-c-driver.
 *
 * Collections, in the database that the URI names or `chat_app`:
 *
 *     messages   one document per message: room, seq (int64), user, key (the client's string, or the uid as
 *                binary where it gave none: so (room, user, key) is unique for all without a partial index),
 *                uid (binary), time (date), event (the final text that members got)
 *                unique {room: 1, seq: 1} and {room: 1, user: 1, key: 1}: both possible under the
 *                shard key {room: 1}
 *     rooms      _id: the room's name, topic, created, active (dates), highest (int64, never deleted), gone
 *                (int64: messages up to this number were deleted); index {active: -1}. A room that retention
 *                deleted has no `active` until somebody writes to it again
 *     users      _id: the user's name, first, last (dates)
 *     leases     _id: "host": who serves this database without Redis (mongo_follower.h); "retention": who
 *                deletes what is past its time, "retained": when somebody last did (mongo_retention.h)
 *
 * The message is what counts: rooms and users are written beside it, some seconds later (mongo_notes.h).
 * So a room's highest number is the higher one of what its messages and its row say.
 *
 * Two ways of writing. With Redis (mongo_queue.c) each worker commits what it published itself, from a
 * bounded queue, by a writer thread of its own; `stand` is asked about each message right before. Without
 * Redis (mongo_follower.c) one writer per host follows the ring, as store_sqlite does. Both insert
 * unordered batches with write concern majority and settle duplicate keys by rule 5 (mongo_batch.c).
 * Reads: majority, primary, on threads of their own, so that a slow query never delays a write. What the
 * URI says about read and write concern can't weaken that.
 *
 * MongoDB away or slow: batches are tried again with pauses of 50 ms to 5 s with jitter, store_full says
 * when nothing more can be taken. A read fails (STORE_FAILED) when no thread began it within
 * STORE_MONGO_READ_MS, or when the answer takes that long (and the URI's serverSelectionTimeoutMS, 2 s,
 * if the server has to be looked for). Nothing of this blocks the loop. One log line for each cause when
 * it is lost (server_selection, auth, not_primary, …: mongo_link.h), and one when it is back.
 *
 * Spool: what can't be committed at shutdown is written to DATA_DIR/spool/ and fsynced (mongo_spool.h);
 * after the next start the worker that locks a file first hands its messages up (on_spooled) as soon as
 * MongoDB is there, and removes it when all are stored. Files that are left, or that an older worker
 * writes meanwhile, are looked for every ten seconds. Without Redis the ring itself keeps them. */
#ifndef CHATD_STORE_MONGO_H
#define CHATD_STORE_MONGO_H

#include <uv.h>

#include "chatd/bus_redis.h"
#include "chatd/config.h"
#include "chatd/ring.h"
#include "chatd/store.h"

enum { STORE_MONGO_ERROR_MAX = 400, STORE_MONGO_READ_MS = 5000 };

/* Whether the settings name a MongoDB. Any process. */
bool store_mongo_wanted(const struct config *config);

/* Checks the URI without talking to anybody (the master before it forks, `chatd -t`). Secrets are never
 * in `error`. */
int store_mongo_check(const struct config *config, char error[STORE_MONGO_ERROR_MAX])
    __attribute__((warn_unused_result));

/* Asks the server for a ping, for at most a few seconds: 0, or a negative errno with the reason in
 * `error`. Blocks: for `chatd -t`. */
int store_mongo_probe(const struct config *config, char error[STORE_MONGO_ERROR_MAX])
    __attribute__((warn_unused_result));

/* The identity that a ring belongs to which feeds this database: a digest of where it is. */
void store_mongo_id(const struct config *config, uint8_t id[RING_ID_SIZE]);

struct store_mongo_options {
    uv_loop_t *loop;
    const struct config *config; /* borrowed for life */
    struct ring *ring;           /* without Redis: the host's ring; else NULL */
    /* With Redis: may this message be committed under its number? Loop thread. */
    enum bus_stand (*stand)(void *arg, const struct message *message);
    void *stand_arg;
    /* With Redis: hands up a message from the spool; who gets it publishes it again as a retry with its
     * uid, and calls `done` once it is known to be stored (or not). May be called from inside. Loop
     * thread. */
    void (*on_spooled)(void *arg, const struct message *message, store_on_number *done, void *done_arg);
    void *spooled_arg;
    /* With Redis: bus_redis_forget and its bus, for retention. Loop thread. */
    void (*forget)(void *arg, struct text room, uint64_t upto, bus_redis_on_forgot *done, void *done_arg);
    void *forget_arg;
};

/* Starts the threads, after the fork. Never fails because MongoDB is away. Indexes and the rooms
 * collection are made as soon as it is there. Negative errno. */
int store_mongo_new(struct store **store, const struct store_mongo_options *options)
    __attribute__((warn_unused_result));

/* Without Redis: the ring's committed position has moved (bus_log_new's on_committed). `arg` is the store. */
void store_mongo_on_committed(void *arg);

/* True until it is known whether MongoDB is there, and then until each spool file that no other worker
 * has was tried once: clients are let in after that, or when MongoDB is found to be away. */
bool store_mongo_spooling(struct store *store);

/* Ends the threads: commits what is queued for at most `patience_ms` or until that fails, spools the
 * rest, answers what is stored with STORE_OK and all other open requests with STORE_FAILED. A server that
 * hangs can hold it for the socket's timeout (5 s, counted from the last command), when the spool is
 * written already. The worker's last act but closing the bus. The memory goes by the loop's close
 * callbacks. */
void store_mongo_close(struct store *store, int patience_ms);

#endif
