/* redis_conn.c - one connection to one Redis server.
 *
 * OPENED -> (LOOKING_UP) -> CONNECTING -> SIGNING_IN -> READY -> CLOSED. Everything starts from a tick or
 * from the socket, so no function that the owner calls calls back. A wire (socket and poll handle) has its
 * own memory: one that is given up, for the next address or at the end, frees itself when libuv lets go of
 * it. */
#include "redis_conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <nettle/sha1.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chatd/clock.h"
#include "chatd/metrics.h"
#include "redis_tls.h"

enum {
    TICK_MS = 500,
    TICKS_LOOK = REDIS_CONN_PING_MS / TICK_MS,
    TICKS_SILENCE = REDIS_CONN_SILENCE_MS / TICK_MS,
    TICKS_CONNECT = REDIS_CONN_CONNECT_MS / TICK_MS,
    READS_MAX = 16, /* of 16 KB, per wakeup: one busy server must not starve everything else */
    ERROR_MAX = 200,
};

enum state { OPENED, LOOKING_UP, CONNECTING, SIGNING_IN, READY, CLOSED };

/* The commands of the sign-in, in this order, as far as the kind has them. */
enum step { STEP_AUTH, STEP_SELECT, STEP_NAME, STEP_INFO, STEP_SCRIPTS, STEP_NONE };

struct wire {
    uv_poll_t poll;
    struct redis_conn *conn;
    int events;
    redisContext *context;
    struct redis_tls *tls; /* NULL without TLS */
};

struct redis_conn {
    const struct redis_target *target;
    struct redis_address address;
    enum redis_conn_kind kind;
    const struct redis_script *scripts;
    struct redis_conn_handler handler;
    uv_loop_t *loop;

    enum state state;
    uv_timer_t timer;
    uv_getaddrinfo_t lookup;
    bool looking_up, timer_closed;     /* what libuv still holds of this memory */
    struct addrinfo *found, *next;     /* what the name stands for; the one to try next */
    int connect_ticks, ticks;          /* an address has so many; so many are over */
    struct wire *wire;
    bool unsent;                       /* something is in the output buffer */
    bool blocked;                      /* and waits for the socket */
    bool write_failed;
    char error[ERROR_MAX];             /* of the last address or write that failed */

    enum step step;
    bool answered;                     /* the first of them */
    unsigned scripts_loaded;
    char life[REDIS_LIFE_SIZE];

    uint64_t sent, received;           /* commands and replies since READY, the looks included */
    uint64_t look;                     /* which of these is a look nobody answered yet; 0: none */
    int look_ticks, quiet_ticks;
    bool heard;                        /* since the last tick */
    int64_t heard_ms;
};

void redis_script_init(struct redis_script *script)
{
    uint8_t digest[SHA1_DIGEST_SIZE];
    struct sha1_ctx sha1;

    sha1_init(&sha1);
    sha1_update(&sha1, script->length, (const uint8_t *)script->source);
    sha1_digest(&sha1, sizeof(digest), digest);
    for (int i = 0; i < SHA1_DIGEST_SIZE; i++)
        snprintf(script->sha + 2 * i, 3, "%02x", digest[i]);
}

bool redis_conn_has_tls(void)
{
    return redis_tls_available();
}

/* --- The end. --- */

static void free_conn(struct redis_conn *conn)
{
    if (conn->found)
        uv_freeaddrinfo(conn->found);
    free(conn);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct redis_conn *conn = handle->data;

    conn->timer_closed = true;
    if (!conn->looking_up)
        free_conn(conn);
}

static void free_wire(struct wire *wire)
{
    redisFree(wire->context); /* the TLS session with it */
    redis_tls_free(wire->tls);
    free(wire);
}

static void on_wire_closed(uv_handle_t *handle)
{
    free_wire(handle->data);
}

static void drop_wire(struct redis_conn *conn)
{
    if (conn->wire)
        uv_close((uv_handle_t *)&conn->wire->poll, on_wire_closed);
    conn->wire = NULL;
}

void redis_conn_close(struct redis_conn *conn)
{
    if (!conn || conn->state == CLOSED)
        return;
    conn->state = CLOSED;
    drop_wire(conn);
    if (conn->looking_up)
        uv_cancel((uv_req_t *)&conn->lookup);
    uv_close((uv_handle_t *)&conn->timer, on_timer_closed);
}

static void lose(struct redis_conn *conn, enum redis_fault fault, const char *error)
{
    char copy[ERROR_MAX]; /* it may stand in what is freed now */

    snprintf(copy, sizeof(copy), "%s", error);
    if (conn->state == READY)
        metrics_add(bus_losses_total, 1);
    redis_conn_close(conn);
    conn->handler.on_lost(conn->handler.arg, fault, copy);
}

