/* redis_client.c - calls and partitions: what waits, what is written, and when. The picture is in
 * redis_client_core.h. */
#include "redis_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "chatd/clock.h"
#include "chatd/metrics.h"
#include "redis_client_core.h"

enum {
    TICK_MS = 250,
    ASK_PAUSE_MS = 100,
    RESERVE_PART = 4, /* of queue_bytes, for calls that are not patient */
};

/* --- Lists. --- */

static void mark_dirty(struct redis_client *client, struct partition *p)
{
    if (p->dirty)
        return;
    p->dirty = true;
    p->next_dirty = client->dirty;
    client->dirty = p;
}

void redis_client_remove(struct redis_client *client, struct redis_request *r)
{
    struct partition *p = &client->partitions[r->partition];

    if (p->next == r)
        p->next = r->next;
    *(r->previous ? &r->previous->next : &p->first) = r->next;
    *(r->next ? &r->next->previous : &p->last) = r->previous;
    r->next = r->previous = NULL;
    redis_server_ask(r, NULL);
    client->queued--;
    client->queued_bytes -= (int64_t)(sizeof(*r) + r->length);
}

void redis_client_answer(struct redis_request *r, enum redis_result result, const redisReply *reply)
{
    redis_on_reply *done = r->done;
    void *arg = r->arg;
    uint32_t life = result == REDIS_ANSWERED ? r->life : 0;

    free(r);
    done(arg, result, reply, life);
}

static void doom(struct redis_client *client, struct redis_request *r)
{
    redis_client_remove(client, r);
    *client->doomed_end = r;
    client->doomed_end = &r->next;
}

static void answer_doomed(struct redis_client *client)
{
    struct redis_request *r;

    while ((r = client->doomed)) {
        client->doomed = r->next;
        if (!client->doomed)
            client->doomed_end = &client->doomed;
        redis_client_answer(r, REDIS_AWAY, NULL);
    }
}

static void report_queue(const struct redis_client *client)
{
    metrics_set(bus_queue, client->queued);
    metrics_set(bus_queue_bytes, client->queued_bytes);
}

/* --- Holding. --- */

static void arm_pause(struct redis_client *client);

static void on_pause(uv_timer_t *timer)
{
    arm_pause(timer->data);
}

/* Wakes when the first pause is over; partitions whose pause is over are looked at in this turn. */
static void arm_pause(struct redis_client *client)
{
    int64_t now = clock_monotonic_ms(), first = INT64_MAX;

    for (unsigned i = 0; i < client->partition_count; i++) {
        struct partition *p = &client->partitions[i];

        if (p->holding && p->hold_until_ms <= now)
            mark_dirty(client, p);
        else if (p->holding && p->hold_until_ms < first)
            first = p->hold_until_ms;
    }
    if (first < INT64_MAX)
        uv_timer_start(&client->pause, on_pause, (uint64_t)(first - now), 0);
}

void redis_client_hold(struct redis_client *client, unsigned partition, int pause_ms)
{
    struct partition *p = &client->partitions[partition];
    int64_t until = clock_monotonic_ms() + pause_ms;

    if (!p->holding || until > p->hold_until_ms)
        p->hold_until_ms = until;
    p->holding = true;
    p->next = NULL;
    if (pause_ms > 0)
        arm_pause(client);
    else
        mark_dirty(client, p);
}

void redis_client_take_back(struct redis_client *client, struct redis_request *r)
{
    struct partition *p = &client->partitions[r->partition];

    r->written = false;
    p->written--;
    if (p->holding && p->written == 0)
        mark_dirty(client, p);
}

/* --- Masters and health. --- */

static const char *find_trouble(const struct redis_client *client)
{
    const char *refusal = "";

    for (unsigned i = 0; i < client->partition_count; i++) {
        const struct server *server = client->partitions[i].server;

        if (!server) {
            const char *error = redis_topology_error(client->topology);

            return error[0] != '\0' ? error : "no master is known";
        }
        if (!server->up)
            return server->error;
        if (server->refusal[0] != '\0')
            refusal = server->refusal;
    }
    return refusal;
}

void redis_client_judge(struct redis_client *client)
{
    const char *trouble = find_trouble(client);
    bool ok = trouble[0] == '\0';

    if (ok != client->health.ok)
        client->health.since_ms = clock_wall_ms();
    client->health.ok = ok;
    snprintf(client->health.error, sizeof(client->health.error), "%s", trouble);
}

