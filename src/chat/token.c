/* token.c - see token.h; nettle does the arithmetic. */
#include "chatd/token.h"

#include <errno.h>
#include <fcntl.h>
#include <nettle/base64.h>
#include <nettle/hmac.h>
#include <nettle/memops.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chatd/clock.h"

enum {
    TIME_SIZE = 8,
    RANDOM_SIZE = 8, /* the first bytes of the id; the others are 0 */
    HEAD_SIZE = TIME_SIZE + RANDOM_SIZE,
    MAC_SIZE = 16,
    RAW_MAX = HEAD_SIZE + MESSAGE_USER_MAX + MAC_SIZE,
};

/* Nobody else's file by way of a link, and nobody else's to read. */
static int open_key(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && ((st.st_mode & 077) == 0 || fchmod(fd, 0600) == 0))
        return fd;
    close(fd);
    return -EPERM;
}

static int read_key(const char *path, uint8_t key[TOKEN_KEY_SIZE])
{
    int fd = open_key(path, O_RDONLY);
    ssize_t n;

    if (fd < 0)
        return fd;
    n = read(fd, key, TOKEN_KEY_SIZE);
    close(fd);
    return n == TOKEN_KEY_SIZE ? 0 : -EBADMSG;
}

int token_key(const char *data_dir, uint8_t key[TOKEN_KEY_SIZE])
{
    char path[4096];
    int error, fd;
    ssize_t written;

    snprintf(path, sizeof(path), "%s/session.key", data_dir);
    error = read_key(path, key);
    if (error != -ENOENT && error != -EBADMSG)
        return error;
    /* Missing, or cut short by a crash: a new key only ends sessions that nobody has used since. */
    if (getrandom(key, TOKEN_KEY_SIZE, 0) != TOKEN_KEY_SIZE)
        return -EIO;
    fd = open_key(path, O_WRONLY | O_CREAT | O_TRUNC);
    if (fd < 0)
        return fd;
    written = write(fd, key, TOKEN_KEY_SIZE);
    close(fd);
    return written == TOKEN_KEY_SIZE ? 0 : -EIO;
}

static void sign(const uint8_t key[TOKEN_KEY_SIZE], const uint8_t *data, size_t length, uint8_t mac[MAC_SIZE])
{
    struct hmac_sha256_ctx context;

    hmac_sha256_set_key(&context, TOKEN_KEY_SIZE, key);
    hmac_sha256_update(&context, length, data);
    hmac_sha256_digest(&context, MAC_SIZE, mac);
}

void token_make(const uint8_t key[TOKEN_KEY_SIZE], struct text user, const uint8_t id[SESSIONS_ID_SIZE],
                int64_t now_ms, char token[SESSIONS_TOKEN_MAX])
{
    struct base64_encode_ctx context;
    uint8_t raw[RAW_MAX];
    size_t length = HEAD_SIZE + user.length, written;

    memcpy(raw, &now_ms, TIME_SIZE);
    memcpy(raw + TIME_SIZE, id, RANDOM_SIZE);
    memcpy(raw + HEAD_SIZE, user.data, user.length);
    sign(key, raw, length, raw + length);
    base64url_encode_init(&context);
    written = base64_encode_update(&context, token, length + MAC_SIZE, raw);
    written += base64_encode_final(&context, token + written);
    token[written] = 0;
}

size_t token_check(const uint8_t key[TOKEN_KEY_SIZE], struct text token, int64_t now_ms, int64_t ttl_ms,
                   char user[MESSAGE_USER_MAX], uint8_t id[SESSIONS_ID_SIZE])
{
    struct base64_decode_ctx context;
    uint8_t raw[BASE64_DECODE_LENGTH(SESSIONS_TOKEN_MAX)], mac[MAC_SIZE];
    size_t length = sizeof(raw);
    int64_t issued;

    base64url_decode_init(&context);
    if (token.length >= SESSIONS_TOKEN_MAX ||
        !base64_decode_update(&context, &length, raw, token.length, token.data) ||
        !base64_decode_final(&context) || length <= HEAD_SIZE + MAC_SIZE || length > RAW_MAX)
        return 0;
    length -= MAC_SIZE;
    sign(key, raw, length, mac);
    if (!memeql_sec(mac, raw + length, MAC_SIZE))
        return 0;
    memcpy(&issued, raw, TIME_SIZE);
    if (issued > now_ms + 60000 || now_ms - issued > ttl_ms)
        return 0;
    memset(id, 0, SESSIONS_ID_SIZE);
    memcpy(id, raw + TIME_SIZE, RANDOM_SIZE);
    memcpy(user, raw + HEAD_SIZE, length - HEAD_SIZE);
    return length - HEAD_SIZE;
}

static struct token_sessions *self(struct sessions *sessions)
{
    return (struct token_sessions *)sessions;
}

static void token_resume(struct sessions *sessions, struct text user, const uint8_t id[SESSIONS_ID_SIZE],
                         char token[SESSIONS_TOKEN_MAX])
{
    token_make(self(sessions)->key, user, id, clock_wall_ms(), token);
}

static void token_start(struct sessions *sessions, struct text user, uint8_t id[SESSIONS_ID_SIZE],
                        char token[SESSIONS_TOKEN_MAX])
{
    memset(id, 0, SESSIONS_ID_SIZE);
    if (getrandom(id, RANDOM_SIZE, 0) != RANDOM_SIZE)
        memset(id, 0, RANDOM_SIZE); /* uniqueness only: the signature doesn't rest on it */
    token_resume(sessions, user, id, token);
}

static void token_find(struct sessions *sessions, struct text token, sessions_on_found *done, void *arg)
{
    const struct token_sessions *s = self(sessions);
    struct sessions_found found = {0};
    char user[MESSAGE_USER_MAX];

    found.user.data = user;
    found.user.length =
        token_check(s->key, token, clock_wall_ms(), s->config->session_ttl, user, found.id);
    done(arg, &found);
}

static void token_room(struct sessions *sessions, struct text user, const uint8_t id[SESSIONS_ID_SIZE],
                       struct text room, bool in)
{
    (void)sessions, (void)user, (void)id, (void)room, (void)in;
}

static void token_keep(struct sessions *sessions, struct text user, const uint8_t id[SESSIONS_ID_SIZE])
{
    (void)sessions, (void)user, (void)id;
}

void token_sessions_init(struct token_sessions *sessions, const uint8_t *key, const struct config *config)
{
    static const struct sessions_ops OPS = {token_start, token_find, token_resume, token_room, token_keep};

    *sessions = (struct token_sessions){{&OPS}, key, config};
}
