/* engine_threads: what others read while its owner writes: the trie, the index table, and the
 * due column. Run as it is, and under ThreadSanitizer. usage: engine_threads [rounds] */
#include "tests/support/check.h"

#include "engine/allowedips.h"
#include "engine/index.h"
#include "engine/timers.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#define READERS 2
#define NODES 64
#define ENTRIES 8

static uint32_t rounds = 2000;
static uint32_t done;
static uint32_t epochs[READERS * 16];  /* a line each; odd while the reader looks something up */

static struct trie_node nodes[NODES];
static uint32_t roots[2], heads[4];

static struct index_entry entries[ENTRIES];
static const uint64_t key[3] = { 11, 22 };
static uint32_t newest;

static void enter(uint32_t *epoch)
{
    __atomic_store_n(epoch, *epoch + 1, __ATOMIC_SEQ_CST);
}

static void leave(uint32_t *epoch)
{
    __atomic_store_n(epoch, *epoch + 1, __ATOMIC_RELEASE);
}

/* Until each reader was outside once. */
static void grace(void)
{
    for (int i = 0; i < READERS; i++) {
        uint32_t before = __atomic_load_n(&epochs[i * 16], __ATOMIC_SEQ_CST);
        while (before % 2 && __atomic_load_n(&epochs[i * 16], __ATOMIC_SEQ_CST) == before)
            sched_yield();
    }
}

static uint32_t owner(const uint8_t address[4])
{
    return allowedips_lookup(nodes, NODES, __atomic_load_n(&roots[0], __ATOMIC_ACQUIRE), address, 32);
}

/* Row 0 always owns 10/8; 10.2/16 always belongs to 1 or 2; 10.2.x and 10.3.x come and go, of row 3. */
static void read_trie(uint64_t *seed)
{
    uint8_t plain[4] = { 10, 128, 1, (uint8_t)draw(seed) }, moving[4] = { 10, 2, 200, 1 };
    uint8_t nobody[4] = { 11, 0, 0, 1 }, above[4] = { 10, 3, (uint8_t)draw_below(seed, 8), 1 };
    uint8_t under[4] = { 10, 2, (uint8_t)draw_below(seed, 8), 1 };

    check(owner(plain) == 0);
    uint32_t row = owner(moving);
    check(row == 1 || row == 2);
    row = owner(under);
    check(row == 1 || row == 2 || row == 3);
    row = owner(above);
    check(row == 0 || row == 3);
    check(owner(nobody) == UINT32_MAX);
}

/* The peer of an index is the index itself here, so one from another life is seen. */
static void read_index(void)
{
    uint32_t index = __atomic_load_n(&newest, __ATOMIC_RELAXED), peer = 0;

    if (index_lookup(entries, ENTRIES, key, index, &peer))
        check(peer == index % 1009);
}

/* One entry, given out again as fast as can be. */
static void *index_reader(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&done, __ATOMIC_RELAXED))
        read_index();
    return NULL;
}

