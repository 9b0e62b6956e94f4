/* redis_publish.c - a message gets its number in Redis (publish.lua), and what becomes of it afterwards:
 * settled, or not to be stored under that number any more.
 *
 * A call may be carried out twice, when the answer to the first time was lost with the connection. Each
 * publish has its uid from the beginning, and the script finds it by that (or by the client's key) and
 * gives the first number again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "redis_args.h"
#include "redis_bus.h"

enum {
    KEYS_OF_PUBLISH = 5,
    SETTLE_CHUNK = 1000, /* entries that one command takes off the pending list */
    HEARD_MAX_MS = 1000, /* see bus_redis_stand */
    STAMP_MAX = 24,      /* a number and a space */
};

struct publishing {
    struct bus_redis *b;
    bus_on_published *done;
    void *arg;
    bool (*wanted)(void *arg);
    int64_t received_us;
    uint8_t uid[MESSAGE_UID_SIZE];
    struct text room, user, key, head, tail; /* in data */
    struct text stamped;                     /* time of receipt, a space, head */
    struct text names;                       /* NUL user NUL key */
    char data[];
};

static struct text put(char **to, struct text text)
{
    struct text copy = {*to, text.length};

    if (text.length > 0)
        memcpy(*to, text.data, text.length);
    *to += text.length;
    return copy;
}

static struct publishing *publishing_new(struct bus_redis *b, const struct bus_publish *publish,
                                         bus_on_published *done, void *arg)
{
    const struct text nul = {"", 1};
    size_t texts = publish->room.length + publish->user.length + publish->key.length + publish->head.length +
                   publish->tail.length + 2 + STAMP_MAX;
    struct publishing *p = malloc(sizeof(*p) + texts);
    uint64_t uid[2] = {b->uid_prefix, b->uid_counter};
    char stamp[STAMP_MAX], *to;
    int stamp_length = snprintf(stamp, sizeof(stamp), "%lld ", (long long)publish->received_us);

    if (!p)
        abort();
    *p = (struct publishing){.b = b, .done = done, .arg = arg, .wanted = publish->wanted,
                              .received_us = publish->received_us};
    if (!publish->uid)
        b->uid_counter++;
    memcpy(p->uid, publish->uid ? publish->uid : (const uint8_t *)uid, sizeof(p->uid));
    to = p->data;
    p->room = put(&to, publish->room);
    p->stamped = put(&to, (struct text){stamp, (size_t)stamp_length});
    p->head = put(&to, publish->head);
    p->stamped.length += p->head.length;
    p->tail = put(&to, publish->tail);
    p->names.data = to;
    put(&to, nul);
    p->user = put(&to, publish->user);
    put(&to, nul);
    p->key = put(&to, publish->key);
    p->names.length = (size_t)(to - p->names.data);
    return p;
}

static struct message message_of(const struct publishing *p)
{
    struct message message = {.room = p->room, .user = p->user, .key = p->key};

    memcpy(message.uid, p->uid, sizeof(message.uid));
    return message;
}

static void finish(struct publishing *p, enum bus_status status, const struct message *message)
{
    p->done(p->arg, status, message);
    free(p);
}

static void refuse(struct publishing *p, enum bus_status status)
{
    struct message message = message_of(p);

    finish(p, status, &message);
}

/* The bytes that the script has made of head and tail. */
static struct text compose(struct publishing *p, const struct message *message)
{
    struct buf *out = &p->b->scratch;

    out->length = 0;
    buf_add(out, p->head.data, p->head.length);
    buf_add_u64(out, message->seq);
    buf_add_literal(out, ",\"time\":");
    buf_add_u64(out, (uint64_t)message->time_ms);
    buf_add(out, p->tail.data, p->tail.length);
    return (struct text){out->data, out->length};
}

bool redis_header_parse(struct text header, struct message *message)
{
    const char *end = header.data + header.length, *at = header.data + MESSAGE_UID_SIZE, *names, *key;

    if (header.length < MESSAGE_UID_SIZE)
        return false;
    names = memchr(at, 0, (size_t)(end - at));
    key = names ? memchr(names + 1, 0, (size_t)(end - names - 1)) : NULL;
    if (!key || names == at)
        return false;
    message->time_ms = 0;
    for (; at < names; at++) {
        if (*at < '0' || *at > '9' || message->time_ms > INT64_MAX / 100)
            return false;
        message->time_ms = message->time_ms * 10 + (*at - '0');
    }
    memcpy(message->uid, header.data, MESSAGE_UID_SIZE);
    message->user = (struct text){names + 1, (size_t)(key - names - 1)};
    message->key = (struct text){key + 1, (size_t)(end - key - 1)};
    return true;
}

/* `m`, number, time of receipt and event, with spaces between. What an earlier chatd left has no time. */
struct text redis_payload_event(struct text payload, int64_t *received_us)
{
    const char *end = payload.data + payload.length;
    const char *at = payload.length > 0 ? memchr(payload.data, ' ', payload.length) : NULL;

