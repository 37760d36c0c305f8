/* holder: whole turns of a peer over whatever a broken receiver may have put into nodes and slots, and
 * over any orders and keys. Nothing outside of the named slots, rows and columns changes, and what
 * leaves for the TUN or the network leaves from a packet slot. */
#include "memory.h"

#include "engine/allowedips.h"
#include "engine/keypair.h"
#include "shm/orders.h"
#include "shm/pool.h"
#include "workers/clock.h"
#include "workers/datapath/turn.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define NODES 12

/* System calls of the holder; the linker leads them here. */
ssize_t __wrap_writev(int fd, const struct iovec *parts, int count);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
int __wrap_poll(void *fds, unsigned long count, int timeout);
uint64_t __wrap_clock_now(void);

#define NOW 1000000000000ull

static uint8_t refusal;  /* what they say next */

static void read_all(const struct iovec *parts, size_t count)
{
    static volatile uint8_t sum;

    for (size_t i = 0; i < count; i++)
        for (size_t at = 0; at < parts[i].iov_len; at++)
            sum ^= ((const uint8_t *)parts[i].iov_base)[at];
}

ssize_t __wrap_writev(int fd, const struct iovec *parts, int count)
{
    ssize_t bytes = 0;

    must(fd == 7 && count >= 1 && count <= SESSION_BATCH);
    read_all(parts, (size_t)count);
    for (int i = 0; i < count; i++)
        bytes += (ssize_t)parts[i].iov_len;
    errno = EIO;
    return refusal & 1 ? -1 : bytes;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    (void)flags;
    must((fd == 4 || fd == 6) && count >= 1);
    for (unsigned int i = 0; i < count; i++)
        read_all(messages[i].msg_hdr.msg_iov, messages[i].msg_hdr.msg_iovlen);
    errno = refusal & 4 ? EINVAL : refusal & 8 ? EAGAIN
                                               : EIO;
    return refusal & 2 ? -1 : (int)(refusal >> 4 && refusal >> 4 < count ? refusal >> 4 : count);
}

int __wrap_poll(void *fds, unsigned long count, int timeout)
{
    (void)fds, (void)count, (void)timeout;
    return 0;
}

uint64_t __wrap_clock_now(void)
{
    return NOW;
}

static void keypair_make(const struct segment *s, struct input *input, uint32_t number)
{
    struct keypair *keypair = (struct keypair *)s->keypairs + number;
    uint8_t how = take8(input);

    keypair->birth = how & 1 ? take64(input) : NOW;
    keypair->local_index = number;
    keypair->peer = how & 2 ? take8(input) : 0;
    keypair->peer_generation = how & 4 ? take8(input) : 1;
    keypair->flags = how >> 4 & 1;  /* the keys are zeros, for all */
    keypair->send_counter = how & 8 ? take64(input) : 0;
}

/* Makes each datagram a message that its keypair opens. */
static void seal(struct aead *aead, uint8_t *data, uint32_t length, uint32_t segment, uint64_t counter)
{
    static const uint8_t key[AEAD_KEY_BYTES];

    for (uint32_t at = 0; segment >= DATA_OVERHEAD && at + DATA_OVERHEAD <= length; at += segment) {
        uint32_t bytes = length - at < segment ? length - at : segment;
        struct aead_job job = {
            .data = data + at + DATA_HEADER_BYTES,
            .length = bytes - DATA_OVERHEAD,
            .counter = counter++,
            .key = key,
        };

        data_header_write(data + at, 1 + data[at] % 3, job.counter);
        aead_seal(aead, &job, 1);
    }
}

