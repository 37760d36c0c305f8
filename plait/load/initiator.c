#include "plait/load/initiator.h"

#include "engine/cookie.h"

#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

struct noise {
    struct handshake_crypto *crypto;
    uint8_t gateway[NOISE_KEY];
};

/* What follows fails on valid arguments only without memory; nobody could go on then. */
static void must(int done)
{
    if (done != 1)
        abort();
}

struct noise *noise_new(const uint8_t gateway_key[NOISE_KEY])
{
    struct noise *noise = calloc(1, sizeof *noise);

    if (!noise)
        return NULL;
    memcpy(noise->gateway, gateway_key, NOISE_KEY);
    noise->crypto = handshake_crypto_new();
    if (!noise->crypto) {
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

void noise_initiation(struct noise *noise, uint8_t message[INITIATION_BYTES], struct noise_flight *flight,
                      const uint8_t *public_key, const uint8_t *static_static,
                      const struct noise_ephemeral *ephemeral, uint32_t index,
                      const uint8_t timestamp[TIMESTAMP_BYTES], const uint8_t *cookie)
{
    struct handshake_identity identity;
    struct handshake h = { .identity = &identity, .local_index = index, .has_cookie = cookie != NULL };

    memcpy(identity.public_key, public_key, NOISE_KEY);
    memcpy(h.remote_public, noise->gateway, NOISE_KEY);
    memcpy(h.static_static, static_static, NOISE_KEY);
    memcpy(h.timestamp, timestamp, TIMESTAMP_BYTES);
    if (cookie)
        memcpy(h.cookie, cookie, MAC_BYTES);
    handshake_create_prepared(noise->crypto, &h, ephemeral->public_key, ephemeral->secret);
    memcpy(message, h.initiation, INITIATION_BYTES);
    memcpy(flight->ephemeral, ephemeral->private_key, NOISE_KEY);
    memcpy(flight->chain, h.chain, NOISE_KEY);
    memcpy(flight->hash, h.hash, NOISE_KEY);
}

int noise_response(struct noise *noise, const uint8_t message[RESPONSE_BYTES], uint32_t index,
                   const struct noise_flight *flight, const uint8_t *private_key, const uint8_t *psk,
                   uint8_t send_key[NOISE_KEY], uint8_t receive_key[NOISE_KEY])
{
    struct handshake_identity identity;
    struct handshake h = { .identity = &identity, .local_index = index };

    memcpy(identity.private_key, private_key, NOISE_KEY);
    memcpy(h.ephemeral, flight->ephemeral, NOISE_KEY);
    memcpy(h.chain, flight->chain, NOISE_KEY);
    memcpy(h.hash, flight->hash, NOISE_KEY);
    if (psk)
        memcpy(h.preshared_key, psk, NOISE_KEY);
    memcpy(h.response, message, RESPONSE_BYTES);
    handshake_consume_response(noise->crypto, &h, 1);
    if (h.result != HANDSHAKE_FINE)
        return -1;
    memcpy(send_key, h.send_key, NOISE_KEY);
    memcpy(receive_key, h.receive_key, NOISE_KEY);
    return 0;
}

int noise_cookie(struct noise *noise, const uint8_t message[COOKIE_BYTES], const uint8_t mac1[MAC_BYTES],
                 uint8_t cookie[MAC_BYTES])
{
    return handshake_open_cookie(noise->crypto, noise->gateway, message, mac1, cookie);
}
