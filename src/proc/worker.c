/* worker.c - one worker process: the only file that knows net, chat, bus, store and HTTP all together.
 *
 * A loop turn: what arrived is read and carried out, then (on_flush) the bus hands up what other workers
 * published, rooms hand their bytes of this turn to their members, and net writes once per connection. A tick
 * a second does what is due by time.
 *
 * Which bus and which store: Redis with MongoDB for many servers, the ring with SQLite (or MongoDB) for
 * one host.
 *
 * Stopping, in this order: no new connections; `reconnect` and 1001 to everybody whose acks are sent; when
 * the last one is gone, or drain_timeout is over, net closes; then the store, whose writer commits what is
 * left, and then the bus, which the store needs to the end and which tells the other servers who has left. */
#include "chatd/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "chatd/bus_log.h"
#include "chatd/bus_redis.h"
#include "chatd/chat.h"
#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/net.h"
#include "chatd/routes.h"
#include "chatd/store_mongo.h"
#include "chatd/store_sqlite.h"

enum {
    TICK_MS = 1000,
    DRAIN_STEP_MS = 50,
    STORE_PATIENCE_MS = 2000,
    BUS_PATIENCE_MS = 1000,
    LEAVE_STEP_MS = 10,
    SPOOL_STEP_MS = 50, /* between two looks whether the spool is done */
    SPOOL_PATIENCE_MS = 10000, /* a Redis that is away for so long after the start is away */
    MEASURE_TICKS = 5, /* seconds between two looks at the process's memory and time */
};

struct worker {
    const struct worker_args *args;
    uv_loop_t loop;
    uv_timer_t tick;
    uv_timer_t drain;
    uv_timer_t spool; /* until clients are let in */
    uv_prepare_t turn; /* before each wait for events */
    uv_signal_t on_term, on_usr1;
    struct net *net;
    struct chat *chat;
    struct bus *bus;
    struct store *store;
    struct token_sessions sessions; /* without Redis */
    struct alerts_watch *watch;
    struct routes routes;
    int64_t drain_until_ms, spool_until_ms;
    uint64_t upgrading; /* address of the conn between its on_upgrade and its on_open */
    int64_t busy_us;    /* a clock that stands still while the loop waits; when the turn began */
    int64_t turn_max_us;
    int64_t cpu_us;     /* processor time that is counted already */
    unsigned ticks;
};

int worker_check(const struct config *config, char error[WORKER_ERROR_MAX])
{
    char reason[STORE_MONGO_ERROR_MAX];
    int status = store_mongo_wanted(config) ? store_mongo_check(config, reason) : 0;

    if (status != 0)
        snprintf(error, WORKER_ERROR_MAX, "store (MONGODB_URI): %s", reason);
    else if (bus_redis_wanted(config))
        status = bus_redis_check(config, error);
    return status;
}

void worker_probe(const struct config *config, FILE *out)
{
    char reason[WORKER_ERROR_MAX];

    if (bus_redis_wanted(config) && bus_redis_probe(config, reason) != 0)
        fprintf(out, "chatd: warning: Redis: %s\n", reason);
    if (store_mongo_wanted(config) && store_mongo_probe(config, reason) != 0)
        fprintf(out, "chatd: warning: MongoDB: %s\n", reason);
}

/* The ring, and the store that it feeds. */
static int prepare_ring(const struct config *config, struct worker_shared *shared,
                        char reason[RING_ERROR_MAX])
{
    bool mongo = store_mongo_wanted(config);
    uint8_t store_id[RING_ID_SIZE];
    int status = 0;

    if (mongo)
        store_mongo_id(config, store_id);
    else
        status = store_sqlite_prepare(config->data_dir, store_id, reason);
    if (status == 0)
        status =
            ring_open(&shared->ring, config->data_dir, store_id, (uint64_t)config->bus_log_bytes, reason);
    if (status == 0 && ring_is_new(shared->ring)) {
        if (!mongo)
            status = store_sqlite_new_life(config->data_dir, reason);
        if (status == 0)
            ring_begin(shared->ring);
    }
    if (status == 0)
        log_info("bus_ready", "path=%s", ring_path(shared->ring));
    return status;
}

int worker_prepare(const struct config *config, struct worker_shared *shared, char error[WORKER_ERROR_MAX])
{
    char reason[RING_ERROR_MAX];
    int status = worker_check(config, error);

    if (status != 0)
        return status;
    shared->alerts = alerts_map();
    if (!shared->alerts) {
        snprintf(error, WORKER_ERROR_MAX, "shared memory can't be mapped: %s", strerror(errno));
        return -ENOMEM;
    }
    if (bus_redis_wanted(config))
        return 0;
    status = prepare_ring(config, shared, reason);
    if (status != 0) {
        snprintf(error, WORKER_ERROR_MAX, "%s", reason);
        return status;
    }
    status = token_key(config->data_dir, shared->session_key);
    if (status != 0)
        snprintf(error, WORKER_ERROR_MAX, "%s/session.key: %s", config->data_dir, strerror(-status));
    return status;
}

