/* See chatload_group.h. A client's way is the list of its states; every command but messages waits for the
 * answer to the one before. */
#define _GNU_SOURCE
#include "chatload_group.h"

#include "json_scan.h"
#include "tail.h"
#include "ws_wire.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECTING_MAX = 256, /* connections on their way to their room: well below any listener's backlog */
    READ_BYTES = 256 * 1024,
    TURN_EVENTS = 512,
    COMPLAINTS_MAX = 5,
    ID_HELLO = 1,
    ID_JOIN = 2,
    ID_FIRST_MESSAGE = 3,
};

#define TIMER_INDEX UINT32_MAX
#define HANDSHAKE_KEY "dGhlIHNhbXBsZSBub25jZQ=="

enum state {
    STATE_CONNECT, /* also before there is a socket */
    STATE_UPGRADE,
    STATE_HELLO,
    STATE_JOIN,
    STATE_JOINED,
    STATE_CLOSED,
};

struct client {
    struct tail *in, *out;
    uint64_t last; /* highest number seen in its room */
    uint64_t seen; /* bit i: number last - i came. Tells a double from a late one. */
    int fd;
    unsigned char state;
};

struct group {
    const struct group_options *options;
    int epoll, timer;
    struct client *clients;
    unsigned opened, connecting; /* tried so far; of those, not yet in their room */
    uint64_t *top;               /* per room: highest number that anybody saw or got an ack for */
    uint64_t start, count, next; /* of the run: its time, messages, and the next one to send */
    unsigned char *answered;     /* per message of the run */
    uint64_t now;                /* when the bytes that are being handled were read */
    uint32_t mask;
    unsigned complaints;
    struct group_tally tally;
    char *read;
    size_t read_size;
    char write[WS_HEAD_MAX + GROUP_TEXT_MAX + 512];
};

uint64_t group_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void watch(struct group *g, int operation, int fd, uint32_t index, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u32 = index};
    if (epoll_ctl(g->epoll, operation, fd, &event) < 0)
        die("chatload: epoll_ctl");
}

static uint32_t index_of(const struct group *g, const struct client *client)
{
    return (uint32_t)(client - g->clients);
}

static unsigned room_of(const struct group *g, const struct client *client)
{
    return index_of(g, client) % g->options->rooms;
}

/* Ends a client because of `why`, of which the first few are told: thousands may fail for one reason. */
static void client_fail(struct group *g, struct client *client, const char *why, struct slice detail)
{
    if (client->state == STATE_CLOSED)
        return;
    if (g->complaints++ < COMPLAINTS_MAX)
        fprintf(stderr, "chatload: connection %u: %s %.*s\n", index_of(g, client), why,
                (int)(detail.len < 200 ? detail.len : 200), detail.at ? detail.at : "");
    if (client->state == STATE_JOINED) {
        g->tally.joined--;
        g->tally.closed++;
    } else {
        g->connecting--;
        g->tally.failed++;
    }
    tail_free(&client->in);
    tail_free(&client->out);
    close(client->fd);
    client->fd = -1;
    client->state = STATE_CLOSED;
}

static void client_fail_errno(struct group *g, struct client *client, const char *why)
{
    const char *text = strerror(errno);
    client_fail(g, client, why, (struct slice){text, strlen(text)});
}

static void client_send(struct group *g, struct client *client, const char *bytes, size_t len)
{
    bool waited = client->out;
    if (!tail_send(&client->out, client->fd, bytes, len))
        client_fail_errno(g, client, "send:");
    else if (client->out && !waited)
        watch(g, EPOLL_CTL_MOD, client->fd, index_of(g, client), EPOLLIN | EPOLLOUT);
}

/* Sends the `len` bytes behind WS_HEAD_MAX in g->write. */
static void client_send_frame(struct group *g, struct client *client, int opcode, size_t len)
{
    char *payload = g->write + WS_HEAD_MAX;
    g->mask = g->mask * 1664525u + 1013904223u;
    char *start = ws_seal_masked(payload, len, opcode, g->mask);
    client_send(g, client, start, (size_t)(payload + len - start));
}

__attribute__((format(printf, 3, 4))) static void client_say(struct group *g, struct client *client,
                                                             const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = vsnprintf(g->write + WS_HEAD_MAX, sizeof(g->write) - WS_HEAD_MAX, format, args);
    va_end(args);
    client_send_frame(g, client, WS_TEXT, (size_t)len);
}

