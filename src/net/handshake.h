/* handshake.h - the server's side of the opening handshake, RFC 6455 section 4.2. Pure: a request in, an
 * answer out. */
#ifndef CHATD_NET_HANDSHAKE_H
#define CHATD_NET_HANDSHAKE_H

#include "chatd/http.h"

enum { HANDSHAKE_ACCEPT_SIZE = 29 }; /* base64 of a SHA-1, and NUL */

/* True when the request asks for a WebSocket, rightly or not. */
bool handshake_wanted(const struct http_request *request);

/* 0: valid, and `accept` holds the value for Sec-WebSocket-Accept. Else the HTTP status to refuse it with,
 * 400 or 426, and why in *message. */
int handshake_check(const struct http_request *request, char accept[HANDSHAKE_ACCEPT_SIZE],
                    const char **message) __attribute__((warn_unused_result));

/* True when the client offers this subprotocol (its name counts as it is written, section 4.1). */
bool handshake_offers(const struct http_request *request, const char *protocol);

#endif
