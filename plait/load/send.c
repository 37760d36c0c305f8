/* Out: messages of peers, sealed and given to the kernel in batches. One socket serves many
 * source addresses: each message names its own (IP_PKTINFO). */
#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>

#include <linux/errqueue.h>

#include "engine/bytes.h"
#include "engine/checksum.h"
#include "engine/packet.h"
#include "plait/load/state.h"
#include "workers/clock.h"

#define CONTROL_BYTES 64
#define SAMPLE_EVERY_NS 5000000ull

static socklen_t target_name(const struct load_setup *setup, struct sockaddr_in6 *name)
{
    memset(name, 0, sizeof *name);
    if (setup->family == AF_INET) {
        struct sockaddr_in *name4 = (struct sockaddr_in *)name;

        name4->sin_family = AF_INET;
        name4->sin_port = htons((uint16_t)setup->port);
        memcpy(&name4->sin_addr, setup->target, 4);
        return sizeof *name4;
    }
    name->sin6_family = AF_INET6;
    name->sin6_port = htons((uint16_t)setup->port);
    memcpy(&name->sin6_addr, setup->target, 16);
    return sizeof *name;
}

/* From which address; sources are consecutive. */
static void control_write(const struct load_setup *setup, struct msghdr *h, uint8_t *control, uint32_t source)
{
    struct cmsghdr *c = (struct cmsghdr *)control;
    int ip4 = setup->family == AF_INET;
    size_t bytes = ip4 ? sizeof(struct in_pktinfo) : sizeof(struct in6_pktinfo);
    uint32_t last = ip4 ? 0 : 12;
    uint8_t address[16];

    if (!setup->sources)
        return;
    memcpy(address, setup->source, 16);
    store_be32(address + last, load_be32(setup->source + last) + source);
    memset(control, 0, CONTROL_BYTES);
    c->cmsg_level = ip4 ? IPPROTO_IP : IPPROTO_IPV6;
    c->cmsg_type = ip4 ? IP_PKTINFO : IPV6_PKTINFO;
    c->cmsg_len = CMSG_LEN(bytes);
    if (ip4)
        memcpy(CMSG_DATA(c) + offsetof(struct in_pktinfo, ipi_spec_dst), address, 4);
    else
        memcpy(CMSG_DATA(c) + offsetof(struct in6_pktinfo, ipi6_addr), address, 16);
    h->msg_control = control;
    h->msg_controllen = CMSG_SPACE(bytes);
}

/* After sealing: a message of a batch may be worth keeping. */
static void sample_keep(struct load *load, const struct load_out *out, uint32_t at)
{
    uint32_t which = out->data[at][0] == MESSAGE_DATA, slot;
    struct load_sample *sample;

    if (out->length[at] > SAMPLE_BYTES || (which && out->asker[at] == NOBODY))
        return;
    /* The samples of data shall live long enough to be answered. */
    if (which && load->now - load->sampled_at < SAMPLE_EVERY_NS)
        return;
    slot = load->sampled[which]++ % SAMPLES;
    sample = &load->samples[which][slot];
    sample->length = out->length[at];
    sample->answered = 0;
    memcpy(sample->data, out->data[at], out->length[at]);
    if (!which)
        return;
    load->sampled_at = load->now;
    sample->asker = out->asker[at];
    sample->sequence = out->sequence[at];
    load->peers[sample->asker].sample = slot;
}

/* The checksum of the ICMP or ICMPv6 message behind so many bytes of header. */
static void icmp_seal(uint8_t *inner, uint32_t ip)
{
    uint32_t length = ip == 40 ? load_be16(inner + 4) : load_be16(inner + 2) - 20u;
    uint64_t sum = 0;
    uint16_t folded;

    memset(inner + ip + 2, 0, 2);
    /* Over IPv6 both addresses, the length and the protocol are a part of it. */
    if (ip == 40) {
        uint8_t pseudo[8] = { 0 };

        store_be32(pseudo, length);
        pseudo[7] = IPPROTO_ICMPV6;
        sum = checksum_add(checksum_add(0, inner + 8, 32), pseudo, sizeof pseudo);
    }
    folded = (uint16_t)~checksum_fold(checksum_add(sum, inner + ip, length));
    memcpy(inner + ip + 2, &folded, 2);
}

/* Just before it leaves: the moment, in an echo with the checksum that is right only now. */
static void depart(struct load *load, const struct load_out *out, uint32_t at)
{
    struct load_peer *peer = &load->peers[out->asker[at]];
    uint8_t *inner = (uint8_t *)out->data[at] + DATA_HEADER_BYTES;

    if (out->data[at][0] != MESSAGE_DATA) {
        if (peer->attempts == 1)
            peer->departed = load->now;
        return;
    }
    if (!peer->waits_since)
        peer->waits_since = load->now;
    if (!load->waits_since)
        load->waits_since = load->now;
    memcpy(inner + inner_headers(load) + offsetof(struct load_stamp, departed), &load->now, sizeof load->now);
    icmp_seal(inner, inner_ip(load));
}

