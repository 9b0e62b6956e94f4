/* log.c - the sink, the threshold, and who is told to be quiet. */
#include "chatd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "chatd/hash.h"
#include "log_line.h"

/* What is limited is a cause: an event with its reason, of which there are few. When more come than have a
 * place, those without one share the last. */
enum { CAUSES = 128, CAUSE_TEXT = 48 };

struct cause {
    uint64_t hash; /* 0 while unused */
    int64_t second;
    uint32_t written;    /* in that second */
    uint64_t suppressed; /* lines left out since the last one that says so */
    enum log_level level;
    char event[CAUSE_TEXT];
    char reason[CAUSE_TEXT]; /* empty without one */
};

static struct {
    pthread_mutex_t mutex;
    char path[512];
    int fd;
    bool torn; /* the last line there has no end */
    enum log_format format;
    enum log_level threshold;
    int worker;
    struct cause causes[CAUSES + 1];
} sink = {.mutex = PTHREAD_MUTEX_INITIALIZER, .fd = STDERR_FILENO, .threshold = LOG_INFO, .worker = -1};

/* Without O_NONBLOCK the open of a FIFO waits until somebody reads it. */
static int open_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);

    return fd < 0 ? -errno : fd;
}

static void replace_fd(int fd)
{
    pthread_mutex_lock(&sink.mutex);
    if (sink.fd != STDERR_FILENO)
        close(sink.fd);
    sink.fd = fd;
    sink.torn = false;
    pthread_mutex_unlock(&sink.mutex);
}

int log_open(const char *path, enum log_format format, enum log_level threshold)
{
    int fd = STDERR_FILENO;

    if (strlen(path) >= sizeof(sink.path))
        return -ENAMETOOLONG;
    if (path[0] != '\0') {
        fd = open_file(path);
        if (fd < 0)
            return fd;
    }
    replace_fd(fd);
    memmove(sink.path, path, strlen(path) + 1);
    sink.format = format;
    sink.threshold = threshold;
    return 0;
}

int log_reopen(void)
{
    int fd;

    if (sink.path[0] == '\0')
        return 0;
    fd = open_file(sink.path);
    if (fd < 0)
        return fd;
    replace_fd(fd);
    return 0;
}

bool log_wants(enum log_level level)
{
    return level >= sink.threshold;
}

void log_set_worker(int worker)
{
    pthread_mutex_lock(&sink.mutex);
    sink.worker = worker;
    /* What the master left out it says itself. */
    memset(sink.causes, 0, sizeof(sink.causes));
    pthread_mutex_unlock(&sink.mutex);
}

/* A pair of that name in the format takes the place of the line's own: no key stands twice in an object. */
static bool names_key(const char *format, const char *key)
{
    size_t length = strlen(key);

    for (const char *at = format; (at = strstr(at, key)) != NULL; at += length) {
        if (at[length] == '=' && (at == format || at[-1] == ' '))
            return true;
    }
    return false;
}

static const char *const level_words[] = {"debug", "info", "warn", "error"};

static void add_head(struct log_line *line, enum log_level level, const char *event, const char *format)
{
    struct timespec now;
    struct tm tm;
    char text[256];

    clock_gettime(CLOCK_REALTIME, &now);
    if (line->format == LOG_READABLE) {
        localtime_r(&now.tv_sec, &tm);
        snprintf(text, sizeof(text), "%02d:%02d:%02d.%03ld %s %.100s", tm.tm_hour, tm.tm_min, tm.tm_sec,
                 now.tv_nsec / 1000000, level_words[level], event);
        log_line_raw(line, text);
    } else {
        gmtime_r(&now.tv_sec, &tm);
        snprintf(text, sizeof(text),
                 "{\"time\":\"%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ\",\"level\":\"%s\",\"event\":\"%.100s\"",
                 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                 now.tv_nsec / 1000000, level_words[level], event);
        log_line_raw(line, text);
        if (!names_key(format, "pid")) {
            snprintf(text, sizeof(text), ",\"pid\":%d", (int)getpid());
            log_line_raw(line, text);
        }
    }
    if (sink.worker >= 0 && !names_key(format, "worker")) {
        snprintf(text, sizeof(text), line->format == LOG_JSON ? ",\"worker\":%d" : " worker=%d", sink.worker);
        log_line_raw(line, text);
    }
}

static void add_suppressed(struct log_line *line, uint64_t suppressed)
{
    char text[64];

    if (suppressed == 0)
        return;
    snprintf(text, sizeof(text), line->format == LOG_JSON ? ",\"suppressed\":%llu" : " suppressed=%llu",
             (unsigned long long)suppressed);
    log_line_raw(line, text);
}

/* A pipe whose reader hangs is full one day, and a write would wait for it with the whole loop: such a
 * line is lost. A pipe that poll calls writable takes PIPE_BUF bytes, more than a line has. A disk that gets
 * full takes the part of a line that fits: that line is lost as well, and the next doesn't go on in it. */
static bool put(struct log_line *line)
{
    struct pollfd ready = {.fd = sink.fd, .events = POLLOUT};
    char line_break = '\n';
    struct iovec parts[] = {{&line_break, sink.torn}, {line->data, line->length}};
    size_t length = line->length + sink.torn;
    ssize_t written;

    if (poll(&ready, 1, 0) == 0)
        return false;
    do
        written = writev(sink.fd, parts, 2);
    while (written < 0 && errno == EINTR);
    if (written <= 0)
        return false;
    /* A line break alone has ended the old one. */
    sink.torn = (size_t)written < length && (size_t)written > parts[0].iov_len;
    return (size_t)written == length;
}

