/* mongo_query.c - one query per question; read concern and preference are the connection's. */
#include "mongo_query.h"

#include <errno.h>

#include "chatd/clock.h"
#include "chatd/metrics.h"
#include "mongo_batch.h"
#include "mongo_schema.h"

struct asking {
    mongoc_client_t *client;
    const char *database;
    struct store_request *request;
    bson_error_t error;
};

static struct text room_of(const struct store_request *request)
{
    return (struct text){request->names.data, request->room_length};
}

/* Numbers are unsigned in chatd and signed in BSON; no message has one above INT64_MAX. */
static int64_t number(uint64_t n)
{
    return n > INT64_MAX ? INT64_MAX : (int64_t)n;
}

/* Calls `take` with each row until it says no. Takes filter and options over. */
static enum store_status ask(struct asking *asking, const char *collection, bson_t *filter, bson_t *options,
                             bool (*take)(struct store_request *request, const bson_t *row))
{
    mongoc_collection_t *c = mongoc_client_get_collection(asking->client, asking->database, collection);
    mongoc_cursor_t *cursor;
    const bson_t *row;
    bool more = true, failed;

    BSON_APPEND_INT64(options, "maxTimeMS", STORE_MONGO_READ_MS);
    cursor = mongoc_collection_find_with_opts(c, filter, options, NULL);
    while (more && mongoc_cursor_next(cursor, &row))
        more = take(asking->request, row);
    failed = mongoc_cursor_error(cursor, &asking->error);
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(c);
    bson_destroy(filter);
    bson_destroy(options);
    return failed ? STORE_FAILED : STORE_OK;
}

/* ---- highest ---- */

static bool take_highest(struct store_request *request, const bson_t *row)
{
    uint64_t highest = mongo_schema_get_number(row, "highest");

    if (highest > request->number)
        request->number = highest;
    return false;
}

/* The messages first: retention notes a room's highest number before it removes messages. What rooms say
 * lags otherwise. */
static enum store_status highest(struct asking *asking)
{
    struct store_request *request = asking->request;
    bson_t *filter;

    if (!mongo_batch_highest(asking->client, asking->database, room_of(request), &request->number,
                             &asking->error))
        return STORE_FAILED;
    filter = bson_new();
    mongo_schema_text(filter, "_id", room_of(request));
    return ask(asking, MONGO_ROOMS, filter, bson_new(), take_highest);
}

/* ---- one message ---- */

static bool take_number(struct store_request *request, const bson_t *row)
{
    request->number = mongo_schema_get_number(row, "seq");
    return false;
}

static enum store_status find(struct asking *asking)
{
    struct store_request *request = asking->request;
    const char *user = request->names.data + request->room_length;
    struct text key = {user + request->user_length, request->key_length};
    bson_t *filter = bson_new(),
           *options = BCON_NEW("limit", BCON_INT64(1), "projection", "{", "seq", BCON_INT32(1), "}");
    enum store_status status;

    mongo_schema_key(filter, room_of(request), (struct text){user, request->user_length}, key, request->uid);
    request->number = 0;
    status = ask(asking, MONGO_MESSAGES, filter, options, take_number);
    return status == STORE_OK && request->number == 0 ? STORE_NONE : status;
}

static bool take_uid(struct store_request *request, const bson_t *row)
{
    if (mongo_schema_is_uid(row, "uid", request->uid))
        request->number = request->seq;
    return false;
}

static enum store_status resolve(struct asking *asking)
{
    struct store_request *request = asking->request;
    bson_t *filter = bson_new(),
           *options = BCON_NEW("limit", BCON_INT64(1), "projection", "{", "uid", BCON_INT32(1), "}");
    enum store_status status;

    mongo_schema_text(filter, "room", room_of(request));
    BSON_APPEND_INT64(filter, "seq", number(request->seq));
    request->number = 0;
    status = ask(asking, MONGO_MESSAGES, filter, options, take_uid);
    return status != STORE_OK || request->number != 0 ? status : find(asking);
}

/* ---- pages ---- */

static bool take_row(struct store_request *request, uint64_t n, struct text bytes)
{
    if (request->page.count == request->limit) {
        request->more = true;
        return false;
    }
    page_add(&request->page, n, bytes.data, bytes.length);
    return true;
}

