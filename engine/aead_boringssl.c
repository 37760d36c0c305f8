/* aead_boringssl: BoringSSL's libcrypto where Debian's android-libboringssl is installed. Its assembly does cipher
 * and MAC of a message in one pass, on AVX2 in 30 % less time than libipsec-mb.
 *
 * BoringSSL's symbols have the same names as OpenSSL's, so the library is opened at run time and its symbols stay
 * private. The headers would clash as well, so this file declares the functions that it calls. A test message is
 * sealed with both libraries, to detect an ABI mismatch. */
#include "aead_provider.h"

/* RTLD_DEEPBIND is glibc's alone, and the sanitizers refuse it. */
#if defined(__has_feature)
#define HAS_FEATURE(x) __has_feature(x)
#else
#define HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || HAS_FEATURE(address_sanitizer) || \
    HAS_FEATURE(thread_sanitizer) || HAS_FEATURE(memory_sanitizer) || !defined(__GLIBC__)
#define CANNOT_OPEN 1
#else
#define CANNOT_OPEN 0
#endif

#include <dlfcn.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT_BYTES 1024 /* an EVP_AEAD_CTX has about 600 */

/* BoringSSL's functions that are called here, from its openssl/aead.h. */
struct functions {
    const void *(*chacha20_poly1305)(void);
    int (*init)(void *context, const void *aead, const uint8_t *key, size_t key_bytes, size_t tag_bytes, void *engine);
    void (*cleanup)(void *context);
    int (*seal)(const void *context, uint8_t *out, size_t *out_bytes, size_t room, const uint8_t *nonce,
                size_t nonce_bytes, const uint8_t *in, size_t in_bytes, const uint8_t *data, size_t data_bytes);
    int (*open)(const void *context, uint8_t *out, size_t *out_bytes, size_t room, const uint8_t *nonce,
                size_t nonce_bytes, const uint8_t *in, size_t in_bytes, const uint8_t *data, size_t data_bytes);
};

struct boringssl {
    struct aead aead;
    struct functions call;
    _Alignas(16) uint8_t context[CONTEXT_BYTES];
};

