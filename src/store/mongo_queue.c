/* mongo_queue.c - lists on the loop, one batch with the thread. */
#include "mongo_queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "chatd/thread.h"
#include "mongo_batch.h"
#include "mongo_schema.h"
#include "mongo_spool.h"
#include "store_latency.h"

enum {
    QUEUE_RETRY_FIRST_MS = 50,
    QUEUE_RETRY_MOST_MS = 5000,
    QUEUE_HOLD_MS = 100, /* until a message is asked about again that the bus knew nothing of */
    /* From one batch to the next: a small one costs MongoDB, Redis and this worker as much as a large one. */
    QUEUE_PACE_MS = 5,
    QUEUE_PING_MS = 10000, /* an idle writer looks whether MongoDB is still there, so that /health knows */
};

struct entry {
    struct entry *next;
    struct message message; /* its texts are in `bytes` */
    store_on_number *done;
    void *arg;
    enum store_status status; /* once it is answered */
    uint64_t seq;
    size_t size;
    bool sent; /* it may be on its way, or be there */
    char bytes[];
};

struct list {
    struct entry *first, **end;
};

enum job_state { JOB_NONE, JOB_OUT, JOB_BACK };

struct mongo_queue {
    struct mongo_queue_options options;

    /* The loop's own. */
    struct list waiting, held, answered;
    struct list homeless; /* while closing: no number stands for them, they go to the spool */
    uint32_t count;
    size_t bytes;
    int pause_ms; /* 0 while all is well */
    int64_t not_before_ms, held_until_ms, ping_ms;
    unsigned seed;
    bool closing;
    struct store_latency latency;

    pthread_t thread;
    pthread_mutex_t mutex; /* guards state and stopping; the batch belongs to whom `state` says */
    pthread_cond_t work, back;
    enum job_state state;
    bool stopping;
    struct mongo_item items[MONGO_BATCH_MESSAGES];
    uint32_t item_count;
    bool failed;

    /* The thread's own. */
    mongoc_client_t *client;
    bool prepared;
};

/* ---- lists ---- */

static void list_init(struct list *list)
{
    list->first = NULL;
    list->end = &list->first;
}

static void push(struct list *list, struct entry *entry)
{
    entry->next = NULL;
    *list->end = entry;
    list->end = &entry->next;
}

static struct entry *pop(struct list *list)
{
    struct entry *entry = list->first;

    if (!entry)
        return NULL;
    list->first = entry->next;
    if (!list->first)
        list->end = &list->first;
    return entry;
}

/* Puts `head` before `list`; `head` is empty then. */
static void prepend(struct list *list, struct list *head)
{
    if (!head->first)
        return;
    *head->end = list->first;
    if (list->first)
        head->end = list->end;
    *list = *head;
    list_init(head);
}

/* ---- the thread ---- */

static bool ping(mongoc_client_t *client, const char *database, bson_error_t *error)
{
    bson_t command = BSON_INITIALIZER;
    bool ok;

    BSON_APPEND_INT32(&command, "ping", 1);
    ok = mongoc_client_command_simple(client, database, &command, NULL, NULL, error);
    bson_destroy(&command);
    return ok;
}

static bool carry_out(struct mongo_queue *queue, bson_error_t *error)
{
    const char *database = mongo_link_database(queue->options.link);

    if (!queue->client)
        queue->client = mongo_link_pop(queue->options.link, error);
    if (!queue->client)
        return false;
    if (!queue->prepared && !mongo_schema_prepare(queue->client, database, error))
        return false;
    queue->prepared = true;
    if (queue->item_count == 0)
        return ping(queue->client, database, error);
    return mongo_batch_write(queue->client, database, queue->items, queue->item_count, error);
}

/* A message that is found to be there was counted by who inserted it. Unless that was an earlier try of its
 * own, which had no answer. */
static void count_rows(struct mongo_queue *queue, int64_t start_us)
{
    uint32_t rows = 0;
    bool any = false;

    for (uint32_t i = 0; i < queue->item_count; i++) {
        const struct mongo_item *item = &queue->items[i];
        const struct entry *entry = item->owner;

        if (item->verdict != MONGO_STORED)
            continue;
        any = true;
        rows += !item->found || entry->sent;
        mongo_notes_room(queue->options.notes, item->message->room, item->seq, item->message->time_ms);
    }
    if (!any)
        return;
    metrics_add(store_rows_total, rows);
    metrics_observe(store_commit_seconds, clock_monotonic_us() - start_us);
}

