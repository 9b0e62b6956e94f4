/* config_value.c - the table of settings, and a value's way from text and back. */
#include <arpa/inet.h>
#include <string.h>

#include <curl/curl.h>

#include "config_row.h"

#define LIMIT_STRING(max) max, NULL
#define LIMIT_NUMBER(max) max, NULL
#define LIMIT_BYTES(max) max, NULL
#define LIMIT_TIME(max) max, NULL
#define LIMIT_AGE(max) max, NULL
#define LIMIT_AUTO(max) max, NULL
#define LIMIT_RATE(max) max, NULL
#define LIMIT_ENUM(max) 0, max
#define LIMIT_ALERT(max) 0, max

const struct config_row config_rows[CONFIG_COUNT] = {
#define CONFIG(type, name, env, def, min, max, reload, help) \
    {CONFIG_##type, #name, env, def, min, LIMIT_##type(max), reload, help, \
     offsetof(struct config, name), sizeof(((struct config *)0)->name)},
#include "chatd/config.def"
#undef CONFIG
};

struct unit {
    const char *name;
    int64_t factor;
};

/* Ascending. */
static const struct unit byte_units[] = {{"", 1}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}};
static const struct unit time_units[] = {
    {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};

enum {
    BYTE_UNITS = sizeof(byte_units) / sizeof(byte_units[0]),
    TIME_UNITS = sizeof(time_units) / sizeof(time_units[0]),
    RATE_PER_MAX_MS = 86400000,
    RATE_PER_BARE_MS = 60000
};

static void *field(const struct config *config, const struct config_row *row)
{
    return (char *)config + row->offset;
}

const char *config_value_digits(const char *text, int64_t *number)
{
    size_t digits = strspn(text, "0123456789");

    if (digits == 0 || digits > 18)
        return NULL;
    *number = 0;
    for (size_t i = 0; i < digits; i++)
        *number = *number * 10 + (text[i] - '0');
    return text + digits;
}

static const struct unit *find_unit(const struct unit *units, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(units[i].name, name) == 0)
            return &units[i];
    }
    return NULL;
}

static bool read_scaled(const char *text, const struct unit *units, size_t count, int64_t *number)
{
    const char *rest = config_value_digits(text, number);
    const struct unit *unit;

    if (rest == NULL)
        return false;
    /* A time without a unit is in seconds; bytes have a unit without a name. */
    unit = find_unit(units, count, units == time_units && *rest == '\0' ? "s" : rest);
    if (unit == NULL || *number > INT64_MAX / unit->factor)
        return false;
    *number *= unit->factor;
    return true;
}

bool config_value_time(const char *text, int64_t *ms)
{
    return read_scaled(text, time_units, TIME_UNITS, ms);
}

/* `30`, `5/s`, `100/10s` */
bool config_value_rate(const char *text, int64_t max, struct config_rate *rate)
{
    const char *rest = config_value_digits(text, &rate->count);
    const struct unit *unit;

    if (rest == NULL || rate->count > max)
        return false;
    rate->per_ms = RATE_PER_BARE_MS;
    if (*rest == '\0')
        return true;
    if (*rest != '/')
        return false;
    unit = find_unit(time_units, TIME_UNITS, ++rest);
    if (unit != NULL)
        rate->per_ms = unit->factor;
    else if (!config_value_time(rest, &rate->per_ms))
        return false;
    return rate->per_ms >= 1 && rate->per_ms <= RATE_PER_MAX_MS;
}

static bool read_word(const char *text, const char *words, int *value)
{
    size_t length = strlen(text);

    for (*value = 0; words != NULL; ++*value) {
        size_t word = strcspn(words, "|");

        if (word == length && memcmp(words, text, length) == 0)
            return true;
        words = words[word] == '|' ? words + word + 1 : NULL;
    }
    return false;
}

/* Control characters in a path or address are a mistake, and would tear the lines it is printed in. */
static bool is_plain(const char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return false;
    }
    return true;
}

static bool is_address(const char *text)
{
    struct in6_addr address;

    return inet_pton(AF_INET, text, &address) == 1 || inet_pton(AF_INET6, text, &address) == 1;
}

/* `http://host…` or `https://host…` without what no address holds, or nothing at all. */
static bool is_webhook(const char *text)
{
    size_t scheme = strncmp(text, "http://", 7) == 0 ? 7 : strncmp(text, "https://", 8) == 0 ? 8 : 0;
    CURLUcode code;
    CURLU *url;

    if (text[0] == '\0')
        return true;
    if (scheme == 0 || strchr("/?", text[scheme]) != NULL || strpbrk(text, " \"\\#") != NULL)
        return false;
    url = curl_url();
    code = curl_url_set(url, CURLUPART_URL, text, 0); /* without memory it says so */
    curl_url_cleanup(url);
    return code == CURLUE_OK;
}

