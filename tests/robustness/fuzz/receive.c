/* receive: datagrams, trains and super-packets as the kernel would give them, from sorting to the last
 * system call. Each packet is counted once at its end, and everything comes home. */
#include "memory.h"

#include "engine/index.h"
#include "engine/packet.h"
#include "shm/counters.h"
#include "shm/mailbox.h"
#include "shm/pool.h"
#include "workers/clock.h"
#include "workers/datapath/mac1_filter.h"
#include "workers/datapath/turn.h"
#include "workers/datapath/receive.h"
#include "workers/udp.h"

#include <errno.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#define NOW 1000000000000ull
#define MESSAGES_MOST 8
#define TRAIN_MOST 64   /* the kernel's UDP_GRO_CNT_MAX */
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

/* System calls; the linker leads them here. */
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
ssize_t __wrap_readv(int fd, const struct iovec *parts, int count);
ssize_t __wrap_writev(int fd, const struct iovec *parts, int count);
int __wrap_poll(void *fds, unsigned long count, int timeout);
uint64_t __wrap_clock_now(void);

struct world {
    struct segment segment;
    struct pool pools[DIRECTIONS];
    struct intake intakes[DIRECTIONS];
    struct holder holder;
    struct udp_inbox *inbox;
    struct aead *aead;
    struct input *input;
    uint32_t indices[MEMORY_ROWS];
    uint64_t counter;
    uint32_t pending;   /* messages that the kernel still has */
};

static struct world world;
static uint8_t room[70000];

uint64_t __wrap_clock_now(void)
{
    return NOW;
}

int __wrap_poll(void *fds, unsigned long count, int timeout)
{
    (void)fds, (void)count, (void)timeout;
    return 0;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    (void)messages, (void)flags;
    must(fd == 4);
    errno = EINVAL;
    return take8(world.input) == 1 ? -1 : (int)count;
}

ssize_t __wrap_writev(int fd, const struct iovec *parts, int count)
{
    ssize_t bytes = 0;

    must(fd == 7);
    for (int i = 0; i < count; i++)
        bytes += (ssize_t)parts[i].iov_len;
    errno = EIO;
    return take8(world.input) == 1 ? -1 : bytes;
}

static void scatter(const struct iovec *parts, size_t count, const uint8_t *from, size_t bytes)
{
    for (size_t i = 0; i < count && bytes; i++) {
        size_t part = bytes < parts[i].iov_len ? bytes : parts[i].iov_len;

        memcpy(parts[i].iov_base, from, part);
        from += part;
        bytes -= part;
    }
    must(!bytes);
}

ssize_t __wrap_readv(int fd, const struct iovec *parts, int count)
{
    struct input *input = world.input;
    uint32_t length, given;

    must(fd == 7);
    errno = EAGAIN;
    if (!world.pending)
        return -1;
    world.pending--;
    given = take8(input);
    length = 10 + (given & 1 ? take16(input) % 65536 : take8(input));
    memset(room, 0, length);
    if (given & 2)
        take_into(input, room, 10);
    if (given & 4) {
        room[10] = given & 8 ? 0x60 : 0x45;
        room[given & 8 ? 14 : 12] = (uint8_t)((length - (given & 8 ? 50 : 10)) >> 8);
        room[given & 8 ? 15 : 13] = (uint8_t)(length - (given & 8 ? 50 : 10));
    } else {
        take_into(input, room + 10, length - 10 < 60 ? length - 10 : 60);
    }
    scatter(parts, (size_t)count, room, length);
    return length;
}

static void store_length(uint8_t *to, uint32_t length)
{
    to[0] = (uint8_t)(length >> 8);
    to[1] = (uint8_t)length;
}

/* A data message of that many bytes to one of the peers, or nearly. */
static void write_data(uint8_t *message, uint32_t bytes)
{
    static const uint8_t key[AEAD_KEY_BYTES];
    struct input *input = world.input;
    uint8_t how = take8(input);
    struct aead_job job = {
        .data = message + DATA_HEADER_BYTES,
        .length = bytes - DATA_OVERHEAD,
        .counter = world.counter,
        .key = key,
    };

    memset(message, 0, bytes);
    if (how & 4 && bytes >= 52) {
        job.data[0] = 0x45;
        store_length(job.data + 2, bytes - DATA_OVERHEAD);
    } else {
        take_into(input, job.data, job.length < 24 ? job.length : 24);
    }
    world.counter += how & 8 ? 0 : 1;
    data_header_write(message, how & 16 ? take32(input) : world.indices[how >> 6], job.counter);
    if (!(how & 32))
        aead_seal(world.aead, &job, 1);
}

