/* publish.c - the way of a message: judged, published under a number, stored, acknowledged.
 *
 * The event's bytes are made here, once. Members get them from the bus, the sender too; the ack waits for
 * the store and for nothing else. A refused message was seen by nobody.
 *
 * What a message is published under needn't be what it is stored under: its key may be stored already, or
 * the number may have become void before the store had it, and then it is published once more. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

/* So often a room is opened for a message, or it gets another number; then it has failed. */
enum { PUBLISH_TRIES = 5 };

struct publishing {
    struct pending pending; /* without a session when it comes from publish_again */
    struct join_wait behind; /* a join, before it is published */
    struct chat *chat;
    struct bus_publish publish; /* its texts point into data */
    struct message published;   /* number, time and position of the last time; seq 0: never; and its uid */
    unsigned tries;
    store_on_number *done;      /* of publish_again */
    void *done_arg;
    char data[];
};

static void acknowledge(struct publishing *p, uint64_t seq)
{
    struct session *session = p->pending.session;
    struct buf *out = &p->chat->scratch;

    if (!session || !p->pending.id || conn_closing(session->conn))
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

static void finish(struct publishing *p, enum store_status status, uint64_t seq)
{
    /* The bus knows it by the number it was published under, whatever the store calls it. */
    if (status == STORE_OK && p->published.seq != 0)
        bus_settle(p->chat->bus, &p->published, seq);
    if (p->done)
        p->done(p->done_arg, status == STORE_OK || status == STORE_BUSY ? status : STORE_FAILED, seq);
    else if (status == STORE_OK)
        acknowledge(p, seq);
    else
        pending_fail(&p->pending, status);
    pending_end(&p->pending);
    free(p);
}

static void publish(struct publishing *p);

static void on_stored(void *arg, enum store_status status, uint64_t seq)
{
    struct publishing *p = arg;

    if (status != STORE_MOVED || ++p->tries > PUBLISH_TRIES) {
        finish(p, status, seq);
        return;
    }
    /* Its number is void now. Members have seen it: whoever sent it may be gone, it isn't dropped any
     * more. */
    p->publish.instead_of = p->published.seq;
    p->publish.number = 0;
    p->publish.uid = p->published.uid;
    p->publish.wanted = NULL;
    publish(p);
}

/* A retry that the window doesn't know: has the store got it? Only then may it get a number (rule 6). */
static void on_asked(void *arg, enum store_status status, uint64_t seq)
{
    struct publishing *p = arg;

    if (status != STORE_NONE) {
        finish(p, status, seq);
        return;
    }
    p->publish.asked = true;
    publish(p);
}

static void on_opened(void *arg, enum store_status status)
{
    if (status == STORE_OK)
        publish(arg);
    else
        finish(arg, status, 0);
}

static void note_published(struct publishing *p, const struct message *message)
{
    p->published = *message;
    p->published.room = p->publish.room;
    p->published.user = p->publish.user;
    p->published.key = p->publish.key;
    p->published.event = (struct text){NULL, 0};
}

static void commit(struct publishing *p, const struct message *message)
{
    note_published(p, message);
    store_commit(p->chat->store, message, on_stored, p);
}

/* The next try is of the same message: should this one have got through after all, it is found by its uid. */
static void keep_uid(struct publishing *p, const struct message *message)
{
    if (p->publish.uid)
        return;
    memcpy(p->published.uid, message->uid, MESSAGE_UID_SIZE);
    p->publish.uid = p->published.uid;
}

static void on_published(void *arg, enum bus_status status, const struct message *message)
{
    struct publishing *p = arg;

    switch (status) {
    case BUS_OK:
        /* One that was published before was counted then. */
        if (!p->done && p->publish.instead_of == 0)
            metrics_add(messages_total, 1);
        commit(p, message);
        break;
    case BUS_DUPLICATE:
        commit(p, message);
        break;
    case BUS_NOT_FOUND_IN_WINDOW:
        keep_uid(p, message);
        store_find(p->chat->store, p->publish.room, p->publish.user, p->publish.key, p->publish.uid,
                   on_asked, p);
        break;
    case BUS_NOT_OPEN:
        keep_uid(p, message);
        if (++p->tries > PUBLISH_TRIES)
            finish(p, STORE_FAILED, 0);
        else
            opening_start(p->chat, p->publish.room, on_opened, p);
        break;
    case BUS_FULL:
    case BUS_FAILED:
        finish(p, status_of_bus(status), 0);
        break;
    }
}

static void publish(struct publishing *p)
{
    bus_publish(p->chat->bus, &p->publish, on_published, p);
}

/* With copies of the texts. */
static struct publishing *publishing_new(struct chat *chat, struct bus_publish publish)
{
    struct publishing *p = malloc(sizeof(*p) + publish.room.length + publish.user.length +
                                  publish.key.length + publish.head.length + publish.tail.length);
    char *to;

    if (!p)
        abort();
    to = text_keep(p->data, &publish.room);
    to = text_keep(to, &publish.user);
    to = text_keep(to, &publish.key);
    to = text_keep(to, &publish.head);
    text_keep(to, &publish.tail);
    p->pending = (struct pending){0};
    p->chat = chat;
    p->publish = publish;
    p->published = (struct message){0};
    p->tries = 0;
    p->done = NULL;
    return p;
}

static bool has_sender(void *arg)
{
    return ((struct publishing *)arg)->pending.session != NULL;
}

static struct publishing *publishing_of(struct session *session, const struct command *command)
{
    struct buf *out = &session->chat->scratch;
    struct bus_publish publish = {.room = command->room, .user = session_user(session), .key = command->key,
                                  .received_us = session->chat->read_us, .retry = command->retry,
                                  .wanted = has_sender};

    out->length = 0;
    proto_message_head(out, command->room);
    publish.head.length = out->length;
    proto_message_tail(out, publish.user, command->text, command->key);
    publish.tail.length = out->length - publish.head.length;
    publish.head.data = out->data;
    publish.tail.data = out->data + publish.head.length;
    return publishing_new(session->chat, publish);
}

/* What is wrong with the message itself. */
static bool judge(struct session *session, const struct command *command)
{
    const struct config *config = session->chat->config;
    char reason[96];

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
    return true;
}

/* Whether it may be sent now; the rate comes last, so that nothing that is refused costs a token. */
static bool admit(struct session *session, const struct command *command)
{
    int64_t wait_ms;

    if (store_full(session->chat->store)) {
        metrics_add(limited_total[METRICS_LIMIT_store_queue], 1);
        session_retry(session, command->id, "overloaded",
                      "the store is behind: messages can't be taken for the moment", 1000);
        return false;
    }
    wait_ms = limit_take(session->chat->limit, LIMIT_MESSAGE, session->user, session->user_length,
                         session->chat->config->message_rate_limit, session->chat->now_ms);
    if (wait_ms > 0) {
        metrics_add(limited_total[METRICS_LIMIT_messages], 1);
        session_retry(session, command->id, "rate_limited", "too many messages of this user", wait_ms);
    }
    return wait_ms == 0;
}

static void on_joined(struct join_wait *behind, bool joined)
{
    struct publishing *p = (struct publishing *)((char *)behind - offsetof(struct publishing, behind));

    if (joined)
        publish(p);
    else
        finish(p, STORE_FAILED, 0);
}

void publish_command(struct session *session, const struct command *command)
{
    const struct room *room = room_find(session->chat, command->room);
    const struct member *member = room ? member_find(session, room) : NULL;
    struct publishing *p;

    if (!member) {
        session_refuse(session, command->id, "not_joined", "this connection is not in that room");
        return;
    }
    if (!judge(session, command) || !admit(session, command))
        return;
    p = publishing_of(session, command);
    if (!pending_start(&p->pending, session, command->id)) {
        free(p);
        return;
    }
    p->behind.go = on_joined;
    if (!join_wait(member, &p->behind))
        publish(p);
}

/* The event's bytes before and behind number and time. A room's name has no quotes in it, so the first
 * place that looks like these is the one. */
static bool split(const struct message *message, struct text *head, struct text *tail)
{
    char number[80];
    int length = snprintf(number, sizeof(number), "\"seq\":%llu,\"time\":%lld",
                          (unsigned long long)message->seq, (long long)message->time_ms);
    const struct text *event = &message->event;
    const char *at = event->length > 0 ? memmem(event->data, event->length, number, (size_t)length) : NULL;

    if (!at)
        return false;
    *head = (struct text){event->data, (size_t)(at - event->data) + strlen("\"seq\":")};
    tail->data = at + length;
    tail->length = event->length - (size_t)(tail->data - event->data);
    return true;
}

bool publish_again(struct chat *chat, const struct message *message, bool is_void, store_on_number *done,
                   void *done_arg)
{
    struct bus_publish publish = {.room = message->room, .user = message->user, .key = message->key,
                                  .received_us = message->received_us, .retry = true,
                                  .instead_of = is_void ? message->seq : 0,
                                  .number = is_void ? 0 : message->seq};
    struct publishing *p;

    if (!split(message, &publish.head, &publish.tail))
        return false;
    p = publishing_new(chat, publish);
    note_published(p, message);
    p->publish.uid = p->published.uid;
    p->done = done;
    p->done_arg = done_arg;
    bus_publish(chat->bus, &p->publish, on_published, p);
    return true;
}
