/* tun: inner packets in and out of a TUN queue that was opened with IFF_VNET_HDR. */
#ifndef WORKERS_DATAPATH_TUN_H
#define WORKERS_DATAPATH_TUN_H

#include <stdint.h>
#include <sys/uio.h>

/* struct virtio_net_hdr as the TUN writes and expects it (10 bytes, host order). */
#define VNET_HEADER_BYTES 10

/* Reads one packet without waiting: its first `room` bytes to place, the rest to spill (which
 * has room for 65,535). The vnet header's 10 bytes land right before place. Returns the
 * packet's length, 0 when there is none, -1 when the device is gone or down for good (errno). */
int64_t tun_read(int fd, uint8_t *place, uint32_t room, uint8_t *spill, uint32_t spill_bytes);

/* Writes one packet; the 10 bytes before data are overwritten with its vnet header: nothing
 * to segment, checksums vouched for by the sender's tag. 0, or -1 when the kernel refused. */
int tun_write(int fd, uint8_t *data, uint32_t length);

/* Writes packets that were joined (engine/coalescing.h) as one super-packet, likewise. */
struct packet;
struct joined;
int tun_write_joined(int fd, const struct packet *packets, const struct joined *joined);

/* What the vnet header right before a packet says of it (engine/segmentation.h). */
struct super_packet;
void tun_describe(const uint8_t *packet, uint32_t length, struct super_packet *super);

#endif
