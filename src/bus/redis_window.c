/* redis_window.c - what the stream of a room still has of a range, and whether all else of it is in the
 * store (rule 7).
 *
 * Whoever asks will take what is missing here from the store. So as long as something of that may still be
 * on its way there, the answer is put off: asked again each REDIS_WINDOW_STEP_MS, up to BUS_PENDING_MS. */
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "redis_args.h"
#include "redis_bus.h"

/* Numbers are doubles in Lua: beyond this they aren't exact, and none is given. */
static const uint64_t NUMBER_MAX = 1ULL << 53;

enum { REDIS_WINDOW_STEP_MS = 100 };

/* Where the answer's parts begin: status, below, pending, then number and payload in turn. */
enum { AT_STATUS, AT_BELOW, AT_PENDING, AT_PAGE };

struct look {
    struct redis_later later;
    struct bus_redis *b;
    bus_on_window *done;
    void *arg;
    uint64_t above, upto;
    uint32_t limit;
    unsigned partition;
    int64_t until_ms;
    size_t room_length;
    char room[];
};

static void ask(struct look *look);

static void on_due(struct redis_later *later)
{
    ask((struct look *)later);
}

static void finish(struct look *look, enum bus_status status, const struct page *page, uint64_t below,
                   bool pending)
{
    look->done(look->arg, status, page, below, pending);
    free(look);
}

static void fail(struct look *look)
{
    finish(look, BUS_FAILED, &(struct page)PAGE_INIT, look->upto, true);
}

static void fill(struct page *page, const redisReply *reply)
{
    for (size_t i = AT_PAGE; i + 1 < reply->elements; i += 2) {
        int64_t received_us;
        struct text event = redis_payload_event(redis_reply_text(reply, i + 1), &received_us);

        page_add(page, redis_reply_number(reply, i), event.data, event.length);
        page_stamp(page, received_us);
    }
    page_reverse(page);
}

static void on_answer(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct look *look = arg;
    struct page page = PAGE_INIT;
    enum bus_status status = BUS_OK;
    uint64_t below = look->upto;
    bool pending;

    (void)life;
    if (result != REDIS_ANSWERED || reply->type != REDIS_REPLY_ARRAY || look->b->ending) {
        fail(look);
        return;
    }
    pending = redis_reply_number(reply, AT_PENDING) != 0;
    if (redis_reply_number(reply, AT_STATUS) != BUS_OK)
        status = BUS_NOT_OPEN;
    else if (redis_reply_number(reply, AT_BELOW) < NUMBER_MAX)
        below = redis_reply_number(reply, AT_BELOW);
    if (below > look->above && redis_bus_in_grace(look->b, look->partition))
        pending = true; /* Redis may have forgotten what is pending */
    if (pending && clock_monotonic_ms() < look->until_ms) {
        redis_bus_later(look->b, &look->later, clock_monotonic_ms() + REDIS_WINDOW_STEP_MS, on_due);
        return;
    }
    if (status == BUS_OK)
        fill(&page, reply);
    finish(look, status, &page, below, pending);
    page_deinit(&page);
}

static void ask(struct look *look)
{
    struct text room = {look->room, look->room_length};
    struct redis_call call = {.partition = look->partition, .room = room, .script = SCRIPT_WINDOW, .keys = 4,
                              .life_argument = 4, .done = on_answer, .arg = look};
    struct redis_args args;

    if (look->b->ending || !redis_bus_usable(look->b, look->partition)) {
        fail(look);
        return;
    }
    redis_args_init(&args);
    redis_args_key(&args, look->partition, "room", room);
    redis_args_key(&args, look->partition, "window", room);
    redis_args_key(&args, look->partition, "pending", (struct text){NULL, 0});
    redis_args_key(&args, look->partition, "since", (struct text){NULL, 0});
    redis_args_text(&args, REDIS_BUS_LIFE);
    redis_args_text(&args, room);
    redis_args_number(&args, (int64_t)(look->above < NUMBER_MAX ? look->above : NUMBER_MAX));
    redis_args_number(&args, (int64_t)(look->upto < NUMBER_MAX ? look->upto : NUMBER_MAX));
    redis_args_number(&args, look->limit);
    redis_args_number(&args, look->b->config->failover_grace);
    if (!redis_args_call(&args, look->b->client, &call))
        fail(look);
}

void redis_window(struct bus *bus, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                  bus_on_window *done, void *arg)
{
    struct bus_redis *b = bus_redis_self(bus);
    struct look *look = calloc(1, sizeof(*look) + room.length);

    if (!look)
        abort();
    look->b = b;
    look->done = done;
    look->arg = arg;
    look->above = above;
    look->upto = upto;
    look->limit = limit;
    look->partition = redis_bus_partition(b, room);
    look->until_ms = clock_monotonic_ms() + BUS_PENDING_MS;
    look->room_length = room.length;
    memcpy(look->room, room.data, room.length);
    ask(look);
}
