/* packet: what arrives from outside, and inner packets, header by header. */
#include "input.h"

#include "engine/packet.h"

static void outer(const uint8_t *data, uint32_t length)
{
    int why = -1;
    uint32_t type = message_type(data, length, &why);

    must(type <= MESSAGE_DATA && (type == 0) == (why != 0) && why >= 0 && why <= 2);
    if (type == MESSAGE_DATA) {
        uint8_t header[DATA_HEADER_BYTES];

        must(length >= DATA_OVERHEAD);
        data_header_write(header, data_receiver_index(data), data_counter(data));
        must(!memcmp(header, data, DATA_HEADER_BYTES));
    } else if (type) {
        must(length == (type == MESSAGE_INITIATION ? INITIATION_BYTES
                        : type == MESSAGE_RESPONSE ? RESPONSE_BYTES
                                                   : COOKIE_BYTES));
    }
}

static uint16_t header_sum(const uint8_t *data)
{
    uint32_t sum = 0;

    for (int i = 0; i < 20; i += 2)
        sum += (uint32_t)data[i] << 8 | data[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* RFC 6040, section 4.2, in words. */
static int ecn_expected(int inner, int outer)
{
    if (outer == 3)
        return inner == 0 ? -1 : 3;
    return outer == 1 && inner == 2 ? 1 : inner;
}

static void ecn(uint8_t *data, uint32_t length, uint8_t outer)
{
    uint8_t *before = memcpy(malloc(length), data, length), inner = packet_ecn(data);
    int version = data[0] >> 4, done = packet_ecn_decapsulate(data, outer);
    int expected = ecn_expected(inner, outer & 3);

    must((done < 0) == (expected < 0));
    if (done < 0) {
        must(!memcmp(before, data, length));
    } else {
        must(packet_ecn(data) == expected);
        /* 0 and 0xffff are the same sum */
        if (version == 4)
            must(header_sum(before) % 0xffff == header_sum(data) % 0xffff);
        for (uint32_t i = 0; i < length; i++)
            must(before[i] == data[i] || i == 1 || (version == 4 && (i == 10 || i == 11)));
        must(!((before[1] ^ data[1]) & (version == 4 ? ~3 : ~0x30)));
    }
    free(before);
}

static void inner(uint8_t *data, uint32_t length, uint8_t outer)
{
    const uint8_t *source, *destination;
    uint32_t trimmed = 7, least;
    int version = packet_source(data, length, &source, &trimmed);

    must(packet_destination(data, length, &destination) == version);
    if (!version) {
        must(!source && !destination && !trimmed);
        return;
    }
    least = version == 4 ? 20 : 40;
    must((version == 4 || version == 6) && data[0] >> 4 == version && trimmed >= least && trimmed <= length);
    must(source == data + (version == 4 ? 12 : 8) && destination == data + (version == 4 ? 16 : 24));
    if (version == 4)
        must((data[0] & 15u) * 4 >= 20 && (data[0] & 15u) * 4 <= trimmed);
    ecn(data, length, outer);
}

static void padding(uint32_t length, uint32_t mtu)
{
    uint32_t bytes = packet_padding(length, mtu);

    must(bytes <= 15);
    if (!mtu || length <= mtu) {
        must(!mtu || length + bytes <= mtu);
        must((length + bytes) % 16 == 0 || length + bytes == mtu);
    }
}

void fuzz_one(struct input *input)
{
    uint32_t mtu = take16(input), outer_bits = take8(input), cut = take8(input);
    uint32_t length = (uint32_t)(input->left > cut % 8 ? input->left - cut % 8 : 0);
    uint8_t *data = take_buffer(input, length);

    outer(data, length);
    padding(length, mtu);
    inner(data, length, (uint8_t)outer_bits);
    free(data);
}
