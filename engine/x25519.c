/* Theory. X25519 is the price of a handshake: four products of a scalar and a point for an answered
 * initiation, five with a peer that is heard for the first time. libcrypto multiplies the base point in its
 * slower code; the product with 9 as any other point is the same number. */
#include "handshake_crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <string.h>

static const uint8_t zeros[KEY];

void x25519_clear(struct scalar *scalar)
{
    EVP_PKEY_CTX_free(scalar->exchange);
    EVP_PKEY_free(scalar->key);  /* wipes it */
    OPENSSL_cleanse(scalar, sizeof *scalar);
}

void x25519_set(struct handshake_crypto *crypto, struct scalar *scalar, const uint8_t bytes[KEY])
{
    /* The public key that belongs to it is not needed, and computing it costs as much as an exchange. */
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PRIV_KEY, (void *)bytes, KEY),
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)zeros, KEY),
        OSSL_PARAM_END,
    };

    if (scalar->key && CRYPTO_memcmp(scalar->bytes, bytes, KEY) == 0)
        return;
    x25519_clear(scalar);
    handshake_must(EVP_PKEY_fromdata(crypto->maker, &scalar->key, EVP_PKEY_KEYPAIR, parameters));
    scalar->exchange = EVP_PKEY_CTX_new(scalar->key, NULL);
    handshake_must(scalar->exchange && EVP_PKEY_derive_init(scalar->exchange) == 1);
    handshake_must(EVP_PKEY_derive_set_peer_ex(scalar->exchange, crypto->other, 0));
    memcpy(scalar->bytes, bytes, KEY);
}

int x25519(struct handshake_crypto *crypto, struct scalar *scalar, const uint8_t public_key[KEY],
           uint8_t secret[KEY])
{
    size_t length = KEY;

    handshake_must(EVP_PKEY_set1_encoded_public_key(crypto->other, public_key, KEY));
    if (EVP_PKEY_derive(scalar->exchange, secret, &length) == 1 && CRYPTO_memcmp(secret, zeros, KEY) != 0)
        return 0;
    ERR_clear_error();
    memset(secret, 0, KEY);
    return -1;
}

void x25519_public(struct handshake_crypto *crypto, struct scalar *scalar, uint8_t public_key[KEY])
{
    static const uint8_t base[KEY] = { 9 };

    handshake_must(x25519(crypto, scalar, base, public_key) == 0);
}

int handshake_exchange(struct handshake_crypto *crypto, const uint8_t private_key[KEY],
                       const uint8_t public_key[KEY], uint8_t secret[KEY])
{
    x25519_set(crypto, &crypto->own, private_key);
    return x25519(crypto, &crypto->own, public_key, secret);
}
