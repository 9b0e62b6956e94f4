/* ring_writer.c - the store's side of the ring: follow, settle, commit; and waiting for the commit. */
#include <errno.h>
#include <linux/futex.h>
#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "ring_layout.h"

static void beat(struct ring *ring)
{
    atomic_store_explicit(&ring->header->writer_beat_ms, clock_monotonic_ms(), memory_order_relaxed);
}

bool ring_writer_lock(struct ring *ring, int timeout_ms)
{
    struct timespec until = clock_deadline(timeout_ms);
    int error;

    error = pthread_mutex_clocklock(&ring->header->writer, CLOCK_MONOTONIC, &until);
    if (error == EOWNERDEAD)
        error = pthread_mutex_consistent(&ring->header->writer);
    if (error == 0)
        beat(ring);
    return error == 0;
}

int64_t ring_stalled_ms(const struct ring *ring)
{
    int64_t since = atomic_load_explicit(&ring->header->writer_beat_ms, memory_order_relaxed);

    return ring_head(ring) > ring_committed(ring) ? clock_monotonic_ms() - since : 0;
}

void ring_writer_unlock(struct ring *ring)
{
    pthread_mutex_unlock(&ring->header->writer);
}

uint64_t ring_committed(const struct ring *ring)
{
    return atomic_load_explicit(&ring->header->committed, memory_order_acquire);
}

uint64_t ring_head(const struct ring *ring)
{
    return atomic_load_explicit(&ring->header->head, memory_order_acquire);
}

