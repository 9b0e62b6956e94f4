/* redis_channel.c - the rooms with members here: their subscriptions, and what arrives on their channels.
 *
 * A subscription is two steps. The channel first, and only when Redis has confirmed it the room's number
 * (peek): so each later record either is in that number or comes through the channel. After a loss of the
 * channel the same again, and the room is told that it may have missed something. */
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "redis_args.h"
#include "redis_bus.h"

enum { BLOCK_BITS = 20 };

struct redis_peek {
    struct bus_redis *b;
    struct redis_room *room; /* NULL: its answer is of no use any more */
};

static void drop_peek(struct redis_room *room)
{
    if (room->peek)
        room->peek->room = NULL;
    room->peek = NULL;
}

static void remove_room(struct redis_room *room)
{
    struct bus_redis *b = room->bus;
    struct buf channel = BUF_INIT;

    redis_bus_channel(b, &channel, room->partition, redis_room_name(room));
    redis_subscriber_remove(b->subscriber, (struct text){channel.data, channel.length});
    buf_deinit(&channel);
    HASH_DEL(b->rooms, room);
    redis_bus_not_later(&room->patience);
    drop_peek(room);
    redis_presence_forget(room);
    free(room);
}

/* Not subscribed: the room is gone before its caller hears of it, who may try again from inside. */
static void fail(struct redis_room *room, enum bus_status status)
{
    bus_on_subscribed *done = room->done;
    void *arg = room->arg;

    remove_room(room);
    if (done)
        done(arg, status, 0);
}

static void live(struct redis_room *room, uint64_t seq)
{
    bus_on_subscribed *done = room->done;

    if (room->seen < seq)
        room->seen = seq;
    if (!done)
        return;
    redis_bus_not_later(&room->patience);
    room->done = NULL;
    room->subscribed = true;
    done(room->arg, BUS_OK, room->seen);
}

static void on_peeked(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct redis_peek *peek = arg;
    struct redis_room *room = peek->room;

    (void)life;
    free(peek);
    if (!room)
        return;
    room->peek = NULL;
    if (result != REDIS_ANSWERED || room->bus->ending) {
        if (!room->subscribed)
            fail(room, BUS_FAILED);
    } else if (reply->type == REDIS_REPLY_ARRAY && redis_reply_number(reply, 0) == BUS_OK) {
        redis_presence_count(room, (uint32_t)redis_reply_number(reply, 2), redis_reply_number(reply, 3));
        live(room, redis_reply_number(reply, 1));
    } else if (!room->subscribed) {
        fail(room, BUS_NOT_OPEN);
    }
}

/* False: no place. */
static bool peek(struct redis_room *room)
{
    struct bus_redis *b = room->bus;
    struct text name = redis_room_name(room);
    struct redis_peek *peek = malloc(sizeof(*peek));
    struct redis_call call = {.partition = room->partition, .room = name, .script = SCRIPT_PEEK, .keys = 2,
                              .life_argument = 2, .done = on_peeked, .arg = peek};
    struct redis_args args;

    if (!peek)
        abort();
    *peek = (struct redis_peek){b, room};
    redis_args_init(&args);
    redis_args_key(&args, room->partition, "room", name);
    redis_args_key(&args, room->partition, "members", name);
    redis_args_text(&args, REDIS_BUS_LIFE);
    if (!redis_args_call(&args, b->client, &call)) {
        free(peek);
        return false;
    }
    drop_peek(room);
    room->peek = peek;
    return true;
}

static void on_out_of_patience(struct redis_later *later)
{
    struct redis_room *room =
        (struct redis_room *)((char *)later - offsetof(struct redis_room, patience));

    fail(room, BUS_FAILED);
}

void redis_subscribe(struct bus *bus, struct text name, bus_on_subscribed *done, void *arg)
{
    struct bus_redis *b = bus_redis_self(bus);
    unsigned partition = redis_bus_partition(b, name);
    struct buf channel = BUF_INIT;
    struct redis_room *room;

    if (b->ending || !redis_bus_usable(b, partition)) {
        done(arg, BUS_FAILED, 0);
        return;
    }
    room = calloc(1, sizeof(*room) + name.length);
    if (!room)
        abort();
    room->bus = b;
    room->partition = partition;
    room->done = done;
    room->arg = arg;
    room->name_length = name.length;
    memcpy(room->name, name.data, name.length);
    HASH_ADD_KEYPTR(hh, b->rooms, room->name, room->name_length, room);
    redis_bus_later(b, &room->patience, clock_monotonic_ms() + REDIS_CLIENT_PATIENCE_MS, on_out_of_patience);
    redis_bus_channel(b, &channel, partition, name);
    redis_subscriber_add(b->subscriber, partition, (struct text){channel.data, channel.length}, room);
    buf_deinit(&channel);
}

void redis_unsubscribe(struct bus *bus, struct text name)
{
    struct redis_room *room = redis_bus_room(bus_redis_self(bus), name);

    if (room)
        fail(room, BUS_FAILED);
}

