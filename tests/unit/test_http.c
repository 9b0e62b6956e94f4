/* Requests through a whole net over a socket pair: each input whole, byte by byte and cut at every offset
 * gives the same answers. And the helpers that read a parsed request. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <libdeflate.h>

#include "chatd/buf.h"
#include "chatd/http.h"
#include "net/internal.h"

struct fixture {
    uv_loop_t loop;
    struct config config;
    struct net *net;
    struct conn *waiting; /* a request to /later, not answered yet */
    struct buf seen;      /* what the handler got */
    int closes;
};

static void on_request(void *arg, struct conn *conn, const struct http_request *request)
{
    struct fixture *f = arg;
    const char *host = http_header(request, "host");
    buf_printf(&f->seen, "%s %s ?%s host=%s body=%.*s\n", request->method, request->path, request->query,
               host != NULL ? host : "-", (int)request->body_length, request->body);
    if (strcmp(request->path, "/later") == 0)
        f->waiting = conn;
    else
        http_respond(conn, 200, "text/plain", "X-Test: 1\r\n", "fine", 4);
}

/* In the place of on_request: answers with as many bytes as the path says, which shrink well unless the query
 * says `noise`. */
static void on_sized_request(void *arg, struct conn *conn, const struct http_request *request)
{
    size_t length = strtoul(request->path + 1, NULL, 10);
    char *body = malloc(length + 1);
    unsigned seed = 1;

    (void)arg;
    for (size_t i = 0; i < length; i++)
        body[i] = strcmp(request->query, "noise") == 0 ? (char)rand_r(&seed) : (char)('a' + i % 7);
    http_respond(conn, 200, strstr(request->query, "png") != NULL ? "image/png" : "text/plain", NULL, body,
                 length);
    free(body);
}

static int on_upgrade(void *arg, struct conn *conn, const struct http_request *request, const char **code,
                      const char **message)
{
    (void)arg;
    (void)conn;
    *code = "not_found";
    *message = "no such path";
    return strcmp(request->path, "/ws") == 0 ? 0 : 404;
}

static void on_open(void *arg, struct conn *conn)
{
    (void)arg;
    conn_send_text(conn, "welcome", 7);
}

static void on_text(void *arg, struct conn *conn, const char *text, size_t length)
{
    struct fixture *f = arg;
    buf_printf(&f->seen, "text %.*s\n", (int)length, text);
    if (length == 3 && memcmp(text, "bye", 3) == 0)
        conn_close(conn, CLOSE_NORMAL);
    conn_send_text(conn, text, length); /* nothing happens behind a close */
}

static void on_close(void *arg, struct conn *conn, enum close_reason reason)
{
    struct fixture *f = arg;
    (void)conn;
    (void)reason;
    f->closes++;
}

static void on_flush(void *arg)
{
    (void)arg;
}

static bool on_early(void *arg, const struct http_request *request)
{
    (void)arg;
    return strcmp(request->path, "/early") == 0;
}

static int setup(void **state)
{
    static struct fixture fixture;
    struct fixture *f = &fixture;
    *f = (struct fixture){0};
    struct net_handler handler = {.arg = f,
                                  .on_request = on_request,
                                  .on_upgrade = on_upgrade,
                                  .on_open = on_open,
                                  .on_text = on_text,
                                  .on_close = on_close,
                                  .on_flush = on_flush,
                                  .on_early = on_early};
    uv_loop_init(&f->loop);
    config_defaults(&f->config);
    f->config.max_head_bytes = 512;
    *state = f;
    return net_init(&f->net, &f->loop, &f->config, &handler);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    net_close(f->net);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(net_count(f->net), 0);
    net_free(f->net);
    buf_deinit(&f->seen);
    return uv_loop_close(&f->loop);
}

static void turn(struct fixture *f)
{
    uv_run(&f->loop, UV_RUN_NOWAIT);
}

static void collect(int fd, struct buf *out)
{
    char bytes[4096];
    for (ssize_t n; (n = read(fd, bytes, sizeof(bytes))) > 0;)
        buf_add(out, bytes, (size_t)n);
}

