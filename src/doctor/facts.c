/* facts.c - reads /proc, and asks the kernel what stands in no file. */
#include "facts.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/timex.h>
#include <unistd.h>

enum { PATH_SIZE = 512, LINE_SIZE = 1024, CAPABILITY_RESOURCE = 24 };

static FILE *open_below(const char *root, const char *path)
{
    char full[PATH_SIZE];

    snprintf(full, sizeof(full), "%s%s", root, path);
    return fopen(full, "re");
}

static int64_t to_number(const char *word)
{
    long long number;
    char *end;

    if (strcmp(word, "max") == 0 || strcmp(word, "unlimited") == 0)
        return FACTS_NONE;
    errno = 0;
    number = strtoll(word, &end, 10);
    if (errno == ERANGE && number > 0)
        return FACTS_NONE; /* an unsigned "no limit" */
    return end == word || number < 0 ? FACTS_UNKNOWN : number;
}

int64_t facts_number(const char *root, const char *path, int field)
{
    FILE *file = open_below(root, path);
    int64_t number = FACTS_UNKNOWN;
    char word[64];

    if (!file)
        return FACTS_UNKNOWN;
    for (int i = 0; fscanf(file, "%63s", word) == 1; i++) {
        if (i != field)
            continue;
        number = to_number(word);
        break;
    }
    fclose(file);
    return number;
}

static const struct {
    const char *path;
    int field;
    size_t offset;
} settings[] = {
#define SETTING(path, field, name) \
    { \
        "/proc/sys/" path, field, offsetof(struct facts, name) \
    }
    SETTING("fs/nr_open", 0, nr_open),
    SETTING("fs/file-max", 0, file_max),
    SETTING("fs/file-nr", 0, files_used),
    SETTING("net/ipv4/tcp_mem", 2, tcp_pages),
    SETTING("net/ipv4/tcp_rmem", 0, tcp_read_min),
    SETTING("net/ipv4/tcp_wmem", 0, tcp_write_min),
    SETTING("net/core/somaxconn", 0, somaxconn),
    SETTING("net/ipv4/tcp_max_syn_backlog", 0, syn_backlog),
    SETTING("net/core/netdev_max_backlog", 0, device_backlog),
    SETTING("net/ipv4/ip_local_port_range", 0, port_low),
    SETTING("net/ipv4/ip_local_port_range", 1, port_high),
    SETTING("net/netfilter/nf_conntrack_max", 0, conntrack_max),
    SETTING("net/netfilter/nf_conntrack_count", 0, conntrack_count),
    SETTING("kernel/pid_max", 0, pid_max),
    SETTING("kernel/threads-max", 0, threads_max),
    SETTING("vm/max_map_count", 0, map_count),
    SETTING("vm/overcommit_memory", 0, overcommit),
#undef SETTING
};

/* The number behind `name` in a file of `name value` lines, read in that base. */
static int64_t labelled(const char *root, const char *path, const char *name, int base, int field)
{
    FILE *file = open_below(root, path);
    int64_t number = FACTS_UNKNOWN;
    size_t length = strlen(name);
    char line[LINE_SIZE];

    while (file && fgets(line, sizeof(line), file)) {
        char *save = NULL, *word;

        if (strncmp(line, name, length) != 0)
            continue;
        word = strtok_r(line + length, " \t:\n", &save);
        for (int i = 0; i < field && word; i++)
            word = strtok_r(NULL, " \t:\n", &save);
        if (word)
            number = base == 16 ? (int64_t)(strtoull(word, NULL, 16) & INT64_MAX) : to_number(word);
        break;
    }
    if (file)
        fclose(file);
    return number;
}

static int64_t kilobytes(int64_t number)
{
    return number == FACTS_UNKNOWN ? number : number * 1024;
}

/* `1024,4000-4999`: ports that are not given out. */
static int64_t reserved_ports(const char *root)
{
    FILE *file = open_below(root, "/proc/sys/net/ipv4/ip_local_reserved_ports");
    int64_t count = 0;
    int low, high;
    char separator;

    if (!file)
        return 0;
    while (fscanf(file, "%d", &low) == 1) {
        high = low;
        separator = '\0';
        if (fscanf(file, "%c", &separator) == 1 && separator == '-' && fscanf(file, "%d", &high) == 1 &&
            fscanf(file, "%c", &separator) != 1)
            separator = '\0';
        count += high >= low ? high - low + 1 : 0;
        if (separator != ',')
            break;
    }
    fclose(file);
    return count;
}

static int64_t count_cores(const char *root)
{
    FILE *file;
    char line[LINE_SIZE];
    cpu_set_t usable;
    int64_t cores = 0;

    if (root[0] == '\0' && sched_getaffinity(0, sizeof(usable), &usable) == 0)
        return CPU_COUNT(&usable);
    file = open_below(root, "/proc/stat");
    while (file && fgets(line, sizeof(line), file))
        cores += strncmp(line, "cpu", 3) == 0 && isdigit((unsigned char)line[3]);
    if (file)
        fclose(file);
    return cores > 0 ? cores : FACTS_UNKNOWN;
}

