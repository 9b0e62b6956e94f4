/* redis_bus.h - what the files of bus_redis share, and who owns which part.
 *
 *     bus_redis.c         making and closing, turn, what is due later
 *     redis_channel.c     rooms with members here: subscriptions, what arrives on channels
 *     redis_shards.c      whether each shard belongs to the same list for all servers
 *     redis_open.c        open: rule 2
 *     redis_publish.c     publish, emit, settle, stand: rules 3, 4, 6, 8
 *     redis_window.c      window: rule 7
 *     redis_presence.c    enter, leave, count; entering everything again after a change of life
 *     redis_lists.c       members, rooms, counts of large rooms
 *     redis_sweep.c       the beat, the lease, connections of all servers
 *     redis_purge.c       what dead workers, and this one's earlier generations, left in the rooms
 *     redis_orphans.c     what dead workers published and nobody is known to have stored
 *     redis_sessions.c    sessions.h
 *     redis_retention.c   forget
 *
 * One struct per worker; everything here runs in the loop thread. */
#ifndef CHATD_BUS_REDIS_BUS_H
#define CHATD_BUS_REDIS_BUS_H

#include <uthash.h>

#include "chatd/buf.h"
#include "chatd/bus_redis.h"
#include "redis_client.h"
#include "redis_keys.h"
#include "redis_subscriber.h"
#include "redis_target.h"
#include "redis_topology.h"

struct redis_enter;

/* A user of a room who has connections on this worker. */
struct redis_user {
    UT_hash_handle hh;
    struct redis_enter *entering; /* the first one's enter is under way; NULL: it was answered */
    uint32_t connections;
    uint8_t length;
    char generation; /* of the worker's id, under which Redis has (or gets) this user: redis_presence.c */
    char name[];
};

/* Something that is due later; embedded in what waits. See redis_bus_later. */
struct redis_later {
    struct redis_later *next, **link; /* link NULL: not waiting */
    int64_t due_ms;
    void (*fire)(struct redis_later *later);
};

struct redis_peek; /* a look at a room's number and count that is on its way: private to bus_redis.c */

/* A room that is subscribed here, or on its way. */
struct redis_room {
    UT_hash_handle hh;
    struct bus_redis *bus;
    struct redis_user *users; /* ours: redis_presence.c */
    uint32_t members;         /* of all workers, as last heard */
    uint64_t version;         /* of `members` */
    uint64_t seen;            /* highest number heard */
    uint64_t opened;          /* the first one after a jump to another block: older ones moved (rule 8) */
    unsigned partition;
    bool subscribed;          /* bus_subscribe was answered BUS_OK */
    bool lost;                /* is told so at the end of the turn */
    bus_on_subscribed *done;  /* while it is on its way */
    void *arg;
    struct redis_later patience; /* ends that after REDIS_CLIENT_PATIENCE_MS */
    struct redis_peek *peek;  /* the newest one; NULL: none */
    size_t name_length;
    char name[];
};

/* What is known of a partition. */
struct redis_partition {
    struct bus_redis *b;
    struct buf settled; /* to take off `pending` at the end of the turn, each behind its uint16_t length */
    bool seen;          /* it has had a life */
    bool changed;       /* its life is not the first one that this worker sees */
    bool lost;          /* its rooms are told so at the end of the turn */
    int64_t again_ms;   /* when its users were last entered again because a room was gone */
    bool differs;       /* a shard of another list, or one that has not said yet: nothing goes there */
    bool told;          /* that it belongs to another list */
};

struct redis_presence; /* private to redis_presence.c */
struct redis_lists;    /* private to redis_lists.c */
struct redis_sweep;    /* redis_sweep.h */

enum {
    REDIS_DEAD_MS = 5000,    /* without a beat for so long, a worker is taken for dead */
    REDIS_ORPHAN_MS = 10000, /* not known to be stored for so long, a dead worker's message is cared for */
};

