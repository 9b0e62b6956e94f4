/* sqlite_schema.h - the file DATA_DIR/chat.db: what is in it, and how a connection to it is opened.
 *
 * Any thread; a connection belongs to the thread that opened it (SQLITE_OPEN_NOMUTEX) and never crosses a
 * fork. Errors are negative errno with the reason, fit for a log line, in `error`. */
#ifndef CHATD_SQLITE_SCHEMA_H
#define CHATD_SQLITE_SCHEMA_H

#include <sqlite3.h>

#include "chatd/ring.h"

enum sqlite_schema_mode { SQLITE_SCHEMA_READ, SQLITE_SCHEMA_WRITE };

/* Makes the file and its tables, or checks that they are of this program's version; reads the store's id. */
int sqlite_schema_prepare(const char *data_dir, uint8_t store_id[RING_ID_SIZE], char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));

/* 0 when the open database is the one with that store_id: it may have been replaced while chatd runs. */
int sqlite_schema_same(sqlite3 *db, const uint8_t store_id[RING_ID_SIZE], char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));

/* store_sqlite_new_life. */
int sqlite_schema_new_life(const char *data_dir, char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));

/* Opens a file that was prepared. */
int sqlite_schema_open(sqlite3 **db, const char *data_dir, enum sqlite_schema_mode mode,
                       char error[RING_ERROR_MAX]) __attribute__((warn_unused_result));

/* For a connection whose commits nobody is told of: they are not flushed to the disk one by one, and it sees
 * to SQLite's log itself. */
int sqlite_schema_relax(sqlite3 *db, char error[RING_ERROR_MAX]) __attribute__((warn_unused_result));

/* Prepares a statement that is used as long as the connection. */
int sqlite_schema_statement(sqlite3 *db, const char *sql, sqlite3_stmt **statement,
                            char error[RING_ERROR_MAX]) __attribute__((warn_unused_result));

/* Takes the connection's last error apart: fills `error`, returns the errno that says it best. */
int sqlite_schema_error(sqlite3 *db, char error[RING_ERROR_MAX]);

#endif
