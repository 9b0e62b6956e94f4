/* token.h - the `session` of welcome: a user's name and a time, signed.
 *
 * Nothing is stored: whoever has the key of this DATA_DIR can tell that it was given out, to whom and
 * when. base64url of issued time (8 bytes, milliseconds), 8 random bytes, the name, and the first 16 bytes
 * of HMAC-SHA-256 over these. */
#ifndef CHATD_TOKEN_H
#define CHATD_TOKEN_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/message.h"

enum { TOKEN_KEY_SIZE = 32, TOKEN_MAX = 160 };

/* Reads DATA_DIR/session.key, or makes it (0600). By the master, before fork. Negative errno. */
int token_key(const char *data_dir, uint8_t key[TOKEN_KEY_SIZE]) __attribute__((warn_unused_result));

/* Writes a NUL-terminated token for `user` (at most MESSAGE_USER_MAX bytes). */
void token_make(const uint8_t key[TOKEN_KEY_SIZE], struct text user, int64_t now_ms, char token[TOKEN_MAX]);

/* The user of a token that is genuine and younger than `ttl_ms`; the length of the name, 0 for any other
 * token. */
size_t token_check(const uint8_t key[TOKEN_KEY_SIZE], struct text token, int64_t now_ms, int64_t ttl_ms,
                   char user[MESSAGE_USER_MAX]);

#endif
