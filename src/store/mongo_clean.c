/* mongo_clean.c - rooms, then users; and the index that lets the server delete by itself. */
#include "mongo_clean.h"

#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "mongo_schema.h"

enum {
    ROOMS_PAGE = 200,
    USERS_PAGE = 500,
    /* https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml */
    NAMESPACE_NOT_FOUND = 26,
    INDEX_NOT_FOUND = 27,
    INDEX_OPTIONS_CONFLICT = 85,
    INDEX_KEY_SPECS_CONFLICT = 86,
};

#define TTL_INDEX "time_1"

struct room {
    uint64_t highest, gone;
    int64_t active;
    size_t length;
    char name[MESSAGE_ROOM_MAX];
};

static struct text name_of(const struct room *room)
{
    return (struct text){room->name, room->length};
}

static bool next_step(struct mongo_clean *c)
{
    c->client = c->next(c->arg, &c->error);
    return c->client != NULL;
}

/* Calls `take` with each row. Takes filter and options over. */
static bool read_rows(struct mongo_clean *c, const char *collection, bson_t *filter, bson_t *options,
                      void (*take)(void *arg, const bson_t *row), void *arg)
{
    mongoc_collection_t *from = mongoc_client_get_collection(c->client, c->database, collection);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(from, filter, options, NULL);
    const bson_t *row;
    bool ok;

    while (mongoc_cursor_next(cursor, &row))
        take(arg, row);
    ok = !mongoc_cursor_error(cursor, &c->error);
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(from);
    bson_destroy(filter);
    bson_destroy(options);
    return ok;
}

/* *deleted is how many. Takes the filter over. */
static bool delete_rows(struct mongo_clean *c, const char *collection, bson_t *filter, uint64_t *deleted)
{
    mongoc_collection_t *from = mongoc_client_get_collection(c->client, c->database, collection);
    bson_t reply;
    bool ok = mongoc_collection_delete_many(from, filter, NULL, &reply, &c->error);

    *deleted = ok ? mongo_schema_get_number(&reply, "deletedCount") : 0;
    bson_destroy(&reply);
    bson_destroy(filter);
    mongoc_collection_destroy(from);
    return ok;
}

/* Takes both over. */
static bool update_room(struct mongo_clean *c, bson_t *filter, bson_t *change, bool *changed)
{
    mongoc_collection_t *rooms = mongoc_client_get_collection(c->client, c->database, MONGO_ROOMS);
    bson_t reply;
    bool ok = mongoc_collection_update_one(rooms, filter, change, NULL, &reply, &c->error);

    *changed = ok && mongo_schema_get_number(&reply, "matchedCount") > 0;
    bson_destroy(&reply);
    bson_destroy(filter);
    bson_destroy(change);
    mongoc_collection_destroy(rooms);
    return ok;
}

/* ---- one room ---- */

/* Its oldest messages, as many as one step deletes. */
struct chunk {
    uint64_t seq[RETENTION_ROWS];
    int64_t time[RETENTION_ROWS];
    uint32_t count;
};

static void take_message(void *arg, const bson_t *row)
{
    struct chunk *chunk = arg;

    if (chunk->count == RETENTION_ROWS)
        return;
    chunk->seq[chunk->count] = mongo_schema_get_number(row, "seq");
    chunk->time[chunk->count++] = mongo_schema_get_date(row, "time");
}

static bool read_oldest(struct mongo_clean *c, const struct room *room, uint64_t above, uint32_t limit,
                        struct chunk *chunk)
{
    bson_t *filter = bson_new(), range;
    bson_t *options = BCON_NEW("sort", "{", "seq", BCON_INT32(1), "}", "limit", BCON_INT64(limit),
                               "projection", "{", "seq", BCON_INT32(1), "time", BCON_INT32(1), "_id",
                               BCON_INT32(0), "}");

    chunk->count = 0;
    mongo_schema_text(filter, "room", name_of(room));
    BSON_APPEND_DOCUMENT_BEGIN(filter, "seq", &range);
    BSON_APPEND_INT64(&range, "$gt", (int64_t)above);
    bson_append_document_end(filter, &range);
    return read_rows(c, MONGO_MESSAGES, filter, options, take_message, chunk);
}

static void take_number(void *arg, const bson_t *row)
{
    *(uint64_t *)arg = mongo_schema_get_number(row, "seq");
}

/* Up to which number the room has too many messages; 0: it hasn't. A room has no more messages than numbers:
 * most need not be counted. */
