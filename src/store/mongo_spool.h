/* mongo_spool.h - messages in files, between one life of chatd and the next: DATA_DIR/spool/UNIQUE.spool.
 *
 * A file is a magic line and records: length, checksum, a message. Who holds its lock (flock) owns it:
 * the worker that writes it, then the worker that replays it. It goes when all its messages are known to
 * be stored. A record that is cut off or damaged was never acked; it is logged and left out. */
#ifndef CHATD_MONGO_SPOOL_H
#define CHATD_MONGO_SPOOL_H

#include "chatd/store_mongo.h"

/* ---- Writing: blocks, for a worker's end ---- */

struct mongo_spool_file;

/* NULL when it can't be made; logged, as is everything that goes wrong later. */
struct mongo_spool_file *mongo_spool_create(const char *data_dir) __attribute__((warn_unused_result));
void mongo_spool_add(struct mongo_spool_file *file, const struct message *message);
void mongo_spool_end(struct mongo_spool_file *file); /* file and directory are on the disk when it returns */

/* ---- Replaying: loop thread; files are read by a thread ---- */

struct mongo_spool;

struct mongo_spool_options {
    const char *data_dir; /* the caller's, until mongo_spool_stop */
    void (*on_spooled)(void *arg, const struct message *message, store_on_number *done, void *done_arg);
    void *spooled_arg;
    void (*wake)(void *arg); /* mongo_spool_turn has something to do; from the thread */
    void *wake_arg;
};

/* Nothing is read before mongo_spool_go. Negative errno. */
int mongo_spool_start(struct mongo_spool **spool, const struct mongo_spool_options *options)
    __attribute__((warn_unused_result));

/* MongoDB is there: the files that nobody else has are replayed, and every MONGO_SPOOL_AGAIN_MS those
 * that are left or came since. */
void mongo_spool_go(struct mongo_spool *spool);

void mongo_spool_turn(struct mongo_spool *spool); /* hands up what was read */
bool mongo_spool_seen(struct mongo_spool *spool); /* all files were tried once */

/* Ends the thread. Messages handed up may be answered later still; their file stays. */
void mongo_spool_stop(struct mongo_spool *spool);

enum { MONGO_SPOOL_AGAIN_MS = 10000 };

#endif
