/* notify.h - what the service manager is told (sd_notify(3)), without libsystemd.
 *
 * A datagram to the socket named by NOTIFY_SOCKET, a path or an abstract name (`@`). Nothing happens without
 * it. */
#ifndef CHATD_NOTIFY_H
#define CHATD_NOTIFY_H

#include <stdint.h>

/* Sends `state` lines ("READY=1\nSTATUS=..."). 0, also when nobody is there to be told, or a negative errno.
 */
int notify_send(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The time within which WATCHDOG=1 is expected, in microseconds; 0 when it isn't, or is of another process.
 */
int64_t notify_watchdog_us(void);

#endif
