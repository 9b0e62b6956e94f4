/* session.c - one connection's user: sign-in, which command goes where, refusals, and the commands that
 * still wait. */
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

static void send_error(struct session *session, struct text id, const char *code, const char *message,
                       int64_t retry_ms)
{
    struct buf *out = &session->chat->scratch;

    out->length = 0;
    proto_error(out, id, code, message, retry_ms);
    session_answer(session, out);
    metrics_add(errors_total, 1);
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
    if (limit->count > 0 && session->refusals > limit->count)
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
        session_retry(session, id, "overloaded", "too many commands of this connection wait for their answer",
                      1000);
        return false;
    }
    pending->session = session;
    pending->id = id.length > 0 ? strndup(id.data, id.length) : NULL;
    pending->next = session->pendings;
    pending->link = &session->pendings;
    if (pending->next)
        pending->next->link = &pending->next;
    session->pendings = pending;
    session->pending_count++;
    return true;
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
        session_retry(pending->session, pending_id(pending), "unavailable", "the store can't be reached now",
                      2000);
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
    limit_disconnect(chat->limit, session->address, getpid());
    conn_set_data(conn, NULL);
    free(session);
}

/* The one answer that is sent without an id, too: it carries what a client can't ask for. */
static void welcome(struct session *session, const struct command *command, bool resumed)
{
    const struct config *config = session->chat->config;
    struct buf *out = &session->chat->scratch;
    char token[TOKEN_MAX];

    token_make(session->chat->session_key, session_user(session), clock_wall_ms(), token);
    out->length = 0;
    proto_begin(out, "welcome", command->id);
    proto_member(out, "user", session_user(session));
    proto_member(out, "session", (struct text){token, strlen(token)});
    buf_add_string(out, resumed ? ",\"resumed\":true" : ",\"resumed\":false");
    buf_printf(
        out, ",\"limits\":{\"text\":%lld,\"join\":%lld,\"history\":%lld,\"message\":%lld,\"rooms\":%lld}}",
        (long long)config->max_text_bytes, (long long)config->join_limit, (long long)config->history_limit,
        (long long)config->max_message_bytes, (long long)config->max_rooms_per_connection);
    session_answer(session, out);
}

/* A session token that is still good resumes its user; one that isn't, or is another user's, is no reason
 * to refuse. */
static void hello_command(struct session *session, const struct command *command)
{
    struct chat *chat = session->chat;
    struct text user = command->user;
    char resumed[MESSAGE_USER_MAX];
    size_t length = 0;

    if (session->signed_in) {
        session_refuse(session, command->id, "bad_request", "hello was said already on this connection");
        return;
    }
    if (command->session.data)
        length = token_check(chat->session_key, command->session, clock_wall_ms(), chat->config->session_ttl,
                             resumed);
    if (!user.data && length > 0)
        user = (struct text){resumed, length};
    if (!user.data) {
        session_refuse(session, command->id, "bad_request",
                       "user must be a string, or session one from a welcome");
        return;
    }
    if (!name_user_valid(user.data, user.length)) {
        session_refuse(
            session, command->id, "bad_name",
            "a user name has 1 to 64 bytes of letters, marks, digits and -_.:@ with single spaces inside");
        return;
    }
    session = realloc(session, sizeof(*session) + user.length);
    if (!session)
        abort();
    conn_set_data(session->conn, session); /* nobody else has its address before it is signed in */
    memcpy(session->user, user.data, user.length);
    session->user_length = (uint8_t)user.length;
    session->signed_in = true;
    welcome(session, command, length == user.length && memcmp(resumed, user.data, length) == 0);
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

void chat_text(struct chat *chat, struct conn *conn, const char *text, size_t length)
{
    struct session *session = conn_data(conn);
    struct command command;
    struct refusal refusal;

    chat->now_ms = clock_monotonic_ms();
    if (session->going_away)
        return; /* it was told so; whatever it sends now it sends again elsewhere */
    if (proto_parse(text, length, &command, &refusal))
        carry_out(session, &command);
    else
        session_refuse(session, command.id, refusal.code, refusal.message);
    proto_free(&command);
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
