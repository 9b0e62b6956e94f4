/* bus_log.c - bus.h on the ring: one worker's seat, its inbox, and whom it has to wake at the end of the
 * turn. */
#include "chatd/bus_log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "ring_layout.h"

enum { FULL_TOLD_MS = 10000 }; /* between two lines about a full table */

struct bus_log {
    struct bus bus;
    struct ring *ring;
    uv_poll_t wake;
    int wake_socket;
    void (*on_committed)(void *arg);
    void *committed_arg;
    uint64_t uid_prefix; /* random per process; with the counter it makes uids that never repeat */
    uint64_t uid_counter;
    uint64_t to_wake[RING_INTEREST_WORDS]; /* seats that this turn's publishes concern */
    int64_t full_told_ms;
    bool appended;                         /* there is something new for the store */
    struct buf copy;      /* of the record being handed up */
    struct buf walk_copy; /* of the record a walk is at: a walk may happen while one is handed up */
};

static struct bus_log *self(struct bus *bus)
{
    return (struct bus_log *)bus;
}

/* Somebody should know, once in a while. */
static void tell_full(struct bus_log *b)
{
    int64_t now = clock_monotonic_ms();

    metrics_add(limited_total[METRICS_LIMIT_bus_queue], 1);
    if (now - b->full_told_ms < FULL_TOLD_MS)
        return;
    b->full_told_ms = now;
    log_warn("bus_full", "rooms=%u members=%u hint=%s", b->ring->header->rooms.high,
             b->ring->header->members.high,
             "more bus_log_bytes make place for more rooms; /dev/shm must have as much");
}

static void log_open_room(struct bus *bus, struct text room, uint64_t highest,
                          void (*done)(void *arg, enum bus_status status), void *arg)
{
    struct ring *ring = self(bus)->ring;
    uint32_t row;

    ring_lock(ring);
    row = roster_open(ring, room, highest);
    ring_unlock(ring);
    if (row == RING_NONE)
        tell_full(self(bus));
    done(arg, row == RING_NONE ? BUS_FULL : BUS_OK);
}

static void log_subscribe(struct bus *bus, struct text room, bus_on_subscribed *done, void *arg)
{
    struct ring *ring = self(bus)->ring;
    uint64_t seq = 0;
    uint32_t row;

    ring_lock(ring);
    row = roster_find(ring, room);
    if (row != RING_NONE) {
        ring->rooms[row].interested[ring->seat / 64] |= 1ULL << (ring->seat % 64);
        seq = ring->rooms[row].seq;
    }
    ring_unlock(ring);
    done(arg, row == RING_NONE ? BUS_NOT_OPEN : BUS_OK, seq);
}

static void log_unsubscribe(struct bus *bus, struct text room)
{
    struct ring *ring = self(bus)->ring;
    uint32_t row;

    ring_lock(ring);
    row = roster_find(ring, room);
    if (row != RING_NONE)
        ring->rooms[row].interested[ring->seat / 64] &= ~(1ULL << (ring->seat % 64));
    ring_unlock(ring);
}

/* Lock held. Appends, and notes whom to wake when the turn is over. */
static uint64_t append(struct bus_log *b, uint32_t row, const struct ring_append *a)
{
    uint64_t position = ring_append(b->ring, row, a);

    for (int i = 0; i < RING_INTEREST_WORDS && position != 0; i++)
        b->to_wake[i] |= b->ring->rooms[row].interested[i];
    return position;
}

/* `message` has the uid it is to get. */
static enum bus_status publish_locked(struct bus_log *b, const struct bus_publish *p, struct message *message)
{
    uint32_t row = roster_find(b->ring, p->room);
    uint64_t position = 0;

    if (row == RING_NONE)
        return BUS_NOT_OPEN;
    if (p->key.length > 0)
        position = ring_find_key(b->ring, row, p->user, p->key);
    if (position != 0) {
        struct message known;

        ring_record_message(ring_at(b->ring, position), position, &known);
        if (known.seq != p->instead_of) {
            *message = known;
            return BUS_DUPLICATE;
        }
    }
    if (p->retry && p->key.length > 0 && !p->asked)
        return BUS_NOT_FOUND_IN_WINDOW;
    position = append(b, row, &(struct ring_append){RING_MESSAGE, p->room, p->user, p->key, p->head, p->tail,
                                                    message->uid, 0, p->received_us});
    if (position == 0) {
        metrics_add(limited_total[METRICS_LIMIT_store_queue], 1);
        return BUS_FULL;
    }
    ring_record_message(ring_at(b->ring, position), position, message);
    b->appended = true;
    return BUS_OK;
}

