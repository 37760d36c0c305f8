/* engine_secrets: what a handshake and the AEADs leave behind, looked for in all memory of this process.
 *
 * Each step runs in a thread with a stack of its own, where its dead frames stay as they were. Needles are the keys
 * that go in, every result of X25519 and of HKDF (both wrapped by the linker) and what HKDF has in between. They are
 * kept masked, so that the list itself is no copy. Afterwards everything that may hold a secret is wiped as its
 * owner wipes it, and no half of a needle may stand anywhere: not in a dead frame, nor in what libcrypto or
 * libipsec-mb gave back or keep.
 *
 * usage: engine_secrets      linked with --wrap=EVP_PKEY_derive --wrap=blake2s_hkdf
 */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/support/check.h"

#include "engine/aead.h"
#include "engine/blake2s.h"
#include "engine/cookie.h"
#include "engine/handshake.h"

#define KEY 32
#define HALF 16
#define STACK_BYTES (1u << 20)
#define NEEDLES 512
#define STEPS 16
#define MASK 0xa5

static struct needle {
    const char *what;
    uint8_t masked[KEY];
} needles[NEEDLES];
static uint32_t count;
static const char *scenario;
static uint64_t random_state = 0x1234567;

static void note(const char *what, const uint8_t *secret)
{
    check(count < NEEDLES);
    needles[count].what = what;
    for (uint32_t i = 0; i < KEY; i++)
        needles[count].masked[i] = secret[i] ^ MASK;
    count++;
}

/* What everybody may see: public keys are results of X25519, too. */
static void unnote(const uint8_t *public_key)
{
    for (uint32_t n = 0; n < count; n++) {
        uint32_t same = 0;
        while (same < KEY && (public_key[same] ^ MASK) == needles[n].masked[same])
            same++;
        if (same == KEY)
            needles[n--] = needles[--count];
    }
}

int __real_EVP_PKEY_derive(EVP_PKEY_CTX *context, unsigned char *key, size_t *length);
int __wrap_EVP_PKEY_derive(EVP_PKEY_CTX *context, unsigned char *key, size_t *length);
int __wrap_EVP_PKEY_derive(EVP_PKEY_CTX *context, unsigned char *key, size_t *length)
{
    int done = __real_EVP_PKEY_derive(context, key, length);
    if (done == 1)
        note("an X25519 result", key);
    return done;
}

/* RFC 2104, as it stands there. */
static void hmac(uint8_t out[KEY], const uint8_t key[KEY], const uint8_t *data, uint32_t length)
{
    uint8_t room[BLAKE2S_BLOCK + KEY], inner[BLAKE2S_BLOCK + 64];

    check(length <= 64);
    for (uint32_t i = 0; i < BLAKE2S_BLOCK; i++) {
        inner[i] = (i < KEY ? key[i] : 0) ^ 0x36;
        room[i] = (i < KEY ? key[i] : 0) ^ 0x5c;
    }
    if (length)
        memcpy(inner + BLAKE2S_BLOCK, data, length);
    blake2s(room + BLAKE2S_BLOCK, KEY, NULL, 0, inner, BLAKE2S_BLOCK + length);
    blake2s(out, KEY, NULL, 0, room, sizeof room);
    OPENSSL_cleanse(room, sizeof room);
    OPENSSL_cleanse(inner, sizeof inner);
}

/* A key as HMAC has it in front of what it hashes. */
static void note_pads(const uint8_t key[KEY])
{
    uint8_t pad[2][KEY];

    for (uint32_t i = 0; i < KEY; i++) {
        pad[0][i] = key[i] ^ 0x36;
        pad[1][i] = key[i] ^ 0x5c;
    }
    note("HMAC's inner key", pad[0]);
    note("HMAC's outer key", pad[1]);
    OPENSSL_cleanse(pad, sizeof pad);
}

void __real_blake2s_hkdf(uint8_t *const outputs[], uint32_t number, const uint8_t key[KEY], const uint8_t *data,
                         uint32_t length);
void __wrap_blake2s_hkdf(uint8_t *const outputs[], uint32_t number, const uint8_t key[KEY], const uint8_t *data,
                         uint32_t length);
void __wrap_blake2s_hkdf(uint8_t *const outputs[], uint32_t number, const uint8_t key[KEY], const uint8_t *data,
                         uint32_t length)
{
    uint8_t secret[KEY];

    hmac(secret, key, data, length);
    note("HKDF's secret", secret);
    note_pads(secret);
    OPENSSL_cleanse(secret, sizeof secret);
    if (key != outputs[0])
        note_pads(key);
    __real_blake2s_hkdf(outputs, number, key, data, length);
    for (uint32_t i = 0; i < number; i++)
        note("an HKDF output", outputs[i]);
}

