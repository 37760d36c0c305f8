/* session: batches of one peer's messages as a stranger, a thief of keys or a broken worker would give
 * them: any key word, any keypairs, any trie; messages honest, repeated, damaged or made up.
 *
 * Whatever is delivered was sealed by an honest session, is delivered once, in whole, and comes from
 * an allowed source. */
#include "input.h"

#include "engine/session.h"

#define ROWS 2
#define KEYPAIRS 5
#define NODES 12
#define KEPT 64
#define NOW 1000000000000ull

struct kept {
    uint8_t *message;     /* as it was sealed */
    uint32_t length, inner;
    uint32_t number;      /* of the keypair that opens it */
    uint64_t counter;
    int opened;
};

struct world {
    struct aead *aead;
    struct keypair *keypairs;
    uint32_t *columns;
    struct trie_node *nodes;
    uint64_t word;
    struct session session;
    uint64_t now;
    struct kept kept[KEPT];
    uint32_t count;
};

static void keypair_make(struct world *world, struct input *input, uint32_t number)
{
    struct keypair *keypair = &world->keypairs[number];
    uint8_t how = take8(input);

    memset(keypair, 0, sizeof *keypair);
    memset(keypair->send_key, (int)number, 32);
    memset(keypair->receive_key, (int)number, 32);  /* a session with itself */
    keypair->birth = how & 1 ? world->now - (uint64_t)take8(input) * 1000000000 : world->now;
    keypair->local_index = how & 2 ? 1 : number;
    keypair->remote_index = number;
    keypair->peer = how & 4 ? take8(input) : 1;
    keypair->peer_generation = how & 8 ? take8(input) : 7;
    keypair->flags = how & 16 ? take32(input) : 0;
    keypair->send_counter = how & 32 ? take64(input) : 0;
    keypair->window.top = how & 64 ? take64(input) : 0;
    keypair->window.swept = how & 128 ? take64(input) : keypair->window.top;
    for (uint32_t i = 0; i < world->count; i++)
        if (world->kept[i].number == number)
            world->kept[i].number = 0;  /* these keys have begun anew: their counters count again */
}

static void node_make(struct world *world, struct input *input)
{
    struct trie_node *node = &world->nodes[take_below(input, NODES)];

    node->bits = take8(input) & 1 ? 128 : 32;
    node->cidr = take8(input);
    node->peer = take_below(input, 4);
    node->child[0] = take_below(input, NODES + 2);
    node->child[1] = take_below(input, NODES + 2);
    take_into(input, node->address, take_below(input, 17));
}

/* Seals up to a few packets with exactly the room that the contract names, and keeps them. */
static void seal(struct world *world, struct input *input)
{
    struct packet packets[8];
    uint8_t *buffers[8];
    uint32_t count = 1 + take_below(input, 8), number = key_word_current(world->word);
    uint64_t first = number && number < KEYPAIRS ? world->keypairs[number].send_counter : 0;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = take_below(input, 120);
        uint32_t room = DATA_HEADER_BYTES + length + packet_padding(length, world->session.mtu) + AEAD_TAG_BYTES;

        length -= length == 1;
        buffers[i] = malloc(room);
        packets[i] = (struct packet){ .data = buffers[i] + DATA_HEADER_BYTES, .length = length };
        take_into(input, packets[i].data, length);
        if (length >= 20 && take8(input) & 1) {
            memset(packets[i].data, 0, 4);
            packets[i].data[0] = 0x45;
            packets[i].data[3] = (uint8_t)length;
        }
    }
    if (session_seal(&world->session, world->aead, packets, count, world->now)) {
        must(session_is_usable(&world->session, world->now) == 0 || count > REJECT_AFTER_MESSAGES - first);
        while (count)
            free(buffers[--count]);
    }
    for (uint32_t i = 0; i < count; i++) {
        must(packets[i].data == buffers[i] && data_counter(buffers[i]) == first + i);
        must(first + i < REJECT_AFTER_MESSAGES);
        if (world->count < KEPT)
            world->kept[world->count++] = (struct kept){
                .message = buffers[i],
                .length = packets[i].length,
                .number = number,
                .counter = first + i,
            };
        else
            free(buffers[i]);
    }
}

