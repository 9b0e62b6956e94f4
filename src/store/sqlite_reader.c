/* sqlite_reader.c - a queue in, a queue out, and one thread between them. */
#include "sqlite_reader.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "sqlite_thread.h"

enum {
    READER_QUEUE_MAX = 4096,
    READER_ANSWERS_MAX = 16 * 1024 * 1024, /* bytes that wait for the loop before the thread does */
    READER_FREE_MAX = 64,
    READER_KEEP_BYTES = 64 * 1024, /* a recycled request's page keeps no more memory than that */
};

struct queue {
    struct sqlite_request *first;
    struct sqlite_request **end;
    uint32_t count;
};

struct sqlite_reader {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t work;

    /* Under the mutex. */
    struct queue asked;
    struct queue answered;
    size_t answered_bytes;
    bool stopping;
    int64_t failing_since_ms; /* 0 while reading works */
    char error[RING_ERROR_MAX];

    /* The thread's own. */
    struct sqlite_query *query;

    /* The loop's own. */
    struct sqlite_request *free;
    uint32_t free_count;

    void (*on_ready)(void *arg);
    void *arg;
    char data_dir[PATH_MAX];
};

static void push(struct queue *queue, struct sqlite_request *request)
{
    request->next = NULL;
    *queue->end = request;
    queue->end = &request->next;
    queue->count++;
}

static struct sqlite_request *pop(struct queue *queue)
{
    struct sqlite_request *request = queue->first;

    if (request == NULL)
        return NULL;
    queue->first = request->next;
    queue->count--;
    if (queue->first == NULL)
        queue->end = &queue->first;
    return request;
}

/* Said once when it begins, and once when it is over. */
static void note_outcome(struct sqlite_reader *reader, const char *error)
{
    bool failed = error[0] != '\0', failed_before;

    pthread_mutex_lock(&reader->mutex);
    failed_before = reader->failing_since_ms != 0;
    if (failed != failed_before)
        reader->failing_since_ms = failed ? clock_wall_ms() : 0;
    if (failed)
        memcpy(reader->error, error, sizeof(reader->error));
    pthread_mutex_unlock(&reader->mutex);
    if (failed && !failed_before)
        log_error("store_read_failed", "error=%s", error);
    else if (!failed && failed_before)
        log_info("store_read_recovered", " ");
}

static void answer(struct sqlite_reader *reader, struct sqlite_request *request)
{
    char error[RING_ERROR_MAX] = "";
    int status = 0;

    request->status = STORE_FAILED;
    if (reader->query == NULL)
        status = sqlite_query_open(&reader->query, reader->data_dir, error);
    if (status == 0)
        status = sqlite_query_run(reader->query, request, error);
    if (status != 0) {
        sqlite_query_close(reader->query);
        reader->query = NULL;
    }
    note_outcome(reader, error);
}

static void *run(void *arg)
{
    struct sqlite_reader *reader = arg;

    pthread_mutex_lock(&reader->mutex);
    while (!reader->stopping) {
        struct sqlite_request *request;

        if (reader->asked.count == 0 || reader->answered_bytes >= READER_ANSWERS_MAX) {
            pthread_cond_wait(&reader->work, &reader->mutex);
            continue;
        }
        request = pop(&reader->asked);
        pthread_mutex_unlock(&reader->mutex);
        answer(reader, request);
        pthread_mutex_lock(&reader->mutex);
        reader->answered_bytes += request->page.bytes.length;
        push(&reader->answered, request);
        reader->on_ready(reader->arg);
    }
    pthread_mutex_unlock(&reader->mutex);
    sqlite_query_close(reader->query);
    return NULL;
}

