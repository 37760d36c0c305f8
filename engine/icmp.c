/* The error's source address is the packet's destination: it is the only address that is sure to
 * be routed to the TUN and not to be one of this host's own, so that neither reverse-path filters
 * nor the check for martians drop it. */
#include "icmp.h"

#include <string.h>

#define IP4_HEADER 20
#define IP6_HEADER 40
#define ICMP_HEADER 8
#define ICMP4_QUOTE 548     /* RFC 1812 4.3.2.3: the whole error fits in 576 bytes */
#define PROTOCOL_ICMP 1
#define PROTOCOL_ICMP6 58
#define HOP_LIMIT 64
#define UNREACHABLE4 3      /* RFC 792 */
#define CODE_HOST 1
#define UNREACHABLE6 1      /* RFC 4443 3.1 */
#define CODE_ADDRESS 3

static uint32_t sum_words(const uint8_t *data, uint32_t length, uint32_t sum)
{
    for (uint32_t i = 0; i + 1 < length; i += 2)
        sum += (uint32_t)data[i] << 8 | data[i + 1];
    if (length & 1)
        sum += (uint32_t)data[length - 1] << 8;
    return sum;
}

static void checksum_write(uint8_t *place, uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    sum = ~sum & 0xffff;
    place[0] = (uint8_t)(sum >> 8);
    place[1] = (uint8_t)sum;
}

/* RFC 792: of the ICMP messages only queries and replies may be answered with an error. */
static int is_icmp4_error(uint8_t type)
{
    return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

static int may_answer4(const uint8_t *p, uint32_t length)
{
    uint32_t header = (p[0] & 15u) * 4;
    const uint8_t *source = p + 12, *destination = p + 16;

    if (header < IP4_HEADER || header > length)
        return 0;
    if ((p[6] & 0x1f) | p[7])  /* not the first fragment */
        return 0;
    if (destination[0] >= 224 || source[0] >= 224 || source[0] == 0 || source[0] == 127)
        return 0;
    return p[9] != PROTOCOL_ICMP || (length > header && !is_icmp4_error(p[header]));
}

static uint32_t unreachable4(uint8_t *out, const uint8_t *packet, uint32_t length)
{
    uint32_t quote = length < ICMP4_QUOTE ? length : ICMP4_QUOTE;
    uint32_t total = IP4_HEADER + ICMP_HEADER + quote;
    uint8_t *icmp = out + IP4_HEADER;

    if (length < IP4_HEADER || !may_answer4(packet, length))
        return 0;
    memset(out, 0, IP4_HEADER + ICMP_HEADER);
    out[0] = 0x45;
    out[2] = (uint8_t)(total >> 8);
    out[3] = (uint8_t)total;
    out[8] = HOP_LIMIT;
    out[9] = PROTOCOL_ICMP;
    memcpy(out + 12, packet + 16, 4);
    memcpy(out + 16, packet + 12, 4);
    checksum_write(out + 10, sum_words(out, IP4_HEADER, 0));
    icmp[0] = UNREACHABLE4;
    icmp[1] = CODE_HOST;
    memcpy(icmp + ICMP_HEADER, packet, quote);
    checksum_write(icmp + 2, sum_words(icmp, ICMP_HEADER + quote, 0));
    return total;
}

static int is_extension(uint8_t protocol)
{
    return protocol == 0 || protocol == 43 || protocol == 44 || protocol == 60;
}

static int may_answer6(const uint8_t *p, uint32_t length)
{
    static const uint8_t unspecified[16];
    uint8_t protocol = p[6];
    uint32_t at = IP6_HEADER;

    if (p[8] == 0xff || p[24] == 0xff || !memcmp(p + 8, unspecified, 16))
        return 0;
    while (is_extension(protocol) && at + 8 <= length) {
        uint32_t units = protocol == 44 ? 0 : p[at + 1];  /* a fragment header has a fixed size */

        protocol = p[at];
        at += 8 + 8 * units;
    }
    /* ICMPv6 errors have types below 128; what can not be read is not answered. */
    return protocol != PROTOCOL_ICMP6 || (at < length && p[at] >= 128);
}

static uint32_t unreachable6(uint8_t *out, const uint8_t *packet, uint32_t length)
{
    uint32_t most = ICMP_MOST_BYTES - IP6_HEADER - ICMP_HEADER;  /* RFC 4443 2.4 (c): the minimum MTU */
    uint32_t quote = length < most ? length : most;
    uint32_t payload = ICMP_HEADER + quote;
    uint8_t *icmp = out + IP6_HEADER;

    if (length < IP6_HEADER || !may_answer6(packet, length))
        return 0;
    memset(out, 0, IP6_HEADER + ICMP_HEADER);
    out[0] = 0x60;
    out[4] = (uint8_t)(payload >> 8);
    out[5] = (uint8_t)payload;
    out[6] = PROTOCOL_ICMP6;
    out[7] = HOP_LIMIT;
    memcpy(out + 8, packet + 24, 16);
    memcpy(out + 24, packet + 8, 16);
    icmp[0] = UNREACHABLE6;
    icmp[1] = CODE_ADDRESS;
    memcpy(icmp + ICMP_HEADER, packet, quote);
    /* pseudo-header: both addresses, the length, the protocol */
    checksum_write(icmp + 2, sum_words(icmp, payload, sum_words(out + 8, 32, payload + PROTOCOL_ICMP6)));
    return IP6_HEADER + payload;
}

uint32_t icmp_unreachable(uint8_t *out, const uint8_t *packet, uint32_t length)
{
    if (!length)
        return 0;
    return packet[0] >> 4 == 4   ? unreachable4(out, packet, length)
           : packet[0] >> 4 == 6 ? unreachable6(out, packet, length)
                                 : 0;
}
