/* catch_up.c - how a room gets the records that it missed: from window and store, before anything newer is
 * delivered (rule 3).
 *
 * The window alone has them as a rule, and the store isn't asked. It is asked when the window doesn't
 * reach down to what was delivered, which is also so when the room was opened anew meanwhile and its
 * numbers made a jump. When bus or store can't answer now, members stay and each tick tries again.
 *
 * A store that doesn't answer for long must not hold up the room: deliveries don't wait for it. Then the
 * room goes on with what the window has. Members see a number other than their last + 1, and join with
 * `since` once the store is back, as PROTOCOL.md says. */
#include <stdlib.h>

#include "chatd/log.h"
#include "chatd/replay.h"
#include "core.h"

enum {
    CATCH_UP_MAX = 4000,         /* more missing than this and members come back with `since` themselves */
    CATCH_UP_PATIENCE_MS = 2000, /* then a room goes on with the window alone */
};

struct look_up {
    struct room *room; /* held */
    uint64_t asked;    /* the room's `seen` when it began */
    bool overtaken;    /* what it finds is older than what was delivered meanwhile */
};

static struct look_up *look_up_new(struct room *room)
{
    struct look_up *l = malloc(sizeof(*l));

    if (!l)
        abort();
    *l = (struct look_up){room, room->seen, false};
    room->users++;
    return l;
}

/* Without members this only moves `delivered` on. */
static void deliver(struct room *room, const struct page *page)
{
    for (uint32_t i = 0; i < page->count; i++) {
        const struct page_entry *e = &page->entries[i];

        if (e->seq <= room->delivered)
            continue;
        room_deliver(room, (struct text){page->bytes.data + e->offset, e->length}, e->received_us);
        room->delivered = e->seq;
    }
}

/* Who is here comes back with the last number it has. Nobody waits for what is missing any more; who comes
 * now isn't closed for it again. */
static void send_away(struct room *room)
{
    log_warn("room_too_far_behind", "room=%.*s delivered=%llu", (int)room->name_length, room->name,
             (unsigned long long)room->delivered);
    while (room->live_count > 0) {
        struct member *member = room->live[room->live_count - 1].member;

        member_suspend(member);
        conn_close(member->session->conn, CLOSE_SLOW);
    }
    if (room->delivered < room->seen)
        room->delivered = room->seen;
}

/* Numbers that are still pending after they were waited for are skipped like void ones: their room has no
 * time to wait. Members see the gap. */
static void on_found(void *arg, enum store_status status, const struct page *page, bool more, bool pending)
{
    struct look_up *l = arg;
    struct room *room = l->room;
    uint64_t asked = l->asked;
    bool overtaken = l->overtaken, again;

    (void)pending;
    free(l);
    if (!overtaken)
        room->look_up = NULL;
    if (!overtaken && status == STORE_OK) {
        again = room->lost;
        room->catching_up = room->lost = false;
        if (more)
            send_away(room);
        deliver(room, page);
        /* Another round only for what was heard of since this one began: a number that turned out void never
         * comes. */
        if (again || (room->seen > asked && room->seen > room->delivered))
            catch_up_start(room);
        if (!room->catching_up)
            join_room_open(room);
    }
    room_release(room);
}

static void look_up(struct room *room)
{
    room->lost = false;
    room->look_up = look_up_new(room);
    metrics_add(catchups_total, 1);
    replay_start(room->chat->bus, room->chat->store, room_name(room), room->delivered, REPLAY_NEWEST,
                 CATCH_UP_MAX, on_found, room->look_up);
}

void catch_up_start(struct room *room)
{
    if (room->state != ROOM_LIVE)
        return;
    if (room->look_up) {
        room->lost = true;
        return;
    }
    if (!room->catching_up)
        room->behind_ms = room->chat->now_ms;
    room->catching_up = true;
    look_up(room);
}

static void on_glance(void *arg, enum bus_status status, const struct page *page, uint64_t below,
                      bool pending)
{
    struct look_up *l = arg;
    struct room *room = l->room;
    uint64_t asked = l->asked;

    (void)below, (void)pending;
    free(l);
    room->glance = NULL;
    /* With nothing newer in the window nobody is held up. */
    if (room->catching_up && status == BUS_OK && page->count > 0 &&
        page->entries[page->count - 1].seq > room->delivered) {
        deliver(room, page);
        if (room->look_up)
            room->look_up->overtaken = true;
        room->look_up = NULL;
        room->catching_up = room->lost = false;
        room->chat->went_on++;
        if (room->seen > asked && room->seen > room->delivered)
            catch_up_start(room);
        if (!room->catching_up)
            join_room_open(room);
    }
    room_release(room);
}

static void glance(struct room *room)
{
    room->glance = look_up_new(room);
    bus_window(room->chat->bus, room_name(room), room->delivered, REPLAY_NEWEST, CATCH_UP_MAX, on_glance,
               room->glance);
}

static void tick(struct room *room)
{
    /* Nobody is held up: who is on the way in looks up what is missing. */
    if (room->live_count == 0 && !room->look_up && !room->glance) {
        room->users++; /* a join that waits may be the last to hold it, and fail or be cancelled */
        room->catching_up = false;
        if (room->delivered < room->seen)
            room->delivered = room->seen;
        join_room_open(room);
        room_release(room);
        return;
    }
    if (room->chat->now_ms - room->behind_ms >= CATCH_UP_PATIENCE_MS && !room->glance)
        glance(room);
    if (room->catching_up && !room->look_up)
        look_up(room);
}

void catch_up_tick(struct chat *chat)
{
    struct room *room, *next;

    HASH_ITER(hh, chat->rooms, room, next)
        if (room->catching_up)
            tick(room);
    if (chat->went_on > 0)
        log_warn("rooms_went_on_with_a_gap", "rooms=%u cause=%s", chat->went_on,
                 "the store does not answer; members fetch what is missing with since");
    chat->went_on = 0;
}
