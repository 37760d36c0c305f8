/* bytes: numbers in packets, which may stand at any address. */
#ifndef ENGINE_BYTES_H
#define ENGINE_BYTES_H

#include <stdint.h>

static inline uint32_t load_be16(const uint8_t *from)
{
    return (uint32_t)from[0] << 8 | from[1];
}

static inline void store_be16(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

static inline uint32_t load_be32(const uint8_t *from)
{
    return load_be16(from) << 16 | load_be16(from + 2);
}

static inline void store_be32(uint8_t *to, uint32_t value)
{
    store_be16(to, value >> 16);
    store_be16(to + 2, value & 0xffff);
}

static inline uint32_t load_le32(const uint8_t *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static inline void store_le32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

#endif
