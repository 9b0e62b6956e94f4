/* sqlite_query.h - the questions that can be asked of the database, and how each is answered.
 *
 * A request carries question, answer and whom to tell. One thread at a time has it: the loop fills it, the
 * reader's thread answers it. Each answer sees all that was committed before it was asked for. */
#ifndef CHATD_SQLITE_QUERY_H
#define CHATD_SQLITE_QUERY_H

#include "chatd/ring.h"
#include "chatd/store.h"

enum sqlite_query_kind {
    SQLITE_QUERY_HIGHEST,
    SQLITE_QUERY_FIND,
    SQLITE_QUERY_RESOLVE, /* what became of a message: by number and uid, else by key */
    SQLITE_QUERY_PAGE,
    SQLITE_QUERY_ROOMS,
};

struct sqlite_request {
    enum sqlite_query_kind kind;
    struct buf names; /* room, user and key, one behind the other */
    size_t room_length, user_length, key_length;
    uint64_t above, upto;
    uint32_t limit;
    uint64_t seq; /* RESOLVE */
    uint8_t uid[MESSAGE_UID_SIZE];

    union {
        store_on_number *number; /* HIGHEST, FIND, RESOLVE */
        store_on_page *page;
        store_on_rooms *rooms;
    } done;
    void *arg;

    enum store_status status;
    uint64_t number;
    struct page page; /* ROOMS: an entry per room, its name for an event and its highest number for seq */
    bool more;
    struct sqlite_request *next;
};

struct sqlite_query;

/* Opens a read-only connection. Negative errno with the reason in `error`. */
int sqlite_query_open(struct sqlite_query **query, const char *data_dir, char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));
void sqlite_query_close(struct sqlite_query *query); /* NULL is allowed */

/* Answers the request: `status` and what belongs to it are set. A negative errno with the reason in `error`
 * when the status is STORE_FAILED: close the query then and open another. */
int sqlite_query_run(struct sqlite_query *query, struct sqlite_request *request, char error[RING_ERROR_MAX])
    __attribute__((warn_unused_result));

#endif
