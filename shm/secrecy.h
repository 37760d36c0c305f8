/* secrecy: who has session keys in its memory, and where they must not go. */
#ifndef SHM_SECRECY_H
#define SHM_SECRECY_H

#include "segment.h"

/* cdef begin */
/* Maps `bytes` of a data segment shared, not to be dumped; NULL with errno. It holds no descriptor: who
 * closes fd can not map again what it unmaps. */
char *segment_map(int fd, uint64_t bytes);
/* Keeps these pages from being swapped out, once they are in use; -1 with errno where the limit on locked
 * memory forbids it. */
int memory_lock(void *start, uint64_t bytes);
/* The same of the keypairs of a segment. */
int segment_lock_keys(const struct segment *segment);
/* Unmaps the keypairs, and the parts of batches, which have nonces: for a process that never seals nor opens.
 * segment->keypairs, lending, parts and part_rooms are void then. */
int segment_forget_keys(struct segment *segment);
/* cdef end */

#endif
