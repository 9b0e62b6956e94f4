/* Bytes kept for a socket until there is more of them or space for them, for both ends of a load test.
 *
 * Nearly always there are none, and then a tail is a NULL pointer. Memory that can't be had ends the program.
 */
#ifndef LOADTEST_TAIL_H
#define LOADTEST_TAIL_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

struct tail {
    uint32_t len;
    char bytes[];
};

/* Ends the program because of `errno`. */
static inline void die(const char *what)
{
    perror(what);
    exit(2);
}

static inline void *must(void *memory)
{
    if (!memory)
        die("memory");
    return memory;
}

/* `bytes` may not lie in the tail itself. */
static inline void tail_append(struct tail **tail, const char *bytes, size_t len)
{
    uint32_t old = *tail ? (*tail)->len : 0;
    *tail = must(realloc(*tail, sizeof **tail + old + len));
    memcpy((*tail)->bytes + old, bytes, len);
    (*tail)->len = old + (uint32_t)len;
}

static inline void tail_free(struct tail **tail)
{
    free(*tail);
    *tail = NULL;
}

/* Writes behind what waits already; what the socket does not take is kept. False: the connection is broken.
 * Whoever finds `*out` set afterwards and not before has to ask for EPOLLOUT. */
static inline bool tail_send(struct tail **out, int fd, const char *bytes, size_t len)
{
    ssize_t n = *out ? 0 : send(fd, bytes, len, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        return false;
    size_t taken = n > 0 ? (size_t)n : 0;
    if (taken < len)
        tail_append(out, bytes + taken, len - taken);
    return true;
}

/* To be called on EPOLLOUT; with `*out` NULL afterwards EPOLLOUT is no longer needed. */
static inline bool tail_flush(struct tail **out, int fd)
{
    struct tail *tail = *out;
    ssize_t n = tail ? send(fd, tail->bytes, tail->len, MSG_NOSIGNAL) : 0;
    if (n < 0)
        return errno == EAGAIN;
    if (tail && (size_t)n == tail->len) {
        tail_free(out);
    } else if (tail) {
        tail->len -= (uint32_t)n;
        memmove(tail->bytes, tail->bytes + n, tail->len);
    }
    return true;
}

#endif
