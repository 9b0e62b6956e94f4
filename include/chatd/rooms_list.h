/* rooms_list.h - the list of rooms that the `rooms` command and GET /api/rooms answer with. Loop thread only.
 * */
#ifndef CHATD_ROOMS_LIST_H
#define CHATD_ROOMS_LIST_H

#include <stddef.h>

#include "chatd/bus.h"
#include "chatd/store.h"

enum { ROOMS_LIST_MAX = 1000 };

/* Hands `done` the JSON array `[{"room":"general","members":13,"seq":58},…]`, borrowed for the call: the
 * rooms that the bus knows, those with members first, then those that only the store has, latest activity
 * first; no room twice, at most ROOMS_LIST_MAX. `seq` is the higher of the two numbers. While the store
 * can't be read the list has the bus's rooms, and the other way round.
 *
 * `done` is called exactly once, from the loop, never before rooms_list returns. The bus is asked once the
 * store has answered, and so has to live as long as the store still owes answers. */
void rooms_list(struct bus *bus, struct store *store,
                void (*done)(void *arg, const char *json, size_t length), void *arg);

#endif
