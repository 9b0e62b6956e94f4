/* log_line.h - private to the log: one line being written, in either form, never longer than LOG_LINE_MAX. */
#ifndef CHATD_LOG_LINE_H
#define CHATD_LOG_LINE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "chatd/log.h"

struct log_line {
    char data[LOG_LINE_MAX];
    size_t length;
    enum log_format format;
    bool cut;
};

/* A value in text form; `number` says that it may stand bare in JSON. Too long a value loses its end. */
struct log_value {
    char text[LOG_LINE_MAX];
    size_t length;
    bool number;
    bool cut;
};

void log_line_begin(struct log_line *line, enum log_format format);
void log_line_raw(struct log_line *line, const char *text); /* trusted text, as it is */
void log_line_pair(struct log_line *line, const char *key, size_t key_length, const struct log_value *value);
void log_line_end(struct log_line *line); /* marks a cut, closes the object, adds the line break */

/* Takes the next word of a pairs format and its arguments: true with key and value, false at the end.
 * `args` is moved on, *format too. */
bool log_value_next(const char **format, va_list *args, const char **key, size_t *key_length,
                    struct log_value *value);

#endif