int sqlite_reader_start(struct sqlite_reader **out, const char *data_dir, void (*on_ready)(void *arg),
                        void *arg)
{
    struct sqlite_reader *reader;
    int status;

    if (strlen(data_dir) >= sizeof(reader->data_dir))
        return -ENAMETOOLONG;
    reader = calloc(1, sizeof(*reader));
    if (reader == NULL)
        return -ENOMEM;
    memcpy(reader->data_dir, data_dir, strlen(data_dir) + 1);
    reader->on_ready = on_ready;
    reader->arg = arg;
    reader->asked.end = &reader->asked.first;
    reader->answered.end = &reader->answered.first;
    pthread_mutex_init(&reader->mutex, NULL);
    pthread_cond_init(&reader->work, NULL);
    status = sqlite_thread_start(&reader->thread, run, reader);
    if (status != 0) {
        free(reader);
        return status;
    }
    *out = reader;
    return 0;
}

void sqlite_reader_stop(struct sqlite_reader *reader)
{
    struct sqlite_request *request;

    pthread_mutex_lock(&reader->mutex);
    reader->stopping = true;
    pthread_cond_signal(&reader->work);
    pthread_mutex_unlock(&reader->mutex);
    pthread_join(reader->thread, NULL);
    while ((request = pop(&reader->asked)) != NULL) {
        request->status = STORE_FAILED;
        push(&reader->answered, request);
    }
}

static void request_free(struct sqlite_request *request)
{
    buf_deinit(&request->names);
    page_deinit(&request->page);
    free(request);
}

void sqlite_reader_free(struct sqlite_reader *reader)
{
    while (reader->free != NULL) {
        struct sqlite_request *request = reader->free;

        reader->free = request->next;
        request_free(request);
    }
    pthread_cond_destroy(&reader->work);
    pthread_mutex_destroy(&reader->mutex);
    free(reader);
}

struct sqlite_request *sqlite_reader_request(struct sqlite_reader *reader, enum sqlite_query_kind kind,
                                             struct text room, struct text user, struct text key)
{
    struct sqlite_request *request = reader->free;

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

void sqlite_reader_submit(struct sqlite_reader *reader, struct sqlite_request *request)
{
    pthread_mutex_lock(&reader->mutex);
    if (!reader->stopping && reader->asked.count < READER_QUEUE_MAX) {
        push(&reader->asked, request);
        pthread_cond_signal(&reader->work);
    } else {
        request->status = reader->stopping ? STORE_FAILED : STORE_BUSY;
        push(&reader->answered, request);
        reader->on_ready(reader->arg);
    }
    pthread_mutex_unlock(&reader->mutex);
}

struct sqlite_request *sqlite_reader_take(struct sqlite_reader *reader)
{
    struct sqlite_request *request;

    pthread_mutex_lock(&reader->mutex);
    request = pop(&reader->answered);
    if (request != NULL) {
        bool waits = reader->answered_bytes >= READER_ANSWERS_MAX;

        reader->answered_bytes -= request->page.bytes.length;
        if (waits && reader->answered_bytes < READER_ANSWERS_MAX)
            pthread_cond_signal(&reader->work);
    }
    pthread_mutex_unlock(&reader->mutex);
    return request;
}

void sqlite_reader_recycle(struct sqlite_reader *reader, struct sqlite_request *request)
{
    struct buf names = request->names;
    struct page page = request->page;

    if (reader->free_count == READER_FREE_MAX || page.bytes.capacity > READER_KEEP_BYTES) {
        request_free(request);
        return;
    }
    names.length = 0;
    page_clear(&page);
    *request = (struct sqlite_request){.names = names, .page = page, .next = reader->free};
    reader->free = request;
    reader->free_count++;
}

bool sqlite_reader_works(struct sqlite_reader *reader, char error[RING_ERROR_MAX], int64_t *since_ms)
{
    bool works;

    pthread_mutex_lock(&reader->mutex);
    works = reader->failing_since_ms == 0;
    if (!works) {
        memcpy(error, reader->error, RING_ERROR_MAX);
        *since_ms = reader->failing_since_ms;
    }
    pthread_mutex_unlock(&reader->mutex);
    return works;
}
