/* redis_sessions.c - sessions.h on Redis: whoever knows the token comes back as the same user, in the same
 * rooms, on any server.
 *
 * The token is the session's id in base64url: 128 random bits, of which nothing is derived. Nobody waits
 * for what is written here, and it is dropped when the queue is full: a session that is lost is a new
 * sign-in, no message. The times in `seen` are this host's, for those who look at them. */
#include <nettle/base64.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "chatd/clock.h"
#include "redis_args.h"
#include "redis_bus.h"

enum { TOKEN_LENGTH = 22, TOKEN_PADDED = 24 };

static struct bus_redis *self(struct sessions *sessions)
{
    return (struct bus_redis *)((char *)sessions - offsetof(struct bus_redis, sessions));
}

static void make_token(const uint8_t id[SESSIONS_ID_SIZE], char token[SESSIONS_TOKEN_MAX])
{
    struct base64_encode_ctx context;
    char padded[TOKEN_PADDED + 2];
    size_t written;

    base64url_encode_init(&context);
    written = base64_encode_update(&context, padded, SESSIONS_ID_SIZE, id);
    base64_encode_final(&context, padded + written);
    memcpy(token, padded, TOKEN_LENGTH);
    token[TOKEN_LENGTH] = 0;
}

/* nettle takes only the one spelling that make_token gives: no bits beyond the id's may be set. */
static bool read_token(struct text token, uint8_t id[SESSIONS_ID_SIZE])
{
    struct base64_decode_ctx context;
    uint8_t raw[BASE64_DECODE_LENGTH(TOKEN_PADDED)];
    char padded[TOKEN_PADDED];
    size_t length = sizeof(raw);

    if (token.length != TOKEN_LENGTH)
        return false;
    memcpy(padded, token.data, TOKEN_LENGTH);
    padded[TOKEN_LENGTH] = padded[TOKEN_LENGTH + 1] = '=';
    base64url_decode_init(&context);
    if (!base64_decode_update(&context, &length, raw, TOKEN_PADDED, padded) ||
        !base64_decode_final(&context) || length != SESSIONS_ID_SIZE)
        return false;
    memcpy(id, raw, SESSIONS_ID_SIZE);
    return true;
}

/* --- What is written --- */

static void start_args(struct redis_args *args, const struct bus_redis *b, const char *command,
                       const char *kind, struct text name)
{
    redis_args_init(args);
    redis_args_word(args, command);
    redis_args_key(args, redis_bus_partition(b, name), kind, name);
}

/* `name` picks the connection too, so what concerns a session, or a user, stays in order. */
static void write_args(struct bus_redis *b, struct redis_args *args, struct text name)
{
    struct redis_call call = {.partition = redis_bus_partition(b, name), .room = name, .script = -1,
                              .life_argument = -1, .done = redis_bus_ignore};

    (void)!redis_args_send(args, b, &call);
}

static void expire(struct bus_redis *b, const char *kind, struct text name)
{
    struct redis_args args;

    start_args(&args, b, "PEXPIRE", kind, name);
    redis_args_number(&args, b->config->session_ttl);
    write_args(b, &args, name);
}

/* A balancer that drops everybody at once makes many sessions to be written: messages and members go
 * first. With half of the place left a key never goes out without its expiry. */
static bool is_busy(const struct bus_redis *b)
{
    return redis_client_queued_bytes(b->client) > (uint64_t)b->config->bus_queue_bytes / 2;
}

/* `u` every time: so the session is whole again if it had expired. `room` may be empty. */
static void write_session(struct bus_redis *b, struct text token, struct text user, struct text room)
{
    struct redis_args args;
    char field[1 + MESSAGE_ROOM_MAX];

    if (is_busy(b))
        return;
    start_args(&args, b, "HSET", "session", token);
    redis_args_word(&args, "u");
    redis_args_text(&args, user);
    redis_args_word(&args, "seen");
    redis_args_number(&args, clock_wall_ms());
    if (room.length > 0) {
        field[0] = 'r';
        memcpy(field + 1, room.data, room.length);
        redis_args_text(&args, (struct text){field, 1 + room.length});
        redis_args_word(&args, "");
    }
    write_args(b, &args, token);
    expire(b, "session", token);
}

static void write_user(struct bus_redis *b, struct text user)
{
    struct redis_args args;

    if (is_busy(b))
        return;
    start_args(&args, b, "HSET", "user", user);
    redis_args_word(&args, "seen");
    redis_args_number(&args, clock_wall_ms());
    write_args(b, &args, user);
    expire(b, "user", user);
}

