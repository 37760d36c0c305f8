/* Theory.
 *
 *     initiator                                        responder
 *     e, es, s, ss, {timestamp}   -- initiation -->    open_initiation, then open_timestamp
 *     consume_response            <--  response --     e, ee, se, psk, {}
 *
 * hash is the hash of all that was said, chain the chaining key; each mix goes in the order of the
 * tokens above. Every seal uses nonce 0 and hash as associated data. The two macs at the end of a
 * message are no part of it: mac1 shows that the sender knows the receiver's public key, mac2
 * that it can be reached at its address.
 *
 * An opening step works on copies of hash and chain and stores them when the tag was right, so a
 * refused message leaves the state as it was.
 *
 * The price is X25519: four products of a scalar and a point for an answered initiation, five with
 * a peer that is heard for the first time. libcrypto multiplies the base point in its
 * slower code; the product with 9 as any other point is the same number. */
#include "handshake.h"
#include "blake2s.h"
#include "bytes.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY 32
#define TAG 16

/* Where things stand in an initiation and in a response (kernel: messages.h). */
#define INITIATION_EPHEMERAL 8
#define INITIATION_STATIC 40
#define INITIATION_TIMESTAMP 88
#define INITIATION_BODY 116
#define RESPONSE_EPHEMERAL 12
#define RESPONSE_EMPTY 44
#define RESPONSE_BODY 60

static const char construction[] = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
static const char identifier[] = "WireGuard v1 zx2c4 Jason@zx2c4.com";
static const uint8_t zeros[KEY];

/* A private key ready for exchanges. */
struct scalar {
    uint8_t bytes[KEY];
    EVP_PKEY *key;
    EVP_PKEY_CTX *exchange;
};

struct handshake_crypto {
    EVP_CIPHER *aead_cipher, *stream_cipher;
    EVP_CIPHER_CTX *aead, *stream;
    EVP_PKEY_CTX *maker;
    EVP_PKEY *other;       /* the public key of the exchange at hand, written anew each time */
    struct scalar own;     /* the static key that was used last: mostly the only one */
    struct scalar drawn;   /* an ephemeral */
};

/* What follows cannot fail on valid arguments. If it does all the same (no memory in
 * libcrypto), a key might be missing from what is sealed. */
static void must(int done)
{
    if (done == 1)
        return;
    fputs("handshake: libcrypto refused a computation that cannot fail; "
          "ending this process. Look for a shortage of memory.\n", stderr);
    abort();
}

/* --- X25519 -------------------------------------------------------------------------------- */

static void scalar_clear(struct scalar *scalar)
{
    EVP_PKEY_CTX_free(scalar->exchange);
    EVP_PKEY_free(scalar->key);  /* wipes it */
    OPENSSL_cleanse(scalar, sizeof *scalar);
}

static void scalar_set(struct handshake_crypto *crypto, struct scalar *scalar, const uint8_t bytes[KEY])
{
    /* The public key that belongs to it is not needed, and computing it costs as much as an exchange. */
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PRIV_KEY, (void *)bytes, KEY),
        OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)zeros, KEY),
        OSSL_PARAM_END,
    };

    if (scalar->key && CRYPTO_memcmp(scalar->bytes, bytes, KEY) == 0)
        return;
    scalar_clear(scalar);
    must(EVP_PKEY_fromdata(crypto->maker, &scalar->key, EVP_PKEY_KEYPAIR, parameters));
    scalar->exchange = EVP_PKEY_CTX_new(scalar->key, NULL);
    must(scalar->exchange && EVP_PKEY_derive_init(scalar->exchange) == 1);
    must(EVP_PKEY_derive_set_peer_ex(scalar->exchange, crypto->other, 0));
    memcpy(scalar->bytes, bytes, KEY);
}

/* 0, or -1 when the result is zero: secret is zeros then. */
static int exchange(struct handshake_crypto *crypto, struct scalar *scalar, const uint8_t public_key[KEY],
                    uint8_t secret[KEY])
{
    size_t length = KEY;

    must(EVP_PKEY_set1_encoded_public_key(crypto->other, public_key, KEY));
    if (EVP_PKEY_derive(scalar->exchange, secret, &length) == 1 && CRYPTO_memcmp(secret, zeros, KEY) != 0)
        return 0;
    ERR_clear_error();
    memset(secret, 0, KEY);
    return -1;
}

static void public_of(struct handshake_crypto *crypto, struct scalar *scalar, uint8_t public_key[KEY])
{
    static const uint8_t base[KEY] = { 9 };

    must(exchange(crypto, scalar, base, public_key) == 0);
}

