/* master.c - start, signals, reload, stop. */
#include "chatd/master.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/notify.h"
#include "chatd/worker.h"
#include "children.h"
#include "descriptors.h"
#include "files.h"

enum {
    POLL_MS = 20, /* while waiting for workers to serve, and only then */
    RELOAD_MS = 30000, /* new workers that don't serve by then are given up */
    /* Beyond drain_timeout: a last commit, or one that hangs until it times out, and goodbyes. */
    STOP_GRACE_MS = 10000,
    LOST_MS = CHILDREN_HANG_MS + 10000, /* a worker silent for so long could not be replaced */
    REASON_MAX = 512
};

enum phase { STARTING, SERVING, RELOADING, STOPPING, ENDED };

struct master {
    struct config *config;
    struct config before; /* while reloading: what to go back to */
    enum phase phase;
    bool failed;
    long descriptors;
    int64_t phase_ms;    /* when the phase began */
    int64_t watchdog_ms; /* half of the manager's patience, 0 without */
    int64_t watchdog_due_ms;
    sigset_t signals;
    struct listeners listeners;
    struct worker_shared shared;
    struct children children;
};

static int fail(const struct master *master, const char *reason)
{
    log_error("start_failed", "error=%s", reason);
    /* Whoever types the command sees why, also when the log goes to a file. */
    if (master->config->log_file[0] != '\0')
        fprintf(stderr, "chatd: %s\n", reason);
    return -1;
}

static int open_log(const struct config *config, char reason[REASON_MAX])
{
    int result = log_open(config->log_file, config->mode == CONFIG_PRODUCTION ? LOG_JSON : LOG_READABLE,
                          (enum log_level)config->log_level);

    if (result != 0)
        snprintf(reason, REASON_MAX, "log_file %s can't be opened: %s", config->log_file,
                 result == -ENXIO ? "nobody reads it" : strerror(-result));
    return result;
}

static void enter(struct master *master, enum phase phase)
{
    master->phase = phase;
    master->phase_ms = clock_monotonic_ms();
}

/* ---- start ---- */

/* Signals are taken one by one in the main loop. Workers get the mask that was there before. */
static void block_signals(struct master *master)
{
    static const int ours[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};

    sigemptyset(&master->signals);
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++) {
        sigaddset(&master->signals, ours[i]);
        signal(ours[i], SIG_DFL); /* who started us may have had them ignored */
    }
    sigprocmask(SIG_BLOCK, &master->signals, &master->children.signals);
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
        sigdelset(&master->children.signals, ours[i]);
}

static int acquire(struct master *master)
{
    struct config *config = master->config;
    char reason[REASON_MAX];

    if (open_log(config, reason) != 0)
        return fail(master, reason);
    /* The lock's descriptor stays open, here and in the workers, until they end. */
    if (files_lock_data(config->data_dir, reason) < 0)
        return fail(master, reason);
    master->descriptors = descriptors_raise();
    if (listeners_open(&master->listeners, config->host, (int)config->port, (int)config->workers, reason) !=
        0)
        return fail(master, reason);
    master->children.metrics = metrics_map();
    master->children.limit = limit_map();
    if (master->children.metrics == NULL || master->children.limit == NULL) {
        snprintf(reason, sizeof(reason), "shared memory can't be mapped: %s", strerror(errno));
        return fail(master, reason);
    }
    if (worker_prepare(config, &master->shared, reason) != 0)
        return fail(master, reason);
    master->children.shared = &master->shared;
    if (config->pid_file[0] != '\0' && files_write_pid(config->pid_file, reason) != 0)
        return fail(master, reason);
    return 0;
}

static int start_workers(struct master *master, enum child_role role)
{
    for (int lane = 0; lane < master->listeners.count; lane++) {
        int result = children_start(&master->children, lane, role);

        if (result != 0)
            return result;
    }
    return 0;
}

static void announce(struct master *master)
{
    const struct config *config = master->config;
    bool anywhere = strcmp(config->host, "0.0.0.0") == 0 || strcmp(config->host, "::") == 0;
    bool v6 = !anywhere && strchr(config->host, ':') != NULL;

    log_info("listening", "host=%s port=%d workers=%d", config->host, master->listeners.port,
             master->listeners.count);
    if (config->mode == CONFIG_DEVELOPMENT)
        log_info("page", "address=http://%s%s%s:%d/", v6 ? "[" : "", anywhere ? "localhost" : config->host,
                 v6 ? "]" : "", master->listeners.port);
}

static void notify_ready(const struct master *master)
{
    notify_send("READY=1\nMAINPID=%d\nSTATUS=%d workers listen on %s port %d", (int)getpid(),
                master->listeners.count, master->config->host, master->listeners.port);
}

