/* bus_log.h - the bus of one host: bus.h on the ring in shared memory.
 *
 * Each worker attaches to the ring after fork: it gets an inbox (positions of the records that concern
 * it), a bit in the rooms it subscribes, and a robust "life" mutex that its main thread holds to its end;
 * who finds that mutex ownerless knows that the worker died and clears up after it. Workers wake each
 * other by one datagram to an abstract socket, once per batch. Loop thread only. */
#ifndef CHATD_BUS_LOG_H
#define CHATD_BUS_LOG_H

#include <uv.h>

#include "chatd/bus.h"
#include "chatd/ring.h"

/* `on_committed` (may be NULL) is called with `committed_arg` from the loop when the ring's committed
 * position passed what ring_await asked for: the store's way to hear of it. */
int bus_log_new(struct bus **bus, uv_loop_t *loop, struct ring *ring, const struct bus_handler *handler,
                void (*on_committed)(void *arg), void *committed_arg) __attribute__((warn_unused_result));

/* Detaches: subscriptions and memberships of this worker are gone. The memory is freed by the loop's close
 * callbacks. */
void bus_log_close(struct bus *bus);

#endif
