/* coalescing: what was joined can be cut again into the same packets.
 *
 * The input describes packets, each as changes to the one before, since packets of nothing but chance
 * are never joined; sums are made right unless the input wants them wrong. */
#include "input.h"

#include "engine/checksum.h"
#include "engine/coalescing.h"
#include "engine/packet.h"
#include "engine/segmentation.h"

#define PACKETS 80
#define BYTES_MOST 1600

static void store16(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

static void add32(uint8_t *number, uint32_t more)
{
    uint32_t value = (uint32_t)number[0] << 24 | (uint32_t)number[1] << 16 | (uint32_t)number[2] << 8 | number[3];

    value += more;
    store16(number, value >> 16);
    store16(number + 2, value & 0xffff);
}

static void store_sum(uint8_t *to, uint64_t sum)
{
    uint16_t value = (uint16_t)~checksum_fold(sum);

    memcpy(to, &value, 2);
}

struct shape {
    uint8_t bytes[BYTES_MOST];
    uint32_t length, ip, header;
};

/* Lengths and sums as the headers want them. */
static void finish(struct shape *shape)
{
    uint8_t *p = shape->bytes, *transport = p + shape->ip;
    uint32_t rest = shape->length - shape->ip;
    int tcp = p[shape->ip == 20 ? 9 : 6] == 6;

    if (shape->ip == 20) {
        store16(p + 2, shape->length);
        p[10] = p[11] = 0;
        store_sum(p + 10, checksum_add(0, p, 20));
    } else {
        store16(p + 4, rest);
    }
    if (!tcp)
        store16(transport + 4, rest);
    memset(transport + (tcp ? 16 : 6), 0, 2);
    store_sum(transport + (tcp ? 16 : 6), checksum_add(checksum_pseudo(p, rest, tcp ? 6 : 17), transport, rest));
    if (!tcp && !transport[6] && !transport[7])
        transport[6] = transport[7] = 0xff;
}

static void begin(struct input *input, struct shape *shape)
{
    uint8_t kind = take8(input);
    int v4 = kind & 1, tcp = kind >> 1 & 1;
    uint32_t options = tcp ? 4 * (kind >> 4 & 7) : 0;
    uint8_t *p = shape->bytes;

    memset(p, 0, 100);
    shape->ip = v4 ? 20 : 40;
    shape->header = shape->ip + (tcp ? 20 + options : 8);
    p[0] = v4 ? 0x45 : 0x60;
    p[v4 ? 9 : 6] = tcp ? 6 : 17;
    if (v4)
        p[6] = kind & 4 ? 0x40 : 0;
    take_into(input, p + (v4 ? 12 : 8), v4 ? 8 : 32);
    take_into(input, p + shape->ip, 4);
    if (tcp) {
        take_into(input, p + shape->ip + 4, 8);
        p[shape->ip + 12] = (uint8_t)((20 + options) << 2);
        p[shape->ip + 13] = 0x10;
        take_into(input, p + shape->ip + 20, options);
    }
    shape->length = shape->header + take_below(input, 1400);
    take_into(input, p + shape->header, (shape->length - shape->header) % 32);
}

/* The next packet of the flow, or nearly. */
static void go_on(struct input *input, struct shape *shape)
{
    uint8_t change = take8(input), *p = shape->bytes;
    uint32_t payload = shape->length - shape->header;

    if (shape->ip == 20 && !(change & 1))
        store16(p + 4, ((uint32_t)p[4] << 8 | p[5]) + 1);
    if (p[shape->ip == 20 ? 9 : 6] == 6) {
        if (!(change & 2))
            add32(p + shape->ip + 4, payload);
        p[shape->ip + 13] = (uint8_t)(0x10 | (change & 4 ? 8 : 0));
    }
    if (change & 8)
        shape->length = shape->header + take_below(input, 1400);
    finish(shape);
    if (change & 16)  /* anything in the headers, sums made right again */
        p[take_below(input, shape->header)] ^= take8(input);
    if (shape->length >= shape->ip + 20 && change & 32)
        finish(shape);
    if (change & 64)
        p[take_below(input, shape->length)] ^= take8(input);
}

/* 0xffff and 0 are the same sum; what the cut writes is the one that a sender writes. */
static void one_zero(uint8_t *field)
{
    if (field[0] == 0xff && field[1] == 0xff)
        field[0] = field[1] = 0;
}

static void check_same(uint8_t *cut, uint8_t *was, uint32_t length)
{
    int v4 = was[0] >> 4 == 4, tcp = was[v4 ? 9 : 6] == 6;

    if (v4) {
        if (was[6] & 0x40) {  /* ids where fragments are forbidden are not kept, so neither is the sum over them */
            memcpy(cut + 4, was + 4, 2);
            memcpy(cut + 10, was + 10, 2);
        }
        one_zero(cut + 10);
        one_zero(was + 10);
    }
    one_zero(cut + (v4 ? 20 : 40) + (tcp ? 16 : 6));
    one_zero(was + (v4 ? 20 : 40) + (tcp ? 16 : 6));
    must(!memcmp(cut, was, length));
}

static void cut_again(const struct packet *packets, const struct joined *joined, uint8_t **before)
{
    uint8_t *whole = malloc(joined->length), *out;
    uint32_t at = packets[0].length;
    struct segmentation plan;
    struct super_packet super = {
        .data = whole,
        .length = joined->length,
        .flags = joined->flags,
        .gso_type = joined->gso_type,
        .gso_size = joined->gso_size,
        .checksum_start = joined->checksum_start,
        .checksum_offset = joined->checksum_offset,
    };

    memcpy(whole, packets[0].data, at);
    for (uint32_t i = 1; i < joined->packets; i++) {
        must(packets[i].length > joined->header && at + packets[i].length - joined->header <= joined->length);
        memcpy(whole + at, packets[i].data + joined->header, packets[i].length - joined->header);
        at += packets[i].length - joined->header;
    }
    must(at == joined->length && at <= 65535 && segmentation_plan(&super, &plan) == 0);
    must(plan.packets == joined->packets && plan.header == joined->header);
    for (uint32_t i = 0; i < plan.packets; i++) {
        out = malloc(plan.largest);
        must(segmentation_cut(&super, &plan, i, out) == packets[i].length);
        check_same(out, before[i], packets[i].length);
        free(out);
    }
    free(whole);
}

static void join(struct packet *packets, uint32_t count, uint32_t kinds)
{
    uint8_t *before[PACKETS];
    struct joined joined;

    for (uint32_t i = 0; i < count; i++)
        before[i] = memcpy(malloc(packets[i].length), packets[i].data, packets[i].length);
    coalescing_join(packets, count, kinds, &joined);
    must(joined.packets >= 1 && joined.packets <= count);
    for (uint32_t i = 1; i < count; i++)
        must(!memcmp(packets[i].data, before[i], packets[i].length));
    if (joined.packets > 1) {
        must(kinds & (joined.gso_type == VNET_GSO_UDP_L4 ? JOIN_UDP : JOIN_TCP));
        must(joined.gso_type != VNET_GSO_UDP_L4 || joined.packets <= 64);
        cut_again(packets, &joined, before);
    } else {
        must(joined.length == packets[0].length && !memcmp(packets[0].data, before[0], joined.length));
    }
    for (uint32_t i = 0; i < count; i++)
        free(before[i]);
}

void fuzz_one(struct input *input)
{
    static struct shape shape;
    struct packet packets[PACKETS];
    uint32_t kinds = take8(input) & (JOIN_TCP | JOIN_UDP), count = 0;

    while (input->left && count < PACKETS) {
        const uint8_t *source;
        uint32_t trimmed;

        if (!count || take8(input) % 16 == 15)
            begin(input, &shape);
        go_on(input, &shape);
        /* as a session lets it through: whole headers, the length that they give */
        if (packet_source(shape.bytes, shape.length, &source, &trimmed))
            packets[count++] = (struct packet){
                .data = memcpy(malloc(trimmed), shape.bytes, trimmed),
                .length = trimmed,
            };
    }
    for (uint32_t i = 0; i < count; i += 1 + kinds)
        join(packets + i, count - i, kinds);
    for (uint32_t i = 0; i < count; i++)
        free(packets[i].data);
}
