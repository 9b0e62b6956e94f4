/* store_sqlite.c - store.h on one SQLite database: waiters, reader and writer, put together on the loop. */
#include "chatd/store_sqlite.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/metrics.h"
#include "sqlite_reader.h"
#include "sqlite_schema.h"
#include "sqlite_waiters.h"
#include "sqlite_writer.h"

enum {
    ANSWERS_PER_TURN = 256, /* so that a busy reader can't keep the loop from its clients */
    STORE_STALL_MS = 10000, /* a writer not seen at work for so long, with messages waiting, has failed */
};

struct store_sqlite {
    struct store store; /* first: ops get a pointer to it */
    struct ring *ring;
    struct sqlite_writer *writer;
    struct sqlite_reader *reader;
    struct sqlite_waiters waiters;
    uint64_t awaited; /* what ring_await was told */
    bool closing;
    uv_async_t async; /* answers are there, or a position is committed already */
};

static const struct text NO_TEXT = {NULL, 0};

static struct store_sqlite *self_of(struct store *store)
{
    return (struct store_sqlite *)store;
}

int store_sqlite_prepare(const char *data_dir, uint8_t store_id[RING_ID_SIZE], char error[RING_ERROR_MAX])
{
    return sqlite_schema_prepare(data_dir, store_id, error);
}

int store_sqlite_new_life(const char *data_dir, char error[RING_ERROR_MAX])
{
    return sqlite_schema_new_life(data_dir, error);
}

/* Asks to be woken for the lowest position. A position that is committed already is seen to in the next turn
 * of the loop. */
static void await_first(struct store_sqlite *self)
{
    const struct sqlite_waiter *first = sqlite_waiters_first(&self->waiters);
    uint64_t position = first != NULL ? first->position : 0;

    metrics_set(ack_queue, self->waiters.count);
    if (position == self->awaited || self->closing)
        return;
    self->awaited = position;
    if (ring_await(self->ring, position))
        uv_async_send(&self->async);
}

static void commit(struct store *store, const struct message *message, store_on_number *done, void *arg)
{
    struct store_sqlite *self = self_of(store);

    sqlite_waiters_add(&self->waiters, message, done, arg);
    await_first(self);
}

/* The record is overwritten; its row says under which number it stands. */
static void resolve(struct store_sqlite *self, const struct sqlite_waiter *waiter)
{
    struct sqlite_request *request =
        sqlite_reader_request(self->reader, SQLITE_QUERY_RESOLVE, waiter->room, waiter->user, waiter->key);

    request->seq = waiter->seq;
    memcpy(request->uid, waiter->uid, MESSAGE_UID_SIZE);
    request->done.number = waiter->done;
    request->arg = waiter->arg;
    sqlite_reader_submit(self->reader, request);
}

void store_sqlite_on_committed(void *arg)
{
    struct store_sqlite *self = arg;
    struct sqlite_waiter *first;

    self->awaited = 0; /* the bus has forgotten it when it calls */
    while ((first = sqlite_waiters_first(&self->waiters)) != NULL) {
        uint64_t position = first->position, seq = 0;
        enum ring_outcome outcome = ring_outcome(self->ring, &position, first->uid, &seq);
        store_on_number *done = first->done;
        void *done_arg = first->arg;

        if (outcome == RING_WAITING) {
            if (position == first->position)
                break;
            first->position = position;
            sqlite_waiters_first_moved(&self->waiters);
            continue;
        }
        sqlite_waiters_take(&self->waiters);
        if (outcome == RING_LAPPED)
            resolve(self, first);
        sqlite_waiters_recycle(&self->waiters, first);
        if (outcome == RING_STORED)
            done(done_arg, STORE_OK, seq);
    }
    await_first(self);
}

static void highest(struct store *store, struct text room, store_on_number *done, void *arg)
{
    struct store_sqlite *self = self_of(store);
    struct sqlite_request *request =
        sqlite_reader_request(self->reader, SQLITE_QUERY_HIGHEST, room, NO_TEXT, NO_TEXT);

    request->done.number = done;
    request->arg = arg;
    sqlite_reader_submit(self->reader, request);
}

static void find(struct store *store, struct text room, struct text user, struct text key,
                 store_on_number *done, void *arg)
{
    struct store_sqlite *self = self_of(store);
    struct sqlite_request *request = sqlite_reader_request(self->reader, SQLITE_QUERY_FIND, room, user, key);

    request->done.number = done;
    request->arg = arg;
    sqlite_reader_submit(self->reader, request);
}

static void page(struct store *store, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                 store_on_page *done, void *arg)
{
    struct store_sqlite *self = self_of(store);
    struct sqlite_request *request =
        sqlite_reader_request(self->reader, SQLITE_QUERY_PAGE, room, NO_TEXT, NO_TEXT);

    request->above = above;
    request->upto = upto;
    request->limit = limit;
    request->done.page = done;
    request->arg = arg;
    sqlite_reader_submit(self->reader, request);
}

static void rooms(struct store *store, uint32_t limit, store_on_rooms *done, void *arg)
{
    struct store_sqlite *self = self_of(store);
    struct sqlite_request *request =
        sqlite_reader_request(self->reader, SQLITE_QUERY_ROOMS, NO_TEXT, NO_TEXT, NO_TEXT);

    request->limit = limit;
    request->done.rooms = done;
    request->arg = arg;
    sqlite_reader_submit(self->reader, request);
}

