#include "workers/control/endpoints.h"

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "shm/fence.h"
#include "shm/orders.h"
#include "shm/schedule.h"

static const uint8_t no_source[sizeof((struct endpoint *)0)->source];

/* Family, port, zone and address: what of an endpoint may wait, in words. */
#define PLACE_BYTES offsetof(struct endpoint, source)
_Static_assert(PLACE_BYTES == sizeof((struct peer_row *)0)->pending_endpoint, "an endpoint that waits is a place");

static uint64_t *pending(const struct segment *segment, uint32_t row)
{
    return segment->rows[row].pending_endpoint;
}

static int is_ordered(const struct segment *segment, uint32_t row)
{
    return (orders_read(segment, row) & ORDER_ENDPOINT) != 0;
}

/* The first word last: a kill in between leaves nothing that waits, or all of it. */
static void keep(uint64_t *words, const struct endpoint *endpoint)
{
    uint64_t place[3];

    memcpy(place, endpoint, sizeof place);
    __atomic_store_n(&words[0], 0, __ATOMIC_RELAXED);
    fence_release();
    __atomic_store_n(&words[1], place[1], __ATOMIC_RELAXED);
    __atomic_store_n(&words[2], place[2], __ATOMIC_RELAXED);
    __atomic_store_n(&words[0], place[0], __ATOMIC_RELEASE);
}

static int is_there(const struct endpoint *present, const struct endpoint *wanted)
{
    uint64_t bytes = memcmp(wanted->source, no_source, sizeof no_source) ? sizeof *wanted : PLACE_BYTES;

    return memcmp(present, wanted, bytes) == 0;
}

void endpoint_read(const struct segment *segment, uint32_t row, struct endpoint *endpoint)
{
    if (*pending(segment, row)) {
        memset(endpoint, 0, sizeof *endpoint);
        memcpy(endpoint, pending(segment, row), PLACE_BYTES);
    } else if (is_ordered(segment, row)) {
        *endpoint = segment->rows[row].ordered_endpoint;
    } else {
        endpoint_load(segment, row, endpoint);
    }
}

enum endpoint_moved endpoint_move(const struct segment *segment, uint32_t row, const struct endpoint *endpoint)
{
    struct endpoint present;

    endpoint_read(segment, row, &present);
    if (is_there(&present, endpoint))
        return *pending(segment, row) ? ENDPOINT_WAITS : ENDPOINT_STAYS;
    if (is_ordered(segment, row)) {
        keep(pending(segment, row), endpoint);
        return ENDPOINT_WAITS;
    }
    endpoint_forget(segment, row);
    segment->rows[row].ordered_endpoint = *endpoint;
    return ENDPOINT_ORDERED;
}

int endpoint_move_waiting(const struct segment *segment, uint32_t row)
{
    struct endpoint waiting;

    if (*pending(segment, row) && is_ordered(segment, row))
        return 0;
    endpoint_read(segment, row, &waiting);
    if (*pending(segment, row) && (waiting.family == AF_INET || waiting.family == AF_INET6)) {
        segment->rows[row].ordered_endpoint = waiting;
        orders_give(segment, row, ORDER_ENDPOINT);
        peer_schedule(segment, row);
    }
    endpoint_forget(segment, row);
    return 1;
}

void endpoint_forget(const struct segment *segment, uint32_t row)
{
    __atomic_store_n(pending(segment, row), 0, __ATOMIC_RELAXED);
}