static void work(struct mongo_queue *queue)
{
    int64_t start_us = clock_monotonic_us();
    bson_error_t error = {0};

    for (uint32_t i = 0; i < queue->item_count; i++)
        queue->items[i].verdict = MONGO_PENDING;
    queue->failed = !carry_out(queue, &error);
    if (queue->failed)
        mongo_link_failed(queue->options.link, MONGO_WRITER, start_us / 1000, &error);
    else
        mongo_link_works(queue->options.link, MONGO_WRITER, start_us / 1000);
    count_rows(queue, start_us);
}

static void *run(void *arg)
{
    struct mongo_queue *queue = arg;

    pthread_mutex_lock(&queue->mutex);
    while (!queue->stopping) {
        if (queue->state != JOB_OUT) {
            pthread_cond_wait(&queue->work, &queue->mutex);
            continue;
        }
        pthread_mutex_unlock(&queue->mutex);
        work(queue);
        pthread_mutex_lock(&queue->mutex);
        queue->state = JOB_BACK;
        pthread_cond_signal(&queue->back);
        queue->options.wake(queue->options.wake_arg);
    }
    pthread_mutex_unlock(&queue->mutex);
    mongo_link_push(queue->options.link, queue->client);
    return NULL;
}

static enum job_state job_state(struct mongo_queue *queue)
{
    enum job_state state;

    pthread_mutex_lock(&queue->mutex);
    state = queue->state;
    pthread_mutex_unlock(&queue->mutex);
    return state;
}

static void set_job_state(struct mongo_queue *queue, enum job_state state)
{
    pthread_mutex_lock(&queue->mutex);
    queue->state = state;
    if (state == JOB_OUT)
        pthread_cond_signal(&queue->work);
    pthread_mutex_unlock(&queue->mutex);
}

/* ---- into the queue ---- */

static struct text copy_text(char **to, struct text text)
{
    struct text copy = {*to, text.length};

    if (text.length > 0)
        memcpy(*to, text.data, text.length);
    *to += text.length;
    return copy;
}

static struct entry *entry_new(const struct message *message, store_on_number *done, void *arg)
{
    size_t size = message->room.length + message->user.length + message->key.length + message->event.length;
    struct entry *entry = malloc(sizeof(*entry) + size);
    char *to;

    if (!entry)
        abort();
    *entry = (struct entry){.message = *message, .done = done, .arg = arg, .size = sizeof(*entry) + size};
    to = entry->bytes;
    entry->message.room = copy_text(&to, message->room);
    entry->message.user = copy_text(&to, message->user);
    entry->message.key = copy_text(&to, message->key);
    entry->message.event = copy_text(&to, message->event);
    return entry;
}

static void show_size(const struct mongo_queue *queue)
{
    metrics_set(store_queue, queue->count);
    metrics_set(store_queue_bytes, queue->bytes);
    metrics_set(ack_queue, queue->count);
}

static void answer(struct mongo_queue *queue, struct entry *entry, enum store_status status, uint64_t seq)
{
    if (!queue->answered.first)
        queue->options.wake(queue->options.wake_arg);
    entry->status = status;
    entry->seq = seq;
    push(&queue->answered, entry);
}

bool mongo_queue_full(const struct mongo_queue *queue)
{
    return queue->bytes >= (size_t)queue->options.config->store_queue_bytes;
}

uint64_t mongo_queue_bytes(const struct mongo_queue *queue)
{
    return queue->bytes;
}

void mongo_queue_commit(struct mongo_queue *queue, const struct message *message, store_on_number *done,
                        void *arg)
{
    struct entry *entry = entry_new(message, done, arg);
    bool over = queue->bytes >= 2 * (size_t)queue->options.config->store_queue_bytes;

    queue->count++;
    queue->bytes += entry->size;
    show_size(queue);
    if (queue->closing) {
        answer(queue, entry, STORE_FAILED, 0);
    } else if (over) {
        metrics_add(limited_total[METRICS_LIMIT_store_queue], 1);
        answer(queue, entry, STORE_BUSY, 0);
    } else {
        push(&queue->waiting, entry);
    }
}

/* ---- batches ---- */

/* Its number doesn't stand. When the worker stops nobody can publish it again: the next one does, from
 * the spool. */
