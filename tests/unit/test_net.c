/* A whole net on a real listener: timeouts, slow readers, closing from within a callback, running out of
 * descriptors. Waits are for a condition with a deadline, never for a time. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "chatd/buf.h"
#include "chatd/clock.h"
#include "chatd/conn.h"
#include "chatd/http.h"
#include "chatd/metrics.h"
#include "chatd/net.h"

enum { DEADLINE_MS = 8000 };

struct fixture {
    uv_loop_t loop;
    struct config config;
    struct net *net;
    int listener;
    int port;
    struct conn *conn; /* opened last */
    int opens;
    int closes;
    enum close_reason reason; /* of the last close */
    int texts;
    bool close_all; /* on the next text */
    bool close_all_on_close;
};

static void on_request(void *arg, struct conn *conn, const struct http_request *request)
{
    (void)arg;
    (void)request;
    http_respond(conn, 200, "text/plain", NULL, "fine", 4);
}

static int on_upgrade(void *arg, struct conn *conn, const struct http_request *request, const char **code,
                      const char **message)
{
    (void)arg;
    (void)conn;
    (void)request;
    (void)code;
    (void)message;
    return 0;
}

static void on_open(void *arg, struct conn *conn)
{
    struct fixture *f = arg;
    conn_set_data(conn, f);
    f->conn = conn;
    f->opens++;
}

static void on_text(void *arg, struct conn *conn, const char *text, size_t length)
{
    struct fixture *f = arg;
    f->texts++;
    if (f->close_all)
        net_close(f->net);
    conn_send_text(conn, text, length);
}

static void on_close(void *arg, struct conn *conn, enum close_reason reason)
{
    struct fixture *f = arg;
    assert_ptr_equal(conn_data(conn), f);
    f->closes++;
    f->reason = reason;
    if (f->conn == conn)
        f->conn = NULL;
    if (f->close_all_on_close)
        net_close(f->net);
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
    f->listener = listener_open("127.0.0.1", &f->port);
    *state = f;
    return f->listener < 0 || net_init(&f->net, &f->loop, &f->config, &handler) != 0 ||
           net_listen(f->net, f->listener) != 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    net_close(f->net);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(net_count(f->net), 0);
    assert_int_equal(f->opens, f->closes);
    assert_int_equal(metrics_get(metrics_mine, connections), 0);
    assert_int_equal(metrics_get(metrics_mine, http_connections), 0);
    assert_int_equal(metrics_get(metrics_mine, send_queue_bytes), 0);
    net_free(f->net);
    close(f->listener);
    return uv_loop_close(&f->loop);
}

/* A turn that ends soon, whatever happens. */
static void turn(struct fixture *f)
{
    uv_run(&f->loop, UV_RUN_NOWAIT);
    usleep(500);
}

#define WAIT_FOR(f, condition)                                                \
    do {                                                                      \
        int64_t deadline = clock_monotonic_ms() + DEADLINE_MS;                \
        while (!(condition)) {                                                \
            if (clock_monotonic_ms() > deadline)                              \
                fail_msg("%s did not come true in time", #condition);         \
            turn(f);                                                          \
        }                                                                     \
    } while (0)

static int dial(struct fixture *f)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)f->port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static void say(int fd, const char *bytes, size_t length)
{
    assert_int_equal(send(fd, bytes, length, MSG_NOSIGNAL), length);
}

/* True once the peer has closed; what it sent before goes to `out`. */
static bool ended(int fd, struct buf *out)
{
    char bytes[65536];
    ssize_t n;
    while ((n = read(fd, bytes, sizeof(bytes))) > 0)
        buf_add(out, bytes, (size_t)n);
    return n == 0 || errno != EAGAIN;
}

static bool ends_with(const struct buf *buf, const char *bytes, size_t length)
{
    return buf->length >= length && memcmp(buf->data + buf->length - length, bytes, length) == 0;
}

static int open_ws(struct fixture *f)
{
    static const char head[] =
        "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    struct buf out = BUF_INIT;
    int fd = dial(f), before = f->opens;
    say(fd, head, sizeof(head) - 1);
    WAIT_FOR(f, f->opens == before + 1 && (ended(fd, &out) || out.length > 0));
    assert_memory_equal(out.data, "HTTP/1.1 101 ", 13);
    assert_int_equal(out.length, 129);
    buf_deinit(&out);
    return fd;
}

static void hang_up(struct fixture *f, int fd)
{
    close(fd);
    WAIT_FOR(f, net_count(f->net) == 0);
}

static void a_head_that_does_not_come_is_408(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    f->config.handshake_timeout = 100;
    int silent = dial(f), half = dial(f);
    say(half, "GET / HT", 8);
    WAIT_FOR(f, ended(silent, &out));
    assert_memory_equal(out.data, "HTTP/1.1 408 ", 13);
    out.length = 0;
    WAIT_FOR(f, ended(half, &out));
    assert_memory_equal(out.data, "HTTP/1.1 408 ", 13);
    close(silent);
    hang_up(f, half);
    buf_deinit(&out);
}

