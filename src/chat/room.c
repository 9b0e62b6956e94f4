/* room.c - rooms with members on this worker, and fan-out.
 *
 * What a room gets in one loop turn is put into ONE frame (`turn`), message after message, and at the end
 * of the turn each member's queue gets one reference to it: per member and turn a pointer, per member and
 * message nothing. Whoever joins or leaves in the middle of a turn seals first, so that exactly the right
 * members get the bytes so far.
 *
 * Numbers rise: a record that isn't `delivered` + 1 by its `previous` makes the room catch up before
 * anything newer is delivered (rule 3, catch_up.c). */
#include <stdlib.h>
#include <string.h>

#include "core.h"

enum {
    TURN_BYTES = 1024,         /* a turn frame's first capacity; it doubles */
    TURN_BYTES_MAX = 64 * 1024, /* then it is sealed: a slow reader holds no more than it has not read */
    ROOM_TRIES = 5,            /* so often it is opened for one subscription */
};

struct text room_name(const struct room *room)
{
    return (struct text){room->name, room->name_length};
}

struct room *room_find(struct chat *chat, struct text name)
{
    struct room *room = NULL;

    HASH_FIND(hh, chat->rooms, name.data, name.length, room);
    return room;
}

static void fail(struct room *room, enum store_status status)
{
    room->state = ROOM_NEW;
    join_room_failed(room, status);
    room_release(room);
}

static void on_opened(void *arg, enum store_status status);

static void on_subscribed(void *arg, enum bus_status status, uint64_t seq)
{
    struct room *room = arg;

    if (status == BUS_NOT_OPEN && ++room->tries <= ROOM_TRIES) {
        opening_start(room->chat, room_name(room), on_opened, room);
        return;
    }
    if (status != BUS_OK) {
        fail(room, status_of_bus(status));
        return;
    }
    /* A record may be quicker than this answer. Nobody is live yet: whoever joins looks up to here. */
    if (room->seen < seq)
        room->seen = seq;
    room->delivered = room->seen;
    room->state = ROOM_LIVE;
    join_room_open(room);
    room_release(room);
}

static void on_opened(void *arg, enum store_status status)
{
    struct room *room = arg;

    if (status == STORE_OK)
        bus_subscribe(room->chat->bus, room_name(room), on_subscribed, room);
    else
        fail(room, status);
}

struct room *room_hold(struct chat *chat, struct text name)
{
    struct room *room = room_find(chat, name);

    if (room) {
        room->users++;
        return room;
    }
    room = calloc(1, sizeof(*room) + name.length);
    if (!room)
        abort();
    room->chat = chat;
    room->name_length = name.length;
    memcpy(room->name, name.data, name.length);
    HASH_ADD_KEYPTR(hh, chat->rooms, room->name, room->name_length, room);
    metrics_add(rooms, 1);
    room->users = 1;
    return room;
}

void room_open(struct room *room)
{
    if (room->state != ROOM_NEW)
        return;
    room->state = ROOM_OPENING;
    room->tries = 0;
    room->users++; /* the subscription on its way */
    bus_subscribe(room->chat->bus, room_name(room), on_subscribed, room);
}

void room_release(struct room *room)
{
    struct chat *chat = room->chat;

    if (--room->users > 0)
        return;
    if (room->state == ROOM_LIVE)
        bus_unsubscribe(chat->bus, room_name(room));
    room_seal(room);
    if (room->dirty) {
        struct room **link = &chat->dirty;

        while (*link != room)
            link = &(*link)->dirty_next;
        *link = room->dirty_next;
    }
    HASH_DEL(chat->rooms, room);
    metrics_add(rooms, -1);
    free(room->live);
    free(room);
}

static void grow_turn(struct room *room, size_t more)
{
    struct frame *turn = room->turn;
    size_t capacity = turn ? turn->capacity : TURN_BYTES;

    while (capacity < (turn ? turn->length : 0) + more)
        capacity *= 2;
    room->turn = turn ? frame_grow(turn, capacity) : frame_new(capacity);
}