static void lose_wire(struct redis_conn *conn)
{
    const redisContext *context = conn->wire->context;
    const char *certificate = redis_tls_error(conn->wire->tls);

    if (context->err == REDIS_ERR_PROTOCOL)
        lose(conn, REDIS_FAULT_PROTOCOL, context->errstr);
    else if (conn->wire->tls && !conn->answered)
        lose(conn, REDIS_FAULT_TLS, certificate ? certificate : context->errstr);
    else
        lose(conn, REDIS_FAULT_CLOSED, context->errstr);
}

/* --- Writing. --- */

static void on_event(uv_poll_t *poll, int status, int events);

static void wait_for(struct redis_conn *conn, int events)
{
    struct wire *wire = conn->wire;

    if (wire->events != events)
        uv_poll_start(&wire->poll, events, on_event);
    wire->events = events;
}

/* What the socket doesn't take now goes out when it is writable. */
static void write_some(struct redis_conn *conn)
{
    redisContext *context = conn->wire->context;
    int done = 0;

    if (conn->write_failed)
        return;
    metrics_add(bus_writes_total, 1);
    if (redisBufferWrite(context, &done) != REDIS_OK) {
        /* Perhaps the server said why before it hung up ("max number of clients"): the end is read, not
         * written. */
        snprintf(conn->error, sizeof(conn->error), "%s", context->errstr);
        context->err = 0;
        conn->write_failed = true;
    }
    conn->unsent = conn->blocked = !done && !conn->write_failed;
    wait_for(conn, UV_READABLE | (conn->blocked && !redis_tls_wants_read(conn->wire->tls) ? UV_WRITABLE : 0));
}

static void append(struct redis_conn *conn, const char *resp, size_t length)
{
    if (redisAppendFormattedCommand(conn->wire->context, resp, length) != REDIS_OK)
        abort();
}

static void append_command(struct redis_conn *conn, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    if (redisvAppendCommand(conn->wire->context, format, arguments) != REDIS_OK)
        abort();
    va_end(arguments);
}

void redis_conn_append(struct redis_conn *conn, const char *resp, size_t length)
{
    if (conn->state != READY)
        return;
    append(conn, resp, length);
    conn->sent++;
    conn->unsent = true;
}

void redis_conn_flush(struct redis_conn *conn)
{
    if (conn->state == READY && conn->unsent && !conn->blocked)
        write_some(conn);
}

/* --- Signing in. --- */

static const char *sign_in_password(const struct redis_conn *conn)
{
    return conn->kind == REDIS_CONN_SENTINEL ? conn->target->sentinel_password : conn->target->password;
}

static bool has_step(const struct redis_conn *conn, enum step step)
{
    bool commands = conn->kind == REDIS_CONN_COMMANDS;

    switch (step) {
    case STEP_AUTH:
        return sign_in_password(conn)[0] != '\0';
    case STEP_SELECT:
        return commands && conn->target->database != 0;
    case STEP_INFO:
        return commands || conn->kind == REDIS_CONN_SUBSCRIBER;
    case STEP_SCRIPTS:
        return commands && conn->scripts && conn->scripts[conn->scripts_loaded].source;
    default:
        return true;
    }
}

static void next_step(struct redis_conn *conn)
{
    if (conn->step == STEP_SCRIPTS) {
        conn->scripts_loaded++;
        if (has_step(conn, STEP_SCRIPTS))
            return;
    }
    do
        conn->step++;
    while (!has_step(conn, conn->step));
}

static void sign_in(struct redis_conn *conn)
{
    const char *user = conn->kind == REDIS_CONN_SENTINEL ? "" : conn->target->user;

    conn->state = SIGNING_IN;
    conn->quiet_ticks = 0;
    if (has_step(conn, STEP_AUTH) && user[0] != '\0')
        append_command(conn, "AUTH %s %s", user, sign_in_password(conn));
    else if (has_step(conn, STEP_AUTH))
        append_command(conn, "AUTH %s", sign_in_password(conn));
    if (has_step(conn, STEP_SELECT))
        append_command(conn, "SELECT %d", conn->target->database);
    append_command(conn, "CLIENT SETNAME chatd");
    if (has_step(conn, STEP_INFO))
        append_command(conn, "INFO replication");
    for (const struct redis_script *s = conn->scripts; has_step(conn, STEP_SCRIPTS) && s->source; s++)
        append_command(conn, "SCRIPT LOAD %b", s->source, s->length);
    conn->step = STEP_AUTH;
    if (!has_step(conn, STEP_AUTH))
        next_step(conn);
    write_some(conn);
}

