/* opening.c - making a room known to the bus (rule 2): the store is asked for its highest number, once per
 * room however many wait for it. After a failover of Redis that is every room that anybody writes to or
 * joins. */
#include <stdlib.h>
#include <string.h>

#include "core.h"

struct waiter {
    struct waiter *next;
    opening_on_done *done;
    void *arg;
};

struct opening {
    UT_hash_handle hh;
    struct chat *chat;
    struct waiter *waiters, **waiters_end;
    size_t name_length;
    char name[];
};

static void finish(struct opening *opening, enum store_status status)
{
    struct waiter *waiter = opening->waiters;

    /* Whoever finds the room forgotten again meanwhile opens it anew. */
    HASH_DEL(opening->chat->openings, opening);
    while (waiter) {
        struct waiter *next = waiter->next;

        waiter->done(waiter->arg, status);
        free(waiter);
        waiter = next;
    }
    free(opening);
}

static void on_opened(void *arg, enum bus_status status)
{
    finish(arg, status_of_bus(status));
}

static void on_highest(void *arg, enum store_status status, uint64_t highest)
{
    struct opening *opening = arg;
    struct text name = {opening->name, opening->name_length};
    const struct room *room = room_find(opening->chat, name);

    if (status != STORE_OK && status != STORE_NONE) {
        finish(opening, status);
        return;
    }
    if (status == STORE_NONE)
        highest = 0;
    /* Members here may have been given numbers that the store hasn't got yet: those aren't given again. */
    if (room && room->seen > highest)
        highest = room->seen;
    bus_open(opening->chat->bus, name, highest, on_opened, opening);
}

static struct opening *opening_new(struct chat *chat, struct text name)
{
    struct opening *opening = calloc(1, sizeof(*opening) + name.length);

    if (!opening)
        abort();
    opening->chat = chat;
    opening->waiters_end = &opening->waiters;
    opening->name_length = name.length;
    memcpy(opening->name, name.data, name.length);
    HASH_ADD_KEYPTR(hh, chat->openings, opening->name, opening->name_length, opening);
    return opening;
}

void opening_start(struct chat *chat, struct text name, opening_on_done *done, void *arg)
{
    struct waiter *waiter = malloc(sizeof(*waiter));
    struct opening *opening;
    bool first;

    if (!waiter)
        abort();
    *waiter = (struct waiter){NULL, done, arg};
    HASH_FIND(hh, chat->openings, name.data, name.length, opening);
    first = !opening;
    if (first)
        opening = opening_new(chat, name);
    *opening->waiters_end = waiter;
    opening->waiters_end = &waiter->next;
    if (first)
        store_highest(chat->store, name, on_highest, opening);
}
