/* listeners.c - one listening socket per lane, all on one address. */
#include "listeners.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "chatd/net.h"

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
    int result = port != 0 ? listener_probe(host, port) : 0;

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
