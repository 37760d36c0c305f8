/* Sender and receiver of the bench over loopback, for the sanitizers: two threads that share one struct load. */
#include "plait/bench/load.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>

#define PACKETS 3000u

static struct load load = { .run = 7, .bytes = 1500, .tick_us = 500, .rate = 100000, .packets = PACKETS };
static int sender, receiver;

static void *send_all(void *nothing)
{
    (void)nothing;
    return load_send(sender, &load) ? &load : NULL;
}

int main(void)
{
    struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t length = sizeof(here);
    int room = 1 << 24;
    uint64_t seen[(PACKETS + 63) / 64] = { 0 };
    pthread_t thread;
    void *failed;
    sender = socket(AF_INET, SOCK_DGRAM, 0);
    receiver = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(receiver, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    if (bind(receiver, (struct sockaddr *)&here, sizeof(here)) ||
        getsockname(receiver, (struct sockaddr *)&here, &length) ||
        connect(sender, (struct sockaddr *)&here, sizeof(here)) || pthread_create(&thread, NULL, send_all, NULL))
        return 1;
    int counted = load_receive(receiver, &load, seen, 100000);
    pthread_join(thread, &failed);
    printf("sent %llu received %llu\n", (unsigned long long)load.sent, (unsigned long long)load.received);
    return counted || failed || load.sent != PACKETS || load.received == 0 || load.received > PACKETS;
}
