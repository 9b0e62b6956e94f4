/* rooms_list.c - merges the rooms of bus and store into one JSON array. */
#include "chatd/rooms_list.h"

#include <stdbool.h>
#include <stdlib.h>
#include <uthash.h>

#include "chatd/buf.h"

/* A room of the store's answer, kept until the bus has answered too. */
struct stored {
    UT_hash_handle hh;
    struct text name; /* into the listing's names */
    uint64_t seq;
    bool listed;
};

struct listing {
    struct bus *bus;
    void (*done)(void *arg, const char *json, size_t length);
    void *arg;
    struct stored *stored, *by_name;
    uint32_t stored_count;
    struct buf names;
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

static void add_bus_room(struct listing *listing, const struct bus_room *room)
{
    uint64_t seq = room->seq;
    struct stored *stored;

    HASH_FIND(hh, listing->by_name, room->name.data, room->name.length, stored);
    if (stored != NULL) {
        stored->listed = true;
        seq = stored->seq > seq ? stored->seq : seq;
    }
    add_room(listing, room->name, room->members, seq);
}

static void on_bus_rooms(void *arg, const struct bus_room *rooms, uint32_t count)
{
    struct listing *listing = arg;

    for (uint32_t i = 0; i < count && listing->count < ROOMS_LIST_MAX; i++)
        add_bus_room(listing, &rooms[i]);
    for (uint32_t i = 0; i < listing->stored_count && listing->count < ROOMS_LIST_MAX; i++) {
        if (!listing->stored[i].listed)
            add_room(listing, listing->stored[i].name, 0, listing->stored[i].seq);
    }
    if (listing->count == 0)
        buf_add_literal(&listing->json, "[");
    buf_add_literal(&listing->json, "]");
    listing->done(listing->arg, listing->json.data, listing->json.length);
    HASH_CLEAR(hh, listing->by_name);
    free(listing->stored);
    buf_deinit(&listing->names);
    buf_deinit(&listing->json);
    free(listing);
}

static void keep_stored(struct listing *listing, const struct text *names, const uint64_t *highest,
                        uint32_t count)
{
    size_t length = 1;

    for (uint32_t i = 0; i < count; i++)
        length += names[i].length;
    buf_reserve(&listing->names, length); /* so that it doesn't move while it is pointed into */
    listing->stored = calloc(count + 1, sizeof(*listing->stored));
    if (listing->stored == NULL)
        abort();
    listing->stored_count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct stored *stored = &listing->stored[i];

        stored->name = (struct text){listing->names.data + listing->names.length, names[i].length};
        buf_add(&listing->names, names[i].data, names[i].length);
        stored->seq = highest[i];
        HASH_ADD_KEYPTR(hh, listing->by_name, stored->name.data, stored->name.length, stored);
    }
}

/* The bus is asked only now, when the store has answered: its members are the newest. */
static void on_store_rooms(void *arg, enum store_status status, const struct text *names,
                           const uint64_t *highest, uint32_t count)
{
    struct listing *listing = arg;

    keep_stored(listing, names, highest, status == STORE_OK ? count : 0);
    bus_rooms(listing->bus, ROOMS_LIST_MAX, on_bus_rooms, listing);
}

void rooms_list(struct bus *bus, struct store *store,
                void (*done)(void *arg, const char *json, size_t length), void *arg)
{
    struct listing *listing = malloc(sizeof(*listing));

    if (listing == NULL)
        abort();
    *listing = (struct listing){.bus = bus, .done = done, .arg = arg, .names = BUF_INIT, .json = BUF_INIT};
    store_rooms(store, ROOMS_LIST_MAX, on_store_rooms, listing);
}
