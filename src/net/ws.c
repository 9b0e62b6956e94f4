/* ws.c - the only file that knows wslay.
 *
 * wslay judges frames and unmasks them; this file cuts the stream into frames before, for two reasons. It
 * knows then when a context is clean. And wslay 1.1.1 gets a control frame in one piece only: it skips the
 * two bytes of the close code in every piece of a close frame, not only in the first, and so judges the
 * UTF-8 of a reason wrongly when the frame comes in several. Payloads of messages are collected here, not
 * in wslay's list of chunks, which would cost a hundred bytes for a fragment of one. */
#include "ws.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <wslay/wslay.h>

#include "chatd/buf.h"

enum {
    WS_CONTROL_MAX = 125,                /* longest payload of a control frame, RFC 6455 section 5.5 */
    WS_HELD_MAX = 2 + 4 + WS_CONTROL_MAX, /* longer than any header, too */
    WS_KEEP = 65536                      /* a spare keeps a message buffer up to this size */
};

struct ws {
    wslay_event_context_ptr context;
    const struct ws_sink *sink; /* these five only while ws_feed runs */
    void *arg;
    uint64_t message_max;
    const uint8_t *input; /* what wslay may read now */
    size_t input_left;

    uint64_t payload_left;       /* bytes of the present data frame that did not come yet */
    uint8_t held[WS_HELD_MAX];   /* an incomplete header, or an incomplete control frame */
    uint8_t held_length;

    uint8_t frame_opcode;
    bool in_message;    /* between the first and the last frame of a message */
    const uint8_t *whole; /* the message, when it came in one piece; else it is in `message` */
    size_t whole_length;
    struct buf message;
    enum ws_result result;
};

static ssize_t on_recv(wslay_event_context_ptr context, uint8_t *buffer, size_t size, int flags, void *arg)
{
    struct ws *ws = arg;
    (void)flags;
    if (ws->input_left == 0) {
        wslay_event_set_error(context, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    size_t length = ws->input_left < size ? ws->input_left : size;
    memcpy(buffer, ws->input, length);
    ws->input += length;
    ws->input_left -= length;
    return (ssize_t)length;
}

static ssize_t on_send(wslay_event_context_ptr context, const uint8_t *data, size_t length, int flags,
                       void *arg)
{
    struct ws *ws = arg;
    (void)context;
    (void)flags;
    buf_add(&ws->message, data, length);
    return (ssize_t)length;
}

/* Sends what wslay queued. The message buffer serves as scratch behind what it holds: a ping may come
 * between two fragments. */
static void send_queued(struct ws *ws)
{
    size_t before = ws->message.length;
    wslay_event_send(ws->context);
    if (ws->message.length > before)
        ws->sink->on_output(ws->arg, ws->message.data + before, ws->message.length - before);
    ws->message.length = before;
}

static void fail(struct ws *ws, enum ws_result result)
{
    if (ws->result == WS_MORE)
        ws->result = result;
    wslay_event_shutdown_read(ws->context);
}

static void on_frame_start(wslay_event_context_ptr context,
                           const struct wslay_event_on_frame_recv_start_arg *frame, void *arg)
{
    struct ws *ws = arg;
    (void)context;
    ws->frame_opcode = frame->opcode;
    ws->whole = NULL;
    if (wslay_is_ctrl_frame(frame->opcode))
        return;
    if (frame->opcode != WSLAY_CONTINUATION_FRAME)
        ws->in_message = true;
    ws->whole_length = frame->fin && ws->message.length == 0 ? frame->payload_length : SIZE_MAX;
}

static void on_chunk(wslay_event_context_ptr context, const struct wslay_event_on_frame_recv_chunk_arg *chunk,
                     void *arg)
{
    struct ws *ws = arg;
    (void)context;
    if (wslay_is_ctrl_frame(ws->frame_opcode) || ws->result != WS_MORE)
        return;
    if (chunk->data_length == ws->whole_length)
        ws->whole = chunk->data; /* in wslay's buffer until the next read: long enough */
    else if (chunk->data_length > 0)
        buf_add(&ws->message, chunk->data, chunk->data_length);
}

static void on_data_message(struct ws *ws, bool text)
{
    const char *data = ws->whole != NULL ? (const char *)ws->whole : ws->message.data;
    size_t length = ws->whole != NULL ? ws->whole_length : ws->message.length;
    ws->sink->on_message(ws->arg, text, data != NULL ? data : "", length);
    ws->in_message = false;
    ws->whole = NULL;
    ws->message.length = 0;
}

static void on_message(wslay_event_context_ptr context, const struct wslay_event_on_msg_recv_arg *message,
                       void *arg)
{
    struct ws *ws = arg;
    (void)context;
    if (ws->result != WS_MORE)
        return;
    switch (message->opcode) {
    case WSLAY_TEXT_FRAME:
    case WSLAY_BINARY_FRAME:
        on_data_message(ws, message->opcode == WSLAY_TEXT_FRAME);
        break;
    case WSLAY_PING:
        send_queued(ws); /* now, so that a pong keeps its place among the answers */
        break;
    case WSLAY_CONNECTION_CLOSE:
        /* Half a status code passes wslay (RFC 6455 section 5.5.1: a body has at least two bytes). */
        if (message->msg_length == 1) {
            fail(ws, WS_BAD_PROTOCOL);
        } else {
            send_queued(ws);
            fail(ws, WS_PEER_CLOSED);
        }
        break;
    default:
        break;
    }
}

static struct ws *ws_new(void)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_recv,
        .send_callback = on_send,
        .on_frame_recv_start_callback = on_frame_start,
        .on_frame_recv_chunk_callback = on_chunk,
        .on_msg_recv_callback = on_message,
    };
    struct ws *ws = calloc(1, sizeof(*ws));
    if (ws == NULL || wslay_event_context_server_init(&ws->context, &callbacks, ws) != 0)
        abort();
    wslay_event_config_set_no_buffering(ws->context, 1);
    return ws;
}

