/* store_reader.c - a queue in, a queue out, and threads between them. */
#include "store_reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "chatd/thread.h"

enum {
    READER_QUEUE_MAX = 4096,
    READER_THREADS_MAX = 4,
    READER_ANSWERS_MAX = 16 * 1024 * 1024, /* bytes that wait for the loop before the thread does */
    READER_FREE_MAX = 64,
    READER_KEEP_BYTES = 64 * 1024, /* a recycled request's page keeps no more memory than that */
};

struct queue {
    struct store_request *first;
    struct store_request **end;
    uint32_t count;
};

struct store_reader {
    struct store_source source;
    pthread_t threads[READER_THREADS_MAX];
    unsigned started;
    pthread_mutex_t mutex;
    pthread_cond_t work;

    /* Under the mutex. */
    struct queue asked;
    struct queue answered;
    size_t answered_bytes;
    bool stopping;
    int64_t failing_since_ms; /* 0 while reading works */
    int64_t working_since_ms; /* 0: it always did */
    int64_t failed_ms;        /* monotonic; of the last failure */
    char error[RING_ERROR_MAX];

    /* The loop's own. */
    struct store_request *sharing; /* who gets the answer that was taken last, too */
    struct store_request *free;
    uint32_t free_count;

    void (*on_ready)(void *arg);
    void *arg;
};

static const struct text NO_TEXT = {NULL, 0};

static void push(struct queue *queue, struct store_request *request)
{
    request->next = NULL;
    *queue->end = request;
    queue->end = &request->next;
    queue->count++;
}

static struct store_request *pop(struct queue *queue)
{
    struct store_request *request = queue->first;

    if (request == NULL)
        return NULL;
    queue->first = request->next;
    queue->count--;
    if (queue->first == NULL)
        queue->end = &queue->first;
    return request;
}

/* Said once when it begins, and once when it is over. */
static void note_outcome(struct store_reader *reader, const char *error)
{
    bool failed = error[0] != '\0', failed_before;

    pthread_mutex_lock(&reader->mutex);
    failed_before = reader->failing_since_ms != 0;
    if (failed != failed_before) {
        reader->failing_since_ms = failed ? clock_wall_ms() : 0;
        reader->working_since_ms = clock_wall_ms();
    }
    if (failed) {
        memcpy(reader->error, error, sizeof(reader->error));
        reader->failed_ms = clock_monotonic_ms();
    }
    pthread_mutex_unlock(&reader->mutex);
    if (reader->source.silent)
        return;
    if (failed && !failed_before)
        log_error("store_read_failed", "error=%s", error);
    else if (!failed && failed_before)
        log_info("store_read_recovered", " ");
}

static bool is_expired(const struct store_reader *reader, const struct store_request *request)
{
    return reader->source.expire_ms > 0 &&
           clock_monotonic_ms() - request->asked_ms > reader->source.expire_ms;
}

static void answer(struct store_reader *reader, void **connection, struct store_request *request)
{
    char error[RING_ERROR_MAX] = "";
    int64_t start_us = clock_monotonic_us();

    request->status = STORE_FAILED;
    /* Whoever asked has waited long enough, and those behind would wait for this one too. */
    if (is_expired(reader, request))
        return;
    if (reader->source.answer(reader->source.arg, connection, request, error) != 0) {
        reader->source.close(*connection);
        *connection = NULL;
    }
    metrics_observe(store_read_seconds, clock_monotonic_us() - start_us);
    note_outcome(reader, error);
}

static void *run(void *arg)
{
    struct store_reader *reader = arg;
    void *connection = NULL;

    pthread_mutex_lock(&reader->mutex);
    while (!reader->stopping) {
        struct store_request *request;

        if (reader->asked.count == 0 || reader->answered_bytes >= READER_ANSWERS_MAX) {
            pthread_cond_wait(&reader->work, &reader->mutex);
            continue;
        }
        request = pop(&reader->asked);
        pthread_mutex_unlock(&reader->mutex);
        answer(reader, &connection, request);
        pthread_mutex_lock(&reader->mutex);
        reader->answered_bytes += request->page.bytes.length;
        push(&reader->answered, request);
        reader->on_ready(reader->arg);
    }
    pthread_mutex_unlock(&reader->mutex);
    reader->source.close(connection);
    return NULL;
}

void store_reader_end(struct store_reader *reader)
{
    pthread_mutex_lock(&reader->mutex);
    reader->stopping = true;
    pthread_cond_broadcast(&reader->work);
    pthread_mutex_unlock(&reader->mutex);
}