static void partition_up(struct redis_client *client, unsigned partition)
{
    struct partition *p = &client->partitions[partition];
    bool changed = p->life != p->server->life;

    if (changed) {
        p->life = p->server->life;
        p->life_since_ms = clock_monotonic_ms();
    }
    mark_dirty(client, p);
    client->handler.on_life(client->handler.arg, partition, changed);
}

void redis_client_server_up(struct redis_client *client, struct server *server)
{
    redis_client_judge(client);
    for (unsigned i = 0; i < client->partition_count && !client->closed; i++) {
        if (client->partitions[i].server == server)
            partition_up(client, i);
        else if (server->asked > 0)
            mark_dirty(client, &client->partitions[i]);
    }
}

void redis_client_server_down(struct redis_client *client, struct server *server)
{
    for (unsigned i = 0; i < client->partition_count; i++) {
        if (client->partitions[i].server == server)
            redis_topology_suspect(client->topology, i, NULL);
        if (server->asked > 0)
            mark_dirty(client, &client->partitions[i]);
    }
    redis_client_judge(client);
}

void redis_client_topology(struct redis_client *client)
{
    for (unsigned i = 0; i < client->partition_count && !client->closed; i++) {
        const struct redis_address *master = redis_topology_master(client->topology, i);
        struct partition *p = &client->partitions[i];

        if (!master || (p->server && redis_address_equal(&p->server->address, master)))
            continue;
        p->heard_ms = redis_client_heard_ms(client, i);
        p->server = redis_server_find(client, master);
        /* Those that the old master has yet to answer come first. */
        if (p->written > 0)
            redis_client_hold(client, i, 0);
        p->hold_until_ms = 0;
        if (p->server->up)
            partition_up(client, i);
    }
    redis_client_judge(client);
}

/* --- Writing. --- */

/* Whether somebody still wants a call that had to wait. */
static bool is_wanted(const struct redis_client *client, const struct redis_request *r)
{
    return r->tried || r->made_turn == client->turn || !r->wanted || r->wanted(r->arg);
}

static void write_partition(struct redis_client *client, struct partition *p, int64_t now_us)
{
    struct redis_request *r;

    if (p->holding) {
        if (p->written > 0 || now_us / 1000 < p->hold_until_ms)
            return;
        p->holding = false;
        p->next = p->first;
    }
    while ((r = p->next)) {
        struct server *server = r->ask ? r->ask : p->server;

        if (r->ask && !server->up && server->failed) {
            /* Its master would only send it there again. */
            redis_server_ask(r, NULL);
            redis_client_hold(client, (unsigned)(p - client->partitions), ASK_PAUSE_MS);
            return;
        }
        if (!server || !server->up)
            return;
        if (!is_wanted(client, r)) {
            doom(client, r);
            continue;
        }
        p->next = r->next;
        redis_server_write(server, r, now_us);
        p->written++;
    }
}

void redis_client_turn(struct redis_client *client)
{
    if (client->closed)
        return;
    do {
        int64_t now_us = clock_monotonic_us();
        struct partition *p;

        while ((p = client->dirty)) {
            client->dirty = p->next_dirty;
            p->dirty = false;
            write_partition(client, p, now_us);
        }
        /* May bring new calls. */
        answer_doomed(client);
    } while (client->dirty && !client->closed);
    for (struct server *server = client->servers; server && !client->closed; server = server->next) {
        if (server->touched)
            redis_link_flush(server->link);
        server->touched = false;
    }
    client->turn++;
    report_queue(client);
}

bool redis_client_call(struct redis_client *client, const struct redis_call *call)
{
    struct partition *p = &client->partitions[call->partition];
    struct redis_request *r;

    int64_t most = client->queue_bytes;

    /* Messages for a server that is away must not take the place of what keeps this worker alive at the
     * others. */
    if (!call->patient)
        most += most / RESERVE_PART;
    if (client->closed)
        return false;
    if (client->queued_bytes + (int64_t)redis_request_size(call) > most) {
        metrics_add(limited_total[METRICS_LIMIT_bus_queue], 1);
        return false;
    }
    r = redis_request_new(call, client->scripts);
    r->made_ms = clock_monotonic_ms();
    r->made_turn = client->turn;
    r->previous = p->last;
    *(p->last ? &p->last->next : &p->first) = r;
    p->last = r;
    if (!p->holding && !p->next)
        p->next = r;
    client->queued++;
    client->queued_bytes += (int64_t)(sizeof(*r) + r->length);
    mark_dirty(client, p);
    return true;
}

