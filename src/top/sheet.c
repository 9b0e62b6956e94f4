/* sheet.c - lines, and numbers as people read them. */
#include "sheet.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

enum { FOREIGN_MAX = 400 }; /* characters of one text of a server */

void sheet_clear(struct sheet *sheet)
{
    sheet->text.length = 0;
    sheet->count = 0;
    sheet->lines = 0;
}

void sheet_deinit(struct sheet *sheet)
{
    buf_deinit(&sheet->text);
    free(sheet->spans);
    *sheet = (struct sheet){0};
}

static void add_span(struct sheet *sheet, enum sheet_style style, size_t offset, bool ends)
{
    if (sheet->count == sheet->capacity) {
        sheet->capacity = sheet->capacity ? 2 * sheet->capacity : 256;
        sheet->spans = realloc(sheet->spans, sheet->capacity * sizeof(*sheet->spans));
        if (!sheet->spans)
            abort();
    }
    sheet->spans[sheet->count++] = (struct sheet_span){
        .offset = offset, .length = sheet->text.length - offset, .style = style, .ends = ends};
}

void sheet_add(struct sheet *sheet, enum sheet_style style, const char *format, ...)
{
    size_t offset = sheet->text.length;
    va_list arguments;
    char *text;
    int length;

    va_start(arguments, format);
    length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0)
        abort();
    buf_add(&sheet->text, text, (size_t)length);
    free(text);
    add_span(sheet, style, offset, false);
}

/* One character of `text`: its length in bytes, 0 at the end; *shown is false for what may not be shown. */
static size_t next_character(const char *text, size_t length, mbstate_t *state, int *width)
{
    wchar_t wide;
    size_t used = length > 0 ? mbrtowc(&wide, text, length, state) : 0;

    if (length == 0)
        return 0;
    if (used == 0 || used > length) { /* a zero byte, or no character of this locale */
        memset(state, 0, sizeof(*state));
        *width = 0;
        return 1;
    }
    *width = wcwidth(wide);
    return used;
}

void sheet_foreign(struct sheet *sheet, enum sheet_style style, const char *text)
{
    size_t offset = sheet->text.length, length = text ? strlen(text) : 0, used;
    mbstate_t state = {0};
    int width;

    if (!text)
        buf_add_literal(&sheet->text, "-");
    for (int i = 0; i < FOREIGN_MAX && (used = next_character(text, length, &state, &width)) > 0; i++) {
        if (width > 0)
            buf_add(&sheet->text, text, used);
        else
            buf_add_literal(&sheet->text, "?");
        text += used;
        length -= used;
    }
    add_span(sheet, style, offset, false);
}

void sheet_end(struct sheet *sheet)
{
    add_span(sheet, SHEET_PLAIN, sheet->text.length, true);
    sheet->lines++;
}

const char *sheet_count(double value, char out[SHEET_NUMBER_MAX])
{
    if (isnan(value))
        return "-";
    if (value == floor(value) || value >= 100)
        snprintf(out, SHEET_NUMBER_MAX, "%.0f", value);
    else
        snprintf(out, SHEET_NUMBER_MAX, value < 1 ? "%.2f" : "%.1f", value);
    return out;
}

const char *sheet_bytes(double value, char out[SHEET_NUMBER_MAX])
{
    static const char units[] = " KMGTP";
    size_t unit = 0;

    if (isnan(value))
        return "-";
    while (value >= 1000 && unit + 2 < sizeof(units)) {
        value /= 1024;
        unit++;
    }
    if (unit == 0)
        snprintf(out, SHEET_NUMBER_MAX, "%.0f", value);
    else
        snprintf(out, SHEET_NUMBER_MAX,
                 value < 10    ? "%.2f%c"
                 : value < 100 ? "%.1f%c"
                               : "%.0f%c",
                 value, units[unit]);
    return out;
}

const char *sheet_seconds(double value, char out[SHEET_NUMBER_MAX])
{
    if (isnan(value))
        return "-";
    if (value < 1)
        snprintf(out, SHEET_NUMBER_MAX, value < 0.01 ? "%.2f ms" : "%.1f ms", value * 1e3);
    else
        snprintf(out, SHEET_NUMBER_MAX, "%.2f s", value);
    return out;
}

const char *sheet_span(double seconds, char out[SHEET_NUMBER_MAX])
{
    long long whole;
    int clock;

    if (!(seconds >= 0 && seconds < 1e11))
        return "-";
    whole = (long long)seconds;
    clock = (int)(whole % 86400);
    if (whole < 100)
        snprintf(out, SHEET_NUMBER_MAX, "%lld s", whole);
    else if (whole < 86400)
        snprintf(out, SHEET_NUMBER_MAX, "%d:%02d:%02d", clock / 3600, clock / 60 % 60, clock % 60);
    else
        snprintf(out, SHEET_NUMBER_MAX, "%lldd %d:%02d:%02d", whole / 86400, clock / 3600, clock / 60 % 60,
                 clock % 60);
    return out;
}

void sheet_print(const struct sheet *sheet, FILE *out)
{
    for (size_t i = 0; i < sheet->count; i++) {
        const struct sheet_span *span = &sheet->spans[i];

        if (span->length > 0)
            fwrite(sheet->text.data + span->offset, 1, span->length, out);
        if (span->ends)
            fputc('\n', out);
    }
}

size_t sheet_fit(const char *text, size_t length, int columns, int *used)
{
    mbstate_t state = {0};
    size_t at = 0, step;
    int width;

    *used = 0;
    while ((step = next_character(text + at, length - at, &state, &width)) > 0) {
        if (*used + width > columns)
            break;
        *used += width;
        at += step;
    }
    return at;
}