/* Takes the Date lines, which no test can foresee, out of what came; every answer must have had one. */
static void strip_dates(struct buf *out)
{
    static const char form[] = "Date: Sun, 22 Nov 2026 07:00:00 GMT\r\n";
    char *at;

    buf_add(out, "", 1);
    out->length--;
    while ((at = strstr(out->data, "\r\nDate: ")) != NULL) {
        char *from = at + 2, *behind = from + sizeof(form) - 1;

        assert_memory_equal(behind - 6, " GMT\r\n", 6);
        assert_int_equal(from[25], ':');
        memmove(from, behind, (size_t)(out->data + out->length + 1 - behind));
        out->length -= sizeof(form) - 1;
    }
}

static int client(struct fixture *f)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    conn_accept(f->net, pair[0]);
    return pair[1];
}

/* Sends `in` in pieces, one loop turn each; returns all that came back. */
static void talk(struct fixture *f, const char *in, size_t length, size_t cut, size_t step, struct buf *out)
{
    int fd = client(f);
    for (size_t at = 0, end; at < length; at = end) {
        end = step > 0 ? at + step : at < cut ? cut : length;
        end = end < length ? end : length;
        if (send(fd, in + at, end - at, MSG_NOSIGNAL) < 0)
            break; /* the server closed, having seen enough */
        turn(f);
    }
    for (int i = 0; i < 4; i++)
        turn(f);
    collect(fd, out);
    close(fd);
    turn(f);
    turn(f);
}

/* One request whose answer may be larger than a socket's buffer, to its end. */
static void fetch(struct fixture *f, const struct buf *in, struct buf *out)
{
    char bytes[65536];
    int fd = client(f);
    ssize_t n;

    assert_int_equal(send(fd, in->data, in->length, 0), in->length);
    while ((n = read(fd, bytes, sizeof(bytes))) != 0) {
        if (n > 0)
            buf_add(out, bytes, (size_t)n);
        else
            turn(f);
    }
    close(fd);
    turn(f);
    turn(f);
}

static void check(struct fixture *f, const char *in, size_t length, const char *seen, const char *answer)
{
    for (size_t cut = 0; cut <= length; cut++) {
        struct buf out = BUF_INIT;
        f->seen.length = 0;
        talk(f, in, length, cut, cut == length ? 1 : 0, &out);
        strip_dates(&out);
        buf_add(&f->seen, "", 1);
        assert_string_equal(f->seen.data, seen);
        if (strncmp(out.data, answer, strlen(answer)) != 0)
            assert_string_equal(out.data, answer);
        buf_deinit(&out);
    }
}

#define CHECK(f, in, seen, answer) check(f, in, sizeof(in) - 1, seen, answer)
#define FINE_HEAD(connection)                                                                         \
    "HTTP/1.1 200 OK\r\nConnection: " connection "\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n" \
    "Vary: Accept-Encoding\r\nX-Test: 1\r\n\r\n"
#define FINE(connection) FINE_HEAD(connection) "fine"

static void requests_are_answered(void **state)
{
    struct fixture *f = *state;
    CHECK(f, "GET /a/b?x=1&y HTTP/1.1\r\nHost: h\r\nX-Empty:\r\n\r\n", "GET /a/b ?x=1&y host=h body=\n",
          FINE("keep-alive"));
    CHECK(f, "\r\nGET http://h/abs?q HTTP/1.1\r\nHOST:  h \t\r\n\r\n", "GET /abs ?q host=h body=\n",
          FINE("keep-alive"));
    CHECK(f, "HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HEAD / ? host=h body=\n",
          FINE_HEAD("close"));
    CHECK(f, "GET / HTTP/1.0\r\n\r\n", "GET / ? host=- body=\n", FINE("close"));
}

static void bodies_arrive_whole(void **state)
{
    struct fixture *f = *state;
    CHECK(f, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", "POST / ? host=h body=hello\n",
          FINE("keep-alive"));
    CHECK(f,
          "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nT: "
          "x\r\n\r\n",
          "POST / ? host=h body=hello\n", FINE("keep-alive"));
}

static void pipelined_requests_are_answered_in_turn(void **state)
{
    struct fixture *f = *state;
    CHECK(f, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
             "GET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: h\r\n\r\n",
          "GET /1 ? host=h body=\nPOST /2 ? host=h body=x\nGET /3 ? host=h body=\n",
          FINE("keep-alive") FINE("keep-alive") FINE("close"));
}

