/* answer.h - the two forms that every JSON answer of chatd's HTTP side has. Never cached. */
#ifndef CHATD_HTTP_ANSWER_H
#define CHATD_HTTP_ANSWER_H

#include "chatd/buf.h"
#include "chatd/conn.h"

/* Sends `json` and frees it: the caller's buffer is empty afterwards. */
void answer_json(struct conn *conn, int status, struct buf *json);

/* The same with 200 for an answer in one of several types, chosen by Accept. */
void answer_varying(struct conn *conn, const char *type, struct buf *body);

/* http_respond_error with the headers that all of these have; `headers` is NULL or more of them. */
void answer_error(struct conn *conn, int status, const char *headers, const char *code, const char *message);

#endif
