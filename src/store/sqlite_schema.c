/* sqlite_schema.c - the file chat.db.
 *
 * Rows of `messages` stand in order of arrival, not clustered by (room, seq): over 500 rooms, at 200 bytes an
 * event and batches of 100, 500 and 2,000, arrival order costs 23, 16 and 11 us of CPU per row, clustered 41,
 * 33 and 21, since each batch dirties a page per room anyway and index pages hold many more rows. `key` is a
 * BLOB: it may hold U+0000, and bytes are what it is compared by. */
#include "sqlite_schema.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    SCHEMA_VERSION = 1,
    /* Short, so that a thread told to stop hears of it; who finds the file locked tries again with its own
     * patience. */
    SCHEMA_BUSY_MS = 200,
    SCHEMA_PREPARE_BUSY_MS = 5000,
};

static const char CREATE[] =
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE rooms(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, highest INTEGER NOT NULL,"
    " active INTEGER NOT NULL);"
    "CREATE TABLE messages(id INTEGER PRIMARY KEY, room INTEGER NOT NULL, seq INTEGER NOT NULL,"
    " uid BLOB NOT NULL, user TEXT NOT NULL, key BLOB, time INTEGER NOT NULL, event BLOB NOT NULL);"
    "CREATE UNIQUE INDEX messages_number ON messages(room, seq);"
    "CREATE UNIQUE INDEX messages_key ON messages(room, user, key) WHERE key IS NOT NULL;";

/* Came later than the rest. A chatd that doesn't know it leaves it alone, so the version stays. Whose
 * messages were deleted, up to which number. */
static const char CREATE_GONE[] =
    "CREATE TABLE IF NOT EXISTS gone(room INTEGER PRIMARY KEY, seq INTEGER NOT NULL)";

static int make_path(char path[PATH_MAX], const char *data_dir, char error[RING_ERROR_MAX])
{
    if (snprintf(path, PATH_MAX, "%s/chat.db", data_dir) < PATH_MAX)
        return 0;
    snprintf(error, RING_ERROR_MAX, "the path of the data directory is too long");
    return -ENAMETOOLONG;
}

int sqlite_schema_error(sqlite3 *db, char error[RING_ERROR_MAX])
{
    int code = sqlite3_errcode(db) & 0xff;

    snprintf(error, RING_ERROR_MAX, "%s (sqlite %d)", sqlite3_errmsg(db), sqlite3_extended_errcode(db));
    switch (code) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_READONLY:
    case SQLITE_PERM:
        return -EROFS;
    case SQLITE_CANTOPEN:
        return -ENOENT;
    case SQLITE_NOMEM:
        return -ENOMEM;
    default:
        return -EIO;
    }
}

int sqlite_schema_statement(sqlite3 *db, const char *sql, sqlite3_stmt **statement,
                            char error[RING_ERROR_MAX])
{
    int code = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, NULL);

    return code == SQLITE_OK ? 0 : sqlite_schema_error(db, error);
}

static int open_db(sqlite3 **db, const char *path, enum sqlite_schema_mode mode, char error[RING_ERROR_MAX])
{
    int flags =
        SQLITE_OPEN_NOMUTEX | (mode == SQLITE_SCHEMA_READ ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE);
    int code = sqlite3_open_v2(path, db, flags, NULL);

    if (code == SQLITE_OK) {
        sqlite3_busy_timeout(*db, SCHEMA_BUSY_MS);
        return 0;
    }
    code = *db != NULL ? sqlite_schema_error(*db, error) : -ENOMEM;
    sqlite3_close(*db);
    *db = NULL;
    return code;
}

static int run(sqlite3 *db, const char *sql, char error[RING_ERROR_MAX])
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : sqlite_schema_error(db, error);
}

/* synchronous FULL is what `ack` means: in WAL mode each COMMIT is one fsync of the log. The cache of a
 * writer holds the index pages that a few hundred busy rooms dirty in every batch. */
