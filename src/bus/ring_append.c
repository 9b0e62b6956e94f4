/* ring_append.c - records: written under the lock, read without it.
 *
 * A record is made true in this order: bytes behind the head, redo note armed, head moved, room and key
 * bucket and inboxes (ring_apply), note disarmed. A writer that dies before the head moved has written
 * nothing; after it, the next holder of the lock applies the note again, and every step of that can be
 * repeated. */
#include <string.h>

#include "chatd/clock.h"
#include "ring_layout.h"

struct ring_record *ring_at(const struct ring *ring, uint64_t position)
{
    return (struct ring_record *)(ring->records + position % ring->header->size);
}

/* Moves the tail until `size` bytes fit, over committed records only. */
static bool make_place(struct ring *ring, uint64_t head, uint64_t size)
{
    struct ring_header *h = ring->header;
    uint64_t tail = atomic_load_explicit(&h->tail, memory_order_relaxed);
    uint64_t committed = atomic_load_explicit(&h->committed, memory_order_acquire);

    while (head + size - tail > h->size) {
        if (tail >= committed)
            return false;
        tail += ring_at(ring, tail)->size;
    }
    atomic_store_explicit(&h->tail, tail, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* readers must see the tail move before the bytes change */
    return true;
}

/* Decimal digits of `n` into `out` (20 bytes at most); returns their count. */
static size_t digits(char *out, uint64_t n)
{
    char reversed[20];
    size_t count = 0;

    do {
        reversed[count++] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    for (size_t i = 0; i < count; i++)
        out[i] = reversed[count - 1 - i];
    return count;
}

static char *put(char *to, struct text text)
{
    if (text.length > 0)
        memcpy(to, text.data, text.length);
    return to + text.length;
}

static void fill(struct ring_record *r, const struct ring_room *room, const struct ring_append *a)
{
    char *to = r->data;

    to = put(put(put(to, a->room), a->user), a->key);
    char *event = to;
    to = put(to, a->head);
    if (a->kind == RING_MESSAGE) {
        int64_t now = clock_wall_ms();

        r->seq = room->seq + 1;
        r->previous = room->seq;
        r->previous_position = room->position;
        r->time_ms = now > room->time_ms ? now : room->time_ms;
        memcpy(r->uid, a->uid, sizeof(r->uid));
        to += digits(to, r->seq);
        to = put(to, (struct text){",\"time\":", 8});
        to += digits(to, (uint64_t)r->time_ms);
        to = put(to, a->tail);
    }
    r->received_us = a->received_us;
    r->event_length = (uint32_t)(to - event);
    r->kind = (uint8_t)a->kind;
    r->room_length = (uint8_t)a->room.length;
    r->user_length = (uint8_t)a->user.length;
    r->key_length = (uint8_t)a->key.length;
}

static uint64_t key_bucket(const struct ring *ring, uint32_t room, struct text user, struct text key)
{
    uint64_t seed = ring_hash(ring, room, user.data, user.length);

    return ring_hash(ring, seed, key.data, key.length) & (ring->header->key_buckets - 1);
}

uint64_t ring_append(struct ring *ring, uint32_t room, const struct ring_append *a)
{
    struct ring_header *h = ring->header;
    uint64_t head = atomic_load_explicit(&h->head, memory_order_relaxed);
    /* 55: two numbers, `,"time":`, and rounding up */
    size_t most = (sizeof(struct ring_record) + a->room.length + a->user.length + a->key.length +
                   a->head.length + a->tail.length + 55) &
                  ~(size_t)7;
    uint64_t at_end = h->size - head % h->size, pad = at_end < most ? at_end : 0;
    struct ring_record *r;

    /* A reserve stays for second publications: the writer must get on even when the ring is full. */
    uint64_t reserve = a->replaces == 0 ? h->size / 16 : 0;

    if (most > h->size / 4 || !make_place(ring, head, pad + most + reserve))
        return 0;
    if (pad > 0) {
        struct ring_record *filler = ring_at(ring, head);

        filler->size = (uint32_t)pad;
        filler->kind = RING_PAD;
    }
    r = ring_at(ring, head + pad);
    memset(r, 0, sizeof(*r));
    r->room = room;
    r->ordinal = atomic_load_explicit(&h->messages, memory_order_relaxed) + (a->kind == RING_MESSAGE);
    fill(r, &ring->rooms[room], a);
    r->size =
        (uint32_t)((sizeof(*r) + r->room_length + r->user_length + r->key_length + r->event_length + 7) &
                   ~7UL);
    h->redo.room = room;
    h->redo.position = head + pad;
    h->redo.end = head + pad + r->size;
    h->redo.replaces = a->replaces;
    if (r->key_length > 0) {
        h->redo.key_bucket = key_bucket(ring, room, a->user, a->key);
        r->key_position = atomic_load_explicit(&ring->key_buckets[h->redo.key_bucket], memory_order_relaxed);
    }
    atomic_signal_fence(memory_order_seq_cst);
    h->redo.armed = 1;
    atomic_store_explicit(&h->head, h->redo.end, memory_order_release);
    /* Dying before the head moved must leave no trace, so nothing of what follows may come before it. */
    atomic_signal_fence(memory_order_seq_cst);
    ring_apply(ring);
    atomic_signal_fence(memory_order_seq_cst);
    h->redo.armed = 0;
    return h->redo.position;
}

void ring_apply(struct ring *ring)
{
    struct ring_header *h = ring->header;
    struct ring_room *room = &ring->rooms[h->redo.room];
    const struct ring_record *r = ring_at(ring, h->redo.position);

    if (h->redo.replaces != 0)
        atomic_store_explicit(&ring_at(ring, h->redo.replaces)->moved, h->redo.position,
                              memory_order_release);
    atomic_store_explicit(&h->messages, r->ordinal, memory_order_relaxed);
    if (r->kind == RING_MESSAGE) {
        room->seq = r->seq;
        room->time_ms = r->time_ms;
        room->position = h->redo.position;
        if (r->key_length > 0)
            atomic_store_explicit(&ring->key_buckets[h->redo.key_bucket], h->redo.position,
                                  memory_order_relaxed);
    }
    for (unsigned word = 0; word < RING_INTEREST_WORDS; word++)
        for (uint64_t bits = room->interested[word]; bits != 0; bits &= bits - 1)
            ring_post(ring, word * 64 + (unsigned)__builtin_ctzll(bits), h->redo.position);
}

static bool same(const char *data, size_t length, struct text text)
{
    return length == text.length && memcmp(data, text.data, length) == 0;
}

uint64_t ring_find_key(const struct ring *ring, uint32_t room, struct text user, struct text key)
{
    uint64_t tail = atomic_load_explicit(&ring->header->tail, memory_order_relaxed);
    uint64_t bucket = key_bucket(ring, room, user, key);
    uint64_t at = atomic_load_explicit(&ring->key_buckets[bucket], memory_order_relaxed);
    const struct ring_room *row = &ring->rooms[room];

    while (at >= tail && at != 0) {
        const struct ring_record *r = ring_at(ring, at);
        const char *name = r->data, *of_user = name + r->room_length, *of_key = of_user + r->user_length;

        if (same(of_key, r->key_length, key) && same(of_user, r->user_length, user) &&
            same(name, r->room_length, (struct text){row->name, row->name_length})) {
            uint64_t moved = atomic_load_explicit(&r->moved, memory_order_acquire);

            return moved >= tail ? moved : at;
        }
        at = r->key_position;
    }
    return 0;
}

void ring_record_message(const struct ring_record *r, uint64_t position, struct message *m)
{
    const char *at = r->data;

    *m =
        (struct message){.seq = r->seq, .previous = r->previous, .time_ms = r->time_ms,
                         .received_us = r->received_us, .position = position};
    m->room = (struct text){at, r->room_length}, at += r->room_length;
    m->user = (struct text){at, r->user_length}, at += r->user_length;
    m->key = (struct text){at, r->key_length}, at += r->key_length;
    m->event = (struct text){at, r->event_length};
    memcpy(m->uid, r->uid, sizeof(m->uid));
}

/* Like a reader of a seqlock: what was copied counts only if the tail is still behind it afterwards. */
bool ring_copy(const struct ring *ring, uint64_t position, struct buf *copy)
{
    const struct ring_header *h = ring->header;
    const struct ring_record *r = ring_at(ring, position);
    uint64_t room_left = h->size - position % h->size;
    uint32_t size;

    if (position == 0 || position < atomic_load_explicit(&h->tail, memory_order_acquire))
        return false;
    size = __atomic_load_n(&r->size, __ATOMIC_RELAXED); /* read once: it may change between check and use */
    if (size < 8 || size > room_left)
        return false; /* torn: already being overwritten */
    copy->length = 0;
    buf_add(copy, r, size);
    atomic_thread_fence(memory_order_acquire);
    return position >= atomic_load_explicit(&h->tail, memory_order_relaxed);
}
