/* chat_fake.h - a world around src/chat for tests: connections that keep what they are sent, and a bus and a store in memory
 * whose answers can be held back and let go in any order.
 *
 * A call that is held has no effect before it is let go. Store calls are always held, as store.h promises; bus calls
 * answer at once, like bus_log, unless `hold` says otherwise. Numbers start at 1 in every room, so that a missing one is seen.
 * Included by one file per program: it defines the functions of conn.h that chat calls, in the place of src/net's. */
#ifndef CHATD_TESTS_CHAT_FAKE_H
#define CHATD_TESTS_CHAT_FAKE_H

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "chat/core.h"

#define HELPER __attribute__((unused)) static

/* ---- connections ---- */

struct conn {
    void *data;
    uint64_t id;
    size_t queued;
    bool closing;
    enum close_reason reason;
    struct buf got; /* what it was sent since it was last asked, in words: see describe */
    unsigned frames;
    struct {
        char room[32];
        uint64_t seq;
    } last[8]; /* number per room: what comes next must be higher */
    void (*on_message)(struct conn *conn, const json_t *message);
};

void conn_set_data(struct conn *conn, void *data)
{
    conn->data = data;
}

void *conn_data(const struct conn *conn)
{
    return conn->data;
}

uint64_t conn_id(const struct conn *conn)
{
    return conn->id;
}

size_t conn_queued(const struct conn *conn)
{
    return conn->queued;
}

bool conn_closing(const struct conn *conn)
{
    return conn->closing;
}

void conn_close(struct conn *conn, enum close_reason reason)
{
    if (conn->closing)
        return;
    conn->closing = true;
    conn->reason = reason;
}

static const char *member_text(const json_t *message, const char *name)
{
    const char *text = json_string_value(json_object_get(message, name));

    return text ? text : "";
}

static long long member_number(const json_t *message, const char *name)
{
    return (long long)json_integer_value(json_object_get(message, name));
}

static void describe_list(struct buf *out, const json_t *message)
{
    const json_t *list = json_object_get(message, "messages"), *one;
    size_t i;

    buf_add_literal(out, "[");
    json_array_foreach(list, i, one)
        buf_printf(out, "%s%lld", i > 0 ? " " : "", member_number(one, "seq"));
    buf_add_literal(out, "]");
}

/* One word per message, so that a test can say in one line what a connection must have got:
 * m7 | joined=57[56 57] (`...` behind an incomplete one) | ack=58 | error=code (`+` with retry_ms) | join:ana/2 | leave:ana/1 | count/201 |
 * on:ana | off:ana | history[1 2] (`...` with more) | any other type by its name. An id stands behind as #id. */
static void describe(struct buf *out, const json_t *m)
{
    const char *type = member_text(m, "type");
    char *id = json_object_get(m, "id") ? json_dumps(json_object_get(m, "id"), JSON_ENCODE_ANY) : NULL;

    if (strcmp(type, "message") == 0)
        buf_printf(out, "m%lld", member_number(m, "seq"));
    else if (strcmp(type, "joined") == 0) {
        buf_printf(out, "joined=%lld", member_number(m, "seq"));
        describe_list(out, m);
        buf_add_string(out, json_is_true(json_object_get(m, "complete")) ? "" : "...");
    } else if (strcmp(type, "history") == 0) {
        buf_add_string(out, type);
        describe_list(out, m);
        buf_add_string(out, json_is_true(json_object_get(m, "more")) ? "..." : "");
    } else if (strcmp(type, "ack") == 0)
        buf_printf(out, "ack=%lld", member_number(m, "seq"));
    else if (strcmp(type, "error") == 0)
        buf_printf(out, "error=%s%s", member_text(m, "code"), json_object_get(m, "retry_ms") ? "+" : "");
    else if (strcmp(type, "presence") == 0)
        buf_printf(out, "%s%s%s/%lld", member_text(m, "event"), json_object_get(m, "user") ? ":" : "",
                   member_text(m, "user"), member_number(m, "members"));
    else if (strcmp(type, "typing") == 0)
        buf_printf(out, "%s:%s", json_is_true(json_object_get(m, "on")) ? "on" : "off", member_text(m, "user"));
    else
        buf_add_string(out, type);
    if (id)
        buf_printf(out, "#%s", id);
    free(id);
}

