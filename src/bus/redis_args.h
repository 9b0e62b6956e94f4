/* redis_args.h - the arguments of one call to redis_client, put together.
 *
 * Keys and numbers are written into the caller's struct, texts stay where they are and have to live until
 * redis_args_call: it copies them. */
#ifndef CHATD_BUS_REDIS_ARGS_H
#define CHATD_BUS_REDIS_ARGS_H

#include "redis_client.h"
#include "redis_keys.h"

struct bus_redis;

enum { REDIS_ARGS_MAX = 256, REDIS_ARGS_BYTES = 1024 };

struct redis_args {
    int count;
    struct buf bytes; /* of REDIS_ARGS_BYTES, so that it never moves */
    struct text texts[REDIS_ARGS_MAX];
};

void redis_args_init(struct redis_args *args);
void redis_args_text(struct redis_args *args, struct text text);
void redis_args_word(struct redis_args *args, const char *word);
void redis_args_number(struct redis_args *args, int64_t number);
void redis_args_key(struct redis_args *args, unsigned partition, const char *kind, struct text name);

/* Queues the call with these as its argv, and frees them. False: no place, as redis_client_call. */
bool redis_args_call(struct redis_args *args, struct redis_client *client, struct redis_call *call)
    __attribute__((warn_unused_result));

/* The same if the partition is usable (redis_bus_usable); false if it isn't. */
bool redis_args_send(struct redis_args *args, const struct bus_redis *b, struct redis_call *call)
    __attribute__((warn_unused_result));

/* The element at `index` of an array reply: a text, empty if it is none; a number, in either form, 0 if it
 * is none. */
struct text redis_reply_text(const redisReply *reply, size_t index);
uint64_t redis_reply_number(const redisReply *reply, size_t index);

#endif
