/* api.h - what GET /api/rooms and below answer with. */
#ifndef CHATD_HTTP_API_H
#define CHATD_HTTP_API_H

#include "chatd/message.h"
#include "chatd/routes.h"

void api_rooms(struct routes *routes, struct conn *conn);

/* `room` is percent-encoded. */
void api_messages(struct routes *routes, struct conn *conn, struct text room, const char *query);
void api_members(struct routes *routes, struct conn *conn, struct text room);

/* The conn goes away: if it waits for one of these, nobody will answer it. */
void api_closed(struct routes *routes, struct conn *conn);

#endif
