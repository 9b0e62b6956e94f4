/* fetch.h - asks chatd servers for their pages, all at the same time, each within its own time.
 *
 * One round of a server is one request after the other over one kept connection; a page that can't be had
 * ends the round. A server that hangs costs its own round only. Nothing here blocks but fetch_wait, as long
 * as it is told. */
#ifndef CHATD_TOP_FETCH_H
#define CHATD_TOP_FETCH_H

#include <stdbool.h>

#include "chatd/buf.h"

enum fetch_page {
    FETCH_METRICS, /* JSON */
    FETCH_TEXT,    /* the same as Prometheus text, for its buckets */
    FETCH_HEALTH,
    FETCH_ALERTS,
    FETCH_PAGES
};

enum {
    FETCH_ROUND_MS = 3000,   /* all pages of a round together */
    FETCH_BODY_MAX = 2 << 20 /* more is no page of ours: 512 workers take a third of it */
};

struct fetch_answer {
    long status; /* of HTTP; 0: not asked */
    bool text;   /* text/plain */
    struct buf body;
};

/* `error` is NULL when every page was answered, with whatever status; else why the round ended. What it
 * points to lives until the callback returns. */
typedef void (*on_fetched)(void *arg, const struct fetch_answer answers[FETCH_PAGES], const char *error);

struct fetch;
struct fetch_target;

struct fetch *fetch_new(void);        /* NULL: libcurl can't be used */
void fetch_free(struct fetch *fetch); /* with its targets, which end without a callback */

/* `url` is what goes before /metrics. NULL when libcurl has no memory. */
struct fetch_target *fetch_add(struct fetch *fetch, const char *url, on_fetched done, void *arg);

/* Begins a round; nothing happens while one is under way. */
void fetch_start(struct fetch_target *target);
bool fetch_busy(const struct fetch_target *target);

/* Waits until something came, `fd` (-1: none) can be read, or the time is over, and calls what is done. */
void fetch_wait(struct fetch *fetch, int fd, int timeout_ms);

#endif
