/* store_ring.h - the loop's side of a store that follows the ring: who waits for which record to be
 * committed, and what they are told.
 *
 * Which database is behind it only the reader and the writer (store_writer.h) know. Loop thread only. */
#ifndef CHATD_STORE_RING_H
#define CHATD_STORE_RING_H

#include <uv.h>

#include "chatd/ring.h"
#include "store_reader.h"
#include "store_waiters.h"

struct store_ring {
    struct ring *ring;
    struct store_reader *reader;
    /* The owner's: its callback delivers the reader's answers and calls store_ring_on_committed. */
    uv_async_t *async;
    struct store_waiters waiters;
    uint64_t awaited; /* what ring_await was told */
    int64_t stalled_until_ms; /* when health was asked last while the writer was stuck; 0: never */
    bool closing;
};

void store_ring_init(struct store_ring *self, struct ring *ring, struct store_reader *reader,
                     uv_async_t *async);

void store_ring_commit(struct store_ring *self, const struct message *message, store_on_number *done,
                       void *arg);

/* The ring's committed position has moved. */
void store_ring_on_committed(struct store_ring *self);

/* About once a second: sets store_queue, in one worker of the host. */
void store_ring_show(const struct store_ring *self);

/* Writing is the host's business and reading this worker's: either can fail alone. */
void store_ring_health(struct store_ring *self, struct store_health *health);

/* The writer and the reader are stopped: tells who is stored, and all others STORE_FAILED; delivers the
 * reader's last answers. */
void store_ring_close(struct store_ring *self);

#endif
