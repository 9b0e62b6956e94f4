/* worker.h - one worker process: everything that serves clients, put together.
 *
 * The master forks one child per listener and calls worker_run in it. Loops, threads and database handles are
 * made inside worker_run: nothing but plain memory, shared mappings and the listener comes over the fork. */
#ifndef CHATD_WORKER_H
#define CHATD_WORKER_H

#include <signal.h>
#include <stdio.h>

#include "chatd/alerts.h"
#include "chatd/config.h"
#include "chatd/limit.h"
#include "chatd/metrics.h"
#include "chatd/ring.h"
#include "chatd/token.h"

/* Exit code of a worker that can't start and would not the next time either (store can't be opened, listener
 * unusable). In the very first start it stops the whole chatd; later it is an exit like any other. */
enum { WORKER_EXIT_UNUSABLE = 78, WORKER_ERROR_MAX = 512 };

/* What all workers of a host share besides counters: made once by the master, before the first fork. */
struct worker_shared {
    struct ring *ring; /* NULL with Redis */
    struct alerts *alerts;
    uint8_t session_key[TOKEN_KEY_SIZE];
};

/* Whether the settings go together and name things that can be: talks to nobody. Negative errno with the
 * reason in `error`. */
int worker_check(const struct config *config, char error[WORKER_ERROR_MAX])
    __attribute__((warn_unused_result));

/* Tries the Redis and MongoDB that the settings name, for a few seconds, and writes a line for each that
 * doesn't answer or refuses. Blocks: for `chatd -t`. */
void worker_probe(const struct config *config, FILE *out);

/* Checks the settings as worker_check does. Without Redis makes the store ready, finds or makes the ring,
 * reads the session key. config->data_dir exists and is locked by the caller. Negative errno with the
 * reason in `error`. */
int worker_prepare(const struct config *config, struct worker_shared *shared, char error[WORKER_ERROR_MAX])
    __attribute__((warn_unused_result));

/* By the master at its end; also when nothing was prepared. */
void worker_unprepare(struct worker_shared *shared);

struct worker_args {
    const struct config *config; /* this process's copy */
    struct metrics *metrics;
    struct limit *limit;
    const struct worker_shared *shared;
    int worker;           /* its number: metrics slot; below METRICS_WORKERS_MAX, unique among live workers */
    int listener;         /* listening socket; stays the master's as well; closed when the drain begins */
    bool shares_listener; /* an older worker serves from it until this one is ready (a reload) */
    const char *data_dir; /* exists, is locked by the master */
    sigset_t signals;     /* the mask to take once signals are handled; those that come before wait */
};

/* Runs to its end in the forked child and returns its exit code. What the master expects of it:
 * metrics_enter(args->worker) first, `ready` set to 1 in the slot once it serves, `beat_ms` kept fresh;
 * SIGTERM drains (clients get `reconnect`, then 1001; exit 0), SIGUSR1 calls log_reopen, SIGINT and SIGHUP
 * are ignored. */
int worker_run(const struct worker_args *args);

#endif