static void move_away(struct mongo_queue *queue, struct entry *entry)
{
    if (queue->closing)
        push(&queue->homeless, entry);
    else
        answer(queue, entry, STORE_MOVED, 0);
}

static void add_item(struct mongo_queue *queue, struct entry *entry, bool look)
{
    queue->items[queue->item_count++] =
        (struct mongo_item){.message = &entry->message, .look = look, .owner = entry};
}

static void fill_batch(struct mongo_queue *queue, int64_t now_ms)
{
    size_t bytes = 0;

    queue->item_count = 0;
    if (queue->held.first && now_ms >= queue->held_until_ms)
        prepend(&queue->waiting, &queue->held);
    while (queue->waiting.first && queue->item_count < MONGO_BATCH_MESSAGES && bytes < MONGO_BATCH_BYTES) {
        struct entry *entry = pop(&queue->waiting);

        switch (queue->options.stand(queue->options.stand_arg, &entry->message)) {
        case BUS_STANDS:
            add_item(queue, entry, false);
            bytes += entry->size;
            break;
        case BUS_WAITS:
            if (!queue->held.first)
                queue->held_until_ms = now_ms + QUEUE_HOLD_MS;
            push(&queue->held, entry);
            break;
        case BUS_MOVED:
            if (entry->sent)
                add_item(queue, entry, true);
            else
                move_away(queue, entry);
            break;
        }
    }
}

/* How long until the earliest of what is due; at least 1. */
static int time_left(const struct mongo_queue *queue, int64_t now_ms)
{
    int64_t due_ms = queue->ping_ms;

    if (queue->held.first && queue->held_until_ms < due_ms)
        due_ms = queue->held_until_ms;
    return due_ms > now_ms ? (int)(due_ms - now_ms) : 1;
}

int mongo_queue_turn(struct mongo_queue *queue)
{
    int64_t now_ms = clock_monotonic_ms();

    if (job_state(queue) != JOB_NONE)
        return 0;
    if (now_ms < queue->not_before_ms)
        return (int)(queue->not_before_ms - now_ms);
    fill_batch(queue, now_ms);
    if (queue->item_count == 0 && queue->pause_ms == 0 && now_ms < queue->ping_ms)
        return time_left(queue, now_ms);
    if (queue->item_count > 0)
        store_latency_begin(&queue->latency);
    queue->ping_ms = now_ms + QUEUE_PING_MS;
    queue->not_before_ms = now_ms + QUEUE_PACE_MS;
    set_job_state(queue, JOB_OUT);
    return 0;
}

static void pause_writing(struct mongo_queue *queue)
{
    metrics_add(store_retries_total, 1);
    queue->not_before_ms =
        clock_monotonic_ms() +
        thread_pause(&queue->pause_ms, QUEUE_RETRY_FIRST_MS, QUEUE_RETRY_MOST_MS, &queue->seed);
}

/* Sorts what the thread brought back. */
static void take_batch(struct mongo_queue *queue)
{
    struct list again;

    if (job_state(queue) != JOB_BACK)
        return;
    list_init(&again);
    for (uint32_t i = 0; i < queue->item_count; i++) {
        const struct mongo_item *item = &queue->items[i];
        struct entry *entry = item->owner;

        switch (item->verdict) {
        case MONGO_PENDING:
            entry->sent = true;
            push(&again, entry);
            break;
        case MONGO_STORED:
            answer(queue, entry, STORE_OK, item->seq);
            break;
        case MONGO_TAKEN:
            move_away(queue, entry);
            break;
        case MONGO_REFUSED:
            answer(queue, entry, STORE_FAILED, 0);
            break;
        }
    }
    prepend(&queue->waiting, &again);
    if (queue->failed) {
        pause_writing(queue);
    } else {
        queue->pause_ms = 0;
        store_latency_end(&queue->latency);
    }
    if (!queue->waiting.first && !queue->held.first)
        store_latency_give_up(&queue->latency);
    set_job_state(queue, JOB_NONE);
}

void mongo_queue_show(struct mongo_queue *queue)
{
    store_latency_show(&queue->latency);
}

void mongo_queue_take(struct mongo_queue *queue)
{
    struct entry *entry;

    take_batch(queue);
    while ((entry = pop(&queue->answered))) {
        store_on_number *done = entry->done;
        enum store_status status = entry->status;
        uint64_t seq = entry->seq;
        void *arg = entry->arg;

        queue->count--;
        queue->bytes -= entry->size;
        free(entry);
        done(arg, status, seq);
    }
    show_size(queue);
}