static bool find_boundary(struct mongo_clean *c, const struct room *room, uint64_t oldest, uint64_t *boundary)
{
    bson_t *filter, *options;

    *boundary = 0;
    if (c->cuts.messages == 0 || room->highest < oldest + c->cuts.messages)
        return true;
    filter = bson_new();
    options = BCON_NEW("sort", "{", "seq", BCON_INT32(-1), "}", "skip", BCON_INT64((int64_t)c->cuts.messages),
                       "limit", BCON_INT64(1), "projection", "{", "seq", BCON_INT32(1), "_id", BCON_INT32(0),
                       "}");
    mongo_schema_text(filter, "room", name_of(room));
    return read_rows(c, MONGO_MESSAGES, filter, options, take_number, boundary);
}

/* Before they are deleted. */
static bool note_gone(struct mongo_clean *c, struct room *room, uint64_t gone)
{
    bson_t *filter = bson_new(), *change = bson_new(), most;
    bool changed;

    mongo_schema_text(filter, "_id", name_of(room));
    BSON_APPEND_DOCUMENT_BEGIN(change, "$max", &most);
    BSON_APPEND_INT64(&most, "highest", (int64_t)gone);
    BSON_APPEND_INT64(&most, "gone", (int64_t)gone);
    bson_append_document_end(change, &most);
    room->gone = gone;
    return update_room(c, filter, change, &changed);
}

static bool delete_messages(struct mongo_clean *c, const struct room *room, uint64_t upto, uint64_t *deleted)
{
    bson_t *filter = bson_new(), range;

    mongo_schema_text(filter, "room", name_of(room));
    BSON_APPEND_DOCUMENT_BEGIN(filter, "seq", &range);
    BSON_APPEND_INT64(&range, "$lte", (int64_t)upto);
    bson_append_document_end(filter, &range);
    return delete_rows(c, MONGO_MESSAGES, filter, deleted);
}

/* Only if nobody wrote to it meanwhile; what is written later makes it a room again (mongo_notes.c). */
static bool hide_room(struct mongo_clean *c, const struct room *room)
{
    bson_t *filter = bson_new(), *change = BCON_NEW("$unset", "{", "active", BCON_UTF8(""), "}");
    bool changed;

    mongo_schema_text(filter, "_id", name_of(room));
    BSON_APPEND_DATE_TIME(filter, "active", room->active);
    if (!update_room(c, filter, change, &changed))
        return false;
    store_retention_count(&c->tally, 0, changed, 0);
    return true;
}

/* How many of the chunk's messages go. `limit` is the time before which all do. */
static uint32_t count_past(const struct mongo_clean *c, const struct chunk *chunk, uint64_t boundary,
                           int64_t limit)
{
    uint32_t n = 0;

    while (n < chunk->count && (chunk->time[n] < limit ||
                                store_retention_past(&c->cuts, chunk->time[n], chunk->seq[n] <= boundary)))
        n++;
    return n;
}

/* One step. *rest: there may be more to do. What the server deletes by itself is counted when it is noted. A
 * room in which something new is found is *forsaken no more: its document lags. */
static bool delete_some(struct mongo_clean *c, struct room *room, bool *forsaken, bool *rest)
{
    uint64_t above = c->ttl ? room->gone : 0, boundary = 0, cut, deleted = 0;
    struct chunk chunk;
    uint32_t past, members;

    *rest = false;
    if (!read_oldest(c, room, above, RETENTION_ROWS, &chunk))
        return false;
    if (chunk.count == 0)
        return true;
    /* Of a room with nothing that may go nothing need be counted. */
    if (chunk.time[0] < c->cuts.floor && !find_boundary(c, room, chunk.seq[0], &boundary))
        return false;
    past = count_past(c, &chunk, boundary, *forsaken ? c->cuts.rooms : 0);
    *forsaken = *forsaken && past == chunk.count;
    if (past == 0)
        return true;
    *rest = past == RETENTION_ROWS;
    cut = chunk.seq[past - 1];
    if (!note_gone(c, room, cut) || !c->forget(c->arg, name_of(room), cut, &members, &c->error))
        return false;
    if ((!c->ttl || *forsaken || cut <= boundary) && !delete_messages(c, room, cut, &deleted))
        return false;
    store_retention_count(&c->tally, c->ttl ? past : deleted, 0, 0);
    return true;
}

/* All servers were away for so long that the server deleted what nobody had noted: everything below what is
 * left counts as that. */
static bool catch_up(struct mongo_clean *c, struct room *room)
{
    struct chunk chunk;
    uint64_t gone;

    if (!read_oldest(c, room, 0, 1, &chunk))
        return false;
    gone = chunk.count > 0 ? chunk.seq[0] - 1 : room->highest;
    return gone <= room->gone || note_gone(c, room, gone);
}

