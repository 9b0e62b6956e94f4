/* bus_redis.c - bus.h on Redis: made, turned, closed, and what its parts share. */
#include "chatd/bus_redis.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "redis_args.h"
#include "redis_bus.h"

enum { ODD_TOLD_MS = 10000 };

/* --- What the other files share --- */

unsigned redis_bus_partition(const struct bus_redis *b, struct text room)
{
    return redis_topology_partition(&b->target, room);
}

struct redis_room *redis_bus_room(struct bus_redis *b, struct text name)
{
    struct redis_room *room = NULL;

    HASH_FIND(hh, b->rooms, name.data, name.length, room);
    return room;
}

bool redis_bus_usable(const struct bus_redis *b, unsigned partition)
{
    return !b->closing && !b->shards_differ && !b->partitions[partition].differs;
}

struct text redis_bus_publish_command(const struct bus_redis *b)
{
    return b->target.form == REDIS_CLUSTER ? (struct text){"SPUBLISH", 8} : (struct text){"PUBLISH", 7};
}

void redis_bus_channel(const struct bus_redis *b, struct buf *out, unsigned partition, struct text room)
{
    /* Channels are not of a database, so its number is in the name. */
    buf_add_literal(out, "chatd:");
    buf_add_u64(out, (uint64_t)b->target.database);
    buf_add_literal(out, ":{");
    buf_add_u64(out, partition);
    buf_add_literal(out, "}:");
    buf_add(out, room.data, room.length);
}

void redis_bus_ignore(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    (void)arg;
    (void)result;
    (void)reply;
    (void)life;
}

bool redis_bus_in_grace(const struct bus_redis *b, unsigned partition)
{
    int64_t age = clock_monotonic_ms() - redis_client_life_since_ms(b->client, partition);

    return b->partitions[partition].changed && age < b->config->failover_grace;
}

void redis_bus_odd(struct bus_redis *b, const char *what, struct text room)
{
    int64_t now = clock_monotonic_ms();

    if (b->odd_told_ms != 0 && now - b->odd_told_ms < ODD_TOLD_MS)
        return;
    b->odd_told_ms = now;
    log_warn("redis_odd", "what=%s room=%.*s", what, (int)room.length, room.data);
}

/* --- What is due later --- */

static void add_later(struct redis_later **list, struct redis_later *later)
{
    later->next = *list;
    later->link = list;
    if (later->next)
        later->next->link = &later->next;
    *list = later;
}

void redis_bus_not_later(struct redis_later *later)
{
    if (!later->link)
        return;
    *later->link = later->next;
    if (later->next)
        later->next->link = later->link;
    later->link = NULL;
}

