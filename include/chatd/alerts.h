/* alerts.h - judges what a host counts against the alert_… settings, and tells of it.
 *
 * The table is alerts.def. The state is in memory shared by all processes of one chatd, so an alert outlives
 * the worker that judges; that is one worker at a time, whoever holds the seat (a robust mutex). It judges
 * once a second on a thread of its own; a second thread calls the webhook, so that a receiver that hangs
 * delays nothing else.
 *
 *     ok --above threshold--> pending --for as long as `for`--> firing --at or below `clear` as long--> ok
 *
 * A value between the two levels keeps a firing alert firing, and starts its `for` anew. A value that can't
 * be known changes nothing. An alert that is set to off while it fires is over. Each change is one log line
 * (alert_firing, alert_resolved) and, with alert_webhook, one notice; both in the order of the changes.
 *
 * Notices wait in shared memory, ALERTS_NOTICES_MAX at most: past that the oldest is dropped. Each is tried,
 * with growing pauses, until the receiver answers 2xx or ALERTS_NOTICE_AGE_MS are over; dropping is counted
 * and logged. A worker that dies between the answer and noting it leaves the notice to be sent a second
 * time: receivers tell by fingerprint, startsAt and status. */
#ifndef CHATD_ALERTS_H
#define CHATD_ALERTS_H

#include "chatd/buf.h"
#include "chatd/config.h"
#include "chatd/metrics.h"

enum { ALERTS_NOTICES_MAX = 64, ALERTS_NOTICE_AGE_MS = 3600000 };

struct alerts;

/* By the master, before it forks. NULL with errno. */
struct alerts *alerts_map(void);

/* By the master, once all workers are gone; says how many notices nobody took. NULL is fine. */
void alerts_unmap(struct alerts *alerts);

/* The answer of GET /alerts, the same from every worker:
 *
 *     {"status":"firing","judged":"2026-11-22T07:00:01.000Z",
 *      "alerts":[{"name":"store","severity":"critical","since":"…","value":1203.5,"threshold":100,
 *                 "unit":"ms","summary":"…","advice":"…"}],
 *      "rules":[{"name":"store","setting":"alert_store","state":"firing","since":"…","value":1203.5,
 *                "threshold":100,"unit":"ms","clear":80,"for_ms":10000}],
 *      "webhook":{"waiting":0,"dropped":0}}
 *
 * `status` is `firing` or `ok`; `alerts` are the rules that fire; `state` is off, ok, pending or firing;
 * `since` says since when, and is null before the first judgement, as is a `value` that is not known. Rules
 * that count events have `window_ms`, too. Any thread. */
void alerts_json(struct alerts *alerts, struct buf *out);

/* A worker's part in it. Loop thread only. */
struct alerts_watch;

/* Borrows everything; sets this worker's metrics to what was judged last. `listener`: the socket whose port
 * names this chatd to the webhook's receiver. */
struct alerts_watch *alerts_watch_new(struct alerts *alerts, const struct metrics *metrics,
                                      const struct config *config, int listener);

/* Once a second, while it drains too: sets this worker's metrics to what was judged last, as all workers do;
 * takes the seat when it is free. */
void alerts_watch_tick(struct alerts_watch *watch);

/* When the drain begins, and again while it lasts: ends judging, and lets go of the seat, for good, once
 * a call under way is over. One that is not within a second is cut off, and whoever comes next makes it
 * again. */
void alerts_watch_stop(struct alerts_watch *watch);

/* Stopped before; waits for what is left of that second. NULL is fine. */
void alerts_watch_free(struct alerts_watch *watch);

#endif