/* A node whose every word a receiver may have written. */
static void node_make(const struct segment *s, struct aead *aead, struct pool *pool, struct input *input, uint32_t direction)
{
    uint8_t how = take8(input);
    uint32_t slot = how & 1 ? pool_take_train(pool) : pool_take_small(pool);
    uint32_t number = slot == 0xffffffff ? 0 : pool_issue(pool, slot, 0);
    struct node *node = &s->node[number];
    uint8_t *data;

    if (!number)
        return;
    data = pool_slot(pool, slot) + SLOT_ROOM;
    memset(data - SLOT_ROOM, 0, pool_slot_bytes(pool, slot) < 4096 ? SMALL_SLOT_BYTES : 4096);
    node->offset = (uint64_t)(data - (uint8_t *)s->base);
    node->length = how & 1 ? take16(input) : take8(input);
    node->gso_size = how & 2 ? take16(input) : (uint16_t)node->length;
    node->packets = how & 4 ? take16(input) : 1;
    node->peer_generation = how & 8 && take8(input) == 0 ? 2 : 1;
    node->ecn = 0;
    if (how & 16)  /* any place, or one near a border */
        node->offset = how & 32 ? take64(input) : node->offset + (uint64_t)(int16_t)take16(input);
    if (how & 64)
        node->length = take32(input);
    node->gso_type = how & 128 ? take8(input) : 0;
    node->vnet_flags = how & 128 ? take16(input) : 0;
    node->checksum_start = how & 128 ? take16(input) : 0;
    node->checksum_offset = how & 128 ? take16(input) : 0;
    take_into(input, data, take8(input));
    if (direction == INBOUND && node->length <= 1800 && take8(input) & 1)
        seal(aead, data, node->length, node->gso_size, take8(input));
    if (direction == INBOUND && how & 1)
        take_into(input, data - SLOT_ROOM, 12);
    if (queue_push_mpsc(s, WORKER_RECEIVER, direction, number, number, node->packets))
        pool_withdraw(pool, number);
}

static uint64_t sum_of(const struct segment *s)
{
    const uint8_t *from[2] = { s->index, s->trie };
    uint32_t bytes[2] = { INDEX_ENTRY_BYTES * memory_geometry.max_keypairs, TRIE_NODE_BYTES * memory_geometry.max_trie_nodes };
    uint64_t sum = 0;

    for (int region = 0; region < 2; region++)
        for (uint32_t at = 0; at < bytes[region]; at++)
            sum = sum * 31 + from[region][at];
    return sum;
}

static void row_make(const struct segment *s, struct input *input)
{
    struct peer_row *peer = &s->rows[0];
    uint8_t how = take8(input);

    peer->key_word = how & 1 ? take64(input) : key_word_of(1, how & 2 ? 2 : 0, how & 4 ? 3 : 0);
    peer->installing = take_below(input, memory_geometry.max_keypairs + 2);
    for (int turn = 0; turn < 2; turn++) {
        peer->endpoints[turn].family = how & 8 ? AF_INET6 : how & 16 ? take8(input)
                                                                     : AF_INET;
        take_into(input, peer->endpoints[turn].source, how & 32 ? 16 : 0);
    }
    peer->endpoint_turn = how >> 6;
    orders_give(s, 0, how & 128 ? take16(input) : 0);
    s->device->mtu = how & 64 ? take16(input) : 1420;
}

void fuzz_one(struct input *input)
{
    static struct aead *aead;
    struct segment segment;
    struct holder holder;
    struct pool pools[DIRECTIONS];
    uint64_t before;

    if (!aead)
        aead = aead_new(AEAD_EVP);
    memory_begin(&segment);
    memory_allow(&segment, 0);
    must(holder_initialise(&holder, &segment, aead, WORKER_CONSUMER) == 0);
    holder.budget = (const uint32_t[]){ TAKE_BUDGET, BATCH_PACKETS, QUEUE_LIMIT }[input->left % 3];
    holder.udp4 = 4;
    holder.udp6 = 6;
    holder.tun = 7;
    holder.joins = take8(input) & 3;
    holder.trains = take8(input) & 1;
    for (uint32_t d = 0; d < DIRECTIONS; d++)
        must(pool_open(&pools[d], &segment, d) == 0);
    for (uint32_t number = 1; number < 4; number++)
        keypair_make(&segment, input, number);
    row_make(&segment, input);
    for (int i = 0; input->left && i < NODES; i++) {
        uint32_t direction = take8(input) & 1;

        node_make(&segment, aead, &pools[direction], input, direction);
        if (take8(input) % 4 && i + 1 < NODES)
            continue;
        refusal = take8(input);
        before = sum_of(&segment);
        for (uint32_t queue = 0; queue < DIRECTIONS; queue++) {
            token_schedule(&segment, queue);
            if (holder_take(&holder, queue))
                holder_take_turn(&holder, queue, NOW);
        }
        must(sum_of(&segment) == before);
        memory_check(&segment);
        if (take8(input) & 1)
            row_make(&segment, input);
        for (uint32_t d = 0; d < DIRECTIONS; d++)
            pool_sweep(&pools[d]);
    }
    for (uint32_t d = 0; d < DIRECTIONS; d++)
        pool_close(&pools[d]);
    holder_release(&holder);
}
