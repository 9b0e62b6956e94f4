/* static.h - the page's files, which are part of the program. */
#ifndef CHATD_HTTP_STATIC_H
#define CHATD_HTTP_STATIC_H

#include <stdbool.h>

#include "chatd/conn.h"

bool static_has(const char *path);

/* Answers with the file of that path, which static_has knows. */
void static_respond(struct conn *conn, const char *path);

#endif
