/* mongo_follower.c - messages from the ring into MongoDB, one batch at a time. */
#include "mongo_follower.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "mongo_batch.h"
#include "mongo_lease.h"
#include "mongo_schema.h"

enum { FOLLOWER_RETRY_MOST_MS = 5000 };

struct connection {
    struct mongo_follower *follower;
    mongoc_client_t *client; /* NULL until there is a pool */
    bool prepared;
    struct mongo_lease lease;
    struct message messages[MONGO_BATCH_MESSAGES]; /* they point into the ring */
    struct mongo_item items[MONGO_BATCH_MESSAGES];
    uint32_t count;
};

static int open_connection(void *arg, struct ring *ring, void **out, char error[RING_ERROR_MAX])
{
    struct mongo_follower *follower = arg;
    struct connection *c = calloc(1, sizeof(*c));
    int status;

    (void)ring;
    if (!c)
        abort();
    c->follower = follower;
    status = mongo_lease_init(&c->lease, follower->data_dir, error);
    if (status != 0) {
        free(c);
        return status;
    }
    *out = c;
    return 0;
}

/* The lease stays: the next one in office is a worker of this host, or this host after a restart. */
static void close_connection(void *connection)
{
    struct connection *c = connection;

    if (!c)
        return;
    mongo_link_push(c->follower->link, c->client);
    free(c);
}

static bool get_ready(struct connection *c, bson_error_t *error)
{
    const char *database = mongo_link_database(c->follower->link);

    if (!c->client)
        c->client = mongo_link_pop(c->follower->link, error);
    if (!c->client || (!c->prepared && !mongo_schema_prepare(c->client, database, error)))
        return false;
    c->prepared = true;
    return mongo_lease_hold(&c->lease, c->client, database, error);
}

/* What the ring holds from *position on, at most one batch; *position is behind it. */
static void gather(struct connection *c, struct ring *ring, uint64_t *position)
{
    size_t bytes = 0;

    c->count = 0;
    while (c->count < MONGO_BATCH_MESSAGES && bytes < MONGO_BATCH_BYTES &&
           ring_next(ring, position, &c->messages[c->count])) {
        bytes += c->messages[c->count].event.length;
        c->items[c->count] = (struct mongo_item){.message = &c->messages[c->count]};
        c->count++;
    }
}

enum verdict { DONE, NO_PLACE, FAILED };

/* Rule 5. */
static enum verdict settle(struct connection *c, struct ring *ring, const struct mongo_item *item,
                           bson_error_t *error)
{
    const struct message *message = item->message;
    uint64_t highest;

    if (item->verdict == MONGO_REFUSED) {
        /* The ring can't take back what it said to members: better it stands still, and says so, than an
         * ack that lies. */
        bson_set_error(error, MONGOC_ERROR_SERVER, 0, "MongoDB refuses a message for good");
        return FAILED;
    }
    if (item->verdict == MONGO_TAKEN) {
        if (!mongo_batch_highest(c->client, mongo_link_database(c->follower->link), message->room, &highest,
                                 error))
            return FAILED;
        return ring_republish(ring, message, highest) ? DONE : NO_PLACE;
    }
    if (item->seq != message->seq)
        ring_settle(ring, message->position, item->seq);
    return DONE;
}

/* Settles the batch in the ring's order; *position is behind the last one that is done. No place for a
 * new number: what is in front of it is committed, which makes place. */
static bool settle_all(struct connection *c, struct ring *ring, uint64_t *position, uint32_t *messages,
                       bson_error_t *error)
{
    for (uint32_t i = 0; i < c->count; i++) {
        const struct message *message = &c->messages[i];
        enum verdict verdict = settle(c, ring, &c->items[i], error);

        if (verdict == NO_PLACE && i > 0) {
            *position = message->position;
            break;
        }
        if (verdict == NO_PLACE)
            mongo_error_set(error, MONGO_ERROR_MAJORITY,
                            "the log is full and a message in it needs a new number");
        if (verdict != DONE)
            return false;
        /* A number that became void was seen by members: it isn't given again either. */
        mongo_notes_room(c->follower->notes, message->room, message->seq, message->time_ms);
        ++*messages;
    }
    return true;
}

static int run_batch(void *connection, struct ring *ring, uint64_t *position, uint32_t *messages,
                     char error[RING_ERROR_MAX])
{
    struct connection *c = connection;
    struct mongo_link *link = c->follower->link;
    int64_t start_ms = clock_monotonic_ms();
    uint64_t behind = *position;
    bson_error_t reason = {0};
    bool ok = get_ready(c, &reason);

    *messages = 0;
    if (ok) {
        gather(c, ring, &behind);
        ok = c->count == 0 ||
             (mongo_batch_write(c->client, mongo_link_database(link), c->items, c->count, &reason) &&
              settle_all(c, ring, &behind, messages, &reason));
    }
    if (!ok) {
        *messages = 0;
        mongo_link_failed(link, MONGO_WRITER, start_ms, &reason);
        mongo_error_text(&reason, error, RING_ERROR_MAX);
        return -EAGAIN;
    }
    /* With nothing to do and the lease fresh nobody asked MongoDB anything. */
    if (c->count > 0 || c->lease.renewed_ms >= start_ms)
        mongo_link_works(link, MONGO_WRITER, start_ms);
    *position = behind;
    return 0;
}

struct store_target mongo_follower_target(struct mongo_follower *follower)
{
    return (struct store_target){
        .arg = follower,
        .open = open_connection,
        .run = run_batch,
        .close = close_connection,
        .batch_messages = MONGO_BATCH_MESSAGES,
        .retry_most_ms = FOLLOWER_RETRY_MOST_MS,
        .silent = true,
    };
}
