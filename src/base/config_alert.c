/* config_alert.c - when an alert fires and clears, as text: `80% for 1m clear 75%`. */
#include <stdarg.h>
#include <string.h>

#include "config_row.h"

enum {
    ALERT_TEXT_MAX = 100,
    ALERT_COUNT_MAX = 1000000000,
    ALERT_TIME_MAX_MS = 3600000,
    ALERT_FOR_MAX_MS = 86400000,
    ALERT_WINDOW_MIN_MS = 1000, /* events are counted once a second, and kept for the longest window */
};

/* One alert being read; `wrong` says which part of it is not allowed. */
struct reading {
    const char *kind;
    struct config_alert alert; /* clear and for_ms are negative until they come */
    char *wrong;
};

static bool is_kind(const struct reading *r, const char *kind)
{
    return strcmp(r->kind, kind) == 0;
}

static __attribute__((format(printf, 2, 3))) bool refuse(const struct reading *r, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(r->wrong, CONFIG_WRONG_MAX, format, args);
    va_end(args);
    return false;
}

/* The window of events is that of the level before, where there is one. */
static bool read_events(struct reading *r, const char *text, int64_t *level)
{
    int64_t *window_ms = &r->alert.window_ms;
    struct config_rate rate;

    if (!config_value_rate(text, ALERT_COUNT_MAX, &rate) || rate.per_ms < ALERT_WINDOW_MIN_MS ||
        rate.per_ms > CONFIG_ALERT_WINDOW_MAX_MS)
        return refuse(r, "%s: must be a count within 1s to 10m, like 100/1m", text);
    if (*window_ms != 0 && rate.per_ms != *window_ms)
        return refuse(r, "%s: must be within the time of the first level", text);
    *level = rate.count;
    *window_ms = rate.per_ms;
    return true;
}

static bool read_level(struct reading *r, const char *text, int64_t *level)
{
    const char *rest = config_value_digits(text, level);

    if (is_kind(r, "events"))
        return read_events(r, text, level);
    if (is_kind(r, "time")) {
        if (rest && *rest == '\0' && *level != 0)
            return refuse(r, "%s: must have a unit: write %sms, or %ss", text, text, text);
        return (config_value_time(text, level) && *level <= ALERT_TIME_MAX_MS) ||
               refuse(r, "%s: must be a time up to 1h, like 100ms", text);
    }
    if (is_kind(r, "percent"))
        return (rest && strcmp(rest, "%") == 0 && *level <= 100) ||
               refuse(r, "%s: must be a percentage up to 100%%, like 80%%", text);
    if (rest && *rest != '\0')
        return refuse(r, "%s: must be a number without %s", text, rest);
    return (rest && *level <= ALERT_COUNT_MAX) ||
           refuse(r, "%s: must be a number up to %d", text, ALERT_COUNT_MAX);
}

/* `for TIME` or `clear LEVEL`, behind the level `first`. */
static bool read_part(struct reading *r, const char *first, const char *word, const char *value)
{
    bool is_for = strcmp(word, "for") == 0;
    int64_t *into = is_for ? &r->alert.for_ms : &r->alert.clear;

    if (!is_for && strcmp(word, "clear") != 0)
        return refuse(r, "%s: must be `for` with a time or `clear` with a level", word);
    if (*into >= 0)
        return refuse(r, "%s is there twice", word);
    if (*value == '\0')
        return refuse(r, "%s: a %s must follow", word, is_for ? "time" : "level");
    if (is_for)
        return (config_value_time(value, into) && *into <= ALERT_FOR_MAX_MS) ||
               refuse(r, "for %s: must be a time up to 1d, like 30s", value);
    if (!read_level(r, value, into))
        return false;
    return *into <= r->alert.threshold || refuse(r, "clear %s must not be above %s", value, first);
}