static void busy_index(void)
{
    pthread_t thread;

    check(pthread_create(&thread, NULL, index_reader, NULL) == 0);
    for (uint32_t i = 0; i < 20 * rounds; i++) {
        uint32_t index = index_of(key, 1, entries[1].generation + 1);
        check(index_publish(entries, key, 1, index % 1009) == index);
        __atomic_store_n(&newest, index, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&done, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    done = 0;
}

static void *reader(void *argument)
{
    uint32_t *epoch = argument;
    uint64_t seed = (uint64_t)(epoch - epochs) + 1;

    while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
        enter(epoch);
        for (int i = 0; i < 20; i++) {
            read_trie(&seed);
            read_index();
        }
        leave(epoch);
        sched_yield();  /* mostly outside when others take the processor, so that grace ends soon */
    }
    return NULL;
}

static void write_trie(struct allowedips *ips, uint64_t *seed)
{
    uint8_t *first = (uint8_t *)heads;
    uint8_t moving[4] = { 10, 2, 0, 0 };
    uint8_t spare[4] = { 10, (uint8_t)(2 + draw_below(seed, 2)), (uint8_t)draw_below(seed, 8), 0 };
    uint32_t cidr = 20 + draw_below(seed, 13);

    if (draw_below(seed, 2))
        check(allowedips_insert(ips, moving, 32, 16, 1 + draw_below(seed, 2), first, 4) == 0);
    if (draw_below(seed, 2))
        (void)allowedips_insert(ips, spare, 32, cidr, 3, first, 4);
    else
        (void)allowedips_remove(ips, spare, 32, cidr, 3, first, 4);
    if (draw_below(seed, 50) == 0)
        (void)allowedips_remove_peer(ips, 3, first, 4);
    if (draw_below(seed, 10) == 0) {
        grace();
        allowedips_reclaim(ips);
    }
}

static void write_index(uint64_t *seed)
{
    uint32_t number = 1 + draw_below(seed, ENTRIES - 1);
    /* what index_publish will give it */
    uint32_t index = index_of(key, number, entries[number].generation + 1);

    check(index_publish(entries, key, number, index % 1009) == index);
    __atomic_store_n(&newest, index, __ATOMIC_RELAXED);
    if (draw_below(seed, 4) == 0)
        index_withdraw(entries, number);
}

static void tables(void)
{
    struct allowedips ips;
    pthread_t readers[READERS];
    uint64_t seed = 99;
    const uint8_t ten[4] = { 10 }, ten_two[4] = { 10, 2 };

    allowedips_open(&ips, nodes, NODES, &roots[0], &roots[1]);
    check(allowedips_insert(&ips, ten, 32, 8, 0, (uint8_t *)heads, 4) == 0);
    check(allowedips_insert(&ips, ten_two, 32, 16, 1, (uint8_t *)heads, 4) == 0);
    for (int i = 0; i < READERS; i++)
        check(pthread_create(&readers[i], NULL, reader, &epochs[i * 16]) == 0);
    for (uint32_t i = 0; i < rounds; i++) {
        write_trie(&ips, &seed);
        write_index(&seed);
    }
    __atomic_store_n(&done, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
}

/* ---- an arming is not lost between holder and control ----
 * Both go through the same rows at once; afterwards each row's stamp is known to control,
 * or was reported to it. */

#define ROWS 256

static uint32_t columns[TIMER_COLUMN_COUNT * ROWS];
static uint32_t reported[ROWS];
static pthread_barrier_t start, end;
static uint32_t progress[2 * 16];

/* Side by side, so that they meet at a row; not for long, since the other may not be running. */
static void meet(int side, uint32_t row)
{
    __atomic_store_n(&progress[side * 16], row, __ATOMIC_RELAXED);
    for (int spins = 0; spins < 1000 && __atomic_load_n(&progress[!side * 16], __ATOMIC_RELAXED) < row; spins++)
        ;
}

static void *holder(void *unused)
{
    (void)unused;
    for (uint32_t turn = 0; turn < rounds / 4; turn++) {
        pthread_barrier_wait(&start);
        for (uint32_t row = 0; row < ROWS; row++) {
            meet(0, row);
            reported[row] = (uint32_t)timers_data_sent(columns, ROWS, row, 1000);
        }
        pthread_barrier_wait(&end);
    }
    return NULL;
}

static void look(uint32_t row)
{
    timers_look(columns, &row, 1);
    uint32_t since = __atomic_load_n(&columns[UNANSWERED_SINCE * ROWS + row], __ATOMIC_RELAXED);
    /* nothing armed: something else is due late */
    __atomic_store_n(&columns[row], since ? since + TIMER_NEW_HANDSHAKE_TICKS : 1000000, __ATOMIC_RELAXED);
}

static void due(void)
{
    pthread_t thread;

    pthread_barrier_init(&start, NULL, 2);
    pthread_barrier_init(&end, NULL, 2);
    check(pthread_create(&thread, NULL, holder, NULL) == 0);
    for (uint32_t turn = 0; turn < rounds / 4; turn++) {
        for (uint32_t row = 0; row < ROWS; row++) {
            timers_initialise(columns, ROWS, row);
            columns[row] = 10;  /* control looks soon for another reason: the holder need not report */
        }
        progress[0] = progress[16] = 0;
        pthread_barrier_wait(&start);
        for (uint32_t row = 0; row < ROWS; row++) {
            meet(1, row);
            look(row);
        }
        pthread_barrier_wait(&end);
        for (uint32_t row = 0; row < ROWS; row++)
            check(reported[row] || columns[row] <= 1000 + TIMER_NEW_HANDSHAKE_TICKS);
    }
    pthread_join(thread, NULL);
}

/* Control ages a row's stamps while its holder stores fresh ones and disarms: the holder's stand. */
#define NOW (3u << 29)
#define LONG_AGO 5u

static void *sender(void *unused)
{
    (void)unused;
    for (uint32_t turn = 0; turn < rounds / 4; turn++) {
        pthread_barrier_wait(&start);
        for (uint32_t row = 0; row < ROWS; row++) {
            meet(0, row);
            timers_authenticated_sent(columns, ROWS, row, NOW);
        }
        pthread_barrier_wait(&end);
    }
    return NULL;
}

static void ageing(void)
{
    pthread_t thread;

    check(pthread_create(&thread, NULL, sender, NULL) == 0);
    for (uint32_t turn = 0; turn < rounds / 4; turn++) {
        for (uint32_t row = 0; row < ROWS; row++) {
            timers_initialise(columns, ROWS, row);
            columns[OWED_SINCE * ROWS + row] = columns[LAST_DATA_SENT * ROWS + row] = LONG_AGO;
            columns[LAST_AUTHENTICATED * ROWS + row] = LONG_AGO;
        }
        progress[0] = progress[16] = 0;
        pthread_barrier_wait(&start);
        for (uint32_t row = 0; row < ROWS; row++) {
            meet(1, row);
            timers_age(columns, ROWS, row, row + 1, (uint64_t)NOW << TIMER_TICK_SHIFT);
        }
        pthread_barrier_wait(&end);
        for (uint32_t row = 0; row < ROWS; row++) {
            check(columns[OWED_SINCE * ROWS + row] == 0);
            check(columns[LAST_AUTHENTICATED * ROWS + row] == NOW);
            check(columns[LAST_DATA_SENT * ROWS + row] > LONG_AGO);
        }
    }
    pthread_join(thread, NULL);
}

int main(int count, char **words)
{
    if (count > 1)
        rounds = (uint32_t)strtoul(words[1], NULL, 10);
    busy_index();
    tables();
    due();
    ageing();
    return 0;
}