void ws_free(struct ws *ws)
{
    if (ws == NULL)
        return;
    wslay_event_context_free(ws->context);
    buf_deinit(&ws->message);
    free(ws);
}

static struct ws *lease(struct ws_pool *pool)
{
    return pool->count > 0 ? pool->spares[--pool->count] : ws_new();
}

static void give_back(struct ws_pool *pool, struct ws *ws)
{
    if (pool->count == WS_SPARES) {
        ws_free(ws);
        return;
    }
    if (ws->message.capacity > WS_KEEP)
        buf_deinit(&ws->message);
    pool->spares[pool->count++] = ws;
}

void ws_pool_deinit(struct ws_pool *pool)
{
    while (pool->count > 0)
        ws_free(pool->spares[--pool->count]);
}

/* The code of the close frame that wslay queued says what it found wrong. That frame itself is never sent: a
 * length fault makes wslay close without a code. */
static enum ws_result fault(struct ws *ws)
{
    size_t before = ws->message.length;
    wslay_event_send(ws->context);
    ws->message.length = before;
    switch (wslay_event_get_status_code_sent(ws->context)) {
    case WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA:
        return WS_BAD_UTF8;
    case WSLAY_CODE_MESSAGE_TOO_BIG:
        return WS_TOO_LARGE;
    default:
        return WS_BAD_PROTOCOL;
    }
}

/* Lets wslay see bytes of one frame. */
static void give(struct ws *ws, const uint8_t *bytes, size_t length)
{
    ws->input = bytes;
    ws->input_left = length;
    wslay_event_recv(ws->context);
    if (ws->result == WS_MORE && !wslay_event_get_read_enabled(ws->context))
        ws->result = fault(ws);
    assert(ws->result != WS_MORE || ws->input_left == 0);
}

