/* mongo_retention.c - when a run is due, whose it is, and what it asks the loop. */
#include "mongo_retention.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/thread.h"
#include "mongo_clean.h"
#include "mongo_lease.h"
#include "mongo_schema.h"
#include "store_retention.h"

enum {
    PAUSE_MS = 1,        /* between two steps, at least */
    AGAIN_MS = 1000,     /* MongoDB isn't there yet */
    BUS_PATIENCE_MS = 4000, /* of which the lease is still ours */
    BUS_AGAIN_MS = 200,
    LEAVE_MS = 20000, /* more than a worker takes to end once it has drained */
};

static const char LAST_RUN[] = "retained";

/* What the thread asks the bus, by way of the loop. */
enum asking { NOTHING, ASKED, CARRIED, ANSWERED };

/* A question that the bus has: it may outlive the thread. The loop's. */
struct question {
    struct mongo_retention *retention; /* NULL: gone */
};

struct mongo_retention {
    struct mongo_retention_options options;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stopping;
    enum asking asking;
    struct text room; /* ASKED: the thread's own bytes */
    uint64_t upto;
    bool ok; /* ANSWERED */
    uint32_t members;
    struct question *question; /* the loop's; NULL: none is under way */

    /* The thread's. */
    struct mongo_lease lease;
    mongoc_client_t *client;
    int64_t step_ms; /* monotonic; when the step began */
};

/* ---- waiting ---- */

/* False: stop. */
static bool wait_for(struct mongo_retention *r, int64_t ms)
{
    int64_t until = clock_monotonic_ms() + ms, left;
    bool goes_on;

    pthread_mutex_lock(&r->mutex);
    while (!r->stopping && (left = until - clock_monotonic_ms()) > 0)
        thread_cond_wait(&r->changed, &r->mutex, left > 60000 ? 60000 : (int)left);
    goes_on = !r->stopping;
    pthread_mutex_unlock(&r->mutex);
    return goes_on;
}

static void give_back(struct mongo_retention *r)
{
    mongo_link_push(r->options.link, r->client);
    r->client = NULL;
}

static bool take_client(struct mongo_retention *r, bson_error_t *error)
{
    r->client = mongo_link_pop(r->options.link, error);
    return r->client != NULL;
}

static mongoc_client_t *on_next(void *arg, bson_error_t *error)
{
    struct mongo_retention *r = arg;
    int64_t took_ms = r->step_ms > 0 ? clock_monotonic_ms() - r->step_ms : 0;

    give_back(r);
    if (!wait_for(r, took_ms > PAUSE_MS ? took_ms : PAUSE_MS)) {
        mongo_error_set(error, MONGO_ERROR_LEASE, "this worker stops");
        return NULL;
    }
    r->step_ms = clock_monotonic_ms();
    if (!take_client(r, error) ||
        !mongo_lease_hold(&r->lease, r->client, mongo_link_database(r->options.link), error))
        give_back(r);
    return r->client;
}

/* ---- the bus ---- */

static void on_forgot(void *arg, bool ok, uint32_t members)
{
    struct question *question = arg;
    struct mongo_retention *r = question->retention;

    free(question);
    if (!r)
        return;
    r->question = NULL;
    pthread_mutex_lock(&r->mutex);
    if (r->asking == CARRIED) {
        r->asking = ANSWERED;
        r->ok = ok;
        r->members = members;
        pthread_cond_signal(&r->changed);
    }
    pthread_mutex_unlock(&r->mutex);
    mongo_retention_turn(r); /* the thread may have lost its patience, and asked again */
}

void mongo_retention_turn(struct mongo_retention *r)
{
    char name[MESSAGE_ROOM_MAX];
    struct text room = {name, 0};
    uint64_t upto = 0;
    bool asked;

    pthread_mutex_lock(&r->mutex);
    asked = r->asking == ASKED && !r->question;
    if (asked) {
        r->asking = CARRIED;
        room.length = r->room.length;
        memcpy(name, r->room.data, room.length);
        upto = r->upto;
    }
    pthread_mutex_unlock(&r->mutex);
    if (!asked)
        return;
    r->question = malloc(sizeof(*r->question));
    if (!r->question)
        abort();
    r->question->retention = r;
    r->options.forget(r->options.bus, room, upto, on_forgot, r->question);
}