static size_t write_control(uint8_t *control, uint8_t how, int segment)
{
    struct msghdr h = { .msg_control = control, .msg_controllen = UDP_CONTROL_BYTES };
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);
    size_t used = 0;
    uint8_t tos = how;

    memset(control, 0, UDP_CONTROL_BYTES);
    if (how & 1) {
        c->cmsg_level = IPPROTO_IP, c->cmsg_type = IP_TOS, c->cmsg_len = CMSG_LEN(1);
        memcpy(CMSG_DATA(c), &tos, 1);
        used += CMSG_SPACE(1);
        c = (struct cmsghdr *)(void *)(control + used);
    }
    if (how & 2) {
        struct in_pktinfo info = { .ipi_ifindex = how };

        c->cmsg_level = IPPROTO_IP, c->cmsg_type = IP_PKTINFO, c->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(c), &info, sizeof info);
        used += CMSG_SPACE(sizeof info);
        c = (struct cmsghdr *)(void *)(control + used);
    }
    if (segment) {
        c->cmsg_level = SOL_UDP, c->cmsg_type = UDP_GRO, c->cmsg_len = CMSG_LEN(sizeof segment);
        memcpy(CMSG_DATA(c), &segment, sizeof segment);
        used += CMSG_SPACE(sizeof segment);
    }
    return used;
}

/* One datagram or train from the input's bytes into room; returns its bytes. */
static uint32_t write_message(int *segment)
{
    struct input *input = world.input;
    uint8_t how = take8(input);
    uint32_t count = how & 1 ? 1 + take_below(input, TRAIN_MOST) : 1;
    uint32_t size = how & 2 ? 1 + take_below(input, 1500) : 32 + take_below(input, 128), at = 0;

    if (how & 4)
        size = how & 8 ? INITIATION_BYTES : RESPONSE_BYTES;
    if (count * size > 65507)
        count = 65507 / size;
    *segment = count > 1 ? (int)size : 0;
    if (how & 128)
        *segment = take16(input) < 32768 ? 0 : (int)size + 1;
    for (uint32_t i = 0; i < count; i++, at += size) {
        uint8_t kind = take8(input);

        memset(room + at, 0, size);
        if (kind & 1 && size >= DATA_OVERHEAD)
            write_data(room + at, size);
        else
            take_into(input, room + at, size < 8 ? size : 8);
    }
    return at - (how & 16 ? take_below(input, size) : 0);
}

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
    unsigned int done = 0;

    (void)flags, (void)timeout;
    must(fd == 4);
    for (; done < count && world.pending; done++, world.pending--) {
        struct msghdr *h = &messages[done].msg_hdr;
        struct sockaddr_in6 *name = h->msg_name;
        int segment;
        uint32_t length = write_message(&segment);

        must(h->msg_controllen == UDP_CONTROL_BYTES && h->msg_namelen == sizeof *name);
        memset(name, 0, sizeof *name);
        name->sin6_family = take8(world.input) & 1 ? AF_INET6 : AF_INET;
        name->sin6_port = take16(world.input);
        h->msg_controllen = write_control(h->msg_control, take8(world.input), segment);
        scatter(h->msg_iov, h->msg_iovlen, room, length);
        messages[done].msg_len = length;
    }
    return done ? (int)done : -1;
}

