/* floor: the least that a chat server over WebSocket can do, as the limit to compare chatd with.
 *
 *     build/floor [-j] PORT        (0: a port from the kernel; it is named on stderr)
 *
 * One process, one thread, one epoll loop. It knows as much of the protocol as a load generator needs: hello,
 * join (one room per connection), message, ping frames, close frames. A message gets its room's next number;
 * the sender gets its ack, and every member the finished event:
 *   form 1          one write per member and message
 *   form 2 (-j)     what one epoll turn brought to a room, joined, in one write per member
 *
 * It stores nothing, believes what it is told, and names a user after its descriptor. A connection costs a
 * row in a table and a place in its room; bytes are kept only while a frame is incomplete or a socket full.
 */
#define _GNU_SOURCE
#include "json_scan.h"
#include "tail.h"
#include "ws_wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum {
    FLOOR_ROOMS_MAX = 16384,          /* a power of two: rooms are found by hash */
    FLOOR_READ_BYTES = 64 * 1024,     /* also the longest request or frame it takes */
    FLOOR_TEXT_MAX = 15 * 1024,       /* as JSON, with its escapes */
    FLOOR_TAIL_MAX = 4 * 1024 * 1024, /* a reader further behind is cut off */
    FLOOR_TURN_EVENTS = 1024,
    FLOOR_NO_ROOM = -1,
};

/* Indexed by descriptor. A row of zeros is one that is not in use. */
struct client {
    struct tail *in;  /* start of an unfinished request or frame */
    struct tail *out; /* what the socket did not take; EPOLLOUT is on while it is there */
    uint32_t place;   /* in its room's list */
    int16_t room;
    bool upgraded;
};

struct room {
    char *name;
    uint64_t seq;
    int *members;
    uint32_t count, size;
    struct tail *turn; /* form 2: this turn's events */
};

struct floor {
    int epoll, listener;
    bool join_turn;
    struct client *clients;
    struct room *rooms; /* in order of their first member, so that few rooms touch little memory */
    int room_count;
    int16_t slots[FLOOR_ROOMS_MAX]; /* by hash of the name: a room's number + 1 */
    int dirty[FLOOR_ROOMS_MAX]; /* form 2: rooms with events in this turn */
    unsigned dirty_count;
    char read[FLOOR_READ_BYTES * 2]; /* an unfinished frame, and behind it what was just read */
    char replies[FLOOR_READ_BYTES];  /* answers to the client that is being read */
    size_t replies_len;
};

static void watch(struct floor *f, int fd, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(f->epoll, operation, fd, &event) < 0)
        die("floor: epoll_ctl");
}

/* A client that can't be written to is only shut down here: its own event closes it, so that no list changes
 * under somebody who walks it. */
