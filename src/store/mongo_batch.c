/* mongo_batch.c - insert, then look at what collided.
 *
 * A duplicate is no proof yet: the row may be one that no majority has, and go again with its primary. So
 * it counts when it is read with read concern majority; before that the message stays PENDING and is
 * inserted again. */
#include "mongo_batch.h"

#include <stdlib.h>
#include <string.h>

#include "chatd/log.h"
#include "mongo_link.h"
#include "mongo_schema.h"

/* Rows asked for in one query. By number the server walks rooms times numbers in the index, by key it
 * plans each of them. */
enum { NUMBER_CHUNK = 250, KEY_CHUNK = 20 };

struct attempt {
    mongoc_collection_t *messages;
    struct mongo_item **sent; /* what the insert had, by its index there */
    uint32_t sent_count;
    struct mongo_item **open; /* what collided or is only looked for */
    uint32_t open_count;
    bool *taken; /* of open: another message has its number */
    bson_error_t *error;
    bool failed; /* `error` says why verdicts are missing */
};

/* ---- inserting ---- */

/* Codes that one document is refused with whenever it comes. All others may pass: a full disk, a new
 * primary. */
static bool is_for_good(uint32_t code)
{
    return code == 2 /* BadValue */ || code == 121 /* DocumentValidationFailure */ ||
           code == 10334 /* BSONObjectTooLarge */ || code == 17280 /* KeyTooLong */;
}

static void refuse(struct mongo_item *item, uint32_t code, const char *reason)
{
    const struct message *message = item->message;

    item->verdict = MONGO_REFUSED;
    log_error("store_refused", "room=%.*s seq=%llu code=%u error=%s", (int)message->room.length,
              message->room.data, (unsigned long long)message->seq, code, reason);
}

static void fail(struct attempt *attempt, const bson_error_t *error)
{
    attempt->failed = true;
    *attempt->error = *error;
}

/* One element of writeErrors. */
static void judge_fault(struct attempt *attempt, const bson_t *fault)
{
    uint64_t index = mongo_schema_get_number(fault, "index");
    uint32_t code = (uint32_t)mongo_schema_get_number(fault, "code");
    struct text reason = mongo_schema_get_text(fault, "errmsg");
    bson_error_t error;

    if (index >= attempt->sent_count || attempt->open_count >= attempt->sent_count)
        return;
    bson_set_error(&error, MONGOC_ERROR_SERVER, code, "%s", reason.length > 0 ? reason.data : "refused");
    attempt->sent[index]->verdict = MONGO_PENDING;
    if (code == MONGO_DUPLICATE)
        attempt->open[attempt->open_count++] = attempt->sent[index];
    else if (is_for_good(code))
        refuse(attempt->sent[index], code, error.message);
    else
        fail(attempt, &error);
}

/* The insert didn't do all. Without a word about single documents nothing is known of any of them. */
static void judge_reply(struct attempt *attempt, const bson_t *reply, const bson_error_t *error)
{
    bool answered = error->domain == MONGOC_ERROR_SERVER || error->domain == MONGOC_ERROR_WRITE_CONCERN;
    bson_iter_t faults, lags;
    bool lag = mongo_schema_list(reply, "writeConcernErrors", &lags);
    bool any = mongo_schema_list(reply, "writeErrors", &faults);

    if (!answered || lag || !any)
        fail(attempt, error);
    if (!answered || !any)
        return;
    for (uint32_t i = 0; i < attempt->sent_count && !lag; i++) {
        attempt->sent[i]->verdict = MONGO_STORED;
        attempt->sent[i]->seq = attempt->sent[i]->message->seq;
    }
    do {
        bson_t fault;

        if (mongo_schema_element(&faults, &fault))
            judge_fault(attempt, &fault);
    } while (bson_iter_next(&faults));
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);

    if (!memory)
        abort();
    return memory;
}

static void insert(struct attempt *attempt, const bson_t *documents)
{
    const bson_t **pointers = allocate(attempt->sent_count, sizeof(*pointers));
    bson_t options = BSON_INITIALIZER, reply;
    bson_error_t error = {0};
    bool ok;

    BSON_APPEND_BOOL(&options, "ordered", false);
    BSON_APPEND_BOOL(&options, "validate", false); /* they are made here, and their texts looked at */
    for (uint32_t i = 0; i < attempt->sent_count; i++)
        pointers[i] = &documents[i];
    ok = mongoc_collection_insert_many(attempt->messages, pointers, attempt->sent_count, &options, &reply,
                                       &error);
    for (uint32_t i = 0; i < attempt->sent_count && ok; i++) {
        attempt->sent[i]->verdict = MONGO_STORED;
        attempt->sent[i]->seq = attempt->sent[i]->message->seq;
    }
    if (!ok)
        judge_reply(attempt, &reply, &error);
    bson_destroy(&reply);
    bson_destroy(&options);
    free(pointers);
}

