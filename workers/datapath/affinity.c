/* Theory. A packet of a quiet tunnel goes through a chain of sleepers: each wakes the next one and sleeps. The kernel
 * gives a real-time process that is woken another core when one of its priority runs on the core where it slept, and
 * its waker does. So each step of the chain woke a core that had halted, which takes longer than the step itself. A
 * chain is fastest on one core, whose caches are warm: there the next one runs as soon as its waker sleeps.
 *
 * One core is wrong as soon as there is work for two. A worker with real-time priority that is busy keeps the others
 * of its core waiting, so it leaves early: it may then run anywhere, and lets the others go first, upon which the
 * kernel moves it. Many workers, each with little to do, are work for two cores as well, so the share of time counts
 * too: eight workers share a core (settings.py), and each leaves at a sixteenth. A quarter of that is the bar for
 * coming back, so that a steady load does not send a worker to and fro.
 *
 * What else runs on the core, as the quiet workers of many other engines, shows in how long a worker had to wait for
 * it. The kernel counts that for each process. A worker that waited for too long leaves for some seconds: busy
 * workers have the same priority, so it would wait for the end of their turns. */
#define _GNU_SOURCE /* sched_setaffinity */
#include "workers/datapath/affinity.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

_Static_assert(AFFINITY_SPREAD_NS > AFFINITY_GATHER_NS, "what sends a worker away does not call it back");

/* ns for which this process has waited for a core while it could run; 0 when the kernel does not say. */
static uint64_t waited(const struct affinity *affinity)
{
    char text[64]; /* ns that it ran, ns that it waited, and how often it ran */
    char *end;
    ssize_t got;

    if (affinity->schedstat < 0 || lseek(affinity->schedstat, 0, SEEK_SET))
        return 0;
    got = read(affinity->schedstat, text, sizeof text - 1);
    text[got > 0 ? got : 0] = 0;
    strtoull(text, &end, 10);
    return strtoull(end, NULL, 10);
}

static int gather(struct affinity *affinity)
{
    uint64_t mask[AFFINITY_WORDS] = { 0 };

    mask[affinity->core / 64] = UINT64_C(1) << affinity->core % 64;
    if (syscall(SYS_sched_setaffinity, 0, sizeof mask, mask))
        return -1;
    affinity->is_spread = 0;
    return 0;
}

/* When the kernel refuses, the worker stays where it is, and tries again. */
static void spread(struct affinity *affinity)
{
    if (syscall(SYS_sched_setaffinity, 0, affinity->bytes, affinity->mask))
        return;
    affinity->is_spread = 1;
    sched_yield();
}

int affinity_open(struct affinity *affinity, uint32_t core, uint64_t now)
{
    long bytes;

    *affinity = (struct affinity){ .core = core, .woken = now, .window = now, .schedstat = -1 };
    bytes = syscall(SYS_sched_getaffinity, 0, sizeof affinity->mask, affinity->mask);
    if (bytes <= 0 || core >= 64 * AFFINITY_WORDS)
        return -1;
    affinity->bytes = (uint64_t)bytes;
    if (gather(affinity))
        return -1;
    affinity->is_open = 1;
    affinity->schedstat = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
    affinity->waited = waited(affinity);
    return 0;
}

void affinity_close(struct affinity *affinity)
{
    if (affinity->is_open && affinity->schedstat >= 0)
        close(affinity->schedstat);
    affinity->is_open = 0;
}

void affinity_check(struct affinity *affinity, uint64_t now)
{
    if (affinity->is_open && !affinity->is_spread && now - affinity->woken > AFFINITY_TURN_NS)
        spread(affinity);
}

void affinity_leave(struct affinity *affinity)
{
    if (affinity->is_open && !affinity->is_spread)
        spread(affinity);
}

void affinity_slept(struct affinity *affinity, uint64_t begin, uint64_t now)
{
    uint64_t before = affinity->waited;

    if (!affinity->is_open)
        return;
    affinity->busy += begin - affinity->woken;
    affinity->woken = now;
    if (!affinity->is_spread && affinity->busy > AFFINITY_SPREAD_NS)
        spread(affinity);
    if (now - affinity->window < AFFINITY_WINDOW_NS)
        return;
    affinity->waited = waited(affinity);
    if (affinity->waited - before > AFFINITY_WAIT_NS && !affinity->is_spread) {
        affinity->away_until = now + AFFINITY_AWAY_NS;
        spread(affinity);
    } else if (affinity->is_spread && affinity->busy < AFFINITY_GATHER_NS && now >= affinity->away_until) {
        gather(affinity);
    }
    affinity->window = now;
    affinity->busy = 0;
}