static bool find_field(const redisReply *info, const char *name, const char **value, size_t *length)
{
    const char *line = info->type == REDIS_REPLY_STRING ? info->str : NULL;
    size_t prefix = strlen(name);

    for (; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, prefix) == 0 && line[prefix] == ':') {
            *value = line + prefix + 1;
            *length = strcspn(*value, "\r\n");
            return true;
        }
    }
    return false;
}

static bool field_is(const redisReply *info, const char *name, const char *wanted)
{
    const char *value;
    size_t length;

    return find_field(info, name, &value, &length) && length == strlen(wanted) &&
           memcmp(value, wanted, length) == 0;
}

/* Whether the server is still, or at all, a master with the life we know. */
static bool judge_info(struct redis_conn *conn, const redisReply *info)
{
    const char *life;
    size_t length;

    if (!field_is(info, "role", "master")) {
        if (field_is(info, "master_link_status", "down"))
            lose(conn, REDIS_FAULT_MASTERDOWN, "it is a replica and its master is down");
        else
            lose(conn, REDIS_FAULT_READONLY, "it is a replica");
    } else if (!find_field(info, "master_replid", &life, &length) || length != REDIS_LIFE_SIZE) {
        lose(conn, REDIS_FAULT_REFUSED, "INFO replication has no master_replid; Redis 4 or newer is needed");
    } else if (conn->state == READY && memcmp(conn->life, life, REDIS_LIFE_SIZE) != 0) {
        lose(conn, REDIS_FAULT_LIFE, "master_replid changed");
    } else {
        memcpy(conn->life, life, REDIS_LIFE_SIZE);
    }
    return conn->state != CLOSED;
}

static void refuse_sign_in(struct redis_conn *conn, const redisReply *reply)
{
    static const char *const auth[] = {"WRONGPASS", "NOPERM", "ERR AUTH", "ERR invalid password",
                                       "ERR Client sent AUTH"};
    enum redis_fault fault = REDIS_FAULT_REFUSED;
    char error[ERROR_MAX];

    for (size_t i = 0; i < sizeof(auth) / sizeof(auth[0]); i++) {
        if (strncmp(reply->str, auth[i], strlen(auth[i])) == 0)
            fault = REDIS_FAULT_AUTH;
    }
    redis_error_fault(reply, &fault);
    /* A server that doesn't know AUTH repeats what came with it. */
    snprintf(error, sizeof(error), "%.*s",
             conn->step == STEP_AUTH ? (int)strcspn(reply->str, ",`'") : ERROR_MAX, reply->str);
    lose(conn, fault, error);
}

static void signed_in(struct redis_conn *conn)
{
    conn->state = READY;
    conn->look_ticks = 0;
    conn->handler.on_ready(conn->handler.arg, has_step(conn, STEP_INFO) ? conn->life : NULL);
}

static void take_sign_in(struct redis_conn *conn, const redisReply *reply)
{
    enum redis_fault fault;
    /* A name is a courtesy: who may not set it may still work. But the first answer of a server that is full,
     * or that wants a password, comes here as well. */
    bool courtesy = conn->step == STEP_NAME && !redis_error_fault(reply, &fault) &&
                    (redis_error_is(reply, "NOPERM") ||
                     strncmp(redis_error_code(reply), "ERR unknown", 11) == 0);

    if (reply->type == REDIS_REPLY_ERROR && !courtesy) {
        refuse_sign_in(conn, reply);
        return;
    }
    conn->answered = true;
    if (conn->step == STEP_INFO && !judge_info(conn, reply))
        return;
    next_step(conn);
    if (conn->step == STEP_NONE)
        signed_in(conn);
}

/* --- Reading. --- */

/* A subscriber's answers are pushes, of any number: only by its look is a PONG known. */
static bool is_pong(const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_STATUS)
        return strcmp(reply->str, "PONG") == 0;
    return reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
           reply->element[0]->type == REDIS_REPLY_STRING && strcmp(reply->element[0]->str, "pong") == 0;
}

static bool is_look(struct redis_conn *conn, const redisReply *reply)
{
    if (conn->look == 0)
        return false;
    return conn->kind == REDIS_CONN_SUBSCRIBER ? is_pong(reply) : conn->received == conn->look;
}

