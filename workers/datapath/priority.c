/* Theory. What makes a packet wait on a busy host is the scheduler: a worker that wakes waits for the time slice of
 * whoever runs. So workers sleep and wake under SCHED_RR, at the lowest real-time priority. Under a load that a core
 * cannot serve, that would take the core from everybody else. The kernel has the same choice between softirqs and
 * ksoftirqd. Here a worker that has been busy for some milliseconds gives the priority up for a short time, in which
 * whoever waits for the core has a turn; a TCP stream that filled the queues is served before its sender again
 * afterwards, the queues run empty, and the worker sleeps. A flood lets no worker sleep: its pauses grow until
 * ordinary processes have most of the core. */
#include "workers/datapath/priority.h"

#include <sched.h>

#ifndef SCHED_RESET_ON_FORK
#define SCHED_RESET_ON_FORK 0x40000000 /* linux/sched.h; sched.h has it with _GNU_SOURCE alone */
#endif

/* When the kernel refuses, all stays as it is, and is tried again. */
static int change(struct priority *priority, enum priority_state state)
{
    int is_realtime = state == PRIORITY_REALTIME;
    struct sched_param parameter = { .sched_priority = is_realtime };

    if (sched_setscheduler(0, (is_realtime ? SCHED_RR : SCHED_OTHER) | SCHED_RESET_ON_FORK, &parameter))
        return -1;
    priority->state = state;
    return 0;
}

int priority_open(struct priority *priority, uint64_t now)
{
    *priority = (struct priority){ .state = PRIORITY_NORMAL, .since = now, .pause = PRIORITY_PAUSE_NS };
    return change(priority, PRIORITY_REALTIME);
}

void priority_check(struct priority *priority, uint64_t now)
{
    if (priority->state == PRIORITY_REALTIME && now - priority->since > PRIORITY_BUSY_NS) {
        if (change(priority, PRIORITY_GIVEN_UP) == 0)
            priority->since = now;
    } else if (priority->state == PRIORITY_GIVEN_UP && now - priority->since > priority->pause) {
        if (change(priority, PRIORITY_REALTIME) == 0) {
            priority->since = now;
            priority->pause = priority->pause < PRIORITY_PAUSE_MOST ? 2 * priority->pause : PRIORITY_PAUSE_MOST;
        }
    }
}

void priority_before_sleep(struct priority *priority)
{
    if (priority->state == PRIORITY_GIVEN_UP)
        change(priority, PRIORITY_REALTIME);
}

void priority_after_sleep(struct priority *priority, uint64_t now)
{
    priority->since = now;
    priority->pause = PRIORITY_PAUSE_NS;
}
