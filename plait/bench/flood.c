/* flood: a peer that sends small packets as a full line would, whatever the gateway makes of them. No engine
 * stands at this end: its CPU would be another part of what is measured, and its rate another engine's. */
#include "flood.h"

#include "batch.h"
#include "sealed.h"

_Static_assert(BATCH <= SEALED_AT_ONCE, "a batch is sealed at once");

static void seal(struct flood *flood, struct aead *aead, struct batch *batch, uint32_t count)
{
    struct sealed sealed = {
        .key = flood->key,
        .inner = flood->inner,
        .inner_bytes = FLOOD_INNER_BYTES,
        .receiver = flood->receiver,
    };
    uint8_t *places[BATCH];
    for (uint32_t i = 0; i < count; i++)
        places[i] = batch->data[i];
    sealed_write(&sealed, aead, places, count, flood->sent);
}

static int send_some(int fd, struct flood *flood, struct aead *aead, struct batch *batch, uint64_t count)
{
    while (count) {
        uint32_t size = count < BATCH ? (uint32_t)count : BATCH;
        seal(flood, aead, batch, size);
        int error = batch_send(fd, batch, size);
        if (error) {
            flood->error = (uint32_t)error;
            return -1;
        }
        flood->sent += size;
        count -= size;
    }
    return 0;
}

int flood_send(int fd, struct flood *flood)
{
    struct batch batch;
    struct aead *aead = aead_new(-1);
    if (!aead || !flood->rate || !flood->tick_us) {
        flood->error = aead ? EINVAL : ENOSYS;
        aead_free(aead);
        return -1;
    }
    batch_initialise(&batch, DATA_OVERHEAD + FLOOD_INNER_BYTES);
    uint64_t tick = flood->tick_us * 1000ull, start = now(), last = start, skipped = 0;
    uint64_t most = flood->rate * CATCH_UP * flood->tick_us / 1000000u + 1;
    int failed = 0;
    while (!failed && !__atomic_load_n(&flood->stop, __ATOMIC_RELAXED)) {
        sleep_until(last + tick);
        last = now();
        uint64_t due = (last - start) * flood->rate / 1000000000u - skipped - flood->sent;
        if (due > most) {
            skipped += due - most;
            due = most;
        }
        failed = send_some(fd, flood, aead, &batch, due);
    }
    flood->ns = now() - start;
    aead_free(aead);
    return failed;
}
