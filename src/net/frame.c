/* frame.c - shared finished bytes: allocation, counting, server frame headers. */
#include "chatd/frame.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { STAMPS_FIRST = 4 };

struct frame *frame_new(size_t capacity)
{
    assert(capacity <= UINT32_MAX - sizeof(struct frame));
    struct frame *frame = malloc(sizeof(*frame) + capacity);
    if (frame == NULL)
        abort();
    frame->refs = 1;
    frame->length = 0;
    frame->capacity = (uint32_t)capacity;
    frame->stamps = NULL;
    return frame;
}

struct frame *frame_grow(struct frame *frame, size_t capacity)
{
    assert(frame->refs == 1 && capacity <= UINT32_MAX - sizeof(struct frame));
    if (capacity <= frame->capacity)
        return frame;
    frame = realloc(frame, sizeof(*frame) + capacity);
    if (frame == NULL)
        abort();
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
    if (frame == NULL || --frame->refs > 0)
        return;
    free(frame->stamps);
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

static struct frame_stamps *stamps_with_room(struct frame_stamps *stamps)
{
    uint32_t capacity = stamps == NULL ? STAMPS_FIRST : stamps->capacity * 2;

    if (stamps != NULL && stamps->count < stamps->capacity)
        return stamps;
    if (stamps == NULL)
        stamps = calloc(1, sizeof(*stamps) + capacity * sizeof(struct frame_stamp));
    else
        stamps = realloc(stamps, sizeof(*stamps) + capacity * sizeof(struct frame_stamp));
    if (stamps == NULL)
        abort();
    stamps->capacity = capacity;
    return stamps;
}

void frame_stamp(struct frame *frame, int64_t received_us)
{
    struct frame_stamps *stamps = stamps_with_room(frame->stamps);

    frame->stamps = stamps;
    stamps->list[stamps->count] = (struct frame_stamp){received_us, frame->length};
    if (stamps->count == 0 || received_us < stamps->earliest_us)
        stamps->earliest_us = received_us;
    if (stamps->count == 0 || received_us > stamps->latest_us)
        stamps->latest_us = received_us;
    stamps->sum_us += received_us - stamps->list[0].received_us;
    stamps->count++;
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
