/* Theory.
 *
 *     initiator                                        responder
 *     e, es, s, ss, {timestamp}   -- initiation -->    open_initiation, then open_timestamp
 *     consume_response            <--  response --     e, ee, se, psk, {}
 *
 * hash is the hash of all that was said, chain the chaining key; each mix goes in the order of the
 * tokens above. Every seal uses nonce 0 and hash as associated data. The two macs at the end of a
 * message are no part of it (cookie.c).
 *
 * An opening step works on copies of hash and chain and stores them when the tag was right, so a
 * refused message leaves the state as it was.
 */
#include "handshake.h"
#include "blake2s.h"
#include "bytes.h"
#include "handshake_crypto.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>

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

void handshake_wipe(struct handshake *handshakes, uint32_t count)
{
    OPENSSL_cleanse(handshakes, count * sizeof *handshakes);
}

/* --- parts --------------------------------------------------------------------------------- */

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

/* The private key of our message: given, or drawn now. */
static void draw_ephemeral(struct handshake_crypto *crypto, struct handshake *h)
{
    if (!h->has_ephemeral)
        handshake_must(RAND_bytes(h->ephemeral, KEY));
    h->has_ephemeral = 1;
    x25519_set(crypto, &crypto->drawn, h->ephemeral);
}

/* mac1 and mac2 behind the body. */
static void add_macs(const struct handshake *h, uint8_t *message, uint32_t body)
{
    uint8_t key[KEY];

    handshake_label_key("mac1----", h->remote_public, key);
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
    x25519_set(crypto, &crypto->own, identity->private_key);
    x25519_public(crypto, &crypto->own, identity->public_key);
    greet(identity->greeting, identity->public_key);
    handshake_label_key("mac1----", identity->public_key, identity->mac1_key);
    handshake_label_key("cookie--", identity->public_key, identity->cookie_key);
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
    handshake_seal(crypto, key, zeros, h->hash, KEY, h->identity->public_key, KEY, message + INITIATION_STATIC);
    blake2s_mix(h->hash, message + INITIATION_STATIC, KEY + TAG);
    kdf2(h->chain, h->static_static, key);
    handshake_seal(crypto, key, zeros, h->hash, KEY, h->timestamp, TIMESTAMP_BYTES, message + INITIATION_TIMESTAMP);
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
    if (x25519(crypto, &crypto->drawn, h->remote_public, secret))
        return HANDSHAKE_LOW_ORDER;
    x25519_public(crypto, &crypto->drawn, h->initiation + INITIATION_EPHEMERAL);
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
    x25519_set(crypto, &crypto->drawn, h->ephemeral);
    x25519_set(crypto, &crypto->own, h->identity->private_key);
    if (x25519(crypto, &crypto->drawn, ephemeral, ee) == 0 &&
        x25519(crypto, &crypto->own, ephemeral, se) == 0) {
        kdf1(chain, ephemeral);
        blake2s_mix(hash, ephemeral, KEY);
        kdf1(chain, ee);
        kdf1(chain, se);
        mix_psk(chain, hash, h->preshared_key, key);
        result = HANDSHAKE_RESPONSE_TAG;
        if (handshake_unseal(crypto, key, zeros, hash, KEY, message + RESPONSE_EMPTY, 0, nothing) == 0) {
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

    x25519_set(crypto, &crypto->own, h->identity->private_key);
    if (x25519(crypto, &crypto->own, ephemeral, secret))
        return HANDSHAKE_LOW_ORDER;
    begin(h->chain);
    memcpy(h->hash, h->identity->greeting, KEY);
    kdf1(h->chain, ephemeral);
    blake2s_mix(h->hash, ephemeral, KEY);
    kdf2(h->chain, secret, h->key);
    OPENSSL_cleanse(secret, sizeof secret);
    if (handshake_unseal(crypto, h->key, zeros, h->hash, KEY, message + INITIATION_STATIC, KEY, h->remote_public))
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
    if (handshake_unseal(crypto, h->key, zeros, h->hash, KEY, sealed, TIMESTAMP_BYTES, h->timestamp))
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
    if (x25519(crypto, &crypto->drawn, h->initiation + INITIATION_EPHEMERAL, ee) == 0 &&
        x25519(crypto, &crypto->drawn, h->remote_public, se) == 0) {
        x25519_public(crypto, &crypto->drawn, message + RESPONSE_EPHEMERAL);
        kdf1(h->chain, message + RESPONSE_EPHEMERAL);
        blake2s_mix(h->hash, message + RESPONSE_EPHEMERAL, KEY);
        kdf1(h->chain, ee);
        kdf1(h->chain, se);
        mix_psk(h->chain, h->hash, h->preshared_key, h->key);
        handshake_seal(crypto, h->key, zeros, h->hash, KEY, NULL, 0, message + RESPONSE_EMPTY);
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
    x25519_clear(&crypto->drawn);
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