static bool is_forsaken(struct mongo_clean *c, const struct room *room, bool *forsaken)
{
    uint32_t members = 0;

    *forsaken = room->active < c->cuts.rooms;
    if (*forsaken && !c->forget(c->arg, name_of(room), 0, &members, &c->error))
        return false;
    *forsaken = *forsaken && members == 0;
    return true;
}

static bool clean_room(struct mongo_clean *c, struct room *room)
{
    bool forsaken, rest = true;

    if (!next_step(c) || (c->late && !catch_up(c, room)) || !is_forsaken(c, room, &forsaken))
        return false;
    while (rest) {
        if (!delete_some(c, room, &forsaken, &rest) || (rest && !next_step(c)))
            return false;
    }
    return !forsaken || hide_room(c, room);
}

/* ---- all rooms ---- */

struct rooms {
    struct room rooms[ROOMS_PAGE];
    uint32_t count;
};

static void take_room(void *arg, const bson_t *row)
{
    struct rooms *rooms = arg;
    struct text name = mongo_schema_get_text(row, "_id");
    struct room *room = &rooms->rooms[rooms->count];

    if (rooms->count == ROOMS_PAGE || name.length == 0 || name.length > sizeof(room->name))
        return;
    room->highest = mongo_schema_get_number(row, "highest");
    room->gone = mongo_schema_get_number(row, "gone");
    room->active = mongo_schema_get_date(row, "active");
    room->length = name.length;
    memcpy(room->name, name.data, name.length);
    rooms->count++;
}

/* By name, behind `last`; none that is deleted already. */
static bool read_rooms(struct mongo_clean *c, const struct room *last, struct rooms *rooms)
{
    bson_t *filter = bson_new(), range;
    bson_t *options = BCON_NEW("sort", "{", "_id", BCON_INT32(1), "}", "limit", BCON_INT64(ROOMS_PAGE));

    rooms->count = 0;
    BSON_APPEND_DOCUMENT_BEGIN(filter, "_id", &range);
    mongo_schema_text(&range, "$gt", name_of(last));
    bson_append_document_end(filter, &range);
    BSON_APPEND_DOCUMENT_BEGIN(filter, "active", &range);
    BSON_APPEND_DATE_TIME(&range, "$gt", 0);
    bson_append_document_end(filter, &range);
    return read_rows(c, MONGO_ROOMS, filter, options, take_room, rooms);
}

static bool clean_rooms(struct mongo_clean *c)
{
    struct rooms *rooms = malloc(sizeof(*rooms));
    struct room last = {0};
    bool ok = true;

    if (!rooms)
        abort();
    do {
        ok = next_step(c) && read_rooms(c, &last, rooms);
        for (uint32_t i = 0; ok && i < rooms->count; i++)
            ok = clean_room(c, &rooms->rooms[i]);
        if (ok && rooms->count > 0)
            last = rooms->rooms[rooms->count - 1];
    } while (ok && rooms->count == ROOMS_PAGE);
    free(rooms);
    return ok;
}

/* ---- users ---- */

struct users {
    const struct mongo_clean *clean;
    uint32_t seen, count; /* read; of these past their time */
    size_t last_length;
    char last[MESSAGE_USER_MAX];
    bson_t names; /* those past their time, as an array */
};

static void take_user(void *arg, const bson_t *row)
{
    struct users *users = arg;
    struct text name = mongo_schema_get_text(row, "_id");
    char index[16];

    users->seen++;
    if (name.length == 0 || name.length > sizeof(users->last))
        return;
    memcpy(users->last, name.data, name.length);
    users->last_length = name.length;
    if (mongo_schema_get_date(row, "last") >= users->clean->cuts.users)
        return;
    snprintf(index, sizeof(index), "%u", users->count++);
    mongo_schema_text(&users->names, index, name);
}

/* By name: `last` needs no index, which each of its changes would have to pay for. */
static bool read_users(struct mongo_clean *c, struct users *users)
{
    bson_t *filter = bson_new(), range;
    bson_t *options = BCON_NEW("sort", "{", "_id", BCON_INT32(1), "}", "limit", BCON_INT64(USERS_PAGE),
                               "projection", "{", "last", BCON_INT32(1), "}");

    users->seen = users->count = 0;
    BSON_APPEND_DOCUMENT_BEGIN(filter, "_id", &range);
    mongo_schema_text(&range, "$gt", (struct text){users->last, users->last_length});
    bson_append_document_end(filter, &range);
    return read_rows(c, MONGO_USERS, filter, options, take_user, users);
}

