/* store_writer.c - in office: batch, commit, tell; when it fails: say so, wait, try again. */
#include "store_writer.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "chatd/thread.h"
#include "store_latency.h"

enum {
    /* How long a candidate sleeps in the lock before it looks whether it was told to stop: 64 of them wake 64
     * times a second together. A free lock is taken at once whatever this is. */
    WRITER_CANDIDATE_MS = 1000,
    WRITER_IDLE_MS = 250, /* a kick that comes just before the sleep is lost for that long */
    /* At 5,000 messages a second: 33 us of CPU for each instead of 54, 2.5 ms to the ack instead of 0.4. */
    WRITER_PACE_MS = 3,
    WRITER_RETRY_FIRST_MS = 50,
};

struct store_writer {
    struct store_target target;
    struct ring *ring;
    pthread_t thread;
    pthread_mutex_t mutex; /* for `stopping` and `stop` alone */
    pthread_cond_t stop;
    _Atomic bool stopping;
    _Atomic int64_t deadline_ms; /* monotonic; of the last commits once stopping */
    struct store_latency latency;

    /* The thread's own. */
    void *connection; /* NULL while there is none */
    unsigned seed;
    int retry_ms; /* 0 while all is well */
    bool suspect; /* the ring may hold a report of failure */
};

/* What has to be said once: the report in the ring is the host's, so a cause is logged by one worker, whoever
 * is in office. */
static void report_failure(struct store_writer *writer, const char *error)
{
    char before[RING_ERROR_MAX];
    int64_t since;

    writer->suspect = true;
    if (!ring_report_get(writer->ring, before, &since) && strcmp(before, error) == 0)
        return;
    ring_report(writer->ring, error);
    if (!writer->target.silent)
        log_error("store_failed", "error=%s", error);
}

static void report_success(struct store_writer *writer)
{
    char before[RING_ERROR_MAX];
    int64_t since;

    writer->retry_ms = 0;
    if (!writer->suspect)
        return;
    writer->suspect = false;
    if (ring_report_get(writer->ring, before, &since)) {
        if (since == 0)
            ring_report(writer->ring, ""); /* the first ever: good since now */
        return;
    }
    ring_report(writer->ring, "");
    if (!writer->target.silent)
        log_info("store_recovered", "error=%s failed_ms=%lld", before, (long long)(clock_wall_ms() - since));
}

/* Backoff with jitter; cut short by being told to stop, and then by the deadline. */
static void wait_to_retry(struct store_writer *writer)
{
    int ms = thread_pause(&writer->retry_ms, WRITER_RETRY_FIRST_MS, writer->target.retry_most_ms,
                                &writer->seed);

    pthread_mutex_lock(&writer->mutex);
    if (atomic_load(&writer->stopping)) {
        int64_t left = atomic_load(&writer->deadline_ms) - clock_monotonic_ms();

        ms = left < 0 ? 0 : left < ms ? (int)left : ms;
    }
    thread_cond_wait(&writer->stop, &writer->mutex, ms);
    pthread_mutex_unlock(&writer->mutex);
}

static void disconnect(struct store_writer *writer)
{
    writer->target.close(writer->connection);
    writer->connection = NULL;
}

/* One batch at most. A connection on which anything but a lock failed is given up with what it has cached. */
static bool write_some(struct store_writer *writer, uint32_t *messages, char error[RING_ERROR_MAX])
{
    uint64_t committed = ring_committed(writer->ring), position = committed;
    int64_t start = clock_monotonic_us();
    int status;

    if (ring_waiting(writer->ring) > 0)
        store_latency_begin(&writer->latency);
    status = writer->target.run(writer->connection, writer->ring, &position, messages, error);
    if (status != 0) {
        if (status != -EBUSY && status != -EAGAIN)
            disconnect(writer);
        return false;
    }
    if (position != committed)
        ring_commit(writer->ring, position);
    if (*messages > 0) {
        metrics_add(store_rows_total, *messages);
        metrics_observe(store_commit_seconds, clock_monotonic_us() - start);
        store_latency_end(&writer->latency);
        if (writer->target.tidy)
            writer->target.tidy(writer->connection);
    }
    return true;
}

