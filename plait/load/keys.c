/* Keys of simulated peers: BLAKE2s under the seed of a label and the peer's number, so that a
 * gateway's configuration and any number of load processes agree without telling each other.
 * They are for tests: whoever knows the seed has every key. */
#include <string.h>

#include "engine/blake2s.h"
#include "engine/bytes.h"
#include "plait/load/state.h"

static void derive(const uint8_t *seed, const char label[8], uint32_t number, uint8_t out[NOISE_KEY])
{
    uint8_t input[12];

    memcpy(input, label, 8);
    store_le32(input + 8, number);
    blake2s(out, NOISE_KEY, seed, 32, input, sizeof input);
}

static void clamp(uint8_t key[NOISE_KEY])
{
    key[0] &= 248;
    key[31] = (uint8_t)((key[31] & 127) | 64);
}

void load_private_key(const uint8_t *seed, uint32_t number, uint8_t private_key[NOISE_KEY])
{
    derive(seed, "peer----", number, private_key);
    clamp(private_key);
}

void load_psk(const uint8_t *seed, uint32_t number, uint8_t psk[NOISE_KEY])
{
    derive(seed, "psk-----", number, psk);
}

void load_gateway_key(const uint8_t *seed, uint8_t *private_key)
{
    derive(seed, "gateway-", 0, private_key);
    clamp(private_key);
}

int load_keys(const uint8_t *seed, uint32_t first, uint32_t count, uint8_t *privates, uint8_t *publics,
              uint8_t *psks)
{
    struct handshake_crypto *crypto = handshake_crypto_new();

    if (!crypto)
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t private_key[NOISE_KEY];

        load_private_key(seed, first + i, private_key);
        if (privates)
            memcpy(privates + (size_t)i * NOISE_KEY, private_key, NOISE_KEY);
        if (publics)
            noise_public(crypto, publics + (size_t)i * NOISE_KEY, private_key);
        if (psks)
            load_psk(seed, first + i, psks + (size_t)i * NOISE_KEY);
    }
    handshake_crypto_free(crypto);
    return 0;
}

int load_gateway_public(const uint8_t *private_key, uint8_t *public_key)
{
    struct handshake_crypto *crypto = handshake_crypto_new();

    if (!crypto)
        return -1;
    noise_public(crypto, public_key, private_key);
    handshake_crypto_free(crypto);
    return 0;
}