void worker_unprepare(struct worker_shared *shared)
{
    if (shared->ring)
        ring_close(shared->ring);
    shared->ring = NULL;
    alerts_unmap(shared->alerts);
    shared->alerts = NULL;
}

/* ---- what net reports ---- */

static void on_request(void *arg, struct conn *conn, const struct http_request *request)
{
    routes_request(&((struct worker *)arg)->routes, conn, request);
}

static bool on_early(void *arg, const struct http_request *request)
{
    (void)arg;
    return routes_early(request);
}

static uint64_t address_of(const struct conn *conn)
{
    struct sockaddr_storage address;

    return conn_peer(conn, &address) ? limit_address(&address) : 0;
}

static int on_upgrade(void *arg, struct conn *conn, const struct http_request *request, const char **code,
                      const char **message)
{
    struct worker *w = arg;
    int status = routes_upgrade(&w->routes, request, code, message);

    if (status != 0)
        return status;
    w->upgrading = address_of(conn);
    if (!limit_connect(w->args->limit, w->upgrading, getpid(), w->args->config->max_connections_per_ip)) {
        metrics_add(limited_total[METRICS_LIMIT_connections_per_ip], 1);
        *code = "rate_limited";
        *message = "too many connections from this address";
        return 429;
    }
    return 0;
}

/* Asked again, the kernel might not know the address of a peer that just went away, and what was counted for
 * it would stay. */
static void on_open(void *arg, struct conn *conn)
{
    struct worker *w = arg;

    chat_open(w->chat, conn, w->upgrading);
}

static void on_text(void *arg, struct conn *conn, const char *text, size_t length)
{
    chat_text(((struct worker *)arg)->chat, conn, text, length);
}

static void on_close(void *arg, struct conn *conn, enum close_reason reason)
{
    struct worker *w = arg;

    (void)reason;
    routes_closed(&w->routes, conn);
    chat_closed(w->chat, conn);
}

static int64_t busy_clock_us(struct worker *w)
{
    return clock_monotonic_us() - (int64_t)(uv_metrics_idle_time(&w->loop) / 1000);
}

static void on_turn(uv_prepare_t *prepare)
{
    struct worker *w = prepare->data;
    int64_t busy = busy_clock_us(w), took = busy - w->busy_us;

    metrics_observe(loop_turn_seconds, took);
    if (took > w->turn_max_us)
        w->turn_max_us = took;
    w->busy_us = busy;
}

static void on_flush(void *arg)
{
    struct worker *w = arg;

    bus_turn(w->bus);
    chat_turn(w->chat);
}

/* ---- what time brings ---- */

static int64_t time_us(const struct timeval *time)
{
    return (int64_t)time->tv_sec * 1000000 + time->tv_usec;
}

/* What the kernel tells of this process. That the size of the directory is the number of its entries is so
 * since Linux 6.2; reading it would take milliseconds. */
static void measure_process(struct worker *w)
{
    struct rusage usage;
    struct stat fds;
    size_t resident;

    if (uv_resident_set_memory(&resident) == 0)
        metrics_set(process_resident_memory_bytes, resident);
    if (stat("/proc/self/fd", &fds) == 0)
        metrics_set(process_open_fds, fds.st_size);
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        int64_t cpu_us = time_us(&usage.ru_utime) + time_us(&usage.ru_stime);

        metrics_add(process_cpu_seconds_total, cpu_us - w->cpu_us);
        w->cpu_us = cpu_us;
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct worker *w = timer->data;

    metrics_set(beat_ms, clock_monotonic_ms());
    if (w->ticks++ % MEASURE_TICKS == 0) {
        measure_process(w);
        metrics_set(loop_turn_max_seconds, w->turn_max_us);
        w->turn_max_us = 0;
    }
    bus_tick(w->bus);
    store_tick(w->store);
    chat_tick(w->chat);
    health_tick(&w->routes.health);
    alerts_watch_tick(w->watch);
    log_tell_suppressed(false);
}

/* ---- stopping ---- */

static void close_handle(uv_handle_t *handle)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void close_store(struct worker *w)
{
    if (store_mongo_wanted(w->args->config))
        store_mongo_close(w->store, STORE_PATIENCE_MS);
    else
        store_sqlite_close(w->store, STORE_PATIENCE_MS);
}

static void close_handles(struct worker *w)
{
    close_handle((uv_handle_t *)&w->tick);
    close_handle((uv_handle_t *)&w->drain);
    close_handle((uv_handle_t *)&w->spool);
    close_handle((uv_handle_t *)&w->turn);
    close_handle((uv_handle_t *)&w->on_term);
    close_handle((uv_handle_t *)&w->on_usr1);
}

