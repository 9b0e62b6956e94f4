/* http.c - requests out of bytes, answers into the queue. The only file that knows http_parser.
 *
 * http_parser, as Debian builds it, is lenient: it takes bare line feeds, folded lines and spaces in
 * names. So the head is first cut into lines by the rules of RFC 9112 section 2.2 and 5.2 (check_lines),
 * and what passes goes to the parser, which must then find the end of the head at the very same byte. */
#include "chatd/http.h"

#include <ctype.h>
#include <http_parser.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "chatd/buf.h"
#include "chatd/log.h"
#include "chatd/metrics.h"
#include "gzip.h"
#include "handshake.h"
#include "internal.h"

enum piece { PIECE_URL, PIECE_NAME, PIECE_VALUE };

struct http {
    http_parser parser;
    struct buf text;  /* url, then names and values by turns, each with its NUL */
    struct buf body;
    struct buf input; /* bytes behind the request; they wait until it is answered */
    const char *path; /* in text, from the end of the head on */
    const char *query;
    uint32_t offsets[2 * HTTP_HEADERS_MAX]; /* of names and values in text */
    uint32_t header_count;
    uint32_t head_bytes;
    uint32_t line_bytes; /* of the present line of the head, without its CR LF */
    uint8_t piece;       /* what http_parser gave last */
    char last;           /* the byte before */
    uint8_t coding;      /* enum http_coding, once the head was read */
    bool any_line;       /* a line with something in it came: the next empty one ends the head */
    bool target_done;    /* so did its line break */
    bool head_done;
    bool complete;
    bool keep;
    int status; /* of the refusal, 0 while all is well */
    const char *code;
    const char *message;
};

static int refuse(struct http *http, int status, const char *code, const char *message)
{
    if (http->status == 0) {
        http->status = status;
        http->code = code;
        http->message = message;
    }
    return -1;
}

/* Ends the string that is being collected; white space behind a value doesn't belong to it. */
static void end_piece(struct http *http)
{
    struct buf *text = &http->text;
    if (http->piece == PIECE_VALUE)
        while (text->length > http->offsets[2 * http->header_count - 1] &&
               (text->data[text->length - 1] == ' ' || text->data[text->length - 1] == '\t'))
            text->length--;
    buf_add(text, "", 1);
}

static int on_url(http_parser *parser, const char *at, size_t length)
{
    struct http *http = parser->data;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)at[i] >= 0x80 || at[i] == '#')
            return refuse(http, 400, "bad_request", "the request target has characters that must be encoded");
    buf_add(&http->text, at, length);
    return 0;
}

static int on_header_field(http_parser *parser, const char *at, size_t length)
{
    struct http *http = parser->data;
    if (http->head_done) /* a trailer: nobody here wants one */
        return 0;
    if (http->piece != PIECE_NAME) {
        end_piece(http);
        if (http->header_count == HTTP_HEADERS_MAX)
            return refuse(http, 431, "head_too_large", "too many headers");
        http->offsets[2 * http->header_count] = (uint32_t)http->text.length;
        http->piece = PIECE_NAME;
    }
    for (size_t i = 0; i < length; i++) {
        char c = (char)tolower((unsigned char)at[i]);
        if (c == ' ')
            return refuse(http, 400, "bad_request", "a header name has a space");
        buf_add(&http->text, &c, 1);
    }
    return 0;
}

static int on_header_value(http_parser *parser, const char *at, size_t length)
{
    struct http *http = parser->data;
    if (http->head_done)
        return 0;
    if (http->piece == PIECE_NAME) {
        end_piece(http);
        http->offsets[2 * http->header_count + 1] = (uint32_t)http->text.length;
        http->header_count++;
        http->piece = PIECE_VALUE;
    }
    buf_add(&http->text, at, length);
    return 0;
}

