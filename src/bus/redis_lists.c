/* redis_lists.c - what is asked about rooms: the names of members, the list of rooms, the counts of large
 * rooms.
 *
 * A list of rooms is made of one answer per partition, of which a cluster has REDIS_CLUSTER_PARTITIONS. So
 * it is kept for LISTS_FRESH_MS, and whoever asks while one is being made gets that one. */
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "redis_args.h"
#include "redis_bus.h"

enum { LISTS_FRESH_MS = 1000 };

struct listed_room {
    uint32_t members;
    uint32_t length;
    size_t offset; /* of its name in `names` */
    uint64_t seq;
};

struct rooms_waiter {
    struct rooms_waiter *next;
    uint32_t limit;
    bus_on_rooms *done;
    void *arg;
};

struct redis_lists {
    struct listed_room *rooms; /* once `open` is 0: those with the most members first */
    uint32_t count, capacity;
    struct buf names;
    uint32_t limit;  /* for which the list was made */
    int64_t made_ms; /* 0: never */
    unsigned open;   /* partitions that have not answered yet */
    struct rooms_waiter *waiters;
};

void redis_lists_new(struct bus_redis *b)
{
    b->lists = calloc(1, sizeof(*b->lists));
    if (!b->lists)
        abort();
}

void redis_lists_free(struct bus_redis *b)
{
    free(b->lists->rooms);
    buf_deinit(&b->lists->names);
    free(b->lists);
    b->lists = NULL;
}

/* --- Members of a room --- */

struct asked {
    struct bus_redis *bus;
    /* NULL: the count is for here */
    void (*done)(void *arg, uint32_t count, const struct text *users, uint32_t listed);
    void *arg;
    size_t length;
    char room[];
};

static void on_members(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct asked *asked = arg;
    bool answered = result == REDIS_ANSWERED && reply->elements >= 2 && !asked->bus->ending;
    uint32_t listed = answered ? (uint32_t)reply->elements - 2 : 0;
    uint32_t count = answered ? (uint32_t)redis_reply_number(reply, 0) : 0;
    struct text *users = malloc((listed > 0 ? listed : 1) * sizeof(*users));

    (void)life;
    if (!users)
        abort();
    for (uint32_t i = 0; i < listed; i++)
        users[i] = redis_reply_text(reply, i + 2);
    if (answered)
        redis_presence_count(redis_bus_room(asked->bus, (struct text){asked->room, asked->length}), count,
                             redis_reply_number(reply, 1));
    if (asked->done)
        asked->done(asked->arg, count, users, listed);
    free(users);
    free(asked);
}

/* False: no place. */
static bool ask(struct bus_redis *b, struct text room, uint32_t limit,
                void (*done)(void *arg, uint32_t count, const struct text *users, uint32_t listed), void *arg)
{
    struct asked *asked = malloc(sizeof(*asked) + room.length);
    unsigned partition = redis_bus_partition(b, room);
    struct redis_call call = {.partition = partition, .room = room, .script = SCRIPT_MEMBERS, .keys = 1,
                              .life_argument = -1, .done = on_members, .arg = asked};
    struct redis_args args;

    if (!asked)
        abort();
    asked->bus = b;
    asked->done = done;
    asked->arg = arg;
    asked->length = room.length;
    memcpy(asked->room, room.data, room.length);
    redis_args_init(&args);
    redis_args_key(&args, partition, "members", room);
    redis_args_number(&args, limit);
    if (redis_args_send(&args, b, &call))
        return true;
    free(asked);
    return false;
}

void redis_members(struct bus *bus, struct text room, uint32_t limit,
                   void (*done)(void *arg, uint32_t count, const struct text *users, uint32_t listed),
                   void *arg)
{
    if (bus_redis_self(bus)->ending || !ask(bus_redis_self(bus), room, limit, done, arg))
        done(arg, 0, NULL, 0);
}

/* Of a large room no event tells the count (presence_limit): it is asked for, so that it costs something
 * for each room and worker, and nothing for each user. At the limit already, since the next one to come
 * isn't told. */
void redis_lists_tick(struct bus_redis *b)
{
    for (struct redis_room *room = b->rooms; room; room = room->hh.next) {
        bool large = room->subscribed && room->members >= b->config->presence_limit;

        if (large && redis_client_life(b->client, room->partition) != 0 &&
            !ask(b, redis_room_name(room), 0, NULL, NULL))
            return;
    }
}

/* --- All rooms --- */

