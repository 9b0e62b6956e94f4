/* test_routes.c - every address of the HTTP side, with a bus and a store that the test plays and answers that
 * are kept instead of sent. */
#include "chatd/routes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

/* Stands for net's connection: keeps what was answered. */
struct conn {
    int answers;
    int status;
    char type[64];
    char headers[1024];
    json_t *json; /* NULL when the body is none */
    size_t length;
};

void http_respond(struct conn *conn, int status, const char *type, const char *headers, const void *body,
                  size_t length)
{
    conn->answers++;
    conn->status = status;
    snprintf(conn->type, sizeof(conn->type), "%s", type != NULL ? type : "");
    snprintf(conn->headers, sizeof(conn->headers), "%s", headers != NULL ? headers : "");
    conn->json = json_loadb(body, length, JSON_REJECT_DUPLICATES, NULL);
    conn->length = length;
}

void http_respond_plain(struct conn *conn, int status, const char *type, const char *headers,
                        const void *body, size_t length)
{
    http_respond(conn, status, type, headers, body, length);
}

void http_respond_error(struct conn *conn, int status, const char *headers, const char *code,
                        const char *message)
{
    json_t *body = json_pack("{s:{s:s,s:s}}", "error", "code", code, "message", message);
    char *text = json_dumps(body, JSON_COMPACT);

    http_respond(conn, status, "application/json", headers, text, strlen(text));
    free(text);
    json_decref(body);
}

/* Everything a test may want to play with. */
struct world {
    struct config config;
    struct metrics *metrics;
    struct bus bus;
    struct store store;
    struct routes routes;
    struct conn conn;
    bool hold; /* the store keeps its answers until release */
    bool away; /* the bus isn't heard */
    store_on_page *on_page;
    store_on_rooms *on_rooms;
    void *arg;
    enum store_status status;
    char asked[512]; /* the last question to bus and store */
};

static struct world *world_of_bus(struct bus *bus)
{
    return (struct world *)((char *)bus - offsetof(struct world, bus));
}

static struct world *world_of_store(struct store *store)
{
    return (struct world *)((char *)store - offsetof(struct world, store));
}

static void note(struct world *world, const char *question, struct text room)
{
    snprintf(world->asked, sizeof(world->asked), "%s of %.*s", question, (int)room.length, room.data);
}

static void play_window(struct bus *bus, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                        bus_on_window *done, void *arg)
{
    struct page empty = PAGE_INIT;

    (void)above, (void)limit;
    note(world_of_bus(bus), "window", room);
    done(arg, world_of_bus(bus)->away ? BUS_FAILED : BUS_NOT_OPEN, &empty, upto, false);
}

static void play_members(struct bus *bus, struct text room, uint32_t limit,
                         void (*done)(void *arg, uint32_t count, const struct text *users, uint32_t listed),
                         void *arg)
{
    static const struct text users[] = {{"ana", 3}, {"bo b", 4}};

    (void)limit;
    note(world_of_bus(bus), "members", room);
    done(arg, 5, users, 2);
}

static void play_bus_rooms(struct bus *bus, uint32_t limit, bus_on_rooms *done, void *arg)
{
    static const struct bus_room general = {{"general", 7}, 13, 58};

    (void)bus, (void)limit;
    done(arg, &general, 1);
}

static void play_bus_health(struct bus *bus, struct bus_health *health)
{
    *health = (struct bus_health){.ok = !world_of_bus(bus)->away};
}

static void release(struct world *world)
{
    static const char events[] = "{\"seq\":7}{\"seq\":9}";
    struct page page = PAGE_INIT;

    if (world->on_rooms != NULL) {
        world->on_rooms(world->arg, world->status, NULL, NULL, 0);
        world->on_rooms = NULL;
        return;
    }
    page_add(&page, 7, events, 9);
    page_add(&page, 9, events + 9, 9);
    world->on_page(world->arg, world->status, &page, true);
    page_deinit(&page);
}