static int64_t find_redis(const char *root)
{
    char path[PATH_SIZE], name[64];
    const struct dirent *entry;
    int64_t found = 0;
    DIR *directory;

    snprintf(path, sizeof(path), "%s/proc", root);
    directory = opendir(path);
    if (!directory)
        return FACTS_UNKNOWN;
    while (!found && (entry = readdir(directory))) {
        FILE *file;

        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof(path), "/proc/%.20s/comm", entry->d_name);
        file = open_below(root, path);
        if (!file)
            continue;
        if (fscanf(file, "%63s", name) == 1)
            found = strcmp(name, "redis-server") == 0 || strcmp(name, "valkey-server") == 0;
        fclose(file);
    }
    closedir(directory);
    return found;
}

/* The master that holds the data directory's lock, if that lives. Its number may have gone to another program
 * since chatd was killed. */
int64_t facts_find_master(const char *data_dir)
{
    char path[PATH_SIZE];
    char name[64] = "";
    int64_t pid;
    FILE *file;

    snprintf(path, sizeof(path), "%.400s/lock", data_dir);
    if (access(path, R_OK) != 0 && errno == EACCES)
        return -EACCES;
    pid = facts_number("", path, 0);
    snprintf(path, sizeof(path), "/proc/%lld/comm", (long long)pid);
    file = pid > 0 ? fopen(path, "re") : NULL;
    if (!file)
        return 0;
    if (fscanf(file, "%63s", name) != 1)
        name[0] = '\0';
    fclose(file);
    return strcmp(name, "chatd") == 0 ? pid : 0;
}

static void read_process(struct facts *facts, const char *root)
{
    char base[64], path[PATH_SIZE];
    int64_t capabilities;

    snprintf(base, sizeof(base), "/proc/self");
    if (facts->pid > 0)
        snprintf(base, sizeof(base), "/proc/%lld", (long long)facts->pid);
    snprintf(path, sizeof(path), "%s/limits", base);
    facts->open_files = labelled(root, path, "Max open files", 10, 1);
    facts->processes = labelled(root, path, "Max processes", 10, 1);
    facts->address_space = labelled(root, path, "Max address space", 10, 1);
    snprintf(path, sizeof(path), "%s/status", base);
    capabilities = labelled(root, path, "CapEff:", 16, 0);
    facts->may_raise =
        capabilities == FACTS_UNKNOWN ? FACTS_UNKNOWN : capabilities >> CAPABILITY_RESOURCE & 1;
    facts_read_cgroups(facts, root, base);
}

static int64_t free_bytes(const char *path, int64_t *type)
{
    struct statfs fs;

    if (statfs(path, &fs) != 0)
        return FACTS_UNKNOWN;
    *type = (int64_t)fs.f_type;
    return (int64_t)fs.f_bavail * (int64_t)fs.f_bsize;
}

/* The data directory may be made at the first start only: then what is above it counts. */
static int64_t data_bytes(const char *data_dir, int64_t *type)
{
    char path[CONFIG_STRING_MAX];
    int64_t bytes;
    char *slash;

    snprintf(path, sizeof(path), "%s", data_dir);
    while ((bytes = free_bytes(path[0] ? path : "/", type)) == FACTS_UNKNOWN && (slash = strrchr(path, '/')))
        *slash = '\0';
    return bytes;
}

/* What stands in no file. */
static void ask_kernel(struct facts *facts, const struct config *config)
{
    struct timex clock = {0};
    int64_t type;
    int state = adjtimex(&clock);

    facts->shm_free = free_bytes("/dev/shm", &type);
    facts->data_free = data_bytes(config->data_dir, &facts->data_type);
    if (state >= 0)
        facts->clock_set = state != TIME_ERROR && !(clock.status & STA_UNSYNC);
}

static int64_t read_huge_pages(const char *root)
{
    FILE *file = open_below(root, "/sys/kernel/mm/transparent_hugepage/enabled");
    char line[LINE_SIZE] = "";

    if (!file)
        return FACTS_UNKNOWN;
    if (!fgets(line, sizeof(line), file))
        line[0] = '\0';
    fclose(file);
    return strstr(line, "[always]") != NULL;
}

void facts_read(struct facts *facts, const char *root, const struct config *config)
{
    for (size_t i = 0; i < sizeof(*facts) / sizeof(int64_t); i++)
        ((int64_t *)facts)[i] = FACTS_UNKNOWN; /* it has no member of another type */
    for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++)
        *(int64_t *)((char *)facts + settings[i].offset) =
            facts_number(root, settings[i].path, settings[i].field);
    facts->pid = root[0] == '\0' ? facts_find_master(config->data_dir) : 0;
    if (facts->pid < 0)
        facts->pid = 0;
    read_process(facts, root);
    facts->memory = kilobytes(labelled(root, "/proc/meminfo", "MemTotal:", 10, 0));
    facts->memory_free = kilobytes(labelled(root, "/proc/meminfo", "MemAvailable:", 10, 0));
    facts->ports_reserved = reserved_ports(root);
    facts->cores = count_cores(root);
    facts->redis_here = find_redis(root);
    facts->huge_pages_always = read_huge_pages(root);
    if (root[0] == '\0')
        ask_kernel(facts, config);
}
