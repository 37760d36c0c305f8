/* checksum: the Internet checksum (RFC 1071) in the machine's own byte order, which the sum does
 * not mind: what is added up as loaded is right as stored. */
#ifndef ENGINE_CHECKSUM_H
#define ENGINE_CHECKSUM_H

#include <stdint.h>
#include <string.h>

/* Adds length bytes to sum; only the last part of a message may have an odd length. A sum of
 * 64 bits over 32-bit words can not overflow below 16 GiB, so the loop has no carries and
 * the compiler makes it a vector loop. */
static inline uint64_t checksum_add(uint64_t sum, const uint8_t *data, uint32_t length)
{
    uint32_t words = length / 4;
    uint64_t rest = 0;

    for (uint32_t i = 0; i < words; i++) {
        uint32_t word;

        memcpy(&word, data + 4u * i, 4);
        sum += word;
    }
    memcpy(&rest, data + 4u * words, length % 4);
    return sum + (rest & 0xffff) + (rest >> 16);
}

static inline uint16_t checksum_fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* The pseudo-header of TCP and UDP: both addresses (they stand together in either header),
 * the length of header and payload, the protocol. */
static inline uint64_t checksum_pseudo(const uint8_t *packet, uint32_t length, uint8_t protocol)
{
    const uint8_t tail[8] = { (uint8_t)(length >> 24), (uint8_t)(length >> 16), (uint8_t)(length >> 8),
                              (uint8_t)length, 0, 0, 0, protocol };

    return packet[0] >> 4 == 4 ? checksum_add(checksum_add(0, packet + 12, 8), tail, 8)
                               : checksum_add(checksum_add(0, packet + 8, 32), tail, 8);
}

#endif
