/* conn.c - one connection: its descriptor, its states, its queue. What a request or a message means is for
 * http.c and ws.c; who is visited when is for net.c. The states are drawn in internal.h. */
#include "chatd/conn.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "chatd/clock.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "internal.h"

static const uint16_t close_codes[CLOSE_COUNT] = {
#define CLOSE(name, code, word) [CLOSE_##name] = code,
#include "chatd/close_reasons.def"
#undef CLOSE
};

static void on_poll(uv_poll_t *poll, int status, int events);

/* Asks libuv for the events that the state wants, and for UV_WRITABLE when the peer's window was full.
 * Changing them costs system calls, so only when they differ. */
static void watch(struct conn *conn, bool blocked)
{
    bool reads = conn->state != CONN_HANDLE && conn->state != CONN_ANSWER;
    uint8_t events = (uint8_t)((reads ? UV_READABLE : 0) | (blocked ? UV_WRITABLE : 0));
    if (conn->state == CONN_CLOSED || events == conn->watched)
        return;
    conn->watched = events;
    if (events == 0)
        uv_poll_stop(&conn->poll);
    else if (uv_poll_start(&conn->poll, events, on_poll) != 0)
        abort(); /* the descriptor is ours and pollable: a failure is a bug of ours */
}

void conn_accept(struct net *net, int fd)
{
    struct conn *conn = calloc(1, sizeof(*conn));
    if (conn == NULL)
        abort();
    if (uv_poll_init(net->loop, &conn->poll, fd) != 0) {
        log_warn("poll_failed", "fd=%d", fd);
        metrics_add(refused_total[METRICS_REFUSAL_other], 1);
        close(fd);
        free(conn);
        return;
    }
    conn->net = net;
    conn->fd = fd;
    conn->id = net->last_id = conn_id_next(net->last_id);
    conn->heard = conn->since = net_now(net);
    if (net->count == net->capacity) {
        net->capacity = net->capacity > 0 ? net->capacity + net->capacity / 2 : 64;
        net->table = realloc(net->table, net->capacity * sizeof(struct conn *));
        if (net->table == NULL)
            abort();
    }
    conn->index = net->count;
    net->table[net->count++] = conn;
    net->live++;
    metrics_add(http_connections, 1);
    watch(conn, false);
}

void conn_mark(struct conn *conn)
{
    if (conn->flags & FLAG_DIRTY)
        return;
    conn->flags |= FLAG_DIRTY;
    conn->dirty_next = NULL;
    *conn->net->dirty_tail = conn;
    conn->net->dirty_tail = &conn->dirty_next;
}

static void on_closed(uv_handle_t *handle)
{
    struct conn *conn = (struct conn *)handle;
    assert(!(conn->flags & FLAG_DIRTY)); /* the check handle flushed between uv_close and this */
    conn->net->live--;
    if (conn->flags & FLAG_UPGRADED)
        ws_free(conn->ws);
    else
        http_free(conn->http);
    free(conn);
}

void conn_detach(struct conn *conn, enum close_reason reason)
{
    struct net *net = conn->net;
    if (!(conn->flags & FLAG_ATTACHED))
        return;
    conn->flags &= (uint8_t)~FLAG_ATTACHED;
    if (conn->flags & FLAG_UPGRADED) {
        metrics_add(connections, -1);
        metrics_add(closes_total[reason], 1);
        conn_log_closed(conn, reason, close_codes[reason]);
    }
    net->told = true;
    net->handler.on_close(net->handler.arg, conn, reason);
}

/* What the queue looks like after it was written to, or given up. */
static void note_queue(struct conn *conn)
{
    if (conn->queue.count > 0) {
        if (conn->behind == 0)
            conn->behind = net_now(conn->net) | 1;
        return;
    }
    conn->behind = 0;
    if (conn->slow)
        metrics_add(slow_readers, -1);
    conn->slow = 0;
}

/* Why an HTTP connection ends: that nobody asks any more is no fault. */
static enum close_reason http_reason(const struct conn *conn, enum close_reason reason)
{
    bool over = conn->state == CONN_LINGER || (conn->state == CONN_READ && conn->flags & FLAG_SERVED &&
                                               conn->http == NULL);

