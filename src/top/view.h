/* view.h - what is known of the servers, as lines. */
#ifndef CHATD_TOP_VIEW_H
#define CHATD_TOP_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sample.h"
#include "sheet.h"

enum view_order { VIEW_NUMBER, VIEW_CONNECTIONS, VIEW_MESSAGES, VIEW_CPU, VIEW_MEMORY, VIEW_ORDERS };

struct view_server {
    const char *label;              /* host and port, or the URL without its user and password */
    struct sample *before, *now;    /* NULL: none yet; both go when the server doesn't answer */
    char trouble[SAMPLE_ERROR_MAX]; /* why it didn't; empty while it does */
    int64_t since_ms;               /* of the trouble, monotonic */
};

struct view {
    struct view_server *servers;
    size_t count;
    enum view_order order; /* of servers and of each one's workers; the largest first, but for numbers */
    double interval;       /* seconds */
    bool paused;
};

/* Fills the sheet anew. The first line is the head, which stays while the others are scrolled. */
void view_draw(const struct view *view, struct sheet *sheet);

const char *view_order_word(enum view_order order);

#endif