static void log_publish(struct bus *bus, const struct bus_publish *publish, bus_on_published *done, void *arg)
{
    struct bus_log *b = self(bus);
    uint64_t uid[2] = {b->uid_prefix, b->uid_counter};
    struct message message = {0};
    enum bus_status status;

    if (!publish->uid)
        b->uid_counter++;
    memcpy(message.uid, publish->uid ? publish->uid : (const uint8_t *)uid, MESSAGE_UID_SIZE);
    ring_lock(b->ring);
    status = publish_locked(b, publish, &message);
    ring_unlock(b->ring);
    /* The ring may turn over these bytes later; names are the caller's own, and the store follows the ring
     * itself. */
    message.room = publish->room;
    message.user = publish->user;
    message.key = publish->key;
    message.event = (struct text){NULL, 0};
    done(arg, status, &message);
}

static bool log_emit(struct bus *bus, struct text room, struct text user, struct text event)
{
    struct bus_log *b = self(bus);
    uint64_t position = 0;
    uint32_t row;

    ring_lock(b->ring);
    row = roster_find(b->ring, room);
    /* With a store that is down, passing events may take half of the ring: the rest is for messages. */
    if (row != RING_NONE && ring_head(b->ring) - ring_committed(b->ring) < b->ring->header->size / 2)
        position = append(
            b, row, &(struct ring_append){RING_EVENT, room, user, {NULL, 0}, event, {NULL, 0}, NULL, 0, 0});
    ring_unlock(b->ring);
    return position != 0;
}

/* Walks back from the room's newest record; see bus_on_window for what `below` means. */
static uint64_t walk(struct bus_log *b, const struct ring_room *room, uint64_t above, uint64_t upto,
                     uint32_t limit, struct page *page)
{
    uint64_t below = upto, at = room->position;

    while (page->count < limit && below > above && ring_copy(b->ring, at, &b->walk_copy)) {
        const struct ring_record *r = (const struct ring_record *)b->walk_copy.data;
        struct message m;

        if (r->seq > upto && at < ring_committed(b->ring))
            break; /* commits go in order: all up to `upto` is the store's */
        if (r->seq <= above)
            return above;
        if (r->seq <= room->forgotten)
            break;
        ring_record_message(r, at, &m);
        if (r->seq <= upto) {
            /* Moved or settled elsewhere: this number is void (rule 5). */
            if (atomic_load(&r->moved) == 0 && atomic_load(&r->settled) == 0) {
                page_add(page, m.seq, m.event.data, m.event.length);
                page_stamp(page, m.received_us);
            }
            below = m.previous;
        }
        at = r->previous_position;
    }
    return below;
}

static void log_window(struct bus *bus, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                       bus_on_window *done, void *arg)
{
    struct bus_log *b = self(bus);
    struct page page = PAGE_INIT;
    struct ring_room copy = {0};
    uint64_t below;
    uint32_t row;

    ring_lock(b->ring);
    row = roster_find(b->ring, room);
    if (row != RING_NONE)
        copy = b->ring->rooms[row];
    ring_unlock(b->ring);
    below =
        row == RING_NONE ? upto : walk(b, &copy, above, upto < copy.seq ? upto : copy.seq, limit, &page);
    page_reverse(&page);
    /* What isn't committed yet outlives every process here: the writer gets it into the store. */
    done(arg, row == RING_NONE ? BUS_NOT_OPEN : BUS_OK, &page, below, false);
    page_deinit(&page);
}

static void log_enter(struct bus *bus, struct text room, struct text user, bus_on_members *done, void *arg)
{
    struct ring *ring = self(bus)->ring;
    bool changed = false, placed = false;
    uint32_t members = 0, row;

    ring_lock(ring);
    row = roster_find(ring, room);
    if (row != RING_NONE) {
        placed = roster_enter(ring, row, user, ring->seat, &changed);
        members = ring->rooms[row].members;
    }
    ring_unlock(ring);
    if (row != RING_NONE && !placed)
        tell_full(self(bus));
    done(arg, row == RING_NONE ? BUS_NOT_OPEN : placed ? BUS_OK : BUS_FULL, members, changed);
}

static void log_leave(struct bus *bus, struct text room, struct text user)
{
    struct ring *ring = self(bus)->ring;
    bool gone = false;
    uint32_t members = 0, row;

    ring_lock(ring);
    row = roster_find(ring, room);
    if (row != RING_NONE) {
        gone = roster_leave(ring, row, user, ring->seat);
        members = ring->rooms[row].members;
    }
    ring_unlock(ring);
    if (gone)
        bus->handler.on_gone(bus->handler.arg, room, user, members);
}

static uint32_t log_count(struct bus *bus, struct text room)
{
    return ring_members(self(bus)->ring, room);
}

