/* Theory. Session keys stand in one region of the data segment. A receiver that hands every packet to a
 * consumer needs none of them, so it unmaps the region, with the parts of batches behind it; since it has closed the descriptor and its
 * filter of system calls has no mremap (workers/sandbox.c), nothing brings it back. */
#include "secrecy.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096u
#define LOCK_ON_FAULT 1 /* MLOCK_ONFAULT: pages are locked when first touched, holes stay holes */

static uint64_t keypairs_bytes(const struct segment *segment)
{
    return (segment_region_bytes(&segment->geometry, REGION_KEYPAIRS) + PAGE - 1) / PAGE * PAGE;
}

char *segment_map(int fd, uint64_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return NULL;
    /* a kernel without it dumps more, no reason to stop */
    madvise(base, bytes, MADV_DONTDUMP);
    return base;
}

int memory_lock(void *start, uint64_t bytes)
{
    return (int)syscall(SYS_mlock2, start, bytes, LOCK_ON_FAULT);
}

int segment_lock_keys(const struct segment *segment)
{
    return memory_lock(segment->keypairs, keypairs_bytes(segment));
}

/* Parts go with the keys: whoever could write a nonce there would have a helper use it a second time. */
int segment_forget_keys(struct segment *segment)
{
    uint8_t *end = (uint8_t *)segment->mailbox; /* the region behind them */

    if (munmap(segment->keypairs, (size_t)(end - segment->keypairs)) != 0)
        return -1;
    segment->keypairs = NULL;
    segment->lending = NULL;
    segment->parts = NULL;
    segment->part_rooms = NULL;
    return 0;
}
