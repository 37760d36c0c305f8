/* libcrypto: every function of OpenSSL 3's libcrypto that our C calls, under its own name. Linked in place of
 * -lcrypto: the library is opened when the module is loaded, so that one build runs wherever there is an OpenSSL 3,
 * and a host without one gets a sentence instead of a linker's error. The names are hidden: Python's own modules
 * and a linked libcrypto keep theirs. */
#include <dlfcn.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <unistd.h>

#ifndef LIBCRYPTO
#define LIBCRYPTO "libcrypto.so.3" /* the name stands for the interface of all 3.x */
#endif

#define FUNCTIONS(X) \
    X(int, CRYPTO_memcmp, (const void *a, const void *b, size_t bytes), (a, b, bytes)) \
    X(void, ERR_clear_error, (void), ()) \
    X(EVP_CIPHER *, EVP_CIPHER_fetch, (OSSL_LIB_CTX * library, const char *name, const char *properties), \
      (library, name, properties)) \
    X(void, EVP_CIPHER_free, (EVP_CIPHER * cipher), (cipher)) \
    X(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_new, (void), ()) \
    X(void, EVP_CIPHER_CTX_free, (EVP_CIPHER_CTX * context), (context)) \
    X(int, EVP_CIPHER_CTX_ctrl, (EVP_CIPHER_CTX * context, int type, int number, void *data), \
      (context, type, number, data)) \
    X(int, EVP_CipherInit_ex2, \
      (EVP_CIPHER_CTX * context, const EVP_CIPHER *cipher, const unsigned char *key, const unsigned char *nonce, \
       int seals, const OSSL_PARAM *parameters), \
      (context, cipher, key, nonce, seals, parameters)) \
    X(int, EVP_CipherUpdate, \
      (EVP_CIPHER_CTX * context, unsigned char *out, int *bytes, const unsigned char *in, int in_bytes), \
      (context, out, bytes, in, in_bytes)) \
    X(int, EVP_CipherFinal_ex, (EVP_CIPHER_CTX * context, unsigned char *out, int *bytes), (context, out, bytes)) \
    X(void, EVP_PKEY_free, (EVP_PKEY * key), (key)) \
    X(EVP_PKEY_CTX *, EVP_PKEY_CTX_new, (EVP_PKEY * key, ENGINE * engine), (key, engine)) \
    X(EVP_PKEY_CTX *, EVP_PKEY_CTX_new_from_name, (OSSL_LIB_CTX * library, const char *name, const char *properties), \
      (library, name, properties)) \
    X(void, EVP_PKEY_CTX_free, (EVP_PKEY_CTX * context), (context)) \
    X(int, EVP_PKEY_fromdata_init, (EVP_PKEY_CTX * context), (context)) \
    X(int, EVP_PKEY_fromdata, (EVP_PKEY_CTX * context, EVP_PKEY * *key, int selection, OSSL_PARAM *parameters), \
      (context, key, selection, parameters)) \
    X(int, EVP_PKEY_set1_encoded_public_key, (EVP_PKEY * key, const unsigned char *bytes, size_t length), \
      (key, bytes, length)) \
    X(int, EVP_PKEY_derive_init, (EVP_PKEY_CTX * context), (context)) \
    X(int, EVP_PKEY_derive_set_peer_ex, (EVP_PKEY_CTX * context, EVP_PKEY * peer, int validates), \
      (context, peer, validates)) \
    X(int, EVP_PKEY_derive, (EVP_PKEY_CTX * context, unsigned char *secret, size_t *bytes), \
      (context, secret, bytes)) \
    X(void, OPENSSL_cleanse, (void *data, size_t bytes), (data, bytes)) \
    X(int, RAND_bytes, (unsigned char *bytes, int count), (bytes, count))

#define DECLARE(type, name, ...) __typeof__(name) *name;
static struct {
    FUNCTIONS(DECLARE)
} libcrypto;

/* In the place of what is not there. */
static void missing(void)
{
    fputs("plait: cannot encrypt: this host has no " LIBCRYPTO ", the library of OpenSSL 3, or one that lacks a "
          "function; install OpenSSL 3 (Debian: apt-get install libssl3).\n",
          stderr);
    _exit(1);
}

/* RTLD_NOW: a first call through the linker would leave registers, and so keys, on the stack. Never closed, since
 * its contexts live as long as the process. */
static __attribute__((constructor)) void libcrypto_open(void)
{
    void *library = dlopen(LIBCRYPTO, RTLD_NOW | RTLD_LOCAL);

    /* POSIX, unlike ISO C, lets the `void *` of dlsym hold a function's address. */
#define FIND(type, name, ...) \
    if (!library || !(*(void **)&libcrypto.name = dlsym(library, #name))) \
        *(void **)&libcrypto.name = (void *)missing;
    FUNCTIONS(FIND)
}

#define DEFINE(type, name, parameters, arguments) \
    __attribute__((visibility("hidden"))) type name parameters \
    { \
        return libcrypto.name arguments; \
    }
FUNCTIONS(DEFINE)