static bool read_string(struct config *config, enum config_index index, const char *text)
{
    const struct config_row *row = &config_rows[index];
    size_t length = strlen(text);

    if ((int64_t)length < row->min || (int64_t)length > row->max || !is_plain(text))
        return false;
    if (index == CONFIG_INDEX_host && !is_address(text))
        return false;
    if (index == CONFIG_INDEX_alert_webhook && !is_webhook(text))
        return false;
    memcpy(field(config, row), text, length + 1);
    return true;
}

/* Of any type but ALERT, which says itself what is wrong. */
static bool read_value(struct config *config, enum config_index index, const char *text)
{
    const struct config_row *row = &config_rows[index];
    struct config_rate rate;
    const char *rest;
    int64_t number = 0;
    int word;

    switch (row->type) {
    case CONFIG_STRING:
        return read_string(config, index, text);
    case CONFIG_RATE:
        if (!config_value_rate(text, row->max, &rate))
            return false;
        memcpy(field(config, row), &rate, sizeof(rate));
        return true;
    case CONFIG_ALERT:
        return false;
    case CONFIG_ENUM:
        if (!read_word(text, row->words, &word))
            return false;
        memcpy(field(config, row), &word, sizeof(word));
        return true;
    case CONFIG_BYTES:
        if (!read_scaled(text, byte_units, BYTE_UNITS, &number))
            return false;
        break;
    case CONFIG_TIME:
    case CONFIG_AGE:
        if (!config_value_time(text, &number))
            return false;
        break;
    case CONFIG_AUTO:
    case CONFIG_NUMBER:
        rest = config_value_digits(text, &number);
        if (row->type == CONFIG_AUTO && strcmp(text, "auto") == 0) {
            memset(field(config, row), 0, row->size);
            return true;
        }
        if (rest == NULL || *rest != '\0')
            return false;
        break;
    }
    if ((number < row->min && (row->type != CONFIG_AGE || number != 0)) || number > row->max)
        return false;
    memcpy(field(config, row), &number, sizeof(number));
    return true;
}

bool config_value_parse(struct config *config, enum config_index index, const char *text,
                        char wrong[CONFIG_WRONG_MAX])
{
    const struct config_row *row = &config_rows[index];
    char allowed[CONFIG_ALLOWED_MAX];
    struct config_alert alert;

    if (row->type == CONFIG_ALERT) {
        if (!config_alert_parse(row->words, text, &alert, wrong))
            return false;
        memcpy(field(config, row), &alert, sizeof(alert));
        return true;
    }
    if (read_value(config, index, text))
        return true;
    config_value_allowed(index, allowed);
    snprintf(wrong, CONFIG_WRONG_MAX, "must be %s", allowed);
    return false;
}

/* In the largest unit that says it exactly. */
static void format_scaled(int64_t number, const struct unit *units, size_t count, char *out, size_t size)
{
    size_t i = count - 1;

    while (i > 0 && number % units[i].factor != 0)
        i--;
    if (number == 0)
        snprintf(out, size, "0");
    else
        snprintf(out, size, "%lld%s", (long long)(number / units[i].factor), units[i].name);
}

void config_value_format_time(int64_t ms, char *out, size_t size)
{
    format_scaled(ms, time_units, TIME_UNITS, out, size);
}

static void format_rate(const struct config_rate *rate, char *out, size_t size)
{
    char per[32];

    config_value_format_time(rate->per_ms, per, sizeof(per));
    if (rate->count == 0 || rate->per_ms == RATE_PER_BARE_MS)
        snprintf(out, size, "%lld", (long long)rate->count);
    else
        snprintf(out, size, "%lld/%s", (long long)rate->count, per[0] == '1' && per[1] > '9' ? per + 1 : per);
}

static void format_word(const char *words, int value, char *out, size_t size)
{
    for (; value > 0; value--)
        words += strcspn(words, "|") + 1;
    snprintf(out, size, "%.*s", (int)strcspn(words, "|"), words);
}

