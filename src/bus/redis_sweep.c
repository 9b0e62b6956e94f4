/* redis_sweep.c - the beat of this worker, and the lease to look after the others. What beat.lua says
 * counts: all times are Redis'. */
#include "redis_sweep.h"

#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "redis_args.h"

enum {
    PAUSE_MS = 2500,  /* between two beats: longer, and this worker, or Redis, was not well */
    LEASE_MS = 4000,
    ROUND_TICKS = 2,  /* in which the holder of the lease looks at all partitions */
};

struct beat {
    struct bus_redis *bus;
    uint32_t number;
};

int sweep_id_compare(const void *a, const void *b)
{
    return memcmp(a, b, WORKER_ID_SIZE - 1);
}

static void append_hex(char *out, const uint8_t *bytes, size_t length)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < length; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
}

static uint8_t digit(char hex)
{
    return (uint8_t)(hex <= '9' ? hex - '0' : (hex | 32) - 'a' + 10);
}

/* Its id, and its uid prefix in hex. */
static void add_living(struct redis_sweep *s, struct text entry)
{
    uint8_t prefix[SWEEP_PREFIX_SIZE];
    const char *hex = entry.data + WORKER_ID_SIZE;

    if (entry.length != WORKER_ID_SIZE + 2 * SWEEP_PREFIX_SIZE)
        return;
    for (size_t i = 0; i < SWEEP_PREFIX_SIZE; i++)
        prefix[i] = (uint8_t)(digit(hex[2 * i]) << 4 | digit(hex[2 * i + 1]));
    buf_add(&s->living, entry.data, WORKER_ID_SIZE);
    buf_add(&s->prefixes, prefix, SWEEP_PREFIX_SIZE);
}

/* The entry was made anew though there was one: this worker was taken for dead, or Redis emptied. The time
 * it was made tells that, and not whether it was there before this beat: a beat may be carried out twice. */
static void check_born(struct bus_redis *b, uint64_t born)
{
    struct redis_sweep *s = b->sweep;

    if (s->born != 0 && s->born != born) {
        log_warn("redis_worker_unknown", "id=%s hint=%s", b->id, "its users are entered again");
        for (unsigned i = 0; i < redis_topology_partitions(&b->target); i++)
            redis_presence_again(b, i);
    }
    s->born = born;
}

static void take_lease(struct bus_redis *b, const redisReply *reply)
{
    struct redis_sweep *s = b->sweep;
    bool judges = redis_reply_number(reply, 2) == 1;

    s->living.length = s->prefixes.length = 0;
    for (size_t i = 4; i < reply->elements; i++)
        add_living(s, redis_reply_text(reply, i));
    if (s->living.length > 0)
        qsort(s->living.data, s->living.length / WORKER_ID_SIZE, WORKER_ID_SIZE, sweep_id_compare);
    s->judges = judges;
    s->judges_ms = clock_monotonic_ms();
    /* Somebody died just now: not in turn, but at once, everywhere. */
    if (redis_reply_number(reply, 3) > 0) {
        log_warn("redis_workers_dead", "count=%llu living=%zu",
                 (unsigned long long)redis_reply_number(reply, 3), s->living.length / WORKER_ID_SIZE);
        for (unsigned i = 0; i < redis_topology_partitions(&b->target); i++)
            redis_purge_look(b, i);
    }
}

static void on_beat(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct beat *beat = arg;
    struct bus_redis *b = beat->bus;
    struct redis_sweep *s = b->sweep;

    (void)life;
    s->beating = s->judges = false;
    if (result == REDIS_ANSWERED && reply->elements >= 2 && !b->ending) {
        metrics_set(cluster_connections, redis_reply_number(reply, 1));
        check_born(b, redis_reply_number(reply, 0));
        if (reply->elements >= 4)
            take_lease(b, reply);
        redis_purge_judge(b, beat->number);
    }
    free(beat);
}

static void send_beat(struct bus_redis *b)
{
    struct redis_sweep *s = b->sweep;
    struct beat *beat = malloc(sizeof(*beat));
    struct redis_call call = {.script = SCRIPT_BEAT, .keys = 2, .life_argument = -1, .done = on_beat,
                              .arg = beat};
    char prefix[2 * SWEEP_PREFIX_SIZE];
    struct redis_args args;

    if (!beat)
        abort();
    *beat = (struct beat){b, ++s->beats};
    append_hex(prefix, (const uint8_t *)&b->uid_prefix, SWEEP_PREFIX_SIZE);
    redis_args_init(&args);
    redis_args_key(&args, 0, "workers", (struct text){NULL, 0});
    redis_args_key(&args, 0, "sweeper", (struct text){NULL, 0});
    redis_args_text(&args, (struct text){b->id, WORKER_ID_SIZE});
    redis_args_number(&args, metrics_get(metrics_mine, connections));
    redis_args_text(&args, (struct text){prefix, sizeof(prefix)});
    redis_args_number(&args, REDIS_DEAD_MS);
    redis_args_number(&args, LEASE_MS);
    redis_args_number(&args, PAUSE_MS);
    s->beating = redis_args_send(&args, b, &call);
    if (!s->beating)
        free(beat);
}

void redis_sweep_new(struct bus_redis *b)
{
    struct redis_sweep *s = calloc(1, sizeof(*s));

    if (!s)
        abort();
    s->partitions = calloc(redis_topology_partitions(&b->target), sizeof(*s->partitions));
    if (!s->partitions)
        abort();
    b->sweep = s;
    send_beat(b);
}

/* Whoever isn't among the workers is purged at the next look, without waiting for REDIS_DEAD_MS. */
void redis_sweep_end(struct bus_redis *b)
{
    struct redis_call call = {.script = -1, .life_argument = -1, .done = redis_bus_ignore};
    struct redis_args args;

    redis_args_init(&args);
    redis_args_word(&args, "HDEL");
    redis_args_key(&args, 0, "workers", (struct text){NULL, 0});
    redis_args_text(&args, (struct text){b->id, WORKER_ID_SIZE});
    (void)!redis_args_send(&args, b, &call);
}

void redis_sweep_free(struct bus_redis *b)
{
    redis_purge_free(b->sweep);
    redis_orphans_free(b->sweep);
    buf_deinit(&b->sweep->living);
    buf_deinit(&b->sweep->prefixes);
    free(b->sweep->partitions);
    free(b->sweep);
    b->sweep = NULL;
}

void redis_sweep_tick(struct bus_redis *b)
{
    struct redis_sweep *s = b->sweep;
    unsigned partitions = redis_topology_partitions(&b->target);

    redis_orphans_tick(b);
    if (!s->beating && !b->closing)
        send_beat(b);
    if (!s->judges || clock_monotonic_ms() - s->judges_ms > PAUSE_MS)
        return;
    for (unsigned i = 0; i < (partitions + ROUND_TICKS - 1) / ROUND_TICKS; i++) {
        redis_purge_look(b, s->hand);
        redis_orphans_look(b, s->hand);
        s->hand = (s->hand + 1) % partitions;
    }
}
