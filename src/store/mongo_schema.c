/* mongo_schema.c - documents and indexes.
 *
 * `key` is never missing: to MongoDB two documents without it are two of the same key, and an index with
 * a filter can't be unique under a shard key. A client's string and a uid as binary are never equal. */
#include "mongo_schema.h"

#include <string.h>

#include "mongo_link.h"

struct index {
    const char *collection, *name, *keys;
    bool unique;
};

/* The history of a room is read downwards: an index is read in both directions. */
static const struct index INDEXES[] = {
    {MONGO_MESSAGES, "room_1_seq_1", "{\"room\": 1, \"seq\": 1}", true},
    {MONGO_MESSAGES, "room_1_user_1_key_1", "{\"room\": 1, \"user\": 1, \"key\": 1}", true},
    {MONGO_ROOMS, "active_-1", "{\"active\": -1}", false},
};

/* One index a command: the servers that only speak the protocol don't all take several. */
static bool make_index(mongoc_client_t *client, const char *database, const struct index *index,
                       bson_error_t *error)
{
    bson_t command = BSON_INITIALIZER, keys, list, one;
    bool ok;

    if (!bson_init_from_json(&keys, index->keys, -1, error))
        return false;
    BSON_APPEND_UTF8(&command, "createIndexes", index->collection);
    BSON_APPEND_ARRAY_BEGIN(&command, "indexes", &list);
    BSON_APPEND_DOCUMENT_BEGIN(&list, "0", &one);
    BSON_APPEND_DOCUMENT(&one, "key", &keys);
    BSON_APPEND_UTF8(&one, "name", index->name);
    if (index->unique)
        BSON_APPEND_BOOL(&one, "unique", true);
    bson_append_document_end(&list, &one);
    bson_append_array_end(&command, &list);
    ok = mongoc_client_write_command_with_opts(client, database, &command, NULL, NULL, error);
    bson_destroy(&command);
    bson_destroy(&keys);
    /* What keeps an index from being made is called by its name; what keeps the server from answering, by
     * its own. */
    if (!ok && strcmp(mongo_error_cause(error), "server") == 0) {
        bson_error_t reason = *error;

        mongo_error_set(error, MONGO_ERROR_INDEX, "%s.%s: %s (code %u)", index->collection, index->name,
                        reason.message, reason.code);
    }
    return ok;
}

bool mongo_schema_prepare(mongoc_client_t *client, const char *database, bson_error_t *error)
{
    for (size_t i = 0; i < sizeof(INDEXES) / sizeof(INDEXES[0]); i++) {
        if (!make_index(client, database, &INDEXES[i], error))
            return false;
    }
    return true;
}

/* ---- to documents ---- */

void mongo_schema_text(bson_t *document, const char *field, struct text text)
{
    bson_append_utf8(document, field, -1, text.length > 0 ? text.data : "", (int)text.length);
}

void mongo_schema_key(bson_t *document, struct text room, struct text user, struct text key,
                      const uint8_t *uid)
{
    mongo_schema_text(document, "room", room);
    mongo_schema_text(document, "user", user);
    if (key.length > 0)
        mongo_schema_text(document, "key", key);
    else
        BSON_APPEND_BINARY(document, "key", BSON_SUBTYPE_BINARY, uid, MESSAGE_UID_SIZE);
}

static bool is_utf8(struct text text)
{
    return text.length == 0 || bson_utf8_validate(text.data, text.length, true);
}

bool mongo_schema_message(bson_t *document, const struct message *message)
{
    if (!is_utf8(message->room) || !is_utf8(message->user) || !is_utf8(message->key) ||
        !is_utf8(message->event))
        return false;
    mongo_schema_key(document, message->room, message->user, message->key, message->uid);
    BSON_APPEND_INT64(document, "seq", (int64_t)message->seq);
    BSON_APPEND_BINARY(document, "uid", BSON_SUBTYPE_BINARY, message->uid, MESSAGE_UID_SIZE);
    BSON_APPEND_DATE_TIME(document, "time", message->time_ms);
    mongo_schema_text(document, "event", message->event);
    return true;
}

/* ---- from replies and rows ---- */

bool mongo_schema_list(const bson_t *reply, const char *field, bson_iter_t *at)
{
    bson_iter_t list;

    return bson_iter_init_find(&list, reply, field) && bson_iter_recurse(&list, at) && bson_iter_next(at);
}

bool mongo_schema_element(const bson_iter_t *at, bson_t *document)
{
    const uint8_t *data;
    uint32_t length;

    if (!BSON_ITER_HOLDS_DOCUMENT(at))
        return false;
    bson_iter_document(at, &length, &data);
    return bson_init_static(document, data, length);
}

struct text mongo_schema_get_text(const bson_t *row, const char *field)
{
    bson_iter_t at;
    uint32_t length = 0;
    const char *data = NULL;

    if (bson_iter_init_find(&at, row, field) && BSON_ITER_HOLDS_UTF8(&at))
        data = bson_iter_utf8(&at, &length);
    return (struct text){data, length};
}

uint64_t mongo_schema_get_number(const bson_t *row, const char *field)
{
    bson_iter_t at;

    return bson_iter_init_find(&at, row, field) ? (uint64_t)bson_iter_as_int64(&at) : 0;
}

int64_t mongo_schema_get_date(const bson_t *row, const char *field)
{
    bson_iter_t at;

    return bson_iter_init_find(&at, row, field) && BSON_ITER_HOLDS_DATE_TIME(&at) ? bson_iter_date_time(&at)
                                                                                  : 0;
}

bool mongo_schema_is_uid(const bson_t *row, const char *field, const uint8_t *uid)
{
    const uint8_t *data;
    bson_subtype_t subtype;
    uint32_t length;
    bson_iter_t at;

    if (!bson_iter_init_find(&at, row, field) || !BSON_ITER_HOLDS_BINARY(&at))
        return false;
    bson_iter_binary(&at, &subtype, &length, &data);
    return length == MESSAGE_UID_SIZE && memcmp(data, uid, MESSAGE_UID_SIZE) == 0;
}
