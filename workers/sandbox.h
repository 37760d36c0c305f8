/* sandbox: what a worker gives up before it sees the first packet. */
#ifndef WORKERS_SANDBOX_H
#define WORKERS_SANDBOX_H

#include <stdint.h>

/* cdef begin */
/* What the kernel refused to take; the rest is gone. */
#define SANDBOX_CAPABILITIES 1
#define SANDBOX_FILES 2         /* Landlock */
#define SANDBOX_SYSTEM_CALLS 4  /* seccomp */

/* Of this thread, which is the process's only one, and of all that it makes; none of it can be undone.
 * Capabilities: all but those in keep (bit n: capability n). Files: none can be opened any more, but
 * beneath the directories `readable` to be read and beneath `removable` to be removed (NULL-terminated
 * lists; NULL: none); open ones stay open. System calls: those of the packet loops and of a Python that
 * reads and writes what it has open (packets 1), or those of control (packets 0); others fail with EPERM or
 * ENOSYS, or end the process by SIGSYS (system_calls.c). Returns a mask of SANDBOX_*. */
int sandbox_enter(uint64_t keep, const char *const *readable, const char *const *removable, int packets);
/* cdef end */

#endif