static void join_threads(struct store_reader *reader)
{
    store_reader_end(reader);
    while (reader->started > 0)
        pthread_join(reader->threads[--reader->started], NULL);
}

int store_reader_start(struct store_reader **out, const struct store_source *source,
                       void (*on_ready)(void *arg), void *arg)
{
    struct store_reader *reader = calloc(1, sizeof(*reader));
    int status = 0;

    if (!reader)
        return -ENOMEM;
    reader->source = *source;
    reader->on_ready = on_ready;
    reader->arg = arg;
    reader->asked.end = &reader->asked.first;
    reader->answered.end = &reader->answered.first;
    pthread_mutex_init(&reader->mutex, NULL);
    pthread_cond_init(&reader->work, NULL);
    for (unsigned i = 0; i < source->threads && i < READER_THREADS_MAX && status == 0; i++) {
        status = thread_start(&reader->threads[i], run, reader);
        if (status == 0)
            reader->started++;
    }
    if (status != 0) {
        join_threads(reader);
        store_reader_free(reader);
        return status;
    }
    *out = reader;
    return 0;
}

void store_reader_stop(struct store_reader *reader)
{
    struct store_request *request;

    join_threads(reader);
    while ((request = pop(&reader->asked)) != NULL) {
        request->status = STORE_FAILED;
        push(&reader->answered, request);
    }
}

static void request_free(struct store_request *request)
{
    buf_deinit(&request->names);
    page_deinit(&request->page);
    free(request);
}

void store_reader_free(struct store_reader *reader)
{
    while (reader->free != NULL) {
        struct store_request *request = reader->free;

        reader->free = request->next;
        request_free(request);
    }
    pthread_cond_destroy(&reader->work);
    pthread_mutex_destroy(&reader->mutex);
    free(reader);
}

/* A request about these names (those that don't matter have length 0), to be filled further and submitted. */
static struct store_request *request_new(struct store_reader *reader, enum store_read_kind kind,
                                         struct text room, struct text user, struct text key)
{
    struct store_request *request = reader->free;

    if (request != NULL) {
        reader->free = request->next;
        reader->free_count--;
    } else {
        request = calloc(1, sizeof(*request));
        if (request == NULL)
            abort();
    }
    request->kind = kind;
    buf_add(&request->names, room.data, room.length);
    buf_add(&request->names, user.data, user.length);
    buf_add(&request->names, key.data, key.length);
    request->room_length = room.length;
    request->user_length = user.length;
    request->key_length = key.length;
    return request;
}

static bool same_page(const struct store_request *a, const struct store_request *b)
{
    return a->kind == b->kind && a->above == b->above && a->upto == b->upto &&
           a->limit == b->limit && a->room_length == b->room_length &&
           memcmp(a->names.data, b->names.data, a->room_length) == 0;
}

/* After a failover all members of a room come back with the same `since`: one look-up serves all whose
 * question is not older than its beginning. False when nobody waits for the same. */
static bool join_same(struct store_reader *reader, struct store_request *request)
{
    struct store_request *other = request->kind == STORE_READ_PAGE ? reader->asked.first : NULL;

    while (other && !same_page(other, request))
        other = other->next;
    if (!other)
        return false;
    request->same = other->same;
    other->same = request;
    return true;
}

static void submit(struct store_reader *reader, struct store_request *request)
{
    request->asked_ms = clock_monotonic_ms();
    pthread_mutex_lock(&reader->mutex);
    if (!reader->stopping && join_same(reader, request)) {
        pthread_mutex_unlock(&reader->mutex);
        return;
    }
    if (!reader->stopping && reader->asked.count < READER_QUEUE_MAX) {
        push(&reader->asked, request);
        pthread_cond_signal(&reader->work);
    } else {
        request->status = reader->stopping ? STORE_FAILED : STORE_BUSY;
        metrics_add(limited_total[METRICS_LIMIT_store_queue], !reader->stopping);
        push(&reader->answered, request);
        reader->on_ready(reader->arg);
    }
    pthread_mutex_unlock(&reader->mutex);
}

static struct store_request *take(struct store_reader *reader)
{
    struct store_request *request = reader->sharing;

    reader->sharing = NULL;
    if (request)
        return request;
    pthread_mutex_lock(&reader->mutex);
    request = pop(&reader->answered);
    if (request != NULL) {
        bool waits = reader->answered_bytes >= READER_ANSWERS_MAX;

        reader->answered_bytes -= request->page.bytes.length;
        if (waits && reader->answered_bytes < READER_ANSWERS_MAX)
            pthread_cond_broadcast(&reader->work);
    }
    pthread_mutex_unlock(&reader->mutex);
    return request;
}

