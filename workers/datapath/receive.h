/* receive: one batch from a socket (receive_udp.c) or from a TUN queue (receive_tun.c). */
#ifndef WORKERS_DATAPATH_RECEIVE_H
#define WORKERS_DATAPATH_RECEIVE_H

#include "workers/datapath/intake.h"

/* Receives one batch. Returns the number of packets, or a negative errno. */
struct udp_inbox;
int32_t receive_udp(struct intake *intake, int fd, struct udp_inbox *inbox);
int32_t receive_tun(struct intake *intake, int fd, uint8_t *spill);

#endif
