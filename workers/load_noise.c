/* Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (noiseprotocol.org), initiator only. h is the hash of all
 * that was said, ck the chaining key. X25519 and ChaCha20-Poly1305 are libcrypto's; BLAKE2s
 * (RFC 7693) is written here, because libcrypto's costs more for its wrapping than for itself. */
#include "workers/load_noise.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bytes.h"
#include "engine/packet.h"

#define TAG 16

struct noise {
    uint8_t public_key[NOISE_KEY];
    uint8_t chain[NOISE_KEY], greeting[NOISE_KEY];
    uint8_t mac1_key[NOISE_KEY], cookie_key[NOISE_KEY];
    EVP_PKEY *gateway;
    EVP_PKEY_CTX *import;      /* makes keys of bytes */
    EVP_CIPHER *cipher;
    EVP_CIPHER_CTX *context, *stream;
};

/* --- BLAKE2s ------------------------------------------------------------------------------- */

static const uint32_t blake2s_iv[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
static const uint8_t blake2s_sigma[10][16] = {
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

static inline uint32_t turn(uint32_t x, int bits)
{
    return x >> bits | x << (32 - bits);
}

#define MIX(a, b, c, d, x, y)                                                           \
    do {                                                                                \
        a += b + (x); d = turn(d ^ a, 16); c += d; b = turn(b ^ c, 12);                 \
        a += b + (y); d = turn(d ^ a, 8); c += d; b = turn(b ^ c, 7);                   \
    } while (0)

static void compress(uint32_t h[8], const uint8_t block[64], uint64_t total, int last)
{
    uint32_t m[16], v[16];

    for (int i = 0; i < 16; i++)
        m[i] = load_le32(block + 4 * i);
    for (int i = 0; i < 8; i++) {
        v[i] = h[i];
        v[i + 8] = blake2s_iv[i];
    }
    v[12] ^= (uint32_t)total;
    v[13] ^= (uint32_t)(total >> 32);
    if (last)
        v[14] = ~v[14];
    for (int r = 0; r < 10; r++) {
        const uint8_t *s = blake2s_sigma[r];

        MIX(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
        MIX(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
        MIX(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
        MIX(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
        MIX(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
        MIX(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
        MIX(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
        MIX(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; i++)
        h[i] ^= v[i] ^ v[i + 8];
}

struct sponge {
    uint32_t h[8];
    uint8_t block[64];
    uint32_t used;
    uint64_t total;
};

static void absorb(struct sponge *s, const uint8_t *data, uint32_t bytes)
{
    while (bytes) {
        /* A full block waits: the last one is compressed differently. */
        if (s->used == 64) {
            s->total += 64;
            compress(s->h, s->block, s->total, 0);
            s->used = 0;
        }
        uint32_t part = bytes < 64 - s->used ? bytes : 64 - s->used;

        memcpy(s->block + s->used, data, part);
        s->used += part;
        data += part;
        bytes -= part;
    }
}

void noise_blake2s(uint8_t *out, uint32_t out_bytes, const uint8_t *key, uint32_t key_bytes, const uint8_t *a,
                   uint32_t a_bytes, const uint8_t *b, uint32_t b_bytes)
{
    struct sponge s = { .used = 0 };
    uint8_t whole[32];

    memcpy(s.h, blake2s_iv, sizeof s.h);
    s.h[0] ^= 0x01010000u ^ key_bytes << 8 ^ out_bytes;
    if (key_bytes) {
        memcpy(s.block, key, key_bytes);
        s.used = 64;
    }
    absorb(&s, a, a_bytes);
    absorb(&s, b, b_bytes);
    s.total += s.used;
    memset(s.block + s.used, 0, 64 - s.used);
    compress(s.h, s.block, s.total, 1);
    for (int i = 0; i < 8; i++)
        store_le32(whole + 4 * i, s.h[i]);
    memcpy(out, whole, out_bytes);
}

/* HMAC of RFC 2104 for keys of 32 bytes. */
static void hmac(uint8_t out[32], const uint8_t key[32], const uint8_t *a, uint32_t a_bytes, const uint8_t *b,
                 uint32_t b_bytes)
{
    uint8_t pad[64 + 64], inner[32];

    for (int i = 0; i < 64; i++)
        pad[i] = (uint8_t)((i < 32 ? key[i] : 0) ^ 0x36);
    /* All we mac fits: at most 33 bytes. */
    memcpy(pad + 64, a, a_bytes);
    if (b_bytes)
        memcpy(pad + 64 + a_bytes, b, b_bytes);
    noise_blake2s(inner, 32, NULL, 0, pad, 64 + a_bytes + b_bytes, NULL, 0);
    for (int i = 0; i < 64; i++)
        pad[i] = (uint8_t)((i < 32 ? key[i] : 0) ^ 0x5c);
    noise_blake2s(out, 32, NULL, 0, pad, 64, inner, 32);
}

/* HKDF of Noise (section 4.3): the new chaining key, and up to two more outputs (NULL: none). */
static void kdf(uint8_t chain[32], const uint8_t *data, uint32_t bytes, uint8_t *second, uint8_t *third)
{
    static const uint8_t one = 1, two = 2, three = 3;
    uint8_t secret[32];

    hmac(secret, chain, data, bytes, NULL, 0);
    hmac(chain, secret, &one, 1, NULL, 0);
    if (second)
        hmac(second, secret, chain, 32, &two, 1);
    if (third)
        hmac(third, secret, second, 32, &three, 1);
}

static void mix(uint8_t hash[32], const uint8_t *data, uint32_t bytes)
{
    uint8_t before[32];

    memcpy(before, hash, 32);
    noise_blake2s(hash, 32, NULL, 0, before, 32, data, bytes);
}

/* --- libcrypto ----------------------------------------------------------------------------- */

/* What follows fails on valid arguments only without memory; nobody could go on then. */
static void must(int done)
{
    if (done != 1)
        abort();
}

static const uint8_t zeros[32];

void noise_public(uint8_t public_key[NOISE_KEY], const uint8_t private_key[NOISE_KEY])
{
    size_t bytes = NOISE_KEY;
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, private_key, NOISE_KEY);

    must(key != NULL);
    must(EVP_PKEY_get_raw_public_key(key, public_key, &bytes));
    EVP_PKEY_free(key);
}

/* With the public key given, libcrypto need not compute it: half of the cost of an exchange. */
static EVP_PKEY *own_key(struct noise *noise, const uint8_t *private_key, const uint8_t *public_key)
{
    EVP_PKEY *key = NULL;
    OSSL_PARAM parameters[3] = {
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PRIV_KEY, (void *)private_key, NOISE_KEY),
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)public_key, NOISE_KEY),
        OSSL_PARAM_construct_end(),
    };

    must(EVP_PKEY_fromdata(noise->import, &key, EVP_PKEY_KEYPAIR, parameters));
    return key;
}

static int exchange(uint8_t secret[NOISE_KEY], EVP_PKEY *own, EVP_PKEY *other)
{
    size_t bytes = NOISE_KEY;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, own, NULL);

    must(context != NULL);
    must(EVP_PKEY_derive_init(context));
    must(EVP_PKEY_derive_set_peer_ex(context, other, 0));
    /* libcrypto refuses the zero result of a low-order key; look all the same. */
    int done = EVP_PKEY_derive(context, secret, &bytes) == 1 && CRYPTO_memcmp(secret, zeros, NOISE_KEY);
    EVP_PKEY_CTX_free(context);
    return done ? 0 : -1;
}

int noise_with_gateway(struct noise *noise, uint8_t secret[NOISE_KEY], const uint8_t *private_key,
                       const uint8_t *public_key)
{
    EVP_PKEY *own = own_key(noise, private_key, public_key);
    int done = exchange(secret, own, noise->gateway);

    EVP_PKEY_free(own);
    return done;
}

int noise_draw(struct noise *noise, struct noise_ephemeral *ephemeral)
{
    must(RAND_bytes(ephemeral->private_key, NOISE_KEY));
    noise_public(ephemeral->public_key, ephemeral->private_key);
    return noise_with_gateway(noise, ephemeral->secret, ephemeral->private_key, ephemeral->public_key);
}

static void seal(struct noise *noise, uint8_t *out, const uint8_t key[32], const uint8_t *hash,
                 const uint8_t *data, uint32_t bytes)
{
    int n;

    must(EVP_CipherInit_ex2(noise->context, NULL, key, zeros, 1, NULL));
    must(EVP_CipherUpdate(noise->context, NULL, &n, hash, 32));
    must(EVP_CipherUpdate(noise->context, out, &n, data, (int)bytes));
    must(EVP_CipherFinal_ex(noise->context, out + n, &n));
    must(EVP_CIPHER_CTX_ctrl(noise->context, EVP_CTRL_AEAD_GET_TAG, TAG, out + bytes));
}

/* bytes: of the plaintext, may be 0. 0, or -1: the tag is wrong. */
static int open_sealed(struct noise *noise, uint8_t *out, const uint8_t key[32], const uint8_t nonce[12],
                       const uint8_t *known, uint32_t known_bytes, const uint8_t *sealed, uint32_t bytes)
{
    int n = 0;
    uint8_t none[1];

    must(EVP_CipherInit_ex2(noise->context, NULL, key, nonce, 0, NULL));
    must(EVP_CIPHER_CTX_ctrl(noise->context, EVP_CTRL_AEAD_SET_TAG, TAG, (void *)(sealed + bytes)));
    must(EVP_CipherUpdate(noise->context, NULL, &n, known, (int)known_bytes));
    if (bytes)
        must(EVP_CipherUpdate(noise->context, out, &n, sealed, (int)bytes));
    return EVP_CipherFinal_ex(noise->context, bytes ? out + n : none, &n) == 1 ? 0 : -1;
}

struct noise *noise_new(const uint8_t gateway_key[NOISE_KEY])
{
    static const char name[] = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
    static const char prologue[] = "WireGuard v1 zx2c4 Jason@zx2c4.com";
    struct noise *noise = calloc(1, sizeof *noise);

    if (!noise)
        return NULL;
    memcpy(noise->public_key, gateway_key, NOISE_KEY);
    noise_blake2s(noise->chain, 32, NULL, 0, (const uint8_t *)name, sizeof name - 1, NULL, 0);
    memcpy(noise->greeting, noise->chain, 32);
    mix(noise->greeting, (const uint8_t *)prologue, sizeof prologue - 1);
    mix(noise->greeting, gateway_key, NOISE_KEY);
    noise_blake2s(noise->mac1_key, 32, NULL, 0, (const uint8_t *)"mac1----", 8, gateway_key, NOISE_KEY);
    noise_blake2s(noise->cookie_key, 32, NULL, 0, (const uint8_t *)"cookie--", 8, gateway_key, NOISE_KEY);

    noise->gateway = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, gateway_key, NOISE_KEY);
    noise->import = EVP_PKEY_CTX_new_from_name(NULL, "X25519", NULL);
    noise->cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    noise->context = EVP_CIPHER_CTX_new();
    noise->stream = EVP_CIPHER_CTX_new();
    if (!noise->gateway || !noise->import || EVP_PKEY_fromdata_init(noise->import) != 1 || !noise->cipher ||
        !noise->context || !noise->stream ||
        EVP_CipherInit_ex2(noise->context, noise->cipher, NULL, NULL, 1, NULL) != 1) {
        noise_free(noise);
        return NULL;
    }
    return noise;
}

void noise_free(struct noise *noise)
{
    if (!noise)
        return;
    EVP_PKEY_free(noise->gateway);
    EVP_PKEY_CTX_free(noise->import);
    EVP_CIPHER_CTX_free(noise->context);
    EVP_CIPHER_CTX_free(noise->stream);
    EVP_CIPHER_free(noise->cipher);
    free(noise);
}

/* --- messages ------------------------------------------------------------------------------ */

void noise_initiation(struct noise *noise, uint8_t *message, struct noise_flight *flight,
                      const uint8_t *public_key, const uint8_t *static_static,
                      const struct noise_ephemeral *ephemeral, uint32_t index, const uint8_t timestamp[12])
{
    uint8_t key[32];

    store_le32(message, MESSAGE_INITIATION);
    store_le32(message + 4, index);
    memcpy(message + 8, ephemeral->public_key, 32);
    memcpy(flight->private_key, ephemeral->private_key, 32);
    memcpy(flight->public_key, ephemeral->public_key, 32);
    memcpy(flight->chain, noise->chain, 32);
    memcpy(flight->hash, noise->greeting, 32);
    kdf(flight->chain, ephemeral->public_key, 32, NULL, NULL);
    mix(flight->hash, ephemeral->public_key, 32);
    kdf(flight->chain, ephemeral->secret, 32, key, NULL);
    seal(noise, message + 40, key, flight->hash, public_key, 32);
    mix(flight->hash, message + 40, 48);
    kdf(flight->chain, static_static, 32, key, NULL);
    seal(noise, message + 88, key, flight->hash, timestamp, 12);
    mix(flight->hash, message + 88, 28);
}

void noise_macs(const struct noise *noise, uint8_t *message, uint32_t length, const uint8_t *cookie)
{
    uint8_t *mac1 = message + length - 32, *mac2 = message + length - 16;

    noise_blake2s(mac1, NOISE_MAC, noise->mac1_key, 32, message, length - 32, NULL, 0);
    if (cookie)
        noise_blake2s(mac2, NOISE_MAC, cookie, NOISE_MAC, message, length - 16, NULL, 0);
    else
        memset(mac2, 0, NOISE_MAC);
}

int noise_response(struct noise *noise, const uint8_t *message, const struct noise_flight *flight,
                   const uint8_t *private_key, const uint8_t *public_key, const uint8_t *psk,
                   uint8_t send_key[NOISE_KEY], uint8_t receive_key[NOISE_KEY])
{
    uint8_t chain[32], hash[32], secret[32], tau[32], key[32], nothing[1];
    const uint8_t *ephemeral = message + 12;
    EVP_PKEY *theirs = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, ephemeral, NOISE_KEY), *own;
    int done;

    must(theirs != NULL);
    memcpy(chain, flight->chain, 32);
    memcpy(hash, flight->hash, 32);
    kdf(chain, ephemeral, 32, NULL, NULL);
    mix(hash, ephemeral, 32);
    own = own_key(noise, flight->private_key, flight->public_key);
    done = exchange(secret, own, theirs);
    EVP_PKEY_free(own);
    kdf(chain, secret, 32, NULL, NULL);
    if (!done) {
        own = own_key(noise, private_key, public_key);
        done = exchange(secret, own, theirs);
        EVP_PKEY_free(own);
        kdf(chain, secret, 32, NULL, NULL);
    }
    EVP_PKEY_free(theirs);
    kdf(chain, psk ? psk : zeros, 32, tau, key);
    mix(hash, tau, 32);
    if (!done)
        done = open_sealed(noise, nothing, key, zeros, hash, 32, message + 44, 0);
    if (done)
        return -1;
    memcpy(send_key, chain, 32);
    kdf(send_key, zeros, 0, receive_key, NULL);
    return 0;
}

/* A keystream block of ChaCha20 is the permuted state plus the initial one; HChaCha20 is the first
 * and last four words of the permuted state (draft-irtf-cfrg-xchacha). */
static void hchacha20(struct noise *noise, uint8_t out[32], const uint8_t key[32], const uint8_t nonce[16])
{
    static const uint8_t sigma[] = "expand 32-byte k";
    uint8_t block[64] = { 0 };
    int n;

    must(EVP_EncryptInit_ex(noise->stream, EVP_chacha20(), NULL, key, nonce));
    must(EVP_EncryptUpdate(noise->stream, block, &n, block, 64));
    for (int i = 0; i < 4; i++) {
        store_le32(out + 4 * i, load_le32(block + 4 * i) - load_le32(sigma + 4 * i));
        store_le32(out + 16 + 4 * i, load_le32(block + 48 + 4 * i) - load_le32(nonce + 4 * i));
    }
}

int noise_cookie(struct noise *noise, const uint8_t *message, const uint8_t mac1[NOISE_MAC],
                 uint8_t cookie[NOISE_MAC])
{
    uint8_t key[32], nonce[12] = { 0 }, opened[NOISE_MAC];

    hchacha20(noise, key, noise->cookie_key, message + 8);
    memcpy(nonce + 4, message + 24, 8);
    if (open_sealed(noise, opened, key, nonce, mac1, NOISE_MAC, message + 32, NOISE_MAC))
        return -1;
    memcpy(cookie, opened, NOISE_MAC);
    return 0;
}
