/* What a server costs, read from /proc: its processes' CPU time and their share of memory.
 *
 * A server is a process and all its descendants. A process that ends between two samples takes its CPU time
 * with it, so a sample says how many there were.
 */
#ifndef CHATLOAD_PROC_H
#define CHATLOAD_PROC_H

#include <stdint.h>
#include <sys/types.h>

enum {
    PROC_PROCESSES_MAX = 512,
    PROC_THREADS_MAX = 2048,
};

struct proc_thread {
    pid_t pid, tid;
    char name[16];
    double cpu; /* seconds, user and system, since it started */
};

/* About 64 KB: not for the stack of a thread with a small one. */
struct proc_sample {
    unsigned processes;
    double cpu;   /* seconds of all processes, with those of threads that have ended */
    uint64_t pss; /* bytes: private memory, and shared memory divided by those who share it */
    unsigned threads;
    struct proc_thread thread[PROC_THREADS_MAX];
};

/* 0, or -ESRCH when there is no process `root`. To read the memory of a large process takes milliseconds, so
 * that is only done when asked for; otherwise `pss` is 0. */
int proc_sample(struct proc_sample *sample, pid_t root, int with_memory);

#endif
