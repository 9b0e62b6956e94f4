/* frame.h - finished bytes for the wire, shared by reference.
 *
 * A frame is written once and never changed after the first reference is handed out; every queue that
 * holds it holds a reference. It may contain several WebSocket frames one after the other (all that a room
 * got in one loop turn), or an HTTP answer. Reference counts are not atomic: a frame lives in one worker's
 * loop thread. Chat messages in it are stamped with the time at which they were received: once they are
 * written to a peer, its queue counts how long that took (outq.h). Everything that adds asserts that the
 * capacity is enough: the caller made sure of it. */
#ifndef CHATD_FRAME_H
#define CHATD_FRAME_H

#include <stddef.h>
#include <stdint.h>

struct frame_stamp {
    int64_t received_us; /* Unix time */
    uint32_t end;        /* the frame's length up to here when it was stamped */
};

/* All are counted at once when they fall into one bucket, so what they have in common is kept beside them. */
struct frame_stamps {
    uint32_t count;
    uint32_t capacity;
    int64_t earliest_us, latest_us;
    int64_t sum_us; /* of received_us - list[0].received_us */
    struct frame_stamp list[];
};

struct frame {
    uint32_t refs;
    uint32_t length;
    uint32_t capacity;
    struct frame_stamps *stamps; /* NULL without any */
    char data[];
};

/* Opcodes of RFC 6455 section 5.2, those that a server sends. */
enum { FRAME_TEXT = 0x1, FRAME_BINARY = 0x2, FRAME_CLOSE = 0x8, FRAME_PING = 0x9 };

enum { FRAME_HEADER_MAX = 10 };

struct frame *frame_new(size_t capacity); /* one reference, length 0; aborts without memory */
struct frame *frame_ref(struct frame *frame);
void frame_unref(struct frame *frame); /* frees with the last reference; NULL is allowed */

/* The frame with a capacity of at least `capacity`; there is no other reference to it. */
struct frame *frame_grow(struct frame *frame, size_t capacity);

/* Appends bytes as they are. */
void frame_add(struct frame *frame, const void *data, size_t length);

/* Writes the header of an unmasked, final server frame (RFC 6455 section 5.2) for `length` bytes of payload;
 * returns its size, 2, 4 or 10. */
size_t frame_header(char header[FRAME_HEADER_MAX], uint8_t opcode, uint64_t length);

/* Appends one message, header and payload; needs a capacity of length + FRAME_HEADER_MAX. */
void frame_add_message(struct frame *frame, uint8_t opcode, const void *payload, size_t length);
void frame_add_text(struct frame *frame, const char *payload, size_t length);

/* What was appended last is a chat message received then. */
void frame_stamp(struct frame *frame, int64_t received_us);

/* A frame with one message. */
struct frame *frame_message(uint8_t opcode, const void *payload, size_t length);
struct frame *frame_text(const char *payload, size_t length);

#endif
