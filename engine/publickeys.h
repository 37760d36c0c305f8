/* publickeys: public key -> peer row. Buckets with chains through the rows; SipHash-2-4 with
 * a secret key, since a sender may choose its public key. Buckets come one by one, as rows do. Control alone. */
#ifndef ENGINE_PUBLICKEYS_H
#define ENGINE_PUBLICKEYS_H

#include <stdint.h>

/* cdef begin */
struct publickeys {
    uint32_t *buckets;         /* row + 1; 0 = empty */
    uint32_t bucket_count;     /* in use */
    uint64_t key[2];
    uint8_t *rows;             /* row 0 */
    uint32_t stride;           /* bytes from row to row */
    uint32_t key_offset;       /* of the 32-byte key in a row */
    uint32_t chain_offset;     /* of the u32 chain (row + 1) in a row */
    uint32_t max_rows;
};
uint32_t publickeys_lookup(const struct publickeys *keys, const uint8_t public_key[32]);  /* row or 0xffffffff */
void publickeys_insert(struct publickeys *keys, uint32_t row);   /* key already in the row */
void publickeys_remove(struct publickeys *keys, uint32_t row);
/* One more bucket, which takes its part of another one's rows. There is memory for it. */
void publickeys_grow(struct publickeys *keys);
/* cdef end */

#endif
