/* health.h - whether this chatd can serve, part by part: what /health, /health/ready and /health/live answer.
 * Loop thread only. */
#ifndef CHATD_HEALTH_H
#define CHATD_HEALTH_H

#include <stdbool.h>

#include "chatd/buf.h"
#include "chatd/bus.h"
#include "chatd/config.h"
#include "chatd/metrics.h"
#include "chatd/store.h"

/* A worker whose loop has not turned for so long is counted as stalled: clients that the kernel gives it
 * hang. */
enum { HEALTH_STALL_MS = 10000 };

enum health_phase { HEALTH_STARTING, HEALTH_SERVING, HEALTH_DRAINING };

/* The owner's storage; what it points to is borrowed. Read `phase` at will, change it by health_enter. */
struct health {
    const struct config *config;
    const struct metrics *metrics;
    struct bus *bus;
    struct store *store;
    enum health_phase phase;
    int64_t phase_ms;   /* Unix times: when the phase began, */
    int64_t started_ms; /* when this worker did, */
    int64_t workers_ms; /* and when the state of the workers did */
    bool workers_fail;
};

/* In HEALTH_STARTING. */
void health_init(struct health *health, const struct config *config, const struct metrics *metrics,
                 struct bus *bus, struct store *store);

void health_enter(struct health *health, enum health_phase phase);

/* Once a second: so that `since` is right to the second also for what nobody asked about. */
void health_tick(struct health *health);

/* These append one JSON object and return the HTTP status that goes with it.
 *
 * Live: {"status":"ok",…}, always 200. That there is an answer at all says that this worker's loop turns;
 * whatever else is wrong, another process would not mend it. */
int health_live(const struct health *health, struct buf *out);

/* Ready: 200 {"status":"ok"}, or 503 with another status and its `reason`: `starting` until clients are
 * served, `failing` while a part without which no message can be acknowledged is away, `draining` once this
 * worker sends its clients away. In this order, when several are true. */
int health_ready(struct health *health, struct buf *out);

/* All, with the status that health_ready gives:
 *
 *     {"status":"ok","version":"1.0.0","uptime_s":86,"parts":{
 *      "store":{"kind":"mongodb","status":"ok","since":"2026-11-22T07:00:00.000Z","age_ms":5100},
 *      "bus":{"kind":"redis","status":"ok","since":…,"age_ms":…},
 *      "workers":{"status":"ok","since":…,"age_ms":…,"configured":2,"running":2,"ready":2,"stalled":0}}}
 *
 * `uptime_s` counts from the master's start. A part is `ok` or `failing`, with `error`, `since` when (ISO
 * 8601, UTC) and for how long. While this worker is starting there is a part `spool` with the status
 * `replaying` and the number of `messages` it waits for. Store and bus fail when they say so themselves, as
 * the worker that answers sees it; the bus in shared memory can't fail while somebody is there to ask it.
 * The workers fail when one is stalled. `running` counts live processes, `ready` those that serve and don't
 * drain. A missing worker is no failure of its own: the master replaces it, and its listener keeps what
 * waits. */
int health_json(struct health *health, struct buf *out);

#endif
