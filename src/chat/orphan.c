/* orphan.c - messages that were accepted but whose publisher is gone: those of dead workers, which the bus
 * hands up, and those that the store could only spool before it stopped. Nobody here waits for an ack of
 * theirs. */
#include <stdlib.h>

#include "chatd/log.h"
#include "core.h"

enum { ORPHANS_MAX = 1000 }; /* at a time; the bus brings the others again */

struct orphan {
    struct chat *chat;
    struct message message; /* its texts point into data */
    char data[];
};

static struct orphan *orphan_new(struct chat *chat, const struct message *m)
{
    struct orphan *orphan =
        malloc(sizeof(*orphan) + m->room.length + m->user.length + m->key.length + m->event.length);
    char *to;

    if (!orphan)
        abort();
    orphan->chat = chat;
    orphan->message = *m;
    to = text_keep(orphan->data, &orphan->message.room);
    to = text_keep(to, &orphan->message.user);
    to = text_keep(to, &orphan->message.key);
    text_keep(to, &orphan->message.event);
    chat->orphans++;
    return orphan;
}

static void orphan_end(struct orphan *orphan)
{
    orphan->chat->orphans--;
    free(orphan);
}

/* Stored or not: one that isn't comes again. */
static void on_again(void *arg, enum store_status status, uint64_t seq)
{
    (void)status, (void)seq;
    orphan_end(arg);
}

static void again(struct orphan *orphan)
{
    const struct message *m = &orphan->message;

    if (publish_again(orphan->chat, m, true, on_again, orphan))
        return;
    log_error("orphan_unreadable", "room=%.*s seq=%llu", (int)m->room.length, m->room.data,
              (unsigned long long)m->seq);
    orphan_end(orphan);
}

static void on_committed(void *arg, enum store_status status, uint64_t seq)
{
    struct orphan *orphan = arg;

    if (status == STORE_MOVED) {
        again(orphan);
        return;
    }
    if (status == STORE_OK)
        bus_settle(orphan->chat->bus, &orphan->message, seq);
    orphan_end(orphan);
}

void orphan_take(struct chat *chat, const struct message *message, bool stands)
{
    struct orphan *orphan;

    if (chat->orphans >= ORPHANS_MAX)
        return;
    orphan = orphan_new(chat, message);
    if (stands)
        store_commit(chat->store, &orphan->message, on_committed, orphan);
    else
        again(orphan);
}

void chat_spooled(struct chat *chat, const struct message *message, store_on_number *done, void *done_arg)
{
    if (publish_again(chat, message, false, done, done_arg))
        return;
    log_error("spooled_unreadable", "room=%.*s seq=%llu", (int)message->room.length, message->room.data,
              (unsigned long long)message->seq);
    done(done_arg, STORE_FAILED, 0);
}
