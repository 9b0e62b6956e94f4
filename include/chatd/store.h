/* store.h - keeps messages for good, and finds them again.
 *
 * Behind this interface: store_sqlite (one writer per host that follows bus_log) and store_mongo. Chat
 * code can't tell which. Loop thread only; one store per worker. Every answer comes through a callback from
 * the loop, later, never before the call returns; exactly once, also when the store closes (STORE_FAILED). No
 * call blocks the loop: threads of the store's own do the reading and writing. Requests wait in a bounded
 * queue: STORE_BUSY when it is full. */
#ifndef CHATD_STORE_H
#define CHATD_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/message.h"
#include "chatd/page.h"

struct store;

enum store_status {
    STORE_OK,
    STORE_NONE, /* nothing under that key */
    STORE_BUSY, /* too many requests wait: answer overloaded */
    STORE_FAILED, /* the store can't be read or written now: answer unavailable */
    STORE_MOVED, /* commit: its number doesn't stand any more (rules 5, 8): publish it again, instead_of it */
};

typedef void store_on_number(void *arg, enum store_status status, uint64_t seq);

/* `more` is true when the room has older messages in the asked range than the page holds. */
typedef void store_on_page(void *arg, enum store_status status, const struct page *page, bool more);

/* Rooms as `names[i]` with the highest number `highest[i]`, latest activity first; none that retention
 * deleted and nobody wrote to since. */
typedef void store_on_rooms(void *arg, enum store_status status, const struct text *names,
                            const uint64_t *highest, uint32_t count);

struct store_health {
    bool ok;
    int64_t since_ms;      /* Unix time when the present state began; 0: with this worker */
    uint64_t queued_bytes; /* what waits to be committed, on this host */
    char error[200];       /* why not ok; empty while ok */
};

struct store_ops {
    void (*commit)(struct store *store, const struct message *message, store_on_number *done, void *arg);
    void (*highest)(struct store *store, struct text room, store_on_number *done, void *arg);
    void (*find)(struct store *store, struct text room, struct text user, struct text key, const uint8_t *uid,
                 store_on_number *done, void *arg);
    void (*page)(struct store *store, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                 store_on_page *done, void *arg);
    void (*rooms)(struct store *store, uint32_t limit, store_on_rooms *done, void *arg);
    void (*seen)(struct store *store, struct text user); /* NULL: keeps no users */
    bool (*full)(struct store *store);                   /* NULL: the bus says BUS_FULL instead */
    void (*health)(struct store *store, struct store_health *health);
    void (*tick)(struct store *store); /* may be NULL */
};

struct store {
    const struct store_ops *ops;
};

/* Calls back once the message that the bus published is stored; `seq` is the number it stands under in
 * history for good (another than the message's when its key was stored before). STORE_FAILED: it is not known
 * to be stored; the client sends it again. */
static inline void store_commit(struct store *store, const struct message *message, store_on_number *done,
                                void *arg)
{
    store->ops->commit(store, message, done, arg);
}

/* Numbers up to this one are taken: the room's highest; for a room that the store doesn't know, the block
 * that an earlier life of the bus may have used (store_sqlite_new_life), 0 without one. */
static inline void store_highest(struct store *store, struct text room, store_on_number *done, void *arg)
{
    store->ops->highest(store, room, done, arg);
}

/* The number of the message with that key, or, with an empty key, with that uid (else it may be NULL):
 * STORE_OK or STORE_NONE. */
static inline void store_find(struct store *store, struct text room, struct text user, struct text key,
                              const uint8_t *uid, store_on_number *done, void *arg)
{
    store->ops->find(store, room, user, key, uid, done, arg);
}

/* The newest `limit` messages of (above, upto], ascending. Without `more` the page's `gone` says up to which
 * number messages of the room were deleted. */
static inline void store_page(struct store *store, struct text room, uint64_t above, uint64_t upto,
                              uint32_t limit, store_on_page *done, void *arg)
{
    store->ops->page(store, room, above, upto, limit, done, arg);
}

static inline void store_rooms(struct store *store, uint32_t limit, store_on_rooms *done, void *arg)
{
    store->ops->rooms(store, limit, done, arg);
}

/* Notes that the user is here now: first and last seen. No answer; may be dropped when there is too much
 * to do. */
static inline void store_seen(struct store *store, struct text user)
{
    if (store->ops->seen)
        store->ops->seen(store, user);
}

/* No place for one more message to commit: refuse it before anybody has seen it. */
static inline bool store_full(struct store *store)
{
    return store->ops->full && store->ops->full(store);
}

/* About once a second: shows in /metrics what waits here, and for how long. */
static inline void store_tick(struct store *store)
{
    if (store->ops->tick)
        store->ops->tick(store);
}

static inline void store_health(struct store *store, struct store_health *health)
{
    store->ops->health(store, health);
}

#endif