/* 64 KB of small requests that are dear to answer would keep all others waiting. */
static void pipelined_requests_have_a_loop_turn_each(void **state)
{
    struct fixture *f = *state;
    static const char one[] = "GET / HTTP/1.1\r\nHost: h\r\n\r\n", seen[] = "GET / ? host=h body=\n";
    struct buf in = BUF_INIT, out = BUF_INIT;
    int fd = client(f);

    for (int i = 0; i < 5; i++)
        buf_add_string(&in, one);
    assert_int_equal(send(fd, in.data, in.length, 0), in.length);
    for (size_t i = 1; i <= 5; i++) {
        turn(f);
        assert_int_equal(f->seen.length, i * (sizeof(seen) - 1));
    }
    collect(fd, &out);
    strip_dates(&out);
    assert_string_equal(out.data, FINE("keep-alive") FINE("keep-alive") FINE("keep-alive") FINE("keep-alive")
                                      FINE("keep-alive"));
    close(fd);
    buf_deinit(&in);
    buf_deinit(&out);
}

static void bad_heads_are_refused(void **state)
{
    struct fixture *f = *state;
    static const char bad[] =
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/json\r\n";
    CHECK(f, "GET / HTTP/1.1\nHost: h\n\n", "", bad);
    CHECK(f, "GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", "", bad);
    CHECK(f, "GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", "", bad);
    CHECK(f, "GET / HTTP/1.1\r\nHost : h\r\n\r\n", "", bad);
    CHECK(f, "GET / HTTP/1.1\r\nHost: h\0\r\n\r\n", "", bad);
    CHECK(f, "GET / HTTP/1.1\r\nHost: h\r\nX: \x01\r\n\r\n", "", bad);
    CHECK(f, "GET /\xc3\xa4 HTTP/1.1\r\nHost: h\r\n\r\n", "", bad);
    CHECK(f, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "", bad);
    CHECK(f, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "", bad);
    CHECK(f, "GET / HTTP/1.1\r\n\r\n", "", bad);
    CHECK(f, "GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", "", bad);
    CHECK(f, "NONSENSE / HTTP/1.1\r\nHost: h\r\n\r\n", "", bad);
    CHECK(f, "GET / HTTP/2.0\r\nHost: h\r\n\r\n", "", "HTTP/1.1 505 ");
    CHECK(f, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 65537\r\n\r\n", "", "HTTP/1.1 413 ");
}

static void large_heads_are_refused(void **state)
{
    struct fixture *f = *state;
    struct buf in = BUF_INIT, out = BUF_INIT;
    buf_add_literal(&in, "GET / HTTP/1.1\r\nHost: h\r\nX: ");
    while (in.length < 508)
        buf_add_literal(&in, "x");
    buf_add_literal(&in, "\r\n\r\n");
    talk(f, in.data, in.length, 0, 0, &out);
    assert_memory_equal(out.data, "HTTP/1.1 200 ", 13);
    out.length = 0;
    in.data[508] = 'x';
    in.data[509] = '\r';
    in.data[510] = '\n';
    in.data[511] = '\r';
    buf_add_literal(&in, "\n");
    for (size_t step = 0; step < 2; step++) {
        talk(f, in.data, in.length, 0, step, &out);
        assert_memory_equal(out.data, "HTTP/1.1 431 ", 13);
        out.length = 0;
    }
    f->config.max_head_bytes = 8192;
    in.length = 0;
    buf_add_literal(&in, "GET / HTTP/1.1\r\nHost: h\r\n");
    for (int i = 1; i < HTTP_HEADERS_MAX; i++)
        buf_printf(&in, "X-%d: %d\r\n", i, i);
    size_t before = in.length;
    buf_add_literal(&in, "\r\n");
    talk(f, in.data, in.length, 0, 0, &out);
    assert_memory_equal(out.data, "HTTP/1.1 200 ", 13);
    out.length = 0;
    in.length = before;
    buf_add_literal(&in, "One: more\r\n\r\n");
    talk(f, in.data, in.length, 0, 0, &out);
    assert_memory_equal(out.data, "HTTP/1.1 431 ", 13);
    /* Before the first line is over it is the target that is too long. */
    out.length = in.length = 0;
    f->config.max_head_bytes = 512;
    buf_add_literal(&in, "\r\nGET /");
    while (in.length < 600)
        buf_add_literal(&in, "x");
    talk(f, in.data, in.length, 0, 0, &out);
    assert_memory_equal(out.data, "HTTP/1.1 414 ", 13);
    buf_deinit(&in);
    buf_deinit(&out);
}

static void a_client_that_waits_is_told_to_go_on(void **state)
{
    struct fixture *f = *state;
    static const char head[] =
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    struct buf out = BUF_INIT;
    int fd = client(f);
    assert_int_equal(send(fd, head, sizeof(head) - 1, 0), sizeof(head) - 1);
    turn(f);
    collect(fd, &out);
    assert_int_equal(out.length, 25);
    assert_memory_equal(out.data, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    assert_int_equal(send(fd, "ok", 2, 0), 2);
    turn(f);
    collect(fd, &out);
    assert_memory_equal(out.data + 25, "HTTP/1.1 200 OK", 15);
    close(fd);
    buf_deinit(&out);
    CHECK(f, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: tea\r\n\r\n", "", "HTTP/1.1 417 ");
}

static void a_late_answer_lets_the_next_request_through(void **state)
{
    struct fixture *f = *state;
    static const char in[] = "GET /later HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n";
    struct buf out = BUF_INIT;
    int fd = client(f);
    assert_int_equal(send(fd, in, sizeof(in) - 1, 0), sizeof(in) - 1);
    turn(f);
    turn(f);
    collect(fd, &out);
    assert_int_equal(out.length, 0);
    http_respond_error(f->waiting, 404, NULL, "not_found", "none");
    http_respond(f->waiting, 200, NULL, NULL, "", 0); /* a second answer is no answer */
    turn(f);
    turn(f);
    collect(fd, &out);
    strip_dates(&out);
    assert_memory_equal(out.data, "HTTP/1.1 404 ", 13);
    assert_non_null(
        strstr(out.data, "{\"error\":{\"code\":\"not_found\",\"message\":\"none\"}}HTTP/1.1 200 OK"));
    assert_int_equal(f->closes, 0);
    close(fd);
    buf_deinit(&out);
}

static void an_unanswered_request_hears_of_the_end(void **state)
{
    struct fixture *f = *state;
    static const char in[] = "GET /later HTTP/1.1\r\nHost: h\r\n\r\n";
    int fd = client(f);
    assert_int_equal(send(fd, in, sizeof(in) - 1, 0), sizeof(in) - 1);
    turn(f);
    assert_non_null(f->waiting);
    net_close(f->net);
    assert_int_equal(f->closes, 1);
    close(fd);
}

#define UPGRADE(path)                                                                                        \
    "GET " path                                                                                              \
    " HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"     \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

/* The frames stand in the same segment as the handshake, or in any other. */
static void frames_behind_the_handshake_are_read(void **state)
{
    struct fixture *f = *state;
    CHECK(f,
          UPGRADE("/ws") "Sec-WebSocket-Protocol: chatd.v1\r\n\r\n"
                         "\x81\x82\0\0\0\0hi\x81\x83\0\0\0\0bye\x81\x85\0\0\0\0never",
          "text hi\ntext bye\n",
          "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
          "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chatd.v1\r\n\r\n"
          "\x81\x07welcome\x81\x02hi\x88\x02\x03\xe8");
}

static void refused_upgrades_say_why(void **state)
{
    struct fixture *f = *state;
    CHECK(f, UPGRADE("/elsewhere") "\r\n", "", "HTTP/1.1 404 ");
    CHECK(f,
          "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: "
          "upgrade\r\nSec-WebSocket-Version: 8\r\n\r\n",
          "",
          "HTTP/1.1 426 Upgrade Required\r\nConnection: close\r\nContent-Type: application/json\r\n"
          "Content-Length: 91\r\nVary: Accept-Encoding\r\n"
          "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n"
          "{\"error\":{\"code\":\"bad_handshake\",\"message\":\"only Sec-WebSocket-Version 13 is spoken "
          "here\"}}");
    CHECK(f, "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
          "GET /ws ? host=h body=\n", FINE("keep-alive"));
}

/* The answer to one request with this Accept-Encoding (NULL: none), and what its body is when unpacked. */
static bool is_packed(struct fixture *f, const char *target, const char *accept, struct buf *body)
{
    struct libdeflate_decompressor *decompressor = libdeflate_alloc_decompressor();
    struct buf in = BUF_INIT, out = BUF_INIT;
    size_t length, unpacked;
    char *start;
    bool packed;

    f->net->handler.on_request = on_sized_request;
    buf_printf(&in, "GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n", target);
    if (accept != NULL)
        buf_printf(&in, "Accept-Encoding: %s\r\n", accept);
    buf_add_literal(&in, "\r\n");
    fetch(f, &in, &out);
    buf_add(&out, "", 1);
    start = strstr(out.data, "\r\n\r\n") + 4;
    length = out.length - 1 - (size_t)(start - out.data);
    assert_int_equal(strtoul(strstr(out.data, "Content-Length: ") + 16, NULL, 10), length);
    start[-2] = '\0';
    packed = strstr(out.data, "Content-Encoding: gzip\r\n") != NULL;
    assert_int_equal(strstr(out.data, "Vary: Accept-Encoding\r\n") == NULL, strstr(target, "png") != NULL);
    body->length = 0;
    if (packed) {
        buf_reserve(body, 2 * HTTP_GZIP_MAX);
        assert_int_equal(libdeflate_gzip_decompress(decompressor, start, length, body->data, body->capacity,
                                                    &unpacked),
                         LIBDEFLATE_SUCCESS);
        body->length = unpacked;
    } else {
        buf_add(body, start, length);
    }
    libdeflate_free_decompressor(decompressor);
    buf_deinit(&in);
    buf_deinit(&out);
    return packed;
}

static void answers_are_compressed_when_that_gains(void **state)
{
    static const struct {
        size_t length;
        const char *query, *accept;
        bool packed;
    } cases[] = {
        {HTTP_GZIP_MIN, "", "gzip", true},
        {HTTP_GZIP_MIN - 1, "", "gzip", false},
        {HTTP_GZIP_MAX, "", "gzip", true},
        {HTTP_GZIP_MAX + 1, "", "gzip", false},
        {HTTP_GZIP_MAX + 1, "", "gzip, identity;q=0", false},
        {10, "", "gzip, identity;q=0", true},
        {0, "", "gzip, *;q=0", true},
        {5000, "noise", "gzip", false},
        {5000, "png", "gzip", false},
        {5000, "", NULL, false},
    };
    struct buf body = BUF_INIT;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char target[64];

        snprintf(target, sizeof(target), "/%zu?%s", cases[i].length, cases[i].query);
        if (is_packed(*state, target, cases[i].accept, &body) != cases[i].packed)
            fail_msg("%s with %s", target, cases[i].accept);
        assert_int_equal(body.length, cases[i].length);
        for (size_t at = 0; at < body.length && strcmp(cases[i].query, "noise") != 0; at++)
            assert_int_equal(body.data[at], 'a' + at % 7);
    }
    buf_deinit(&body);
}

/* RFC 9110 section 12.5.3. */
static void accept_encoding_is_read_as_it_is_meant(void **state)
{
    static const struct {
        const char *accept;
        enum http_coding coding;
    } cases[] = {
        {"", HTTP_IDENTITY},
        {"gzip", HTTP_GZIP},
        {"x-gzip", HTTP_GZIP},
        {"GZip", HTTP_GZIP},
        {"gzip, deflate, br, zstd", HTTP_GZIP},
        {"br;q=1.0, gzip;q=0.8, *;q=0.1", HTTP_GZIP},
        {"*", HTTP_GZIP},
        {"*;q=0.001", HTTP_GZIP},
        {"gzip;q=0.001", HTTP_GZIP},
        {"gzip;q=0.5, identity;q=0.5", HTTP_GZIP},
        {"gzip;q=0.5, identity", HTTP_IDENTITY},
        {"gzip;q=0.2, *;q=0.5", HTTP_IDENTITY},
        {"gzip;q=0", HTTP_IDENTITY},
        {"gzip;q=0.000, *", HTTP_IDENTITY},
        {"*;q=0", HTTP_IDENTITY},
        {"identity", HTTP_IDENTITY},
        {"identity;q=0", HTTP_IDENTITY},
        {"br, deflate", HTTP_IDENTITY},
        {"gzip;q=NaN", HTTP_IDENTITY},
        {"gzip;q=2", HTTP_IDENTITY},
        {"gzip;q=1e9", HTTP_IDENTITY},
        {"gzi", HTTP_IDENTITY},
        {"gzip, identity;q=0", HTTP_GZIP_ONLY},
        {"gzip, *;q=0", HTTP_GZIP_ONLY},
        {"gzip;q=0.1, identity;q=0, *;q=0", HTTP_GZIP_ONLY},
        {"\"gzip\"", HTTP_IDENTITY},
        {";;;,,,gzip ; q=1 ,,;q=0", HTTP_GZIP},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct http_request request = {.header_count = 1, .headers = {{"accept-encoding", cases[i].accept}}};

        if (http_coding(&request) != cases[i].coding)
            fail_msg("%s is %d", cases[i].accept, http_coding(&request));
    }
    /* Several headers are one list. */
    struct http_request two = {.header_count = 2,
                               .headers = {{"accept-encoding", "gzip"}, {"accept-encoding", "identity;q=0"}}};
    assert_int_equal(http_coding(&two), HTTP_GZIP_ONLY);
}

/* 64 KB of rubbish are read once, from start to end. */
static void hostile_lists_do_no_harm(void **state)
{
    static const char *const pieces[] = {",", ";", "\"", "\\", "\"\\\"", "q=", ";q=0.", "gzip;q=", "*/*;",
                                         "/", "W/", " ",
                                         "\t,", "gzip,", "=", "text/plain;q=0.5,", "\xff"};
    static const char *const names[] = {"accept", "accept-encoding", "if-none-match"};
    static const struct http_type types[] = {{"application/json", ""}, {"text/plain", "0.0.4"}};

    (void)state;
    for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++) {
        struct buf value = BUF_INIT;

        while (value.length < 65536)
            buf_add_string(&value, pieces[i]);
        buf_add(&value, "", 1);
        for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++) {
            struct http_request request = {.header_count = 1, .headers = {{names[k], value.data}}};

            assert_true(http_choose(&request, types, 2) < 2);
            assert_true(http_coding(&request) <= HTTP_GZIP_ONLY);
            assert_false(http_has_etag(&request, "\"tag\""));
        }
        buf_deinit(&value);
    }
}

