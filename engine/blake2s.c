#include "blake2s.h"
#include "bytes.h"

#include <openssl/crypto.h>
#include <string.h>

static const uint32_t initial[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };

static const uint8_t order[10][16] = {
    { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
    { 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3 },
    { 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4 },
    { 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8 },
    { 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13 },
    { 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9 },
    { 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11 },
    { 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10 },
    { 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5 },
    { 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0 },
};

static inline uint32_t rotate(uint32_t word, int by)
{
    return word >> by | word << (32 - by);
}

#define MIX(a, b, c, d, x, y) \
    do { \
        v[a] += v[b] + (x); \
        v[d] = rotate(v[d] ^ v[a], 16); \
        v[c] += v[d]; \
        v[b] = rotate(v[b] ^ v[c], 12); \
        v[a] += v[b] + (y); \
        v[d] = rotate(v[d] ^ v[a], 8); \
        v[c] += v[d]; \
        v[b] = rotate(v[b] ^ v[c], 7); \
    } while (0)

static void compress(struct blake2s *state, const uint8_t *block, uint32_t bytes, int is_last)
{
    uint32_t m[16], v[16];

    state->counted += bytes;
    for (int i = 0; i < 16; i++)
        m[i] = load_le32(block + 4 * i);
    memcpy(v, state->h, sizeof state->h);
    memcpy(v + 8, initial, sizeof initial);
    v[12] ^= (uint32_t)state->counted;
    v[13] ^= (uint32_t)(state->counted >> 32);
    if (is_last)
        v[14] = ~v[14];
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        const uint8_t *s = order[round];

        MIX(0, 4, 8, 12, m[s[0]], m[s[1]]);
        MIX(1, 5, 9, 13, m[s[2]], m[s[3]]);
        MIX(2, 6, 10, 14, m[s[4]], m[s[5]]);
        MIX(3, 7, 11, 15, m[s[6]], m[s[7]]);
        MIX(0, 5, 10, 15, m[s[8]], m[s[9]]);
        MIX(1, 6, 11, 12, m[s[10]], m[s[11]]);
        MIX(2, 7, 8, 13, m[s[12]], m[s[13]]);
        MIX(3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; i++)
        state->h[i] ^= v[i] ^ v[i + 8];
}

void blake2s_begin(struct blake2s *state, uint32_t out_length, const uint8_t *key, uint32_t key_length)
{
    memset(state, 0, sizeof *state);
    memcpy(state->h, initial, sizeof initial);
    state->h[0] ^= 0x01010000 ^ key_length << 8 ^ out_length;
    state->out_length = out_length;
    if (key_length) {
        memcpy(state->block, key, key_length);
        state->used = BLAKE2S_BLOCK;
    }
}

void blake2s_add(struct blake2s *state, const uint8_t *data, uint32_t length)
{
    while (length) {
        /* A full block waits until more comes: the last one is compressed differently. */
        if (state->used == BLAKE2S_BLOCK) {
            compress(state, state->block, BLAKE2S_BLOCK, 0);
            state->used = 0;
        }
        uint32_t room = BLAKE2S_BLOCK - state->used;
        uint32_t part = length < room ? length : room;

        memcpy(state->block + state->used, data, part);
        state->used += part;
        data += part;
        length -= part;
    }
}

void blake2s_end(struct blake2s *state, uint8_t *out)
{
    uint8_t whole[BLAKE2S_BYTES];

    memset(state->block + state->used, 0, BLAKE2S_BLOCK - state->used);
    compress(state, state->block, state->used, 1);
    for (int i = 0; i < 8; i++)
        store_le32(whole + 4 * i, state->h[i]);
    memcpy(out, whole, state->out_length);
    OPENSSL_cleanse(whole, sizeof whole);
    OPENSSL_cleanse(state, sizeof *state);
}

void blake2s(uint8_t *out, uint32_t out_length, const uint8_t *key, uint32_t key_length,
             const uint8_t *data, uint32_t length)
{
    struct blake2s state;

    blake2s_begin(&state, out_length, key, key_length);
    blake2s_add(&state, data, length);
    blake2s_end(&state, out);
}

void blake2s_mix(uint8_t h[BLAKE2S_BYTES], const uint8_t *data, uint32_t length)
{
    struct blake2s state;

    blake2s_begin(&state, BLAKE2S_BYTES, NULL, 0);
    blake2s_add(&state, h, BLAKE2S_BYTES);
    blake2s_add(&state, data, length);
    blake2s_end(&state, h);
}

/* HMAC (RFC 2104): both hashes with the padded key before them. */
struct hmac {
    struct blake2s inner, outer;
};

static void hmac_key(struct hmac *hmac, const uint8_t key[BLAKE2S_BYTES])
{
    uint8_t pad[BLAKE2S_BLOCK];

    for (int i = 0; i < BLAKE2S_BLOCK; i++)
        pad[i] = 0x36 ^ (i < BLAKE2S_BYTES ? key[i] : 0);
    blake2s_begin(&hmac->inner, BLAKE2S_BYTES, NULL, 0);
    blake2s_add(&hmac->inner, pad, BLAKE2S_BLOCK);
    for (int i = 0; i < BLAKE2S_BLOCK; i++)
        pad[i] ^= 0x36 ^ 0x5c;
    blake2s_begin(&hmac->outer, BLAKE2S_BYTES, NULL, 0);
    blake2s_add(&hmac->outer, pad, BLAKE2S_BLOCK);
    OPENSSL_cleanse(pad, sizeof pad);
}

/* The padded key is hashed once for all messages that follow; none of them may be empty. */
static void hmac_advance(struct hmac *hmac)
{
    compress(&hmac->inner, hmac->inner.block, BLAKE2S_BLOCK, 0);
    compress(&hmac->outer, hmac->outer.block, BLAKE2S_BLOCK, 0);
    hmac->inner.used = hmac->outer.used = 0;
}

/* data, then the byte `last` unless it is 0. */
static void hmac_of(const struct hmac *hmac, uint8_t out[BLAKE2S_BYTES], const uint8_t *data,
                    uint32_t length, uint8_t last)
{
    struct blake2s inner = hmac->inner, outer = hmac->outer;
    uint8_t digest[BLAKE2S_BYTES]; /* no secret: it says nothing without the outer key */

    blake2s_add(&inner, data, length);
    if (last)
        blake2s_add(&inner, &last, 1);
    blake2s_end(&inner, digest);
    blake2s_add(&outer, digest, sizeof digest);
    blake2s_end(&outer, out);
}

void blake2s_hkdf(uint8_t *const outputs[], uint32_t count, const uint8_t key[BLAKE2S_BYTES],
                  const uint8_t *data, uint32_t length)
{
    struct hmac hmac;
    uint8_t secret[BLAKE2S_BYTES];

    hmac_key(&hmac, key);
    hmac_of(&hmac, secret, data, length, 0);
    hmac_key(&hmac, secret);
    hmac_advance(&hmac);
    for (uint32_t i = 0; i < count; i++)
        hmac_of(&hmac, outputs[i], i ? outputs[i - 1] : NULL, i ? BLAKE2S_BYTES : 0, (uint8_t)(i + 1));
    OPENSSL_cleanse(&hmac, sizeof hmac);
    OPENSSL_cleanse(secret, sizeof secret);
}
