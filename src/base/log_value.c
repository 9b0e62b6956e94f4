/* log_value.c - takes a pairs format apart, word by word, with its arguments.
 *
 * vsnprintf can't tell where one value ends and the next begins once a string with spaces is in between,
 * so each conversion is fetched and printed on its own. The compiler has checked types already. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "log_line.h"

/* One conversion's text, from `%` to its letter. */
struct conversion {
    char text[32];
    size_t length;
    char size; /* 0, h, l, L for ll, z, j, t */
    char letter;
    int precision; /* -1 without one */
};

static void append(struct log_value *value, const char *text, size_t length)
{
    size_t room = sizeof(value->text) - value->length;

    if (length > room) {
        value->cut = true;
        length = room;
    }
    memcpy(value->text + value->length, text, length);
    value->length += length;
}

static void put(struct conversion *conversion, char c)
{
    if (conversion->length < sizeof(conversion->text) - 1)
        conversion->text[conversion->length++] = c;
    conversion->text[conversion->length] = '\0';
}

static void put_number(struct conversion *conversion, int number)
{
    char digits[12];

    snprintf(digits, sizeof(digits), "%d", number);
    for (size_t i = 0; digits[i] != '\0'; i++)
        put(conversion, digits[i]);
}

/* Reads flags, width, precision and size; `*` is replaced by its argument. Returns what follows the letter.
 */
static const char *read_conversion(const char *format, va_list *args, struct conversion *conversion)
{
    *conversion = (struct conversion){.precision = -1};
    put(conversion, *format++);
    for (; *format != '\0' && strchr("-+ #0123456789.*", *format) != NULL; format++) {
        if (*format == '.') {
            conversion->precision = 0;
            put(conversion, '.');
        } else if (*format == '*') {
            int number = va_arg(*args, int);

            if (conversion->precision == 0)
                conversion->precision = number;
            put_number(conversion, number);
        } else {
            if (conversion->precision >= 0)
                conversion->precision = conversion->precision * 10 + (*format - '0');
            put(conversion, *format);
        }
    }
    for (; *format != '\0' && strchr("hlzjt", *format) != NULL; format++) {
        conversion->size = conversion->size == 'l' && *format == 'l' ? 'L' : *format;
        put(conversion, *format);
    }
    conversion->letter = *format;
    put(conversion, *format);
    return *format == '\0' ? format : format + 1;
}

static void append_string(struct log_value *value, const struct conversion *conversion, const char *string)
{
    if (string == NULL)
        string = "(null)";
    /* With a precision the string need not be terminated. */
    append(value, string,
           conversion->precision >= 0 ? strnlen(string, (size_t)conversion->precision) : strlen(string));
}

/* The flags come from a literal that the compiler checked where it stands, at the caller's log_event. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static void append_integer(struct log_value *value, const struct conversion *conversion, va_list *args)
{
    const char *text = conversion->text;
    char out[64];

    switch (conversion->size) {
    case 'l':
        snprintf(out, sizeof(out), text, va_arg(*args, long));
        break;
    case 'L':
        snprintf(out, sizeof(out), text, va_arg(*args, long long));
        break;
    case 'z':
        snprintf(out, sizeof(out), text, va_arg(*args, size_t));
        break;
    case 'j':
        snprintf(out, sizeof(out), text, va_arg(*args, intmax_t));
        break;
    case 't':
        snprintf(out, sizeof(out), text, va_arg(*args, ptrdiff_t));
        break;
    default:
        snprintf(out, sizeof(out), text, va_arg(*args, int));
        break;
    }
    append(value, out, strlen(out));
}

/* Returns false at a conversion that isn't known: what follows can't be fetched any more. */
static bool append_conversion(struct log_value *value, const struct conversion *conversion, va_list *args)
{
    char out[400];

    switch (conversion->letter) {
    case '%':
        append(value, "%", 1);
        return true;
    case 's':
        append_string(value, conversion, va_arg(*args, const char *));
        return true;
    case 'c':
        out[0] = (char)va_arg(*args, int);
        append(value, out, 1);
        return true;
    case 'p':
        snprintf(out, sizeof(out), "%p", va_arg(*args, void *));
        append(value, out, strlen(out));
        return true;
    case 'f':
    case 'e':
    case 'g':
        snprintf(out, sizeof(out), conversion->text, va_arg(*args, double));
        append(value, out, strlen(out));
        return true;
    default:
        if (conversion->letter == '\0' || strchr("diuxXo", conversion->letter) == NULL)
            return false;
        append_integer(value, conversion, args);
        return true;
    }
}
#pragma GCC diagnostic pop

/* JSON knows fewer forms of a number than printf: no nan, no leading zeros or plus, no hexadecimal. */
static bool is_json_number(const struct log_value *value)
{
    const char *text = value->text;
    size_t length = value->length, at = 0;

    if (length > 0 && text[0] == '-')
        at = 1;
    if (at >= length || text[at] < '0' || text[at] > '9')
        return false;
    if (text[at] == '0' && at + 1 < length && text[at + 1] >= '0' && text[at + 1] <= '9')
        return false;
    for (; at < length; at++) {
        if (strchr("0123456789.e+-", text[at]) == NULL)
            return false;
    }
    return true;
}

bool log_value_next(const char **format, va_list *args, const char **key, size_t *key_length,
                    struct log_value *value)
{
    const char *at = *format + strspn(*format, " ");
    struct conversion conversion;
    bool numeric = false;
    size_t pieces = 0;

    if (*at == '\0')
        return false;
    *key = at;
    *key_length = strcspn(at, "= %");
    at += *key_length;
    at += *at == '=';
    value->length = 0;
    value->cut = false;
    for (; *at != '\0' && *at != ' '; pieces++) {
        if (*at != '%') {
            append(value, at++, 1);
            continue;
        }
        at = read_conversion(at, args, &conversion);
        numeric = strchr("diufeg", conversion.letter) != NULL;
        if (!append_conversion(value, &conversion, args)) {
            append(value, at, strlen(at));
            at += strlen(at);
        }
    }
    *format = at;
    value->number = numeric && pieces == 1 && is_json_number(value);
    return true;
}