static void take_reply(struct redis_conn *conn, const redisReply *reply)
{
    enum redis_fault fault;

    if (conn->state == SIGNING_IN) {
        take_sign_in(conn, reply);
        return;
    }
    conn->received++;
    if (redis_error_fault(reply, &fault)) {
        lose(conn, fault, redis_error_code(reply));
    } else if (is_look(conn, reply)) {
        conn->look = 0;
        /* An error says nothing about its role (BUSY), but that it lives. */
        if (conn->kind == REDIS_CONN_COMMANDS && reply->type != REDIS_REPLY_ERROR)
            judge_info(conn, reply);
    } else {
        conn->handler.on_reply(conn->handler.arg, reply);
    }
}

/* False when the conn is no more. */
static bool take_replies(struct redis_conn *conn)
{
    const struct wire *wire = conn->wire;
    void *reply = NULL;

    while (redisGetReplyFromReader(wire->context, &reply) == REDIS_OK && reply) {
        take_reply(conn, reply);
        freeReplyObject(reply);
        if (conn->state == CLOSED)
            return false;
        reply = NULL;
    }
    if (wire->context->err)
        lose_wire(conn);
    return conn->state != CLOSED;
}

static bool more_to_read(const struct wire *wire)
{
    struct pollfd fd = {wire->context->fd, POLLIN, 0};

    return poll(&fd, 1, 0) > 0;
}

static void read_some(struct redis_conn *conn)
{
    for (int i = 0; i < READS_MAX; i++) {
        if (redisBufferRead(conn->wire->context) != REDIS_OK) {
            lose_wire(conn);
            return;
        }
        conn->heard = true;
        conn->heard_ms = clock_monotonic_ms();
        if (!take_replies(conn) || !more_to_read(conn->wire))
            return;
    }
}

/* --- Connecting. --- */

static void try_next(struct redis_conn *conn);

