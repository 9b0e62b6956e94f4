/* api.c - rooms, their messages and members over HTTP.
 *
 * An answer that needs bus or store is kept in a struct api_lookup. It outlives a conn that goes away first,
 * and is freed by the answer, which always comes. The conn's data is left alone, since net_handler.on_close
 * can't tell whose it is. */
#include "api.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "answer.h"
#include "chatd/names.h"
#include "chatd/replay.h"
#include "chatd/rooms_list.h"

enum { API_MEMBERS_MAX = 1000 };

struct api_lookup {
    UT_hash_handle hh; /* in routes->lookups by conn, until the conn is gone */
    struct routes *routes;
    struct conn *conn; /* NULL once it is gone */
    size_t room_length;
    char room[MESSAGE_ROOM_MAX + 1];
};

static struct api_lookup *lookup_start(struct routes *routes, struct conn *conn)
{
    struct api_lookup *lookup = calloc(1, sizeof(*lookup));

    if (lookup == NULL)
        abort();
    lookup->routes = routes;
    lookup->conn = conn;
    HASH_ADD_PTR(routes->lookups, conn, lookup);
    return lookup;
}

/* lookup_start for a room that has to be decoded first; NULL when that was refused, and so answered. */
static struct api_lookup *lookup_start_room(struct routes *routes, struct conn *conn, struct text encoded)
{
    char room[MESSAGE_ROOM_MAX + 1];
    struct api_lookup *lookup;

    if (!http_decode(encoded.data, encoded.length, room, sizeof(room)) ||
        !name_room_valid(room, strlen(room))) {
        answer_error(conn, 400, NULL, "bad_room",
                     "a room is 1 to 128 bytes of letters, marks, digits, -_.:@ and single spaces inside");
        return NULL;
    }
    lookup = lookup_start(routes, conn);
    lookup->room_length = strlen(room);
    memcpy(lookup->room, room, lookup->room_length + 1);
    return lookup;
}

static struct text lookup_room(const struct api_lookup *lookup)
{
    return (struct text){lookup->room, lookup->room_length};
}

/* The lookup is over; returns who still waits for the answer, or NULL. */
static struct conn *lookup_end(struct api_lookup *lookup)
{
    struct conn *conn = lookup->conn;

    if (conn != NULL)
        HASH_DEL(lookup->routes->lookups, lookup);
    free(lookup);
    return conn;
}

static void lookup_answer(struct api_lookup *lookup, struct buf *json)
{
    struct conn *conn = lookup_end(lookup);

    if (conn != NULL)
        answer_json(conn, 200, json);
    buf_deinit(json);
}

/* Store or bus can't say: the client may try again soon. */
static void lookup_refuse(struct api_lookup *lookup, enum store_status status)
{
    struct conn *conn = lookup_end(lookup);

    if (conn == NULL)
        return;
    if (status == STORE_BUSY)
        answer_error(conn, 503, "Retry-After: 1\r\n", "overloaded", "too many requests wait for the store");
    else
        answer_error(conn, 503, "Retry-After: 1\r\n", "unavailable", "history can't be read now");
}

void api_closed(struct routes *routes, struct conn *conn)
{
    struct api_lookup *lookup;

    HASH_FIND_PTR(routes->lookups, &conn, lookup);
    if (lookup == NULL)
        return;
    HASH_DEL(routes->lookups, lookup);
    lookup->conn = NULL;
}

static void on_rooms(void *arg, const char *rooms, size_t length)
{
    struct buf json = BUF_INIT;

    buf_add_literal(&json, "{\"rooms\":");
    buf_add(&json, rooms, length);
    buf_add_literal(&json, "}");
    lookup_answer(arg, &json);
}

void api_rooms(struct routes *routes, struct conn *conn)
{
    rooms_list(routes->bus, routes->store, on_rooms, lookup_start(routes, conn));
}

static void on_members(void *arg, uint32_t count, const struct text *users, uint32_t listed)
{
    struct api_lookup *lookup = arg;
    struct buf json = BUF_INIT;

    buf_add_literal(&json, "{\"room\":");
    buf_add_json(&json, lookup->room, lookup->room_length);
    buf_add_literal(&json, ",\"count\":");
    buf_add_u64(&json, count);
    buf_add_literal(&json, ",\"users\":[");
    for (uint32_t i = 0; i < listed; i++) {
        if (i > 0)
            buf_add_literal(&json, ",");
        buf_add_json(&json, users[i].data, users[i].length);
    }
    buf_add_literal(&json, "]}");
    lookup_answer(lookup, &json);
}

void api_members(struct routes *routes, struct conn *conn, struct text room)
{
    struct api_lookup *lookup = lookup_start_room(routes, conn, room);

    if (lookup != NULL)
        bus_members(routes->bus, lookup_room(lookup), API_MEMBERS_MAX, on_members, lookup);
}

/* http_query can't tell a parameter that is absent from one that is broken; the one is fine, the other
 * refused. */
static bool query_has(const char *query, const char *name)
{
    size_t length = strlen(name);

    while (*query != '\0') {
        if (strncmp(query, name, length) == 0 && strchr("=&", query[length]) != NULL) /* or the end */
            return true;
        query += strcspn(query, "&");
        query += *query == '&';
    }
    return false;
}

/* A whole number from 1 to INT64_MAX (what SQLite holds) in *number, which stays as it is without the
 * parameter. */
static bool query_number(const char *query, const char *name, uint64_t *number)
{
    char digits[20];
    size_t length;

    if (!query_has(query, name))
        return true;
    if (!http_query(query, name, digits, sizeof(digits)))
        return false;
    /* Alone strtoull would take signs and blanks; 19 digits can't overflow it. */
    length = strspn(digits, "0123456789");
    if (length == 0 || digits[length] != '\0')
        return false;
    *number = strtoull(digits, NULL, 10);
    return *number >= 1 && *number <= INT64_MAX;
}

static void on_page(void *arg, enum store_status status, const struct page *page, bool more, bool pending)
{
    struct api_lookup *lookup = arg;
    struct buf json = BUF_INIT;

    (void)pending; /* it is history soon: who asks again finds it */
    if (status != STORE_OK) {
        lookup_refuse(lookup, status);
        return;
    }
    buf_reserve(&json, page->bytes.length + MESSAGE_ROOM_MAX + 64);
    buf_add_literal(&json, "{\"room\":");
    buf_add_json(&json, lookup->room, lookup->room_length);
    buf_add_literal(&json, ",\"messages\":");
    page_json(page, 0, &json);
    buf_add_string(&json, more ? ",\"more\":true}" : ",\"more\":false}");
    lookup_answer(lookup, &json);
}

void api_messages(struct routes *routes, struct conn *conn, struct text room, const char *query)
{
    uint64_t most = (uint64_t)routes->config->history_limit;
    uint64_t before = REPLAY_NEWEST, limit = most;
    struct api_lookup *lookup;

    if (!query_number(query, "before", &before)) {
        answer_error(conn, 400, NULL, "bad_request", "before is a whole number from 1");
        return;
    }
    if (!query_number(query, "limit", &limit)) {
        answer_error(conn, 400, NULL, "bad_request", "limit is a whole number from 1");
        return;
    }
    lookup = lookup_start_room(routes, conn, room);
    if (lookup != NULL)
        replay_start(routes->bus, routes->store, lookup_room(lookup), 0, before - 1,
                     (uint32_t)(limit < most ? limit : most), on_page, lookup);
}
