/* files.c - the data directory, its lock, and the PID file. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "chatd/clock.h"

enum { PATH_SIZE = 512, ORPHANS_WAIT_MS = 5000, ORPHANS_POLL_MS = 20 };

/* Like `mkdir -p`. What exists stays as it is; that it is a directory shows when the lock is opened. */
static int make_directories(const char *path)
{
    char part[PATH_SIZE];
    size_t length = strlen(path);

    if (length >= sizeof(part))
        return -ENAMETOOLONG;
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        part[i] = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST && errno != EROFS && errno != EACCES)
            return -errno;
        part[i] = path[i];
    }
    return 0;
}

static pid_t read_pid(int fd)
{
    char text[32];
    ssize_t got = pread(fd, text, sizeof(text) - 1, 0);

    if (got <= 0)
        return 0;
    text[got] = '\0';
    return (pid_t)strtol(text, NULL, 10);
}

/* The other chatd's id in *pid when it runs. When only its workers are left, they are about to end: waits. */
static int lock_file(int fd, pid_t *pid)
{
    int64_t deadline = clock_monotonic_ms() + ORPHANS_WAIT_MS;
    struct timespec pause = {0, ORPHANS_POLL_MS * 1000000};

    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        *pid = read_pid(fd);
        /* No id: its master is just starting. */
        if (*pid <= 0 || kill(*pid, 0) == 0 || errno != ESRCH || clock_monotonic_ms() >= deadline)
            return -EWOULDBLOCK;
        nanosleep(&pause, NULL);
    }
    return 0;
}

static int write_pid(int fd)
{
    char text[32];
    int length = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    ssize_t written;

    if (ftruncate(fd, 0) != 0)
        return -errno;
    written = pwrite(fd, text, (size_t)length, 0);
    if (written != length)
        return written < 0 ? -errno : -ENOSPC;
    return 0;
}

int files_lock_data(const char *data_dir, char error[FILES_ERROR_MAX])
{
    char path[PATH_SIZE];
    pid_t pid = 0;
    int fd = -1, result = make_directories(data_dir);

    snprintf(path, sizeof(path), "%.250s/lock", data_dir);
    if (result == 0) {
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        result = fd < 0 ? -errno : 0;
    }
    if (result != 0) {
        snprintf(error, FILES_ERROR_MAX, "data_dir %.250s can't be used: %s", data_dir, strerror(-result));
        return -1;
    }
    result = lock_file(fd, &pid);
    if (result == 0)
        result = write_pid(fd);
    if (result == 0)
        return fd;
    close(fd);
    if (result == -EWOULDBLOCK)
        snprintf(error, FILES_ERROR_MAX, "another chatd (pid %d) is running on data_dir %.250s", (int)pid,
                 data_dir);
    else
        snprintf(error, FILES_ERROR_MAX, "data_dir %.250s can't be locked: %s", data_dir, strerror(-result));
    return -1;
}

/* A reader finds the old file or the new one, never half of one. */
int files_write_pid(const char *path, char error[FILES_ERROR_MAX])
{
    char temporary[PATH_SIZE];
    int fd, result;

    snprintf(temporary, sizeof(temporary), "%.250s.%d", path, (int)getpid());
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    result = fd < 0 ? -errno : 0;
    if (result == 0) {
        result = write_pid(fd);
        close(fd);
        if (result == 0 && rename(temporary, path) != 0)
            result = -errno;
        if (result != 0)
            unlink(temporary);
    }
    if (result == 0)
        return 0;
    snprintf(error, FILES_ERROR_MAX, "pid_file %.250s can't be written: %s", path, strerror(-result));
    return -1;
}
