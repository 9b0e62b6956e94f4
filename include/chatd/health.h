/* health.h - whether this chatd can serve, part by part: the answer of GET /health. Loop thread only. */
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

/* Appends one JSON object and returns the HTTP status that goes with it, 200 or 503.
 *
 *     {"status":"ok","version":"1.0.0","uptime_s":86,"parts":{"store":{"kind":"mongodb","status":"ok"},
 *      "bus":{"kind":"redis","status":"ok"},"workers":{"status":"ok","configured":2,"running":2,"ready":2}}}
 *
 * `status` is `failing` (503) while a part fails, else `draining` (503) while this worker sends its clients
 * away, else `ok`. A failing part has `"status":"failing"`, `error` and `since` (ISO 8601, UTC). Store and
 * bus fail when they say so themselves, as the worker that answers sees it; the bus in shared memory can't
 * fail while somebody is there to ask it. The workers fail when one is stalled. `running` counts live
 * processes, `ready` those that serve and don't drain. A missing worker is no failure of its own: the
 * master replaces it, and its listener keeps what waits. */
int health_json(const struct config *config, const struct metrics *metrics, struct bus *bus,
                struct store *store, bool draining, struct buf *out);

#endif