static void play_page(struct store *store, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                      store_on_page *done, void *arg)
{
    struct world *world = world_of_store(store);

    snprintf(world->asked, sizeof(world->asked), "%.*s (%llu, %llu] %u", (int)room.length, room.data,
             (unsigned long long)above, (unsigned long long)upto, limit);
    world->on_page = done;
    world->arg = arg;
    if (!world->hold)
        release(world);
}

static void play_store_rooms(struct store *store, uint32_t limit, store_on_rooms *done, void *arg)
{
    struct world *world = world_of_store(store);

    (void)limit;
    world->on_rooms = done;
    world->arg = arg;
    if (!world->hold)
        release(world);
}

static void play_health(struct store *store, struct store_health *health)
{
    *health = (struct store_health){.ok = world_of_store(store)->status == STORE_OK};
}

static const struct bus_ops bus_ops = {
    .window = play_window,
    .members = play_members,
    .rooms = play_bus_rooms,
    .health = play_bus_health,
};
static const struct store_ops store_ops = {
    .page = play_page,
    .rooms = play_store_rooms,
    .health = play_health,
};

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof(*world));

    if (world == NULL || (world->metrics = metrics_map()) == NULL)
        return -1;
    world->config.history_limit = 100;
    world->bus.ops = &bus_ops;
    world->store.ops = &store_ops;
    world->routes = (struct routes){.config = &world->config,
                                    .metrics = world->metrics,
                                    .bus = &world->bus,
                                    .store = &world->store};
    health_init(&world->routes.health, &world->config, world->metrics, &world->bus, &world->store);
    health_enter(&world->routes.health, HEALTH_SERVING);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;

    assert_null(world->routes.lookups);
    json_decref(world->conn.json);
    routes_deinit(&world->routes);
    free(world);
    return 0;
}

/* With one header more, unless its name is NULL. */
static int ask_with(struct world *world, const char *method, const char *path, const char *query,
                    const char *name, const char *value)
{
    struct http_request request = {.method = method,
                                   .path = path,
                                   .query = query,
                                   .body = "",
                                   .header_count = name != NULL,
                                   .headers = {{name, value}}};

    json_decref(world->conn.json);
    world->conn = (struct conn){0};
    world->asked[0] = '\0';
    routes_request(&world->routes, &world->conn, &request);
    return world->conn.status;
}

static int ask(struct world *world, const char *method, const char *path, const char *query)
{
    return ask_with(world, method, path, query, NULL, NULL);
}

static const char *error_part(const struct world *world, const char *name)
{
    const char *text = json_string_value(json_object_get(json_object_get(world->conn.json, "error"), name));

    return text != NULL ? text : "";
}

static const char *error_code(const struct world *world)
{
    return error_part(world, "code");
}

static void body_is(const struct world *world, const char *expected)
{
    char *text = json_dumps(world->conn.json, JSON_COMPACT | JSON_PRESERVE_ORDER);

    assert_non_null(text);
    assert_string_equal(text, expected);
    free(text);
}

