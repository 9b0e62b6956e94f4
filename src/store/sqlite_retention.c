/* sqlite_retention.c - a run looks at one room after the other, by id; a step deletes at most RETENTION_ROWS
 * messages of one, or looks at some rooms that have nothing to delete.
 *
 * Steps are not flushed to the disk (synchronous NORMAL): what a power cut brings back is deleted again. The
 * next commit of messages flushes them on its way. */
#include "sqlite_retention.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "sqlite_schema.h"
#include "store_retention.h"

enum {
    STEP_ROOMS = 200, /* looked at, at most, before commits get their turn; */
    STEP_MS = 20,     /* nor is another one when so much is over: some have many messages to count */
    /* Between two steps commits get four times what a step took, and this at least. */
    STEP_SHARE = 4,
    STEP_PAUSE_MS = 5,
    STEP_BUSY_MS = 200, /* somebody else (a backup) holds the lock */
    BUSY_TRIES = 300,
};

enum statement {
    BEGIN,
    COMMIT,
    ROLLBACK,
    NEXT_ROOM,
    OLDEST,
    BOUNDARY,
    NOTE_GONE,
    REMOVE,
    HIDE_ROOM,
    STATEMENTS
};

static const char *const SQL[STATEMENTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [NEXT_ROOM] =
        "SELECT id, name, highest, active FROM rooms WHERE id > ? AND active > 0 ORDER BY id LIMIT 1",
    [OLDEST] = "SELECT seq, time FROM messages WHERE room = ? ORDER BY seq LIMIT ?",
    [BOUNDARY] = "SELECT seq FROM messages WHERE room = ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
    [NOTE_GONE] = "INSERT INTO gone(room, seq) VALUES(?, ?)"
                  " ON CONFLICT(room) DO UPDATE SET seq = max(seq, excluded.seq)",
    [REMOVE] = "DELETE FROM messages WHERE room = ? AND seq <= ?",
    [HIDE_ROOM] = "UPDATE rooms SET active = 0 WHERE id = ? AND active = ?",
};

struct room {
    sqlite3_int64 id;
    uint64_t highest;
    int64_t active;
    size_t name_length;
    char name[MESSAGE_ROOM_MAX];
};

struct sqlite_retention {
    const struct config *config;
    struct ring *ring;
    const char *data_dir;
    int64_t due_ms; /* monotonic; of the next step */

    /* While a run lasts. */
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
    struct retention_cuts cuts;
    struct retention_tally tally;
    int64_t start_ms;
    sqlite3_int64 at; /* the last room that is done with */
    unsigned busy;    /* tries in a row that found the file locked */
};

struct sqlite_retention *sqlite_retention_new(const struct config *config, struct ring *ring,
                                              const char *data_dir)
{
    struct sqlite_retention *r = calloc(1, sizeof(*r));

    if (!r)
        abort();
    r->config = config;
    r->ring = ring;
    r->data_dir = data_dir;
    return r;
}

static void disconnect(struct sqlite_retention *r)
{
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(r->statements[i]);
    memset(r->statements, 0, sizeof(r->statements));
    sqlite3_close(r->db); /* rolls back what is open */
    r->db = NULL;
}

void sqlite_retention_free(struct sqlite_retention *r)
{
    if (!r)
        return;
    disconnect(r);
    free(r);
}

static int begin_run(struct sqlite_retention *r, char error[RING_ERROR_MAX])
{
    int status = sqlite_schema_open(&r->db, r->data_dir, SQLITE_SCHEMA_WRITE, error);

    if (status == 0)
        status = sqlite_schema_same(r->db, ring_store_id(r->ring), error);
    if (status == 0)
        status = sqlite_schema_relax(r->db, error);
    for (int i = 0; i < STATEMENTS && status == 0; i++)
        status = sqlite_schema_statement(r->db, SQL[i], &r->statements[i], error);
    store_retention_cuts(r->config, clock_wall_ms(), &r->cuts);
    r->tally = (struct retention_tally){0};
    r->at = 0;
    r->busy = 0;
    return status;
}

