/* net.h - one worker's network side: its loop, its connections, and the handler they report to.
 *
 * Life of a connection: accepted -> HTTP (head collected, limits on size and time) -> either answered as HTTP
 * (keep-alive, one request at a time) or upgraded to WebSocket (RFC 6455) -> closed. Bytes arrive in ONE read
 * buffer per worker. WebSocket bytes are fed to one of the worker's clean wslay contexts; a connection keeps
 * a context of its own only while a message is incomplete at the end of a read. What is sent is a reference
 * to a frame in the connection's queue; connections with output stand in a dirty list that is flushed at the
 * end of each loop turn (a check and a prepare handle), by one writev each. Timeouts (handshake, ping, close)
 * come from one sweep that visits each connection about once a second; no timer each. So a timeout comes up
 * to a second and a half late, never early.
 *
 * Everything here runs in the loop thread. net knows nothing of chat: it calls up through struct
 * net_handler. */
#ifndef CHATD_NET_H
#define CHATD_NET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <uv.h>

#include "chatd/config.h"

struct conn;
struct http_request;
struct net;

#define CLOSE(name, code, word) CLOSE_##name,
enum close_reason {
#include "chatd/close_reasons.def"
    CLOSE_COUNT
};
#undef CLOSE

const char *close_reason_word(enum close_reason reason);

/* What the layer above does. `arg` is net_handler.arg. None of them but on_binary may be NULL. */
struct net_handler {
    void *arg;
    /* A plain HTTP request whose head and body (at most NET_BODY_MAX) are complete. Answer with
     * http_respond, now or later: the connection reads nothing more until then, so that a client which
     * goes away meanwhile is noticed only by the answer. on_close tells when net closed it before. */
    void (*on_request)(void *arg, struct conn *conn, const struct http_request *request);
    /* A valid RFC 6455 opening handshake for `request->path`. Return 0 to accept, or the HTTP status (404,
     * 429, 503 ...) to refuse it with; *code and *message then go into the JSON error body. conn_peer and
     * conn_set_data may be used; after 0, on_open follows at once, so what is set here is never lost. */
    int (*on_upgrade)(void *arg, struct conn *conn, const struct http_request *request, const char **code,
                      const char **message);
    /* The 101 answer is queued; conn_send may be used from here on. */
    void (*on_open)(void *arg, struct conn *conn);
    /* One whole text message, valid UTF-8, at most max_message_bytes. Borrowed for the call. */
    void (*on_text)(void *arg, struct conn *conn, const char *text, size_t length);
    /* One whole binary message. NULL: this program knows none, and one closes with CLOSE_BINARY. */
    void (*on_binary)(void *arg, struct conn *conn, const char *data, size_t length);
    /* Exactly once for each conn that was passed to on_open or holds an unanswered on_request. Last use of
     * conn. It comes when the close begins, in the turn of conn_close; net alone waits for the peer's part
     * of it. Never from inside a function of conn.h, only from the flush, the loop or net_close. */
    void (*on_close)(void *arg, struct conn *conn, enum close_reason reason);
    /* Before the dirty list is flushed: the layer above queues what it gathered in this turn. Called twice
     * in a loop turn (before and after waiting for events), and again when a flush led to an on_close;
     * must be cheap when there is nothing. */
    void (*on_flush)(void *arg);
    /* Whether a request that comes while net is held is answered all the same. NULL: none is. */
    bool (*on_early)(void *arg, const struct http_request *request);
};

enum { NET_BODY_MAX = 65536, NET_READ_BUFFER = 65536 };

/* The handler is copied. `config` is borrowed and read at each use, so a reload shows at once. Serves
 * nothing until net_listen. */
int net_init(struct net **net, uv_loop_t *loop, const struct config *config,
             const struct net_handler *handler) __attribute__((warn_unused_result));

/* Starts accepting on a listening, non-blocking socket (owned by the caller, one per net; -EBUSY for a
 * second one or after net_stop_listening). Accepts are bounded per loop turn, so a storm can't starve live
 * users. Out of descriptors: one in reserve is used to answer 503 and close. */
int net_listen(struct net *net, int fd) __attribute__((warn_unused_result));

/* Connections' ids begin with this worker's number from here on; before net_listen. */
void net_name(struct net *net, int worker);

/* From net_listen on requests and upgrades wait, each no longer than handshake_timeout (503 then), but for
 * those that on_early lets through. net_release carries them out. Who listens and can't serve yet is told
 * apart from one who is not there, and a client that came early is served without trying again. */
void net_hold(struct net *net);
void net_release(struct net *net);

/* Stops accepting and closes what is still before its upgrade, requests with the handler after their
 * answer; held requests get 503. Who just came has a second for the first request, which is carried out:
 * a reload must not cost those whom the kernel gave to the old worker. WebSocket connections stay. For
 * good; may be repeated. */
void net_stop_listening(struct net *net);

/* Calls `visit` for each open WebSocket connection that is not closing; it may conn_close any. */
void net_each(struct net *net, void (*visit)(void *arg, struct conn *conn), void *arg);

uint32_t net_count(const struct net *net); /* connections of any state not yet freed */

/* Closes all at once, with no more than one attempt to write what waits and a close frame with 1001.
 * on_close is called for each that is owed one. The memory goes as the loop runs the close callbacks. May
 * be called from any callback. */
void net_close(struct net *net);
void net_free(struct net *net); /* after net_close and a loop run to its end */

/* Creates, binds and listens a SO_REUSEPORT TCP socket (non-blocking, close-on-exec, IPV6_V6ONLY off).
 * `host` is an IPv4 or IPv6 address, not a name (-EINVAL). *port 0 is replaced by the kernel's choice.
 * Backlog is the kernel's maximum. Returns the fd or a negative errno. */
int listener_open(const char *host, int *port) __attribute__((warn_unused_result));

/* 0 when nobody listens there, -EADDRINUSE when somebody does, though SO_REUSEPORT might let listener_open in
 * beside; another negative errno when the address can't be bound at all. */
int listener_probe(const char *host, int port) __attribute__((warn_unused_result));

#endif
