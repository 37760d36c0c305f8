/* load: iperf3 -u spends a wake, a system call and a few looks at the clock on each datagram; on two cores
 * it loses some on a bare cable at rates that an engine bears. Here a tick's datagrams go out by sendmmsg, and
 * the receiver looks once a tick instead of being woken: a wake for each packet would be paid by the engine
 * that writes it, and measured as the engine's. */
#include "load.h"

#include "batch.h"

/* Send the datagrams from load->sent on, count of them. */
static int send_some(int fd, struct load *load, struct batch *batch, uint64_t count)
{
    while (count) {
        uint32_t size = count < BATCH ? (uint32_t)count : BATCH;
        for (uint32_t i = 0; i < size; i++) {
            uint64_t number = load->sent + i;
            memcpy(batch->data[i], &load->run, 8);
            memcpy(batch->data[i] + 8, &number, 8);
        }
        int error = batch_send(fd, batch, size);
        if (error) {
            load->error = (uint32_t)error;
            return -1;
        }
        load->sent += size;
        count -= size;
    }
    return 0;
}

int load_send(int fd, struct load *load)
{
    struct batch batch;
    if (load->bytes < LOAD_MIN_BYTES || load->bytes > MAX_BYTES || !load->rate || !load->tick_us) {
        load->error = EINVAL;
        __atomic_store_n(&load->done, 2, __ATOMIC_RELEASE);
        return -1;
    }
    batch_initialise(&batch, load->bytes);
    uint64_t tick = load->tick_us * 1000ull, start = now(), due = 0, last = start;
    uint64_t most = load->rate * CATCH_UP * load->tick_us / 1000000u + 1;
    int failed = 0;
    while (load->sent < load->packets && !failed) {
        sleep_until(last + tick);
        last = now();
        due = (last - start) * load->rate / 1000000000u;
        if (due > load->packets)
            due = load->packets;
        uint64_t behind = due > load->sent ? due - load->sent : 0;
        failed = send_some(fd, load, &batch, behind < most ? behind : most);
    }
    load->ns = now() - start;
    /* release: the receiver that sees it sees sent and ns too */
    __atomic_store_n(&load->done, failed ? 2 : 1, __ATOMIC_RELEASE);
    return failed;
}

/* Count what waits in the socket; returns how many were there, or -1. */
static int receive_waiting(int fd, struct load *load, uint64_t *seen, struct batch *batch)
{
    int all = 0;
    for (;;) {
        int got = recvmmsg(fd, batch->messages, BATCH, MSG_DONTWAIT, NULL);
        if (got < 0)
            return errno == EAGAIN || errno == EINTR ? all : -1;
        for (int i = 0; i < got; i++) {
            uint64_t run, number;
            memcpy(&run, batch->data[i], 8);
            memcpy(&number, batch->data[i] + 8, 8);
            if (batch->messages[i].msg_len != load->bytes || run != load->run || number >= load->packets)
                continue;
            uint64_t bit = 1ull << (number % 64);
            load->received += !(seen[number / 64] & bit);
            seen[number / 64] |= bit;
        }
        all += got;
    }
}

int load_receive(int fd, struct load *load, uint64_t *seen, uint32_t settle_us)
{
    struct batch batch;
    batch_initialise(&batch, MAX_BYTES);
    uint64_t tick = load->tick_us * 1000ull, quiet_since = now();
    for (;;) {
        /* acquire: read before the socket is looked at, so that nothing sent is counted as lost */
        int done = __atomic_load_n(&load->done, __ATOMIC_ACQUIRE) != 0;
        int got = receive_waiting(fd, load, seen, &batch);
        if (got < 0) {
            load->error = (uint32_t)errno;
            return -1;
        }
        uint64_t time = now();
        if (got || !done)
            quiet_since = time;
        else if (time - quiet_since > settle_us * 1000ull)
            return 0;
        sleep_until(time + tick);
    }
}
