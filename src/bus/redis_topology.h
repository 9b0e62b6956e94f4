/* redis_topology.h - which server is the master for which rooms, now.
 *
 * Rooms are spread over PARTITIONS, whose keys share a hash tag: one for a single server or Sentinel, one per
 * shard, REDIS_CLUSTER_PARTITIONS in a cluster (each in one slot). Everything that one script or one pub/sub
 * channel touches lies in one partition.
 *
 * Single and shards: known at once, for good. Sentinel: the sentinels are asked one after the other for the
 * master (SENTINEL get-master-addr-by-name), the one that answered first the next time. Cluster: CLUSTER
 * SLOTS from any node of the last answer, the seeds last. Asked at the start, whenever somebody suspects the
 * answer (at once, but not within REDIS_TOPOLOGY_ASK_MS of the last question; then again with growing pauses
 * until the answer is another one), and each REDIS_TOPOLOGY_REFRESH_MS; one question at a time, on a
 * connection of its own. When nobody knows, all are asked again after a growing pause. A master that was
 * known once stays it until there is another one. Logged when the masters can't be found, and when they are
 * found or others. Loop thread only. */
#ifndef CHATD_BUS_REDIS_TOPOLOGY_H
#define CHATD_BUS_REDIS_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "chatd/message.h"
#include "redis_target.h"

struct redis_topology;

enum { REDIS_CLUSTER_PARTITIONS = 256, REDIS_TOPOLOGY_REFRESH_MS = 10000, REDIS_TOPOLOGY_ASK_MS = 100 };

/* `on_change` is called from the loop, never from inside a function of this header, after the master of at
 * least one partition became known or another; once at the start for single and shards. `target` is borrowed
 * for life. */
int redis_topology_new(struct redis_topology **topology, uv_loop_t *loop, const struct redis_target *target,
                       void (*on_change)(void *arg), void *arg) __attribute__((warn_unused_result));
void redis_topology_close(struct redis_topology *topology);

unsigned redis_topology_partitions(const struct redis_target *target);

/* The partition of a room (or any other name): CRC-16 of the name modulo the number of partitions; the same
 * on every server. Its hash tag is its number in decimal: `{17}`. */
unsigned redis_topology_partition(const struct redis_target *target, struct text name);

/* The slot of a partition's keys in a cluster: that of its hash tag. */
unsigned redis_topology_slot(unsigned partition);

/* The master of a partition, NULL while it isn't known. Valid until the next on_change. */
const struct redis_address *redis_topology_master(const struct redis_topology *topology, unsigned partition);

/* The answer was of no use (connection lost, replica, MOVED): ask again soon. What MOVED said can be given:
 * partition's slot is at `moved` now (NULL: unknown). on_change for that comes in the loop's next round. */
void redis_topology_suspect(struct redis_topology *topology, unsigned partition,
                            const struct redis_address *moved);

/* Empty when all partitions have a master, else why not ("sentinels: no answer", "slot 5461 is served by
 * nobody"). */
const char *redis_topology_error(const struct redis_topology *topology);

/* `MOVED slot host:port`, taken apart; without a host it is that of `asked`, who said so. False: no such
 * error. */
bool redis_moved_parse(const char *error, const struct redis_address *asked, unsigned *slot,
                       struct redis_address *moved);

/* How long to wait before the next try: 50 ms, twice as long each time, up to 2 s, give or take a quarter.
 * `*pause` is 0 before the first. For all that connects. */
unsigned redis_pause_next(unsigned *pause);

#endif
