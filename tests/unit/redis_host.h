/* redis_host.h - what the tests of src/bus/redis_* share: a real redis-server of their own, which can be
 * killed, stopped for a while and started again on the same port, and a loop that runs until something is so.
 *
 * A server lives in its own directory below /tmp with the arguments given, and dies with the test. */
#ifndef REDIS_HOST_H
#define REDIS_HOST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "chatd/bus_redis.h"
#include "chatd/clock.h"

enum { REDIS_HOST_DEADLINE_MS = 20000, REDIS_HOST_ARGUMENTS = 48, REDIS_HOST_LANES = 4 };

struct redis_host {
    pid_t pid; /* 0 while it doesn't run */
    int port;  /* 0: only its socket */
    char dir[64];
    char socket[96]; /* path; every server has one */
    const char *extra[REDIS_HOST_ARGUMENTS]; /* borrowed; ends with NULL */
    const char *password; /* for redis_host_command; NULL: none. The test sets it */
};

/* A port of 127.0.0.1 that was free a moment ago. */
static inline int redis_host_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    close(fd);
    return ntohs(address.sin_port);
}

static inline void redis_host_pause_ms(int ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

static inline void redis_host_exec(const struct redis_host *host)
{
    char port[16];
    const char *argv[REDIS_HOST_ARGUMENTS + 24] = {
        "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", host->dir,
        "--unixsocket", host->socket, "--logfile", "log", "--save", "", "--enable-debug-command", "yes"};
    int argc = 15;

    snprintf(port, sizeof(port), "%d", host->port);
    for (int i = 0; host->extra[i]; i++)
        argv[argc++] = host->extra[i];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(argv[0], (char **)(uintptr_t)argv);
    _exit(127);
}

/* True once it answers anything (NOAUTH is an answer) but that it still reads its data. */
static inline bool redis_host_answers(const struct redis_host *host)
{
    redisContext *context = redisConnectUnix(host->socket);
    redisReply *reply = context && !context->err ? redisCommand(context, "PING") : NULL;
    bool answers = reply && !(reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "LOADING", 7) == 0);

    if (reply)
        freeReplyObject(reply);
    if (context)
        redisFree(context);
    return answers;
}

/* False when it ended at once, for example because the port was taken meanwhile. */
static inline bool redis_host_run(struct redis_host *host)
{
    int64_t end = clock_monotonic_ms() + REDIS_HOST_DEADLINE_MS;

    host->pid = fork();
    assert_true(host->pid >= 0);
    if (host->pid == 0)
        redis_host_exec(host);
    while (!redis_host_answers(host)) {
        if (waitpid(host->pid, NULL, WNOHANG) == host->pid) {
            host->pid = 0;
            return false;
        }
        assert_true(clock_monotonic_ms() < end);
        redis_host_pause_ms(5);
    }
    return true;
}

/* A server with `extra` arguments (ends with NULL, borrowed for the host's life; NULL: none) on a port that
 * the kernel picked. `tcp` false: only its socket. */
static inline struct redis_host *redis_host_new(const char *const *extra, bool tcp)
{
    struct redis_host *host = calloc(1, sizeof(*host));

    assert_non_null(host);
    signal(SIGPIPE, SIG_IGN);
    snprintf(host->dir, sizeof(host->dir), "/tmp/chatd-redis-XXXXXX");
    assert_non_null(mkdtemp(host->dir));
    snprintf(host->socket, sizeof(host->socket), "%s/socket", host->dir);
    for (int i = 0; extra && extra[i]; i++) {
        assert_true(i < REDIS_HOST_ARGUMENTS - 1);
        host->extra[i] = extra[i];
    }
    for (int tries = 0;; tries++) {
        host->port = tcp ? redis_host_port() : 0;
        if (redis_host_run(host))
            return host;
        if (tries == 5)
            fail_msg("redis-server doesn't start; see %s/log", host->dir);
    }
}

static inline void redis_host_end(struct redis_host *host, int signal)
{
    if (host->pid == 0)
        return;
    kill(host->pid, signal);
    kill(host->pid, SIGCONT);
    while (waitpid(host->pid, NULL, 0) < 0)
        assert_int_equal(errno, EINTR);
    host->pid = 0;
}

/* Without a last word; with SIGTERM it says goodbye and saves what it was told to save. */
static inline void redis_host_kill(struct redis_host *host)
{
    redis_host_end(host, SIGKILL);
}

static inline void redis_host_terminate(struct redis_host *host)
{
    redis_host_end(host, SIGTERM);
}

/* Hangs, as with a half-open connection, and goes on. */
static inline void redis_host_freeze(struct redis_host *host)
{
    kill(host->pid, SIGSTOP);
}

static inline void redis_host_thaw(struct redis_host *host)
{
    kill(host->pid, SIGCONT);
}

static inline void redis_host_sweep(const struct redis_host *host, const char *what)
{
    char command[160];

    snprintf(command, sizeof(command), "rm -rf %s%s", host->dir, what);
    assert_int_equal(system(command), 0);
}

/* Killed if it runs, and started on the same port; `keep`: with what it had written to its directory (needs
 * `--appendonly yes --appendfsync always`: with everysec what was answered may not be written yet). */
