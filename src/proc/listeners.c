/* listeners.c - one listening socket per lane, all on one address. */
#include "listeners.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "chatd/net.h"

static socklen_t make_address(const char *host, int port, struct sockaddr_storage *address)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;

    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return sizeof(*v4);
    }
    inet_pton(AF_INET6, host, &v6->sin6_addr);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    return sizeof(*v6);
}

/* A socket without SO_REUSEPORT can't be bound where one with it listens, whoever owns that. SO_REUSEADDR
 * lets it pass by connections of an earlier run that are still in TIME_WAIT. */
static int probe(const char *host, int port)
{
    struct sockaddr_storage address;
    socklen_t length = make_address(host, port, &address);
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1, off = 0, error = 0;

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0)
        error = -errno;
    if (error == 0 && address.ss_family == AF_INET6 &&
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) != 0)
        error = -errno;
    if (error == 0 && bind(fd, (struct sockaddr *)&address, length) != 0)
        error = -errno;
    close(fd);
    return error;
}

static int describe(const char *host, int port, int result, char error[LISTENERS_ERROR_MAX])
{
    const char *hint = "";

    if (result == -EADDRINUSE)
        hint = "; is another chatd running? Set PORT to use another port";
    else if (result == -EACCES)
        hint = "; ports below 1024 need CAP_NET_BIND_SERVICE";
    else if (result == -EADDRNOTAVAIL)
        hint = "; no interface of this machine has that address";
    snprintf(error, LISTENERS_ERROR_MAX, "can't listen on %s port %d: %s%s", host, port, strerror(-result),
             hint);
    return -1;
}

int listeners_open(struct listeners *listeners, const char *host, int port, int count,
                   char error[LISTENERS_ERROR_MAX])
{
    int result = port != 0 ? probe(host, port) : 0;

    listeners->port = port;
    listeners->count = 0;
    if (result != 0)
        return describe(host, port, result, error);
    return listeners_grow(listeners, host, count, error);
}

int listeners_grow(struct listeners *listeners, const char *host, int count, char error[LISTENERS_ERROR_MAX])
{
    int before = listeners->count;

    while (listeners->count < count) {
        int fd = listener_open(host, &listeners->port);

        if (fd < 0) {
            listeners_shrink(listeners, before);
            return describe(host, listeners->port, fd, error);
        }
        listeners->fds[listeners->count++] = fd;
    }
    return 0;
}

void listeners_shrink(struct listeners *listeners, int count)
{
    while (listeners->count > count)
        close(listeners->fds[--listeners->count]);
}

void listeners_keep(struct listeners *listeners, int lane)
{
    for (int i = 0; i < listeners->count; i++) {
        if (i != lane)
            close(listeners->fds[i]);
    }
}