/* ---- settling ---- */

/* A question about the open items in [from, upto) whose verdict is pending; `answer` is called with each
 * row found. */
struct question {
    void (*filter)(struct attempt *attempt, uint32_t from, uint32_t upto, bson_t *out);
    void (*answer)(struct attempt *attempt, uint32_t from, uint32_t upto, const bson_t *row);
};

static bool is_pending(const struct attempt *attempt, uint32_t i)
{
    return attempt->open[i]->verdict == MONGO_PENDING;
}

/* Appends `field`: {"$in": [...]}, each element by `add`. */
static void filter_in(struct attempt *attempt, uint32_t from, uint32_t upto, const char *field,
                      void (*add)(bson_t *list, const char *index, const struct message *message),
                      bson_t *out)
{
    bson_t in, list;
    uint32_t count = 0;

    BSON_APPEND_DOCUMENT_BEGIN(out, field, &in);
    BSON_APPEND_ARRAY_BEGIN(&in, "$in", &list);
    for (uint32_t i = from; i < upto; i++) {
        char digits[16];
        const char *index;

        if (!is_pending(attempt, i))
            continue;
        bson_uint32_to_string(count++, &index, digits, sizeof(digits));
        add(&list, index, attempt->open[i]->message);
    }
    bson_append_array_end(&in, &list);
    bson_append_document_end(out, &in);
}

static void add_room(bson_t *list, const char *index, const struct message *message)
{
    mongo_schema_text(list, index, message->room);
}

static void add_number(bson_t *list, const char *index, const struct message *message)
{
    BSON_APPEND_INT64(list, index, (int64_t)message->seq);
}

/* May find rows of no interest: a number of one item in the room of another. */
static void filter_numbers(struct attempt *attempt, uint32_t from, uint32_t upto, bson_t *out)
{
    filter_in(attempt, from, upto, "room", add_room, out);
    filter_in(attempt, from, upto, "seq", add_number, out);
}

static void filter_keys(struct attempt *attempt, uint32_t from, uint32_t upto, bson_t *out)
{
    uint32_t count = 0;
    bson_t list, one;

    BSON_APPEND_ARRAY_BEGIN(out, "$or", &list);
    for (uint32_t i = from; i < upto; i++) {
        const struct message *message = attempt->open[i]->message;
        char digits[16];
        const char *index;

        if (!is_pending(attempt, i))
            continue;
        bson_uint32_to_string(count++, &index, digits, sizeof(digits));
        BSON_APPEND_DOCUMENT_BEGIN(&list, index, &one);
        mongo_schema_key(&one, message->room, message->user, message->key, message->uid);
        bson_append_document_end(&list, &one);
    }
    bson_append_array_end(out, &list);
}

static bool is_text(const bson_t *row, const char *field, struct text text)
{
    struct text found = mongo_schema_get_text(row, field);

    return found.length == text.length && memcmp(found.data, text.data, text.length) == 0;
}

static void store_as(struct mongo_item *item, uint64_t seq)
{
    item->verdict = MONGO_STORED;
    item->found = true;
    item->seq = seq;
}

static void answer_number(struct attempt *attempt, uint32_t from, uint32_t upto, const bson_t *row)
{
    uint64_t seq = mongo_schema_get_number(row, "seq");

    for (uint32_t i = from; i < upto; i++) {
        struct mongo_item *item = attempt->open[i];

        if (item->message->seq != seq || !is_text(row, "room", item->message->room))
            continue;
        if (mongo_schema_is_uid(row, "uid", item->message->uid))
            store_as(item, seq);
        else
            attempt->taken[i] = true;
    }
}

static void answer_key(struct attempt *attempt, uint32_t from, uint32_t upto, const bson_t *row)
{
    uint64_t seq = mongo_schema_get_number(row, "seq");

    for (uint32_t i = from; i < upto; i++) {
        const struct message *message = attempt->open[i]->message;
        bool same = message->key.length > 0 ? is_text(row, "key", message->key)
                                            : mongo_schema_is_uid(row, "key", message->uid);

        if (same && is_text(row, "room", message->room) && is_text(row, "user", message->user))
            store_as(attempt->open[i], seq);
    }
}

static bool any_pending(const struct attempt *attempt, uint32_t from, uint32_t upto)
{
    while (from < upto && !is_pending(attempt, from))
        from++;
    return from < upto;
}