/* Numbers rise for every observer, from `joined.seq` on. */
static void check_order(struct conn *conn, const json_t *m)
{
    const char *type = member_text(m, "type"), *room = member_text(m, "room");
    bool joined = strcmp(type, "joined") == 0;
    uint64_t seq = (uint64_t)member_number(m, "seq");

    if (!joined && strcmp(type, "message") != 0)
        return;
    for (unsigned i = 0; i < 8; i++) {
        if (conn->last[i].room[0] == 0)
            snprintf(conn->last[i].room, sizeof conn->last[i].room, "%s", room);
        if (strncmp(conn->last[i].room, room, sizeof conn->last[i].room - 1) != 0)
            continue;
        if (joined ? seq < conn->last[i].seq : seq <= conn->last[i].seq) {
            fprintf(stderr, "%s %llu after %llu\n", type, (unsigned long long)seq,
                    (unsigned long long)conn->last[i].seq);
            abort();
        }
        conn->last[i].seq = seq;
        return;
    }
}

/* Takes a finished frame apart again: every message in it is a JSON object. */
void conn_send(struct conn *conn, struct frame *frame)
{
    const unsigned char *at = (const unsigned char *)frame->data, *end = at + frame->length;

    if (conn->closing)
        return;
    conn->frames++;
    for (bool first = true; at < end; first = false) {
        size_t length = at[1], header = 2;
        json_t *message;

        if (length == 126) {
            length = (size_t)at[2] << 8 | at[3];
            header = 4;
        } else if (length == 127) {
            length = (size_t)at[6] << 24 | (size_t)at[7] << 16 | (size_t)at[8] << 8 | at[9];
            header = 10;
        }
        assert(at[0] == 0x81 && at + header + length <= end);
        message = json_loadb((const char *)at + header, length, JSON_ALLOW_NUL, NULL);
        if (!json_is_object(message))
            abort();
        if (conn->got.length > 0)
            buf_add(&conn->got, first ? " " : "+", 1);
        describe(&conn->got, message);
        check_order(conn, message);
        if (conn->on_message)
            conn->on_message(conn, message);
        json_decref(message);
        at += header + length;
    }
}

void conn_send_text(struct conn *conn, const char *text, size_t length)
{
    struct frame *frame = frame_text(text, length);

    conn_send(conn, frame);
    frame_unref(frame);
}

/* ---- bus and store ---- */

enum call_kind { CALL_OPEN, CALL_SUBSCRIBE, CALL_PUBLISH, CALL_WINDOW, CALL_ENTER, CALL_MEMBERS, /* bus */
                 CALL_COMMIT, CALL_HIGHEST, CALL_FIND, CALL_PAGE, CALL_ROOMS,               /* store */
                 CALL_KINDS };

struct call {
    struct call *next;
    enum call_kind kind;
    char room[MESSAGE_ROOM_MAX + 1], user[MESSAGE_USER_MAX + 1];
    char *key, *event; /* heap: the sanitizers see who reads behind them */
    size_t room_length, user_length, key_length;
    struct text head, tail;
    bool retry, asked;
    uint64_t above, upto;
    uint32_t limit;
    void (*done)(void);
    void *arg;
};

struct fake_record {
    uint64_t seq, previous;
    char *event, *key, user[MESSAGE_USER_MAX + 1];
    size_t event_length, key_length, user_length;
    bool committed, unseen; /* unseen: still in the worker's inbox */
};

struct fake_member {
    char user[MESSAGE_USER_MAX + 1];
    size_t user_length;
    unsigned connections;
};

struct fake_room {
    struct fake_room *next;
    char name[MESSAGE_ROOM_MAX + 1];
    size_t name_length;
    bool open, subscribed;
    unsigned unsubscribed; /* how often */
    uint64_t seq, window_from;
    struct fake_record *records;
    size_t record_count;
    struct fake_member members[64];
    uint32_t member_count, others; /* others: users on other workers, as many as a test likes */
};

struct world {
    struct bus bus; /* first */
    struct store store;
    struct chat *chat;
    struct config config;
    struct limit *limit;
    uint8_t key[TOKEN_KEY_SIZE];
    struct fake_room *rooms;
    struct call *calls, **last_call;
    bool hold[CALL_KINDS];
    int fails[CALL_KINDS]; /* status to answer with instead, 0 none; for publish BUS_FULL and the like */
    uint64_t conflict;     /* CALL_COMMIT answers with this number when set */
    struct buf events;     /* passing events not yet handed up: room NUL user NUL length event */
    struct conn conns[64];
    unsigned conn_count;
};

