/* log.c - the sink, the threshold, and who is told to be quiet. */
#include "chatd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "chatd/hash.h"
#include "log_line.h"

/* Event names are literals of this program, so there are few; one that finds no place is not limited. */
enum { QUIET_EVENTS = 256 };

struct quiet {
    uint64_t event; /* hash of the name, 0 while unused */
    int64_t second;
    uint32_t written;
    uint64_t suppressed;
};

static struct {
    pthread_mutex_t mutex;
    char path[512];
    int fd;
    enum log_format format;
    enum log_level threshold;
    int worker;
    struct quiet quiet[QUIET_EVENTS];
} sink = {.mutex = PTHREAD_MUTEX_INITIALIZER, .fd = STDERR_FILENO, .threshold = LOG_INFO, .worker = -1};

static int open_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);

    return fd < 0 ? -errno : fd;
}

static void replace_fd(int fd)
{
    pthread_mutex_lock(&sink.mutex);
    if (sink.fd != STDERR_FILENO)
        close(sink.fd);
    sink.fd = fd;
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

void log_set_worker(int worker)
{
    sink.worker = worker;
}

static uint64_t hash_event(const char *event)
{
    return hash_bytes(event, strlen(event)) | 1;
}

/* Under the mutex. False: the line is left out. Else *suppressed is how many were, since the last one. */
static bool take_turn(const char *event, uint64_t *suppressed)
{
    uint64_t hash = hash_event(event);
    int64_t second = clock_monotonic_ms() / 1000;

    *suppressed = 0;
    for (size_t i = 0; i < QUIET_EVENTS; i++) {
        struct quiet *quiet = &sink.quiet[((hash >> 8) + i) % QUIET_EVENTS];

        if (quiet->event != 0 && quiet->event != hash)
            continue;
        quiet->event = hash;
        if (quiet->second != second) {
            quiet->second = second;
            quiet->written = 0;
        }
        if (quiet->written >= LOG_BURST) {
            quiet->suppressed++;
            return false;
        }
        quiet->written++;
        *suppressed = quiet->suppressed;
        quiet->suppressed = 0;
        return true;
    }
    return true;
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
 * line is lost. A pipe that poll calls writable takes PIPE_BUF bytes, more than a line has. */
static void put(const struct log_line *line)
{
    struct pollfd ready = {.fd = sink.fd, .events = POLLOUT};

    if (poll(&ready, 1, 0) == 0)
        return;
    while (write(sink.fd, line->data, line->length) < 0 && errno == EINTR)
        continue;
}

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    struct log_line line;
    struct log_value value;
    uint64_t suppressed;
    const char *key;
    size_t key_length;
    int saved = errno;
    va_list args;

    if (level < sink.threshold)
        return;
    pthread_mutex_lock(&sink.mutex);
    if (take_turn(event, &suppressed)) {
        log_line_begin(&line, sink.format);
        add_head(&line, level, event, format);
        add_suppressed(&line, suppressed);
        va_start(args, format);
        while (log_value_next(&format, &args, &key, &key_length, &value))
            log_line_pair(&line, key, key_length, &value);
        va_end(args);
        log_line_end(&line);
        put(&line);
    }
    pthread_mutex_unlock(&sink.mutex);
    errno = saved;
}