static void an_idle_keep_alive_connection_ends_without_words(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    f->config.handshake_timeout = 100;
    int fd = dial(f);
    say(fd, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", 27);
    WAIT_FOR(f, ended(fd, &out));
    assert_memory_equal(out.data, "HTTP/1.1 200 ", 13);
    assert_memory_equal(out.data + out.length - 4, "fine", 4);
    hang_up(f, fd);
    buf_deinit(&out);
}

static void a_silent_client_is_pinged_and_then_dropped(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    f->config.ping_interval = 100;
    f->config.ping_timeout = 100;
    int fd = open_ws(f);
    WAIT_FOR(f, ended(fd, &out) || out.length == 2);
    assert_memory_equal(out.data, "\x89\0", 2);
    say(fd, "\x8a\x80\0\0\0\0", 6); /* it answers once */
    out.length = 0;
    WAIT_FOR(f, ended(fd, &out));
    assert_memory_equal(out.data, "\x89\0", 2);
    assert_int_equal(out.length, 2);
    assert_int_equal(f->closes, 1);
    assert_int_equal(f->reason, CLOSE_TIMEOUT);
    close(fd);
    buf_deinit(&out);
}

static void a_slow_reader_is_closed_and_hears_why(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    static char text[60000];
    f->config.send_queue_bytes = 1 << 20;
    memset(text, 'x', sizeof(text));
    int fd = open_ws(f);
    while (f->closes == 0) {
        if (f->conn != NULL)
            conn_send_text(f->conn, text, sizeof(text));
        turn(f);
    }
    assert_int_equal(f->reason, CLOSE_SLOW);
    WAIT_FOR(f, (ended(fd, &out), ends_with(&out, "\x88\x02\x03\xf5", 4)));
    /* The frame that was under way came whole: every one has the same size. */
    assert_int_equal((out.length - 4) % (sizeof(text) + 4), 0);
    hang_up(f, fd);
    buf_deinit(&out);
}

static void one_large_frame_is_not_the_peers_fault(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    size_t length = 6 << 20;
    char *text = calloc(1, length);
    f->config.send_queue_bytes = 4096;
    int fd = open_ws(f);
    conn_send_text(f->conn, text, length);
    assert_int_equal(conn_queued(f->conn), length + 10);
    WAIT_FOR(f, (ended(fd, &out), out.length == length + 10));
    assert_int_equal(f->closes, 0);
    free(text);
    hang_up(f, fd);
    assert_int_equal(f->reason, CLOSE_GONE);
    buf_deinit(&out);
}

static void a_close_ends_when_the_peer_answers(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    int fd = open_ws(f);
    conn_close(f->conn, CLOSE_STOPPING);
    conn_close(f->conn, CLOSE_ABUSE);
    assert_true(conn_closing(f->conn));
    conn_send_text(f->conn, "x", 1);
    WAIT_FOR(f, (ended(fd, &out), out.length == 4));
    assert_memory_equal(out.data, "\x88\x02\x03\xe9", 4);
    assert_int_equal(f->reason, CLOSE_STOPPING);
    assert_false(ended(fd, &out));
    say(fd, "\x81\x81\0\0\0\0x\x88\x82\0\0\0\0\x03\xe9", 15);
    WAIT_FOR(f, ended(fd, &out));
    assert_int_equal(f->texts, 0);
    assert_int_equal(out.length, 4);
    hang_up(f, fd);
    buf_deinit(&out);
}

static void a_close_ends_without_an_answer_too(void **state)
{
    struct fixture *f = *state;
    int fd = open_ws(f);
    conn_close(f->conn, CLOSE_NORMAL);
    WAIT_FOR(f, net_count(f->net) == 0);
    close(fd);
}

static void binary_is_refused_where_nobody_wants_it(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    int fd = open_ws(f);
    say(fd, "\x82\x81\0\0\0\0x", 7);
    WAIT_FOR(f, (ended(fd, &out), out.length == 4));
    assert_memory_equal(out.data, "\x88\x02\x03\xeb", 4);
    assert_int_equal(f->reason, CLOSE_BINARY);
    hang_up(f, fd);
    buf_deinit(&out);
}

static void net_may_be_closed_from_within_a_message(void **state)
{
    struct fixture *f = *state;
    int first = open_ws(f), second = open_ws(f);
    f->close_all = true;
    say(first, "\x81\x81\0\0\0\0x\x81\x81\0\0\0\0y\x81\x85\0\0", 18);
    WAIT_FOR(f, f->closes == 2);
    close(first);
    close(second);
}

static void many_messages_of_a_turn_leave_in_one_write(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    int fd = open_ws(f);
    turn(f);
    int64_t before = metrics_get(metrics_mine, writes_total);
    for (int i = 0; i < 50; i++)
        conn_send_text(f->conn, "x", 1);
    WAIT_FOR(f, (ended(fd, &out), out.length == 150));
    assert_int_equal(metrics_get(metrics_mine, writes_total) - before, 1);
    hang_up(f, fd);
    buf_deinit(&out);
}

static void stopping_ends_what_is_not_upgraded(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    static const char request[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    int ws = open_ws(f), half = dial(f), fresh = dial(f);
    say(half, "GET / HT", 8);
    WAIT_FOR(f, net_count(f->net) == 3);
    net_stop_listening(f->net);
    net_stop_listening(f->net);
    say(fresh, request, sizeof(request) - 1);
    WAIT_FOR(f, ended(fresh, &out));
    assert_memory_equal(out.data, "HTTP/1.1 200 ", 13);
    buf_add(&out, "", 1);
    assert_non_null(strstr(out.data, "\r\nConnection: close\r\n"));
    close(fresh);
    out.length = 0;
    WAIT_FOR(f, ended(half, &out));
    assert_memory_equal(out.data, "HTTP/1.1 408 ", 13);
    close(half);
    WAIT_FOR(f, net_count(f->net) == 1);
    say(ws, "\x81\x81\0\0\0\0x", 7);
    WAIT_FOR(f, f->texts == 1);
    hang_up(f, ws);
    buf_deinit(&out);
}

static void without_descriptors_a_client_gets_503(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    struct rlimit limit, low;
    int fd = dial(f); /* ours, before there are none */
    getrlimit(RLIMIT_NOFILE, &limit);
    int lowest = dup(0);
    close(lowest);
    low = (struct rlimit){(rlim_t)lowest, limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &low);
    WAIT_FOR(f, ended(fd, &out));
    setrlimit(RLIMIT_NOFILE, &limit);
    assert_memory_equal(out.data, "HTTP/1.1 503 ", 13);
    assert_int_equal(net_count(f->net), 0);
    close(fd);
    hang_up(f, open_ws(f)); /* and afterwards all is as before */
    buf_deinit(&out);
}

static void accepted_sockets_do_not_delay(void **state)
{
    struct fixture *f = *state;
    int fd = open_ws(f), on = 0;
    socklen_t length = sizeof(on);
    struct sockaddr_storage peer;
    assert_true(conn_peer(f->conn, &peer));
    assert_int_equal(peer.ss_family, AF_INET);
    assert_int_equal(getsockopt(f->listener, IPPROTO_TCP, TCP_NODELAY, &on, &length), 0);
    assert_true(on);
    hang_up(f, fd);
}

static void an_address_in_use_or_wrong_is_an_error(void **state)
{
    (void)state;
    int port = 0;
    assert_int_equal(listener_open("localhost", &port), -EINVAL);
    assert_int_equal(listener_open("192.0.2.1", &port), -EADDRNOTAVAIL);
}

#define NET_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void a_large_frame_behind_a_small_one_is_not_the_peers_fault(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_INIT;
    size_t length = 2 << 20;
    char *text = calloc(1, length);
    f->config.send_queue_bytes = 4096;
    int fd = open_ws(f);
    conn_send_text(f->conn, "x", 1);
    conn_send_text(f->conn, text, length);
    WAIT_FOR(f, f->closes || (ended(fd, &out), out.length == 3 + length + 10));
    assert_int_equal(f->closes, 0);
    free(text);
    hang_up(f, fd);
    buf_deinit(&out);
}

static void net_may_be_closed_from_within_a_close(void **state)
{
    struct fixture *f = *state;
    int fds[3];
    for (int i = 0; i < 3; i++)
        fds[i] = open_ws(f);
    f->close_all_on_close = true;
    close(fds[1]);
    WAIT_FOR(f, net_count(f->net) == 0);
    assert_int_equal(f->closes, 3);
    close(fds[0]);
    close(fds[2]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST(a_head_that_does_not_come_is_408),
        NET_TEST(an_idle_keep_alive_connection_ends_without_words),
        NET_TEST(a_silent_client_is_pinged_and_then_dropped),
        NET_TEST(a_slow_reader_is_closed_and_hears_why),
        NET_TEST(one_large_frame_is_not_the_peers_fault),
        NET_TEST(a_close_ends_when_the_peer_answers),
        NET_TEST(a_close_ends_without_an_answer_too),
        NET_TEST(binary_is_refused_where_nobody_wants_it),
        NET_TEST(net_may_be_closed_from_within_a_message),
        NET_TEST(net_may_be_closed_from_within_a_close),
        NET_TEST(a_large_frame_behind_a_small_one_is_not_the_peers_fault),
        NET_TEST(many_messages_of_a_turn_leave_in_one_write),
        NET_TEST(stopping_ends_what_is_not_upgraded),
        NET_TEST(without_descriptors_a_client_gets_503),
        NET_TEST(accepted_sockets_do_not_delay),
        cmocka_unit_test(an_address_in_use_or_wrong_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
