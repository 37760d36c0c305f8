/* Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (noiseprotocol.org), initiator only, with the secret of its
 * ephemeral given. h is the hash of all that was said, ck the chaining key. */
#include "workers/load_noise.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "engine/blake2s.h"
#include "engine/bytes.h"

#define TAG 16

struct noise {
    struct handshake_crypto *crypto;
    uint8_t gateway[NOISE_KEY];
    uint8_t chain[NOISE_KEY], greeting[NOISE_KEY];
    uint8_t mac1_key[NOISE_KEY], cookie_key[NOISE_KEY];
    EVP_CIPHER *aead, *stream;
    EVP_CIPHER_CTX *aead_context, *stream_context;
};

/* What follows fails on valid arguments only without memory; nobody could go on then. */
static void must(int done)
{
    if (done != 1)
        abort();
}

static const uint8_t zeros[NOISE_KEY];

static void label_key(const char label[9], const uint8_t public_key[NOISE_KEY], uint8_t key[NOISE_KEY])
{
    uint8_t data[8 + NOISE_KEY];

    memcpy(data, label, 8);
    memcpy(data + 8, public_key, NOISE_KEY);
    blake2s(key, NOISE_KEY, NULL, 0, data, sizeof data);
}

struct noise *noise_new(const uint8_t gateway_key[NOISE_KEY])
{
    static const char name[] = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
    static const char prologue[] = "WireGuard v1 zx2c4 Jason@zx2c4.com";
    struct noise *noise = calloc(1, sizeof *noise);

    if (!noise)
        return NULL;
    memcpy(noise->gateway, gateway_key, NOISE_KEY);
    blake2s(noise->chain, NOISE_KEY, NULL, 0, (const uint8_t *)name, sizeof name - 1);
    memcpy(noise->greeting, noise->chain, NOISE_KEY);
    blake2s_mix(noise->greeting, (const uint8_t *)prologue, sizeof prologue - 1);
    blake2s_mix(noise->greeting, gateway_key, NOISE_KEY);
    label_key("mac1----", gateway_key, noise->mac1_key);
    label_key("cookie--", gateway_key, noise->cookie_key);

    noise->crypto = handshake_crypto_new();
    noise->aead = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    noise->stream = EVP_CIPHER_fetch(NULL, "ChaCha20", NULL);
    noise->aead_context = EVP_CIPHER_CTX_new();
    noise->stream_context = EVP_CIPHER_CTX_new();
    if (!noise->crypto || !noise->aead || !noise->stream || !noise->aead_context || !noise->stream_context ||
        EVP_CipherInit_ex2(noise->aead_context, noise->aead, NULL, NULL, 1, NULL) != 1 ||
        EVP_CipherInit_ex2(noise->stream_context, noise->stream, NULL, NULL, 1, NULL) != 1) {
        noise_free(noise);
        return NULL;
    }
    return noise;
}

void noise_free(struct noise *noise)
{
    if (!noise)
        return;
    handshake_crypto_free(noise->crypto);
    EVP_CIPHER_CTX_free(noise->aead_context);
    EVP_CIPHER_CTX_free(noise->stream_context);
    EVP_CIPHER_free(noise->aead);
    EVP_CIPHER_free(noise->stream);
    free(noise);
}

/* --- keys ---------------------------------------------------------------------------------- */

void noise_public(struct handshake_crypto *crypto, uint8_t public_key[NOISE_KEY],
                  const uint8_t private_key[NOISE_KEY])
{
    static const uint8_t base[NOISE_KEY] = { 9 };

    must(handshake_exchange(crypto, private_key, base, public_key) == 0);
}

int noise_derive(struct noise *noise, const uint8_t *private_key, uint8_t public_key[NOISE_KEY],
                 uint8_t secret[NOISE_KEY])
{
    noise_public(noise->crypto, public_key, private_key);
    return handshake_exchange(noise->crypto, private_key, noise->gateway, secret);
}

int noise_draw(struct noise *noise, struct noise_ephemeral *ephemeral)
{
    must(RAND_bytes(ephemeral->private_key, NOISE_KEY));
    return noise_derive(noise, ephemeral->private_key, ephemeral->public_key, ephemeral->secret);
}

/* --- messages ------------------------------------------------------------------------------ */

static void seal(struct noise *noise, uint8_t *sealed, const uint8_t key[NOISE_KEY], const uint8_t *hash,
                 const uint8_t *data, int length)
{
    EVP_CIPHER_CTX *context = noise->aead_context;
    int done;

    must(EVP_CipherInit_ex2(context, NULL, key, zeros, 1, NULL));
    must(EVP_CipherUpdate(context, NULL, &done, hash, NOISE_KEY));
    must(EVP_CipherUpdate(context, sealed, &done, data, length));
    must(EVP_CipherFinal_ex(context, sealed + length, &done));
    must(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG, sealed + length));
}

/* ck, and with key also a key, of ck and data. */
static void kdf(uint8_t chain[NOISE_KEY], const uint8_t *data, uint8_t *key)
{
    uint8_t *const outputs[] = { chain, key };

    blake2s_hkdf(outputs, key ? 2 : 1, chain, data, NOISE_KEY);
}

