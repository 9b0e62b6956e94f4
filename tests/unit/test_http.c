/* Requests through a whole net over a socket pair: each input whole, byte by byte and cut at every offset
 * gives the same answers. And the helpers that read a parsed request. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

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
                                  .on_flush = on_flush};
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

static void check(struct fixture *f, const char *in, size_t length, const char *seen, const char *answer)
{
    for (size_t cut = 0; cut <= length; cut++) {
        struct buf out = BUF_INIT;
        f->seen.length = 0;
        talk(f, in, length, cut, cut == length ? 1 : 0, &out);
        buf_add(&out, "", 1);
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
    "X-Test: 1\r\n\r\n"
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
    CHECK(f, "GET / HTTP/2.0\r\nHost: h\r\n\r\n", "", "HTTP/1.1 400 ");
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
    buf_add(&out, "", 1);
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
          "Content-Length: 91\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n"
          "{\"error\":{\"code\":\"bad_handshake\",\"message\":\"only Sec-WebSocket-Version 13 is spoken "
          "here\"}}");
    CHECK(f, "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
          "GET /ws ? host=h body=\n", FINE("keep-alive"));
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
        cmocka_unit_test_setup_teardown(bad_heads_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(large_heads_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_client_that_waits_is_told_to_go_on, setup, teardown),
        cmocka_unit_test_setup_teardown(a_late_answer_lets_the_next_request_through, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unanswered_request_hears_of_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(frames_behind_the_handshake_are_read, setup, teardown),
        cmocka_unit_test_setup_teardown(refused_upgrades_say_why, setup, teardown),
        cmocka_unit_test(an_idle_connection_is_small),
        cmocka_unit_test(queries_are_decoded),
        cmocka_unit_test(tokens_are_found_in_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
