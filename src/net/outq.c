/* outq.c - the send queue of one connection. */
#include "outq.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "chatd/clock.h"

enum {
    OUTQ_IOVECS = 64,
    OUTQ_ROUNDS = 4, /* system calls per outq_write: a fast reader must not hold up the loop */
    OUTQ_RING_MIN = 8
};

static struct frame **at(struct outq *queue, uint32_t index)
{
    if (!queue->heap)
        return &queue->slots[index];
    return &queue->ring.frames[(queue->ring.first + index) & (queue->ring.capacity - 1)];
}

static void grow(struct outq *queue)
{
    uint32_t capacity = queue->heap ? 2 * queue->ring.capacity : OUTQ_RING_MIN;
    struct frame **frames = malloc(capacity * sizeof(*frames));
    if (frames == NULL)
        abort();
    for (uint32_t i = 0; i < queue->count; i++)
        frames[i] = *at(queue, i);
    if (queue->heap)
        free(queue->ring.frames);
    queue->heap = 1;
    queue->ring.frames = frames;
    queue->ring.first = 0;
    queue->ring.capacity = capacity;
}

uint64_t outq_behind(const struct outq *queue)
{
    const struct frame *first;

    if (queue->count == 0)
        return 0;
    first = queue->heap ? queue->ring.frames[queue->ring.first] : queue->slots[0];
    return queue->bytes - (first->length - queue->offset);
}

void outq_push(struct outq *queue, struct frame *frame)
{
    if (queue->count == (queue->heap ? queue->ring.capacity : OUTQ_SLOTS))
        grow(queue);
    queue->count++;
    *at(queue, queue->count - 1) = frame_ref(frame);
    queue->bytes += frame->length;
}

static void pop(struct outq *queue)
{
    struct frame *first = *at(queue, 0);
    queue->bytes -= first->length - queue->offset;
    queue->offset = 0;
    queue->count--;
    if (queue->heap)
        queue->ring.first = (queue->ring.first + 1) & (queue->ring.capacity - 1);
    else
        queue->slots[0] = queue->slots[1];
    if (queue->count == 0 && queue->heap) {
        free(queue->ring.frames);
        queue->heap = 0;
    }
    frame_unref(first);
}

static void count_one(struct outq_tally *tally, int64_t us)
{
    if (us < 0)
        us = 0;
    tally->deliveries++;
    tally->latencies[metrics_bucket(us)]++;
    tally->latency_us += us;
}

/* The frame's bytes from `from` to `upto` were written. As a rule that is all of it, and all its messages
 * came within so short a time that they fall into one bucket: then it doesn't matter how many they are. */
static void count_written(const struct frame_stamps *stamps, size_t from, size_t upto, int64_t now_us,
                          struct outq_tally *tally)
{
    unsigned bucket = metrics_bucket(now_us - stamps->earliest_us);

    if (from == 0 && upto >= stamps->list[stamps->count - 1].end && stamps->latest_us <= now_us &&
        bucket == metrics_bucket(now_us - stamps->latest_us)) {
        tally->deliveries += stamps->count;
        tally->latencies[bucket] += stamps->count;
        tally->latency_us += stamps->count * (now_us - stamps->list[0].received_us) - stamps->sum_us;
        return;
    }
    for (uint32_t i = 0; i < stamps->count; i++) {
        if (stamps->list[i].end > from && stamps->list[i].end <= upto)
            count_one(tally, now_us - stamps->list[i].received_us);
    }
}

static void consume(struct outq *queue, size_t sent, struct outq_tally *tally)
{
    int64_t now_us = 0; /* asked for once, and only when there is something to count */

    while (queue->count > 0) {
        const struct frame *first = *at(queue, 0);
        size_t left = first->length - queue->offset, taken = sent < left ? sent : left;

        if (first->stamps != NULL && taken > 0) {
            if (now_us == 0)
                now_us = clock_wall_us();
            count_written(first->stamps, queue->offset, queue->offset + taken, now_us, tally);
        }
        if (sent < left) {
            queue->offset += (uint32_t)sent;
            queue->bytes -= sent;
            return;
        }
        sent -= left;
        pop(queue);
    }
}

/* One system call for the first frames. *asked gets how much was offered. */
static ssize_t write_some(struct outq *queue, int fd, size_t *asked)
{
    struct frame *first = *at(queue, 0);
    if (queue->count == 1) {
        *asked = first->length - queue->offset;
        return send(fd, first->data + queue->offset, *asked, MSG_NOSIGNAL);
    }

    struct iovec pieces[OUTQ_IOVECS];
    uint32_t count = queue->count < OUTQ_IOVECS ? queue->count : OUTQ_IOVECS;
    *asked = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct frame *frame = *at(queue, i);
        uint32_t skip = i == 0 ? queue->offset : 0;
        pieces[i].iov_base = frame->data + skip;
        pieces[i].iov_len = frame->length - skip;
        *asked += pieces[i].iov_len;
    }
    /* sendmsg is writev with flags: a peer that went away must not raise SIGPIPE. */
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = count};
    return sendmsg(fd, &message, MSG_NOSIGNAL);
}

int outq_write(struct outq *queue, int fd, struct outq_tally *tally)
{
    for (int round = 0; queue->count > 0 && round < OUTQ_ROUNDS; round++) {
        size_t asked;
        ssize_t sent = write_some(queue, fd, &asked);
        tally->writes++;
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK ? 1 : -errno;
        tally->bytes += (uint64_t)sent;
        consume(queue, (size_t)sent, tally);
        /* A short write means that the kernel's buffer is full: asking again would only cost an EAGAIN. */
        if ((size_t)sent < asked)
            return 1;
    }
    return queue->count > 0;
}

void outq_drop_unsent(struct outq *queue)
{
    uint32_t offset = queue->offset;
    struct frame *head = offset > 0 ? frame_ref(*at(queue, 0)) : NULL;
    outq_clear(queue);
    if (head == NULL)
        return;
    outq_push(queue, head);
    queue->offset = offset;
    queue->bytes -= offset;
    frame_unref(head);
}

void outq_clear(struct outq *queue)
{
    while (queue->count > 0)
        pop(queue);
}
