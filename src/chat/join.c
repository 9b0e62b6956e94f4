/* join.c - the way into a room, in steps that may each wait: room open here -> counted by the bus -> what
 * was missed is looked up -> `joined`, and live from the next number on.
 *
 * Nothing is buffered for a connection while a slow look-up runs: it remembers up to which number it has,
 * and when the look-up is there looks for what came since (rule 7). A join of a room one is in already
 * goes the same way, without being counted again. */
#include <stdlib.h>
#include <string.h>

#include "chatd/names.h"
#include "chatd/replay.h"
#include "core.h"

enum join_mode { JOIN_PLAIN, JOIN_SINCE, JOIN_RECENT };

enum { JOIN_ROUNDS = 10 }; /* look-ups of one join; in a room that is busier the client pages the rest */

struct join {
    struct pending pending;
    struct member *member; /* NULL once cancelled */
    struct room *room;     /* held */
    struct join *next;     /* waits for the room to open */
    struct join_wait *waits, **waits_end; /* commands; the end only while there are some */
    enum join_mode mode;
    bool again;       /* the member was in the room before */
    bool resumed;     /* nobody asked for it: its session goes on in the room */
    bool capped;      /* `limit` is ours, not what the client asked for */
    bool incomplete;  /* older ones are missing from the page */
    uint32_t limit;
    uint32_t rounds;
    uint64_t above;   /* numbers up to here are in the page, or were not asked for */
    uint64_t upto;    /* of the look-up under way */
    struct page page;
    size_t user_length;
    char user[MESSAGE_USER_MAX]; /* the session may be gone when the bus has counted it */
};

static void step_enter(struct join *join);
static void step_replay(struct join *join);
static void wait_for_room(struct join *join);

static void let_go(struct join_wait *waits, bool joined)
{
    while (waits) {
        struct join_wait *wait = waits;

        waits = wait->next;
        wait->go(wait, joined);
    }
}

static void join_free(struct join *join)
{
    if (join->member)
        join->member->join = NULL;
    pending_end(&join->pending);
    page_deinit(&join->page);
    room_release(join->room);
    free(join);
}

/* A message that overtook the join would be numbered below what the member gets, and its sender never see
 * it. One that asks for messages finds it. */
bool join_wait(const struct member *member, struct join_wait *wait)
{
    struct join *join = member->join;

    if (!join || (join->mode != JOIN_PLAIN && !join->waits))
        return false;
    wait->next = NULL;
    *(join->waits ? join->waits_end : &join->waits) = wait;
    join->waits_end = &wait->next;
    return true;
}

/* The steps that are under way find no member and end. One that waits for the room is found there. It
 * keeps its place among the pendings until then. */
void join_cancel(struct join *join)
{
    struct join_wait *waits = join->waits;

    join->waits = NULL;
    if (join->pending.session) /* session_retry, since it is no mistake that counts as abuse */
        session_retry(join->pending.session, pending_id(&join->pending), "not_joined",
                      "the room was left before the join was through", 0);
    join->member->join = NULL;
    join->member = NULL;
    let_go(waits, true); /* they came before it was left */
}

/* Who was in the room stays in it: the next number shows the client what it missed meanwhile. */
static void fail(struct join *join, enum store_status status)
{
    struct member *member = join->member;
    struct join_wait *waits = join->waits;
    bool again = join->again;

    if (member)
        pending_fail(&join->pending, status);
    join_free(join);
    if (member && again)
        member_live(member);
    else if (member)
        member_free(member);
    let_go(waits, member && again);
}

/* The newest messages that fit; the client pages back. */
static uint32_t first_that_fits(struct join *join)
{
    uint32_t first = page_newest(&join->page, session_answer_space(join->pending.session));
    uint32_t oldest = join->page.count > join->limit ? join->page.count - join->limit : 0;

    if (first < oldest)
        first = oldest;
    if (first > oldest || (first > 0 && join->capped))
        join->incomplete = true;
    return first;
}