/* Splits the request target (RFC 9112 section 3.2) in place into path and query. */
static void split_target(struct http *http)
{
    char *target = http->text.data;
    /* The absolute form names us as a proxy would; only what is behind the authority counts. */
    if (strncasecmp(target, "http://", 7) == 0 || strncasecmp(target, "https://", 8) == 0) {
        target = strstr(target, "://") + 3;
        target += strcspn(target, "/?");
    }
    char *mark = strchr(target, '?');
    http->query = mark != NULL ? mark + 1 : "";
    if (mark != NULL)
        *mark = '\0';
    http->path = *target != '\0' ? target : "/";
}

static int on_headers_complete(http_parser *parser)
{
    struct http *http = parser->data;
    end_piece(http);
    split_target(http);
    http->head_done = true;
    http->keep = http_should_keep_alive(parser);
    if (parser->http_major != 1)
        return refuse(http, parser->http_major > 1 ? 505 : 400, "bad_request",
                      "HTTP/1.0 and HTTP/1.1 are spoken here");
    if (parser->flags & F_CONTENTLENGTH && parser->content_length > NET_BODY_MAX)
        return refuse(http, 413, "too_large", "the body is too large");
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t length)
{
    struct http *http = parser->data;
    if (length > NET_BODY_MAX - http->body.length)
        return refuse(http, 413, "too_large", "the body is too large");
    buf_add(&http->body, at, length);
    return 0;
}

static int on_message_complete(http_parser *parser)
{
    struct http *http = parser->data;
    http->complete = true;
    http_parser_pause(parser, 1); /* the next request waits for this one's answer */
    return 0;
}

static const http_parser_settings settings = {
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

static struct http *http_new(void)
{
    struct http *http = calloc(1, sizeof(*http));
    if (http == NULL)
        abort();
    http_parser_init(&http->parser, HTTP_REQUEST);
    http->parser.data = http;
    return http;
}

void http_free(struct http *http)
{
    if (http == NULL)
        return;
    buf_deinit(&http->text);
    buf_deinit(&http->body);
    buf_deinit(&http->input);
    free(http);
}

static bool pending(const struct http *http)
{
    return http != NULL && (http->head_bytes > 0 || http->input.length > 0);
}

/* Judges the line structure of the head and returns how many of these bytes belong to it; *end tells whether
 * the head ends with them. */
static size_t check_lines(struct http *http, const char *data, size_t length, bool *end)
{
    *end = false;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)data[i];
        bool after_cr = http->last == '\r';
        http->last = data[i];
        if (after_cr != (c == '\n') || (c < ' ' && c != '\r' && c != '\n' && c != '\t') || c == 0x7f ||
            (http->line_bytes == 0 && (c == ' ' || c == '\t'))) {
            refuse(http, 400, "bad_request", "the head has a character where it may not stand");
            return 0;
        }
        if (c == '\n') {
            *end = http->any_line && http->line_bytes == 0;
            if (*end)
                return i + 1;
            http->line_bytes = 0;
            http->target_done = http->any_line;
        } else if (c != '\r') {
            http->line_bytes++;
            http->any_line = true;
        }
    }
    return length;
}

static size_t execute(struct http *http, const char *data, size_t length)
{
    size_t used = http_parser_execute(&http->parser, &settings, data, length);
    enum http_errno error = HTTP_PARSER_ERRNO(&http->parser);
    if (error != HPE_OK && error != HPE_PAUSED)
        refuse(http, 400, "bad_request", http_errno_description(error));
    return used;
}

/* Takes bytes of one request; returns how many. All, unless the request is complete or refused. */
static size_t parse(struct http *http, const char *data, size_t length, size_t head_max)
{
    size_t used = 0;
    if (!http->head_done) {
        bool end;
        size_t room = head_max > http->head_bytes ? head_max - http->head_bytes : 0;
        used = check_lines(http, data, length < room ? length : room, &end);
        http->head_bytes += (uint32_t)used;
        if (http->status != 0)
            return used;
        if (used > 0) /* no bytes would mean the end of the connection to http_parser */
            execute(http, data, used);
        if (http->status == 0 && http->head_done != end)
            refuse(http, 400, "bad_request", "the head is not well-formed");
        if (http->status == 0 && !end && used == room && used < length)
            refuse(http, http->target_done ? 431 : 414, "head_too_large",
                   http->target_done ? "the request head is too large" : "the request target is too long");
    }
    if (http->status == 0 && http->head_done && !http->complete && used < length)
        used += execute(http, data + used, length - used);
    return used;
}