static int set_up(sqlite3 *db, enum sqlite_schema_mode mode, char error[RING_ERROR_MAX])
{
    if (mode == SQLITE_SCHEMA_READ)
        return 0;
    return run(db,
               "PRAGMA synchronous=FULL; PRAGMA cache_size=-8000; PRAGMA journal_size_limit=67108864;"
               "PRAGMA wal_autocheckpoint=0",
               error);
}

int sqlite_schema_relax(sqlite3 *db, char error[RING_ERROR_MAX])
{
    return run(db, "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=1000", error);
}

int sqlite_schema_open(sqlite3 **db, const char *data_dir, enum sqlite_schema_mode mode,
                       char error[RING_ERROR_MAX])
{
    char path[PATH_MAX];
    int status = make_path(path, data_dir, error);

    if (status == 0)
        status = open_db(db, path, mode, error);
    if (status != 0)
        return status;
    status = set_up(*db, mode, error);
    if (status != 0) {
        sqlite3_close(*db);
        *db = NULL;
    }
    return status;
}

/* One value, or a row that isn't there: *found says. `id` may be NULL. */
static int query_one(sqlite3 *db, const char *sql, sqlite3_int64 *number, uint8_t *id, bool *found,
                     char error[RING_ERROR_MAX])
{
    sqlite3_stmt *statement;
    int status = 0, code;

    *found = false;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
        return sqlite_schema_error(db, error);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        *number = sqlite3_column_int64(statement, 0);
        *found = id == NULL || sqlite3_column_bytes(statement, 0) == RING_ID_SIZE;
        if (id != NULL && *found)
            memcpy(id, sqlite3_column_blob(statement, 0), RING_ID_SIZE);
    } else if (code != SQLITE_DONE) {
        status = sqlite_schema_error(db, error);
    }
    sqlite3_finalize(statement);
    return status;
}

static int create(sqlite3 *db, char error[RING_ERROR_MAX])
{
    static const char SQL[] = "INSERT INTO meta VALUES('schema', %d), ('store_id', x'%s')";
    uint8_t id[RING_ID_SIZE];
    char hex[2 * RING_ID_SIZE + 1], sql[sizeof(SQL) + sizeof(hex) + 16];
    int status;

    if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id)) {
        snprintf(error, RING_ERROR_MAX, "no random bytes: %s", strerror(errno));
        return -EIO;
    }
    for (size_t i = 0; i < sizeof(id); i++)
        snprintf(hex + 2 * i, 3, "%02x", id[i]);
    snprintf(sql, sizeof(sql), SQL, SCHEMA_VERSION, hex);
    status = run(db, CREATE, error);
    return status != 0 ? status : run(db, sql, error);
}

static const char STORE_ID[] = "SELECT value FROM meta WHERE name='store_id'";

int sqlite_schema_same(sqlite3 *db, const uint8_t store_id[RING_ID_SIZE], char error[RING_ERROR_MAX])
{
    uint8_t id[RING_ID_SIZE];
    sqlite3_int64 ignored;
    bool found;
    int status = query_one(db, STORE_ID, &ignored, id, &found, error);

    if (status == 0 && (!found || memcmp(id, store_id, RING_ID_SIZE) != 0)) {
        snprintf(error, RING_ERROR_MAX, "chat.db was replaced by another database while chatd runs");
        status = -ESTALE;
    }
    return status;
}