static void client_open(struct group *g, uint32_t index)
{
    const struct group_options *options = g->options;
    struct client *client = &g->clients[index];
    struct linger reset = {.l_onoff = 1};
    int one = 1;
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        die("chatload: socket");
    g->connecting++;
    setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (options->source_addresses > 0) {
        struct sockaddr_in source = {.sin_family = AF_INET};
        source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + index % options->source_addresses);
        /* Without this bind() would take a port of its own, from one range for all destinations. */
        setsockopt(client->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
        if (bind(client->fd, (struct sockaddr *)&source, sizeof(source)) < 0) {
            client_fail_errno(g, client, "bind:");
            return;
        }
    }
    if (connect(client->fd, (const struct sockaddr *)&options->server, sizeof(options->server)) < 0 &&
        errno != EINPROGRESS)
        client_fail_errno(g, client, "connect:");
    else
        watch(g, EPOLL_CTL_ADD, client->fd, index, EPOLLIN | EPOLLOUT);
}

static void on_connected(struct group *g, struct client *client)
{
    char request[512];
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        errno = error;
        client_fail_errno(g, client, "connect:");
        return;
    }
    int len = snprintf(request, sizeof(request),
                       "GET /ws HTTP/1.1\r\nHost: %.200s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Key: " HANDSHAKE_KEY "\r\nSec-WebSocket-Version: 13\r\n\r\n",
                       g->options->host, ntohs(g->options->server.sin_port));
    client->state = STATE_UPGRADE;
    watch(g, EPOLL_CTL_MOD, client->fd, index_of(g, client), EPOLLIN);
    client_send(g, client, request, (size_t)len);
}

/* The bytes of the answer's head, or 0 when it isn't all there. */
static size_t on_upgrade(struct group *g, struct client *client, char *at, size_t len)
{
    char accept[WS_ACCEPT_SIZE], *end = memmem(at, len, "\r\n\r\n", 4);
    if (!end)
        return 0;
    ws_accept(accept, HANDSHAKE_KEY, strlen(HANDSHAKE_KEY));
    if (len < 12 || memcmp(at, "HTTP/1.1 101", 12) != 0 ||
        !memmem(at, (size_t)(end - at), accept, strlen(accept))) {
        client_fail(g, client, "handshake:", (struct slice){at, strcspn(at, "\r\n")});
        return 0;
    }
    client->state = STATE_HELLO;
    client_say(g, client, "{\"type\":\"hello\",\"id\":%d,\"user\":\"u%u\"}", ID_HELLO, index_of(g, client));
    return (size_t)(end + 4 - at);
}

static void on_joined(struct group *g, struct client *client, struct slice json)
{
    client->last = json_scan_number(json, "\"seq\"", 0);
    client->seen = 1;
    client->state = STATE_JOINED;
    g->connecting--;
    g->tally.joined++;
}

