/* config_row.h - private to the settings: the table, and a value's way from text and back. */
#ifndef CHATD_CONFIG_ROW_H
#define CHATD_CONFIG_ROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "chatd/config.h"

enum config_type {
    CONFIG_STRING,
    CONFIG_NUMBER,
    CONFIG_BYTES,
    CONFIG_TIME,
    CONFIG_AGE,
    CONFIG_AUTO,
    CONFIG_RATE,
    CONFIG_ENUM,
    CONFIG_ALERT
};

struct config_row {
    enum config_type type;
    const char *key;
    const char *env;
    const char *def;
    int64_t min;
    int64_t max;
    const char *words; /* ENUM: "a|b"; ALERT: what is compared */
    bool reload;
    const char *help;
    size_t offset; /* of the field in struct config */
    size_t size;
};

extern const struct config_row config_rows[CONFIG_COUNT];

/* Longest text config_value_format and config_value_allowed write. */
enum { CONFIG_VALUE_MAX = 2 * CONFIG_STRING_MAX + 3, CONFIG_ALLOWED_MAX = 256, CONFIG_WRONG_MAX = 320 };

/* Puts `text` into the row's field; false, field unchanged and in `wrong` what goes behind the value in an
 * error ("must be ..."), when it is not allowed. */
bool config_value_parse(struct config *config, enum config_index index, const char *text,
                        char wrong[CONFIG_WRONG_MAX]);

/* The value as it would stand in a file, in quotes where it needs them. */
void config_value_format(const struct config *config, enum config_index index, char out[CONFIG_VALUE_MAX]);

/* "a number from 0 to 65535": what goes after "must be". */
void config_value_allowed(enum config_index index, char out[CONFIG_ALLOWED_MAX]);

/* The same three for an ALERT: config_alert.c. */
bool config_alert_parse(const char *kind, const char *text, struct config_alert *alert,
                        char wrong[CONFIG_WRONG_MAX]);
void config_alert_format(const char *kind, const struct config_alert *alert, char out[CONFIG_VALUE_MAX]);
void config_alert_allowed(const char *kind, char out[CONFIG_ALLOWED_MAX]);

/* Pieces of values. Decimal digits, no sign, at most 18 so that nothing overflows; returns what follows,
 * NULL without a digit. */
const char *config_value_digits(const char *text, int64_t *number);
bool config_value_time(const char *text, int64_t *ms);
bool config_value_rate(const char *text, int64_t max, struct config_rate *rate);
void config_value_format_time(int64_t ms, char *out, size_t size);

/* The table again, with its headings where they stand in it. */
struct config_item {
    const char *heading; /* NULL for a setting */
    int index;
};

extern const struct config_item config_items[];
extern const size_t config_item_count;

/* Every problem in one text (CONFIG_ERROR_MAX bytes), as many as fit; the others are counted. */
struct config_problems {
    char *text;
    size_t length;
    unsigned count;
    unsigned left_out;
};

struct config_problems config_problems_start(char *text);
void config_problems_add(struct config_problems *problems, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* 0 or -EINVAL. The text ends without a line break. */
int config_problems_end(struct config_problems *problems);

/* Makes foreign text fit for an error: short, one line, printable. Returns `out`. */
enum { CONFIG_SHOWN_MAX = 4 * 80 + 4 };
const char *config_shown(const char *text, char out[CONFIG_SHOWN_MAX]);

/* The same for a setting's value: stars for one of those in which a secret may stand. */
#define CONFIG_HIDDEN "********"
const char *config_shown_value(enum config_index index, const char *text, char out[CONFIG_SHOWN_MAX]);

/* config_parse, adding to problems found before. */
void config_parse_text(struct config *config, const char *name, const char *text, size_t length,
                       struct config_problems *problems);

#endif
