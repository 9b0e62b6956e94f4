/* WebSocket (RFC 6455) as far as the two ends of a load test need it: unfragmented frames, both directions.
 * No allocation and no state: whoever calls owns every byte.
 */
#ifndef LOADTEST_WS_WIRE_H
#define LOADTEST_WS_WIRE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include <nettle/base64.h>
#include <nettle/sha1.h>

enum {
    WS_TEXT = 1,
    WS_CLOSE = 8,
    WS_PING = 9,
    WS_PONG = 10,
    WS_HEAD_MAX = 14,
    WS_FRAME_MAX = 16 * 1024 * 1024, /* longer ones are taken for garbage */
    WS_ACCEPT_SIZE = BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE) + 1,
};

struct ws_frame {
    char *payload; /* unmasked, in the buffer that was parsed */
    size_t len;
    int opcode;
};

/* The frame at the start of `at`, section 5.2; it is unmasked in place, so a frame is parsed once only. Its
 * length with header; 0 when it isn't all there (nothing is changed then); -1: fragmented or too long. */
static inline ssize_t ws_parse(char *at, size_t len, struct ws_frame *frame)
{
    const unsigned char *byte = (const unsigned char *)at;
    if (len < 2)
        return 0;
    bool masked = byte[1] & 0x80;
    uint64_t payload = byte[1] & 0x7f;
    size_t wide = payload == 126 ? 2 : payload == 127 ? 8 : 0, head = 2 + wide + (masked ? 4 : 0);
    if (!(byte[0] & 0x80))
        return -1;
    if (len < head)
        return 0;
    for (size_t i = 0; i < wide; i++)
        payload = (i ? payload << 8 : 0) | byte[2 + i];
    if (payload > WS_FRAME_MAX)
        return -1;
    if (len < head + payload)
        return 0;
    *frame = (struct ws_frame){at + head, payload, byte[0] & 0xf};
    for (size_t i = 0; masked && i < payload; i++)
        frame->payload[i] ^= at[head - 4 + (i & 3)];
    return (ssize_t)(head + payload);
}

/* Puts the header of a server's frame right before its payload, which needs WS_HEAD_MAX bytes of space there
 * and is at most 65,535 long. The frame's start. */
static inline char *ws_seal(char *payload, size_t len, int opcode)
{
    char *start = payload - (len < 126 ? 2 : 4);
    start[0] = (char)(0x80 | opcode);
    start[1] = (char)(len < 126 ? len : 126);
    if (len >= 126) {
        start[2] = (char)(len >> 8);
        start[3] = (char)len;
    }
    return start;
}

/* The same for a client's frame: the payload is masked as well. */
static inline char *ws_seal_masked(char *payload, size_t len, int opcode, uint32_t mask)
{
    char *start = ws_seal(payload - 4, len, opcode);
    start[1] = (char)(start[1] | 0x80);
    memcpy(payload - 4, &mask, 4);
    for (size_t i = 0; i < len; i++)
        payload[i] ^= ((const char *)&mask)[i & 3];
    return start;
}

/* What a server answers to `Sec-WebSocket-Key`, section 4.2.2. */
static inline void ws_accept(char accept[WS_ACCEPT_SIZE], const char *key, size_t len)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    struct sha1_ctx sha;
    uint8_t digest[SHA1_DIGEST_SIZE];
    sha1_init(&sha);
    sha1_update(&sha, len, (const uint8_t *)key);
    sha1_update(&sha, sizeof(guid) - 1, (const uint8_t *)guid);
    sha1_digest(&sha, sizeof(digest), digest);
    base64_encode_raw(accept, sizeof(digest), digest);
    accept[WS_ACCEPT_SIZE - 1] = '\0';
}

#endif
