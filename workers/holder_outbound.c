/* From the peer's outbound queue to the UDP socket: pop, seal in place, send, bring home. */
#include "engine/packet.h"
#include "shm/counters.h"
#include "shm/orders.h"
#include "shm/queue.h"
#include "workers/holder.h"
#include "workers/udp.h"

#include <netinet/in.h>
#include <string.h>

static void drop_nodes(const struct holder *holder, const uint32_t *numbers, uint32_t count, uint32_t counter)
{
    uint64_t packets = 0;

    for (uint32_t i = 0; i < count; i++) {
        packets += holder->segment->node[numbers[i]].packets;
        node_bring_home(holder->segment, numbers[i]);
    }
    holder_count(holder, counter, packets);
}

/* Sends sealed messages to the peer and notes bytes and refusals. */
static void send_to_peer(const struct holder *holder, uint32_t row, const struct udp_message *messages,
                         uint32_t count, uint32_t sent_counter)
{
    struct peer_row *peer = &holder->segment->rows[row];
    struct endpoint to;
    struct udp_sent sent;
    int fd;

    endpoint_load(holder->segment, row, &to);
    fd = to.family == AF_INET ? holder->udp4 : to.family == AF_INET6 ? holder->udp6 : -1;
    if (fd < 0) {
        holder_count(holder, to.family ? DROP_UDP_SEND : DROP_NO_ENDPOINT, count);
        return;
    }
    udp_send(fd, &to, messages, count, &sent);
    if (sent.source_refused) {
        memset(to.source, 0, sizeof to.source);
        to.source_ifindex = 0;
        endpoint_store(holder->segment, row, &to);
    }
    if (sent.bytes)
        __atomic_store_n(&peer->tx_bytes, peer->tx_bytes + sent.bytes, __ATOMIC_RELAXED);
    holder_count(holder, sent_counter, sent.messages);
    holder_count(holder, DROP_UDP_SEND, sent.refused);
}

uint32_t holder_seal_batch(const struct holder *holder, uint32_t row, uint64_t now)
{
    const struct segment *s = holder->segment;
    uint32_t numbers[SESSION_BATCH], kept[SESSION_BATCH];
    struct packet packets[SESSION_BATCH];
    struct udp_message messages[SESSION_BATCH];
    uint32_t count, used = 0;
    struct session session;

    count = queue_pop_sc(s, holder->mark, 2 * row + OUTBOUND, numbers, SESSION_BATCH, TAKE_BUDGET);
    if (!count)
        return 0;
    holder_session(holder, row, &session);
    for (uint32_t i = 0; i < count; i++) {
        struct node node;
        uint8_t *data = holder_node_read(s, numbers[i], DATA_HEADER_BYTES, &node);

        if (!data || !node.length || node.peer_generation != session.peer_generation) {
            drop_nodes(holder, &numbers[i], 1, DROP_PEER_GONE);
            continue;
        }
        packets[used] = (struct packet){ .data = data, .length = node.length };
        kept[used++] = numbers[i];
    }
    if (!used)
        return count;
    if (session_seal(&session, holder->aead, packets, used, now)) {
        /* The session ran out between the look and now. Their place in the order is gone. */
        drop_nodes(holder, kept, used, DROP_STAGED);
    } else {
        for (uint32_t i = 0; i < used; i++)
            messages[i] = (struct udp_message){ .data = packets[i].data, .length = packets[i].length,
                                                .ecn = packets[i].ecn };
        send_to_peer(holder, row, messages, used, UDP_SENT);
        for (uint32_t i = 0; i < used; i++)
            node_bring_home(s, kept[i]);
    }
    holder_tell(holder, row, session.news, 0);
    return count;
}

void holder_trim_staged(const struct holder *holder, uint32_t row, uint32_t keep, uint32_t counter)
{
    const struct segment *s = holder->segment;
    uint32_t queue = 2 * row + OUTBOUND;
    uint32_t numbers[SESSION_BATCH];
    uint32_t waiting;

    while ((waiting = queue_packets(s, queue)) > keep) {
        uint32_t surplus = waiting - keep;
        uint32_t count = queue_pop_sc(s, holder->mark, queue, numbers,
                                      surplus < SESSION_BATCH ? surplus : SESSION_BATCH, surplus);

        if (!count)
            break;
        drop_nodes(holder, numbers, count, counter);
    }
}

void holder_drop_all(const struct holder *holder, uint32_t row)
{
    uint32_t numbers[SESSION_BATCH];
    uint32_t count;

    for (uint32_t direction = 0; direction < DIRECTIONS; direction++)
        while ((count = queue_pop_sc(holder->segment, holder->mark, 2 * row + direction, numbers,
                                     SESSION_BATCH, QUEUE_LIMIT)))
            drop_nodes(holder, numbers, count, DROP_PEER_GONE);
}

void holder_send_keepalive(const struct holder *holder, uint32_t row, uint64_t now)
{
    uint8_t room[DATA_HEADER_BYTES + AEAD_TAG_BYTES];
    struct packet packet = { .data = room + DATA_HEADER_BYTES, .length = 0 };
    struct session session;

    holder_session(holder, row, &session);
    if (session_seal(&session, holder->aead, &packet, 1, now) == 0) {
        struct udp_message message = { .data = packet.data, .length = packet.length };

        send_to_peer(holder, row, &message, 1, KEEPALIVE_SENT);
    }
    /* Without a session the news asks for a handshake, as the kernel does. */
    holder_tell(holder, row, session.news, 0);
}