static struct world *world_of_store(struct store *store)
{
    return (struct world *)((char *)store - offsetof(struct world, store));
}

static bool same(const char *data, size_t length, struct text text)
{
    return length == text.length && (length == 0 || memcmp(data, text.data, length) == 0);
}

static struct fake_room *fake_room(struct world *w, struct text name)
{
    struct fake_room *r = w->rooms;

    while (r && !same(r->name, r->name_length, name))
        r = r->next;
    if (r)
        return r;
    r = calloc(1, sizeof *r);
    r->name_length = name.length;
    memcpy(r->name, name.data, name.length);
    r->next = w->rooms;
    r->window_from = 1;
    return w->rooms = r;
}

static char *copy_of(struct text text)
{
    char *copy = malloc(text.length + (text.length == 0));

    if (text.length > 0)
        memcpy(copy, text.data, text.length);
    return copy;
}

static struct fake_record *fake_append(struct fake_room *r, struct text user, struct text key, struct text head,
                                       struct text tail)
{
    struct buf event = BUF_INIT;
    struct fake_record *record;

    r->records = realloc(r->records, (r->record_count + 1) * sizeof *r->records);
    record = &r->records[r->record_count++];
    *record = (struct fake_record){.seq = r->seq + 1, .previous = r->seq};
    r->seq++;
    buf_add(&event, head.data, head.length);
    buf_printf(&event, "%llu,\"time\":%llu", (unsigned long long)record->seq, (unsigned long long)record->seq);
    buf_add(&event, tail.data, tail.length);
    record->event = copy_of((struct text){event.data, event.length});
    record->event_length = event.length;
    buf_deinit(&event);
    record->key = copy_of(key);
    record->key_length = key.length;
    memcpy(record->user, user.data, user.length);
    record->user_length = user.length;
    record->unseen = r->subscribed;
    return record;
}

static struct message message_of(struct fake_room *r, const struct fake_record *record)
{
    return (struct message){.room = {r->name, r->name_length}, .user = {record->user, record->user_length},
                            .key = {record->key, record->key_length}, .seq = record->seq,
                            .previous = record->previous, .event = {record->event, record->event_length}};
}

static struct fake_record *by_key(struct fake_room *r, const struct call *c, bool stored)
{
    for (size_t i = 0; i < r->record_count && c->key_length > 0; i++) {
        struct fake_record *record = &r->records[i];

        if (same(record->key, record->key_length, (struct text){c->key, c->key_length}) &&
            same(record->user, record->user_length, (struct text){c->user, c->user_length}) &&
            (stored ? record->committed : record->seq >= r->window_from))
            return record;
    }
    return NULL;
}

static void answer_publish(struct world *w, struct fake_room *r, const struct call *c)
{
    bus_on_published *done = (bus_on_published *)c->done;
    struct fake_record *record = by_key(r, c, false);
    enum bus_status status = BUS_DUPLICATE;
    struct message message = {0};

    if (w->fails[CALL_PUBLISH])
        status = (enum bus_status)w->fails[CALL_PUBLISH];
    else if (!r->open)
        status = BUS_NOT_OPEN;
    else if (!record && c->retry && c->key_length > 0 && !c->asked)
        status = BUS_NOT_FOUND_IN_WINDOW;
    else if (!record) {
        record = fake_append(r, (struct text){c->user, c->user_length}, (struct text){c->key, c->key_length},
                             c->head, c->tail);
        status = BUS_OK;
    }
    if (record)
        message = message_of(r, record);
    message.event = (struct text){NULL, 0};
    done(c->arg, status, &message);
}

/* Newest `limit` of (above, upto], from the window or from the store. */
static uint64_t fake_page(struct fake_room *r, const struct call *c, bool stored, struct page *page, bool *more)
{
    uint64_t below = c->upto < r->seq || stored ? c->upto : r->seq;

    *more = false;
    for (size_t i = r->record_count; i > 0 && below > c->above; i--) {
        const struct fake_record *record = &r->records[i - 1];

        if (record->seq > c->upto || record->seq <= c->above || (stored && !record->committed))
            continue;
        if (!stored && record->seq < r->window_from)
            break;
        *more = page->count == c->limit;
        if (*more)
            break;
        page_add(page, record->seq, record->event, record->event_length);
        below = record->previous;
    }
    page_reverse(page);
    return below > c->above ? below : c->above;
}

