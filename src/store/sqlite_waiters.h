/* sqlite_waiters.h - who waits for which position of the ring to be committed, lowest position first.
 *
 * A heap: publishes come in rising order and cost nothing to add, a retry's record or a republished one lies
 * anywhere. Waiters come from a free list. Loop thread only. */
#ifndef CHATD_SQLITE_WAITERS_H
#define CHATD_SQLITE_WAITERS_H

#include "chatd/message.h"
#include "chatd/store.h"

/* What it takes to tell a publisher under which number its message stands, even when the ring has overwritten
 * it. */
struct sqlite_waiter {
    uint64_t position;
    uint64_t seq;
    uint8_t uid[MESSAGE_UID_SIZE];
    struct text room, user, key; /* into names */
    store_on_number *done;
    void *arg;
    struct sqlite_waiter *next_free;
    char names[MESSAGE_ROOM_MAX + MESSAGE_USER_MAX + MESSAGE_KEY_MAX];
};

struct sqlite_waiters {
    struct sqlite_waiter **heap;
    uint32_t count;
    uint32_t capacity;
    struct sqlite_waiter *free;
    uint32_t free_count;
};

void sqlite_waiters_deinit(struct sqlite_waiters *waiters); /* empty by then */

void sqlite_waiters_add(struct sqlite_waiters *waiters, const struct message *message, store_on_number *done,
                        void *arg);

/* The one with the lowest position, NULL when nobody waits. */
struct sqlite_waiter *sqlite_waiters_first(const struct sqlite_waiters *waiters);

/* The first one's position has risen. */
void sqlite_waiters_first_moved(struct sqlite_waiters *waiters);

/* Takes the first one out; sqlite_waiters_recycle is where it goes then. */
struct sqlite_waiter *sqlite_waiters_take(struct sqlite_waiters *waiters);
void sqlite_waiters_recycle(struct sqlite_waiters *waiters, struct sqlite_waiter *waiter);

#endif
