/* Theory. A receive call brings up to 64 datagrams or trains of datagrams of one size
 * (UDP_GRO), each with its sender (msg_name), the address of ours that it was sent to, the
 * outer ECN bits and the train's segment size (control messages).
 *
 * A send call takes sealed messages to one endpoint. Neighbours of one size, ECN and hop limit leave as one
 * train (UDP_SEGMENT: all segments equal, the last may be shorter), wherever their bytes stand: a
 * run of messages is one system message with an element for each stretch of memory. Where
 * the kernel refuses a train, its messages leave one by one. */
#include "workers/udp.h"

#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Of a train: the kernel's UDP_MAX_SEGMENTS, and UDP's own limit over IPv4. */
#define SEGMENTS_MOST 64
#define TRAIN_BYTES_MOST 65507
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

int udp_inbox_open(struct udp_inbox *inbox)
{
    /* Virtual memory only: a page is touched when a datagram beyond a small slot arrives. */
    void *spill = mmap(NULL, (size_t)UDP_BATCH * UDP_SPILL_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (spill == MAP_FAILED)
        return -1;
    memset(inbox, 0, sizeof *inbox);
    inbox->spill = spill;
    for (uint32_t i = 0; i < UDP_BATCH; i++) {
        struct msghdr *h = &inbox->headers[i].msg_hdr;

        inbox->vectors[i][1].iov_base = inbox->spill + (size_t)i * UDP_SPILL_BYTES;
        inbox->vectors[i][1].iov_len = UDP_SPILL_BYTES;
        h->msg_iov = inbox->vectors[i];
        h->msg_iovlen = 2;
        h->msg_name = &inbox->names[i];
        h->msg_control = inbox->control[i];
    }
    return 0;
}

void udp_inbox_close(struct udp_inbox *inbox)
{
    if (inbox->spill)
        munmap(inbox->spill, (size_t)UDP_BATCH * UDP_SPILL_BYTES);
    inbox->spill = NULL;
}

void udp_inbox_place(struct udp_inbox *inbox, uint32_t i, uint8_t *place, uint32_t room, uint8_t *rest)
{
    inbox->vectors[i][0].iov_base = place;
    inbox->vectors[i][0].iov_len = room;
    inbox->vectors[i][1].iov_base = rest ? rest : inbox->spill + (size_t)i * UDP_SPILL_BYTES;
}

uint32_t udp_receive(int fd, struct udp_inbox *inbox, uint32_t count)
{
    int got;

    for (uint32_t i = 0; i < count; i++) {
        struct msghdr *h = &inbox->headers[i].msg_hdr;

        /* The kernel shortened these to what the last message needed. */
        h->msg_namelen = sizeof inbox->names[i];
        h->msg_controllen = UDP_CONTROL_BYTES;
        h->msg_flags = 0;
    }
    got = recvmmsg(fd, inbox->headers, count, MSG_DONTWAIT, NULL);
    return got < 0 ? 0 : (uint32_t)got;
}

uint32_t udp_sender(const struct udp_inbox *inbox, uint32_t i, struct endpoint *from, uint8_t *ecn)
{
    uint32_t gso_size = 0;
    const struct sockaddr_in6 *name = &inbox->names[i];
    struct msghdr *h = (struct msghdr *)&inbox->headers[i].msg_hdr;

    memset(from, 0, sizeof *from);
    *ecn = 0;
    if (name->sin6_family == AF_INET) {
        const struct sockaddr_in *name4 = (const struct sockaddr_in *)name;

        from->family = AF_INET;
        from->port = name4->sin_port;
        memcpy(from->address, &name4->sin_addr, 4);
    } else {
        from->family = AF_INET6;
        from->port = name->sin6_port;
        from->scope = name->sin6_scope_id;
        memcpy(from->address, &name->sin6_addr, 16);
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;

            memcpy(&info, CMSG_DATA(c), sizeof info);
            memcpy(from->source, &info.ipi_spec_dst, 4);
            from->source_ifindex = (uint32_t)info.ipi_ifindex;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;

            memcpy(&info, CMSG_DATA(c), sizeof info);
            memcpy(from->source, &info.ipi6_addr, 16);
            from->source_ifindex = info.ipi6_ifindex;
        } else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) ||
                   (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS)) {
            /* IP_TOS comes as one byte, IPV6_TCLASS as an int; the bits are in the first
             * byte of either on a little-endian machine, so read by length. */
            int value = 0;

            if (c->cmsg_len >= CMSG_LEN(sizeof value))
                memcpy(&value, CMSG_DATA(c), sizeof value);
            else
                value = *CMSG_DATA(c);
            *ecn = (uint8_t)(value & 3);
        } else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int value;

            memcpy(&value, CMSG_DATA(c), sizeof value);
            gso_size = value > 0 ? (uint32_t)value : 0;
        }
    }
    return gso_size;
}