static void answer_page(struct world *w, struct fake_room *r, const struct call *c)
{
    bool stored = c->kind == CALL_PAGE, more;
    struct page page = PAGE_INIT;
    enum store_status status = (enum store_status)w->fails[CALL_PAGE];
    uint64_t below;

    if (!stored) {
        below = r->open ? fake_page(r, c, false, &page, &more) : c->upto;
        ((bus_on_window *)c->done)(c->arg, r->open ? BUS_OK : BUS_NOT_OPEN, &page, below);
    } else {
        if (status == STORE_OK)
            fake_page(r, c, true, &page, &more);
        ((store_on_page *)c->done)(c->arg, status, &page, status == STORE_OK && more);
    }
    page_deinit(&page);
}

static void answer_enter(struct world *w, struct fake_room *r, const struct call *c)
{
    bus_on_members *done = (bus_on_members *)c->done;
    struct fake_member *m = r->members;
    bool changed;

    if (w->fails[CALL_ENTER]) {
        done(c->arg, (enum bus_status)w->fails[CALL_ENTER], 0, false);
        return;
    }
    while (m < r->members + r->member_count && !same(m->user, m->user_length, (struct text){c->user, c->user_length}))
        m++;
    changed = m == r->members + r->member_count;
    if (changed) {
        assert(r->member_count < 64);
        *m = (struct fake_member){.user_length = c->user_length};
        memcpy(m->user, c->user, c->user_length);
        r->member_count++;
    }
    m->connections++;
    done(c->arg, BUS_OK, r->member_count + r->others, changed);
}

static void answer_members(struct fake_room *r, const struct call *c)
{
    struct text users[64];

    for (uint32_t i = 0; i < r->member_count; i++)
        users[i] = (struct text){r->members[i].user, r->members[i].user_length};
    ((void (*)(void *, uint32_t, const struct text *, uint32_t))c->done)(c->arg, r->member_count + r->others, users,
                                                                           r->member_count);
}

static void answer_number(struct world *w, struct fake_room *r, const struct call *c)
{
    store_on_number *done = (store_on_number *)c->done;
    enum store_status status = (enum store_status)w->fails[c->kind];
    struct fake_record *record = NULL;
    uint64_t number = 0;

    if (status == STORE_OK && c->kind == CALL_FIND) {
        record = by_key(r, c, true);
        status = record ? STORE_OK : STORE_NONE;
        number = record ? record->seq : 0;
    } else if (status == STORE_OK && c->kind == CALL_HIGHEST) {
        for (size_t i = 0; i < r->record_count; i++)
            if (r->records[i].committed)
                number = r->records[i].seq;
    } else if (status == STORE_OK) {
        number = w->conflict ? w->conflict : c->upto;
        for (size_t i = 0; i < r->record_count; i++)
            if (r->records[i].seq == c->upto)
                r->records[i].committed = true;
    }
    done(c->arg, status, number);
}

static void answer_rooms(struct world *w, const struct call *c)
{
    enum store_status status = (enum store_status)w->fails[CALL_ROOMS];
    struct text names[64];
    uint64_t highest[64];
    uint32_t count = 0;

    for (struct fake_room *r = w->rooms; r && count < 64; r = r->next) {
        names[count] = (struct text){r->name, r->name_length};
        highest[count++] = r->seq;
    }
    ((store_on_rooms *)c->done)(c->arg, status, names, highest, status == STORE_OK ? count : 0);
}

static void answer_call(struct world *w, const struct call *c)
{
    struct fake_room *r = fake_room(w, (struct text){c->room, c->room_length});

    switch (c->kind) {
    case CALL_OPEN:
        if (!w->fails[CALL_OPEN] && !r->open) {
            r->open = true;
            r->seq = c->above > r->seq ? c->above : r->seq;
        }
        ((void (*)(void *, enum bus_status))c->done)(c->arg, (enum bus_status)w->fails[CALL_OPEN]);
        break;
    case CALL_SUBSCRIBE:
        r->subscribed = r->open;
        ((bus_on_subscribed *)c->done)(c->arg, r->open ? BUS_OK : BUS_NOT_OPEN, r->open ? r->seq : 0);
        break;
    case CALL_PUBLISH:
        answer_publish(w, r, c);
        break;
    case CALL_ENTER:
        answer_enter(w, r, c);
        break;
    case CALL_MEMBERS:
        answer_members(r, c);
        break;
    case CALL_WINDOW:
    case CALL_PAGE:
        answer_page(w, r, c);
        break;
    case CALL_COMMIT:
    case CALL_HIGHEST:
    case CALL_FIND:
        answer_number(w, r, c);
        break;
    case CALL_ROOMS:
        answer_rooms(w, c);
        break;
    case CALL_KINDS:
        break;
    }
}

