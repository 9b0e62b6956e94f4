/* descriptors.h - private to the master: how many descriptors a process may hold, and what that means. */
#ifndef CHATD_DESCRIPTORS_H
#define CHATD_DESCRIPTORS_H

/* Raises the limit as far as the system lets this process; workers inherit it. Returns it. */
long descriptors_raise(void);

/* Says in the log how many connections that makes. */
void descriptors_report(long limit, int workers);

#endif