static socklen_t endpoint_name(const struct endpoint *to, struct sockaddr_in6 *name)
{
    memset(name, 0, sizeof *name);
    if (to->family == AF_INET) {
        struct sockaddr_in *name4 = (struct sockaddr_in *)name;

        name4->sin_family = AF_INET;
        name4->sin_port = to->port;
        memcpy(&name4->sin_addr, to->address, 4);
        return sizeof *name4;
    }
    name->sin6_family = AF_INET6;
    name->sin6_port = to->port;
    name->sin6_scope_id = to->scope;
    memcpy(&name->sin6_addr, to->address, 16);
    return sizeof *name;
}

int udp_has_source(const struct endpoint *to)
{
    static const uint8_t none[16];

    return memcmp(to->source, none, 16) != 0;
}

/* A message to the kernel under construction: a run of sealed messages. */
struct run {
    uint32_t first, count;
    uint64_t bytes;
};

/* The longest run that begins at messages[first]. */
static struct run run_of(const struct udp_message *messages, uint32_t first, uint32_t count, int trains)
{
    const struct udp_message *head = &messages[first];
    struct run run = { .first = first, .count = 1, .bytes = head->length };

    for (uint32_t i = first + 1; trains && i < count && run.count < SEGMENTS_MOST; i++) {
        if (messages[i].length > head->length || messages[i].ecn != head->ecn ||
            messages[i].hops != head->hops || run.bytes + messages[i].length > TRAIN_BYTES_MOST)
            break;
        run.count++;
        run.bytes += messages[i].length;
        if (messages[i].length < head->length)
            break;
    }
    return run;
}

static uint8_t *control_add(struct msghdr *h, int level, int type, const void *value, size_t bytes)
{
    struct cmsghdr *c = (struct cmsghdr *)((uint8_t *)h->msg_control + h->msg_controllen);

    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(bytes);
    h->msg_controllen += CMSG_SPACE(bytes);
    return memcpy(CMSG_DATA(c), value, bytes);
}

/* Control messages: source address, ECN bits, hop limit, GSO size. The interface is left to the routing table, packet
 * by packet (workers/control/routes.py). */