static void test_paths_mean_what_the_protocol_says(void **state)
{
    static const struct {
        const char *path;
        enum route_kind kind;
        const char *room;
    } paths[] = {
        {"/", ROUTE_STATIC, ""}, {"/index.html", ROUTE_STATIC, ""}, {"/chat.css", ROUTE_STATIC, ""},
        {"/chat.js", ROUTE_STATIC, ""}, {"/client.js", ROUTE_STATIC, ""}, {"/health", ROUTE_HEALTH, ""},
        {"/health/live", ROUTE_LIVE, ""}, {"/health/ready", ROUTE_READY, ""},
        {"/health/lives", ROUTE_NONE, ""},
        {"/metrics", ROUTE_METRICS, ""}, {"/alerts", ROUTE_ALERTS, ""}, {"/ws", ROUTE_WS, ""},
        {"/api/rooms", ROUTE_ROOMS, ""},
        {"/api/rooms/a/messages", ROUTE_MESSAGES, "a"},
        {"/api/rooms/a%20b/members", ROUTE_MEMBERS, "a%20b"},
        {"/api/rooms//messages", ROUTE_MESSAGES, ""},
        {"/api/rooms/messages/members", ROUTE_MEMBERS, "messages"}, {"", ROUTE_NONE, ""},
        {"*", ROUTE_NONE, ""}, {"//", ROUTE_NONE, ""}, {"/health/", ROUTE_NONE, ""},
        {"/Health", ROUTE_NONE, ""}, {"/ws/", ROUTE_NONE, ""}, {"/api", ROUTE_NONE, ""},
        {"/alarms", ROUTE_NONE, ""}, {"/../etc/passwd", ROUTE_NONE, ""}, {"/%68ealth", ROUTE_NONE, ""},
        {"/api/rooms/", ROUTE_NONE, ""}, {"/api/rooms/a", ROUTE_NONE, "a"},
        {"/api/rooms/a/", ROUTE_NONE, "a"}, {"/api/rooms/messages", ROUTE_NONE, "messages"},
        {"/api/rooms/a/messages/", ROUTE_NONE, "a"}, {"/api/rooms/a/b/messages", ROUTE_NONE, "a"},
        {"/api/rooms/a/members2", ROUTE_NONE, "a"}, {"/api/roomsa/messages", ROUTE_NONE, ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
        struct route route = routes_find(paths[i].path);

        if (route.kind != paths[i].kind || route.room.length != strlen(paths[i].room) ||
            (route.room.length > 0 && memcmp(route.room.data, paths[i].room, route.room.length) != 0))
            fail_msg("%s is %d of %zu bytes", paths[i].path, route.kind, route.room.length);
    }
}

static void test_other_paths_are_404_whatever_the_method(void **state)
{
    assert_int_equal(ask(*state, "GET", "/alarms", ""), 404);
    assert_string_equal(error_code(*state), "not_found");
    assert_int_equal(ask(*state, "POST", "/nothing", ""), 404);
}

static void test_other_methods_are_405_with_allow(void **state)
{
    static const char *const paths[] = {"/", "/chat.js", "/health", "/health/live", "/health/ready",
                                        "/metrics", "/alerts", "/api/rooms", "/ws",
                                        "/api/rooms/a/messages", "/api/rooms/a/members"};
    static const char *const methods[] = {"POST", "PUT", "DELETE", "TRACE", "CONNECT", "PATCH", "get"};
    struct world *world = *state;

    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
        for (size_t k = 0; k < sizeof(methods) / sizeof(*methods); k++) {
            assert_int_equal(ask(world, methods[k], paths[i], ""), 405);
            assert_string_equal(error_code(world), "method_not_allowed");
            assert_non_null(strstr(world->conn.headers, "Allow: GET, HEAD, OPTIONS\r\n"));
            assert_int_equal(world->conn.answers, 1);
        }
        assert_int_equal(ask(world, "OPTIONS", paths[i], ""), 204);
        assert_string_equal(world->conn.headers, "Allow: GET, HEAD, OPTIONS\r\n");
        assert_int_equal(world->conn.length, 0);
    }
}

static void test_options_of_everything_is_204_but_of_nothing_404(void **state)
{
    assert_int_equal(ask(*state, "OPTIONS", "*", ""), 204);
    assert_int_equal(ask(*state, "OPTIONS", "/nothing", ""), 404);
    assert_int_equal(ask(*state, "GET", "*", ""), 404);
}

/* The value of a header among those of the last answer; empty without it. */
static const char *header(const struct world *world, const char *name)
{
    static char value[128];
    const char *at = strstr(world->conn.headers, name);

    value[0] = '\0';
    if (at != NULL)
        snprintf(value, sizeof(value), "%.*s", (int)strcspn(at + strlen(name), "\r"), at + strlen(name));
    return value;
}