static void session_resume(struct sessions *sessions, struct text user, const uint8_t id[SESSIONS_ID_SIZE],
                           char token[SESSIONS_TOKEN_MAX])
{
    struct bus_redis *b = self(sessions);

    make_token(id, token);
    write_session(b, (struct text){token, TOKEN_LENGTH}, user, (struct text){NULL, 0});
    write_user(b, user);
}

static void session_start(struct sessions *sessions, struct text user, uint8_t id[SESSIONS_ID_SIZE],
                          char token[SESSIONS_TOKEN_MAX])
{
    if (getrandom(id, SESSIONS_ID_SIZE, 0) != SESSIONS_ID_SIZE)
        abort(); /* never so for so few bytes; a session that can be guessed must not be */
    session_resume(sessions, user, id, token);
}

static void session_room(struct sessions *sessions, struct text user, const uint8_t id[SESSIONS_ID_SIZE],
                         struct text room, bool in)
{
    struct bus_redis *b = self(sessions);
    char buffer[SESSIONS_TOKEN_MAX], field[1 + MESSAGE_ROOM_MAX] = "r";
    struct text token = {buffer, TOKEN_LENGTH};
    struct redis_args args;

    if (room.length == 0 || room.length > MESSAGE_ROOM_MAX)
        return;
    make_token(id, buffer);
    if (in) {
        write_session(b, token, user, room);
        return;
    }
    memcpy(field + 1, room.data, room.length);
    start_args(&args, b, "HDEL", "session", token);
    redis_args_text(&args, (struct text){field, 1 + room.length});
    write_args(b, &args, token);
    expire(b, "session", token);
}

static void session_keep(struct sessions *sessions, struct text user, const uint8_t id[SESSIONS_ID_SIZE])
{
    char token[SESSIONS_TOKEN_MAX];

    session_resume(sessions, user, id, token);
}

/* --- What is looked up --- */

struct find {
    struct bus_redis *bus;
    sessions_on_found *done;
    void *arg;
    uint8_t id[SESSIONS_ID_SIZE];
};

/* Fields and values in turn; `rooms` has place for as many as there are fields. */
static void take_fields(const struct find *find, const redisReply *reply, struct text *rooms,
                        struct sessions_found *found)
{
    int64_t most = find->bus->config->max_rooms_per_connection;

    for (size_t i = 0; i + 1 < reply->elements; i += 2) {
        struct text field = redis_reply_text(reply, i), value = redis_reply_text(reply, i + 1);

        if (field.length == 1 && field.data[0] == 'u' && value.length <= MESSAGE_USER_MAX)
            found->user = value;
        else if (field.length > 1 && field.length <= 1 + MESSAGE_ROOM_MAX && field.data[0] == 'r' &&
                 (most == 0 || found->room_count < most))
            rooms[found->room_count++] = (struct text){field.data + 1, field.length - 1};
    }
    found->rooms = rooms;
}

static void on_session(void *arg, enum redis_result result, const redisReply *reply, uint32_t life)
{
    struct find *find = arg;
    struct sessions_found found = {.failed = result != REDIS_ANSWERED || find->bus->ending};
    struct text *rooms = NULL;

    (void)life;
    memcpy(found.id, find->id, SESSIONS_ID_SIZE);
    if (!found.failed && reply->elements > 0) {
        rooms = calloc(reply->elements, sizeof(*rooms));
        if (!rooms)
            abort();
        take_fields(find, reply, rooms, &found);
    }
    if (found.user.length == 0)
        found.room_count = 0;
    find->done(find->arg, &found);
    free(rooms);
    free(find);
}

static void session_find(struct sessions *sessions, struct text token, sessions_on_found *done, void *arg)
{
    struct bus_redis *b = self(sessions);
    struct sessions_found found = {0};
    struct find *find = malloc(sizeof(*find));
    struct redis_call call = {.room = token, .script = -1, .life_argument = -1, .done = on_session,
                              .arg = find};
    struct redis_args args;

    if (!find)
        abort();
    *find = (struct find){.bus = b, .done = done, .arg = arg};
    if (!read_token(token, find->id)) {
        free(find);
        done(arg, &found);
        return;
    }
    call.partition = redis_bus_partition(b, token);
    start_args(&args, b, "HGETALL", "session", token);
    if (redis_args_send(&args, b, &call))
        return;
    free(find);
    found.failed = true;
    done(arg, &found);
}

static const struct sessions_ops ops = {
    session_start, session_find, session_resume, session_room, session_keep,
};

void redis_sessions_init(struct bus_redis *b)
{
    b->sessions.ops = &ops;
}