void noise_initiation(struct noise *noise, uint8_t message[INITIATION_BYTES], struct noise_flight *flight,
                      const uint8_t *public_key, const uint8_t *static_static,
                      const struct noise_ephemeral *ephemeral, uint32_t index,
                      const uint8_t timestamp[TIMESTAMP_BYTES], const uint8_t *cookie)
{
    uint8_t key[NOISE_KEY], *mac1 = message + INITIATION_BYTES - 2 * MAC_BYTES, *mac2 = mac1 + MAC_BYTES;

    store_le32(message, MESSAGE_INITIATION);
    store_le32(message + 4, index);
    memcpy(message + 8, ephemeral->public_key, NOISE_KEY);
    memcpy(flight->ephemeral, ephemeral->private_key, NOISE_KEY);
    memcpy(flight->chain, noise->chain, NOISE_KEY);
    memcpy(flight->hash, noise->greeting, NOISE_KEY);
    kdf(flight->chain, ephemeral->public_key, NULL);
    blake2s_mix(flight->hash, ephemeral->public_key, NOISE_KEY);
    kdf(flight->chain, ephemeral->secret, key);
    seal(noise, message + 40, key, flight->hash, public_key, NOISE_KEY);
    blake2s_mix(flight->hash, message + 40, NOISE_KEY + TAG);
    kdf(flight->chain, static_static, key);
    seal(noise, message + 88, key, flight->hash, timestamp, TIMESTAMP_BYTES);
    blake2s_mix(flight->hash, message + 88, TIMESTAMP_BYTES + TAG);

    blake2s(mac1, MAC_BYTES, noise->mac1_key, NOISE_KEY, message, (uint32_t)(mac1 - message));
    memset(mac2, 0, MAC_BYTES);
    if (cookie)
        blake2s(mac2, MAC_BYTES, cookie, MAC_BYTES, message, (uint32_t)(mac2 - message));
}

int noise_response(struct noise *noise, const uint8_t message[RESPONSE_BYTES], uint32_t index,
                   const struct noise_flight *flight, const uint8_t *private_key, const uint8_t *psk,
                   uint8_t send_key[NOISE_KEY], uint8_t receive_key[NOISE_KEY])
{
    struct handshake_identity identity;
    struct handshake h;

    memset(&h, 0, sizeof h);
    memcpy(identity.private_key, private_key, NOISE_KEY);
    h.identity = &identity;
    h.local_index = index;
    memcpy(h.ephemeral, flight->ephemeral, NOISE_KEY);
    memcpy(h.chain, flight->chain, NOISE_KEY);
    memcpy(h.hash, flight->hash, NOISE_KEY);
    memcpy(h.preshared_key, psk ? psk : zeros, NOISE_KEY);
    memcpy(h.response, message, RESPONSE_BYTES);
    handshake_consume_response(noise->crypto, &h, 1);
    if (h.result != HANDSHAKE_FINE)
        return -1;
    memcpy(send_key, h.send_key, NOISE_KEY);
    memcpy(receive_key, h.receive_key, NOISE_KEY);
    return 0;
}

/* A keystream block of ChaCha20 is the permuted state plus the initial one; HChaCha20 is the first
 * and last four words of the permuted state (draft-irtf-cfrg-xchacha). */
static void hchacha20(struct noise *noise, uint8_t out[NOISE_KEY], const uint8_t key[NOISE_KEY],
                      const uint8_t nonce[16])
{
    static const uint8_t sigma[] = "expand 32-byte k";
    uint8_t block[64] = { 0 };
    int done;

    must(EVP_CipherInit_ex2(noise->stream_context, NULL, key, nonce, 1, NULL));
    must(EVP_CipherUpdate(noise->stream_context, block, &done, block, sizeof block));
    for (int i = 0; i < 4; i++) {
        store_le32(out + 4 * i, load_le32(block + 4 * i) - load_le32(sigma + 4 * i));
        store_le32(out + 16 + 4 * i, load_le32(block + 48 + 4 * i) - load_le32(nonce + 4 * i));
    }
}

int noise_cookie(struct noise *noise, const uint8_t message[COOKIE_BYTES], const uint8_t mac1[MAC_BYTES],
                 uint8_t cookie[MAC_BYTES])
{
    EVP_CIPHER_CTX *context = noise->aead_context;
    uint8_t key[NOISE_KEY], nonce[12] = { 0 }, opened[MAC_BYTES];
    const uint8_t *sealed = message + 32;
    int done;

    hchacha20(noise, key, noise->cookie_key, message + 8);
    memcpy(nonce + 4, message + 24, 8);
    must(EVP_CipherInit_ex2(context, NULL, key, nonce, 0, NULL));
    must(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG, (void *)(sealed + MAC_BYTES)));
    must(EVP_CipherUpdate(context, NULL, &done, mac1, MAC_BYTES));
    must(EVP_CipherUpdate(context, opened, &done, sealed, MAC_BYTES));
    if (EVP_CipherFinal_ex(context, opened + MAC_BYTES, &done) != 1)
        return -1;
    memcpy(cookie, opened, MAC_BYTES);
    return 0;
}
