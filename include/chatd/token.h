/* token.h - sessions of one host: the `session` of welcome is a user's name and a time, signed.
 *
 * Nothing is stored: whoever has the key of this DATA_DIR can tell that it was given out, to whom and
 * when. base64url of issued time (8 bytes, milliseconds), 8 random bytes, the name, and the first 16 bytes
 * of HMAC-SHA-256 over these. The random bytes are the session's id; a session that is resumed gets a
 * token with a new time. Rooms aren't kept, and a token's time runs from when it was given out, however
 * long the connection lasts. */
#ifndef CHATD_TOKEN_H
#define CHATD_TOKEN_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/config.h"
#include "chatd/message.h"
#include "chatd/sessions.h"

enum { TOKEN_KEY_SIZE = 32 };

struct token_sessions {
    struct sessions sessions; /* first: ops get a pointer to it */
    const uint8_t *key;
    const struct config *config;
};

/* The caller's storage; `key` (TOKEN_KEY_SIZE bytes) and `config` (session_ttl) are borrowed for its life.
 * Look-ups are answered before they return. */
void token_sessions_init(struct token_sessions *sessions, const uint8_t *key, const struct config *config);

/* Reads DATA_DIR/session.key, or makes it (0600). By the master, before fork. Negative errno. */
int token_key(const char *data_dir, uint8_t key[TOKEN_KEY_SIZE]) __attribute__((warn_unused_result));

/* Writes a NUL-terminated token for `user` (at most MESSAGE_USER_MAX bytes), with the random bytes of
 * `id`. */
void token_make(const uint8_t key[TOKEN_KEY_SIZE], struct text user, const uint8_t id[SESSIONS_ID_SIZE],
                int64_t now_ms, char token[SESSIONS_TOKEN_MAX]);

/* The user of a token that is genuine and younger than `ttl_ms`; the length of the name, 0 for any other
 * token. Fills `id` too. */
size_t token_check(const uint8_t key[TOKEN_KEY_SIZE], struct text token, int64_t now_ms, int64_t ttl_ms,
                   char user[MESSAGE_USER_MAX], uint8_t id[SESSIONS_ID_SIZE]);

#endif
