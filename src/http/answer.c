/* answer.c - the two forms that every JSON answer has. */
#include "answer.h"

#include "chatd/http.h"

#define ANSWER_TYPE "application/json"
#define ANSWER_HEADERS "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"

void answer_json(struct conn *conn, int status, struct buf *json)
{
    http_respond(conn, status, ANSWER_TYPE, ANSWER_HEADERS, json->data, json->length);
    buf_deinit(json);
}

void answer_varying(struct conn *conn, const char *type, struct buf *body)
{
    http_respond(conn, 200, type, "Vary: Accept\r\n" ANSWER_HEADERS, body->data, body->length);
    buf_deinit(body);
}

void answer_error(struct conn *conn, int status, const char *headers, const char *code, const char *message)
{
    struct buf lines = BUF_INIT;

    buf_printf(&lines, "%s%s", ANSWER_HEADERS, headers != NULL ? headers : "");
    buf_add_literal(&lines, "\0");
    http_respond_error(conn, status, lines.data, code, message);
    buf_deinit(&lines);
}
