/* sqlite_batch.c - one transaction: insert, look at conflicts, note each room's highest number once. */
#include "sqlite_batch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "sqlite_schema.h"

enum {
    BATCH_ROOMS_MAX = 16384, /* cached; some 100 bytes each, in the one worker that writes */
    /* Pages of 4 KB in SQLite's log. From the first figure on they are moved whenever a commit is done; a log
     * that readers kept from starting over waits for them at the second. Against 1,000 pages, 4,000 save 3 us
     * of CPU per row. */
    BATCH_CHECKPOINT_PAGES = 4000,
    BATCH_RESTART_PAGES = 16000,
};

/* What is known of a room's row. `highest` and `active` are as they will be after the batch. */
struct cached_room {
    sqlite3_int64 id;
    uint64_t highest;
    int64_t active;
    bool dirty;
    struct cached_room *next_dirty;
    UT_hash_handle hh;
    char name[];
};

enum statement {
    BEGIN,
    COMMIT,
    ROLLBACK,
    INSERT,
    BY_NUMBER,
    BY_KEY,
    ROOM_FIND,
    ROOM_ADD,
    ROOM_UPDATE,
    STATEMENTS
};

static const char *const SQL[STATEMENTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [INSERT] =
        "INSERT OR IGNORE INTO messages(room, seq, uid, user, key, time, event) VALUES(?, ?, ?, ?, ?, ?, ?)",
    [BY_NUMBER] = "SELECT uid FROM messages WHERE room = ? AND seq = ?",
    [BY_KEY] = "SELECT seq FROM messages WHERE room = ? AND user = ? AND key = ?",
    [ROOM_FIND] = "SELECT id, highest, active FROM rooms WHERE name = ?",
    [ROOM_ADD] = "INSERT INTO rooms(name, highest, active) VALUES(?, 0, 0)",
    [ROOM_UPDATE] = "UPDATE rooms SET highest = ?, active = ? WHERE id = ?",
};

struct sqlite_batch {
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
    struct cached_room *rooms; /* by name */
    struct cached_room *dirty; /* list of those to update at the end of the batch */
    int log_pages;             /* in SQLite's log after the last commit */
};

static int on_commit(void *arg, sqlite3 *db, const char *name, int pages)
{
    struct sqlite_batch *batch = arg;

    (void)db;
    (void)name;
    batch->log_pages = pages;
    return SQLITE_OK;
}

int sqlite_batch_open(struct sqlite_batch **out, const struct ring *ring, const char *data_dir,
                      char error[RING_ERROR_MAX])
{
    struct sqlite_batch *batch = calloc(1, sizeof(*batch));
    int status;

    if (batch == NULL)
        abort();
    status = sqlite_schema_open(&batch->db, data_dir, SQLITE_SCHEMA_WRITE, error);
    if (status == 0)
        status = sqlite_schema_same(batch->db, ring_store_id(ring), error);
    for (int i = 0; i < STATEMENTS && status == 0; i++)
        status = sqlite_schema_statement(batch->db, SQL[i], &batch->statements[i], error);
    if (status != 0) {
        sqlite_batch_close(batch);
        return status;
    }
    sqlite3_wal_hook(batch->db, on_commit, batch);
    *out = batch;
    return 0;
}

static void forget_rooms(struct sqlite_batch *batch)
{
    struct cached_room *room, *next;

    HASH_ITER (hh, batch->rooms, room, next) {
        HASH_DEL(batch->rooms, room);
        free(room);
    }
    batch->dirty = NULL;
}

void sqlite_batch_close(struct sqlite_batch *batch)
{
    if (batch == NULL)
        return;
    forget_rooms(batch);
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(batch->statements[i]);
    sqlite3_close(batch->db);
    free(batch);
}

/* Runs a statement that answers with no row. */
static bool execute(sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);

    /* The reset repeats the step's error, and leaves its message for sqlite_schema_error. */
    sqlite3_reset(statement);
    return code == SQLITE_DONE;
}

static void bind_text(sqlite3_stmt *statement, int at, struct text text)
{
    sqlite3_bind_text64(statement, at, text.data, text.length, SQLITE_STATIC, SQLITE_UTF8);
}

static struct cached_room *cache_room(struct sqlite_batch *batch, struct text name)
{
    struct cached_room *room = calloc(1, sizeof(*room) + name.length);

    if (room == NULL)
        abort();
    memcpy(room->name, name.data, name.length);
    HASH_ADD_KEYPTR(hh, batch->rooms, room->name, name.length, room);
    return room;
}

