/* redis_sweep.h - what redis_sweep.c, redis_purge.c and redis_orphans.c share.
 *
 * Each worker beats once a second; one of them holds the lease and looks after the dead: their users
 * (purge) and their messages (orphans). It judges by the list of the living that came with its last beat. */
#ifndef CHATD_BUS_REDIS_SWEEP_H
#define CHATD_BUS_REDIS_SWEEP_H

#include "redis_bus.h"

enum { SWEEP_PREFIX_SIZE = 8 }; /* of a uid: the same in all of a worker's messages */

struct purge;
struct orphan;

/* The last batch of orphans of a partition. */
struct sweep_partition {
    uint32_t skip;      /* entries of `pending` to pass over, as the last answer said */
    uint32_t under_way; /* handed up, not settled */
    bool asked;         /* an answer is awaited */
};

struct redis_sweep {
    bool beating;       /* a beat is under way */
    bool judges;        /* the last one held the lease, and knows who is dead */
    int64_t judges_ms;  /* when that was heard */
    uint64_t born;      /* Redis' time of when this worker's entry was made; 0: not known yet */
    uint32_t beats;     /* sent */
    struct buf living;   /* ids of the living, WORKER_ID_SIZE bytes each, sorted by sweep_id_compare */
    struct buf prefixes; /* of their uids, SWEEP_PREFIX_SIZE bytes each */
    unsigned hand;       /* partition to be looked at next */
    struct sweep_partition *partitions;
    struct purge *purges;
    unsigned purges_running;
    struct orphan *orphans; /* handed up */
};

int sweep_id_compare(const void *a, const void *b); /* of the same worker, whatever generation: 0 */

/* redis_purge.c. Reads `owners` of a partition: this worker's earlier generations are purged, and the dead
 * once a beat that is sent after that says so. */
void redis_purge_look(struct bus_redis *b, unsigned partition);
void redis_purge_judge(struct bus_redis *b, uint32_t beat); /* a beat was answered, by its number */
void redis_purge_free(struct redis_sweep *s);

/* redis_orphans.c */
void redis_orphans_look(struct bus_redis *b, unsigned partition);
void redis_orphans_tick(struct bus_redis *b); /* once a second: what was handed up long ago may be again */
void redis_orphans_free(struct redis_sweep *s);

#endif