static void test_a_file_has_a_tag_for_each_form_and_is_304_for_who_has_it(void **state)
{
    static const char *const known[] = {"%s", "W/%s", "\"x\", %s", "\"a,b\" , W/%s,\"y\"", "*", " %s "};
    static const char *const unknown[] = {"\"x\"", "", "x%.0s", "\"%s\"", "w/%s", "%s-", ",,,"};
    struct world *world = *state;
    char plain[128], list[300];
    int64_t packed;
    size_t length;

    assert_int_equal(ask(world, "GET", "/chat.js", ""), 200);
    packed = metrics_get(metrics_mine, http_compressed_bytes_total);
    snprintf(plain, sizeof(plain), "%s", header(world, "ETag: "));
    length = world->conn.length;
    assert_true(strlen(plain) > 10 && plain[0] == '"');
    assert_string_equal(header(world, "Vary: "), "Accept-Encoding");
    assert_string_equal(header(world, "Content-Encoding: "), "");
    assert_int_equal(ask_with(world, "GET", "/chat.js", "", "accept-encoding", "gzip"), 200);
    assert_string_equal(header(world, "Content-Encoding: "), "gzip");
    assert_string_not_equal(header(world, "ETag: "), plain);
    assert_true(world->conn.length < length / 2);
    packed += (int64_t)world->conn.length;
    assert_int_equal(ask_with(world, "HEAD", "/chat.js", "", "accept-encoding", "gzip"), 200);
    assert_int_equal(metrics_get(metrics_mine, http_compressed_bytes_total), packed);
    assert_int_equal(ask(world, "GET", "/chat.css", ""), 200);
    assert_string_not_equal(header(world, "ETag: "), plain);

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        snprintf(list, sizeof(list), known[i], plain);
        assert_int_equal(ask_with(world, "GET", "/chat.js", "", "if-none-match", list), 304);
        assert_string_equal(header(world, "ETag: "), plain);
        assert_string_equal(header(world, "Vary: "), "Accept-Encoding");
        assert_string_equal(header(world, "Cache-Control: "), "no-cache");
        assert_int_equal(world->conn.length, 0);
        assert_string_equal(world->conn.type, "");
    }
    for (size_t i = 0; i < sizeof(unknown) / sizeof(*unknown); i++) {
        snprintf(list, sizeof(list), unknown[i], plain);
        assert_int_equal(ask_with(world, "GET", "/chat.js", "", "if-none-match", list), 200);
    }
#pragma GCC diagnostic pop
}

