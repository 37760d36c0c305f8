/* A batch in which nobody was found: no pointer may be made of its row, 0xffffffff. The rows of this
 * segment lie at the end of the address space, so that UBSan sees such a pointer wrap. */
#include "engine/keypair.h"
#include "workers/control/handshake_batch.h"

#include <stdio.h>

int main(void)
{
    static struct keypair keypairs[1];
    struct segment segment = {
        .rows = (struct peer_row *)(UINTPTR_MAX - PEER_ROW_BYTES + 1),
        .keypairs = (uint8_t *)keypairs,
    };
    struct handshake handshakes[2] = { { .result = HANDSHAKE_PASSED_OVER }, { .result = HANDSHAKE_STATIC_TAG } };
    uint32_t rows[2] = { UINT32_MAX, UINT32_MAX }, numbers[2] = { 0, 0 }, orders[2] = { 0, 0 };

    batch_install(&segment, handshakes, rows, numbers, orders, 2, 1, 0);
    puts("no pointer of nobody's");
    return 0;
}