void load_errors_take(struct load *load, int fd)
{
    _Alignas(struct cmsghdr) uint8_t control[256];

    for (int n = 0; n < LOAD_BATCH; n++) {
        struct msghdr h = { .msg_control = control, .msg_controllen = sizeof control };

        if (recvmsg(fd, &h, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c)) {
            struct sock_extended_err error;

            if ((c->cmsg_level != SOL_IP || c->cmsg_type != IP_RECVERR) &&
                (c->cmsg_level != SOL_IPV6 || c->cmsg_type != IPV6_RECVERR))
                continue;
            memcpy(&error, CMSG_DATA(c), sizeof error);
            if (error.ee_origin == SO_EE_ORIGIN_ICMP || error.ee_origin == SO_EE_ORIGIN_ICMP6)
                count(load, LOAD_UNREACHABLE);
        }
    }
}

void load_flush(struct load *load, uint32_t port)
{
    struct load_out *out = &load->outs[port];
    struct mmsghdr headers[LOAD_BATCH];
    struct iovec vectors[LOAD_BATCH];
    _Alignas(struct cmsghdr) uint8_t control[LOAD_BATCH][CONTROL_BYTES];
    struct sockaddr_in6 name;
    socklen_t name_length;
    uint32_t next = 0;
    int again = 0;

    if (!out->count)
        return;
    name_length = target_name(&load->setup, &name);
    load->now = clock_now();
    for (uint32_t i = 0; i < out->count; i++)
        if (out->asker[i] != NOBODY)
            depart(load, out, i);
    aead_seal(load->aead, out->job, out->jobs);
    for (uint32_t i = 0; i < out->count; i++) {
        vectors[i] = (struct iovec){ out->data[i], out->length[i] };
        headers[i].msg_hdr = (struct msghdr){
            .msg_name = &name,
            .msg_namelen = name_length,
            .msg_iov = &vectors[i],
            .msg_iovlen = 1,
        };
        control_write(&load->setup, &headers[i].msg_hdr, control[i], out->source[i]);
        if (load->strangers && port < load->setup.ports)
            sample_keep(load, out, i);
    }
    while (next < out->count) {
        int n = sendmmsg(load->fds[port], headers + next, out->count - next, MSG_DONTWAIT);

        if (n > 0) {
            for (int i = 0; i < n; i++) {
                count_many(load, LOAD_BYTES_OUT, out->length[next + i]);
                count_many(load, LOAD_INNER_PACKETS, (out->mark[next + i] & MARK_INNER) != 0);
            }
            count_many(load, LOAD_DATAGRAMS_OUT, (uint64_t)n);
            next += (uint32_t)n;
            again = 0;
        } else if (errno == EAGAIN || errno == ENOBUFS) {
            struct pollfd writable = { .fd = load->fds[port], .events = POLLOUT };

            count(load, LOAD_SEND_WAITED);
            poll(&writable, 1, 20);
        } else if (errno != EINTR && !again) {
            /* It may be the ICMP error that an earlier one met, now cleared. */
            load_errors_take(load, load->fds[port]);
            again = 1;
        } else if (errno != EINTR) {
            count(load, LOAD_SEND_REFUSED);
            if (out->mark[next] & MARK_TRAFFIC)
                count(load, LOAD_ECHOES_REFUSED);
            if (out->mark[next] & MARK_ONEWAY)
                count(load, LOAD_ONEWAY_REFUSED);
            /* Each event has one fate: what never left was not late. */
            if (out->mark[next] & MARK_LATE)
                load->tally->counters[out->mark[next] & MARK_ONEWAY ? LOAD_ONEWAY_LATE : LOAD_ECHOES_LATE]--;
            next++;
            again = 0;
        }
    }
    out->count = out->jobs = 0;
}

void load_flush_all(struct load *load)
{
    for (uint32_t port = 0; port <= load->setup.ports; port++)
        load_flush(load, port);
}

uint8_t *load_out_place(struct load *load, uint32_t port, uint32_t length, uint32_t source)
{
    struct load_out *out = &load->outs[port];

    if (out->count == LOAD_BATCH)
        load_flush(load, port);
    out->length[out->count] = length;
    out->source[out->count] = source;
    out->asker[out->count] = NOBODY;
    load->mark = &out->mark[out->count];
    *load->mark = 0;
    return out->data[out->count++];
}

int load_has_session(const struct load *load, const struct load_peer *peer)
{
    return peer->current.born && load->now - peer->current.born < REJECT_NS;
}

