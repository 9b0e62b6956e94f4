/* store_mongo.c - store.h on MongoDB: link, notes, reader and one of the two ways of writing, put
 * together on the loop. */
#include "chatd/store_mongo.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "mongo_follower.h"
#include "mongo_query.h"
#include "mongo_queue.h"
#include "mongo_retention.h"
#include "mongo_spool.h"
#include "mongo_uri.h"
#include "store_ring.h"

enum {
    ANSWERS_PER_TURN = 256, /* so that busy readers can't keep the loop from its clients */
    READERS_MAX = 4,
    UNKNOWN_MS = 10000, /* not known to be there for so long is away */
    NOTES_PATIENCE_MS = 500,
};

struct store_mongo {
    struct store store; /* first: ops get a pointer to it */
    struct mongo_link *link;
    struct mongo_notes *notes;
    struct mongo_retention *retention;
    struct store_reader *reader;
    struct mongo_query query;
    uv_async_t async; /* threads have something for the loop */
    int64_t started_ms;
    unsigned open_handles;

    /* With Redis; queue is NULL without. */
    struct mongo_queue *queue;
    struct mongo_spool *spool;
    bool spool_goes;
    uv_prepare_t prepare; /* the queue's turn */
    uv_timer_t timer;     /* wakes the loop for it */

    /* Without Redis. */
    struct mongo_follower follower;
    struct store_writer *writer;
    struct store_ring waiting;
};

static struct store_mongo *self_of(struct store *store)
{
    return (struct store_mongo *)store;
}

/* ---- the interface ---- */

