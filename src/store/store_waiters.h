/* store_waiters.h - who waits for which position of the ring to be committed, lowest position first.
 *
 * A heap: publishes come in rising order and cost nothing to add, a retry's record or a republished one lies
 * anywhere. Waiters come from a free list. Loop thread only. */
#ifndef CHATD_STORE_WAITERS_H
#define CHATD_STORE_WAITERS_H

#include "chatd/message.h"
#include "chatd/store.h"

/* What it takes to tell a publisher under which number its message stands, even when the ring has overwritten
 * it. */
struct store_waiter {
    uint64_t position;
    uint64_t seq;
    uint8_t uid[MESSAGE_UID_SIZE];
    struct text room, user, key; /* into names */
    store_on_number *done;
    void *arg;
    struct store_waiter *next_free;
    char names[MESSAGE_ROOM_MAX + MESSAGE_USER_MAX + MESSAGE_KEY_MAX];
};

struct store_waiters {
    struct store_waiter **heap;
    uint32_t count;
    uint32_t capacity;
    struct store_waiter *free;
    uint32_t free_count;
};

void store_waiters_deinit(struct store_waiters *waiters); /* empty by then */

void store_waiters_add(struct store_waiters *waiters, const struct message *message, store_on_number *done,
                       void *arg);

/* The one with the lowest position, NULL when nobody waits. */
struct store_waiter *store_waiters_first(const struct store_waiters *waiters);

/* The first one's position has risen. */
void store_waiters_first_moved(struct store_waiters *waiters);

/* Takes the first one out; store_waiters_recycle is where it goes then. */
struct store_waiter *store_waiters_take(struct store_waiters *waiters);
void store_waiters_recycle(struct store_waiters *waiters, struct store_waiter *waiter);

#endif
