/* notify.c - what the service manager is told. */
#include "chatd/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int notify_send(const char *format, ...)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char state[1024];
    size_t length;
    va_list args;
    int fd, error = 0;

    if (path == NULL || path[0] == '\0')
        return 0;
    length = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || length >= sizeof(address.sun_path))
        return -EINVAL;
    memcpy(address.sun_path, path, length);
    /* An abstract name starts with a NUL and is as long as the address says; a path takes its terminator
     * along. */
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    else
        length++;
    va_start(args, format);
    vsnprintf(state, sizeof(state), format, args);
    va_end(args);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* The manager may be busy, and the master must never hang on it. */
    if (sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&address,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) < 0)
        error = -errno;
    close(fd);
    return error;
}

int64_t notify_watchdog_us(void)
{
    const char *time = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    long long us;

    if (time == NULL || (pid != NULL && strtoll(pid, NULL, 10) != getpid()))
        return 0;
    us = strtoll(time, NULL, 10);
    return us > 0 ? us : 0;
}
