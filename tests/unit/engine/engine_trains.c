/* engine_trains: super-packets and trains of anybody's making, each in a buffer of exactly its size.
 * What can be joined must be cut into the same again. usage: engine_trains [rounds] */
#include "tests/support/check.h"

#include "engine/coalescing.h"
#include "engine/packet.h"
#include "engine/segmentation.h"

#include <string.h>

#define MOST 600

static uint64_t seed = 11;

static uint8_t *random_bytes(uint32_t length)
{
    uint8_t *bytes = malloc(length);

    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(draw(&seed) >> 56);
    return bytes;
}

static void store_be16(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

/* Bytes that look like TCP or UDP over IP as far as there is room. */
static uint8_t *plausible_bytes(uint32_t length, uint32_t *transport)
{
    uint8_t *bytes = random_bytes(length);
    int v4 = (int)draw_below(&seed, 2), tcp = (int)draw_below(&seed, 2);
    uint32_t ip = v4 ? 20 + (draw_below(&seed, 4) ? 0 : 4 * draw_below(&seed, 11)) : 40;

    *transport = ip;
    if (length < 40)
        return bytes;
    bytes[0] = v4 ? (uint8_t)(0x40 | ip / 4) : 0x60;
    store_be16(bytes + (v4 ? 2 : 4), v4 ? length : length - 40);
    bytes[v4 ? 9 : 6] = tcp ? 6 : 17;
    if (v4)
        store_be16(bytes + 6, draw_below(&seed, 4) ? 0x4000 : 0);
    if (length > ip + 20 && tcp) {
        bytes[ip + 12] = (uint8_t)((5 + (draw_below(&seed, 3) ? 0 : draw_below(&seed, 11))) << 4);
        bytes[ip + 13] = 0x10;
    } else if (length > ip + 20) {
        store_be16(bytes + ip + 4, length - ip);
    }
    return bytes;
}

static uint16_t field(void)
{
    return (uint16_t)(draw_below(&seed, 4) ? draw_below(&seed, 80) : draw_below(&seed, 65536));
}

/* Cuts out each packet if there are few, else some, into room of exactly what the plan says. */
static void cut_and_compare(const struct super_packet *super, const struct segmentation *plan)
{
    uint32_t bytes = 0, step = plan->packets > 64 ? plan->packets / 16 : 1;

    check(plan->packets >= 1 && plan->largest <= super->length + plan->header);
    for (uint32_t which = 0; which < plan->packets; which += step) {
        uint8_t *out = malloc(plan->largest);
        uint32_t length = segmentation_cut(super, plan, which, out);

        check(length <= plan->largest && length > plan->header);
        if (plan->header)
            check(!memcmp(out + plan->header, super->data + plan->header + which * super->gso_size,
                          length - plan->header));
        bytes += length - plan->header;
        free(out);
    }
    check(step > 1 || bytes == super->length - plan->header);
}

static void super_packets(void)
{
    uint32_t length = draw_below(&seed, 16) ? draw_below(&seed, MOST) : draw_below(&seed, 65536), transport;
    uint8_t *data = plausible_bytes(length, &transport);
    struct super_packet super = { .data = data, .length = length };
    struct segmentation plan;

    super.flags = draw_below(&seed, 3) ? VNET_NEEDS_CSUM : (uint8_t)draw(&seed);
    super.gso_type = (uint8_t)(draw_below(&seed, 8) ? draw_below(&seed, 6) : draw(&seed));
    super.gso_size = field();
    super.checksum_start = draw_below(&seed, 3) ? (uint16_t)transport : field();
    super.checksum_offset = draw_below(&seed, 3) ? 6 : field();
    if (segmentation_plan(&super, &plan) == 0)
        cut_and_compare(&super, &plan);
    free(data);
}

/* A flow's train, cut from a super-packet, so that sums are right; then some of it is damaged. */
static uint32_t train_write(struct packet *packets, uint32_t most)
{
    uint32_t transport, count = 0;
    uint32_t length = 80 + draw_below(&seed, draw_below(&seed, 8) ? 2000 : 65000);
    uint8_t *data = plausible_bytes(length, &transport);
    struct segmentation plan;
    struct super_packet super = {
        .data = data,
        .length = length,
        .flags = VNET_NEEDS_CSUM,
        .gso_size = (uint16_t)(1 + draw_below(&seed, 300)),
        .checksum_start = (uint16_t)transport,
    };

    super.gso_type = data[data[0] >> 4 == 4 ? 9 : 6] == 17 ? VNET_GSO_UDP_L4
                     : data[0] >> 4 == 4                   ? VNET_GSO_TCPV4
                                                           : VNET_GSO_TCPV6;
    if (segmentation_plan(&super, &plan) == 0)
        for (; count < plan.packets && count < most; count++) {
            uint8_t *room = malloc(plan.largest);
            uint32_t bytes = segmentation_cut(&super, &plan, count, room);

            packets[count] = (struct packet){ .data = memcpy(malloc(bytes), room, bytes), .length = bytes };
            free(room);
        }
    free(data);
    return count;
}

/* What a session lets through: whole headers, the length that they give. */
static int is_delivered(struct packet *packet)
{
    const uint8_t *source;
    uint32_t trimmed;
    uint8_t *exact;

    if (!packet_source(packet->data, packet->length, &source, &trimmed))
        return 0;
    exact = memcpy(malloc(trimmed), packet->data, trimmed);
    free(packet->data);
    *packet = (struct packet){ .data = exact, .length = trimmed };
    return 1;
}

static void join_and_cut(struct packet *packets, uint32_t count)
{
    struct joined joined;
    uint8_t *before = memcpy(malloc(packets[0].length), packets[0].data, packets[0].length), *whole;
    struct super_packet super;
    struct segmentation plan;
    uint32_t at;

    coalescing_join(packets, count, JOIN_TCP | JOIN_UDP, &joined);
    check(joined.packets >= 1 && joined.packets <= count);
    check(joined.gso_type != VNET_GSO_UDP_L4 || joined.packets <= 64);
    if (joined.packets == 1) {
        check(!memcmp(before, packets[0].data, packets[0].length) && joined.length == packets[0].length);
        free(before);
        return;
    }
    check(joined.length <= 65535 && joined.header < packets[0].length);
    whole = malloc(joined.length);
    memcpy(whole, packets[0].data, at = packets[0].length);
    for (uint32_t i = 1; i < joined.packets; i++) {
        memcpy(whole + at, packets[i].data + joined.header, packets[i].length - joined.header);
        at += packets[i].length - joined.header;
    }
    check(at == joined.length);
    super = (struct super_packet){
        .data = whole,
        .length = at,
        .flags = joined.flags,
        .gso_type = joined.gso_type,
        .gso_size = joined.gso_size,
        .checksum_start = joined.checksum_start,
        .checksum_offset = joined.checksum_offset,
    };
    check(segmentation_plan(&super, &plan) == 0);
    check(plan.packets == joined.packets && plan.header == joined.header);
    for (uint32_t i = 0; i < plan.packets; i++) {
        uint8_t *out = malloc(plan.largest);
        const uint8_t *was = i ? packets[i].data : before;

        check(segmentation_cut(&super, &plan, i, out) == packets[i].length);
        /* ids where fragments are forbidden are not kept, so neither is the sum over them */
        if (out[0] >> 4 == 4 && out[6] & 0x40) {
            memcpy(out + 4, was + 4, 2);
            memcpy(out + 10, was + 10, 2);
        }
        check(!memcmp(out, was, packets[i].length));
        free(out);
    }
    free(whole);
    free(before);
}

static void trains(void)
{
    struct packet packets[SESSION_BATCH];
    uint32_t count = 0;

    for (uint32_t i = 1 + draw_below(&seed, 3); i && count < SESSION_BATCH; i--)
        count += train_write(packets + count, 1 + draw_below(&seed, SESSION_BATCH - count));
    for (uint32_t i = draw_below(&seed, 4); i && count; i--) {
        struct packet *packet = &packets[draw_below(&seed, count)];
        uint32_t headers = packet->length < 60 ? packet->length : 60;

        packet->data[draw_below(&seed, draw_below(&seed, 2) ? headers : packet->length)] ^=
            (uint8_t)(1u << draw_below(&seed, 8));
    }
    if (count && draw_below(&seed, 4) == 0) {
        struct packet *packet = &packets[draw_below(&seed, count)];

        free(packet->data);
        *packet = (struct packet){ .length = draw_below(&seed, 100) };
        packet->data = random_bytes(packet->length);
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (is_delivered(&packets[i]))
            packets[kept++] = packets[i];
        else
            free(packets[i].data);
    }
    for (uint32_t i = 0; i < kept; i += 1 + draw_below(&seed, 40))
        join_and_cut(packets + i, kept - i);
    for (uint32_t i = 0; i < kept; i++)
        free(packets[i].data);
}

int main(int count, char **words)
{
    uint32_t rounds = count > 1 ? (uint32_t)strtoul(words[1], NULL, 10) : 4000;

    for (uint32_t i = 0; i < rounds; i++) {
        super_packets();
        trains();
    }
    return 0;
}
