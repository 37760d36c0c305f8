/* segmentation: a super-packet from the TUN (virtio_net.h: GSO) cut into the packets that go
 * on the wire, each with the headers, flags, IP ids and checksums it would have had. */
#ifndef ENGINE_SEGMENTATION_H
#define ENGINE_SEGMENTATION_H

#include <stdint.h>

/* cdef begin */
#define VNET_NEEDS_CSUM 1     /* linux/virtio_net.h; the header's flags */
#define VNET_DATA_VALID 2
#define VNET_GSO_NONE 0       /* and its GSO types */
#define VNET_GSO_TCPV4 1
#define VNET_GSO_TCPV6 4
#define VNET_GSO_UDP_L4 5
#define VNET_GSO_ECN 128

/* What the TUN said of a packet, and the packet. */
struct super_packet {
    const uint8_t *data;
    uint32_t length;
    uint8_t flags;            /* VNET_* */
    uint8_t gso_type;
    uint16_t gso_size;        /* payload bytes of each packet but the last; 0 if alone */
    uint16_t checksum_start;
    uint16_t checksum_offset;
};

/* How it will be cut. */
struct segmentation {
    uint32_t packets;         /* how many; 1 if alone */
    uint32_t header;          /* bytes of headers that each packet repeats; 0 if alone */
    uint32_t transport;       /* where the TCP or UDP header begins */
    uint32_t largest;         /* bytes of the largest packet */
};

/* 0, or -1 when what the TUN said does not fit the packet. Nothing that a later cut reads lies
 * outside of data[0..length). */
int segmentation_plan(const struct super_packet *super, struct segmentation *plan);
/* Writes packet number `which` (from 0) to out, which has room for plan->largest; returns its
 * length. */
uint32_t segmentation_cut(const struct super_packet *super, const struct segmentation *plan,
                          uint32_t which, uint8_t *out);
/* cdef end */

#endif
