/* buf.h - a growing byte buffer, and JSON pieces appended to it.
 *
 * The owner's storage; `data` moves when it grows, so keep offsets, not pointers. Running out of memory
 * aborts: everything a peer can size is limited before it gets here. */
#ifndef CHATD_BUF_H
#define CHATD_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data; /* NULL while capacity is 0 */
    size_t length;
    size_t capacity;
};

#define BUF_INIT {NULL, 0, 0}

void buf_deinit(struct buf *buf); /* frees; the buffer is empty and usable afterwards */
void buf_reserve(struct buf *buf, size_t more);
void buf_add(struct buf *buf, const void *data, size_t length);
void buf_add_string(struct buf *buf, const char *string);
void buf_add_u64(struct buf *buf, uint64_t number); /* decimal digits */
void buf_printf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A JSON string with its quotes. `text` is valid UTF-8; quotes, backslash and control characters are
 * escaped, everything else stays as it is (RFC 8259 section 7). */
void buf_add_json(struct buf *buf, const char *text, size_t length);

#define buf_add_literal(buf, literal) buf_add(buf, "" literal, sizeof(literal) - 1)

#endif
