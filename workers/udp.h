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

#define UDP_CONTROL_BYTES 128
/* What does not fit a small slot is received here first. */
#define UDP_SPILL_BYTES 65536

/* The receiving side's arrays, built once. The start of message i goes to its place, the rest
 * of a larger one to its rest: a train slot, or the i-th part of spill. */
struct udp_inbox {
    struct mmsghdr headers[UDP_BATCH];
    struct iovec vectors[UDP_BATCH][2];
    struct sockaddr_in6 names[UDP_BATCH];
    uint8_t control[UDP_BATCH][UDP_CONTROL_BYTES];
    uint8_t *spill;
};

int udp_inbox_open(struct udp_inbox *inbox);
void udp_inbox_close(struct udp_inbox *inbox);
/* Where message i is to be put in the next call: `room` bytes at place, the rest at rest, which
 * has room for UDP_SPILL_BYTES (NULL: in spill). */
void udp_inbox_place(struct udp_inbox *inbox, uint32_t i, uint8_t *place, uint32_t room, uint8_t *rest);
/* Receives up to count messages without waiting; returns how many, 0 when there are none or
 * the socket reported an error of its own (an ICMP from a peer; it is then cleared). */
uint32_t udp_receive(int fd, struct udp_inbox *inbox, uint32_t count);
/* Who sent message i, and to which of our addresses; *ecn the outer ECN bits; returns the bytes
 * of each datagram of a train (UDP_GRO), 0 where one came alone. */
uint32_t udp_sender(const struct udp_inbox *inbox, uint32_t i, struct endpoint *from, uint8_t *ecn);

/* Name and control messages of one to `to`, with all of TOS or traffic class. */
void udp_header(struct msghdr *header, const struct endpoint *to, int with_source, uint8_t tos,
                struct sockaddr_in6 *name, uint8_t control[UDP_CONTROL_BYTES]);
int udp_has_source(const struct endpoint *to);
/* Whether the errno says that the source address is not ours (any more). */
int udp_is_about_source(int error);

/* One message to be sent. */
struct udp_message {
    const uint8_t *data;
    uint32_t length;
    uint8_t ecn;
    uint8_t hops;             /* hop limit; 0: the host's */
    uint8_t reserved[2];
};

struct udp_sent {
    uint32_t messages;        /* accepted by the kernel */
    uint64_t bytes;
    uint32_t full;            /* lost because the socket's buffer stayed full, to be counted */
    uint32_t refused;         /* lost for another reason, likewise */
    uint32_t source_refused;  /* 1: the sticky source was not ours any more; sent without it */
    uint32_t trains_refused;  /* 1: the way to this endpoint takes no trains (of this size) now */
};

#define UDP_SEND_MOST 256

/* Sends up to UDP_SEND_MOST messages to one endpoint in order, neighbours of one size as a train
 * (UDP_SEGMENT) if trains is 1, waiting once for so long (ms) when the socket's buffer is full. */
void udp_send(int fd, const struct endpoint *to, const struct udp_message *messages,
              uint32_t count, int trains, int wait_ms, struct udp_sent *sent);
/* Whether the socket has room for a batch, or an error to tell: 0 means that a send would wait. */
int udp_has_room(int fd);

#endif
