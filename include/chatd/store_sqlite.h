/* store_sqlite.h - store.h on one SQLite database per host, fed by the ring.
 *
 * DATA_DIR/chat.db, WAL, synchronous FULL. Each worker has one store thread that stands for the writer's
 * office (the ring's writer lock): whoever holds it follows the ring from `committed` on, one transaction per
 * batch, and moves `committed` after the COMMIT, and between its commits deletes what is past its time
 * (src/store/sqlite_retention.h); and one reader thread with a read-only connection of its own
 * for history, keys and rooms. */
#ifndef CHATD_STORE_SQLITE_H
#define CHATD_STORE_SQLITE_H

#include <uv.h>

#include "chatd/config.h"
#include "chatd/ring.h"
#include "chatd/store.h"

/* Makes or checks the database (schema, journal mode, a store_id of its own) and closes it again: by the
 * master, before it forks. Negative errno with the reason in `error`. */
int store_sqlite_prepare(const char *data_dir, uint8_t store_id[RING_ID_SIZE], char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));

/* For a new ring (ring_is_new): moves every room's highest number up to the next multiple of 2^20, and
 * that of rooms the store doesn't know likewise, so that no number given before a power cut is given
 * again, stored or not. By the master. */
int store_sqlite_new_life(const char *data_dir, char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));

/* Starts the two threads, after the fork. The ring stays the caller's; it has a seat of this worker
 * (bus_log_new) before the first store_commit and until store_sqlite_close, and is not closed before that.
 * `config`, borrowed for life, says what is past its time (retention_…). Negative errno. */
int store_sqlite_new(struct store **store, uv_loop_t *loop, struct ring *ring, const char *data_dir,
                     const struct config *config) __attribute__((warn_unused_result));

/* The ring's committed position has moved: hand it to bus_log_new. `arg` is the store. */
void store_sqlite_on_committed(void *arg);

/* Ends the threads: a writer first commits what is in the ring, for at most `patience_ms`. What is stored by
 * then is said so, requests not answered yet are answered STORE_FAILED. Blocks for that time, and up to a
 * second longer in a worker that only waited to become the writer: its last act, when no connection is left,
 * before bus_log_close. The memory is freed by the loop's close callback. */
void store_sqlite_close(struct store *store, int patience_ms);

#endif