static void finish(struct join *join)
{
    struct session *session = join->pending.session;
    struct buf *out = &session->chat->scratch;
    struct join_wait *waits = join->waits;
    uint32_t first = first_that_fits(join);

    if (join->pending.id) {
        out->length = 0;
        proto_begin(out, "joined", pending_id(&join->pending));
        proto_member(out, "room", room_name(join->room));
        proto_number(out, "seq", join->room->delivered);
        proto_number(out, "members", bus_count(join->room->chat->bus, room_name(join->room)));
        buf_add_literal(out, ",\"messages\":");
        page_json(&join->page, first, out);
        buf_add_string(out, join->incomplete ? ",\"complete\":false}" : ",\"complete\":true}");
        session_replay(session, out, join->page.count - first);
    }
    if (!join->again && !join->resumed)
        sessions_room(session->chat->sessions, session_user(session), session->id, room_name(join->room),
                      true);
    member_live(join->member);
    join_free(join);
    let_go(waits, true);
}

static void on_replayed(void *arg, enum store_status status, const struct page *page, bool more, bool pending)
{
    struct join *join = arg;

    if (!join->member) {
        join_free(join);
        return;
    }
    if (status != STORE_OK) {
        fail(join, status);
        return;
    }
    page_append(&join->page, page);
    join->incomplete = join->incomplete || pending;
    /* Of what came after `since` something was deleted. */
    if (join->mode == JOIN_SINCE && page->gone > join->above)
        join->incomplete = true;
    /* `recent` asks for no more than so many: that there are older ones is no news. */
    if (more && join->capped)
        join->incomplete = true;
    join->above = join->upto;
    step_replay(join);
}

/* The record that the client has is there: this worker is behind, and the join waits until it isn't. Else
 * the room was reset, and the answer's number says so. */
static void on_beyond(void *arg, enum bus_status status, const struct page *page, uint64_t below,
                      bool pending)
{
    struct join *join = arg;
    struct room *room = join->room;

    (void)below;
    if (!join->member) {
        join_free(join);
        return;
    }
    /* Right after a failover what the client has may still be on its way: too early to call it a reset. */
    if (status != BUS_OK || (page->count == 0 && pending)) {
        fail(join, status == BUS_OK || status == BUS_NOT_OPEN ? STORE_FAILED : status_of_bus(status));
        return;
    }
    if (page->count == 0 && join->above > room->delivered) {
        finish(join);
        return;
    }
    if (join->above > room->delivered)
        catch_up_start(room);
    if (room->catching_up)
        wait_for_room(join);
    else
        step_replay(join);
}

/* Until the page reaches what members here have been given; with `recent` the first look-up starts from
 * nothing. */
static void step_replay(struct join *join)
{
    if (join->mode == JOIN_PLAIN || join->above == join->room->delivered) {
        finish(join);
        return;
    }
    if (join->above > join->room->delivered && join->rounds++ < JOIN_ROUNDS) {
        bus_window(join->room->chat->bus, room_name(join->room), join->room->delivered, join->above, 1,
                   on_beyond, join);
        return;
    }
    if (join->above > join->room->delivered) {
        fail(join, STORE_FAILED);
        return;
    }
    if (join->rounds++ == JOIN_ROUNDS) {
        join->incomplete = true;
        finish(join);
        return;
    }
    join->upto = join->room->delivered;
    replay_start(join->room->chat->bus, join->room->chat->store, room_name(join->room), join->above,
                 join->upto, join->limit, on_replayed, join);
}

static void on_entered(void *arg, enum bus_status status, uint32_t members, bool changed)
{
    struct join *join = arg;
    struct room *room = join->room;

    if (status != BUS_OK) {
        fail(join, status_of_bus(status));
        return;
    }
    if (!join->member) {
        bus_leave(room->chat->bus, room_name(room), (struct text){join->user, join->user_length});
        join_free(join);
        return;
    }
    join->member->entered = true;
    if (changed)
        presence_changed(room->chat, room_name(room), session_user(join->pending.session), true, members);
    step_replay(join);
}