/* Commits of few messages begin WRITER_PACE_MS apart, so that those in between share one fsync; the first
 * after a pause goes at once. */
static void pace(struct store_writer *writer, int64_t start)
{
    int left = (int)(start + WRITER_PACE_MS - clock_monotonic_ms());

    pthread_mutex_lock(&writer->mutex);
    if (left > 0 && !atomic_load(&writer->stopping))
        thread_cond_wait(&writer->stop, &writer->mutex, left);
    pthread_mutex_unlock(&writer->mutex);
}

/* How long there is nothing to do but for messages. */
static int do_step(struct store_writer *writer)
{
    int ms = WRITER_IDLE_MS;

    if (writer->target.step && !atomic_load(&writer->stopping))
        ms = writer->target.step(writer->connection);
    return ms < WRITER_IDLE_MS ? ms : WRITER_IDLE_MS;
}

/* True while there is something left to do in office. Once told to stop: what was in the ring then (`goal`),
 * in time. */
static bool goes_on(struct store_writer *writer, uint64_t *goal)
{
    if (!atomic_load(&writer->stopping))
        return true;
    if (*goal == 0)
        *goal = ring_head(writer->ring);
    return ring_committed(writer->ring) < *goal && clock_monotonic_ms() < atomic_load(&writer->deadline_ms);
}

/* Returns when told to stop, or when the database can't even be opened: the reason may be this process's
 * alone (descriptors, memory), so another one gets its chance. */
static void hold_office(struct store_writer *writer)
{
    char error[RING_ERROR_MAX];
    uint32_t messages;
    uint64_t goal = 0;
    int idle_ms;

    writer->suspect = true; /* the one before may have died while it failed */
    while (goes_on(writer, &goal)) {
        int64_t start = clock_monotonic_ms();

        if (!writer->connection &&
            writer->target.open(writer->target.arg, writer->ring, &writer->connection, error) != 0) {
            report_failure(writer, error);
            return;
        }
        if (!write_some(writer, &messages, error)) {
            report_failure(writer, error);
            wait_to_retry(writer);
            continue;
        }
        report_success(writer);
        idle_ms = do_step(writer);
        if (messages == 0)
            ring_wait(writer->ring, ring_committed(writer->ring), idle_ms);
        else if (messages < writer->target.batch_messages / 4)
            pace(writer, start);
    }
}

static void *run(void *arg)
{
    struct store_writer *writer = arg;

    do {
        if (!ring_writer_lock(writer->ring, WRITER_CANDIDATE_MS))
            continue;
        hold_office(writer);
        store_latency_give_up(&writer->latency);
        disconnect(writer);
        ring_writer_unlock(writer->ring);
        if (!atomic_load(&writer->stopping))
            wait_to_retry(writer);
    } while (!atomic_load(&writer->stopping));
    return NULL;
}

int store_writer_start(struct store_writer **out, struct ring *ring, const struct store_target *target)
{
    struct store_writer *writer = calloc(1, sizeof(*writer));
    int status;

    if (!writer)
        return -ENOMEM;
    writer->target = *target;
    writer->ring = ring;
    writer->seed = (unsigned)clock_monotonic_us();
    pthread_mutex_init(&writer->mutex, NULL);
    thread_cond_init(&writer->stop);
    status = thread_start(&writer->thread, run, writer);
    if (status != 0) {
        free(writer);
        return status;
    }
    *out = writer;
    return 0;
}

void store_writer_show(struct store_writer *writer)
{
    store_latency_show(&writer->latency);
}

void store_writer_stop(struct store_writer *writer, int patience_ms)
{
    pthread_mutex_lock(&writer->mutex);
    atomic_store(&writer->deadline_ms, clock_monotonic_ms() + patience_ms);
    atomic_store(&writer->stopping, true);
    pthread_cond_signal(&writer->stop);
    pthread_mutex_unlock(&writer->mutex);
    ring_kick(writer->ring);
    pthread_join(writer->thread, NULL);
    pthread_cond_destroy(&writer->stop);
    pthread_mutex_destroy(&writer->mutex);
    free(writer);
}
