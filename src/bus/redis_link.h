/* redis_link.h - the command connections to one Redis server, opened again for as long as the link is wanted.
 *
 * A link is up while all its connections are signed in under one life; one that is lost takes the others with
 * it, so that whoever waits for answers has one moment at which all of them are lost. Then it is tried again
 * with growing pauses (redis_pause_next). Logs `redis_lost` when that happens or the reason becomes another,
 * and `redis_ready`. Loop thread only; nothing is called from inside a function of this header. */
#ifndef CHATD_BUS_REDIS_LINK_H
#define CHATD_BUS_REDIS_LINK_H

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "redis_conn.h"

struct redis_link;

enum { REDIS_LINK_ERROR_MAX = 512 };

struct redis_link_handler {
    void *arg;
    void (*on_up)(void *arg, const char *life); /* REDIS_LIFE_SIZE bytes */
    /* The answer to the oldest command of that connection. */
    void (*on_reply)(void *arg, unsigned conn, const redisReply *reply);
    /* It was up and isn't any more, or a try to get there failed. `error`: server, fault and reason, for
     * people. */
    void (*on_down)(void *arg, const char *error);
};

struct redis_link_options {
    uv_loop_t *loop;
    const struct redis_target *target;   /* borrowed for life */
    const struct redis_address *address; /* copied */
    unsigned connections;
    const struct redis_script *scripts;  /* borrowed for life */
    struct redis_link_handler handler;   /* copied */
};

int redis_link_open(struct redis_link **link, const struct redis_link_options *options)
    __attribute__((warn_unused_result));
void redis_link_close(struct redis_link *link); /* calls nothing any more; from any callback */

/* While it is up: one command, to be written by the next flush, which writes each connection's once. */
void redis_link_append(struct redis_link *link, unsigned conn, const char *resp, size_t length);
void redis_link_flush(struct redis_link *link);

/* When the server was last heard (clock_monotonic_ms), also while it is down; 0: never. */
int64_t redis_link_heard_ms(const struct redis_link *link);

#endif