static bool ask(struct attempt *attempt, const struct question *question, uint32_t from, uint32_t upto)
{
    bson_t filter = BSON_INITIALIZER, *options;
    mongoc_cursor_t *cursor;
    bson_error_t error;
    const bson_t *row;
    bool failed;

    if (!any_pending(attempt, from, upto))
        return true;
    question->filter(attempt, from, upto, &filter);
    options = BCON_NEW("projection", "{", "event", BCON_INT32(0), "}");
    cursor = mongoc_collection_find_with_opts(attempt->messages, &filter, options, NULL);
    while (mongoc_cursor_next(cursor, &row))
        question->answer(attempt, from, upto, row);
    failed = mongoc_cursor_error(cursor, &error);
    if (failed)
        fail(attempt, &error);
    mongoc_cursor_destroy(cursor);
    bson_destroy(options);
    bson_destroy(&filter);
    return !failed;
}

/* Asks about all open items, `chunk` at a time. */
static bool ask_all(struct attempt *attempt, const struct question *question, uint32_t chunk)
{
    for (uint32_t from = 0; from < attempt->open_count; from += chunk) {
        uint32_t rest = attempt->open_count - from;

        if (!ask(attempt, question, from, from + (rest < chunk ? rest : chunk)))
            return false;
    }
    return true;
}

/* The number first: it is the message itself, mostly. Then the key, also for one whose number is taken:
 * it may be stored under another one. */
static void settle(struct attempt *attempt)
{
    static const struct question NUMBER = {filter_numbers, answer_number}, KEY = {filter_keys, answer_key};

    if (!ask_all(attempt, &NUMBER, NUMBER_CHUNK) || !ask_all(attempt, &KEY, KEY_CHUNK))
        return;
    for (uint32_t i = 0; i < attempt->open_count; i++) {
        struct mongo_item *item = attempt->open[i];

        if (item->verdict != MONGO_PENDING)
            continue;
        if (item->look || attempt->taken[i]) {
            item->verdict = MONGO_TAKEN;
        } else {
            attempt->failed = true;
            mongo_error_set(attempt->error, MONGO_ERROR_MAJORITY,
                            "a message is written, but not yet by a majority");
        }
    }
}

/* Documents of the items to insert, in `sent`'s order; those to look for become open. */
static void sort_out(struct attempt *attempt, struct mongo_item *items, uint32_t count, bson_t *documents)
{
    for (uint32_t i = 0; i < count; i++) {
        bson_t *document = &documents[attempt->sent_count];

        items[i].verdict = MONGO_PENDING;
        items[i].found = false;
        if (items[i].look) {
            attempt->open[attempt->open_count++] = &items[i];
            continue;
        }
        bson_init(document);
        if (mongo_schema_message(document, items[i].message)) {
            attempt->sent[attempt->sent_count++] = &items[i];
        } else {
            bson_destroy(document);
            refuse(&items[i], 0, "its text is not UTF-8");
        }
    }
}

bool mongo_batch_write(mongoc_client_t *client, const char *database, struct mongo_item *items,
                       uint32_t count, bson_error_t *error)
{
    bson_t *documents = allocate(count, sizeof(*documents));
    struct attempt attempt = {
        .messages = mongoc_client_get_collection(client, database, MONGO_MESSAGES),
        .sent = allocate(count, sizeof(*attempt.sent)),
        .open = allocate(count, sizeof(*attempt.open)),
        .taken = allocate(count, sizeof(*attempt.taken)),
        .error = error,
    };

    sort_out(&attempt, items, count, documents);
    if (attempt.sent_count > 0)
        insert(&attempt, documents);
    /* When the server was lost the next question would only wait for it once more. */
    if (!attempt.failed)
        settle(&attempt);
    for (uint32_t i = 0; i < attempt.sent_count; i++)
        bson_destroy(&documents[i]);
    mongoc_collection_destroy(attempt.messages);
    free(documents);
    free(attempt.sent);
    free(attempt.open);
    free(attempt.taken);
    return !attempt.failed;
}

bool mongo_batch_highest(mongoc_client_t *client, const char *database, struct text room, uint64_t *highest,
                         bson_error_t *error)
{
    bson_t filter = BSON_INITIALIZER;
    bson_t *options = BCON_NEW("sort", "{", "seq", BCON_INT32(-1), "}", "limit", BCON_INT64(1), "projection",
                               "{", "seq", BCON_INT32(1), "}");
    mongoc_collection_t *messages = mongoc_client_get_collection(client, database, MONGO_MESSAGES);
    mongoc_cursor_t *cursor;
    const bson_t *row;
    bool ok;

    mongo_schema_text(&filter, "room", room);
    cursor = mongoc_collection_find_with_opts(messages, &filter, options, NULL);
    *highest = mongoc_cursor_next(cursor, &row) ? mongo_schema_get_number(row, "seq") : 0;
    ok = !mongoc_cursor_error(cursor, error);
    mongoc_cursor_destroy(cursor);
    mongoc_collection_destroy(messages);
    bson_destroy(options);
    bson_destroy(&filter);
    return ok;
}