static struct cached_room *find_room(struct sqlite_batch *batch, struct text name)
{
    sqlite3_stmt *find = batch->statements[ROOM_FIND], *add = batch->statements[ROOM_ADD];
    struct cached_room *room;
    int code;

    HASH_FIND(hh, batch->rooms, name.data, name.length, room);
    if (room != NULL)
        return room;
    bind_text(find, 1, name);
    code = sqlite3_step(find);
    if (code == SQLITE_ROW) {
        room = cache_room(batch, name);
        room->id = sqlite3_column_int64(find, 0);
        room->highest = (uint64_t)sqlite3_column_int64(find, 1);
        room->active = sqlite3_column_int64(find, 2);
    }
    sqlite3_reset(find);
    if (code != SQLITE_DONE)
        return room;
    bind_text(add, 1, name);
    if (!execute(add))
        return NULL;
    room = cache_room(batch, name);
    room->id = sqlite3_last_insert_rowid(batch->db);
    return room;
}

static void note_highest(struct sqlite_batch *batch, struct cached_room *room, const struct message *message)
{
    if (message->seq > room->highest)
        room->highest = message->seq;
    if (message->time_ms > room->active)
        room->active = message->time_ms;
    if (room->dirty)
        return;
    room->dirty = true;
    room->next_dirty = batch->dirty;
    batch->dirty = room;
}

enum verdict { STORED, VOID, NO_PLACE, BROKEN };

/* The row under the message's number: 1 this very message, 0 another or none, -1 the database failed. */
static int is_stored(struct sqlite_batch *batch, const struct cached_room *room,
                     const struct message *message)
{
    sqlite3_stmt *find = batch->statements[BY_NUMBER];
    int code, same = 0;

    sqlite3_bind_int64(find, 1, room->id);
    sqlite3_bind_int64(find, 2, (sqlite3_int64)message->seq);
    code = sqlite3_step(find);
    if (code == SQLITE_ROW)
        same = sqlite3_column_bytes(find, 0) == MESSAGE_UID_SIZE &&
               memcmp(sqlite3_column_blob(find, 0), message->uid, MESSAGE_UID_SIZE) == 0;
    sqlite3_reset(find);
    return code == SQLITE_ROW || code == SQLITE_DONE ? same : -1;
}

/* The number under which the message's key is stored, 0 none, -1 the database failed. */
static sqlite3_int64 find_key(struct sqlite_batch *batch, const struct cached_room *room,
                              const struct message *message)
{
    sqlite3_stmt *find = batch->statements[BY_KEY];
    sqlite3_int64 seq = 0;
    int code;

    if (message->key.length == 0)
        return 0;
    sqlite3_bind_int64(find, 1, room->id);
    bind_text(find, 2, message->user);
    sqlite3_bind_blob64(find, 3, message->key.data, message->key.length, SQLITE_STATIC);
    code = sqlite3_step(find);
    if (code == SQLITE_ROW)
        seq = sqlite3_column_int64(find, 0);
    sqlite3_reset(find);
    return code == SQLITE_ROW || code == SQLITE_DONE ? seq : -1;
}

/* Rule 5. The key is asked before a new number is given: a message that was given one earlier, by a writer
 * that died then, may be stored under it. */
static enum verdict judge_conflict(struct sqlite_batch *batch, struct ring *ring, struct cached_room *room,
                                   const struct message *message)
{
    int same = is_stored(batch, room, message);
    sqlite3_int64 seq;

    if (same != 0)
        return same > 0 ? STORED : BROKEN;
    seq = find_key(batch, room, message);
    if (seq < 0)
        return BROKEN;
    if (seq > 0) {
        ring_settle(ring, message->position, (uint64_t)seq);
        return VOID;
    }
    return ring_republish(ring, message, room->highest) ? VOID : NO_PLACE;
}

static enum verdict add_message(struct sqlite_batch *batch, struct ring *ring, const struct message *message)
{
    struct cached_room *room = find_room(batch, message->room);
    sqlite3_stmt *insert = batch->statements[INSERT];
    enum verdict verdict = STORED;

