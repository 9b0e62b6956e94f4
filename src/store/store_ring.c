/* store_ring.c - waiters for the ring's committed position. */
#include "store_ring.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/metrics.h"

enum { RING_STALL_MS = 10000 }; /* a writer not seen at work for so long, with messages waiting, has failed */

void store_ring_init(struct store_ring *self, struct ring *ring, struct store_reader *reader,
                     uv_async_t *async)
{
    *self = (struct store_ring){.ring = ring, .reader = reader, .async = async};
}

/* Asks to be woken for the lowest position. A position that is committed already is seen to in the next turn
 * of the loop. */
static void await_first(struct store_ring *self)
{
    const struct store_waiter *first = store_waiters_first(&self->waiters);
    uint64_t position = first ? first->position : 0;

    metrics_set(ack_queue, self->waiters.count);
    if (position == self->awaited || self->closing)
        return;
    self->awaited = position;
    if (ring_await(self->ring, position))
        uv_async_send(self->async);
}

void store_ring_commit(struct store_ring *self, const struct message *message, store_on_number *done,
                       void *arg)
{
    store_waiters_add(&self->waiters, message, done, arg);
    await_first(self);
}

/* The record is overwritten; its row says under which number it stands. */
static void resolve(struct store_ring *self, const struct store_waiter *waiter)
{
    struct message message = {
        .room = waiter->room, .user = waiter->user, .key = waiter->key, .seq = waiter->seq};

    memcpy(message.uid, waiter->uid, MESSAGE_UID_SIZE);
    store_reader_resolve(self->reader, &message, waiter->done, waiter->arg);
}

void store_ring_on_committed(struct store_ring *self)
{
    struct store_waiter *first;

    self->awaited = 0; /* the bus has forgotten it when it calls */
    while ((first = store_waiters_first(&self->waiters))) {
        uint64_t position = first->position, seq = 0;
        enum ring_outcome outcome = ring_outcome(self->ring, &position, first->uid, &seq);
        store_on_number *done = first->done;
        void *done_arg = first->arg;

        if (outcome == RING_WAITING) {
            if (position == first->position)
                break;
            first->position = position;
            store_waiters_first_moved(&self->waiters);
            continue;
        }
        store_waiters_take(&self->waiters);
        if (outcome == RING_LAPPED)
            resolve(self, first);
        store_waiters_recycle(&self->waiters, first);
        if (outcome == RING_STORED)
            done(done_arg, STORE_OK, seq);
    }
    await_first(self);
}

void store_ring_show(const struct store_ring *self)
{
    metrics_set(store_queue, ring_speaks(self->ring) ? ring_waiting(self->ring) : 0);
}

void store_ring_health(struct store_ring *self, struct store_health *health)
{
    uint64_t committed = ring_committed(self->ring), head = ring_head(self->ring);
    int64_t stalled_ms = ring_stalled_ms(self->ring), reads_since_ms = 0;
    bool writes;

    _Static_assert(sizeof(health->error) == RING_ERROR_MAX, "an error of the ring is an error of the store");
    memset(health, 0, sizeof(*health));
    health->queued_bytes = head > committed ? head - committed : 0;
    writes = ring_report_get(self->ring, health->error, &health->since_ms);
    health->ok = writes && store_reader_works(self->reader, health->error, &reads_since_ms);
    if (!health->ok && writes)
        health->since_ms = reads_since_ms;
    /* All is well since the last of these was. */
    if (health->ok && reads_since_ms > health->since_ms)
        health->since_ms = reads_since_ms;
    if (health->ok && self->stalled_until_ms > health->since_ms)
        health->since_ms = self->stalled_until_ms;
    if (health->ok && stalled_ms > RING_STALL_MS) {
        self->stalled_until_ms = clock_wall_ms();
        health->ok = false;
        health->since_ms = clock_wall_ms() - stalled_ms;
        snprintf(health->error, sizeof(health->error),
                 "nothing was stored for %lld s: the writer does not come back",
                 (long long)(stalled_ms / 1000));
    }
}

void store_ring_close(struct store_ring *self)
{
    self->closing = true;
    store_ring_on_committed(self);
    store_reader_deliver(self->reader, INT_MAX);
    while (store_waiters_first(&self->waiters)) {
        struct store_waiter *waiter = store_waiters_take(&self->waiters);
        store_on_number *done = waiter->done;
        void *arg = waiter->arg;

        store_waiters_recycle(&self->waiters, waiter);
        done(arg, STORE_FAILED, 0);
    }
    store_reader_deliver(self->reader, INT_MAX); /* those callbacks may have asked for more */
    metrics_set(ack_queue, 0);
    metrics_set(store_queue, 0);
    metrics_set(store_latency_seconds, 0);
    store_waiters_deinit(&self->waiters);
}
