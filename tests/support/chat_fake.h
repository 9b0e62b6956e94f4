/* chat_fake.h - a world around src/chat for tests: a chat with connections, bus and store of fake_conn.h and
 * fake_bus.h, and what a test does with it in one line each. */
#ifndef CHATD_TESTS_CHAT_FAKE_H
#define CHATD_TESTS_CHAT_FAKE_H

#include "fake_bus.h"

/* One mapping per program: there is no way to give one back. */
static struct limit *shared_limit(void)
{
    static struct limit *limit;

    if (!limit)
        limit = limit_map();
    return limit;
}

HELPER struct world *world_new(void)
{
    static const struct bus_ops bus_ops = {.open = fake_open,
                                           .subscribe = fake_subscribe,
                                           .unsubscribe = fake_unsubscribe,
                                           .publish = fake_publish,
                                           .emit = fake_emit,
                                           .window = fake_window,
                                           .enter = fake_enter,
                                           .leave = fake_leave,
                                           .count = fake_count,
                                           .members = fake_members,
                                           .rooms = fake_rooms,
                                           .settle = fake_settle};
    static const struct store_ops store_ops = {.commit = fake_commit,
                                               .highest = fake_highest,
                                               .find = fake_find,
                                               .page = fake_store_page,
                                               .rooms = fake_store_rooms,
                                               .seen = fake_seen,
                                               .full = fake_full};
    static const struct sessions_ops sessions_ops = {.start = fake_session_start,
                                                     .find = fake_session_find,
                                                     .resume = fake_session_resume,
                                                     .room = fake_session_room,
                                                     .keep = fake_session_keep};
    struct world *w = calloc(1, sizeof(*w));

    config_defaults(&w->config);
    w->config.message_rate_limit.count = w->config.typing_rate_limit.count = 0;
    w->limit = shared_limit();
    w->last_call = &w->calls;
    w->bus.ops = &bus_ops;
    w->store.ops = &store_ops;
    w->sessions.ops = &sessions_ops;
    w->chat = chat_new(&w->config, w->limit);
    w->bus.handler = chat_bus_handler(w->chat);
    chat_connect(w->chat, &w->bus, &w->store, &w->sessions);
    return w;
}

HELPER struct fake_room *room_of(struct world *w, const char *name)
{
    return fake_room(w, (struct text){name, strlen(name)});
}

/* What a loop turn hands up, as bus_turn does, and the end of the turn. */
HELPER void turn(struct world *w)
{
    struct buf events = w->events;

    w->events = (struct buf)BUF_INIT;
    for (struct fake_room *r = w->rooms; r; r = r->next) {
        for (size_t i = 0; i < r->record_count; i++) {
            struct message message;

            if (!r->records[i].unseen || !r->subscribed)
                continue;
            r->records[i].unseen = false;
            message = message_of(r, &r->records[i]);
            w->bus.handler.on_record(w->bus.handler.arg, &message);
        }
    }
    for (size_t at = 0; at < events.length;) {
        struct text text[3];

        for (int i = 0; i < 3; i++) {
            text[i] = (struct text){events.data + at, strlen(events.data + at)};
            at += text[i].length + 1;
        }
        w->bus.handler.on_event(w->bus.handler.arg, text[0], text[1], text[2]);
    }
    buf_deinit(&events);
    chat_turn(w->chat);
}

/* Lets everything go until nothing waits. */
HELPER void settle(struct world *w)
{
    do
        turn(w);
    while (let_go(w, CALL_KINDS));
    turn(w);
}

/* A message of another worker's client. It is on its way to this worker, and in the store. */
HELPER void other_says(struct world *w, const char *room, const char *text)
{
    struct fake_room *r = room_of(w, room);
    struct buf bytes = BUF_INIT;
    size_t head;

    r->open = true;
    proto_message_head(&bytes, (struct text){room, strlen(room)});
    head = bytes.length;
    proto_message_tail(&bytes, (struct text){"other", 5}, (struct text){text, strlen(text)}, NOBODY);
    fake_append(r, (struct text){"other", 5}, NOBODY, (struct text){bytes.data, head},
                (struct text){bytes.data + head, bytes.length - head})
        ->committed = true;
    buf_deinit(&bytes);
}

/* What is in the inbox never comes. */
HELPER void lose(struct world *w)
{
    for (struct fake_room *r = w->rooms; r; r = r->next)
        for (size_t i = 0; i < r->record_count; i++)
            r->records[i].unseen = false;
}

HELPER struct conn *connect_new(struct world *w)
{
    struct conn *conn = &w->conns[w->conn_count++];

    assert(w->conn_count <= 64);
    conn->id = w->conn_count;
    chat_open(w->chat, conn, 0);
    return conn;
}

HELPER void say(struct world *w, struct conn *conn, const char *text)
{
    char *copy = copy_of((struct text){text, strlen(text)}); /* ends where it ends, for the sanitizers */

    if (conn->data && !conn->closing)
        chat_text(w->chat, conn, copy, strlen(text));
    free(copy);
}

HELPER void hang_up(struct world *w, struct conn *conn)
{
    conn->closing = true;
    if (conn->data)
        chat_closed(w->chat, conn);
    conn->data = NULL;
}

/* What it got since the last time, borrowed until the next call for the same connection. */
HELPER const char *got(struct conn *conn)
{
    buf_add(&conn->got, "", 1);
    conn->got.length = 0;
    return conn->got.data;
}

HELPER struct conn *sign_in(struct world *w, const char *user)
{
    struct conn *conn = connect_new(w);
    char text[128];

    snprintf(text, sizeof(text), "{\"type\":\"hello\",\"user\":\"%s\"}", user);
    say(w, conn, text);
    got(conn);
    return conn;
}

/* Ends the world; when all have gone chat must have given everything back. */
HELPER void world_free(struct world *w)
{
    memset(w->hold, 0, sizeof(w->hold));
    for (unsigned i = 0; i < w->conn_count; i++)
        hang_up(w, &w->conns[i]);
    settle(w);
    if (w->chat->rooms || w->chat->dirty || w->chat->openings || w->chat->orphans || w->chat->kept)
        abort();
    for (struct fake_room *r = w->rooms, *next; r; r = next) {
        if (r->subscribed || r->member_count > 0)
            abort();
        for (size_t i = 0; i < r->record_count; i++) {
            free(r->records[i].event);
            free(r->records[i].key);
        }
        free(r->records);
        next = r->next;
        free(r);
    }
    for (unsigned i = 0; i < w->conn_count; i++)
        buf_deinit(&w->conns[i].got);
    buf_deinit(&w->events);
    buf_deinit(&w->settled);
    chat_free(w->chat);
    free(w);
}

#endif
