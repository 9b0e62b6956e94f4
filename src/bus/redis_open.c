/* redis_open.c - a room that Redis doesn't know in its present life gets a block of numbers of its own
 * (rule 2).
 *
 * After a change of life that waits for failover_grace: who numbered messages before goes on committing
 * them until it notices the new life, and a room that is open again already would let members pass over
 * those. A worker that sees its first life can't know whether there was another a moment ago. It waits as
 * well if there is any trace of one: the store knows the room (an absent one was lost, or nobody spoke
 * there for a week), or the room is there from another life. A room that nobody knows is opened at once:
 * the wait would be for numbers of which there is no sign, and each new room would pay for it after every
 * start.
 *
 * A Redis that is emptied keeps its life. Who opens the first room after that notices it, and all who open
 * one wait from then on as after a change of life; see open.lua.
 *
 * The script is asked twice if it has to wait, and whenever the life changes in between. */
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "redis_args.h"
#include "redis_bus.h"

enum { AGAIN_MS = 1000 }; /* between two times that a partition's users are entered again for this */

struct opening {
    struct redis_later later;
    struct bus_redis *b;
    void (*done)(void *arg, enum bus_status status);
    void *arg;
    uint64_t highest;
    int64_t until_ms; /* then it has failed */
    unsigned partition;
    bool traced;        /* there may be numbers on their way to the store */
    size_t life_length; /* 0: it isn't known yet */
    char life[REDIS_LIFE_SIZE];
    size_t room_length;
    char room[];
};

static void finish(struct opening *o, enum bus_status status)
{
    void (*done)(void *arg, enum bus_status status) = o->done;
    void *arg = o->arg;

    free(o);
    done(arg, status);
}

static void ask(struct opening *o);

static void on_due(struct redis_later *later)
{
    ask((struct opening *)later);
}

/* `left`: what Redis says that is to be waited for, whoever saw its life begin. */
static void wait(struct opening *o, bool known_from_another_life, int64_t left)
{
    const struct bus_redis *b = o->b;
    int64_t now = clock_monotonic_ms();
    int64_t due = redis_client_life_since_ms(b->client, o->partition) + b->config->failover_grace;

    if (due < now + left)
        due = now + left;
    o->traced = b->partitions[o->partition].changed || known_from_another_life || o->highest > 0;
    if (now >= o->until_ms)
        finish(o, BUS_FAILED);
    else if (due > now && o->traced)
        redis_bus_later(o->b, &o->later, due, on_due);
    else
        ask(o);
}

/* A room that this worker heard numbers of isn't there any more, though the life goes on: everything may
 * be gone (FLUSHALL), its members too. */
static void note_gone(struct opening *o)
{
    const struct redis_room *here = redis_bus_room(o->b, (struct text){o->room, o->room_length});
    struct redis_partition *p = &o->b->partitions[o->partition];
    int64_t now = clock_monotonic_ms();

    if (!here || here->seen == 0 || (p->again_ms != 0 && now - p->again_ms < AGAIN_MS))
        return;
    p->again_ms = now;
    redis_presence_again(o->b, o->partition);
}

static void on_answer(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct opening *o = arg;
    struct text name = redis_reply_text(reply, 1);

    (void)life;
    if (result != REDIS_ANSWERED || o->b->ending) {
        finish(o, result == REDIS_FULL ? BUS_FULL : BUS_FAILED);
    } else if (reply->type == REDIS_REPLY_ARRAY && redis_reply_number(reply, 0) == BUS_OK) {
        finish(o, BUS_OK);
    } else if (name.length == sizeof(o->life)) {
        memcpy(o->life, name.data, name.length);
        o->life_length = name.length;
        note_gone(o);
        wait(o, redis_reply_number(reply, 2) == 1, (int64_t)redis_reply_number(reply, 3));
    } else {
        redis_bus_odd(o->b, "answer of open", (struct text){o->room, o->room_length});
        finish(o, BUS_FAILED);
    }
}

static void ask(struct opening *o)
{
    struct text room = {o->room, o->room_length};
    struct redis_call call = {.partition = o->partition, .room = room, .script = SCRIPT_OPEN, .keys = 2,
                              .life_argument = 2, .done = on_answer, .arg = o};
    struct redis_args args;

    if (o->b->ending || !redis_bus_usable(o->b, o->partition)) {
        finish(o, BUS_FAILED);
        return;
    }
    redis_args_init(&args);
    redis_args_key(&args, o->partition, "room", room);
    redis_args_key(&args, o->partition, "since", (struct text){NULL, 0});
    redis_args_text(&args, REDIS_BUS_LIFE);
    redis_args_text(&args, (struct text){o->life, o->life_length});
    redis_args_number(&args, (int64_t)o->highest);
    redis_args_number(&args, REDIS_ROOM_TTL_MS + o->b->config->retry_window);
    redis_args_number(&args, o->b->config->failover_grace);
    redis_args_word(&args, o->traced ? "1" : "0");
    if (!redis_args_call(&args, o->b->client, &call))
        finish(o, BUS_FULL);
}

void redis_open(struct bus *bus, struct text room, uint64_t highest,
                void (*done)(void *arg, enum bus_status status), void *arg)
{
    struct bus_redis *b = bus_redis_self(bus);
    const struct redis_room *here = redis_bus_room(b, room);
    struct opening *o = calloc(1, sizeof(*o) + room.length);

    if (!o)
        abort();
    o->b = b;
    o->done = done;
    o->arg = arg;
    o->highest = here && here->seen > highest ? here->seen : highest;
    o->until_ms = clock_monotonic_ms() + b->config->failover_grace + REDIS_CLIENT_PATIENCE_MS;
    o->partition = redis_bus_partition(b, room);
    o->room_length = room.length;
    memcpy(o->room, room.data, room.length);
    ask(o);
}
