/* replay.c - window first; what the window no longer has is committed, or pending, and the store's. One
 * message more than asked for is looked up: it tells whether there is more. */
#include "chatd/replay.h"

#include <stdlib.h>
#include <string.h>

struct replay {
    struct bus *bus;
    struct store *store;
    uint64_t above;
    uint64_t upto;
    uint32_t limit;
    replay_on_page *done;
    void *arg;
    struct page window;
    bool pending;
    size_t room_length;
    char room[MESSAGE_ROOM_MAX];
};

static void finish(struct replay *r, enum store_status status, struct page *page, bool more)
{
    struct page newest = *page;

    if (page->count > r->limit) {
        newest.entries += page->count - r->limit;
        newest.count = r->limit;
        more = true;
    }
    r->done(r->arg, status, &newest, more, status == STORE_OK && r->pending);
    page_deinit(&r->window);
    free(r);
}

static void on_stored(void *arg, enum store_status status, const struct page *page, bool more)
{
    struct replay *r = arg;
    struct page merged = PAGE_INIT;

    if (status == STORE_OK) {
        page_append(&merged, page);
        page_append(&merged, &r->window);
        merged.gone = page->gone;
    }
    finish(r, status, &merged, more);
    page_deinit(&merged);
}

static void on_window(void *arg, enum bus_status status, const struct page *page, uint64_t below,
                      bool pending)
{
    struct replay *r = arg;

    /* A room that the bus doesn't know: all of it is the store's, and `below` says so. A bus that isn't
     * heard can't tell what the store hasn't got yet. */
    if (status != BUS_OK && status != BUS_NOT_OPEN) {
        finish(r, status == BUS_FULL ? STORE_BUSY : STORE_FAILED, &r->window, false);
        return;
    }
    page_append(&r->window, page);
    r->pending = pending;
    if (page->count > r->limit || below <= r->above)
        finish(r, STORE_OK, &r->window, false);
    else
        store_page(r->store, (struct text){r->room, r->room_length}, r->above, below,
                   r->limit + 1, on_stored, r); /* not less: who asks for the same shares one look-up */
}

void replay_start(struct bus *bus, struct store *store, struct text room, uint64_t above, uint64_t upto,
                  uint32_t limit, replay_on_page *done, void *arg)
{
    struct replay *r = malloc(sizeof(*r));

    if (!r)
        abort();
    *r = (struct replay){bus, store, above, upto, limit, done, arg, PAGE_INIT, false, room.length, ""};
    memcpy(r->room, room.data, room.length);
    bus_window(bus, room, above, upto, limit + 1, on_window, r);
}
