/* session.c - one connection's user: which command goes where, refusals, the commands that still wait, and
 * that the user is still here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "chatd/names.h"
#include "core.h"

struct text session_user(const struct session *session)
{
    return (struct text){session->user, session->user_length};
}

size_t session_answer_space(const struct session *session)
{
    return conn_queued(session->conn) == 0 ? ANSWER_BYTES_MAX
                                           : (size_t)session->chat->config->send_queue_bytes / 2;
}

void session_answer(struct session *session, const struct buf *json)
{
    conn_send_text(session->conn, json->data, json->length);
}

void session_replay(struct session *session, const struct buf *json, uint32_t messages)
{
    if (conn_closing(session->conn))
        return;
    session_answer(session, json);
    metrics_add(replayed_total, messages);
}

static void send_error(struct session *session, struct text id, const char *code, const char *message,
                       int64_t retry_ms)
{
    struct buf *out = &session->chat->scratch;

    if (conn_closing(session->conn))
        return;
    out->length = 0;
    proto_error(out, id, code, message, retry_ms);
    session_answer(session, out);
    metrics_add(errors_total[metrics_error_of(code)], 1);
}

/* The abuse limit: so many refusals within its time and the connection is closed (1008). */
void session_refuse(struct session *session, struct text id, const char *code, const char *message)
{
    const struct config_rate *limit = &session->chat->config->abuse_limit;
    uint32_t now_s = (uint32_t)(session->chat->now_ms / 1000);

    send_error(session, id, code, message, 0);
    if ((int64_t)(now_s - session->refusals_since_s) * 1000 >= limit->per_ms) {
        session->refusals_since_s = now_s;
        session->refusals = 0;
    }
    if (session->refusals < UINT32_MAX)
        session->refusals++;
    if (limit->count <= 0 || session->refusals <= limit->count || conn_closing(session->conn))
        return;
    metrics_add(limited_total[METRICS_LIMIT_abuse], 1);
    conn_close(session->conn, CLOSE_ABUSE);
}

void session_retry(struct session *session, struct text id, const char *code, const char *message,
                   int64_t retry_ms)
{
    send_error(session, id, code, message, retry_ms);
}

bool pending_start(struct pending *pending, struct session *session, struct text id)
{
    if (session->pending_count >= session->chat->config->max_pending_per_connection) {
        metrics_add(limited_total[METRICS_LIMIT_pending], 1);
        session_retry(session, id, "overloaded", "too many commands of this connection wait for their answer",
                      1000);
        return false;
    }
    pending_hold(pending, session);
    pending->id = id.length > 0 ? strndup(id.data, id.length) : NULL;
    return true;
}

void pending_hold(struct pending *pending, struct session *session)
{
    pending->session = session;
    pending->id = NULL;
    pending->next = session->pendings;
    pending->link = &session->pendings;
    if (pending->next)
        pending->next->link = &pending->next;
    session->pendings = pending;
    session->pending_count++;
}

void pending_end(struct pending *pending)
{
    struct session *session = pending->session;

    free(pending->id);
    if (!session)
        return;
    *pending->link = pending->next;
    if (pending->next)
        pending->next->link = pending->link;
    pending->session = NULL;
    if (--session->pending_count == 0 && session->going_away)
        conn_close(session->conn, CLOSE_STOPPING);
}

struct text pending_id(const struct pending *pending)
{
    return (struct text){pending->id, pending->id ? strlen(pending->id) : 0};
}

void pending_fail(struct pending *pending, enum store_status status)
{
    if (!pending->session)
        return;
    if (status == STORE_BUSY)
        session_retry(pending->session, pending_id(pending), "overloaded",
                      "there is no place for more at the moment", 1000);
    else
        session_retry(pending->session, pending_id(pending), "unavailable",
                      "the server can't reach what this needs at the moment: try again", 2000);
}

static void keep_last(struct chat *chat, struct session *session)
{
    session->kept_before = chat->kept_last;
    session->kept_next = NULL;
    *(chat->kept_last ? &chat->kept_last->kept_next : &chat->kept) = session;
    chat->kept_last = session;
}

static void keep_no_more(struct chat *chat, struct session *session)
{
    *(session->kept_before ? &session->kept_before->kept_next : &chat->kept) = session->kept_next;
    *(session->kept_next ? &session->kept_next->kept_before : &chat->kept_last) = session->kept_before;
}

void session_keep(struct session *session)
{
    keep_last(session->chat, session);
    session->chat->signed_in++;
}

/* In turns, so many that each one's is up within half of session_ttl. A pause of this process makes up for no
 * more than one round. */
void session_keep_some(struct chat *chat, int64_t passed_ms)
{
    int64_t round_ms = chat->config->session_ttl / 2;

    chat->keep_due += (passed_ms < round_ms ? passed_ms : round_ms) * chat->signed_in;
    for (; chat->kept && chat->keep_due >= round_ms; chat->keep_due -= round_ms) {
        struct session *session = chat->kept;

        keep_no_more(chat, session);
        keep_last(chat, session);
        sessions_keep(chat->sessions, session_user(session), session->id);
        store_seen(chat->store, session_user(session));
    }
}