static void call_free(struct call *c)
{
    free(c->key);
    free(c->event);
    free(c);
}

HELPER unsigned waiting(const struct world *w, enum call_kind kind)
{
    unsigned count = 0;

    for (const struct call *c = w->calls; c; c = c->next)
        count += kind == CALL_KINDS || c->kind == kind;
    return count;
}

/* Lets the oldest held call of that kind go (CALL_KINDS: of any). False: there is none. */
HELPER bool let_go(struct world *w, enum call_kind kind)
{
    struct call **link = &w->calls, *c;

    while (*link && kind != CALL_KINDS && (*link)->kind != kind)
        link = &(*link)->next;
    c = *link;
    if (!c)
        return false;
    *link = c->next;
    if (!*link)
        w->last_call = link;
    answer_call(w, c);
    call_free(c);
    return true;
}

static void make_call(struct world *w, struct call call, struct text room, struct text user, struct text key)
{
    struct call *c = malloc(sizeof *c);

    *c = call;
    memcpy(c->room, room.data, room.length);
    c->room_length = room.length;
    memcpy(c->user, user.length > 0 ? user.data : "", user.length);
    c->user_length = user.length;
    c->key = copy_of(key);
    c->key_length = key.length;
    c->event = malloc(call.head.length + call.tail.length + 1);
    if (call.head.length > 0) {
        memcpy(c->event, call.head.data, call.head.length);
        memcpy(c->event + call.head.length, call.tail.data, call.tail.length);
        c->head.data = c->event;
        c->tail.data = c->event + call.head.length;
    }
    if (c->kind < CALL_COMMIT && !w->hold[c->kind]) {
        answer_call(w, c);
        call_free(c);
        return;
    }
    c->next = NULL;
    *w->last_call = c;
    w->last_call = &c->next;
}

#define DONE(f) ((void (*)(void))(f))
#define NOBODY ((struct text){"", 0})

static void fake_open(struct bus *bus, struct text room, uint64_t highest, void (*done)(void *, enum bus_status), void *arg)
{
    make_call((struct world *)bus, (struct call){.kind = CALL_OPEN, .above = highest, .done = DONE(done), .arg = arg},
              room, NOBODY, NOBODY);
}

static void fake_subscribe(struct bus *bus, struct text room, bus_on_subscribed *done, void *arg)
{
    make_call((struct world *)bus, (struct call){.kind = CALL_SUBSCRIBE, .done = DONE(done), .arg = arg}, room, NOBODY,
              NOBODY);
}

static void fake_unsubscribe(struct bus *bus, struct text room)
{
    struct fake_room *r = fake_room((struct world *)bus, room);

    assert(r->subscribed);
    r->subscribed = false;
    r->unsubscribed++;
}

static void fake_publish(struct bus *bus, const struct bus_publish *p, bus_on_published *done, void *arg)
{
    make_call((struct world *)bus,
              (struct call){.kind = CALL_PUBLISH, .head = p->head, .tail = p->tail, .retry = p->retry,
                            .asked = p->asked, .done = DONE(done), .arg = arg},
              p->room, p->user, p->key);
}

static bool fake_emit(struct bus *bus, struct text room, struct text user, struct text event)
{
    struct world *w = (struct world *)bus;

    if (!fake_room(w, room)->subscribed)
        return false;
    buf_printf(&w->events, "%.*s%c%.*s%c", (int)room.length, room.data, 0, (int)user.length, user.data, 0);
    buf_add(&w->events, event.data, event.length);
    buf_add(&w->events, "", 1);
    return true;
}

static void fake_window(struct bus *bus, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                        bus_on_window *done, void *arg)
{
    make_call((struct world *)bus,
              (struct call){.kind = CALL_WINDOW, .above = above, .upto = upto, .limit = limit, .done = DONE(done), .arg = arg},
              room, NOBODY, NOBODY);
}

