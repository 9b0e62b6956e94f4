/* ws.h - RFC 6455 framing of what a client sends, by wslay.
 *
 * A wslay context weighs 8.6 KB, so connections don't own one: ws_feed leases a clean one from the
 * worker's pool and gives it back when the bytes ended between two messages. Only a connection with an
 * incomplete frame or message keeps its struct ws. Knows neither sockets nor connections: what comes out
 * goes to a sink. */
#ifndef CHATD_NET_WS_H
#define CHATD_NET_WS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ws;

enum { WS_SPARES = 4 };

struct ws_pool {
    struct ws *spares[WS_SPARES];
    unsigned count;
};

struct ws_sink {
    /* One whole message. A text is valid UTF-8. Borrowed for the call. */
    void (*on_message)(void *arg, bool text, const char *data, size_t length);
    /* Finished frames for the peer: pongs, the echo of its close frame. */
    void (*on_output)(void *arg, const char *data, size_t length);
};

enum ws_result {
    WS_MORE,         /* all is well, go on */
    WS_PEER_CLOSED,  /* a valid close frame came; its echo went to on_output */
    WS_BAD_PROTOCOL, /* close with 1002 */
    WS_BAD_UTF8,     /* close with 1007 */
    WS_TOO_LARGE     /* close with 1009 */
};

/* Feeds bytes from the peer. *ws is NULL at first and whenever nothing is incomplete. After any result but
 * WS_MORE, *ws is NULL and nothing more may be fed: the rest of the bytes means nothing. */
enum ws_result ws_feed(struct ws_pool *pool, struct ws **ws, const struct ws_sink *sink, void *arg,
                       const char *data, size_t length, uint64_t message_max)
    __attribute__((warn_unused_result));

void ws_free(struct ws *ws); /* NULL is allowed */
void ws_pool_deinit(struct ws_pool *pool);

#endif