    if (conn->state == CONN_CLOSING)
        return conn->reason;
    return over ? CLOSE_HTTP : reason;
}

void conn_finish(struct conn *conn, enum close_reason reason)
{
    struct net *net = conn->net;
    if (conn->state == CONN_CLOSED)
        return;
    if (!(conn->flags & FLAG_UPGRADED)) {
        metrics_add(http_connections, -1);
        metrics_add(closes_total[http_reason(conn, reason)], 1);
    }
    conn->state = CONN_CLOSED;
    /* Out of the table first: the handler may call net_close, which goes on until the table is empty. */
    struct conn *last = net->table[--net->count];
    net->table[conn->index] = last;
    last->index = conn->index;
    conn_detach(conn, reason);
    net->queued -= conn->queue.bytes;
    outq_clear(&conn->queue);
    note_queue(conn);
    /* From uv_close on libuv doesn't look at the descriptor any more. The memory is its until on_closed. */
    uv_close((uv_handle_t *)&conn->poll, on_closed);
    close(conn->fd);
}

/* What is said is said. */
static void linger(struct conn *conn)
{
    conn->state = CONN_LINGER;
    conn->since = net_now(conn->net);
    if (shutdown(conn->fd, SHUT_WR) != 0)
        conn_finish(conn, CLOSE_GONE);
}

static void queue_message(struct conn *conn, uint8_t opcode, const void *payload, size_t length)
{
    struct frame *frame = frame_message(opcode, payload, length);
    conn_queue(conn, frame);
    frame_unref(frame);
}

/* The second half of conn_close, out of everybody's call stack. */
static void begin_close(struct conn *conn)
{
    uint16_t code = close_codes[conn->reason];
    conn->flags |= FLAG_CLOSE_BEGUN;
    conn_detach(conn, conn->reason);
    if (conn->state == CONN_CLOSED) /* the handler closed the whole net */
        return;
    if (conn->reason == CLOSE_SLOW) {
        metrics_add(slow_closed_total, 1);
        metrics_add(limited_total[METRICS_LIMIT_send_queue], 1);
        conn->net->queued -= conn->queue.bytes;
        outq_drop_unsent(&conn->queue);
        conn->net->queued += conn->queue.bytes;
    }
    if (conn->flags & FLAG_UPGRADED && code != 0) {
        char payload[2] = {(char)(code >> 8), (char)(code & 0xff)};
        queue_message(conn, FRAME_CLOSE, payload, sizeof(payload));
    } else {
        conn->flags |= FLAG_PEER_CLOSED;
    }
    conn->since = net_now(conn->net);
}

/* The queue is empty. */
static void drained(struct conn *conn)
{
    if (conn->state == CONN_ANSWER && !(conn->flags & FLAG_LAST))
        http_answered(conn);
    else if (conn->state == CONN_ANSWER || (conn->state == CONN_CLOSING && conn->flags & FLAG_PEER_CLOSED))
        linger(conn);
}

void conn_flush(struct conn *conn)
{
    struct net *net = conn->net;
    bool rests = false;

    if (conn->state == CONN_CLOSING && !(conn->flags & FLAG_CLOSE_BEGUN))
        begin_close(conn);
    if (conn->state == CONN_CLOSED)
        return;
    if (conn->queue.count > 0) {
        uint64_t before = conn->queue.bytes;
        int rest = outq_write(&conn->queue, conn->fd, &net->tally);
        net->queued -= before - conn->queue.bytes;
        if (rest < 0) {
            conn_finish(conn, CLOSE_GONE);
            return;
        }
        /* A slow download is not a silent client. */
        if (conn->state == CONN_ANSWER && conn->queue.bytes < before)
            conn->since = net_now(net);
        note_queue(conn);
        /* A read buffer full of requests must not hold up the loop: the next one is for the next turn, which
         * comes at once, since there is room to write. */
        rests = conn->queue.count == 0 && conn->state == CONN_ANSWER && http_pipelined(conn);
    }
    if (conn->queue.count == 0 && !rests)
        drained(conn);
    watch(conn, rests || (conn->queue.count > 0 && !(conn->flags & FLAG_DIRTY)));
}

