/* redis_tls.h - TLS under a connection of hiredis, where hiredis has it (1.0 and newer, libhiredis_ssl).
 *
 * The server has to prove its name (or address) against the system's authorities, or those in SSL_CERT_FILE
 * and SSL_CERT_DIR. Loop thread only. */
#ifndef CHATD_BUS_REDIS_TLS_H
#define CHATD_BUS_REDIS_TLS_H

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>

struct redis_tls;

bool redis_tls_available(void); /* built with a hiredis that has it */

/* Begins the handshake on a connected, non-blocking context; it goes on inside its reads and writes. NULL
 * with the reason in `error`. To be freed after redisFree(context). */
struct redis_tls *redis_tls_start(redisContext *context, const char *host, char *error, size_t size);
void redis_tls_free(struct redis_tls *tls); /* NULL: nothing to do */

/* What is wrong with the server's certificate, or NULL: hiredis has no words for it. */
const char *redis_tls_error(const struct redis_tls *tls);

/* A write that was not taken waits for something to read. False for NULL. */
bool redis_tls_wants_read(const struct redis_tls *tls);

#endif