    *received_us = 0;
    if (!at)
        return payload;
    for (at++; at < end && *at >= '0' && *at <= '9' && *received_us < INT64_MAX / 100; at++)
        *received_us = *received_us * 10 + (*at - '0');
    if (at < end && *at == ' ')
        at++;
    return (struct text){at, (size_t)(end - at)};
}

/* Fills in what the script answered; false when that is none of its answers. */
static bool take_answer(struct publishing *p, const redisReply *reply, struct message *message)
{
    uint64_t status = redis_reply_number(reply, 0);

    if (reply->type != REDIS_REPLY_ARRAY || status > BUS_FULL)
        return false;
    message->seq = redis_reply_number(reply, 1);
    message->previous = message->seq - 1;
    if (status == BUS_OK) {
        message->time_ms = (int64_t)redis_reply_number(reply, 2);
        message->received_us = p->received_us;
        message->event = compose(p, message);
    } else if (status == BUS_DUPLICATE) {
        message->event = redis_payload_event(redis_reply_text(reply, 3), &message->received_us);
        return redis_header_parse(redis_reply_text(reply, 2), message);
    }
    return true;
}

static void on_answer(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct publishing *p = arg;
    struct message message = message_of(p);

    message.position = life;
    if (result != REDIS_ANSWERED || p->b->ending) {
        refuse(p, result == REDIS_FULL ? BUS_FULL : BUS_FAILED);
    } else if (take_answer(p, reply, &message)) {
        finish(p, (enum bus_status)redis_reply_number(reply, 0), &message);
    } else {
        redis_bus_odd(p->b, "answer of publish", p->room);
        refuse(p, BUS_FAILED);
    }
}

static bool on_wanted(void *arg)
{
    const struct publishing *p = arg;

    return p->wanted(p->arg);
}

/* The channel is written where the keys are. */
static void add_channel(struct redis_args *args, const struct bus_redis *b, unsigned partition,
                        struct text room)
{
    size_t start = args->bytes.length;

    redis_bus_channel(b, &args->bytes, partition, room);
    redis_args_text(args, (struct text){args->bytes.data + start, args->bytes.length - start});
}

/* Whether it has to be known here, is to be asked for in the store first, or has been. */
static const char *mode(const struct bus_publish *publish)
{
    if (publish->asked)
        return "2";
    return publish->retry && (publish->key.length > 0 || publish->uid) ? "1" : "0";
}

static bool send_publish(struct publishing *p, const struct bus_publish *publish, unsigned partition)
{
    const struct config *config = p->b->config;
    struct redis_call call = {.partition = partition, .room = p->room, .script = SCRIPT_PUBLISH,
                              .keys = KEYS_OF_PUBLISH, .life_argument = KEYS_OF_PUBLISH, .patient = true,
                              .wanted = p->wanted ? on_wanted : NULL, .done = on_answer, .arg = p};
    char own[1 + MESSAGE_UID_SIZE] = ""; /* NUL uid: the field of a message without a key */
    char times[3 * 21];
    struct redis_args args;

    redis_args_init(&args);
    redis_args_key(&args, partition, "room", p->room);
    redis_args_key(&args, partition, "window", p->room);
    redis_args_key(&args, partition, "keys0", p->room);
    redis_args_key(&args, partition, "keys1", p->room);
    redis_args_key(&args, partition, "pending", (struct text){NULL, 0});
    redis_args_text(&args, REDIS_BUS_LIFE);
    redis_args_text(&args, p->room);
    redis_args_text(&args, (struct text){(const char *)p->uid, sizeof(p->uid)});
    memcpy(own + 1, p->uid, sizeof(p->uid));
    if (p->key.length > 0)
        redis_args_text(&args, (struct text){p->names.data + 1, p->names.length - 1});
    else
        redis_args_text(&args, (struct text){own, sizeof(own)});
    redis_args_text(&args, p->names);
    redis_args_text(&args, p->stamped);
    redis_args_text(&args, p->tail);
    redis_args_word(&args, mode(publish));
    if (publish->instead_of > 0)
        redis_args_number(&args, (int64_t)publish->instead_of);
    else
        redis_args_word(&args, "");
    redis_args_text(&args, redis_bus_publish_command(p->b));
    add_channel(&args, p->b, partition, p->room);
    redis_args_number(&args, config->window_messages);
    snprintf(times, sizeof(times), "%lld %lld %lld", (long long)config->retry_window,
             (long long)config->window_ttl, REDIS_ROOM_TTL_MS);
    redis_args_word(&args, times);
    redis_args_number(&args, (int64_t)publish->number);
    return redis_args_call(&args, p->b->client, &call);
}

void redis_publish(struct bus *bus, const struct bus_publish *publish, bus_on_published *done, void *arg)
{
    struct bus_redis *b = bus_redis_self(bus);
    unsigned partition = redis_bus_partition(b, publish->room);
    struct publishing *p = publishing_new(b, publish, done, arg);

    if (b->ending || !redis_bus_usable(b, partition))
        refuse(p, BUS_FAILED);
    else if (!send_publish(p, publish, partition))
        refuse(p, BUS_FULL);
}