static void on_message(void *arg, bool text, const char *data, size_t length)
{
    struct conn *conn = arg;
    const struct net_handler *handler = &conn->net->handler;
    if (conn->state != CONN_OPEN)
        return; /* only the peer's close frame counts now */
    conn->messages++;
    if (text)
        handler->on_text(handler->arg, conn, data, length);
    else if (handler->on_binary != NULL)
        handler->on_binary(handler->arg, conn, data, length);
    else
        conn_close(conn, CLOSE_BINARY);
}

static void on_output(void *arg, const char *data, size_t length)
{
    struct conn *conn = arg;
    if (conn->state != CONN_OPEN)
        return;
    struct frame *frame = frame_new(length);
    frame_add(frame, data, length);
    conn_send(conn, frame);
    frame_unref(frame);
}

void conn_feed_ws(struct conn *conn, const char *data, size_t length)
{
    static const struct ws_sink sink = {on_message, on_output};
    static const uint8_t reasons[] = {
        [WS_PEER_CLOSED] = CLOSE_PEER,
        [WS_BAD_PROTOCOL] = CLOSE_PROTOCOL,
        [WS_BAD_UTF8] = CLOSE_UTF8,
        [WS_TOO_LARGE] = CLOSE_TOO_LARGE,
    };
    /* After its close frame, or after a fault, what comes has no meaning. */
    if (conn->flags & FLAG_PEER_CLOSED || conn->state == CONN_CLOSED)
        return;
    struct net *net = conn->net;
    enum ws_result result =
        ws_feed(&net->pool, &conn->ws, &sink, conn, data, length, (uint64_t)net->config->max_message_bytes);
    if (result == WS_MORE || conn->state == CONN_CLOSED)
        return;
    conn->flags |= FLAG_PEER_CLOSED;
    conn_close(conn, reasons[result]);
    conn_mark(conn); /* when it was closing before, its end may have come */
}

static void on_readable(struct conn *conn)
{
    struct net *net = conn->net;
    ssize_t length = read(conn->fd, net->buffer, NET_READ_BUFFER);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (length <= 0) {
        conn_finish(conn, conn->state == CONN_CLOSING ? conn->reason : CLOSE_GONE);
        return;
    }
    metrics_add(bytes_in_total, length);
    net->read_us = clock_wall_us();
    conn->heard = net_now(net);
    conn->flags &= (uint8_t)~FLAG_PINGED;
    if (conn->state == CONN_READ)
        http_feed(conn, net->buffer, (size_t)length);
    else if (conn->flags & FLAG_UPGRADED && conn->state != CONN_LINGER)
        conn_feed_ws(conn, net->buffer, (size_t)length);
    /* What this queued is for the flush to write. Only a request that has no answer yet must stop the
     * reading here. */
    if (conn->state == CONN_HANDLE)
        watch(conn, conn->watched & UV_WRITABLE);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct conn *conn = (struct conn *)poll;
    if (status < 0) {
        conn_finish(conn, conn->state == CONN_CLOSING ? conn->reason : CLOSE_GONE);
        return;
    }
    if (events & UV_READABLE)
        on_readable(conn);
    /* Written by the flush at the end of the turn, together with what this turn adds. */
    if (events & UV_WRITABLE && conn->state != CONN_CLOSED)
        conn_mark(conn);
}

void conn_upgrade(struct conn *conn)
{
    conn->state = CONN_OPEN;
    conn->flags |= FLAG_UPGRADED | FLAG_ATTACHED;
    conn->ws = NULL;
    conn->opened_s = net_seconds(conn->net);
    conn_log_opened(conn);
    metrics_add(http_connections, -1);
    metrics_add(connections, 1);
    metrics_add(connections_opened_total, 1);
}

static void sweep_open(struct conn *conn)
{
    struct net *net = conn->net;
    uint32_t now = net_now(net);
    if (conn->flags & FLAG_PINGED) {
        if (now - conn->since >= net->config->ping_timeout)
            conn_finish(conn, CLOSE_TIMEOUT);
    } else if (net->config->ping_interval > 0 && now - conn->heard >= net->config->ping_interval) {
        conn->flags |= FLAG_PINGED;
        conn->since = now;
        metrics_add(pings_total, 1);
        conn_send(conn, net->ping);
    }
}