static void test_metrics_come_in_the_form_that_accept_names(void **state)
{
    static const char *const types[] = {"application/json", "text/plain; version=0.0.4; charset=utf-8",
                                        "application/openmetrics-text; version=1.0.0; charset=utf-8"};
    enum { JSON, TEXT, OPEN };
    static const struct {
        const char *accept;
        int form;
    } cases[] = {
        {"*/*", JSON},
        {"", JSON},
        {"application/json", JSON},
        {"application/*", JSON},
        {"image/png", JSON},
        {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", JSON},
        {"text/plain", TEXT},
        {"TEXT/Plain ; Q=0.5 , */*;q=0.5", TEXT},
        {"text/*", TEXT},
        {"text/plain;version=0.0.4", TEXT},
        {"text/plain;version=\"0.0.4\";charset=utf-8", TEXT},
        {"text/plain;version=1.0.0", JSON},
        {"text/plain;q=0", JSON},
        {"text/plain;q=0.0,*/*", JSON},
        {"text/plain;q=0.2,application/json;q=0.3", JSON},
        {"text/plain;q=0.301,application/json;q=0.3", TEXT},
        {"application/json;q=0,*/*", TEXT},
        {"application/json;q=0,text/*;q=0,*/*;q=0.1", OPEN},
        {"application/openmetrics-text", OPEN},
        {"application/openmetrics-text; version=1.0.0; charset=utf-8", OPEN},
        {"application/openmetrics-text;version=0.0.1", JSON},
        {"application/openmetrics-text;version=0.0.1,text/plain;q=0.1", TEXT},
        /* Prometheus 2 and 3 */
        {"application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
         "text/plain;version=0.0.4;q=0.3,*/*;q=0.2", OPEN},
        {"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
         "application/openmetrics-text;version=0.0.1;q=0.5,"
         "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
         "text/plain;version=0.0.4;q=0.3,*/*;q=0.2", OPEN},
        {"text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT},
        /* Not well-formed: as if it were not there */
        {"text/plain;q=NaN", JSON},
        {"text/plain;q=", JSON},
        {"text/plain;q=1.001", JSON},
        {"text/plain;q=0.5000", JSON},
        {"text/plain;q=-1", JSON},
        {"text/plain;q=inf,text/plain;q=0.1", TEXT},
        {",,,;;;,/,;q=1,q=1,\"text/plain", JSON},
        {"\"text/plain, \\\"\",text/plain", TEXT},
        {"*", JSON},
        {"text", JSON},
        {"text/", JSON},
        {"text/*x", JSON},
    };
    struct world *world = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_int_equal(ask_with(world, "GET", "/metrics", "", "accept", cases[i].accept), 200);
        if (strcmp(world->conn.type, types[cases[i].form]) != 0)
            fail_msg("%s gives %s", cases[i].accept, world->conn.type);
        assert_string_equal(header(world, "Vary: "), "Accept");
        assert_string_equal(header(world, "Cache-Control: "), "no-store");
        assert_int_equal(world->conn.json != NULL, cases[i].form == JSON);
    }
}

static void test_what_early_askers_may_ask(void **state)
{
    static const char *const early[] = {"/health", "/health/live", "/health/ready", "/metrics",
                                        "/alerts"};
    static const char *const late[] = {"/", "/ws", "/api/rooms", "/api/rooms/a/members", "/nothing"};

    (void)state;
    for (size_t i = 0; i < sizeof(early) / sizeof(*early); i++)
        assert_true(routes_early(&(struct http_request){.path = early[i]}));
    for (size_t i = 0; i < sizeof(late) / sizeof(*late); i++)
        assert_false(routes_early(&(struct http_request){.path = late[i]}));
}

static void test_the_page_has_its_types_and_its_policy(void **state)
{
    static const char *const files[][2] = {
        {"/", "text/html; charset=utf-8"}, {"/index.html", "text/html; charset=utf-8"},
        {"/chat.css", "text/css; charset=utf-8"}, {"/chat.js", "text/javascript; charset=utf-8"},
        {"/client.js", "text/javascript; charset=utf-8"},
    };
    struct world *world = *state;

    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        assert_int_equal(ask(world, i % 2 ? "HEAD" : "GET", files[i][0], "x=1"), 200);
        assert_string_equal(world->conn.type, files[i][1]);
        assert_true(world->conn.length > 100);
        assert_non_null(strstr(world->conn.headers, "X-Content-Type-Options: nosniff\r\n"));
        assert_non_null(strstr(world->conn.headers, "Cache-Control: no-cache\r\n"));
        assert_non_null(strstr(world->conn.headers, "Content-Security-Policy: default-src 'self'; "));
        assert_non_null(strstr(world->conn.headers, "frame-ancestors 'none'"));
    }
}

static void test_health_and_metrics_are_json_and_not_cached(void **state)
{
    struct world *world = *state;

    assert_int_equal(ask(world, "GET", "/health", ""), 200);
    assert_string_equal(world->conn.type, "application/json");
    assert_non_null(strstr(world->conn.headers, "Cache-Control: no-store\r\n"));
    health_enter(&world->routes.health, HEALTH_DRAINING);
    assert_int_equal(ask(world, "HEAD", "/health", ""), 503);
    assert_int_equal(ask(world, "GET", "/health/ready", ""), 503);
    assert_int_equal(ask(world, "GET", "/health/live", ""), 200);
    world->status = STORE_FAILED;
    assert_int_equal(ask(world, "GET", "/health", ""), 503);
    assert_int_equal(ask(world, "GET", "/metrics", ""), 200);
    assert_non_null(strstr(world->conn.headers, "Cache-Control: no-store\r\n"));
    assert_non_null(json_object_get(world->conn.json, "workers"));
}

static void test_ws_without_an_upgrade_is_426(void **state)
{
    struct world *world = *state;

    assert_int_equal(ask(world, "GET", "/ws", ""), 426);
    assert_string_equal(error_code(world), "upgrade_required");
    assert_non_null(strstr(world->conn.headers, "Upgrade: websocket\r\n"));
}

