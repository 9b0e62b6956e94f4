/* store_sqlite.c - store.h on one SQLite database: the ring's waiters, reader and writer, put together on
 * the loop. */
#include "chatd/store_sqlite.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite_batch.h"
#include "sqlite_query.h"
#include "sqlite_retention.h"
#include "sqlite_schema.h"
#include "store_retention.h"
#include "store_ring.h"
#include "store_writer.h"

enum {
    ANSWERS_PER_TURN = 256, /* so that a busy reader can't keep the loop from its clients */
    SQLITE_RETRY_MOST_MS = 2000,
};

struct store_sqlite {
    struct store store; /* first: ops get a pointer to it */
    struct store_ring waiting;
    struct store_writer *writer;
    struct store_reader *reader;
    uv_async_t async; /* answers are there, or a position is committed already */
    const struct config *config;
    char data_dir[PATH_MAX];
};

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

/* ---- what the threads call ---- */

/* The writer's connection. */
struct writing {
    struct sqlite_batch *batch;
    struct sqlite_retention *retention;
};

static int open_writing(void *arg, struct ring *ring, void **connection, char error[RING_ERROR_MAX])
{
    struct store_sqlite *self = arg;
    struct writing *writing = calloc(1, sizeof(*writing));
    int status;

    if (!writing)
        abort();
    status = sqlite_batch_open(&writing->batch, ring, self->data_dir, error);
    if (status != 0) {
        free(writing);
        return status;
    }
    writing->retention = sqlite_retention_new(self->config, ring, self->data_dir);
    *connection = writing;
    return 0;
}

static int run_batch(void *connection, struct ring *ring, uint64_t *position, uint32_t *messages,
                     char error[RING_ERROR_MAX])
{
    return sqlite_batch_run(((struct writing *)connection)->batch, ring, position, messages, error);
}

static void checkpoint(void *connection)
{
    sqlite_batch_checkpoint(((struct writing *)connection)->batch);
}

static int retain(void *connection)
{
    return sqlite_retention_step(((struct writing *)connection)->retention);
}

static void close_writing(void *connection)
{
    struct writing *writing = connection;

    if (!writing)
        return;
    sqlite_retention_free(writing->retention);
    sqlite_batch_close(writing->batch);
    free(writing);
}

static int answer(void *arg, void **connection, struct store_request *request, char error[RING_ERROR_MAX])
{
    struct store_sqlite *self = arg;
    struct sqlite_query *query = *connection;
    int status = query ? 0 : sqlite_query_open(&query, self->data_dir, error);

    *connection = query;
    return status != 0 ? status : sqlite_query_run(query, request, error);
}

static void close_query(void *connection)
{
    sqlite_query_close(connection);
}

/* ---- the interface ---- */

static void commit(struct store *store, const struct message *message, store_on_number *done, void *arg)
{
    store_ring_commit(&self_of(store)->waiting, message, done, arg);
}

void store_sqlite_on_committed(void *arg)
{
    struct store_sqlite *self = arg;

    store_ring_on_committed(&self->waiting);
}

static void highest(struct store *store, struct text room, store_on_number *done, void *arg)
{
    store_reader_highest(self_of(store)->reader, room, done, arg);
}

static void find(struct store *store, struct text room, struct text user, struct text key, const uint8_t *uid,
                 store_on_number *done, void *arg)
{
    store_reader_find(self_of(store)->reader, room, user, key, uid, done, arg);
}

static void page(struct store *store, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                 store_on_page *done, void *arg)
{
    store_reader_page(self_of(store)->reader, room, above, upto, limit, done, arg);
}

static void rooms(struct store *store, uint32_t limit, store_on_rooms *done, void *arg)
{
    store_reader_rooms(self_of(store)->reader, limit, done, arg);
}

static void health(struct store *store, struct store_health *health)
{
    store_ring_health(&self_of(store)->waiting, health);
}

static void on_async(uv_async_t *async)
{
    struct store_sqlite *self = async->data;

    if (store_reader_deliver(self->reader, ANSWERS_PER_TURN))
        uv_async_send(&self->async);
    store_ring_on_committed(&self->waiting);
}

static void on_ready(void *arg)
{
    struct store_sqlite *self = arg;

    uv_async_send(&self->async);
}

static void tick(struct store *store)
{
    store_ring_show(&self_of(store)->waiting);
    store_writer_show(self_of(store)->writer);
}

static const struct store_ops OPS = {
    .commit = commit,
    .highest = highest,
    .find = find,
    .page = page,
    .rooms = rooms,
    .health = health,
    .tick = tick,
};

int store_sqlite_new(struct store **store, uv_loop_t *loop, struct ring *ring, const char *data_dir,
                     const struct config *config)
{
    struct store_sqlite *self = calloc(1, sizeof(*self));
    struct store_source source = {.arg = self, .answer = answer, .close = close_query, .threads = 1};
    struct store_target target = {.arg = self,
                                  .open = open_writing,
                                  .run = run_batch,
                                  .tidy = checkpoint,
                                  .step = store_retention_wanted(config) ? retain : NULL,
                                  .close = close_writing,
                                  .batch_messages = SQLITE_BATCH_MESSAGES,
                                  .retry_most_ms = SQLITE_RETRY_MOST_MS};
    int status = -ENAMETOOLONG;

    if (!self)
        return -ENOMEM;
    if (strlen(data_dir) >= sizeof(self->data_dir))
        goto fail;
    memcpy(self->data_dir, data_dir, strlen(data_dir) + 1);
    self->config = config;
    self->store.ops = &OPS;
    self->async.data = self;
    status = store_reader_start(&self->reader, &source, on_ready, self);
    if (status != 0)
        goto fail;
    store_ring_init(&self->waiting, ring, self->reader, &self->async);
    status = store_writer_start(&self->writer, ring, &target);
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
    store_writer_stop(self->writer, 0);
fail_reader:
    store_reader_stop(self->reader);
    store_reader_free(self->reader);
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

    store_writer_stop(self->writer, patience_ms);
    /* While there is somebody to ask about what the ring has overwritten. */
    store_ring_on_committed(&self->waiting);
    store_reader_stop(self->reader);
    store_ring_close(&self->waiting);
    store_reader_free(self->reader);
    uv_close((uv_handle_t *)&self->async, on_closed);
}
