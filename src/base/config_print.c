/* config_print.c - the settings on paper: as they are (-t), and as an example to start from. */
#include <string.h>

#include "config_row.h"

/* What an unset value comes to on this machine, for the comment. */
static void print_resolved(const struct config *config, enum config_index index, FILE *out)
{
    if (index == CONFIG_INDEX_workers && config->workers_auto)
        fprintf(out, ", %lld here", (long long)config->workers);
    if (index == CONFIG_INDEX_data_dir && config->data_dir_default)
        fprintf(out, ", %s here", config->data_dir);
}

static void print_origin(const struct config *config, enum config_index index, FILE *out)
{
    if (config->origin[index] == 0)
        fputs("default", out);
    else if (config->origin[index] == 1)
        fprintf(out, "environment %s", config_rows[index].env);
    else
        fprintf(out, "%s:%d", config->file, config->origin[index] - 1);
}

/* The path of a webhook is a secret as often as its user is: only scheme and host remain. */
static void hide_webhook(char *value)
{
    char *host = strstr(value, "://") + strlen("://"), *end = host + strcspn(host, "/?");
    char *at = memrchr(host, '@', (size_t)(end - host));
    size_t length;

    if (at) {
        memmove(host, at + 1, strlen(at + 1) + 1);
        end -= at + 1 - host;
    }
    length = (size_t)(end - value);
    if (*end != '\0' || at)
        snprintf(value + length, CONFIG_VALUE_MAX - length, "/%s", CONFIG_HIDDEN);
}

static bool is_password(enum config_index index)
{
    const char *key = config_rows[index].key;
    size_t length = strlen(key), suffix = strlen("_password");

    return length > suffix && strcmp(key + length - suffix, "_password") == 0;
}

/* A wrong value may have its secret anywhere: all of it is hidden. */
const char *config_shown_value(enum config_index index, const char *text, char out[CONFIG_SHOWN_MAX])
{
    bool secret = is_password(index) || index == CONFIG_INDEX_redis || index == CONFIG_INDEX_store ||
                  index == CONFIG_INDEX_alert_webhook || strchr(text, '@') || strstr(text, "://");

    return secret ? strcpy(out, CONFIG_HIDDEN) : config_shown(text, out);
}

/* What stands between `://user:` and the last `@` of an address, and a password that is a setting of its
 * own. */
static void hide_secrets(enum config_index index, char *value)
{
    char *from = value;

    if (config_rows[index].type != CONFIG_STRING || value[0] == '\0')
        return;
    if (index == CONFIG_INDEX_alert_webhook) {
        hide_webhook(value);
        return;
    }
    if (is_password(index))
        strcpy(value, CONFIG_HIDDEN);
    while ((from = strstr(from, "://"))) {
        char *next, *colon, *at, *end;

        from += strlen("://");
        next = strstr(from, "://");
        end = next ? next : from + strlen(from);
        colon = memchr(from, ':', (size_t)(end - from));
        at = memrchr(from, '@', (size_t)(end - from));
        if (!colon || !at || colon > at)
            continue;
        /* There is place: see CONFIG_VALUE_MAX. */
        memmove(colon + 1 + strlen(CONFIG_HIDDEN), at, strlen(at) + 1);
        memcpy(colon + 1, CONFIG_HIDDEN, strlen(CONFIG_HIDDEN));
        from = colon + 1 + strlen(CONFIG_HIDDEN);
    }
}

static void print_setting(const struct config *config, enum config_index index, FILE *out, bool hide)
{
    char value[CONFIG_VALUE_MAX];

    config_value_format(config, index, value);
    if (hide)
        hide_secrets(index, value);
    fprintf(out, "%s =%s%s", config_rows[index].key, value[0] != '\0' ? " " : "", value);
}

void config_print(const struct config *config, FILE *out)
{
    struct config given = *config;

    if (given.workers_auto)
        given.workers = 0;
    if (given.data_dir_default)
        given.data_dir[0] = '\0';
    for (int i = 0; i < CONFIG_COUNT; i++) {
        print_setting(&given, i, out, true);
        fputs("  # ", out);
        print_origin(config, i, out);
        print_resolved(config, i, out);
        fputc('\n', out);
    }
}

const struct config_item config_items[] = {
#define CONFIG_GROUP(heading) {heading, 0},
#define CONFIG(type, name, env, def, min, max, reload, help) {NULL, CONFIG_INDEX_##name},
#include "chatd/config.def"
#undef CONFIG
};

const size_t config_item_count = sizeof(config_items) / sizeof(config_items[0]);

static void print_example_setting(const struct config *defaults, int index, FILE *out)
{
    const struct config_row *row = &config_rows[index];
    char allowed[CONFIG_ALLOWED_MAX];

    config_value_allowed(index, allowed);
    fprintf(out, "\n# %s\n", row->help);
    fprintf(out, "# %s; environment %s%s\n", allowed, row->env, row->reload ? "" : "; needs a restart");
    print_setting(defaults, index, out, false);
    fputc('\n', out);
}

void config_print_example(FILE *out)
{
    struct config defaults;

    config_defaults(&defaults);
    fputs("# chat.conf - every setting of chatd, with the value it has when nobody says otherwise.\n"
          "#\n"
          "#   chatd -c chat.conf       runs with this file\n"
          "#   chatd -t -c chat.conf    checks it, prints every setting and where it came from\n"
          "#\n"
          "# One `key = value` a line. # starts a comment, at the start of a line or after a space. A value\n"
          "# may stand in double quotes. The environment variable named at a setting wins over this file.\n"
          "# A changed file is taken over by `kill -HUP` of the master; what needs a restart says so.\n",
          out);
    for (size_t i = 0; i < config_item_count; i++) {
        if (config_items[i].heading != NULL)
            fprintf(out, "\n\n## %s\n", config_items[i].heading);
        else
            print_example_setting(&defaults, config_items[i].index, out);
    }
}
