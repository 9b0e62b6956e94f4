/* frame.c - shared finished bytes: allocation, counting, server frame headers. */
#include "chatd/frame.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct frame *frame_new(size_t capacity)
{
    assert(capacity <= UINT32_MAX - sizeof(struct frame));
    struct frame *frame = malloc(sizeof(*frame) + capacity);
    if (frame == NULL)
        abort();
    frame->refs = 1;
    frame->length = 0;
    frame->capacity = (uint32_t)capacity;
    return frame;
}

struct frame *frame_ref(struct frame *frame)
{
    frame->refs++;
    return frame;
}

void frame_unref(struct frame *frame)
{
    if (frame != NULL && --frame->refs == 0)
        free(frame);
}

void frame_add(struct frame *frame, const void *data, size_t length)
{
    assert(length <= frame->capacity - frame->length);
    if (length > 0)
        memcpy(frame->data + frame->length, data, length);
    frame->length += (uint32_t)length;
}

size_t frame_header(char header[FRAME_HEADER_MAX], uint8_t opcode, uint64_t length)
{
    size_t size = length < 126 ? 2 : length <= UINT16_MAX ? 4 : 10;
    header[0] = (char)(0x80 | opcode);
    header[1] = (char)(size == 2 ? length : size == 4 ? 126 : 127);
    for (size_t i = size; i > 2; i--, length >>= 8)
        header[i - 1] = (char)(length & 0xff);
    return size;
}

void frame_add_message(struct frame *frame, uint8_t opcode, const void *payload, size_t length)
{
    char header[FRAME_HEADER_MAX];
    size_t size = frame_header(header, opcode, length);
    frame_add(frame, header, size);
    frame_add(frame, payload, length);
}

void frame_add_text(struct frame *frame, const char *payload, size_t length)
{
    frame_add_message(frame, FRAME_TEXT, payload, length);
}

struct frame *frame_message(uint8_t opcode, const void *payload, size_t length)
{
    struct frame *frame = frame_new(length + FRAME_HEADER_MAX);
    frame_add_message(frame, opcode, payload, length);
    return frame;
}

struct frame *frame_text(const char *payload, size_t length)
{
    return frame_message(FRAME_TEXT, payload, length);
}
