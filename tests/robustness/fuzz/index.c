/* index: receiver indices and public keys, given out, withdrawn, looked up and guessed, against lists;
 * then tables and rows of any bytes. */
#include "input.h"

#include "engine/index.h"
#include "engine/publickeys.h"

#define NUMBERS 8
#define ROWS 6
#define BUCKETS 4
#define STRIDE 36
#define NONE 0xffffffff

struct live {
    int in_use;
    uint32_t index, peer;
};

static uint32_t clear_bits(const uint64_t key[3])
{
    uint32_t bits = (uint32_t)(key[2] >> 8) & 14;

    return bits < 8 ? bits : 8;
}

/* Each index is some generation's of one number, but for the bits that are a gateway's. */
static void check_permutation(const uint64_t key[3], uint32_t index)
{
    uint32_t number = index_number(key, index), generation = 0;

    index ^= (index ^ index_of(key, number, 0)) & ~(~0u << clear_bits(key));
    while (generation < 2048 && index_of(key, number, generation) != index)
        generation++;
    must(number < 1u << 21 && generation < 2048);
}

static void indices(struct input *input)
{
    struct index_entry *table = calloc(NUMBERS, sizeof *table);
    struct live live[NUMBERS] = { { 0 } };
    uint64_t key[3] = { take64(input), take64(input) };

    key[2] = key[0] & 0xfff;  /* a gateway, and any width */
    for (int steps = 0; input->left && steps < 60; steps++) {
        uint8_t what = take8(input);
        uint32_t number = 1 + take_below(input, NUMBERS - 1), peer = 7, guess = take32(input);

        if (what & 1) {
            uint32_t before = live[number].index;

            live[number] = (struct live){ 1, index_publish(table, key, number, what >> 2), what >> 2 };
            must(live[number].index != before || !before);
            must(index_number(key, live[number].index) == number);
        } else if (what & 2) {
            index_withdraw(table, number);
            live[number].in_use = 0;
        }
        if (index_lookup(table, NUMBERS, key, guess, &peer))
            must(live[index_number(key, guess)].index == guess);
        for (number = 1; number < NUMBERS; number++) {
            uint32_t found = index_lookup(table, NUMBERS, key, live[number].index, &peer);

            must(live[number].in_use ? found == number && peer == live[number].peer : !found);
        }
        if (steps == 0)
            check_permutation(key, guess);
    }
    free(table);
}

static void any_table(struct input *input)
{
    uint32_t count = take_below(input, 5), peer;
    uint64_t key[3] = { take64(input), take64(input) };
    struct index_entry *table = (struct index_entry *)(void *)take_buffer(input, count * sizeof *table);

    for (int i = 0; i < 64; i++) {
        uint32_t index = i < 32 ? index_of(key, (uint32_t)i, take8(input)) : take32(input);
        uint32_t found = index_lookup(table, count, key, index, &peer);

        must(!found || found < count);
    }
    free(table);
}

/* Rows with keys of one byte repeated: each row once, as a map would have it. */
static void keys(struct input *input)
{
    uint8_t *rows = calloc(ROWS, STRIDE), wanted[32];
    uint32_t *buckets = calloc(BUCKETS, sizeof *buckets);
    int is_there[ROWS] = { 0 };
    struct publickeys keys = {
        .buckets = buckets,
        .bucket_count = BUCKETS,
        .key = { take64(input), take64(input) },
        .rows = rows,
        .stride = STRIDE,
        .chain_offset = 32,
        .max_rows = ROWS,
    };

    for (int steps = 0; input->left && steps < 60; steps++) {
        uint8_t what = take8(input);
        uint32_t row = take_below(input, ROWS), expected = NONE;

        if (what & 1) {
            if (!is_there[row])
                memset(rows + row * STRIDE, (int)row * 8 + (what >> 5), 32);
            publickeys_insert(&keys, row);
            is_there[row] = 1;
        } else {
            publickeys_remove(&keys, row);
            is_there[row] = 0;
        }
        memset(wanted, take8(input), 32);
        for (row = 0; row < ROWS; row++)
            if (is_there[row] && rows[row * STRIDE] == wanted[0])
                expected = row;
        must(publickeys_lookup(&keys, wanted) == expected);
        for (row = 0; row < ROWS; row++)
            must(!is_there[row] || publickeys_lookup(&keys, rows + row * STRIDE) == row);
    }
    free(rows);
    free(buckets);
}

static void any_chains(struct input *input)
{
    uint8_t *rows = take_buffer(input, ROWS * STRIDE);
    uint32_t *buckets = calloc(BUCKETS, sizeof *buckets), found;
    struct publickeys keys = {
        .buckets = buckets,
        .bucket_count = BUCKETS,
        .key = { 1, 2 },
        .rows = rows,
        .stride = STRIDE,
        .chain_offset = 32,
        .max_rows = ROWS,
    };

    for (int i = 0; i < BUCKETS; i++)
        buckets[i] = take_below(input, ROWS + 3);
    for (uint32_t row = 0; row < ROWS; row++) {
        uint32_t chain = take_below(input, ROWS + 3);

        memcpy(rows + row * STRIDE + 32, &chain, 4);
    }
    for (uint32_t row = 0; row < ROWS; row++) {
        found = publickeys_lookup(&keys, rows + row * STRIDE);
        must(found == NONE || found < ROWS);
        if (take8(input) & 1)
            publickeys_insert(&keys, row);
        else
            publickeys_remove(&keys, row);
    }
    free(rows);
    free(buckets);
}

void fuzz_one(struct input *input)
{
    switch (take8(input) % 4) {
    case 0: indices(input); break;
    case 1: any_table(input); break;
    case 2: keys(input); break;
    case 3: any_chains(input); break;
    }
}
