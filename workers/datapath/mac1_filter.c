/* Theory. Control keeps the key in two copies and counts its changes in `mac1_turn`, above the lowest
 * bit, which says whether there is a key at all; an odd or even count selects the copy. It writes the
 * other copy, then stores the next turn. As with a seqlock, a reader
 * checks the turn again after it has read the key: if the turn has moved, two changes may have overlapped
 * with the read, and the message is left to control. A control that is killed between its two stores has
 * changed nothing that readers look at. */
#include "workers/datapath/mac1_filter.h"

#include <string.h>

#include "engine/cookie.h"
#include "shm/fence.h"

#define HAS_KEY 1u

static uint8_t *selected(struct device *device, uint32_t turn)
{
    return device->mac1_keys[turn >> 1 & 1];
}

void mac1_filter_learn(const struct segment *segment, const uint8_t *mac1_key)
{
    struct device *device = segment->device;
    uint32_t turn = device->mac1_turn; /* our own word */

    if (!mac1_key) {
        __atomic_store_n(&device->mac1_turn, turn & ~HAS_KEY, __ATOMIC_RELEASE);
        return;
    }
    if (turn & HAS_KEY && memcmp(selected(device, turn), mac1_key, MAC1_KEY_BYTES) == 0)
        return;
    turn = (turn | HAS_KEY) + 2;
    fence_release(); /* whoever sees what follows of a copy sees that the turn had left it */
    memcpy(selected(device, turn), mac1_key, MAC1_KEY_BYTES);
    /* release: the copy is whole before it is selected */
    __atomic_store_n(&device->mac1_turn, turn, __ATOMIC_RELEASE);
}

int mac1_filter_refuses(const struct segment *segment, const uint8_t *message, uint32_t length)
{
    struct device *device = segment->device;
    uint32_t turn = __atomic_load_n(&device->mac1_turn, __ATOMIC_ACQUIRE); /* then the copy */
    uint8_t key[MAC1_KEY_BYTES];

    if (!(turn & HAS_KEY))
        return 0;
    memcpy(key, selected(device, turn), sizeof key);
    fence_acquire(); /* the copy, then the second look */
    if (__atomic_load_n(&device->mac1_turn, __ATOMIC_RELAXED) != turn)
        return 0;
    return handshake_mac1_differs(key, message, length);
}
