/* bus_redis.h - the bus of many servers: bus.h, and sessions.h, on Redis.
 *
 * One client per worker. What Redis holds, and which script does what, stands in src/bus/redis_keys.h; how
 * the rules of delivery are kept on it in src/ARCHITECTURE.md. Loop thread only, but for the two functions
 * that say so. */
#ifndef CHATD_BUS_REDIS_H
#define CHATD_BUS_REDIS_H

#include <uv.h>

#include "chatd/bus.h"
#include "chatd/config.h"
#include "chatd/sessions.h"

enum { BUS_REDIS_ERROR_MAX = 400 };

/* Whether the settings name a Redis. Any process. */
bool bus_redis_wanted(const struct config *config);

/* Checks the settings (form of `redis`, TLS that this build can't do, a store that can't go with it)
 * without talking to anybody. Negative errno with the reason in `error`. Any process: the master before it
 * forks, and `chatd -t`. */
int bus_redis_check(const struct config *config, char error[BUS_REDIS_ERROR_MAX])
    __attribute__((warn_unused_result));

/* Signs in at each server that the settings name, for at most three seconds each: 0, or a negative errno
 * with the first failure in `error`. Blocks: for `chatd -t`. */
int bus_redis_probe(const struct config *config, char error[BUS_REDIS_ERROR_MAX])
    __attribute__((warn_unused_result));

/* Never fails because Redis is away: calls wait, bus_health says so. `config` is borrowed for its life. */
int bus_redis_new(struct bus **bus, uv_loop_t *loop, const struct config *config,
                  const struct bus_handler *handler) __attribute__((warn_unused_result));

/* The end comes in two steps, when no connection and no store is left. First this worker says goodbye:
 * open calls are answered BUS_FAILED as they come back, and of the handlers only on_gone is called any
 * more. bus_turn goes on being called until bus_redis_left (all is written and answered) or the caller's
 * patience is over; then it is closed. The memory goes by the loop's close callbacks. */
void bus_redis_leave(struct bus *bus);
bool bus_redis_left(struct bus *bus);
void bus_redis_close(struct bus *bus);

struct sessions *bus_redis_sessions(struct bus *bus); /* lives as long as the bus */

/* Whether a message that was numbered here may be committed under its number now (rule 8). */
enum bus_stand {
    BUS_STANDS,   /* yes */
    BUS_WAITS,    /* not known: Redis is not heard; ask again */
    BUS_MOVED,    /* no: what numbered it is gone, it is to be published again */
};
enum bus_stand bus_redis_stand(void *bus, const struct message *message);

/* The store deletes the room's messages up to that number, all of them committed: the window shows them no
 * more, and sends whoever asks for them to the store. Tells how many users are in the room; ok is false when
 * Redis can't be asked now. May call back before it returns. */
typedef void bus_redis_on_forgot(void *arg, bool ok, uint32_t members);
void bus_redis_forget(void *bus, struct text room, uint64_t upto, bus_redis_on_forgot *done, void *arg);

#endif