/* Listening, but not ready: the one who asks for that is answered, all others later, as if they had come
 * later. */
static void held_requests_wait_but_for_early_ones(void **state)
{
    struct fixture *f = *state;
    static const char early[] = "GET /early HTTP/1.1\r\nHost: h\r\n\r\nGET /1 HTTP/1.1\r\nHost: h\r\n\r\n";
    static const char ws[] = UPGRADE("/ws") "\r\n\x81\x82\0\0\0\0hi";
    struct buf first = BUF_INIT, second = BUF_INIT;
    int plain = client(f), upgraded = client(f);

    net_hold(f->net);
    assert_int_equal(send(plain, early, sizeof(early) - 1, 0), sizeof(early) - 1);
    assert_int_equal(send(upgraded, ws, sizeof(ws) - 1, 0), sizeof(ws) - 1);
    for (int i = 0; i < 4; i++)
        turn(f);
    collect(plain, &first);
    collect(upgraded, &second);
    strip_dates(&first);
    assert_string_equal(first.data, FINE("keep-alive"));
    assert_int_equal(second.length, 0);
    net_release(f->net);
    for (int i = 0; i < 4; i++)
        turn(f);
    collect(plain, &first);
    collect(upgraded, &second);
    strip_dates(&first);
    assert_string_equal(first.data, FINE("keep-alive") FINE("keep-alive"));
    assert_memory_equal(second.data, "HTTP/1.1 101 ", 13);
    assert_memory_equal(second.data + second.length - 4, "\x81\x02hi", 4);
    buf_add(&f->seen, "", 1);
    assert_memory_equal(f->seen.data, "GET /early ? host=h body=\n", 26);
    assert_non_null(strstr(f->seen.data, "GET /1 ? host=h body=\n"));
    assert_non_null(strstr(f->seen.data, "text hi\n"));
    close(plain);
    close(upgraded);
    buf_deinit(&first);
    buf_deinit(&second);
}

