/* The two macs of handshake messages, and cookies (kernel: cookie.c).
 *
 * Theory. mac1 shows that the sender knows the receiver's public key. mac2 shows that the sender receives what
 * is sent to its address: the key of mac2 is a cookie, which only a cookie reply to that address contains. The
 * cookie is a mac of the sender's address and port. */
#include "cookie.h"
#include "blake2s.h"
#include "bytes.h"
#include "handshake_crypto.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>

int handshake_mac1_differs(const uint8_t mac1_key[KEY], const uint8_t *message, uint32_t length)
{
    uint8_t mac[MAC_BYTES];

    if (length < 2 * MAC_BYTES)
        return 1;
    blake2s(mac, MAC_BYTES, mac1_key, KEY, message, length - 2 * MAC_BYTES);
    return CRYPTO_memcmp(mac, message + length - 2 * MAC_BYTES, MAC_BYTES) != 0;
}

/* The cookie of a source: a mac of its address and port. */
static void make_cookie(const uint8_t secret[KEY], const uint8_t *address, uint32_t address_length,
                        uint16_t port, uint8_t cookie[MAC_BYTES])
{
    struct blake2s state;

    blake2s_begin(&state, MAC_BYTES, secret, KEY);
    blake2s_add(&state, address, address_length);
    blake2s_add(&state, (const uint8_t *)&port, sizeof port);
    blake2s_end(&state, cookie);
}

int handshake_mac2_differs(const uint8_t secret[KEY], const uint8_t *message, uint32_t length,
                           const uint8_t *address, uint32_t address_length, uint16_t port)
{
    uint8_t cookie[MAC_BYTES], mac[MAC_BYTES];

    if (length < 2 * MAC_BYTES)
        return 1;
    make_cookie(secret, address, address_length, port, cookie);
    blake2s(mac, MAC_BYTES, cookie, MAC_BYTES, message, length - MAC_BYTES);
    OPENSSL_cleanse(cookie, sizeof cookie);
    return CRYPTO_memcmp(mac, message + length - MAC_BYTES, MAC_BYTES) != 0;
}

/* HChaCha20, which derives the subkey of XChaCha20: the first and last four words of ChaCha20's permuted state.
 * OpenSSL gives a keystream block, the permuted state plus the initial state; so the initial state is subtracted. */
static void hchacha20(struct handshake_crypto *crypto, const uint8_t key[KEY], const uint8_t nonce[16],
                      uint8_t subkey[KEY])
{
    static const uint8_t sigma[] = "expand 32-byte k";
    uint8_t block[64] = { 0 };
    int done;

    handshake_must(EVP_CipherInit_ex2(crypto->stream, NULL, key, nonce, 1, NULL));
    handshake_must(EVP_CipherUpdate(crypto->stream, block, &done, block, sizeof block));
    for (int i = 0; i < 4; i++) {
        store_le32(subkey + 4 * i, load_le32(block + 4 * i) - load_le32(sigma + 4 * i));
        store_le32(subkey + 16 + 4 * i, load_le32(block + 48 + 4 * i) - load_le32(nonce + 4 * i));
    }
    OPENSSL_cleanse(block, sizeof block);
}

/* XChaCha20-Poly1305 is ChaCha20-Poly1305 with this subkey and short nonce (draft-irtf-cfrg-xchacha). */
static void cookie_seal_key(struct handshake_crypto *crypto, const uint8_t cookie_key[KEY],
                            const uint8_t nonce[COOKIE_NONCE_BYTES], uint8_t subkey[KEY], uint8_t short_nonce[12])
{
    hchacha20(crypto, cookie_key, nonce, subkey);
    memset(short_nonce, 0, 4);
    memcpy(short_nonce + 4, nonce + 16, 8);
}

void handshake_draw(uint8_t *bytes, uint32_t count)
{
    handshake_must(RAND_bytes(bytes, (int)count));
}

void handshake_cookie_reply(struct handshake_crypto *crypto, const struct handshake_identity *identity,
                            const uint8_t secret[KEY], const uint8_t *message, uint32_t length,
                            const uint8_t *address, uint32_t address_length, uint16_t port,
                            const uint8_t *nonce, uint8_t reply[COOKIE_BYTES])
{
    uint8_t subkey[KEY], cookie[MAC_BYTES], short_nonce[12];

    store_le32(reply, MESSAGE_COOKIE);
    memcpy(reply + 4, message + 4, 4);  /* the sender's index */
    if (nonce)
        memcpy(reply + 8, nonce, COOKIE_NONCE_BYTES);
    else
        handshake_draw(reply + 8, COOKIE_NONCE_BYTES);
    make_cookie(secret, address, address_length, port, cookie);
    cookie_seal_key(crypto, identity->cookie_key, reply + 8, subkey, short_nonce);
    handshake_seal(crypto, subkey, short_nonce, message + length - 2 * MAC_BYTES, MAC_BYTES, cookie, MAC_BYTES,
                   reply + 8 + COOKIE_NONCE_BYTES);
    OPENSSL_cleanse(subkey, sizeof subkey);
    OPENSSL_cleanse(cookie, sizeof cookie);
}

int handshake_open_cookie(struct handshake_crypto *crypto, const uint8_t responder[KEY],
                          const uint8_t reply[COOKIE_BYTES], const uint8_t mac1[MAC_BYTES],
                          uint8_t cookie[MAC_BYTES])
{
    uint8_t key[KEY], subkey[KEY], short_nonce[12], opened[MAC_BYTES];

    handshake_label_key("cookie--", responder, key);
    cookie_seal_key(crypto, key, reply + 8, subkey, short_nonce);
    if (handshake_unseal(crypto, subkey, short_nonce, mac1, MAC_BYTES, reply + 8 + COOKIE_NONCE_BYTES, MAC_BYTES, opened))
        return -1;
    memcpy(cookie, opened, MAC_BYTES);
    return 0;
}