struct bus_redis {
    struct bus bus;
    struct sessions sessions;
    const struct config *config;
    uv_loop_t *loop;
    struct redis_target target;
    struct redis_topology *topology;
    struct redis_client *client;
    struct redis_subscriber *subscriber;
    struct redis_room *rooms; /* by name */
    struct redis_partition *partitions;
    unsigned partition_count;
    struct redis_later *later; /* what waits for its time, in no order; looked through by the timer */
    uv_timer_t timer;          /* runs while there is any */
    struct buf scratch;        /* bytes of the answer being handed up */
    struct bus_health health;  /* as of the last tick */
    int64_t odd_told_ms;       /* the last line about a payload or an answer that is not ours */
    bool any_lost;             /* a room or partition is */
    bool shards_differ;        /* a shard is known to belong to another list: nothing goes to any */
    struct redis_presence *presence;
    struct redis_lists *lists;
    struct redis_sweep *sweep;
    /* While handler.on_gone runs: what redis_emit tells if the room isn't subscribed here any more (the
     * last one here has left it). Version 0: it doesn't run. */
    uint32_t gone_members;
    uint64_t gone_version;
    uint64_t uid_prefix, uid_counter;
    char id[WORKER_ID_SIZE + 1];
    bool ending;  /* what is still asked for is answered BUS_FAILED; only what concerns others goes out */
    bool closing; /* nothing is taken any more, and handlers are not called */
};

static inline struct bus_redis *bus_redis_self(struct bus *bus)
{
    return (struct bus_redis *)bus;
}

unsigned redis_bus_partition(const struct bus_redis *b, struct text room);
struct redis_room *redis_bus_room(struct bus_redis *b, struct text name); /* NULL: not subscribed here */
static inline struct text redis_room_name(const struct redis_room *room)
{
    return (struct text){room->name, room->name_length};
}

/* Whether anything may go to this partition: not while the bus closes, or to a shard of another list. */
bool redis_bus_usable(const struct bus_redis *b, unsigned partition);

/* The command and the channel for a room's payloads: PUBLISH, or SPUBLISH in a cluster. */
struct text redis_bus_publish_command(const struct bus_redis *b);
void redis_bus_channel(const struct bus_redis *b, struct buf *out, unsigned partition, struct text room);

/* Calls `fire` once at about `due_ms` (clock_monotonic_ms; REDIS_BUS_STEP_MS late at most), or early when
 * the bus closes (b->closing). It may be asked for again from inside. */
enum { REDIS_BUS_STEP_MS = 50 };
void redis_bus_later(struct bus_redis *b, struct redis_later *later, int64_t due_ms,
                     void (*fire)(struct redis_later *later));
void redis_bus_not_later(struct redis_later *later); /* harmless when it isn't waiting */

/* One line, at most one in a while, about something that no chatd says. */
void redis_bus_odd(struct bus_redis *b, const char *what, struct text room);

/* The place of the life among a call's arguments: filled in by the client. */
#define REDIS_BUS_LIFE ((struct text){"........................................", REDIS_LIFE_SIZE})

/* For calls whose answer doesn't matter. */
void redis_bus_ignore(void *arg, enum redis_result result, const redisReply *reply, uint32_t life);

/* How long ago the partition's life began to be another one is less than failover_grace: what was numbered
 * before may still be on its way to the store (rules 2 and 7). */
bool redis_bus_in_grace(const struct bus_redis *b, unsigned partition);

/* redis_channel.c */
void redis_channel_new(struct bus_redis *b); /* when the subscriber is there */
void redis_subscribe(struct bus *bus, struct text name, bus_on_subscribed *done, void *arg);
void redis_unsubscribe(struct bus *bus, struct text name);
void redis_channel_message(void *arg, void *channel, struct text payload); /* for the subscriber */
void redis_channel_subscribed(void *arg, void *channel, bool again);
void redis_channel_turn(struct bus_redis *b);  /* tells rooms that may have missed something */
void redis_channel_close(struct bus_redis *b); /* gives up all rooms */

