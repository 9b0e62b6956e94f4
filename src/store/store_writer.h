/* store_writer.h - the thread that stands for the office of this host's writer, until its turn comes.
 *
 * Each worker has one. Whoever holds the ring's writer lock commits all workers' messages in the ring's
 * order; the others sleep in that lock, without a connection to the database. */
#ifndef CHATD_STORE_WRITER_H
#define CHATD_STORE_WRITER_H

#include "chatd/ring.h"

struct store_writer;

/* The database that is written to: all by the writer's thread, as the holder of the office. */
struct store_target {
    void *arg;
    /* Makes a connection. Negative errno with the reason in `error`: another process gets its chance then. */
    int (*open)(void *arg, struct ring *ring, void **connection, char error[RING_ERROR_MAX]);
    /* Stores what the ring holds from *position on, at most one batch, and moves *position behind what is
     * durable; *messages is how many that were, 0 when there are none. On failure *position stays and
     * `error` says why: after -EBUSY and -EAGAIN the same connection tries again, after another errno a
     * new one. */
    int (*run)(void *connection, struct ring *ring, uint64_t *position, uint32_t *messages,
               char error[RING_ERROR_MAX]);
    void (*tidy)(void *connection);  /* after each batch; may be NULL */
    /* A short piece of other work, between two batches; may be NULL. How many milliseconds later it wants to
     * be called again. It sees to its failures itself. */
    int (*step)(void *connection);
    void (*close)(void *connection); /* NULL is allowed */
    uint32_t batch_messages;         /* at most in one batch */
    int retry_most_ms;               /* the longest pause between two tries */
    bool silent;                     /* it logs its failures itself */
};

/* `ring` stays the caller's, and until store_writer_stop. The target is copied. */
int store_writer_start(struct store_writer **writer, struct ring *ring, const struct store_target *target)
    __attribute__((warn_unused_result));

/* Sets store_latency_seconds; any thread. A worker out of office has none. */
void store_writer_show(struct store_writer *writer);

/* Ends and frees the thread: one in office first commits what is in the ring now, for at most `patience_ms`.
 * One that waits for the office notices within a second; when all workers stop at once, at once, because the
 * office is handed on. */
void store_writer_stop(struct store_writer *writer, int patience_ms);

#endif
