/* hello.c - sign-in: who a connection is, and whether it goes on as a session that was here before.
 *
 * Looking a session up may take a moment. What the client sends behind its hello waits meanwhile, in
 * bounds, and is carried out in order after the welcome: nobody is told `unauthorized` for being quick. */
#include <stdlib.h>
#include <string.h>

#include "chatd/log.h"
#include "chatd/names.h"
#include "core.h"

enum { HELLO_TEXTS_MAX = 64, HELLO_BYTES_MAX = 256 * 1024 }; /* that wait behind one hello */

struct kept_text {
    size_t length;
    int64_t read_us;
};

struct hello {
    struct pending pending;
    uint32_t texts_count;
    struct buf texts; /* each behind its struct kept_text */
    uint8_t user_length; /* 0: none given */
    char user[MESSAGE_USER_MAX];
};

/* The one answer that is sent without an id, too: it carries what a client can't ask for. */
static void welcome(struct session *session, struct text id, const char *token,
                    const struct sessions_found *resumed)
{
    const struct config *config = session->chat->config;
    struct buf *out = &session->chat->scratch;
    char connection[CONN_ID_SIZE];

    out->length = 0;
    proto_begin(out, "welcome", id);
    proto_member(out, "user", session_user(session));
    proto_member(out, "session", (struct text){token, strlen(token)});
    buf_add_string(out, resumed ? ",\"resumed\":true" : ",\"resumed\":false");
    for (uint32_t i = 0; resumed && i < resumed->room_count; i++) {
        buf_add_string(out, i == 0 ? ",\"rooms\":[" : ",");
        buf_add_json(out, resumed->rooms[i].data, resumed->rooms[i].length);
    }
    if (resumed && resumed->room_count > 0)
        buf_add_literal(out, "]");
    conn_id_text(conn_id(session->conn), connection);
    proto_member(out, "connection", (struct text){connection, strlen(connection)});
    buf_printf(
        out, ",\"limits\":{\"text\":%lld,\"join\":%lld,\"history\":%lld,\"message\":%lld,\"rooms\":%lld}}",
        (long long)config->max_text_bytes, (long long)config->join_limit, (long long)config->history_limit,
        (long long)config->max_message_bytes, (long long)config->max_rooms_per_connection);
    session_answer(session, out);
}

static void log_sign_in(const struct session *session, bool resumed)
{
    char connection[CONN_ID_SIZE];

    if (!log_wants(LOG_DEBUG))
        return;
    conn_id_text(conn_id(session->conn), connection);
    log_debug("signed_in", "connection=%s user=%.*s resumed=%s", connection, (int)session->user_length,
              session->user, resumed ? "yes" : "no");
}

/* `resumed` is the session that goes on, NULL for a new one. */
static void sign_in(struct session *session, struct text user, struct text id,
                    const struct sessions_found *resumed)
{
    struct chat *chat = session->chat;
    char token[SESSIONS_TOKEN_MAX];

    session = realloc(session, sizeof(*session) + user.length);
    if (!session)
        abort();
    conn_set_data(session->conn, session); /* nobody else has its address before it is signed in */
    memcpy(session->user, user.data, user.length);
    session->user_length = (uint8_t)user.length;
    session->signed_in = true;
    if (resumed) {
        memcpy(session->id, resumed->id, SESSIONS_ID_SIZE);
        sessions_resume(chat->sessions, session_user(session), session->id, token);
    } else {
        sessions_start(chat->sessions, session_user(session), session->id, token);
    }
    session_keep(session);
    store_seen(chat->store, session_user(session));
    log_sign_in(session, resumed != NULL);
    welcome(session, id, token, resumed);
    for (uint32_t i = 0; resumed && i < resumed->room_count; i++)
        join_resumed(session, resumed->rooms[i]);
}

static bool user_ok(struct session *session, struct text id, struct text user)
{
    if (name_user_valid(user.data, user.length))
        return true;
    session_refuse(
        session, id, "bad_name",
        "a user name has 1 to 64 bytes of letters, marks, digits and -_.:@ with single spaces inside");
    return false;
}

