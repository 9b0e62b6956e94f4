/* sqlite_batch.h - messages from the ring into the database, one transaction at a time.
 *
 * The writer's thread only, as the holder of the ring's writer lock. Knows rule 5 of delivery (what a
 * conflict means) and nothing of time, retries or threads. */
#ifndef CHATD_SQLITE_BATCH_H
#define CHATD_SQLITE_BATCH_H

#include "chatd/ring.h"

struct sqlite_batch;

enum {
    SQLITE_BATCH_MESSAGES = 2000,     /* at most in one transaction */
    SQLITE_BATCH_BYTES = 1024 * 1024, /* of events, likewise; one message more than that still goes in */
};

/* Opens the database for writing. Negative errno with the reason in `error`. */
int sqlite_batch_open(struct sqlite_batch **batch, const struct ring *ring, const char *data_dir,
                      char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));
void sqlite_batch_close(struct sqlite_batch *batch); /* NULL is allowed */

/* Stores what the ring holds from *position on, at most one transaction's worth, and moves *position behind
 * it; *messages is how many that were, 0 when there are none. What stands before *position is durable when
 * this returns: ring_commit is the caller's. Doing it again for messages that are stored already is harmless.
 *
 * On failure nothing is stored, *position stays and `error` says why: -EBUSY somebody else holds the file's
 * lock, -EAGAIN the ring is full and the first message needs a new number, another errno: close the batch and
 * open a new one. */
int sqlite_batch_run(struct sqlite_batch *batch, struct ring *ring, uint64_t *position, uint32_t *messages,
                     char error[RING_ERROR_MAX]) __attribute__((warn_unused_result));

/* Moves pages from SQLite's log into the file when there are enough of them. Apart from the commit, so that
 * no ack waits for it. Failures show again in the next commit. */
void sqlite_batch_checkpoint(struct sqlite_batch *batch);

#endif
