/* children.c - worker processes: fork, respawn with backoff, who hangs, and their end. */
#include "children.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/worker.h"

enum {
    STEADY_MS = 10000, /* who lived so long did not die quickly */
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MAX_MS = 2000,
    LOOK_MS = 1000,
    ABORT_MS = 2000 /* to write a core; a stopped process doesn't take the signal at all */
};

/* The child's side of the fork. */
__attribute__((noreturn)) static void run_worker(struct children *children, int number, pid_t master)
{
    int lane = children->table[number].lane;
    struct worker_args args = {
        .config = children->config,
        .metrics = children->metrics,
        .limit = children->limit,
        .shared = children->shared,
        .worker = number,
        .listener = children->listeners->fds[lane],
        .shares_listener = children->table[number].role == CHILD_NEXT,
        .data_dir = children->config->data_dir,
        .signals = children->signals,
    };
    char name[16];

    /* Without the master nobody would respawn, reload or drain this worker, and the next chatd is waiting for
     * the data directory: so it goes at once, as in a crash, which loses nothing that was acked. A drain
     * could hang. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != master)
        _exit(1);
    snprintf(name, sizeof(name), "chatd-w%d", number);
    prctl(PR_SET_NAME, name);
    listeners_keep(children->listeners, lane);
    exit(worker_run(&args));
}

static int fork_worker(struct children *children, int number)
{
    struct child *child = &children->table[number];
    pid_t master = getpid(), pid;

    metrics_clear(children->metrics, number);
    child->started_ms = clock_monotonic_ms();
    child->silent = 0;
    pid = fork();
    if (pid == 0)
        run_worker(children, number, master);
    if (pid < 0)
        return -errno;
    child->pid = pid;
    log_info("worker_started", "worker=%d lane=%d pid=%d", number, child->lane, (int)pid);
    return 0;
}

static void release(struct child *child)
{
    memset(child, 0, sizeof(*child));
}

int children_start(struct children *children, int lane, enum child_role role)
{
    for (int number = 0; number < METRICS_WORKERS_MAX; number++) {
        struct child *child = &children->table[number];
        int result;

        if (child->role != CHILD_FREE)
            continue;
        *child = (struct child){.role = role, .lane = lane};
        result = fork_worker(children, number);
        if (result != 0)
            release(child);
        return result;
    }
    return -EAGAIN;
}

static const struct metrics_slot *slot_of(const struct children *children, int number)
{
    return &children->metrics->slots[number];
}

bool children_ready(const struct children *children, enum child_role role, int count)
{
    for (int number = 0; number < METRICS_WORKERS_MAX; number++) {
        const struct child *child = &children->table[number];

        if (child->role == role && child->pid != 0 && metrics_get(slot_of(children, number), ready) != 0)
            count--;
    }
    return count <= 0;
}

void children_stop(struct children *children, enum child_role role, int64_t patience_ms)
{
    for (int number = 0; number < METRICS_WORKERS_MAX; number++) {
        struct child *child = &children->table[number];

        if (child->role != role)
            continue;
        if (child->pid == 0) {
            release(child);
            continue;
        }
        child->role = CHILD_OLD;
        child->kill_ms = clock_monotonic_ms() + patience_ms;
        atomic_store(&children->metrics->slots[number].draining, 1);
        kill(child->pid, SIGTERM);
    }
}

void children_promote(struct children *children)
{
    for (int number = 0; number < METRICS_WORKERS_MAX; number++) {
        if (children->table[number].role == CHILD_NEXT)
            children->table[number].role = CHILD_CURRENT;
    }
}

void children_signal(struct children *children, int signal)
{
    for (int number = 0; number < METRICS_WORKERS_MAX; number++) {
        if (children->table[number].pid != 0)
            kill(children->table[number].pid, signal);
    }
}

static void log_exit(const struct child_exit *ended, const struct child *child)
{
    enum log_level level = ended->role == CHILD_OLD && ended->status == 0 ? LOG_INFO : LOG_WARN;
    long long lived = clock_monotonic_ms() - child->started_ms;

    if (WIFSIGNALED(ended->status))
        log_event(level, "worker_died", "worker=%d lane=%d pid=%d signal=%s lived_ms=%lld", ended->number,
                  child->lane, (int)child->pid, strsignal(WTERMSIG(ended->status)), lived);
    else
        log_event(level, level == LOG_INFO ? "worker_stopped" : "worker_died",
                  "worker=%d lane=%d pid=%d status=%d lived_ms=%lld", ended->number, child->lane,
                  (int)child->pid, WEXITSTATUS(ended->status), lived);
}

/* At once for the first death, then ever later, until it holds out for a while. */
static void plan_respawn(struct child *child)
{
    int64_t now = clock_monotonic_ms(), delay = 0;

    if (now - child->started_ms >= STEADY_MS)
        child->deaths = 0;
    if (child->deaths > 0)
        delay = child->deaths > 5 ? BACKOFF_MAX_MS : BACKOFF_FIRST_MS << (child->deaths - 1);
    child->deaths++;
    child->pid = 0;
    child->kill_ms = 0;
    child->respawn_ms = now + (delay < BACKOFF_MAX_MS ? delay : BACKOFF_MAX_MS);
}

bool children_reap(struct children *children, struct child_exit *out)
{
    struct child *child;
    pid_t pid;

    while ((pid = waitpid(-1, &out->status, WNOHANG)) > 0) {
        for (out->number = 0; out->number < METRICS_WORKERS_MAX; out->number++) {
            if (children->table[out->number].pid == pid)
                break;
        }
        /* As the first process of a container chatd collects orphans that it never knew. */
        if (out->number == METRICS_WORKERS_MAX)
            continue;
        child = &children->table[out->number];
        out->role = child->role;
        log_exit(out, child);
        metrics_clear(children->metrics, out->number);
        limit_forget(children->limit, pid);
        if (child->role == CHILD_CURRENT && !children->stopping)
            plan_respawn(child);
        else
            release(child);
        return true;
    }
    return false;
}

static void respawn(struct children *children, int number)
{
    struct child *child = &children->table[number];
    int result = fork_worker(children, number);

    if (result == 0) {
        atomic_fetch_add(&children->metrics->slots[number].respawns, 1);
    } else {
        log_error("fork_failed", "worker=%d error=%s", number, strerror(-result));
        plan_respawn(child);
    }
}

static void log_killed(const struct children *children, int number, const char *reason)
{
    log_warn("worker_killed", "worker=%d pid=%d reason=%s", number, (int)children->table[number].pid, reason);
}

/* Looks are counted, not time: after the host was suspended or all of chatd was stopped every beat is old,
 * and nobody hangs. Who doesn't serve yet may be opening a large store. */
static void look_at_beat(struct children *children, int number, int64_t now)
{
    struct child *child = &children->table[number];
    int64_t beat = metrics_get(slot_of(children, number), beat_ms);

    child->silent = beat == child->beat_ms ? child->silent + 1 : 0;
    child->beat_ms = beat;
    if (child->silent < CHILDREN_HANG_MS / LOOK_MS || child->kill_ms != 0 ||
        metrics_get(slot_of(children, number), ready) == 0)
        return;
    log_killed(children, number, "hung");
    kill(child->pid, SIGABRT);
    child->kill_ms = now + ABORT_MS;
}

static void look_at_beats(struct children *children, int64_t now)
{
    if (now < children->look_ms)
        return;
    children->look_ms = now + LOOK_MS;
    for (int number = 0; number < METRICS_WORKERS_MAX; number++) {
        if (children->table[number].role == CHILD_CURRENT && children->table[number].pid != 0)
            look_at_beat(children, number, now);
    }
}

int64_t children_tick(struct children *children)
{
    int64_t now = clock_monotonic_ms(), next;

    look_at_beats(children, now);
    next = children->look_ms;
    for (int number = 0; number < METRICS_WORKERS_MAX; number++) {
        struct child *child = &children->table[number];

        if (child->role == CHILD_CURRENT && child->pid == 0 && child->respawn_ms <= now)
            respawn(children, number);
        if (child->role == CHILD_CURRENT && child->pid == 0 && child->respawn_ms < next)
            next = child->respawn_ms;
        if (child->kill_ms == 0)
            continue;
        if (child->kill_ms <= now) {
            if (child->role == CHILD_OLD)
                log_killed(children, number, "drain took too long");
            kill(child->pid, SIGKILL);
            child->kill_ms = INT64_MAX;
        } else if (child->kill_ms < next) {
            next = child->kill_ms;
        }
    }
    return next;
}

int children_count(const struct children *children)
{
    int count = 0;

    for (int number = 0; number < METRICS_WORKERS_MAX; number++)
        count += children->table[number].pid != 0;
    return count;
}

bool children_fresh(const struct children *children, int64_t age_ms)
{
    for (int number = 0; number < METRICS_WORKERS_MAX; number++) {
        const struct child *child = &children->table[number];

        if (child->role == CHILD_CURRENT && child->pid != 0 && child->silent >= age_ms / LOOK_MS)
            return false;
    }
    return true;
}