/* A data message of the current session around `inner` bytes, which the caller writes at the
 * returned place; zeros pad it to a multiple of 16. */
static uint8_t *data_place(struct load *load, struct load_peer *peer, uint32_t inner)
{
    uint32_t padded = (inner + 15) & ~15u;
    uint8_t *message = load_out_place(load, peer->port, padded + DATA_OVERHEAD, peer->source);
    struct load_out *out = &load->outs[peer->port];
    struct load_session *session = &peer->current;

    data_header_write(message, session->remote, session->counter);
    memcpy(out->key[out->jobs], session->send_key, AEAD_KEY_BYTES);
    out->job[out->jobs] = (struct aead_job){
        .data = message + DATA_HEADER_BYTES,
        .length = padded,
        .counter = session->counter,
        .key = out->key[out->jobs],
    };
    out->jobs++;
    session->counter++;
    peer->owes_since = 0;
    if (inner)
        load_spoke(load, peer);
    memset(message + DATA_HEADER_BYTES, 0, padded);
    return message + DATA_HEADER_BYTES;
}

void load_keepalive(struct load *load, struct load_peer *peer)
{
    data_place(load, peer, 0);
    count(load, LOAD_KEEPALIVES);
}

uint32_t load_inner_least(const struct load *load)
{
    return inner_is_ip6(load) ? LOAD_INNER6_LEAST : LOAD_INNER_LEAST;
}

void load_inner_address(const struct load *load, uint32_t number, uint8_t *address)
{
    uint32_t last = inner_is_ip6(load) ? 12 : 0;

    /* A network with room for all begins where no carry leaves its last four bytes. */
    memcpy(address, load->setup.inner_base, last + 4);
    store_be32(address + last, load_be32(load->setup.inner_base + last) + number);
}

/* The headers of an ICMP message to the gateway, but for ICMP's checksum. */
static void headers_write(const struct load *load, uint8_t *inner, uint32_t bytes, uint32_t number,
                          uint8_t type, uint32_t sequence)
{
    uint32_t ip = inner_ip(load);
    uint16_t sum;

    if (inner_is_ip6(load)) {
        inner[0] = 0x60;
        store_be16(inner + 4, bytes - ip);
        inner[6] = IPPROTO_ICMPV6;
        inner[7] = 64;
        load_inner_address(load, 2 + number, inner + 8);
        load_inner_address(load, 1, inner + 24);
    } else {
        inner[0] = 0x45;
        store_be16(inner + 2, bytes);
        inner[8] = 64;
        inner[9] = IPPROTO_ICMP;
        load_inner_address(load, 2 + number, inner + 12);
        load_inner_address(load, 1, inner + 16);
        sum = (uint16_t)~checksum_fold(checksum_add(0, inner, 20));
        memcpy(inner + 10, &sum, 2);
    }
    inner[ip] = type;
    store_be16(inner + ip + 4, number & 0xffff);
    store_be16(inner + ip + 6, sequence & 0xffff);
}

void load_echo(struct load *load, struct load_peer *peer, uint32_t bytes, uint8_t kind, uint64_t intended)
{
    uint32_t number = load->setup.first_peer + (uint32_t)(peer - load->peers);
    uint8_t *inner = data_place(load, peer, bytes);
    struct load_stamp stamp = {
        .magic = STAMP_MAGIC,
        .number = number,
        .intended = intended,
        .sequence = ++peer->sequence,
        .phase = (uint8_t)load->phase->number,
        .kind = kind,
    };
    struct load_out *out = &load->outs[peer->port];

    /* Its checksum and departure are written when it leaves. */
    out->asker[out->count - 1] = (uint32_t)(peer - load->peers);
    out->sequence[out->count - 1] = peer->sequence;
    *load->mark = kind == STAMP_TRAFFIC ? MARK_INNER | MARK_TRAFFIC : MARK_INNER;
    headers_write(load, inner, bytes, number, inner_is_ip6(load) ? ICMP6_ECHO_REQUEST : ICMP_ECHO,
                  peer->sequence);
    memcpy(inner + inner_headers(load), &stamp, sizeof stamp);
}

void load_oneway(struct load *load, struct load_peer *peer, uint32_t bytes)
{
    uint32_t number = load->setup.first_peer + (uint32_t)(peer - load->peers);
    uint8_t *inner = data_place(load, peer, bytes);

    *load->mark = MARK_INNER | MARK_ONEWAY;
    headers_write(load, inner, bytes, number, inner_is_ip6(load) ? ICMP6_ECHO_REPLY : ICMP_ECHOREPLY,
                  (uint32_t)peer->current.counter);
    icmp_seal(inner, inner_ip(load));
}