/* Inside a transaction: an empty file is filled, another one checked. */
static int check(sqlite3 *db, uint8_t store_id[RING_ID_SIZE], char error[RING_ERROR_MAX])
{
    sqlite3_int64 tables, ours, version, ignored;
    bool found;
    int status = query_one(db, "SELECT count(*) FROM sqlite_schema", &tables, NULL, &found, error);

    if (status == 0 && tables == 0)
        status = create(db, error);
    if (status == 0)
        status =
            query_one(db, "SELECT count(*) FROM sqlite_schema WHERE name='meta'", &ours, NULL, &found, error);
    if (status != 0)
        return status;
    if (ours == 0) {
        snprintf(error, RING_ERROR_MAX, "chat.db holds tables of another program");
        return -EINVAL;
    }
    status = query_one(db, "SELECT value FROM meta WHERE name='schema'", &version, NULL, &found, error);
    if (status != 0)
        return status;
    if (!found || version != SCHEMA_VERSION) {
        snprintf(error, RING_ERROR_MAX, "chat.db has schema version %lld, this chatd knows %d: %s",
                 found ? (long long)version : 0LL, SCHEMA_VERSION,
                 found && version > SCHEMA_VERSION ? "it was written by a newer chatd" : "it is damaged");
        return -EPROTONOSUPPORT;
    }
    status = query_one(db, STORE_ID, &ignored, store_id, &found, error);
    if (status == 0 && !found) {
        snprintf(error, RING_ERROR_MAX, "chat.db has no store_id: it is damaged");
        status = -EINVAL;
    }
    return status;
}

/* WAL needs shared memory beside the file; where that can't be had (some network file systems) SQLite keeps
 * another mode. */
static int use_wal(sqlite3 *db, char error[RING_ERROR_MAX])
{
    sqlite3_stmt *statement;
    int status = 0;

    if (sqlite3_prepare_v2(db, "PRAGMA journal_mode=WAL", -1, &statement, NULL) != SQLITE_OK)
        return sqlite_schema_error(db, error);
    if (sqlite3_step(statement) != SQLITE_ROW) {
        status = sqlite_schema_error(db, error);
    } else if (sqlite3_stricmp((const char *)sqlite3_column_text(statement, 0), "wal") != 0) {
        snprintf(error, RING_ERROR_MAX, "the file system of the data directory can't do SQLite's WAL mode");
        status = -ENOTSUP;
    }
    sqlite3_finalize(statement);
    return status;
}

/* Opens for the master's own few statements, in a transaction. */
static int begin(sqlite3 **db, const char *path, char error[RING_ERROR_MAX])
{
    int status = open_db(db, path, SQLITE_SCHEMA_WRITE, error);

    if (status != 0)
        return status;
    sqlite3_busy_timeout(*db, SCHEMA_PREPARE_BUSY_MS);
    status = use_wal(*db, error);
    if (status == 0)
        status = set_up(*db, SQLITE_SCHEMA_WRITE, error);
    return status != 0 ? status : run(*db, "BEGIN IMMEDIATE", error);
}

int sqlite_schema_prepare(const char *data_dir, uint8_t store_id[RING_ID_SIZE], char error[RING_ERROR_MAX])
{
    char path[PATH_MAX];
    sqlite3 *db = NULL;
    int status = make_path(path, data_dir, error), fd;

    if (status != 0)
        return status;
    /* Made here, not by SQLite, for its mode: what people write is not everybody's to read. -wal and -shm
     * follow suit. A file that exists is not opened: closing it would drop the locks that this process has on
     * it. */
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd >= 0) {
        close(fd);
    } else if (errno != EEXIST) {
        status = -errno;
        snprintf(error, RING_ERROR_MAX, "%.150s: %.40s", path, strerror(-status));
        return status;
    }
    status = begin(&db, path, error);
    if (status == 0)
        status = check(db, store_id, error);
    if (status == 0)
        status = run(db, CREATE_GONE, error);
    if (status == 0)
        status = run(db, "COMMIT", error);
    sqlite3_close(db); /* rolls back what is open */
    return status;
}

int sqlite_schema_new_life(const char *data_dir, char error[RING_ERROR_MAX])
{
    char path[PATH_MAX];
    sqlite3 *db = NULL;
    int status = make_path(path, data_dir, error);

    if (status == 0)
        status = begin(&db, path, error);
    if (status == 0)
        status = run(db, "UPDATE rooms SET highest = ((highest >> 20) + 1) << 20 WHERE highest > 0", error);
    if (status == 0)
        status = run(db,
                     "INSERT INTO meta(name, value) VALUES('lives', 0)"
                     " ON CONFLICT(name) DO UPDATE SET value = value + 1",
                     error);
    if (status == 0)
        status = run(db, "COMMIT", error);
    sqlite3_close(db);
    return status;
}
