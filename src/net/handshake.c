/* handshake.c - RFC 6455 section 4.2 in full. Extensions are not negotiated: offers are ignored (section
 * 9.1). */
#include "handshake.h"

#include <nettle/base64.h>
#include <nettle/sha1.h>
#include <string.h>

#include "internal.h"

enum { HANDSHAKE_NONCE = 16, HANDSHAKE_KEY = 24 };

bool handshake_wanted(const struct http_request *request)
{
    return http_has_token(request, "upgrade", "websocket");
}

/* Section 4.2.1 item 5: base64 that decodes to 16 bytes. */
static bool key_is_valid(const char *key)
{
    struct base64_decode_ctx context;
    uint8_t nonce[BASE64_DECODE_LENGTH(HANDSHAKE_KEY)];
    size_t length = sizeof(nonce);
    base64_decode_init(&context);
    /* nettle skips white space; a key of exactly 24 characters that makes 16 bytes has none. */
    return strlen(key) == HANDSHAKE_KEY &&
           base64_decode_update(&context, &length, nonce, HANDSHAKE_KEY, key) &&
           base64_decode_final(&context) && length == HANDSHAKE_NONCE;
}

static void make_accept(const char *key, char accept[HANDSHAKE_ACCEPT_SIZE])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* section 1.3 */
    struct sha1_ctx sha1;
    uint8_t digest[SHA1_DIGEST_SIZE];
    sha1_init(&sha1);
    sha1_update(&sha1, strlen(key), (const uint8_t *)key);
    sha1_update(&sha1, sizeof(guid) - 1, (const uint8_t *)guid);
    sha1_digest(&sha1, sizeof(digest), digest);
    base64_encode_raw(accept, sizeof(digest), digest);
    accept[HANDSHAKE_ACCEPT_SIZE - 1] = '\0';
}

int handshake_check(const struct http_request *request, char accept[HANDSHAKE_ACCEPT_SIZE],
                    const char **message)
{
    const char *key = http_header(request, "sec-websocket-key");
    const char *version = http_header(request, "sec-websocket-version");
    *message = NULL;
    if (strcmp(request->method, "GET") != 0)
        *message = "the method must be GET";
    else if (request->minor < 1)
        *message = "HTTP/1.1 is needed";
    else if (http_header_count(request, "host") != 1)
        *message = "exactly one Host is needed";
    else if (!handshake_wanted(request))
        *message = "Upgrade must contain websocket";
    else if (!http_has_token(request, "connection", "upgrade"))
        *message = "Connection must contain Upgrade";
    else if (version == NULL || http_header_count(request, "sec-websocket-version") != 1)
        *message = "exactly one Sec-WebSocket-Version is needed";
    if (*message != NULL)
        return 400;
    /* Before the key: another version may have another kind of key. */
    if (strcmp(version, "13") != 0) {
        *message = "only Sec-WebSocket-Version 13 is spoken here";
        return 426;
    }
    if (key == NULL || http_header_count(request, "sec-websocket-key") != 1)
        *message = "exactly one Sec-WebSocket-Key is needed";
    else if (!key_is_valid(key))
        *message = "Sec-WebSocket-Key must be base64 of 16 bytes";
    if (*message != NULL)
        return 400;
    make_accept(key, accept);
    return 0;
}

bool handshake_offers(const struct http_request *request, const char *protocol)
{
    size_t length = strlen(protocol);
    for (size_t i = 0; i < request->header_count; i++) {
        if (strcmp(request->headers[i].name, "sec-websocket-protocol") != 0)
            continue;
        for (const char *list = request->headers[i].value; *list != '\0';) {
            list += strspn(list, " \t,");
            size_t size = strcspn(list, " \t,");
            if (size == length && memcmp(list, protocol, length) == 0)
                return true;
            list += size;
        }
    }
    return false;
}
