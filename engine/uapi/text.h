/* text: a peer as the answer to a `get` shows it (answers.py, format_peer says the same in Python). */
#ifndef ENGINE_UAPI_TEXT_H
#define ENGINE_UAPI_TEXT_H

#include <stdint.h>

#include "sections.h"

/* cdef begin */
#define UAPI_PEER_TEXT 1408    /* the most that uapi_write_peer writes: 404, 72 a number, 204 of a name, and 24 */
#define UAPI_ALLOWED_TEXT 64   /* likewise uapi_write_allowed */

struct uapi_shown {
    const uint8_t *public_key;     /* 32 bytes */
    const uint8_t *preshared_key;
    const uint8_t *address;        /* of the endpoint, 4 or 16 bytes */
    const char *zone;              /* of a 16-byte address, "" for none; at most 15 characters */
    uint32_t address_bytes;        /* 0 = no endpoint */
    uint32_t port;
    uint64_t handshake_sec;
    uint64_t handshake_nsec;
    uint64_t tx_bytes;
    uint64_t rx_bytes;
    uint64_t numbers[8];           /* UAPI_NUMBERS_MOST, those of UAPI_NUMBERS */
    const uint8_t *name;           /* in UTF-8 */
    uint32_t name_bytes;           /* 0: it has none */
    const char *ran_out;           /* why it was cut off; NULL: it was not */
};
/* All lines but those of allowed IPs. Returns the bytes written; no end is put behind them. */
uint32_t uapi_write_peer(char *to, const struct uapi_shown *shown);
/* One line. bits: 32 or 128. */
uint32_t uapi_write_allowed(char *to, const uint8_t *address, uint32_t bits, uint32_t cidr);
/* cdef end */

#endif
