/* fake_bus.h - bus.h and store.h in memory, for tests: each call can be held back and let go in any order.
 *
 * A call that is held has no effect before it is let go. Store calls are always held, as store.h promises;
 * bus calls answer at once, like bus_log, unless `hold` says otherwise. Numbers start at 1 in every room, so
 * that a missing one is seen. */
#ifndef CHATD_TESTS_FAKE_BUS_H
#define CHATD_TESTS_FAKE_BUS_H

#include "fake_conn.h"

#include "chat/core.h"

enum call_kind {
    CALL_OPEN,
    CALL_SUBSCRIBE,
    CALL_PUBLISH,
    CALL_WINDOW,
    CALL_ENTER,
    CALL_MEMBERS, /* bus */
    CALL_COMMIT,
    CALL_HIGHEST,
    CALL_FIND,
    CALL_PAGE,
    CALL_ROOMS, /* store */
    CALL_LIST,    /* bus_rooms */
    CALL_SESSION, /* sessions_find */
    CALL_KINDS
};

struct call {
    struct call *next;
    enum call_kind kind;
    char room[MESSAGE_ROOM_MAX + 1], user[MESSAGE_USER_MAX + 1];
    char *key, *event; /* heap: the sanitizers see who reads behind them */
    size_t room_length, user_length, key_length;
    struct text head, tail;
    bool retry, asked, has_uid;
    uint8_t uid[MESSAGE_UID_SIZE];
    uint64_t instead_of;
    bool (*wanted)(void *arg);
    uint64_t above, upto;
    uint32_t limit;
    void (*done)(void);
    void *arg;
};

struct fake_record {
    uint64_t seq, previous;
    char *event, *key, user[MESSAGE_USER_MAX + 1];
    size_t event_length, key_length, user_length;
    uint8_t uid[MESSAGE_UID_SIZE];
    bool committed, unseen; /* unseen: still in the worker's inbox */
};

/* A session that was given out; its token is `s` and its place in the table. */
struct fake_session {
    char user[MESSAGE_USER_MAX + 1], rooms[4][MESSAGE_ROOM_MAX + 1]; /* "" where there is none */
    unsigned resumed, kept;
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
    struct fake_room *rooms;
    struct call *calls, **last_call;
    bool hold[CALL_KINDS];
    int fails[CALL_KINDS]; /* status to answer with instead, 0 none; for publish BUS_FULL and the like */
    uint64_t conflict;     /* CALL_COMMIT answers with this number when set */
    uint64_t uids;         /* tried */
    unsigned moved;        /* so many commits answer STORE_MOVED */
    bool full, pending;    /* the store's; what the window answers */
    bool asks;             /* a held publish that nobody wants any more is dropped */
    struct sessions sessions;
    struct fake_session table[256]; /* a 257th takes the first one's place */
    unsigned session_count, seen;
    bool lost_sessions;    /* look-ups fail */
    /* `room/number ` for each bus_settle, with `as number ` when it is stored under another one. */
    struct buf settled;
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
    r = calloc(1, sizeof(*r));
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

static struct fake_record *fake_append(struct fake_room *r, struct text user, struct text key,
                                       struct text head, struct text tail)
{
    struct buf event = BUF_INIT;
    struct fake_record *record;

    r->records = realloc(r->records, (r->record_count + 1) * sizeof(*r->records));
    record = &r->records[r->record_count++];
    *record = (struct fake_record){.seq = r->seq + 1, .previous = r->seq};
    r->seq++;
    buf_add(&event, head.data, head.length);
    buf_printf(&event, "%llu,\"time\":%llu", (unsigned long long)record->seq,
               (unsigned long long)record->seq);
    buf_add(&event, tail.data, tail.length);
    record->event = copy_of((struct text){event.data, event.length});
    record->event_length = event.length;
    buf_deinit(&event);
    record->key = copy_of(key);
    record->key_length = key.length;
    memcpy(record->uid, &record->seq, sizeof(record->seq)); /* of its own */
    memcpy(record->user, user.data, user.length);
    record->user_length = user.length;
    record->unseen = r->subscribed;
    return record;
}

static struct message message_of(struct fake_room *r, const struct fake_record *record)
{
    struct message message = {.room = {r->name, r->name_length},
                              .user = {record->user, record->user_length},
                              .key = {record->key, record->key_length},
                              .seq = record->seq,
                              .previous = record->previous,
                              .time_ms = (int64_t)record->seq,
                              .event = {record->event, record->event_length}};

