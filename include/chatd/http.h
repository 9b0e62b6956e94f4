/* http.h - request heads parsed by libhttp-parser, and answers.
 *
 * RFC 9110/9112, strictly: lines end in CR LF, no folded lines, no control characters, exactly one Host in
 * HTTP/1.1 (400 else). The head is at most max_head_bytes with at most HTTP_HEADERS_MAX headers (431);
 * head and body must be complete within handshake_timeout (408). Bodies are accepted up to NET_BODY_MAX
 * (413), chunked or with Content-Length; `Expect: 100-continue` is answered. Every refusal has a JSON body
 * {"error":{"code":...,"message":...}} and closes the connection; every other answer keeps it alive if the
 * client wishes, for handshake_timeout without a request. Pipelined requests wait until the answer before
 * is written. Upgrades to anything but websocket are answered as plain HTTP. */
#ifndef CHATD_HTTP_H
#define CHATD_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#include "chatd/conn.h"

#define HTTP_SUBPROTOCOL "chatd.v1" /* echoed in the 101 answer when the client offers it */

enum { HTTP_HEADERS_MAX = 64 };

struct http_header {
    const char *name; /* lower-cased, NUL-terminated */
    const char *value;
};

/* All strings are borrowed for the call and NUL-terminated (a NUL in a head is a 400); only a body may
 * hold NULs. */
struct http_request {
    const char *method;
    const char *path;  /* percent-encoding not undone, without the query */
    const char *query; /* empty without one */
    const char *body;
    size_t body_length;
    int minor; /* HTTP/1.minor */
    size_t header_count;
    struct http_header headers[HTTP_HEADERS_MAX];
};

/* The first header of that (lower-case) name, NULL without one. */
const char *http_header(const struct http_request *request, const char *name);

/* True when the comma-separated list in any header of that name contains the token, in any case (RFC 9110
 * section 5.6.1). */
bool http_has_token(const struct http_request *request, const char *name, const char *token);

/* The value of `name` in a query or form string, percent-decoded into `out`, + as a space; false when
 * absent, too long or badly encoded. The first one counts. */
bool http_query(const char *query, const char *name, char *out, size_t size);

/* Percent-decoding alone (+ stays), for a piece of a path. A NUL is refused. */
bool http_decode(const char *text, size_t length, char *out, size_t size);

/* Answers the request that on_request brought, with a copy of everything. `type` may be NULL; `headers` is
 * NULL or finished lines, each with CRLF. A HEAD request gets no body but its length. Content-Length and
 * Connection are added. On a connection without an unanswered request nothing happens. */
void http_respond(struct conn *conn, int status, const char *type, const char *headers, const void *body,
                  size_t length);

/* http_respond with the JSON error body. */
void http_respond_error(struct conn *conn, int status, const char *headers, const char *code,
                        const char *message);

#endif
