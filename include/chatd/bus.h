/* bus.h - numbers messages, keeps the recent ones, and reaches every worker that has members in a room.
 *
 * The rules are numbered as in src/ARCHITECTURE.md, "Delivery". Two implementations stand behind this
 * interface, bus_log (shared memory, one host) and bus_redis (any number of servers); chat code can't tell
 * which it has. So everything that may need a round trip answers through a callback, exactly once, which
 * may run before the call returns (bus_log always does) or later. Texts are borrowed for the call: who
 * needs them longer copies them. Loop thread only; one bus per worker.
 *
 * A room must be OPEN (the bus knows its next number) before it is subscribed or published to;
 * BUS_NOT_OPEN says that it isn't: ask the store for its highest number, call bus_open, try again. Opening
 * twice is harmless.
 *
 * Nothing is lost between subscribe and deliver: from the moment on_subscribed names a number, every later
 * record reaches on_record, or on_lost says that records were missed and each room has to be caught up
 * with bus_window. */
#ifndef CHATD_BUS_H
#define CHATD_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chatd/message.h"
#include "chatd/page.h"

struct bus;

enum bus_status {
    BUS_OK,
    BUS_DUPLICATE, /* publish: the window has (room, user, key); the answer is that record */
    BUS_NOT_FOUND_IN_WINDOW, /* publish with `retry`: ask the store by key, then publish with `asked` */
    BUS_NOT_OPEN, /* the room has no next number */
    BUS_FULL, /* no place: what is uncommitted is never overwritten; try again later */
    BUS_FAILED, /* the bus can't be reached now, or nobody wants it any more; nothing is known to be done */
};

/* How the bus calls up. None may be NULL. */
struct bus_handler {
    void *arg;
    /* A message of a subscribed room, in rising order per room, but perhaps with a gap (compare
     * `previous`), perhaps twice. */
    void (*on_record)(void *arg, const struct message *message);
    /* A passing event (typing, presence) of a subscribed room; `user` is whom it is about. */
    void (*on_event)(void *arg, struct text room, struct text user, struct text event);
    /* Records may have been missed: catch that room up; with an empty name, every room. */
    void (*on_lost)(void *arg, struct text room);
    /* A user is no longer in a room, by this worker's bus_leave or because the worker with the last
     * connection died; `members` are left. Called on one worker of all. */
    void (*on_gone)(void *arg, struct text room, struct text user, uint32_t members);
    /* The publisher of this record died before the store was known to have it. Called on one worker of
     * all, again after a while as long as nobody says bus_settle. `stands`: its number still counts, so it
     * is to be committed under it; else it is to be published again with its key (rule 8). */
    void (*on_orphan)(void *arg, const struct message *message, bool stands);
};

/* What a publisher brings. The event's final bytes are head + number + `,"time":` + milliseconds + tail,
 * put together in the atomic step that gives the number. */
struct bus_publish {
    struct text room, user, key; /* key.length 0: none */
    struct text head, tail;
    int64_t received_us; /* as in struct message */
    const uint8_t *uid; /* of a message that is published again (MESSAGE_UID_SIZE bytes); NULL: a new one */
    bool retry; /* the client sent it before */
    bool asked; /* the store has been asked and doesn't have it */
    /* The number it had and that is void now (rules 5 and 8), which the bus forgets; 0: none. */
    uint64_t instead_of;
    /* The number it has under this uid, when it may still stand: the bus names it again, though its record is
     * gone already; 0: none. */
    uint64_t number;
    /* Asked with the callback's `arg` before it goes out, if it had to wait for the bus: false when its
     * sender is gone, and then it is dropped (BUS_FAILED). May be NULL. */
    bool (*wanted)(void *arg);
};

/* With a status that gave no number the message has its uid alone: the next try of the same message brings
 * it, and one that got through after all is recognised. */
typedef void bus_on_published(void *arg, enum bus_status status, const struct message *message);
typedef void bus_on_subscribed(void *arg, enum bus_status status, uint64_t seq);

/* Members of a room after an enter; `changed` is true when the user came with this connection. */
typedef void bus_on_members(void *arg, enum bus_status status, uint32_t members, bool changed);

/* The newest `limit` records of (above, upto] that the bus still has, ascending. `below` is the number
 * before the page's first: when it is > above, the records in (above, below] are the store's. `pending`:
 * not all of these are known to be committed, though the bus has waited for it up to BUS_PENDING_MS;
 * without it all were committed before this answer. With BUS_NOT_OPEN or BUS_FAILED the page is empty and
 * `below` is `upto`. */
typedef void bus_on_window(void *arg, enum bus_status status, const struct page *page, uint64_t below,
                           bool pending);

enum { BUS_PENDING_MS = 1000 };

struct bus_health {
    bool ok;
    int64_t since_ms; /* Unix time when the present state began; 0: with this worker */
    char error[200];  /* why not ok, without secrets; empty while ok */
};

/* Known rooms, those with members first; `seq` is the highest number given. */
struct bus_room {
    struct text name;
    uint32_t members;
    uint64_t seq;
};