    memcpy(message.uid, record->uid, MESSAGE_UID_SIZE);
    return message;
}

/* The newest; one that the caller knows to be void counts for nothing. */
static struct fake_record *by_key(struct fake_room *r, const struct call *c, bool stored)
{
    for (size_t i = r->record_count; i > 0 && (c->key_length > 0 || c->has_uid); i--) {
        struct fake_record *record = &r->records[i - 1];
        bool hit = c->key_length == 0
                       ? memcmp(record->uid, c->uid, MESSAGE_UID_SIZE) == 0
                       : same(record->key, record->key_length, (struct text){c->key, c->key_length}) &&
                             same(record->user, record->user_length, (struct text){c->user, c->user_length});

        if (hit && (stored ? record->committed : record->seq >= r->window_from))
            return stored || record->seq != c->instead_of ? record : NULL;
    }
    return NULL;
}

static void answer_publish(struct world *w, struct fake_room *r, const struct call *c)
{
    bus_on_published *done = (bus_on_published *)c->done;
    struct fake_record *record = by_key(r, c, false);
    enum bus_status status = BUS_DUPLICATE;
    const uint64_t fresh[2] = {++w->uids, 1};
    struct message message = {0};

    if (w->fails[CALL_PUBLISH])
        status = (enum bus_status)w->fails[CALL_PUBLISH];
    else if (w->asks && c->wanted && !c->wanted(c->arg))
        status = BUS_FAILED;
    else if (!r->open)
        status = BUS_NOT_OPEN;
    else if (!record && c->retry && (c->key_length > 0 || c->has_uid) && !c->asked)
        status = BUS_NOT_FOUND_IN_WINDOW;
    else if (!record) {
        record = fake_append(r, (struct text){c->user, c->user_length}, (struct text){c->key, c->key_length},
                             c->head, c->tail);
        memcpy(record->uid, c->has_uid ? c->uid : (const uint8_t *)fresh, MESSAGE_UID_SIZE);
        status = BUS_OK;
    }
    memcpy(message.uid, c->has_uid ? c->uid : (const uint8_t *)fresh, MESSAGE_UID_SIZE);
    if (record && status != BUS_FAILED)
        message = message_of(r, record);
    message.event = (struct text){NULL, 0};
    done(c->arg, status, &message);
}

/* Newest `limit` of (above, upto], from the window or from the store. */
static uint64_t fake_page(struct fake_room *r, const struct call *c, bool stored, struct page *page,
                          bool *more)
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

