/* segmentation: cuts a super-packet from the TUN (virtio_net.h: GSO) into packets of wire size, with
 * the headers, flags, IP ids and checksums that the kernel would have given them. */
#ifndef ENGINE_SEGMENTATION_H
#define ENGINE_SEGMENTATION_H

#include <stdint.h>

/* cdef begin */
#define VNET_NEEDS_CSUM 1     /* flags of the header in linux/virtio_net.h */
#define VNET_DATA_VALID 2
#define VNET_GSO_NONE 0       /* GSO types of that header */
#define VNET_GSO_TCPV4 1
#define VNET_GSO_TCPV6 4
#define VNET_GSO_UDP_L4 5
#define VNET_GSO_ECN 128

/* A packet from the TUN, with the fields of the virtio_net header before it. */
struct super_packet {
    const uint8_t *data;
    uint32_t length;
    uint8_t flags;            /* VNET_NEEDS_CSUM, VNET_DATA_VALID */
    uint8_t gso_type;
    uint16_t gso_size;        /* payload bytes of each packet but the last; 0: a single packet */
    uint16_t checksum_start;
    uint16_t checksum_offset;
};

/* How a super-packet will be cut. */
struct segmentation {
    uint32_t packets;         /* number of packets; 1: a single packet */
    uint32_t header;          /* bytes of headers that each packet repeats; 0: a single packet */
    uint32_t transport;       /* offset of the TCP or UDP header */
    uint32_t largest;         /* bytes of the largest packet */
};

/* Plans the cut: 0, or -1 when the virtio_net fields contradict the packet. After 0, segmentation_cut
 * reads nothing outside data[0..length). */
int segmentation_plan(const struct super_packet *super, struct segmentation *plan);
/* Writes packet number `which` (from 0) to out, which has room for plan->largest bytes; returns the
 * packet's length. */
uint32_t segmentation_cut(const struct super_packet *super, const struct segmentation *plan,
                          uint32_t which, uint8_t *out);
/* cdef end */

#endif
