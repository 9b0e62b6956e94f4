/* conn.h - one connection, as the layers above see it. Opaque; owned by net. Loop thread only.
 *
 * A conn is valid from its first callback until net_handler.on_close returns (without one owed: until
 * http_respond or a refusing on_upgrade returns). An idle WebSocket connection costs at most 320 bytes of
 * net's memory, its libuv handle of 160 included. */
#ifndef CHATD_CONN_H
#define CHATD_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "chatd/frame.h"
#include "chatd/net.h"

/* The layer above's pointer; NULL at first. */
void conn_set_data(struct conn *conn, void *data);
void *conn_data(const struct conn *conn);

/* Queues a frame: takes one reference of its own. Written at the end of the loop turn. On a closing conn
 * nothing happens. When what waits behind the first frame would pass send_queue_bytes, and the kernel takes
 * nothing either, the frame is not taken and the conn closes with CLOSE_SLOW: what waits is dropped but for a
 * frame that is half sent. An empty queue takes one frame of any size, whose length is not the peer's fault.
 * on_close is never called from inside. No allocation while at most two frames wait. */
void conn_send(struct conn *conn, struct frame *frame);

/* Queues one text message with a frame of its own. */
void conn_send_text(struct conn *conn, const char *text, size_t length);

/* Unix time in microseconds at which this worker read last: within on_text, the bytes that brought the
 * message. */
int64_t conn_read_us(const struct conn *conn);

/* Bytes that wait for the peer. For those who would rather drop than queue (typing). */
size_t conn_queued(const struct conn *conn);

/* Starts the close: at the end of the loop turn on_close is called and the close frame queued behind what
 * waits; it is all written as far as the peer takes it, and the peer has two seconds to answer (RFC 6455
 * section 7.1.1). A reason without a code, or after the peer's close frame: no frame, no waiting. From
 * here on no message is delivered and nothing is queued. May be repeated; the first reason counts. */
void conn_close(struct conn *conn, enum close_reason reason);
bool conn_closing(const struct conn *conn);

/* Id for the log and for support, unique over all workers and restarts of a host (net_name); shown in letters
 * and digits by conn_id_text. */
enum { CONN_ID_SIZE = 14 }; /* with its NUL */
uint64_t conn_id(const struct conn *conn);
void conn_id_text(uint64_t id, char text[CONN_ID_SIZE]);

/* The peer's address as the kernel gives it (asked when needed, not stored). False when the peer is gone. */
bool conn_peer(const struct conn *conn, struct sockaddr_storage *address);

#endif