/* ---- stop ---- */

static void stop(struct master *master, const char *why)
{
    int64_t patience = master->config->drain_timeout + STOP_GRACE_MS;

    log_info("stopping", "reason=%s drain_ms=%lld", why, (long long)master->config->drain_timeout);
    notify_send("STOPPING=1\nSTATUS=sending clients away");
    enter(master, STOPPING);
    master->children.stopping = true;
    listeners_shrink(&master->listeners, 0);
    children_stop(&master->children, CHILD_NEXT, patience);
    children_stop(&master->children, CHILD_CURRENT, patience);
}

static void stop_now(struct master *master)
{
    log_warn("stopping", "reason=%s", "told twice");
    children_signal(&master->children, SIGKILL);
    master->failed = true;
}

/* ---- reload ---- */

static void log_lines(const char *event, const char *lines)
{
    while (*lines != '\0') {
        size_t length = strcspn(lines, "\n");

        log_error(event, "error=%.*s", (int)length, lines);
        lines += length + (lines[length] == '\n');
    }
}

/* Everything is as it was before the reload. */
static void give_up_reload(struct master *master, enum log_level level, const char *reason)
{
    char log_reason[REASON_MAX];

    log_event(level, "reload_failed", "error=%s", reason);
    *master->config = master->before;
    if (open_log(master->config, log_reason) != 0)
        log_error("log_reopen_failed", "error=%s", log_reason);
    children_stop(&master->children, CHILD_NEXT, master->config->drain_timeout + STOP_GRACE_MS);
    listeners_shrink(&master->listeners, (int)master->config->workers);
    enter(master, SERVING);
    notify_ready(master);
}

/* Takes the new settings, as far as a reload may, and opens what they need. */
static int take_settings(struct master *master, const struct config *next, char reason[REASON_MAX])
{
    char kept[CONFIG_ERROR_MAX];

    config_reload(master->config, next, kept);
    if (kept[0] != '\0')
        log_warn("reload_kept", "keys=%s reason=%s", kept, "these need a restart");
    if (open_log(master->config, reason) != 0)
        return -1;
    return listeners_grow(&master->listeners, master->config->host, (int)master->config->workers, reason);
}

static void reload(struct master *master)
{
    const char *file = master->config->file[0] != '\0' ? master->config->file : NULL;
    char error[CONFIG_ERROR_MAX], reason[REASON_MAX];
    struct config next;
    int result = 0;

    if (master->phase == RELOADING)
        give_up_reload(master, LOG_WARN, "told to reload again");
    notify_send("RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=reloading", (long long)clock_monotonic_us());
    log_info("reloading", "file=%s", file != NULL ? file : "");
    if (config_load(&next, file, error) != 0) {
        log_lines("reload_failed", error);
        notify_ready(master);
        return;
    }
    master->before = *master->config;
    enter(master, RELOADING);
    if (take_settings(master, &next, reason) != 0) {
        give_up_reload(master, LOG_ERROR, reason);
        return;
    }
    for (int lane = 0; lane < master->config->workers && result == 0; lane++)
        result = children_start(&master->children, lane, CHILD_NEXT);
    if (result == -EAGAIN)
        give_up_reload(master, LOG_ERROR, "no worker number is free, too many old workers still drain");
    else if (result != 0)
        give_up_reload(master, LOG_ERROR, strerror(-result));
}

static void finish_reload(struct master *master)
{
    children_stop(&master->children, CHILD_CURRENT, master->config->drain_timeout + STOP_GRACE_MS);
    children_promote(&master->children);
    listeners_shrink(&master->listeners, (int)master->config->workers);
    enter(master, SERVING);
    log_info("reloaded", "workers=%d", master->listeners.count);
    notify_ready(master);
}

/* ---- the loop ---- */

static void reopen_logs(struct master *master)
{
    int result = log_reopen();

    if (result != 0)
        log_error("log_reopen_failed", "error=%s", strerror(-result));
    else
        log_info("log_reopened", "file=%s", master->config->log_file);
    children_signal(&master->children, SIGUSR1);
}

static void on_signal(struct master *master, int number)
{
    switch (number) {
    case SIGTERM:
    case SIGINT:
        if (master->phase != STOPPING)
            stop(master, number == SIGTERM ? "SIGTERM" : "SIGINT");
        else if (number == SIGINT)
            stop_now(master); /* somebody sits there and presses Ctrl-C again */
        break;
    case SIGHUP:
        if (master->phase == SERVING || master->phase == RELOADING)
            reload(master);
        else
            log_warn("reload_ignored", "reason=%s",
                     master->phase == STARTING ? "still starting" : "stopping");
        break;
    case SIGUSR1:
        reopen_logs(master);
        break;
    case SIGUSR2:
        log_warn("upgrade_unsupported", "hint=%s", "restart chatd to run another version");
        break;
    default: /* SIGCHLD: the loop looks at children in any case */
        break;
    }
}