static void fake_enter(struct bus *bus, struct text room, struct text user, bus_on_members *done, void *arg)
{
    make_call((struct world *)bus, (struct call){.kind = CALL_ENTER, .done = DONE(done), .arg = arg}, room, user, NOBODY);
}

/* Whoever leaves has entered: a worker that counts wrong takes away another connection. */
static void fake_leave(struct bus *bus, struct text room, struct text user)
{
    struct fake_room *r = fake_room((struct world *)bus, room);
    struct fake_member *m = r->members;

    while (m < r->members + r->member_count && !same(m->user, m->user_length, user))
        m++;
    if (m == r->members + r->member_count)
        abort();
    if (--m->connections > 0)
        return;
    *m = r->members[--r->member_count];
    bus->handler.on_gone(bus->handler.arg, room, user, r->member_count + r->others);
}

static uint32_t fake_count(struct bus *bus, struct text room)
{
    struct fake_room *r = fake_room((struct world *)bus, room);

    return r->member_count + r->others;
}

static void fake_members(struct bus *bus, struct text room, uint32_t limit,
                         void (*done)(void *, uint32_t, const struct text *, uint32_t), void *arg)
{
    (void)limit;
    make_call((struct world *)bus, (struct call){.kind = CALL_MEMBERS, .done = DONE(done), .arg = arg}, room, NOBODY,
              NOBODY);
}

static void fake_rooms(struct bus *bus, uint32_t limit, void (*visit)(void *, struct text, uint32_t, uint64_t), void *arg)
{
    for (struct fake_room *r = ((struct world *)bus)->rooms; r && limit > 0; r = r->next, limit--)
        visit(arg, (struct text){r->name, r->name_length}, r->member_count, r->seq);
}

static void fake_commit(struct store *store, const struct message *m, store_on_number *done, void *arg)
{
    make_call(world_of_store(store), (struct call){.kind = CALL_COMMIT, .upto = m->seq, .done = DONE(done), .arg = arg},
              m->room, m->user, m->key);
}

static void fake_highest(struct store *store, struct text room, store_on_number *done, void *arg)
{
    make_call(world_of_store(store), (struct call){.kind = CALL_HIGHEST, .done = DONE(done), .arg = arg}, room, NOBODY,
              NOBODY);
}

static void fake_find(struct store *store, struct text room, struct text user, struct text key, store_on_number *done,
                      void *arg)
{
    make_call(world_of_store(store), (struct call){.kind = CALL_FIND, .done = DONE(done), .arg = arg}, room, user, key);
}

static void fake_store_page(struct store *store, struct text room, uint64_t above, uint64_t upto, uint32_t limit,
                            store_on_page *done, void *arg)
{
    make_call(world_of_store(store),
              (struct call){.kind = CALL_PAGE, .above = above, .upto = upto, .limit = limit, .done = DONE(done), .arg = arg},
              room, NOBODY, NOBODY);
}

static void fake_store_rooms(struct store *store, uint32_t limit, store_on_rooms *done, void *arg)
{
    (void)limit;
    make_call(world_of_store(store), (struct call){.kind = CALL_ROOMS, .done = DONE(done), .arg = arg}, NOBODY, NOBODY,
              NOBODY);
}

/* ---- the world ---- */

HELPER struct world *world_new(void)
{
    static const struct bus_ops bus_ops = {
        .open = fake_open, .subscribe = fake_subscribe, .unsubscribe = fake_unsubscribe, .publish = fake_publish,
        .emit = fake_emit, .window = fake_window, .enter = fake_enter, .leave = fake_leave, .count = fake_count,
        .members = fake_members, .rooms = fake_rooms};
    static const struct store_ops store_ops = {.commit = fake_commit, .highest = fake_highest, .find = fake_find,
                                               .page = fake_store_page, .rooms = fake_store_rooms};
    struct world *w = calloc(1, sizeof *w);

    config_defaults(&w->config);
    w->config.message_rate_limit.count = w->config.typing_rate_limit.count = 0;
    w->limit = limit_map();
    w->last_call = &w->calls;
    w->bus.ops = &bus_ops;
    w->store.ops = &store_ops;
    w->chat = chat_new(&w->config, w->limit, w->key);
    w->bus.handler = chat_bus_handler(w->chat);
    chat_connect(w->chat, &w->bus, &w->store);
    return w;
}

HELPER struct fake_room *room_of(struct world *w, const char *name)
{
    return fake_room(w, (struct text){name, strlen(name)});
}