static void log_members(struct bus *bus, struct text room, uint32_t limit,
                        void (*done)(void *arg, uint32_t count, const struct text *users, uint32_t listed),
                        void *arg)
{
    struct ring *ring = self(bus)->ring;
    struct text *users = calloc(limit + 1, sizeof(*users));
    struct buf names = BUF_INIT;
    uint32_t count = 0, listed = 0, row, member;

    if (!users)
        abort();
    /* so that it doesn't move while `users` point into it */
    buf_reserve(&names, (size_t)limit * MESSAGE_USER_MAX + 1);
    ring_lock(ring);
    row = roster_find(ring, room);
    member = row == RING_NONE ? RING_NONE : ring->rooms[row].first_member;
    count = row == RING_NONE ? 0 : ring->rooms[row].members;
    for (; member != RING_NONE && listed < limit; member = ring->members[member].room_next) {
        const struct ring_member *m = &ring->members[member];

        if (!roster_first(ring, member))
            continue; /* on several workers: listed once */
        users[listed++] = (struct text){names.data + names.length, m->user_length};
        buf_add(&names, m->user, m->user_length);
    }
    ring_unlock(ring);
    done(arg, count, users, listed);
    buf_deinit(&names);
    free(users);
}

enum { ROOMS_CHUNK = 64 };

struct rooms {
    struct bus_room *list; /* names point into `names`, which doesn't move */
    uint32_t count, limit;
    struct buf names;
};

/* Lists rooms with members, or those without, in pieces: the lock is not held while the table is walked. */
static void list_rooms(struct ring *ring, bool with_members, struct rooms *rooms)
{
    uint32_t high = 1;

    for (uint32_t row = 0; row < high && rooms->count < rooms->limit; row += ROOMS_CHUNK) {
        ring_lock(ring);
        high = ring->header->rooms.high;
        for (uint32_t i = row; i < high && i < row + ROOMS_CHUNK && rooms->count < rooms->limit; i++) {
            const struct ring_room *r = &ring->rooms[i];

            if (!r->used || (r->members > 0) != with_members)
                continue;
            if (!with_members && r->forgotten >= r->seq)
                continue; /* nothing is left of it: whether it is a room still is the store's business */
            rooms->list[rooms->count++] = (struct bus_room){
                {rooms->names.data + rooms->names.length, r->name_length}, r->members, r->seq};
            buf_add(&rooms->names, r->name, r->name_length);
        }
        ring_unlock(ring);
    }
}

static void log_rooms(struct bus *bus, uint32_t limit, bus_on_rooms *done, void *arg)
{
    struct rooms rooms = {.list = calloc(limit + 1, sizeof(*rooms.list)), .limit = limit, .names = BUF_INIT};

    if (!rooms.list)
        abort();
    buf_reserve(&rooms.names, (size_t)limit * MESSAGE_ROOM_MAX + 1);
    list_rooms(self(bus)->ring, true, &rooms);
    list_rooms(self(bus)->ring, false, &rooms);
    done(arg, rooms.list, rooms.count);
    buf_deinit(&rooms.names);
    free(rooms.list);
}

/* The store follows the ring: nothing is lost with a publisher, and void records are marked there. */
static void log_settle(struct bus *bus, const struct message *message, uint64_t stored)
{
    (void)bus, (void)message, (void)stored;
}

/* Memory is always there. */
static void log_health(struct bus *bus, struct bus_health *health)
{
    (void)bus;
    *health = (struct bus_health){.ok = true};
}

static void hand_up(struct bus_log *b, uint64_t position)
{
    const struct ring_record *r = (const struct ring_record *)b->copy.data;
    const struct bus_handler *handler = &b->bus.handler;
    struct message m;

    ring_record_message(r, position, &m);
    if (r->kind == RING_MESSAGE)
        handler->on_record(handler->arg, &m);
    else
        handler->on_event(handler->arg, m.room, m.user, m.event);
}

static void drain_inbox(struct bus_log *b)
{
    struct ring *ring = b->ring;
    struct ring_seat *s = &ring->seats[ring->seat];
    _Atomic uint64_t *inbox = &ring->inboxes[(uint64_t)ring->seat * RING_INBOX];
    uint64_t tail = atomic_load_explicit(&s->inbox_tail, memory_order_relaxed), head;
    bool lost;

    /* First the flag, then the inbox: what comes in between brings a datagram of its own. */
    atomic_store(&s->signalled, 0);
    lost = atomic_exchange(&s->lost, 0) != 0;
    head = atomic_load(&s->inbox_head);
    for (; tail < head; tail++) {
        uint64_t position = atomic_load_explicit(&inbox[tail % RING_INBOX], memory_order_relaxed);

        if (ring_copy(ring, position, &b->copy))
            hand_up(b, position);
        else
            lost = true;
    }
    atomic_store_explicit(&s->inbox_tail, tail, memory_order_release);
    if (lost)
        b->bus.handler.on_lost(b->bus.handler.arg, (struct text){"", 0});
}

