/* descriptors.c - the limit on open files, which is the limit on connections. */
#include "descriptors.h"

#include <stdio.h>
#include <sys/resource.h>

#include "chatd/log.h"

enum {
    WANTED_MAX = 1048576, /* more would cost memory for a table that nobody fills */
    WORKER_OVERHEAD = 64, /* what a worker holds beside connections, however many siblings it has */
    COMFORTABLE = 65536
};

static long read_nr_open(void)
{
    FILE *file = fopen("/proc/sys/fs/nr_open", "re");
    long number = WANTED_MAX;

    if (file == NULL)
        return number;
    if (fscanf(file, "%ld", &number) != 1 || number > WANTED_MAX)
        number = WANTED_MAX;
    fclose(file);
    return number;
}

long descriptors_raise(void)
{
    struct rlimit limit, higher;
    long wanted = read_nr_open();

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1024;
    /* Above the hard limit only root gets, and in a container not even root. */
    if (limit.rlim_max < (rlim_t)wanted) {
        higher = (struct rlimit){(rlim_t)wanted, (rlim_t)wanted};
        if (setrlimit(RLIMIT_NOFILE, &higher) == 0)
            return wanted;
    }
    higher = limit;
    higher.rlim_cur = limit.rlim_max < (rlim_t)wanted ? limit.rlim_max : (rlim_t)wanted;
    if (higher.rlim_cur > limit.rlim_cur && setrlimit(RLIMIT_NOFILE, &higher) == 0)
        return (long)higher.rlim_cur;
    return (long)limit.rlim_cur;
}

void descriptors_report(long limit, int workers)
{
    long each = limit - WORKER_OVERHEAD;

    if (each < 1)
        each = 1;
    log_info("descriptors", "limit=%ld connections_per_worker=%ld connections=%ld advice=%s", limit, each,
             each * workers,
             limit < COMFORTABLE ? "for more connections set more workers, or raise LimitNOFILE or ulimit -n"
                                 : "none");
}
