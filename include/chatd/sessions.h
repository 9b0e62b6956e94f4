/* sessions.h - the `session` of welcome: what it takes to come back as the same user.
 *
 * Behind this interface: token.c (embedded: signed, nothing stored, resumes the user on this host) and
 * redis_sessions.c (stored: resumes user and rooms on any server). Loop thread only. */
#ifndef CHATD_SESSIONS_H
#define CHATD_SESSIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/message.h"

enum { SESSIONS_ID_SIZE = 16, SESSIONS_TOKEN_MAX = 160 };

struct sessions;

/* What a token stands for. `user.length` 0: nothing (unknown, forged, too old). The same `id` goes on.
 * Rooms are those that it was in, at most max_rooms_per_connection, none where they aren't kept. Borrowed
 * for the call. */
struct sessions_found {
    struct text user;
    uint8_t id[SESSIONS_ID_SIZE];
    const struct text *rooms;
    uint32_t room_count;
    bool failed; /* it can't be looked up now */
};

typedef void sessions_on_found(void *arg, const struct sessions_found *found);

struct sessions_ops {
    void (*start)(struct sessions *sessions, struct text user, uint8_t id[SESSIONS_ID_SIZE],
                  char token[SESSIONS_TOKEN_MAX]);
    void (*find)(struct sessions *sessions, struct text token, sessions_on_found *done, void *arg);
    void (*resume)(struct sessions *sessions, struct text user, const uint8_t id[SESSIONS_ID_SIZE],
                   char token[SESSIONS_TOKEN_MAX]);
    void (*room)(struct sessions *sessions, struct text user, const uint8_t id[SESSIONS_ID_SIZE],
                 struct text room, bool in);
    void (*keep)(struct sessions *sessions, struct text user, const uint8_t id[SESSIONS_ID_SIZE]);
};

struct sessions {
    const struct sessions_ops *ops;
};

/* A new session: fills `id` and the NUL-terminated token for welcome. */
static inline void sessions_start(struct sessions *sessions, struct text user, uint8_t id[SESSIONS_ID_SIZE],
                                  char token[SESSIONS_TOKEN_MAX])
{
    sessions->ops->start(sessions, user, id, token);
}

/* Looks a token up; answers once, perhaps before it returns. */
static inline void sessions_find(struct sessions *sessions, struct text token, sessions_on_found *done,
                                 void *arg)
{
    sessions->ops->find(sessions, token, done, arg);
}

/* One that was found goes on under the same id: its token for welcome. */
static inline void sessions_resume(struct sessions *sessions, struct text user,
                                   const uint8_t id[SESSIONS_ID_SIZE], char token[SESSIONS_TOKEN_MAX])
{
    sessions->ops->resume(sessions, user, id, token);
}

/* The session is in the room from now on, or has left it by its own will. */
static inline void sessions_room(struct sessions *sessions, struct text user,
                                 const uint8_t id[SESSIONS_ID_SIZE], struct text room, bool in)
{
    sessions->ops->room(sessions, user, id, room, in);
}

/* Its user is still, or was just now, here: the session's time runs from now on. */
static inline void sessions_keep(struct sessions *sessions, struct text user,
                                 const uint8_t id[SESSIONS_ID_SIZE])
{
    sessions->ops->keep(sessions, user, id);
}

#endif
