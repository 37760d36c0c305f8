/* icmp: telling the sender of an inner packet that it can not be carried (kernel: device.c,
 * wg_xmit: host unreachable on IPv4, address unreachable on IPv6, for a destination without a
 * peer as for a peer without an endpoint). */
#ifndef ENGINE_ICMP_H
#define ENGINE_ICMP_H

#include <stdint.h>

/* cdef begin */
#define ICMP_MOST_BYTES 1280
/* Writes into out (ICMP_MOST_BYTES) the ICMP or ICMPv6 error for the packet that could not be
 * carried, as much of it quoted as the RFCs say. Returns its length; 0 when the packet must not be
 * answered (RFC 1122 3.2.2, RFC 4443 2.4): an ICMP error itself, a later fragment, to many,
 * from nobody in particular, or cut short. */
uint32_t icmp_unreachable(uint8_t *out, const uint8_t *packet, uint32_t length);
/* cdef end */

#endif
