/* sqlite_query.h - how each question that store_reader.h knows is answered from the database. */
#ifndef CHATD_SQLITE_QUERY_H
#define CHATD_SQLITE_QUERY_H

#include "store_reader.h"

struct sqlite_query;

/* Opens a read-only connection. Negative errno with the reason in `error`. */
int sqlite_query_open(struct sqlite_query **query, const char *data_dir, char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));
void sqlite_query_close(struct sqlite_query *query); /* NULL is allowed */

/* Answers the request: `status` and what belongs to it are set. A negative errno with the reason in `error`
 * when the status is STORE_FAILED: close the query then and open another. */
int sqlite_query_run(struct sqlite_query *query, struct store_request *request, char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));

#endif
