/* Marks which blocks of a program ran, in memory that outlives it: linked into each program and module that the
 * recording compiles with -fsanitize-coverage=trace-pc (recording.py). The mark is the byte at the distance of the
 * block's code from the beginning of its module; the file is PLAIT_MARKS/PATH.marks, with ! for each / of the path. */

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

extern const char __ehdr_start[] __attribute__((visibility("hidden")));
static unsigned char *marks;

__attribute__((constructor(101))) static void begin(void)
{
    const char *where = getenv("PLAIT_MARKS");
    char path[PATH_MAX], name[2 * PATH_MAX];
    Dl_info module;
    struct stat file;
    if (!where || !dladdr(__ehdr_start, &module) || !realpath(module.dli_fname, path) || stat(path, &file))
        return;
    int length = snprintf(name, sizeof name, "%s/", where);
    snprintf(name + length, sizeof name - length, "%s.marks", path);
    for (char *at = name + length; *at; at++)
        if (*at == '/')
            *at = '!';
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return;
    if (ftruncate(fd, file.st_size) == 0) {
        void *at = mmap(NULL, file.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        marks = at == MAP_FAILED ? NULL : at;
    }
    close(fd);
}

__attribute__((visibility("hidden"))) void __sanitizer_cov_trace_pc(void)
{
    if (marks)
        marks[(const char *)__builtin_return_address(0) - __ehdr_start] = 1;
}
