/* weak: what a scenario (scenarios.c) and the explorer (explore.c) know of each other.
 * The theory is in explore.c. */
#ifndef TESTS_WEAK_H
#define TESTS_WEAK_H

#include <stddef.h>
#include <stdint.h>

#define THREADS 4

struct scenario {
    const char *name;
    const char *says;                 /* one line, for people */
    int large;                        /* 1: only with --large */
    void (*prepare)(void);            /* before all threads: lays out memory */
    void (*run[THREADS])(void);       /* the threads; NULL ends them */
    unsigned mortal;                  /* a bit a thread that may be killed before any access */
    /* All threads ended, or wait for ever (a bit each in `waiting`); sees the newest of every word. */
    void (*finish)(unsigned waiting);
};
extern const struct scenario scenarios[];

/* Memory that threads share: plain accesses there are looked at for races. From prepare() only. */
void *shared_new(size_t bytes);
/* Memory of one thread alone, or of the scenario's book-keeping: never looked at. */
void *private_new(size_t bytes);

/* Ends the execution: the promise that is broken. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);
/* Goes on when that thread has ended or was killed, after all that it did, as waitpid does. 1: it was killed. */
int join(unsigned thread);
/* The eventfd `fd`, a number from 0: waits until it was written more often than read. */
void eventfd_wait(int fd);

#endif
