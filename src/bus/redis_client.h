/* redis_client.h - commands to Redis: kept in order, sent again after a loss, in bounds.
 *
 * Each call goes to a partition (redis_topology.h) and is answered exactly once by its callback. Calls of one
 * partition are carried out in the order they were made, whatever happens between: what was written and not
 * answered when a connection breaks, or was answered with MOVED, ASK, TRYAGAIN, CLUSTERDOWN, NOREPLICAS, BUSY
 * or MISCONF, is sent again once the partition's master is back, before anything newer. So a call must be one
 * that may be carried out twice. (What a server itself answers out of turn, refusing one call with TRYAGAIN
 * or BUSY and carrying out the next that was on its way already, is beyond that. With several connections per
 * server the order is kept per room.)
 *
 * Calls of one loop turn are one write per connection (redis_client_turn). With more than one connection per
 * server a room's calls always take the same one.
 *
 * A LIFE is what a master's data descends from (master_replid). Each one this worker has seen has a number,
 * from 1 on; a room opened under another life than its server's now has to be opened again. A call may name
 * the argument into which the life is to be put: it is filled in when the call is written, each time anew.
 *
 * Bounds: `queue_bytes` over all calls not answered, and a quarter more for those that are not `patient`;
 * REDIS_CLIENT_PATIENCE_MS for a call that is not `patient`. Loop thread only. Reconnects with pauses of
 * 50 ms to 2 s with jitter. One log line when a server is lost, with the fault by name, and one when it is
 * back. */
#ifndef CHATD_BUS_REDIS_CLIENT_H
#define CHATD_BUS_REDIS_CLIENT_H

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "chatd/bus.h"
#include "chatd/message.h"
#include "redis_conn.h"
#include "redis_target.h"
#include "redis_topology.h"

struct redis_client;

enum { REDIS_CLIENT_PATIENCE_MS = 5000 };

enum redis_result {
    REDIS_ANSWERED, /* `reply` is the answer, no error */
    REDIS_REFUSED,  /* an error that sending again won't change: logged here, once in a while */
    REDIS_FULL,     /* OOM: the server has no memory left. Nothing was changed */
    REDIS_AWAY,     /* not carried out as far as known: no patience, not wanted any more, or closing */
};

/* `life`: number of the life under which it was carried out; 0 unless REDIS_ANSWERED. */
typedef void redis_on_reply(void *arg, enum redis_result result, const redisReply *reply, uint32_t life);

struct redis_call {
    unsigned partition;
    struct text room;           /* picks the connection of several; may be empty */
    int script;                 /* index into the scripts: EVALSHA goes before the arguments; -1: a command */
    int keys;                   /* with a script: how many of the arguments are keys */
    int argc;
    const struct text *argv;    /* copied */
    int life_argument;          /* index in argv; its REDIS_LIFE_SIZE bytes become the life; -1: none */
    bool patient;               /* waits for Redis however long it is away */
    bool (*wanted)(void *arg);  /* asked before it is first written, if it waited; calls nothing; or NULL */
    redis_on_reply *done;
    void *arg;
};

struct redis_client_handler {
    void *arg;
    /* A partition's master answers again, or for the first time, or is another one. `changed`: under another
     * life than the last one, so what it knew may be gone. Before any waiting call is sent. */
    void (*on_life)(void *arg, unsigned partition, bool changed);
};

struct redis_client_options {
    uv_loop_t *loop;
    const struct redis_target *target;  /* borrowed for life */
    struct redis_topology *topology;    /* borrowed; the owner calls redis_client_topology when it changed */
    unsigned connections;               /* to each server */
    int64_t queue_bytes;
    const struct redis_script *scripts; /* borrowed, ends with a NULL source */
    struct redis_client_handler handler;
};

int redis_client_new(struct redis_client **client, const struct redis_client_options *options)
    __attribute__((warn_unused_result));

/* Answers every open call with REDIS_AWAY and closes. */
void redis_client_close(struct redis_client *client);

/* False: there is no place (queue_bytes); `done` is not called then. `done` never runs before it returns. */
bool redis_client_call(struct redis_client *client, const struct redis_call *call)
    __attribute__((warn_unused_result));

void redis_client_turn(struct redis_client *client);     /* once per loop turn: writes */
void redis_client_topology(struct redis_client *client); /* partitions have other masters now */

/* Number of the life that serves the partition now, 0 while none does; and since when (clock_monotonic_ms) it
 * was known to this worker. */
uint32_t redis_client_life(const struct redis_client *client, unsigned partition);
const char *redis_client_life_name(const struct redis_client *client, unsigned partition); /* NULL for none */
int64_t redis_client_life_since_ms(const struct redis_client *client, unsigned partition);

/* When the partition's master was last heard; what it was asked since then may have been lost. 0: never. */
int64_t redis_client_heard_ms(const struct redis_client *client, unsigned partition);

uint64_t redis_client_queued_bytes(const struct redis_client *client);

/* Not ok while the master of any partition is away or refuses to work (OOM, NOREPLICAS, MISCONF, NOPERM):
 * which, why, since. */
void redis_client_health(const struct redis_client *client, struct bus_health *health);

#endif
