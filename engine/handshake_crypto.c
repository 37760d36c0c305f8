/* libcrypto's contexts, one set a thread, and the AEAD of handshakes and cookies. */
#include "handshake_crypto.h"
#include "blake2s.h"

#include <openssl/crypto.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t zeros[KEY];

struct handshake_crypto *handshake_crypto_new(void)
{
    struct handshake_crypto *crypto = calloc(1, sizeof *crypto);

    if (!crypto)
        return NULL;
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)zeros, KEY),
        OSSL_PARAM_END,
    };
    crypto->aead_cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    crypto->stream_cipher = EVP_CIPHER_fetch(NULL, "ChaCha20", NULL);
    crypto->aead = EVP_CIPHER_CTX_new();
    crypto->stream = EVP_CIPHER_CTX_new();
    crypto->maker = EVP_PKEY_CTX_new_from_name(NULL, "X25519", NULL);
    if (!crypto->aead_cipher || !crypto->stream_cipher || !crypto->aead || !crypto->stream || !crypto->maker ||
        EVP_CipherInit_ex2(crypto->aead, crypto->aead_cipher, NULL, NULL, 1, NULL) != 1 ||
        EVP_CipherInit_ex2(crypto->stream, crypto->stream_cipher, NULL, NULL, 1, NULL) != 1 ||
        EVP_PKEY_fromdata_init(crypto->maker) != 1 ||
        EVP_PKEY_fromdata(crypto->maker, &crypto->other, EVP_PKEY_PUBLIC_KEY, parameters) != 1) {
        handshake_crypto_free(crypto);
        return NULL;
    }
    return crypto;
}

void handshake_crypto_free(struct handshake_crypto *crypto)
{
    if (!crypto)
        return;
    x25519_clear(&crypto->own);
    x25519_clear(&crypto->drawn);
    EVP_PKEY_free(crypto->other);
    EVP_PKEY_CTX_free(crypto->maker);
    EVP_CIPHER_CTX_free(crypto->aead);
    EVP_CIPHER_CTX_free(crypto->stream);
    EVP_CIPHER_free(crypto->aead_cipher);
    EVP_CIPHER_free(crypto->stream_cipher);
    free(crypto);
}

void handshake_seal(struct handshake_crypto *crypto, const uint8_t key[KEY], const uint8_t nonce[12],
                    const uint8_t *associated, int associated_length, const uint8_t *plain, int length,
                    uint8_t *sealed)
{
    int done;

    handshake_must(EVP_CipherInit_ex2(crypto->aead, NULL, key, nonce, 1, NULL));
    handshake_must(EVP_CipherUpdate(crypto->aead, NULL, &done, associated, associated_length));
    if (length)
        handshake_must(EVP_CipherUpdate(crypto->aead, sealed, &done, plain, length));
    handshake_must(EVP_CipherFinal_ex(crypto->aead, sealed + length, &done));
    handshake_must(EVP_CIPHER_CTX_ctrl(crypto->aead, EVP_CTRL_AEAD_GET_TAG, TAG, sealed + length));
}

int handshake_unseal(struct handshake_crypto *crypto, const uint8_t key[KEY], const uint8_t nonce[12],
                     const uint8_t *associated, int associated_length, const uint8_t *sealed, int length,
                     uint8_t *plain)
{
    int done;

    handshake_must(EVP_CipherInit_ex2(crypto->aead, NULL, key, nonce, 0, NULL));
    handshake_must(EVP_CIPHER_CTX_ctrl(crypto->aead, EVP_CTRL_AEAD_SET_TAG, TAG, (void *)(sealed + length)));
    handshake_must(EVP_CipherUpdate(crypto->aead, NULL, &done, associated, associated_length));
    if (length)
        handshake_must(EVP_CipherUpdate(crypto->aead, plain, &done, sealed, length));
    if (EVP_CipherFinal_ex(crypto->aead, plain + length, &done) == 1)
        return 0;
    ERR_clear_error();
    return -1;
}

void handshake_label_key(const char label[9], const uint8_t public_key[KEY], uint8_t key[KEY])
{
    uint8_t data[8 + KEY];

    memcpy(data, label, 8);
    memcpy(data + 8, public_key, KEY);
    blake2s(key, KEY, NULL, 0, data, sizeof data);
}
