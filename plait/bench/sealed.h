/* sealed: data messages of one session, all with the same packet inside. */
#ifndef PLAIT_BENCH_SEALED_H
#define PLAIT_BENCH_SEALED_H

#include <string.h>

#include "engine/aead.h"
#include "engine/packet.h"

#define SEALED_AT_ONCE 64u

struct sealed {
    const uint8_t *key;
    const uint8_t *inner;
    uint32_t inner_bytes;
    uint32_t receiver; /* receiver index that the gateway gave */
};

/* Messages counter, counter + 1, …, one at each of the places; count: SEALED_AT_ONCE at most. */
static inline void sealed_write(const struct sealed *sealed, struct aead *aead, uint8_t *const *places,
                                uint32_t count, uint64_t counter)
{
    struct aead_job jobs[SEALED_AT_ONCE];
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *packet = places[i] + DATA_HEADER_BYTES;
        data_header_write(places[i], sealed->receiver, counter + i);
        memcpy(packet, sealed->inner, sealed->inner_bytes);
        jobs[i] = (struct aead_job){
            .data = packet,
            .length = sealed->inner_bytes,
            .counter = counter + i,
            .key = sealed->key,
        };
    }
    aead_seal(aead, jobs, count);
}

#endif