static void end_run(struct sqlite_retention *r, const char *error)
{
    disconnect(r);
    store_retention_done(&r->tally, r->start_ms, error);
    r->due_ms = clock_monotonic_ms() + r->config->retention_interval;
}

/* ---- one room ---- */

/* Runs a statement of which no row is wanted. */
static bool execute(sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);

    sqlite3_reset(statement);
    return code == SQLITE_DONE;
}

/* 1: the next room that is listed; 0: there is none; -1: the database failed. */
static int next_room(struct sqlite_retention *r, struct room *room)
{
    sqlite3_stmt *next = r->statements[NEXT_ROOM];
    int code;

    sqlite3_bind_int64(next, 1, r->at);
    code = sqlite3_step(next);
    if (code == SQLITE_ROW) {
        size_t length = (size_t)sqlite3_column_bytes(next, 1);

        room->id = sqlite3_column_int64(next, 0);
        room->name_length = length < sizeof(room->name) ? length : sizeof(room->name);
        memcpy(room->name, sqlite3_column_text(next, 1), room->name_length);
        room->highest = (uint64_t)sqlite3_column_int64(next, 2);
        room->active = sqlite3_column_int64(next, 3);
    }
    sqlite3_reset(next);
    return code == SQLITE_ROW ? 1 : code == SQLITE_DONE ? 0 : -1;
}

/* Up to which number the room has too many messages; 0: it hasn't. False: the database failed. A room has no
 * more messages than numbers: most need not be counted. */
static bool find_boundary(struct sqlite_retention *r, const struct room *room, uint64_t oldest,
                          uint64_t *boundary)
{
    sqlite3_stmt *find = r->statements[BOUNDARY];
    int code;

    *boundary = 0;
    if (r->cuts.messages == 0 || room->highest - oldest < r->cuts.messages)
        return true;
    sqlite3_bind_int64(find, 1, room->id);
    sqlite3_bind_int64(find, 2, (sqlite3_int64)r->cuts.messages);
    code = sqlite3_step(find);
    if (code == SQLITE_ROW)
        *boundary = (uint64_t)sqlite3_column_int64(find, 0);
    sqlite3_reset(find);
    return code == SQLITE_ROW || code == SQLITE_DONE;
}

/* Nobody is in it, and nobody wrote to it for long. */
static bool is_forsaken(const struct sqlite_retention *r, const struct room *room)
{
    return room->active < r->cuts.rooms &&
           ring_members(r->ring, (struct text){room->name, room->name_length}) == 0;
}

/* What of the room's oldest messages goes in this step: up to *cut, 0 none. *rest: there may be more. */
static bool find_cut(struct sqlite_retention *r, const struct room *room, bool forsaken, uint64_t *cut,
                     bool *rest)
{
    sqlite3_stmt *oldest = r->statements[OLDEST];
    uint64_t boundary = 0;
    int code, rows = 0;
    bool ok = true;

    *cut = 0;
    *rest = false;
    sqlite3_bind_int64(oldest, 1, room->id);
    sqlite3_bind_int64(oldest, 2, RETENTION_ROWS);
    while (ok && (code = sqlite3_step(oldest)) == SQLITE_ROW) {
        uint64_t seq = (uint64_t)sqlite3_column_int64(oldest, 0);
        int64_t time_ms = sqlite3_column_int64(oldest, 1);

        /* Of a room with nothing that may go nothing need be counted. */
        if (rows++ == 0 && time_ms < r->cuts.floor)
            ok = find_boundary(r, room, seq, &boundary);
        if (!ok || !(store_retention_past(&r->cuts, time_ms, seq <= boundary) ||
                     (forsaken && time_ms < r->cuts.rooms)))
            break;
        *cut = seq;
        *rest = rows == RETENTION_ROWS;
    }
    ok = ok && (code == SQLITE_ROW || code == SQLITE_DONE);
    sqlite3_reset(oldest);
    return ok;
}

/* The window first: what it has no more is still in the store, what the store has no more it must not have
 * either. */
