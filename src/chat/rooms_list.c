/* rooms_list.c - merges the rooms of bus and store into one JSON array. */
#include "chatd/rooms_list.h"

#include <stdbool.h>
#include <stdlib.h>
#include <uthash.h>

#include "chatd/buf.h"

struct request {
    struct bus *bus;
    void (*done)(void *arg, const char *json, size_t length);
    void *arg;
};

/* A room of the store's answer, found by its name, which stays the store's. */
struct stored {
    UT_hash_handle hh;
    uint64_t seq;
    bool listed;
};

struct listing {
    struct stored *by_name;
    struct buf json;
    uint32_t count;
};

static void add_room(struct listing *listing, struct text room, uint32_t members, uint64_t seq)
{
    struct buf *json = &listing->json;

    buf_add(json, listing->count++ == 0 ? "[" : ",", 1);
    buf_add_literal(json, "{\"room\":");
    buf_add_json(json, room.data, room.length);
    buf_add_literal(json, ",\"members\":");
    buf_add_u64(json, members);
    buf_add_literal(json, ",\"seq\":");
    buf_add_u64(json, seq);
    buf_add_literal(json, "}");
}

static void on_bus_room(void *arg, struct text room, uint32_t members, uint64_t seq)
{
    struct listing *listing = arg;
    struct stored *stored;

    HASH_FIND(hh, listing->by_name, room.data, room.length, stored);
    if (stored != NULL) {
        stored->listed = true;
        seq = stored->seq > seq ? stored->seq : seq;
    }
    add_room(listing, room, members, seq);
}

/* The bus is asked only now, when the store has answered: its members are the newest, and nothing has to be
 * kept meanwhile. */
static void on_store_rooms(void *arg, enum store_status status, const struct text *names,
                           const uint64_t *highest, uint32_t count)
{
    struct request *request = arg;
    struct listing listing = {.json = BUF_INIT};
    struct stored *rooms;

    if (status != STORE_OK)
        count = 0;
    rooms = calloc(count > 0 ? count : 1, sizeof(*rooms));
    if (rooms == NULL)
        abort();
    for (uint32_t i = 0; i < count; i++) {
        rooms[i].seq = highest[i];
        HASH_ADD_KEYPTR(hh, listing.by_name, names[i].data, names[i].length, &rooms[i]);
    }
    bus_rooms(request->bus, ROOMS_LIST_MAX, on_bus_room, &listing);
    for (uint32_t i = 0; i < count && listing.count < ROOMS_LIST_MAX; i++) {
        if (!rooms[i].listed)
            add_room(&listing, names[i], 0, rooms[i].seq);
    }
    HASH_CLEAR(hh, listing.by_name);
    free(rooms);
    if (listing.count == 0)
        buf_add_literal(&listing.json, "[");
    buf_add_literal(&listing.json, "]");
    request->done(request->arg, listing.json.data, listing.json.length);
    buf_deinit(&listing.json);
    free(request);
}

void rooms_list(struct bus *bus, struct store *store,
                void (*done)(void *arg, const char *json, size_t length), void *arg)
{
    struct request *request = malloc(sizeof(*request));

    if (request == NULL)
        abort();
    *request = (struct request){.bus = bus, .done = done, .arg = arg};
    store_rooms(store, ROOMS_LIST_MAX, on_store_rooms, request);
}
