/* queue: the list of packets that wait for one peer in one direction.
 * Queue number q = 2 * row + direction. Theory in queue.c. */
#ifndef SHM_QUEUE_H
#define SHM_QUEUE_H

#include "segment.h"

/* cdef begin */
/* Control, before the row is published: empties the queue around its stub. */
void queue_initialise(const struct segment *segment, uint32_t queue);

/* Receiver, nodes still `owned`: makes b the node after a inside a private chain. */
void queue_link(const struct segment *segment, uint32_t a, uint32_t b);

/* Multi producer. Publishes the private chain first..last that counts `packets`
 * wire-size packets: journal, states -> queued, count, publication, journal cleared.
 * 0; or -1 when the queue is full (nothing changed; the nodes are still `owned`).
 * Full is QUEUE_LIMIT packets or more before this chain. */
int queue_push_mpsc(const struct segment *segment, uint32_t worker, uint32_t queue,
                    uint32_t first, uint32_t last, uint32_t packets);

/* Single consumer, holding the token. Takes up to max nodes and about max_packets
 * packets (at least one node if there is one): marks them in hand of `mark`, then
 * advances the head, then counts. Returns how many numbers were written. */
uint32_t queue_pop_sc(const struct segment *segment, uint32_t mark, uint32_t queue,
                      uint32_t *numbers, uint32_t max, uint32_t max_packets);

/* Anyone; exact for the holder only. */
int queue_is_empty(const struct segment *segment, uint32_t queue);
/* Packets counted in, not yet out; never negative. */
uint32_t queue_packets(const struct segment *segment, uint32_t queue);

/* Whether the chain whose last node is `last` (tagged) was ever published; -1 when a word is
 * corrupt. Its producer is dead; needs no token. */
int queue_is_published(const struct segment *segment, uint32_t queue, uint64_t last);
/* The number behind a node (or the queue's stub), for walks of the holder and of repair. */
uint32_t queue_next(const struct segment *segment, uint32_t queue, uint32_t number);

/* Holder: the node's packet is dealt with (release). */
void node_bring_home(const struct segment *segment, uint32_t number);
/* cdef end */

#endif