static void held_requests_are_refused_at_the_end_of_time_and_of_the_net(void **state)
{
    struct fixture *f = *state;
    static const char in[] = "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";

    for (int drained = 0; drained <= 1; drained++) {
        struct buf out = BUF_INIT;
        int fd = client(f);

        net_hold(f->net);
        f->config.handshake_timeout = drained ? 10000 : 0;
        assert_int_equal(send(fd, in, sizeof(in) - 1, 0), sizeof(in) - 1);
        turn(f);
        if (drained)
            net_stop_listening(f->net);
        while (out.length == 0) {
            uv_run(&f->loop, UV_RUN_ONCE);
            collect(fd, &out);
        }
        assert_memory_equal(out.data, "HTTP/1.1 503 ", 13);
        buf_add(&out, "", 1);
        assert_non_null(strstr(out.data, "Retry-After: 1\r\n"));
        assert_non_null(strstr(out.data, "\"unavailable\""));
        close(fd);
        buf_deinit(&out);
    }
    assert_int_equal(f->seen.length, 0);
    assert_int_equal(f->closes, 0); /* the handler never heard of them */
}

static void ids_differ_over_workers_and_lives(void **state)
{
    uint64_t first = conn_id_first(3), other = conn_id_first(4), id = first;
    char one[CONN_ID_SIZE], two[CONN_ID_SIZE];

    (void)state;
    assert_true(conn_id_next(id) == id + 1);
    conn_id_text(first, one);
    conn_id_text(other, two);
    assert_int_equal(strlen(one), CONN_ID_SIZE - 1);
    assert_string_not_equal(one, two);
    assert_int_equal(strspn(one, "0123456789abcdefghjkmnpqrstvwxyz"), CONN_ID_SIZE - 1);
    while (conn_id_first(3) == first)
        usleep(1000);
    assert_true(conn_id_first(3) > first);
    /* The count is used up: a stamp of now, the same worker, no id twice. */
    id = first | ((1u << 19) - 1);
    assert_true(conn_id_next(id) > id);
    assert_int_equal(conn_id_next(id) >> 19 & 511, 3);
}

