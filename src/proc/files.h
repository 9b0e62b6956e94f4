/* files.h - private to the master: the data directory, its lock, and the PID file. */
#ifndef CHATD_FILES_H
#define CHATD_FILES_H

#include <stddef.h>

enum { FILES_ERROR_MAX = 512 };

/* Makes the directory (0700, its parents too) and locks it. Returns the lock's descriptor, or -1 with the
 * reason in `error`. The lock is a flock on DATA_DIR/lock, shared by all that inherit it: while one worker of
 * a killed master still winds up, nobody else opens the store. A lock whose master is gone is waited for, up
 * to five seconds. */
int files_lock_data(const char *data_dir, char error[FILES_ERROR_MAX]);

/* Writes this process's id, all at once. 0, or -1 with the reason in `error`. */
int files_write_pid(const char *path, char error[FILES_ERROR_MAX]);

#endif
