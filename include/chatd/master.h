/* master.h - the parent of all workers: no loop, no client input, only signals.
 *
 * It holds what must outlive a worker: the lock on the data directory, the listeners (so what waits in an
 * accept queue survives its worker), the shared mappings, the PID file. Workers are forked with a listener
 * each, and forked again when they die: at once the first time, then after 100, 200, 400 ... at most 2,000 ms
 * while deaths stay quick. A serving worker whose loop stands still for 20 s is killed, so it dies too.
 *
 *   SIGTERM, SIGINT  drain: workers send their clients away; what is left after drain_timeout + 10 s is
 *                    killed. A second SIGINT (Ctrl-C twice) ends at once; a second SIGTERM is no news.
 *   SIGHUP           reads the settings again, starts new workers on the same listeners, and drains the old
 *                    ones once the new ones serve. Wrong settings, or new workers that don't come up, change
 *                    nothing.
 *   SIGUSR1          opens log files again, here and in the workers.
 *   SIGUSR2          kept for the live upgrade; until then it says that there is none.
 *
 * Under systemd (Type=notify): READY, RELOADING, STOPPING, STATUS, and WATCHDOG while the master's own loop
 * turns and no worker stands still for longer than it takes to replace it. */
#ifndef CHATD_MASTER_H
#define CHATD_MASTER_H

#include "chatd/config.h"

/* Runs chatd to its end. `config` comes from config_load and is changed by reloads. Returns the exit code: 0
 * after a drain, 1 when it could not start or was told twice to stop. The process must have no other threads.
 */
int master_run(struct config *config);

#endif
