/* A handler in C, because it must act while Python is inside a long call as well. All that it calls
 * is async-signal-safe. Control still listens at the socket until it has ended, so nobody who starts
 * the interface anew can have put another file there between the look and the removal. */
#include "workers/orphan.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    char path[256];
    uint64_t device, inode;
    pid_t parent;
} left;

static void end(int number)
{
    struct stat found;

    (void)number;
    if (getppid() == left.parent)
        return;
    if (left.path[0] && lstat(left.path, &found) == 0 && (uint64_t)found.st_dev == left.device &&
        (uint64_t)found.st_ino == left.inode)
        unlink(left.path);
    _exit(0);
}

int orphan_prepare(int signal_number, int parent, const char *path, uint64_t device, uint64_t inode)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    left.path[0] = 0;
    if (path && strlen(path) >= sizeof left.path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (path)
        strcpy(left.path, path);
    left.device = device;
    left.inode = inode;
    left.parent = parent;
    action.sa_handler = end;
    return sigaction(signal_number, &action, NULL);
}
