/* mongo_batch.h - a batch of messages into MongoDB, and what duplicate keys mean (rule 5 of delivery).
 *
 * One round trip where nothing collides; knows nothing of queues, time and tries. A writer's thread. */
#ifndef CHATD_MONGO_BATCH_H
#define CHATD_MONGO_BATCH_H

#include <mongoc/mongoc.h>

#include "chatd/message.h"

enum {
    MONGO_BATCH_MESSAGES = 1000,         /* at most */
    MONGO_BATCH_BYTES = 4 * 1024 * 1024, /* of events, likewise; one message more than that still goes in */
};

enum mongo_verdict {
    MONGO_PENDING, /* not known: it may be written, or be written later */
    MONGO_STORED,  /* under `seq`, known to a majority */
    MONGO_TAKEN,   /* not stored, and another message has its number: it needs a new one */
    MONGO_REFUSED, /* the server will never take it */
};

struct mongo_item {
    const struct message *message; /* lives as long as the item */
    /* Its number doesn't stand any more: it is only looked whether an earlier try got through; if not, TAKEN.
     */
    bool look;
    enum mongo_verdict verdict;
    bool found;   /* STORED: it was there already */
    uint64_t seq; /* STORED */
    void *owner;
};

/* Inserts the items, unordered, and settles those that collide with what is there or with each other.
 * Doing it again for what is stored already is harmless. False with the reason in `error` when verdicts
 * are missing (PENDING): try again. */
bool mongo_batch_write(mongoc_client_t *client, const char *database, struct mongo_item *items,
                       uint32_t count, bson_error_t *error) __attribute__((warn_unused_result));

/* The highest number that the store has in a room, 0 for none. */
bool mongo_batch_highest(mongoc_client_t *client, const char *database, struct text room, uint64_t *highest,
                         bson_error_t *error) __attribute__((warn_unused_result));

#endif
