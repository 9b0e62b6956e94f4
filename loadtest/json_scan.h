/* Finds members of a JSON object without parsing it.
 *
 * Good enough for the two ends of a load test, which know each other's messages, and for nothing else: the
 * first `"name":` in the text wins, whatever object it stands in. It can't be misled by what stands inside
 * a string, because there a quote is written \" and the closing quote of a name would not match.
 * Nothing is copied: a slice points into the text that was searched.
 */
#ifndef LOADTEST_JSON_SCAN_H
#define LOADTEST_JSON_SCAN_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct slice {
    const char *at; /* NULL: no such member */
    size_t len;
};

/* Just behind the closing quote of the string whose opening quote is at `p`; NULL when it has none. */
static inline const char *json_scan_string_end(const char *p, const char *end)
{
    for (p++; p < end; p++) {
        if (*p == '\\')
            p++;
        else if (*p == '"')
            return p + 1;
    }
    return NULL;
}

/* The member's value as it is written, a string with its quotes. `quoted` is the name with its quotes.
 * Values that are objects or arrays are not supported. */
static inline struct slice json_scan_raw(struct slice json, const char *quoted)
{
    struct slice none = {NULL, 0};
    const char *p = json.at, *end = json.at + json.len;
    size_t name = strlen(quoted);
    while ((p = memmem(p, (size_t)(end - p), quoted, name)) != NULL) {
        p += name;
        while (p < end && *p == ' ')
            p++;
        if (p < end && *p == ':')
            break;
    }
    if (!p)
        return none;
    for (p++; p < end && *p == ' '; p++)
        ;
    const char *stop = p;
    if (p < end && *p == '"')
        stop = json_scan_string_end(p, end);
    else
        while (stop < end && *stop != ',' && *stop != '}' && *stop != ' ')
            stop++;
    return stop && stop > p ? (struct slice){p, (size_t)(stop - p)} : none;
}

/* A string member's text, without quotes and with its escapes as they stand. */
static inline struct slice json_scan_text(struct slice json, const char *quoted)
{
    struct slice raw = json_scan_raw(json, quoted);
    if (!raw.at || raw.len < 2 || raw.at[0] != '"')
        return (struct slice){NULL, 0};
    return (struct slice){raw.at + 1, raw.len - 2};
}

/* A member that is a whole number; `missing` when it is absent or anything else. */
static inline uint64_t json_scan_number(struct slice json, const char *quoted, uint64_t missing)
{
    struct slice raw = json_scan_raw(json, quoted);
    uint64_t number = 0;
    if (!raw.at)
        return missing;
    for (size_t i = 0; i < raw.len; i++) {
        if (raw.at[i] < '0' || raw.at[i] > '9')
            return missing;
        number = number * 10 + (uint64_t)(raw.at[i] - '0');
    }
    return number;
}

static inline bool slice_is(struct slice s, const char *word)
{
    return s.at && s.len == strlen(word) && memcmp(s.at, word, s.len) == 0;
}

#endif
