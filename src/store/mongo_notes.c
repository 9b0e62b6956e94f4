/* mongo_notes.c - two tables of notes, and the thread that writes them.
 *
 * No upserts: a document is inserted, and one that is there already is updated with $max. So two workers
 * that note the same room at once need no luck, and what is written twice or late changes nothing. */
#include "mongo_notes.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "chatd/clock.h"
#include "chatd/thread.h"
#include "mongo_schema.h"

enum {
    INSERT_CHUNK = 500,
    /* Statements of one update command. The driver would send 1,000; few of them leave the server to
     * others sooner. */
    UPDATE_CHUNK = 20,
};

/* Added by whoever notes, removed by the thread only: so it may use one without the mutex, but for its
 * numbers. */
struct note {
    bool known; /* its document is there; the thread's */
    bool dirty; /* has news */
    uint64_t highest;
    int64_t active_ms;  /* Unix time */
    int64_t written_ms; /* monotonic */
    UT_hash_handle hh;
    size_t length;
    char name[];
};

struct table {
    const char *collection;
    struct note *notes; /* by name */
    uint32_t dirty;
    uint32_t most;
    /* The whole document, and the update of one that is there; from copies of a note. */
    void (*document)(const struct note *note, bson_t *out);
    void (*update)(const struct note *note, bson_t *out);
};

struct mongo_notes {
    struct mongo_link *link;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t work;
    struct table rooms, users;
    bool stopping;
    int64_t deadline_ms; /* once stopping */
};

/* ---- documents ---- */

static void append_name(const struct note *note, bson_t *out)
{
    mongo_schema_text(out, "_id", (struct text){note->name, note->length});
}

static void room_document(const struct note *note, bson_t *out)
{
    append_name(note, out);
    BSON_APPEND_UTF8(out, "topic", "");
    BSON_APPEND_DATE_TIME(out, "created", note->active_ms);
    BSON_APPEND_DATE_TIME(out, "active", note->active_ms);
    BSON_APPEND_INT64(out, "highest", (int64_t)note->highest);
}

static void room_update(const struct note *note, bson_t *out)
{
    bson_t most;

    BSON_APPEND_DOCUMENT_BEGIN(out, "$max", &most);
    BSON_APPEND_DATE_TIME(&most, "active", note->active_ms);
    BSON_APPEND_INT64(&most, "highest", (int64_t)note->highest);
    bson_append_document_end(out, &most);
}

static void user_document(const struct note *note, bson_t *out)
{
    append_name(note, out);
    BSON_APPEND_DATE_TIME(out, "first", note->active_ms);
    BSON_APPEND_DATE_TIME(out, "last", note->active_ms);
}

static void user_update(const struct note *note, bson_t *out)
{
    bson_t most;

    BSON_APPEND_DOCUMENT_BEGIN(out, "$max", &most);
    BSON_APPEND_DATE_TIME(&most, "last", note->active_ms);
    bson_append_document_end(out, &most);
}

/* ---- noting ---- */

/* Mutex held. NULL when there is no place. */
static struct note *find_or_add(struct table *table, struct text name)
{
    struct note *note;

    HASH_FIND(hh, table->notes, name.data, name.length, note);
    if (note || HASH_COUNT(table->notes) >= table->most)
        return note;
    note = calloc(1, sizeof(*note) + name.length);
    if (!note)
        abort();
    memcpy(note->name, name.data, name.length);
    note->length = name.length;
    HASH_ADD_KEYPTR(hh, table->notes, note->name, note->length, note);
    return note;
}

static void set_dirty(struct mongo_notes *notes, struct table *table, struct note *note)
{
    if (note->dirty)
        return;
    note->dirty = true;
    if (table->dirty++ == 0)
        pthread_cond_signal(&notes->work);
}

void mongo_notes_room(struct mongo_notes *notes, struct text room, uint64_t seq, int64_t time_ms)
{
    struct note *note;

    pthread_mutex_lock(&notes->mutex);
    note = find_or_add(&notes->rooms, room);
    if (note) {
        if (seq > note->highest)
            note->highest = seq;
        if (time_ms > note->active_ms)
            note->active_ms = time_ms;
        set_dirty(notes, &notes->rooms, note);
    }
    pthread_mutex_unlock(&notes->mutex);
}

void mongo_notes_user(struct mongo_notes *notes, struct text user)
{
    int64_t now_ms = clock_monotonic_ms();
    struct note *note;

    pthread_mutex_lock(&notes->mutex);
    note = find_or_add(&notes->users, user);
    if (note && (note->written_ms == 0 || now_ms - note->written_ms >= MONGO_NOTES_USER_MS)) {
        note->active_ms = clock_wall_ms();
        set_dirty(notes, &notes->users, note);
    }
    pthread_mutex_unlock(&notes->mutex);
}

/* ---- writing: the thread ---- */

/* What one command writes. */
struct chunk {
    struct note *notes[INSERT_CHUNK];
    uint32_t count;
};

