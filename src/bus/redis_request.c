/* redis_request.c - a call as bytes in RESP: `*N`, then `$length` and the bytes of each argument. */
#include "redis_request.h"

#include <stdlib.h>
#include <string.h>

#include "chatd/hash.h"

enum { SHA_LENGTH = 40, NUMBER_MAX = 20, LINE_MAX_BYTES = NUMBER_MAX + 3 };

static size_t put_number(char *out, uint64_t number)
{
    char digits[NUMBER_MAX];
    size_t length = 0;

    do
        digits[NUMBER_MAX - ++length] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    memcpy(out, digits + NUMBER_MAX - length, length);
    return length;
}

static char *put_line(char *out, char kind, uint64_t number)
{
    *out++ = kind;
    out += put_number(out, number);
    *out++ = '\r';
    *out++ = '\n';
    return out;
}

static char *put_argument(char *out, struct text argument)
{
    out = put_line(out, '$', argument.length);
    if (argument.length > 0)
        memcpy(out, argument.data, argument.length);
    out += argument.length;
    *out++ = '\r';
    *out++ = '\n';
    return out;
}

/* A few bytes too many are cheaper than counting digits. */
size_t redis_request_size(const struct redis_call *call)
{
    size_t size = sizeof(struct redis_request) + LINE_MAX_BYTES;

    if (call->script >= 0)
        size += 3 * (LINE_MAX_BYTES + 2) + strlen("EVALSHA") + SHA_LENGTH + NUMBER_MAX;
    for (int i = 0; i < call->argc; i++)
        size += LINE_MAX_BYTES + 2 + call->argv[i].length;
    return size;
}

struct redis_request *redis_request_new(const struct redis_call *call, const struct redis_script *scripts)
{
    struct redis_request *request = malloc(redis_request_size(call));
    char keys[NUMBER_MAX], *out;

    if (!request)
        abort();
    *request = (struct redis_request){.done = call->done,
                                      .wanted = call->wanted,
                                      .arg = call->arg,
                                      .partition = call->partition,
                                      .room_hash = (uint32_t)hash_bytes(call->room.data, call->room.length),
                                      .patient = call->patient};
    out = put_line(request->resp, '*', (uint64_t)call->argc + (call->script >= 0 ? 3 : 0));
    if (call->script >= 0) {
        out = put_argument(out, (struct text){"EVALSHA", strlen("EVALSHA")});
        out = put_argument(out, (struct text){scripts[call->script].sha, SHA_LENGTH});
        out = put_argument(out, (struct text){keys, put_number(keys, (uint64_t)call->keys)});
    }
    for (int i = 0; i < call->argc; i++) {
        out = put_argument(out, call->argv[i]);
        if (i == call->life_argument)
            request->life_offset = (size_t)(out - request->resp) - 2 - REDIS_LIFE_SIZE;
    }
    request->length = (size_t)(out - request->resp);
    return request;
}
