/* See chatload_proc.h and proc(5). */
#include "chatload_proc.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct process {
    pid_t pid, parent;
    char name[16];
    double cpu;
};

/* Reads a `stat` file. The name in parentheses may hold anything, so fields count from the last one. */
static int stat_read(const char *path, struct process *process)
{
    char line[1024];
    unsigned long user, system;
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    size_t len = fread(line, 1, sizeof(line) - 1, file);
    fclose(file);
    line[len] = '\0';
    char *open = strchr(line, '('), *close = strrchr(line, ')');
    if (!open || !close || sscanf(close + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                                  &process->parent, &user, &system) != 3)
        return -ESRCH;
    *close = '\0';
    process->pid = atoi(line);
    process->cpu = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
    snprintf(process->name, sizeof(process->name), "%.15s", open + 1);
    return 0;
}

/* Calls `each` with the numbers that name entries of a directory. */
static void numbers_in(const char *path, void (*each)(void *context, int number), void *context)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
            each(context, atoi(entry->d_name));
    if (dir)
        closedir(dir);
}

struct process_list {
    struct process *at;
    size_t count, size;
};

static void on_process(void *context, int pid)
{
    struct process_list *list = context;
    char path[64];
    if (list->count == list->size) {
        size_t size = list->size ? list->size * 2 : 256;
        struct process *grown = realloc(list->at, size * sizeof(*grown));
        if (!grown)
            abort();
        list->at = grown;
        list->size = size;
    }
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    list->count += stat_read(path, &list->at[list->count]) == 0;
}

struct thread_context {
    struct proc_sample *sample;
    pid_t pid;
};

static void on_thread(void *context, int tid)
{
    struct thread_context *thread = context;
    struct proc_sample *sample = thread->sample;
    struct process process;
    char path[96];
    snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", thread->pid, tid);
    if (sample->threads == PROC_THREADS_MAX || stat_read(path, &process) < 0)
        return;
    struct proc_thread *row = &sample->thread[sample->threads++];
    *row = (struct proc_thread){.pid = thread->pid, .tid = tid, .cpu = process.cpu};
    memcpy(row->name, process.name, sizeof(row->name));
}

static uint64_t pss_of(pid_t pid)
{
    char path[64], line[256];
    unsigned long kilobytes = 0;
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "Pss: %lu kB", &kilobytes) == 1)
            break;
    if (file)
        fclose(file);
    return (uint64_t)kilobytes * 1024;
}

/* `family` grows while it is walked, until nobody in the list has a parent in it who was not asked. */
static unsigned family_of(pid_t root, const struct process_list *list, const struct process **family)
{
    unsigned count = 0;
    for (size_t i = 0; i < list->count; i++)
        if (list->at[i].pid == root)
            family[count++] = &list->at[i];
    for (unsigned asked = 0; asked < count; asked++)
        for (size_t i = 0; i < list->count && count < PROC_PROCESSES_MAX; i++)
            if (list->at[i].parent == family[asked]->pid)
                family[count++] = &list->at[i];
    return count;
}

int proc_sample(struct proc_sample *sample, pid_t root, int with_memory)
{
    struct process_list list = {0};
    const struct process *family[PROC_PROCESSES_MAX];
    numbers_in("/proc", on_process, &list);

    sample->cpu = 0;
    sample->pss = 0;
    sample->threads = 0;
    sample->processes = family_of(root, &list, family);
    for (unsigned i = 0; i < sample->processes; i++) {
        struct thread_context thread = {sample, family[i]->pid};
        char path[64];
        sample->cpu += family[i]->cpu;
        if (with_memory)
            sample->pss += pss_of(family[i]->pid);
        snprintf(path, sizeof(path), "/proc/%d/task", family[i]->pid);
        numbers_in(path, on_thread, &thread);
    }
    free(list.at);
    return sample->processes > 0 ? 0 : -ESRCH;
}
