/* fence: store, then load what somebody else stores, in this order for everybody.
 *
 * Sequential consistency is needed in one place only, the handshake "I publish, then
 * look whether you sleep" against "I announce sleep, then look whether you published":
 * with a full fence between the two steps on both sides, at least one of them sees the
 * other. Acquire and release cannot give that: a store may be overtaken by a later load. */
#ifndef SHM_FENCE_H
#define SHM_FENCE_H

/* ThreadSanitizer does not model fences and says so. No data race here is prevented by a
 * fence alone (data travels with acquire and release), so it misses nothing. */
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif

static inline void fence_seq_cst(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* For data in two copies with a selector, as in a sequence lock. */
static inline void fence_release(void)
{
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

static inline void fence_acquire(void)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
}

#endif
