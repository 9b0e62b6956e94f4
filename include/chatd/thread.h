/* thread.h - how threads are started, how they wait, and the lock that processes share. */
#ifndef CHATD_THREAD_H
#define CHATD_THREAD_H

#include <pthread.h>

/* With a small stack and all signals blocked: those belong to the loop. 0 or a negative errno. */
int thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg)
    __attribute__((warn_unused_result));

/* A condition whose timed waits count on the monotonic clock. */
void thread_cond_init(pthread_cond_t *cond);

/* Waits on a condition made so, for at most `ms`; the mutex is held. */
void thread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int ms);

/* How many milliseconds to wait before the next try: random, at most *pause_ms (`first_ms` while that is 0),
 * which then doubles up to `most_ms`. Who succeeds sets it to 0. */
int thread_pause(int *pause_ms, int first_ms, int most_ms, unsigned *seed);

/* A mutex in shared memory whose holder may die: the next one is told (EOWNERDEAD). 0 or a positive errno. */
int thread_mutex_init_shared(pthread_mutex_t *mutex) __attribute__((warn_unused_result));

#endif
