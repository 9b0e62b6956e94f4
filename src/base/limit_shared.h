/* limit_shared.h - private to the limits: what lies in the shared mapping.
 *
 * The mapping starts as zeroes and pages are touched only when used, so generous sizes cost nothing. */
#ifndef CHATD_LIMIT_SHARED_H
#define CHATD_LIMIT_SHARED_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LIMIT_GROUPS = 1 << 15, /* a name's bucket is in the group its hash picks ... */
    LIMIT_WAYS = 8,         /* ... in one of so many places */
    LIMIT_HEADS = 1 << 16,
    LIMIT_ROWS = 1 << 18
};

/* A bucket belongs to a name while its time lies ahead; after that anybody may take it over, under
 * bucket_mutex. Its time only ever rises, LIMIT_TAKEN_OVER excepted, which keeps those off who come without
 * the mutex. */
struct limit_bucket {
    _Atomic uint64_t tag;     /* keyed hash of kind and name, 0 while never used */
    _Atomic int64_t until_ns; /* theoretical arrival time on the monotonic clock */
};

enum { LIMIT_TAKEN_OVER = -1 };

/* Counts while `count` > 0, and only then stands in its address's chain. Else it is free, and in the free
 * list. */
struct limit_row {
    uint64_t address; /* limit_address */
    int32_t owner;
    uint32_t next; /* index + 1, 0 ends a chain */
    _Atomic int64_t count;
};

struct limit {
    uint64_t key[2]; /* random: nobody outside can choose names or addresses that collide */
    pthread_mutex_t bucket_mutex;
    pthread_mutex_t row_mutex;
    uint32_t free_row;  /* index + 1 */
    uint32_t rows_used; /* rows from here on were never used */
    uint32_t heads[LIMIT_HEADS];
    struct limit_row rows[LIMIT_ROWS];
    struct limit_bucket buckets[LIMIT_GROUPS][LIMIT_WAYS];
};

uint64_t limit_hash(const struct limit *limit, uint64_t seed, const void *data, size_t length);

#endif
