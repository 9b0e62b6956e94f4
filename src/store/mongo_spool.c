/* mongo_spool.c - replays spool files: a thread reads a piece, the loop hands it up, the thread waits for
 * its answers. */
#include "mongo_spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chatd/hash.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "chatd/thread.h"
#include "mongo_spool_format.h"

enum { PIECE_MESSAGES = 256, PIECE_BYTES = 1024 * 1024 };

/* Whoever has a message of a piece answers to this, perhaps when the spool is gone. The loop's. */
struct receipt {
    struct mongo_spool *spool; /* NULL: gone */
    uint32_t open;             /* not answered yet, and one for on_spooled's turn */
};

struct mongo_spool {
    struct mongo_spool_options options;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t change;

    /* Under the mutex. */
    bool go, seen, stopping;
    bool ready;      /* a piece waits for the loop */
    bool answered;   /* a piece's answers wait for the thread */
    uint32_t failed; /* of that piece */

    /* The thread's until it says `ready`, then the loop's until it says `answered`. */
    struct buf piece; /* heads and records */
    uint32_t piece_count;

    struct receipt *receipt; /* the loop's own: of the piece that is out */
    bool said;               /* the thread's own: that files have to stay */
};

/* ---- the thread ---- */

/* True when the piece's messages are all stored. */
static bool hand_up(struct mongo_spool *spool)
{
    bool stored = true;

    if (spool->piece_count > 0) {
        pthread_mutex_lock(&spool->mutex);
        spool->ready = true;
        spool->answered = false;
        spool->options.wake(spool->options.wake_arg);
        while (!spool->answered && !spool->stopping)
            pthread_cond_wait(&spool->change, &spool->mutex);
        stored = spool->answered && spool->failed == 0;
        pthread_mutex_unlock(&spool->mutex);
    }
    return stored;
}

static bool is_stopping(struct mongo_spool *spool)
{
    bool stopping;

    pthread_mutex_lock(&spool->mutex);
    stopping = spool->stopping;
    pthread_mutex_unlock(&spool->mutex);
    return stopping;
}

static void clear_piece(struct mongo_spool *spool)
{
    spool->piece.length = 0;
    spool->piece_count = 0;
}

enum found { FOUND, DAMAGED, END };

/* Appends the next record to the piece. After one that is damaged inside the next can be found; after one
 * without a sensible head nothing can. */
static enum found read_record(struct mongo_spool *spool, FILE *in, const char *name)
{
    struct mongo_spool_head head;
    size_t start = spool->piece.length, got = fread(&head, 1, sizeof(head), in);
    struct message message;
    char *record;

    if (got == 0)
        return END;
    if (got < sizeof(head) || head.length > MONGO_SPOOL_RECORD_MAX) {
        log_error("spool_damaged", "file=%s error=%s", name, "its end is cut off or damaged");
        return END;
    }
    buf_add(&spool->piece, &head, sizeof(head));
    buf_reserve(&spool->piece, head.length);
    record = spool->piece.data + spool->piece.length;
    got = fread(record, 1, head.length, in);
    if (got == head.length && hash_bytes(record, got) == head.checksum &&
        mongo_spool_decode(record, got, &message)) {
        spool->piece.length += got;
        spool->piece_count++;
        return FOUND;
    }
    spool->piece.length = start;
    log_error("spool_damaged", "file=%s error=%s", name,
              got < head.length ? "a message is cut off" : "a message is damaged");
    return got < head.length ? END : DAMAGED;
}

/* What the disk doesn't give now isn't cut off: the file stays. */
static bool is_unread(const struct mongo_spool *spool, FILE *in, const char *name)
{
    if (ferror(in) && !spool->said)
        log_error("spool_failed", "file=%s error=%s", name, "it can't be read to its end");
    return ferror(in) != 0;
}

