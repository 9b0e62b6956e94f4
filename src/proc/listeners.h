/* listeners.h - private to the master: one listening socket per lane, all on one address.
 *
 * A lane is a place for a worker: its listener stays open while workers in it come and go. */
#ifndef CHATD_LISTENERS_H
#define CHATD_LISTENERS_H

#include <stddef.h>

enum { LISTENERS_MAX = 256, LISTENERS_ERROR_MAX = 256 };

struct listeners {
    int port; /* once open: the real one */
    int count;
    int fds[LISTENERS_MAX];
};

/* Opens the first `count`. Refuses a port that somebody else listens on, though SO_REUSEPORT would let us in
 * beside another chatd of the same user. 0, or -1 with the reason in `error` and nothing open. */
int listeners_open(struct listeners *listeners, const char *host, int port, int count,
                   char error[LISTENERS_ERROR_MAX]);

/* Opens more on the same port. On failure as many as before are open. */
int listeners_grow(struct listeners *listeners, const char *host, int count, char error[LISTENERS_ERROR_MAX]);

void listeners_shrink(struct listeners *listeners, int count); /* closes the last ones */

/* In a child: closes all but its own. */
void listeners_keep(struct listeners *listeners, int lane);

#endif