    if (!stored && w->fails[CALL_WINDOW]) {
        ((bus_on_window *)c->done)(c->arg, (enum bus_status)w->fails[CALL_WINDOW], &page, c->upto, false);
    } else if (!stored) {
        below = r->open ? fake_page(r, c, false, &page, &more) : c->upto;
        ((bus_on_window *)c->done)(c->arg, r->open ? BUS_OK : BUS_NOT_OPEN, &page, below,
                                   r->open && w->pending);
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
    while (m < r->members + r->member_count &&
           !same(m->user, m->user_length, (struct text){c->user, c->user_length}))
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
    ((void (*)(void *, uint32_t, const struct text *, uint32_t))c->done)(c->arg, r->member_count + r->others,
                                                                         users, r->member_count);
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
    } else if (status == STORE_OK && w->moved > 0) {
        w->moved--;
        status = STORE_MOVED;
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

static void answer_list(struct world *w, const struct call *c)
{
    struct bus_room rooms[64];
    uint32_t count = 0;

    for (struct fake_room *r = w->rooms; r && count < 64; r = r->next)
        rooms[count++] = (struct bus_room){{r->name, r->name_length}, r->member_count, r->seq};
    ((bus_on_rooms *)c->done)(c->arg, rooms, count);
}

/* The token stands in the place of the key. */
static void answer_session(struct world *w, const struct call *c)
{
    struct sessions_found found = {.failed = w->lost_sessions};
    const struct fake_session *s = NULL;
    struct text rooms[4];

    for (unsigned i = 0; i < w->session_count && i < 256 && !found.failed; i++) {
        char token[16];

        snprintf(token, sizeof(token), "s%u", i);
        if (same(token, strlen(token), (struct text){c->key, c->key_length})) {
            s = &w->table[i];
            found.id[0] = (uint8_t)i;
        }
    }
    for (int i = 0; s && i < 4; i++)
        if (s->rooms[i][0])
            rooms[found.room_count++] = (struct text){s->rooms[i], strlen(s->rooms[i])};
    if (s)
        found.user = (struct text){s->user, strlen(s->user)};
    found.rooms = rooms;
    ((sessions_on_found *)c->done)(c->arg, &found);
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
        r->subscribed = r->open && !w->fails[CALL_SUBSCRIBE];
        ((bus_on_subscribed *)c->done)(c->arg,
                                       w->fails[CALL_SUBSCRIBE] ? (enum bus_status)w->fails[CALL_SUBSCRIBE]
                                       : r->open                ? BUS_OK
                                                                : BUS_NOT_OPEN,
                                       r->subscribed ? r->seq : 0);
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
    case CALL_LIST:
        answer_list(w, c);
        break;
    case CALL_SESSION:
        answer_session(w, c);
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
    struct call *c = malloc(sizeof(*c));

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
    if ((c->kind < CALL_COMMIT || c->kind > CALL_ROOMS) && !w->hold[c->kind]) {
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

static void fake_open(struct bus *bus, struct text room, uint64_t highest,
                      void (*done)(void *, enum bus_status), void *arg)
{
    make_call((struct world *)bus,
              (struct call){.kind = CALL_OPEN, .above = highest, .done = DONE(done), .arg = arg}, room,
              NOBODY, NOBODY);
}

static void fake_subscribe(struct bus *bus, struct text room, bus_on_subscribed *done, void *arg)
{
    make_call((struct world *)bus, (struct call){.kind = CALL_SUBSCRIBE, .done = DONE(done), .arg = arg},
              room, NOBODY, NOBODY);
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
    struct call call = {.kind = CALL_PUBLISH,
                        .head = p->head,
                        .tail = p->tail,
                        .retry = p->retry,
                        .asked = p->asked,
                        .has_uid = p->uid != NULL,
                        .instead_of = p->instead_of,
                        .wanted = p->wanted,
                        .done = DONE(done),
                        .arg = arg};

    if (p->uid)
        memcpy(call.uid, p->uid, MESSAGE_UID_SIZE);
    make_call((struct world *)bus, call, p->room, p->user, p->key);
}

static void fake_settle(struct bus *bus, const struct message *m, uint64_t stored)
{
    struct buf *settled = &((struct world *)bus)->settled;

    buf_printf(settled, "%.*s/%llu ", (int)m->room.length, m->room.data, (unsigned long long)m->seq);
    if (stored != m->seq)
        buf_printf(settled, "as %llu ", (unsigned long long)stored);
    assert(m->time_ms == (int64_t)m->seq);
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
              (struct call){.kind = CALL_WINDOW,
                            .above = above,
                            .upto = upto,
                            .limit = limit,
                            .done = DONE(done),
                            .arg = arg},
              room, NOBODY, NOBODY);
}

static void fake_enter(struct bus *bus, struct text room, struct text user, bus_on_members *done, void *arg)
{
    make_call((struct world *)bus, (struct call){.kind = CALL_ENTER, .done = DONE(done), .arg = arg}, room,
              user, NOBODY);
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
    make_call((struct world *)bus, (struct call){.kind = CALL_MEMBERS, .done = DONE(done), .arg = arg}, room,
              NOBODY, NOBODY);
}

static void fake_rooms(struct bus *bus, uint32_t limit, bus_on_rooms *done, void *arg)
{
    (void)limit;
    make_call((struct world *)bus, (struct call){.kind = CALL_LIST, .done = DONE(done), .arg = arg}, NOBODY,
              NOBODY, NOBODY);
}

static void fake_commit(struct store *store, const struct message *m, store_on_number *done, void *arg)
{
    make_call(world_of_store(store),
              (struct call){.kind = CALL_COMMIT, .upto = m->seq, .done = DONE(done), .arg = arg}, m->room,
              m->user, m->key);
}

static void fake_highest(struct store *store, struct text room, store_on_number *done, void *arg)
{
    make_call(world_of_store(store), (struct call){.kind = CALL_HIGHEST, .done = DONE(done), .arg = arg},
              room, NOBODY, NOBODY);
}

static void fake_find(struct store *store, struct text room, struct text user, struct text key,
                      const uint8_t *uid, store_on_number *done, void *arg)
{
    struct call call = {.kind = CALL_FIND, .has_uid = uid != NULL, .done = DONE(done), .arg = arg};

    if (uid)
        memcpy(call.uid, uid, MESSAGE_UID_SIZE);
    make_call(world_of_store(store), call, room, user, key);
}

static void fake_seen(struct store *store, struct text user)
{
    assert(user.length > 0);
    world_of_store(store)->seen++;
}

static bool fake_full(struct store *store)
{
    return world_of_store(store)->full;
}

static void fake_store_page(struct store *store, struct text room, uint64_t above, uint64_t upto,
                            uint32_t limit, store_on_page *done, void *arg)
{
    make_call(
        world_of_store(store),
        (struct call){
            .kind = CALL_PAGE, .above = above, .upto = upto, .limit = limit, .done = DONE(done), .arg = arg},
        room, NOBODY, NOBODY);
}

static void fake_store_rooms(struct store *store, uint32_t limit, store_on_rooms *done, void *arg)
{
    (void)limit;
    make_call(world_of_store(store), (struct call){.kind = CALL_ROOMS, .done = DONE(done), .arg = arg},
              NOBODY, NOBODY, NOBODY);
}

static struct world *world_of_sessions(struct sessions *sessions)
{
    return (struct world *)((char *)sessions - offsetof(struct world, sessions));
}

static struct fake_session *fake_session(struct sessions *sessions, struct text user, const uint8_t *id)
{
    struct fake_session *s = &world_of_sessions(sessions)->table[id[0]];

    assert(world_of_sessions(sessions)->session_count > 256 || same(s->user, strlen(s->user), user));
    return s;
}

static void fake_session_resume(struct sessions *sessions, struct text user, const uint8_t *id, char *token)
{
    fake_session(sessions, user, id)->resumed++;
    snprintf(token, SESSIONS_TOKEN_MAX, "s%d", id[0]);
}

static void fake_session_start(struct sessions *sessions, struct text user, uint8_t *id, char *token)
{
    struct world *w = world_of_sessions(sessions);

    memset(id, 0, SESSIONS_ID_SIZE);
    id[0] = (uint8_t)w->session_count++;
    w->table[id[0]] = (struct fake_session){0};
    snprintf(w->table[id[0]].user, sizeof(w->table[0].user), "%.*s", (int)user.length, user.data);
    snprintf(token, SESSIONS_TOKEN_MAX, "s%d", id[0]);
}

static void fake_session_find(struct sessions *sessions, struct text token, sessions_on_found *done,
                              void *arg)
{
    make_call(world_of_sessions(sessions),
              (struct call){.kind = CALL_SESSION, .done = DONE(done), .arg = arg}, NOBODY, NOBODY, token);
}

static void fake_session_room(struct sessions *sessions, struct text user, const uint8_t *id,
                              struct text room, bool in)
{
    struct fake_session *s = fake_session(sessions, user, id);
    char name[MESSAGE_ROOM_MAX + 1];
    char *place = NULL;

    snprintf(name, sizeof(name), "%.*s", (int)room.length, room.data);
    for (int i = 0; i < 4; i++) {
        if (strcmp(s->rooms[i], name) == 0)
            s->rooms[i][0] = 0;
        if (s->rooms[i][0] == 0 && !place)
            place = s->rooms[i];
    }
    if (in && place)
        memcpy(place, name, sizeof(name));
}

static void fake_session_keep(struct sessions *sessions, struct text user, const uint8_t *id)
{
    fake_session(sessions, user, id)->kept++;
}

#endif