/* True when nothing in it is needed any more. */
static bool replay_file(struct mongo_spool *spool, FILE *in, const char *name)
{
    char magic[sizeof(MONGO_SPOOL_MAGIC) - 1];
    bool stored = true;
    uint32_t messages = 0;
    enum found found;

    if (fread(magic, 1, sizeof(magic), in) != sizeof(magic) ||
        memcmp(magic, MONGO_SPOOL_MAGIC, sizeof(magic)) != 0) {
        if (is_unread(spool, in, name))
            return false;
        log_error("spool_damaged", "file=%s error=%s", name, "it is not a spool");
        return true;
    }
    do {
        clear_piece(spool);
        do {
            found = read_record(spool, in, name);
        } while (found != END && spool->piece_count < PIECE_MESSAGES && spool->piece.length < PIECE_BYTES);
        messages += spool->piece_count;
        if (!hand_up(spool))
            stored = false;
    } while (found != END && !is_stopping(spool));
    stored = stored && found == END && !is_unread(spool, in, name);
    if (stored)
        log_info("spool_replayed", "file=%s messages=%u", name, messages);
    return stored;
}

/* Locks the file first: another worker may have it, or may have had it and removed it. */
static bool take_file(struct mongo_spool *spool, int directory, const char *name)
{
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
    struct stat status;
    bool done;
    FILE *in;

    if (fd < 0)
        return errno == ENOENT;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 || fstat(fd, &status) != 0 || status.st_nlink == 0) {
        close(fd);
        return true;
    }
    in = fdopen(fd, "r");
    if (!in)
        abort();
    done = replay_file(spool, in, name);
    if (done && (unlinkat(directory, name, 0) != 0 || fsync(directory) != 0))
        log_error("spool_failed", "file=%s error=%s", name, strerror(errno));
    fclose(in);
    return done;
}

static int is_spool(const struct dirent *file)
{
    size_t length = strlen(file->d_name), suffix = strlen(MONGO_SPOOL_SUFFIX);

    return length > suffix && strcmp(file->d_name + length - suffix, MONGO_SPOOL_SUFFIX) == 0;
}

/* The records' heads alone are read. */
static int64_t messages_in(int directory, const char *name)
{
    char magic[sizeof(MONGO_SPOOL_MAGIC) - 1];
    struct mongo_spool_head head;
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
    off_t at = sizeof(magic), size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    int64_t messages = 0;

    while (at + (off_t)sizeof(head) < size && pread(fd, &head, sizeof(head), at) == (ssize_t)sizeof(head)) {
        at += (off_t)sizeof(head) + head.length;
        messages += at <= size;
    }
    if (fd >= 0)
        close(fd);
    return messages;
}

/* All of this host's, whoever replays them: each worker says the same. */
static void show_messages(int directory, struct dirent **files, int count)
{
    int64_t messages = 0;

    for (int i = 0; i < count; i++)
        messages += messages_in(directory, files[i]->d_name);
    metrics_set(spool_messages, messages);
}

static void replay_all(struct mongo_spool *spool, bool go)
{
    char path[PATH_MAX];
    struct dirent **files = NULL;
    int directory, count = 0, kept = 0;

    if (snprintf(path, sizeof(path), "%s/spool", spool->options.data_dir) >= (int)sizeof(path))
        return;
    directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0)
        count = scandirat(directory, ".", &files, is_spool, alphasort);
    show_messages(directory, files, count);
    for (int i = 0; i < count; i++) {
        if (go && !is_stopping(spool) && !take_file(spool, directory, files[i]->d_name))
            kept++;
    }
    show_messages(directory, files, count);
    for (int i = 0; i < count; i++)
        free(files[i]);
    free(files);
    if (directory >= 0)
        close(directory);
    if (kept > 0 && !spool->said && !is_stopping(spool))
        log_warn("spool_kept", "files=%d error=%s", kept, "not all of their messages could be stored yet");
    spool->said = kept > 0;
}