static int by_members(const void *a, const void *b)
{
    const struct listed_room *x = a, *y = b;

    if (x->members != y->members)
        return x->members < y->members ? 1 : -1;
    return x->seq < y->seq ? 1 : x->seq > y->seq ? -1 : 0;
}

static void answer_rooms(struct redis_lists *lists, uint32_t limit, bus_on_rooms *done, void *arg)
{
    uint32_t count = lists->count < limit ? lists->count : limit;
    struct bus_room *rooms = calloc(count > 0 ? count : 1, sizeof(*rooms));

    if (!rooms)
        abort();
    for (uint32_t i = 0; i < count; i++) {
        const struct listed_room *l = &lists->rooms[i];

        rooms[i] = (struct bus_room){{lists->names.data + l->offset, l->length}, l->members, l->seq};
    }
    done(arg, rooms, count);
    free(rooms);
}

/* One partition is through. After the last one everybody is answered: `made_ms` is set first, so whoever
 * asks again from inside gets this list. */
static void partition_done(struct redis_lists *lists)
{
    if (--lists->open > 0)
        return;
    if (lists->count > 0)
        qsort(lists->rooms, lists->count, sizeof(*lists->rooms), by_members);
    lists->made_ms = clock_monotonic_ms();
    while (lists->waiters) {
        struct rooms_waiter *waiter = lists->waiters;

        lists->waiters = waiter->next;
        answer_rooms(lists, waiter->limit, waiter->done, waiter->arg);
        free(waiter);
    }
}

static void on_rooms(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct redis_lists *lists = arg;

    (void)life;
    for (size_t i = 0; result == REDIS_ANSWERED && i + 2 < reply->elements; i += 3) {
        struct text name = redis_reply_text(reply, i);

        if (lists->count == lists->capacity) {
            lists->capacity = lists->capacity > 0 ? lists->capacity * 2 : 64;
            lists->rooms = realloc(lists->rooms, lists->capacity * sizeof(*lists->rooms));
            if (!lists->rooms)
                abort();
        }
        lists->rooms[lists->count++] =
            (struct listed_room){(uint32_t)redis_reply_number(reply, i + 1), (uint32_t)name.length,
                                 lists->names.length, redis_reply_number(reply, i + 2)};
        buf_add(&lists->names, name.data, name.length);
    }
    partition_done(lists);
}

/* Rooms are spread evenly, so each partition has about its share of those with the most members; with a
 * margin of more than eight standard deviations nobody's list is another for not asking each of them for
 * all. */
static uint32_t share_of(uint32_t limit, unsigned partitions)
{
    uint32_t share = limit / partitions, margin = 1;

    while (margin * margin < share)
        margin++;
    share += 8 * margin + 16;
    return share < limit ? share : limit;
}

static void ask_partition(struct bus_redis *b, unsigned partition, uint32_t share)
{
    struct redis_call call = {.partition = partition, .script = SCRIPT_ROOMS, .keys = 1, .life_argument = -1,
                              .done = on_rooms, .arg = b->lists};
    struct redis_args args;

    redis_args_init(&args);
    redis_args_key(&args, partition, "active", (struct text){NULL, 0});
    /* No key: what room names are put behind. */
    redis_args_key(&args, partition, "room", (struct text){NULL, 0});
    redis_args_number(&args, share);
    if (!redis_args_send(&args, b, &call))
        partition_done(b->lists);
}

void redis_rooms(struct bus *bus, uint32_t limit, bus_on_rooms *done, void *arg)
{
    struct bus_redis *b = bus_redis_self(bus);
    struct redis_lists *lists = b->lists;
    unsigned partitions = redis_topology_partitions(&b->target);
    struct rooms_waiter *waiter, **end = &lists->waiters;

    if (lists->open == 0 && lists->made_ms > 0 && clock_monotonic_ms() - lists->made_ms < LISTS_FRESH_MS &&
        lists->limit >= limit) {
        answer_rooms(lists, limit, done, arg);
        return;
    }
    waiter = malloc(sizeof(*waiter));
    if (!waiter)
        abort();
    *waiter = (struct rooms_waiter){NULL, limit, done, arg};
    while (*end)
        end = &(*end)->next;
    *end = waiter;
    if (lists->open > 0)
        return;
    lists->count = 0;
    lists->names.length = 0;
    lists->limit = limit;
    lists->open = partitions;
    for (unsigned i = 0; i < partitions; i++)
        ask_partition(b, i, share_of(limit, partitions));
}
