/* roster.c - rooms and who is in them, as rows in the shared file. Everything here runs under the ring's
 * lock.
 *
 * A member row says: this user has connections in this room on this worker. A user on two workers has two
 * rows and counts as one member, so counting looks along the hash chain of (room, user) for a row of
 * another seat. */
#include <string.h>

#include "ring_layout.h"

static uint64_t room_bucket(const struct ring *ring, const char *name, size_t length)
{
    return ring_hash(ring, 0, name, length) & (ring->header->rooms.capacity - 1);
}

static uint64_t member_bucket(const struct ring *ring, uint32_t room, const char *user, size_t length)
{
    return ring_hash(ring, room + 1, user, length) & (RING_MEMBERS_MAX - 1);
}

uint32_t roster_find(const struct ring *ring, struct text name)
{
    uint32_t row = ring->room_buckets[room_bucket(ring, name.data, name.length)];

    while (row != RING_NONE) {
        const struct ring_room *room = &ring->rooms[row];

        if (room->name_length == name.length && memcmp(room->name, name.data, name.length) == 0)
            break;
        row = room->next;
    }
    return row;
}

static void unchain_room(struct ring *ring, uint32_t row)
{
    struct ring_room *room = &ring->rooms[row];
    uint32_t *link = &ring->room_buckets[room_bucket(ring, room->name, room->name_length)];

    while (*link != row)
        link = &ring->rooms[*link].next;
    *link = room->next;
}

static bool forgettable(const struct ring *ring, const struct ring_room *room)
{
    for (int i = 0; i < RING_INTEREST_WORDS; i++)
        if (room->interested[i] != 0)
            return false;
    return room->used && room->members == 0 &&
           room->position < atomic_load_explicit(&ring->header->committed, memory_order_relaxed);
}

enum { FORGET_LOOK_MAX = 4096 };

/* The table is full, or there is no memory for its next rows (so they are not even looked at): forgets a
 * room that nobody is in and whose messages are all stored. It is opened anew when somebody comes back.
 * The hand goes round so that the same rooms aren't looked at again and again; a bounded piece each time. */
static uint32_t forget_one(struct ring *ring)
{
    struct ring_header *h = ring->header;

    for (uint32_t looked = 0; looked < FORGET_LOOK_MAX && looked < h->rooms.high; looked++) {
        uint32_t row = h->room_hand++ % h->rooms.high;

        if (forgettable(ring, &ring->rooms[row])) {
            ring->rooms[row].used = 0;
            /* the row is wiped next, in whatever order memset likes */
            atomic_signal_fence(memory_order_seq_cst);
            unchain_room(ring, row);
            return row;
        }
    }
    return RING_NONE;
}

uint32_t roster_open(struct ring *ring, struct text name, uint64_t highest)
{
    struct ring_rows *rows = &ring->header->rooms;
    uint32_t row = roster_find(ring, name), *bucket;
    struct ring_room *room;

    if (row != RING_NONE)
        return row;
    row = ring_row_take(ring, rows, ring->rooms, sizeof(*room),
                        rows->free == RING_NONE ? NULL : &ring->rooms[rows->free].next);
    if (row == RING_NONE)
        row = forget_one(ring);
    if (row == RING_NONE)
        return RING_NONE;
    room = &ring->rooms[row];
    memset(room, 0, sizeof(*room));
    room->name_length = (uint8_t)name.length;
    memcpy(room->name, name.data, name.length);
    room->first_member = RING_NONE;
    /* The next number is the next multiple of 2^20 above the highest known (rule 2): what lies between is
     * void. */
    room->seq = ((highest >> 20) + 1) * (1ULL << 20) - 1;
    bucket = &ring->room_buckets[room_bucket(ring, name.data, name.length)];
    room->next = *bucket;
    atomic_signal_fence(memory_order_seq_cst);
    room->used = 1;
    *bucket = row;
    return row;
}

/* Looks along the chain: `mine` becomes the row of that seat, the result says whether another seat has the
 * user too. */
static bool find_member(const struct ring *ring, uint32_t room, struct text user, int seat, uint32_t *mine)
{
    uint32_t row = ring->member_buckets[member_bucket(ring, room, user.data, user.length)];
    bool elsewhere = false;

    *mine = RING_NONE;
    for (; row != RING_NONE; row = ring->members[row].next) {
        const struct ring_member *m = &ring->members[row];

        if (m->room != room || m->user_length != user.length || memcmp(m->user, user.data, user.length) != 0)
            continue;
        if (m->seat == seat)
            *mine = row;
        else
            elsewhere = true;
    }
    return elsewhere;
}

