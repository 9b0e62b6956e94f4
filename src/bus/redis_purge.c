/* redis_purge.c - takes workers out of the rooms that are no more: the dead, and earlier generations of this
 * one.
 *
 * Who is in `owners` and not among the living may have just begun: so it is dead only if a beat that was
 * sent after `owners` had been read doesn't have it either. Each worker beats before it enters anybody. */
#include <stdlib.h>
#include <string.h>

#include "chatd/log.h"
#include "redis_args.h"
#include "redis_sweep.h"

enum {
    PURGES_MAX = 16384,  /* known of at a time: the next look finds the others */
    RUNNING_MAX = 64,
};

enum purge_state { PURGE_SUSPECTED, PURGE_DUE, PURGE_RUNNING };

struct purge_key {
    unsigned partition;
    char id[WORKER_ID_SIZE];
};

struct purge {
    UT_hash_handle hh;
    struct purge_key key;
    struct bus_redis *bus;
    enum purge_state state;
    uint32_t beat; /* the last one sent when it was suspected */
    uint32_t gone; /* users told */
};

static void step(struct purge *purge, struct text room, struct text cursor);

static bool lives(const struct redis_sweep *s, const char id[WORKER_ID_SIZE])
{
    size_t count = s->living.length / WORKER_ID_SIZE;

    return count > 0 && bsearch(id, s->living.data, count, WORKER_ID_SIZE, sweep_id_compare);
}

static void purge_drop(struct redis_sweep *s, struct purge *purge)
{
    if (purge->state == PURGE_RUNNING)
        s->purges_running--;
    HASH_DEL(s->purges, purge);
    free(purge);
}

void redis_purge_free(struct redis_sweep *s)
{
    struct purge *purge, *next;

    HASH_ITER(hh, s->purges, purge, next)
        purge_drop(s, purge);
}

static void run_due(struct redis_sweep *s)
{
    struct purge *purge, *next;

    HASH_ITER(hh, s->purges, purge, next) {
        if (s->purges_running >= RUNNING_MAX)
            return;
        if (purge->state == PURGE_DUE) {
            purge->state = PURGE_RUNNING;
            s->purges_running++;
            step(purge, (struct text){"", 0}, (struct text){"0", 1});
        }
    }
}

/* Gone users first: what they are told with is the reply's. One that fails is found again at the next
 * look. */
static void on_purged(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct purge *purge = arg;
    struct bus_redis *b = purge->bus;
    struct redis_sweep *s = b->sweep;

    (void)life;
    if (result != REDIS_ANSWERED) {
        purge_drop(s, purge);
        return;
    }
    for (size_t i = 2; i + 3 < reply->elements; i += 4) {
        redis_presence_gone(b, redis_reply_text(reply, i), redis_reply_text(reply, i + 1),
                            (uint32_t)redis_reply_number(reply, i + 2), redis_reply_number(reply, i + 3));
        purge->gone++;
    }
    if (b->ending) { /* another worker goes on with it */
        purge_drop(s, purge);
        return;
    }
    if (redis_reply_text(reply, 0).length > 0) {
        step(purge, redis_reply_text(reply, 0), redis_reply_text(reply, 1));
        return;
    }
    log_debug("redis_purged", "worker=%.*s partition=%u users=%u", WORKER_ID_SIZE, purge->key.id,
              purge->key.partition, purge->gone);
    purge_drop(s, purge);
    run_due(s);
}

/* The next bounded piece, from `room` and `cursor` on. */
static void step(struct purge *purge, struct text room, struct text cursor)
{
    struct bus_redis *b = purge->bus;
    unsigned partition = purge->key.partition;
    struct text id = {purge->key.id, WORKER_ID_SIZE}, none = {NULL, 0};
    struct redis_call call = {.partition = partition, .script = SCRIPT_PURGE, .keys = 3, .life_argument = -1,
                              .done = on_purged, .arg = purge};
    struct redis_args args;

    redis_args_init(&args);
    redis_args_key(&args, partition, "of", id);
    redis_args_key(&args, partition, "owners", none);
    redis_args_key(&args, partition, "active", none);
    redis_args_text(&args, id);
    redis_args_key(&args, partition, "members", none); /* no key: what room names are put behind */
    redis_args_text(&args, room);
    redis_args_text(&args, cursor);
    if (!redis_args_send(&args, b, &call))
        purge_drop(b->sweep, purge);
}

static void suspect(struct bus_redis *b, unsigned partition, const char id[WORKER_ID_SIZE],
                    enum purge_state state)
{
    struct redis_sweep *s = b->sweep;
    struct purge_key key = {.partition = partition};
    struct purge *purge;

    memcpy(key.id, id, WORKER_ID_SIZE);
    HASH_FIND(hh, s->purges, &key, sizeof(key), purge);
    if (purge || HASH_COUNT(s->purges) >= PURGES_MAX)
        return;
    purge = malloc(sizeof(*purge));
    if (!purge)
        abort();
    *purge = (struct purge){.key = key, .bus = b, .state = state, .beat = s->beats};
    HASH_ADD(hh, s->purges, key, sizeof(purge->key), purge);
}

struct look {
    struct bus_redis *bus;
    unsigned partition;
};

static void on_owners(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct look *look = arg;
    struct bus_redis *b = look->bus;
    struct redis_sweep *s = b->sweep;
    bool clean = result == REDIS_ANSWERED, stale;

    (void)life;
    for (size_t i = 0; result == REDIS_ANSWERED && i < reply->elements; i++) {
        struct text id = redis_reply_text(reply, i);

        if (id.length != WORKER_ID_SIZE)
            continue;
        if (redis_presence_own(b, look->partition, id.data, &stale)) {
            clean = clean && !stale;
            if (stale)
                suspect(b, look->partition, id.data, PURGE_DUE);
        } else if (s->judges && !lives(s, id.data))
            suspect(b, look->partition, id.data, PURGE_SUSPECTED);
    }
    if (clean)
        redis_presence_clean(b, look->partition);
    if (!b->ending)
        run_due(s);
    free(look);
}

void redis_purge_look(struct bus_redis *b, unsigned partition)
{
    struct look *look = malloc(sizeof(*look));
    struct redis_call call = {.partition = partition, .script = -1, .life_argument = -1, .done = on_owners,
                              .arg = look};
    struct redis_args args;

    if (!look)
        abort();
    *look = (struct look){b, partition};
    redis_args_init(&args);
    redis_args_word(&args, "SMEMBERS");
    redis_args_key(&args, partition, "owners", (struct text){NULL, 0});
    if (!redis_args_send(&args, b, &call))
        free(look);
}

void redis_purge_judge(struct bus_redis *b, uint32_t beat)
{
    struct redis_sweep *s = b->sweep;
    struct purge *purge, *next;

    HASH_ITER(hh, s->purges, purge, next) {
        if (purge->state != PURGE_SUSPECTED)
            continue;
        if (!s->judges || lives(s, purge->key.id))
            purge_drop(s, purge);
        else if ((int32_t)(beat - purge->beat) > 0)
            purge->state = PURGE_DUE;
    }
    run_due(s);
}
