/* aead: ChaCha20-Poly1305 of RFC 8439 as the transport uses it: nonce = 4 zero bytes then
 * the 64-bit counter, no associated data, in place. Several providers behind one interface. */
#ifndef ENGINE_AEAD_H
#define ENGINE_AEAD_H

#include <stdint.h>

/* Every provider: its number, what makes one (aead_provider.h), the word of the setting `aead`, its library, and
 * Debian's package for that, "" where every build has it. The settings, the benchmarks and the tests take the
 * providers from here; `orders` in aead.c says which of them "auto" prefers on which CPU. */
#define AEAD_PROVIDERS(X) \
    X(AEAD_EVP, aead_evp_new, "evp", "OpenSSL's libcrypto", "") \
    X(AEAD_IPSEC_MB, aead_ipsec_mb_new, "ipsec-mb", "libipsec-mb", "libipsec-mb-dev") \
    X(AEAD_BORINGSSL, aead_boringssl_new, "boringssl", "BoringSSL's libcrypto", "android-libboringssl")

#define AEAD_NUMBER(number, ...) number,
enum { AEAD_PROVIDERS(AEAD_NUMBER) AEAD_PROVIDERS_COUNT };

/* cdef begin */
#define AEAD_TAG_BYTES 16
#define AEAD_KEY_BYTES 32

struct aead_provider {
    const char *setting;
    const char *library;
    const char *package;
};
/* NULL for a number that is no provider's. */
const struct aead_provider *aead_provider(uint32_t number);

struct aead;  /* one a worker: not for two threads */

/* The number of the fastest provider for this CPU, which this build or host may lack. */
int aead_best(void);
/* The provider if this build, host and CPU have it, else NULL. provider -1: the fastest there is. */
struct aead *aead_new(int provider);
void aead_free(struct aead *aead);
int aead_which(const struct aead *aead);
const char *aead_name(const struct aead *aead);

/* One message. Seal: data[0..length) becomes ciphertext, tag follows at data[length..+16).
 * Open: length counts the tag; returns 0, or -1 for a wrong tag (compared in constant time;
 * data then holds nothing of use and is not delivered). Whoever has a message done elsewhere may move it, and sets
 * AEAD_LOST where it was not done. */
#define AEAD_LOST 1
struct aead_job {
    uint8_t *data;
    uint32_t length;      /* seal: plaintext; open: ciphertext and tag */
    int32_t refused;      /* out, open: 0 or -1; AEAD_LOST */
    uint64_t counter;
    const uint8_t *key;   /* 32 bytes */
};
void aead_seal(struct aead *aead, struct aead_job *jobs, uint32_t count);
void aead_open(struct aead *aead, struct aead_job *jobs, uint32_t count);
/* Overwrites what the latest messages' keys left in the provider and on this thread's stack. For idle
 * moments: about 128 KiB are written. */
void aead_forget(struct aead *aead);
/* cdef end */

#endif
