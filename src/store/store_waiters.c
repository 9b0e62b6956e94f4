/* store_waiters.c - a binary heap of waiters by position. */
#include "store_waiters.h"

#include <stdlib.h>
#include <string.h>

enum { WAITERS_FIRST_CAPACITY = 64, WAITERS_FREE_MAX = 1024 };

void store_waiters_deinit(struct store_waiters *waiters)
{
    while (waiters->free != NULL) {
        struct store_waiter *waiter = waiters->free;

        waiters->free = waiter->next_free;
        free(waiter);
    }
    free(waiters->heap);
    *waiters = (struct store_waiters){0};
}

static struct store_waiter *take_free(struct store_waiters *waiters)
{
    struct store_waiter *waiter = waiters->free;

    if (waiter != NULL) {
        waiters->free = waiter->next_free;
        waiters->free_count--;
        return waiter;
    }
    waiter = malloc(sizeof(*waiter));
    if (waiter == NULL)
        abort();
    return waiter;
}

void store_waiters_recycle(struct store_waiters *waiters, struct store_waiter *waiter)
{
    if (waiters->free_count == WAITERS_FREE_MAX) {
        free(waiter);
        return;
    }
    waiter->next_free = waiters->free;
    waiters->free = waiter;
    waiters->free_count++;
}

static void make_room(struct store_waiters *waiters)
{
    uint32_t capacity = waiters->capacity > 0 ? waiters->capacity * 2 : WAITERS_FIRST_CAPACITY;
    struct store_waiter **heap;

    if (waiters->count < waiters->capacity)
        return;
    heap = realloc(waiters->heap, capacity * sizeof(*heap));
    if (heap == NULL)
        abort();
    waiters->heap = heap;
    waiters->capacity = capacity;
}

static struct text copy_name(char **to, struct text name, size_t most)
{
    struct text copy = {*to, name.length};

    if (name.length > most)
        abort(); /* the bus takes no such name */
    if (name.length > 0)
        memcpy(*to, name.data, name.length);
    *to += name.length;
    return copy;
}

void store_waiters_add(struct store_waiters *waiters, const struct message *message, store_on_number *done,
                       void *arg)
{
    struct store_waiter *waiter = take_free(waiters);
    char *to = waiter->names;
    uint32_t at;

    waiter->position = message->position;
    waiter->seq = message->seq;
    memcpy(waiter->uid, message->uid, MESSAGE_UID_SIZE);
    waiter->room = copy_name(&to, message->room, MESSAGE_ROOM_MAX);
    waiter->user = copy_name(&to, message->user, MESSAGE_USER_MAX);
    waiter->key = copy_name(&to, message->key, MESSAGE_KEY_MAX);
    waiter->done = done;
    waiter->arg = arg;
    make_room(waiters);
    for (at = waiters->count++; at > 0; at = (at - 1) / 2) {
        struct store_waiter *parent = waiters->heap[(at - 1) / 2];

        if (parent->position <= waiter->position)
            break;
        waiters->heap[at] = parent;
    }
    waiters->heap[at] = waiter;
}

struct store_waiter *store_waiters_first(const struct store_waiters *waiters)
{
    return waiters->count > 0 ? waiters->heap[0] : NULL;
}

/* Puts `waiter` where the top is free. */
static void sink(struct store_waiters *waiters, struct store_waiter *waiter)
{
    uint32_t at = 0;

    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child >= waiters->count)
            break;
        if (child + 1 < waiters->count && waiters->heap[child + 1]->position < waiters->heap[child]->position)
            child++;
        if (waiters->heap[child]->position >= waiter->position)
            break;
        waiters->heap[at] = waiters->heap[child];
        at = child;
    }
    waiters->heap[at] = waiter;
}

void store_waiters_first_moved(struct store_waiters *waiters)
{
    sink(waiters, waiters->heap[0]);
}

struct store_waiter *store_waiters_take(struct store_waiters *waiters)
{
    struct store_waiter *first = waiters->heap[0];

    if (--waiters->count > 0)
        sink(waiters, waiters->heap[waiters->count]);
    return first;
}
