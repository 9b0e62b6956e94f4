/* config.c - where settings come from: defaults, file, environment, and this machine. */
#include "chatd/config.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config_row.h"

void config_defaults(struct config *config)
{
    char wrong[CONFIG_WRONG_MAX];

    /* Zeroes also what lies between and behind values, so that settings may be compared as bytes. */
    memset(config, 0, sizeof(*config));
    for (int i = 0; i < CONFIG_COUNT; i++) {
        if (!config_value_parse(config, (enum config_index)i, config_rows[i].def, wrong))
            abort(); /* a row of config.def contradicts itself */
    }
}

/* Reads to the end, whatever it is (a pipe works too). One byte more than allowed tells a file that is too
 * large. */
static int read_file(const char *file, char **text, size_t *length)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t got = 1;
    int error = 0;

    if (fd < 0)
        return -errno;
    *length = 0;
    *text = malloc(CONFIG_FILE_MAX + 1);
    if (*text == NULL)
        abort();
    while (got > 0 && *length <= CONFIG_FILE_MAX) {
        got = read(fd, *text + *length, CONFIG_FILE_MAX + 1 - *length);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got < 0)
            error = -errno;
        else
            *length += (size_t)got;
    }
    close(fd);
    if (*length > CONFIG_FILE_MAX)
        error = -EFBIG;
    if (error != 0)
        free(*text);
    return error;
}

static void load_file(struct config *config, const char *file, struct config_problems *problems)
{
    char *text = NULL;
    size_t length = 0;
    int result = read_file(file, &text, &length);

    if (result != 0) {
        config_problems_add(problems, "%s: can't be read: %s", file,
                            result == -EFBIG ? "larger than 1 MB" : strerror(-result));
        return;
    }
    config_parse_text(config, file, text, length, problems);
    free(text);
}

static void load_environment(struct config *config, struct config_problems *problems)
{
    char shown_value[CONFIG_SHOWN_MAX], wrong[CONFIG_WRONG_MAX];

    for (int i = 0; i < CONFIG_COUNT; i++) {
        const char *value = getenv(config_rows[i].env);

        if (value == NULL)
            continue;
        if (config_value_parse(config, (enum config_index)i, value, wrong)) {
            config->origin[i] = 1;
            continue;
        }
        config_problems_add(problems, "environment %s=%s: %s", config_rows[i].env,
                            config_shown_value((enum config_index)i, value, shown_value), wrong);
    }
}

/* Cores this process may run on: containers and taskset give fewer than the machine has. */
static int64_t count_cores(void)
{
    cpu_set_t *set = CPU_ALLOC(8192);
    size_t size = CPU_ALLOC_SIZE(8192);
    int cores = 0;

    if (set != NULL && sched_getaffinity(0, size, set) == 0)
        cores = CPU_COUNT_S(size, set);
    if (set != NULL)
        CPU_FREE(set);
    if (cores < 1)
        return 1;
    return cores < config_rows[CONFIG_INDEX_workers].max ? cores : config_rows[CONFIG_INDEX_workers].max;
}

/* Fills `out` with the place for data when none is set. False when there is no home either, or it is too
 * long. */
static bool default_data_dir(char *out, size_t size)
{
    const char *state = getenv("STATE_DIRECTORY"), *home = getenv("HOME");
    struct passwd *user;
    int length;

    if (state != NULL && state[0] != '\0' && state[0] != ':') {
        length = snprintf(out, size, "%.*s", (int)strcspn(state, ":"), state);
        return length >= 0 && (size_t)length < size;
    }
    if (home == NULL || home[0] == '\0') {
        user = getpwuid(geteuid());
        home = user != NULL ? user->pw_dir : NULL;
    }
    if (home == NULL || home[0] == '\0')
        return false;
    length = snprintf(out, size, "%s/.local/state/chatd", home);
    return length >= 0 && (size_t)length < size;
}

static void resolve_data_dir(struct config *config, struct config_problems *problems)
{
    size_t max = (size_t)config_rows[CONFIG_INDEX_data_dir].max + 1;
    char path[CONFIG_STRING_MAX];
    char *cwd;
    int length;

    config->data_dir_default = config->data_dir[0] == '\0';
    if (config->data_dir_default && !default_data_dir(config->data_dir, max)) {
        config_problems_add(problems,
                            "data_dir: there is no default without STATE_DIRECTORY and a home directory, "
                            "or it is longer than %zu bytes; set data_dir",
                            max - 1);
        return;
    }
    if (config->data_dir[0] == '/')
        return;
    cwd = getcwd(NULL, 0);
    length = cwd != NULL ? snprintf(path, max, "%s/%s", cwd, config->data_dir) : -1;
    free(cwd);
    if (length < 0 || (size_t)length >= max)
        config_problems_add(problems, "data_dir = %s: must be at most %zu bytes as an absolute path",
                            config->data_dir, max - 1);
    else
        memcpy(config->data_dir, path, (size_t)length + 1);
}

int config_load(struct config *config, const char *file, char error[CONFIG_ERROR_MAX])
{
    struct config_problems problems = config_problems_start(error);

    config_defaults(config);
    if (file != NULL && strlen(file) >= sizeof(config->file)) {
        config_problems_add(&problems, "the path of the settings file must be shorter than %zu bytes",
                            sizeof(config->file));
    } else if (file != NULL) {
        strcpy(config->file, file);
        load_file(config, file, &problems);
    }
    load_environment(config, &problems);
    config->workers_auto = config->workers == 0;
    if (config->workers_auto)
        config->workers = count_cores();
    resolve_data_dir(config, &problems);
    return config_problems_end(&problems);
}

void config_reload(struct config *current, const struct config *next, char kept[CONFIG_ERROR_MAX])
{
    size_t length = 0;

    kept[0] = '\0';
    for (int i = 0; i < CONFIG_COUNT; i++) {
        const struct config_row *row = &config_rows[i];
        void *now = (char *)current + row->offset;
        const void *then = (const char *)next + row->offset;
        bool same = row->type == CONFIG_STRING ? strcmp(now, then) == 0 : memcmp(now, then, row->size) == 0;

        if (same || row->reload) {
            memmove(now, then, row->size);
            current->origin[i] = next->origin[i];
            continue;
        }
        length += (size_t)snprintf(kept + length, CONFIG_ERROR_MAX - length, "%s%s", length > 0 ? "," : "",
                                   row->key);
    }
    current->workers_auto = next->workers_auto;
}