static void *run(void *arg)
{
    struct mongo_spool *spool = arg;

    replay_all(spool, false); /* only looks how much there is */
    pthread_mutex_lock(&spool->mutex);
    while (!spool->stopping) {
        if (!spool->go) {
            pthread_cond_wait(&spool->change, &spool->mutex);
            continue;
        }
        pthread_mutex_unlock(&spool->mutex);
        replay_all(spool, true);
        pthread_mutex_lock(&spool->mutex);
        spool->seen = true;
        if (!spool->stopping)
            thread_cond_wait(&spool->change, &spool->mutex, MONGO_SPOOL_AGAIN_MS);
    }
    pthread_mutex_unlock(&spool->mutex);
    return NULL;
}

/* ---- the loop ---- */

static void answer_piece(struct mongo_spool *spool)
{
    pthread_mutex_lock(&spool->mutex);
    spool->answered = true;
    pthread_cond_signal(&spool->change);
    pthread_mutex_unlock(&spool->mutex);
}

static void give_back(struct receipt *receipt)
{
    struct mongo_spool *spool = receipt->spool;

    if (--receipt->open > 0)
        return;
    free(receipt);
    if (!spool)
        return;
    spool->receipt = NULL;
    answer_piece(spool);
}

static void on_stored(void *arg, enum store_status status, uint64_t seq)
{
    struct receipt *receipt = arg;

    (void)seq;
    if (receipt->spool && status != STORE_OK)
        receipt->spool->failed++;
    give_back(receipt);
}

void mongo_spool_turn(struct mongo_spool *spool)
{
    struct receipt *receipt;
    bool ready;
    size_t at = 0;

    pthread_mutex_lock(&spool->mutex);
    ready = spool->ready;
    spool->ready = false;
    pthread_mutex_unlock(&spool->mutex);
    if (!ready)
        return;
    receipt = calloc(1, sizeof(*receipt));
    if (!receipt)
        abort();
    *receipt = (struct receipt){spool, spool->piece_count + 1};
    spool->receipt = receipt;
    spool->failed = 0;
    for (uint32_t i = 0; i < spool->piece_count; i++) {
        struct mongo_spool_head head;
        struct message message;

        memcpy(&head, spool->piece.data + at, sizeof(head));
        at += sizeof(head);
        if (mongo_spool_decode(spool->piece.data + at, head.length, &message))
            spool->options.on_spooled(spool->options.spooled_arg, &message, on_stored, receipt);
        else
            on_stored(receipt, STORE_FAILED, 0);
        at += head.length;
    }
    give_back(receipt);
}

int mongo_spool_start(struct mongo_spool **out, const struct mongo_spool_options *options)
{
    struct mongo_spool *spool = calloc(1, sizeof(*spool));
    int status;

    if (!spool)
        return -ENOMEM;
    spool->options = *options;
    pthread_mutex_init(&spool->mutex, NULL);
    thread_cond_init(&spool->change);
    status = thread_start(&spool->thread, run, spool);
    if (status != 0) {
        free(spool);
        return status;
    }
    *out = spool;
    return 0;
}

void mongo_spool_go(struct mongo_spool *spool)
{
    pthread_mutex_lock(&spool->mutex);
    spool->go = true;
    pthread_cond_signal(&spool->change);
    pthread_mutex_unlock(&spool->mutex);
}

bool mongo_spool_seen(struct mongo_spool *spool)
{
    bool seen;

    pthread_mutex_lock(&spool->mutex);
    seen = spool->seen;
    pthread_mutex_unlock(&spool->mutex);
    return seen;
}

void mongo_spool_stop(struct mongo_spool *spool)
{
    pthread_mutex_lock(&spool->mutex);
    spool->stopping = true;
    pthread_cond_signal(&spool->change);
    pthread_mutex_unlock(&spool->mutex);
    pthread_join(spool->thread, NULL);
    if (spool->receipt)
        spool->receipt->spool = NULL;
    buf_deinit(&spool->piece);
    pthread_cond_destroy(&spool->change);
    pthread_mutex_destroy(&spool->mutex);
    free(spool);
}
