/* alerts_shared.h - private to the alerts: the shared memory, and the steps of its state machine. */
#ifndef CHATD_ALERTS_SHARED_H
#define CHATD_ALERTS_SHARED_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chatd/alerts.h"

enum alerts_name {
#define ALERT(name, title, severity, unit, expr, summary, advice) ALERTS_##name,
#include "chatd/alerts.def"
#undef ALERT
    ALERTS_COUNT
};

/* One row of alerts.def. */
struct alerts_row {
    const char *name, *title, *severity, *unit, *expr, *summary, *advice;
    size_t setting; /* its struct config_alert in struct config */
};

extern const struct alerts_row alerts_rows[ALERTS_COUNT];

const struct config_alert *alerts_setting(const struct config *config, unsigned alert);

enum alerts_state { ALERTS_OFF, ALERTS_OK, ALERTS_PENDING, ALERTS_FIRING };

/* What was read of the world: the values of now, and counters of events that only rise. */
struct alerts_reading {
    double values[ALERTS_COUNT]; /* of ALERTS_errors and ALERTS_respawns: the counters */
    bool known[ALERTS_COUNT];
    int64_t memory_used, memory_limit; /* bytes; 0 when not known */
};

struct alerts_rule {
    enum alerts_state state;
    bool known;
    double value;
    int64_t since_ms; /* Unix time: of `state` */
    int64_t turn_ms;  /* monotonic: since when the value is where it changes the state; 0: it is not there */
    struct config_alert setting; /* it was judged by */
};

/* A change of state, on its way to the receiver. */
struct alerts_notice {
    unsigned alert;
    bool firing;
    double value;
    int64_t started_ms, ended_ms; /* Unix time; ended_ms is 0 while it fires */
    int64_t queued_ms;            /* monotonic */
    struct config_alert setting;
};

struct alerts_sample {
    int64_t at_ms;
    double errors, respawns;
};

enum { ALERTS_SAMPLES = CONFIG_ALERT_WINDOW_MAX_MS / 1000 + 100 };

struct alerts {
    pthread_mutex_t seat; /* held by the main thread of the worker that judges, as long as it does */
    pthread_mutex_t lock; /* for everything below; held for moments */
    int64_t judged_ms;    /* Unix time; 0: never */
    struct alerts_rule rules[ALERTS_COUNT];
    /* A change is written here first and done afterwards; who finds it undone, because its maker died, does
     * it again. */
    struct {
        atomic_bool undone;
        bool tell;
        enum alerts_state state;
        uint64_t number; /* of the notice */
        struct alerts_notice notice;
    } change;
    uint64_t head, tail; /* notices are numbered; tail <= n < head wait */
    uint64_t dropped;
    struct alerts_notice notices[ALERTS_NOTICES_MAX];
    uint64_t samples; /* ever taken */
    struct alerts_sample sample[ALERTS_SAMPLES];
    /* What the last judgement found, for everybody's metrics; without the lock. */
    _Atomic int64_t memory_used, memory_limit, firing;
};

/* Robust: what a process left undone is done before this returns. */
void alerts_lock(struct alerts *alerts);
void alerts_unlock(struct alerts *alerts);

/* Reads all but memory from the host's totals; memory as alerts_memory does. */
void alerts_read(const struct metrics *metrics, struct alerts_reading *reading);

/* Judges one reading, at that time; the lock is not held. With `tell` changes become notices. */
void alerts_judge(struct alerts *alerts, const struct config *config, const struct alerts_reading *reading,
                  int64_t now_ms, int64_t wall_ms, bool tell);

/* The oldest notice and its number; false when none waits. */
bool alerts_notice_first(struct alerts *alerts, struct alerts_notice *notice, uint64_t *number);

/* That one is done with, unless it was dropped meanwhile. */
void alerts_notice_done(struct alerts *alerts, uint64_t number, bool dropped);

/* Forgets all that wait: nobody is to be told any more. */
void alerts_notices_clear(struct alerts *alerts);

/* Memory in use and its limit in bytes: of the control group, the process's own or one above, that has least
 * left in proportion; else of the host. Cache that the kernel can take back at once is not counted as in
 * use, as Kubernetes does. Versions 1 and 2. `root` stands before /proc and /sys ("" but in tests). False
 * when nothing can be read. */
bool alerts_memory(const char *root, int64_t *used, int64_t *limit);

/* The body of the call that tells of a notice; `instance` is host:port. */
void alerts_webhook_body(const struct alerts_notice *notice, const char *instance, struct buf *out);

/* One receiver. NULL on no memory. Calls are made by one thread; alerts_webhook_cut by another cuts one
 * off. */
struct alerts_webhook;
struct alerts_webhook *alerts_webhook_new(const char *url);
void alerts_webhook_free(struct alerts_webhook *webhook);

/* 0 when the receiver answered 2xx, ALERTS_WEBHOOK_CUT, else -1 with the reason. Ends within some seconds. */
enum { ALERTS_WEBHOOK_CUT = 1, ALERTS_ERROR_MAX = 256 };
int alerts_webhook_call(struct alerts_webhook *webhook, const struct buf *body, char error[ALERTS_ERROR_MAX])
    __attribute__((warn_unused_result));
void alerts_webhook_cut(struct alerts_webhook *webhook, int64_t due_ms); /* then (monotonic), for good */

void alerts_add_time(struct buf *out, int64_t wall_ms); /* ISO 8601, UTC, in quotes */
void alerts_add_number(struct buf *out, double value);  /* as short as it can be said with two decimals */

#endif
