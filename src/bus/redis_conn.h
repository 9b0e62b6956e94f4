/* redis_conn.h - one connection to one Redis server: hiredis' socket, output buffer and reader on the
 * worker's loop.
 *
 * Not hiredis' async API: that of 0.14.1 aborts on `smessage` and looks names up in connect. Names are looked
 * up by uv_getaddrinfo on a thread. Loop thread only.
 *
 * Life: opened -> connecting -> on_ready -> replies, one on_reply each in the order of the commands ->
 * on_lost, once, at any time; after it (and after redis_conn_close, which calls nothing) the conn is no more.
 * Nothing is tried again here: who owns the conn opens another.
 *
 * What it does by itself: HELLO-less RESP2 sign-in (AUTH, SELECT, CLIENT SETNAME chatd), INFO for run id,
 * replication id and role (a replica is not wanted: REDIS_FAULT_READONLY), SCRIPT LOAD of the scripts; then a
 * look each REDIS_CONN_PING_MS (INFO replication, PING on a subscriber): another role or another
 * master_replid is a fault, and so is silence of REDIS_CONN_SILENCE_MS while an answer is awaited, for
 * example on a half-open connection. Replies to its own commands are not handed up. */
#ifndef CHATD_BUS_REDIS_CONN_H
#define CHATD_BUS_REDIS_CONN_H

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "redis_error.h"
#include "redis_target.h"

struct redis_conn;

enum { REDIS_CONN_PING_MS = 1000, REDIS_CONN_SILENCE_MS = 3000, REDIS_CONN_CONNECT_MS = 3000 };

/* master_replid: what a server's data descends from. 40 characters. */
enum { REDIS_LIFE_SIZE = 40 };

enum redis_conn_kind {
    REDIS_CONN_COMMANDS,
    REDIS_CONN_SUBSCRIBER, /* no SELECT, no scripts; pushes come through on_reply */
    REDIS_CONN_SENTINEL,   /* sentinel_password; no role, no scripts, no life */
    REDIS_CONN_ASK,        /* any role, the target's credentials, no scripts, no life: for CLUSTER SLOTS */
};

struct redis_conn_handler {
    void *arg;
    /* Signed in. `life` is its master_replid (REDIS_LIFE_SIZE bytes; NULL for a sentinel). */
    void (*on_ready)(void *arg, const char *life);
    /* The reply to the oldest unanswered command, or a push of a subscriber. Freed when the call returns. An
     * error reply that means that the whole connection is of no use (a row of enum redis_fault) doesn't come
     * here. */
    void (*on_reply)(void *arg, const redisReply *reply);
    /* Gone, with the commands whose replies have not come: they may or may not have been carried out. `error`
     * is the server's or the system's word. */
    void (*on_lost)(void *arg, enum redis_fault fault, const char *error);
};

struct redis_conn_options {
    uv_loop_t *loop;
    const struct redis_target *target;    /* borrowed for the conn's life: credentials, database, TLS */
    const struct redis_address *address;  /* copied */
    enum redis_conn_kind kind;
    const struct redis_script *scripts;   /* borrowed; a list that ends with a NULL source; may be NULL */
    struct redis_conn_handler handler;    /* copied */
};

/* A Lua script; `sha` is filled by redis_script_init and is what EVALSHA takes. */
struct redis_script {
    const char *source;
    size_t length;
    char sha[41];
};

void redis_script_init(struct redis_script *script); /* SHA-1 of the source in hex */

bool redis_conn_has_tls(void); /* built with a hiredis that has it */

/* Starts; on_ready or on_lost come later. Negative errno only when there is no memory. */
int redis_conn_open(struct redis_conn **conn, const struct redis_conn_options *options)
    __attribute__((warn_unused_result));

/* Appends one command (exactly one: answers are counted), already in RESP (redisFormatCommandArgv), to the
 * output buffer. Only after on_ready. Nothing is written before redis_conn_flush. */
void redis_conn_append(struct redis_conn *conn, const char *resp, size_t length);

/* One write of what was appended, as far as the socket takes it; the rest follows by itself. Once per loop
 * turn. Calls nothing: that the connection is gone is heard on reading. */
void redis_conn_flush(struct redis_conn *conn);

/* When the server was last heard (clock_monotonic_ms), 0: never. In on_lost as well, for the last time. */
int64_t redis_conn_heard_ms(const struct redis_conn *conn);

void redis_conn_close(struct redis_conn *conn); /* calls nothing any more; from any callback */

#endif
