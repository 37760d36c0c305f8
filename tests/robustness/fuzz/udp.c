/* udp: control messages as a kernel lays them out; and batches to be sent under every answer that the
 * kernel may give. Each message leaves once or is counted as refused, in order, in legal trains. */
#include "input.h"

#include "workers/udp.h"

#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>

#define TRAIN_BYTES_MOST 65507

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
int __wrap_poll(struct pollfd *fds, unsigned long count, int timeout);

static struct {
    struct input *input;
    struct udp_message messages[UDP_SEND_MOST];
    uint32_t count, next;   /* none before `next` may be offered again */
    uint32_t accepted;
} sending;

int __wrap_poll(struct pollfd *fds, unsigned long count, int timeout)
{
    must(count == 1 && fds->events == POLLOUT && timeout > 0 && timeout <= 100);
    return 0;
}

/* The segment size that a control message asks for, 0 for none; all of them well formed. */
static uint32_t control_segment(struct msghdr *h)
{
    uint32_t segment = 0;

    must(h->msg_controllen <= UDP_CONTROL_BYTES);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
        must(c->cmsg_len > CMSG_LEN(0) && (uint8_t *)c + c->cmsg_len <= (uint8_t *)h->msg_control + h->msg_controllen);
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_SEGMENT) {
            uint16_t value;

            memcpy(&value, CMSG_DATA(c), sizeof value);
            segment = value;
        }
    }
    return segment;
}

/* One system message stands for messages from `at` on; returns how many. */
static uint32_t check_message(struct msghdr *h, uint32_t at)
{
    uint32_t segment = control_segment(h), count = 0;
    size_t total = 0, seen = 0, inside = 0;

    for (size_t i = 0; i < h->msg_iovlen; i++)
        total += h->msg_iov[i].iov_len;
    for (size_t i = 0; i < h->msg_iovlen; i++)
        for (size_t byte = 0; byte < h->msg_iov[i].iov_len;) {
            const struct udp_message *message = &sending.messages[at + count];

            must(at + count < sending.count && message->ecn == sending.messages[at].ecn);
            must((uint8_t *)h->msg_iov[i].iov_base + byte == message->data + inside);
            byte += message->length;
            seen += message->length;
            count++;
            /* all of one size, the last may be shorter */
            must(message->length == segment || seen == total);
            must(!segment || message->length <= segment);
        }
    must((segment != 0) == (count > 1) && count <= 64 && (count == 1 || total <= TRAIN_BYTES_MOST));
    return count;
}

static uint32_t place_of(const void *data)
{
    uint32_t at = 0;

    while (at < sending.count && sending.messages[at].data != data)
        at++;
    return at;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    static const int errors[] = { EAGAIN, ENOBUFS, EINTR, EIO, EINVAL, ENETUNREACH, EPERM, EMSGSIZE, ECONNREFUSED };
    struct input *input = sending.input;
    uint32_t at = place_of(messages[0].msg_hdr.msg_iov[0].iov_base), done = 0;
    uint8_t answer = input->left ? take8(input) : 255;

    must(fd == 4 && flags == MSG_DONTWAIT && count >= 1 && at >= sending.next);
    sending.next = at;
    for (unsigned int i = 0; i < count; i++) {
        uint32_t carried = check_message(&messages[i].msg_hdr, at);

        at += carried;
        if (i < 1u + answer % 8 || answer >= 128)
            done += carried;
    }
    must(at == sending.count);
    if (answer < 64) {
        errno = errors[(size_t)answer % (sizeof errors / sizeof *errors)];
        return -1;
    }
    sending.next += done;
    sending.accepted += done;
    return answer >= 128 || count < 1u + answer % 8 ? (int)count : 1 + answer % 8;
}

static void send_batch(struct input *input)
{
    struct endpoint to = { .family = take8(input) & 1 ? AF_INET6 : AF_INET };
    int trains = take8(input) & 1, apart = take8(input) & 1;
    uint32_t bytes = 0;
    uint8_t *room;
    struct udp_sent sent;

    memset(&sending, 0, sizeof sending);
    if (take8(input) & 1)
        take_into(input, to.source, 16);
    sending.count = take_below(input, 129);
    if (sending.count == 128)
        sending.count = UDP_SEND_MOST;
    for (uint32_t i = 0; i < sending.count; i++) {
        uint8_t how = take8(input);

        sending.messages[i].length = how & 64 ? 1 + take16(input) % 9000 : i ? sending.messages[i - 1].length
                                                                             : 32;
        sending.messages[i].ecn = how & 128 ? 3 : 0;
        bytes += sending.messages[i].length + 1;
    }
    room = calloc(1, bytes + 1);
    for (uint32_t i = 0, at = 0; i < sending.count; i++) {
        sending.messages[i].data = room + at;
        at += sending.messages[i].length + (uint32_t)apart;
    }
    sending.input = input;
    udp_send(4, &to, sending.messages, sending.count, trains, 20 * trains, &sent);
    must(sent.messages + sent.full + sent.refused == sending.count && sent.messages == sending.accepted);
    must(sent.bytes <= bytes);
    free(room);
}

static void control_put(struct msghdr *h, int level, int type, struct input *input, size_t bytes)
{
    struct cmsghdr *c = (struct cmsghdr *)(void *)((uint8_t *)h->msg_control + h->msg_controllen);

    if (h->msg_controllen + CMSG_SPACE(bytes) > UDP_CONTROL_BYTES)
        return;
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(bytes);
    take_into(input, CMSG_DATA(c), bytes);
    h->msg_controllen += CMSG_SPACE(bytes);
}

static void control_messages(struct input *input)
{
    struct udp_inbox *inbox = calloc(1, sizeof *inbox);
    uint32_t i = take_below(input, UDP_BATCH), segment;
    struct msghdr *h = &inbox->headers[i].msg_hdr;
    struct endpoint from;
    uint8_t ecn;

    h->msg_control = inbox->control[i];
    for (int count = take8(input) % 6; count; count--)
        switch (take8(input) % 8) {
        case 0: control_put(h, IPPROTO_IP, IP_PKTINFO, input, sizeof(struct in_pktinfo)); break;
        case 1: control_put(h, IPPROTO_IPV6, IPV6_PKTINFO, input, sizeof(struct in6_pktinfo)); break;
        case 2: control_put(h, IPPROTO_IP, IP_TOS, input, 1); break;
        case 3: control_put(h, IPPROTO_IPV6, IPV6_TCLASS, input, 4); break;
        case 4: control_put(h, SOL_UDP, 104, input, 4); break;
        default: control_put(h, take8(input), take8(input), input, 4 + take_below(input, 60)); break;
        }
    take_into(input, &inbox->names[i], sizeof inbox->names[i]);
    segment = udp_sender(inbox, i, &from, &ecn);
    must(ecn <= 3 && segment <= INT32_MAX);
    must(from.family == AF_INET || from.family == AF_INET6);
    free(inbox);
}

void fuzz_one(struct input *input)
{
    if (take8(input) & 1)
        send_batch(input);
    else
        control_messages(input);
}