static void refuse_nobody(struct session *session, struct text id)
{
    session_refuse(session, id, "bad_request", "user must be a string, or session one from a welcome");
}

/* Each may be another hello, after a refused one: then the rest waits behind that. */
static void carry_out_texts(struct chat *chat, struct conn *conn, const struct buf *texts)
{
    for (size_t at = 0; at < texts->length;) {
        struct kept_text kept;

        memcpy(&kept, texts->data + at, sizeof(kept));
        at += sizeof(kept);
        chat->read_us = kept.read_us;
        session_text(conn, texts->data + at, kept.length);
        at += kept.length;
    }
}

static bool is_user(const struct hello *hello, struct text user)
{
    return hello->user_length == 0 ||
           (hello->user_length == user.length && memcmp(hello->user, user.data, user.length) == 0);
}

/* A session that is still good resumes its user; one that isn't, or is another user's, is no reason to
 * refuse. The hello itself waits no more: the session moves when it is signed in. */
static void answer(struct hello *hello, struct session *session, struct text id,
                   const struct sessions_found *found)
{
    bool known = !found->failed && found->user.length > 0 && is_user(hello, found->user);

    if (known)
        sign_in(session, found->user, id, found);
    else if (hello->user_length > 0)
        sign_in(session, (struct text){hello->user, hello->user_length}, id, NULL);
    else if (found->failed)
        session_retry(session, id, "unavailable", "the session can't be looked up now", 2000);
    else
        refuse_nobody(session, id);
}

static void on_found(void *arg, const struct sessions_found *found)
{
    struct hello *hello = arg;
    struct session *session = hello->pending.session;
    struct conn *conn = session ? session->conn : NULL;
    struct chat *chat = session ? session->chat : NULL;
    char *id = hello->pending.id;

    hello->pending.id = NULL;
    pending_end(&hello->pending);
    if (conn && !session->going_away) {
        answer(hello, session, (struct text){id, id ? strlen(id) : 0}, found);
        carry_out_texts(chat, conn, &hello->texts);
    }
    free(id);
    buf_deinit(&hello->texts);
    free(hello);
}

static void look_up(struct session *session, const struct command *command)
{
    struct hello *hello = calloc(1, sizeof(*hello));

    if (!hello)
        abort();
    if (!pending_start(&hello->pending, session, command->id)) {
        free(hello);
        return;
    }
    hello->user_length = command->user.data ? (uint8_t)command->user.length : 0;
    if (hello->user_length > 0)
        memcpy(hello->user, command->user.data, hello->user_length);
    sessions_find(session->chat->sessions, command->session, on_found, hello);
}

void hello_keep(struct session *session, const char *text, size_t length)
{
    struct hello *hello = (struct hello *)session->pendings; /* nothing else waits before the welcome */
    struct kept_text kept = {length, session->chat->read_us};
    struct command command;
    struct refusal refusal;

    if (hello->texts_count < HELLO_TEXTS_MAX && hello->texts.length + length <= HELLO_BYTES_MAX) {
        hello->texts_count++;
        buf_add(&hello->texts, &kept, sizeof(kept));
        buf_add(&hello->texts, text, length);
        return;
    }
    if (proto_parse(text, length, &command, &refusal)) {
        metrics_add(limited_total[METRICS_LIMIT_pending], 1);
        session_retry(session, command.id, "overloaded", "too many commands wait for the welcome", 1000);
    } else {
        session_refuse(session, command.id, refusal.code, refusal.message);
    }
    proto_free(&command);
}

void hello_command(struct session *session, const struct command *command)
{
    if (session->signed_in)
        session_refuse(session, command->id, "bad_request", "hello was said already on this connection");
    else if (command->user.data && !user_ok(session, command->id, command->user))
        return;
    else if (command->session.data)
        look_up(session, command);
    else if (command->user.data)
        sign_in(session, command->user, command->id, NULL);
    else
        refuse_nobody(session, command->id);
}
