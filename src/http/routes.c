/* routes.c - finds out what a request is for and hands it to who answers. */
#include "chatd/routes.h"

#include <stdio.h>
#include <string.h>

#include "answer.h"
#include "api.h"
#include "chatd/health.h"
#include "static.h"

#define ROUTES_ROOM_PREFIX "/api/rooms/"
#define ROUTES_ALLOW "Allow: GET, HEAD, OPTIONS\r\n"

static const struct {
    const char *path;
    enum route_kind kind;
} fixed[] = {
    {"/health", ROUTE_HEALTH},
    {"/health/live", ROUTE_LIVE},
    {"/health/ready", ROUTE_READY},
    {"/metrics", ROUTE_METRICS},
    {"/alerts", ROUTE_ALERTS},
    {"/api/rooms", ROUTE_ROOMS},
    {"/ws", ROUTE_WS},
};

/* `path` is what follows /api/rooms/. */
static struct route find_in_room(const char *path)
{
    size_t length = strcspn(path, "/");
    struct route route = {ROUTE_NONE, {path, length}};

    if (strcmp(path + length, "/messages") == 0)
        route.kind = ROUTE_MESSAGES;
    else if (strcmp(path + length, "/members") == 0)
        route.kind = ROUTE_MEMBERS;
    return route;
}

struct route routes_find(const char *path)
{
    for (size_t i = 0; i < sizeof(fixed) / sizeof(*fixed); i++) {
        if (strcmp(path, fixed[i].path) == 0)
            return (struct route){.kind = fixed[i].kind};
    }
    if (strncmp(path, ROUTES_ROOM_PREFIX, strlen(ROUTES_ROOM_PREFIX)) == 0)
        return find_in_room(path + strlen(ROUTES_ROOM_PREFIX));
    return (struct route){.kind = static_has(path) ? ROUTE_STATIC : ROUTE_NONE};
}

static void answer_health(struct routes *routes, struct conn *conn, enum route_kind kind)
{
    struct buf json = BUF_INIT;
    int status = kind == ROUTE_LIVE    ? health_live(&routes->health, &json)
                 : kind == ROUTE_READY ? health_ready(&routes->health, &json)
                                       : health_json(&routes->health, &json);

    answer_json(conn, status, &json);
}

static void answer_metrics(struct routes *routes, struct conn *conn, const struct http_request *request)
{
    static const struct http_type types[] = {
        {"application/json", ""}, {"text/plain", "0.0.4"}, {"application/openmetrics-text", "1.0.0"}};
    size_t chosen = http_choose(request, types, sizeof(types) / sizeof(*types));
    struct buf out = BUF_INIT;
    char type[80];

    snprintf(type, sizeof(type), "%s; version=%s; charset=utf-8", types[chosen].name, types[chosen].version);
    if (chosen == 0)
        metrics_json(routes->metrics, &out);
    else
        metrics_text(routes->metrics, chosen == 1 ? METRICS_PROMETHEUS : METRICS_OPENMETRICS, &out);
    answer_varying(conn, chosen == 0 ? types[0].name : type, &out);
}

static void answer_alerts(struct routes *routes, struct conn *conn)
{
    struct buf json = BUF_INIT;

    alerts_json(routes->alerts, &json);
    answer_json(conn, 200, &json);
}

/* True when the method says all that is to be said. */
static bool answer_method(struct conn *conn, const struct http_request *request)
{
    if (strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0)
        return false;
    if (strcmp(request->method, "OPTIONS") == 0)
        http_respond(conn, 204, NULL, ROUTES_ALLOW, NULL, 0);
    else
        answer_error(conn, 405, ROUTES_ALLOW, "method_not_allowed", "only GET and HEAD are allowed here");
    return true;
}

void routes_request(struct routes *routes, struct conn *conn, const struct http_request *request)
{
    struct route route = routes_find(request->path);

    if (strcmp(request->path, "*") == 0 && strcmp(request->method, "OPTIONS") == 0) {
        answer_method(conn, request);
        return;
    }
    if (route.kind == ROUTE_NONE) {
        answer_error(conn, 404, NULL, "not_found", "there is nothing at this address");
        return;
    }
    if (answer_method(conn, request))
        return;
    switch (route.kind) {
    case ROUTE_STATIC:
        static_respond(&routes->files, conn, request);
        break;
    case ROUTE_HEALTH:
    case ROUTE_LIVE:
    case ROUTE_READY:
        answer_health(routes, conn, route.kind);
        break;
    case ROUTE_METRICS:
        answer_metrics(routes, conn, request);
        break;
    case ROUTE_ALERTS:
        answer_alerts(routes, conn);
        break;
    case ROUTE_ROOMS:
        api_rooms(routes, conn);
        break;
    case ROUTE_MESSAGES:
        api_messages(routes, conn, route.room, request->query);
        break;
    case ROUTE_MEMBERS:
        api_members(routes, conn, route.room);
        break;
    case ROUTE_WS:
        /* RFC 9110 section 15.5.22 asks for Upgrade, section 7.8 for the option in Connection that goes with
         * it. */
        answer_error(conn, 426,
                     "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
                     "upgrade_required", "this address speaks WebSocket only");
        break;
    case ROUTE_NONE:
        break;
    }
}

int routes_upgrade(struct routes *routes, const struct http_request *request, const char **code,
                   const char **message)
{
    if (routes_find(request->path).kind != ROUTE_WS) {
        *code = "not_found";
        *message = "WebSocket is spoken at /ws";
        return 404;
    }
    if (routes->health.phase == HEALTH_DRAINING) {
        *code = "unavailable";
        *message = "this server is stopping";
        return 503;
    }
    return 0;
}

bool routes_early(const struct http_request *request)
{
    switch (routes_find(request->path).kind) {
    case ROUTE_HEALTH:
    case ROUTE_LIVE:
    case ROUTE_READY:
    case ROUTE_METRICS:
    case ROUTE_ALERTS:
        return true;
    default:
        return false;
    }
}

void routes_closed(struct routes *routes, struct conn *conn)
{
    api_closed(routes, conn);
}

void routes_deinit(struct routes *routes)
{
    static_free(routes->files);
    routes->files = NULL;
}
