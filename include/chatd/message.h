/* message.h - one chat message on its way from publisher to bus, members and store. An open value;
 * pointers are borrowed for the call they are given to. */
#ifndef CHATD_MESSAGE_H
#define CHATD_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

enum { MESSAGE_UID_SIZE = 16, MESSAGE_ROOM_MAX = 128, MESSAGE_USER_MAX = 64, MESSAGE_KEY_MAX = 128 };

/* A counted string; not NUL-terminated. */
struct text {
    const char *data;
    size_t length;
};

struct message {
    struct text room;
    struct text user;
    struct text key; /* length 0: none */
    uint8_t uid[MESSAGE_UID_SIZE];
    uint64_t seq;
    /* the room's number before this one; for the first since it was opened, that number - 1 */
    uint64_t previous;
    int64_t time_ms;
    /* Unix time in microseconds at which the publisher's worker had read it; 0: not known. */
    int64_t received_us;
    struct text event;  /* the final bytes of the event */
    /* Opaque to everybody but bus and store: in the ring; or the life of Redis that numbered it. */
    uint64_t position;
};

#endif
