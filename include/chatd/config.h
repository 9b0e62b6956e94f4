/* config.h - the settings: a table (config.def) that becomes a struct, a parser and a dump.
 *
 * Order: built-in default, then the file, then the environment; each setting remembers where its value
 * came from. A wrong value stops the start with an error that names file, line, key, value and
 * what is allowed; a value that may hold a secret, and that of an unknown key, is not repeated. Unknown
 * keys in a file are errors; unknown environment names are not ours.
 *
 * File: one `key = value` a line; `#` starts a comment at the start of a line or after white space;
 * white space around key and value is dropped; a value may stand in double quotes, with \" and \\ inside. A
 * key twice is an error. An environment name that is set to nothing is a value like any other.
 *
 * A struct config is a plain value: the master reads it, workers inherit their copy by fork. */
#ifndef CHATD_CONFIG_H
#define CHATD_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { CONFIG_STRING_MAX = 1024, CONFIG_ERROR_MAX = 4096 };
enum { CONFIG_FILE_MAX = 1048576, CONFIG_LINE_MAX = 4096 }; /* bytes */

enum config_mode { CONFIG_DEVELOPMENT, CONFIG_PRODUCTION };

/* `count` events per `per_ms` milliseconds, with a burst of as many; count 0 is off. */
struct config_rate {
    int64_t count;
    int64_t per_ms;
};

enum { CONFIG_ALERT_WINDOW_MAX_MS = 600000 };

/* When an alert fires and when it is over; its levels are in the unit of its row: percent, a count,
 * milliseconds, or events within `window_ms`. */
struct config_alert {
    int64_t threshold; /* fires above it; 0 without a window is off */
    int64_t clear;     /* is over at or below it: at most the threshold */
    int64_t for_ms;    /* how long it has to be above, or at or below, before that counts */
    int64_t window_ms; /* 0 but for events */
};

static inline bool config_alert_on(const struct config_alert *alert)
{
    return alert->threshold != 0 || alert->window_ms != 0;
}

#define CONFIG_TYPE_STRING(name) char name[CONFIG_STRING_MAX]
#define CONFIG_TYPE_NUMBER(name) int64_t name
#define CONFIG_TYPE_BYTES(name) int64_t name
#define CONFIG_TYPE_TIME(name) int64_t name
#define CONFIG_TYPE_AGE(name) int64_t name
#define CONFIG_TYPE_AUTO(name) int64_t name
#define CONFIG_TYPE_RATE(name) struct config_rate name
#define CONFIG_TYPE_ENUM(name) int name
#define CONFIG_TYPE_ALERT(name) struct config_alert name

#define CONFIG(type, name, env, def, min, max, reload, help) CONFIG_INDEX_##name,
enum config_index {
#include "chatd/config.def"
    CONFIG_COUNT
};
#undef CONFIG

struct config {
#define CONFIG(type, name, env, def, min, max, reload, help) CONFIG_TYPE_##type(name);
#include "chatd/config.def"
#undef CONFIG
    char file[CONFIG_STRING_MAX];  /* the -c file, empty without one */
    uint16_t origin[CONFIG_COUNT]; /* 0 default, 1 environment, else 1 + line in file (the highest also for
                                      more) */
    bool workers_auto;     /* after config_load: `workers` is this machine's number, not the setting's */
    bool data_dir_default; /* after config_load: the same for `data_dir` */
};

/* Fills *config from defaults, then `file` (NULL: none), then the environment. On a wrong setting: -EINVAL
 * and every problem found, one a line, in `error` (*config is then not to be used). Resolves `auto` workers
 * (the cores this process may run on) and data_dir, which becomes an absolute path. */
int config_load(struct config *config, const char *file, char error[CONFIG_ERROR_MAX])
    __attribute__((warn_unused_result));

/* The parser alone, without file system or environment (also the fuzz target's way in). `name` stands in
 * errors. *config must hold valid settings before (config_defaults); after -EINVAL it holds those that were
 * right. */
int config_parse(struct config *config, const char *name, const char *text, size_t length,
                 char error[CONFIG_ERROR_MAX]) __attribute__((warn_unused_result));
void config_defaults(struct config *config);

/* Prints every setting as `key = value  # origin` (-t): a file that means the same. `auto` and an empty
 * data_dir stay as they are, what they come to stands in the comment. But for secrets: those of *_password
 * and in addresses are stars, and what follows the host of a webhook. */
void config_print(const struct config *config, FILE *out);

/* Prints a complete, commented chat.conf with the built-in defaults (chat.conf.example is this output). */
void config_print_example(FILE *out);

/* Takes from `next` what HUP may change; a setting that changed but needs a restart keeps its old value and
 * is named, comma separated, in `kept` (empty when none). Both come from config_load. */
void config_reload(struct config *current, const struct config *next, char kept[CONFIG_ERROR_MAX]);

#endif