static void make_request(struct http *http, struct http_request *request)
{
    request->method = http_method_str((enum http_method)http->parser.method);
    request->minor = http->parser.http_minor;
    request->path = http->path;
    request->query = http->query;
    request->body = http->body.data != NULL ? http->body.data : "";
    request->body_length = http->body.length;
    request->header_count = http->header_count;
    for (uint32_t i = 0; i < http->header_count; i++) {
        request->headers[i].name = http->text.data + http->offsets[2 * i];
        request->headers[i].value = http->text.data + http->offsets[2 * i + 1];
    }
}

/* An answer in the making. */
struct answer {
    int status;
    const char *type;    /* NULL: none */
    const char *headers; /* NULL or finished lines */
    const void *body;
    size_t length;
    bool keep;  /* the connection goes on behind it */
    bool plain; /* not to be compressed */
};

static void add_head(struct buf *out, int status, bool keep)
{
    buf_printf(out, "HTTP/1.1 %d %s\r\n", status, http_status_str((enum http_status)status));
    buf_printf(out, "Connection: %s\r\n", status == 101 ? "Upgrade" : keep ? "keep-alive" : "close");
}

/* RFC 9110 section 6.6.1. */
static void add_date(struct buf *out)
{
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t now = time(NULL);
    struct tm utc;

    gmtime_r(&now, &utc);
    buf_printf(out, "Date: %.3s, %02d %.3s %d %02d:%02d:%02d GMT\r\n", days + 3 * utc.tm_wday, utc.tm_mday,
               months + 3 * utc.tm_mon, utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

static void queue_answer(struct conn *conn, const struct buf *head, const void *body, size_t length)
{
    struct frame *frame = frame_new(head->length + length);
    frame_add(frame, head->data, head->length);
    frame_add(frame, body, length);
    conn_queue(conn, frame);
    frame_unref(frame);
}

static bool is_text(const char *type)
{
    return strncmp(type, "text/", 5) == 0 || strncmp(type, "application/json", 16) == 0 ||
           strncmp(type, "application/openmetrics-text", 28) == 0;
}

static void count_packed(size_t before, size_t after)
{
    metrics_add(http_compressed_total, 1);
    metrics_add(http_uncompressed_bytes_total, before);
    metrics_add(http_compressed_bytes_total, after);
}

/* Puts the head together and queues it with the body, which is compressed already or isn't to be. */
static void answer_bytes(struct conn *conn, const struct answer *answer, const char *extra,
                         const void *body, size_t length)
{
    bool bare = answer->status == 204 || answer->status == 304; /* RFC 9110 section 8.6 */
    struct buf head = BUF_INIT;
    add_head(&head, answer->status, answer->keep);
    add_date(&head);
    if (answer->type != NULL)
        buf_printf(&head, "Content-Type: %s\r\n", answer->type);
    if (!bare)
        buf_printf(&head, "Content-Length: %zu\r\n", length);
    buf_add_string(&head, extra);
    buf_add_string(&head, answer->headers != NULL ? answer->headers : "");
    buf_add_literal(&head, "\r\n");
    bare = bare || (conn->http != NULL && conn->http->parser.method == HTTP_HEAD);
    queue_answer(conn, &head, body, bare ? 0 : length);
    buf_deinit(&head);
    metrics_add(http_requests_total, 1);
    conn->state = CONN_ANSWER;
    conn->since = net_now(conn->net);
    conn->flags |= (uint8_t)(FLAG_SERVED | (answer->keep ? 0 : FLAG_LAST));
}

static void send_answer(struct conn *conn, const struct answer *answer)
{
    enum http_coding coding = conn->http != NULL ? (enum http_coding)conn->http->coding : HTTP_IDENTITY;
    bool varies = answer->type != NULL && is_text(answer->type) && !answer->plain;
    size_t packed;
    char *bytes =
        varies ? gzip_pack(&conn->net->gzip, coding, answer->body, answer->length, &packed) : NULL;

    if (bytes != NULL) {
        if (conn->http->parser.method != HTTP_HEAD)
            count_packed(answer->length, packed);
        answer_bytes(conn, answer, "Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n", bytes, packed);
    } else {
        answer_bytes(conn, answer, varies ? "Vary: Accept-Encoding\r\n" : "", answer->body, answer->length);
    }
    free(bytes);
}

static void answer_error(struct conn *conn, int status, const char *headers, const char *code,
                         const char *message, bool keep)
{
    struct buf body = BUF_INIT;
    buf_add_literal(&body, "{\"error\":{\"code\":");
    buf_add_json(&body, code, strlen(code));
    buf_add_literal(&body, ",\"message\":");
    buf_add_json(&body, message, strlen(message));
    buf_add_literal(&body, "}}");
    send_answer(conn, &(struct answer){status, "application/json", headers, body.data, body.length, keep,
                                       false});
    buf_deinit(&body);
}

/* net's own refusals: they end the connection, since what follows may mean anything. */
static void refuse_request(struct conn *conn, int status, const char *code, const char *message)
{
    metrics_add(refused_total[metrics_refusal_of(code)], 1);
    conn_log_refused(conn, status, code);
    answer_error(conn, status,
                 status == 426   ? "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"
                 : status == 503 ? "Retry-After: 1\r\n"
                                 : NULL,
                 code, message, false);
}

static bool keeps(const struct conn *conn)
{
    return conn->http->keep && !conn->net->stopping;
}

/* False when nobody waits for an answer. */
static bool take_request(struct conn *conn)
{
    if (conn->state != CONN_HANDLE)
        return false;
    conn->flags &= (uint8_t)~FLAG_ATTACHED;
    return true;
}

void http_respond(struct conn *conn, int status, const char *type, const char *headers, const void *body,
                  size_t length)
{
    if (take_request(conn))
        send_answer(conn, &(struct answer){status, type, headers, body, length, keeps(conn), false});
}

void http_respond_plain(struct conn *conn, int status, const char *type, const char *headers,
                        const void *body, size_t length)
{
    if (take_request(conn))
        send_answer(conn, &(struct answer){status, type, headers, body, length, keeps(conn), true});
}

void http_respond_error(struct conn *conn, int status, const char *headers, const char *code,
                        const char *message)
{
    if (take_request(conn))
        answer_error(conn, status, headers, code, message, keeps(conn));
}

static void upgrade(struct conn *conn, const struct http_request *request)
{
    const struct net_handler *handler = &conn->net->handler;
    const char *code = "bad_handshake";
    const char *message;
    char accept[HANDSHAKE_ACCEPT_SIZE];
    int status = handshake_check(request, accept, &message);
    if (status == 0) {
        code = "refused";
        message = "the connection was refused";
        status = handler->on_upgrade(handler->arg, conn, request, &code, &message);
        if (conn->state == CONN_CLOSED) /* the handler closed the whole net */
            return;
    }
    if (status != 0) {
        refuse_request(conn, status, code, message);
        return;
    }
    struct buf head = BUF_INIT;
    add_head(&head, 101, true);
    buf_printf(&head, "Upgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n", accept);
    if (handshake_offers(request, HTTP_SUBPROTOCOL))
        buf_add_literal(&head, "Sec-WebSocket-Protocol: " HTTP_SUBPROTOCOL "\r\n");
    buf_add_literal(&head, "\r\n");
    queue_answer(conn, &head, NULL, 0);
    buf_deinit(&head);
    conn_upgrade(conn);
    handler->on_open(handler->arg, conn);
}

/* The request is whole; `data` came behind it. */
static void carry_out(struct conn *conn, const struct http_request *request, const char *data, size_t length)
{
    const struct net_handler *handler = &conn->net->handler;
    struct http *http = conn->http;
    if (handshake_wanted(request)) {
        upgrade(conn, request);
    } else if (http_header_count(request, "host") != 1 &&
               (request->minor > 0 || http_header(request, "host"))) {
        refuse_request(conn, 400, "bad_request", "exactly one Host is needed");
    } else {
        conn->state = CONN_HANDLE;
        conn->flags |= FLAG_ATTACHED;
        handler->on_request(handler->arg, conn, request);
    }
    if (conn->flags & FLAG_UPGRADED) {
        /* Frames may follow the handshake in the same segment. */
        conn_feed_ws(conn, data, length);
        http_free(http);
    } else {
        buf_add(&http->input, data, length);
    }
}

static void dispatch(struct conn *conn, const char *data, size_t length)
{
    const struct net_handler *handler = &conn->net->handler;
    struct http_request request;
    make_request(conn->http, &request);
    conn->http->coding = (uint8_t)http_coding(&request);
    if (conn->net->held && (handler->on_early == NULL || !handler->on_early(handler->arg, &request))) {
        conn->state = CONN_HANDLE;
        conn->since = net_now(conn->net);
        buf_add(&conn->http->input, data, length);
        return;
    }
    carry_out(conn, &request, data, length);
}

void http_release(struct conn *conn, bool serve)
{
    struct buf input = conn->http->input;
    struct http_request request;
    if (!serve) {
        refuse_request(conn, 503, "unavailable", "this server is not ready yet");
        return;
    }
    conn->http->input = (struct buf)BUF_INIT;
    make_request(conn->http, &request);
    carry_out(conn, &request, input.data, input.length);
    buf_deinit(&input);
}

/* RFC 9110 section 10.1.1. */
static void expect(struct conn *conn)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct http_request request;
    make_request(conn->http, &request);
    const char *value = http_header(&request, "expect");
    if (value == NULL || request.minor < 1)
        return;
    if (strcasecmp(value, "100-continue") != 0) {
        refuse(conn->http, 417, "bad_request", "only 100-continue may be expected");
        return;
    }
    struct frame *frame = frame_new(sizeof(go_on));
    frame_add(frame, go_on, sizeof(go_on) - 1);
    conn_queue(conn, frame);
    frame_unref(frame);
}

void http_feed(struct conn *conn, const char *data, size_t length)
{
    if (length == 0)
        return;
    if (conn->http == NULL)
        conn->http = http_new();
    struct http *http = conn->http;
    bool had_head = http->head_done;
    size_t used = parse(http, data, length, (size_t)conn->net->config->max_head_bytes);
    if (http->status == 0 && http->head_done && !had_head && !http->complete && used == length)
        expect(conn);
    if (http->status != 0) {
        refuse_request(conn, http->status, http->code, http->message);
        return;
    }
    if (!http->complete)
        return;
    dispatch(conn, data + used, length - used);
}

void http_answered(struct conn *conn)
{
    struct http *http = conn->http;
    conn->state = CONN_READ;
    conn->since = net_now(conn->net);
    conn->http = NULL;
    http_feed(conn, http->input.data, http->input.length);
    http_free(http);
}

bool http_pipelined(const struct conn *conn)
{
    return conn->http != NULL && conn->http->input.length > 0;
}

void http_timeout(struct conn *conn)
{
    /* A keep-alive connection may be silent; its time is just over. */
    if (conn->flags & FLAG_SERVED && !pending(conn->http))
        conn_close(conn, CLOSE_HTTP);
    else
        refuse_request(conn, 408, "timeout", "the request took too long");
}
