/* redis_subscriber.h - the channels that a worker listens to: one connection per server that has any of them.
 *
 * Knows nothing of rooms: a channel is a name in a partition. On a cluster SSUBSCRIBE to the partition's
 * master, else SUBSCRIBE. After a loss (also: `sunsubscribe` because a slot moved,
 * client-output-buffer-limit, silence, another master) every channel is subscribed again,
 * REDIS_SUBSCRIBER_BATCH of a partition to a command, and on_subscribed tells for each that messages may have
 * been missed. A connection is opened when a server has a channel of ours, again after a loss with growing
 * pauses (50 ms to 2 s, with jitter), and closed REDIS_SUBSCRIBER_LINGER_MS after the last channel, or when
 * the server is no master any more. All commands are written by redis_subscriber_turn, one write per server.
 * One log line when a server is lost, or refuses to subscribe, and one when it is back. Loop thread only. */
#ifndef CHATD_BUS_REDIS_SUBSCRIBER_H
#define CHATD_BUS_REDIS_SUBSCRIBER_H

#include <uv.h>

#include "chatd/bus.h"
#include "chatd/message.h"
#include "redis_target.h"
#include "redis_topology.h"

struct redis_subscriber;

enum { REDIS_SUBSCRIBER_BATCH = 500, REDIS_SUBSCRIBER_LINGER_MS = 10000 };

/* Called from the loop, never from inside a function of this header; every function of it may be called from
 * them. */
struct redis_subscriber_handler {
    void *arg;
    /* `channel` is the pointer given to redis_subscriber_add. Borrowed payload. */
    void (*on_message)(void *arg, void *channel, struct text payload);
    /* Subscribed: `again` false for the first time, true after a loss: catch up. From here on each message
     * arrives or another call with `again` follows. */
    void (*on_subscribed)(void *arg, void *channel, bool again);
};

/* `target` and `topology` are borrowed for life; the owner calls redis_subscriber_topology on a change. */
int redis_subscriber_new(struct redis_subscriber **subscriber, uv_loop_t *loop,
                         const struct redis_target *target, struct redis_topology *topology,
                         const struct redis_subscriber_handler *handler) __attribute__((warn_unused_result));
void redis_subscriber_close(struct redis_subscriber *subscriber);

/* `name` is copied; one name is added once at a time (a second `channel` takes the place of the first).
 * on_subscribed comes later, when the server is there: also for one that was removed a moment ago. */
void redis_subscriber_add(struct redis_subscriber *subscriber, unsigned partition, struct text name,
                          void *channel);

/* Nothing is called for it any more. */
void redis_subscriber_remove(struct redis_subscriber *subscriber, struct text name);

void redis_subscriber_turn(struct redis_subscriber *subscriber);     /* once per loop turn: writes */
void redis_subscriber_topology(struct redis_subscriber *subscriber); /* partitions have other masters now */

/* The partition's master has this life (REDIS_LIFE_SIZE bytes) for those who send commands to it. A
 * connection that is still with a server of another one, behind a name or a proxy that leads elsewhere
 * now, begins anew. */
void redis_subscriber_life(struct redis_subscriber *subscriber, unsigned partition, const char *life);

/* Not ok while a server that has channels of ours is away, not known, or refuses to subscribe. As of the last
 * turn. */
void redis_subscriber_health(const struct redis_subscriber *subscriber, struct bus_health *health);

#endif
