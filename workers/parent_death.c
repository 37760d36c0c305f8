/* A handler in C, because it must act while Python is inside a long call as well. All that it calls
 * is async-signal-safe. Control still listens at the socket until it has ended, so nobody who starts
 * the interface again can have put another file there between the look and the removal. */
#include "workers/parent_death.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATHS 2 /* one, and while it is renamed the other one as well */

static struct {
    char paths[PATHS][256];
    uint64_t device, inode;
    pid_t parent;
} left;

static void end(int number)
{
    struct stat found;
    int i;

    (void)number;
    if (getppid() == left.parent)
        return;
    for (i = 0; i < PATHS; i++)
        if (left.paths[i][0] && lstat(left.paths[i], &found) == 0 && (uint64_t)found.st_dev == left.device &&
            (uint64_t)found.st_ino == left.inode)
            unlink(left.paths[i]);
    _exit(0);
}

int parent_death_prepare(int signal_number, int parent, const char *path, const char *other, uint64_t device,
                         uint64_t inode)
{
    const char *paths[PATHS] = { path ? path : "", other ? other : "" };
    struct sigaction action;
    sigset_t blocked, before;
    int i, result;

    for (i = 0; i < PATHS; i++)
        if (strlen(paths[i]) >= sizeof left.paths[i]) {
            errno = ENAMETOOLONG;
            return -1;
        }
    sigemptyset(&blocked);
    sigaddset(&blocked, signal_number);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    for (i = 0; i < PATHS; i++)
        strcpy(left.paths[i], paths[i]);
    left.device = device;
    left.inode = inode;
    left.parent = parent;
    memset(&action, 0, sizeof action);
    action.sa_handler = end;
    result = sigaction(signal_number, &action, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return result;
}