/* ---- causes ---- */

static int64_t this_second(void)
{
    return clock_monotonic_ms() / 1000;
}

/* The value of `reason` in a line to come, empty without that key. */
static void find_reason(const char *format, va_list *args, struct log_value *reason)
{
    const char *key;
    size_t key_length;

    reason->length = 0;
    if (!names_key(format, "reason"))
        return;
    while (log_value_next(&format, args, &key, &key_length, reason)) {
        if (key_length == strlen("reason") && memcmp(key, "reason", key_length) == 0)
            return;
    }
    reason->length = 0;
}

static void name_cause(struct cause *cause, uint64_t hash, const char *event, const struct log_value *reason)
{
    *cause = (struct cause){.hash = hash};
    snprintf(cause->event, sizeof(cause->event), "%s", event);
    snprintf(cause->reason, sizeof(cause->reason), "%.*s", (int)reason->length, reason->text);
}

/* One that has nothing to tell any more makes room for another. */
static bool is_over(const struct cause *cause, int64_t second)
{
    return cause->hash == 0 || (cause->second != second && cause->suppressed == 0);
}

static struct cause *find_cause(const char *event, const struct log_value *reason, int64_t second)
{
    uint64_t hash = (hash_bytes(event, strlen(event)) * 31 + hash_bytes(reason->text, reason->length)) | 1;
    struct cause *free = NULL;

    for (size_t i = 0; i < CAUSES; i++) {
        struct cause *cause = &sink.causes[((hash >> 8) + i) % CAUSES];

        if (cause->hash == hash)
            return cause;
        if (free == NULL && is_over(cause, second))
            free = cause;
        if (cause->hash == 0) /* places are taken over but never emptied: it stands no further on */
            break;
    }
    if (free == NULL) {
        free = &sink.causes[CAUSES];
        snprintf(free->event, sizeof(free->event), "other");
        return free;
    }
    name_cause(free, hash, event, reason);
    return free;
}

/* False: the line is left out. */
static bool take_turn(struct cause *cause, int64_t second, enum log_level level)
{
    if (cause->second != second) {
        cause->second = second;
        cause->written = 0;
    }
    if (cause->suppressed == 0 || level > cause->level)
        cause->level = level;
    if (cause->written >= LOG_BURST) {
        cause->suppressed++;
        return false;
    }
    cause->written++;
    return true;
}

static void put_text(struct log_line *line, const char *key, const char *text)
{
    struct log_value value = {.length = strlen(text)};

    memcpy(value.text, text, value.length);
    log_line_pair(line, key, strlen(key), &value);
}

/* A line of its own for a cause of which no line has come since. */
static void tell_suppressed(struct cause *cause)
{
    struct log_line line;
    char count[32];
    struct log_value value = {.number = true};

    log_line_begin(&line, sink.format);
    add_head(&line, cause->level, "log_suppressed", "");
    put_text(&line, "of", cause->event);
    if (cause->reason[0] != '\0')
        put_text(&line, "reason", cause->reason);
    snprintf(count, sizeof(count), "%llu", (unsigned long long)cause->suppressed);
    value.length = strlen(count);
    memcpy(value.text, count, value.length);
    log_line_pair(&line, "suppressed", strlen("suppressed"), &value);
    log_line_end(&line);
    if (put(&line))
        cause->suppressed = 0;
}

void log_tell_suppressed(bool all)
{
    int64_t second = all ? -1 : this_second();
    int saved = errno;

    pthread_mutex_lock(&sink.mutex);
    for (size_t i = 0; i <= CAUSES; i++) {
        if (sink.causes[i].suppressed > 0 && sink.causes[i].second != second)
            tell_suppressed(&sink.causes[i]);
    }
    pthread_mutex_unlock(&sink.mutex);
    errno = saved;
}

/* ---- lines ---- */

static void write_line(struct cause *cause, enum log_level level, const char *event, const char *format,
                       va_list *args)
{
    struct log_line line;
    struct log_value value;
    const char *key;
    size_t key_length;

    log_line_begin(&line, sink.format);
    add_head(&line, level, event, format);
    add_suppressed(&line, cause->suppressed);
    while (log_value_next(&format, args, &key, &key_length, &value))
        log_line_pair(&line, key, key_length, &value);
    log_line_end(&line);
    /* A line that is lost was left out as well, with the count it carried. */
    cause->suppressed = put(&line) ? 0 : cause->suppressed + 1;
}

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    struct log_value reason;
    struct cause *cause;
    int saved = errno;
    int64_t second;
    va_list args;

    if (!log_wants(level))
        return;
    second = this_second();
    va_start(args, format);
    find_reason(format, &args, &reason);
    va_end(args);
    pthread_mutex_lock(&sink.mutex);
    cause = find_cause(event, &reason, second);
    if (take_turn(cause, second, level)) {
        va_start(args, format);
        write_line(cause, level, event, format, &args);
        va_end(args);
    }
    pthread_mutex_unlock(&sink.mutex);
    errno = saved;
}