int handshake_exchange(struct handshake_crypto *crypto, const uint8_t private_key[KEY],
                       const uint8_t public_key[KEY], uint8_t secret[KEY])
{
    scalar_set(crypto, &crypto->own, private_key);
    return exchange(crypto, &crypto->own, public_key, secret);
}

/* --- contexts ------------------------------------------------------------------------------ */

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
    scalar_clear(&crypto->own);
    scalar_clear(&crypto->drawn);
    EVP_PKEY_free(crypto->other);
    EVP_PKEY_CTX_free(crypto->maker);
    EVP_CIPHER_CTX_free(crypto->aead);
    EVP_CIPHER_CTX_free(crypto->stream);
    EVP_CIPHER_free(crypto->aead_cipher);
    EVP_CIPHER_free(crypto->stream_cipher);
    free(crypto);
}

void handshake_wipe(struct handshake *handshakes, uint32_t count)
{
    OPENSSL_cleanse(handshakes, count * sizeof *handshakes);
}

/* --- parts --------------------------------------------------------------------------------- */

/* sealed = plain and tag under key, nonce and associated data. */
static void seal(struct handshake_crypto *crypto, const uint8_t key[KEY], const uint8_t nonce[12],
                 const uint8_t *associated, int associated_length, const uint8_t *plain, int length,
                 uint8_t *sealed)
{
    int done;

    must(EVP_CipherInit_ex2(crypto->aead, NULL, key, nonce, 1, NULL));
    must(EVP_CipherUpdate(crypto->aead, NULL, &done, associated, associated_length));
    if (length)
        must(EVP_CipherUpdate(crypto->aead, sealed, &done, plain, length));
    must(EVP_CipherFinal_ex(crypto->aead, sealed + length, &done));
    must(EVP_CIPHER_CTX_ctrl(crypto->aead, EVP_CTRL_AEAD_GET_TAG, TAG, sealed + length));
}

/* 0, or -1 when the tag is wrong; length is that of the plaintext. */
static int unseal(struct handshake_crypto *crypto, const uint8_t key[KEY], const uint8_t nonce[12],
                  const uint8_t *associated, int associated_length, const uint8_t *sealed, int length,
                  uint8_t *plain)
{
    int done;

    must(EVP_CipherInit_ex2(crypto->aead, NULL, key, nonce, 0, NULL));
    must(EVP_CIPHER_CTX_ctrl(crypto->aead, EVP_CTRL_AEAD_SET_TAG, TAG, (void *)(sealed + length)));
    must(EVP_CipherUpdate(crypto->aead, NULL, &done, associated, associated_length));
    if (length)
        must(EVP_CipherUpdate(crypto->aead, plain, &done, sealed, length));
    if (EVP_CipherFinal_ex(crypto->aead, plain + length, &done) == 1)
        return 0;
    ERR_clear_error();
    return -1;
}

static void kdf1(uint8_t chain[KEY], const uint8_t *data)
{
    uint8_t *const outputs[] = { chain };

    blake2s_hkdf(outputs, 1, chain, data, KEY);
}

static void kdf2(uint8_t chain[KEY], const uint8_t *data, uint8_t key[KEY])
{
    uint8_t *const outputs[] = { chain, key };

    blake2s_hkdf(outputs, 2, chain, data, KEY);
}

/* ck0 = H(construction), h0 = H(ck0 || identifier), then the responder's static key is mixed in. */
static void begin(uint8_t chain[KEY])
{
    blake2s(chain, KEY, NULL, 0, (const uint8_t *)construction, sizeof construction - 1);
}

static void greet(uint8_t hash[KEY], const uint8_t responder[KEY])
{
    begin(hash);
    blake2s_mix(hash, (const uint8_t *)identifier, sizeof identifier - 1);
    blake2s_mix(hash, responder, KEY);
}

static void label_key(const char label[9], const uint8_t public_key[KEY], uint8_t key[KEY])
{
    uint8_t data[8 + KEY];

    memcpy(data, label, 8);
    memcpy(data + 8, public_key, KEY);
    blake2s(key, KEY, NULL, 0, data, sizeof data);
}

/* The private key of our message: given, or drawn now. */
static void draw_ephemeral(struct handshake_crypto *crypto, struct handshake *h)
{
    if (!h->has_ephemeral)
        must(RAND_bytes(h->ephemeral, KEY));
    h->has_ephemeral = 1;
    scalar_set(crypto, &crypto->drawn, h->ephemeral);
}

