/* seat.c - workers at the ring: who lives, whom a record concerns, how one wakes the other.
 *
 * A worker's main thread holds its seat's life mutex from ring_sit to ring_stand. The kernel marks a
 * robust mutex of a thread that died, so a trylock tells the dead from the living, without process ids
 * that might be somebody else's by now. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "chatd/log.h"
#include "ring_layout.h"

/* Rows looked at while holding the lock once, so that clearing up after 25,000 connections stalls nobody. */
enum { SWEEP_ROWS = 512 };

size_t ring_wake_address(const struct ring *ring, unsigned seat, struct sockaddr_un *address)
{
    const char *name = strrchr(ring->path, '/') + 1;

    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    /* The leading NUL makes it abstract: it is gone with its socket (unix(7)). Anybody on the host may
     * bind such a name, and a dying worker keeps its own a little longer than its life mutex: so nobody
     * can know the next one. */
    snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "%s-%u-%016llx", name, seat,
             (unsigned long long)atomic_load(&ring->seats[seat].wake_name));
    return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(address->sun_path + 1);
}

bool ring_speaks(const struct ring *ring)
{
    int first = 0;

    while (first < ring->seat &&
           atomic_load_explicit(&ring->seats[first].state, memory_order_relaxed) == RING_SEAT_FREE)
        first++;
    return first == ring->seat;
}

/* One datagram until the worker has looked into its inbox again. A receiver that is gone or whose queue is
 * full needs none. */
void ring_wake(struct ring *ring, unsigned seat)
{
    struct sockaddr_un address;

    if (atomic_exchange(&ring->seats[seat].signalled, 1) == 0) {
        size_t length = ring_wake_address(ring, seat, &address);

        (void)!sendto(ring->wake_fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address,
                      (socklen_t)length);
    }
}

void ring_post(struct ring *ring, unsigned seat, uint64_t position)
{
    struct ring_seat *s = &ring->seats[seat];
    uint64_t head = atomic_load_explicit(&s->inbox_head, memory_order_relaxed);

    if (head - atomic_load_explicit(&s->inbox_tail, memory_order_acquire) >= RING_INBOX) {
        atomic_store_explicit(&s->lost, 1, memory_order_release);
        return;
    }
    atomic_store_explicit(&ring->inboxes[(uint64_t)seat * RING_INBOX + head % RING_INBOX], position,
                          memory_order_relaxed);
    atomic_store_explicit(&s->inbox_head, head + 1, memory_order_release);
}

static void drop_interest(struct ring *ring, unsigned seat)
{
    uint32_t high = 0;

    for (uint32_t row = 0; row == 0 || row < high; row += SWEEP_ROWS) {
        ring_lock(ring);
        high = ring->header->rooms.high;
        for (uint32_t i = row; i < high && i < row + SWEEP_ROWS; i++)
            ring->rooms[i].interested[seat / 64] &= ~(1ULL << (seat % 64));
        ring_unlock(ring);
    }
}

struct gone {
    struct ring_member member;
    char room[MESSAGE_ROOM_MAX];
    uint8_t room_length;
    uint32_t left;
};

/* Removes the seat's members among SWEEP_ROWS rows; fills `gone` with those whose user has left the room
 * by it. */
static unsigned collect_gone(struct ring *ring, unsigned seat, uint32_t row, struct gone gone[SWEEP_ROWS],
                             uint32_t *high)
{
    unsigned count = 0;

    ring_lock(ring);
    *high = ring->header->members.high;
    for (uint32_t i = row; i < *high && i < row + SWEEP_ROWS; i++) {
        const struct ring_member *m = &ring->members[i];
        const struct ring_room *room = &ring->rooms[m->room];
        struct gone *g = &gone[count];

        if (!m->used || m->seat != seat)
            continue;
        g->member = *m;
        if (roster_remove(ring, i)) {
            memcpy(g->room, room->name, room->name_length);
            g->room_length = room->name_length;
            g->left = room->members;
            count++;
        }
    }
    ring_unlock(ring);
    return count;
}

static void clear_seat(struct ring *ring, unsigned seat, const struct bus_handler *handler)
{
    struct gone *gone = malloc(SWEEP_ROWS * sizeof(*gone));
    uint32_t high = 0;

    if (!gone)
        abort();
    drop_interest(ring, seat);
    for (uint32_t row = 0; row == 0 || row < high; row += SWEEP_ROWS) {
        unsigned count = collect_gone(ring, seat, row, gone, &high);

        for (unsigned i = 0; i < count && handler; i++)
            handler->on_gone(handler->arg, (struct text){gone[i].room, gone[i].room_length},
                             (struct text){gone[i].member.user, gone[i].member.user_length}, gone[i].left);
    }
    free(gone);
}

/* True when the caller now holds the life mutex of a seat that nobody lives in. */
static bool seize(struct ring_seat *s)
{
    int error = pthread_mutex_trylock(&s->life);

    if (error == EOWNERDEAD)
        error = pthread_mutex_consistent(&s->life);
    return error == 0;
}

/* A seat whose worker died is passed over: clearing it has to be told to others, which is the sweep's
 * business. */
int ring_sit(struct ring *ring)
{
    for (unsigned seat = 0; seat < RING_ATTACH_MAX; seat++) {
        struct ring_seat *s = &ring->seats[seat];
        _Atomic uint64_t *inbox = &ring->inboxes[(uint64_t)seat * RING_INBOX];
        uint64_t wake_name;

        if (atomic_load(&s->state) != RING_SEAT_FREE || !seize(s))
            continue;
        if (atomic_load(&s->state) != RING_SEAT_FREE) {
            pthread_mutex_unlock(&s->life);
            continue;
        }
        if (!ring_reserve(ring, inbox, RING_INBOX * sizeof(*inbox)) ||
            getrandom(&wake_name, sizeof(wake_name), 0) != sizeof(wake_name)) {
            pthread_mutex_unlock(&s->life);
            return -ENOSPC;
        }
        atomic_store(&s->wake_name, wake_name);
        atomic_store(&s->inbox_tail, atomic_load(&s->inbox_head));
        atomic_store(&s->signalled, 0);
        atomic_store(&s->lost, 0);
        atomic_store(&s->awaited, 0);
        atomic_store(&s->state, RING_SEAT_TAKEN);
        ring->seat = (int)seat;
        return (int)seat;
    }
    return -EUSERS;
}

void ring_stand(struct ring *ring)
{
    struct ring_seat *s = &ring->seats[ring->seat];

    clear_seat(ring, (unsigned)ring->seat, NULL);
    atomic_store(&s->state, RING_SEAT_FREE);
    pthread_mutex_unlock(&s->life);
    ring->seat = -1;
}

void ring_sweep(struct ring *ring, const struct bus_handler *handler)
{
    for (unsigned seat = 0; seat < RING_ATTACH_MAX; seat++) {
        struct ring_seat *s = &ring->seats[seat];

        if ((int)seat == ring->seat || atomic_load(&s->state) != RING_SEAT_TAKEN || !seize(s))
            continue;
        if (atomic_load(&s->state) == RING_SEAT_TAKEN) {
            clear_seat(ring, seat, handler);
            atomic_store(&s->state, RING_SEAT_FREE);
            log_warn("bus_seat_cleared", "seat=%u reason=%s", seat, "its worker died");
        }
        pthread_mutex_unlock(&s->life);
    }
}
