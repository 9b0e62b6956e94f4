/* alerts_watch.c - a worker's part: who judges, and the two threads of the one that does.
 *
 * The main thread holds the seat's robust mutex, as it does at the ring (src/bus/seat.c): when the process
 * dies in any way, the kernel says so to the next that tries. */
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "alerts_shared.h"
#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/thread.h"

enum {
    JUDGE_MS = 1000,
    RETRY_FIRST_MS = 1000, /* a random time up to that, which doubles with each try that fails */
    RETRY_MOST_MS = 60000,
    CUT_MS = 1000, /* what a call gets to end in once this worker drains */
    INSTANCE_MAX = 300
};

struct alerts_watch {
    struct alerts *alerts;
    const struct metrics *metrics;
    const struct config *config;
    char instance[INSTANCE_MAX]; /* host:port */
    bool holds, stopped;         /* the loop's */
    atomic_int running;          /* threads */
    bool has_sender;
    pthread_t judge, sender;
    struct alerts_webhook *webhook; /* while has_sender */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stopping, news; /* behind the mutex; news: a notice may have come */
};

/* host:port, as a scraper would call it. */
static void name_instance(char out[INSTANCE_MAX], int listener)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_storage most;
    } address = {.most = {.ss_family = AF_UNSPEC}};
    socklen_t length = sizeof(address);
    char host[256] = "";
    unsigned port = 0;

    if (gethostname(host, sizeof(host) - 1) != 0 || host[0] == '\0')
        strcpy(host, "localhost");
    for (char *at = host; *at != '\0'; at++)
        if (!isalnum((unsigned char)*at) && !strchr("-._", *at))
            *at = '-';
    if (getsockname(listener, &address.any, &length) == 0)
        port = ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
    snprintf(out, INSTANCE_MAX, "%s:%u", host, port);
}

/* Every worker shows the same, so that a scrape between one judge and the next doesn't find 0. */
static void show(struct alerts *alerts)
{
    metrics_set(memory_used_bytes, atomic_load(&alerts->memory_used));
    metrics_set(memory_limit_bytes, atomic_load(&alerts->memory_limit));
    metrics_set(alerts_firing, atomic_load(&alerts->firing));
}

struct alerts_watch *alerts_watch_new(struct alerts *alerts, const struct metrics *metrics,
                                      const struct config *config, int listener)
{
    struct alerts_watch *watch = calloc(1, sizeof(*watch));

    if (!watch)
        abort();
    watch->alerts = alerts;
    watch->metrics = metrics;
    watch->config = config;
    name_instance(watch->instance, listener);
    pthread_mutex_init(&watch->mutex, NULL);
    thread_cond_init(&watch->wake);
    show(alerts);
    return watch;
}

/* ---- judging ---- */

/* Waits until `due`, on the monotonic clock. False when told to stop. */
static bool wait_until(struct alerts_watch *watch, int64_t due)
{
    bool goes_on;

    pthread_mutex_lock(&watch->mutex);
    while (!watch->stopping && clock_monotonic_ms() < due)
        thread_cond_wait(&watch->wake, &watch->mutex, (int)(due - clock_monotonic_ms()));
    goes_on = !watch->stopping;
    pthread_mutex_unlock(&watch->mutex);
    return goes_on;
}

static void judge_once(struct alerts_watch *watch)
{
    struct alerts_reading reading;

    alerts_read(watch->metrics, &reading);
    alerts_judge(watch->alerts, watch->config, &reading, clock_monotonic_ms(), clock_wall_ms(),
                 watch->has_sender);
    show(watch->alerts);
    pthread_mutex_lock(&watch->mutex);
    watch->news = true;
    pthread_cond_broadcast(&watch->wake);
    pthread_mutex_unlock(&watch->mutex);
}

static void *run_judge(void *arg)
{
    struct alerts_watch *watch = arg;
    int64_t due = clock_monotonic_ms();

    pthread_setname_np(pthread_self(), "alerts-judge"); /* who judges is seen from outside */
    while (wait_until(watch, due)) {
        judge_once(watch);
        due = clock_monotonic_ms() + JUDGE_MS;
    }
    atomic_fetch_sub(&watch->running, 1);
    return NULL;
}

/* ---- telling ---- */

/* How the receiver has been, for one log line per change. */
struct receiver {
    int64_t failing_ms; /* monotonic, since when; 0: it is well */
    int pause_ms;
    unsigned seed;
    char error[ALERTS_ERROR_MAX];
};

static void note_success(struct receiver *receiver)
{
    metrics_add(alert_webhook_total, 1);
    if (receiver->failing_ms != 0)
        log_info("alert_webhook_recovered", "failed_ms=%lld",
                 (long long)(clock_monotonic_ms() - receiver->failing_ms));
    receiver->failing_ms = 0;
    receiver->pause_ms = 0;
}

static void note_failure(struct receiver *receiver, const char *error)
{
    metrics_add(alert_webhook_failures_total, 1);
    if (receiver->failing_ms != 0 && strcmp(receiver->error, error) == 0)
        return;
    if (receiver->failing_ms == 0)
        receiver->failing_ms = clock_monotonic_ms();
    strcpy(receiver->error, error);
    log_warn("alert_webhook_failed", "error=%s", error);
}

