/* aead_ipsec_mb: the provider for CPUs with AVX-512 or AVX2, through the job interface of Intel's
 * libipsec-mb. The library computes tags; its caller compares them. It is opened at run time, so that a build runs
 * on hosts without it, too. */
#include "aead_provider.h"

#ifdef HAVE_IPSEC_MB

#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK 64  /* jobs in the library at once; it allows 256 */

/* The functions of the library that are called by name; all others are pointers in the manager. */
struct functions {
    __typeof__(alloc_mb_mgr) *alloc_mb_mgr;
    __typeof__(free_mb_mgr) *free_mb_mgr;
    __typeof__(init_mb_mgr_auto) *init_mb_mgr_auto;
    __typeof__(imb_get_errno) *imb_get_errno;
};

struct ipsec_mb {
    struct aead aead;
    struct functions call;
    IMB_MGR *manager;
    uint8_t nonces[CHUNK][NONCE_BYTES];
    uint8_t tags[CHUNK][AEAD_TAG_BYTES];
};

static const uint8_t no_data[1];  /* the library needs a pointer even without associated data */

/* Fills the library's next job. The library writes the tag that it computes to `tag`. */
static IMB_JOB *prepare(struct ipsec_mb *mb, const struct aead_job *job, uint32_t length,
                        uint32_t slot, uint8_t *tag)
{
    IMB_JOB *next = IMB_GET_NEXT_JOB(mb->manager);

    nonce_write(mb->nonces[slot], job->counter);
    next->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    next->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    next->enc_keys = job->key;
    next->dec_keys = job->key;
    next->key_len_in_bytes = AEAD_KEY_BYTES;
    next->iv = mb->nonces[slot];
    next->iv_len_in_bytes = NONCE_BYTES;
    next->src = job->data;
    next->dst = job->data;
    next->cipher_start_src_offset_in_bytes = 0;
    next->hash_start_src_offset_in_bytes = 0;
    next->msg_len_to_cipher_in_bytes = length;
    next->msg_len_to_hash_in_bytes = length;
    next->u.CHACHA20_POLY1305.aad = no_data;
    next->u.CHACHA20_POLY1305.aad_len_in_bytes = 0;
    next->auth_tag_output = tag;
    next->auth_tag_output_len_in_bytes = AEAD_TAG_BYTES;
    return next;
}

/* Ends the process unless the job succeeded: an unsealed message may be plaintext, which must never be sent. */
static void must_be_sealed(const IMB_JOB *done)
{
    if (done->status == IMB_STATUS_COMPLETED)
        return;
    fputs("aead: libipsec-mb refused to seal a message, so it would leave as plaintext; ending "
          "this process. Set aead = \"evp\" in the engine's settings and report the library's version.\n",
          stderr);
    abort();
}

static void seal_chunk(struct ipsec_mb *mb, struct aead_job *jobs, uint32_t count)
{
    IMB_JOB *done;

    for (uint32_t i = 0; i < count; i++) {
        IMB_JOB *next = prepare(mb, &jobs[i], jobs[i].length, i, jobs[i].data + jobs[i].length);
        next->cipher_direction = IMB_DIR_ENCRYPT;
        next->chain_order = IMB_ORDER_CIPHER_HASH;
        for (done = IMB_SUBMIT_JOB(mb->manager); done; done = IMB_GET_COMPLETED_JOB(mb->manager))
            must_be_sealed(done);
    }
    while ((done = IMB_FLUSH_JOB(mb->manager)))
        must_be_sealed(done);
}

static void finish_open(const IMB_JOB *done)
{
    struct aead_job *job = done->user_data;
    const uint8_t *computed = done->user_data2;

    if (done->status == IMB_STATUS_COMPLETED &&
        CRYPTO_memcmp(computed, job->data + job->length - AEAD_TAG_BYTES, AEAD_TAG_BYTES) == 0)
        job->refused = 0;
}