static bool remove_messages(struct sqlite_retention *r, const struct room *room, uint64_t cut,
                            uint64_t *messages)
{
    sqlite3_stmt *note = r->statements[NOTE_GONE], *delete = r->statements[REMOVE];

    ring_forget(r->ring, (struct text){room->name, room->name_length}, cut);
    sqlite3_bind_int64(note, 1, room->id);
    sqlite3_bind_int64(note, 2, (sqlite3_int64)cut);
    sqlite3_bind_int64(delete, 1, room->id);
    sqlite3_bind_int64(delete, 2, (sqlite3_int64)cut);
    if (!execute(note) || !execute(delete))
        return false;
    *messages = (uint64_t)sqlite3_changes(r->db);
    return true;
}

static bool hide_room(struct sqlite_retention *r, const struct room *room, uint64_t *rooms)
{
    sqlite3_stmt *hide = r->statements[HIDE_ROOM];

    sqlite3_bind_int64(hide, 1, room->id);
    sqlite3_bind_int64(hide, 2, room->active);
    if (!execute(hide))
        return false;
    *rooms = (uint64_t)sqlite3_changes(r->db);
    return true;
}

enum outcome { NOTHING, DELETED, FAILED };

/* One transaction, if there is something to delete. */
static enum outcome clean_room(struct sqlite_retention *r, const struct room *room)
{
    uint64_t cut, messages = 0, rooms = 0;
    bool forsaken = is_forsaken(r, room), rest;

    if (!find_cut(r, room, forsaken, &cut, &rest))
        return FAILED;
    if (cut == 0 && !forsaken) {
        r->at = room->id;
        return NOTHING;
    }
    if (!execute(r->statements[BEGIN]) || (cut != 0 && !remove_messages(r, room, cut, &messages)) ||
        (forsaken && !rest && !hide_room(r, room, &rooms)) || !execute(r->statements[COMMIT]))
        return FAILED;
    if (!rest)
        r->at = room->id;
    store_retention_count(&r->tally, messages, rooms, 0);
    return DELETED;
}

/* ---- steps ---- */

/* True when the run is over. */
static bool look_at_some(struct sqlite_retention *r, char error[RING_ERROR_MAX], int *status)
{
    int64_t until_ms = clock_monotonic_ms() + STEP_MS;

    for (int looked = 0; looked < STEP_ROOMS && clock_monotonic_ms() < until_ms; looked++) {
        struct room room;
        int found = next_room(r, &room);
        enum outcome outcome = found > 0 ? clean_room(r, &room) : found < 0 ? FAILED : NOTHING;

        if (outcome == FAILED) {
            *status = sqlite_schema_error(r->db, error);
            if (!sqlite3_get_autocommit(r->db))
                execute(r->statements[ROLLBACK]);
            return *status != -EBUSY || ++r->busy == BUSY_TRIES;
        }
        if (found == 0)
            return true;
        r->busy = 0;
        if (outcome == DELETED)
            return false;
    }
    return false;
}

static int64_t pause_after(const struct sqlite_retention *r, int64_t took_ms)
{
    int64_t pause_ms = took_ms * STEP_SHARE > STEP_PAUSE_MS ? took_ms * STEP_SHARE : STEP_PAUSE_MS;

    return r->busy > 0 ? STEP_BUSY_MS : pause_ms;
}

static int until_due(const struct sqlite_retention *r)
{
    int64_t left = r->due_ms - clock_monotonic_ms();

    return left <= 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}

int sqlite_retention_step(struct sqlite_retention *r)
{
    int64_t start_ms = clock_monotonic_ms();
    char error[RING_ERROR_MAX];
    int status = 0;
    bool over;

    if (start_ms < r->due_ms)
        return until_due(r);
    if (!r->db) {
        r->start_ms = start_ms;
        status = begin_run(r, error);
    }
    over = status != 0 || look_at_some(r, error, &status);
    if (over)
        end_run(r, status != 0 ? error : NULL);
    else
        r->due_ms = clock_monotonic_ms() + pause_after(r, clock_monotonic_ms() - start_ms);
    return until_due(r);
}
