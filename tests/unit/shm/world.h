/* world: a small segment in memory of this process (and its forks) for the test programs. */
#ifndef TESTS_WORLD_H
#define TESTS_WORLD_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "shm/bell.h"
#include "shm/epoch.h"
#include "shm/mailbox.h"
#include "shm/orders.h"
#include "shm/pool.h"
#include "shm/queue.h"
#include "shm/ready.h"
#include "shm/repair.h"
#include "shm/schedule.h"
#include "shm/token.h"

#define CHECK(condition, ...) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__); \
            fputc('\n', stderr); \
            abort(); \
        } \
    } while (0)

/* sharing: MAP_SHARED with forks, or MAP_PRIVATE: then a fork has a copy of its own. */
static inline void world_make(struct segment *segment, const struct geometry *geometry, uint32_t rows, int sharing)
{
    struct header header = { 0 };
    uint64_t bytes = segment_lay_out(geometry, &header);
    CHECK(bytes != 0, "geometry out of bounds");
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED, "no memory");
    struct header *shared = memory;
    *shared = header;
    shared->magic = LAYOUT_MAGIC;
    CHECK(segment_attach(segment, memory, bytes) == 0, "not one of ours");
    segment->device->rows_used = rows;
    for (uint32_t worker = 0; worker < MAX_WORKERS; worker++)
        segment->workers[worker].incarnation = 1;
    for (uint32_t row = 0; row < rows; row++) {
        queue_initialise(segment, 2 * row + INBOUND);
        queue_initialise(segment, 2 * row + OUTBOUND);
        token_initialise(segment, 2 * row + INBOUND);
        token_initialise(segment, 2 * row + OUTBOUND);
    }
}

static inline void world_check(const struct segment *segment)
{
    char text[200];
    uint32_t faults = segment_valid(segment, text, sizeof text);
    CHECK(faults == 0, "%u faults, the first: %s", faults, text);
}

static inline uint32_t mark_of(const struct segment *segment, uint32_t worker)
{
    return worker_mark(worker, segment->workers[worker].incarnation);
}

#endif