/* mac1 and mac2 behind the body. */
static void add_macs(const struct handshake *h, uint8_t *message, uint32_t body)
{
    uint8_t key[KEY];

    label_key("mac1----", h->remote_public, key);
    blake2s(message + body, MAC_BYTES, key, KEY, message, body);
    if (h->has_cookie)
        blake2s(message + body + MAC_BYTES, MAC_BYTES, h->cookie, MAC_BYTES, message, body + MAC_BYTES);
    else
        memset(message + body + MAC_BYTES, 0, MAC_BYTES);
}

static int need_static_static(struct handshake_crypto *crypto, struct handshake *h)
{
    if (!h->has_static_static)
        (void)handshake_exchange(crypto, h->identity->private_key, h->remote_public, h->static_static);
    h->has_static_static = 1;
    return CRYPTO_memcmp(h->static_static, zeros, KEY) == 0 ? -1 : 0;
}

void handshake_identity(struct handshake_crypto *crypto, const uint8_t private_key[KEY],
                        struct handshake_identity *identity)
{
    memcpy(identity->private_key, private_key, KEY);
    identity->private_key[0] &= 248;
    identity->private_key[31] = (identity->private_key[31] & 127) | 64;
    scalar_set(crypto, &crypto->own, identity->private_key);
    public_of(crypto, &crypto->own, identity->public_key);
    greet(identity->greeting, identity->public_key);
    label_key("mac1----", identity->public_key, identity->mac1_key);
    label_key("cookie--", identity->public_key, identity->cookie_key);
}

/* --- initiator ----------------------------------------------------------------------------- */

/* All but what X25519 is needed for: secret is of our ephemeral, whose public key stands in the message, and
 * the responder's static key. */
static void write_initiation(struct handshake_crypto *crypto, struct handshake *h, const uint8_t secret[KEY])
{
    uint8_t *message = h->initiation;
    uint8_t key[KEY];

    store_le32(message, MESSAGE_INITIATION);
    store_le32(message + 4, h->local_index);
    begin(h->chain);
    greet(h->hash, h->remote_public);
    kdf1(h->chain, message + INITIATION_EPHEMERAL);
    blake2s_mix(h->hash, message + INITIATION_EPHEMERAL, KEY);
    kdf2(h->chain, secret, key);
    seal(crypto, key, zeros, h->hash, KEY, h->identity->public_key, KEY, message + INITIATION_STATIC);
    blake2s_mix(h->hash, message + INITIATION_STATIC, KEY + TAG);
    kdf2(h->chain, h->static_static, key);
    seal(crypto, key, zeros, h->hash, KEY, h->timestamp, TIMESTAMP_BYTES, message + INITIATION_TIMESTAMP);
    blake2s_mix(h->hash, message + INITIATION_TIMESTAMP, TIMESTAMP_BYTES + TAG);
    add_macs(h, message, INITIATION_BODY);
    OPENSSL_cleanse(key, sizeof key);
}

static uint32_t create_initiation(struct handshake_crypto *crypto, struct handshake *h)
{
    uint8_t secret[KEY];

    if (need_static_static(crypto, h))
        return HANDSHAKE_LOW_ORDER;
    draw_ephemeral(crypto, h);
    if (exchange(crypto, &crypto->drawn, h->remote_public, secret))
        return HANDSHAKE_LOW_ORDER;
    public_of(crypto, &crypto->drawn, h->initiation + INITIATION_EPHEMERAL);
    write_initiation(crypto, h, secret);
    OPENSSL_cleanse(secret, sizeof secret);
    return HANDSHAKE_FINE;
}

/* What both ends make of psk and the chain: the key of the empty payload; then it is mixed in. */
static void mix_psk(uint8_t chain[KEY], uint8_t hash[KEY], const uint8_t psk[KEY], uint8_t key[KEY])
{
    uint8_t tau[KEY];
    uint8_t *const outputs[] = { chain, tau, key };

    blake2s_hkdf(outputs, 3, chain, psk, KEY);
    blake2s_mix(hash, tau, KEY);
    OPENSSL_cleanse(tau, sizeof tau);
}

/* Consumes the chain: the initiator sends with the first key. */
static void split(uint8_t chain[KEY], uint8_t initiators[KEY], uint8_t responders[KEY])
{
    uint8_t *const outputs[] = { initiators, responders };

    blake2s_hkdf(outputs, 2, chain, NULL, 0);
    OPENSSL_cleanse(chain, KEY);
}