/* The kept message whose counter and sealed bytes these are; type and index are the receiver's to check. */
static struct kept *find_kept(struct world *world, const uint8_t *message, uint32_t length)
{
    for (uint32_t i = 0; i < world->count; i++)
        if (world->kept[i].length == length && !memcmp(world->kept[i].message + 8, message + 8, length - 8))
            return &world->kept[i];
    return NULL;
}

static void open_batch(struct world *world, struct input *input)
{
    struct packet packets[SESSION_BATCH];
    uint8_t *buffers[SESSION_BATCH], *copies[SESSION_BATCH];
    uint32_t lengths[SESSION_BATCH], count = 1 + take_below(input, 20);

    for (uint32_t i = 0; i < count; i++) {
        uint8_t how = take8(input);

        if (world->count && how & 1) {
            const struct kept *kept = &world->kept[take_below(input, world->count)];

            lengths[i] = kept->length;
            buffers[i] = memcpy(malloc(lengths[i]), kept->message, lengths[i]);
            if (how & 2)
                buffers[i][take_below(input, lengths[i])] ^= take8(input);
        } else {
            lengths[i] = take_below(input, 70);
            buffers[i] = take_buffer(input, lengths[i]);
        }
        copies[i] = memcpy(malloc(lengths[i]), buffers[i], lengths[i]);
        packets[i] = (struct packet){ .data = buffers[i], .length = lengths[i], .ecn = how >> 4, .verdict = 99 };
    }
    session_open(&world->session, world->aead, packets, count, world->now);
    for (uint32_t i = 0; i < count; i++) {
        must(packets[i].verdict < VERDICT_NO_SESSION);
        if (packets[i].verdict == VERDICT_DELIVER || packets[i].verdict == VERDICT_KEEPALIVE) {
            struct kept *kept = find_kept(world, copies[i], lengths[i]);

            must(kept);
            must(!kept->opened || !kept->number);
            kept->opened = kept->number != 0;
            must(packets[i].data == buffers[i] + DATA_HEADER_BYTES);
            must(packets[i].length <= lengths[i] - DATA_OVERHEAD);
            must((packets[i].verdict == VERDICT_KEEPALIVE) == (packets[i].length == 0));
        }
        free(buffers[i]);
        free(copies[i]);
    }
}

static void set_word(struct world *world, struct input *input)
{
    uint8_t how = take8(input);

    world->word = how & 1 ? take64(input)
                          : key_word_of(take_below(input, KEYPAIRS + 1), take_below(input, KEYPAIRS + 1),
                                        take_below(input, KEYPAIRS + 1));
}

void fuzz_one(struct input *input)
{
    static struct aead *aead;
    struct world world = { .now = NOW };

    if (!aead)
        aead = aead_new(AEAD_EVP);  /* the one that every machine has */
    world.aead = aead;
    world.keypairs = calloc(KEYPAIRS, sizeof *world.keypairs);
    world.columns = calloc(TIMER_COLUMN_COUNT * ROWS, sizeof *world.columns);
    world.nodes = calloc(NODES, sizeof *world.nodes);
    world.session = (struct session){
        .key_word = &world.word,
        .keypairs = world.keypairs,
        .max_keypairs = KEYPAIRS,
        .peer = 1,
        .peer_generation = 7,
        .columns = world.columns,
        .stride = ROWS,
        .trie = world.nodes,
        .max_trie_nodes = NODES,
    };
    timers_initialise(world.columns, ROWS, 1);
    world.session.mtu = take8(input) * 2;
    world.session.root4 = take_below(input, NODES + 2);
    world.session.root6 = take_below(input, NODES + 2);
    for (uint32_t number = 1; number < KEYPAIRS; number++)
        keypair_make(&world, input, number);
    set_word(&world, input);
    for (int steps = 0; input->left && steps < 40; steps++)
        switch (take8(input) % 8) {
        case 0:
        case 1: seal(&world, input); break;
        case 2:
        case 3: open_batch(&world, input); break;
        case 4: set_word(&world, input); break;
        case 5: keypair_make(&world, input, 1 + take_below(input, KEYPAIRS - 1)); break;
        case 6: node_make(&world, input); break;
        case 7: world.now += (uint64_t)take8(input) * 1000000000; break;
        }
    for (uint32_t i = 0; i < world.count; i++)
        free(world.kept[i].message);
    free(world.keypairs);
    free(world.columns);
    free(world.nodes);
}