/* 16 hexadecimal digits at the start of a text; 0 when it is not one of ours. */
static uint64_t due_of(struct slice text)
{
    uint64_t due = 0;
    if (!text.at || text.len < 16)
        return 0;
    for (int i = 0; i < 16; i++) {
        unsigned char c = (unsigned char)text.at[i];
        due = due << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return due;
}

static uint64_t message_due(const struct group *g, uint64_t message)
{
    return g->start + (uint64_t)((double)message * 1e9 / g->options->rate);
}

/* Numbers rise one by one. A gap counts as lost until what is missing turns up, late, and is out of order. */
static void on_delivery(struct group *g, struct client *client, struct slice json)
{
    struct group_tally *tally = &g->tally;
    uint64_t seq = json_scan_number(json, "\"seq\"", 0), due = due_of(json_scan_text(json, "\"text\""));
    uint64_t *top = &g->top[room_of(g, client)];
    if (seq > client->last) {
        uint64_t step = seq - client->last;
        tally->lost += step - 1;
        client->seen = (step < 64 ? client->seen << step : 0) | 1;
        client->last = seq;
    } else {
        uint64_t back = client->last - seq;
        if (back >= 64 || (client->seen >> back & 1)) {
            tally->doubled++;
            return;
        }
        client->seen |= UINT64_C(1) << back;
        tally->lost -= tally->lost > 0;
        tally->out_of_order++;
    }
    tally->deliveries++;
    if (seq > *top)
        *top = seq;
    hist_record(&tally->latency, g->now > due ? g->now - due : 0);
}

static void on_answer(struct group *g, struct client *client, struct slice json, bool acked)
{
    uint64_t id = json_scan_number(json, "\"id\"", 0), message = id - ID_FIRST_MESSAGE;
    uint64_t seq = json_scan_number(json, "\"seq\"", 0);
    unsigned room = room_of(g, client), rooms = g->options->rooms, connections = g->options->connections;
    if (id < ID_FIRST_MESSAGE || message >= g->next) {
        client_fail(g, client, "an answer to nothing:", json);
        return;
    }
    if (g->answered[message]) {
        g->tally.doubled++;
        return;
    }
    g->answered[message] = 1;
    if (!acked) {
        g->tally.refused++;
        return;
    }
    g->tally.acked++;
    g->tally.expected += connections / rooms + (room < connections % rooms);
    if (seq > g->top[room])
        g->top[room] = seq;
    uint64_t due = message_due(g, message);
    hist_record(&g->tally.ack_latency, g->now > due ? g->now - due : 0);
}

static void on_text(struct group *g, struct client *client, struct slice json)
{
    struct slice type = json_scan_text(json, "\"type\"");
    if (slice_is(type, "message") && client->state == STATE_JOINED) {
        on_delivery(g, client, json);
    } else if (slice_is(type, "ack")) {
        on_answer(g, client, json, true);
    } else if (slice_is(type, "welcome") && client->state == STATE_HELLO) {
        client->state = STATE_JOIN;
        client_say(g, client, "{\"type\":\"join\",\"id\":%d,\"room\":\"r%u\"}", ID_JOIN, room_of(g, client));
    } else if (slice_is(type, "joined") && client->state == STATE_JOIN) {
        on_joined(g, client, json);
    } else if (slice_is(type, "error") && client->state == STATE_JOINED) {
        if (g->complaints++ < COMPLAINTS_MAX)
            fprintf(stderr, "chatload: refused: %.*s\n", (int)(json.len < 200 ? json.len : 200), json.at);
        on_answer(g, client, json, false);
    } else if (client->state != STATE_JOINED && slice_is(type, "error")) {
        client_fail(g, client, "refused:", json);
    } else {
        g->tally.events++;
    }
}

static void on_frame(struct group *g, struct client *client, const struct ws_frame *frame)
{
    if (frame->opcode == WS_TEXT) {
        on_text(g, client, (struct slice){frame->payload, frame->len});
    } else if (frame->opcode == WS_PING && frame->len < 126) {
        memcpy(g->write + WS_HEAD_MAX, frame->payload, frame->len);
        client_send_frame(g, client, WS_PONG, frame->len);
    } else if (frame->opcode == WS_CLOSE) {
        char code[16] = "without a code";
        const unsigned char *byte = (const unsigned char *)frame->payload;
        if (frame->len >= 2)
            snprintf(code, sizeof(code), "%d", byte[0] << 8 | byte[1]);
        client_fail(g, client, "closed by the server:", (struct slice){code, strlen(code)});
    }
}

/* Handles whole frames of what was read; keeps the rest. */
static void client_feed(struct group *g, struct client *client, char *at, size_t len)
{
    size_t done = 0;
    while (done < len && client->state != STATE_CLOSED) {
        struct ws_frame frame;
        ssize_t used;
        if (client->state == STATE_UPGRADE) {
            used = (ssize_t)on_upgrade(g, client, at + done, len - done);
        } else {
            used = ws_parse(at + done, len - done, &frame);
            if (used > 0)
                on_frame(g, client, &frame);
            else if (used < 0)
                client_fail(g, client, "a frame that is none", (struct slice){NULL, 0});
        }
        if (used <= 0)
            break;
        done += (size_t)used;
    }
    if (done < len && client->state != STATE_CLOSED)
        tail_append(&client->in, at + done, len - done);
}

static void on_readable(struct group *g, struct client *client)
{
    size_t len = client->in ? client->in->len : 0;
    if (g->read_size < len + READ_BYTES + 1) {
        g->read_size = len + READ_BYTES + 1;
        g->read = must(realloc(g->read, g->read_size));
    }
    if (len > 0)
        memcpy(g->read, client->in->bytes, len);
    ssize_t n = recv(client->fd, g->read + len, READ_BYTES, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0) {
        client_fail_errno(g, client, "recv:");
        return;
    }
    if (n == 0) {
        client_fail(g, client, "closed by the server", (struct slice){NULL, 0});
        return;
    }
    g->now = group_now();
    g->tally.bytes += (uint64_t)n;
    g->read[len + (size_t)n] = '\0';
    tail_free(&client->in);
    client_feed(g, client, g->read, len + (size_t)n);
}

static void on_writable(struct group *g, struct client *client)
{
    if (!tail_flush(&client->out, client->fd))
        client_fail_errno(g, client, "send:");
    else if (!client->out)
        watch(g, EPOLL_CTL_MOD, client->fd, index_of(g, client), EPOLLIN);
}

static void publish(struct group *g, uint64_t message, uint64_t due)
{
    static const char filler[] = "the quick brown fox jumps over the lazy dog and ";
    struct client *client = &g->clients[message % g->options->publishers];
    char text[GROUP_TEXT_MAX + 1];
    if (client->state != STATE_JOINED) {
        g->tally.unsent++;
        return;
    }
    int len = snprintf(text, sizeof(text), "%016llx ", (unsigned long long)due);
    for (unsigned i = (unsigned)len; i < g->options->text_bytes; i++)
        text[i] = filler[i % (sizeof(filler) - 1)];
    text[g->options->text_bytes] = '\0';
    g->tally.sent++;
    /* A key with the time in it is new on a server that has seen earlier runs, too. */
    client_say(g, client,
               "{\"type\":\"message\",\"id\":%llu,\"room\":\"r%u\",\"text\":\"%s\",\"key\":\"%llx-%llx\"}",
               (unsigned long long)message + ID_FIRST_MESSAGE, room_of(g, client), text,
               (unsigned long long)message, (unsigned long long)due);
}

/* Sends all that is due and sets the timer for the next one. */
static void on_timer(struct group *g)
{
    uint64_t now = group_now(), due = message_due(g, g->next);
    for (; g->next < g->count && due <= now; due = message_due(g, g->next)) {
        if (now - due > g->tally.late_max)
            g->tally.late_max = now - due;
        publish(g, g->next++, due);
    }
    /* A time of zero would turn it off, and after the last message it shall be off. */
    struct itimerspec next = {0};
    if (g->next < g->count) {
        next.it_value.tv_sec = (time_t)(due / 1000000000u);
        next.it_value.tv_nsec = (long)(due % 1000000000u);
    }
    timerfd_settime(g->timer, TFD_TIMER_ABSTIME, &next, NULL);
}

struct group *group_new(const struct group_options *options)
{
    struct group *g = must(calloc(1, sizeof(*g)));
    g->options = options;
    g->clients = must(calloc(options->connections, sizeof(*g->clients)));
    g->top = must(calloc(options->rooms, sizeof(*g->top)));
    g->mask = (uint32_t)group_now();
    g->epoll = epoll_create1(EPOLL_CLOEXEC);
    g->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (g->epoll < 0 || g->timer < 0)
        die("chatload: epoll");
    watch(g, EPOLL_CTL_ADD, g->timer, TIMER_INDEX, EPOLLIN);
    return g;
}

void group_free(struct group *g)
{
    for (unsigned i = 0; i < g->opened; i++) {
        if (g->clients[i].state != STATE_CLOSED)
            close(g->clients[i].fd);
        tail_free(&g->clients[i].in);
        tail_free(&g->clients[i].out);
    }
    close(g->timer);
    close(g->epoll);
    free(g->answered);
    free(g->clients);
    free(g->read);
    free(g->top);
    free(g);
}

void group_poll(struct group *g, int timeout_ms)
{
    struct epoll_event events[TURN_EVENTS];
    while (g->opened < g->options->connections && g->connecting < CONNECTING_MAX)
        client_open(g, g->opened++);
    int n = epoll_wait(g->epoll, events, TURN_EVENTS, timeout_ms);
    for (int i = 0; i < n; i++) {
        if (events[i].data.u32 == TIMER_INDEX) {
            on_timer(g);
            continue;
        }
        struct client *client = &g->clients[events[i].data.u32];
        if (client->state == STATE_CONNECT)
            on_connected(g, client);
        else if (client->state != STATE_CLOSED && (events[i].events & EPOLLOUT))
            on_writable(g, client);
        if (client->state != STATE_CLOSED && (events[i].events & ~(uint32_t)EPOLLOUT))
            on_readable(g, client);
    }
}

void group_publish(struct group *g, uint64_t count)
{
    g->answered = must(calloc(count, 1));
    g->start = group_now();
    g->count = count;
    on_timer(g);
}

bool group_is_drained(const struct group *g)
{
    const struct group_tally *tally = &g->tally;
    return g->next == g->count && tally->acked + tally->refused >= tally->sent &&
           tally->deliveries >= tally->expected;
}

void group_count_missing(struct group *g)
{
    for (unsigned i = 0; i < g->opened; i++) {
        const struct client *client = &g->clients[i];
        uint64_t top = g->top[room_of(g, client)];
        if (client->last > 0 || client->seen) /* was in its room */
            g->tally.lost += top > client->last ? top - client->last : 0;
    }
}

const struct group_tally *group_tally(const struct group *g)
{
    return &g->tally;
}
