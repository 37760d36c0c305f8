/* engine_inputs: whatever arrives, in buffers of exactly its size, so that AddressSanitizer and
 * UndefinedBehaviorSanitizer see a byte read too far. usage: engine_inputs [rounds] */
#include "tests/support/check.h"

#include "engine/cookie.h"
#include "engine/handshake.h"
#include "engine/publickeys.h"
#include "engine/session.h"
#include "engine/uapi/sections.h"

#include <string.h>

#define ROWS 4
#define KEYPAIRS 4
#define NODES 32

static uint64_t seed = 7;

static uint8_t *random_bytes(uint32_t length)
{
    uint8_t *bytes = malloc(length);  /* of 0 bytes too: it may not be read at all */

    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(draw(&seed) >> 56);
    return bytes;
}

static void messages(void)
{
    uint32_t length = draw_below(&seed, 200);
    uint8_t *data = random_bytes(length);
    int why;

    if (length > 3 && draw_below(&seed, 2))
        memcpy(data, (uint8_t[4]){ (uint8_t)draw_below(&seed, 6) }, 4);
    uint32_t type = message_type(data, length, &why);
    check((type == 0) == (why != 0));
    if (type == MESSAGE_DATA) {
        data_header_write(data, data_receiver_index(data), data_counter(data));
        check(message_type(data, length, &why) == MESSAGE_DATA);
    }
    free(data);
}

static void inner_packets(void)
{
    uint32_t length = draw_below(&seed, 70), trimmed;
    uint8_t *data = random_bytes(length);
    const uint8_t *address;

    if (length > 5 && draw_below(&seed, 4)) {
        data[0] = draw_below(&seed, 2) ? 0x45 : 0x60;
        data[2] = data[4] = 0;
        data[3] = data[5] = (uint8_t)draw_below(&seed, 70);
    }
    int version = packet_destination(data, length, &address);
    check(version == 0 || (address > data && address + (version == 4 ? 4 : 16) <= data + length));
    check(packet_source(data, length, &address, &trimmed) == version);
    check(trimmed <= length);
    if (version)
        (void)packet_ecn_decapsulate(data, (uint8_t)draw(&seed));
    free(data);
}

static void garbage_trie(void)
{
    uint32_t count = 1 + draw_below(&seed, 8);
    struct trie_node *nodes = (struct trie_node *)(void *)random_bytes(count * sizeof(struct trie_node));
    uint8_t *address = random_bytes(16), *address4 = random_bytes(4);

    for (uint32_t i = 0; i < count; i++) {
        nodes[i].bits = draw_below(&seed, 2) ? 32 : 128;
        nodes[i].cidr = (uint8_t)draw_below(&seed, 130);
        memset(nodes[i].address, 0, draw_below(&seed, 17));
        for (int side = 0; side < 2; side++)
            nodes[i].child[side] = draw_below(&seed, count + 2);
    }
    memset(address, 0, draw_below(&seed, 17));
    (void)allowedips_lookup(nodes, count, draw_below(&seed, count + 2), address, 128);
    (void)allowedips_lookup(nodes, count, draw_below(&seed, count + 2), address4, 32);
    free(nodes);
    free(address);
    free(address4);
}

static void garbage_recovery(void)
{
    uint32_t count = 2 + draw_below(&seed, 20), roots[2] = { draw_below(&seed, count + 2), draw_below(&seed, count + 2) };
    struct trie_node *nodes = (struct trie_node *)(void *)random_bytes(count * sizeof(struct trie_node));
    uint32_t heads[ROWS];
    struct allowedips ips;

    for (uint32_t i = 0; i < count; i++) {
        nodes[i].bits = draw_below(&seed, 3) ? 32 : 128;
        nodes[i].cidr = (uint8_t)draw_below(&seed, 140);
        nodes[i].peer = draw_below(&seed, ROWS + 2);
        for (int side = 0; side < 2; side++)
            nodes[i].child[side] = draw_below(&seed, count + 2);
    }
    nodes[0].peer_next = draw_below(&seed, count + 3);
    allowedips_open(&ips, nodes, count, &roots[0], &roots[1]);
    allowedips_recover(&ips, ROWS, (uint8_t *)heads, 4);
    uint32_t live = ips.live, waiting = 0;
    for (uint32_t number = ips.waiting_head; number; number = nodes[number].waiting_next)
        check(++waiting <= ips.used);
    check(live + waiting == ips.used);
    allowedips_reclaim(&ips);
    for (uint32_t row = 0; row < ROWS; row++)
        (void)allowedips_remove_peer(&ips, row, (uint8_t *)heads, 4);
    check(ips.live == 0 && roots[0] == 0 && roots[1] == 0);
    free(nodes);
}

