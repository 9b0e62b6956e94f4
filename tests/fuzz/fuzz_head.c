/* What a client sends from its first byte: request heads, bodies, the opening handshake and frames behind
 * it, through a whole net over a socket pair. The first byte says in how many pieces the rest arrives; a
 * loop turn runs after each. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz {
    int open; /* connections that are owed an on_close */
};

static void on_request(void *arg, struct conn *conn, const struct http_request *request)
{
    struct fuzz *fuzz = arg;
    char value[64];
    if (http_query(request->query, "q", value, sizeof(value)) && strlen(value) >= sizeof(value))
        abort();
    if (strlen(request->path) == 0 || request->body_length > NET_BODY_MAX)
        abort();
    if (strcmp(request->path, "/later") == 0) {
        fuzz->open++;
        return;
    }
    http_respond(conn, 200, "text/plain", NULL, request->body, request->body_length);
}

static int on_upgrade(void *arg, struct conn *conn, const struct http_request *request, const char **code,
                      const char **message)
{
    (void)arg;
    (void)conn;
    *code = "not_found";
    *message = request->path;
    return strcmp(request->path, "/ws") == 0 ? 0 : 404;
}

static void on_open(void *arg, struct conn *conn)
{
    struct fuzz *fuzz = arg;
    (void)conn;
    fuzz->open++;
}

static void on_text(void *arg, struct conn *conn, const char *text, size_t length)
{
    (void)arg;
    conn_send_text(conn, text, length);
}

static void on_close(void *arg, struct conn *conn, enum close_reason reason)
{
    struct fuzz *fuzz = arg;
    (void)conn;
    (void)reason;
    fuzz->open--;
}

static void on_flush(void *arg)
{
    (void)arg;
}

/* Throws away what the server answers, so that it never has to wait. */
static void turn(uv_loop_t *loop, int fd)
{
    char bytes[4096];
    uv_run(loop, UV_RUN_NOWAIT);
    while (read(fd, bytes, sizeof(bytes)) > 0)
        continue;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz fuzz = {0};
    const struct net_handler handler = {.arg = &fuzz, .on_request = on_request, .on_upgrade = on_upgrade,
                                        .on_open = on_open, .on_text = on_text, .on_close = on_close,
                                        .on_flush = on_flush};
    struct config config;
    struct net *net;
    uv_loop_t loop;
    int pair[2];
    if (size == 0)
        return 0;
    config_defaults(&config);
    config.max_head_bytes = 1024;
    uv_loop_init(&loop);
    if (net_init(&net, &loop, &config, &handler) != 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0)
        abort();
    conn_accept(net, pair[0]);
    size_t pieces = 1 + data[0] % 8;
    size_t step = size / pieces + 1;
    for (size_t at = 1; at < size; at += step) {
        if (send(pair[1], data + at, size - at < step ? size - at : step, MSG_NOSIGNAL) < 0)
            break;
        turn(&loop, pair[1]);
    }
    turn(&loop, pair[1]);
    net_close(net);
    uv_run(&loop, UV_RUN_DEFAULT);
    if (net_count(net) != 0 || fuzz.open != 0)
        abort();
    net_free(net);
    uv_loop_close(&loop);
    close(pair[1]);
    return 0;
}
