/* internal.h - what the files of net share: struct conn, struct net, and who does what to a connection.
 *
 * States of a connection, and where a read goes in each:
 *
 *     READ ---> HANDLE ---> ANSWER --+--> READ     (HTTP: request read, with the handler, answered)
 *       |                            +--> LINGER
 *       +-----> OPEN ---> CLOSING ------> LINGER --> CLOSED   (WebSocket; CLOSING: see conn_close)
 *
 * CLOSING: the close was asked for; the flush tells the handler and queues the close frame (once,
 * FLAG_CLOSE_BEGUN), then the peer's close frame is awaited. LINGER: our side is shut down, what still comes
 * is thrown away until end of file, so that the kernel doesn't turn unread bytes into a reset that takes our
 * last words with it. CLOSED: uv_close was called; the memory goes in its callback and nowhere else.
 *
 * Every state with a way to get stuck has its deadline in conn_sweep. */
#ifndef CHATD_NET_INTERNAL_H
#define CHATD_NET_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "chatd/conn.h"
#include "chatd/http.h"
#include "chatd/net.h"
#include "outq.h"
#include "ws.h"

enum {
    NET_ACCEPTS_PER_TURN = 64,
    NET_SWEEP_MS = 500,
    NET_SWEEP_SLICES = 2, /* sweeps until each connection was visited */
    NET_REFUSAL_TOLD_MS = 1000,
    NET_SLOW_MS = 1000,   /* bytes have waited for longer: a slow reader */
    NET_LAST_MS = 1000,   /* for the first request of who came right before the listener was closed */
    NET_CLOSE_MS = 2000   /* for the peer's close frame, and for its end of file after that */
};

enum conn_state { CONN_READ, CONN_HANDLE, CONN_ANSWER, CONN_OPEN, CONN_CLOSING, CONN_LINGER, CONN_CLOSED };

enum {
    FLAG_DIRTY = 1,          /* in net's dirty list */
    FLAG_UPGRADED = 2,       /* `ws`, not `http`, is the member in use */
    FLAG_ATTACHED = 4,       /* the handler is owed an on_close */
    FLAG_PINGED = 8,         /* a ping went out and nothing came since */
    FLAG_CLOSE_BEGUN = 16,   /* our close frame, if any, is queued; on_close was called */
    FLAG_PEER_CLOSED = 32,   /* no close frame of the peer's is to be awaited */
    FLAG_SERVED = 64,        /* answered at least one request: silence is no fault any more */
    FLAG_LAST = 128          /* this answer is the last: the connection closes behind it */
};

/* Kept small: 80,000 of these may be idle. Times are the low 32 bits of the loop's milliseconds; only
 * differences count. */
struct conn {
    uv_poll_t poll;
    struct net *net;
    void *data;
    struct conn *dirty_next;
    union {
        struct http *http; /* NULL until the first byte of a request */
        struct ws *ws;     /* NULL while no message is incomplete */
    };
    struct outq queue;
    uint64_t id;
    int fd;
    uint32_t index;   /* in net's table */
    uint32_t heard;   /* when bytes came last */
    uint32_t since;   /* when the present wait began: for a request, a pong, a close */
    uint32_t behind;  /* since when the queue was never empty after a flush; 0: it is */
    uint8_t state;    /* enum conn_state */
    uint8_t flags;
    uint8_t reason;   /* enum close_reason, from CONN_CLOSING on */
    uint8_t watched;  /* the events libuv polls for */
    uint8_t slow;     /* counted among the slow readers */
    uint32_t opened_s; /* net_seconds at its upgrade */
    uint32_t messages; /* from the peer */
};

struct net {
    uv_loop_t *loop;
    const struct config *config;
    struct net_handler handler;
    uv_timer_t timer;
    uv_check_t check;
    uv_prepare_t prepare;
    uv_poll_t listener;
    int listen_fd; /* -1: not listening */
    uint32_t refusal_told; /* when the log was last told that descriptors ran out */
    int reserve;   /* descriptor given up when there are no more, see listener.c */
    bool listener_paused;
    bool held; /* see net_hold */
    bool stopping;
    bool closed;
    struct conn **table; /* all connections but those in CONN_CLOSED */
    uint32_t count;
    uint32_t capacity;
    uint32_t cursor; /* the sweep visits table[cursor - 1] next, downwards */
    uint32_t live;   /* connections not yet freed */
    struct conn *dirty;
    struct conn **dirty_tail;
    struct frame *ping;
    struct ws_pool pool;
    struct outq_tally tally; /* since the last flush */
    int64_t read_us;         /* Unix time of the last read */
    uint64_t queued;         /* bytes in all send queues */
    bool told;               /* an on_close ran since on_flush */
    uint64_t last_id;
    struct libdeflate_compressor *gzip; /* NULL until an answer is compressed */
    char *buffer; /* NET_READ_BUFFER bytes, for whoever reads now */
};

static inline uint32_t net_now(const struct net *net)
{
    return (uint32_t)uv_now(net->loop);
}

/* For what may last longer than 32 bits of milliseconds. */
static inline uint32_t net_seconds(const struct net *net)
{
    return (uint32_t)(uv_now(net->loop) / 1000);
}

/* conn.c */
void conn_accept(struct net *net, int fd); /* owns fd from here on */
void conn_queue(struct conn *conn, struct frame *frame); /* as conn_send, in any state and without limit */
void conn_flush(struct conn *conn);
void conn_mark(struct conn *conn); /* into the dirty list */
void conn_upgrade(struct conn *conn); /* from HTTP to CONN_OPEN; the caller frees the HTTP state */
void conn_feed_ws(struct conn *conn, const char *data, size_t length);
void conn_sweep(struct conn *conn);
void conn_finish(struct conn *conn, enum close_reason reason); /* CONN_CLOSED, now */
void conn_detach(struct conn *conn, enum close_reason reason); /* on_close, if it is owed */

/* conn_id.c */
uint64_t conn_id_first(int worker);
uint64_t conn_id_next(uint64_t id);

/* conn_log.c */
void conn_log_opened(const struct conn *conn);
void conn_log_closed(const struct conn *conn, enum close_reason reason, unsigned code);
void conn_log_refused(const struct conn *conn, int status, const char *code);

/* http.c */
void http_feed(struct conn *conn, const char *data, size_t length);
void http_answered(struct conn *conn); /* the answer is written and the connection goes on */
bool http_pipelined(const struct conn *conn); /* more came behind the request that was answered */
void http_timeout(struct conn *conn);
void http_release(struct conn *conn, bool serve); /* net is held no more: carried out, or refused */
void http_free(struct http *http);

/* http_request.c */
size_t http_header_count(const struct http_request *request, const char *name);

/* listener.c */
int listener_start(struct net *net, int fd);
void listener_resume(struct net *net); /* from the sweep: ends a pause, see listener.c */
void listener_stop(struct net *net);

#endif
