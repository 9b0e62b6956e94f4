/* redis_workers.h - a few workers' buses on one real Redis, in one loop: what each is told is noted.
 *
 * What the chat does with a user who came or went is done here too: an event goes to the room, so that the
 * others hear the count. A worker that is `silent` gets no ticks and no turns: to the others it is dead. */
#ifndef REDIS_WORKERS_H
#define REDIS_WORKERS_H

#include "redis_host.h"

#include "bus/redis_bus.h"
#include "chatd/metrics.h"

enum { WORKERS_MAX = 3, GONE_MAX = 4000, ORPHANS_MAX = 300 };

struct gone {
    char room[16], user[16];
    uint32_t members;
};

struct orphan_heard {
    char room[16], user[16], key[16], event[64];
    uint8_t uid[MESSAGE_UID_SIZE];
    uint64_t seq;
    bool stands;
};

struct worker {
    struct workers *all;
    struct bus *bus;
    bool silent;
    int64_t ticked_ms;
    unsigned gone_count, orphan_count, events;
    struct gone gone[GONE_MAX];
    struct orphan_heard orphans[ORPHANS_MAX];
};

struct workers {
    struct redis_host *redis;
    uv_loop_t loop;
    struct config config;
    struct worker w[WORKERS_MAX];
};

static inline struct text text(const char *string)
{
    return (struct text){string, strlen(string)};
}

static inline bool text_is(struct text t, const char *string)
{
    return t.length == strlen(string) && memcmp(t.data, string, t.length) == 0;
}

static inline struct bus_redis *redis_of(struct worker *w)
{
    return bus_redis_self(w->bus);
}

/* --- What the bus calls --- */

static inline void copy_text(char *out, size_t size, struct text t)
{
    assert_true(t.length < size);
    if (t.length > 0)
        memcpy(out, t.data, t.length);
    out[t.length] = 0;
}

static inline void on_record(void *arg, const struct message *message)
{
    (void)arg;
    (void)message;
}

static inline void on_event(void *arg, struct text room, struct text user, struct text event)
{
    (void)room;
    (void)user;
    (void)event;
    ((struct worker *)arg)->events++;
}

static inline void on_lost(void *arg, struct text room)
{
    (void)arg;
    (void)room;
}

static inline void on_gone(void *arg, struct text room, struct text user, uint32_t members)
{
    struct worker *w = arg;
    struct gone *gone = &w->gone[w->gone_count++];

    assert_true(w->gone_count < GONE_MAX);
    copy_text(gone->room, sizeof(gone->room), room);
    copy_text(gone->user, sizeof(gone->user), user);
    gone->members = members;
    if (members > 0 && members <= w->all->config.presence_limit)
        bus_emit(w->bus, room, user, text("{}"));
}

static inline void on_orphan(void *arg, const struct message *message, bool stands)
{
    struct worker *w = arg;
    struct orphan_heard *orphan = &w->orphans[w->orphan_count++];

    assert_true(w->orphan_count < ORPHANS_MAX);
    copy_text(orphan->room, sizeof(orphan->room), message->room);
    copy_text(orphan->user, sizeof(orphan->user), message->user);
    copy_text(orphan->key, sizeof(orphan->key), message->key);
    copy_text(orphan->event, sizeof(orphan->event), message->event);
    memcpy(orphan->uid, message->uid, MESSAGE_UID_SIZE);
    orphan->seq = message->seq;
    orphan->stands = stands;
    assert_int_equal(message->previous, message->seq - 1);
    assert_int_equal(message->position != 0, stands);
}

/* Over all workers, how often somebody was told that this user is gone. */
static inline unsigned gone_times(const struct workers *all, const char *room, const char *user)
{
    unsigned times = 0;

    for (int i = 0; i < WORKERS_MAX; i++) {
        for (unsigned g = 0; g < all->w[i].gone_count; g++)
            times += strcmp(all->w[i].gone[g].room, room) == 0 && strcmp(all->w[i].gone[g].user, user) == 0;
    }
    return times;
}

static inline unsigned gone_in_all(const struct workers *all)
{
    return all->w[0].gone_count + all->w[1].gone_count + all->w[2].gone_count;
}

/* --- Running --- */

static inline void turn(struct workers *all)
{
    int64_t now = clock_monotonic_ms();

    for (int i = 0; i < WORKERS_MAX; i++) {
        struct worker *w = &all->w[i];

        if (!w->bus || w->silent)
            continue;
        if (now - w->ticked_ms >= 1000) {
            w->ticked_ms = now;
            bus_tick(w->bus);
        }
        bus_turn(w->bus);
    }
}

#define until(all, condition) redis_host_until(&(all)->loop, condition, turn(all))

static inline void run_for(struct workers *all, int ms)
{
    int64_t end = clock_monotonic_ms() + ms;

    until(all, clock_monotonic_ms() >= end);
}

static inline void start_worker(struct workers *all, int i)
{
    struct worker *w = &all->w[i];
    struct bus_handler handler = {w, on_record, on_event, on_lost, on_gone, on_orphan};

    w->all = all;
    assert_int_equal(bus_redis_new(&w->bus, &all->loop, &all->config, &handler), 0);
}