/* Those that are due move to a list of their own first: each may take away others, and add new ones. */
static void fire_due(struct bus_redis *b, int64_t now)
{
    struct redis_later *due = NULL, *next;

    for (struct redis_later *later = b->later; later; later = next) {
        next = later->next;
        if (later->due_ms > now)
            continue;
        redis_bus_not_later(later);
        add_later(&due, later);
    }
    while (due) {
        struct redis_later *later = due;

        redis_bus_not_later(later);
        later->fire(later);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct bus_redis *b = timer->data;

    fire_due(b, clock_monotonic_ms());
    if (!b->later)
        uv_timer_stop(timer);
}

void redis_bus_later(struct bus_redis *b, struct redis_later *later, int64_t due_ms,
                     void (*fire)(struct redis_later *later))
{
    redis_bus_not_later(later);
    later->due_ms = due_ms;
    later->fire = fire;
    add_later(&b->later, later);
    if (!uv_is_active((uv_handle_t *)&b->timer))
        uv_timer_start(&b->timer, on_timer, REDIS_BUS_STEP_MS, REDIS_BUS_STEP_MS);
}

/* --- What client and topology tell --- */

static void on_life(void *arg, unsigned partition, bool changed)
{
    struct bus_redis *b = arg;
    struct redis_partition *p = &b->partitions[partition];
    bool first = !p->seen;

    if (b->closing)
        return;
    p->seen = true;
    redis_shards_check(b, partition);
    redis_subscriber_life(b->subscriber, partition, redis_client_life_name(b->client, partition));
    if (first || !changed)
        return;
    /* Records and members may be gone; what was published meanwhile came through another server. */
    p->changed = p->lost = b->any_lost = true;
    redis_presence_again(b, partition);
}

static void on_topology(void *arg)
{
    struct bus_redis *b = arg;

    redis_client_topology(b->client);
    redis_subscriber_topology(b->subscriber);
}

/* --- Health --- */

/* The first reason is the one that explains the others. */
static void note_trouble(struct bus_health *health, const char *error)
{
    if (!health->error[0])
        snprintf(health->error, sizeof(health->error), "%s", error);
}

static void look_at_health(struct bus_redis *b)
{
    struct bus_health now = {0}, client, subscriber;

    redis_shards_health(b, now.error, sizeof(now.error));
    redis_client_health(b->client, &client);
    redis_subscriber_health(b->subscriber, &subscriber);
    note_trouble(&now, redis_topology_error(b->topology));
    note_trouble(&now, client.ok ? "" : client.error);
    note_trouble(&now, subscriber.ok ? "" : subscriber.error);
    now.ok = !now.error[0];
    now.since_ms = now.ok == b->health.ok ? b->health.since_ms : clock_wall_ms();
    b->health = now;
}

static void redis_health(struct bus *bus, struct bus_health *health)
{
    struct bus_redis *b = bus_redis_self(bus);

    look_at_health(b);
    *health = b->health;
}

/* --- Turn, tick --- */

static void redis_turn(struct bus *bus)
{
    struct bus_redis *b = bus_redis_self(bus);

    if (b->closing)
        return;
    redis_channel_turn(b);
    redis_publish_turn(b);
    redis_presence_turn(b);
    redis_client_turn(b->client);
    redis_subscriber_turn(b->subscriber);
}

static void redis_tick(struct bus *bus)
{
    struct bus_redis *b = bus_redis_self(bus);

    if (b->ending)
        return;
    redis_shards_tick(b);
    redis_presence_tick(b);
    redis_lists_tick(b);
    redis_sweep_tick(b);
    look_at_health(b);
}

static const struct bus_ops OPS = {
    .open = redis_open,
    .subscribe = redis_subscribe,
    .unsubscribe = redis_unsubscribe,
    .publish = redis_publish,
    .emit = redis_emit,
    .window = redis_window,
    .enter = redis_enter,
    .leave = redis_leave,
    .count = redis_count,
    .members = redis_members,
    .rooms = redis_rooms,
    .settle = redis_settle,
    .health = redis_health,
    .turn = redis_turn,
    .tick = redis_tick,
};

/* --- Making and closing --- */

bool bus_redis_wanted(const struct config *config)
{
    return redis_target_given(config);
}

int bus_redis_check(const struct config *config, char error[BUS_REDIS_ERROR_MAX])
{
    struct redis_target target;

    if (!redis_target_parse(&target, config, error, BUS_REDIS_ERROR_MAX))
        return -EINVAL;
    if (target.tls && !redis_conn_has_tls()) {
        snprintf(error, BUS_REDIS_ERROR_MAX,
                 "redis: rediss:// needs TLS, which the hiredis that chatd was built with doesn't have: use "
                 "redis://");
        return -ENOTSUP;
    }
    if (!config->store[0]) {
        snprintf(error, BUS_REDIS_ERROR_MAX,
                 "redis needs a store that all servers share: set store (MONGODB_URI) to mongodb://..., or "
                 "leave redis and redis_host empty");
        return -EINVAL;
    }
    return 0;
}

static int make_identity(struct bus_redis *b)
{
    static const char LETTERS[] = "abcdefghijklmnopqrstuvwxyz012345"; /* 32: a byte's low bits will do */
    uint8_t random[WORKER_ID_SIZE];

    if (getrandom(&b->uid_prefix, sizeof(b->uid_prefix), 0) < 0 || getrandom(random, sizeof(random), 0) < 0)
        return -errno;
    for (int i = 0; i < WORKER_ID_SIZE; i++)
        b->id[i] = LETTERS[random[i] % 32];
    return 0;
}

static int make_partitions(struct bus_redis *b)
{
    b->partition_count = redis_topology_partitions(&b->target);
    b->partitions = calloc(b->partition_count, sizeof(*b->partitions));
    if (!b->partitions)
        return -ENOMEM;
    for (unsigned i = 0; i < b->partition_count; i++)
        b->partitions[i].b = b;
    redis_shards_new(b);
    return 0;
}

static int make_client(struct bus_redis *b)
{
    int64_t connections = b->config->redis_pool_size / (b->config->workers > 0 ? b->config->workers : 1);
    const struct redis_client_options options = {
        .loop = b->loop,
        .target = &b->target,
        .topology = b->topology,
        .connections = connections > 0 ? (unsigned)connections : 1,
        .queue_bytes = b->config->bus_queue_bytes,
        .scripts = redis_scripts(),
        .handler = {b, on_life},
    };

    return redis_client_new(&b->client, &options);
}

static void free_memory(struct bus_redis *b)
{
    for (unsigned i = 0; b->partitions && i < b->partition_count; i++)
        buf_deinit(&b->partitions[i].settled);
    free(b->partitions);
    buf_deinit(&b->scratch);
    free(b);
}

static void on_closed(uv_handle_t *handle)
{
    free_memory(handle->data);
}

int bus_redis_new(struct bus **bus, uv_loop_t *loop, const struct config *config,
                  const struct bus_handler *handler)
{
    struct bus_redis *b = calloc(1, sizeof(*b));
    char error[BUS_REDIS_ERROR_MAX];
    int status;

    if (!b)
        return -ENOMEM;
    b->bus = (struct bus){&OPS, *handler};
    b->config = config;
    b->loop = loop;
    b->health.ok = true;
    status = redis_target_parse(&b->target, config, error, sizeof(error)) ? make_identity(b) : -EINVAL;
    if (status == 0)
        status = make_partitions(b);
    if (status != 0) {
        free_memory(b);
        return status;
    }
    uv_timer_init(loop, &b->timer);
    b->timer.data = b;
    redis_sessions_init(b);
    status = redis_topology_new(&b->topology, loop, &b->target, on_topology, b);
    if (status != 0)
        goto fail;
    status = make_client(b);
    if (status != 0)
        goto fail_topology;
    status = redis_subscriber_new(&b->subscriber, loop, &b->target, b->topology,
                                  &(struct redis_subscriber_handler){b, redis_channel_message,
                                                                     redis_channel_subscribed});
    if (status != 0)
        goto fail_client;
    redis_channel_new(b);
    redis_presence_new(b);
    redis_lists_new(b);
    redis_sweep_new(b);
    *bus = &b->bus;
    return 0;

fail_client:
    redis_client_close(b->client);
fail_topology:
    redis_topology_close(b->topology);
fail:
    uv_close((uv_handle_t *)&b->timer, on_closed);
    return status;
}

static void on_no_record(void *arg, const struct message *message)
{
    (void)arg;
    (void)message;
}

static void on_no_event(void *arg, struct text room, struct text user, struct text event)
{
    (void)arg;
    (void)room;
    (void)user;
    (void)event;
}

static void on_no_loss(void *arg, struct text room)
{
    (void)arg;
    (void)room;
}

static void on_no_orphan(void *arg, const struct message *message, bool stands)
{
    (void)stands;
    on_no_record(arg, message);
}

/* The store is closed already: what would lead to it ends here. Who left which room is still told. */
void bus_redis_leave(struct bus *bus)
{
    struct bus_redis *b = bus_redis_self(bus);

    b->ending = true;
    bus->handler = (struct bus_handler){bus->handler.arg, on_no_record, on_no_event, on_no_loss,
                                        bus->handler.on_gone, on_no_orphan};
    redis_sweep_end(b);
    redis_turn(bus);
}

bool bus_redis_left(struct bus *bus)
{
    return redis_client_queued_bytes(bus_redis_self(bus)->client) == 0;
}

void bus_redis_close(struct bus *bus)
{
    struct bus_redis *b = bus_redis_self(bus);

    b->closing = true;
    redis_client_close(b->client);
    while (b->later)
        fire_due(b, INT64_MAX);
    redis_channel_close(b);
    redis_sweep_free(b);
    redis_lists_free(b);
    redis_presence_free(b);
    redis_subscriber_close(b->subscriber);
    redis_topology_close(b->topology);
    uv_close((uv_handle_t *)&b->timer, on_closed);
}

struct sessions *bus_redis_sessions(struct bus *bus)
{
    return &bus_redis_self(bus)->sessions;
}
