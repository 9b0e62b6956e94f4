/* presence.c - what a room is told about its users: who came, who left, who types.
 *
 * Rooms of up to presence_limit users get an event for each change, and typing. Larger ones get a count,
 * at most once a second and made by each worker for its own members from the bus's count: what a user's
 * coming costs there doesn't grow with the room. */
#include "core.h"

/* The event goes out without its count: who tells it to members adds the one of that moment. Several who
 * come in one turn would else leave the last of them with an old number. */
void presence_changed(struct chat *chat, struct text room, struct text user, bool joined, uint32_t members)
{
    struct buf *out = &chat->scratch;

    if (members > chat->config->presence_limit || members == 0)
        return;
    out->length = 0;
    proto_begin(out, "presence", (struct text){NULL, 0});
    proto_member(out, "room", room);
    proto_member(out, "user", user);
    buf_add_string(out, joined ? ",\"event\":\"join\",\"members\":" : ",\"event\":\"leave\",\"members\":");
    /* Passing: when there is no place for it, it is dropped. */
    (void)!bus_emit(chat->bus, room, user, (struct text){out->data, out->length});
}

/* An event that ends in the colon of its last member is one that lacks its count; typing is whole. */
void presence_event(struct room *room, struct text user, struct text event)
{
    struct buf *out = &room->chat->scratch;

    if (event.length == 0 || event.data[event.length - 1] != ':') {
        metrics_add(typing_events_total, room_tell(room, event, user));
        return;
    }
    out->length = 0;
    buf_add(out, event.data, event.length);
    buf_add_u64(out, bus_count(room->chat->bus, room_name(room)));
    buf_add_literal(out, "}");
    metrics_add(presence_events_total, room_tell(room, (struct text){out->data, out->length}, user));
}

static void tell_count(struct room *room, uint32_t members)
{
    struct buf *out = &room->chat->scratch;

    out->length = 0;
    proto_begin(out, "presence", (struct text){NULL, 0});
    proto_member(out, "room", room_name(room));
    buf_add_literal(out, ",\"event\":\"count\"");
    proto_number(out, "members", members);
    buf_add_literal(out, "}");
    metrics_add(presence_events_total,
                room_tell(room, (struct text){out->data, out->length}, (struct text){"", 0}));
}

void presence_tick(struct chat *chat)
{
    for (struct room *room = chat->rooms; room; room = room->hh.next) {
        uint32_t members = room->live_count > 0 ? bus_count(chat->bus, room_name(room)) : 0;

        if (members <= chat->config->presence_limit)
            room->told = 0;
        else if (members != room->told) {
            room->told = members;
            tell_count(room, members);
        }
    }
}

void typing_command(struct session *session, const struct command *command)
{
    struct chat *chat = session->chat;
    struct room *room = room_find(chat, command->room);
    struct buf *out = &chat->scratch;
    int64_t wait_ms;

    if (!room || !member_find(session, room)) {
        session_refuse(session, command->id, "not_joined", "this connection is not in that room");
        return;
    }
    wait_ms = limit_take(chat->limit, LIMIT_TYPING, session->user, session->user_length,
                         chat->config->typing_rate_limit, chat->now_ms);
    if (wait_ms > 0) {
        metrics_add(limited_total[METRICS_LIMIT_typing], 1);
        session_retry(session, command->id, "rate_limited", "too many typing events of this user", wait_ms);
        return;
    }
    if (bus_count(chat->bus, room_name(room)) > chat->config->presence_limit)
        return; /* in a crowd nobody follows who types */
    out->length = 0;
    proto_begin(out, "typing", (struct text){NULL, 0});
    proto_member(out, "room", room_name(room));
    proto_member(out, "user", session_user(session));
    buf_add_string(out, command->on ? ",\"on\":true}" : ",\"on\":false}");
    (void)!bus_emit(chat->bus, room_name(room), session_user(session), (struct text){out->data, out->length});
}
