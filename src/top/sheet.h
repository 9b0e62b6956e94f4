/* sheet.h - lines of styled text: what the screen paints and batch mode prints.
 *
 * Text of our own goes in as it is; what a server sent goes in through sheet_foreign, which lets only
 * characters through that take a place on the terminal: no control characters, nothing that turns or joins
 * text. */
#ifndef CHATD_TOP_SHEET_H
#define CHATD_TOP_SHEET_H

#include <stdio.h>

#include "chatd/buf.h"

enum sheet_style { SHEET_PLAIN, SHEET_STRONG, SHEET_HEAD, SHEET_GOOD, SHEET_WARN, SHEET_BAD, SHEET_STYLES };

struct sheet_span {
    size_t offset, length; /* in text */
    enum sheet_style style;
    bool ends; /* its line */
};

struct sheet {
    struct buf text;
    struct sheet_span *spans;
    size_t count, capacity;
    size_t lines;
};

void sheet_clear(struct sheet *sheet);
void sheet_deinit(struct sheet *sheet);

void sheet_add(struct sheet *sheet, enum sheet_style style, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void sheet_foreign(struct sheet *sheet, enum sheet_style style, const char *text); /* NULL is `-` */
void sheet_end(struct sheet *sheet);                                               /* of a line */

/* Every line with two blanks and a `-` for what is NAN. Width is that of the column, the unit part of it. */
enum { SHEET_NUMBER_MAX = 32 };
const char *sheet_count(double value, char out[SHEET_NUMBER_MAX]);   /* 12040, 12.3, 0.02 */
const char *sheet_bytes(double value, char out[SHEET_NUMBER_MAX]);   /* 812, 1.2K, 3.4M */
const char *sheet_seconds(double value, char out[SHEET_NUMBER_MAX]); /* 0.82 ms, 1.20 s */
const char *sheet_span(double seconds, char out[SHEET_NUMBER_MAX]);  /* 42 s, 3:04:05, 5d 3:04:05 */

void sheet_print(const struct sheet *sheet, FILE *out);

/* The bytes at the start of `text` that fit into so many columns of the terminal. */
size_t sheet_fit(const char *text, size_t length, int columns, int *used);

#endif
