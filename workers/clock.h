/* clock: the one place where a process reads time. A test build can step and scale it. */
#ifndef WORKERS_CLOCK_H
#define WORKERS_CLOCK_H

#include <stdint.h>

/* cdef begin */
/* CLOCK_BOOTTIME in ns (suspend counts), plus clock_step when PLAIT_CLOCK names a file that
 * holds a signed 64-bit number of ns (shared by all processes of a test; read each time). */
uint64_t clock_now(void);
/* Wall clock ns for TAI64N alone; stepped by the second number of the same file. */
uint64_t clock_wall(void);
/* Coarse timer time: 2^24 ns = 16.8 ms a tick, never 0. */
uint32_t clock_ticks(uint64_t now);
/* Maps the step file. 0 or -1. Called once at the start by workers when PLAIT_CLOCK is set. */
int clock_open_steps(const char *path);
/* cdef end */

#endif
