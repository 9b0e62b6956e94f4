/* store_reader.h - the threads that read for one worker, and the bounded queue of what they are asked.
 *
 * What is behind it (SQLite, MongoDB) answers one request at a time per thread. Loop thread only, but for
 * on_ready. Requests are begun in order; with one thread they are answered in order. Answers wait in
 * memory until they are taken; when they are too many bytes the threads wait too. */
#ifndef CHATD_STORE_READER_H
#define CHATD_STORE_READER_H

#include "chatd/ring.h"
#include "chatd/store.h"

enum store_read_kind {
    STORE_READ_HIGHEST,
    STORE_READ_FIND,    /* by key; with an empty key by uid */
    STORE_READ_RESOLVE, /* what became of a message: by number and uid, else as FIND */
    STORE_READ_PAGE,
    STORE_READ_ROOMS,
};

/* Carries question, answer and whom to tell. One thread at a time has it: the loop fills it, a reader
 * answers it. Each answer sees all that was committed before it was asked for. */
struct store_request {
    enum store_read_kind kind;
    struct buf names; /* room, user and key, one behind the other */
    size_t room_length, user_length, key_length;
    uint64_t above, upto;
    uint32_t limit;
    uint64_t seq;                  /* RESOLVE */
    uint8_t uid[MESSAGE_UID_SIZE]; /* FIND, RESOLVE */

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
    int64_t asked_ms; /* clock_monotonic_ms */
    struct store_request *next;
    /* PAGE: another one that asked the same before this one was begun, and gets its answer. */
    struct store_request *same;
};

/* Who answers. `connection` is each thread's own, NULL at first and after a failure. */
struct store_source {
    void *arg;
    /* Sets `status` and what belongs to it. A negative errno with the reason in `error` when the status is
     * STORE_FAILED: the connection is closed then. */
    int (*answer)(void *arg, void **connection, struct store_request *request, char error[RING_ERROR_MAX]);
    void (*close)(void *connection); /* NULL is allowed */
    unsigned threads;
    int expire_ms; /* a request that no thread began in this time is STORE_FAILED; 0: never */
    /* A failure that no other followed for so long counts no more: nobody reads. 0: it counts until one
     * works. */
    int forget_ms;
    bool silent;   /* it logs its failures itself */
};

struct store_reader;

/* `on_ready` says that answers can be taken; it is called from a reader's thread, or from
 * one of the questions below. The source is copied. */
int store_reader_start(struct store_reader **reader, const struct store_source *source,
                       void (*on_ready)(void *arg), void *arg) __attribute__((warn_unused_result));

/* Tells the threads to end after what they are about; store_reader_stop does so too, and waits for them. */
void store_reader_end(struct store_reader *reader);

/* Ends the threads. What is not answered yet is STORE_FAILED and can be delivered, as can everything that is
 * asked from now on. */
void store_reader_stop(struct store_reader *reader);
void store_reader_free(struct store_reader *reader); /* stopped, and all answers delivered */

/* Calls back for at most `most` answered requests; true when there may be more. */
bool store_reader_deliver(struct store_reader *reader, int most);

/* False while reading fails, and why; *since_ms is when the present state began (Unix time; 0: it was never
 * another). */
bool store_reader_works(struct store_reader *reader, char error[RING_ERROR_MAX], int64_t *since_ms);

/* The questions; those of store.h as there. STORE_BUSY when too many wait. */
void store_reader_highest(struct store_reader *reader, struct text room, store_on_number *done, void *arg);
void store_reader_find(struct store_reader *reader, struct text room, struct text user, struct text key,
                       const uint8_t *uid, store_on_number *done, void *arg);
void store_reader_page(struct store_reader *reader, struct text room, uint64_t above, uint64_t upto,
                       uint32_t limit, store_on_page *done, void *arg);
void store_reader_rooms(struct store_reader *reader, uint32_t limit, store_on_rooms *done, void *arg);

/* Under which number a message stands that was committed: its own, or the one its key was stored under
 * before. STORE_OK or STORE_FAILED. */
void store_reader_resolve(struct store_reader *reader, const struct message *message, store_on_number *done,
                          void *arg);

#endif
