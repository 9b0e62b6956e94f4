/* fake_conn.h - conn.h for tests of src/chat: connections that keep in words what they are sent, and check
 * its order. Defines the functions that chat calls, in the place of src/net's: included by one file per
 * program. */
#ifndef CHATD_TESTS_FAKE_CONN_H
#define CHATD_TESTS_FAKE_CONN_H

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "chatd/buf.h"
#include "chatd/clock.h"
#include "chatd/conn.h"
#include "chatd/frame.h"
#include "chatd/message.h"

#define HELPER __attribute__((unused)) static

struct conn {
    void *data;
    uint64_t id;
    size_t queued;
    bool closing;
    enum close_reason reason;
    struct buf got; /* what it was sent since it was last asked, in words: see describe */
    unsigned frames;
    struct {
        char room[MESSAGE_ROOM_MAX + 1];
        uint64_t seq;
    } last[8]; /* number per room: what comes next must be higher by one, but with `gaps` */
    bool gaps; /* it was told, or did something, that lets numbers be missing */
    void (*on_message)(struct conn *conn, const json_t *message);
};

void conn_set_data(struct conn *conn, void *data)
{
    conn->data = data;
}

void *conn_data(const struct conn *conn)
{
    return conn->data;
}

uint64_t conn_id(const struct conn *conn)
{
    return conn->id;
}

size_t conn_queued(const struct conn *conn)
{
    return conn->queued;
}

int64_t conn_read_us(const struct conn *conn)
{
    (void)conn;
    return clock_wall_us();
}

bool conn_closing(const struct conn *conn)
{
    return conn->closing;
}

void conn_close(struct conn *conn, enum close_reason reason)
{
    if (conn->closing)
        return;
    conn->closing = true;
    conn->reason = reason;
}

static const char *member_text(const json_t *message, const char *name)
{
    const char *text = json_string_value(json_object_get(message, name));

    return text ? text : "";
}

static long long member_number(const json_t *message, const char *name)
{
    return (long long)json_integer_value(json_object_get(message, name));
}

static void describe_list(struct buf *out, const json_t *message)
{
    const json_t *list = json_object_get(message, "messages"), *one;
    size_t i;

    buf_add_literal(out, "[");
    json_array_foreach(list, i, one) buf_printf(out, "%s%lld", i > 0 ? " " : "", member_number(one, "seq"));
    buf_add_literal(out, "]");
}

static void describe_rooms(struct buf *out, const json_t *message)
{
    const json_t *list = json_object_get(message, "rooms"), *one;
    size_t i;

    json_array_foreach(list, i, one) buf_printf(out, "%s%s", i > 0 ? " " : "[", json_string_value(one));
    buf_add_string(out, list ? "]" : "");
}

/* One word per message, so that a test can say in one line what a connection must have got: m7 |
 * joined=57[56 57] (`...` behind an incomplete one) | ack=58 | error=code (`+` with retry_ms) | join:ana/2
 * | leave:ana/1 | count/201 | on:ana | off:ana | history[1 2] (`...` with more) | welcome, when it resumes
 * rooms welcome[r s] | any other type by its name. An id stands behind as #id; messages of one frame are
 * tied by `+`. */
static void describe(struct buf *out, const json_t *m)
{
    const char *type = member_text(m, "type");
    char *id = json_object_get(m, "id") ? json_dumps(json_object_get(m, "id"), JSON_ENCODE_ANY) : NULL;

    if (strcmp(type, "message") == 0)
        buf_printf(out, "m%lld", member_number(m, "seq"));
    else if (strcmp(type, "joined") == 0) {
        buf_printf(out, "joined=%lld", member_number(m, "seq"));
        describe_list(out, m);
        buf_add_string(out, json_is_true(json_object_get(m, "complete")) ? "" : "...");
    } else if (strcmp(type, "history") == 0) {
        buf_add_string(out, type);
        describe_list(out, m);
        buf_add_string(out, json_is_true(json_object_get(m, "more")) ? "..." : "");
    } else if (strcmp(type, "ack") == 0)
        buf_printf(out, "ack=%lld", member_number(m, "seq"));
    else if (strcmp(type, "error") == 0)
        buf_printf(out, "error=%s%s", member_text(m, "code"), json_object_get(m, "retry_ms") ? "+" : "");
    else if (strcmp(type, "presence") == 0)
        buf_printf(out, "%s%s%s/%lld", member_text(m, "event"), json_object_get(m, "user") ? ":" : "",
                   member_text(m, "user"), member_number(m, "members"));
    else if (strcmp(type, "typing") == 0)
        buf_printf(out, "%s:%s", json_is_true(json_object_get(m, "on")) ? "on" : "off",
                   member_text(m, "user"));
    else {
        buf_add_string(out, type);
        if (strcmp(type, "welcome") == 0)
            describe_rooms(out, m);
    }
    if (id)
        buf_printf(out, "#%s", id);
    free(id);
}

/* Numbers rise one by one for every observer, from `joined.seq` on; a second join that failed may leave a
 * gap. */
static void check_order(struct conn *conn, const json_t *m)
{
    const char *type = member_text(m, "type"), *room = member_text(m, "room");
    bool joined = strcmp(type, "joined") == 0;
    uint64_t seq = (uint64_t)member_number(m, "seq");

    if (strcmp(type, "error") == 0 && json_object_get(m, "retry_ms"))
        conn->gaps = true;
    if (!joined && strcmp(type, "message") != 0)
        return;
    for (unsigned i = 0; i < 8; i++) {
        if (conn->last[i].room[0] == 0)
            snprintf(conn->last[i].room, sizeof(conn->last[i].room), "%s", room);
        if (strcmp(conn->last[i].room, room) != 0)
            continue;
        if (joined ? seq < conn->last[i].seq
                   : seq <= conn->last[i].seq || (seq > conn->last[i].seq + 1 && !conn->gaps)) {
            fprintf(stderr, "%s %llu after %llu\n", type, (unsigned long long)seq,
                    (unsigned long long)conn->last[i].seq);
            abort();
        }
        conn->last[i].seq = seq;
        return;
    }
}

/* Takes a finished frame apart again: every message in it is a JSON object. */
void conn_send(struct conn *conn, struct frame *frame)
{
    const unsigned char *at = (const unsigned char *)frame->data, *end = at + frame->length;

    unsigned messages = 0;

    if (conn->closing)
        return;
    conn->frames++;
    for (bool first = true; at < end; first = false) {
        size_t length = at[1], header = 2;
        json_t *message;

        if (length == 126) {
            length = (size_t)at[2] << 8 | at[3];
            header = 4;
        } else if (length == 127) {
            length = (size_t)at[6] << 24 | (size_t)at[7] << 16 | (size_t)at[8] << 8 | at[9];
            header = 10;
        }
        assert(at[0] == 0x81 && at + header + length <= end);
        message = json_loadb((const char *)at + header, length, JSON_ALLOW_NUL, NULL);
        if (!json_is_object(message))
            abort();
        if (conn->got.length > 0)
            buf_add(&conn->got, first ? " " : "+", 1);
        describe(&conn->got, message);
        check_order(conn, message);
        messages += strcmp(member_text(message, "type"), "message") == 0;
        if (conn->on_message)
            conn->on_message(conn, message);
        json_decref(message);
        at += header + length;
    }
    /* Live messages are stamped, and nothing else is. */
    assert(messages == (frame->stamps ? frame->stamps->count : 0));
}

void conn_send_text(struct conn *conn, const char *text, size_t length)
{
    struct frame *frame = frame_text(text, length);

    conn_send(conn, frame);
    frame_unref(frame);
}

#endif