static void on_leaving(uv_timer_t *timer)
{
    struct worker *w = timer->data;

    bus_turn(w->bus);
    if (!bus_redis_left(w->bus) && clock_monotonic_ms() < w->drain_until_ms)
        return;
    bus_redis_close(w->bus);
    close_handles(w);
}

static void finish(struct worker *w)
{
    uv_timer_stop(&w->tick);
    uv_timer_stop(&w->drain);
    uv_timer_stop(&w->spool);
    net_close(w->net);
    bus_turn(w->bus);
    close_store(w);
    if (bus_redis_wanted(w->args->config)) {
        bus_redis_leave(w->bus);
        w->drain_until_ms = clock_monotonic_ms() + BUS_PATIENCE_MS;
        uv_timer_start(&w->drain, on_leaving, 0, LEAVE_STEP_MS);
    } else {
        bus_log_close(w->bus);
        close_handles(w);
    }
}

static void on_drain(uv_timer_t *timer)
{
    struct worker *w = timer->data;

    alerts_watch_stop(w->watch);
    if (net_count(w->net) == 0 || clock_monotonic_ms() >= w->drain_until_ms)
        finish(w);
}

static void send_away(void *arg, struct conn *conn)
{
    struct worker *w = arg;
    uint32_t random = 0, window = (uint32_t)w->args->config->drain_timeout;

    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
        random = (uint32_t)conn_id(conn) * 2654435761u;
    chat_send_away(w->chat, conn, window > 0 ? random % window : 0);
}

static void on_term(uv_signal_t *signal, int number)
{
    struct worker *w = signal->data;

    (void)number;
    if (w->routes.health.phase == HEALTH_DRAINING)
        return;
    health_enter(&w->routes.health, HEALTH_DRAINING);
    metrics_set(draining, 1);
    log_info("draining", "connections=%u", net_count(w->net));
    alerts_watch_stop(w->watch);
    net_stop_listening(w->net);
    /* As long as anybody holds the listener open the kernel completes handshakes on it. When it is not ours
     * alone, the others go on with it. */
    close(w->args->listener);
    net_each(w->net, send_away, w);
    w->drain_until_ms = clock_monotonic_ms() + w->args->config->drain_timeout;
    uv_timer_start(&w->drain, on_drain, 0, DRAIN_STEP_MS);
}

static void on_usr1(uv_signal_t *signal, int number)
{
    (void)signal;
    (void)number;
    if (log_reopen() == 0)
        log_info("log_reopened", "pid=%d", (int)getpid());
}

/* ---- starting ---- */

static int start_handles(struct worker *w)
{
    int error;

    uv_timer_init(&w->loop, &w->tick);
    uv_timer_init(&w->loop, &w->drain);
    uv_timer_init(&w->loop, &w->spool);
    uv_prepare_init(&w->loop, &w->turn);
    uv_signal_init(&w->loop, &w->on_term);
    uv_signal_init(&w->loop, &w->on_usr1);
    w->tick.data = w->drain.data = w->spool.data = w->turn.data = w->on_term.data = w->on_usr1.data = w;
    signal(SIGINT, SIG_IGN); /* a Ctrl-C reaches the whole group; the master says what is to be done */
    signal(SIGHUP, SIG_IGN);
    uv_timer_start(&w->tick, on_tick, TICK_MS, TICK_MS);
    uv_prepare_start(&w->turn, on_turn);
    error = uv_signal_start(&w->on_term, on_term, SIGTERM);
    if (error == 0)
        error = uv_signal_start(&w->on_usr1, on_usr1, SIGUSR1);
    return error != 0 ? error : -pthread_sigmask(SIG_SETMASK, &w->args->signals, NULL);
}

static void on_spooled(void *arg, const struct message *message, store_on_number *done, void *done_arg)
{
    chat_spooled(((struct worker *)arg)->chat, message, done, done_arg);
}

/* Many servers: Redis numbers and spreads, each worker commits what it published. */
static int start_shared(struct worker *w, const struct bus_handler *handler)
{
    struct store_mongo_options options = {.loop = &w->loop,
                                          .config = w->args->config,
                                          .stand = bus_redis_stand,
                                          .on_spooled = on_spooled,
                                          .spooled_arg = w,
                                          .forget = bus_redis_forget};
    int error = bus_redis_new(&w->bus, &w->loop, w->args->config, handler);

    options.stand_arg = options.forget_arg = w->bus;
    if (error == 0)
        error = store_mongo_new(&w->store, &options);
    if (error == 0)
        chat_connect(w->chat, w->bus, w->store, bus_redis_sessions(w->bus));
    return error;
}