/* How many bytes must be together before wslay may see them, as far as `have` bytes of a frame tell: the
 * header of a data frame (then *payload is what follows), the whole of a control frame. */
static size_t needed(const uint8_t *bytes, size_t have, uint64_t *payload)
{
    *payload = 0;
    if (have < 2)
        return 2;
    /* A variable for wslay's macro, which puts no parentheses around its argument. */
    uint8_t opcode = bytes[0] & 0x0f, short_length = bytes[1] & 0x7f;
    size_t extended = short_length == 126 ? 2 : short_length == 127 ? 8 : 0;
    size_t header = 2 + extended + (bytes[1] & 0x80 ? 4 : 0);
    if (wslay_is_ctrl_frame(opcode))
        return short_length <= WS_CONTROL_MAX ? header + short_length : 2; /* too long: 2 tell wslay */
    if (have < 2 + extended)
        return header;
    *payload = extended == 0 ? short_length : 0;
    for (size_t i = 0; i < extended; i++)
        *payload = *payload << 8 | bytes[2 + i];
    return header;
}

/* Judged by the header alone, by wslay first: a length that is only announced costs nothing more. */
static bool too_large(struct ws *ws, const uint8_t *header, size_t length, uint64_t payload)
{
    if (payload <= ws->message_max - ws->message.length)
        return false;
    give(ws, header, length);
    if (ws->result == WS_MORE)
        fail(ws, WS_TOO_LARGE);
    return true;
}

/* Feeds the start of `data`, at most to the end of a frame; returns how much that was. */
static size_t feed_some(struct ws *ws, const uint8_t *data, size_t length)
{
    if (ws->payload_left > 0) {
        size_t part = length < ws->payload_left ? length : (size_t)ws->payload_left;
        ws->payload_left -= part;
        give(ws, data, part);
        return part;
    }

    uint64_t payload;
    if (ws->held_length == 0) {
        size_t need = needed(data, length, &payload);
        if (need <= length) {
            /* The usual case: nothing held, nothing copied. */
            size_t part = length - need < payload ? length - need : (size_t)payload;
            if (too_large(ws, data, need, payload))
                return need;
            ws->payload_left = payload - part;
            give(ws, data, need + part);
            return need + part;
        }
    }
    size_t used = 0;
    while (needed(ws->held, ws->held_length, &payload) > ws->held_length) {
        if (used == length)
            return used;
        ws->held[ws->held_length++] = data[used++];
    }
    if (too_large(ws, ws->held, ws->held_length, payload))
        return used;
    ws->payload_left = payload;
    give(ws, ws->held, ws->held_length);
    ws->held_length = 0;
    return used;
}

enum ws_result ws_feed(struct ws_pool *pool, struct ws **slot, const struct ws_sink *sink, void *arg,
                       const char *data, size_t length, uint64_t message_max)
{
    if (length == 0)
        return WS_MORE;
    struct ws *ws = *slot != NULL ? *slot : lease(pool);
    *slot = NULL; /* whatever the sink does, nobody else gets at the context in use */
    ws->sink = sink;
    ws->arg = arg;
    /* Never below what was let in already: a reload may lower the limit in the middle of a message. */
    ws->message_max = message_max > ws->message.length ? message_max : ws->message.length;
    ws->result = WS_MORE;
    wslay_event_config_set_max_recv_msg_length(ws->context,
                                               message_max > WS_CONTROL_MAX ? message_max : WS_CONTROL_MAX);
    const uint8_t *bytes = (const uint8_t *)data;
    while (length > 0 && ws->result == WS_MORE) {
        size_t used = feed_some(ws, bytes, length);
        bytes += used;
        length -= used;
    }
    if (ws->result != WS_MORE) {
        enum ws_result result = ws->result;
        ws_free(ws);
        return result;
    }
    if (ws->payload_left > 0 || ws->held_length > 0 || ws->in_message)
        *slot = ws;
    else
        give_back(pool, ws);
    return WS_MORE;
}