static void test_upgrades_only_at_ws_and_not_while_draining(void **state)
{
    struct world *world = *state;
    struct http_request request = {.method = "GET", .path = "/ws", .query = "token=x"};
    const char *code = NULL, *message = NULL;

    assert_int_equal(routes_upgrade(&world->routes, &request, &code, &message), 0);
    health_enter(&world->routes.health, HEALTH_DRAINING);
    assert_int_equal(routes_upgrade(&world->routes, &request, &code, &message), 503);
    assert_string_equal(code, "unavailable");
    request.path = "/health";
    assert_int_equal(routes_upgrade(&world->routes, &request, &code, &message), 404);
    assert_string_equal(code, "not_found");
    assert_non_null(message);
}

static void test_rooms_members_and_messages_have_their_shape(void **state)
{
    struct world *world = *state;

    assert_int_equal(ask(world, "GET", "/api/rooms", ""), 200);
    body_is(world, "{\"rooms\":[{\"room\":\"general\",\"members\":13,\"seq\":58}]}");
    assert_non_null(strstr(world->conn.headers, "Cache-Control: no-store\r\n"));
    assert_int_equal(ask(world, "GET", "/api/rooms/a%20b/members", ""), 200);
    body_is(world, "{\"room\":\"a b\",\"count\":5,\"users\":[\"ana\",\"bo b\"]}");
    assert_string_equal(world->asked, "members of a b");
    assert_int_equal(ask(world, "GET", "/api/rooms/%d1%82%D0%B5:1/messages", ""), 200);
    body_is(world, "{\"room\":\"те:1\",\"messages\":[{\"seq\":7},{\"seq\":9}],\"more\":true}");
}

static void test_before_is_exclusive_and_limit_has_a_ceiling(void **state)
{
    static const char *const queries[][2] = {
        {"", "a (0, 9223372036854775806] 101"},
        {"other=x&beforehand=y", "a (0, 9223372036854775806] 101"},
        {"before=58&limit=50", "a (0, 57] 51"},
        {"limit=1&before=1", "window of a"}, /* nothing is below 1: the store isn't asked */
        {"limit=%35", "a (0, 9223372036854775806] 6"},
        {"limit=101", "a (0, 9223372036854775806] 101"},
        {"limit=9223372036854775807", "a (0, 9223372036854775806] 101"},
        {"before=9223372036854775807", "a (0, 9223372036854775806] 101"},
    };
    struct world *world = *state;

    for (size_t i = 0; i < sizeof(queries) / sizeof(*queries); i++) {
        assert_int_equal(ask(world, "GET", "/api/rooms/a/messages", queries[i][0]), 200);
        assert_string_equal(world->asked, queries[i][1]);
    }
}

static void test_a_wrong_number_is_400_and_named(void **state)
{
    static const char *const values[] = {"", "=", "=0", "=-1", "=+1", "=1.5", "=1e3", "=abc", "=1a", "=0x10",
                                         "=9223372036854775808", "=18446744073709551617", "=%", "=%zz",
                                         "=%00", "=1%00", "=%201"};
    static const char *const names[] = {"before", "limit"};
    struct world *world = *state;
    char query[64];

    for (size_t k = 0; k < 2; k++) {
        for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
            snprintf(query, sizeof(query), "x=1&%s%s&y=2", names[k], values[i]);
            if (ask(world, "GET", "/api/rooms/a/messages", query) != 400)
                fail_msg("%s gives %d", query, world->conn.status);
            assert_string_equal(error_code(world), "bad_request");
            assert_non_null(strstr(error_part(world, "message"), names[k]));
            assert_string_equal(world->asked, "");
        }
    }
}