/* Writing is the host's business and reading this worker's: either can fail alone. */
static void health(struct store *store, struct store_health *health)
{
    struct store_sqlite *self = self_of(store);
    uint64_t committed = ring_committed(self->ring), head = ring_head(self->ring);
    int64_t stalled_ms = ring_stalled_ms(self->ring);

    _Static_assert(sizeof(health->error) == RING_ERROR_MAX, "an error of the ring is an error of the store");
    memset(health, 0, sizeof(*health));
    health->queued_bytes = head > committed ? head - committed : 0;
    health->ok = ring_report_get(self->ring, health->error, &health->since_ms) &&
                 sqlite_reader_works(self->reader, health->error, &health->since_ms);
    if (health->ok && stalled_ms > STORE_STALL_MS) {
        health->ok = false;
        health->since_ms = clock_wall_ms() - stalled_ms;
        snprintf(health->error, sizeof(health->error),
                 "nothing was stored for %lld s: the disk does not answer", (long long)(stalled_ms / 1000));
    }
}

static void deliver_rooms(const struct sqlite_request *request)
{
    uint32_t count = request->status == STORE_OK ? request->page.count : 0;
    struct text *names = calloc(count + 1, sizeof(*names));
    uint64_t *numbers = calloc(count + 1, sizeof(*numbers));

    if (names == NULL || numbers == NULL)
        abort();
    for (uint32_t i = 0; i < count; i++) {
        const struct page_entry *entry = &request->page.entries[i];

        names[i] = (struct text){request->page.bytes.data + entry->offset, entry->length};
        numbers[i] = entry->seq;
    }
    request->done.rooms(request->arg, request->status, names, numbers, count);
    free(names);
    free(numbers);
}

static void deliver(struct sqlite_request *request)
{
    switch (request->kind) {
    case SQLITE_QUERY_RESOLVE:
        /* For a commit there is stored and not known to be stored. */
        if (request->status != STORE_OK)
            request->status = STORE_FAILED;
        /* fall through */
    case SQLITE_QUERY_HIGHEST:
    case SQLITE_QUERY_FIND:
        request->done.number(request->arg, request->status, request->number);
        break;
    case SQLITE_QUERY_PAGE:
        if (request->status != STORE_OK)
            page_clear(&request->page);
        request->done.page(request->arg, request->status, &request->page, request->more);
        break;
    case SQLITE_QUERY_ROOMS:
        deliver_rooms(request);
        break;
    }
}

/* At most `most` answers; true when there may be more. */
static bool deliver_some(struct store_sqlite *self, int most)
{
    for (int i = 0; i < most; i++) {
        struct sqlite_request *request = sqlite_reader_take(self->reader);

        if (request == NULL)
            return false;
        deliver(request);
        sqlite_reader_recycle(self->reader, request);
    }
    return true;
}

static void on_async(uv_async_t *async)
{
    struct store_sqlite *self = async->data;

    if (deliver_some(self, ANSWERS_PER_TURN))
        uv_async_send(&self->async);
    store_sqlite_on_committed(self);
}

static void on_ready(void *arg)
{
    struct store_sqlite *self = arg;

    uv_async_send(&self->async);
}

static const struct store_ops OPS = {
    .commit = commit,
    .highest = highest,
    .find = find,
    .page = page,
    .rooms = rooms,
    .health = health,
};

int store_sqlite_new(struct store **store, uv_loop_t *loop, struct ring *ring, const char *data_dir)
{
    struct store_sqlite *self = calloc(1, sizeof(*self));
    int status;

    if (self == NULL)
        return -ENOMEM;
    self->store.ops = &OPS;
    self->ring = ring;
    self->async.data = self;
    status = sqlite_reader_start(&self->reader, data_dir, on_ready, self);
    if (status != 0)
        goto fail;
    status = sqlite_writer_start(&self->writer, ring, data_dir);
    if (status != 0)
        goto fail_reader;
    /* Last, because a handle that a loop knows can't be taken back at once; nothing sends to it before there
     * are requests. */
    status = uv_async_init(loop, &self->async, on_async);
    if (status != 0)
        goto fail_writer;
    *store = &self->store;
    return 0;

fail_writer:
    sqlite_writer_stop(self->writer, 0);
fail_reader:
    sqlite_reader_stop(self->reader);
    sqlite_reader_free(self->reader);
fail:
    free(self);
    return status;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void store_sqlite_close(struct store *store, int patience_ms)
{
    struct store_sqlite *self = self_of(store);

    self->closing = true;
    sqlite_writer_stop(self->writer, patience_ms);
    store_sqlite_on_committed(self);
    sqlite_reader_stop(self->reader);
    deliver_some(self, INT_MAX);
    while (sqlite_waiters_first(&self->waiters) != NULL) {
        struct sqlite_waiter *waiter = sqlite_waiters_take(&self->waiters);
        store_on_number *done = waiter->done;
        void *arg = waiter->arg;

        sqlite_waiters_recycle(&self->waiters, waiter);
        done(arg, STORE_FAILED, 0);
    }
    deliver_some(self, INT_MAX); /* those callbacks may have asked for more */
    metrics_set(ack_queue, 0);
    sqlite_waiters_deinit(&self->waiters);
    sqlite_reader_free(self->reader);
    uv_close((uv_handle_t *)&self->async, on_closed);
}
