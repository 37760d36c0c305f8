/* sections: the peers of a `set` from text into records, as many as stand whole in a buffer.
 *
 * Only what is plainly right is taken: a section (a public_key line and what follows it up to the next one or
 * the empty line) with one line out of the ordinary is left, from its first byte, to requests.py, which
 * knows every rule and names every mistake. So there is one judge of what is refused, and this is
 * its fast hand; the records are byte for byte those that it would have made. */
#ifndef ENGINE_UAPI_SECTIONS_H
#define ENGINE_UAPI_SECTIONS_H

#include <stdint.h>

/* A peer's keys that carry a number: its place, the key, the field (of struct peer_row, where it stands, and of
 * changes.py's PeerChange), and the most that it may be. Parsers, printers, records and what is applied follow
 * from here; workers/control/peer_changes.c says what else happens when one changes. */
#define UAPI_NUMBERS(X) \
    X(UAPI_KEEPALIVE, "persistent_keepalive_interval", keepalive, 0xffffu) \
    X(UAPI_ON_DEMAND, "on_demand", on_demand, 1u) \
    X(UAPI_IDLE_AFTER, "idle_after", idle_after, 15552000u) \
    X(UAPI_EXPIRES, "plait_expires", expires, 0xffffffffu) \
    X(UAPI_QUOTA, "plait_quota", quota, 0x7fffffffffffffffull)

#define UAPI_PLACE(place, ...) place,
enum { UAPI_NUMBERS(UAPI_PLACE) UAPI_NUMBERS_COUNT };

/* cdef begin */
/* A record: 32 bytes public key, u16 flags, u32 allowed IPs; preshared key; address (16), port (u16), bytes
 * of address and of zone (u8 each), zone; the numbers (u16, or as much as the most that it may be takes: u32, u64); the greatest
 * timestamp seen (12); the name, a byte that says how long it is before it; the allowed IPs, 18 bytes each: address
 * (16), length and flags (u8 each). Little-endian, packed; what a flag does not announce is not there. */
#define RECORD_HEAD_BYTES 38
#define RECORD_ENDPOINT_BYTES 20
#define RECORD_ALLOWED_BYTES 18
#define RECORD_REMOVE 1
#define RECORD_UPDATE_ONLY 2
#define RECORD_REPLACE 4
#define RECORD_PSK 8
#define RECORD_ENDPOINT 16
#define RECORD_NUMBER 32       /* of the first place in UAPI_NUMBERS, twice as much for each next one */
#define RECORD_TIMESTAMP 0x8000
#define RECORD_NAME 0x4000
#define NAME_MOST 64           /* bytes of UTF-8 */
#define ALLOWED_IPV6 1
#define ALLOWED_REMOVED 2

#define UAPI_NUMBERS_MOST 8
struct uapi_number {
    const char *key;
    const char *field;
    uint64_t most;
    uint32_t bytes;         /* in a record */
};
/* NULL for a place at or above UAPI_NUMBERS_COUNT. */
const struct uapi_number *uapi_number(uint32_t place);

struct uapi_taken {
    uint64_t text_bytes;    /* of the text that are done with: whole sections */
    uint64_t record_bytes;  /* written */
    uint64_t spent;         /* memory as requests.py counts it against the limit of an operation */
    uint32_t peers;
    uint32_t lines;
    uint32_t is_cut;        /* the next section is plain so far, but the text ends within it */
};

#define UAPI_RECORDS_MORE 256   /* bytes of room for records, besides twice the text: where allowed IPs are gathered */
/* text: begins with a public_key line. records: room for 2 * bytes + UAPI_RECORDS_MORE. most_a_peer: what a peer is
 * counted as, its allowed IPs not included; budget: the most that `spent` may come to. */
void uapi_take_sections(const uint8_t *text, uint64_t bytes, uint8_t *records, uint32_t most_a_peer,
                        uint64_t budget, struct uapi_taken *taken);
/* cdef end */

#endif
