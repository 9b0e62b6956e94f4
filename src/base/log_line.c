/* log_line.c - one log line in the making: escaping, and cutting without breaking its form.
 *
 * Room for the end of a line (cut mark, closing brace, line break) is kept back, so a cut line is still whole
 * JSON. */
#include "log_line.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { TAIL = 24 }; /* `","cut":true}` and a line break, with some to spare */

void log_line_begin(struct log_line *line, enum log_format format)
{
    line->length = 0;
    line->format = format;
    line->cut = false;
}

/* All or nothing, so that no escape and no character is ever cut in two. */
static bool add(struct log_line *line, const char *text, size_t length)
{
    if (line->cut || length > sizeof(line->data) - TAIL - line->length) {
        line->cut = true;
        return false;
    }
    memcpy(line->data + line->length, text, length);
    line->length += length;
    return true;
}

void log_line_raw(struct log_line *line, const char *text)
{
    add(line, text, strlen(text));
}

/* Length of the well-formed UTF-8 sequence at `text` (RFC 3629: no overlong forms, no surrogates), 0 if
 * broken. */
static size_t decode(const unsigned char *text, size_t length, uint32_t *code)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t need;

    if (text[0] < 0x80) {
        *code = text[0];
        return 1;
    }
    need = text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : 2;
    if (text[0] < 0xc2 || text[0] > 0xf4 || need > length)
        return 0;
    *code = text[0] & (0xffu >> (need + 1));
    for (size_t i = 1; i < need; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        *code = *code << 6 | (text[i] & 0x3f);
    }
    if (*code < smallest[need] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000))
        return 0;
    return need;
}

/* Controls of ASCII and Latin-1, line and paragraph separators, and the marks that turn the direction of
 * text: all of them could make a terminal show another line than the one that was written. */
static bool is_unsafe(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x2028 && code <= 0x202e) ||
           (code >= 0x2066 && code <= 0x2069);
}

static bool needs_quotes(const struct log_value *value)
{
    const unsigned char *text = (const unsigned char *)value->text;
    uint32_t code;
    size_t size;

    for (size_t at = 0; at < value->length; at += size) {
        size = decode(text + at, value->length - at, &code);
        if (size == 0 || is_unsafe(code) || (code < 0x80 && strchr(" \"=\\", (int)code) != NULL))
            return true;
    }
    return value->length == 0;
}

static bool add_escape(struct log_line *line, uint32_t code)
{
    char escape[8];

    switch (code) {
    case '"':
        return add(line, "\\\"", 2);
    case '\\':
        return add(line, "\\\\", 2);
    case '\n':
        return add(line, "\\n", 2);
    case '\r':
        return add(line, "\\r", 2);
    case '\t':
        return add(line, "\\t", 2);
    default:
        snprintf(escape, sizeof(escape), "\\u%04x", (unsigned)(code & 0xffff));
        return add(line, escape, 6);
    }
}

/* A byte that is no UTF-8 shows its value to a reader; JSON has no way to say it but the replacement
 * character. */
static bool add_broken(struct log_line *line, unsigned char byte)
{
    char escape[8];

    if (line->format == LOG_JSON)
        return add(line, "\\ufffd", 6);
    snprintf(escape, sizeof(escape), "\\x%02x", byte);
    return add(line, escape, 4);
}

static void add_quoted(struct log_line *line, const struct log_value *value)
{
    const unsigned char *text = (const unsigned char *)value->text;
    bool fits = add(line, "\"", 1);
    uint32_t code;
    size_t size;

    for (size_t at = 0; fits && at < value->length; at += size) {
        size = decode(text + at, value->length - at, &code);
        if (size == 0) {
            size = 1;
            fits = add_broken(line, text[at]);
        } else if (is_unsafe(code) || code == '"' || code == '\\') {
            fits = add_escape(line, code);
        } else {
            fits = add(line, value->text + at, size);
        }
    }
    /* The closing quote always has its place in the tail. */
    line->data[line->length++] = '"';
}

void log_line_pair(struct log_line *line, const char *key, size_t key_length, const struct log_value *value)
{
    bool json = line->format == LOG_JSON;
    size_t start = line->length;

    if (!add(line, json ? ",\"" : " ", json ? 2 : 1) || !add(line, key, key_length) ||
        !add(line, json ? "\":" : "=", json ? 2 : 1)) {
        line->length = start;
        return;
    }
    if ((json && !value->number) || (!json && needs_quotes(value))) {
        if (sizeof(line->data) - TAIL - line->length < 2) {
            line->length = start;
            line->cut = true;
            return;
        }
        add_quoted(line, value);
    } else if (!add(line, value->text, value->length)) {
        line->length = start;
    }
    line->cut = line->cut || value->cut;
}

void log_line_end(struct log_line *line)
{
    const char *end = line->format == LOG_JSON ? "}\n" : "\n";

    if (line->cut)
        end = line->format == LOG_JSON ? ",\"cut\":true}\n" : " cut=true\n";
    memcpy(line->data + line->length, end, strlen(end));
    line->length += strlen(end);
}