/* An answer that comes after the patience is over finds nobody: the next question waits for it. */
static bool ask_bus(struct mongo_retention *r, struct text room, uint64_t upto, uint32_t *members)
{
    int64_t until = clock_monotonic_ms() + BUS_PATIENCE_MS, left;
    bool ok;

    pthread_mutex_lock(&r->mutex);
    r->asking = ASKED;
    r->room = room;
    r->upto = upto;
    pthread_mutex_unlock(&r->mutex);
    r->options.wake(r->options.wake_arg);
    pthread_mutex_lock(&r->mutex);
    while (!r->stopping && r->asking != ANSWERED && (left = until - clock_monotonic_ms()) > 0)
        thread_cond_wait(&r->changed, &r->mutex, (int)left);
    ok = r->asking == ANSWERED && r->ok;
    *members = r->members;
    r->asking = NOTHING;
    pthread_mutex_unlock(&r->mutex);
    return ok;
}

static bool on_forget(void *arg, struct text room, uint64_t upto, uint32_t *members, bson_error_t *error)
{
    struct mongo_retention *r = arg;
    int64_t until = clock_monotonic_ms() + BUS_PATIENCE_MS;

    if (r->options.ring) {
        ring_forget(r->options.ring, room, upto);
        *members = ring_members(r->options.ring, room);
        return true;
    }
    /* A worker that just started may not be connected yet. */
    do {
        if (ask_bus(r, room, upto, members))
            return true;
    } while (clock_monotonic_ms() < until && wait_for(r, BUS_AGAIN_MS));
    bson_set_error(error, MONGOC_ERROR_COMMAND, 0, "Redis can't be asked");
    return false;
}

/* ---- whose turn it is, and when ---- */

/* What stands in {_id: "retained"}; all 0: there was no run yet. */
struct last_run {
    int64_t at_ms;    /* when it began, Unix time */
    int64_t noted_ms; /* when the last one began that got to its end: what was past its time is noted */
    int64_t ttl_ms;   /* how old the server lets messages become by itself; 0: it doesn't delete any */
};

static bool read_last(struct mongo_retention *r, struct last_run *last, bson_error_t *error)
{
    mongoc_collection_t *leases =
        mongoc_client_get_collection(r->client, mongo_link_database(r->options.link), MONGO_LEASES);
    bson_t *filter = BCON_NEW("_id", BCON_UTF8(LAST_RUN));
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(leases, filter, NULL, NULL);
    const bson_t *row;
    bool ok;

    *last = (struct last_run){0};
    if (mongoc_cursor_next(cursor, &row)) {
        last->at_ms = mongo_schema_get_date(row, "at");
        last->noted_ms = mongo_schema_get_date(row, "noted");
        last->ttl_ms = (int64_t)mongo_schema_get_number(row, "ttl_ms");
    }
    ok = !mongoc_cursor_error(cursor, error);
    mongoc_cursor_destroy(cursor);
    bson_destroy(filter);
    mongoc_collection_destroy(leases);
    return ok;
}

static bool write_last(struct mongo_retention *r, const struct last_run *last, bson_error_t *error)
{
    mongoc_collection_t *leases =
        mongoc_client_get_collection(r->client, mongo_link_database(r->options.link), MONGO_LEASES);
    bson_t *filter = BCON_NEW("_id", BCON_UTF8(LAST_RUN));
    bson_t *change = BCON_NEW("$set", "{", "at", BCON_DATE_TIME(last->at_ms), "noted",
                              BCON_DATE_TIME(last->noted_ms), "ttl_ms", BCON_INT64(last->ttl_ms), "}");
    bson_t *options = BCON_NEW("upsert", BCON_BOOL(true));
    bool ok = mongoc_collection_update_one(leases, filter, change, options, NULL, error);

    bson_destroy(options);
    bson_destroy(change);
    bson_destroy(filter);
    mongoc_collection_destroy(leases);
    return ok;
}

/* How long until a run is due, by this host's clock. The other's may be ahead; but a last run that lies as
 * far in the future as the next one should is a clock's mistake. */
static int64_t until_due(const struct mongo_retention *r, const struct last_run *last)
{
    int64_t interval_ms = r->options.config->retention_interval, since_ms = clock_wall_ms() - last->at_ms;

    return since_ms < -interval_ms || since_ms >= interval_ms ? 0 : interval_ms - since_ms;
}

/* Has the server delete messages when they are `age_ms` old, as far as it can; last->ttl_ms says so. */
static bool set_ttl(struct mongo_retention *r, int64_t age_ms, struct last_run *last, bson_error_t *error)
{
    bool works;

    if ((!r->client && !take_client(r, error)) ||
        !mongo_clean_expire(r->client, mongo_link_database(r->options.link), age_ms, &works, error))
        return false;
    last->ttl_ms = works ? age_ms : 0;
    return true;
}

