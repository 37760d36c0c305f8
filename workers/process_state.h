/* process_state: what a process says of itself to the kernel. In C, so that a worker does it without writing to
 * the pages of Python that it shares with the supervisor. */
#ifndef WORKERS_PROCESS_STATE_H
#define WORKERS_PROCESS_STATE_H

#include <stdint.h>

/* cdef begin */
/* Every signal that has a handler gets its default back; one that is ignored stays so. Then no signal of this
 * thread is blocked any more. */
void signals_forget(void);
/* Ignore a signal from now on. */
void signal_ignore(int number);
/* prctl(2) with one argument: 0, or -1 with errno. */
int process_option(int option, uint64_t value);
/* Unmap the pages of the program and its libraries that are as their files have them, code above all. What is used
 * again is mapped again, from the page cache. Returns how many bytes of address space were looked through. */
uint64_t program_let_go(void);
/* cdef end */

#endif