/* A session with itself: what it seals it can open. Then damage, and random bytes. */
static void sessions(struct aead *aead, struct keypair *keypairs, struct session *session)
{
    struct packet packets[SESSION_BATCH];
    uint8_t *buffers[SESSION_BATCH];
    uint32_t count = 1 + draw_below(&seed, SESSION_BATCH), damaged[SESSION_BATCH];
    const uint64_t now = 5000000000ull;

    memset(keypairs, 0, KEYPAIRS * sizeof(*keypairs));
    for (uint32_t number = 1; number < KEYPAIRS; number++) {
        struct keypair *keypair = &keypairs[number];
        memset(keypair->send_key, (int)number, 32);
        memset(keypair->receive_key, (int)number, 32);
        keypair->birth = now - 1;
        keypair->local_index = keypair->remote_index = number * 1000;
        keypair->peer = 1;
        keypair->send_counter = draw_below(&seed, 3) ? draw(&seed) >> 40 : REJECT_AFTER_MESSAGES - draw_below(&seed, 70);
    }
    *session->key_word = key_word_of(1, 2, 3);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = draw_below(&seed, 8) ? draw_below(&seed, 300) : 0;
        /* what the contract promises and no byte more: header before, padding and tag after */
        uint32_t room = DATA_HEADER_BYTES + length + packet_padding(length, session->mtu) + AEAD_TAG_BYTES;
        if (length == 1)
            length = 0;  /* an inner packet has its first two bytes, or the TUN gave none */
        buffers[i] = random_bytes(room);
        packets[i] = (struct packet){ .data = buffers[i] + DATA_HEADER_BYTES, .length = length };
    }
    if (session_seal(session, aead, packets, count, now) == 0) {
        for (uint32_t i = 0; i < count; i++) {
            check(packets[i].data == buffers[i]);
            damaged[i] = draw_below(&seed, 4) == 0;
            if (damaged[i])
                packets[i].data[16 + draw_below(&seed, packets[i].length - 16)] ^= 1;
            packets[i].ecn = (uint8_t)draw_below(&seed, 4);
        }
        session_open(session, aead, packets, count, now);
        for (uint32_t i = 0; i < count; i++)
            check((packets[i].verdict == VERDICT_TAG) == damaged[i]);
        check(session->key_word[0] == key_word_of(1, 2, 3));
    }
    for (uint32_t i = 0; i < count; i++) {
        free(buffers[i]);
        uint32_t length = draw_below(&seed, 120);
        buffers[i] = random_bytes(length);
        if (length >= 8)
            memcpy(buffers[i] + 4, &(uint32_t){ 1000 * draw_below(&seed, KEYPAIRS) }, 4);
        packets[i] = (struct packet){ .data = buffers[i], .length = length };
    }
    session_open(session, aead, packets, count, now);
    for (uint32_t i = 0; i < count; i++) {
        check(packets[i].verdict != VERDICT_DELIVER && packets[i].verdict != VERDICT_KEEPALIVE);
        free(buffers[i]);
    }
}

static void garbage_chains(void)
{
    uint32_t rows_count = 1 + draw_below(&seed, 8), stride = 36;
    uint8_t *rows = random_bytes(rows_count * stride);
    uint32_t *buckets = (uint32_t *)(void *)random_bytes(4 * sizeof(uint32_t));
    struct publickeys keys = {
        .buckets = buckets,
        .bucket_count = 4,
        .key = { 1, 2 },
        .rows = rows,
        .stride = stride,
        .chain_offset = 32,
        .max_rows = rows_count,
    };

    for (uint32_t i = 0; i < 4; i++)
        buckets[i] = draw_below(&seed, rows_count + 3);
    for (uint32_t i = 0; i < rows_count; i++)
        memcpy(rows + i * stride + 32, &(uint32_t){ draw_below(&seed, rows_count + 3) }, 4);
    uint32_t row = draw_below(&seed, rows_count);
    (void)publickeys_lookup(&keys, rows + row * stride);
    publickeys_insert(&keys, row);
    publickeys_remove(&keys, row);
    free(rows);
    free(buckets);
}

static void windows(struct window *window)
{
    uint64_t top = window->top, counter = draw(&seed) >> draw_below(&seed, 64);

    if (draw_below(&seed, 4))
        counter = top + draw_below(&seed, 20000) - 10000;
    if (window_accept(window, counter))
        check(!window_accept(window, counter) && window->top >= counter + 1);
    else
        check(window->top == top);
    if (draw_below(&seed, 500) == 0)
        memset(window, 0, sizeof(*window));
}

