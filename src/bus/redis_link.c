/* redis_link.c - the command connections to one server: all of them, or none. */
#include "redis_link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "redis_topology.h"

enum { STEADY_MS = 2000 };

struct member {
    struct redis_link *link;
    struct redis_conn *conn; /* NULL while it is not open */
};

struct redis_link {
    uv_loop_t *loop;
    const struct redis_target *target;
    struct redis_address address;
    const struct redis_script *scripts;
    struct redis_link_handler handler;
    char name[REDIS_ADDRESS_MAX];
    uv_timer_t timer;
    bool closed, up;
    bool told;             /* of `fault`, in the log */
    enum redis_fault fault;
    unsigned pause;        /* of redis_pause_next */
    int64_t up_ms, heard_ms;
    char life[REDIS_LIFE_SIZE + 1]; /* of the connections that are ready */
    unsigned count, ready;
    struct member members[];
};

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void close_members(struct redis_link *link)
{
    link->heard_ms = redis_link_heard_ms(link);
    for (unsigned i = 0; i < link->count; i++) {
        redis_conn_close(link->members[i].conn);
        link->members[i].conn = NULL;
    }
    link->ready = 0;
    link->up = false;
}

void redis_link_close(struct redis_link *link)
{
    if (link->closed)
        return;
    link->closed = true;
    close_members(link);
    uv_close((uv_handle_t *)&link->timer, on_closed);
}

static void on_timer(uv_timer_t *timer);

static void come_down(struct redis_link *link, enum redis_fault fault, const char *reason)
{
    bool was_up = link->up;
    char error[REDIS_LINK_ERROR_MAX];

    close_members(link);
    if (was_up || !link->told || link->fault != fault)
        log_warn("redis_lost", "server=%s fault=%s error=%s", link->name, redis_fault_word(fault), reason);
    link->told = true;
    link->fault = fault;
    /* One that comes up only to go down again is not to be asked twenty times a second. */
    if (was_up && clock_monotonic_ms() - link->up_ms > STEADY_MS)
        link->pause = 0;
    uv_timer_start(&link->timer, on_timer, redis_pause_next(&link->pause), 0);
    snprintf(error, sizeof(error), "%s: %s: %s", link->name, redis_fault_word(fault), reason);
    link->handler.on_down(link->handler.arg, error);
}

static void on_ready(void *arg, const char *life)
{
    struct redis_link *link = ((struct member *)arg)->link;

    if (link->ready > 0 && memcmp(link->life, life, REDIS_LIFE_SIZE) != 0) {
        come_down(link, REDIS_FAULT_LIFE, "connections to one server with different master_replid");
        return;
    }
    memcpy(link->life, life, REDIS_LIFE_SIZE);
    if (++link->ready < link->count)
        return;
    link->up = true;
    link->told = false;
    link->up_ms = clock_monotonic_ms();
    log_info("redis_ready", "server=%s life=%s", link->name, link->life);
    link->handler.on_up(link->handler.arg, link->life);
}

static void on_reply(void *arg, const redisReply *reply)
{
    struct member *member = arg;
    struct redis_link *link = member->link;

    link->handler.on_reply(link->handler.arg, (unsigned)(member - link->members), reply);
}

static void on_lost(void *arg, enum redis_fault fault, const char *error)
{
    struct member *member = arg;

    member->link->heard_ms = redis_link_heard_ms(member->link);
    member->conn = NULL;
    come_down(member->link, fault, error);
}

static void on_timer(uv_timer_t *timer)
{
    struct redis_link *link = timer->data;

    for (unsigned i = 0; i < link->count; i++) {
        struct redis_conn_options options = {.loop = link->loop,
                                             .target = link->target,
                                             .address = &link->address,
                                             .kind = REDIS_CONN_COMMANDS,
                                             .scripts = link->scripts,
                                             .handler = {&link->members[i], on_ready, on_reply, on_lost}};
        int status = redis_conn_open(&link->members[i].conn, &options);

        if (status != 0) {
            link->members[i].conn = NULL;
            come_down(link, REDIS_FAULT_CONNECT, uv_strerror(status));
            return;
        }
    }
}

int redis_link_open(struct redis_link **out, const struct redis_link_options *options)
{
    struct redis_link *link = calloc(1, sizeof(*link) + options->connections * sizeof(link->members[0]));

    if (!link)
        return -ENOMEM;
    link->loop = options->loop;
    link->target = options->target;
    link->address = *options->address;
    link->scripts = options->scripts;
    link->handler = options->handler;
    link->count = options->connections;
    redis_address_name(&link->address, link->name);
    for (unsigned i = 0; i < link->count; i++)
        link->members[i].link = link;
    link->timer.data = link;
    uv_timer_init(link->loop, &link->timer);
    uv_timer_start(&link->timer, on_timer, 0, 0);
    *out = link;
    return 0;
}

void redis_link_append(struct redis_link *link, unsigned conn, const char *resp, size_t length)
{
    redis_conn_append(link->members[conn].conn, resp, length);
}

void redis_link_flush(struct redis_link *link)
{
    for (unsigned i = 0; i < link->count; i++) {
        if (link->members[i].conn)
            redis_conn_flush(link->members[i].conn);
    }
}

int64_t redis_link_heard_ms(const struct redis_link *link)
{
    int64_t heard = link->heard_ms;

    for (unsigned i = 0; i < link->count; i++) {
        int64_t one = link->members[i].conn ? redis_conn_heard_ms(link->members[i].conn) : 0;

        heard = one > heard ? one : heard;
    }
    return heard;
}
