/* redis_orphans.c - messages of dead workers that are not known to be stored: handed up, so that they get
 * there.
 *
 * Until one is settled, or ORPHAN_PATIENCE_MS are over, its partition isn't looked at again: the store is
 * busy with it. */
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "redis_args.h"
#include "redis_sweep.h"

enum {
    ORPHAN_PATIENCE_MS = 10000,
    /* A worker that lives cares for its own messages. But if its word that they are stored got lost,
     * nobody would take them off the list: after so long its life doesn't count, and storing once more
     * does no harm. */
    OWNER_PATIENCE_MS = 10 * REDIS_ORPHAN_MS,
    REPLY_FIELDS = 5, /* of one message, behind one number */
};

struct orphan {
    UT_hash_handle hh;
    unsigned partition;
    int64_t since_ms;
    size_t length;
    char name[]; /* its entry in `pending`: ROOM NUL number */
};

static void orphan_drop(struct redis_sweep *s, struct orphan *orphan)
{
    s->partitions[orphan->partition].under_way--;
    HASH_DEL(s->orphans, orphan);
    free(orphan);
}

void redis_orphans_free(struct redis_sweep *s)
{
    struct orphan *orphan, *next;

    HASH_ITER(hh, s->orphans, orphan, next)
        orphan_drop(s, orphan);
}

void redis_orphans_tick(struct bus_redis *b)
{
    int64_t now = clock_monotonic_ms();
    struct orphan *orphan, *next;

    HASH_ITER(hh, b->sweep->orphans, orphan, next) {
        if (now - orphan->since_ms >= ORPHAN_PATIENCE_MS)
            orphan_drop(b->sweep, orphan);
    }
}

static void entry_name(struct buf *name, struct text room, uint64_t seq)
{
    buf_add(name, room.data, room.length);
    buf_add(name, "", 1);
    buf_add_u64(name, seq);
}

void redis_sweep_settled(struct bus_redis *b, const struct message *message)
{
    struct redis_sweep *s = b->sweep;
    struct buf name = BUF_INIT;
    struct orphan *orphan;

    if (!s || !s->orphans)
        return;
    entry_name(&name, message->room, message->seq);
    HASH_FIND(hh, s->orphans, name.data, name.length, orphan);
    buf_deinit(&name);
    if (!orphan)
        return;
    metrics_add(orphans_total, 1);
    orphan_drop(s, orphan);
}

/* Before it is handed up: it may be settled from inside. */
static void note(struct bus_redis *b, unsigned partition, const struct message *message)
{
    struct redis_sweep *s = b->sweep;
    struct buf name = BUF_INIT;
    struct orphan *orphan;

    entry_name(&name, message->room, message->seq);
    HASH_FIND(hh, s->orphans, name.data, name.length, orphan);
    if (!orphan) {
        orphan = malloc(sizeof(*orphan) + name.length);
        if (!orphan)
            abort();
        orphan->partition = partition;
        orphan->length = name.length;
        memcpy(orphan->name, name.data, name.length);
        HASH_ADD_KEYPTR(hh, s->orphans, orphan->name, orphan->length, orphan);
        s->partitions[partition].under_way++;
    }
    orphan->since_ms = clock_monotonic_ms();
    buf_deinit(&name);
}

struct orphans_look {
    struct bus_redis *bus;
    unsigned partition;
};

static void hand_up(struct orphans_look *look, const redisReply *reply, size_t at, uint32_t life)
{
    struct bus_redis *b = look->bus;
    struct message message = {.room = redis_reply_text(reply, at), .seq = redis_reply_number(reply, at + 1)};
    struct text header = redis_reply_text(reply, at + 3);
    const redisReply *verdict = reply->element[at + 2];
    bool stands = verdict->type == REDIS_REPLY_INTEGER && verdict->integer == 1;

    if (verdict->type == REDIS_REPLY_INTEGER && verdict->integer < 0) {
        log_error("message_lost", "room=%.*s seq=%llu error=%s", (int)message.room.length, message.room.data,
                  (unsigned long long)message.seq,
                  "its publisher died, and it is no longer in Redis; never acknowledged");
        return;
    }
    if (!redis_header_parse(header, &message)) {
        log_error("redis_entry_bad", "room=%.*s seq=%llu", (int)message.room.length, message.room.data,
                  (unsigned long long)message.seq);
        return;
    }
    message.previous = message.seq - 1;
    message.event = redis_payload_event(redis_reply_text(reply, at + 4), &message.received_us);
    message.position = stands ? life : 0;
    note(b, look->partition, &message);
    if (!stands) /* it gets another number, and is an ordinary message then: nobody settles this one */
        metrics_add(orphans_total, 1);
    b->bus.handler.on_orphan(b->bus.handler.arg, &message, stands);
}

static void on_pending(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct orphans_look *look = arg;
    struct sweep_partition *partition = &look->bus->sweep->partitions[look->partition];
    size_t count = result == REDIS_ANSWERED && reply->elements > 0 ? (reply->elements - 1) / REPLY_FIELDS : 0;

    partition->asked = false;
    if (result == REDIS_ANSWERED)
        partition->skip = (uint32_t)redis_reply_number(reply, 0);
    if (count > 0)
        log_warn("redis_orphans", "partition=%u count=%zu", look->partition, count);
    for (size_t i = 0; i < count && !look->bus->closing; i++)
        hand_up(look, reply, 1 + i * REPLY_FIELDS, life);
    free(look);
}

void redis_orphans_look(struct bus_redis *b, unsigned partition)
{
    struct redis_sweep *s = b->sweep;
    struct sweep_partition *p = &s->partitions[partition];
    struct orphans_look *look;
    struct redis_call call = {.partition = partition, .script = SCRIPT_PENDING, .keys = 1,
                              .done = on_pending};
    struct redis_args args;

    if (p->asked || p->under_way > 0)
        return;
    look = malloc(sizeof(*look));
    if (!look)
        abort();
    *look = (struct orphans_look){b, partition};
    call.arg = look;
    redis_args_init(&args);
    redis_args_key(&args, partition, "pending", (struct text){NULL, 0});
    redis_args_key(&args, partition, "room", (struct text){NULL, 0}); /* no keys: what names are put behind */
    redis_args_key(&args, partition, "window", (struct text){NULL, 0});
    redis_args_number(&args, REDIS_ORPHAN_MS);
    redis_args_number(&args, OWNER_PATIENCE_MS);
    redis_args_number(&args, b->config->window_ttl);
    redis_args_number(&args, p->skip);
    call.life_argument = args.count;
    redis_args_text(&args, REDIS_BUS_LIFE);
    redis_args_text(&args, (struct text){s->prefixes.data, s->prefixes.length});
    p->asked = redis_args_send(&args, b, &call);
    if (!p->asked)
        free(look);
}
