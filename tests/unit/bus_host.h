/* bus_host.h - two workers on one ring, without chat: what they hear is counted, what the bus answers is
 * kept. */
#ifndef BUS_HOST_H
#define BUS_HOST_H

#include "ring_host.h"

#include "chatd/bus_log.h"

enum { BUS_RING = 256 << 10, HEARD_MAX = 8192 };

struct worker {
    uv_loop_t loop;
    uv_timer_t tick;
    struct ring *ring;
    struct bus *bus;
    unsigned records, events, lost, gone, committed;
    uint64_t seqs[HEARD_MAX];
    char last_event[256], last_gone[80];
    uint32_t left;
    struct text answer_room; /* on a record, publish once there */
};

struct pair {
    struct host host;
    struct worker a, b;
};

/* --- What the bus answers --- */

struct answer {
    int calls;
    enum bus_status status;
    struct message message;
    uint64_t seq, below;
    uint32_t members, listed;
    bool changed;
    unsigned count;
    uint64_t seqs[256];
    char names[256][8];
};

static inline void on_status(void *arg, enum bus_status status)
{
    struct answer *answer = arg;

    answer->calls++;
    answer->status = status;
}

static inline void on_published(void *arg, enum bus_status status, const struct message *message)
{
    on_status(arg, status);
    ((struct answer *)arg)->message = *message;
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
}

static inline void on_listed(void *arg, uint32_t count, const struct text *users, uint32_t listed)
{
    struct answer *answer = arg;

    answer->members = count;
    answer->listed = listed;
    for (uint32_t i = 0; i < listed; i++) {
        assert_true(users[i].length < sizeof(answer->names[0]));
        memcpy(answer->names[i], users[i].data, users[i].length);
        answer->names[i][users[i].length] = 0;
    }
}

static inline void on_window(void *arg, enum bus_status status, const struct page *page, uint64_t below,
                             bool pending)
{
    struct answer *answer = arg;

    on_status(arg, status);
    assert_false(pending);
    answer->below = below;
    answer->count = page->count;
    for (uint32_t i = 0; i < page->count && i < 256; i++) {
        char expected[64];
        const struct page_entry *entry = &page->entries[i];
        int length =
            snprintf(expected, sizeof(expected), "{\"n\":%llu,\"time\":", (unsigned long long)entry->seq);

        answer->seqs[i] = entry->seq;
        assert_true(i == 0 || answer->seqs[i] > answer->seqs[i - 1]);
        assert_memory_equal(page->bytes.data + entry->offset, expected, (size_t)length);
    }
}

static inline void on_rooms(void *arg, const struct bus_room *rooms, uint32_t count)
{
    struct answer *answer = arg;

    answer->calls++;
    answer->count = count;
    assert_true(count <= 256);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(rooms[i].name.length < sizeof(answer->names[0]));
        memcpy(answer->names[i], rooms[i].name.data, rooms[i].name.length);
        answer->names[i][rooms[i].name.length] = 0;
        answer->members = rooms[i].members;
        answer->seqs[i] = rooms[i].seq;
    }
}

/* --- A worker --- */

static inline struct answer publish_as(struct worker *w, const char *room, const char *user, struct text key,
                                       const char *tail, bool retry, bool asked)
{
    struct bus_publish publish = {.room = text(room),
                                  .user = text(user),
                                  .key = key,
                                  .head = text("{\"n\":"),
                                  .tail = text(tail),
                                  .retry = retry,
                                  .asked = asked};
    struct answer answer = {0};

    bus_publish(w->bus, &publish, on_published, &answer);
    assert_int_equal(answer.calls, 1);
    return answer;
}

static inline struct answer publish(struct worker *w, const char *room, const char *tail)
{
    return publish_as(w, room, "ann", (struct text){NULL, 0}, tail, false, false);
}

static void on_record(void *arg, const struct message *message)
{
    struct worker *w = arg;

    assert_true(w->records < HEARD_MAX);
    w->seqs[w->records++] = message->seq;
    snprintf(w->last_event, sizeof(w->last_event), "%.*s", (int)message->event.length, message->event.data);
    if (w->answer_room.length > 0) {
        w->answer_room.length = 0;
        assert_int_equal(publish(w, "lobby", ",\"answer\":1}").status, BUS_OK);
    }
}