/* Takes dirty notes that are known, or not, and clears their mark. Those written since `pass_ms` have had
 * their turn, else a busy room would keep all others waiting. */
static void take(struct mongo_notes *notes, struct table *table, bool known, int64_t pass_ms,
                 struct chunk *chunk)
{
    uint32_t most = known ? UPDATE_CHUNK : INSERT_CHUNK;

    chunk->count = 0;
    pthread_mutex_lock(&notes->mutex);
    for (struct note *note = table->notes; note && chunk->count < most; note = note->hh.next) {
        if (!note->dirty || note->known != known || note->written_ms >= pass_ms)
            continue;
        note->dirty = false;
        note->written_ms = clock_monotonic_ms();
        table->dirty--;
        chunk->notes[chunk->count++] = note;
    }
    pthread_mutex_unlock(&notes->mutex);
}

/* It has to be written still. */
static void give_back(struct mongo_notes *notes, struct table *table, struct note *note)
{
    pthread_mutex_lock(&notes->mutex);
    note->written_ms = 0;
    set_dirty(notes, table, note);
    pthread_mutex_unlock(&notes->mutex);
}

/* Numbers may rise meanwhile; they are read under the mutex. */
static void make_document(struct mongo_notes *notes, const struct note *note,
                          void (*make)(const struct note *note, bson_t *out), bson_t *out)
{
    bson_init(out);
    pthread_mutex_lock(&notes->mutex);
    make(note, out);
    pthread_mutex_unlock(&notes->mutex);
}

/* Those that were there already are to be updated. False when there are other errors than that. */
static bool mark_there(struct mongo_notes *notes, struct table *table, const struct chunk *chunk,
                       const bson_t *reply)
{
    bson_iter_t at;
    bool only = mongo_schema_list(reply, "writeErrors", &at);

    if (!only)
        return false;
    do {
        bson_t fault;
        uint64_t index;

        if (!mongo_schema_element(&at, &fault))
            continue;
        index = mongo_schema_get_number(&fault, "index");
        if (mongo_schema_get_number(&fault, "code") != MONGO_DUPLICATE)
            only = false;
        else if (index < chunk->count)
            give_back(notes, table, chunk->notes[index]);
    } while (bson_iter_next(&at));
    return only;
}

static bool insert(struct mongo_notes *notes, struct table *table, mongoc_collection_t *collection,
                   const struct chunk *chunk, bson_error_t *error)
{
    bson_t options = BSON_INITIALIZER, reply, documents[INSERT_CHUNK];
    const bson_t *pointers[INSERT_CHUNK];
    bool ok;

    for (uint32_t i = 0; i < chunk->count; i++) {
        make_document(notes, chunk->notes[i], table->document, &documents[i]);
        pointers[i] = &documents[i];
    }
    BSON_APPEND_BOOL(&options, "ordered", false);
    ok = mongoc_collection_insert_many(collection, pointers, chunk->count, &options, &reply, error) ||
         mark_there(notes, table, chunk, &reply);
    for (uint32_t i = 0; i < chunk->count; i++) {
        chunk->notes[i]->known = ok;
        bson_destroy(&documents[i]);
    }
    bson_destroy(&reply);
    bson_destroy(&options);
    return ok;
}

static bool update(struct mongo_notes *notes, struct table *table, mongoc_collection_t *collection,
                   const struct chunk *chunk, bson_error_t *error)
{
    bson_t options = BSON_INITIALIZER, reply;
    mongoc_bulk_operation_t *bulk;
    bool ok;

    BSON_APPEND_BOOL(&options, "ordered", false);
    bulk = mongoc_collection_create_bulk_operation_with_opts(collection, &options);
    for (uint32_t i = 0; i < chunk->count; i++) {
        bson_t filter = BSON_INITIALIZER, change;

        append_name(chunk->notes[i], &filter);
        make_document(notes, chunk->notes[i], table->update, &change);
        mongoc_bulk_operation_update_one_with_opts(bulk, &filter, &change, NULL, NULL);
        bson_destroy(&change);
        bson_destroy(&filter);
    }
    ok = mongoc_bulk_operation_execute(bulk, &reply, error) != 0;
    mongoc_bulk_operation_destroy(bulk);
    /* Retention deleted a user that is back: whose document is missing isn't said, so all are new again. */
    for (uint32_t i = 0; ok && mongo_schema_get_number(&reply, "nMatched") < chunk->count && i < chunk->count;
         i++) {
        chunk->notes[i]->known = false;
        give_back(notes, table, chunk->notes[i]);
    }
    bson_destroy(&reply);
    bson_destroy(&options);
    return ok;
}

/* One command. False when it failed; *any says whether there was something to do. */
static bool write_some(struct mongo_notes *notes, struct table *table, mongoc_client_t *client, bool known,
                       int64_t pass_ms, bool *any, bson_error_t *error)
{
    mongoc_collection_t *collection;
    struct chunk chunk;
    bool ok;

    take(notes, table, known, pass_ms, &chunk);
    *any = chunk.count > 0;
    if (!*any)
        return true;
    collection = mongoc_client_get_collection(client, mongo_link_database(notes->link), table->collection);
    ok = known ? update(notes, table, collection, &chunk, error)
               : insert(notes, table, collection, &chunk, error);
    mongoc_collection_destroy(collection);
    for (uint32_t i = 0; i < chunk.count && !ok; i++)
        give_back(notes, table, chunk.notes[i]);
    return ok;
}