static inline void stop_worker(struct worker *w)
{
    if (w->bus)
        redis_host_close_bus(w->bus, &w->all->loop, 500);
    w->bus = NULL;
}

/* `count` workers, each with the settings that `configure` makes of the defaults (may be NULL). */
static inline struct workers *workers_new(int count, void (*configure)(struct config *config))
{
    struct workers *all = calloc(1, sizeof(*all));

    assert_non_null(all);
    all->redis = redis_host_new(NULL, true);
    assert_int_equal(uv_loop_init(&all->loop), 0);
    config_defaults(&all->config);
    snprintf(all->config.redis, sizeof(all->config.redis), "redis://127.0.0.1:%d", all->redis->port);
    all->config.failover_grace = 0;
    if (configure)
        configure(&all->config);
    for (int i = 0; i < count; i++)
        start_worker(all, i);
    return all;
}

static inline void workers_free(struct workers *all)
{
    for (int i = 0; i < WORKERS_MAX; i++)
        stop_worker(&all->w[i]);
    redis_host_close_loop(&all->loop);
    redis_host_free(all->redis);
    free(all);
}

static inline int set_up(void **state)
{
    *state = workers_new(2, NULL);
    return 0;
}

static inline int set_up_three(void **state)
{
    *state = workers_new(3, NULL);
    return 0;
}

static inline int tear_down(void **state)
{
    workers_free(*state);
    return 0;
}

/* --- Asking --- */

struct answer {
    unsigned calls;
    enum bus_status status;
    uint32_t members, listed;
    bool changed;
    uint64_t seq;
    char names[1100][16];
    struct worker *worker;
    const char *room, *user;
};

static inline void on_status(void *arg, enum bus_status status)
{
    struct answer *answer = arg;

    answer->calls++;
    answer->status = status;
}

static inline void on_subscribed(void *arg, enum bus_status status, uint64_t seq)
{
    on_status(arg, status);
    ((struct answer *)arg)->seq = seq;
}

static inline void on_members(void *arg, enum bus_status status, uint32_t members, bool changed)
{
    struct answer *answer = arg;

    on_status(arg, status);
    answer->members = members;
    answer->changed = changed;
    if (changed && members <= answer->worker->all->config.presence_limit)
        bus_emit(answer->worker->bus, text(answer->room), text(answer->user), text("{}"));
}

static inline void on_listed(void *arg, uint32_t count, const struct text *users, uint32_t listed)
{
    struct answer *answer = arg;

    on_status(arg, BUS_OK);
    answer->members = count;
    answer->listed = listed;
    assert_true(listed <= 1100);
    for (uint32_t i = 0; i < listed; i++)
        copy_text(answer->names[i], sizeof(answer->names[i]), users[i]);
}

static inline void on_rooms(void *arg, const struct bus_room *rooms, uint32_t count)
{
    struct answer *answer = arg;

    on_status(arg, BUS_OK);
    answer->listed = count;
    answer->members = count > 0 ? rooms[0].members : 0;
    answer->seq = count > 0 ? rooms[0].seq : 0;
    for (uint32_t i = 0; i < count; i++)
        copy_text(answer->names[i], sizeof(answer->names[i]), rooms[i].name);
}

static inline uint64_t subscribe(struct worker *w, const char *room)
{
    static struct answer answer;

    answer = (struct answer){0};
    bus_open(w->bus, text(room), 0, on_status, &answer);
    until(w->all, answer.calls == 1);
    assert_int_equal(answer.status, BUS_OK);
    bus_subscribe(w->bus, text(room), on_subscribed, &answer);
    until(w->all, answer.calls == 2);
    assert_int_equal(answer.status, BUS_OK);
    return answer.seq;
}

/* Begins; the answer is `answer`'s. */
static inline void start_enter(struct worker *w, const char *room, const char *user, struct answer *answer)
{
    *answer = (struct answer){.worker = w, .room = room, .user = user};
    bus_enter(w->bus, text(room), text(user), on_members, answer);
}

static inline bool enter(struct worker *w, const char *room, const char *user)
{
    static struct answer answer;

    start_enter(w, room, user, &answer);
    until(w->all, answer.calls == 1);
    assert_int_equal(answer.status, BUS_OK);
    return answer.changed;
}

static inline const struct answer *members(struct worker *w, const char *room, uint32_t limit)
{
    static struct answer answer;

    answer = (struct answer){0};
    bus_members(w->bus, text(room), limit, on_listed, &answer);
    until(w->all, answer.calls == 1);
    return &answer;
}

static inline uint32_t count_of(struct worker *w, const char *room)
{
    return members(w, room, 0)->members;
}

static inline bool lists(const struct answer *answer, const char *name)
{
    for (uint32_t i = 0; i < answer->listed; i++) {
        if (strcmp(answer->names[i], name) == 0)
            return true;
    }
    return false;
}

#endif