/* What a loop turn hands up, as bus_turn does, and the end of the turn. */
HELPER void turn(struct world *w)
{
    struct buf events = w->events;

    w->events = (struct buf)BUF_INIT;
    for (struct fake_room *r = w->rooms; r; r = r->next) {
        for (size_t i = 0; i < r->record_count; i++) {
            struct message message;

            if (!r->records[i].unseen || !r->subscribed)
                continue;
            r->records[i].unseen = false;
            message = message_of(r, &r->records[i]);
            w->bus.handler.on_record(w->bus.handler.arg, &message);
        }
    }
    for (size_t at = 0; at < events.length;) {
        struct text text[3];

        for (int i = 0; i < 3; i++) {
            text[i] = (struct text){events.data + at, strlen(events.data + at)};
            at += text[i].length + 1;
        }
        w->bus.handler.on_event(w->bus.handler.arg, text[0], text[1], text[2]);
    }
    buf_deinit(&events);
    chat_turn(w->chat);
}

/* Lets everything go until nothing waits. */
HELPER void settle(struct world *w)
{
    do
        turn(w);
    while (let_go(w, CALL_KINDS));
    turn(w);
}

/* A message of another worker's client. It is on its way to this worker, and in the store. */
HELPER void other_says(struct world *w, const char *room, const char *text)
{
    struct fake_room *r = room_of(w, room);
    struct buf bytes = BUF_INIT;
    size_t head;

    r->open = true;
    proto_message_head(&bytes, (struct text){room, strlen(room)});
    head = bytes.length;
    proto_message_tail(&bytes, (struct text){"other", 5}, (struct text){text, strlen(text)}, NOBODY);
    fake_append(r, (struct text){"other", 5}, NOBODY, (struct text){bytes.data, head},
                (struct text){bytes.data + head, bytes.length - head})
        ->committed = true;
    buf_deinit(&bytes);
}

/* What is in the inbox never comes. */
HELPER void lose(struct world *w)
{
    for (struct fake_room *r = w->rooms; r; r = r->next)
        for (size_t i = 0; i < r->record_count; i++)
            r->records[i].unseen = false;
}

HELPER struct conn *connect_new(struct world *w)
{
    struct conn *conn = &w->conns[w->conn_count++];

    assert(w->conn_count <= 64);
    conn->id = w->conn_count;
    chat_open(w->chat, conn, 0);
    return conn;
}

HELPER void say(struct world *w, struct conn *conn, const char *text)
{
    char *copy = copy_of((struct text){text, strlen(text)}); /* ends where it ends, for the sanitizers */

    if (conn->data && !conn->closing)
        chat_text(w->chat, conn, copy, strlen(text));
    free(copy);
}

HELPER void hang_up(struct world *w, struct conn *conn)
{
    conn->closing = true;
    if (conn->data)
        chat_closed(w->chat, conn);
    conn->data = NULL;
}

/* What it got since the last time, borrowed until the next call for the same connection. */
HELPER const char *got(struct conn *conn)
{
    buf_add(&conn->got, "", 1);
    conn->got.length = 0;
    return conn->got.data;
}

HELPER struct conn *sign_in(struct world *w, const char *user)
{
    struct conn *conn = connect_new(w);
    char text[128];

    snprintf(text, sizeof text, "{\"type\":\"hello\",\"user\":\"%s\"}", user);
    say(w, conn, text);
    got(conn);
    return conn;
}

/* Ends the world; when all have gone chat must have given everything back. */
HELPER void world_free(struct world *w)
{
    memset(w->hold, 0, sizeof w->hold);
    for (unsigned i = 0; i < w->conn_count; i++)
        hang_up(w, &w->conns[i]);
    settle(w);
    if (w->chat->rooms || w->chat->dirty)
        abort();
    for (struct fake_room *r = w->rooms, *next; r; r = next) {
        if (r->subscribed || r->member_count > 0)
            abort();
        for (size_t i = 0; i < r->record_count; i++) {
            free(r->records[i].event);
            free(r->records[i].key);
        }
        free(r->records);
        next = r->next;
        free(r);
    }
    for (unsigned i = 0; i < w->conn_count; i++)
        buf_deinit(&w->conns[i].got);
    buf_deinit(&w->events);
    chat_free(w->chat);
    munmap_limit(w->limit);
    free(w);
}

#endif