static void client_send(struct floor *f, int fd, const char *bytes, size_t len)
{
    struct client *client = &f->clients[fd];
    bool waited = client->out;
    if (!tail_send(&client->out, fd, bytes, len) || (client->out && client->out->len > FLOOR_TAIL_MAX))
        shutdown(fd, SHUT_RDWR);
    else if (client->out && !waited)
        watch(f, fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static void on_writable(struct floor *f, int fd)
{
    if (!tail_flush(&f->clients[fd].out, fd))
        shutdown(fd, SHUT_RDWR);
    else if (!f->clients[fd].out)
        watch(f, fd, EPOLL_CTL_MOD, EPOLLIN);
}

static void client_close(struct floor *f, int fd)
{
    struct client *client = &f->clients[fd];
    if (client->room != FLOOR_NO_ROOM) {
        struct room *room = &f->rooms[client->room];
        int last = room->members[--room->count];
        room->members[client->place] = last;
        f->clients[last].place = client->place;
    }
    free(client->in);
    free(client->out);
    memset(client, 0, sizeof(*client));
    close(fd);
}

static struct room *room_find(struct floor *f, struct slice name)
{
    uint32_t slot = 2166136261u;
    for (size_t i = 0; i < name.len; i++)
        slot = (slot ^ (unsigned char)name.at[i]) * 16777619u;
    for (unsigned tries = 0; tries < FLOOR_ROOMS_MAX; tries++, slot++) {
        int16_t *number = &f->slots[slot % FLOOR_ROOMS_MAX];
        if (*number == 0) {
            f->rooms[f->room_count].name = must(strndup(name.at, name.len));
            *number = (int16_t)++f->room_count;
        }
        if (slice_is(name, f->rooms[*number - 1].name))
            return &f->rooms[*number - 1];
    }
    return NULL;
}

static void replies_flush(struct floor *f, int fd)
{
    if (f->replies_len > 0)
        client_send(f, fd, f->replies, f->replies_len);
    f->replies_len = 0;
}

static void reply_frame(struct floor *f, int fd, int opcode, char *payload, size_t len)
{
    char *start = ws_seal(payload, len, opcode);
    size_t total = len + (size_t)(payload - start);
    if (f->replies_len + total > sizeof(f->replies))
        replies_flush(f, fd);
    memcpy(f->replies + f->replies_len, start, total);
    f->replies_len += total;
    if (!f->join_turn)
        replies_flush(f, fd);
}

__attribute__((format(printf, 3, 4))) static void reply(struct floor *f, int fd, const char *format, ...)
{
    char buffer[1024];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(buffer + WS_HEAD_MAX, sizeof(buffer) - WS_HEAD_MAX, format, args);
    va_end(args);
    reply_frame(f, fd, WS_TEXT, buffer + WS_HEAD_MAX, (size_t)len);
}

static void room_send(struct floor *f, struct room *room, const char *bytes, size_t len)
{
    for (uint32_t i = 0; i < room->count; i++)
        client_send(f, room->members[i], bytes, len);
}

static void room_append(struct floor *f, struct room *room, const char *bytes, size_t len)
{
    if (!room->turn)
        f->dirty[f->dirty_count++] = (int)(room - f->rooms);
    tail_append(&room->turn, bytes, len);
}

static void turn_flush(struct floor *f)
{
    for (unsigned i = 0; i < f->dirty_count; i++) {
        struct room *room = &f->rooms[f->dirty[i]];
        room_send(f, room, room->turn->bytes, room->turn->len);
        tail_free(&room->turn);
    }
    f->dirty_count = 0;
}

static bool on_message(struct floor *f, int fd, struct slice json, struct slice id)
{
    struct slice text = json_scan_raw(json, "\"text\""), key = json_scan_raw(json, "\"key\"");
    if (f->clients[fd].room == FLOOR_NO_ROOM || !text.at || text.len > FLOOR_TEXT_MAX || key.len > 256)
        return false;
    if (!key.at)
        key = (struct slice){"null", 4};

    struct room *room = &f->rooms[f->clients[fd].room];
    unsigned long long seq = ++room->seq;
    reply(f, fd, "{\"type\":\"ack\",\"id\":%.*s,\"room\":\"%s\",\"seq\":%llu,\"key\":%.*s}",
          (int)id.len, id.at, room->name, seq, (int)key.len, key.at);

    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char buffer[FLOOR_TEXT_MAX + 1024], *payload = buffer + WS_HEAD_MAX;
    int len = snprintf(payload, sizeof(buffer) - WS_HEAD_MAX,
                       "{\"type\":\"message\",\"room\":\"%s\",\"seq\":%llu,\"user\":\"c%d\",\"text\":%.*s,"
                       "\"time\":%lld,\"key\":%.*s}", room->name, seq, fd, (int)text.len, text.at,
                       now.tv_sec * 1000LL + now.tv_nsec / 1000000, (int)key.len, key.at);
    char *start = ws_seal(payload, (size_t)len, WS_TEXT);
    (f->join_turn ? room_append : room_send)(f, room, start, (size_t)(payload + len - start));
    return true;
}

static bool on_join(struct floor *f, int fd, struct slice json, struct slice id)
{
    struct client *client = &f->clients[fd];
    struct slice name = json_scan_text(json, "\"room\"");
    if (!name.at || name.len > 128 || client->room != FLOOR_NO_ROOM)
        return false;
    struct room *room = room_find(f, name);
    if (!room)
        return false;
    if (room->count == room->size) {
        room->size = room->size ? room->size * 2 : 4;
        room->members = must(realloc(room->members, room->size * sizeof(*room->members)));
    }
    client->room = (int16_t)(room - f->rooms);
    client->place = room->count;
    room->members[room->count++] = fd;
    reply(f, fd, "{\"type\":\"joined\",\"id\":%.*s,\"room\":\"%s\",\"seq\":%llu,\"members\":%u,"
          "\"messages\":[],\"complete\":true}", (int)id.len, id.at, room->name,
          (unsigned long long)room->seq, room->count);
    return true;
}

/* False closes the connection: what it said is not for this server. */
static bool on_command(struct floor *f, int fd, struct slice json)
{
    struct slice type = json_scan_text(json, "\"type\""), id = json_scan_raw(json, "\"id\"");
    if (!id.at || id.len > 64)
        id = (struct slice){"0", 1};
    if (slice_is(type, "message"))
        return on_message(f, fd, json, id);
    if (slice_is(type, "join"))
        return on_join(f, fd, json, id);
    if (!slice_is(type, "hello"))
        return false;
    reply(f, fd, "{\"type\":\"welcome\",\"id\":%.*s,\"user\":\"c%d\",\"resumed\":false}", (int)id.len,
          id.at, fd);
    return true;
}

/* One frame at `at`: its length, 0 when it isn't all there, -1 to close the connection. */
static ssize_t on_frame(struct floor *f, int fd, char *at, size_t len)
{
    struct ws_frame frame;
    ssize_t used = ws_parse(at, len, &frame);
    if (used <= 0)
        return len < FLOOR_READ_BYTES ? used : -1;
    if (frame.opcode == WS_PING && frame.len < 126)
        reply_frame(f, fd, WS_PONG, frame.payload, frame.len);
    else if (frame.opcode == WS_CLOSE ||
             (frame.opcode == WS_TEXT && !on_command(f, fd, (struct slice){frame.payload, frame.len})))
        return -1;
    return used;
}

/* As on_frame, for the request that opens a connection. */
static ssize_t on_request(struct floor *f, int fd, char *at, size_t len)
{
    char *end = memmem(at, len, "\r\n\r\n", 4), accept[WS_ACCEPT_SIZE], answer[256];
    if (!end)
        return len < FLOOR_READ_BYTES ? 0 : -1;
    *end = '\0';
    char *key = strcasestr(at, "\r\nSec-WebSocket-Key:");
    if (!key)
        return -1;
    key += strlen("\r\nSec-WebSocket-Key:");
    key += strspn(key, " ");
    ws_accept(accept, key, strcspn(key, " \r\n"));
    int n = snprintf(answer, sizeof(answer), "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    client_send(f, fd, answer, (size_t)n);
    f->clients[fd].upgraded = true;
    return end + 4 - at;
}

static void on_readable(struct floor *f, int fd)
{
    struct client *client = &f->clients[fd];
    size_t len = client->in ? client->in->len : 0, done = 0;
    if (len > 0)
        memcpy(f->read, client->in->bytes, len);
    ssize_t n = recv(fd, f->read + len, FLOOR_READ_BYTES - 1, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    tail_free(&client->in);

    ssize_t used = n > 0 ? 1 : -1;
    for (len += n > 0 ? (size_t)n : 0; used > 0 && done < len; done += used > 0 ? (size_t)used : 0)
        used = (client->upgraded ? on_frame : on_request)(f, fd, f->read + done, len - done);
    replies_flush(f, fd);
    if (used < 0)
        client_close(f, fd);
    else if (done < len)
        tail_append(&client->in, f->read + done, len - done);
}

static void on_acceptable(struct floor *f)
{
    int fd;
    while ((fd = accept4(f->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        f->clients[fd].room = FLOOR_NO_ROOM;
        watch(f, fd, EPOLL_CTL_ADD, EPOLLIN);
    }
    if (errno == EMFILE || errno == ENFILE)
        die("floor: accept"); /* nothing can be refused without a descriptor: it would only spin */
}

static int listen_on(int port)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t len = sizeof(address);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* accepted sockets inherit it */
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, 4096) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        die("floor: listen");
    fprintf(stderr, "listening port=%d\n", ntohs(address.sin_port));
    return fd;
}

int main(int argc, char **argv)
{
    bool join_turn = argc == 3 && strcmp(argv[1], "-j") == 0;
    if (argc != 2 + join_turn) {
        fputs("usage: floor [-j] PORT\n", stderr);
        return 2;
    }
    struct floor *f = must(calloc(1, sizeof(*f)));
    f->join_turn = join_turn;
    f->clients = must(calloc((size_t)sysconf(_SC_OPEN_MAX), sizeof(*f->clients)));
    f->rooms = must(calloc(FLOOR_ROOMS_MAX, sizeof(*f->rooms)));
    f->epoll = epoll_create1(EPOLL_CLOEXEC);
    f->listener = listen_on(atoi(argv[argc - 1]));
    watch(f, f->listener, EPOLL_CTL_ADD, EPOLLIN);

    struct epoll_event events[FLOOR_TURN_EVENTS];
    for (;; turn_flush(f)) {
        int n = epoll_wait(f->epoll, events, FLOOR_TURN_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (events[i].events & EPOLLOUT)
                on_writable(f, fd);
            if (fd == f->listener)
                on_acceptable(f);
            else if (events[i].events & ~EPOLLOUT)
                on_readable(f, fd);
        }
    }
}