/* One host: the ring numbers and spreads, and one writer per host commits it. */
static int start_alone(struct worker *w, const struct bus_handler *handler)
{
    const struct worker_args *args = w->args;
    struct store_mongo_options options = {
        .loop = &w->loop, .config = args->config, .ring = args->shared->ring};
    void (*on_committed)(void *arg) = store_sqlite_on_committed;
    int error;

    if (store_mongo_wanted(args->config)) {
        error = store_mongo_new(&w->store, &options);
        on_committed = store_mongo_on_committed;
    } else {
        error = store_sqlite_new(&w->store, &w->loop, args->shared->ring, args->data_dir,
                                 args->config);
    }
    if (error == 0)
        error = bus_log_new(&w->bus, &w->loop, args->shared->ring, handler, on_committed, w->store);
    token_sessions_init(&w->sessions, args->shared->session_key, args->config);
    if (error == 0)
        chat_connect(w->chat, w->bus, w->store, &w->sessions.sessions);
    return error;
}

/* Who asks how this worker is gets an answer from the start on; all others wait until it serves. But where an
 * older worker still takes from the same listener, it serves them better. */
static int listen_early(struct worker *w)
{
    net_hold(w->net);
    return w->args->shares_listener ? 0 : net_listen(w->net, w->args->listener);
}

/* From here on clients are served. */
static int let_in(struct worker *w)
{
    int error = w->args->shares_listener ? net_listen(w->net, w->args->listener) : 0;

    if (error == 0) {
        health_enter(&w->routes.health, HEALTH_SERVING);
        metrics_set(ready, 1);
        log_debug("worker_ready", "pid=%d", (int)getpid());
        net_release(w->net);
    }
    return error;
}

/* What an earlier process could not commit comes first, unless store or bus are away now as well. It waits
 * for the bus then, and who is let in waits behind it; meanwhile /health says what is wrong. */
static bool is_spooling(struct worker *w)
{
    struct bus_health bus;

    if (!store_mongo_spooling(w->store))
        return false;
    bus_health(w->bus, &bus);
    return bus.ok || clock_monotonic_ms() < w->spool_until_ms;
}

static void on_spool(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    int error;

    if (is_spooling(w))
        return;
    uv_timer_stop(timer);
    error = w->routes.health.phase == HEALTH_DRAINING ? 0 : let_in(w);
    if (error != 0) {
        log_error("worker_failed", "error=%s", strerror(-error));
        exit(WORKER_EXIT_UNUSABLE);
    }
}

static int start(struct worker *w)
{
    const struct worker_args *args = w->args;
    struct net_handler net = {w,    on_request, on_upgrade, on_open, on_text,
                              NULL, on_close,   on_flush,   on_early};
    bool shared = bus_redis_wanted(args->config);
    struct bus_handler bus;
    int error;

    w->chat = chat_new(args->config, args->limit);
    bus = chat_bus_handler(w->chat);
    error = shared ? start_shared(w, &bus) : start_alone(w, &bus);
    if (error == 0)
        error = net_init(&w->net, &w->loop, args->config, &net);
    if (error != 0)
        return error;
    w->routes = (struct routes){
        .config = args->config, .metrics = args->metrics, .alerts = args->shared->alerts, .bus = w->bus,
        .store = w->store};
    w->watch = alerts_watch_new(args->shared->alerts, args->metrics, args->config, args->listener);
    health_init(&w->routes.health, args->config, args->metrics, w->bus, w->store);
    net_name(w->net, args->worker);
    error = start_handles(w);
    if (error == 0)
        error = listen_early(w);
    if (error != 0 || !shared)
        return error != 0 ? error : let_in(w);
    w->spool_until_ms = clock_monotonic_ms() + SPOOL_PATIENCE_MS;
    return uv_timer_start(&w->spool, on_spool, 0, SPOOL_STEP_MS);
}

int worker_run(const struct worker_args *args)
{
    struct worker w = {.args = args};
    int error;

    log_set_worker(args->worker);
    metrics_enter(args->metrics, args->worker);
    error = uv_loop_init(&w.loop);
    if (error == 0)
        error = uv_loop_configure(&w.loop, UV_METRICS_IDLE_TIME);
    if (error == 0)
        error = start(&w);
    if (error != 0) {
        log_error("worker_failed", "error=%s", strerror(-error));
        return WORKER_EXIT_UNUSABLE;
    }
    measure_process(&w);
    metrics_set(beat_ms, clock_monotonic_ms());
    w.busy_us = busy_clock_us(&w);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    measure_process(&w);
    alerts_watch_free(w.watch);
    net_free(w.net);
    chat_free(w.chat);
    uv_loop_close(&w.loop);
    routes_deinit(&w.routes);
    log_tell_suppressed(true);
    return 0;
}
