/* sqlite_writer.h - the thread that stands for the office of this host's writer, until its turn comes.
 *
 * Each worker has one. Whoever holds the ring's writer lock commits all workers' messages in the ring's
 * order; the others sleep in that lock, without a database open. */
#ifndef CHATD_SQLITE_WRITER_H
#define CHATD_SQLITE_WRITER_H

#include "chatd/ring.h"

struct sqlite_writer;

/* `ring` stays the caller's, and until sqlite_writer_stop. */
int sqlite_writer_start(struct sqlite_writer **writer, struct ring *ring, const char *data_dir)
    __attribute__((warn_unused_result));

/* Ends and frees the thread: one in office first commits what is in the ring now, for at most `patience_ms`.
 * One that waits for the office notices within a second; when all workers stop at once, at once, because the
 * office is handed on. */
void sqlite_writer_stop(struct sqlite_writer *writer, int patience_ms);

#endif