static void commit(struct store *store, const struct message *message, store_on_number *done, void *arg)
{
    struct store_mongo *self = self_of(store);

    if (self->queue)
        mongo_queue_commit(self->queue, message, done, arg);
    else
        store_ring_commit(&self->waiting, message, done, arg);
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

static void seen(struct store *store, struct text user)
{
    mongo_notes_user(self_of(store)->notes, user);
}

static bool full(struct store *store)
{
    struct store_mongo *self = self_of(store);

    return self->queue && mongo_queue_full(self->queue);
}

static void health(struct store *store, struct store_health *health)
{
    struct store_mongo *self = self_of(store);

    if (!self->queue) {
        store_ring_health(&self->waiting, health);
        return;
    }
    memset(health, 0, sizeof(*health));
    mongo_link_health(self->link, health);
    health->queued_bytes = mongo_queue_bytes(self->queue);
}

static void tick(struct store *store)
{
    struct store_mongo *self = self_of(store);

    if (self->queue) {
        mongo_queue_show(self->queue);
        return;
    }
    store_ring_show(&self->waiting);
    store_writer_show(self->writer);
}

static const struct store_ops OPS = {
    .commit = commit,
    .highest = highest,
    .find = find,
    .page = page,
    .rooms = rooms,
    .seen = seen,
    .full = full,
    .health = health,
    .tick = tick,
};

void store_mongo_on_committed(void *arg)
{
    struct store_mongo *self = arg;

    store_ring_on_committed(&self->waiting);
}

bool store_mongo_spooling(struct store *store)
{
    struct store_mongo *self = self_of(store);

    if (!self->queue)
        return false;
    switch (mongo_link_state(self->link)) {
    case MONGO_UNKNOWN:
        return clock_monotonic_ms() - self->started_ms < UNKNOWN_MS;
    case MONGO_READY:
        return !mongo_spool_seen(self->spool);
    case MONGO_LOST:
        break;
    }
    return false;
}

/* ---- the loop ---- */

static void wake(void *arg)
{
    struct store_mongo *self = arg;

    uv_async_send(&self->async);
}

static void on_async(uv_async_t *async)
{
    struct store_mongo *self = async->data;

    if (store_reader_deliver(self->reader, ANSWERS_PER_TURN))
        uv_async_send(&self->async);
    if (self->retention)
        mongo_retention_turn(self->retention);
    if (!self->queue) {
        store_ring_on_committed(&self->waiting);
        return;
    }
    mongo_queue_take(self->queue);
    if (!self->spool_goes && mongo_link_state(self->link) == MONGO_READY) {
        self->spool_goes = true;
        mongo_spool_go(self->spool);
    }
    mongo_spool_turn(self->spool);
}

static void on_timer(uv_timer_t *timer)
{
    (void)timer; /* the loop is awake: on_prepare comes next */
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct store_mongo *self = prepare->data;
    int ms = mongo_queue_turn(self->queue);

    if (ms > 0)
        uv_timer_start(&self->timer, on_timer, (uint64_t)ms, 0);
    else
        uv_timer_stop(&self->timer);
}

/* ---- start ---- */

static int start_queue(struct store_mongo *self, const struct store_mongo_options *options)
{
    struct mongo_queue_options queue = {.link = self->link,
                                        .notes = self->notes,
                                        .config = options->config,
                                        .stand = options->stand,
                                        .stand_arg = options->stand_arg,
                                        .wake = wake,
                                        .wake_arg = self};
    struct mongo_spool_options spool = {.data_dir = options->config->data_dir,
                                        .on_spooled = options->on_spooled,
                                        .spooled_arg = options->spooled_arg,
                                        .wake = wake,
                                        .wake_arg = self};
    int status = mongo_spool_start(&self->spool, &spool);

    if (status != 0)
        return status;
    status = mongo_queue_start(&self->queue, &queue);
    if (status != 0)
        mongo_spool_stop(self->spool);
    return status;
}

static int start_follower(struct store_mongo *self, const struct store_mongo_options *options)
{
    struct store_target target;

    self->follower = (struct mongo_follower){self->link, self->notes, options->config->data_dir};
    target = mongo_follower_target(&self->follower);
    store_ring_init(&self->waiting, options->ring, self->reader, &self->async);
    return store_writer_start(&self->writer, options->ring, &target);
}

static int start_retention(struct store_mongo *self, const struct store_mongo_options *options)
{
    struct mongo_retention_options retention = {.link = self->link,
                                                .config = options->config,
                                                .ring = options->ring,
                                                .forget = options->forget,
                                                .bus = options->forget_arg,
                                                .wake = wake,
                                                .wake_arg = self};

    return mongo_retention_start(&self->retention, &retention);
}

static int start_handles(struct store_mongo *self, uv_loop_t *loop)
{
    int status = uv_async_init(loop, &self->async, on_async);

    self->async.data = self->prepare.data = self->timer.data = self;
    if (status != 0)
        return status;
    self->open_handles = 1;
    return 0;
}

static void start_turns(struct store_mongo *self, uv_loop_t *loop)
{
    if (!self->queue)
        return;
    uv_prepare_init(loop, &self->prepare);
    uv_timer_init(loop, &self->timer);
    uv_prepare_start(&self->prepare, on_prepare);
    self->open_handles += 2;
}

static void on_closed(uv_handle_t *handle)
{
    struct store_mongo *self = handle->data;

    if (--self->open_handles == 0)
        free(self);
}

int store_mongo_new(struct store **store, const struct store_mongo_options *options)
{
    unsigned connections = mongo_uri_pool_size(options->config);
    struct store_mongo *self = calloc(1, sizeof(*self));
    struct store_source source = {.answer = mongo_query_answer,
                                  .close = mongo_query_close,
                                  .threads = connections - 1 < READERS_MAX ? connections - 1 : READERS_MAX,
                                  .expire_ms = STORE_MONGO_READ_MS,
                                  .forget_ms = MONGO_LINK_FORGET_MS,
                                  .silent = true};
    int status;

    if (!self)
        return -ENOMEM;
    self->store.ops = &OPS;
    self->started_ms = clock_monotonic_ms();
    status = start_handles(self, options->loop); /* first: the threads may send at once */
    if (status != 0) {
        free(self);
        return status;
    }
    status = mongo_link_new(&self->link, options->config);
    if (status != 0)
        goto fail;
    status = mongo_notes_start(&self->notes, self->link);
    if (status != 0)
        goto fail_link;
    self->query = (struct mongo_query){self->link, options->ring ? 1ULL << 20 : 0};
    source.arg = &self->query;
    status = store_reader_start(&self->reader, &source, wake, self);
    if (status != 0)
        goto fail_notes;
    status = options->ring ? start_follower(self, options) : start_queue(self, options);
    if (status != 0)
        goto fail_reader;
    status = start_retention(self, options);
    if (status != 0)
        goto fail_writing;
    start_turns(self, options->loop);
    *store = &self->store;
    return 0;

fail_writing:
    if (self->queue) {
        mongo_queue_stop(self->queue, 0);
        mongo_spool_stop(self->spool);
        mongo_queue_free(self->queue);
    } else {
        store_writer_stop(self->writer, 0);
    }
fail_reader:
    store_reader_stop(self->reader);
    store_reader_free(self->reader);
fail_notes:
    mongo_notes_stop(self->notes, 0);
fail_link:
    mongo_link_free(self->link);
fail:
    uv_close((uv_handle_t *)&self->async, on_closed);
    return status;
}

/* ---- stop ---- */

static void stop_writing(struct store_mongo *self, int patience_ms)
{
    if (self->queue) {
        mongo_queue_stop(self->queue, patience_ms);
        return;
    }
    store_writer_stop(self->writer, patience_ms);
    store_ring_on_committed(&self->waiting);
}

static void close_handle(void *handle)
{
    uv_close(handle, on_closed);
}

void store_mongo_close(struct store *store, int patience_ms)
{
    struct store_mongo *self = self_of(store);

    /* Whoever reads may need the socket's timeout to find its way back: side by side with the writer. */
    store_reader_end(self->reader);
    mongo_retention_end(self->retention);
    stop_writing(self, patience_ms);
    mongo_retention_stop(self->retention);
    self->retention = NULL;
    store_reader_stop(self->reader);
    mongo_notes_stop(self->notes, NOTES_PATIENCE_MS);
    store_reader_deliver(self->reader, INT_MAX);
    if (self->queue) {
        mongo_spool_stop(self->spool);
        mongo_queue_take(self->queue); /* callbacks may have asked for more */
        store_reader_deliver(self->reader, INT_MAX);
        mongo_queue_free(self->queue);
        close_handle(&self->prepare);
        close_handle(&self->timer);
    } else {
        store_ring_close(&self->waiting);
    }
    store_reader_free(self->reader);
    mongo_link_free(self->link);
    close_handle(&self->async);
}
