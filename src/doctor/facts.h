/* facts.h - what the machine says about itself: limits, kernel settings, memory, file systems.
 *
 * Whatever can't be read is FACTS_UNKNOWN, what has no limit is FACTS_NONE; nothing here fails. Needs no
 * rights. With a root directory other than "" it is the copy of another machine's /proc and /sys that is read
 * (also a recorded one in a test); what only the running machine can tell is unknown then. */
#ifndef CHATD_DOCTOR_FACTS_H
#define CHATD_DOCTOR_FACTS_H

#include <stdbool.h>
#include <stdint.h>

#include "chatd/config.h"

#define FACTS_UNKNOWN INT64_C(-1)
#define FACTS_NONE INT64_MAX

struct facts {
    /* Of the chatd that runs on this data_dir, else of this process: what a chatd started here would have. */
    int64_t pid;                                  /* 0: none runs, or it is not to be seen */
    int64_t open_files, processes, address_space; /* hard limits */
    int64_t may_raise;                            /* CAP_SYS_RESOURCE: 1, 0, unknown */
    int64_t cgroup_memory, cgroup_tasks;          /* the narrowest of its control groups, bytes and tasks */
    int64_t cgroup_cpus;                          /* thousandths of a core */

    int64_t nr_open, file_max, files_used;
    int64_t memory, memory_free;                    /* MemTotal and MemAvailable, bytes */
    int64_t tcp_pages, tcp_read_min, tcp_write_min; /* last of tcp_mem, first of tcp_rmem and tcp_wmem */
    int64_t somaxconn, syn_backlog, device_backlog;
    int64_t port_low, port_high, ports_reserved;
    int64_t conntrack_max, conntrack_count; /* unknown: not loaded */
    int64_t pid_max, threads_max, threads;  /* the last: that run now */
    int64_t map_count;
    int64_t cores; /* that may be used */

    int64_t shm_free, data_free; /* bytes */
    int64_t data_type;           /* f_type of statfs(2) */
    int64_t clock_set;           /* 1: kept in step with others */

    int64_t redis_here; /* a Redis server runs on this host: 1, 0 */
    int64_t overcommit;
    int64_t huge_pages_always;
};

/* The master that runs on the data directory, 0 when none does, -EACCES when that is not to be seen. */
int64_t facts_find_master(const char *data_dir);

void facts_read(struct facts *facts, const char *root, const struct config *config);

/* Reads the `field`th word of a file below root as a number; "max" and "unlimited" are FACTS_NONE. */
int64_t facts_number(const char *root, const char *path, int field);

/* The limits of the process's control groups and all above them (version 1 or 2). */
void facts_read_cgroups(struct facts *facts, const char *root, const char *process);

#endif