/* --- The clock. --- */

/* Who waits for longer than people do is told so; what is written stays until its connection's fate is
 * known. */
static void lose_patience(struct redis_client *client, struct partition *p, int64_t now)
{
    struct redis_request *next;

    for (struct redis_request *r = p->first; r && now - r->made_ms > REDIS_CLIENT_PATIENCE_MS; r = next) {
        next = r->next;
        if (!r->patient && !r->written)
            doom(client, r);
    }
}

/* What has no answer yet counts as well: a Redis that hangs answers nothing. */
static void note_latency(struct redis_client *client, int64_t now)
{
    int64_t oldest = redis_server_oldest_us(client);

    if (oldest > client->latency_us)
        client->latency_us = oldest;
    if (now - client->latency_from_ms < 1000)
        return;
    metrics_set(bus_latency_seconds, client->latency_us);
    client->latency_us = 0;
    client->latency_from_ms = now;
}

static void on_tick(uv_timer_t *timer)
{
    struct redis_client *client = timer->data;
    int64_t now = clock_monotonic_ms();

    for (unsigned i = 0; i < client->partition_count; i++)
        lose_patience(client, &client->partitions[i], now);
    answer_doomed(client);
    if (client->closed)
        return;
    redis_server_drop_unused(client);
    redis_client_judge(client);
    note_latency(client, now);
    report_queue(client);
}

/* --- Beginning and end. --- */

static void on_closed(uv_handle_t *handle)
{
    struct redis_client *client = handle->data;

    if (--client->open_handles > 0)
        return;
    redis_server_free_all(client);
    free(client);
}

int redis_client_new(struct redis_client **out, const struct redis_client_options *options)
{
    unsigned partitions = redis_topology_partitions(options->target);
    struct redis_client *client = calloc(1, sizeof(*client) + partitions * sizeof(client->partitions[0]));

    if (!client)
        return -ENOMEM;
    client->loop = options->loop;
    client->target = options->target;
    client->topology = options->topology;
    client->connections = options->connections;
    client->queue_bytes = options->queue_bytes;
    client->scripts = options->scripts;
    client->handler = options->handler;
    client->partition_count = partitions;
    client->doomed_end = &client->doomed;
    client->health.since_ms = clock_wall_ms();
    client->tick.data = client->pause.data = client;
    client->open_handles = 2;
    uv_timer_init(client->loop, &client->tick);
    uv_timer_init(client->loop, &client->pause);
    uv_timer_start(&client->tick, on_tick, TICK_MS, TICK_MS);
    /* Fixed masters are known at once; nobody is told of these. */
    redis_client_topology(client);
    *out = client;
    return 0;
}

void redis_client_close(struct redis_client *client)
{
    if (client->closed)
        return;
    client->closed = true;
    for (struct server *server = client->servers; server; server = server->next)
        redis_link_close(server->link);
    for (unsigned i = 0; i < client->partition_count; i++) {
        while (client->partitions[i].first)
            doom(client, client->partitions[i].first);
    }
    answer_doomed(client);
    report_queue(client);
    uv_close((uv_handle_t *)&client->tick, on_closed);
    uv_close((uv_handle_t *)&client->pause, on_closed);
}

uint32_t redis_client_life(const struct redis_client *client, unsigned partition)
{
    const struct partition *p = &client->partitions[partition];

    return p->server && p->server->up ? p->life : 0;
}

const char *redis_client_life_name(const struct redis_client *client, unsigned partition)
{
    const struct server *server = client->partitions[partition].server;

    return redis_client_life(client, partition) != 0 ? redis_server_life(server) : NULL;
}

int64_t redis_client_life_since_ms(const struct redis_client *client, unsigned partition)
{
    return client->partitions[partition].life_since_ms;
}

int64_t redis_client_heard_ms(const struct redis_client *client, unsigned partition)
{
    const struct partition *p = &client->partitions[partition];
    int64_t heard = p->server ? redis_link_heard_ms(p->server->link) : 0;

    return heard > p->heard_ms ? heard : p->heard_ms;
}

uint64_t redis_client_queued_bytes(const struct redis_client *client)
{
    return (uint64_t)client->queued_bytes;
}

void redis_client_health(const struct redis_client *client, struct bus_health *health)
{
    *health = client->health;
}
