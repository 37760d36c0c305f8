/* slice: how soon a worker runs when there is something to do. */
#ifndef WORKERS_SLICE_H
#define WORKERS_SLICE_H

#include <stdint.h>

/* cdef begin */
/* Asks the scheduler for slices of ns (100,000 to 100,000,000) for this thread: whoever has a shorter one than the
 * thread that runs takes its place when woken, and does not wait for the next tick (Linux 6.12, EEVDF;
 * older kernels take the wish and do nothing). Only under the ordinary policies; what the user chose stays.
 * 0, or -1 with errno. */
int slice_ask(uint64_t ns);
/* cdef end */

#endif
