/* allowedips: sequences of changes, lookups, grace periods and restarts of control, against a list. */
#include "input.h"

#include "engine/allowedips.h"

#define PEERS 5
#define PREFIXES 64
#define NONE 0xffffffff

struct prefix {
    uint8_t address[16];
    uint32_t bits, cidr, peer;  /* bits 0: none */
};

struct world {
    struct trie_node *nodes;
    uint32_t max_nodes, roots[2];
    uint32_t heads[PEERS];
    struct allowedips ips;
    struct prefix list[PREFIXES];
};

static int bit(const uint8_t *address, uint32_t place)
{
    return address[place / 8] >> (7 - place % 8) & 1;
}

static int starts_with(const uint8_t *address, const uint8_t *prefix, uint32_t cidr)
{
    for (uint32_t place = 0; place < cidr; place++)
        if (bit(address, place) != bit(prefix, place))
            return 0;
    return 1;
}

static struct prefix *find(struct world *world, const uint8_t *address, uint32_t bits, uint32_t cidr)
{
    for (int i = 0; i < PREFIXES; i++)
        if (world->list[i].bits == bits && world->list[i].cidr == cidr &&
            starts_with(address, world->list[i].address, cidr))
            return &world->list[i];
    return NULL;
}

static struct prefix *find_empty(struct world *world)
{
    for (int i = 0; i < PREFIXES; i++)
        if (!world->list[i].bits)
            return &world->list[i];
    return NULL;
}

static uint32_t lookup_expected(const struct world *world, const uint8_t *address, uint32_t bits)
{
    const struct prefix *best = NULL;

    for (int i = 0; i < PREFIXES; i++) {
        const struct prefix *each = &world->list[i];

        if (each->bits == bits && starts_with(address, each->address, each->cidr) &&
            (!best || each->cidr > best->cidr))
            best = each;
    }
    return best ? best->peer : NONE;
}

/* Few distinct addresses, so that prefixes meet: the input's bytes at the ends, zeros between. */
static uint32_t take_address(struct input *input, uint8_t address[16])
{
    uint8_t shape = take8(input);
    uint32_t bits = shape & 1 ? 128 : 32, bytes = bits / 8;

    memset(address, 0, 16);
    address[0] = take8(input);
    if (shape & 2)
        address[bytes - 1] = take8(input);
    if (shape & 4)
        take_into(input, address, bytes);
    return bits;
}

static void insert(struct world *world, struct input *input)
{
    uint8_t address[16];
    uint32_t bits = take_address(input, address), cidr = take_below(input, bits + 3), peer = take_below(input, PEERS);
    struct prefix *was = find(world, address, bits, cidr), *place = was ? was : find_empty(world);
    uint8_t *exact;

    if (!place)
        return;
    exact = memcpy(malloc(bits / 8), address, bits / 8);
    if (allowedips_insert(&world->ips, exact, bits, cidr, peer, (uint8_t *)world->heads, 4) == 0) {
        must(cidr <= bits);
        *place = (struct prefix){ .bits = bits, .cidr = cidr, .peer = peer };
        memcpy(place->address, address, 16);
    } else if (cidr <= bits) {
        must(!was);  /* a prefix that is there needs no node */
    }
    free(exact);
}

static void remove_one(struct world *world, struct input *input)
{
    uint8_t address[16];
    uint32_t bits = take_address(input, address), cidr = take_below(input, bits + 3), peer = take_below(input, PEERS);
    struct prefix *was = find(world, address, bits, cidr);
    int done = allowedips_remove(&world->ips, address, bits, cidr, peer, (uint8_t *)world->heads, 4);

    must(done == (was && was->peer == peer));
    if (done)
        was->bits = 0;
}

static void remove_peer(struct world *world, uint32_t peer)
{
    uint32_t count = 0;

    for (int i = 0; i < PREFIXES; i++)
        if (world->list[i].bits && world->list[i].peer == peer) {
            world->list[i].bits = 0;
            count++;
        }
    uint32_t removed = allowedips_remove_peer(&world->ips, peer, (uint8_t *)world->heads, 4);
    must(removed == count);
}