static void control_write(struct msghdr *h, uint8_t *control, const struct endpoint *to, int with_source,
                          int tos, int hops, uint16_t gso_size)
{
    int ip4 = to->family == AF_INET;

    h->msg_control = control;
    h->msg_controllen = 0;
    if (tos)
        control_add(h, ip4 ? IPPROTO_IP : IPPROTO_IPV6, ip4 ? IP_TOS : IPV6_TCLASS, &tos, sizeof tos);
    if (hops)
        control_add(h, ip4 ? IPPROTO_IP : IPPROTO_IPV6, ip4 ? IP_TTL : IPV6_HOPLIMIT, &hops, sizeof hops);
    if (gso_size)
        control_add(h, SOL_UDP, UDP_SEGMENT, &gso_size, sizeof gso_size);
    if (with_source && ip4) {
        struct in_pktinfo info = { .ipi_ifindex = 0 };

        memcpy(&info.ipi_spec_dst, to->source, 4);
        control_add(h, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    } else if (with_source) {
        struct in6_pktinfo info = { .ipi6_ifindex = 0 };

        memcpy(&info.ipi6_addr, to->source, 16);
        control_add(h, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    }
    if (!h->msg_controllen)
        h->msg_control = NULL;
}

void udp_header(struct msghdr *header, const struct endpoint *to, int with_source, uint8_t tos,
                struct sockaddr_in6 *name, uint8_t control[UDP_CONTROL_BYTES])
{
    *header = (struct msghdr){ .msg_name = name, .msg_namelen = endpoint_name(to, name) };
    control_write(header, control, to, with_source && udp_has_source(to), tos, 0, 0);
}

/* Elements for the run's bytes, messages that touch each other in one. Returns how many. */
static uint32_t vectors_write(struct iovec *vectors, const struct udp_message *messages, const struct run *run)
{
    uint32_t used = 0;

    for (uint32_t i = run->first; i < run->first + run->count; i++) {
        if (used && (uint8_t *)vectors[used - 1].iov_base + vectors[used - 1].iov_len == messages[i].data)
            vectors[used - 1].iov_len += messages[i].length;
        else
            vectors[used++] = (struct iovec){
                .iov_base = (void *)messages[i].data,
                .iov_len = messages[i].length,
            };
    }
    return used;
}

int udp_is_about_source(int error)
{
    return error == EINVAL || error == ENETUNREACH || error == ENODEV || error == EADDRNOTAVAIL ||
           error == EHOSTUNREACH;
}

int udp_has_room(int fd)
{
    struct pollfd writable = { .fd = fd, .events = POLLOUT };

    return poll(&writable, 1, 0) != 0;
}

void udp_send(int fd, const struct endpoint *to, const struct udp_message *messages,
              uint32_t count, int trains, int wait_ms, struct udp_sent *sent)
{
    struct mmsghdr headers[UDP_SEND_MOST];
    struct iovec vectors[UDP_SEND_MOST];
    struct run runs[UDP_SEND_MOST];
    _Alignas(struct cmsghdr) uint8_t control[UDP_SEND_MOST][UDP_CONTROL_BYTES];
    struct sockaddr_in6 name;
    socklen_t name_length = endpoint_name(to, &name);
    int with_source = udp_has_source(to);
    uint32_t next = 0;
    int waited = 0;

    memset(sent, 0, sizeof *sent);
    if (count > UDP_SEND_MOST)
        count = UDP_SEND_MOST;
    while (next < count) {
        uint32_t used = 0, elements = 0;
        int n;

        for (uint32_t i = next; i < count; i += runs[used++].count) {
            struct msghdr *h = &headers[used].msg_hdr;

            runs[used] = run_of(messages, i, count, trains);
            *h = (struct msghdr){ .msg_name = &name, .msg_namelen = name_length, .msg_iov = &vectors[elements] };
            h->msg_iovlen = vectors_write(&vectors[elements], messages, &runs[used]);
            elements += (uint32_t)h->msg_iovlen;
            control_write(h, control[used], to, with_source, messages[i].ecn & 3, messages[i].hops,
                          runs[used].count > 1 ? (uint16_t)messages[i].length : 0);
        }
        n = sendmmsg(fd, headers, used, MSG_DONTWAIT);
        if (n > 0) {
            for (int i = 0; i < n; i++) {
                sent->bytes += runs[i].bytes;
                sent->messages += runs[i].count;
                next += runs[i].count;
            }
            waited = 0;
        } else if (errno == EINTR) {
            continue;
        } else if ((errno == EAGAIN || errno == ENOBUFS) && wait_ms && !waited) {
            struct pollfd writable = { .fd = fd, .events = POLLOUT };

            poll(&writable, 1, wait_ms);
            waited = 1;
        } else if (runs[0].count > 1 && errno != EAGAIN && errno != ENOBUFS) {
            /* EIO: a device without checksum offload (before Linux 6.11), or IPsec on the way; EINVAL, EMSGSIZE:
             * a segment is larger than the route's MTU. One by one they may be sent. */
            sent->trains_refused |= errno == EIO || errno == EINVAL || errno == EMSGSIZE;
            trains = 0;
        } else if (with_source && udp_is_about_source(errno)) {
            /* The address the peer knew us by is gone: the route decides from here on. */
            with_source = 0;
            sent->source_refused = 1;
        } else {
            /* Only the first unsent one is refused; the next may be smaller, or the error was a
             * pending ICMP of an earlier one, now cleared. */
            if (errno == EAGAIN || errno == ENOBUFS)
                sent->full += runs[0].count;
            else
                sent->refused += runs[0].count;
            next += runs[0].count;
        }
    }
}
