/* blake2s: the hash of the handshake (RFC 7693), keyed or not, as HMAC and as Noise's HKDF.
 *
 * Written out because a handshake hashes some forty short strings: libcrypto takes 0.6 us for
 * each of them, most of it in setting up, and has no keyed form with an output of 16 bytes. */
#ifndef ENGINE_BLAKE2S_H
#define ENGINE_BLAKE2S_H

#include <stdint.h>

/* cdef begin */
/* out_length 1 to 32 bytes; a key of 0 to 32 bytes. */
void blake2s(uint8_t *out, uint32_t out_length, const uint8_t *key, uint32_t key_length,
             const uint8_t *data, uint32_t length);
/* cdef end */

#define BLAKE2S_BYTES 32
#define BLAKE2S_BLOCK 64

struct blake2s {
    uint32_t h[8];
    uint64_t counted;  /* bytes compressed so far */
    uint32_t used;     /* of block */
    uint32_t out_length;
    uint8_t block[BLAKE2S_BLOCK];
};
void blake2s_begin(struct blake2s *state, uint32_t out_length, const uint8_t *key, uint32_t key_length);
void blake2s_add(struct blake2s *state, const uint8_t *data, uint32_t length);
void blake2s_end(struct blake2s *state, uint8_t *out);  /* wipes the state */

/* h = hash of h and data: Noise's MixHash. */
void blake2s_mix(uint8_t h[BLAKE2S_BYTES], const uint8_t *data, uint32_t length);
/* Noise's HKDF (section 4.3) of a key of 32 bytes: count outputs, 1 to 3. An output may be key. */
void blake2s_hkdf(uint8_t *const outputs[], uint32_t count, const uint8_t key[BLAKE2S_BYTES],
                  const uint8_t *data, uint32_t length);

#endif
