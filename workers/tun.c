#include "workers/tun.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define VNET_DATA_VALID 2  /* linux/virtio_net.h: VIRTIO_NET_HDR_F_DATA_VALID */

int64_t tun_read(int fd, uint8_t *place, uint32_t room, uint8_t *spill, uint32_t spill_bytes)
{
    struct iovec parts[2] = {
        { .iov_base = place - VNET_HEADER_BYTES, .iov_len = room + VNET_HEADER_BYTES },
        { .iov_base = spill, .iov_len = spill_bytes },
    };
    ssize_t got;

    do
        got = readv(fd, parts, 2);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == EAGAIN ? 0 : -1;
    if (got <= VNET_HEADER_BYTES)
        return 0;
    return got - VNET_HEADER_BYTES;
}

int tun_write(int fd, uint8_t *data, uint32_t length)
{
    uint8_t *start = data - VNET_HEADER_BYTES;
    ssize_t put;

    memset(start, 0, VNET_HEADER_BYTES);
    start[0] = VNET_DATA_VALID;
    do
        put = write(fd, start, length + VNET_HEADER_BYTES);
    while (put < 0 && errno == EINTR);
    return put < 0 ? -1 : 0;
}