static void step_enter(struct join *join)
{
    struct chat *chat = join->room->chat;

    if (join->member->entered) {
        step_replay(join);
        return;
    }
    join->user_length = join->pending.session->user_length;
    memcpy(join->user, join->pending.session->user, join->user_length);
    bus_enter(chat->bus, room_name(join->room), (struct text){join->user, join->user_length}, on_entered,
              join);
}

/* In the order in which they came. */
static void wait_for_room(struct join *join)
{
    struct room *room = join->room;

    if (!room->waiting)
        room->waiting_end = &room->waiting;
    *room->waiting_end = join;
    room->waiting_end = &join->next;
}

static struct join *take_waiting(struct room *room)
{
    struct join *join = room->waiting;

    room->waiting = join->next;
    return join;
}

void join_room_open(struct room *room)
{
    while (room->waiting) {
        struct join *join = take_waiting(room);

        if (join->member)
            step_enter(join);
        else
            join_free(join);
    }
}

void join_room_failed(struct room *room, enum store_status status)
{
    while (room->waiting)
        fail(take_waiting(room), status);
}

static void set_range(struct join *join, const struct command *command, uint32_t most)
{
    join->mode = command->has_since ? JOIN_SINCE : command->has_recent ? JOIN_RECENT : JOIN_PLAIN;
    join->capped = !command->has_recent || command->recent > most;
    join->limit = join->capped ? most : (uint32_t)command->recent;
    join->above = command->has_since ? command->since : 0;
    if (join->limit == 0)
        join->mode = JOIN_PLAIN;
}

/* The session of a new join, which has its place among the pendings already, is on its way into the room. */
static void start(struct join *join, struct session *session, struct text name)
{
    struct room *room = room_hold(session->chat, name); /* the join's hold */
    struct member *member = member_find(session, room);

    join->again = member != NULL;
    if (member)
        member_suspend(member);
    else
        member = member_new(session, room_hold(session->chat, name)); /* the member's hold */
    member->join = join;
    join->member = member;
    join->room = room;
    if (room->state == ROOM_LIVE) {
        step_enter(join);
        return;
    }
    wait_for_room(join);
    room_open(room);
}

static struct join *join_new(void)
{
    struct join *join = calloc(1, sizeof(*join));

    if (!join)
        abort();
    return join;
}

/* A client joins each of its rooms with `since` after a reconnect: the join that its session began becomes
 * that one. It has got no further than being counted, since nobody asked it for messages. */
static void adopt(struct join *join, const struct command *command)
{
    join->resumed = false;
    join->pending.id = command->id.length > 0 ? strndup(command->id.data, command->id.length) : NULL;
    set_range(join, command, (uint32_t)join->room->chat->config->join_limit);
}

static bool too_many_rooms(const struct session *session)
{
    int64_t most = session->chat->config->max_rooms_per_connection;

    if (most <= 0 || session->member_count < most)
        return false;
    metrics_add(limited_total[METRICS_LIMIT_rooms], 1);
    return true;
}

void join_command(struct session *session, const struct command *command)
{
    struct room *room = room_find(session->chat, command->room);
    struct member *member = room ? member_find(session, room) : NULL;
    struct join *join;

    if (member && member->join && member->join->resumed) {
        adopt(member->join, command);
        return;
    }
    if (member && member->join) {
        session_refuse(session, command->id, "bad_request", "a join of this room is under way");
        return;
    }
    if (!member && too_many_rooms(session)) {
        session_refuse(session, command->id, "forbidden", "this connection is in as many rooms as it may be");
        return;
    }
    join = join_new();
    if (!pending_start(&join->pending, session, command->id)) {
        free(join);
        return;
    }
    set_range(join, command, (uint32_t)session->chat->config->join_limit);
    start(join, session, command->room);
}

void join_resumed(struct session *session, struct text room)
{
    struct join *join;

    if (!name_room_valid(room.data, room.length) || too_many_rooms(session))
        return;
    join = join_new();
    join->mode = JOIN_PLAIN;
    join->resumed = true;
    pending_hold(&join->pending, session);
    start(join, session, room);
}
