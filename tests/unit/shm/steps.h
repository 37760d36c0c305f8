/* steps: a function stopped after each of its instructions (the trap flag of x86), where a copy of this process goes on
 * alone: it does what others do meanwhile, then the rest of the function. The includer has `scenario` and `step`. */
#ifndef TESTS_STEPS_H
#define TESTS_STEPS_H

#if defined(__x86_64__)
#include <signal.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "world.h"

#define TRAP_FLAG 0x100

static void (*others)(void); /* in the copy */
static uint32_t steps_most = UINT32_MAX; /* further ones are passed without a stop */
static volatile sig_atomic_t finished, is_copy;

static void on_instruction(int number, siginfo_t *info, void *context)
{
    greg_t *flags = &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
    int status = -1;
    (void)number;
    (void)info;
    *flags = finished ? *flags & ~TRAP_FLAG : *flags | TRAP_FLAG;
    if (finished || step >= steps_most)
        return;
    step++;
    pid_t copy = fork();
    CHECK(copy >= 0, "no process");
    if (copy == 0) {
        alarm(120);
        is_copy = 1;
        *flags &= ~TRAP_FLAG;
        others();
        return; /* and the function goes on */
    }
    CHECK(waitpid(copy, &status, 0) == copy && status == 0, "%s, step %u: see above", scenario, step);
}

/* Also the copies come back from here: `is_copy` says so. */
static void step_through(void (*child)(void), void (*meanwhile)(void))
{
    struct sigaction action = { .sa_sigaction = on_instruction, .sa_flags = SA_SIGINFO };
    CHECK(sigaction(SIGTRAP, &action, NULL) == 0, "no handler");
    others = meanwhile;
    step = 0;
    finished = 0;
    raise(SIGTRAP);
    child();
    finished = 1;
}
#endif
#endif
