/* Theory. Every packet cut from a super-packet has a copy of the headers, in which these fields change. IP: the
 * length; IPv4 also: id and checksum. TCP: sequence number and checksum; FIN and PSH are set in the last packet
 * only, CWR in the first only. UDP: length and checksum. */
#include "segmentation.h"

#include "bytes.h"
#include "checksum.h"

#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define TCP_LAST_ONLY 0x09   /* FIN, PSH */
#define TCP_FIRST_ONLY 0x80  /* CWR */

static void store_sum(uint8_t *to, uint64_t sum)
{
    uint16_t value = (uint16_t)~checksum_fold(sum);

    memcpy(to, &value, 2);
}

static int is_udp(const struct super_packet *super)
{
    return (super->gso_type & ~VNET_GSO_ECN) == VNET_GSO_UDP_L4;
}

/* The length that the IP header gives for itself; 0 when the packet is shorter, or the length is too small. */
static uint32_t ip_header(const struct super_packet *super, int version)
{
    uint32_t header = version == 4 ? (super->data[0] & 15u) * 4 : 40;

    return header >= (version == 4 ? 20 : 40) && header <= super->length ? header : 0;
}

static int plan_alone(const struct super_packet *super, struct segmentation *plan)
{
    *plan = (struct segmentation){ .packets = 1, .largest = super->length };
    return super->flags & VNET_NEEDS_CSUM &&
                   (uint32_t)super->checksum_start + super->checksum_offset + 2 > super->length
               ? -1
               : 0;
}

int segmentation_plan(const struct super_packet *super, struct segmentation *plan)
{
    uint8_t type = super->gso_type & (uint8_t)~VNET_GSO_ECN;
    uint32_t ip, header;
    int version;

    if (!super->length)
        return -1;
    if (type == VNET_GSO_NONE)
        return plan_alone(super, plan);
    version = super->data[0] >> 4;
    if ((type != VNET_GSO_TCPV4 && type != VNET_GSO_TCPV6 && type != VNET_GSO_UDP_L4) ||
        (version != 4 && version != 6) || (type == VNET_GSO_TCPV4 && version != 4) ||
        (type == VNET_GSO_TCPV6 && version != 6) || !super->gso_size || !(super->flags & VNET_NEEDS_CSUM))
        return -1;
    ip = ip_header(super, version);
    /* Options or extension headers may follow the IP header, so its length does not tell where the transport
     * header begins: the start of the checksum does. */
    if (!ip || super->checksum_start < ip || super->checksum_start + 20u > super->length + (type == VNET_GSO_UDP_L4 ? 12u : 0u))
        return -1;
    header = super->checksum_start + (is_udp(super) ? 8u : (super->data[super->checksum_start + 12] >> 4) * 4u);
    if (header < super->checksum_start + (is_udp(super) ? 8u : 20u) || header >= super->length)
        return -1;
    *plan = (struct segmentation){
        .header = header,
        .transport = super->checksum_start,
        .packets = (super->length - header + super->gso_size - 1) / super->gso_size,
    };
    plan->largest = header + (plan->packets > 1 ? super->gso_size : super->length - header);
    return 0;
}

static void finish_ip(uint8_t *out, uint32_t length, uint32_t which)
{
    if (out[0] >> 4 == 4) {
        store_be16(out + 2, length);
        store_be16(out + 4, load_be16(out + 4) + which);
        out[10] = out[11] = 0;
        store_sum(out + 10, checksum_add(0, out, (out[0] & 15u) * 4));
    } else {
        store_be16(out + 4, length - 40);
    }
}

static void finish_tcp(const struct super_packet *super, const struct segmentation *plan,
                       uint32_t which, uint8_t *out, uint32_t length)
{
    uint8_t *tcp = out + plan->transport;

    store_be32(tcp + 4, load_be32(tcp + 4) + which * super->gso_size);
    if (which)
        tcp[13] &= (uint8_t)~TCP_FIRST_ONLY;
    if (which + 1 < plan->packets)
        tcp[13] &= (uint8_t)~TCP_LAST_ONLY;
    tcp[16] = tcp[17] = 0;
    store_sum(tcp + 16, checksum_add(checksum_pseudo(out, length - plan->transport, PROTOCOL_TCP), tcp,
                                     length - plan->transport));
}

static void finish_udp(const struct segmentation *plan, uint8_t *out, uint32_t length)
{
    uint8_t *udp = out + plan->transport;

    store_be16(udp + 4, length - plan->transport);
    udp[6] = udp[7] = 0;
    store_sum(udp + 6, checksum_add(checksum_pseudo(out, length - plan->transport, PROTOCOL_UDP), udp,
                                    length - plan->transport));
    if (!udp[6] && !udp[7])
        udp[6] = udp[7] = 0xff;  /* RFC 768: zero means that there is no checksum */
}

static uint32_t cut_alone(const struct super_packet *super, uint8_t *out)
{
    memcpy(out, super->data, super->length);
    if (super->flags & VNET_NEEDS_CSUM) {
        /* The field already holds the sum of the pseudo-header. */
        uint8_t *field = out + super->checksum_start + super->checksum_offset;

        store_sum(field, checksum_add(0, out + super->checksum_start, super->length - super->checksum_start));
        if (super->checksum_offset == 6 && !field[0] && !field[1])
            field[0] = field[1] = 0xff;
    }
    return super->length;
}

uint32_t segmentation_cut(const struct super_packet *super, const struct segmentation *plan,
                          uint32_t which, uint8_t *out)
{
    uint32_t start, payload, length;

    if (!plan->header)
        return cut_alone(super, out);
    start = plan->header + which * super->gso_size;
    payload = super->length - start < super->gso_size ? super->length - start : super->gso_size;
    length = plan->header + payload;
    memcpy(out, super->data, plan->header);
    memcpy(out + plan->header, super->data + start, payload);
    finish_ip(out, length, which);
    if (is_udp(super))
        finish_udp(plan, out, length);
    else
        finish_tcp(super, plan, which, out, length);
    return length;
}
