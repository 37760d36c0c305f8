/* packet: inner IP packets and the data message's header, looked at byte by byte. */
#ifndef ENGINE_PACKET_H
#define ENGINE_PACKET_H

#include <stdint.h>

/* cdef begin */
#define MESSAGE_INITIATION 1
#define MESSAGE_RESPONSE 2
#define MESSAGE_COOKIE 3
#define MESSAGE_DATA 4
#define INITIATION_BYTES 148
#define RESPONSE_BYTES 92
#define COOKIE_BYTES 64
#define DATA_HEADER_BYTES 16
#define DATA_OVERHEAD 32   /* header and tag */

/* Message type 1..4 of a datagram: little-endian u32; 0 when cut short, of a length that type
 * cannot have, or not a type. *why: 0 fine, 1 length, 2 type. */
uint32_t message_type(const uint8_t *data, uint32_t length, int *why);
uint32_t data_receiver_index(const uint8_t *data);
uint64_t data_counter(const uint8_t *data);
/* Of an initiation or a response: its sender's. */
uint32_t handshake_sender_index(const uint8_t *data);
void data_header_write(uint8_t *data, uint32_t receiver_index, uint64_t counter);

/* Inner packet of length bytes: 4 or 6, or 0 when the header does not fit or lies. For
 * outbound (from the TUN) *destination points at the address (4 or 16 bytes). */
int packet_destination(const uint8_t *data, uint32_t length, const uint8_t **destination);
/* Inbound after opening, padding included: version; *source the address, *trimmed the
 * length that the IP header gives (<= length). 0 when it lies. */
int packet_source(const uint8_t *data, uint32_t length, const uint8_t **source, uint32_t *trimmed);
/* The message of the protocol that the packet carries as UDP's payload: a tunnel in the tunnel, or
 * our own on a way that leads back. *type as message_type says; NULL where it carries none. Of a
 * datagram in fragments the first counts; of IPv6's extension headers the fragment's alone. */
const uint8_t *packet_message(const uint8_t *data, uint32_t length, uint32_t *type);
/* Hop limit for the outer header of a packet that carries a data message: the packet's own, or
 * HOPS_MOST if that is less, less HOPS_A_NESTING. 0: it went round, or would not go far. */
#define HOPS_MOST 64
#define HOPS_A_NESTING 8
uint8_t packet_nested_hops(const uint8_t *data);
/* Bytes of padding: up to a multiple of 16, not past the MTU (kernel: send.c). */
uint32_t packet_padding(uint32_t length, uint32_t mtu);
/* ECN, RFC 6040. Outbound: the inner bits. Inbound: carries CE of the outer header into the
 * inner one (IPv4 checksum mended); -1 when the packet must be dropped. */
uint8_t packet_ecn(const uint8_t *data);
int packet_ecn_decapsulate(uint8_t *data, uint8_t outer);
/* cdef end */

#endif
