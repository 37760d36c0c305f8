/* flow: one thread sends and counts, so that it is woken once a tick and needs no second core. It sends trains
 * and reads lengths alone (MSG_TRUNC, no byte is copied): a packet costs it a small part of what it costs an
 * engine. A window keeps the engine busy without filling its queues: nothing is lost that an engine can carry. */
#include "flow.h"

#include "batch.h"
#include "sealed.h"

#include <netinet/in.h>
#include <netinet/udp.h>

#define LOST_NS 20000000u
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

int flow_seal(uint8_t *messages, uint64_t count, const uint8_t key[32], uint32_t receiver, const uint8_t *inner,
              uint32_t inner_bytes)
{
    struct sealed sealed = { .key = key, .inner = inner, .inner_bytes = inner_bytes, .receiver = receiver };
    struct aead *aead = aead_new(-1);
    if (!aead)
        return -1;
    for (uint64_t done = 0; done < count;) {
        uint8_t *places[SEALED_AT_ONCE];
        uint32_t size = 0;
        for (; size < SEALED_AT_ONCE && done + size < count; size++)
            places[size] = messages + (done + size) * (inner_bytes + DATA_OVERHEAD);
        sealed_write(&sealed, aead, places, size, done);
        done += size;
    }
    aead_free(aead);
    return 0;
}

/* Lengths of the messages that one call has brought. */
struct arrivals {
    struct mmsghdr headers[BATCH];
    union {
        struct cmsghdr aligned;
        uint8_t bytes[CMSG_SPACE(sizeof(int))];
    } controls[BATCH];
};

/* Bytes of each datagram of a message: a train says it, else the message is one. */
static uint32_t datagram_bytes(struct mmsghdr *message)
{
    struct cmsghdr *control = CMSG_FIRSTHDR(&message->msg_hdr);
    int size;
    if (!control || control->cmsg_level != SOL_UDP || control->cmsg_type != UDP_GRO)
        return message->msg_len;
    memcpy(&size, CMSG_DATA(control), sizeof size);
    return (uint32_t)size;
}

/* Datagrams that were waiting, those of another size left out; -1 for an error. */
static int64_t count_waiting(int fd, uint32_t bytes)
{
    struct arrivals arrivals;
    int64_t found = 0;
    for (;;) {
        for (uint32_t i = 0; i < BATCH; i++)
            arrivals.headers[i].msg_hdr = (struct msghdr){
                .msg_control = &arrivals.controls[i],
                .msg_controllen = sizeof arrivals.controls[i],
            };
        int got = recvmmsg(fd, arrivals.headers, BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL);
        if (got < 0)
            return errno == EAGAIN || errno == EINTR ? found : -1;
        for (int i = 0; i < got; i++)
            if (datagram_bytes(&arrivals.headers[i]) == bytes)
                found += arrivals.headers[i].msg_len / bytes;
    }
}

/* Trains until the window is full or all are sent. 0, or -1 with error set. */
static int send_some(int fd, struct flow *flow, uint64_t on_their_way)
{
    while (flow->sent < flow->count && on_their_way + flow->train <= flow->window) {
        const uint8_t *train = flow->datagrams + flow->sent % flow->stored * flow->bytes;
        if (send(fd, train, (size_t)flow->train * flow->bytes, 0) < 0 && errno != ENOBUFS && errno != EAGAIN) {
            flow->error = (uint32_t)errno;
            return -1;
        }
        flow->sent += flow->train; /* what the kernel had no room for is lost like what is lost later */
        on_their_way += flow->train;
    }
    return 0;
}

int flow_run(int in, int out, struct flow *flow)
{
    if (!flow->train || !flow->stored || flow->stored % flow->train || flow->count % flow->train || !flow->bytes ||
        !flow->arriving_bytes || flow->window < flow->train || !flow->tick_us) {
        flow->error = EINVAL;
        return -1;
    }
    uint64_t start = now(), moved = start, last = start, lost = 0;
    for (;;) {
        int64_t found = count_waiting(out, flow->arriving_bytes);
        uint64_t time = now();
        if (found < 0) {
            flow->error = (uint32_t)errno;
            return -1;
        }
        if (found) {
            flow->received += (uint64_t)found;
            last = moved = time;
        }
        /* Some may come out after they were given up. */
        if (flow->sent - flow->received < lost || time - moved > LOST_NS) {
            lost = flow->sent - flow->received;
            moved = time;
        }
        uint64_t on_their_way = flow->sent - flow->received - lost;
        int is_over = flow->sent >= flow->count || time - start >= flow->most_ns;
        if (is_over && !on_their_way)
            break;
        if (!is_over && send_some(in, flow, on_their_way))
            return -1;
        sleep_until(time + flow->tick_us * 1000ull);
    }
    flow->ns = last - start;
    return 0;
}
