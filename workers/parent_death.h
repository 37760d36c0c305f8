/* parent_death: the end of control when its supervisor is gone. */
#ifndef WORKERS_PARENT_DEATH_H
#define WORKERS_PARENT_DEATH_H

#include <stdint.h>

/* cdef begin */
/* From now on `signal_number` (the parent's death signal) removes the file at path and the one at other, each
 * if it is still that device and inode, and ends the process; while `parent` is the parent it does nothing.
 * Either may be NULL: nothing to remove. 0, or -1 with errno (ENAMETOOLONG for a path of over 255 bytes),
 * everything as it was. */
int parent_death_prepare(int signal_number, int parent, const char *path, const char *other, uint64_t device,
                         uint64_t inode);
/* cdef end */

#endif
