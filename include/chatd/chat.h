/* chat.h - users, rooms and messages of one worker: everything between a text from the network and the
 * bus.
 *
 * Calls nothing of libuv, shared memory or databases: it has connections below (conn.h), the bus and the
 * store beside it, and is called by the worker. Loop thread only.
 *
 * Objects: a session per WebSocket connection; a room per room with members here; a member ties one
 * session to one room; a pending is a command whose answer waits for bus or store. A session that ends
 * orphans its pendings, a room lives as long as it has members or pendings: nothing is freed under a
 * callback's feet. */
#ifndef CHATD_CHAT_H
#define CHATD_CHAT_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/bus.h"
#include "chatd/config.h"
#include "chatd/conn.h"
#include "chatd/limit.h"
#include "chatd/sessions.h"
#include "chatd/store.h"

struct chat;

/* Where the chat code is told of the bus: filled for bus_log_new and bus_redis_new. */
struct bus_handler chat_bus_handler(struct chat *chat);

/* `config` and `limit` are borrowed for its life. */
struct chat *chat_new(const struct config *config, struct limit *limit);
/* Before the first connection and the first call up from the bus. */
void chat_connect(struct chat *chat, struct bus *bus, struct store *store, struct sessions *sessions);
void chat_free(struct chat *chat); /* when no connection is left and bus and store are closed */

/* A message that was published but only spooled when its worker stopped (store_mongo): it is published
 * again under its uid, unless window or store have it. `done` is called exactly once, perhaps before this
 * returns: STORE_OK when it is stored. */
void chat_spooled(struct chat *chat, const struct message *message, store_on_number *done, void *done_arg);

/* From the network (net_handler). */
/* `address` is what limit_connect counted the connection under; it is given back when the connection is
 * gone. */
void chat_open(struct chat *chat, struct conn *conn, uint64_t address);
void chat_text(struct chat *chat, struct conn *conn, const char *text, size_t length);
void chat_closed(struct chat *chat, struct conn *conn); /* also for a conn that chat_open never saw */

/* Once per loop turn, after bus_turn and before output is flushed: hands each room's bytes of this turn to
 * its members. */
void chat_turn(struct chat *chat);

/* Once a second: tells large rooms how many they are, tries catch-ups again that failed, keeps sessions. */
void chat_tick(struct chat *chat);

/* The server stops: tells this connection when to come back (`after_ms`) and closes it, once its acks are
 * sent. */
void chat_send_away(struct chat *chat, struct conn *conn, uint32_t after_ms);

#endif