static void sign_out(struct session *session)
{
    struct chat *chat = session->chat;

    keep_no_more(chat, session);
    chat->signed_in--;
    sessions_keep(chat->sessions, session_user(session), session->id);
    store_seen(chat->store, session_user(session));
}

void chat_open(struct chat *chat, struct conn *conn, uint64_t address)
{
    struct session *session = calloc(1, sizeof(*session));

    if (!session)
        abort();
    session->chat = chat;
    session->conn = conn;
    session->address = address;
    conn_set_data(conn, session);
}

void chat_closed(struct chat *chat, struct conn *conn)
{
    struct session *session = conn_data(conn);

    if (!session)
        return;
    while (session->pendings) {
        struct pending *pending = session->pendings;

        session->pendings = pending->next;
        pending->session = NULL;
    }
    while (session->members)
        member_free(session->members);
    if (session->signed_in)
        sign_out(session);
    limit_disconnect(chat->limit, session->address, getpid());
    conn_set_data(conn, NULL);
    free(session);
}

static void leave_command(struct session *session, const struct command *command)
{
    struct room *room = room_find(session->chat, command->room);
    struct member *member = room ? member_find(session, room) : NULL;
    struct buf *out = &session->chat->scratch;

    if (!member) {
        session_refuse(session, command->id, "not_joined", "this connection is not in that room");
        return;
    }
    room_seal(room); /* what came before the leave still reaches it */
    member_free(member);
    sessions_room(session->chat->sessions, session_user(session), session->id, command->room, false);
    if (command->id.length == 0)
        return;
    out->length = 0;
    proto_begin(out, "left", command->id);
    proto_member(out, "room", command->room);
    buf_add_literal(out, "}");
    session_answer(session, out);
}

static void ping_command(struct session *session, const struct command *command)
{
    struct buf *out = &session->chat->scratch;

    if (command->id.length == 0)
        return;
    out->length = 0;
    proto_begin(out, "pong", command->id);
    buf_add_literal(out, "}");
    session_answer(session, out);
}

static bool room_name_ok(struct session *session, const struct command *command)
{
    if (!command->room.data || name_room_valid(command->room.data, command->room.length))
        return true;
    session_refuse(
        session, command->id, "bad_room",
        "a room name has 1 to 128 bytes of letters, marks, digits and -_.:@ with single spaces inside");
    return false;
}

static void carry_out(struct session *session, const struct command *command)
{
    if (command->type == COMMAND_HELLO) {
        hello_command(session, command);
        return;
    }
    if (!session->signed_in) {
        session_refuse(session, command->id, "unauthorized", "say hello first");
        return;
    }
    if (!room_name_ok(session, command))
        return;
    switch (command->type) {
    case COMMAND_JOIN:
        join_command(session, command);
        break;
    case COMMAND_MESSAGE:
        publish_command(session, command);
        break;
    case COMMAND_TYPING:
        typing_command(session, command);
        break;
    case COMMAND_HISTORY:
        history_command(session, command);
        break;
    case COMMAND_MEMBERS:
        members_command(session, command);
        break;
    case COMMAND_ROOMS:
        rooms_command(session, command);
        break;
    case COMMAND_LEAVE:
        leave_command(session, command);
        break;
    case COMMAND_PING:
        ping_command(session, command);
        break;
    case COMMAND_REFRESH:
        session_refuse(session, command->id, "bad_request",
                       "sign-in with a token is not built: there is nothing to refresh");
        break;
    case COMMAND_HELLO:
        break;
    }
}

static void carry_out_text(struct session *session, const char *text, size_t length)
{
    struct command command;
    struct refusal refusal;

    if (proto_parse(text, length, &command, &refusal))
        carry_out(session, &command);
    else
        session_refuse(session, command.id, refusal.code, refusal.message);
    proto_free(&command);
}

void session_text(struct conn *conn, const char *text, size_t length)
{
    struct session *session = conn_data(conn);

    if (session->going_away)
        return; /* it was told so; whatever it sends now it sends again elsewhere */
    if (!session->signed_in && session->pendings)
        hello_keep(session, text, length);
    else
        carry_out_text(session, text, length);
}

void chat_text(struct chat *chat, struct conn *conn, const char *text, size_t length)
{
    chat->now_ms = clock_monotonic_ms();
    chat->read_us = conn_read_us(conn);
    session_text(conn, text, length);
}

void chat_send_away(struct chat *chat, struct conn *conn, uint32_t after_ms)
{
    struct session *session = conn_data(conn);
    struct buf *out = &chat->scratch;

    if (session->going_away)
        return;
    session->going_away = true;
    out->length = 0;
    proto_begin(out, "reconnect", (struct text){NULL, 0});
    proto_number(out, "after_ms", after_ms);
    buf_add_literal(out, "}");
    session_answer(session, out);
    if (session->pending_count == 0)
        conn_close(conn, CLOSE_STOPPING);
}
