/* children.h - private to the master: the worker processes, each with its number, its lane and its role.
 *
 * A number (also the metrics slot) belongs to one process at a time and stays with the lane while a worker is
 * forked again. During a reload a lane has two workers with two numbers: the current one and the next.
 *
 *     current --dies--> waiting --respawn--> current
 *     next --all ready--> current --TERM--> old --exit--> free */
#ifndef CHATD_CHILDREN_H
#define CHATD_CHILDREN_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "chatd/config.h"
#include "chatd/limit.h"
#include "chatd/metrics.h"
#include "chatd/worker.h"
#include "listeners.h"

/* Well above HEALTH_STALL_MS: new clients are sent elsewhere before those that are there lose their
 * connections. */
enum { CHILDREN_HANG_MS = 20000 };

enum child_role {
    CHILD_FREE,
    CHILD_CURRENT,
    CHILD_NEXT, /* forked for a reload that is not decided yet */
    CHILD_OLD   /* told to stop */
};

struct child {
    enum child_role role;
    int lane;
    pid_t pid;          /* 0: dead, waits for its respawn (current ones only) */
    int deaths;         /* quick ones, one after the other */
    int64_t started_ms; /* monotonic, as all times here */
    int64_t respawn_ms;
    int64_t kill_ms; /* of old ones and of hung ones: when patience ends; 0 for the others */
    int64_t beat_ms; /* of its loop, as last looked at */
    int silent;      /* looks, one a second, since the beat moved */
};

struct children {
    const struct config *config; /* the master's; read at each fork */
    struct metrics *metrics;
    struct limit *limit;
    const struct worker_shared *shared;
    struct listeners *listeners;
    sigset_t signals; /* the mask that workers get */
    bool stopping;    /* nobody is forked any more */
    int64_t look_ms;  /* when beats are looked at again */
    struct child table[METRICS_WORKERS_MAX];
};

/* How a child ended. */
struct child_exit {
    int number;
    enum child_role role; /* it had */
    int status;           /* of waitpid */
};

/* Forks a worker for the lane. 0, or a negative errno: -EAGAIN when no number is free. Returns in the parent
 * only. */
int children_start(struct children *children, int lane, enum child_role role)
    __attribute__((warn_unused_result));

/* True when `count` of that role run and serve. */
bool children_ready(const struct children *children, enum child_role role, int count);

/* Tells all of a role to stop; who has not ended `patience_ms` later is killed. */
void children_stop(struct children *children, enum child_role role, int64_t patience_ms);

/* The next ones become the current ones. */
void children_promote(struct children *children);

void children_signal(struct children *children, int signal);

/* Collects one child that ended; a current one is planned for its respawn. False when there is none. */
bool children_reap(struct children *children, struct child_exit *out);

/* Forks who is due, kills who is overdue, and looks once a second whose loop turns: a current worker that
 * serves and was silent for CHILDREN_HANG_MS is killed, first by SIGABRT for its core. Returns when to call
 * again. */
int64_t children_tick(struct children *children);

int children_count(const struct children *children); /* live processes */

/* False when a current worker was silent for `age_ms` by the looks of children_tick, whether it serves or
 * not. */
bool children_fresh(const struct children *children, int64_t age_ms);

#endif
