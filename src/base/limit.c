/* limit.c - the shared mapping, and rates: token buckets without a lock on the way everybody takes. */
#include "chatd/limit.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "chatd/thread.h"
#include "limit_shared.h"

struct limit *limit_map(void)
{
    struct limit *limit;
    int error;

    limit = mmap(NULL, sizeof(*limit), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
    if (limit == MAP_FAILED)
        return NULL;
    error = getrandom(limit->key, sizeof(limit->key), 0) == sizeof(limit->key) ? 0 : EIO;
    if (error == 0)
        error = thread_mutex_init_shared(&limit->bucket_mutex);
    if (error == 0)
        error = thread_mutex_init_shared(&limit->row_mutex);
    if (error != 0) {
        munmap(limit, sizeof(*limit));
        errno = error;
        return NULL;
    }
    return limit;
}

static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Multiplies eight bytes at a time into the state, keyed at both ends. Good enough for a table whose key
 * and whose order nobody outside gets to see. */
uint64_t limit_hash(const struct limit *limit, uint64_t seed, const void *data, size_t length)
{
    const unsigned char *at = data;
    uint64_t state = fold(limit->key[0] ^ seed, length ^ 0x9e3779b97f4a7c15u);
    uint64_t word;

    for (; length > 0; length -= length < 8 ? length : 8) {
        word = 0;
        memcpy(&word, at, length < 8 ? length : 8);
        state = fold(state ^ word, limit->key[1] | 1) + word;
        at += 8;
    }
    state = fold(state ^ limit->key[0], 0xd6e8feb86659fd93u);
    return state != 0 ? state : 1;
}

/* A rate in the bucket's terms. */
struct gcra {
    int64_t step_ns;   /* what one token costs in time */
    int64_t window_ns; /* how far ahead of now a bucket may get */
    int64_t now_ns;
};

/* Where a bucket stands after one more token; or 0, and in *wait_ms how long until there is one. */
static int64_t advance(const struct gcra *gcra, int64_t until_ns, int64_t *wait_ms)
{
    int64_t after = (until_ns > gcra->now_ns ? until_ns : gcra->now_ns) + gcra->step_ns;
    int64_t over = after - gcra->now_ns - gcra->window_ns;

    if (over <= 0)
        return after;
    *wait_ms = (over + 999999) / 1000000;
    return 0;
}

enum outcome { GRANTED, REFUSED, ABSENT };

/* The usual way: the name has its bucket already. ABSENT is certain only under the mutex. */
static enum outcome take_known(struct limit_bucket *group, uint64_t tag, const struct gcra *gcra,
                               int64_t *wait_ms)
{
    for (int way = 0; way < LIMIT_WAYS;) {
        struct limit_bucket *bucket = &group[way];
        int64_t until = LIMIT_TAKEN_OVER, after;

        if (atomic_load(&bucket->tag) == tag)
            until = atomic_load(&bucket->until_ns);
        /* The tag is looked at again, as the time could be that of a name that came between. Whoever takes
         * over from here on changes the time first, and to one that was never there: the swap then fails. */
        if (until == LIMIT_TAKEN_OVER || atomic_load(&bucket->tag) != tag) {
            way++;
            continue;
        }
        after = advance(gcra, until, wait_ms);
        if (after == 0)
            return REFUSED;
        if (atomic_compare_exchange_strong(&bucket->until_ns, &until, after))
            return GRANTED;
    }
    return ABSENT;
}

/* Takes over a bucket whose time is up. All who do this hold the mutex, so a name never gets two. */
static void take_new(struct limit_bucket *group, uint64_t tag, const struct gcra *gcra)
{
    for (int way = 0; way < LIMIT_WAYS; way++) {
        struct limit_bucket *bucket = &group[way];
        int64_t until = atomic_load(&bucket->until_ns);

        /* One that is being taken over was left so by a process that died at it. */
        if (until > gcra->now_ns)
            continue;
        if (!atomic_compare_exchange_strong(&bucket->until_ns, &until, LIMIT_TAKEN_OVER))
            continue;
        atomic_store(&bucket->tag, tag);
        atomic_store(&bucket->until_ns, gcra->now_ns + gcra->step_ns);
        return;
    }
}

int64_t limit_take(struct limit *limit, enum limit_kind kind, const char *name, size_t length,
                   struct config_rate rate, int64_t now_ms)
{
    struct limit_bucket *group;
    struct gcra gcra;
    enum outcome outcome;
    int64_t wait_ms = 1;
    uint64_t tag;

    if (rate.count <= 0)
        return 0;
    gcra.window_ns = rate.per_ms * 1000000;
    gcra.step_ns = gcra.window_ns > rate.count ? gcra.window_ns / rate.count : 1;
    gcra.now_ns = now_ms * 1000000;
    tag = limit_hash(limit, (uint64_t)kind + 1, name, length);
    group = limit->buckets[tag % LIMIT_GROUPS];
    outcome = take_known(group, tag, &gcra, &wait_ms);
    if (outcome == ABSENT) {
        /* Buckets need no repair after a death: each is whole, or marked as being taken over. */
        if (pthread_mutex_lock(&limit->bucket_mutex) == EOWNERDEAD)
            pthread_mutex_consistent(&limit->bucket_mutex);
        outcome = take_known(group, tag, &gcra, &wait_ms);
        if (outcome == ABSENT)
            take_new(group, tag, &gcra);
        pthread_mutex_unlock(&limit->bucket_mutex);
    }
    return outcome == REFUSED ? wait_ms : 0;
}