static uint32_t consume_response(struct handshake_crypto *crypto, struct handshake *h)
{
    const uint8_t *message = h->response, *ephemeral = message + RESPONSE_EPHEMERAL;
    uint8_t chain[KEY], hash[KEY], ee[KEY], se[KEY], key[KEY], nothing[1];
    uint32_t result = HANDSHAKE_LOW_ORDER;

    if (load_le32(message + 8) != h->local_index)
        return HANDSHAKE_RESPONSE_TAG;  /* to another index than ours */
    memcpy(chain, h->chain, KEY);
    memcpy(hash, h->hash, KEY);
    scalar_set(crypto, &crypto->drawn, h->ephemeral);
    scalar_set(crypto, &crypto->own, h->identity->private_key);
    if (exchange(crypto, &crypto->drawn, ephemeral, ee) == 0 &&
        exchange(crypto, &crypto->own, ephemeral, se) == 0) {
        kdf1(chain, ephemeral);
        blake2s_mix(hash, ephemeral, KEY);
        kdf1(chain, ee);
        kdf1(chain, se);
        mix_psk(chain, hash, h->preshared_key, key);
        result = HANDSHAKE_RESPONSE_TAG;
        if (unseal(crypto, key, zeros, hash, KEY, message + RESPONSE_EMPTY, 0, nothing) == 0) {
            h->remote_index = load_le32(message + 4);
            split(chain, h->send_key, h->receive_key);
            blake2s_mix(hash, message + RESPONSE_EMPTY, TAG);
            memcpy(h->hash, hash, KEY);
            result = HANDSHAKE_FINE;
        }
        OPENSSL_cleanse(key, sizeof key);
    }
    OPENSSL_cleanse(chain, sizeof chain);
    OPENSSL_cleanse(ee, sizeof ee);
    OPENSSL_cleanse(se, sizeof se);
    return result;
}

/* --- responder ----------------------------------------------------------------------------- */

static uint32_t open_initiation(struct handshake_crypto *crypto, struct handshake *h)
{
    const uint8_t *message = h->initiation, *ephemeral = message + INITIATION_EPHEMERAL;
    uint8_t secret[KEY];

    scalar_set(crypto, &crypto->own, h->identity->private_key);
    if (exchange(crypto, &crypto->own, ephemeral, secret))
        return HANDSHAKE_LOW_ORDER;
    begin(h->chain);
    memcpy(h->hash, h->identity->greeting, KEY);
    kdf1(h->chain, ephemeral);
    blake2s_mix(h->hash, ephemeral, KEY);
    kdf2(h->chain, secret, h->key);
    OPENSSL_cleanse(secret, sizeof secret);
    if (unseal(crypto, h->key, zeros, h->hash, KEY, message + INITIATION_STATIC, KEY, h->remote_public))
        return HANDSHAKE_STATIC_TAG;
    blake2s_mix(h->hash, message + INITIATION_STATIC, KEY + TAG);
    h->remote_index = load_le32(message + 4);
    return HANDSHAKE_FINE;
}

static uint32_t open_timestamp(struct handshake_crypto *crypto, struct handshake *h)
{
    const uint8_t *sealed = h->initiation + INITIATION_TIMESTAMP;

    if (need_static_static(crypto, h))
        return HANDSHAKE_LOW_ORDER;
    kdf2(h->chain, h->static_static, h->key);
    if (unseal(crypto, h->key, zeros, h->hash, KEY, sealed, TIMESTAMP_BYTES, h->timestamp))
        return HANDSHAKE_TIMESTAMP_TAG;
    blake2s_mix(h->hash, sealed, TIMESTAMP_BYTES + TAG);
    return HANDSHAKE_FINE;
}

static uint32_t create_response(struct handshake_crypto *crypto, struct handshake *h)
{
    uint8_t *message = h->response;
    uint8_t ee[KEY], se[KEY];
    uint32_t result = HANDSHAKE_LOW_ORDER;

    draw_ephemeral(crypto, h);
    store_le32(message, MESSAGE_RESPONSE);
    store_le32(message + 4, h->local_index);
    store_le32(message + 8, h->remote_index);
    if (exchange(crypto, &crypto->drawn, h->initiation + INITIATION_EPHEMERAL, ee) == 0 &&
        exchange(crypto, &crypto->drawn, h->remote_public, se) == 0) {
        public_of(crypto, &crypto->drawn, message + RESPONSE_EPHEMERAL);
        kdf1(h->chain, message + RESPONSE_EPHEMERAL);
        blake2s_mix(h->hash, message + RESPONSE_EPHEMERAL, KEY);
        kdf1(h->chain, ee);
        kdf1(h->chain, se);
        mix_psk(h->chain, h->hash, h->preshared_key, h->key);
        seal(crypto, h->key, zeros, h->hash, KEY, NULL, 0, message + RESPONSE_EMPTY);
        split(h->chain, h->receive_key, h->send_key);
        blake2s_mix(h->hash, message + RESPONSE_EMPTY, TAG);
        add_macs(h, message, RESPONSE_BODY);
        result = HANDSHAKE_FINE;
    }
    OPENSSL_cleanse(ee, sizeof ee);
    OPENSSL_cleanse(se, sizeof se);
    OPENSSL_cleanse(h->ephemeral, KEY);  /* used once */
    h->has_ephemeral = 0;
    return result;
}

