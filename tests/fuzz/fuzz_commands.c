/* What clients send, from the text of a command to the end of what it sets going: proto_parse, and the whole
 * of src/chat on a bus and a store in memory whose answers come late and in any order.
 *
 * An input is lines. `0` to `7` and a text is a message of that connection; 4 to 7 are signed in, in pairs as
 * one user. The others steer the world, most with a letter or digit behind:
 *
 *     .  a loop turn                                  ~  everything that waits is answered
 *     >  the oldest call of a kind is answered        h  calls of a kind are held, or no longer
 *     f  calls of a kind fail, or no longer           x  a connection hangs up, and a new one comes
 *     r  another worker's message for room "r"        l  what is in the inbox is lost, and on_lost says so
 *     d  the same, and nobody says so                 w  the window forgets what is stored
 *     a  a connection is sent away                    o  the bus forgets room "r", if nobody here is in it
 *     t  a tick                                       q  a connection's send queue fills, or is empty again
 *     m  a commit finds its number void               p  what is asked for is pending, or no longer
 *     s  the store is full, or no longer              b  two seconds pass for every room that is behind
 *     v  sessions can't be looked up, or again        i  an orphan of room "r" is handed up
 *     j  a message of it comes from the spool
 *
 * Checked: all that is sent are JSON objects, numbers rise one by one for each connection, a leave follows
 * its enter, and in the end nothing is left. */
#include "../support/chat_fake.h"
#include "chatd/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CONNS = 8, CALLS_MAX = 2000 };

static struct conn *renew(struct world *w, unsigned n)
{
    struct conn *conn = &w->conns[n];
    char text[64];

    if (w->conn_count > n)
        hang_up(w, conn);
    buf_deinit(&conn->got);
    *conn = (struct conn){.id = n + 1};
    if (w->conn_count <= n)
        w->conn_count = n + 1;
    chat_open(w->chat, conn, 0);
    snprintf(text, sizeof(text), "{\"type\":\"hello\",\"user\":\"u%u\"}", n / 2);
    if (n >= CONNS / 2)
        say(w, conn, text);
    return conn;
}

static void say_bytes(struct world *w, struct conn *conn, const char *text, size_t length)
{
    char *copy = copy_of((struct text){text, length});
    struct command command;
    struct refusal refusal;

    /* Who asks for no `joined` is not told where the numbers go on, and so in the rooms of a session. */
    if (proto_parse(copy, length, &command, &refusal) &&
        (command.type == COMMAND_JOIN ? !command.id.data : command.session.data != NULL))
        conn->gaps = true;
    proto_free(&command);
    if (!conn->closing)
        chat_text(w->chat, conn, copy, length);
    free(copy);
    got(conn);
}

/* Statuses that a call of that kind may fail with. */
static int failure(enum call_kind kind, unsigned which)
{
    switch (kind) {
    case CALL_OPEN:
    case CALL_ENTER:
    case CALL_PUBLISH:
        return which % 2 ? BUS_FULL : BUS_FAILED;
    case CALL_SUBSCRIBE:
    case CALL_WINDOW:
        return BUS_FAILED;
    case CALL_COMMIT:
        return STORE_FAILED;
    case CALL_HIGHEST:
    case CALL_FIND:
    case CALL_PAGE:
    case CALL_ROOMS:
        return which % 2 ? STORE_BUSY : STORE_FAILED;
    default:
        return 0;
    }
}

static void forget_stored(struct world *w)
{
    for (struct fake_room *r = w->rooms; r; r = r->next) {
        bool all = true;

        for (size_t i = 0; i < r->record_count && all; i++) {
            all = r->records[i].committed;
            if (all)
                r->window_from = r->records[i].seq + 1;
        }
    }
}

/* Who is told nothing of it sees numbers missing. */
static void gaps(struct world *w)
{
    for (unsigned i = 0; i < w->conn_count; i++)
        w->conns[i].gaps = true;
}

static void on_done(void *arg, enum store_status status, uint64_t seq)
{
    (void)arg, (void)status, (void)seq;
}

static void bring_back(struct world *w, char what, unsigned n)
{
    struct fake_room *r = room_of(w, "r");
    struct message message;

    if (r->record_count == 0)
        return;
    message = message_of(r, &r->records[n % r->record_count]);
    if (what == 'i')
        w->bus.handler.on_orphan(w->bus.handler.arg, &message, n % 2);
    else
        chat_spooled(w->chat, &message, on_done, NULL);
}

static void steer(struct world *w, char what, unsigned n)
{
    enum call_kind kind = (enum call_kind)(n % CALL_KINDS);
    struct fake_room *r;

    switch (what) {
    case '.':
        turn(w);
        break;
    case '~':
        settle(w);
        break;
    case '>':
        let_go(w, kind);
        break;
    case 'h':
        w->hold[kind] = !w->hold[kind];
        break;
    case 'f':
        w->fails[kind] = w->fails[kind] ? 0 : failure(kind, n);
        break;
    case 'x':
        renew(w, n % CONNS);
        break;
    case 'r':
        other_says(w, "r", "hi");
        break;
    case 'l':
        lose(w);
        w->bus.handler.on_lost(w->bus.handler.arg, NOBODY);
        break;
    case 'd':
        lose(w);
        break;
    case 'w':
        forget_stored(w);
        break;
    case 'a':
        if (!w->conns[n % CONNS].closing)
            chat_send_away(w->chat, &w->conns[n % CONNS], n);
        break;
    case 'o':
        r = room_of(w, "r");
        r->open = r->open && (r->subscribed || r->member_count > 0);
        break;
    case 'q':
        w->conns[n % CONNS].queued = w->conns[n % CONNS].queued ? 0 : 100000;
        break;
    case 't':
        chat_tick(w->chat);
        break;
    case 'm':
        w->moved++;
        break;
    case 'p':
        w->pending = !w->pending;
        break;
    case 's':
        w->full = !w->full;
        break;
    case 'v':
        w->lost_sessions = !w->lost_sessions;
        break;
    case 'b':
        for (struct room *room = w->chat->rooms; room; room = room->hh.next)
            room->behind_ms -= 2000;
        gaps(w);
        break;
    case 'i':
    case 'j':
        bring_back(w, what, n);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *w = world_new();
    const char *at = (const char *)data, *end = at + size;

    /* A catch-up that fails is worth a warning, but not a million of them. */
    if (log_open("", LOG_READABLE, LOG_ERROR) != 0)
        abort();
    w->config.join_limit = 20;
    w->config.history_limit = 10;
    w->config.max_pending_per_connection = 8;
    w->config.max_rooms_per_connection = 5;
    w->config.presence_limit = 2;
    w->config.max_text_bytes = 200;
    for (unsigned i = 0; i < CONNS; i++)
        renew(w, i);
    while (at < end && waiting(w, CALL_KINDS) < CALLS_MAX) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((stop ? stop : end) - at);

        if (length > 0 && *at >= '0' && *at < '0' + CONNS)
            say_bytes(w, &w->conns[*at - '0'], at + 1, length - 1);
        else if (length > 0)
            steer(w, *at, length > 1 ? (unsigned char)at[1] - (at[1] >= 'a' ? 'a' : '0') : 0);
        at += length + 1;
    }
    memset(w->fails, 0, sizeof(w->fails));
    world_free(w);
    return 0;
}
