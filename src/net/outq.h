/* outq.h - the frames that wait for one peer, in order, by reference.
 *
 * Two slots inside; a ring on the heap only while more than two frames wait, given back when the queue is
 * empty. A zeroed struct is an empty queue. Knows sockets only as a descriptor to write to; limits are the
 * owner's business. Stamped messages (frame.h) count as delivered with the write of their last byte.
 *
 *      first frame            second            last
 *     [sent|........]        [.......]         [.....]
 *           ^offset           <------- bytes -------->   (bytes counts from offset to the end) */
#ifndef CHATD_NET_OUTQ_H
#define CHATD_NET_OUTQ_H

#include <stddef.h>
#include <stdint.h>

#include "chatd/frame.h"
#include "chatd/metrics.h"

enum { OUTQ_SLOTS = 2 };

struct outq {
    union {
        struct frame *slots[OUTQ_SLOTS]; /* while !heap: slots[0] is the first */
        struct {
            struct frame **frames;
            uint32_t first;
            uint32_t capacity; /* a power of two */
        } ring;
    };
    uint32_t count : 31;
    uint32_t heap : 1;
    uint32_t offset; /* bytes of the first frame that were sent */
    uint64_t bytes;
};

/* What was written, summed over queues. */
struct outq_tally {
    uint64_t bytes;
    uint64_t writes; /* system calls */
    uint64_t deliveries; /* stamped messages written whole */
    uint64_t latencies[METRICS_BUCKETS]; /* of these, from stamp to write, 0 if that is negative */
    int64_t latency_us; /* their sum */
};

/* Bytes of all frames but the first. */
uint64_t outq_behind(const struct outq *queue);

/* Takes a reference of its own. */
void outq_push(struct outq *queue, struct frame *frame);

/* Writes as much as the peer takes, by few system calls. 0: all is written; 1: the rest waits until the
 * descriptor is writable; negative errno: the peer is gone. */
int outq_write(struct outq *queue, int fd, struct outq_tally *tally) __attribute__((warn_unused_result));

/* Drops every frame of which nothing was sent yet, so that another frame may follow what is on the wire. */
void outq_drop_unsent(struct outq *queue);

/* Drops everything and gives memory back. */
void outq_clear(struct outq *queue);

#endif
