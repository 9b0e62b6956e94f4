/* routes.c - finds out what a request is for and hands it to who answers. */
#include "chatd/routes.h"

#include <string.h>

#include "answer.h"
#include "api.h"
#include "chatd/health.h"
#include "static.h"

#define ROUTES_ROOM_PREFIX "/api/rooms/"

static const struct {
    const char *path;
    enum route_kind kind;
} fixed[] = {
    {"/health", ROUTE_HEALTH},
    {"/metrics", ROUTE_METRICS},
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

static void answer_health(struct routes *routes, struct conn *conn)
{
    struct buf json = BUF_INIT;
    int status =
        health_json(routes->config, routes->metrics, routes->bus, routes->store, routes->draining, &json);

    answer_json(conn, status, &json);
}

static void answer_metrics(struct routes *routes, struct conn *conn)
{
    struct buf json = BUF_INIT;

    metrics_json(routes->metrics, &json);
    answer_json(conn, 200, &json);
}

void routes_request(struct routes *routes, struct conn *conn, const struct http_request *request)
{
    struct route route = routes_find(request->path);

    if (route.kind == ROUTE_NONE) {
        answer_error(conn, 404, NULL, "not_found", "there is nothing at this address");
        return;
    }
    if (strcmp(request->method, "GET") != 0 && strcmp(request->method, "HEAD") != 0) {
        answer_error(conn, 405, "Allow: GET, HEAD\r\n", "method_not_allowed",
                     "only GET and HEAD are allowed here");
        return;
    }
    switch (route.kind) {
    case ROUTE_STATIC:
        static_respond(conn, request->path);
        break;
    case ROUTE_HEALTH:
        answer_health(routes, conn);
        break;
    case ROUTE_METRICS:
        answer_metrics(routes, conn);
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
    if (routes->draining) {
        *code = "unavailable";
        *message = "this server is stopping";
        return 503;
    }
    return 0;
}

void routes_closed(struct routes *routes, struct conn *conn)
{
    api_closed(routes, conn);
}