static void begin(struct input *input)
{
    static struct aead *aead;
    static struct udp_inbox *inbox;
    static int32_t bells[MAX_WORKERS];
    static const uint8_t mac1_key[MAC1_KEY_BYTES];

    if (!aead) {
        aead = aead_new(AEAD_EVP);
        inbox = malloc(sizeof *inbox);
        must(udp_inbox_open(inbox) == 0);
        memset(bells, 0xff, sizeof bells);
    }
    memset(&world, 0, sizeof world);
    world.aead = aead;
    world.inbox = inbox;
    world.input = input;
    memory_begin(&world.segment);
    memory_allow(&world.segment, 0);
    mac1_filter_learn(&world.segment, mac1_key);
    must(holder_initialise(&world.holder, &world.segment, aead, WORKER_CONSUMER) == 0);
    world.holder.udp4 = 4;
    world.holder.tun = 7;
    world.holder.trains = 1;
    world.holder.joins = 3;
    for (uint32_t row = 0; row < MEMORY_ROWS; row++) {
        struct keypair *keypair = (struct keypair *)world.segment.keypairs + row + 1;

        world.indices[row] = index_publish((struct index_entry *)world.segment.index, world.segment.device->index_key,
                                           row + 1, row);
        *keypair = (struct keypair){ .birth = NOW - 1, .local_index = world.indices[row], .peer = row, .peer_generation = 1 };
        if (row < 3)  /* the last one's has been taken out of its key word */
            world.segment.rows[row].key_word = key_word_of(row + 1, 0, 0);
        world.segment.rows[row].endpoints[0].family = AF_INET;
    }
    for (uint32_t d = 0; d < DIRECTIONS; d++) {
        must(pool_open(&world.pools[d], &world.segment, d) == 0);
        world.intakes[d] = (struct intake){
            .segment = &world.segment,
            .worker = WORKER_RECEIVER,
            .bells = bells,
            .pool = &world.pools[d],
        };
    }
}

/* Sums of what came in, and of what came to an end or waits. */
static void check_books(void)
{
    const struct segment *s = &world.segment;
    uint64_t in = counter_sum(s, UDP_RECEIVED) + counter_sum(s, TUN_RECEIVED);
    uint64_t out = counter_sum(s, HS_MAC1_BAD);

    for (enum counter c = DROP_MESSAGE_LENGTH; c <= DROP_PEER_GONE; c++)
        if (c != TUN_RECEIVED && c != KEEPALIVE_SENT)
            out += counter_sum(s, c);
    for (uint32_t queue = 0; queue < 2 * MEMORY_ROWS; queue++)
        out += queue_packets(s, queue);
    must(in == out);
    memory_check(s);
}

static void drain(void)
{
    for (int again = 1; again;) {
        again = 0;
        for (uint32_t queue = 0; queue < DIRECTIONS * MEMORY_ROWS; queue++)
            if (holder_take(&world.holder, queue)) {
                holder_take_turn(&world.holder, queue, NOW);
                again = 1;
            }
    }
}

static void end(void)
{
    struct mailbox_cell cell;

    drain();
    while (mailbox_take(&world.segment, &cell, 1))
        must(cell.length <= MAILBOX_MESSAGE_BYTES);
    check_books();
    for (uint32_t d = 0; d < DIRECTIONS; d++) {
        struct intake *intake = &world.intakes[d];

        while (intake->slots_held)
            pool_put_slot(&world.pools[d], intake->slots[--intake->slots_held]);
        while (intake->trains_held)
            pool_put_slot(&world.pools[d], intake->trains[--intake->trains_held]);
        pool_sweep(&world.pools[d]);
        /* what waits for a session stays out */
        must(queue_packets(&world.segment, 2 * 3 + OUTBOUND) ||
             (world.pools[d].free_small == memory_geometry.small_slots &&
              world.pools[d].free_trains == memory_geometry.train_slots));
        pool_close(&world.pools[d]);
    }
    holder_release(&world.holder);
}

void fuzz_one(struct input *input)
{
    static uint8_t *spill;
    int32_t got;

    if (!spill)
        spill = malloc(UDP_SPILL_BYTES);
    begin(input);
    for (int steps = 0; input->left && steps < 30; steps++) {
        uint8_t what = take8(input);

        world.intakes[INBOUND].inline_holder = what & 64 ? &world.holder : NULL;
        world.pending = 1 + (what >> 2) % MESSAGES_MOST;
        switch (what % 4) {
        case 0:
        case 1: got = receive_udp(&world.intakes[INBOUND], 4, world.inbox); break;
        case 2: got = receive_tun(&world.intakes[OUTBOUND], 7, spill); break;
        case 3:
            drain();
            got = 0;
            break;
        }
        must(got >= 0 && got <= BURST_MAX);
        check_books();
        if (what & 128) {  /* the inner addresses move to another peer */
            memory_allow(&world.segment, (what >> 2) % MEMORY_ROWS);
        }
    }
    end();
}
