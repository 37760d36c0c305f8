/* udp: datagrams in and out of the outer sockets, in batches. */
#ifndef WORKERS_UDP_H
#define WORKERS_UDP_H

#include "shm/layout.h"

/* cdef begin */
#define UDP_BATCH 64
/* cdef end */

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define UDP_CONTROL_BYTES 96
/* What does not fit a small slot is received here first. */
#define UDP_SPILL_BYTES 65536

/* The receiving side's arrays, built once. Message i goes to places[i] (at most room[i]
 * bytes), the rest of a larger one to the i-th part of spill. */
struct udp_inbox {
    struct mmsghdr headers[UDP_BATCH];
    struct iovec vectors[UDP_BATCH][2];
    struct sockaddr_in6 names[UDP_BATCH];
    uint8_t control[UDP_BATCH][UDP_CONTROL_BYTES];
    uint8_t *spill;
};

int udp_inbox_open(struct udp_inbox *inbox);
void udp_inbox_close(struct udp_inbox *inbox);
/* Where message i is to be put before the next call. */
void udp_inbox_place(struct udp_inbox *inbox, uint32_t i, uint8_t *place, uint32_t room);
/* Receives up to count messages without waiting; returns how many, 0 when there are none or
 * the socket reported an error of its own (an ICMP from a peer; it is then cleared). */
uint32_t udp_receive(int fd, struct udp_inbox *inbox, uint32_t count);
/* Who sent message i, and to which of our addresses; *ecn the outer ECN bits. */
void udp_sender(const struct udp_inbox *inbox, uint32_t i, struct endpoint *from, uint8_t *ecn);

/* One message to be sent. */
struct udp_message {
    const uint8_t *data;
    uint32_t length;
    uint8_t ecn;
    uint8_t reserved[3];
};

struct udp_sent {
    uint32_t messages;        /* accepted by the kernel */
    uint64_t bytes;
    uint32_t refused;         /* not sent: each one lost and to be counted */
    uint32_t source_refused;  /* 1: the sticky source was not ours any more; sent without it */
};

/* Sends up to UDP_BATCH messages to one endpoint in order, waiting briefly when the socket's
 * buffer is full. */
void udp_send(int fd, const struct endpoint *to, const struct udp_message *messages,
              uint32_t count, struct udp_sent *sent);

#endif