static void lookup(const struct world *world, const uint8_t *address, uint32_t bits)
{
    uint32_t found = allowedips_lookup(world->nodes, world->max_nodes, world->roots[bits == 128], address, bits);

    must(found == lookup_expected(world, address, bits));
    must(found == NONE || found < PEERS);
}

/* Control begins anew over what it left. */
static void restart(struct world *world)
{
    allowedips_open(&world->ips, world->nodes, world->max_nodes, &world->roots[0], &world->roots[1]);
    allowedips_recover(&world->ips, PEERS, (uint8_t *)world->heads, 4);
}

/* Rules of a tree, as allowedips.c has them; returns its nodes. */
static uint32_t check_tree(const struct world *world, uint32_t number, uint32_t parent, uint32_t bits, uint32_t depth)
{
    const struct trie_node *node = &world->nodes[number];

    if (!number)
        return 0;
    must(number < world->max_nodes && depth <= bits);
    must(node->bits == bits && node->cidr <= bits && node->parent == parent && node->peer <= PEERS);
    must(node->peer || (node->child[0] && node->child[1]));
    if (parent / 2) {
        const struct trie_node *above = &world->nodes[parent / 2];

        must(node->cidr > above->cidr && starts_with(node->address, above->address, above->cidr));
        must(bit(node->address, above->cidr) == (int)(parent % 2));
    }
    for (uint32_t place = node->cidr; place < bits; place++)
        must(!bit(node->address, place));
    return 1 + check_tree(world, node->child[0], number * 2, bits, depth + 1) +
           check_tree(world, node->child[1], number * 2 + 1, bits, depth + 1);
}

/* Each node is live, free or waiting, and counted once. */
static void check(struct world *world)
{
    uint32_t live = check_tree(world, world->roots[0], 0, 32, 0) + check_tree(world, world->roots[1], 1, 128, 0);
    uint32_t rest = 0;

    must(live == world->ips.live && world->ips.used < world->max_nodes);
    for (uint32_t number = world->ips.free_head; number; number = world->nodes[number].child[0])
        must(++rest <= world->ips.used && number <= world->ips.used);
    for (uint32_t number = world->ips.waiting_head; number; number = world->nodes[number].waiting_next)
        must(++rest <= world->ips.used && number <= world->ips.used);
    must(live + rest == world->ips.used);
    for (uint32_t peer = 0; peer < PEERS; peer++) {
        uint32_t listed = 0, owned = 0;

        for (uint32_t number = world->heads[peer]; number; number = world->nodes[number].peer_next)
            must(world->nodes[number].peer == peer + 1 && ++listed <= world->ips.used);
        for (int i = 0; i < PREFIXES; i++)
            owned += world->list[i].bits && world->list[i].peer == peer;
        must(listed == owned);
    }
}

void fuzz_one(struct input *input)
{
    struct world world = { .max_nodes = 0 };
    uint8_t first = take8(input), address[16];

    world.max_nodes = 2 + first % 128;
    world.nodes = calloc(world.max_nodes, sizeof *world.nodes);
    allowedips_open(&world.ips, world.nodes, world.max_nodes, &world.roots[0], &world.roots[1]);
    while (input->left) {
        uint8_t what = take8(input);

        switch (what % 16) {
        default: insert(&world, input); break;
        case 8:
        case 9:
        case 10: remove_one(&world, input); break;
        case 11: remove_peer(&world, take_below(input, PEERS)); break;
        case 12:
        case 15: lookup(&world, address, take_address(input, address)); break;
        case 13: allowedips_reclaim(&world.ips); break;
        case 14: restart(&world); break;
        }
        if (what & 128)
            check(&world);
    }
    check(&world);
    for (int i = 0; i < PREFIXES; i++)
        if (world.list[i].bits)
            lookup(&world, world.list[i].address, world.list[i].bits);
    for (uint32_t peer = 0; peer < PEERS; peer++)
        remove_peer(&world, peer);
    check(&world);
    must(!world.roots[0] && !world.roots[1]);
    free(world.nodes);
}
