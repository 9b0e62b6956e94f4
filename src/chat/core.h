/* core.h - what the files of src/chat share: the objects and who may touch which part.
 *
 * session.c owns sessions and pendings, hello.c the way into a session, room.c owns rooms and members,
 * catch_up.c how a room gets what it missed, opening.c how the bus gets to know a room, join.c the way
 * into a room, lookup.c what is only asked, publish.c the way of a message, orphan.c messages whose
 * publisher is gone, presence.c what is told about users. Everything hangs on struct chat, one per worker. */
#ifndef CHATD_CHAT_CORE_H
#define CHATD_CHAT_CORE_H

#include <string.h>
#include <uthash.h>

#include "chatd/chat.h"
#include "chatd/metrics.h"
#include "chatd/proto.h"

struct chat {
    const struct config *config;
    struct limit *limit;
    struct bus *bus;
    struct store *store;
    struct sessions *sessions;
    struct room *rooms;       /* by name */
    struct room *dirty;       /* rooms with bytes of this turn */
    struct opening *openings; /* by name */
    struct session *kept, *kept_last; /* signed in, those first whose session was kept longest ago */
    uint32_t signed_in;
    int64_t keep_due;         /* session_keep_some: milliseconds times sessions */
    uint32_t orphans;         /* in work */
    uint32_t went_on;         /* rooms that went on with a gap since the last tick */
    struct buf scratch;       /* one answer at a time */
    int64_t now_ms;           /* monotonic, of the last text or tick */
    int64_t read_us;          /* Unix time at which the text that is carried out was read */
    int64_t ticked_ms;        /* of the last tick */
};

/* Copies a text to `to` and points it there; returns the place behind it. */
static inline char *text_keep(char *to, struct text *text)
{
    if (text->length > 0)
        memcpy(to, text->data, text->length);
    text->data = to;
    return to + text->length;
}

/* For who waits it is the same whether bus or store can't. */
static inline enum store_status status_of_bus(enum bus_status status)
{
    return status == BUS_OK ? STORE_OK : status == BUS_FULL ? STORE_BUSY : STORE_FAILED;
}

/* A WebSocket connection's user, 1 : 1 with a conn. Kept small: it is most of what an idle connection
 * costs here. */
struct session {
    struct chat *chat;
    struct conn *conn;
    struct member *members;
    struct pending *pendings; /* before it is signed in: the hello that waits, or NULL */
    struct session *kept_next, *kept_before; /* of the chat's, once signed in */
    uint64_t address; /* it is counted under */
    uint8_t id[SESSIONS_ID_SIZE];
    uint32_t member_count;
    uint32_t pending_count;
    uint32_t refusals_since_s; /* start of the window in which refusals are counted */
    uint32_t refusals;
    bool signed_in;
    bool going_away; /* closes once its acks are sent */
    uint8_t user_length;
    char user[]; /* room for the name is made at hello */
};

/* A command that waits for bus or store. Embedded in the structs of those who wait. */
struct pending {
    struct session *session; /* NULL once the session is gone */
    struct pending *next, **link;
    char *id; /* JSON, NULL without one */
};

/* session.c */
struct text session_user(const struct session *session);
void session_answer(struct session *session, const struct buf *json);
/* An answer with so many messages of the past. */
void session_replay(struct session *session, const struct buf *json, uint32_t messages);
void session_refuse(struct session *session, struct text id, const char *code, const char *message);
void session_retry(struct session *session, struct text id, const char *code, const char *message,
                   int64_t retry_ms);
void session_text(struct conn *conn, const char *text, size_t length); /* a text as it came, now or then */
/* From now on it is kept: tells `sessions` in time that its user is still here. */
void session_keep(struct session *session);
void session_keep_some(struct chat *chat, int64_t passed_ms);
/* Takes a place for a waiting command; false, and `overloaded` is sent, when the connection has too many. */
bool pending_start(struct pending *pending, struct session *session, struct text id);
/* The same without an id, and for sure. */
void pending_hold(struct pending *pending, struct session *session);
void pending_end(struct pending *pending); /* unlinks, frees the id, lets a session that goes away close */
struct text pending_id(const struct pending *pending);
/* Answers a pending whose store or bus can't serve it. */
void pending_fail(struct pending *pending, enum store_status status);

/* hello.c */
void hello_command(struct session *session, const struct command *command);
/* A text that came while the session's hello waits: carried out after the welcome. */
void hello_keep(struct session *session, const char *text, size_t length);

/* One connection in one room. */
struct member {
    struct session *session;
    struct room *room;
    struct member *next; /* of the session */
    struct join *join;   /* while it is on its way in */
    uint32_t index;      /* in room->live; MEMBER_OUTSIDE while it is on its way in */
    bool entered;        /* counted by the bus, as far as it has answered */
};

#define MEMBER_OUTSIDE UINT32_MAX

/* The connection stands beside the member: fan-out walks this array and touches nothing else of ours. */
struct live {
    struct conn *conn;
    struct member *member;
};

