/* redis_request.h - one call of redis_client on its way: its bytes in RESP and its place in the lists. */
#ifndef CHATD_BUS_REDIS_REQUEST_H
#define CHATD_BUS_REDIS_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "redis_client.h"

struct server;

struct redis_request {
    struct redis_request *previous, *next; /* in its partition, in the order of the calls */
    struct redis_request *next_written;    /* on its connection, in the order of the answers */
    struct server *ask;                    /* where the next try goes instead of the master, or NULL */
    redis_on_reply *done;
    bool (*wanted)(void *arg);
    void *arg;
    int64_t made_ms, written_us;
    uint64_t made_turn;
    unsigned partition;
    uint32_t room_hash;
    uint32_t life;   /* under which it was last written */
    bool patient;
    bool tried;      /* written at least once */
    bool written;    /* and not answered or lost */
    bool asking;     /* the answer to ASKING comes first */
    size_t life_offset; /* in `resp`; 0: there is none */
    size_t length;
    char resp[];
};

/* One allocation, free() is enough. Aborts when there is no memory. */
struct redis_request *redis_request_new(const struct redis_call *call, const struct redis_script *scripts);

/* What it would take (redis_request_new's allocation). */
size_t redis_request_size(const struct redis_call *call);

#endif