static void test_a_wrong_room_is_400_and_nobody_is_asked(void **state)
{
    static const char *const rooms[] = {"", "%", "%2", "%zz", "%00", "a%00b", "%20a", "a%20", "a%20%20b",
                                        "a+b", "a%2Fb", "%ff", "%c3", "%23general", "..%2F"};
    struct world *world = *state;
    char path[600];

    for (size_t i = 0; i < sizeof(rooms) / sizeof(*rooms); i++) {
        snprintf(path, sizeof(path), "/api/rooms/%s/messages", rooms[i]);
        assert_int_equal(ask(world, "GET", path, ""), 400);
        assert_string_equal(error_code(world), "bad_room");
        snprintf(path, sizeof(path), "/api/rooms/%s/members", rooms[i]);
        assert_int_equal(ask(world, "GET", path, ""), 400);
        assert_string_equal(world->asked, "");
    }
    /* 128 bytes are a room, encoded three times as long; 129 are none. */
    for (size_t bytes = 128; bytes <= 129; bytes++) {
        snprintf(path, sizeof(path), "/api/rooms/");
        for (size_t i = 0; i < bytes; i++)
            strcat(path, "%61");
        strcat(path, "/members");
        assert_int_equal(ask(world, "GET", path, ""), bytes == 128 ? 200 : 400);
    }
}

static void test_a_bus_that_cannot_answer_is_503(void **state)
{
    struct world *world = *state;

    world->away = true;
    assert_int_equal(ask(world, "GET", "/api/rooms/a/messages", ""), 503);
    assert_string_equal(error_code(world), "unavailable");
    assert_string_equal(world->asked, "window of a");
}

static void test_a_store_that_cannot_answer_is_503(void **state)
{
    struct world *world = *state;

    world->status = STORE_FAILED;
    assert_int_equal(ask(world, "GET", "/api/rooms/a/messages", ""), 503);
    assert_string_equal(error_code(world), "unavailable");
    assert_non_null(strstr(world->conn.headers, "Retry-After: 1\r\n"));
    world->status = STORE_BUSY;
    assert_int_equal(ask(world, "GET", "/api/rooms/a/messages", ""), 503);
    assert_string_equal(error_code(world), "overloaded");
}

static void test_an_answer_that_comes_later_reaches_its_connection_once(void **state)
{
    struct world *world = *state;

    world->hold = true;
    assert_int_equal(ask(world, "GET", "/api/rooms/a/messages", ""), 0);
    assert_non_null(world->routes.lookups);
    release(world);
    assert_int_equal(world->conn.answers, 1);
    assert_int_equal(world->conn.status, 200);
    assert_null(world->routes.lookups);
    routes_closed(&world->routes, &world->conn);
}

static void test_a_connection_gone_before_its_answer_is_left_alone(void **state)
{
    static const char *const paths[] = {"/api/rooms", "/api/rooms/a/messages"};
    struct world *world = *state;
    struct conn other = {0};

    world->hold = true;
    for (size_t i = 0; i < 2; i++) {
        for (int status = STORE_OK; status <= STORE_FAILED; status++) {
            assert_int_equal(ask(world, "GET", paths[i], ""), 0);
            routes_closed(&world->routes, &other);
            assert_non_null(world->routes.lookups);
            routes_closed(&world->routes, &world->conn);
            assert_null(world->routes.lookups);
            world->status = status;
            release(world);
            assert_int_equal(world->conn.answers, 0);
        }
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_paths_mean_what_the_protocol_says),
        TEST(test_other_paths_are_404_whatever_the_method),
        TEST(test_other_methods_are_405_with_allow),
        TEST(test_options_of_everything_is_204_but_of_nothing_404),
        TEST(test_a_file_has_a_tag_for_each_form_and_is_304_for_who_has_it),
        TEST(test_metrics_come_in_the_form_that_accept_names),
        TEST(test_what_early_askers_may_ask),
        TEST(test_the_page_has_its_types_and_its_policy),
        TEST(test_health_and_metrics_are_json_and_not_cached),
        TEST(test_ws_without_an_upgrade_is_426),
        TEST(test_upgrades_only_at_ws_and_not_while_draining),
        TEST(test_rooms_members_and_messages_have_their_shape),
        TEST(test_before_is_exclusive_and_limit_has_a_ceiling),
        TEST(test_a_wrong_number_is_400_and_named),
        TEST(test_a_wrong_room_is_400_and_nobody_is_asked),
        TEST(test_a_store_that_cannot_answer_is_503),
        TEST(test_a_bus_that_cannot_answer_is_503),
        TEST(test_an_answer_that_comes_later_reaches_its_connection_once),
        TEST(test_a_connection_gone_before_its_answer_is_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
