/* chat.c - the chat of one worker: made, connected, ticked; and where the bus's calls are handed to rooms. */
#include <stdlib.h>

#include "chatd/clock.h"
#include "core.h"

static void on_record(void *arg, const struct message *message)
{
    struct room *room = room_find(arg, message->room);

    if (room)
        room_record(room, message);
}

static void on_event(void *arg, struct text name, struct text user, struct text event)
{
    struct room *room = room_find(arg, name);

    if (room)
        presence_event(room, user, event);
}

static void on_lost(void *arg, struct text name)
{
    struct chat *chat = arg;
    struct room *room, *next;

    if (name.length > 0) {
        room = room_find(chat, name);
        if (room)
            catch_up_start(room);
        return;
    }
    HASH_ITER(hh, chat->rooms, room, next)
        catch_up_start(room);
}

static void on_gone(void *arg, struct text room, struct text user, uint32_t members)
{
    presence_changed(arg, room, user, false, members);
}

static void on_orphan(void *arg, const struct message *message, bool stands)
{
    orphan_take(arg, message, stands);
}

struct bus_handler chat_bus_handler(struct chat *chat)
{
    return (struct bus_handler){chat, on_record, on_event, on_lost, on_gone, on_orphan};
}

struct chat *chat_new(const struct config *config, struct limit *limit)
{
    struct chat *chat = calloc(1, sizeof(*chat));

    if (!chat)
        abort();
    chat->config = config;
    chat->limit = limit;
    chat->now_ms = chat->ticked_ms = clock_monotonic_ms();
    return chat;
}

void chat_connect(struct chat *chat, struct bus *bus, struct store *store, struct sessions *sessions)
{
    chat->bus = bus;
    chat->store = store;
    chat->sessions = sessions;
}

void chat_free(struct chat *chat)
{
    buf_deinit(&chat->scratch);
    free(chat);
}

void chat_tick(struct chat *chat)
{
    int64_t before_ms = chat->ticked_ms;

    chat->now_ms = chat->ticked_ms = clock_monotonic_ms();
    presence_tick(chat);
    catch_up_tick(chat);
    session_keep_some(chat, chat->ticked_ms - before_ms);
}
