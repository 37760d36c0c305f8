/* load_hostile: a generator against a gateway that answers rightly half of the time and else with
 * whatever comes to its mind: altered, cut, doubled, late, of another peer. Run under sanitizers;
 * what is checked besides is that the generator opened nothing wrong and that its sums hold.
 *
 * The gateway is another thread, which shares nothing with the generator but datagrams. */
#include <arpa/inet.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A failed check ends the other thread as well, without waiting for what it is in. */
#define exit(code) _exit(code)
#include "tests/support/check.h"
#include "engine/aead.h"
#include "engine/bytes.h"
#include "engine/cookie.h"
#include "engine/handshake.h"
#include "engine/packet.h"
#include "plait/load/generator.h"
#include "workers/clock.h"

#define PEERS 24
#define SESSIONS 4096
#define PORTS 3
#define PHASES 4

static struct {
    uint8_t send_key[32], receive_key[32];
    uint32_t remote;
    uint64_t counter;
} sessions[SESSIONS];
static uint32_t session_count = 1;
static uint8_t seed[32] = "hostile";
static uint8_t publics[PEERS * 32];
static int gateway_fd, stop;
static uint64_t random_state = 88172645463325252ull;

static void answer_initiation(struct handshake_crypto *crypto, const struct handshake_identity *identity,
                              const uint8_t *message, const struct sockaddr_in *from)
{
    struct handshake h;
    uint8_t reply[COOKIE_BYTES], secret[32] = { 1 };

    memset(&h, 0, sizeof h);
    h.identity = identity;
    memcpy(h.initiation, message, INITIATION_BYTES);
    if (draw_below(&random_state, 8) == 0) {
        handshake_cookie_reply(crypto, identity, secret, message, INITIATION_BYTES - 32,
                               (const uint8_t *)&from->sin_addr, 4, from->sin_port, NULL, reply);
        if (draw_below(&random_state, 2))
            reply[draw_below(&random_state, COOKIE_BYTES)] ^= 1;
        sendto(gateway_fd, reply, sizeof reply, 0, (const struct sockaddr *)from, sizeof *from);
        return;
    }
    handshake_open_initiation(crypto, &h, 1);
    handshake_open_timestamp(crypto, &h, 1);
    if (h.result != HANDSHAKE_FINE || session_count == SESSIONS)
        return;
    h.local_index = session_count;
    handshake_create_response(crypto, &h, 1);
    check(h.result == HANDSHAKE_FINE);
    memcpy(sessions[session_count].send_key, h.send_key, 32);
    memcpy(sessions[session_count].receive_key, h.receive_key, 32);
    sessions[session_count++].remote = h.remote_index;
    if (draw_below(&random_state, 6) == 0)
        h.response[draw_below(&random_state, RESPONSE_BYTES)] ^= 1;
    for (uint32_t times = 1 + (draw_below(&random_state, 6) == 0); times; times--)
        sendto(gateway_fd, h.response, RESPONSE_BYTES, 0, (const struct sockaddr *)from, sizeof *from);
}