static void format_string(const char *text, char out[CONFIG_VALUE_MAX])
{
    size_t length = strlen(text);

    if (strpbrk(text, "#\"\\") == NULL && text[0] != ' ' && (length == 0 || text[length - 1] != ' ')) {
        memcpy(out, text, length + 1);
        return;
    }
    *out++ = '"';
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            *out++ = '\\';
        *out++ = *text;
    }
    *out++ = '"';
    *out = '\0';
}

void config_value_format(const struct config *config, enum config_index index, char out[CONFIG_VALUE_MAX])
{
    const struct config_row *row = &config_rows[index];
    const void *value = field(config, row);

    switch (row->type) {
    case CONFIG_STRING:
        format_string(value, out);
        break;
    case CONFIG_RATE:
        format_rate(value, out, CONFIG_VALUE_MAX);
        break;
    case CONFIG_ALERT:
        config_alert_format(row->words, value, out);
        break;
    case CONFIG_ENUM:
        format_word(row->words, *(const int *)value, out, CONFIG_VALUE_MAX);
        break;
    case CONFIG_BYTES:
        format_scaled(*(const int64_t *)value, byte_units, BYTE_UNITS, out, CONFIG_VALUE_MAX);
        break;
    case CONFIG_TIME:
    case CONFIG_AGE:
        config_value_format_time(*(const int64_t *)value, out, CONFIG_VALUE_MAX);
        break;
    case CONFIG_AUTO:
    case CONFIG_NUMBER:
        if (row->type == CONFIG_AUTO && *(const int64_t *)value == 0)
            snprintf(out, CONFIG_VALUE_MAX, "auto");
        else
            snprintf(out, CONFIG_VALUE_MAX, "%lld", (long long)*(const int64_t *)value);
        break;
    }
}

/* "a|b|c" becomes "a, b or c". */
static void list_words(const char *words, char *out, size_t size)
{
    size_t at = 0;

    while (*words != '\0' && at < size) {
        size_t word = strcspn(words, "|");
        const char *glue = words[word] == '\0' ? "" : strchr(words + word + 1, '|') != NULL ? ", " : " or ";

        at += (size_t)snprintf(out + at, size - at, "%.*s%s", (int)word, words, glue);
        words += word + (words[word] == '|');
    }
}

void config_value_allowed(enum config_index index, char out[CONFIG_ALLOWED_MAX])
{
    const struct config_row *row = &config_rows[index];
    char min[32], max[32];

    switch (row->type) {
    case CONFIG_STRING:
        if (index == CONFIG_INDEX_host)
            snprintf(out, CONFIG_ALLOWED_MAX, "an IPv4 or IPv6 address");
        else if (index == CONFIG_INDEX_alert_webhook)
            snprintf(out, CONFIG_ALLOWED_MAX,
                     "empty, or an http:// or https:// address of at most %lld bytes", (long long)row->max);
        else
            snprintf(out, CONFIG_ALLOWED_MAX, "text of at most %lld bytes without control characters",
                     (long long)row->max);
        break;
    case CONFIG_RATE:
        snprintf(out, CONFIG_ALLOWED_MAX,
                 "a count from 0 to %lld, alone (per minute) or with a time up to a day, like 5/s or 100/10s",
                 (long long)row->max);
        break;
    case CONFIG_ALERT:
        config_alert_allowed(row->words, out);
        break;
    case CONFIG_ENUM:
        list_words(row->words, out, CONFIG_ALLOWED_MAX);
        break;
    case CONFIG_BYTES:
        format_scaled(row->min, byte_units, BYTE_UNITS, min, sizeof(min));
        format_scaled(row->max, byte_units, BYTE_UNITS, max, sizeof(max));
        snprintf(out, CONFIG_ALLOWED_MAX,
                 "a number of bytes from %s to %s, with K, M or G for powers of 1024", min, max);
        break;
    case CONFIG_TIME:
    case CONFIG_AGE:
        config_value_format_time(row->min, min, sizeof(min));
        config_value_format_time(row->max, max, sizeof(max));
        snprintf(out, CONFIG_ALLOWED_MAX,
                 "%sa time from %s to %s: a number with ms, s, m, h or d, alone in seconds%s",
                 row->type == CONFIG_AGE ? "0 or " : "", min, max,
                 row->type == CONFIG_AGE ? " (write 30d for days)" : "");
        break;
    case CONFIG_AUTO:
    case CONFIG_NUMBER:
        snprintf(out, CONFIG_ALLOWED_MAX, "%sa number from %lld to %lld",
                 row->type == CONFIG_AUTO ? "auto or " : "", (long long)row->min, (long long)row->max);
        break;
    }
}