static bool is_over(struct mongo_notes *notes)
{
    bool over;

    pthread_mutex_lock(&notes->mutex);
    over = notes->stopping && clock_monotonic_ms() >= notes->deadline_ms;
    pthread_mutex_unlock(&notes->mutex);
    return over;
}

static void write_all(struct mongo_notes *notes)
{
    int64_t start_ms = clock_monotonic_ms();
    bson_error_t error = {0};
    mongoc_client_t *client = mongo_link_pop(notes->link, &error);
    bool ok = client != NULL;

    for (int step = 0; step < 4 && ok;) {
        struct table *table = step < 2 ? &notes->rooms : &notes->users;
        bool any;

        ok = write_some(notes, table, client, step % 2 == 1, start_ms, &any, &error);
        if (!any)
            step++;
        if (is_over(notes))
            break;
    }
    mongo_link_push(notes->link, client);
    if (ok)
        mongo_link_works(notes->link, MONGO_NOTES, start_ms);
    else
        mongo_link_failed(notes->link, MONGO_NOTES, start_ms, &error);
}

/* Those that have nothing to write and were written before `before_ms`. */
static void forget_clean(struct table *table, int64_t before_ms)
{
    struct note *next;

    for (struct note *note = table->notes; note; note = next) {
        next = note->hh.next;
        if (note->dirty || note->written_ms >= before_ms)
            continue;
        HASH_DEL(table->notes, note);
        free(note);
    }
}

/* Users that may be written again, and rooms when there are many: they come back with their next message. */
static void forget(struct mongo_notes *notes)
{
    bool crowded = HASH_COUNT(notes->rooms.notes) > MONGO_NOTES_ROOMS_MAX / 2;

    forget_clean(&notes->users, clock_monotonic_ms() - MONGO_NOTES_USER_MS);
    if (crowded)
        forget_clean(&notes->rooms, INT64_MAX);
}

/* Until something was noted and MONGO_NOTES_MS are over since the last time. Mutex held. False: stop. */
static bool wait_for_notes(struct mongo_notes *notes, int64_t last_ms)
{
    while (!notes->stopping) {
        int64_t left = last_ms + MONGO_NOTES_MS - clock_monotonic_ms();

        if (notes->rooms.dirty + notes->users.dirty == 0)
            pthread_cond_wait(&notes->work, &notes->mutex);
        else if (left > 0)
            thread_cond_wait(&notes->work, &notes->mutex, (int)left);
        else
            return true;
    }
    return false;
}

static void *run(void *arg)
{
    struct mongo_notes *notes = arg;
    int64_t last_ms = clock_monotonic_ms() - MONGO_NOTES_MS;
    bool last = false;

    while (!last) {
        pthread_mutex_lock(&notes->mutex);
        last = !wait_for_notes(notes, last_ms);
        forget(notes);
        pthread_mutex_unlock(&notes->mutex);
        last_ms = clock_monotonic_ms();
        if (!last || mongo_link_state(notes->link) == MONGO_READY)
            write_all(notes);
    }
    return NULL;
}

int mongo_notes_start(struct mongo_notes **out, struct mongo_link *link)
{
    struct mongo_notes *notes = calloc(1, sizeof(*notes));
    int status;

    if (!notes)
        return -ENOMEM;
    notes->link = link;
    notes->rooms = (struct table){.collection = MONGO_ROOMS,
                                  .most = MONGO_NOTES_ROOMS_MAX,
                                  .document = room_document,
                                  .update = room_update};
    notes->users = (struct table){.collection = MONGO_USERS,
                                  .most = MONGO_NOTES_USERS_MAX,
                                  .document = user_document,
                                  .update = user_update};
    pthread_mutex_init(&notes->mutex, NULL);
    thread_cond_init(&notes->work);
    status = thread_start(&notes->thread, run, notes);
    if (status != 0) {
        free(notes);
        return status;
    }
    *out = notes;
    return 0;
}

static void free_table(struct table *table)
{
    struct note *note, *next;

    HASH_ITER (hh, table->notes, note, next) {
        HASH_DEL(table->notes, note);
        free(note);
    }
}

void mongo_notes_stop(struct mongo_notes *notes, int patience_ms)
{
    pthread_mutex_lock(&notes->mutex);
    notes->deadline_ms = clock_monotonic_ms() + patience_ms;
    notes->stopping = true;
    pthread_cond_signal(&notes->work);
    pthread_mutex_unlock(&notes->mutex);
    pthread_join(notes->thread, NULL);
    free_table(&notes->rooms);
    free_table(&notes->users);
    pthread_cond_destroy(&notes->work);
    pthread_mutex_destroy(&notes->mutex);
    free(notes);
}
