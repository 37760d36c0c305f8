/* bell: a system call only for somebody who really sleeps.
 *
 * Sleeper: sleeping = 1, fence, look for work once more, wait.  Ringer: publish, fence, look
 * at sleeping. The two fences make it impossible that the sleeper misses the publication and
 * the ringer misses the announcement. Of several ringers the one whose exchange reads 1 makes
 * the call. A ringer killed between the exchange and the call leaves a sleeper unwoken. So after
 * each death everybody is woken: consumers by repair.c, those with an eventfd by the supervisor.
 * Whoever wakes looks for work, and announces itself again before it sleeps.
 */
#include "bell.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fence.h"
#include "point.h"

/* Not FUTEX_PRIVATE_FLAG: the word is shared between processes. */
static long futex(uint32_t *word, int operation, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

static void wake(struct bell *bell, int eventfd)
{
    __atomic_fetch_add(&bell->rung, 1, __ATOMIC_RELAXED);
    if (eventfd < 0) {
        futex(&bell->sleeping, FUTEX_WAKE, 1, NULL);
    } else {
        uint64_t one = 1;
        /* EAGAIN means that the counter is full: then it is readable already */
        ssize_t written = write(eventfd, &one, sizeof one);
        (void)written;
    }
}

void bell_announce(const struct segment *segment, uint32_t worker)
{
    __atomic_store_n(&segment->bells[worker].sleeping, 1, __ATOMIC_RELAXED);
    POINT("sleep: announced, not looked once more");
    fence_seq_cst();
}

void bell_cancel(const struct segment *segment, uint32_t worker)
{
    __atomic_store_n(&segment->bells[worker].sleeping, 0, __ATOMIC_RELAXED);
}

int bell_wait(const struct segment *segment, uint32_t worker, uint64_t timeout_ns)
{
    struct bell *bell = &segment->bells[worker];
    struct timespec timeout = {
        .tv_sec = (time_t)(timeout_ns / 1000000000u),
        .tv_nsec = (long)(timeout_ns % 1000000000u),
    };
    while (__atomic_load_n(&bell->sleeping, __ATOMIC_ACQUIRE) == 1) {
        if (futex(&bell->sleeping, FUTEX_WAIT, 1, &timeout) == 0)
            continue; /* rung, or a stray wake */
        if (errno != EAGAIN)
            break; /* time is over, or a signal wants to be seen */
    }
    /* acquire: what the ringer published before the ring is there */
    return __atomic_exchange_n(&bell->sleeping, 0, __ATOMIC_ACQUIRE) == 0;
}

int bell_ring(const struct segment *segment, uint32_t worker, int eventfd)
{
    struct bell *bell = &segment->bells[worker];
    fence_seq_cst(); /* the caller's publication, then the look */
    if (__atomic_load_n(&bell->sleeping, __ATOMIC_RELAXED) == 0)
        return 0;
    /* release: pairs with the sleeper's acquire */
    if (__atomic_exchange_n(&bell->sleeping, 0, __ATOMIC_ACQ_REL) == 0)
        return 0;
    POINT("ring: announcement taken, sleeper not woken");
    wake(bell, eventfd);
    return 1;
}

static uint64_t starving_bit(uint32_t worker)
{
    return 1ull << ((worker - WORKER_RECEIVER) % 64);
}

void bell_starve(const struct segment *segment, uint32_t worker, uint32_t starving)
{
    __atomic_store_n(&segment->bells[worker].starving, starving, __ATOMIC_RELAXED);
    POINT("starve: announced on the bell, not in the word");
    if (starving)
        /* release: whoever takes the bit finds the announcement on the bell. Set again even where it is set:
         * whoever takes a bit that was set before need not see what has come to the bell since. */
        __atomic_fetch_or(&segment->starving->receivers, starving_bit(worker), __ATOMIC_RELEASE);
    fence_seq_cst(); /* announced, then the last sweep */
}

/* The announcement is taken by one ringer. */
static int starving_wake(struct bell *bell, int eventfd)
{
    if (__atomic_load_n(&bell->starving, __ATOMIC_RELAXED) == 0)
        return 0;
    if (__atomic_exchange_n(&bell->starving, 0, __ATOMIC_ACQ_REL) == 0)
        return 0;
    POINT("ring: starving taken, receiver not woken");
    wake(bell, eventfd);
    return 1;
}

uint32_t bell_ring_starving(const struct segment *segment, const int32_t *eventfds)
{
    uint64_t *word = &segment->starving->receivers;
    uint32_t rung = 0;
    fence_seq_cst(); /* the nodes came home, then the look */
    if (__atomic_load_n(word, __ATOMIC_RELAXED) == 0)
        return 0;
    /* acquire: the bells of those that set a bit */
    uint64_t bits = __atomic_exchange_n(word, 0, __ATOMIC_ACQUIRE);
    POINT("ring: starving word taken, no bell looked at");
    for (; bits; bits &= bits - 1)
        for (uint32_t n = (uint32_t)__builtin_ctzll(bits); n < segment->geometry.max_receivers; n += 64)
            rung += (uint32_t)starving_wake(&segment->bells[WORKER_RECEIVER + n], eventfds[WORKER_RECEIVER + n]);
    return rung;
}

void bell_wake(const struct segment *segment, uint32_t worker)
{
    struct bell *bell = &segment->bells[worker];
    __atomic_store_n(&bell->sleeping, 0, __ATOMIC_RELEASE);
    wake(bell, -1);
}
