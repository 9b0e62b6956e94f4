/* sqlite_query.c - one statement per question, so that each is a read transaction of its own. */
#include "sqlite_query.h"

#include <stdlib.h>
#include <string.h>

#include "sqlite_schema.h"

#define ROOM_ID "(SELECT id FROM rooms WHERE name = ?1)"

enum statement { HIGHEST, BY_KEY, BY_UID, BY_NUMBER, PAGE, GONE, ROOMS, STATEMENTS };

static const char *const SQL[STATEMENTS] = {
    [HIGHEST] = "SELECT coalesce((SELECT highest FROM rooms WHERE name = ?1),"
                " (SELECT value << 20 FROM meta WHERE name = 'lives'), 0)",
    [BY_KEY] = "SELECT seq FROM messages WHERE room = " ROOM_ID " AND user = ?2 AND key = ?3",
    /* Without an index: only a message without a key is looked for so, and it is mostly a recent one. */
    [BY_UID] = "SELECT seq FROM messages WHERE room = " ROOM_ID " AND uid = ?2 ORDER BY seq DESC LIMIT 1",
    [BY_NUMBER] = "SELECT uid FROM messages WHERE room = " ROOM_ID " AND seq = ?2",
    [PAGE] = "SELECT seq, event FROM messages WHERE room = " ROOM_ID " AND seq > ?2 AND seq <= ?3"
             " ORDER BY seq DESC LIMIT ?4",
    [GONE] = "SELECT seq FROM gone WHERE room = " ROOM_ID,
    [ROOMS] = "SELECT highest, name FROM rooms WHERE active > 0 ORDER BY active DESC, id DESC LIMIT ?1",
};

struct sqlite_query {
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
};

int sqlite_query_open(struct sqlite_query **out, const char *data_dir, char error[RING_ERROR_MAX])
{
    struct sqlite_query *query = calloc(1, sizeof(*query));
    int status;

    if (query == NULL)
        abort();
    status = sqlite_schema_open(&query->db, data_dir, SQLITE_SCHEMA_READ, error);
    for (int i = 0; i < STATEMENTS && status == 0; i++)
        status = sqlite_schema_statement(query->db, SQL[i], &query->statements[i], error);
    if (status != 0) {
        sqlite_query_close(query);
        return status;
    }
    *out = query;
    return 0;
}

void sqlite_query_close(struct sqlite_query *query)
{
    if (query == NULL)
        return;
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(query->statements[i]);
    sqlite3_close(query->db);
    free(query);
}

/* Numbers are unsigned in chatd and signed in SQLite; no message has one above INT64_MAX. */
static sqlite3_int64 number(uint64_t n)
{
    return n > INT64_MAX ? INT64_MAX : (sqlite3_int64)n;
}

static void bind_room(sqlite3_stmt *statement, const struct store_request *request)
{
    sqlite3_bind_text64(statement, 1, request->names.data, request->room_length, SQLITE_STATIC, SQLITE_UTF8);
}

/* Reads a statement's one row: its first column goes to request->number. STORE_NONE when there is no row. */
static enum store_status read_number(sqlite3_stmt *statement, struct store_request *request)
{
    int code = sqlite3_step(statement);

    if (code == SQLITE_ROW)
        request->number = (uint64_t)sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    return code == SQLITE_ROW ? STORE_OK : code == SQLITE_DONE ? STORE_NONE : STORE_FAILED;
}

static enum store_status highest(struct sqlite_query *query, struct store_request *request)
{
    bind_room(query->statements[HIGHEST], request);
    return read_number(query->statements[HIGHEST], request);
}

static enum store_status find_uid(struct sqlite_query *query, struct store_request *request)
{
    sqlite3_stmt *statement = query->statements[BY_UID];

    bind_room(statement, request);
    sqlite3_bind_blob64(statement, 2, request->uid, MESSAGE_UID_SIZE, SQLITE_STATIC);
    return read_number(statement, request);
}

static enum store_status find(struct sqlite_query *query, struct store_request *request)
{
    sqlite3_stmt *statement = query->statements[BY_KEY];
    const char *user = request->names.data + request->room_length, *key = user + request->user_length;

    if (request->key_length == 0)
        return find_uid(query, request);
    bind_room(statement, request);
    sqlite3_bind_text64(statement, 2, user, request->user_length, SQLITE_STATIC, SQLITE_UTF8);
    sqlite3_bind_blob64(statement, 3, key, request->key_length, SQLITE_STATIC);
    return read_number(statement, request);
}

static enum store_status resolve(struct sqlite_query *query, struct store_request *request)
{
    sqlite3_stmt *statement = query->statements[BY_NUMBER];
    bool same = false;
    int code;

    bind_room(statement, request);
    sqlite3_bind_int64(statement, 2, number(request->seq));
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        same = sqlite3_column_bytes(statement, 0) == MESSAGE_UID_SIZE &&
               memcmp(sqlite3_column_blob(statement, 0), request->uid, MESSAGE_UID_SIZE) == 0;
    sqlite3_reset(statement);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return STORE_FAILED;
    if (!same)
        return find(query, request);
    request->number = request->seq;
    return STORE_OK;
}

/* Up to request->limit rows of (number, bytes) into the page. One more is asked for, to know whether there
 * are more. */
static enum store_status read_rows(sqlite3_stmt *statement, struct store_request *request)
{
    int code;

    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        if (request->page.count == request->limit) {
            request->more = true;
            break;
        }
        page_add(&request->page, (uint64_t)sqlite3_column_int64(statement, 0),
                 sqlite3_column_blob(statement, 1), (size_t)sqlite3_column_bytes(statement, 1));
    }
    sqlite3_reset(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE ? STORE_OK : STORE_FAILED;
}

/* After the page is read: what was deleted before that is known by now. */
static enum store_status read_gone(struct sqlite_query *query, struct store_request *request)
{
    sqlite3_stmt *statement = query->statements[GONE];
    int code;

    bind_room(statement, request);
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        request->page.gone = (uint64_t)sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE ? STORE_OK : STORE_FAILED;
}

static enum store_status page(struct sqlite_query *query, struct store_request *request)
{
    sqlite3_stmt *statement = query->statements[PAGE];
    enum store_status status;

    bind_room(statement, request);
    sqlite3_bind_int64(statement, 2, number(request->above));
    sqlite3_bind_int64(statement, 3, number(request->upto));
    sqlite3_bind_int64(statement, 4, (sqlite3_int64)request->limit + 1);
    status = read_rows(statement, request);
    page_reverse(&request->page);
    return status != STORE_OK || request->more ? status : read_gone(query, request);
}

static enum store_status rooms(struct sqlite_query *query, struct store_request *request)
{
    sqlite3_stmt *statement = query->statements[ROOMS];

    sqlite3_bind_int64(statement, 1, (sqlite3_int64)request->limit + 1);
    return read_rows(statement, request);
}

int sqlite_query_run(struct sqlite_query *query, struct store_request *request, char error[RING_ERROR_MAX])
{
    static enum store_status (*const answer[])(struct sqlite_query *, struct store_request *) = {
        [STORE_READ_HIGHEST] = highest, [STORE_READ_FIND] = find,   [STORE_READ_RESOLVE] = resolve,
        [STORE_READ_PAGE] = page,       [STORE_READ_ROOMS] = rooms,
    };

    request->status = answer[request->kind](query, request);
    return request->status == STORE_FAILED ? sqlite_schema_error(query->db, error) : 0;
}
