/* static.h - the page's files, which are part of the program. */
#ifndef CHATD_HTTP_STATIC_H
#define CHATD_HTTP_STATIC_H

#include <stdbool.h>

#include "chatd/http.h"

/* Their compressed forms, made at the first request for each and kept. */
struct static_files;

bool static_has(const char *path);

/* Answers with the file of request->path, which static_has knows, or with 304 when the client has it. *made
 * is NULL at first. */
void static_respond(struct static_files **made, struct conn *conn, const struct http_request *request);

void static_free(struct static_files *made); /* NULL is allowed */

#endif
