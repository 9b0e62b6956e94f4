/* checks.h - the table of what can stop a chatd, and the arithmetic of each. Pure: facts in, findings out. */
#ifndef CHATD_DOCTOR_CHECKS_H
#define CHATD_DOCTOR_CHECKS_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/config.h"
#include "facts.h"

/* What a connection takes, in bytes. README.md of loadtest says how the first is measured; the second is what
 * the kernel's slab grows by for each end of an idle TCP connection (socket, inode, file, epoll), 5,067 on
 * Linux 6.18. */
enum { CHECKS_CHATD_BYTES = 800, CHECKS_KERNEL_BYTES = 5100 };

enum {
    CHECKS_PAGE = 4096,
    CHECKS_WORKER_BYTES = 6 << 20, /* resident, without connections */
    CHECKS_WORKER_FILES = 64,      /* descriptors of a worker beside connections and pools */
    CHECKS_WORKER_THREADS = 8,     /* loop, store, and those that libuv may start; MongoDB's pool is beside */
    CHECKS_WORKER_MAPS = 1024,     /* mappings: libraries, stacks, arenas; near 200 are seen */
    CHECKS_FILES_MAX = 1048576,    /* chatd asks for no more descriptors */
    CHECKS_MEMORY_PERCENT = 80     /* of memory that may be filled: the alert's line */
};

enum checks_verdict {
    CHECKS_OK,
    CHECKS_SHORT,  /* fewer connections than asked for */
    CHECKS_ADVICE, /* stops nobody at a number, and should be another way */
    CHECKS_UNKNOWN /* can't be read */
};

/* What is done with an advice. */
enum checks_advice {
    CHECKS_TYPE, /* it is a command */
    CHECKS_SET,  /* it is a setting and what makes it count */
    CHECKS_DO    /* it is words */
};

struct checks_input {
    const struct config *config;
    const struct facts *facts;
    int64_t workers;
    int64_t demand;  /* connections that have to be held; 0: none was named */
    int64_t wanted;  /* connections that the advice aims at */
    int64_t sources; /* addresses that a proxy connects from; 0: no proxy stands before chatd */
    bool proxy_here; /* on this host, with sockets of its own */
};

enum { CHECKS_TEXT = 256 };

struct finding {
    const char *name;
    char value[CHECKS_TEXT];
    int64_t holds; /* connections; FACTS_NONE: this stops nobody */
    enum checks_verdict verdict;
    char reason[CHECKS_TEXT];
    enum checks_advice advice;
    char now[CHECKS_TEXT];  /* what to do; empty: nothing can be */
    char keep[CHECKS_TEXT]; /* which line in which file keeps it over a restart */
};

enum { CHECKS_MAX = 32 };

/* Returns how many findings there are. */
int checks_run(const struct checks_input *input, struct finding findings[CHECKS_MAX]);

/* The place of the finding that holds the fewest connections. */
int checks_first(const struct finding *findings, int count);

#endif
