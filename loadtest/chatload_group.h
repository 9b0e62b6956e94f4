/* A group of clients that chat with a server: all that one thread of chatload works with.
 *
 * A group owns its sockets, its epoll and its counters and touches nothing else, so that several can run
 * beside each other. All calls must come from one thread at a time. Times are CLOCK_MONOTONIC
 * nanoseconds. Memory that can't be had ends the program; so does a kernel that refuses sockets.
 *
 * Client i is user "u<i>" in room "r<i mod rooms>"; clients 0 to publishers-1 publish in turn. Message k of a
 * run is due at start + k / rate whether or not the one before it is through (open loop), and its latency
 * counts from then: a server that stalls can't hide it by holding the generator up.
 */
#ifndef CHATLOAD_GROUP_H
#define CHATLOAD_GROUP_H

#include "chatload_hist.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    GROUP_TEXT_MIN = 24, /* a text begins with its due time */
    GROUP_TEXT_MAX = 4096,
    GROUP_SOURCES_MAX = 250,
};

struct group_options {
    struct sockaddr_in server;
    const char *host; /* for the request */
    unsigned connections, rooms, publishers;
    unsigned source_addresses; /* 127.0.0.1 and up, in turn; 0 leaves the address to the kernel */
    unsigned text_bytes;
    double rate; /* messages per second */
};

struct group_tally {
    unsigned joined;      /* connections that are in their room now */
    unsigned failed;      /* ... that never got there */
    unsigned closed;      /* ... that were in it and broke */
    uint64_t bytes;       /* read, of any kind */
    uint64_t sent;        /* messages */
    uint64_t unsent;      /* ... due on a connection that was gone */
    uint64_t acked;       /* ... the server said `ack` to, */
    uint64_t refused;     /* ... or `error` */
    uint64_t expected;    /* deliveries: the members of its room for each acked message */
    uint64_t deliveries;  /* that came, for the first time */
    uint64_t lost;        /* numbers that a connection should have seen and did not */
    uint64_t doubled;     /* deliveries and answers that came again */
    uint64_t out_of_order;
    uint64_t events;      /* other: presence and the like */
    uint64_t late_max;    /* longest that a message was sent after it was due: the generator's own fault */
    struct hist latency;  /* due to delivered, per delivery */
    struct hist ack_latency;
};

struct group;

uint64_t group_now(void);

/* Nothing is connected yet. `options` is borrowed for the group's life. */
struct group *group_new(const struct group_options *options);

/* Resets connections instead of closing them in order: ports are free for the next run at once. */
void group_free(struct group *group);

/* Handles what happens within `timeout_ms`, at most one epoll turn. Connections are opened here as well, a
 * bounded number at a time, until all were tried. */
void group_poll(struct group *group, int timeout_ms);

/* Starts to publish `count` messages, the first one now. Once per group, with all clients joined. */
void group_publish(struct group *group, uint64_t count);

/* All messages of the run are sent, answered, and delivered as far as they were acked. */
bool group_is_drained(const struct group *group);

/* Ends a run: what has not come by now is lost. */
void group_count_missing(struct group *group);

const struct group_tally *group_tally(const struct group *group);

#endif
