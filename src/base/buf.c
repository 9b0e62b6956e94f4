/* buf.c - a growing byte buffer, and JSON pieces appended to it. */
#include "chatd/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUF_FIRST_CAPACITY = 64 };

void buf_deinit(struct buf *buf)
{
    free(buf->data);
    *buf = (struct buf)BUF_INIT;
}

void buf_reserve(struct buf *buf, size_t more)
{
    size_t capacity;
    char *data;

    if (more <= buf->capacity - buf->length)
        return;
    if (more > SIZE_MAX / 4 || buf->length > SIZE_MAX / 4)
        abort();
    capacity = buf->capacity > 0 ? buf->capacity : BUF_FIRST_CAPACITY;
    while (capacity - buf->length < more)
        capacity *= 2;
    data = realloc(buf->data, capacity);
    if (data == NULL)
        abort();
    buf->data = data;
    buf->capacity = capacity;
}

void buf_add(struct buf *buf, const void *data, size_t length)
{
    /* memcpy from or to NULL is undefined even for no bytes. */
    if (length == 0)
        return;
    buf_reserve(buf, length);
    memcpy(buf->data + buf->length, data, length);
    buf->length += length;
}

void buf_add_string(struct buf *buf, const char *string)
{
    buf_add(buf, string, strlen(string));
}

void buf_add_u64(struct buf *buf, uint64_t number)
{
    char digits[20];
    size_t at = sizeof(digits);

    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    buf_add(buf, digits + at, sizeof(digits) - at);
}

void buf_printf(struct buf *buf, const char *format, ...)
{
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        abort();
    /* One byte more for vsnprintf's terminator, which is not counted in. */
    buf_reserve(buf, (size_t)length + 1);
    va_start(args, format);
    vsnprintf(buf->data + buf->length, (size_t)length + 1, format, args);
    va_end(args);
    buf->length += (size_t)length;
}

static void add_escape(struct buf *buf, unsigned char byte)
{
    static const char hex[] = "0123456789abcdef";
    static const char letters[0x20] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    char escape[6] = {'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]};

    if (byte < 0x20 && letters[byte] == 0) {
        buf_add(buf, escape, 6);
        return;
    }
    escape[1] = byte < 0x20 ? letters[byte] : (char)byte;
    buf_add(buf, escape, 2);
}

void buf_add_json(struct buf *buf, const char *text, size_t length)
{
    size_t start = 0;

    /* Most strings need no escape: one reservation, runs copied whole. */
    buf_reserve(buf, length + 2);
    buf->data[buf->length++] = '"';
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];

        if (byte >= 0x20 && byte != '"' && byte != '\\')
            continue;
        buf_add(buf, text + start, i - start);
        add_escape(buf, byte);
        start = i + 1;
    }
    buf_add(buf, text + start, length - start);
    buf_add(buf, "\"", 1);
}
