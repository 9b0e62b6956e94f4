/* mongo_queue.h - with Redis: the bounded queue of what this worker has to commit, and the thread that
 * does.
 *
 * One batch is out at a time. Right before it goes the bus is asked about each message whether its number
 * stands (rule 8); that happens on the loop, so a batch that failed comes back to the loop, waits there
 * (50 ms to 5 s, with jitter), and its messages are the first of the next one. What became of a message
 * that was sent and not answered isn't known: it is inserted again, which is harmless; one whose number
 * doesn't stand any more is only looked for by its key, and if it isn't there it is STORE_MOVED: should
 * the first try get through after that, the unique key keeps one of the two out and the ack names the
 * other. */
#ifndef CHATD_MONGO_QUEUE_H
#define CHATD_MONGO_QUEUE_H

#include "mongo_link.h"
#include "mongo_notes.h"

struct mongo_queue;

struct mongo_queue_options {
    struct mongo_link *link; /* both the caller's, until mongo_queue_free */
    struct mongo_notes *notes;
    const struct config *config; /* store_queue_bytes is read each time: it may change */
    enum bus_stand (*stand)(void *arg, const struct message *message);
    void *stand_arg;
    void (*wake)(void *arg); /* mongo_queue_take has something to do; any thread */
    void *wake_arg;
};

/* Starts the thread. Indexes are made before the first batch, and at once. Negative errno. */
int mongo_queue_start(struct mongo_queue **queue, const struct mongo_queue_options *options)
    __attribute__((warn_unused_result));

/* All following: loop thread. */

void mongo_queue_commit(struct mongo_queue *queue, const struct message *message, store_on_number *done,
                        void *arg);
bool mongo_queue_full(const struct mongo_queue *queue);
uint64_t mongo_queue_bytes(const struct mongo_queue *queue);

/* Hands the next batch to the thread if it is idle: to be called before the loop sleeps. Returns in how
 * many ms to call again at the latest, 0: when woken. */
int mongo_queue_turn(struct mongo_queue *queue);

/* About once a second: sets store_latency_seconds. */
void mongo_queue_show(struct mongo_queue *queue);

/* Calls back for what has been answered. */
void mongo_queue_take(struct mongo_queue *queue);

/* Goes on committing for at most `patience_ms` or until that fails, spools the rest, ends the thread
 * (which may take the socket's timeout, from when the batch went; the spool is written before that), and
 * answers everybody: STORE_OK what is stored, STORE_FAILED all else. What is committed from now on is
 * STORE_FAILED; mongo_queue_take says so. */
void mongo_queue_stop(struct mongo_queue *queue, int patience_ms);
void mongo_queue_free(struct mongo_queue *queue);

#endif
