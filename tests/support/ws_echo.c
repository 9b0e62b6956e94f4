/* ws_echo.c - a WebSocket echo server on net/, for the Autobahn suite: `ws_echo PORT`. With port 0 the
 * kernel chooses; the first line on standard output names the port. Ends on SIGTERM or SIGINT with
 * everything freed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chatd/config.h"
#include "chatd/conn.h"
#include "chatd/frame.h"
#include "chatd/http.h"
#include "chatd/net.h"

struct echo {
    struct net *net;
    uv_signal_t signals[2];
};

static void on_request(void *arg, struct conn *conn, const struct http_request *request)
{
    (void)arg;
    if (strcmp(request->method, "POST") == 0)
        http_respond(conn, 200, "application/octet-stream", NULL, request->body, request->body_length);
    else
        http_respond_error(conn, 404, NULL, "not_found", "this server only echoes");
}

static int on_upgrade(void *arg, struct conn *conn, const struct http_request *request, const char **code,
                      const char **message)
{
    (void)arg;
    (void)conn;
    if (strcmp(request->path, "/full") != 0)
        return 0;
    *code = "unavailable";
    *message = "no room on this path";
    return 503;
}

static void on_open(void *arg, struct conn *conn)
{
    (void)arg;
    (void)conn;
}

static void on_text(void *arg, struct conn *conn, const char *text, size_t length)
{
    (void)arg;
    conn_send_text(conn, text, length);
}

static void on_binary(void *arg, struct conn *conn, const char *data, size_t length)
{
    (void)arg;
    struct frame *frame = frame_message(FRAME_BINARY, data, length);
    conn_send(conn, frame);
    frame_unref(frame);
}

static void on_close(void *arg, struct conn *conn, enum close_reason reason)
{
    (void)arg;
    (void)conn;
    (void)reason;
}

static void on_flush(void *arg)
{
    (void)arg;
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct echo *echo = signal->data;
    (void)number;
    net_close(echo->net);
    for (size_t i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&echo->signals[i], NULL);
}

static void fail(const char *what, int error)
{
    fprintf(stderr, "ws_echo: %s: %s\n", what, strerror(-error));
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: ws_echo PORT\n");
        return 2;
    }
    static struct config config;
    config_defaults(&config);
    /* Autobahn's limits cases send 16 MB. */
    config.max_message_bytes = 64 << 20;
    config.send_queue_bytes = 256 << 20;

    struct echo echo;
    struct net_handler handler = {
        .arg = &echo,
        .on_request = on_request,
        .on_upgrade = on_upgrade,
        .on_open = on_open,
        .on_text = on_text,
        .on_binary = on_binary,
        .on_close = on_close,
        .on_flush = on_flush,
    };
    uv_loop_t loop;
    uv_loop_init(&loop);
    int error = net_init(&echo.net, &loop, &config, &handler);
    if (error != 0)
        fail("init", error);
    int port = atoi(argv[1]);
    int fd = listener_open("127.0.0.1", &port);
    if (fd < 0)
        fail("listen", fd);
    error = net_listen(echo.net, fd);
    if (error != 0)
        fail("listen", error);
    static const int numbers[2] = {SIGTERM, SIGINT};
    for (size_t i = 0; i < 2; i++) {
        uv_signal_init(&loop, &echo.signals[i]);
        echo.signals[i].data = &echo;
        uv_signal_start(&echo.signals[i], on_signal, numbers[i]);
    }
    printf("%d\n", port);
    fflush(stdout);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    net_free(echo.net);
    close(fd);
    return 0;
}