/* Who came back meanwhile stays. */
static bool delete_users(struct mongo_clean *c, const struct users *users)
{
    bson_t *filter = bson_new(), range;
    uint64_t deleted;

    BSON_APPEND_DOCUMENT_BEGIN(filter, "_id", &range);
    BSON_APPEND_ARRAY(&range, "$in", &users->names);
    bson_append_document_end(filter, &range);
    BSON_APPEND_DOCUMENT_BEGIN(filter, "last", &range);
    BSON_APPEND_DATE_TIME(&range, "$lt", c->cuts.users);
    bson_append_document_end(filter, &range);
    if (!delete_rows(c, MONGO_USERS, filter, &deleted))
        return false;
    store_retention_count(&c->tally, 0, 0, deleted);
    return true;
}

static bool clean_users(struct mongo_clean *c)
{
    struct users users = {.clean = c};
    bool ok;

    do {
        bson_init(&users.names);
        ok = next_step(c) && read_users(c, &users) && (users.count == 0 || delete_users(c, &users));
        bson_destroy(&users.names);
    } while (ok && users.seen == USERS_PAGE);
    return ok;
}

/* ---- a run ---- */

static void take_time(void *arg, const bson_t *row)
{
    *(int64_t *)arg = mongo_schema_get_date(row, "time");
}

/* A server may take the index and never act on it, or be far behind: then there is a message that should be
 * gone for long. */
static bool check_ttl(struct mongo_clean *c)
{
    bson_t *options = BCON_NEW("sort", "{", "time", BCON_INT32(1), "}", "limit", BCON_INT64(1), "projection",
                               "{", "time", BCON_INT32(1), "_id", BCON_INT32(0), "}");
    int64_t oldest = INT64_MAX;

    if (!read_rows(c, MONGO_MESSAGES, bson_new(), options, take_time, &oldest))
        return false;
    c->ttl = oldest >= c->cuts.age - c->ttl_ms - RETENTION_TTL_LATE_MS;
    return true;
}

bool mongo_clean_run(struct mongo_clean *c)
{
    c->tally = (struct retention_tally){0};
    if (c->ttl && (!next_step(c) || !check_ttl(c)))
        return false;
    if ((c->cuts.age != 0 || c->cuts.messages != 0 || c->cuts.rooms != 0) && !clean_rooms(c))
        return false;
    return c->cuts.users == 0 || clean_users(c);
}

/* ---- the index ---- */

static bool run(mongoc_client_t *client, const char *database, bson_t *command, bson_error_t *error)
{
    bool ok = mongoc_client_write_command_with_opts(client, database, command, NULL, NULL, error);

    bson_destroy(command);
    return ok;
}

/* The server said no, rather than nothing. */
static bool is_refusal(const bson_error_t *error)
{
    return error->domain == MONGOC_ERROR_SERVER;
}

static bool drop_index(mongoc_client_t *client, const char *database, bson_error_t *error)
{
    return run(client, database,
               BCON_NEW("dropIndexes", BCON_UTF8(MONGO_MESSAGES), "index", BCON_UTF8(TTL_INDEX)), error) ||
           (is_refusal(error) && (error->code == INDEX_NOT_FOUND || error->code == NAMESPACE_NOT_FOUND));
}

static bool make_index(mongoc_client_t *client, const char *database, int64_t seconds, bson_error_t *error)
{
    return run(client, database,
               BCON_NEW("createIndexes", BCON_UTF8(MONGO_MESSAGES), "indexes", "[", "{", "key", "{", "time",
                        BCON_INT32(1), "}", "name", BCON_UTF8(TTL_INDEX), "expireAfterSeconds",
                        BCON_INT64(seconds), "}", "]"),
               error);
}

static bool change_index(mongoc_client_t *client, const char *database, int64_t seconds, bson_error_t *error)
{
    return run(client, database,
               BCON_NEW("collMod", BCON_UTF8(MONGO_MESSAGES), "index", "{", "name", BCON_UTF8(TTL_INDEX),
                        "expireAfterSeconds", BCON_INT64(seconds), "}"),
               error);
}

bool mongo_clean_expire(mongoc_client_t *client, const char *database, int64_t age_ms, bool *works,
                        bson_error_t *error)
{
    int64_t seconds = (age_ms + 999) / 1000;

    *works = false;
    if (age_ms == 0)
        return drop_index(client, database, error);
    *works = make_index(client, database, seconds, error);
    if (!*works && is_refusal(error) &&
        (error->code == INDEX_OPTIONS_CONFLICT || error->code == INDEX_KEY_SPECS_CONFLICT))
        *works = change_index(client, database, seconds, error);
    return *works || is_refusal(error);
}
