/* redis_client_core.h - what redis_client.c (calls and partitions) and redis_server.c (servers and their
 * answers) share.
 *
 * Each partition has its unanswered calls in the order they were made:
 *
 *     first [written] [written] ... [written]  next [waiting] [waiting] ... last
 *
 * In a HOLD there is no `next`: written and waiting ones are mixed, because a connection was lost or a server
 * told to come again. Nothing of the partition is written until no call is written any more (all answered or
 * lost) and the pause is over; then `next` is the first of all. So order holds whatever happened, and across
 * a change of the master.
 *
 * Callbacks of calls may close the client. Its memory, and that of its servers, stays until libuv let go of
 * the timers, so that all functions on the stack may look at `closed`. */
#ifndef CHATD_BUS_REDIS_CLIENT_CORE_H
#define CHATD_BUS_REDIS_CLIENT_CORE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "redis_client.h"
#include "redis_link.h"
#include "redis_request.h"

enum {
    REDIS_LIVES_MAX = 4096,
    REDIS_WORDS_MAX = 16, /* of errors, to tell each once in a while */
    REDIS_WORD_SIZE = 32,
    REDIS_TROUBLE_MAX = sizeof(((struct bus_health *)0)->error),
};

/* Calls whose answers are awaited on one connection, oldest first. */
struct written {
    struct redis_request *first, **end;
};

struct server {
    struct server *next;
    struct redis_client *client;
    struct redis_address address;
    struct redis_link *link;
    bool up;
    bool failed;          /* at least one try since it was opened */
    bool touched;         /* something was appended in this turn */
    uint32_t life;        /* its number, while it is up */
    unsigned asked;       /* calls that are to go here by ASK */
    int64_t used_ms;
    char error[REDIS_TROUBLE_MAX];   /* while it is down */
    char refusal[REDIS_TROUBLE_MAX]; /* why it doesn't work, though up; empty: it does */
    int64_t refused_ms;
    struct written written[]; /* one for each connection */
};

struct partition {
    struct server *server; /* NULL until its master is known */
    struct redis_request *first, *last, *next;
    unsigned written;
    bool holding;
    int64_t hold_until_ms;
    bool dirty;
    struct partition *next_dirty;
    uint32_t life; /* the last one; 0: none yet */
    int64_t life_since_ms, heard_ms;
};

struct life {
    char id[REDIS_LIFE_SIZE];
    uint32_t number;
};

struct word {
    char word[REDIS_WORD_SIZE];
    int64_t told_ms;
};

struct redis_client {
    uv_loop_t *loop;
    const struct redis_target *target;
    struct redis_topology *topology;
    unsigned connections;
    int64_t queue_bytes;
    const struct redis_script *scripts;
    struct redis_client_handler handler;
    bool closed;
    uv_timer_t tick, pause;
    int open_handles;
    uint64_t turn;
    int64_t queued, queued_bytes;
    int64_t latency_us, latency_from_ms; /* longest since then, with or without an answer */
    struct server *servers;
    struct partition *dirty;
    struct redis_request *doomed, **doomed_end; /* out of their lists, to be answered REDIS_AWAY */
    struct bus_health health;
    struct life lives[REDIS_LIVES_MAX]; /* a ring; the newest at lives_given % REDIS_LIVES_MAX */
    uint32_t lives_given;
    struct word words[REDIS_WORDS_MAX];
    unsigned partition_count;
    struct partition partitions[];
};

/* --- redis_client.c --- */

/* Nothing of the partition is written before its written calls are answered or lost and `pause_ms` is
 * over. */
void redis_client_hold(struct redis_client *client, unsigned partition, int pause_ms);

/* No longer written: answered, or lost, and then it keeps its place. */
void redis_client_take_back(struct redis_client *client, struct redis_request *request);

/* Out of its partition; then its callback, and it is no more. */
void redis_client_remove(struct redis_client *client, struct redis_request *request);
void redis_client_answer(struct redis_request *request, enum redis_result result, const redisReply *reply);

/* A server came or went, or works again or not: on_life for those of its partitions that it serves now. */
void redis_client_server_up(struct redis_client *client, struct server *server);
void redis_client_server_down(struct redis_client *client, struct server *server);
void redis_client_judge(struct redis_client *client);

/* --- redis_server.c --- */

/* The server at that address; opened if need be. */
struct server *redis_server_find(struct redis_client *client, const struct redis_address *address);

/* `request` goes to `server` next, by ASK; NULL: to its partition's master. */
void redis_server_ask(struct redis_request *request, struct server *server);
const char *redis_server_life(const struct server *server); /* of one that is up: REDIS_LIFE_SIZE bytes */

void redis_server_write(struct server *server, struct redis_request *request, int64_t now_us);
/* Age of what waits longest for its answer. */
int64_t redis_server_oldest_us(const struct redis_client *client);

void redis_server_drop_unused(struct redis_client *client);
void redis_server_free_all(struct redis_client *client);

#endif
