/* routes.h - every HTTP address of chatd: which there are, with which methods, and who answers. Loop thread.
 *
 *     GET /  /index.html  /chat.css  /chat.js  /client.js      the page (static.c)
 *     GET /health  /health/live  /health/ready             health.h
 *     GET /metrics                                         metrics.h: JSON, or a scraper's text by Accept
 *     GET /alerts                                          alerts.h
 *     GET /api/rooms                                       {"rooms":[{"room":…,"members":…,"seq":…}]}
 *     GET /api/rooms/{room}/messages?before=&limit=        {"room":…,"messages":[…],"more":…}
 *     GET /api/rooms/{room}/members                        {"room":…,"count":…,"users":[…]}
 *     GET /ws                                              the upgrade; without one 426
 *
 * HEAD wherever GET is; OPTIONS gives 204 with Allow, also for `*`; every other method there is 405 with
 * Allow; every other path is 404. The page's files have entity tags, 304 for who has them. {room} is
 * percent-encoded (400 bad_room). Messages ascend; `before` is exclusive, a `limit` above the setting
 * history_limit counts as that (400 bad_request says which is wrong). 503 `unavailable` while the store can't
 * be read, 503 `overloaded` when too many wait for it. */
#ifndef CHATD_ROUTES_H
#define CHATD_ROUTES_H

#include <stdbool.h>
#include <stddef.h>

#include "chatd/alerts.h"
#include "chatd/bus.h"
#include "chatd/config.h"
#include "chatd/conn.h"
#include "chatd/health.h"
#include "chatd/http.h"
#include "chatd/metrics.h"
#include "chatd/store.h"

struct api_lookup;
struct static_files;

/* The worker's storage. What it points to is borrowed and, like the struct itself, has to live until the
 * store owes no answer any more. */
struct routes {
    const struct config *config;
    const struct metrics *metrics;
    struct alerts *alerts;
    struct bus *bus;
    struct store *store;
    struct api_lookup *lookups; /* answers that wait for bus or store, by conn; NULL at first */
    struct static_files *files; /* what the page's files became; NULL at first */
    struct health health;
};

/* For net_handler.on_request: answers now, or later when bus or store must be asked. Doesn't use the conn's
 * data. */
void routes_request(struct routes *routes, struct conn *conn, const struct http_request *request);

/* For net_handler.on_upgrade: 0 for /ws, else the status to refuse with (404, 503 while draining). */
int routes_upgrade(struct routes *routes, const struct http_request *request, const char **code,
                   const char **message);

/* For net_handler.on_early: what is asked to learn whether this worker serves. */
bool routes_early(const struct http_request *request);

/* For net_handler.on_close, for every conn, WebSocket or not: a look-up that still runs for it ends without
 * an answer. */
void routes_closed(struct routes *routes, struct conn *conn);

/* When nobody asks any more. */
void routes_deinit(struct routes *routes);

/* What a path means, apart from any connection. */
enum route_kind {
    ROUTE_NONE,
    ROUTE_STATIC,
    ROUTE_HEALTH,
    ROUTE_LIVE,
    ROUTE_READY,
    ROUTE_METRICS,
    ROUTE_ALERTS,
    ROUTE_ROOMS,
    ROUTE_MESSAGES,
    ROUTE_MEMBERS,
    ROUTE_WS,
};

struct route {
    enum route_kind kind;
    struct text room; /* ROUTE_MESSAGES, ROUTE_MEMBERS: a piece of the path, percent-encoded, may be empty */
};

struct route routes_find(const char *path);

#endif
