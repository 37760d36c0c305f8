/* peer_show: live peers as the text of a `get`, a buffer at a time. */
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/uapi/text.h"
#include "workers/control/endpoints.h"
#include "workers/control/peer_table.h"

static void name_zone(const struct endpoint *endpoint, char zone[IF_NAMESIZE])
{
    zone[0] = 0;
    if (endpoint->scope && !if_indextoname(endpoint->scope, zone))
        snprintf(zone, IF_NAMESIZE, "%u", endpoint->scope);
}

#define NUMBER(place, key, field, most) peer->field,

/* The row's word may be anything. */
static const char *why_out(uint32_t ran_out)
{
    return ran_out == RAN_OUT_QUOTA ? "quota" : ran_out == RAN_OUT_EXPIRED ? "expired"
                                                                           : NULL;
}

static uint32_t write_peer(const struct peer_table *table, uint32_t row, char *text)
{
    const struct peer_row *peer = &table->segment->rows[row];
    struct endpoint endpoint;
    char zone[IF_NAMESIZE];
    uint64_t sec = __atomic_load_n(&peer->handshake_sec, __ATOMIC_RELAXED);
    uint32_t nsec = __atomic_load_n(&peer->handshake_nsec, __ATOMIC_RELAXED);
    /* Any worker may write the row, and wg refuses the whole answer for a time that is none. */
    int is_time = sec <= INT64_MAX && nsec < 1000000000;

    uint8_t name[NAME_MOST];

    endpoint_read(table->segment, row, &endpoint);
    name_zone(&endpoint, zone);
    struct uapi_shown shown = {
        .public_key = peer->public_key,
        .preshared_key = table->vault[row].preshared_key,
        .address = endpoint.address,
        .zone = zone,
        .address_bytes = endpoint.family == AF_INET ? 4 : endpoint.family == AF_INET6 ? 16
                                                                                      : 0,
        .port = (uint32_t)(((uint8_t *)&endpoint.port)[0] << 8 | ((uint8_t *)&endpoint.port)[1]),
        .handshake_sec = is_time ? sec : 0,
        .handshake_nsec = is_time ? nsec : 0,
        .tx_bytes = __atomic_load_n(&peer->tx_bytes, __ATOMIC_RELAXED) + peer->handshake_tx,
        .rx_bytes = __atomic_load_n(&peer->rx_bytes, __ATOMIC_RELAXED) + peer->handshake_rx,
        .numbers = { UAPI_NUMBERS(NUMBER) },
        .name = name,
        .name_bytes = table_load_name(table, row, name),
        .ran_out = why_out(__atomic_load_n(&peer->ran_out, __ATOMIC_RELAXED)),
    };
    return uapi_write_peer(text, &shown);
}

/* 1 when all of the peer is written. */
static int write_some(const struct peer_table *table, struct peer_show *show, char *text, uint64_t bytes,
                      uint64_t *used)
{
    const struct allowedips *ips = table->ips;

    if (!show->is_inside) {
        if (bytes - *used < UAPI_PEER_TEXT)
            return 0;
        *used += write_peer(table, show->row, text + *used);
        show->is_inside = 1;
        show->place.number = table->vault[show->row].first_allowed;
    }
    while (show->place.number) {
        const struct trie_node *node = &ips->nodes[show->place.number];
        if (bytes - *used < UAPI_ALLOWED_TEXT)
            return 0;
        *used += uapi_write_allowed(text + *used, node->address, node->bits == 32 ? 32 : 128, node->cidr);
        show->place.number = node->peer_next;
    }
    show->is_inside = 0;
    return 1;
}

uint64_t table_show(const struct peer_table *table, struct peer_show *show, uint32_t last, char *text,
                    uint64_t bytes)
{
    uint64_t used = 0;

    for (; show->row < last; show->row++)
        if ((show->is_inside || table->segment->rows[show->row].state == PEER_LIVE) &&
            !write_some(table, show, text, bytes, &used))
            break;
    return used;
}
