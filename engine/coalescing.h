/* coalescing: packets that belong together joined into one super-packet for the TUN, as a
 * network card's receive offload would (kernel: tcp_offload.c, udp_offload.c). */
#ifndef ENGINE_COALESCING_H
#define ENGINE_COALESCING_H

#include "session.h"

/* cdef begin */
#define JOIN_TCP 1
#define JOIN_UDP 2

/* What goes into the vnet header before a joined packet. */
struct joined {
    uint32_t packets;         /* how many were joined, at least 1 */
    uint32_t length;          /* of the whole, headers once */
    uint32_t header;          /* bytes of headers: left out of all packets but the first */
    uint8_t flags;            /* VNET_* (segmentation.h) */
    uint8_t gso_type;
    uint16_t gso_size;
    uint16_t checksum_start;
    uint16_t checksum_offset;
};

/* Looks how many of packets[0..count), all to be delivered, follow each other in one TCP or
 * UDP flow (kinds: JOIN_*, what the kernel takes), and rewrites the first one's headers to stand
 * for all. Only packets whose checksums are right are joined, or a wrong one would be hidden. A
 * packet that stands alone is not touched. */
void coalescing_join(struct packet *packets, uint32_t count, uint32_t kinds, struct joined *joined);
/* cdef end */

#endif
