/* clock.h - the two clocks. Any thread. */
#ifndef CHATD_CLOCK_H
#define CHATD_CLOCK_H

#include <stdint.h>
#include <time.h>

int64_t clock_wall_ms(void);      /* Unix time in milliseconds: what clients see */
int64_t clock_wall_us(void);
int64_t clock_monotonic_ms(void); /* never falls: timeouts and rates; the same in all processes of a host */
int64_t clock_monotonic_us(void);

/* `ms` from now on the monotonic clock, as pthread_cond_timedwait and pthread_mutex_clocklock want it. */
struct timespec clock_deadline(int ms);

#endif
