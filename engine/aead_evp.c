/* aead_evp: the portable provider, OpenSSL's libcrypto. One context a worker, re-keyed where the key
 * changes within a batch: a context kept per session key would cost 1 KiB a key. */
#include "aead_provider.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

struct evp {
    struct aead aead;
    EVP_CIPHER *cipher;  /* fetched once: an implicit fetch at each init takes locks */
    EVP_CIPHER_CTX *context;
};

/* What follows cannot fail on valid arguments. If it does all the same (no memory in
 * libcrypto), the buffer may still hold plaintext, and nobody may send that. */
static void must(int done)
{
    if (done == 1)
        return;
    fputs("aead: libcrypto refused to seal a message, so it would leave as plaintext; "
          "ending this process. Look for a shortage of memory.\n",
          stderr);
    abort();
}

static void evp_seal(struct aead *aead, struct aead_job *jobs, uint32_t count)
{
    EVP_CIPHER_CTX *context = ((struct evp *)aead)->context;

    for (uint32_t i = 0; i < count; i++) {
        struct aead_job *job = &jobs[i];
        const uint8_t *key = i && job->key == jobs[i - 1].key ? NULL : job->key;
        uint8_t nonce[NONCE_BYTES];
        int sealed = 0, rest = 0;

        nonce_write(nonce, job->counter);
        must(EVP_CipherInit_ex2(context, NULL, key, nonce, 1, NULL));
        must(EVP_CipherUpdate(context, job->data, &sealed, job->data, (int)job->length));
        must(EVP_CipherFinal_ex(context, job->data + sealed, &rest));
        must(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_BYTES,
                                 job->data + job->length));
    }
}

/* key: NULL when the context has it already. */
static int open_one(EVP_CIPHER_CTX *context, const struct aead_job *job, const uint8_t *key)
{
    uint8_t nonce[NONCE_BYTES];
    int opened = 0, rest = 0;

    if (job->length < AEAD_TAG_BYTES)
        return -1;
    uint32_t length = job->length - AEAD_TAG_BYTES;
    nonce_write(nonce, job->counter);
    if (EVP_CipherInit_ex2(context, NULL, key, nonce, 0, NULL) != 1 ||
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_BYTES,
                            job->data + length) != 1 ||
        EVP_CipherUpdate(context, job->data, &opened, job->data, (int)length) != 1 ||
        EVP_CipherFinal_ex(context, job->data + opened, &rest) != 1)
        return -1;
    return 0;
}

static void evp_open(struct aead *aead, struct aead_job *jobs, uint32_t count)
{
    EVP_CIPHER_CTX *context = ((struct evp *)aead)->context;

    const uint8_t *held = NULL;

    for (uint32_t i = 0; i < count; i++) {
        jobs[i].refused = open_one(context, &jobs[i], jobs[i].key == held ? NULL : jobs[i].key);
        if (jobs[i].length >= AEAD_TAG_BYTES)
            held = jobs[i].key;
    }
}

static void evp_free(struct aead *aead)
{
    struct evp *evp = (struct evp *)aead;

    EVP_CIPHER_CTX_free(evp->context);  /* wipes the last key */
    EVP_CIPHER_free(evp->cipher);
    free(evp);
}

struct aead *aead_evp_new(void)
{
    struct evp *evp = calloc(1, sizeof(*evp));

    if (!evp)
        return NULL;
    evp->aead = (struct aead){ AEAD_EVP, "OpenSSL EVP", evp_seal, evp_open, evp_free };
    evp->cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    evp->context = EVP_CIPHER_CTX_new();
    /* The cipher is set here, key and nonce at each message. */
    if (!evp->cipher || !evp->context ||
        EVP_CipherInit_ex2(evp->context, evp->cipher, NULL, NULL, 1, NULL) != 1) {
        evp_free(&evp->aead);
        return NULL;
    }
    return &evp->aead;
}
