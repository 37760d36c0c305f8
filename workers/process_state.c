#include "workers/process_state.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

static void set(int number, void (*handler)(int))
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(number, &action, NULL);
}

void signals_forget(void)
{
    struct sigaction found;
    sigset_t none;
    int number;

    for (number = 1; number < NSIG; number++)
        if (sigaction(number, NULL, &found) == 0 && found.sa_handler != SIG_DFL && found.sa_handler != SIG_IGN)
            set(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void signal_ignore(int number)
{
    set(number, SIG_IGN);
}

int process_option(int option, uint64_t value)
{
    return prctl(option, (unsigned long)value, 0ul, 0ul, 0ul);
}
