/* Two packets may be joined when cutting the result again (segmentation.c) gives back both: all
 * header bytes equal but for those that a cut writes again, payloads of one size (the last may be
 * shorter), and, in TCP, sequence numbers that follow each other. */
#include "coalescing.h"

#include "bytes.h"
#include "checksum.h"
#include "segmentation.h"

#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define TCP_ACK 0x10
#define TCP_PSH 0x08
#define MOST_BYTES 65535u
/* Of a UDP super-packet: newer kernels check it (linux/virtio_net.h) and refuse more than UDP_MAX_SEGMENTS
 * (linux/udp.h), which is 128 and was 64. */
#define UDP_PACKETS_MOST 64u

struct flow {
    uint32_t ip;         /* bytes of the IP header */
    uint32_t header;     /* of all headers */
    uint32_t payload;
    int tcp;
};

/* Describes a packet that could be joined to another; 0 when it is none: fragments, options,
 * extension headers, control flags, no payload. Headers are whole (engine/packet.c). */
static int flow_read(const struct packet *packet, struct flow *flow)
{
    const uint8_t *p = packet->data;
    int v4 = p[0] >> 4 == 4;
    uint8_t protocol;
    uint32_t transport;

    flow->ip = v4 ? 20 : 40;
    if (packet->length < flow->ip + 8 || (v4 && (p[0] != 0x45 || (p[6] & 0xbf) || p[7])))
        return 0;
    protocol = v4 ? p[9] : p[6];
    flow->tcp = protocol == PROTOCOL_TCP;
    if (protocol == PROTOCOL_UDP) {
        transport = 8;
        if (load_be16(p + flow->ip + 4) != packet->length - flow->ip || !load_be16(p + flow->ip + 6))
            return 0;
    } else if (flow->tcp && packet->length >= flow->ip + 20) {
        transport = (p[flow->ip + 12] >> 4) * 4u;
        if (transport < 20 || (p[flow->ip + 13] & ~TCP_PSH) != TCP_ACK)
            return 0;
    } else {
        return 0;
    }
    flow->header = flow->ip + transport;
    if (packet->length <= flow->header)
        return 0;
    flow->payload = packet->length - flow->header;
    return 1;
}

/* The checksums of the transport and of the IPv4 header, which a joined packet gets computed again: a wrong one
 * would come out right. */
static int checksums_are_right(const struct packet *packet, const struct flow *flow)
{
    uint32_t length = packet->length - flow->ip;
    uint64_t sum = checksum_pseudo(packet->data, length, flow->tcp ? PROTOCOL_TCP : PROTOCOL_UDP);

    if (flow->ip == 20 && checksum_fold(checksum_add(0, packet->data, 20)) != 0xffff)
        return 0;
    return checksum_fold(checksum_add(sum, packet->data + flow->ip, length)) == 0xffff;
}

/* Header bytes that a cut does not write again are the same. */
static int headers_agree(const uint8_t *a, const uint8_t *b, const struct flow *flow)
{
    const uint8_t *x = a + flow->ip, *y = b + flow->ip;

    if (flow->ip == 20) {
        if (memcmp(a, b, 2) || memcmp(a + 6, b + 6, 4) || memcmp(a + 12, b + 12, 8))
            return 0;
    } else if (memcmp(a, b, 4) || memcmp(a + 6, b + 6, 34)) {
        return 0;
    }
    if (!flow->tcp)
        return !memcmp(x, y, 4);
    /* ports; acknowledgement and data offset; window; urgent pointer and options */
    return !memcmp(x, y, 4) && !memcmp(x + 8, y + 8, 5) && !memcmp(x + 14, y + 14, 2) &&
           !memcmp(x + 18, y + 18, flow->header - flow->ip - 18);
}

/* Whether packet number n (of flow `next`) may follow those joined so far. */
static int follows(const struct packet *first, const struct flow *flow, const struct packet *packet,
                   const struct flow *next, uint32_t n)
{
    const uint8_t *a = first->data, *b = packet->data;

    if (next->tcp != flow->tcp || next->ip != flow->ip || next->header != flow->header ||
        next->payload > flow->payload || !headers_agree(a, b, flow))
        return 0;
    /* A cut counts the ids up; where fragments are forbidden they say nothing. */
    if (flow->ip == 20 && !(a[6] & 0x40) && ((load_be16(a + 4) + n) & 0xffff) != load_be16(b + 4))
        return 0;
    return !flow->tcp || load_be32(a + flow->ip + 4) + n * flow->payload == load_be32(b + flow->ip + 4);
}

/* The first packet's headers come to stand for all. */
static void rewrite(struct packet *first, const struct flow *flow, struct joined *joined, uint8_t push)
{
    uint8_t *p = first->data, *transport = p + flow->ip;
    uint32_t length = joined->length - flow->ip;
    uint16_t sum;

    if (flow->ip == 20) {
        store_be16(p + 2, joined->length);
        p[10] = p[11] = 0;
        sum = (uint16_t)~checksum_fold(checksum_add(0, p, 20));
        memcpy(p + 10, &sum, 2);
    } else {
        store_be16(p + 4, length);
    }
    if (flow->tcp)
        transport[13] |= push;
    else
        store_be16(transport + 4, length);
    /* The kernel completes the checksum where it needs one (VNET_NEEDS_CSUM): the field has the sum of the
     * pseudo-header until then. */
    sum = checksum_fold(checksum_pseudo(p, length, flow->tcp ? PROTOCOL_TCP : PROTOCOL_UDP));
    memcpy(transport + (flow->tcp ? 16 : 6), &sum, 2);
    joined->flags = VNET_NEEDS_CSUM;
    joined->gso_type = !flow->tcp ? VNET_GSO_UDP_L4 : flow->ip == 20 ? VNET_GSO_TCPV4
                                                                     : VNET_GSO_TCPV6;
    joined->gso_size = (uint16_t)flow->payload;
    joined->header = flow->header;
    joined->checksum_start = (uint16_t)flow->ip;
    joined->checksum_offset = flow->tcp ? 16 : 6;
}

void coalescing_join(struct packet *packets, uint32_t count, uint32_t kinds, struct joined *joined)
{
    struct flow flow, next;
    uint8_t push;

    *joined = (struct joined){ .packets = 1, .length = packets[0].length, .flags = VNET_DATA_VALID };
    if (count < 2 || !flow_read(&packets[0], &flow) || !flow_read(&packets[1], &next) ||
        !(kinds & (flow.tcp ? JOIN_TCP : JOIN_UDP)) || !follows(&packets[0], &flow, &packets[1], &next, 1))
        return;
    push = flow.tcp ? packets[0].data[flow.ip + 13] & TCP_PSH : 0;
    if (push || !checksums_are_right(&packets[0], &flow))
        return;
    if (!flow.tcp && count > UDP_PACKETS_MOST)
        count = UDP_PACKETS_MOST;
    for (uint32_t n = 1; n < count; n++) {
        if (!flow_read(&packets[n], &next) || !follows(&packets[0], &flow, &packets[n], &next, n) ||
            joined->length + next.payload > MOST_BYTES || !checksums_are_right(&packets[n], &next))
            break;
        joined->packets++;
        joined->length += next.payload;
        push = flow.tcp ? packets[n].data[flow.ip + 13] & TCP_PSH : 0;
        if (push || next.payload < flow.payload)
            break;
    }
    if (joined->packets > 1)
        rewrite(&packets[0], &flow, joined, push);
}