/* A channel of no room on each server, so that a server that doesn't let us listen is noticed before anybody
 * joins, and for as long as it doesn't, though joins fail and give up theirs. The nodes of a cluster have the
 * same users: there one is enough. */
void redis_channel_new(struct bus_redis *b)
{
    unsigned count = b->target.form == REDIS_CLUSTER ? 1 : b->partition_count;

    for (unsigned i = 0; i < count; i++) {
        struct buf channel = BUF_INIT;

        redis_bus_channel(b, &channel, i, (struct text){"", 0});
        redis_subscriber_add(b->subscriber, i, (struct text){channel.data, channel.length}, NULL);
        buf_deinit(&channel);
    }
}

/* --- What arrives on channels --- */

/* Digits up to a space; `at` moves behind it. */
static bool take_number(struct text payload, size_t *at, uint64_t *number)
{
    size_t start = *at;

    for (*number = 0; *at < payload.length && *at - start < 19; (*at)++) {
        char c = payload.data[*at];

        if (c == ' ' && *at > start) {
            (*at)++;
            return true;
        }
        if (c < '0' || c > '9')
            return false;
        *number = *number * 10 + (uint64_t)(c - '0');
    }
    return false;
}

static void note_number(struct redis_room *room, uint64_t seq)
{
    /* Blocks are jumped to when a room is opened anew. One that is filled goes on in the next without a
     * jump. With nothing heard before there is no telling. */
    if (room->seen > 0 && seq > room->seen + 1 && seq >> BLOCK_BITS > room->seen >> BLOCK_BITS)
        room->opened = seq;
    if (seq > room->seen)
        room->seen = seq;
}

static bool take_message(struct redis_room *room, struct text payload)
{
    const struct bus_handler *handler = &room->bus->bus.handler;
    struct message message = {.room = redis_room_name(room)};
    size_t at = 1;

    if (!take_number(payload, &at, &message.seq) || message.seq == 0)
        return false;
    message.previous = message.seq - 1;
    message.event = redis_payload_event(payload, &message.received_us);
    note_number(room, message.seq);
    handler->on_record(handler->arg, &message);
    return true;
}

static bool take_event(struct redis_room *room, struct text payload)
{
    const struct bus_handler *handler = &room->bus->bus.handler;
    uint64_t version, members, length;
    struct text user, event;
    size_t at = 1;

    if (!take_number(payload, &at, &version) || !take_number(payload, &at, &members) ||
        !take_number(payload, &at, &length) || length > payload.length - at)
        return false;
    user = (struct text){payload.data + at, length};
    event = (struct text){payload.data + at + length, payload.length - at - length};
    redis_presence_count(room, (uint32_t)members, version);
    handler->on_event(handler->arg, redis_room_name(room), user, event);
    return true;
}

void redis_channel_message(void *arg, void *channel, struct text payload)
{
    struct bus_redis *b = arg;
    struct redis_room *room = channel;
    char kind = payload.length > 0 ? payload.data[0] : 0;

    if (b->ending || !room)
        return;
    if (!(kind == 'm' ? take_message(room, payload) : kind == 'e' && take_event(room, payload)))
        redis_bus_odd(b, "payload", redis_room_name(room));
}

void redis_channel_subscribed(void *arg, void *channel, bool again)
{
    struct bus_redis *b = arg;
    struct redis_room *room = channel;

    if (b->ending || !room)
        return;
    if (again && room->subscribed)
        room->lost = b->any_lost = true;
    /* A room that is live does without: its count comes with the next event. */
    if (!peek(room) && !room->subscribed)
        fail(room, BUS_FAILED);
}

/* --- What may have been missed --- */

/* Handlers may give up any room, so names are gathered first. */
static void gather_lost(struct bus_redis *b, struct buf *names)
{
    struct redis_room *room, *next;

    HASH_ITER(hh, b->rooms, room, next) {
        if (room->subscribed && (room->lost || b->partitions[room->partition].lost)) {
            buf_add(names, &room->name_length, sizeof(room->name_length));
            buf_add(names, room->name, room->name_length);
        }
        room->lost = false;
    }
    for (unsigned i = 0; i < b->partition_count; i++)
        b->partitions[i].lost = false;
}

void redis_channel_turn(struct bus_redis *b)
{
    const struct bus_handler *handler = &b->bus.handler;
    struct buf names = BUF_INIT;

    if (!b->any_lost)
        return;
    b->any_lost = false;
    gather_lost(b, &names);
    for (size_t at = 0; at < names.length;) {
        struct text name = {NULL, 0};
        const struct redis_room *room;

        memcpy(&name.length, names.data + at, sizeof(name.length));
        name.data = names.data + at + sizeof(name.length);
        at += sizeof(name.length) + name.length;
        room = redis_bus_room(b, name);
        if (room && room->subscribed)
            handler->on_lost(handler->arg, name);
    }
    buf_deinit(&names);
}

void redis_channel_close(struct bus_redis *b)
{
    struct redis_room *room, *next;

    HASH_ITER(hh, b->rooms, room, next)
        fail(room, BUS_FAILED);
}