static bool take_message(struct store_request *request, const bson_t *row)
{
    return take_row(request, mongo_schema_get_number(row, "seq"), mongo_schema_get_text(row, "event"));
}

static bool take_room(struct store_request *request, const bson_t *row)
{
    return take_row(request, mongo_schema_get_number(row, "highest"), mongo_schema_get_text(row, "_id"));
}

/* One more than asked for, to know whether there are more; all in one answer. */
static void limit(bson_t *options, const struct store_request *request)
{
    BSON_APPEND_INT64(options, "limit", (int64_t)request->limit + 1);
    BSON_APPEND_INT64(options, "batchSize", (int64_t)request->limit + 1);
}

static bool take_gone(struct store_request *request, const bson_t *row)
{
    request->page.gone = mongo_schema_get_number(row, "gone");
    return false;
}

/* After the page is read: what was deleted before that is known by now. */
static enum store_status read_gone(struct asking *asking)
{
    bson_t *filter = bson_new(), *options = BCON_NEW("projection", "{", "gone", BCON_INT32(1), "}");

    mongo_schema_text(filter, "_id", room_of(asking->request));
    return ask(asking, MONGO_ROOMS, filter, options, take_gone);
}

static enum store_status page(struct asking *asking)
{
    struct store_request *request = asking->request;
    bson_t *filter = bson_new(), range;
    bson_t *options = BCON_NEW("sort", "{", "seq", BCON_INT32(-1), "}", "projection", "{", "seq",
                               BCON_INT32(1), "event", BCON_INT32(1), "_id", BCON_INT32(0), "}");
    enum store_status status;

    mongo_schema_text(filter, "room", room_of(request));
    BSON_APPEND_DOCUMENT_BEGIN(filter, "seq", &range);
    BSON_APPEND_INT64(&range, "$gt", number(request->above));
    BSON_APPEND_INT64(&range, "$lte", number(request->upto));
    bson_append_document_end(filter, &range);
    limit(options, request);
    status = ask(asking, MONGO_MESSAGES, filter, options, take_message);
    page_reverse(&request->page);
    return status != STORE_OK || request->more ? status : read_gone(asking);
}

static enum store_status rooms(struct asking *asking)
{
    bson_t *filter = bson_new(), range;
    bson_t *options = BCON_NEW("sort", "{", "active", BCON_INT32(-1), "}", "projection", "{", "highest",
                               BCON_INT32(1), "}");

    /* Not those that retention deleted, which have no `active`. */
    BSON_APPEND_DOCUMENT_BEGIN(filter, "active", &range);
    BSON_APPEND_DATE_TIME(&range, "$gt", 0);
    bson_append_document_end(filter, &range);
    limit(options, asking->request);
    return ask(asking, MONGO_ROOMS, filter, options, take_room);
}

int mongo_query_answer(void *arg, void **connection, struct store_request *request,
                       char error[RING_ERROR_MAX])
{
    static enum store_status (*const answer[])(struct asking *) = {
        [STORE_READ_HIGHEST] = highest, [STORE_READ_FIND] = find,   [STORE_READ_RESOLVE] = resolve,
        [STORE_READ_PAGE] = page,       [STORE_READ_ROOMS] = rooms,
    };
    const struct mongo_query *query = arg;
    struct asking asking = {.database = mongo_link_database(query->link), .request = request};
    int64_t start_ms = clock_monotonic_ms();

    (void)connection;
    asking.client = mongo_link_pop(query->link, &asking.error);
    request->status = asking.client ? answer[request->kind](&asking) : STORE_FAILED;
    mongo_link_push(query->link, asking.client);
    if (request->status == STORE_FAILED) {
        mongo_link_failed(query->link, MONGO_READER, start_ms, &asking.error);
        mongo_error_text(&asking.error, error, RING_ERROR_MAX);
        return -EIO;
    }
    if (request->kind == STORE_READ_HIGHEST)
        request->number += query->block;
    mongo_link_works(query->link, MONGO_READER, start_ms);
    return 0;
}

void mongo_query_close(void *connection)
{
    (void)connection;
}