static void fresh(const char *what, uint8_t secret[KEY])
{
    for (uint32_t i = 0; i < KEY; i++)
        secret[i] = (uint8_t)(draw(&random_state) >> 24);
    note(what, secret);
}

/* ---- the scenarios ---- */

static struct handshake_identity identities[2];
static struct handshake ends[2];

static struct handshake_crypto *crypto;

static void handshake_begins(void)
{
    static uint8_t key[KEY];

    check((crypto = handshake_crypto_new()));
    for (int i = 0; i < 2; i++) {
        fresh("a private key", key);
        handshake_identity(crypto, key, &identities[i]);
        note("a clamped private key", identities[i].private_key);
        OPENSSL_cleanse(key, sizeof key);
        ends[i].identity = &identities[i];
        ends[i].local_index = (uint32_t)i + 1;
        ends[i].has_ephemeral = 1;
        fresh("an ephemeral key", ends[i].ephemeral);
    }
    fresh("the preshared key", ends[0].preshared_key);
    memcpy(ends[1].preshared_key, ends[0].preshared_key, KEY);
    memcpy(ends[0].remote_public, identities[1].public_key, KEY);
}
static void create_initiation(void) { handshake_create_initiation(crypto, &ends[0], 1); }
static void open_initiation(void)
{
    memcpy(ends[1].initiation, ends[0].initiation, sizeof ends[1].initiation);
    handshake_open_initiation(crypto, &ends[1], 1);
}
static void open_timestamp(void) { handshake_open_timestamp(crypto, &ends[1], 1); }
static void create_response(void)
{
    handshake_create_response(crypto, &ends[1], 1);
    /* Used once, and used up: the owner's wipe comes later. */
    check(!ends[1].has_ephemeral);
    for (uint32_t i = 0; i < KEY; i++)
        check(ends[1].ephemeral[i] == 0 && ends[1].chain[i] == 0);
}
/* A response that is not for us, or not authentic: nothing of the try stays. */
static void refuse_response(void)
{
    memcpy(ends[0].response, ends[1].response, sizeof ends[0].response);
    ends[0].response[RESPONSE_BYTES - 33] ^= 1;
    handshake_consume_response(crypto, &ends[0], 1);
    check(ends[0].result == HANDSHAKE_RESPONSE_TAG);
    ends[0].result = HANDSHAKE_FINE;
}
static void consume_response(void)
{
    memcpy(ends[0].response, ends[1].response, sizeof ends[0].response);
    handshake_consume_response(crypto, &ends[0], 1);
}
static void handshake_ends(void)
{
    struct handshake *one = &ends[0], *two = &ends[1];

    check(one->result == HANDSHAKE_FINE && two->result == HANDSHAKE_FINE);
    check(memcmp(one->send_key, two->receive_key, KEY) == 0 && memcmp(one->receive_key, two->send_key, KEY) == 0);
    unnote(identities[0].public_key);
    unnote(identities[1].public_key);
    unnote(one->initiation + 8);
    unnote(two->response + 12);
    handshake_wipe(ends, 2);
    OPENSSL_cleanse(identities, sizeof identities);
    handshake_crypto_free(crypto);
}

/* The secret that cookies are made with. libcrypto leaves of a cookie itself what it deciphered: it lives for two
 * minutes, and shows no key. */
static uint8_t cookie_secret[KEY], reply[COOKIE_BYTES];
static uint8_t asking[INITIATION_BYTES];
static const uint8_t address[4] = { 10, 0, 0, 1 };

static void cookie_begins(void)
{
    static const uint8_t no_key[KEY] = { 1 };

    check((crypto = handshake_crypto_new()));
    handshake_identity(crypto, no_key, &identities[0]);
    count = 0;
    fresh("the secret of cookies", cookie_secret);
}
static void cookie_reply(void)
{
    handshake_cookie_reply(crypto, &identities[0], cookie_secret, asking, INITIATION_BYTES - 16, address, 4, 7, NULL,
                           reply);
}
static void cookie_checked(void)
{
    handshake_mac2_differs(cookie_secret, asking, INITIATION_BYTES, address, 4, 7);
}
static void cookie_ends(void)
{
    OPENSSL_cleanse(cookie_secret, sizeof cookie_secret);
    handshake_crypto_free(crypto);
}

static int provider;
static struct aead *aead;

static void aead_used(void)
{
    static uint8_t data[8][2000], key[KEY];
    aead = aead_new(provider);
    struct aead_job jobs[8];

    check(aead);
    fresh("the sending key", key);
    for (uint32_t i = 0; i < 8; i++)
        jobs[i] = (struct aead_job){ .data = data[i], .length = 100 + 200 * i, .counter = i, .key = key };
    aead_seal(aead, jobs, 8);
    for (uint32_t i = 0; i < 8; i++)
        jobs[i].length += AEAD_TAG_BYTES;
    aead_open(aead, jobs, 8);
    for (uint32_t i = 0; i < 8; i++)
        check(jobs[i].refused == 0);
    OPENSSL_cleanse(key, sizeof key);
    memset(jobs, 0, sizeof jobs);
    aead_forget(aead);
    /* It goes on being used, with other keys: it is not freed yet. */
}
/* What it had on the heap is asked here alone: for its stack there is aead_forget. */
static void aead_ends(void)
{
    static uint8_t data[64], key[KEY];
    struct aead_job job = { .data = data, .length = 32, .key = key };

    fresh("the last key", key);
    aead_seal(aead, &job, 1);
    aead_free(aead);
    OPENSSL_cleanse(key, sizeof key);
}

