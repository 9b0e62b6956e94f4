/* mongo_spool_write.c - spool records, and a file full of them. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "chatd/hash.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "mongo_spool.h"
#include "mongo_spool_format.h"

enum { WRITE_BYTES = 256 * 1024 }; /* gathered before they are written */

struct mongo_spool_file {
    int fd;
    int directory;
    int error;         /* errno of the first failure: nothing is written after it */
    uint32_t messages; /* written or gathered */
    struct buf bytes;
    char name[NAME_MAX];
};

/* ---- records ---- */

void mongo_spool_encode(const struct message *message, struct buf *out)
{
    struct mongo_spool_record record = {
        .seq = message->seq,
        .previous = message->previous,
        .time_ms = message->time_ms,
        .position = message->position,
        .room = (uint32_t)message->room.length,
        .user = (uint32_t)message->user.length,
        .key = (uint32_t)message->key.length,
        .event = (uint32_t)message->event.length,
    };
    struct mongo_spool_head head = {0};
    size_t start = out->length, body = start + sizeof(head);

    memcpy(record.uid, message->uid, MESSAGE_UID_SIZE);
    buf_add(out, &head, sizeof(head));
    buf_add(out, &record, sizeof(record));
    buf_add(out, message->room.data, message->room.length);
    buf_add(out, message->user.data, message->user.length);
    buf_add(out, message->key.data, message->key.length);
    buf_add(out, message->event.data, message->event.length);
    head.length = (uint32_t)(out->length - body);
    head.checksum = hash_bytes(out->data + body, head.length);
    memcpy(out->data + start, &head, sizeof(head));
}

static struct text cut(const char **at, uint32_t length)
{
    struct text text = {*at, length};

    *at += length;
    return text;
}

bool mongo_spool_decode(const char *bytes, size_t length, struct message *message)
{
    struct mongo_spool_record record;
    const char *at = bytes + sizeof(record);

    if (length < sizeof(record))
        return false;
    memcpy(&record, bytes, sizeof(record));
    if (length - sizeof(record) != (uint64_t)record.room + record.user + record.key + record.event)
        return false;
    *message = (struct message){.seq = record.seq,
                                .previous = record.previous,
                                .time_ms = record.time_ms,
                                .position = record.position};
    memcpy(message->uid, record.uid, MESSAGE_UID_SIZE);
    message->room = cut(&at, record.room);
    message->user = cut(&at, record.user);
    message->key = cut(&at, record.key);
    message->event = cut(&at, record.event);
    return message->room.length > 0 && message->room.length <= MESSAGE_ROOM_MAX &&
           message->user.length <= MESSAGE_USER_MAX && message->key.length <= MESSAGE_KEY_MAX;
}

/* ---- a file ---- */

static int open_directory(const char *data_dir)
{
    char path[PATH_MAX];

    if (snprintf(path, sizeof(path), "%s/spool", data_dir) >= (int)sizeof(path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return -1;
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* The time comes first in its name: older ones are replayed first. */
static int open_file(struct mongo_spool_file *file)
{
    uint64_t random = 0;

    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
        random = (uint64_t)clock_monotonic_us();
    snprintf(file->name, sizeof(file->name), "%013lld-%d-%016llx" MONGO_SPOOL_SUFFIX,
             (long long)clock_wall_ms(), (int)getpid(), (unsigned long long)random);
    return openat(file->directory, file->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
}

struct mongo_spool_file *mongo_spool_create(const char *data_dir)
{
    struct mongo_spool_file *file = calloc(1, sizeof(*file));

    if (!file)
        abort();
    file->directory = open_directory(data_dir);
    file->fd = file->directory < 0 ? -1 : open_file(file);
    if (file->fd < 0) {
        log_error("spool_failed", "dir=%s/spool error=%s", data_dir, strerror(errno));
        if (file->directory >= 0)
            close(file->directory);
        free(file);
        return NULL;
    }
    /* Nobody replays it before it is whole. */
    if (flock(file->fd, LOCK_EX | LOCK_NB) != 0)
        file->error = errno;
    buf_add_literal(&file->bytes, MONGO_SPOOL_MAGIC);
    return file;
}

static void flush(struct mongo_spool_file *file)
{
    size_t done = 0;

    while (done < file->bytes.length && file->error == 0) {
        ssize_t written = write(file->fd, file->bytes.data + done, file->bytes.length - done);

        if (written < 0 && errno != EINTR)
            file->error = errno;
        if (written > 0)
            done += (size_t)written;
    }
    file->bytes.length = 0;
}

void mongo_spool_add(struct mongo_spool_file *file, const struct message *message)
{
    mongo_spool_encode(message, &file->bytes);
    file->messages++;
    if (file->bytes.length >= WRITE_BYTES)
        flush(file);
}

void mongo_spool_end(struct mongo_spool_file *file)
{
    flush(file);
    if (fsync(file->fd) != 0 && file->error == 0)
        file->error = errno;
    if (fsync(file->directory) != 0 && file->error == 0)
        file->error = errno;
    if (file->error != 0)
        log_error("spool_failed", "file=%s messages=%u error=%s", file->name, file->messages,
                  strerror(file->error));
    else
        log_warn("spooled", "file=%s messages=%u", file->name, file->messages);
    metrics_add(spooled_total, file->messages);
    close(file->fd);
    close(file->directory);
    buf_deinit(&file->bytes);
    free(file);
}