/* Every record knows how many messages there were with it: the first that waits tells what is behind it. */
uint64_t ring_waiting(const struct ring *ring)
{
    uint64_t at = ring_committed(ring), messages, before;
    const struct ring_record *r = ring_at(ring, at);

    if (at >= ring_head(ring))
        return 0;
    if (r->kind == RING_PAD)
        r = ring_at(ring, at + (ring->header->size - at % ring->header->size));
    before = r->ordinal - (r->kind == RING_MESSAGE);
    messages = atomic_load_explicit(&ring->header->messages, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    if (at < atomic_load_explicit(&ring->header->tail, memory_order_relaxed))
        return 0; /* committed and overwritten meanwhile */
    return messages > before ? messages - before : 0;
}

bool ring_next(struct ring *ring, uint64_t *position, struct message *message)
{
    uint64_t head = ring_head(ring);

    while (*position < head) {
        const struct ring_record *r = ring_at(ring, *position);
        uint64_t at = *position;

        *position += r->size;
        if (r->kind == RING_MESSAGE) {
            ring_record_message(r, at, message);
            return true;
        }
    }
    return false;
}

void ring_settle(struct ring *ring, uint64_t position, uint64_t seq)
{
    atomic_store_explicit(&ring_at(ring, position)->settled, seq, memory_order_release);
}

/* The event's bytes carry the old number between head and `,"time":`: it is cut out and put together
 * again. */
bool ring_republish(struct ring *ring, const struct message *m, uint64_t highest)
{
    static const char MARK[] = ",\"time\":";
    struct ring_append append = {RING_MESSAGE, m->room,  m->user, m->key,
                                 m->event,     m->event, m->uid,  m->position, m->received_us};
    const char *mark = memmem(m->event.data, m->event.length, MARK, sizeof(MARK) - 1);
    const char *number = mark, *rest = mark, *end = m->event.data + m->event.length;
    uint64_t copy = 0, interested[RING_INTEREST_WORDS] = {0};
    uint32_t row;

    if (!mark)
        return false;
    while (number > m->event.data && number[-1] >= '0' && number[-1] <= '9')
        number--;
    for (rest += sizeof(MARK) - 1; rest < end && *rest >= '0' && *rest <= '9';)
        rest++;
    append.head.length = (size_t)(number - m->event.data);
    append.tail = (struct text){rest, (size_t)(end - rest)};
    ring_lock(ring);
    /* Done already, by a writer that died before it could commit. Asked inside the lock: if it died in there,
     * `moved` is written only by the repair. */
    if (atomic_load_explicit(&ring_at(ring, m->position)->moved, memory_order_acquire) != 0) {
        ring_unlock(ring);
        return true;
    }
    row = roster_find(ring, m->room);
    if (row == RING_NONE)
        row = roster_open(ring, m->room, highest);
    if (row != RING_NONE) {
        struct ring_room *room = &ring->rooms[row];

        if (room->seq <= highest)
            room->seq = ((highest >> 20) + 1) * (1ULL << 20) - 1;
        copy = ring_append(ring, row, &append);
        memcpy(interested, room->interested, sizeof(interested));
    }
    ring_unlock(ring);
    for (unsigned seat = 0; seat < RING_ATTACH_MAX && copy != 0; seat++)
        if (interested[seat / 64] >> (seat % 64) & 1)
            ring_wake(ring, seat);
    return copy != 0;
}

void ring_forget(struct ring *ring, struct text room, uint64_t upto)
{
    uint32_t row;

    ring_lock(ring);
    row = roster_find(ring, room);
    if (row != RING_NONE && ring->rooms[row].forgotten < upto)
        ring->rooms[row].forgotten = upto;
    ring_unlock(ring);
}

uint32_t ring_members(struct ring *ring, struct text room)
{
    uint32_t row, members;

    ring_lock(ring);
    row = roster_find(ring, room);
    members = row == RING_NONE ? 0 : ring->rooms[row].members;
    ring_unlock(ring);
    return members;
}

void ring_commit(struct ring *ring, uint64_t position)
{
    beat(ring);
    atomic_store(&ring->header->committed, position);
    for (unsigned seat = 0; seat < RING_ATTACH_MAX; seat++) {
        struct ring_seat *s = &ring->seats[seat];
        uint64_t awaited = atomic_load_explicit(&s->state, memory_order_relaxed) == RING_SEAT_TAKEN
                               ? atomic_load(&s->awaited)
                               : 0;

        if (awaited != 0 && awaited < position)
            ring_wake(ring, seat);
    }
}

static void futex(_Atomic uint32_t *word, int operation, uint32_t value, const struct timespec *timeout)
{
    syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

void ring_wait(struct ring *ring, uint64_t position, int timeout_ms)
{
    struct ring_header *h = ring->header;
    struct timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
    uint32_t seen = atomic_load(&h->work);

    atomic_store(&h->writer_sleeps, 1);
    if (ring_head(ring) <= position)
        futex(&h->work, FUTEX_WAIT, seen, &timeout);
    atomic_store(&h->writer_sleeps, 0);
    beat(ring);
}

void ring_kick(struct ring *ring)
{
    struct ring_header *h = ring->header;

    atomic_fetch_add(&h->work, 1);
    if (atomic_load(&h->writer_sleeps))
        futex(&h->work, FUTEX_WAKE, INT_MAX, NULL);
}

static void lock_report(struct ring_header *h)
{
    if (pthread_mutex_lock(&h->report_lock) == EOWNERDEAD)
        pthread_mutex_consistent(&h->report_lock);
}

void ring_report(struct ring *ring, const char *error)
{
    struct ring_header *h = ring->header;

    lock_report(h);
    if (h->report_since_ms == 0 || (h->report[0] == 0) != (error[0] == 0))
        h->report_since_ms = clock_wall_ms();
    strncpy(h->report, error, sizeof(h->report) - 1);
    pthread_mutex_unlock(&h->report_lock);
}

bool ring_report_get(const struct ring *ring, char error[RING_ERROR_MAX], int64_t *since_ms)
{
    struct ring_header *h = ring->header;

    lock_report(h);
    memcpy(error, h->report, sizeof(h->report));
    *since_ms = h->report_since_ms;
    pthread_mutex_unlock(&h->report_lock);
    return error[0] == 0;
}

enum ring_outcome ring_outcome(const struct ring *ring, uint64_t *position,
                               const uint8_t uid[MESSAGE_UID_SIZE], uint64_t *seq)
{
    const struct ring_header *h = ring->header;
    uint64_t settled, moved, own;
    bool mine;

    if (*position >= ring_committed(ring))
        return RING_WAITING;
    const struct ring_record *r = ring_at(ring, *position);

    settled = atomic_load_explicit(&r->settled, memory_order_acquire);
    moved = atomic_load_explicit(&r->moved, memory_order_acquire);
    own = r->seq;
    mine = memcmp(r->uid, uid, MESSAGE_UID_SIZE) == 0;
    atomic_thread_fence(memory_order_acquire);
    if (!mine || *position < atomic_load_explicit(&h->tail, memory_order_relaxed))
        return RING_LAPPED;
    if (moved != 0) {
        *position = moved;
        return ring_outcome(ring, position, uid, seq);
    }
    *seq = settled != 0 ? settled : own;
    return RING_STORED;
}

bool ring_await(struct ring *ring, uint64_t position)
{
    struct ring_seat *s = &ring->seats[ring->seat];

    /* Sequentially consistent on both sides: either this sees the commit, or ring_commit sees what is
     * awaited. */
    atomic_store(&s->awaited, position);
    if (position == 0 || position >= atomic_load(&ring->header->committed))
        return false;
    atomic_store(&s->awaited, 0);
    return true;
}
