/* clock: the one place where a process reads time; a test can step it. */
#ifndef WORKERS_CLOCK_H
#define WORKERS_CLOCK_H

#include <stdint.h>

/* cdef begin */
/* CLOCK_BOOTTIME in ns (timers count suspend too), plus the boot step of clock_open_steps. */
uint64_t clock_now(void);
/* Wall clock in ns, for TAI64N alone, plus the wall step. */
uint64_t clock_wall(void);
/* For tests: maps a file of two signed little-endian 64-bit numbers of ns, boot step and wall
 * step, read again at each call of the above. 0, or -1 with errno. */
int clock_open_steps(const char *path);
/* cdef end */

#endif