/* The server never deletes what isn't noted yet: it is given more time before a run, less time after one. */
static bool clean_by(struct mongo_retention *r, struct mongo_clean *c, int64_t now_ms, struct last_run *last)
{
    int64_t interval_ms = r->options.config->retention_interval, age_ms;

    c->ttl_ms = 2 * interval_ms + RETENTION_TTL_LATE_MS;
    age_ms = c->cuts.age != 0 ? now_ms - c->cuts.age + c->ttl_ms : 0;
    if ((age_ms == 0 || (last->ttl_ms != 0 && age_ms > last->ttl_ms)) &&
        !set_ttl(r, age_ms, last, &c->error))
        return false;
    c->ttl = last->ttl_ms != 0;
    c->late = c->ttl && now_ms - last->noted_ms > interval_ms + c->ttl_ms / 2;
    if (!mongo_clean_run(c))
        return false;
    last->noted_ms = now_ms;
    return age_ms == 0 || set_ttl(r, age_ms, last, &c->error);
}

/* The lease is ours. */
static void clean(struct mongo_retention *r, struct last_run *last)
{
    struct mongo_clean c = {
        .database = mongo_link_database(r->options.link), .arg = r, .next = on_next, .forget = on_forget};
    int64_t start_ms = clock_monotonic_ms(), now_ms = clock_wall_ms();
    char error[RING_ERROR_MAX];
    bson_error_t reason = {0};
    bool ok;

    store_retention_cuts(r->options.config, now_ms, &c.cuts);
    r->step_ms = 0;
    ok = clean_by(r, &c, now_ms, last);
    if (!ok && !wait_for(r, 0))
        return; /* told to stop: somebody else takes over */
    mongo_error_text(&c.error, error, sizeof(error));
    store_retention_done(&c.tally, start_ms, ok ? NULL : error);
    /* A failed one counts too, or each worker in turn would try it at once. */
    last->at_ms = now_ms;
    if ((r->client || take_client(r, &reason)) && !write_last(r, last, &reason))
        log_debug("retention_unnoted", "error=%s", reason.message);
}

/* Does a run if one is due and ours; how long to wait for the next look. */
static int64_t look(struct mongo_retention *r)
{
    const char *database = mongo_link_database(r->options.link);
    int64_t wait_ms = AGAIN_MS;
    struct last_run last;
    bson_error_t error = {0};

    if (!take_client(r, &error) || !read_last(r, &last, &error))
        goto out;
    wait_ms = until_due(r, &last);
    if (wait_ms > 0)
        goto out;
    wait_ms = RETENTION_LEASE_MS; /* somebody else's is not free before that */
    /* Asked again inside: the one who had it may just be done. */
    if (!mongo_lease_hold(&r->lease, r->client, database, &error) || !read_last(r, &last, &error))
        goto out;
    wait_ms = until_due(r, &last);
    if (wait_ms == 0) {
        clean(r, &last);
        wait_ms = r->options.config->retention_interval;
    }
    /* Told to stop in a pause it has no client. */
    if (r->lease.renewed_ms != 0 && (r->client || take_client(r, &error)))
        (void)mongo_lease_release(&r->lease, r->client, database, &error);
out:
    give_back(r);
    return wait_ms;
}

static void drop_index(struct mongo_retention *r)
{
    bson_error_t error = {0};
    bool works, ok;

    do {
        ok = take_client(r, &error) &&
             mongo_clean_expire(r->client, mongo_link_database(r->options.link), 0, &works, &error);
        give_back(r);
    } while (!ok && wait_for(r, AGAIN_MS));
}

static void *run(void *arg)
{
    struct mongo_retention *r = arg;
    const struct config *config = r->options.config;

    /* Nobody may go on deleting by a setting that is no more. */
    if (config->retention_age == 0)
        drop_index(r);
    if (!store_retention_wanted(config)) {
        /* A worker with the settings before, which drains now, may end a run meanwhile and make it again. */
        if (wait_for(r, config->drain_timeout + LEAVE_MS))
            drop_index(r);
        return NULL;
    }
    while (wait_for(r, look(r)))
        ;
    return NULL;
}

int mongo_retention_start(struct mongo_retention **out, const struct mongo_retention_options *options)
{
    struct mongo_retention *r = calloc(1, sizeof(*r));
    int status;

    if (!r)
        return -ENOMEM;
    r->options = *options;
    pthread_mutex_init(&r->mutex, NULL);
    thread_cond_init(&r->changed);
    status = mongo_lease_init_worker(&r->lease, "retention", RETENTION_LEASE_MS);
    if (status == 0)
        status = thread_start(&r->thread, run, r);
    if (status != 0) {
        free(r);
        return status;
    }
    *out = r;
    return 0;
}

void mongo_retention_end(struct mongo_retention *r)
{
    pthread_mutex_lock(&r->mutex);
    r->stopping = true;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->mutex);
}

void mongo_retention_stop(struct mongo_retention *r)
{
    mongo_retention_end(r);
    pthread_join(r->thread, NULL);
    if (r->question)
        r->question->retention = NULL;
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mutex);
    free(r);
}