static void *library_open(void)
{
    void *library = NULL;

#if !CANNOT_OPEN
    static const char *const places[] = {
        "/usr/lib/x86_64-linux-gnu/android/libcrypto.so.0",
        "/usr/lib/aarch64-linux-gnu/android/libcrypto.so.0",
    };
    for (size_t i = 0; !library && i < sizeof places / sizeof *places; i++)
        library = dlopen(places[i], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
#endif
    return library;
}

/* Finds the functions: 0, or -1 when the library or a function is missing. The library is never closed, since every
 * struct boringssl calls into it. */
static int look_up(struct functions *call)
{
    void *library = library_open();

    if (!library)
        return -1;
    /* POSIX, unlike ISO C, lets the `void *` of dlsym hold a function's address. */
    *(void **)&call->chacha20_poly1305 = dlsym(library, "EVP_aead_chacha20_poly1305");
    *(void **)&call->init = dlsym(library, "EVP_AEAD_CTX_init");
    *(void **)&call->cleanup = dlsym(library, "EVP_AEAD_CTX_cleanup");
    *(void **)&call->seal = dlsym(library, "EVP_AEAD_CTX_seal");
    *(void **)&call->open = dlsym(library, "EVP_AEAD_CTX_open");
    return call->chacha20_poly1305 && call->init && call->cleanup && call->seal && call->open ? 0 : -1;
}

static int use_key(struct boringssl *boring, const uint8_t *key)
{
    boring->call.cleanup(boring->context);
    return boring->call.init(boring->context, boring->call.chacha20_poly1305(), key, AEAD_KEY_BYTES, AEAD_TAG_BYTES,
                             NULL);
}

/* Ends the process unless the call succeeded: an unsealed message may be plaintext, which must never be sent. */
static void must(int done)
{
    if (done == 1)
        return;
    fputs("aead: BoringSSL refused to seal a message, so it would leave as plaintext; ending this process. "
          "Set aead = \"evp\" in the engine's settings and report the library's version.\n",
          stderr);
    abort();
}

static void boringssl_seal(struct aead *aead, struct aead_job *jobs, uint32_t count)
{
    struct boringssl *boring = (struct boringssl *)aead;

    for (uint32_t i = 0; i < count; i++) {
        struct aead_job *job = &jobs[i];
        uint8_t nonce[NONCE_BYTES];
        size_t sealed = 0;

        if (!i || job->key != jobs[i - 1].key)
            must(use_key(boring, job->key));
        nonce_write(nonce, job->counter);
        must(boring->call.seal(boring->context, job->data, &sealed, job->length + AEAD_TAG_BYTES, nonce, NONCE_BYTES,
                               job->data, job->length, NULL, 0));
    }
}

static void boringssl_open(struct aead *aead, struct aead_job *jobs, uint32_t count)
{
    struct boringssl *boring = (struct boringssl *)aead;
    const uint8_t *held = NULL;

    for (uint32_t i = 0; i < count; i++) {
        struct aead_job *job = &jobs[i];
        uint8_t nonce[NONCE_BYTES];
        size_t opened = 0;

        job->refused = -1;
        if (job->length < AEAD_TAG_BYTES)
            continue;
        if (job->key != held) {
            held = NULL;
            if (use_key(boring, job->key) != 1)
                continue;
            held = job->key;
        }
        nonce_write(nonce, job->counter);
        /* BoringSSL compares the tag in constant time, and clears the message when the tag is wrong. */
        if (boring->call.open(boring->context, job->data, &opened, job->length - AEAD_TAG_BYTES, nonce, NONCE_BYTES,
                              job->data, job->length, NULL, 0) == 1)
            job->refused = 0;
    }
}

static void boringssl_free(struct aead *aead)
{
    struct boringssl *boring = (struct boringssl *)aead;

    boring->call.cleanup(boring->context);
    OPENSSL_cleanse(boring, sizeof *boring);
    free(boring);
}

/* Whether BoringSSL seals a full and a small packet into the same bytes as OpenSSL, and opens them again. */
static int agrees_with_openssl(struct aead *boring)
{
    static const uint32_t lengths[] = { 1420, 33 };
    uint8_t key[AEAD_KEY_BYTES], one[1420 + AEAD_TAG_BYTES] = { 0 }, other[1420 + AEAD_TAG_BYTES] = { 0 };
    struct aead *evp = aead_evp_new();
    int agrees = evp != NULL;

    memset(key, 0x5a, sizeof key);
    for (size_t i = 0; agrees && i < sizeof lengths / sizeof *lengths; i++) {
        struct aead_job job = { .data = one, .length = lengths[i], .counter = 7 + i, .key = key };

        evp->seal(evp, &job, 1);
        job.data = other;
        boring->seal(boring, &job, 1);
        agrees = !memcmp(one, other, lengths[i] + AEAD_TAG_BYTES);
        job.length += AEAD_TAG_BYTES;
        boring->open(boring, &job, 1);
        other[lengths[i]] = one[lengths[i]] = 0;
        agrees = agrees && !job.refused;
        memcpy(one, other, sizeof one);
    }
    if (evp)
        evp->free(evp);
    return agrees;
}

struct aead *aead_boringssl_new(void)
{
    struct functions call;
    struct boringssl *boring;

    if (look_up(&call) || !(boring = calloc(1, sizeof *boring)))
        return NULL;
    boring->aead = (struct aead){ AEAD_BORINGSSL, "BoringSSL", boringssl_seal, boringssl_open, boringssl_free };
    boring->call = call;
    if (!agrees_with_openssl(&boring->aead)) {
        boringssl_free(&boring->aead);
        return NULL;
    }
    return &boring->aead;
}