bool redis_emit(struct bus *bus, struct text room, struct text user, struct text event)
{
    struct bus_redis *b = bus_redis_self(bus);
    unsigned partition = redis_bus_partition(b, room);
    const struct redis_room *here = redis_bus_room(b, room);
    struct redis_call call = {.partition = partition, .room = room, .script = -1, .life_argument = -1,
                              .done = redis_bus_ignore};
    struct buf payload = BUF_INIT;
    struct redis_args args;
    bool placed;

    /* What can't go out now would only be old news later. */
    if (!redis_bus_usable(b, partition) || redis_client_life(b->client, partition) == 0)
        return false;
    buf_printf(&payload, "e%llu %u %zu ", (unsigned long long)(here ? here->version : b->gone_version),
               here ? here->members : b->gone_members, user.length);
    buf_add(&payload, user.data, user.length);
    buf_add(&payload, event.data, event.length);
    redis_args_init(&args);
    redis_args_text(&args, redis_bus_publish_command(b));
    add_channel(&args, b, partition, room);
    redis_args_text(&args, (struct text){payload.data, payload.length});
    placed = redis_args_call(&args, b->client, &call);
    buf_deinit(&payload);
    return placed;
}

/* --- Stored, or void --- */

/* Else history would have it twice: from the store, and from here under a number that is void. */
static void take_back(struct bus_redis *b, const struct message *message)
{
    unsigned partition = redis_bus_partition(b, message->room);
    struct redis_call call = {.partition = partition, .room = message->room, .script = -1,
                              .life_argument = -1, .patient = true, .done = redis_bus_ignore};
    struct redis_args args;

    redis_args_init(&args);
    redis_args_word(&args, "XDEL");
    redis_args_key(&args, partition, "window", message->room);
    redis_args_number(&args, (int64_t)message->seq);
    (void)!redis_args_send(&args, b, &call); /* no place: it is shown twice until it leaves the window */
}

void redis_settle(struct bus *bus, const struct message *message, uint64_t stored)
{
    struct bus_redis *b = bus_redis_self(bus);
    struct buf *settled = &b->partitions[redis_bus_partition(b, message->room)].settled;
    size_t start = settled->length;
    uint16_t length = 0;

    buf_add(settled, &length, sizeof(length));
    buf_add(settled, message->room.data, message->room.length);
    buf_add(settled, "", 1);
    buf_add_u64(settled, message->seq);
    length = (uint16_t)(settled->length - start - sizeof(length));
    memcpy(settled->data + start, &length, sizeof(length));
    if (stored != message->seq)
        take_back(b, message);
    redis_sweep_settled(b, message);
}

/* One that can't be sent, or gets lost, is no matter: the sweep finds its message in the store. */
static void send_settled(struct bus_redis *b, unsigned partition)
{
    struct buf *settled = &b->partitions[partition].settled;
    struct text argv[2 + SETTLE_CHUNK];
    struct redis_call call = {.partition = partition, .script = -1, .argv = argv, .life_argument = -1,
                              .done = redis_bus_ignore};
    struct buf key = BUF_INIT;
    bool placed = redis_bus_usable(b, partition);

    redis_key(&key, partition, "pending", (struct text){NULL, 0});
    argv[0] = (struct text){"ZREM", 4};
    argv[1] = (struct text){key.data, key.length};
    for (size_t at = 0; placed && at < settled->length;) {
        for (call.argc = 2; call.argc < 2 + SETTLE_CHUNK && at < settled->length; call.argc++) {
            uint16_t length;

            memcpy(&length, settled->data + at, sizeof(length));
            argv[call.argc] = (struct text){settled->data + at + sizeof(length), length};
            at += sizeof(length) + length;
        }
        placed = redis_client_call(b->client, &call);
    }
    settled->length = 0;
    buf_deinit(&key);
}

void redis_publish_turn(struct bus_redis *b)
{
    for (unsigned i = 0; i < b->partition_count; i++)
        if (b->partitions[i].settled.length > 0)
            send_settled(b, i);
}

/* A number stands while the life that gave it goes on. Whether it does is known as of the last time its
 * master was heard; a moment after that it may have been replaced. But whoever opens the room under a new
 * life does so only failover_grace after having seen it, so for half of that the message may still go to
 * the store under its number. A room whose numbers are known to go on in a higher block was opened anew
 * already, whatever this worker's connection says. */
enum bus_stand bus_redis_stand(void *bus, const struct message *message)
{
    struct bus_redis *b = bus_redis_self(bus);
    unsigned partition = redis_bus_partition(b, message->room);
    const struct redis_room *here = redis_bus_room(b, message->room);
    uint32_t life = redis_client_life(b->client, partition);
    int64_t silence = clock_monotonic_ms() - redis_client_heard_ms(b->client, partition);
    int64_t grace = b->config->failover_grace;
    int64_t limit = grace > 0 && grace / 2 < HEARD_MAX_MS ? grace / 2 : HEARD_MAX_MS;

    if (life != 0 && life != message->position)
        return BUS_MOVED;
    if (here && here->opened > message->seq)
        return BUS_MOVED;
    return life == 0 || silence > limit ? BUS_WAITS : BUS_STANDS;
}
