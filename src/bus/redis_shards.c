/* redis_shards.c - several independent servers, one list: rooms go to a server by its place in the list, so
 * two chatd servers with different lists would each have a part of the others' rooms for themselves.
 *
 * The first one to come writes the list and the shard's place in it to each shard; who finds another one on
 * any of them sends nothing to all of them and says so, until it is corrected. A single server is a list of
 * one, without its address: that may be written in several ways, and sentinels may know it by another one.
 * A cluster has no list; who takes one of its nodes for a single server finds out by this. */
#include <stdio.h>
#include <string.h>

#include "chatd/log.h"
#include "redis_args.h"
#include "redis_bus.h"

static const char KEY[] = "chatd:{0}:shards"; /* on each shard; in a cluster, of the first partition */

static void add_address(struct buf *out, const struct redis_address *address)
{
    buf_printf(out, address->host[0] == '/' ? "%s" : "%s:%d", address->host, address->port);
}

static void add_list(struct buf *out, const struct bus_redis *b, unsigned partition)
{
    if (b->target.form == REDIS_CLUSTER) {
        buf_add_literal(out, "cluster");
        return;
    }
    buf_printf(out, "%u of ", partition + 1);
    if (b->partition_count == 1)
        buf_add_literal(out, "1");
    for (unsigned i = 0; b->partition_count > 1 && i < b->target.count; i++) {
        if (i > 0)
            buf_add_literal(out, ",");
        add_address(out, &b->target.servers[i]);
    }
}

static void compare(struct bus_redis *b, unsigned partition, struct text there)
{
    struct redis_partition *p = &b->partitions[partition];
    struct buf here = BUF_INIT;

    add_list(&here, b, partition);
    p->differs = here.length != there.length || memcmp(here.data, there.data, there.length) != 0;
    if (p->differs && !p->told)
        log_error("redis_shards_differ", "here=%.*s there=%.*s hint=%s", (int)here.length, here.data,
                  (int)there.length, there.data,
                  "all servers need the same list in the same order; to change it, stop all of them and "
                  "delete chatd:{0}:shards on each shard");
    if (!p->differs && p->told)
        log_info("redis_shards_agree", "here=%.*s", (int)here.length, here.data);
    p->told = p->differs;
    b->shards_differ = false;
    for (unsigned i = 0; i < b->partition_count; i++)
        b->shards_differ = b->shards_differ || b->partitions[i].told;
    buf_deinit(&here);
}

static void on_list(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct redis_partition *p = arg;

    (void)life;
    if (result == REDIS_ANSWERED && reply->type == REDIS_REPLY_STRING)
        compare(p->b, (unsigned)(p - p->b->partitions), (struct text){reply->str, reply->len});
}

/* Asked by two commands of one connection, so the second one sees what the first one did. */
static void ask(struct bus_redis *b, unsigned partition)
{
    struct redis_call call = {.partition = partition, .script = -1, .life_argument = -1,
                              .done = redis_bus_ignore};
    struct buf list = BUF_INIT;
    struct redis_args args;

    add_list(&list, b, partition);
    redis_args_init(&args);
    redis_args_word(&args, "SET");
    redis_args_word(&args, KEY);
    redis_args_text(&args, (struct text){list.data, list.length});
    redis_args_word(&args, "NX");
    if (redis_args_call(&args, b->client, &call)) {
        call.done = on_list;
        call.arg = &b->partitions[partition];
        redis_args_init(&args);
        redis_args_word(&args, "GET");
        redis_args_word(&args, KEY);
        /* No place: redis_shards_tick asks again. */
        (void)!redis_args_call(&args, b->client, &call);
    }
    buf_deinit(&list);
}

/* A single server, or a cluster, is used until it is known to be another's: it hardly ever is. */
void redis_shards_new(struct bus_redis *b)
{
    for (unsigned i = 0; i < b->partition_count && b->target.form == REDIS_SHARDS; i++)
        b->partitions[i].differs = true;
}

void redis_shards_check(struct bus_redis *b, unsigned partition)
{
    if (b->target.form != REDIS_CLUSTER || partition == 0)
        ask(b, partition);
}

void redis_shards_tick(struct bus_redis *b)
{
    for (unsigned i = 0; i < b->partition_count; i++)
        if (b->partitions[i].differs && redis_client_life(b->client, i) != 0)
            ask(b, i);
}

void redis_shards_health(const struct bus_redis *b, char *error, size_t size)
{
    error[0] = 0;
    for (unsigned i = 0; i < b->partition_count; i++) {
        if (b->partitions[i].told) {
            snprintf(error, size, "shard %u belongs to another list of shards: see chatd:{0}:shards there",
                     i + 1);
            return;
        }
    }
}
