/* http.h - request heads parsed by libhttp-parser, and answers.
 *
 * RFC 9110/9112, strictly: lines end in CR LF, no folded lines, no control characters, exactly one Host in
 * HTTP/1.1 (400 else). The head is at most max_head_bytes with at most HTTP_HEADERS_MAX headers (431);
 * head and body must be complete within handshake_timeout (408). Bodies are accepted up to NET_BODY_MAX
 * (413), chunked or with Content-Length; `Expect: 100-continue` is answered. A request line that alone passes
 * max_head_bytes is 414, another major version 505. A method that http_parser doesn't know is 400: it can't
 * tell it from rubbish. Every refusal has a JSON body
 * {"error":{"code":...,"message":...}} and closes the connection; every other answer keeps it alive if the
 * client wishes, for handshake_timeout without a request. Pipelined requests wait until the answer before
 * is written, each for a loop turn of its own. Upgrades to anything but websocket are answered as plain HTTP.
 *
 * Compression (RFC 9110 sections 8.4.1.3, 12.5.3): an answer of a text-like type says `Vary: Accept-Encoding`
 * and is sent with gzip when the client takes it, it has HTTP_GZIP_MIN bytes and gets smaller; above
 * HTTP_GZIP_MAX bytes it is not tried, since it holds the loop (4.5 ms of a slow core for as much). */
#ifndef CHATD_HTTP_H
#define CHATD_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#include "chatd/conn.h"

#define HTTP_SUBPROTOCOL "chatd.v1" /* echoed in the 101 answer when the client offers it */

enum { HTTP_HEADERS_MAX = 64, HTTP_GZIP_MIN = 1024, HTTP_GZIP_MAX = 1024 * 1024 };

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

/* A media type that an address offers, without parameters but its version (empty: it has none). */
struct http_type {
    const char *name;
    const char *version;
};

/* Which of these the client would rather have, by its Accept (RFC 9110 section 12.5.1): the highest weight,
 * then the one that is named most exactly, then the first. Without Accept, or when it takes none of them, the
 * first. A range that names another version means another type; other parameters don't count. */
size_t http_choose(const struct http_request *request, const struct http_type *types, size_t count);

/* What Accept-Encoding says: as it is, with gzip if that gains, or with gzip whatever the size
 * (`identity;q=0`). A client that takes neither gets it as it is. */
enum http_coding { HTTP_IDENTITY, HTTP_GZIP, HTTP_GZIP_ONLY };
enum http_coding http_coding(const struct http_request *request);

/* True when If-None-Match has this entity tag (with its quotes; strong or weak there), or is `*`. */
bool http_has_etag(const struct http_request *request, const char *etag);

/* Answers the request that on_request brought, with a copy of everything. `type` may be NULL; `headers` is
 * NULL or finished lines, each with CRLF. A HEAD request gets no body but its length. Date, Content-Length
 * and Connection are added, and what compression needs. On a connection without an unanswered request nothing
 * happens. */
void http_respond(struct conn *conn, int status, const char *type, const char *headers, const void *body,
                  size_t length);

/* The same, never compressed: the body is already, or its caller knows better. */
void http_respond_plain(struct conn *conn, int status, const char *type, const char *headers,
                        const void *body, size_t length);

/* http_respond with the JSON error body. */
void http_respond_error(struct conn *conn, int status, const char *headers, const char *code,
                        const char *message);

#endif