typedef void bus_on_rooms(void *arg, const struct bus_room *rooms, uint32_t count);

struct bus_ops {
    void (*open)(struct bus *bus, struct text room, uint64_t highest,
                 void (*done)(void *arg, enum bus_status status), void *arg);
    void (*subscribe)(struct bus *bus, struct text room, bus_on_subscribed *done, void *arg);
    void (*unsubscribe)(struct bus *bus, struct text room);
    void (*publish)(struct bus *bus, const struct bus_publish *publish, bus_on_published *done, void *arg);
    bool (*emit)(struct bus *bus, struct text room, struct text user, struct text event);
    void (*window)(struct bus *bus, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                   bus_on_window *done, void *arg);
    void (*enter)(struct bus *bus, struct text room, struct text user, bus_on_members *done, void *arg);
    void (*leave)(struct bus *bus, struct text room, struct text user);
    uint32_t (*count)(struct bus *bus, struct text room);
    void (*members)(struct bus *bus, struct text room, uint32_t limit,
                    void (*done)(void *arg, uint32_t count, const struct text *users, uint32_t listed),
                    void *arg);
    void (*rooms)(struct bus *bus, uint32_t limit, bus_on_rooms *done, void *arg);
    void (*settle)(struct bus *bus, const struct message *message, uint64_t stored);
    void (*health)(struct bus *bus, struct bus_health *health);
    void (*turn)(struct bus *bus);
    void (*tick)(struct bus *bus);
};

struct bus {
    const struct bus_ops *ops;
    struct bus_handler handler;
};

/* Makes the room known with the next multiple of 2^20 above `highest`, or a higher one, as its next
 * number; one that is known stays as it is. BUS_FULL when there is no place for one more room. May wait
 * for failover_grace. */
static inline void bus_open(struct bus *bus, struct text room, uint64_t highest,
                            void (*done)(void *arg, enum bus_status status), void *arg)
{
    bus->ops->open(bus, room, highest, done, arg);
}

/* From now on the room's records reach this worker; `seq` is the highest number given so far. One at a
 * time per room; after BUS_NOT_OPEN or BUS_FAILED it isn't subscribed. */
static inline void bus_subscribe(struct bus *bus, struct text room, bus_on_subscribed *done, void *arg)
{
    bus->ops->subscribe(bus, room, done, arg);
}

static inline void bus_unsubscribe(struct bus *bus, struct text room)
{
    bus->ops->unsubscribe(bus, room);
}

static inline void bus_publish(struct bus *bus, const struct bus_publish *publish, bus_on_published *done,
                               void *arg)
{
    bus->ops->publish(bus, publish, done, arg);
}

/* Sends a passing event to all subscribed workers, this one included. False: no place, it is dropped. */
static inline bool bus_emit(struct bus *bus, struct text room, struct text user, struct text event)
{
    return bus->ops->emit(bus, room, user, event);
}

static inline void bus_window(struct bus *bus, struct text room, uint64_t above, uint64_t upto,
                              uint32_t limit, bus_on_window *done, void *arg)
{
    bus->ops->window(bus, room, above, upto, limit, done, arg);
}

/* One more connection of the user in the room, or one less (on_gone tells when it was the last). The room
 * is subscribed. */
static inline void bus_enter(struct bus *bus, struct text room, struct text user, bus_on_members *done,
                             void *arg)
{
    bus->ops->enter(bus, room, user, done, arg);
}

static inline void bus_leave(struct bus *bus, struct text room, struct text user)
{
    bus->ops->leave(bus, room, user);
}

/* Users in a room that this worker subscribed, as far as known here and now. */
static inline uint32_t bus_count(struct bus *bus, struct text room)
{
    return bus->ops->count(bus, room);
}

/* The number of users of any room, and the names of at most `limit` of them; 0 while the bus can't be
 * reached. */
static inline void bus_members(struct bus *bus, struct text room, uint32_t limit,
                               void (*done)(void *arg, uint32_t count, const struct text *users,
                                            uint32_t listed),
                               void *arg)
{
    bus->ops->members(bus, room, limit, done, arg);
}

/* At most `limit` rooms, fewer or none while the bus can't be reached. */
static inline void bus_rooms(struct bus *bus, uint32_t limit, bus_on_rooms *done, void *arg)
{
    bus->ops->rooms(bus, limit, done, arg);
}

/* The store has the message (room, seq and time_ms as published): nobody needs to care for it any more. If
 * it is `stored` under another number, the one it was published under is void, and is not in the window
 * any more (rule 5). */
static inline void bus_settle(struct bus *bus, const struct message *message, uint64_t stored)
{
    bus->ops->settle(bus, message, stored);
}

static inline void bus_health(struct bus *bus, struct bus_health *health)
{
    bus->ops->health(bus, health);
}

/* Once per loop turn, before output is flushed: hands up what arrived, and wakes whom this worker's
 * publishes concern. */
static inline void bus_turn(struct bus *bus)
{
    bus->ops->turn(bus);
}

/* Once a second: looks for dead workers and what they left. */
static inline void bus_tick(struct bus *bus)
{
    bus->ops->tick(bus);
}

#endif