static void on_event(void *arg, struct text room, struct text user, struct text event)
{
    struct worker *w = arg;

    assert_true(text_is(room, "lobby") && text_is(user, "ann"));
    w->events++;
    snprintf(w->last_event, sizeof(w->last_event), "%.*s", (int)event.length, event.data);
}

static void on_lost(void *arg, struct text room)
{
    assert_int_equal(room.length, 0);
    ((struct worker *)arg)->lost++;
}

static void on_gone(void *arg, struct text room, struct text user, uint32_t members)
{
    struct worker *w = arg;

    w->gone++;
    w->left = members;
    snprintf(w->last_gone, sizeof(w->last_gone), "%.*s/%.*s", (int)room.length, room.data, (int)user.length,
             user.data);
}

static void on_orphan(void *arg, const struct message *message, bool stands)
{
    (void)arg, (void)message, (void)stands;
    fail_msg("the ring has no orphans");
}

static void on_committed(void *arg)
{
    ((struct worker *)arg)->committed++;
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static inline void attach(struct worker *w)
{
    const struct bus_handler handler = {w, on_record, on_event, on_lost, on_gone, on_orphan};

    assert_int_equal(bus_log_new(&w->bus, &w->loop, w->ring, &handler, on_committed, w), 0);
}

static inline void start_worker(struct worker *w, struct ring *ring)
{
    w->ring = ring;
    assert_int_equal(uv_loop_init(&w->loop), 0);
    uv_timer_init(&w->loop, &w->tick);
    attach(w);
}

static inline void stop_worker(struct worker *w)
{
    bus_log_close(w->bus);
    uv_close((uv_handle_t *)&w->tick, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    ring_close(w->ring);
}

/* One turn that waits for a datagram `ms` at most; true when it ended well before. */
static inline bool sleep_once(struct worker *w, uint64_t ms)
{
    int64_t start = clock_monotonic_ms();

    uv_update_time(&w->loop);
    uv_timer_start(&w->tick, on_tick, ms, 0);
    uv_run(&w->loop, UV_RUN_ONCE);
    uv_timer_stop(&w->tick);
    return clock_monotonic_ms() - start < (int64_t)ms / 2;
}

static inline int set_up_sized(void **state, uint64_t size)
{
    struct pair *pair = calloc(1, sizeof(*pair));

    assert_non_null(pair);
    open_host(&pair->host, size);
    start_worker(&pair->a, open_ring(pair->host.dir, size));
    start_worker(&pair->b, open_ring(pair->host.dir, size));
    assert_int_equal(pair->a.ring->seat, 0);
    assert_int_equal(pair->b.ring->seat, 1);
    *state = pair;
    return 0;
}

static inline int set_up(void **state)
{
    return set_up_sized(state, BUS_RING);
}

static inline int set_up_large(void **state)
{
    return set_up_sized(state, 8 << 20);
}

static inline int tear_down(void **state)
{
    struct pair *pair = *state;

    stop_worker(&pair->a);
    stop_worker(&pair->b);
    close_host(&pair->host);
    free(pair);
    return 0;
}

static inline void open_it(struct worker *w, const char *room)
{
    struct answer answer = {0};

    bus_open(w->bus, text(room), 0, on_status, &answer);
    assert_int_equal(answer.status, BUS_OK);
}

static inline uint64_t subscribe(struct worker *w, const char *room)
{
    struct answer answer = {0};

    open_it(w, room);
    bus_subscribe(w->bus, text(room), on_subscribed, &answer);
    assert_int_equal(answer.calls, 1);
    assert_int_equal(answer.status, BUS_OK);
    return answer.seq;
}

static inline struct answer enter(struct worker *w, const char *room, const char *user)
{
    struct answer answer = {0};

    bus_enter(w->bus, text(room), text(user), on_members, &answer);
    assert_int_equal(answer.calls, 1);
    assert_int_equal(answer.status, BUS_OK);
    return answer;
}

#endif