/* Until there may be something to tell. False when told to stop. */
static bool wait_for_news(struct alerts_watch *watch)
{
    bool goes_on;

    pthread_mutex_lock(&watch->mutex);
    while (!watch->stopping && !watch->news)
        pthread_cond_wait(&watch->wake, &watch->mutex);
    watch->news = false;
    goes_on = !watch->stopping;
    pthread_mutex_unlock(&watch->mutex);
    return goes_on;
}

/* Tells of the first notice. False when the receiver did not take it. */
static bool tell(struct alerts_watch *watch, struct receiver *receiver, const struct alerts_notice *notice,
                 uint64_t number)
{
    struct buf body = BUF_INIT;
    char error[ALERTS_ERROR_MAX];
    int result;

    if (clock_monotonic_ms() - notice->queued_ms > ALERTS_NOTICE_AGE_MS) {
        alerts_notice_done(watch->alerts, number, true);
        return true;
    }
    alerts_webhook_body(notice, watch->instance, &body);
    result = alerts_webhook_call(watch->webhook, &body, error);
    buf_deinit(&body);
    if (result == 0) {
        alerts_notice_done(watch->alerts, number, false);
        note_success(receiver);
    } else if (result != ALERTS_WEBHOOK_CUT) {
        note_failure(receiver, error);
    }
    return result == 0;
}

static bool is_stopping(struct alerts_watch *watch)
{
    bool stopping;

    pthread_mutex_lock(&watch->mutex);
    stopping = watch->stopping;
    pthread_mutex_unlock(&watch->mutex);
    return stopping;
}

static bool wait_to_retry(struct alerts_watch *watch, struct receiver *receiver)
{
    int ms = thread_pause(&receiver->pause_ms, RETRY_FIRST_MS, RETRY_MOST_MS, &receiver->seed);

    return wait_until(watch, clock_monotonic_ms() + ms);
}

static void *run_sender(void *arg)
{
    struct alerts_watch *watch = arg;
    struct receiver receiver = {.seed = (unsigned)clock_monotonic_us()};
    struct alerts_notice notice;
    uint64_t number;

    while (wait_for_news(watch)) {
        bool goes_on = true;

        while (goes_on && !is_stopping(watch) && alerts_notice_first(watch->alerts, &notice, &number)) {
            if (!tell(watch, &receiver, &notice, number))
                goes_on = wait_to_retry(watch, &receiver);
        }
    }
    atomic_fetch_sub(&watch->running, 1);
    return NULL;
}

/* ---- the seat ---- */

static bool take_seat(struct alerts *alerts)
{
    int error = pthread_mutex_trylock(&alerts->seat);

    if (error == EOWNERDEAD)
        error = pthread_mutex_consistent(&alerts->seat);
    return error == 0;
}

static int start_sender(struct alerts_watch *watch)
{
    int error;

    if (watch->config->alert_webhook[0] == '\0') {
        alerts_notices_clear(watch->alerts);
        return 0;
    }
    if (!watch->webhook)
        watch->webhook = alerts_webhook_new(watch->config->alert_webhook);
    if (!watch->webhook)
        return -ENOMEM;
    atomic_fetch_add(&watch->running, 1);
    error = thread_start(&watch->sender, run_sender, watch);
    watch->has_sender = error == 0;
    return error;
}

static void tell_threads(struct alerts_watch *watch)
{
    pthread_mutex_lock(&watch->mutex);
    watch->stopping = true;
    pthread_cond_broadcast(&watch->wake);
    pthread_mutex_unlock(&watch->mutex);
    if (watch->has_sender)
        alerts_webhook_cut(watch->webhook, clock_monotonic_ms() + CUT_MS);
}

static void join_sender(struct alerts_watch *watch)
{
    if (watch->has_sender)
        pthread_join(watch->sender, NULL);
    watch->has_sender = false;
}

static void let_go(struct alerts_watch *watch)
{
    pthread_join(watch->judge, NULL); /* first: it looks whether there is a sender */
    join_sender(watch);
    pthread_mutex_unlock(&watch->alerts->seat);
    watch->holds = false;
}

void alerts_watch_tick(struct alerts_watch *watch)
{
    int error;

    show(watch->alerts);
    if (watch->holds || watch->stopped || !take_seat(watch->alerts))
        return;
    error = start_sender(watch);
    if (error == 0) {
        atomic_fetch_add(&watch->running, 1);
        error = thread_start(&watch->judge, run_judge, watch);
    }
    watch->holds = error == 0;
    if (watch->holds)
        return;
    /* Perhaps another worker can. */
    log_error("alerts_failed", "error=%s", strerror(-error));
    tell_threads(watch);
    join_sender(watch);
    watch->stopped = true;
    pthread_mutex_unlock(&watch->alerts->seat);
}

void alerts_watch_stop(struct alerts_watch *watch)
{
    if (watch->holds && !watch->stopped)
        tell_threads(watch);
    watch->stopped = true;
    if (watch->holds && atomic_load(&watch->running) == 0)
        let_go(watch);
}

void alerts_watch_free(struct alerts_watch *watch)
{
    if (!watch)
        return;
    if (watch->holds)
        let_go(watch);
    alerts_webhook_free(watch->webhook);
    pthread_cond_destroy(&watch->wake);
    pthread_mutex_destroy(&watch->mutex);
    free(watch);
}
