/* core.h - what the files of src/chat share: the objects and who may touch which part.
 *
 * session.c owns sessions and pendings, room.c owns rooms and members, join.c the way into a room,
 * lookup.c what is only asked, publish.c the way of a message, presence.c what is told about users.
 * Everything hangs on struct chat, one per worker. */
#ifndef CHATD_CHAT_CORE_H
#define CHATD_CHAT_CORE_H

#include <uthash.h>

#include "chatd/chat.h"
#include "chatd/metrics.h"
#include "chatd/proto.h"
#include "chatd/token.h"

struct chat {
    const struct config *config;
    struct limit *limit;
    const uint8_t *session_key;
    struct bus *bus;
    struct store *store;
    struct room *rooms;   /* by name */
    struct room *dirty;   /* rooms with bytes of this turn */
    struct buf scratch;   /* one answer at a time */
    int64_t now_ms;       /* monotonic, of the last text or tick */
};

/* A WebSocket connection's user, 1 : 1 with a conn. Kept small: it is most of what an idle connection
 * costs here. */
struct session {
    struct chat *chat;
    struct conn *conn;
    struct member *members;
    struct pending *pendings;
    uint64_t address; /* it is counted under */
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
void session_refuse(struct session *session, struct text id, const char *code, const char *message);
void session_retry(struct session *session, struct text id, const char *code, const char *message,
                   int64_t retry_ms);
/* Takes a place for a waiting command; false, and `overloaded` is sent, when the connection has too many. */
bool pending_start(struct pending *pending, struct session *session, struct text id);
void pending_end(struct pending *pending); /* unlinks, frees the id, lets a session that goes away close */
struct text pending_id(const struct pending *pending);
/* Answers a pending whose store or bus can't serve it. */
void pending_fail(struct pending *pending, enum store_status status);

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

enum room_state { ROOM_OPENING, ROOM_LIVE };

struct room {
    UT_hash_handle hh;
    struct chat *chat;
    struct live *live;
    uint32_t live_count, live_capacity;
    /* sessions that are members or on their way, and look-ups under way: 0 frees the room */
    uint32_t users;
    enum room_state state;
    bool catching_up;      /* numbers are missing: nothing is delivered until they are here */
    bool lost;             /* records were missed while catching up */
    bool dirty;
    uint32_t told;         /* count that a large room was last told */
    uint64_t delivered;    /* highest number handed to members here */
    uint64_t seen;         /* highest number that the bus brought, delivered or not */
    uint64_t asked;        /* `seen` when the catch-up under way began */
    struct join *waiting, **waiting_end; /* for the room to be open; the end only while there are some */
    struct frame *turn;    /* this turn's message frames, one after the other */
    uint32_t turn_messages;
    struct room *dirty_next;
    size_t name_length;
    char name[];
};

/* room.c */
struct text room_name(const struct room *room);
struct room *room_find(struct chat *chat, struct text name);
struct room *room_hold(struct chat *chat, struct text name); /* finds or makes; starts opening a new one */
void room_release(struct room *room);                        /* the opposite of room_hold: may free it */
void room_deliver(struct room *room, struct text event);     /* into this turn's bytes */
/* passing event, dropped for slow readers */
void room_tell(struct room *room, struct text event, struct text except_user);
void room_seal(struct room *room);      /* hands this turn's bytes so far to those who are members now */
void room_catch_up(struct room *room);
void room_record(struct room *room, const struct message *message);
struct member *member_find(struct session *session, const struct room *room);
struct member *member_new(struct session *session, struct room *room);
void member_live(struct member *member);    /* from now on it gets what the room gets */
void member_suspend(struct member *member); /* the opposite */
void member_free(struct member *member);    /* leaves the bus's count, tells the others, releases the room */

/* join.c */
void join_command(struct session *session, const struct command *command);
void join_room_open(struct room *room);                              /* lets in those who wait */
void join_room_failed(struct room *room, enum store_status status);  /* sends them away */
void join_cancel(struct join *join); /* its member is about to go: no answer */

/* publish.c */
void publish_command(struct session *session, const struct command *command);

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