/* --- over arrays --------------------------------------------------------------------------- */

typedef uint32_t step(struct handshake_crypto *, struct handshake *);

static void each(step *step, struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (handshakes[i].result == HANDSHAKE_FINE)
            handshakes[i].result = step(crypto, &handshakes[i]);
    scalar_clear(&crypto->drawn);
}

void handshake_create_initiation(struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count)
{
    each(create_initiation, crypto, handshakes, count);
}

void handshake_create_prepared(struct handshake_crypto *crypto, struct handshake *handshake,
                               const uint8_t ephemeral_public[KEY], const uint8_t secret[KEY])
{
    memcpy(handshake->initiation + INITIATION_EPHEMERAL, ephemeral_public, KEY);
    write_initiation(crypto, handshake, secret);
}

void handshake_consume_response(struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count)
{
    each(consume_response, crypto, handshakes, count);
}

void handshake_open_initiation(struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count)
{
    each(open_initiation, crypto, handshakes, count);
}

void handshake_open_timestamp(struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count)
{
    each(open_timestamp, crypto, handshakes, count);
}

void handshake_create_response(struct handshake_crypto *crypto, struct handshake *handshakes, uint32_t count)
{
    each(create_response, crypto, handshakes, count);
}

/* --- macs and cookies ---------------------------------------------------------------------- */

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

/* Subkey of XChaCha20: a keystream block of ChaCha20 is the permuted state plus the initial state;
 * HChaCha20 is the first and last four words of the permuted state alone. */
static void hchacha20(struct handshake_crypto *crypto, const uint8_t key[KEY], const uint8_t nonce[16],
                      uint8_t subkey[KEY])
{
    static const uint8_t sigma[] = "expand 32-byte k";
    uint8_t block[64] = { 0 };
    int done;

    must(EVP_CipherInit_ex2(crypto->stream, NULL, key, nonce, 1, NULL));
    must(EVP_CipherUpdate(crypto->stream, block, &done, block, sizeof block));
    for (int i = 0; i < 4; i++) {
        store_le32(subkey + 4 * i, load_le32(block + 4 * i) - load_le32(sigma + 4 * i));
        store_le32(subkey + 16 + 4 * i, load_le32(block + 48 + 4 * i) - load_le32(nonce + 4 * i));
    }
    OPENSSL_cleanse(block, sizeof block);
}

/* Key and nonce of XChaCha20-Poly1305 in terms of ChaCha20-Poly1305's (draft-irtf-cfrg-xchacha). */
static void cookie_seal_key(struct handshake_crypto *crypto, const uint8_t cookie_key[KEY],
                            const uint8_t nonce[COOKIE_NONCE_BYTES], uint8_t subkey[KEY], uint8_t short_nonce[12])
{
    hchacha20(crypto, cookie_key, nonce, subkey);
    memset(short_nonce, 0, 4);
    memcpy(short_nonce + 4, nonce + 16, 8);
}

void handshake_draw(uint8_t *bytes, uint32_t count)
{
    must(RAND_bytes(bytes, (int)count));
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
    seal(crypto, subkey, short_nonce, message + length - 2 * MAC_BYTES, MAC_BYTES, cookie, MAC_BYTES,
         reply + 8 + COOKIE_NONCE_BYTES);
    OPENSSL_cleanse(subkey, sizeof subkey);
    OPENSSL_cleanse(cookie, sizeof cookie);
}

int handshake_open_cookie(struct handshake_crypto *crypto, const uint8_t responder[KEY],
                          const uint8_t reply[COOKIE_BYTES], const uint8_t mac1[MAC_BYTES],
                          uint8_t cookie[MAC_BYTES])
{
    uint8_t key[KEY], subkey[KEY], short_nonce[12], opened[MAC_BYTES];

    label_key("cookie--", responder, key);
    cookie_seal_key(crypto, key, reply + 8, subkey, short_nonce);
    if (unseal(crypto, subkey, short_nonce, mac1, MAC_BYTES, reply + 8 + COOKIE_NONCE_BYTES, MAC_BYTES, opened))
        return -1;
    memcpy(cookie, opened, MAC_BYTES);
    return 0;
}