static inline void redis_host_restart(struct redis_host *host, bool keep)
{
    int64_t end = clock_monotonic_ms() + REDIS_HOST_DEADLINE_MS;

    redis_host_kill(host);
    if (!keep)
        redis_host_sweep(host, "/*");
    while (!redis_host_run(host)) {
        assert_true(clock_monotonic_ms() < end);
        redis_host_pause_ms(20);
    }
}

static inline void redis_host_free(struct redis_host *host)
{
    redis_host_kill(host);
    redis_host_sweep(host, "");
    free(host);
}

/* Asks the server on a connection of its own and waits; the reply is the caller's (freeReplyObject). */
static inline redisReply *redis_host_command(struct redis_host *host, const char *format, ...)
    __attribute__((format(printf, 2, 3), warn_unused_result));
static inline redisReply *redis_host_command(struct redis_host *host, const char *format, ...)
{
    redisContext *context = redisConnectUnix(host->socket);
    redisReply *reply;
    va_list arguments;

    assert_true(context && !context->err);
    if (host->password) {
        reply = redisCommand(context, "AUTH %s", host->password);
        assert_non_null(reply);
        freeReplyObject(reply);
    }
    va_start(arguments, format);
    reply = redisvCommand(context, format, arguments);
    va_end(arguments);
    assert_non_null(reply);
    redisFree(context);
    return reply;
}

/* A command that is to succeed and whose answer doesn't matter. */
#define redis_host_do(host, ...) \
    do { \
        redisReply *reply_ = redis_host_command(host, __VA_ARGS__); \
        if (reply_->type == REDIS_REPLY_ERROR) \
            fail_msg("%s", reply_->str); \
        freeReplyObject(reply_); \
    } while (0)

/* A command whose answer is a number, in whatever form. */
#define redis_host_number(host, ...) redis_host_take_number(redis_host_command(host, __VA_ARGS__))

static inline long long redis_host_take_number(redisReply *reply)
{
    long long number = reply->type == REDIS_REPLY_INTEGER ? reply->integer
                       : reply->str                       ? atoll(reply->str)
                                                          : 0;

    if (reply->type == REDIS_REPLY_ERROR)
        fail_msg("%s", reply->str);
    freeReplyObject(reply);
    return number;
}

/* One round of the loop, waiting a few milliseconds at most. */
static inline void redis_host_step(uv_loop_t *loop)
{
    struct pollfd fd = {uv_backend_fd(loop), POLLIN, 0};
    int timeout = uv_backend_timeout(loop);

    /* A watcher that was started in the last round is only known to the kernel after the next one began. */
    poll(&fd, 1, timeout < 0 || timeout > 3 ? 3 : timeout);
    uv_run(loop, UV_RUN_NOWAIT);
}

/* Runs the loop, and `turn` (a statement) after each round, until `condition`. */
#define redis_host_until(loop, condition, turn) \
    do { \
        int64_t end_ = clock_monotonic_ms() + REDIS_HOST_DEADLINE_MS; \
        while (!(condition)) { \
            if (clock_monotonic_ms() > end_) \
                fail_msg("%s:%d: never came: %s", __FILE__, __LINE__, #condition); \
            redis_host_step(loop); \
            turn; \
        } \
    } while (0)

/* Ends a bus as a worker does, saying goodbye for at most `patience_ms`. */
static inline void redis_host_close_bus(struct bus *bus, uv_loop_t *loop, int patience_ms)
{
    int64_t until_ms = clock_monotonic_ms() + patience_ms;

    bus_redis_leave(bus);
    while (!bus_redis_left(bus) && clock_monotonic_ms() < until_ms) {
        redis_host_step(loop);
        bus_turn(bus);
    }
    bus_redis_close(bus);
}

/* Everything is closed: nothing may be left behind. */
static inline void redis_host_close_loop(uv_loop_t *loop)
{
    redis_host_until(loop, !uv_loop_alive(loop), (void)0);
    assert_int_equal(uv_loop_close(loop), 0);
}

/* --- Tests that mostly wait, several at a time --- */

static inline int redis_host_lane(const struct CMUnitTest *tests, int queue)
{
    unsigned char i;
    int failed = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    while (read(queue, &i, 1) == 1)
        failed += _cmocka_run_group_tests(tests[i].name, tests + i, 1, NULL, NULL);
    return failed > 0;
}

/* Each lane is a process and takes the next test from the queue when it is done with one: as many groups of
 * one as there are tests. The number of lanes in which something failed. */
static inline int redis_host_run_tests(const struct CMUnitTest *tests, size_t count)
{
    int queue[2], status, failed = 0;

    if (pipe(queue) != 0)
        return 1;
    for (unsigned char i = 0; i < count; i++)
        failed += write(queue[1], &i, 1) != 1;
    close(queue[1]);
    for (int lane = 0; lane < REDIS_HOST_LANES; lane++) {
        pid_t pid = fork();

        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            exit(redis_host_lane(tests, queue[0]));
        }
        failed += pid < 0;
    }
    close(queue[0]);
    while (wait(&status) > 0)
        failed += status != 0;
    return failed;
}

#define redis_host_run_all(tests) redis_host_run_tests(tests, sizeof(tests) / sizeof((tests)[0]))

#endif
