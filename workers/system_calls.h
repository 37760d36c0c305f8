/* system_calls: the filter of a worker's system calls (seccomp). */
#ifndef WORKERS_SYSTEM_CALLS_H
#define WORKERS_SYSTEM_CALLS_H

/* Refuse all calls but those of the packet loops (packets 1) or of control (packets 0), for the calling
 * thread and the threads that it starts later. Cannot be undone. The thread needs no_new_privs or CAP_SYS_ADMIN.
 * Returns 0, or -1 with errno: the kernel has no seccomp, or a container forbids it. */
int system_calls_restrict(int packets);

#endif