/* Most bytes of messages in one answer when nothing waits before it: the longest texts, escaped, times
 * join_limit would be 24 MB for one connection. */
enum { ANSWER_BYTES_MAX = 8 << 20 };

/* How much of a page may go into an answer to this session: an empty send queue takes a frame of any size,
 * behind others it must leave room for what is still to come. */
size_t session_answer_space(const struct session *session);

enum room_state { ROOM_NEW, ROOM_OPENING, ROOM_LIVE };

struct room {
    UT_hash_handle hh;
    struct chat *chat;
    struct live *live;
    uint32_t live_count, live_capacity;
    /* sessions that are members or on their way, and look-ups under way: 0 frees the room */
    uint32_t users;
    enum room_state state;
    bool catching_up;      /* numbers are missing: nothing is delivered until they are here */
    bool lost;             /* records were missed while the look-up was under way */
    bool dirty;
    uint8_t tries;         /* to open it */
    int64_t behind_ms;     /* when catching up began */
    struct look_up *look_up; /* what is missed, in window and store; NULL while none is under way */
    struct look_up *glance;  /* likewise, in the window alone */
    uint32_t told;         /* count that a large room was last told */
    uint64_t delivered;    /* highest number handed to members here */
    uint64_t seen;         /* highest number that the bus brought, delivered or not */
    uint64_t asked;        /* `seen` when the catch-up under way began */
    struct join *waiting, **waiting_end; /* for the room to be open; the end only while there are some */
    struct frame *turn;    /* this turn's message frames, one after the other */
    struct room *dirty_next;
    size_t name_length;
    char name[];
};

/* room.c */
struct text room_name(const struct room *room);
struct room *room_find(struct chat *chat, struct text name);
struct room *room_hold(struct chat *chat, struct text name); /* finds or makes */
/* Starts, unless it has begun; joins that wait for it are answered, perhaps at once. */
void room_open(struct room *room);
void room_release(struct room *room);                        /* the opposite of room_hold: may free it */
/* Into this turn's bytes; received_us as in struct message. */
void room_deliver(struct room *room, struct text event, int64_t received_us);
/* Passing event, dropped for slow readers; returns how many members it was queued for. */
uint32_t room_tell(struct room *room, struct text event, struct text except_user);
void room_seal(struct room *room);      /* hands this turn's bytes so far to those who are members now */
void room_record(struct room *room, const struct message *message);
struct member *member_find(struct session *session, const struct room *room);
struct member *member_new(struct session *session, struct room *room);
void member_live(struct member *member);    /* from now on it gets what the room gets */
void member_suspend(struct member *member); /* the opposite */
void member_free(struct member *member);    /* leaves the bus's count, tells the others, releases the room */

/* catch_up.c */
void catch_up_start(struct room *room);
void catch_up_tick(struct chat *chat);

/* opening.c: makes the room known to the bus; `done` may be called before it returns. */
typedef void opening_on_done(void *arg, enum store_status status);
void opening_start(struct chat *chat, struct text room, opening_on_done *done, void *arg);

/* join.c */
void join_command(struct session *session, const struct command *command);
/* Of a session that goes on in the room: nobody asked for it, only a failure is told. */
void join_resumed(struct session *session, struct text room);
/* Lets in those who wait: the room is open, or caught up. Held by the caller, as for the next one. */
void join_room_open(struct room *room);
void join_room_failed(struct room *room, enum store_status status); /* sends them away */
void join_cancel(struct join *join); /* its member is about to go: no answer */

/* A command that has to wait for a join of its room; embedded in what waits. */
struct join_wait {
    struct join_wait *next;
    void (*go)(struct join_wait *wait, bool joined);
};

/* False when there is no need: the member is in, or will get what is published now with its answer. Else
 * `go` is called once, in the order of the calls. */
bool join_wait(const struct member *member, struct join_wait *wait);

/* publish.c */
void publish_command(struct session *session, const struct command *command);
/* Publishes a message that had a number already, which is void or (not `is_void`) may still stand, unless
 * window or store have it, and sees that it is stored: `done` says so, exactly once, perhaps before this
 * returns. False, and nothing is done: its event is none of ours. */
bool publish_again(struct chat *chat, const struct message *message, bool is_void, store_on_number *done,
                   void *done_arg) __attribute__((warn_unused_result));

/* orphan.c */
void orphan_take(struct chat *chat, const struct message *message, bool stands);

/* lookup.c */
void history_command(struct session *session, const struct command *command);
void members_command(struct session *session, const struct command *command);
void rooms_command(struct session *session, const struct command *command);

/* presence.c */
void presence_changed(struct chat *chat, struct text room, struct text user, bool joined, uint32_t members);
/* from the bus, to members here */
void presence_event(struct room *room, struct text user, struct text event);
void presence_tick(struct chat *chat);
void typing_command(struct session *session, const struct command *command);

#endif
