/* alerts_memory.c - how much memory is in use, and of how much: control groups (cgroups(7)) or the host. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alerts_shared.h"

enum { PLACE_MAX = 1024, FIELD_MAX = 512 };

/* The two versions differ in names only. */
static const struct version {
    const char *type;       /* of the file system */
    const char *controller; /* in its options and in /proc/self/cgroup; version 2 has one tree for all */
    const char *limit, *usage, *cache;
} versions[] = {
    {"cgroup2", "", "memory.max", "memory.current", "inactive_file"},
    {"cgroup", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"},
};

static FILE *open_at(const char *root, const char *place, const char *name)
{
    char path[2 * PLACE_MAX];
    int length = snprintf(path, sizeof(path), "%s%s/%s", root, place, name);

    return length > 0 && (size_t)length < sizeof(path) ? fopen(path, "re") : NULL;
}

/* A file that is one number; `max` is none. */
static bool read_number(const char *root, const char *place, const char *name, int64_t *number)
{
    FILE *file = open_at(root, place, name);
    bool found;

    if (!file)
        return false;
    found = fscanf(file, "%" SCNd64, number) == 1;
    fclose(file);
    return found;
}

/* The number behind `key` in a file of lines; 0 without. */
static int64_t read_line(const char *root, const char *place, const char *name, const char *key)
{
    FILE *file = open_at(root, place, name);
    char line[256];
    size_t length = strlen(key);
    int64_t number = 0;

    if (!file)
        return 0;
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, key, length) == 0 && strchr(" :", line[length])) {
            number = strtoll(line + length + 1, NULL, 10);
            break;
        }
    }
    fclose(file);
    return number;
}

/* Whether a list with commas has the word. */
static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);

    for (;; list++) {
        if (strncmp(list, word, length) == 0 && (list[length] == '\0' || list[length] == ','))
            return true;
        list = strchr(list, ',');
        if (!list)
            return false;
    }
}

/* Where the version's tree is mounted, and from which place of the whole tree on (proc(5), mountinfo). */
static bool find_mount(const char *root, const struct version *version, char from[FIELD_MAX],
                       char mount[FIELD_MAX])
{
    FILE *file = open_at(root, "/proc/self", "mountinfo");
    char *line = NULL, type[32], options[FIELD_MAX];
    size_t size = 0;
    bool found = false;

    if (!file)
        return false;
    while (!found && getline(&line, &size, file) > 0) {
        const char *rest = strstr(line, " - ");

        found = rest && sscanf(rest, " - %31s %*s %511s", type, options) == 2 &&
                strcmp(type, version->type) == 0 &&
                (version->controller[0] == '\0' || has_word(options, version->controller)) &&
                sscanf(line, "%*d %*d %*s %511s %511s", from, mount) == 2;
    }
    free(line);
    fclose(file);
    return found;
}

/* The process's group, as a path in the whole tree. */
static bool find_group(const char *root, const struct version *version, char group[FIELD_MAX])
{
    FILE *file = open_at(root, "/proc/self", "cgroup");
    char *line = NULL;
    size_t size = 0;
    bool found = false;

    if (!file)
        return false;
    while (!found && getline(&line, &size, file) > 0) {
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;

        if (!path)
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        found = strlen(path) < FIELD_MAX &&
                (version->controller[0] == '\0' ? list[1] == '\0' : has_word(list + 1, version->controller));
        if (found)
            strcpy(group, path);
    }
    free(line);
    fclose(file);
    return found;
}

/* The directory of the process's own group. In a container the mount may begin at that group, or the path
 * may be relative to a namespace: what can't be found stands for the mount itself. */
static bool find_place(const char *root, const struct version *version, char mount[FIELD_MAX],
                       char place[PLACE_MAX])
{
    char from[FIELD_MAX], group[FIELD_MAX];
    const char *below = group;
    size_t length;

    if (!find_mount(root, version, from, mount) || !find_group(root, version, group))
        return false;
    length = strcmp(from, "/") == 0 ? 0 : strlen(from);
    if (length > 0)
        below = strncmp(group, from, length) == 0 ? group + length : "";
    snprintf(place, PLACE_MAX, "%s%s", mount, strcmp(below, "/") == 0 ? "" : below);
    return true;
}

static void take_tighter(int64_t used, int64_t limit, int64_t *best_used, int64_t *best_limit)
{
    used = used > 0 ? used : 0;
    if (*best_limit != 0 && (double)used / (double)limit <= (double)*best_used / (double)*best_limit)
        return;
    *best_used = used;
    *best_limit = limit;
}

/* From the own group up to the mount. Who has no limit says `max`, or more than there is. */
static void look_at_groups(const char *root, const struct version *version, int64_t most, int64_t *used,
                           int64_t *limit)
{
    char mount[FIELD_MAX], place[PLACE_MAX];

    if (!find_place(root, version, mount, place))
        return;
    for (;;) {
        int64_t max, now;
        char *end;

        if (read_number(root, place, version->limit, &max) && max > 0 && max < most &&
            read_number(root, place, version->usage, &now))
            take_tighter(now - read_line(root, place, "memory.stat", version->cache), max, used, limit);
        end = strrchr(place, '/');
        if (!end || strlen(place) <= strlen(mount))
            return;
        *end = '\0';
    }
}

bool alerts_memory(const char *root, int64_t *used, int64_t *limit)
{
    int64_t total = read_line(root, "/proc", "meminfo", "MemTotal") * 1024;
    int64_t available = read_line(root, "/proc", "meminfo", "MemAvailable") * 1024;

    *used = *limit = 0;
    for (size_t i = 0; i < sizeof(versions) / sizeof(*versions); i++)
        look_at_groups(root, &versions[i], total > 0 ? total : INT64_MAX, used, limit);
    if (*limit == 0 && total > 0 && available > 0)
        take_tighter(total - available, total, used, limit);
    return *limit != 0;
}