/* The echo's answer, then perhaps harm to the inner packet before sealing, or to the message after. */
static void answer_data(struct aead *aead, uint8_t *message, uint32_t length, const struct sockaddr_in *from)
{
    uint32_t index = data_receiver_index(message), inner = length - DATA_OVERHEAD;
    uint8_t swap[16], *packet = message + DATA_HEADER_BYTES;
    struct aead_job job = {
        .data = packet,
        .length = length - DATA_HEADER_BYTES,
        .counter = data_counter(message),
    };

    if (!index || index >= session_count)
        return;
    job.key = sessions[index].receive_key;
    aead_open(aead, &job, 1);
    if (job.refused)
        return;
    if (inner >= 20) {
        uint32_t ip = packet[0] >> 4 == 6 ? 40 : 20, width = ip == 40 ? 16 : 4;

        packet[ip] = ip == 40 ? 129 : 0;
        memcpy(swap, packet + ip - 2 * width, width);
        memcpy(packet + ip - 2 * width, packet + ip - width, width);
        memcpy(packet + ip - width, swap, width);
        if (draw_below(&random_state, 4) == 0)
            packet[draw_below(&random_state, inner)] ^= (uint8_t)(1u << draw_below(&random_state, 8));
        if (draw_below(&random_state, 8) == 0)
            inner = draw_below(&random_state, inner + 1);
    }
    data_header_write(message, sessions[index].remote, sessions[index].counter++);
    job.length = inner;
    job.counter = data_counter(message);
    job.key = sessions[index].send_key;
    aead_seal(aead, &job, 1);
    length = inner + DATA_OVERHEAD;
    switch (draw_below(&random_state, 10)) {
    case 0: message[draw_below(&random_state, length)] ^= 1; break;
    case 1: length = draw_below(&random_state, length); break;
    case 2: sendto(gateway_fd, message, length, 0, (const struct sockaddr *)from, sizeof *from); break;
    case 3: store_le32(message + 4, (uint32_t)draw(&random_state)); break;
    case 4: memset(message + length, 0, 4096 - length), length = 3000; break;
    }
    sendto(gateway_fd, message, length, 0, (const struct sockaddr *)from, sizeof *from);
}

static void *gateway(void *nothing)
{
    struct handshake_crypto *crypto = handshake_crypto_new();
    struct aead *aead = aead_new(-1);
    struct handshake_identity identity;
    uint8_t private_key[32], message[65536];

    load_gateway_key(seed, private_key);
    handshake_identity(crypto, private_key, &identity);
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        struct sockaddr_in from;
        socklen_t from_length = sizeof from;
        int why;
        ssize_t got = recvfrom(gateway_fd, message, 4096, 0, (struct sockaddr *)&from, &from_length);

        if (got <= 0)
            continue;
        switch (message_type(message, (uint32_t)got, &why)) {
        case MESSAGE_INITIATION: answer_initiation(crypto, &identity, message, &from); break;
        case MESSAGE_DATA: answer_data(aead, message, (uint32_t)got, &from); break;
        }
        if (draw_below(&random_state, 20) == 0) {
            uint32_t length = draw_below(&random_state, 200);

            for (uint32_t i = 0; i < length; i++)
                message[i] = (uint8_t)draw(&random_state);
            if (length > 4)
                store_le32(message, 1 + draw_below(&random_state, 5));
            sendto(gateway_fd, message, length, 0, (struct sockaddr *)&from, sizeof from);
        }
    }
    handshake_crypto_free(crypto);
    aead_free(aead);
    return nothing;
}

static int everything_happened(const uint64_t *c)
{
    return c[LOAD_HANDSHAKES] && c[LOAD_ANSWERED] && c[LOAD_BAD_TAG] && c[LOAD_BAD_MESSAGE] && c[LOAD_BAD_INDEX] &&
           c[LOAD_ROAMED] && c[LOAD_ONEWAY] && c[LOAD_NUMBERED] && c[LOAD_GARBAGE_TIMESTAMP] && c[LOAD_KEEPALIVES] && c[LOAD_GARBAGE_REPLAYED_DATA];
}

