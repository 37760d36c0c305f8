/* Theory. A receive call brings up to 64 datagrams, each with its sender (msg_name), the
 * address of ours that it was sent to and the outer ECN bits (control messages). A send call
 * takes up to 64 sealed messages to one endpoint. ECN differs from message to message, so the
 * control messages do; there are four of them, built once a call. */
#include "workers/udp.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A full socket buffer drains within microseconds on any live link; a link that does not in
 * this time loses packets, as a full device queue would. */
#define SEND_WAIT_MS 20

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

void udp_inbox_place(struct udp_inbox *inbox, uint32_t i, uint8_t *place, uint32_t room)
{
    inbox->vectors[i][0].iov_base = place;
    inbox->vectors[i][0].iov_len = room;
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

void udp_sender(const struct udp_inbox *inbox, uint32_t i, struct endpoint *from, uint8_t *ecn)
{
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
        }
    }
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

static int endpoint_has_source(const struct endpoint *to)
{
    static const uint8_t none[16];

    return memcmp(to->source, none, 16) != 0;
}

/* Control messages for replies from the address the peer knows, and for the ECN bits.
 * Returns their length. */
static size_t control_write(uint8_t *control, const struct endpoint *to, int with_source, uint8_t ecn)
{
    struct msghdr h = { .msg_control = control, .msg_controllen = UDP_CONTROL_BYTES };
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);
    int ip4 = to->family == AF_INET;
    int tos = ecn;
    size_t length = 0;

    memset(control, 0, UDP_CONTROL_BYTES);
    if (ecn) {
        c->cmsg_level = ip4 ? IPPROTO_IP : IPPROTO_IPV6;
        c->cmsg_type = ip4 ? IP_TOS : IPV6_TCLASS;
        c->cmsg_len = CMSG_LEN(sizeof tos);
        memcpy(CMSG_DATA(c), &tos, sizeof tos);
        length += CMSG_SPACE(sizeof tos);
        c = (struct cmsghdr *)(control + length);
    }
    if (with_source && ip4) {
        struct in_pktinfo info = { .ipi_ifindex = (int)to->source_ifindex };

        memcpy(&info.ipi_spec_dst, to->source, 4);
        c->cmsg_level = IPPROTO_IP;
        c->cmsg_type = IP_PKTINFO;
        c->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(c), &info, sizeof info);
        length += CMSG_SPACE(sizeof info);
    } else if (with_source) {
        struct in6_pktinfo info = { .ipi6_ifindex = to->source_ifindex };

        memcpy(&info.ipi6_addr, to->source, 16);
        c->cmsg_level = IPPROTO_IPV6;
        c->cmsg_type = IPV6_PKTINFO;
        c->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(c), &info, sizeof info);
        length += CMSG_SPACE(sizeof info);
    }
    return length;
}

void udp_send(int fd, const struct endpoint *to, const struct udp_message *messages,
              uint32_t count, struct udp_sent *sent)
{
    struct mmsghdr headers[UDP_BATCH];
    struct iovec vectors[UDP_BATCH];
    _Alignas(struct cmsghdr) uint8_t control[4][UDP_CONTROL_BYTES];
    size_t control_length[4];
    struct sockaddr_in6 name;
    socklen_t name_length = endpoint_name(to, &name);
    int with_source = endpoint_has_source(to);
    uint32_t done = 0;
    int waited = 0;

    memset(sent, 0, sizeof *sent);
    if (count > UDP_BATCH)
        count = UDP_BATCH;
    for (uint8_t ecn = 0; ecn < 4; ecn++)
        control_length[ecn] = control_write(control[ecn], to, with_source, ecn);
    memset(headers, 0, count * sizeof headers[0]);
    for (uint32_t i = 0; i < count; i++) {
        struct msghdr *h = &headers[i].msg_hdr;

        vectors[i].iov_base = (void *)messages[i].data;
        vectors[i].iov_len = messages[i].length;
        h->msg_iov = &vectors[i];
        h->msg_iovlen = 1;
        h->msg_name = &name;
        h->msg_namelen = name_length;
        h->msg_control = control_length[messages[i].ecn & 3] ? control[messages[i].ecn & 3] : NULL;
        h->msg_controllen = control_length[messages[i].ecn & 3];
    }
    while (done < count) {
        int n = sendmmsg(fd, headers + done, count - done, MSG_DONTWAIT);

        if (n > 0) {
            for (int i = 0; i < n; i++)
                sent->bytes += messages[done + (uint32_t)i].length;
            sent->messages += (uint32_t)n;
            done += (uint32_t)n;
            waited = 0;
        } else if (errno == EINTR) {
            continue;
        } else if ((errno == EAGAIN || errno == ENOBUFS) && !waited) {
            struct pollfd writable = { .fd = fd, .events = POLLOUT };

            poll(&writable, 1, SEND_WAIT_MS);
            waited = 1;
        } else if (with_source && (errno == EINVAL || errno == ENETUNREACH || errno == ENODEV ||
                                   errno == EADDRNOTAVAIL || errno == EHOSTUNREACH)) {
            /* The address the peer knew us by is gone: the route decides from here on. */
            with_source = 0;
            sent->source_refused = 1;
            for (uint8_t ecn = 0; ecn < 4; ecn++)
                control_length[ecn] = control_write(control[ecn], to, 0, ecn);
            for (uint32_t i = done; i < count; i++) {
                uint8_t ecn = messages[i].ecn & 3;

                headers[i].msg_hdr.msg_control = control_length[ecn] ? control[ecn] : NULL;
                headers[i].msg_hdr.msg_controllen = control_length[ecn];
            }
        } else {
            /* Only the first unsent message is refused; the next may be smaller, or the
             * error was a pending ICMP of an earlier one, now cleared. */
            sent->refused++;
            done++;
        }
    }
}