static void open_chunk(struct ipsec_mb *mb, struct aead_job *jobs, uint32_t count)
{
    IMB_JOB *done;

    for (uint32_t i = 0; i < count; i++) {
        jobs[i].refused = -1;  /* until its tag has proved right (finish_open) */
        if (jobs[i].length < AEAD_TAG_BYTES)
            continue;
        IMB_JOB *next = prepare(mb, &jobs[i], jobs[i].length - AEAD_TAG_BYTES, i, mb->tags[i]);
        next->cipher_direction = IMB_DIR_DECRYPT;
        next->chain_order = IMB_ORDER_HASH_CIPHER;
        next->user_data = &jobs[i];
        next->user_data2 = mb->tags[i];
        for (done = IMB_SUBMIT_JOB(mb->manager); done; done = IMB_GET_COMPLETED_JOB(mb->manager))
            finish_open(done);
    }
    while ((done = IMB_FLUSH_JOB(mb->manager)))
        finish_open(done);
}

/* In chunks, since struct ipsec_mb has room for the nonces and tags of CHUNK messages. */
static void ipsec_mb_seal(struct aead *aead, struct aead_job *jobs, uint32_t count)
{
    for (uint32_t at = 0; at < count; at += CHUNK)
        seal_chunk((struct ipsec_mb *)aead, jobs + at, count - at < CHUNK ? count - at : CHUNK);
}

static void ipsec_mb_open(struct aead *aead, struct aead_job *jobs, uint32_t count)
{
    for (uint32_t at = 0; at < count; at += CHUNK)
        open_chunk((struct ipsec_mb *)aead, jobs + at, count - at < CHUNK ? count - at : CHUNK);
}

static void ipsec_mb_free(struct aead *aead)
{
    struct ipsec_mb *mb = (struct ipsec_mb *)aead;

    if (mb->manager)
        mb->call.free_mb_mgr(mb->manager);
    OPENSSL_cleanse(mb, sizeof(*mb));
    free(mb);
}

/* Finds the functions: 0, or -1 when the library or a function is missing. Only the library of the headers' major
 * version fits: the manager is a struct of theirs. It is never closed, since every manager calls into it. */
static int look_up(struct functions *call)
{
    char name[] = "libIPSec_MB.so.0";
    void *library;

    name[sizeof name - 2] = IMB_VERSION_STR[0];
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return -1;
    /* POSIX, unlike ISO C, lets the `void *` of dlsym hold a function's address. */
    *(void **)&call->alloc_mb_mgr = dlsym(library, "alloc_mb_mgr");
    *(void **)&call->free_mb_mgr = dlsym(library, "free_mb_mgr");
    *(void **)&call->init_mb_mgr_auto = dlsym(library, "init_mb_mgr_auto");
    *(void **)&call->imb_get_errno = dlsym(library, "imb_get_errno");
    return call->alloc_mb_mgr && call->free_mb_mgr && call->init_mb_mgr_auto && call->imb_get_errno ? 0 : -1;
}

struct aead *aead_ipsec_mb_new(void)
{
    struct functions call;
    struct ipsec_mb *mb;
    IMB_ARCH arch = IMB_ARCH_NONE;

    if (look_up(&call) || !(mb = calloc(1, sizeof(*mb))))
        return NULL;
    mb->call = call;
    mb->aead = (struct aead){ AEAD_IPSEC_MB, "libipsec-mb", ipsec_mb_seal, ipsec_mb_open, ipsec_mb_free };
    mb->manager = call.alloc_mb_mgr(0);
    if (mb->manager)
        call.init_mb_mgr_auto(mb->manager, &arch);
    if (!mb->manager || call.imb_get_errno(mb->manager) != 0 || arch < IMB_ARCH_SSE) {
        ipsec_mb_free(&mb->aead);
        return NULL;
    }
    return &mb->aead;
}

#else

#include <stddef.h>

struct aead *aead_ipsec_mb_new(void)
{
    return NULL;
}

#endif
