/* packet: bytes at their offsets; no struct is laid over a packet, which may stand anywhere. */
#include "packet.h"

#include "bytes.h"

#include <stddef.h>

#define IPV4_HEADER_BYTES 20
#define IPV6_HEADER_BYTES 40
#define UDP_HEADER_BYTES 8
#define FRAGMENT_HEADER_BYTES 8
#define PROTOCOL_UDP 17
#define PROTOCOL_FRAGMENT 44

enum ecn {
    NOT_ECT = 0,
    ECT_1 = 1,
    ECT_0 = 2,
    CE = 3
};

uint32_t message_type(const uint8_t *data, uint32_t length, int *why)
{
    *why = 1;
    if (length < 4)
        return 0;
    uint32_t type = load_le32(data);
    int fits;
    switch (type) {
    case MESSAGE_INITIATION: fits = length == INITIATION_BYTES; break;
    case MESSAGE_RESPONSE: fits = length == RESPONSE_BYTES; break;
    case MESSAGE_COOKIE: fits = length == COOKIE_BYTES; break;
    case MESSAGE_DATA: fits = length >= DATA_OVERHEAD; break;
    default: *why = 2; return 0;
    }
    if (!fits)
        return 0;
    *why = 0;
    return type;
}

uint32_t data_receiver_index(const uint8_t *data)
{
    return load_le32(data + 4);
}

uint32_t handshake_sender_index(const uint8_t *data)
{
    return load_le32(data + 4);
}

uint64_t data_counter(const uint8_t *data)
{
    return (uint64_t)load_le32(data + 8) | (uint64_t)load_le32(data + 12) << 32;
}

void data_header_write(uint8_t *data, uint32_t receiver_index, uint64_t counter)
{
    store_le32(data, MESSAGE_DATA);
    store_le32(data + 4, receiver_index);
    store_le32(data + 8, (uint32_t)counter);
    store_le32(data + 12, (uint32_t)(counter >> 32));
}

/* Version and the length that the header gives, or 0 when the packet is not all there. */
static int packet_version(const uint8_t *data, uint32_t length, uint32_t *total)
{
    if (length >= IPV4_HEADER_BYTES && data[0] >> 4 == 4) {
        uint32_t header = (data[0] & 15u) * 4;
        *total = load_be16(data + 2);
        return header >= IPV4_HEADER_BYTES && *total >= header && *total <= length ? 4 : 0;
    }
    if (length >= IPV6_HEADER_BYTES && data[0] >> 4 == 6) {
        *total = IPV6_HEADER_BYTES + load_be16(data + 4);
        return *total <= length ? 6 : 0;
    }
    return 0;
}

int packet_destination(const uint8_t *data, uint32_t length, const uint8_t **destination)
{
    uint32_t total;
    int version = packet_version(data, length, &total);

    *destination = version == 4 ? data + 16 : version == 6 ? data + 24
                                                           : NULL;
    return version;
}

int packet_source(const uint8_t *data, uint32_t length, const uint8_t **source, uint32_t *trimmed)
{
    uint32_t total = 0;
    int version = packet_version(data, length, &total);

    *source = version == 4 ? data + 12 : version == 6 ? data + 8
                                                      : NULL;
    *trimmed = version ? total : 0;
    return version;
}

const uint8_t *packet_message(const uint8_t *data, uint32_t length, uint32_t *type)
{
    int is_v6, why;
    uint32_t at, payload;
    uint8_t protocol;

    if (length < IPV6_HEADER_BYTES) /* which an IPv4 header with UDP's and a message exceeds, too */
        return NULL;
    is_v6 = data[0] >> 4 == 6;
    protocol = data[is_v6 ? 6 : 9];
    if (protocol != PROTOCOL_UDP && (protocol != PROTOCOL_FRAGMENT || !is_v6))
        return NULL;
    at = is_v6 ? IPV6_HEADER_BYTES : (data[0] & 15u) * 4;
    if (protocol == PROTOCOL_FRAGMENT) {
        if (length < at + FRAGMENT_HEADER_BYTES || data[at] != PROTOCOL_UDP || load_be16(data + at + 2) & 0xfff8)
            return NULL;
        at += FRAGMENT_HEADER_BYTES;
    } else if (!is_v6 && load_be16(data + 6) & 0x1fff) {
        return NULL;
    }
    if (length < at + UDP_HEADER_BYTES + DATA_HEADER_BYTES)
        return NULL;
    /* By UDP's own length: the packet may be the first fragment, or many datagrams in one. */
    payload = load_be16(data + at + 4) - UDP_HEADER_BYTES;
    at += UDP_HEADER_BYTES;
    *type = message_type(data + at, payload, &why);
    return *type ? data + at : NULL;
}

uint8_t packet_nested_hops(const uint8_t *data)
{
    uint8_t hops = data[data[0] >> 4 == 6 ? 7 : 8];

    if (hops > HOPS_MOST)
        hops = HOPS_MOST;
    return hops > HOPS_A_NESTING ? (uint8_t)(hops - HOPS_A_NESTING) : 0;
}

uint32_t packet_padding(uint32_t length, uint32_t mtu)
{
    /* Longer than the MTU: it left the TUN before the MTU shrank. Its last part is padded as if
     * it went out in parts, as the kernel does. */
    uint32_t last = mtu && length > mtu ? length % mtu : length;
    uint32_t padded = (last + 15) & ~15u;

    if (mtu && padded > mtu)
        padded = mtu;
    return padded - last;
}

uint8_t packet_ecn(const uint8_t *data)
{
    return data[0] >> 4 == 6 ? data[1] >> 4 & 3 : data[1] & 3;
}

/* RFC 6040, figure 4: what the inner bits become; -1 = drop. */
static const int8_t decapsulated[4][4] = {
    /* outer     Not-ECT  ECT(1)   ECT(0)   CE */
    [NOT_ECT] = { NOT_ECT, NOT_ECT, NOT_ECT, -1 },
    [ECT_1] = { ECT_1, ECT_1, ECT_1, CE },
    [ECT_0] = { ECT_0, ECT_1, ECT_0, CE },
    [CE] = { CE, CE, CE, CE },
};

int packet_ecn_decapsulate(uint8_t *data, uint8_t outer)
{
    uint8_t inner = packet_ecn(data);
    int to = decapsulated[inner][outer & 3];

    if (to < 0)
        return -1;
    if (to == inner)
        return 0;
    if (data[0] >> 4 == 6) {
        data[1] = (uint8_t)((data[1] & ~0x30) | to << 4);
        return 0;
    }
    /* RFC 1624: HC' = ~(~HC + ~m + m'), m being the word of version and traffic class */
    uint32_t before = load_be16(data);
    data[1] = (uint8_t)((data[1] & ~3) | to);
    uint32_t sum = (~load_be16(data + 10) & 0xffff) + (~before & 0xffff) + load_be16(data);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    data[10] = (uint8_t)(~sum >> 8);
    data[11] = (uint8_t)~sum;
    return 0;
}
