/* ring.h - the embedded log: one append-only ring in shared memory for all workers of a host.
 *
 * A file in /dev/shm named by boot id and data directory, so it outlives kill -9 of every process: after
 * that nothing is opened anew and what was accepted but not yet committed is still there; after a reboot
 * it is gone, and so are the numbers nobody stored (rooms are opened above them).
 *
 * Positions are bytes since the ring was made, rising forever; a record lies at position modulo size. tail
 * <= committed <= head: [tail, head) can be read, [committed, head) waits for the store and is never
 * overwritten.
 *
 * Appending, rooms and members (roster.c) are guarded by one robust process-shared mutex. Records are read
 * without it: copy, then check that the tail has not passed. A process that dies inside the mutex leaves a
 * redo note; the next holder finishes or forgets the record, and rebuilds all links from the rows.
 *
 * This header is for those who share the ring with the bus: the master that makes it, and the store that
 * follows it. */
#ifndef CHATD_RING_H
#define CHATD_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/message.h"

struct ring;

enum { RING_ID_SIZE = 16, RING_ATTACH_MAX = 512, RING_ERROR_MAX = 200 };

/* Makes or finds the ring of a data directory. `store_id` names the store's content: a ring that belongs
 * to another one is thrown away. `size` is what the records may take; a ring of another size is made anew
 * unless it holds uncommitted records (then it stays and a warning is logged). By the master, before fork.
 * Negative errno, with the reason in `error`. */
int ring_open(struct ring **ring, const char *data_dir, const uint8_t store_id[RING_ID_SIZE], uint64_t size,
              char error[RING_ERROR_MAX]) __attribute__((warn_unused_result));
void ring_close(struct ring *ring); /* unmaps; the file stays */

/* A ring that was made, not found, remembers no room. Numbers that an earlier one gave but that were never
 * stored are known to nobody now: until ring_begin says that the store has moved its numbers above them
 * (store_sqlite_new_life), it is new. */
bool ring_is_new(const struct ring *ring);
void ring_begin(struct ring *ring);

const uint8_t *ring_store_id(const struct ring *ring); /* RING_ID_SIZE bytes: what ring_open was given */
const char *ring_path(const struct ring *ring);

/* --- The store's side: one writer per host at a time, in a thread of its own --- */

/* Waits up to `timeout_ms` to become the writer; a holder that died is replaced at once. Only the thread
 * that locked unlocks. */
bool ring_writer_lock(struct ring *ring, int timeout_ms) __attribute__((warn_unused_result));
void ring_writer_unlock(struct ring *ring);

uint64_t ring_committed(const struct ring *ring);
uint64_t ring_head(const struct ring *ring);

/* Messages between the two. Any process. */
uint64_t ring_waiting(const struct ring *ring);

/* The first message at or after *position and before the head: fills *message (pointing into the ring;
 * valid until it is committed) and moves *position behind it. False when there is none yet (*position may
 * have moved over other kinds of records). Writer only. */
bool ring_next(struct ring *ring, uint64_t *position, struct message *message)
    __attribute__((warn_unused_result));

/* Notes that the message at `position` stands in the store under `seq` (rule 5: its key was there already
 * under that number). Before ring_commit passes it. Writer only. */
void ring_settle(struct ring *ring, uint64_t position, uint64_t seq);

/* Rule 5, other uid under the same number: publishes the message again under a number above `highest`;
 * whoever waits for the old position will wait for the new one. False when the ring is full (try again
 * after committing). Writer only. */
bool ring_republish(struct ring *ring, const struct message *message, uint64_t highest)
    __attribute__((warn_unused_result));

/* The store deletes the room's messages up to that number, all of them committed: the window doesn't show
 * them any more, and sends whoever asks for them to the store. Any thread. */
void ring_forget(struct ring *ring, struct text room, uint64_t upto);

uint32_t ring_members(struct ring *ring, struct text room); /* users that are in it now; any thread */

/* Everything before `position` is durable: moves `committed` and wakes the workers that wait for it.
 * Writer only. */
void ring_commit(struct ring *ring, uint64_t position);

/* Sleeps until something was appended at or after `position`, ring_kick, or the time is over. Writer only. */
void ring_wait(struct ring *ring, uint64_t position, int timeout_ms);
void ring_kick(struct ring *ring); /* wakes the writer of any process; any thread */

/* What the writer says of itself, for /health: an empty error is good news. Any process reads it. */
void ring_report(struct ring *ring, const char *error);
bool ring_report_get(const struct ring *ring, char error[RING_ERROR_MAX], int64_t *since_ms);

/* How long the writer has not been seen at work (committing, waiting for more) although something waits
 * for it: it may hang in the kernel, where it can report nothing. 0 while nothing waits. Any process. */
int64_t ring_stalled_ms(const struct ring *ring);

/* Whether this worker is the one that tells what concerns the whole host: one of those that live. */
bool ring_speaks(const struct ring *ring);

/* --- Waiting for the commit: loop thread of a worker --- */

enum ring_outcome {
    RING_WAITING,  /* not committed yet; *position may have moved on (republished) */
    RING_STORED,   /* under *seq */
    RING_LAPPED,   /* committed, but the record is overwritten: ask the store which number it has */
};

/* What became of the record at *position, whose uid is given. */
enum ring_outcome ring_outcome(const struct ring *ring, uint64_t *position,
                               const uint8_t uid[MESSAGE_UID_SIZE], uint64_t *seq);

/* Asks that this worker's bus be woken (bus_log.h's on_committed) once `committed` has passed `position`;
 * 0: none. Returns true when it has passed already, and then no wake comes. */
bool ring_await(struct ring *ring, uint64_t position);

#endif