static int bound(struct sockaddr_in *name)
{
    socklen_t length = sizeof *name;
    struct timeval wait = { 0, 20000 };
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    *name = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    check(fd >= 0 && bind(fd, (struct sockaddr *)name, sizeof *name) == 0);
    check(getsockname(fd, (struct sockaddr *)name, &length) == 0);
    check(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) == 0);
    return fd;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    uint64_t length = (argc > 1 ? (uint64_t)atoi(argv[1]) : 300) * 1000000ull;
    struct load_area *area = mmap(NULL, sizeof *area, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct load_setup setup = { .family = AF_INET, .peers = PEERS, .inner_family = AF_INET, .inner_base = { 10, 64 }, .ports = PORTS, .sources = 5, .source = { 127, 3, 0, 1 }, .retry = 150000000, .retry_jitter = 20000000 };
    struct sockaddr_in name, own;
    int32_t fds[PORTS + 1];
    uint8_t private_key[32];
    uint32_t least = LOAD_INNER_LEAST;
    pthread_t thread;

    if (argc > 2) {
        setup.inner_family = AF_INET6;
        setup.inner_base[0] = 0xfd;
        setup.inner_base[1] = 0;
        least = LOAD_INNER6_LEAST;
    }
    check(area != MAP_FAILED);
    gateway_fd = bound(&name);
    for (int i = 0; i <= PORTS; i++) {
        fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
        own = (struct sockaddr_in){ .sin_family = AF_INET };
        check(bind(fds[i], (struct sockaddr *)&own, sizeof own) == 0);
    }
    memcpy(setup.seed, seed, 32);
    load_gateway_key(seed, private_key);
    check(load_gateway_public(private_key, setup.gateway_key) == 0);
    check(load_keys(seed, 0, PEERS, NULL, publics, NULL) == 0);
    memcpy(setup.target, &name.sin_addr, 4);
    setup.port = ntohs(name.sin_port);
    check(pthread_create(&thread, NULL, gateway, NULL) == 0);

    struct load *load = load_new(&setup, fds, area);
    check(load);
    for (uint32_t first = 0; first < PEERS; first += 7)
        check(load_prepare_peers(load, first, first + 7 < PEERS ? 7 : PEERS - first) == 0);
    uint8_t *secrets = malloc(PEERS * 64);
    check(secrets);
    load_secrets_read(load, secrets);
    load_secrets_write(load, secrets);
    free(secrets);
    check(load_stock_room(load, 50) == 50);
    check(load_prepare_ephemerals(load, 0, 25) == 0 && load_prepare_ephemerals(load, 25, 25) == 0);
    load_stock_filled(load, 50);
    check(load_garbage_open(load) == 0);
    for (uint32_t number = 0; number < PHASES; number++) {
        struct load_phase phase = {
            .number = number,
            .length = length,
            .drain = 50000000,
            .patience = 100000000,
            .confirm = number != 1,
            .handshake_rate = { 20, 120 },
            .outstanding = number % 2 ? 4 : 0,
            .traffic_rate = { 1000, 300 },
            .traffic_outstanding = number == 3 ? 7 : 0,
            .traffic_peers = PEERS,
            .oneway_rate = { 100, 100 },
            .oneway_peers = PEERS,
            .echo = { .bytes = number ? 1920 : least + 1 },
            .oneway = { .mix = 2, .mix_bytes = { least, 1920 }, .mix_share = { 0.5, 1 } },
            .keepalive_rate = 100,
            .roam_rate = 200,
            .garbage_rate = { 30, 30, 30, 30, 30, 200, 200, 30 },
        };

        const uint64_t *c = area->tallies[number].counters;
        int tries = 100;

        /* On a machine with other work neither side may get far in one phase. */
        do
            load_run_phase(load, &phase, clock_now() + 1000000);
        while (!everything_happened(c) && --tries);
        printf("%llu handshakes, %llu of %llu echoes, %llu cookies, %llu wrong tags, %llu strange, %llu bad, %llu index\n",
               (unsigned long long)c[LOAD_HANDSHAKES], (unsigned long long)c[LOAD_ANSWERED],
               (unsigned long long)c[LOAD_ASKED], (unsigned long long)c[LOAD_COOKIES],
               (unsigned long long)c[LOAD_BAD_TAG], (unsigned long long)c[LOAD_STRANGE],
               (unsigned long long)c[LOAD_BAD_MESSAGE], (unsigned long long)c[LOAD_BAD_INDEX]);
        check(c[LOAD_ASKED] >= c[LOAD_ANSWERED] + c[LOAD_UNSENT]);
        check(c[LOAD_RESPONSES] >= c[LOAD_HANDSHAKES] + (number == 1 ? 0 : c[LOAD_UNCONFIRMED]));
        check(c[LOAD_INITIATIONS] == c[LOAD_HANDSHAKES] + c[LOAD_UNCONFIRMED] + c[LOAD_UNANSWERED]);
        check(everything_happened(c));
    }
    load_free(load);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    for (int i = 0; i <= PORTS; i++)
        close(fds[i]);
    close(gateway_fd);
    return 0;
}