/* A handshake between two keys, each message damaged now and then; then random bytes as messages. */
static void handshakes(struct handshake_crypto *crypto)
{
    struct handshake_identity *us = malloc(sizeof(*us)), *them = malloc(sizeof(*them));
    struct handshake *first = calloc(1, sizeof(*first)), *second = calloc(1, sizeof(*second));
    uint8_t *private_keys = random_bytes(64), *secret = random_bytes(32), *reply = random_bytes(COOKIE_BYTES);
    uint32_t at = draw_below(&seed, 148), mask = draw_below(&seed, 2) ? 1 + draw_below(&seed, 255) : 0;

    handshake_identity(crypto, private_keys, us);
    handshake_identity(crypto, private_keys + 32, them);
    *first = (struct handshake){ .identity = us, .local_index = 3, .has_cookie = 1 };
    *second = (struct handshake){ .identity = them, .local_index = 4 };
    memcpy(first->remote_public, them->public_key, 32);
    handshake_create_initiation(crypto, first, 1);
    memcpy(second->initiation, first->initiation, INITIATION_BYTES);
    second->initiation[at] ^= (uint8_t)mask;
    check(handshake_mac1_differs(them->mac1_key, second->initiation, INITIATION_BYTES) == (mask && at < 132));
    handshake_cookie_reply(crypto, them, secret, second->initiation, INITIATION_BYTES, secret, 16, 7, NULL, reply);
    handshake_open_initiation(crypto, second, 1);
    handshake_open_timestamp(crypto, second, 1);
    check((second->result != HANDSHAKE_FINE) == (mask && at >= 8 && at < 116));
    handshake_create_response(crypto, second, 1);
    memcpy(first->response, second->response, RESPONSE_BYTES);
    handshake_consume_response(crypto, first, 1);
    if (second->result == HANDSHAKE_FINE && (!mask || at >= 116))
        check(first->result == HANDSHAKE_FINE && memcmp(first->send_key, second->receive_key, 32) == 0);
    for (uint32_t i = 0; i < INITIATION_BYTES; i++)
        second->initiation[i] = (uint8_t)draw(&seed);
    second->result = HANDSHAKE_FINE;
    handshake_open_initiation(crypto, second, 1);
    check(second->result == HANDSHAKE_STATIC_TAG);
    handshake_wipe(first, 1);
    handshake_wipe(second, 1);
    free(us), free(them), free(first), free(second);
    free(private_keys), free(secret), free(reply);
}

/* Text of pieces that make sections, right and wrong; the records must end within 2 * bytes. */
static void configuration_text(void)
{
    static const char *const pieces[] = {
        "public_key=",
        "00",
        "ffffffffffffffffffffffffffffffff",
        "\n",
        "\n",
        "allowed_ip=",
        "1.2.3.4",
        "/32",
        "-",
        "::",
        "preshared_key=",
        "endpoint=",
        "[",
        "]:7",
        ":9",
        "replace_allowed_ips=true\n",
        "remove=true\n",
        "/",
        ".",
        "%",
        "persistent_keepalive_interval=25\n",
        "allowed_ip=::1/12\n",
        "allowed_ip=9.9.9.9/7\n",
        "allowed_ip=\n",
    };
    char made[1200] = "";
    uint32_t parts = draw_below(&seed, 24);
    struct uapi_taken taken;

    if (draw_below(&seed, 4))
        strcat(made, "public_key=ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\n");
    for (uint32_t i = 0; i < parts; i++)
        strcat(made, pieces[draw_below(&seed, sizeof pieces / sizeof *pieces)]);
    uint64_t length = strlen(made);
    uint8_t *text = malloc(length), *records = malloc(2 * length + UAPI_RECORDS_MORE);
    memcpy(text, made, length);
    uapi_take_sections(text, length, records, 109, draw_below(&seed, 1000), &taken);
    check(taken.text_bytes <= length && taken.record_bytes <= 2 * length && taken.lines >= taken.peers);
    free(text);
    free(records);
}

/* A handshake between two keys, each message damaged now and then; then random bytes as messages. */
int main(int count, char **words)
{
    uint32_t rounds = count > 1 ? (uint32_t)strtoul(words[1], NULL, 10) : 4000;
    struct keypair *keypairs = calloc(KEYPAIRS, sizeof(*keypairs));
    struct window *window = calloc(1, sizeof(*window));
    uint32_t *columns = calloc(TIMER_COLUMN_COUNT * ROWS, sizeof(*columns));
    struct trie_node nodes[NODES] = { 0 };
    uint64_t word = 0;
    struct session session = {
        .key_word = &word,
        .keypairs = keypairs,
        .max_keypairs = KEYPAIRS,
        .peer = 1,
        .columns = columns,
        .stride = ROWS,
        .trie = nodes,
        .max_trie_nodes = NODES,
        .mtu = 280,
    };

    timers_initialise(columns, ROWS, 1);
    for (int provider = 0; provider < AEAD_PROVIDERS_COUNT; provider++) {
        struct aead *aead = aead_new(provider);
        if (!aead)
            continue;
        for (uint32_t i = 0; i < rounds / 20; i++)
            sessions(aead, keypairs, &session);
        aead_free(aead);
    }
    struct handshake_crypto *crypto = handshake_crypto_new();
    check(crypto != NULL);
    for (uint32_t i = 0; i < rounds / 20; i++)
        handshakes(crypto);
    handshake_crypto_free(crypto);
    for (uint32_t i = 0; i < rounds; i++) {
        messages();
        inner_packets();
        garbage_trie();
        garbage_recovery();
        garbage_chains();
        windows(window);
        configuration_text();
    }
    free(columns);
    free(window);
    free(keypairs);
    return 0;
}
