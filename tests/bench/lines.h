/* lines: the file that an engine's processes and `python -m tests.bench lines` share. */
#ifndef TESTS_BENCH_LINES_H
#define TESTS_BENCH_LINES_H

#include "shm/layout.h"

#define LINES_MOST (1u << 27) /* of a segment: 8 GiB */

enum line_event {
    LINE_FETCHED,
    LINE_REVOKED,
    LINE_EVENTS
};

struct lines {
    uint32_t counts;     /* the bench: 1 while events are counted */
    uint32_t processes;  /* that have mapped the segment so far */
    uint32_t too_many;   /* 1: the segment has more lines than the directory */
    uint32_t reserved;
    uint64_t events[LINE_EVENTS][REGIONS];
    uint64_t row_events[LINE_EVENTS][PEER_ROW_BYTES / 64]; /* of REGION_ROWS, by the line of the row */
    uint64_t directory[LINES_MOST];
};

#define LINES_FILE_BYTES sizeof(struct lines)

#endif