/* What comes from the store has only the time at which it got its number. */
void room_deliver(struct room *room, struct text event, int64_t received_us)
{
    struct chat *chat = room->chat;

    if (room->live_count == 0)
        return;
    if (room->turn && room->turn->length + event.length > TURN_BYTES_MAX)
        room_seal(room);
    grow_turn(room, event.length + FRAME_HEADER_MAX);
    frame_add_text(room->turn, event.data, event.length);
    frame_stamp(room->turn, received_us > 0 ? received_us : proto_message_time(event) * 1000);
    if (!room->dirty) {
        room->dirty = true;
        room->dirty_next = chat->dirty;
        chat->dirty = room;
    }
}

void room_seal(struct room *room)
{
    struct frame *turn = room->turn;

    if (!turn)
        return;
    room->turn = NULL;
    for (uint32_t i = 0; i < room->live_count; i++)
        conn_send(room->live[i].conn, turn);
    frame_unref(turn);
}

/* The list is rebuilt from nothing each turn; a room stands in it until then, sealed or not. */
void chat_turn(struct chat *chat)
{
    struct room *room = chat->dirty;

    chat->dirty = NULL;
    while (room) {
        struct room *next = room->dirty_next;

        room->dirty = false;
        room_seal(room);
        room = next;
    }
}

/* Typing and presence are the first thing a slow reader goes without. */
uint32_t room_tell(struct room *room, struct text event, struct text except_user)
{
    size_t most = (size_t)room->chat->config->send_queue_bytes / 4;
    struct frame *frame = NULL;
    uint32_t told = 0, dropped = 0;

    for (uint32_t i = 0; i < room->live_count; i++) {
        const struct session *session = room->live[i].member->session;

        if (conn_closing(session->conn) ||
            (session->user_length == except_user.length &&
             memcmp(session->user, except_user.data, except_user.length) == 0))
            continue;
        if (conn_queued(session->conn) > most) {
            dropped++;
            continue;
        }
        if (!frame)
            frame = frame_text(event.data, event.length);
        conn_send(session->conn, frame);
        told++;
    }
    frame_unref(frame);
    if (dropped > 0)
        metrics_add(events_dropped_total, dropped);
    return told;
}

void room_record(struct room *room, const struct message *message)
{
    if (message->seq > room->seen)
        room->seen = message->seq;
    if (room->state != ROOM_LIVE || room->catching_up || message->seq <= room->delivered)
        return;
    /* Nobody is live: who is on the way in looks up what is missing. */
    if (message->previous > room->delivered && room->live_count > 0) {
        catch_up_start(room);
        return;
    }
    room_deliver(room, message->event, message->received_us);
    room->delivered = message->seq;
}

struct member *member_find(struct session *session, const struct room *room)
{
    struct member *member = session->members;

    while (member && member->room != room)
        member = member->next;
    return member;
}

struct member *member_new(struct session *session, struct room *room)
{
    struct member *member = calloc(1, sizeof(*member));

    if (!member)
        abort();
    *member =
        (struct member){.session = session, .room = room, .next = session->members, .index = MEMBER_OUTSIDE};
    session->members = member;
    session->member_count++;
    return member;
}

void member_live(struct member *member)
{
    struct room *room = member->room;

    room_seal(room);
    if (room->live_count == room->live_capacity) {
        room->live_capacity = room->live_capacity ? room->live_capacity * 2 : 4;
        room->live = realloc(room->live, room->live_capacity * sizeof(*room->live));
        if (!room->live)
            abort();
    }
    member->index = room->live_count++;
    room->live[member->index] = (struct live){member->session->conn, member};
    metrics_add(memberships, 1);
}

void member_suspend(struct member *member)
{
    struct room *room = member->room;

    if (member->index == MEMBER_OUTSIDE)
        return;
    room_seal(room);
    room->live[member->index] = room->live[--room->live_count];
    room->live[member->index].member->index = member->index;
    member->index = MEMBER_OUTSIDE;
    metrics_add(memberships, -1);
}

void member_free(struct member *member)
{
    struct session *session = member->session;
    struct member **link = &session->members;

    while (*link != member)
        link = &(*link)->next;
    *link = member->next;
    session->member_count--;
    if (member->join)
        join_cancel(member->join);
    member_suspend(member);
    if (member->entered)
        bus_leave(session->chat->bus, room_name(member->room), session_user(session));
    room_release(member->room);
    free(member);
}