static void on_exit_of(struct master *master, const struct child_exit *ended)
{
    if (master->phase == STARTING && WIFEXITED(ended->status) &&
        WEXITSTATUS(ended->status) == WORKER_EXIT_UNUSABLE) {
        fail(master, "a worker can't start, its own line in the log says why");
        master->failed = true;
        stop(master, "start failed");
    } else if (master->phase == RELOADING && ended->role == CHILD_NEXT) {
        give_up_reload(master, LOG_ERROR, "a new worker ended before it served");
    }
}

static void check_phase(struct master *master)
{
    switch (master->phase) {
    case STARTING:
        if (children_ready(&master->children, CHILD_CURRENT, master->listeners.count)) {
            enter(master, SERVING);
            announce(master);
            notify_ready(master);
        }
        break;
    case RELOADING:
        if (children_ready(&master->children, CHILD_NEXT, (int)master->config->workers))
            finish_reload(master);
        else if (clock_monotonic_ms() - master->phase_ms > RELOAD_MS)
            give_up_reload(master, LOG_ERROR, "new workers did not serve in time");
        break;
    case STOPPING:
        if (children_count(&master->children) == 0)
            enter(master, ENDED);
        break;
    case SERVING:
    case ENDED:
        break;
    }
}

/* That this loop turns is what the manager is told. Workers that hang are replaced by children_tick; only
 * where that didn't help (one that can't be killed, or hangs before it serves) a missing word makes the
 * manager restart all. Returns when to look again. */
static int64_t feed_watchdog(struct master *master)
{
    int64_t now = clock_monotonic_ms();
    int64_t lost = 2 * master->watchdog_ms > LOST_MS ? 2 * master->watchdog_ms : LOST_MS;

    if (master->watchdog_ms == 0)
        return INT64_MAX;
    if (now >= master->watchdog_due_ms) {
        if (children_fresh(&master->children, lost))
            notify_send("WATCHDOG=1");
        master->watchdog_due_ms = now + master->watchdog_ms;
    }
    return master->watchdog_due_ms;
}

/* Waits for a signal, no longer than until `due`. 0 when none came. */
static int wait_signal(const struct master *master, int64_t due)
{
    int64_t wait = due - clock_monotonic_ms();
    struct timespec timeout;
    int number;

    wait = wait > 0 ? wait : 0;
    timeout = (struct timespec){.tv_sec = wait / 1000, .tv_nsec = wait % 1000 * 1000000};
    number = sigtimedwait(&master->signals, NULL, &timeout);
    return number > 0 ? number : 0;
}

static void run(struct master *master)
{
    struct child_exit ended;

    while (master->phase != ENDED) {
        int64_t due = children_tick(&master->children), watchdog = feed_watchdog(master);
        int number;

        due = watchdog < due ? watchdog : due;
        if (master->phase == STARTING || master->phase == RELOADING) {
            int64_t soon = clock_monotonic_ms() + POLL_MS;

            due = soon < due ? soon : due;
        }
        number = wait_signal(master, due);
        if (number != 0)
            on_signal(master, number);
        while (children_reap(&master->children, &ended))
            on_exit_of(master, &ended);
        check_phase(master);
    }
}

static int start_and_run(struct master *master)
{
    int result;

    if (acquire(master) != 0)
        return 1;
    descriptors_report(master->descriptors, master->listeners.count);
    notify_send("STATUS=starting");
    result = start_workers(master, CHILD_CURRENT);
    if (result != 0) {
        fail(master, strerror(-result));
        master->failed = true;
        stop(master, "start failed");
    }
    run(master);
    if (master->config->pid_file[0] != '\0')
        unlink(master->config->pid_file);
    log_info("stopped", " ");
    log_tell_suppressed(true);
    return master->failed ? 1 : 0;
}

int master_run(struct config *config)
{
    /* On the heap for its two tables of 512 rows and two settings. */
    struct master *master = calloc(1, sizeof(*master));
    int code;

    if (master == NULL)
        abort();
    master->config = config;
    master->children.config = config;
    master->children.listeners = &master->listeners;
    master->watchdog_ms = notify_watchdog_us() / 2000;
    block_signals(master);
    enter(master, STARTING);
    code = start_and_run(master);
    worker_unprepare(&master->shared);
    free(master);
    return code;
}
