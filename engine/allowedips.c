/* allowedips: a binary trie in which a node stands for a prefix and skips to the next bit
 * where its descendants differ.
 *
 * Rules of the tree. A child's prefix extends its parent's, on the side that its first
 * further bit names. A node without a peer is a branch and has two children; so n prefixes
 * need at most n - 1 branches.
 *
 * Readers take no lock. What they read of a node (address, cidr, bits) never changes while
 * the node is in a tree; links and `peer` are single words. Each change is one release
 * store of a link to nodes that are complete, or of `peer`, so a reader finds the tree as
 * before or as after. A removed node keeps its links, for readers who stand on it, and is
 * used again only after a grace period. A reader trusts nothing: it checks each number and
 * takes at most bits + 1 steps, whatever it finds.
 *
 * Lists, parents and states are the writer's and may be half-changed when it is killed;
 * recover works them out from the links, which never are. */
#include "allowedips.h"

#include <string.h>

enum node_state {
    NODE_FREE,
    NODE_LIVE,
    NODE_WAITING
};

#define MAX_DEPTH 129  /* prefixes of 0 to 128 bits on one path */

static uint32_t load_link(const uint32_t *link)
{
    /* Acquire: the node that it names is seen complete. */
    return __atomic_load_n(link, __ATOMIC_ACQUIRE);
}

static void publish(uint32_t *link, uint32_t number)
{
    /* Release: whoever follows the link sees all that was written into the node before. */
    __atomic_store_n(link, number, __ATOMIC_RELEASE);
}

static uint32_t bit_of(const uint8_t *address, uint32_t place)
{
    return address[place / 8] >> (7 - place % 8) & 1u;
}

/* Leading bits, at most limit, that the two have in common. */
static uint32_t common_bits(const uint8_t *a, const uint8_t *b, uint32_t limit)
{
    uint32_t bits = 0;

    while (bits < limit) {
        uint8_t differ = a[bits / 8] ^ b[bits / 8];
        if (differ) {
            bits += (uint32_t)__builtin_clz(differ) - 24;
            break;
        }
        bits += 8;
    }
    return bits < limit ? bits : limit;
}

uint32_t allowedips_lookup(const struct trie_node *nodes, uint32_t max_nodes, uint32_t root,
                           const uint8_t *address, uint32_t bits)
{
    uint32_t found = 0, number = root;

    for (uint32_t step = 0; step <= bits && number && number < max_nodes; step++) {
        const struct trie_node *node = &nodes[number];
        uint32_t cidr = node->cidr;
        if (node->bits != bits || cidr > bits || common_bits(node->address, address, cidr) < cidr)
            break;
        /* Relaxed: a row number alone; what it stands for changes after a grace period only. */
        uint32_t peer = __atomic_load_n(&node->peer, __ATOMIC_RELAXED);
        if (peer)
            found = peer;
        if (cidr == bits)
            break;
        number = load_link(&node->child[bit_of(address, cidr)]);
    }
    return found - 1;  /* row + 1, and 0 becomes 0xffffffff */
}

/* ---- the writer: nodes ---- */

static uint32_t *link_of(struct allowedips *ips, uint32_t parent)
{
    if (parent / 2 == 0)
        return parent % 2 ? ips->root6 : ips->root4;
    return &ips->nodes[parent / 2].child[parent % 2];
}

static int nodes_left(const struct allowedips *ips, uint32_t wanted)
{
    return (uint64_t)ips->max_nodes - 1 - ips->used + ips->free >= wanted;
}

static void copy_prefix(uint8_t to[16], const uint8_t *address, uint32_t bits, uint32_t cidr)
{
    memset(to, 0, 16);
    memcpy(to, address, bits / 8);
    for (uint32_t place = cidr; place < bits; place++)
        to[place / 8] &= (uint8_t)~(0x80 >> place % 8);
}

/* A node that no reader can see yet. The caller made sure that there is one. */
static uint32_t take_node(struct allowedips *ips, const uint8_t *address, uint32_t bits, uint32_t cidr,
                          uint32_t parent)
{
    uint32_t number = ips->free_head;

    if (number) {
        ips->free_head = ips->nodes[number].child[0];
        ips->free--;
    } else {
        number = ++ips->used;
        ips->nodes[0].peer_next = number;
        /* In memory before the node is linked, or a restart would not know of it. */
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
    }
    struct trie_node *node = &ips->nodes[number];
    memset(node, 0, sizeof(*node));
    copy_prefix(node->address, address, bits, cidr);
    node->bits = (uint8_t)bits;
    node->cidr = (uint8_t)cidr;
    node->parent = parent;
    node->state = NODE_LIVE;
    ips->live++;
    return number;
}

static void let_wait(struct allowedips *ips, uint32_t number)
{
    struct trie_node *node = &ips->nodes[number];

    node->state = NODE_WAITING;  /* its links stay: a reader may stand here */
    node->waiting_next = ips->waiting_head;
    ips->waiting_head = number;
    ips->live--;
}