/* ---- start and stop ---- */

int mongo_queue_start(struct mongo_queue **out, const struct mongo_queue_options *options)
{
    struct mongo_queue *queue = calloc(1, sizeof(*queue));
    int status;

    if (!queue)
        return -ENOMEM;
    queue->options = *options;
    list_init(&queue->waiting);
    list_init(&queue->held);
    list_init(&queue->answered);
    list_init(&queue->homeless);
    queue->seed = (unsigned)clock_monotonic_us();
    pthread_mutex_init(&queue->mutex, NULL);
    pthread_cond_init(&queue->work, NULL);
    thread_cond_init(&queue->back);
    queue->ping_ms = clock_monotonic_ms() + QUEUE_PING_MS;
    queue->state = JOB_OUT; /* an empty batch: makes the indexes */
    status = thread_start(&queue->thread, run, queue);
    if (status != 0) {
        free(queue);
        return status;
    }
    *out = queue;
    return 0;
}

static bool is_empty(struct mongo_queue *queue)
{
    return !queue->waiting.first && !queue->held.first && job_state(queue) == JOB_NONE;
}

static void wait_for_thread(struct mongo_queue *queue, int64_t most_ms)
{
    pthread_mutex_lock(&queue->mutex);
    if (queue->state != JOB_BACK && most_ms > 0)
        thread_cond_wait(&queue->back, &queue->mutex, (int)most_ms);
    pthread_mutex_unlock(&queue->mutex);
}

/* While MongoDB fails the rest is better off in a file now: one more try could take longer than whoever
 * waits for this process. */
static bool is_hopeless(struct mongo_queue *queue)
{
    return queue->pause_ms > 0 && job_state(queue) == JOB_NONE;
}

/* Like the loop, but without one. */
static void commit_rest(struct mongo_queue *queue, int patience_ms)
{
    int64_t deadline_ms = clock_monotonic_ms() + patience_ms, left;

    while (!is_empty(queue) && !is_hopeless(queue) && (left = deadline_ms - clock_monotonic_ms()) > 0) {
        int due_ms = mongo_queue_turn(queue);

        wait_for_thread(queue, due_ms > 0 && due_ms < left ? due_ms : left);
        mongo_queue_take(queue);
    }
}

static void spool_list(struct mongo_spool_file *file, const struct list *list)
{
    for (const struct entry *entry = list->first; entry; entry = entry->next)
        mongo_spool_add(file, &entry->message);
}

/* The batch that is out as well: whether it is stored is known when it may be too late to write a file. */
static void spool_rest(struct mongo_queue *queue)
{
    struct mongo_spool_file *file;
    bool out;

    mongo_queue_take(queue);
    out = job_state(queue) != JOB_NONE && queue->item_count > 0;
    if (!out && !queue->waiting.first && !queue->held.first && !queue->homeless.first)
        return;
    file = mongo_spool_create(queue->options.config->data_dir);
    if (!file)
        return;
    for (uint32_t i = 0; out && i < queue->item_count; i++)
        mongo_spool_add(file, queue->items[i].message);
    spool_list(file, &queue->waiting);
    spool_list(file, &queue->held);
    spool_list(file, &queue->homeless);
    mongo_spool_end(file);
}

static void fail_list(struct mongo_queue *queue, struct list *list)
{
    struct entry *entry;

    while ((entry = pop(list)))
        answer(queue, entry, STORE_FAILED, 0);
}

void mongo_queue_stop(struct mongo_queue *queue, int patience_ms)
{
    queue->closing = true;
    commit_rest(queue, patience_ms);
    spool_rest(queue);
    pthread_mutex_lock(&queue->mutex);
    queue->stopping = true;
    pthread_cond_signal(&queue->work);
    pthread_mutex_unlock(&queue->mutex);
    pthread_join(queue->thread, NULL);
    if (job_state(queue) == JOB_OUT)
        set_job_state(queue, JOB_BACK); /* it was never begun: all PENDING */
    take_batch(queue);
    fail_list(queue, &queue->waiting);
    fail_list(queue, &queue->held);
    fail_list(queue, &queue->homeless);
    mongo_queue_take(queue);
}

void mongo_queue_free(struct mongo_queue *queue)
{
    pthread_cond_destroy(&queue->work);
    pthread_cond_destroy(&queue->back);
    pthread_mutex_destroy(&queue->mutex);
    free(queue);
}
