/* orphan: the end of control when its supervisor is gone. */
#ifndef WORKERS_ORPHAN_H
#define WORKERS_ORPHAN_H

#include <stdint.h>

/* cdef begin */
/* From now on `signal_number` (the parent's death signal) removes the file at path, if it is still that
 * device and inode, and ends the process; while `parent` is the parent it does nothing. path may be
 * NULL: nothing to remove. 0, or -1 with errno (ENAMETOOLONG for a path of over 255 bytes). */
int orphan_prepare(int signal_number, int parent, const char *path, uint64_t device, uint64_t inode);
/* cdef end */

#endif
