#include "workers/datapath/tun.h"

#include "engine/coalescing.h"
#include "engine/segmentation.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

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

/* The header's 16-bit fields, in the machine's byte order. */
enum {
    VNET_FLAGS = 0,
    VNET_GSO_TYPE = 1,
    VNET_HEADER = 2,
    VNET_GSO_SIZE = 4,
    VNET_START = 6,
    VNET_OFFSET = 8
};

static uint16_t field_read(const uint8_t *header, int field)
{
    uint16_t value;

    memcpy(&value, header + field, 2);
    return value;
}

static void field_write(uint8_t *header, int field, uint32_t value)
{
    uint16_t narrow = (uint16_t)value;

    memcpy(header + field, &narrow, 2);
}

void tun_describe(const uint8_t *packet, uint32_t length, struct super_packet *super)
{
    const uint8_t *header = packet - VNET_HEADER_BYTES;

    *super = (struct super_packet){
        .data = packet,
        .length = length,
        .flags = header[VNET_FLAGS],
        .gso_type = header[VNET_GSO_TYPE],
        .gso_size = field_read(header, VNET_GSO_SIZE),
        .checksum_start = field_read(header, VNET_START),
        .checksum_offset = field_read(header, VNET_OFFSET),
    };
}

static int put(int fd, const struct iovec *parts, int count)
{
    ssize_t written;

    do
        written = writev(fd, parts, count);
    while (written < 0 && errno == EINTR);
    return written < 0 ? -1 : 0;
}

int tun_write(int fd, uint8_t *data, uint32_t length)
{
    struct iovec whole = { .iov_base = data - VNET_HEADER_BYTES, .iov_len = length + VNET_HEADER_BYTES };

    memset(whole.iov_base, 0, VNET_HEADER_BYTES);
    data[VNET_FLAGS - VNET_HEADER_BYTES] = VNET_DATA_VALID;
    return put(fd, &whole, 1);
}

int tun_write_joined(int fd, const struct packet *packets, const struct joined *joined)
{
    struct iovec parts[SESSION_BATCH];
    uint8_t *header = packets[0].data - VNET_HEADER_BYTES;

    header[VNET_FLAGS] = joined->flags;
    header[VNET_GSO_TYPE] = joined->gso_type;
    field_write(header, VNET_HEADER, joined->header);
    field_write(header, VNET_GSO_SIZE, joined->gso_size);
    field_write(header, VNET_START, joined->checksum_start);
    field_write(header, VNET_OFFSET, joined->checksum_offset);
    parts[0] = (struct iovec){ .iov_base = header, .iov_len = packets[0].length + VNET_HEADER_BYTES };
    for (uint32_t i = 1; i < joined->packets; i++)
        parts[i] = (struct iovec){
            .iov_base = packets[i].data + joined->header,
            .iov_len = packets[i].length - joined->header,
        };
    return put(fd, parts, (int)joined->packets);
}
