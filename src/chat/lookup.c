/* lookup.c - commands that only ask: history, members, rooms. Nobody needs to be in the room they ask
 * about. */
#include <stdlib.h>
#include <string.h>

#include "chatd/replay.h"
#include "chatd/rooms_list.h"
#include "core.h"

enum { MEMBERS_LISTED = 1000 }; /* names in one members answer; `count` is always exact */

struct lookup {
    struct pending pending;
    struct chat *chat;
    size_t room_length;
    char room[];
};

static struct lookup *lookup_new(struct session *session, const struct command *command)
{
    struct lookup *lookup = malloc(sizeof(*lookup) + command->room.length);

    if (!lookup)
        abort();
    if (!pending_start(&lookup->pending, session, command->id)) {
        free(lookup);
        return NULL;
    }
    lookup->chat = session->chat;
    lookup->room_length = command->room.length;
    if (command->room.length > 0)
        memcpy(lookup->room, command->room.data, command->room.length);
    return lookup;
}

static void lookup_free(struct lookup *lookup)
{
    pending_end(&lookup->pending);
    free(lookup);
}

/* Begins the answer; NULL when nobody is there to get it. */
static struct buf *begin(struct lookup *lookup, const char *type)
{
    struct buf *out = &lookup->chat->scratch;

    if (!lookup->pending.session || !lookup->pending.id)
        return NULL;
    out->length = 0;
    proto_begin(out, type, pending_id(&lookup->pending));
    return out;
}

static void answer(struct lookup *lookup, struct buf *out)
{
    session_answer(lookup->pending.session, out);
}

static void on_history(void *arg, enum store_status status, const struct page *page, bool more, bool pending)
{
    struct lookup *lookup = arg;
    struct buf *out = status == STORE_OK ? begin(lookup, "history") : NULL;
    uint32_t first;

    (void)pending; /* it is history soon: who asks again finds it */
    if (status != STORE_OK)
        pending_fail(&lookup->pending, status);
    if (out) {
        /* The newest that fit; at least one, so that a page with `more` is never empty. */
        first = page_newest(page, session_answer_space(lookup->pending.session));
        if (first == page->count && first > 0)
            first--;
        proto_member(out, "room", (struct text){lookup->room, lookup->room_length});
        buf_add_literal(out, ",\"messages\":");
        page_json(page, first, out);
        buf_add_string(out, more || first > 0 ? ",\"more\":true}" : ",\"more\":false}");
        session_replay(lookup->pending.session, out, page->count - first);
    }
    lookup_free(lookup);
}

void history_command(struct session *session, const struct command *command)
{
    const struct config *config = session->chat->config;
    uint64_t limit =
        command->limit > (uint64_t)config->history_limit ? (uint64_t)config->history_limit : command->limit;
    uint64_t upto = command->before > REPLAY_NEWEST ? REPLAY_NEWEST
                    : command->before == 0          ? 0
                                                    : command->before - 1;
    struct lookup *lookup;

    if (limit == 0) {
        session_refuse(session, command->id, "bad_request", "limit must be at least 1");
        return;
    }
    lookup = lookup_new(session, command);
    if (lookup)
        replay_start(session->chat->bus, session->chat->store,
                     (struct text){lookup->room, lookup->room_length}, 0, upto, (uint32_t)limit, on_history,
                     lookup);
}

static void on_members(void *arg, uint32_t count, const struct text *users, uint32_t listed)
{
    struct lookup *lookup = arg;
    struct buf *out = begin(lookup, "members");

    if (out) {
        proto_member(out, "room", (struct text){lookup->room, lookup->room_length});
        proto_number(out, "count", count);
        buf_add_literal(out, ",\"users\":[");
        for (uint32_t i = 0; i < listed; i++) {
            if (i > 0)
                buf_add_literal(out, ",");
            buf_add_json(out, users[i].data, users[i].length);
        }
        buf_add_literal(out, "]}");
        answer(lookup, out);
    }
    lookup_free(lookup);
}

void members_command(struct session *session, const struct command *command)
{
    struct lookup *lookup = lookup_new(session, command);

    if (lookup)
        bus_members(session->chat->bus, (struct text){lookup->room, lookup->room_length}, MEMBERS_LISTED,
                    on_members, lookup);
}

static void on_rooms(void *arg, const char *json, size_t length)
{
    struct lookup *lookup = arg;
    struct buf *out = begin(lookup, "rooms");

    if (out) {
        buf_add_literal(out, ",\"rooms\":");
        buf_add(out, json, length);
        buf_add_literal(out, "}");
        answer(lookup, out);
    }
    lookup_free(lookup);
}

void rooms_command(struct session *session, const struct command *command)
{
    struct lookup *lookup = lookup_new(session, command);

    if (lookup)
        rooms_list(session->chat->bus, session->chat->store, on_rooms, lookup);
}
