/* point: a place between two steps at which a test may have a process killed.
 *
 *     POINT("push: counted, not linked");
 *
 * The name says what has been done and what has not; no two places share one. A shipped build has
 * nothing there. A build with -Dpoints=true looks at the file that PLAIT_POINTS names, a struct
 * point_request: the process that it asks for stays at the point until it is killed. It cannot kill itself,
 * since a worker may not send signals, and a death comes from outside anyway.
 * Who asks: tests/robustness/kill/points.py. */
#ifndef SHM_POINT_H
#define SHM_POINT_H

#include <stdint.h>

#define POINT_NAME_BYTES 80

/* Written by the test, but for `passings` and `reached`. */
struct point_request {
    int32_t pid;            /* as the process itself knows it; stored last, 0 = nobody */
    uint32_t passings;      /* stay at the n-th, from 1; counted down */
    uint32_t reached;       /* 1: it is there */
    char name[POINT_NAME_BYTES];
};

#ifdef POINTS
void point_pass(const char *name);
#define POINT(name) point_pass(name)
#else
#define POINT(name) ((void)0)
#endif

#endif