/* Puts child, which may be 0, where link `parent` is. */
static void hang(struct allowedips *ips, uint32_t parent, uint32_t child)
{
    if (child)
        ips->nodes[child].parent = parent;
    publish(link_of(ips, parent), child);
}

/* Takes a node without peer and with less than two children out, then its parent if that
 * has become such a node. */
static void collapse(struct allowedips *ips, uint32_t number)
{
    while (number) {
        const struct trie_node *node = &ips->nodes[number];
        if (node->peer || (node->child[0] && node->child[1]))
            return;
        uint32_t parent = node->parent;
        hang(ips, parent, node->child[0] ? node->child[0] : node->child[1]);
        let_wait(ips, number);
        number = parent / 2;
    }
}

/* ---- the writer: lists of a peer's nodes; the first one's peer_previous is the last ----
 *
 * The list heads are in control's own memory, so a compromised worker cannot corrupt them. */

static uint32_t *head_of(uint8_t *first, uint32_t stride, uint32_t row)
{
    return (uint32_t *)(void *)(first + (uint64_t)row * stride);
}

/* The node's peer is set already. */
static void list_add(struct allowedips *ips, uint32_t *head, uint32_t number)
{
    struct trie_node *nodes = ips->nodes, *node = &nodes[number];

    node->peer_next = 0;
    if (*head) {
        node->peer_previous = nodes[*head].peer_previous;
        nodes[node->peer_previous].peer_next = number;
        nodes[*head].peer_previous = number;
    } else {
        node->peer_previous = number;
        *head = number;
    }
}

static void list_remove(struct allowedips *ips, uint32_t *head, uint32_t number)
{
    struct trie_node *nodes = ips->nodes;
    uint32_t next = nodes[number].peer_next, previous = nodes[number].peer_previous;

    for (struct allowedips_place *place = ips->places; place; place = place->following)
        if (place->number == number)
            place->number = next;
    if (*head == number)
        *head = next;
    else
        nodes[previous].peer_next = next;
    if (next)
        nodes[next].peer_previous = previous;
    else if (*head)
        nodes[*head].peer_previous = previous;
}

/* Row + 1, or 0. One store for readers: a prefix that moves always belongs to somebody. */
static void set_peer(struct allowedips *ips, uint32_t number, uint32_t peer, uint8_t *first, uint32_t stride)
{
    struct trie_node *node = &ips->nodes[number];

    if (node->peer == peer)
        return;
    if (node->peer)
        list_remove(ips, head_of(first, stride, node->peer - 1), number);
    __atomic_store_n(&node->peer, peer, __ATOMIC_RELAXED);  /* see the reader's load */
    if (peer)
        list_add(ips, head_of(first, stride, peer - 1), number);
}

/* ---- the writer: changes ---- */

/* The link (as in `parent`) where a node of that prefix is, or would be put in. */
static uint32_t descend(struct allowedips *ips, const uint8_t *address, uint32_t bits, uint32_t cidr)
{
    uint32_t parent = bits == 32 ? 0 : 1;

    for (;;) {
        uint32_t number = *link_of(ips, parent);
        const struct trie_node *node = &ips->nodes[number];
        if (!number || node->cidr >= cidr || common_bits(node->address, address, node->cidr) < node->cidr)
            return parent;
        parent = number * 2 + bit_of(address, node->cidr);
    }
}

static int is_prefix(uint32_t bits, uint32_t cidr)
{
    return (bits == 32 || bits == 128) && cidr <= bits;
}

int allowedips_insert(struct allowedips *ips, const uint8_t *address, uint32_t bits, uint32_t cidr,
                      uint32_t peer, uint8_t *first, uint32_t stride)
{
    if (!is_prefix(bits, cidr))
        return -1;
    uint32_t parent = descend(ips, address, bits, cidr), below = *link_of(ips, parent);
    uint32_t common = below ? common_bits(ips->nodes[below].address, address, cidr) : 0;
    if (below && common > ips->nodes[below].cidr)
        common = ips->nodes[below].cidr;

    if (below && common == cidr && ips->nodes[below].cidr == cidr) {
        set_peer(ips, below, peer + 1, first, stride);
        return 0;
    }
    int forks = below && common < cidr;
    if (!nodes_left(ips, forks ? 2 : 1))
        return -1;
    uint32_t branch = forks ? take_node(ips, address, bits, common, parent) : 0;
    uint32_t side = forks ? bit_of(address, common) : 0;
    uint32_t number = take_node(ips, address, bits, cidr, forks ? branch * 2 + side : parent);
    struct trie_node *node = &ips->nodes[number];

    set_peer(ips, number, peer + 1, first, stride);
    if (forks) {
        ips->nodes[branch].child[side] = number;
        ips->nodes[branch].child[!side] = below;
        ips->nodes[below].parent = branch * 2 + !side;
    } else if (below) {
        uint32_t under = bit_of(ips->nodes[below].address, cidr);
        node->child[under] = below;
        ips->nodes[below].parent = number * 2 + under;
    }
    publish(link_of(ips, parent), forks ? branch : number);
    return 0;
}

