/* sqlite_reader.h - the thread that reads for one worker, and the bounded queue of what it is asked.
 *
 * Loop thread only, but for on_ready. Requests are answered in order. Answers wait in memory until they are
 * taken; when they are too many bytes the thread waits too. */
#ifndef CHATD_SQLITE_READER_H
#define CHATD_SQLITE_READER_H

#include "sqlite_query.h"

struct sqlite_reader;

/* `on_ready` says that answers can be taken; it is called from the reader's thread, or from
 * sqlite_reader_submit. */
int sqlite_reader_start(struct sqlite_reader **reader, const char *data_dir, void (*on_ready)(void *arg),
                        void *arg) __attribute__((warn_unused_result));

/* Ends the thread. What is not answered yet is STORE_FAILED and can be taken, as can everything that is
 * submitted from now on. */
void sqlite_reader_stop(struct sqlite_reader *reader);
void sqlite_reader_free(struct sqlite_reader *reader); /* stopped, and all answers taken */

/* A request about these names (those that don't matter have length 0), to be filled further and submitted. */
struct sqlite_request *sqlite_reader_request(struct sqlite_reader *reader, enum sqlite_query_kind kind,
                                             struct text room, struct text user, struct text key);

/* Hands the request over; it comes back through sqlite_reader_take, with STORE_BUSY when too many wait. */
void sqlite_reader_submit(struct sqlite_reader *reader, struct sqlite_request *request);

/* An answered request, NULL when there is none; give it back with sqlite_reader_recycle. */
struct sqlite_request *sqlite_reader_take(struct sqlite_reader *reader);
void sqlite_reader_recycle(struct sqlite_reader *reader, struct sqlite_request *request);

/* False while reading fails: why, and since when (Unix time). */
bool sqlite_reader_works(struct sqlite_reader *reader, char error[RING_ERROR_MAX], int64_t *since_ms);

#endif
