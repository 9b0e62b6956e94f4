/* cgroups.c - the limits of control groups: https://docs.kernel.org/admin-guide/cgroup-v2.html, and
 * version 1. */
#include <stdio.h>
#include <string.h>

#include "facts.h"

enum { PATH_SIZE = 512, LINE_SIZE = 1024 };

/* Version 1 says "no limit" by a number no machine has: the largest one, rounded down to a page. */
#define VERSION1_NONE (INT64_C(1) << 60)

static void narrow(int64_t *limit, int64_t found)
{
    if (found == FACTS_UNKNOWN)
        return;
    if (found >= VERSION1_NONE)
        found = FACTS_NONE;
    if (*limit == FACTS_UNKNOWN || found < *limit)
        *limit = found;
}

static int64_t read_at(const char *root, const char *group, const char *file, int field)
{
    char path[PATH_SIZE];

    snprintf(path, sizeof(path), "/sys/fs/cgroup%s/%s", group, file);
    return facts_number(root, path, field);
}

static int64_t cores_of(int64_t quota, int64_t period)
{
    if (quota == FACTS_NONE || quota == FACTS_UNKNOWN || period <= 0)
        return quota;
    return quota * 1000 / period;
}

static void read_group(struct facts *facts, const char *root, const char *group)
{
    narrow(&facts->cgroup_memory, read_at(root, group, "memory.max", 0));
    narrow(&facts->cgroup_memory, read_at(root, group, "memory.limit_in_bytes", 0));
    narrow(&facts->cgroup_tasks, read_at(root, group, "pids.max", 0));
    narrow(&facts->cgroup_cpus,
           cores_of(read_at(root, group, "cpu.max", 0), read_at(root, group, "cpu.max", 1)));
    narrow(&facts->cgroup_cpus, cores_of(read_at(root, group, "cpu.cfs_quota_us", 0),
                                         read_at(root, group, "cpu.cfs_period_us", 0)));
}

/* In a container the path may be that of the host, where nothing is; the mount's own top is what counts then.
 */
static void read_upwards(struct facts *facts, const char *root, const char *controller, const char *path)
{
    char group[PATH_SIZE];
    size_t top = strlen(controller) + (controller[0] != '\0');
    char *slash;

    snprintf(group, sizeof(group), "%s%s%s", controller[0] ? "/" : "", controller,
             strcmp(path, "/") ? path : "");
    do {
        read_group(facts, root, group);
        slash = strrchr(group + top, '/');
        if (slash)
            *slash = '\0';
    } while (slash);
}

void facts_read_cgroups(struct facts *facts, const char *root, const char *process)
{
    char path[PATH_SIZE], line[LINE_SIZE];
    FILE *file;

    facts->cgroup_memory = facts->cgroup_tasks = facts->cgroup_cpus = FACTS_UNKNOWN;
    snprintf(path, sizeof(path), "%s%s/cgroup", root, process);
    file = fopen(path, "re");
    if (!file)
        return;
    /* `0::/system.slice/x.service`, or `4:memory:/x` for each controller of version 1. */
    while (fgets(line, sizeof(line), file)) {
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;

        if (!group)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        read_upwards(facts, root, strncmp(controllers + 1, "name=", 5) == 0 ? "systemd" : controllers + 1,
                     group);
    }
    fclose(file);
}