static void connected(struct redis_conn *conn)
{
    const redisContext *context = conn->wire->context;
    int error = 0;
    socklen_t size = sizeof(error);

    if (getsockopt(context->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    if (error != 0) {
        snprintf(conn->error, sizeof(conn->error), "%s", strerror(error));
        drop_wire(conn);
        try_next(conn);
        return;
    }
    if (conn->target->tls) {
        conn->wire->tls = redis_tls_start(conn->wire->context, conn->address.host, conn->error,
                                          sizeof(conn->error));
        if (!conn->wire->tls) {
            lose(conn, REDIS_FAULT_TLS, conn->error);
            return;
        }
    }
    sign_in(conn);
}

static void on_event(uv_poll_t *poll, int status, int events)
{
    struct wire *wire = poll->data;
    struct redis_conn *conn = wire->conn;

    /* An error stops libuv's watching, and comes as one word for all. What it is, and what the server said
     * before, is found by reading. */
    if (status < 0)
        wire->events = 0;
    if (conn->state == CONNECTING)
        connected(conn);
    else if (status < 0 || (events & UV_READABLE))
        read_some(conn);
    if (conn->state < SIGNING_IN || conn->state == CLOSED)
        return;
    if (conn->blocked)
        write_some(conn);
    else if (wire->events == 0)
        wait_for(conn, UV_READABLE);
}

static void set_up_socket(const struct redis_conn *conn, redisContext *context)
{
    int on = 1;

    fcntl(context->fd, F_SETFD, FD_CLOEXEC);
    if (conn->address.port != 0) {
        setsockopt(context->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        redisEnableKeepAlive(context);
    }
}

/* `host` is numeric, so that hiredis has nothing to look up. */
static bool start_wire(struct redis_conn *conn, const char *host)
{
    struct wire *wire = calloc(1, sizeof(*wire));
    int status = -ENOMEM;

    if (!wire)
        abort();
    wire->context = conn->address.port != 0 ? redisConnectNonBlock(host, conn->address.port)
                                            : redisConnectUnixNonBlock(host);
    if (!wire->context)
        abort();
    wire->conn = conn;
    wire->poll.data = wire;
    if (!wire->context->err) {
        set_up_socket(conn, wire->context);
        status = uv_poll_init(conn->loop, &wire->poll, wire->context->fd);
    }
    if (status != 0) {
        snprintf(conn->error, sizeof(conn->error), "%s",
                 wire->context->err ? wire->context->errstr : uv_strerror(status));
        free_wire(wire);
        return false;
    }
    conn->wire = wire;
    conn->state = CONNECTING;
    conn->ticks = 0;
    wait_for(conn, UV_READABLE | UV_WRITABLE);
    return true;
}

/* The next address that the name stands for, until one can be tried. */
static void try_next(struct redis_conn *conn)
{
    char host[NI_MAXHOST];

    while (conn->next) {
        const struct addrinfo *address = conn->next;

        conn->next = address->ai_next;
        if (getnameinfo(address->ai_addr, address->ai_addrlen, host, sizeof(host), NULL, 0,
                        NI_NUMERICHOST) == 0 && start_wire(conn, host))
            return;
    }
    lose(conn, REDIS_FAULT_CONNECT, conn->error);
}

static void on_looked_up(uv_getaddrinfo_t *lookup, int status, struct addrinfo *found)
{
    struct redis_conn *conn = lookup->data;
    int count = 0;

    conn->looking_up = false;
    conn->found = conn->next = found;
    if (conn->state == CLOSED) {
        if (conn->timer_closed)
            free_conn(conn);
        return;
    }
    if (status != 0) {
        lose(conn, REDIS_FAULT_CONNECT, uv_strerror(status));
        return;
    }
    for (const struct addrinfo *one = found; one; one = one->ai_next)
        count++;
    /* All together may take as long as one alone. */
    conn->connect_ticks = count < TICKS_CONNECT / 2 ? TICKS_CONNECT / count : 2;
    try_next(conn);
}

static bool is_numeric(const char *host)
{
    struct in6_addr address;

    return host[0] == '/' || inet_pton(AF_INET, host, &address) == 1 ||
           inet_pton(AF_INET6, host, &address) == 1;
}

static void begin(struct redis_conn *conn)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    int status;

    conn->connect_ticks = TICKS_CONNECT;
    if (is_numeric(conn->address.host)) {
        if (!start_wire(conn, conn->address.host))
            lose(conn, REDIS_FAULT_CONNECT, conn->error);
        return;
    }
    conn->state = LOOKING_UP;
    conn->lookup.data = conn;
    status = uv_getaddrinfo(conn->loop, &conn->lookup, on_looked_up, conn->address.host, NULL, &hints);
    conn->looking_up = status == 0;
    if (status != 0)
        lose(conn, REDIS_FAULT_CONNECT, uv_strerror(status));
}

/* --- The clock. --- */

static void look(struct redis_conn *conn)
{
    if (conn->look != 0 || ++conn->look_ticks < TICKS_LOOK)
        return;
    conn->look_ticks = 0;
    append_command(conn, conn->kind == REDIS_CONN_COMMANDS ? "INFO replication" : "PING");
    conn->look = ++conn->sent;
    conn->unsent = true;
    redis_conn_flush(conn);
}

/* Ticks are counted, not time: a loop that was held up itself has heard nobody and must not blame the
 * server. */
static void listen_to(struct redis_conn *conn)
{
    bool awaited = conn->state == SIGNING_IN || conn->look != 0 ||
                   (conn->kind != REDIS_CONN_SUBSCRIBER && conn->sent > conn->received);

    conn->quiet_ticks = awaited && !conn->heard ? conn->quiet_ticks + 1 : 0;
    conn->heard = false;
    if (conn->quiet_ticks > TICKS_SILENCE)
        lose(conn, REDIS_FAULT_SILENT, "no answer");
    else if (conn->state == READY)
        look(conn);
}

static void on_tick(uv_timer_t *timer)
{
    struct redis_conn *conn = timer->data;

    switch (conn->state) {
    case OPENED:
        begin(conn);
        break;
    case LOOKING_UP:
        if (++conn->ticks > TICKS_CONNECT)
            lose(conn, REDIS_FAULT_CONNECT, "looking up the name takes too long");
        break;
    case CONNECTING:
        if (++conn->ticks > conn->connect_ticks) {
            snprintf(conn->error, sizeof(conn->error), "connecting takes too long");
            drop_wire(conn);
            try_next(conn);
        }
        break;
    default:
        if (conn->write_failed)
            lose(conn, REDIS_FAULT_CLOSED, conn->error);
        else
            listen_to(conn);
        break;
    }
}

int redis_conn_open(struct redis_conn **out, const struct redis_conn_options *options)
{
    struct redis_conn *conn = calloc(1, sizeof(*conn));

    if (!conn)
        return -ENOMEM;
    conn->target = options->target;
    conn->address = *options->address;
    conn->kind = options->kind;
    conn->scripts = options->scripts;
    conn->handler = options->handler;
    conn->loop = options->loop;
    conn->state = OPENED;
    conn->timer.data = conn;
    uv_timer_init(conn->loop, &conn->timer);
    uv_timer_start(&conn->timer, on_tick, 0, TICK_MS);
    *out = conn;
    return 0;
}

int64_t redis_conn_heard_ms(const struct redis_conn *conn)
{
    return conn->heard_ms;
}
