/* mongo_notes.h - what is written beside the messages: rooms (since when, active, highest number) and
 * users (first and last seen).
 *
 * Notes are gathered and written by a thread of their own, at most once in MONGO_NOTES_MS, so no commit
 * waits for them; each room and user once however often it was noted. They lag, and what can't be noted
 * is dropped: who needs a room's highest number asks the messages as well. */
#ifndef CHATD_MONGO_NOTES_H
#define CHATD_MONGO_NOTES_H

#include "mongo_link.h"

enum {
    MONGO_NOTES_MS = 2000,
    MONGO_NOTES_USER_MS = 60000,   /* a user is written at most so often */
    MONGO_NOTES_ROOMS_MAX = 16384, /* remembered; more are dropped while all of these wait to be written */
    MONGO_NOTES_USERS_MAX = 10000,
};

struct mongo_notes;

/* `link` stays the caller's, until mongo_notes_stop. Negative errno. */
int mongo_notes_start(struct mongo_notes **notes, struct mongo_link *link)
    __attribute__((warn_unused_result));

/* A message of that room is stored. Any thread. */
void mongo_notes_room(struct mongo_notes *notes, struct text room, uint64_t seq, int64_t time_ms);

void mongo_notes_user(struct mongo_notes *notes, struct text user); /* is here now; any thread */

/* Writes what is left, when MongoDB is there, for at most `patience_ms` and one command more, and ends
 * the thread. */
void mongo_notes_stop(struct mongo_notes *notes, int patience_ms);

#endif
