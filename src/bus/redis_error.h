/* redis_error.h - what a server's errors mean. An error's code is its first word. */
#ifndef CHATD_BUS_REDIS_ERROR_H
#define CHATD_BUS_REDIS_ERROR_H

#include <hiredis/hiredis.h>
#include <stdbool.h>

/* Why a connection was lost. Each is named in one log line by who tells it (redis_fault_word). */
enum redis_fault {
    REDIS_FAULT_CONNECT,    /* refused, unreachable, name unknown, too slow */
    REDIS_FAULT_CLOSED,     /* by the server: restart, CLIENT KILL, client-output-buffer-limit */
    REDIS_FAULT_SILENT,     /* half open, or the server hangs */
    REDIS_FAULT_PROTOCOL,   /* what came is not RESP */
    REDIS_FAULT_LIFE,       /* master_replid changed under us */
    REDIS_FAULT_READONLY,   /* it is a replica (now) */
    REDIS_FAULT_MASTERDOWN, /* a replica without its master */
    REDIS_FAULT_LOADING,    /* it reads its data; soon back */
    REDIS_FAULT_AUTH,       /* NOAUTH, WRONGPASS, NOPERM at sign-in */
    REDIS_FAULT_NOSCRIPT,   /* somebody flushed the scripts: the next sign-in loads them */
    REDIS_FAULT_REFUSED,    /* anything else at sign-in: no such database, too many clients */
    REDIS_FAULT_TLS,
};

const char *redis_fault_word(enum redis_fault fault); /* "closed", "read_only", "wrong_password", … */

/* The code of an error reply and what follows it, without the wrapping that Redis 6 and older put around an
 * error raised inside a script; "" for other replies. redis_error_is: whether it has that code (`OOM`,
 * `MOVED`). */
const char *redis_error_code(const redisReply *reply);
bool redis_error_is(const redisReply *reply, const char *code);

/* An error that means that the whole connection is of no use, and which fault that is. */
bool redis_error_fault(const redisReply *reply, enum redis_fault *fault);

#endif