/* redis_shards.c */
void redis_shards_new(struct bus_redis *b);
void redis_shards_check(struct bus_redis *b, unsigned partition); /* its server is there (again) */
void redis_shards_tick(struct bus_redis *b);
void redis_shards_health(const struct bus_redis *b, char *error, size_t size); /* empty: nothing is wrong */

/* redis_open.c, redis_publish.c, redis_window.c */
void redis_open(struct bus *bus, struct text room, uint64_t highest,
                void (*done)(void *arg, enum bus_status status), void *arg);
void redis_publish(struct bus *bus, const struct bus_publish *publish, bus_on_published *done, void *arg);
bool redis_emit(struct bus *bus, struct text room, struct text user, struct text event);
void redis_window(struct bus *bus, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                  bus_on_window *done, void *arg);
void redis_settle(struct bus *bus, const struct message *message, uint64_t stored);
void redis_publish_turn(struct bus_redis *b); /* one ZREM per partition with settled messages */

/* A window entry's header: sets uid, time_ms, user and key, which point into it; false when it isn't one of
 * ours. */
bool redis_header_parse(struct text header, struct message *message);
/* The event in the payload of a message, which is what a window entry has as well; received_us as in struct
 * message. */
struct text redis_payload_event(struct text payload, int64_t *received_us);

/* redis_presence.c */
void redis_presence_new(struct bus_redis *b);  /* when target and id are there, before any other of these */
void redis_presence_free(struct bus_redis *b); /* when the client is closed */
void redis_enter(struct bus *bus, struct text room, struct text user, bus_on_members *done, void *arg);
void redis_leave(struct bus *bus, struct text room, struct text user);
uint32_t redis_count(struct bus *bus, struct text room);
/* The newer version wins; room may be NULL. */
void redis_presence_count(struct redis_room *room, uint32_t members, uint64_t version);
void redis_presence_forget(struct redis_room *room); /* its users, before it is freed */
/* What Redis has of this worker in that partition may be wrong: all its users are entered again, under a new
 * generation, and then the old one is purged. Begins with the next redis_presence_turn. */
void redis_presence_again(struct bus_redis *b, unsigned partition);
void redis_presence_turn(struct bus_redis *b); /* once per loop turn */
void redis_presence_tick(struct bus_redis *b); /* once a second */
/* A user is gone from a room: tells handler.on_gone. */
void redis_presence_gone(struct bus_redis *b, struct text room, struct text user, uint32_t members,
                         uint64_t version);
/* Whether an entry of `owners` is of this worker; `stale`: and of a generation that nobody is in any more. */
bool redis_presence_own(const struct bus_redis *b, unsigned partition, const char id[WORKER_ID_SIZE],
                        bool *stale);
/* `owners` was read: none of ours is stale. */
void redis_presence_clean(struct bus_redis *b, unsigned partition);

/* redis_lists.c */
void redis_lists_new(struct bus_redis *b);
void redis_lists_free(struct bus_redis *b); /* when the client is closed */
void redis_members(struct bus *bus, struct text room, uint32_t limit,
                   void (*done)(void *arg, uint32_t count, const struct text *users, uint32_t listed),
                   void *arg);
void redis_rooms(struct bus *bus, uint32_t limit, bus_on_rooms *done, void *arg);
void redis_lists_tick(struct bus_redis *b); /* once a second: counts of large rooms */

/* redis_sweep.c */
void redis_sweep_new(struct bus_redis *b);  /* after the client: the first beat goes before any enter */
void redis_sweep_end(struct bus_redis *b);  /* before the client is closed: good-bye, behind the leaves */
void redis_sweep_free(struct bus_redis *b); /* when the client is closed */
void redis_sweep_tick(struct bus_redis *b); /* once a second: beat; with the lease: orphans, dead workers */
/* redis_orphans.c: by redis_settle, with what it was given. */
void redis_sweep_settled(struct bus_redis *b, const struct message *message);

/* redis_sessions.c */
void redis_sessions_init(struct bus_redis *b);

#endif