static void an_idle_connection_is_small(void **state)
{
    (void)state;
    assert_true(sizeof(struct conn) + sizeof(struct conn *) <= 320 - 16);
}

static void queries_are_decoded(void **state)
{
    (void)state;
    char out[8];
    assert_true(http_query("a=1&token=x%2By+z&b", "token", out, sizeof(out)));
    assert_string_equal(out, "x+y z");
    assert_true(http_query("a=", "a", out, sizeof(out)));
    assert_string_equal(out, "");
    assert_true(http_query("a=1234567", "a", out, sizeof(out)));
    assert_false(http_query("a=12345678", "a", out, sizeof(out)));
    assert_false(http_query("ab=1&b", "a", out, sizeof(out)));
    assert_false(http_query("ab=1&b", "b", out, sizeof(out)));
    assert_false(http_query("a=%0", "a", out, sizeof(out)));
    assert_false(http_query("a=%zz", "a", out, sizeof(out)));
    assert_false(http_query("a=%00", "a", out, sizeof(out)));
    assert_true(http_decode("%41+%62", 7, out, sizeof(out)));
    assert_string_equal(out, "A+b");
    assert_false(http_decode("%4", 2, out, sizeof(out)));
}

static void tokens_are_found_in_lists(void **state)
{
    (void)state;
    struct http_request request = {.header_count = 2, .headers = {{"a", "one, ,Two ;q=1"}, {"a", "THREE"}}};
    assert_true(http_has_token(&request, "a", "one"));
    assert_true(http_has_token(&request, "a", "three"));
    assert_false(http_has_token(&request, "a", "two"));
    assert_false(http_has_token(&request, "a", ""));
    assert_false(http_has_token(&request, "b", "one"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(requests_are_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(bodies_arrive_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(pipelined_requests_are_answered_in_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(pipelined_requests_have_a_loop_turn_each, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_heads_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(large_heads_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_waits_is_told_to_go_on, setup, teardown),
        cmocka_unit_test_setup_teardown(a_late_answer_lets_the_next_request_through, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unanswered_request_hears_of_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(frames_behind_the_handshake_are_read, setup, teardown),
        cmocka_unit_test_setup_teardown(refused_upgrades_say_why, setup, teardown),
        cmocka_unit_test_setup_teardown(answers_are_compressed_when_that_gains, setup, teardown),
        cmocka_unit_test(accept_encoding_is_read_as_it_is_meant),
        cmocka_unit_test(hostile_lists_do_no_harm),
        cmocka_unit_test_setup_teardown(held_requests_wait_but_for_early_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(held_requests_are_refused_at_the_end_of_time_and_of_the_net, setup,
                                        teardown),
        cmocka_unit_test(ids_differ_over_workers_and_lives),
        cmocka_unit_test(an_idle_connection_is_small),
        cmocka_unit_test(queries_are_decoded),
        cmocka_unit_test(tokens_are_found_in_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