static void wake_others(struct bus_log *b)
{
    for (unsigned word = 0; word < RING_INTEREST_WORDS; word++) {
        for (uint64_t bits = b->to_wake[word]; bits != 0; bits &= bits - 1) {
            unsigned seat = word * 64 + (unsigned)__builtin_ctzll(bits);

            if ((int)seat != b->ring->seat)
                ring_wake(b->ring, seat);
        }
        b->to_wake[word] = 0;
    }
}

static void log_turn(struct bus *bus)
{
    struct bus_log *b = self(bus);
    struct ring_seat *s = &b->ring->seats[b->ring->seat];
    uint64_t awaited, committed;

    drain_inbox(b);
    wake_others(b);
    /* What the handlers published, or what came too late for this turn, must not wait for the next event. */
    if (atomic_load(&s->inbox_head) != atomic_load(&s->inbox_tail))
        ring_wake(b->ring, (unsigned)b->ring->seat);
    committed = ring_committed(b->ring); /* after draining: from there on a commit brings a datagram */
    /* Passing events alone don't call the writer, unless they begin to fill the ring. */
    if (b->appended || ring_head(b->ring) - committed > b->ring->header->size / 8)
        ring_kick(b->ring);
    b->appended = false;
    awaited = atomic_load(&s->awaited);
    if (awaited != 0 && awaited < committed) {
        atomic_store(&s->awaited, 0);
        if (b->on_committed)
            b->on_committed(b->committed_arg);
    }
}

static void log_sweep(struct bus *bus)
{
    ring_sweep(self(bus)->ring, &bus->handler);
}

static const struct bus_ops OPS = {
    .open = log_open_room,
    .subscribe = log_subscribe,
    .unsubscribe = log_unsubscribe,
    .publish = log_publish,
    .emit = log_emit,
    .window = log_window,
    .enter = log_enter,
    .leave = log_leave,
    .count = log_count,
    .members = log_members,
    .rooms = log_rooms,
    .settle = log_settle,
    .health = log_health,
    .turn = log_turn,
    .tick = log_sweep,
};

enum { WAKES_PER_TURN = 64 };

/* The datagrams carry nothing: what there is to do is found by log_turn, which follows in every loop turn. */
static void on_wake(uv_poll_t *poll, int status, int events)
{
    struct bus_log *b = poll->data;
    char byte;

    (void)status;
    (void)events;
    for (int i = 0; i < WAKES_PER_TURN && recv(b->wake_socket, &byte, 1, MSG_DONTWAIT) >= 0; i++)
        ;
}

static int listen_for_wakes(struct bus_log *b, uv_loop_t *loop)
{
    struct sockaddr_un address;
    size_t length = ring_wake_address(b->ring, (unsigned)b->ring->seat, &address);
    int error;

    b->wake_socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (b->wake_socket < 0)
        return -errno;
    if (bind(b->wake_socket, (struct sockaddr *)&address, (socklen_t)length) != 0)
        error = -errno;
    else
        error = uv_poll_init(loop, &b->wake, b->wake_socket);
    if (error != 0) {
        close(b->wake_socket);
        return error;
    }
    b->wake.data = b;
    return uv_poll_start(&b->wake, UV_READABLE, on_wake);
}

int bus_log_new(struct bus **bus, uv_loop_t *loop, struct ring *ring, const struct bus_handler *handler,
                void (*on_committed)(void *arg), void *committed_arg)
{
    struct bus_log *b = calloc(1, sizeof(*b));
    int error;

    if (!b)
        return -ENOMEM;
    b->bus = (struct bus){&OPS, *handler};
    b->ring = ring;
    b->on_committed = on_committed;
    b->committed_arg = committed_arg;
    error = getrandom(&b->uid_prefix, sizeof(b->uid_prefix), 0) < 0 ? -errno : ring_sit(ring);
    if (error == -EUSERS) {
        ring_sweep(ring, NULL); /* workers that die faster than anybody sweeps must not use up all seats */
        error = ring_sit(ring);
    }
    if (error < 0) {
        free(b);
        return error;
    }
    error = listen_for_wakes(b, loop);
    if (error < 0) {
        ring_stand(ring);
        free(b);
        return error;
    }
    *bus = &b->bus;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct bus_log *b = handle->data;

    buf_deinit(&b->copy);
    buf_deinit(&b->walk_copy);
    free(b);
}

void bus_log_close(struct bus *bus)
{
    struct bus_log *b = self(bus);

    b->on_committed = NULL; /* the store is closed first */
    log_turn(bus); /* what was published in this last turn still reaches the others and the writer */
    uv_close((uv_handle_t *)&b->wake, on_closed);
    close(b->wake_socket); /* its name is free before the seat is; libuv looks at it no more after uv_close */
    ring_stand(b->ring);
}
