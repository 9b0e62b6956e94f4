/* redis_probe.c - is the Redis of the settings there? One connection to each server, signed in as workers
 * do. */
#include <errno.h>
#include <stdio.h>
#include <uv.h>

#include "chatd/bus_redis.h"
#include "redis_conn.h"
#include "redis_target.h"

struct probe {
    const struct redis_address *address;
    int status;
    char *error;
    struct redis_conn *conn;
};

static void on_ready(void *arg, const char *life)
{
    struct probe *probe = arg;

    (void)life;
    redis_conn_close(probe->conn);
}

static void on_reply(void *arg, const redisReply *reply)
{
    (void)arg;
    (void)reply;
}

static void on_lost(void *arg, enum redis_fault fault, const char *error)
{
    struct probe *probe = arg;
    char name[REDIS_ADDRESS_MAX];

    redis_address_name(probe->address, name);
    probe->status = -ECONNREFUSED;
    snprintf(probe->error, BUS_REDIS_ERROR_MAX, "%s: %s: %s", name, redis_fault_word(fault), error);
}

/* A seed of a cluster may be a replica: it need not be the master of anything. */
static int probe_server(const struct redis_target *target, unsigned server, char *error)
{
    struct probe probe = {.address = &target->servers[server], .error = error};
    enum redis_conn_kind kind = target->form == REDIS_SENTINEL  ? REDIS_CONN_SENTINEL
                                : target->form == REDIS_CLUSTER ? REDIS_CONN_ASK
                                                                : REDIS_CONN_COMMANDS;
    struct redis_conn_options options = {.target = target,
                                         .address = probe.address,
                                         .kind = kind,
                                         .handler = {&probe, on_ready, on_reply, on_lost}};
    uv_loop_t loop;
    int status = uv_loop_init(&loop);

    if (status != 0)
        return status;
    options.loop = &loop;
    status = redis_conn_open(&probe.conn, &options);
    if (status == 0)
        uv_run(&loop, UV_RUN_DEFAULT);
    else
        snprintf(error, BUS_REDIS_ERROR_MAX, "%s", uv_strerror(status));
    uv_loop_close(&loop);
    return status != 0 ? status : probe.status;
}

int bus_redis_probe(const struct config *config, char error[BUS_REDIS_ERROR_MAX])
{
    struct redis_target target;
    int status = 0;

    if (!redis_target_parse(&target, config, error, BUS_REDIS_ERROR_MAX))
        return -EINVAL;
    for (unsigned i = 0; i < target.count && status == 0; i++)
        status = probe_server(&target, i, error);
    return status;
}
