/* redis_retention.c - what the store's retention wants of Redis: the window forgets what the store deletes,
 * and nobody's room is deleted under them. */
#include <stdlib.h>
#include <string.h>

#include "redis_args.h"
#include "redis_bus.h"

enum { FORGET_RECORDS = 500 }; /* at a time: well below a millisecond of Redis */

struct forgetting {
    struct bus_redis *b;
    bus_redis_on_forgot *done;
    void *arg;
    uint64_t upto;
    size_t length;
    char room[];
};

static void ask(struct forgetting *f);

static void finish(struct forgetting *f, bool ok, uint32_t members)
{
    f->done(f->arg, ok, members);
    free(f);
}

static void on_answer(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct forgetting *f = arg;

    (void)life;
    if (result != REDIS_ANSWERED || reply->type != REDIS_REPLY_ARRAY)
        finish(f, false, 0);
    else if (redis_reply_number(reply, 1) != 0)
        ask(f);
    else
        finish(f, true, (uint32_t)redis_reply_number(reply, 0));
}

static void ask(struct forgetting *f)
{
    struct text room = {f->room, f->length};
    unsigned partition = redis_bus_partition(f->b, room);
    struct redis_call call = {.partition = partition, .room = room, .script = SCRIPT_FORGET, .keys = 2,
                              .life_argument = -1, .done = on_answer, .arg = f};
    struct redis_args args;

    if (f->b->ending) {
        finish(f, false, 0);
        return;
    }
    redis_args_init(&args);
    redis_args_key(&args, partition, "window", room);
    redis_args_key(&args, partition, "members", room);
    redis_args_number(&args, (int64_t)f->upto);
    redis_args_number(&args, FORGET_RECORDS);
    if (!redis_args_send(&args, f->b, &call))
        finish(f, false, 0);
}

void bus_redis_forget(void *bus, struct text room, uint64_t upto, bus_redis_on_forgot *done, void *arg)
{
    struct forgetting *f = malloc(sizeof(*f) + room.length);

    if (!f)
        abort();
    *f = (struct forgetting){bus_redis_self(bus), done, arg, upto, room.length};
    memcpy(f->room, room.data, room.length);
    ask(f);
}
