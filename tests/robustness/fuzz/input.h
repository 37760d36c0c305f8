/* input: a fuzzer's bytes taken apart into numbers and buffers. After the last byte come zeros.
 *
 * A target is a file with one function, fuzz_one, that checks with `must`. Buffers are made of exactly
 * the bytes that a contract promises, so that AddressSanitizer sees one byte too many. */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define must(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

struct input {
    const uint8_t *at;
    size_t left;
};

void fuzz_one(struct input *input);

static inline uint8_t take8(struct input *input)
{
    if (!input->left)
        return 0;
    input->left--;
    return *input->at++;
}

static inline uint16_t take16(struct input *input)
{
    uint16_t low = take8(input);

    return (uint16_t)(low | take8(input) << 8);
}

static inline uint32_t take32(struct input *input)
{
    uint32_t low = take16(input);

    return low | (uint32_t)take16(input) << 16;
}

static inline uint64_t take64(struct input *input)
{
    uint64_t low = take32(input);

    return low | (uint64_t)take32(input) << 32;
}

/* 0 to limit-1; limit at most 65,536. */
static inline uint32_t take_below(struct input *input, uint32_t limit)
{
    return (limit <= 256 ? take8(input) : take16(input)) % limit;
}

static inline void take_into(struct input *input, void *to, size_t bytes)
{
    size_t given = bytes < input->left ? bytes : input->left;

    memcpy(to, input->at, given);
    memset((uint8_t *)to + given, 0, bytes - given);
    input->at += given;
    input->left -= given;
}

/* A buffer of exactly that many bytes (0 too: then nothing of it may be read), to be freed. */
static inline uint8_t *take_buffer(struct input *input, size_t bytes)
{
    uint8_t *buffer = malloc(bytes);

    must(buffer);
    take_into(input, buffer, bytes);
    return buffer;
}

#endif
