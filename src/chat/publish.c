/* publish.c - the way of a message: judged, published under a number, stored, acknowledged.
 *
 * The event's bytes are made here, once. Members get them from the bus, the sender too; the ack waits for
 * the store and for nothing else. A refused message was seen by nobody. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

struct publishing {
    struct pending pending;
    struct chat *chat;
    struct bus_publish publish; /* its texts point into data */
    char data[];
};

static void publishing_free(struct publishing *p)
{
    pending_end(&p->pending);
    free(p);
}

static void acknowledge(struct publishing *p, uint64_t seq)
{
    struct session *session = p->pending.session;
    struct buf *out = &p->chat->scratch;

    if (!session || !p->pending.id)
        return;
    out->length = 0;
    proto_begin(out, "ack", pending_id(&p->pending));
    proto_member(out, "room", p->publish.room);
    proto_number(out, "seq", seq);
    if (p->publish.key.length > 0)
        proto_member(out, "key", p->publish.key);
    buf_add_literal(out, "}");
    session_answer(session, out);
    metrics_add(acks_total, 1);
}

static void on_stored(void *arg, enum store_status status, uint64_t seq)
{
    struct publishing *p = arg;

    if (status == STORE_OK)
        acknowledge(p, seq);
    else
        pending_fail(&p->pending, status);
    publishing_free(p);
}

static void publish(struct publishing *p);

/* A retry that the window doesn't know: has the store got it? Only then may it get a number (rule 6). */
static void on_asked(void *arg, enum store_status status, uint64_t seq)
{
    struct publishing *p = arg;

    if (status != STORE_NONE) {
        on_stored(p, status, seq);
        return;
    }
    p->publish.asked = true;
    publish(p);
}

static void on_opened(void *arg, enum bus_status status)
{
    struct publishing *p = arg;

    if (status == BUS_OK)
        publish(p);
    else
        on_stored(p, STORE_BUSY, 0);
}

static void on_highest(void *arg, enum store_status status, uint64_t highest)
{
    struct publishing *p = arg;
    const struct room *room = room_find(p->chat, p->publish.room);
    uint64_t known = status == STORE_OK ? highest : 0;

    if (status != STORE_OK && status != STORE_NONE) {
        on_stored(p, status, 0);
        return;
    }
    /* Members here may have been given numbers that the store hasn't got yet: those aren't given again
     * (rule 2). */
    if (room && room->seen > known)
        known = room->seen;
    bus_open(p->chat->bus, p->publish.room, known, on_opened, p);
}

static void on_published(void *arg, enum bus_status status, const struct message *message)
{
    struct publishing *p = arg;

    switch (status) {
    case BUS_OK:
        metrics_add(messages_total, 1);
        store_commit(p->chat->store, message, on_stored, p);
        break;
    case BUS_DUPLICATE:
        store_commit(p->chat->store, message, on_stored, p);
        break;
    case BUS_NOT_FOUND_IN_WINDOW:
        store_find(p->chat->store, p->publish.room, p->publish.user, p->publish.key, on_asked, p);
        break;
    case BUS_NOT_OPEN:
        store_highest(p->chat->store, p->publish.room, on_highest, p);
        break;
    case BUS_FULL:
        if (p->pending.session)
            session_retry(p->pending.session, pending_id(&p->pending), "overloaded",
                          "the store is behind: messages can't be taken for the moment", 1000);
        publishing_free(p);
        break;
    }
}

static void publish(struct publishing *p)
{
    bus_publish(p->chat->bus, &p->publish, on_published, p);
}

static char *keep(char *to, struct text *text)
{
    if (text->length > 0)
        memcpy(to, text->data, text->length);
    text->data = to;
    return to + text->length;
}

static struct publishing *publishing_new(struct session *session, const struct command *command)
{
    struct buf *out = &session->chat->scratch;
    struct bus_publish publish = {.room = command->room, .user = session_user(session), .key = command->key,
                                  .retry = command->retry};
    struct publishing *p;
    char *to;

    out->length = 0;
    proto_message_head(out, command->room);
    publish.head.length = out->length;
    proto_message_tail(out, publish.user, command->text, command->key);
    publish.tail.length = out->length - publish.head.length;
    publish.head.data = out->data;
    publish.tail.data = out->data + publish.head.length;
    p = malloc(sizeof(*p) + publish.room.length + publish.user.length + publish.key.length + out->length);
    if (!p)
        abort();
    p->chat = session->chat;
    to = keep(p->data, &publish.room);
    to = keep(to, &publish.user);
    to = keep(to, &publish.key);
    to = keep(to, &publish.head);
    keep(to, &publish.tail);
    p->publish = publish;
    return p;
}

/* What is wrong with the message itself; the rate comes last, so that a mistake costs no token. */
static bool judge(struct session *session, const struct command *command)
{
    const struct config *config = session->chat->config;
    const struct room *room = room_find(session->chat, command->room);
    char reason[96];
    int64_t wait_ms;

    if (!room || !member_find(session, room)) {
        session_refuse(session, command->id, "not_joined", "this connection is not in that room");
        return false;
    }
    if (command->text.length == 0) {
        session_refuse(session, command->id, "bad_request", "text must have at least 1 byte");
        return false;
    }
    if (command->text.length > (size_t)config->max_text_bytes) {
        snprintf(reason, sizeof(reason), "text may have %lld bytes at most",
                 (long long)config->max_text_bytes);
        session_refuse(session, command->id, "too_large", reason);
        return false;
    }
    if (command->key.length > MESSAGE_KEY_MAX) {
        session_refuse(session, command->id, "bad_request", "key may have 128 bytes at most");
        return false;
    }
    wait_ms = limit_take(session->chat->limit, LIMIT_MESSAGE, session->user, session->user_length,
                         config->message_rate_limit, session->chat->now_ms);
    if (wait_ms > 0)
        session_retry(session, command->id, "rate_limited", "too many messages of this user", wait_ms);
    return wait_ms == 0;
}

void publish_command(struct session *session, const struct command *command)
{
    struct publishing *p;

    if (!judge(session, command))
        return;
    p = publishing_new(session, command);
    if (!pending_start(&p->pending, session, command->id)) {
        free(p);
        return;
    }
    publish(p);
}
