/* listener.c - sockets to listen on, and the accept loop with its answer to running out of descriptors. Where
 * even that can't be given it pauses until the next sweep: a listener that stays readable would spin. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chatd/log.h"
#include "chatd/metrics.h"
#include "internal.h"

static int parse_address(const char *host, int port, struct sockaddr_storage *address, socklen_t *length)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *length = sizeof(*v4);
        return 0;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        *length = sizeof(*v6);
        return 0;
    }
    return -EINVAL;
}

static int set_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value));
}

static int bound_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    if (getsockname(fd, (struct sockaddr *)&address, &length) != 0)
        return -errno;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

/* A socket without SO_REUSEPORT can't be bound where one with it listens, whoever owns that. SO_REUSEADDR
 * lets it pass by connections of an earlier run that are still in TIME_WAIT. */
int listener_probe(const char *host, int port)
{
    struct sockaddr_storage address;
    socklen_t length;
    int error = parse_address(host, port, &address, &length);
    if (error != 0)
        return error;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) != 0 ||
        (address.ss_family == AF_INET6 && set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0) != 0) ||
        bind(fd, (struct sockaddr *)&address, length) != 0)
        error = -errno;
    close(fd);
    return error;
}

int listener_open(const char *host, int *port)
{
    struct sockaddr_storage address;
    socklen_t length;
    int error = parse_address(host, *port, &address, &length);
    if (error != 0)
        return error;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) != 0 ||
        set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1) != 0 ||
        (address.ss_family == AF_INET6 && set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0) != 0) ||
        bind(fd, (struct sockaddr *)&address, length) != 0 || listen(fd, INT_MAX) != 0 ||
        (error = bound_port(fd)) < 0) {
        error = error < 0 ? error : -errno;
        close(fd);
        return error;
    }
    *port = error;
    return fd;
}

static void on_acceptable(uv_poll_t *poll, int status, int events);

static void pause_listener(struct net *net)
{
    net->listener_paused = true;
    uv_poll_stop(&net->listener);
}

void listener_resume(struct net *net)
{
    if (net->reserve < 0)
        net->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (!net->listener_paused)
        return;
    net->listener_paused = false;
    if (net->listen_fd >= 0 && uv_poll_start(&net->listener, UV_READABLE, on_acceptable) != 0)
        abort(); /* it was pollable before: a failure is a bug of ours */
}

/* No descriptor is left: the one in reserve lets a client hear why, instead of waiting in the queue. */
static bool refuse_one(struct net *net)
{
    static const char body[] = "{\"error\":{\"code\":\"unavailable\",\"message\":\"too many connections\"}}";
    char answer[256];
    int length = snprintf(answer, sizeof(answer),
                          "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                          "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                          sizeof(body) - 1, body);
    if (net->reserve >= 0)
        close(net->reserve);
    net->reserve = -1;
    int fd = accept4(net->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        metrics_add(refused_total[METRICS_REFUSAL_no_descriptors], 1);
        if (net_now(net) - net->refusal_told >= NET_REFUSAL_TOLD_MS) {
            net->refusal_told = net_now(net);
            log_warn("no_descriptors", "connections=%u", net->live);
        }
        if (send(fd, answer, (size_t)length, MSG_NOSIGNAL) > 0) {
            metrics_add(http_requests_total, 1);
            /* What the client sent already is read, or the kernel would answer with a reset. */
            shutdown(fd, SHUT_WR);
            if (read(fd, net->buffer, NET_READ_BUFFER) < 0)
                log_debug("refused_unread", "errno=%d", errno);
        }
        close(fd);
    } else if (errno != EAGAIN) {
        pause_listener(net);
    }
    net->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd >= 0;
}

/* True when there may be more. */
static bool accept_one(struct net *net)
{
    int fd = accept4(net->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        conn_accept(net, fd);
        return true;
    }
    switch (errno) {
    case EMFILE:
    case ENFILE:
        return refuse_one(net);
    case EAGAIN:
        return false;
    case ECONNABORTED:
    case EINTR:
        return true;
    default: /* network errors of the new socket arrive here, see accept(2); and no memory for one */
        log_warn("accept_failed", "error=%s", strerror(errno));
        pause_listener(net);
        return false;
    }
}

static void on_acceptable(uv_poll_t *poll, int status, int events)
{
    struct net *net = poll->data;
    (void)events;
    if (status < 0) {
        log_error("listen_failed", "error=%s", uv_strerror(status));
        return;
    }
    for (int i = 0; i < NET_ACCEPTS_PER_TURN && net->listen_fd >= 0 && accept_one(net); i++)
        continue;
}

int listener_start(struct net *net, int fd)
{
    /* Accepted sockets inherit it. Answers leave in one write per loop turn: there is nothing to wait for. */
    if (set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1) != 0)
        return -errno;
    int error = uv_poll_init(net->loop, &net->listener, fd);
    if (error == 0)
        error = uv_poll_start(&net->listener, UV_READABLE, on_acceptable);
    if (error == 0)
        net->listen_fd = fd;
    return error;
}

void listener_stop(struct net *net)
{
    if (net->listen_fd < 0)
        return;
    net->listen_fd = -1;
    uv_close((uv_handle_t *)&net->listener, NULL);
}