static void remove_node(struct allowedips *ips, uint32_t number, uint8_t *first, uint32_t stride)
{
    set_peer(ips, number, 0, first, stride);
    collapse(ips, number);
}

int allowedips_remove(struct allowedips *ips, const uint8_t *address, uint32_t bits, uint32_t cidr,
                      uint32_t peer, uint8_t *first, uint32_t stride)
{
    if (!is_prefix(bits, cidr))
        return 0;
    uint32_t number = *link_of(ips, descend(ips, address, bits, cidr));
    const struct trie_node *node = &ips->nodes[number];

    if (!number || node->cidr != cidr || node->peer != peer + 1 ||
        common_bits(node->address, address, cidr) < cidr)
        return 0;
    remove_node(ips, number, first, stride);
    return 1;
}

uint32_t allowedips_remove_some(struct allowedips *ips, uint32_t peer, uint32_t most, uint8_t *first,
                                uint32_t stride)
{
    uint32_t removed = 0;
    const uint32_t *head = head_of(first, stride, peer);

    for (; *head && removed < most; removed++)
        remove_node(ips, *head, first, stride);
    return removed;
}

uint32_t allowedips_remove_peer(struct allowedips *ips, uint32_t peer, uint8_t *first, uint32_t stride)
{
    return allowedips_remove_some(ips, peer, UINT32_MAX, first, stride);
}

void allowedips_hold(struct allowedips *ips, struct allowedips_place *place)
{
    place->following = ips->places;
    ips->places = place;
}

void allowedips_let_go(struct allowedips *ips, struct allowedips_place *place)
{
    struct allowedips_place **link = &ips->places;

    while (*link && *link != place)
        link = &(*link)->following;
    if (*link)
        *link = place->following;
}

void allowedips_reclaim(struct allowedips *ips)
{
    (void)allowedips_reclaim_some(ips, UINT32_MAX);
}

int allowedips_reclaim_some(struct allowedips *ips, uint32_t most)
{
    for (; ips->waiting_head && most; most--) {
        uint32_t number = ips->waiting_head;
        struct trie_node *node = &ips->nodes[number];
        ips->waiting_head = node->waiting_next;
        node->state = NODE_FREE;
        node->child[0] = ips->free_head;
        ips->free_head = number;
        ips->free++;
    }
    return ips->waiting_head != 0;
}

/* ---- the writer: beginning ---- */

void allowedips_open(struct allowedips *ips, struct trie_node *nodes, uint32_t max_nodes,
                     uint32_t *root4, uint32_t *root6)
{
    *ips = (struct allowedips){ .nodes = nodes, .max_nodes = max_nodes, .root4 = root4, .root6 = root6 };
    ips->used = nodes[0].peer_next;
}

/* Marks what hangs on a root as live and mends its parents; a link that breaks the rules of
 * the tree is cut. */
static void mark_tree(struct allowedips *ips, uint32_t root, uint32_t bits, uint32_t rows)
{
    uint32_t stack[MAX_DEPTH + 1], depth = 0;

    stack[depth++] = root;
    while (depth) {
        uint32_t parent = stack[--depth], *link = link_of(ips, parent), number = *link;
        if (!number)
            continue;
        struct trie_node *node = &ips->nodes[number];
        if (number > ips->used || node->state == NODE_LIVE || node->bits != bits || node->cidr > bits ||
            (parent / 2 && node->cidr <= ips->nodes[parent / 2].cidr)) {
            publish(link, 0);
            continue;
        }
        node->state = NODE_LIVE;
        node->parent = parent;
        if (node->peer > rows)
            __atomic_store_n(&node->peer, 0, __ATOMIC_RELAXED);
        ips->live++;
        if (node->cidr == bits) {  /* no address has a further bit */
            publish(&node->child[0], 0);
            publish(&node->child[1], 0);
            continue;
        }
        stack[depth++] = number * 2;
        stack[depth++] = number * 2 + 1;
    }
}

void allowedips_recover(struct allowedips *ips, uint32_t rows, uint8_t *first, uint32_t stride)
{
    if (ips->nodes[0].peer_next >= ips->max_nodes)
        ips->nodes[0].peer_next = ips->max_nodes - 1;
    ips->used = ips->nodes[0].peer_next;
    ips->free_head = ips->waiting_head = ips->live = ips->free = 0;
    for (uint32_t row = 0; row < rows; row++)
        *head_of(first, stride, row) = 0;
    for (uint32_t number = 1; number <= ips->used; number++)
        ips->nodes[number].state = NODE_FREE;
    mark_tree(ips, 0, 32, rows);
    mark_tree(ips, 1, 128, rows);
    for (uint32_t number = 1; number <= ips->used; number++) {
        const struct trie_node *node = &ips->nodes[number];
        if (node->state == NODE_FREE) {
            ips->live++;  /* let_wait counts it off again */
            let_wait(ips, number);
        } else if (node->state == NODE_LIVE && node->peer) {
            list_add(ips, head_of(first, stride, node->peer - 1), number);
        }
    }
    for (uint32_t number = 1; number <= ips->used; number++)
        if (ips->nodes[number].state == NODE_LIVE)
            collapse(ips, number);
}
