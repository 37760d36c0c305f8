/* parts: what a holder lends of its batch to workers that have nothing else to do. Theory in parts.c.
 * A lender is a receiver or consumer that holds a direction, a helper does parts of another one's batch. */
#ifndef SHM_PARTS_H
#define SHM_PARTS_H

#include "segment.h"

/* cdef begin */
/* Part `number` of this worker, of PARTS; its room, of PART_ROOM_BYTES. */
struct part *part_of(const struct segment *segment, uint32_t worker, uint32_t number);
uint8_t *part_room(const struct segment *segment, uint32_t worker);

/* Lender, before it writes parts or room of a batch: 1 when no helper has any of its parts. Those that are done or
 * lost, perhaps of the life before, are free afterwards. */
int parts_are_free(const struct segment *segment, uint32_t worker);
/* Lender: the part and what it names in the room are written; now helpers may take it. */
void part_offer(const struct segment *segment, uint32_t worker, uint32_t number);
/* Lender: 1 when nobody had taken it: it is free, and the lender's to do. 0: a helper has it. */
int part_take_back(const struct segment *segment, uint32_t worker, uint32_t number);
/* Lender, of a part that a helper has: PART_DONE (its messages are done), PART_LOST (its helper died, they hold
 * nothing of use), or PART_TAKEN: not yet. */
uint32_t part_read(const struct segment *segment, uint32_t worker, uint32_t number);
/* Lender: says that it offers, or does so no more. */
void parts_say_offering(const struct segment *segment, uint32_t worker, int offering);

/* Helper: takes a part that anybody offers, the last of a lender first, since the lender begins with the first:
 * 1, with its lender and number. */
int part_take(const struct segment *segment, uint32_t mark, uint32_t *lender, uint32_t *number);
/* Helper: the part that it took is done. */
void part_done(const struct segment *segment, uint32_t lender, uint32_t number);
/* Helper: says that it looks for parts, or does so no more. */
void parts_say_helping(const struct segment *segment, uint32_t worker, int helping);
/* Anybody: the helpers, a bit for each, number % 64. A hint. */
uint64_t parts_helpers(const struct segment *segment);

/* Repair: what the dead worker of this mark offered is free, what it had taken is lost. */
void parts_mend(const struct segment *segment, uint32_t worker, uint32_t mark);
/* cdef end */

#endif
