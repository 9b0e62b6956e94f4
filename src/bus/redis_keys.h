/* redis_keys.h - what chatd keeps in Redis: every key, every script, every payload.
 *
 * {P} is the hash tag of a partition (redis_topology.h): all keys of a room, and its channel, share one.
 *
 *     chatd:{P}:room:ROOM      hash    life  master_replid under which the room was opened
 *                                      n     its highest number
 *                                      t     the time (ms) of that message, never falling
 *                                      b     n when it was opened under this life: records up to it may be
 *                                            missing from the window though the store has them, and what is
 *                                            pending of them is to be published anew (rule 8)
 *                                      bt    the time of that opening
 *                                      g, gt which of the two hashes of keys is the current one, until when
 *                                      lives REDIS_ROOM_TTL_MS beyond its last message
 *     chatd:{P}:window:ROOM    stream  the recent messages; id `<number>-0`; fields h = header, e = payload;
 *                                      capped at about window_messages, gone window_ttl after the last one
 *     chatd:{P}:keys0:ROOM     hashes  field = user NUL key, or NUL uid for a message without a key; value =
 *     chatd:{P}:keys1:ROOM             number. They take turns: each is emptied when it becomes current,
 *                                      after retry_window at least: a key is known for one to two of
 *                                      these. The field "" makes it a real hash from the first key on
 *     chatd:{P}:pending        zset    ROOM NUL number, by time (ms): accepted, not known to be in the store
 *     chatd:{P}:members:ROOM   hash    field = user; value = ids of the workers that have the user, one after
 *                                      the other, WORKER_ID_SIZE bytes each; field "" = version: rises with
 *                                      every change, even when the hash was gone in between (the time in
 *                                      microseconds, or the last + 1)
 *     chatd:{P}:active         zset    rooms with members, by their number
 *     chatd:{P}:of:WORKER      set     rooms in which that worker has members
 *     chatd:{P}:owners         set     workers that have a set `of`
 *                                      In these three the last character of a worker's id is its generation
 *                                      (redis_presence.c)
 *     chatd:{0}:workers        hash    worker id -> `<time of its last beat> <connections> <its uid prefix in
 *                                      hex> <when this entry was made> <since when it beats without a pause>`
 *     chatd:{0}:sweeper        string  `<id of who holds the sweep lease> <connections of all>`, expires
 *     chatd:{P}:session:TOKEN  hash    u = user, seen = ms, and `r` ROOM for each room; expires after
 *                                      session_ttl
 *     chatd:{P}:user:USER      hash    seen = ms; expires after session_ttl
 *     chatd:{P}:since          string  the time (ms) when somebody found this key missing: what was here
 *                                      before is forgotten (open.lua)
 *     chatd:{0}:shards         string  this server's place in the list of shards, and the list; `1 of 1` for
 *                                      a single one, `cluster` for a cluster
 *     channel chatd:DB:{P}:ROOM        everything for those who have members in the room; without a ROOM
 *                                      nothing: each worker listens to that one
 *
 * Header of a window entry: uid (16 bytes), time (decimal ms), NUL, user, NUL, key.
 *
 * The answers of publish, open, peek and window begin with a status, one of enum bus_status.
 *
 * Payloads on a channel, told apart by their first byte:
 *     m<number> <event>                       a message; the number before it is its own - 1
 *     e<version> <members> <length of user> <user><event>
 *                                             a passing event, with the sender's knowledge of the count
 *
 * All times are Redis' (TIME): clocks of servers don't matter. Scripts name all keys that they touch as
 * KEYS, so that a cluster in the middle of a move answers TRYAGAIN instead of running them on half of the
 * data; the exceptions are `purge`, `rooms` and `pending`, which find their rooms in the data. */
#ifndef CHATD_BUS_REDIS_KEYS_H
#define CHATD_BUS_REDIS_KEYS_H

#include <stddef.h>
#include <stdint.h>

#include "chatd/buf.h"
#include "chatd/message.h"
#include "redis_conn.h"

enum { WORKER_ID_SIZE = 8 }; /* random letters and digits, new for each process */

#define REDIS_ROOM_TTL_MS (7LL * 86400 * 1000)

/* The scripts in src/bus/scripts/ (embedded by src/bus/redis_scripts.S), in this order. */
enum redis_script_index {
    SCRIPT_PUBLISH, /* number, append, key, pending, publish */
    SCRIPT_OPEN,    /* make a room known under the present life */
    SCRIPT_PEEK,    /* highest number, members, version: after a subscription */
    SCRIPT_WINDOW,  /* a range of the stream, and whether what is below it is pending */
    SCRIPT_ENTER,   /* a user on a worker, in a room */
    SCRIPT_LEAVE,
    SCRIPT_MEMBERS, /* some names and the count */
    SCRIPT_ROOMS,   /* active rooms of a partition with members and number */
    SCRIPT_BEAT,    /* this worker lives, has so many connections; who else; the lease */
    SCRIPT_PENDING, /* entries of a partition that are older than REDIS_ORPHAN_MS, with their records */
    SCRIPT_PURGE,   /* takes a worker's members out of some rooms of a partition */
    SCRIPT_FORGET,  /* takes a room's oldest records out of the window, since the store deletes them */
    SCRIPT_COUNT
};

/* The process's list, ready for redis_conn; ends with a NULL source. */
struct redis_script *redis_scripts(void);

/* Appends `chatd:{P}:KIND:NAME` (or `chatd:{P}:KIND` with an empty name). */
void redis_key(struct buf *out, unsigned partition, const char *kind, struct text name);

#endif