/* Without this an error that quotes it would have to make it fit first. */
static bool is_readable(const char *text)
{
    size_t length = 0;

    for (; text[length] != '\0' && length <= ALERT_TEXT_MAX; length++) {
        if (text[length] < ' ' || text[length] > '~')
            return false;
    }
    return length > 0 && length <= ALERT_TEXT_MAX;
}

bool config_alert_parse(const char *kind, const char *text, struct config_alert *alert,
                        char wrong[CONFIG_WRONG_MAX])
{
    struct reading r = {.kind = kind, .alert = {.clear = -1, .for_ms = -1}, .wrong = wrong};
    char copy[ALERT_TEXT_MAX + 1], allowed[CONFIG_ALLOWED_MAX], *rest = copy, *first, *word;

    if (!is_readable(text)) {
        config_alert_allowed(kind, allowed);
        return refuse(&r, "must be %s", allowed);
    }
    strcpy(copy, text);
    first = strsep(&rest, " ");
    if (strcmp(first, "off") == 0 || strcmp(first, "0") == 0) {
        if (rest)
            return refuse(&r, "%s: nothing may follow it", first);
        *alert = (struct config_alert){.threshold = 0};
        return true;
    }
    if (!read_level(&r, first, &r.alert.threshold))
        return false;
    if (!config_alert_on(&r.alert))
        return refuse(&r, "%s: must be above 0, or `off`", first);
    while ((word = strsep(&rest, " "))) {
        if (*word != '\0' && !read_part(&r, first, word, rest ? strsep(&rest, " ") : ""))
            return false;
    }
    r.alert.for_ms = r.alert.for_ms < 0 ? 0 : r.alert.for_ms;
    r.alert.clear = r.alert.clear < 0 ? r.alert.threshold : r.alert.clear;
    *alert = r.alert;
    return true;
}

static void format_level(const char *kind, int64_t level, int64_t window_ms, char *out, size_t size)
{
    char window[32];

    if (strcmp(kind, "time") == 0) {
        config_value_format_time(level, out, size);
    } else if (strcmp(kind, "events") == 0) {
        config_value_format_time(window_ms, window, sizeof(window));
        snprintf(out, size, "%lld/%s", (long long)level, window);
    } else {
        snprintf(out, size, "%lld%s", (long long)level, strcmp(kind, "percent") == 0 ? "%" : "");
    }
}

void config_alert_format(const char *kind, const struct config_alert *alert, char out[CONFIG_VALUE_MAX])
{
    char level[64];
    int length;

    if (!config_alert_on(alert)) {
        strcpy(out, "off");
        return;
    }
    format_level(kind, alert->threshold, alert->window_ms, level, sizeof(level));
    length = snprintf(out, CONFIG_VALUE_MAX, "%s", level);
    if (alert->for_ms != 0) {
        config_value_format_time(alert->for_ms, level, sizeof(level));
        length += snprintf(out + length, CONFIG_VALUE_MAX - (size_t)length, " for %s", level);
    }
    if (alert->clear != alert->threshold) {
        format_level(kind, alert->clear, alert->window_ms, level, sizeof(level));
        snprintf(out + length, CONFIG_VALUE_MAX - (size_t)length, " clear %s", level);
    }
}

void config_alert_allowed(const char *kind, char out[CONFIG_ALLOWED_MAX])
{
    const char *level = "a count", *example = "1000 for 10s clear 500";

    if (strcmp(kind, "percent") == 0) {
        level = "1% to 100%";
        example = "80% for 1m clear 75%";
    } else if (strcmp(kind, "time") == 0) {
        level = "a time up to 1h with its unit";
        example = "100ms for 10s clear 80ms";
    } else if (strcmp(kind, "events") == 0) {
        level = "a count within 1s to 10m (0/1m: any)";
        example = "100/1m for 30s clear 10/1m";
    }
    snprintf(out, CONFIG_ALLOWED_MAX,
             "off, or %s, then if wanted `for` and a time up to 1d, and `clear` and a level not above the "
             "first, like %s",
             level, example);
}