    if (room == NULL)
        return BROKEN;
    sqlite3_bind_int64(insert, 1, room->id);
    sqlite3_bind_int64(insert, 2, (sqlite3_int64)message->seq);
    sqlite3_bind_blob(insert, 3, message->uid, MESSAGE_UID_SIZE, SQLITE_STATIC);
    bind_text(insert, 4, message->user);
    if (message->key.length > 0)
        sqlite3_bind_blob64(insert, 5, message->key.data, message->key.length, SQLITE_STATIC);
    else
        sqlite3_bind_null(insert, 5);
    sqlite3_bind_int64(insert, 6, message->time_ms);
    sqlite3_bind_blob64(insert, 7, message->event.data, message->event.length, SQLITE_STATIC);
    if (!execute(insert))
        return BROKEN;
    if (sqlite3_changes(batch->db) == 0)
        verdict = judge_conflict(batch, ring, room, message);
    /* A number that became void was seen by members: it isn't given again either. */
    if (verdict == STORED || verdict == VOID)
        note_highest(batch, room, message);
    return verdict;
}

static bool update_rooms(struct sqlite_batch *batch)
{
    sqlite3_stmt *update = batch->statements[ROOM_UPDATE];

    for (; batch->dirty != NULL; batch->dirty = batch->dirty->next_dirty) {
        sqlite3_bind_int64(update, 1, (sqlite3_int64)batch->dirty->highest);
        sqlite3_bind_int64(update, 2, batch->dirty->active);
        sqlite3_bind_int64(update, 3, batch->dirty->id);
        if (!execute(update))
            return false;
        batch->dirty->dirty = false;
    }
    return true;
}

/* Adds messages from *message on until the batch is full or the ring has no more; *position is behind the
 * last one added. */
static enum verdict add_messages(struct sqlite_batch *batch, struct ring *ring, struct message *message,
                                 uint64_t *position, uint32_t *messages)
{
    uint64_t behind = *position;
    size_t bytes = 0;

    do {
        enum verdict verdict = add_message(batch, ring, message);

        /* No place for a new number: commit what is in front of it, which makes place. */
        if (verdict == NO_PLACE && *messages > 0) {
            *position = message->position;
            return STORED;
        }
        if (verdict == NO_PLACE || verdict == BROKEN)
            return verdict;
        *position = behind;
        ++*messages;
        bytes += message->event.length;
    } while (*messages < SQLITE_BATCH_MESSAGES && bytes < SQLITE_BATCH_BYTES &&
             ring_next(ring, &behind, message));
    return STORED;
}

/* The error is taken before the rollback covers it. What is cached may come from what is now undone. */
static int give_up(struct sqlite_batch *batch, enum verdict verdict, char error[RING_ERROR_MAX])
{
    int status = -EAGAIN;

    if (verdict == NO_PLACE)
        snprintf(error, RING_ERROR_MAX, "the log is full and a message in it needs a new number");
    else
        status = sqlite_schema_error(batch->db, error);
    if (!sqlite3_get_autocommit(batch->db))
        execute(batch->statements[ROLLBACK]);
    forget_rooms(batch);
    return status;
}

/* True when the file that was opened is no longer the one of that name: what is committed to it nobody
 * finds again. */
static bool has_moved(struct sqlite_batch *batch)
{
    int moved = 0;

    sqlite3_file_control(batch->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
    return moved != 0;
}

int sqlite_batch_run(struct sqlite_batch *batch, struct ring *ring, uint64_t *position, uint32_t *messages,
                     char error[RING_ERROR_MAX])
{
    uint64_t behind = *position;
    struct message message;
    enum verdict verdict;

    *messages = 0;
    if (!ring_next(ring, &behind, &message)) {
        *position = behind;
        return 0;
    }
    if (!execute(batch->statements[BEGIN]))
        return give_up(batch, BROKEN, error);
    verdict = add_messages(batch, ring, &message, &behind, messages);
    if (verdict == STORED && (!update_rooms(batch) || !execute(batch->statements[COMMIT])))
        verdict = BROKEN;
    if (verdict == STORED && has_moved(batch)) {
        *messages = 0;
        forget_rooms(batch);
        snprintf(error, RING_ERROR_MAX, "chat.db was removed or replaced while chatd runs");
        return -ESTALE;
    }
    if (verdict != STORED) {
        *messages = 0;
        return give_up(batch, verdict, error);
    }
    *position = behind;
    if (HASH_COUNT(batch->rooms) > BATCH_ROOMS_MAX)
        forget_rooms(batch);
    return 0;
}

void sqlite_batch_checkpoint(struct sqlite_batch *batch)
{
    int mode = batch->log_pages < BATCH_RESTART_PAGES ? SQLITE_CHECKPOINT_PASSIVE : SQLITE_CHECKPOINT_RESTART;

    if (batch->log_pages >= BATCH_CHECKPOINT_PAGES)
        sqlite3_wal_checkpoint_v2(batch->db, NULL, mode, NULL, NULL);
}