static void link_member(struct ring *ring, uint32_t row)
{
    struct ring_member *m = &ring->members[row];
    struct ring_room *room = &ring->rooms[m->room];
    uint32_t *bucket = &ring->member_buckets[member_bucket(ring, m->room, m->user, m->user_length)];

    m->next = *bucket;
    *bucket = row;
    m->room_previous = RING_NONE;
    m->room_next = room->first_member;
    if (room->first_member != RING_NONE)
        ring->members[room->first_member].room_previous = row;
    room->first_member = row;
}

bool roster_enter(struct ring *ring, uint32_t room, struct text user, int seat, bool *changed)
{
    struct ring_rows *rows = &ring->header->members;
    uint32_t row;
    bool elsewhere = find_member(ring, room, user, seat, &row);
    struct ring_member *m;

    *changed = false;
    if (row != RING_NONE) {
        ring->members[row].connections++;
        return true;
    }
    row = ring_row_take(ring, rows, ring->members, sizeof(*m),
                        rows->free == RING_NONE ? NULL : &ring->members[rows->free].next);
    if (row == RING_NONE)
        return false;
    m = &ring->members[row];
    m->user_length = (uint8_t)user.length;
    memcpy(m->user, user.data, user.length);
    m->seat = (uint16_t)seat;
    m->room = room;
    m->connections = 1;
    atomic_signal_fence(memory_order_seq_cst);
    m->used = 1;
    link_member(ring, row);
    *changed = !elsewhere;
    if (*changed)
        ring->rooms[room].members++;
    return true;
}

bool roster_remove(struct ring *ring, uint32_t row)
{
    struct ring_member *m = &ring->members[row];
    struct ring_room *room = &ring->rooms[m->room];
    uint32_t *link = &ring->member_buckets[member_bucket(ring, m->room, m->user, m->user_length)], mine;
    bool elsewhere = find_member(ring, m->room, (struct text){m->user, m->user_length}, m->seat, &mine);

    m->used = 0;
    while (*link != row)
        link = &ring->members[*link].next;
    *link = m->next;
    if (m->room_previous == RING_NONE)
        room->first_member = m->room_next;
    else
        ring->members[m->room_previous].room_next = m->room_next;
    if (m->room_next != RING_NONE)
        ring->members[m->room_next].room_previous = m->room_previous;
    if (!elsewhere)
        room->members--;
    m->next = ring->header->members.free;
    ring->header->members.free = row;
    return !elsewhere;
}

bool roster_leave(struct ring *ring, uint32_t room, struct text user, int seat)
{
    uint32_t row;

    find_member(ring, room, user, seat, &row);
    if (row == RING_NONE || --ring->members[row].connections > 0)
        return false;
    return roster_remove(ring, row);
}

bool roster_first(const struct ring *ring, uint32_t row)
{
    const struct ring_member *m = &ring->members[row];
    uint32_t other = ring->member_buckets[member_bucket(ring, m->room, m->user, m->user_length)];

    for (; other != RING_NONE; other = ring->members[other].next) {
        const struct ring_member *o = &ring->members[other];

        if (o->seat < m->seat && o->room == m->room && o->user_length == m->user_length &&
            memcmp(o->user, m->user, m->user_length) == 0)
            return false;
    }
    return true;
}

void roster_rebuild(struct ring *ring)
{
    struct ring_header *h = ring->header;

    memset(ring->room_buckets, 0xff, h->rooms.capacity * sizeof(*ring->room_buckets));
    memset(ring->member_buckets, 0xff, RING_MEMBERS_MAX * sizeof(*ring->member_buckets));
    h->rooms.free = h->members.free = RING_NONE;
    for (uint32_t row = 0; row < h->rooms.high; row++) {
        struct ring_room *room = &ring->rooms[row];
        uint32_t *chain = room->used ? &ring->room_buckets[room_bucket(ring, room->name, room->name_length)]
                                     : &h->rooms.free;

        room->next = *chain;
        *chain = row;
        room->members = 0;
        room->first_member = RING_NONE;
    }
    for (uint32_t row = 0; row < h->members.high; row++) {
        struct ring_member *m = &ring->members[row];
        uint32_t mine;

        if (!m->used || !ring->rooms[m->room].used) {
            m->used = 0;
            m->next = h->members.free;
            h->members.free = row;
            continue;
        }
        if (!find_member(ring, m->room, (struct text){m->user, m->user_length}, m->seat, &mine))
            ring->rooms[m->room].members++;
        link_member(ring, row);
    }
}
