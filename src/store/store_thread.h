/* store_thread.h - how the store's threads are started. */
#ifndef CHATD_STORE_THREAD_H
#define CHATD_STORE_THREAD_H

#include <pthread.h>

/* With a small stack and all signals blocked: those belong to the loop. 0 or a negative errno. */
int store_thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg)
    __attribute__((warn_unused_result));

/* A condition whose timed waits count on the monotonic clock. */
void store_thread_cond_init(pthread_cond_t *cond);

/* Waits on a condition made so, for at most `ms`; the mutex is held. */
void store_thread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int ms);

#endif