/* ---- the look ---- */

static uint8_t *stacks[STEPS];
static uint32_t stacks_used;

/* Far below the frames of the thread's own beginning and end, which would overwrite what is looked for. */
static void *work_deep_down(void *work)
{
    volatile uint8_t room[STACK_BYTES / 4];

    room[0] = 0;
    (*(void (**)(void))work)();
    room[STACK_BYTES / 4 - 1] = room[0];
    return NULL;
}

static void run_apart(void (*work)(void))
{
    pthread_attr_t attributes;
    pthread_t thread;
    void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    check(stack != MAP_FAILED && stacks_used < STEPS);
    stacks[stacks_used++] = stack;
    check(pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, stack, STACK_BYTES) == 0);
    check(pthread_create(&thread, &attributes, work_deep_down, &work) == 0);
    pthread_join(thread, NULL);
}

static const char *place_of(const uint8_t *at, const char *path)
{
    static char words[64];

    for (uint32_t i = 0; i < stacks_used; i++)
        if (at >= stacks[i] && at < stacks[i] + STACK_BYTES) {
            snprintf(words, sizeof words, "the stack of step %u", i + 1);
            return words;
        }
    return *path ? path : "memory without a name";
}

/* Which halves begin with this byte: most bytes begin none. */
static uint16_t beginning[256][2 * NEEDLES];
static uint32_t beginnings[256];

static void sort_needles(void)
{
    memset(beginnings, 0, sizeof beginnings);
    for (uint32_t half = 0; half < 2 * count; half++) {
        uint8_t byte = needles[half / 2].masked[half % 2 * HALF] ^ MASK;
        beginning[byte][beginnings[byte]++] = (uint16_t)half;
    }
}

static void look_between(const uint8_t *first, const uint8_t *last, const char *where)
{
    for (const uint8_t *at = first; at + HALF <= last; at++)
        for (uint32_t i = 0; i < beginnings[*at]; i++) {
            const struct needle *needle = &needles[beginning[*at][i] / 2];
            const uint8_t *masked = needle->masked + beginning[*at][i] % 2 * HALF;
            uint32_t same = 0;
            while (same < HALF && (at[same] ^ MASK) == masked[same])
                same++;
            if (same == HALF) {
                fprintf(stderr, "%s: %s is still there, in %s\n", scenario, needle->what, place_of(at, where));
                exit(1);
            }
        }
}

static void look_everywhere(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];

    check(maps);
    sort_needles();
    while (fgets(line, sizeof line, maps)) {
        unsigned long first, last;
        char allowed[8], path[256] = "";

        check(sscanf(line, "%lx-%lx %7s %*s %*s %*s %255s", &first, &last, allowed, path) >= 3);
        if (memcmp(allowed, "rw", 2) == 0)
            look_between((const uint8_t *)first, (const uint8_t *)last, path);
    }
    fclose(maps);
}

/* In a thread as well: of the steps before it. */
static void stacks_away(void)
{
    OPENSSL_cleanse(stacks[0], STACK_BYTES);
}

typedef void step(void);

/* Up to a NULL. */
static void scenario_run(const char *name, step *const *steps)
{
    scenario = name;
    count = 0;
    while (*steps)
        run_apart(*steps++);
    look_everywhere();
    printf("%s: %u secrets, none left\n", name, count);
    while (stacks_used)
        munmap(stacks[--stacks_used], STACK_BYTES);
}

int main(void)
{
    static step *const handshake[] = { handshake_begins, create_initiation, open_initiation, open_timestamp,
                                       create_response, refuse_response, consume_response, handshake_ends, NULL };
    static step *const cookie[] = { cookie_begins, cookie_reply, cookie_checked, cookie_ends, NULL };
    static step *const forgotten[] = { aead_used, NULL };
    static step *const freed[] = { aead_ends, stacks_away, NULL };

    scenario_run("handshake", handshake);
    scenario_run("cookie", cookie);
    for (provider = 0; provider < AEAD_PROVIDERS_COUNT; provider++) {
        aead = aead_new(provider);
        if (!aead)
            continue; /* not in this build */
        const char *name = aead_name(aead);
        aead_free(aead);
        scenario_run(name, forgotten);
        scenario_run(name, freed);
    }
    return 0;
}
