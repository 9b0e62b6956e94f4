/* redis_args.c - see redis_args.h */
#include "redis_args.h"

#include <stdlib.h>
#include <string.h>

#include "redis_bus.h"

void redis_args_init(struct redis_args *args)
{
    args->count = 0;
    args->bytes = (struct buf)BUF_INIT;
    buf_reserve(&args->bytes, REDIS_ARGS_BYTES);
}

void redis_args_text(struct redis_args *args, struct text text)
{
    if (args->count == REDIS_ARGS_MAX)
        abort(); /* each caller knows how many it has */
    args->texts[args->count++] = text;
}

void redis_args_word(struct redis_args *args, const char *word)
{
    redis_args_text(args, (struct text){word, strlen(word)});
}

/* What was written behind `start` is an argument. Names are bounded, so a few of them always fit. */
static void add_written(struct redis_args *args, size_t start)
{
    if (args->bytes.length > REDIS_ARGS_BYTES)
        abort();
    redis_args_text(args, (struct text){args->bytes.data + start, args->bytes.length - start});
}

void redis_args_number(struct redis_args *args, int64_t number)
{
    size_t start = args->bytes.length;

    buf_printf(&args->bytes, "%lld", (long long)number);
    add_written(args, start);
}

void redis_args_key(struct redis_args *args, unsigned partition, const char *kind, struct text name)
{
    size_t start = args->bytes.length;

    redis_key(&args->bytes, partition, kind, name);
    add_written(args, start);
}

bool redis_args_call(struct redis_args *args, struct redis_client *client, struct redis_call *call)
{
    bool placed;

    call->argv = args->texts;
    call->argc = args->count;
    placed = redis_client_call(client, call);
    buf_deinit(&args->bytes);
    return placed;
}

bool redis_args_send(struct redis_args *args, const struct bus_redis *b, struct redis_call *call)
{
    if (redis_bus_usable(b, call->partition))
        return redis_args_call(args, b->client, call);
    buf_deinit(&args->bytes);
    return false;
}

static const redisReply *element(const redisReply *reply, size_t index)
{
    if (!reply || reply->type != REDIS_REPLY_ARRAY || index >= reply->elements)
        return NULL;
    return reply->element[index];
}

struct text redis_reply_text(const redisReply *reply, size_t index)
{
    const redisReply *e = element(reply, index);

    return e && e->type == REDIS_REPLY_STRING ? (struct text){e->str, e->len} : (struct text){"", 0};
}

uint64_t redis_reply_number(const redisReply *reply, size_t index)
{
    const redisReply *e = element(reply, index);

    if (e && e->type == REDIS_REPLY_INTEGER)
        return e->integer > 0 ? (uint64_t)e->integer : 0;
    return e && e->type == REDIS_REPLY_STRING ? strtoull(e->str, NULL, 10) : 0;
}
