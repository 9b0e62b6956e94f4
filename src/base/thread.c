/* thread.c - threads, waits, and locks between processes. */
#include "chatd/thread.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "chatd/clock.h"

/* SQLite's parser takes a few tens of KB, the resolver and TLS below mongoc more. */
enum { THREAD_STACK = 512 * 1024 };

int thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int error;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(thread, &attributes, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return -error;
}

void thread_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}

void thread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int ms)
{
    struct timespec until = clock_deadline(ms);

    pthread_cond_timedwait(cond, mutex, &until);
}

int thread_pause(int *pause_ms, int first_ms, int most_ms, unsigned *seed)
{
    int most = *pause_ms > 0 ? *pause_ms : first_ms;

    *pause_ms = most * 2 < most_ms ? most * 2 : most_ms;
    return most / 2 + rand_r(seed) % (most / 2 + 1);
}

int thread_mutex_init_shared(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attributes;
    int error = pthread_mutexattr_init(&attributes);

    if (error != 0)
        return error;
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    error = pthread_mutex_init(mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return error;
}