static void recycle(struct store_reader *reader, struct store_request *request)
{
    struct buf names = request->names;
    struct page page = request->page;

    if (reader->free_count == READER_FREE_MAX || page.bytes.capacity > READER_KEEP_BYTES) {
        request_free(request);
        return;
    }
    names.length = 0;
    page_clear(&page);
    *request = (struct store_request){.names = names, .page = page, .next = reader->free};
    reader->free = request;
    reader->free_count++;
}

static void deliver_rooms(const struct store_request *request)
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

static void deliver(struct store_request *request)
{
    switch (request->kind) {
    case STORE_READ_RESOLVE:
        /* For a commit there is stored and not known to be stored. */
        if (request->status != STORE_OK)
            request->status = STORE_FAILED;
        /* fall through */
    case STORE_READ_HIGHEST:
    case STORE_READ_FIND:
        request->done.number(request->arg, request->status, request->number);
        break;
    case STORE_READ_PAGE:
        if (request->status != STORE_OK)
            page_clear(&request->page);
        request->done.page(request->arg, request->status, &request->page, request->more);
        break;
    case STORE_READ_ROOMS:
        deliver_rooms(request);
        break;
    }
}

/* The answer goes to the next one who asked the same. */
static void hand_on(struct store_reader *reader, struct store_request *request)
{
    struct store_request *next = request->same;
    struct page unused = next->page;

    next->status = request->status;
    next->more = request->more;
    next->page = request->page;
    request->page = unused;
    reader->sharing = next;
}

bool store_reader_deliver(struct store_reader *reader, int most)
{
    for (int i = 0; i < most; i++) {
        struct store_request *request = take(reader);

        if (!request)
            return false;
        deliver(request);
        if (request->same)
            hand_on(reader, request);
        recycle(reader, request);
    }
    return true;
}

bool store_reader_works(struct store_reader *reader, char error[RING_ERROR_MAX], int64_t *since_ms)
{
    bool works;

    pthread_mutex_lock(&reader->mutex);
    works = reader->failing_since_ms == 0 ||
            (reader->source.forget_ms > 0 &&
             clock_monotonic_ms() - reader->failed_ms > reader->source.forget_ms);
    *since_ms = works ? reader->working_since_ms : reader->failing_since_ms;
    if (works && reader->failing_since_ms != 0) /* forgotten, then */
        *since_ms = clock_wall_ms() - (clock_monotonic_ms() - reader->failed_ms - reader->source.forget_ms);
    if (!works)
        memcpy(error, reader->error, RING_ERROR_MAX);
    pthread_mutex_unlock(&reader->mutex);
    return works;
}

void store_reader_highest(struct store_reader *reader, struct text room, store_on_number *done, void *arg)
{
    struct store_request *request = request_new(reader, STORE_READ_HIGHEST, room, NO_TEXT, NO_TEXT);

    request->done.number = done;
    request->arg = arg;
    submit(reader, request);
}

void store_reader_find(struct store_reader *reader, struct text room, struct text user, struct text key,
                       const uint8_t *uid, store_on_number *done, void *arg)
{
    struct store_request *request = request_new(reader, STORE_READ_FIND, room, user, key);

    if (uid)
        memcpy(request->uid, uid, MESSAGE_UID_SIZE);
    request->done.number = done;
    request->arg = arg;
    submit(reader, request);
}

void store_reader_page(struct store_reader *reader, struct text room, uint64_t above, uint64_t upto,
                       uint32_t limit, store_on_page *done, void *arg)
{
    struct store_request *request = request_new(reader, STORE_READ_PAGE, room, NO_TEXT, NO_TEXT);

    request->above = above;
    request->upto = upto;
    request->limit = limit;
    request->done.page = done;
    request->arg = arg;
    submit(reader, request);
}

void store_reader_rooms(struct store_reader *reader, uint32_t limit, store_on_rooms *done, void *arg)
{
    struct store_request *request = request_new(reader, STORE_READ_ROOMS, NO_TEXT, NO_TEXT, NO_TEXT);

    request->limit = limit;
    request->done.rooms = done;
    request->arg = arg;
    submit(reader, request);
}

void store_reader_resolve(struct store_reader *reader, const struct message *message, store_on_number *done,
                          void *arg)
{
    struct store_request *request =
        request_new(reader, STORE_READ_RESOLVE, message->room, message->user, message->key);

    request->seq = message->seq;
    memcpy(request->uid, message->uid, MESSAGE_UID_SIZE);
    request->done.number = done;
    request->arg = arg;
    submit(reader, request);
}
