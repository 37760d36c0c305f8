/* icmp: the error for a packet that somebody inside made up. */
#include "input.h"

#include "engine/icmp.h"

static uint16_t folded(const uint8_t *data, uint32_t length, uint64_t sum)
{
    for (uint32_t i = 0; i < length; i++)
        sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static void check4(const uint8_t *out, uint32_t bytes, const uint8_t *packet, uint32_t length)
{
    must(bytes <= 576 && bytes == 28 + (length < 548 ? length : 548));
    must(out[0] == 0x45 && ((uint32_t)out[2] << 8 | out[3]) == bytes && out[9] == 1 && out[20] == 3);
    must(!memcmp(out + 12, packet + 16, 4) && !memcmp(out + 16, packet + 12, 4));
    must(folded(out, 20, 0) == 0xffff && folded(out + 20, bytes - 20, 0) == 0xffff);
    must(!memcmp(out + 28, packet, bytes - 28));
    /* never to many, from nobody, about a later fragment or about an error */
    must(packet[12] && packet[12] != 127 && packet[12] < 224 && packet[16] < 224);
    must(!(packet[6] & 0x1f) && !packet[7]);
    if (packet[9] == 1) {
        uint8_t type = packet[(packet[0] & 15) * 4];

        must(type != 3 && type != 4 && type != 5 && type != 11 && type != 12);
    }
}

static void check6(const uint8_t *out, uint32_t bytes, const uint8_t *packet, uint32_t length)
{
    uint32_t payload = bytes - 40;

    must(bytes <= ICMP_MOST_BYTES && bytes == 48 + (length < 1232 ? length : 1232));
    must(out[0] == 0x60 && ((uint32_t)out[4] << 8 | out[5]) == payload && out[6] == 58 && out[40] == 1);
    must(!memcmp(out + 8, packet + 24, 16) && !memcmp(out + 24, packet + 8, 16));
    must(folded(out + 40, payload, (uint64_t)folded(out + 8, 32, 0) + payload + 58) == 0xffff);
    must(!memcmp(out + 48, packet, bytes - 48));
    must(packet[8] != 0xff && packet[24] != 0xff);
    if (packet[6] == 58)
        must(packet[40] >= 128);
}

void fuzz_one(struct input *input)
{
    uint32_t grow = take8(input), length, bytes;
    uint8_t *packet, *out = malloc(ICMP_MOST_BYTES);

    length = (uint32_t)input->left + (grow >= 128 ? 16 * (grow - 127) : 0);
    packet = take_buffer(input, length);
    bytes = icmp_unreachable(out, packet, length);
    must(bytes <= ICMP_MOST_BYTES);
    if (bytes && packet[0] >> 4 == 4)
        check4(out, bytes, packet, length);
    else if (bytes)
        check6(out, bytes, packet, length);
    free(packet);
    free(out);
}