void conn_sweep(struct conn *conn)
{
    const struct net *net = conn->net;
    uint32_t waited = net_now(net) - conn->since;
    if (conn->behind != 0 && !conn->slow && conn->flags & FLAG_UPGRADED &&
        net_now(net) - conn->behind > NET_SLOW_MS) {
        conn->slow = 1;
        metrics_add(slow_readers, 1);
    }
    switch ((enum conn_state)conn->state) {
    case CONN_OPEN:
        sweep_open(conn);
        break;
    case CONN_READ:
        if (waited >= net->config->handshake_timeout || (net->stopping && waited >= NET_LAST_MS))
            http_timeout(conn);
        break;
    case CONN_ANSWER:
        if (waited >= net->config->handshake_timeout)
            conn_finish(conn, CLOSE_TIMEOUT);
        break;
    case CONN_CLOSING:
    case CONN_LINGER:
        if (waited >= NET_CLOSE_MS)
            conn_finish(conn, conn->reason);
        break;
    case CONN_HANDLE: /* the handler owes an answer and knows its own limits */
        if (net->held && !(conn->flags & FLAG_ATTACHED) && waited >= net->config->handshake_timeout)
            http_release(conn, false);
        break;
    case CONN_CLOSED:
        break;
    }
}

void conn_set_data(struct conn *conn, void *data)
{
    conn->data = data;
}

void *conn_data(const struct conn *conn)
{
    return conn->data;
}

void conn_queue(struct conn *conn, struct frame *frame)
{
    outq_push(&conn->queue, frame);
    conn->net->queued += frame->length;
    conn_mark(conn);
}

/* What waits behind the frame that is being written counts: an answer may be larger than the limit, and what
 * follows it is not the peer's fault either until the limit is full once more. */
static bool has_room(const struct conn *conn, size_t more)
{
    return conn->queue.count == 0 ||
           outq_behind(&conn->queue) + more <= (uint64_t)conn->net->config->send_queue_bytes;
}

/* A burst within one loop turn (a long catch-up) may pass the limit although the peer reads well: what the
 * kernel takes now makes room. */
static bool make_room(struct conn *conn, size_t more)
{
    uint64_t before = conn->queue.bytes;
    int rest;

    if (has_room(conn, more))
        return true;
    rest = outq_write(&conn->queue, conn->fd, &conn->net->tally);
    conn->net->queued -= before - conn->queue.bytes;
    if (rest < 0)
        conn_close(conn, CLOSE_GONE);
    return rest >= 0 && has_room(conn, more);
}

void conn_send(struct conn *conn, struct frame *frame)
{
    if (conn->state != CONN_OPEN)
        return;
    if (!make_room(conn, frame->length))
        conn_close(conn, CLOSE_SLOW); /* or for the reason that make_room found */
    else
        conn_queue(conn, frame);
}

void conn_send_text(struct conn *conn, const char *text, size_t length)
{
    struct frame *frame = frame_text(text, length);
    conn_send(conn, frame);
    frame_unref(frame);
}

int64_t conn_read_us(const struct conn *conn)
{
    return conn->net->read_us;
}

size_t conn_queued(const struct conn *conn)
{
    return conn->queue.bytes;
}

void conn_close(struct conn *conn, enum close_reason reason)
{
    if (conn->state >= CONN_CLOSING)
        return;
    conn->state = CONN_CLOSING;
    conn->reason = (uint8_t)reason;
    conn->since = net_now(conn->net);
    conn_mark(conn);
}

bool conn_closing(const struct conn *conn)
{
    return conn->state >= CONN_CLOSING;
}

uint64_t conn_id(const struct conn *conn)
{
    return conn->id;
}

bool conn_peer(const struct conn *conn, struct sockaddr_storage *address)
{
    socklen_t length = sizeof(*address);
    return conn->state != CONN_CLOSED && getpeername(conn->fd, (struct sockaddr *)address, &length) == 0;
}
