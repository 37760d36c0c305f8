/* engine_kills: a writer killed after any of its instructions. A child does one operation on
 * memory that it shares; its parent steps it instruction by instruction, and each time that
 * memory has changed, takes a copy of it: just that is left when the child is killed there.
 * Then it looks at the copy. Exit status 77: the machine does not allow one process to step
 * another.
 *
 *   window     a counter that was accepted before is refused for ever; a new one is taken
 *   nonces     the counter in memory never falls behind what the caller was given
 *   trie       after recovery: as before or as after, whole, and it goes on
 *   chains     all other keys are found; the one in question is found or not */
#include "tests/support/check.h"

#include "engine/allowedips.h"
#include "engine/keypair.h"
#include "engine/publickeys.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define NODES 24
#define ROWS 6
#define STRIDE 40

static struct shared {
    struct window window;
    struct keypair keypair;
    uint64_t given;  /* nonces that the child was told it may use, up to here */
    struct trie_node nodes[NODES];
    uint32_t roots[2], heads[ROWS];
    uint8_t rows[ROWS * STRIDE];
    uint32_t bucket;
} *shared;

static struct allowedips ips;
static struct publickeys keys;

/* Calls operation in a child that is stepped, and inspect on each state that it leaves behind,
 * the first and the last included; returns how many there were. */
static long kill_everywhere(void (*prepare)(void), void (*operation)(void), void (*inspect)(void))
{
    struct shared *lived = shared, *seen = malloc(sizeof(*seen)), *left = malloc(sizeof(*left));
    long states = 0;
    int status;

    prepare();
    pid_t child = fork();
    check(child >= 0);
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        operation();
        _exit(0);
    }
    check(waitpid(child, &status, 0) == child);
    while (WIFSTOPPED(status)) {
        if (!states || memcmp(seen, lived, sizeof(*seen)) != 0) {
            *seen = *left = *lived;
            shared = left;
            inspect();
            shared = lived;
            states++;
        }
        check(ptrace(PTRACE_SINGLESTEP, child, 0, 0) == 0);
        check(waitpid(child, &status, 0) == child);
    }
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check(states > 1);
    free(seen);
    free(left);
    return states;
}

/* ---- window ---- */

static uint64_t jump;

static void window_prepare(void)
{
    memset(&shared->window, 0, sizeof(shared->window));
    for (uint64_t counter = 100; counter < 400; counter += 3)
        check(window_accept(&shared->window, counter));
}

static void window_operate(void)
{
    window_accept(&shared->window, 397 + jump);
}

static void window_inspect(void)
{
    struct window *window = &shared->window;
    const uint64_t high = 397 + jump;

    for (uint64_t counter = 100; counter < 400; counter += 3)
        check(!window_accept(window, counter));
    /* the word of a position 8,192 before must not speak for the new one */
    for (uint64_t counter = high - 130; counter < high; counter++)
        if (counter >= 400)
            check(window_accept(window, counter) && !window_accept(window, counter));
    (void)window_accept(window, high);
    check(!window_accept(window, high));
    check(window_accept(window, high + 1));
}

/* ---- nonces ---- */

static void nonces_prepare(void)
{
    memset(&shared->keypair, 0, sizeof(shared->keypair));
    shared->keypair.birth = 1;
    shared->keypair.send_counter = shared->given = 1000;
}

static void nonces_operate(void)
{
    uint64_t first = keypair_take_nonces(&shared->keypair, 5, 2);
    __atomic_store_n(&shared->given, first + 5, __ATOMIC_SEQ_CST);
}

static void nonces_inspect(void)
{
    check(shared->keypair.send_counter >= shared->given);
    check(shared->keypair.send_counter == 1000 || shared->keypair.send_counter == 1005);
}

/* ---- trie ---- */

static const struct prefix {
    uint8_t address[4];
    uint8_t cidr, row;
} prefixes[] = { { { 10, 0, 0, 0 }, 8, 0 }, { { 10, 1, 0, 0 }, 16, 1 }, { { 10, 1, 2, 0 }, 24, 2 }, { { 10, 1, 3, 0 }, 24, 1 }, { { 10, 1, 2, 9 }, 32, 3 }, { { 192, 168, 0, 0 }, 16, 0 } };
#define PREFIXES (sizeof(prefixes) / sizeof(prefixes[0]))
static const uint8_t probes[][4] = { { 10, 0, 0, 1 }, { 10, 1, 0, 1 }, { 10, 1, 2, 1 }, { 10, 1, 3, 1 }, { 10, 1, 2, 9 }, { 192, 168, 1, 1 }, { 172, 16, 0, 1 }, { 10, 1, 2, 200 }, { 11, 0, 0, 1 } };
#define PROBES (sizeof(probes) / sizeof(probes[0]))

enum trie_case {
    INSERT_FORK,
    INSERT_ABOVE,
    INSERT_LEAF,
    MOVE,
    REMOVE_LEAF,
    REMOVE_INNER,
    REMOVE_PEER,
    RECLAIM,
    TRIE_CASES
};
static enum trie_case trie_case;
static uint32_t before[PROBES], after[PROBES];

static void trie_lookups(uint32_t found[PROBES])
{
    for (uint32_t i = 0; i < PROBES; i++)
        found[i] = allowedips_lookup(shared->nodes, NODES, shared->roots[0], probes[i], 32);
}

static void trie_operate(void)
{
    uint8_t *first = (uint8_t *)shared->heads;

    switch (trie_case) {
    case INSERT_FORK: allowedips_insert(&ips, (const uint8_t[4]){ 10, 1, 2, 200 }, 32, 32, 4, first, 4); break;
    case INSERT_ABOVE: allowedips_insert(&ips, (const uint8_t[4]){ 10, 0, 0, 0 }, 32, 7, 4, first, 4); break;
    case INSERT_LEAF: allowedips_insert(&ips, (const uint8_t[4]){ 172, 16, 0, 0 }, 32, 12, 4, first, 4); break;
    case MOVE: allowedips_insert(&ips, prefixes[2].address, 32, 24, 4, first, 4); break;
    case REMOVE_LEAF: allowedips_remove(&ips, prefixes[4].address, 32, 32, 3, first, 4); break;
    case REMOVE_INNER: allowedips_remove(&ips, prefixes[1].address, 32, 16, 1, first, 4); break;
    case REMOVE_PEER: allowedips_remove_peer(&ips, 3, first, 4); break;
    default: allowedips_reclaim(&ips); break;
    }
}

static void trie_prepare(void)
{
    memset(shared->nodes, 0, sizeof(shared->nodes));
    memset(shared->roots, 0, sizeof(shared->roots));
    memset(shared->heads, 0, sizeof(shared->heads));
    allowedips_open(&ips, shared->nodes, NODES, &shared->roots[0], &shared->roots[1]);
    for (uint32_t i = 0; i < PREFIXES; i++)
        check(allowedips_insert(&ips, prefixes[i].address, 32, prefixes[i].cidr, prefixes[i].row,
                                (uint8_t *)shared->heads, 4) == 0);
    /* some nodes free, some waiting */
    for (int turn = 0; turn < 2; turn++) {
        for (uint8_t i = 0; i < 3; i++)
            allowedips_insert(&ips, (const uint8_t[4]){ 100, i }, 32, 16, 5, (uint8_t *)shared->heads, 4);
        allowedips_remove_peer(&ips, 5, (uint8_t *)shared->heads, 4);
        if (turn == 0)
            allowedips_reclaim(&ips);
    }
}

/* Nodes below link, each rule of the tree checked; counts owned ones a row. */
static uint32_t trie_walk(uint32_t parent, uint32_t number, uint32_t owned[ROWS])
{
    if (!number)
        return 0;
    const struct trie_node *node = &shared->nodes[number];
    check(number <= ips.used && node->parent == parent);
    check(node->peer || (node->child[0] && node->child[1]));
    if (node->peer)
        owned[node->peer - 1]++;
    return 1 + trie_walk(number * 2, node->child[0], owned) + trie_walk(number * 2 + 1, node->child[1], owned);
}

static void trie_inspect(void)
{
    uint32_t found[PROBES], owned[ROWS] = { 0 }, waiting = 0;

    trie_lookups(found);  /* as readers see it, before any repair */
    check(memcmp(found, before, sizeof(found)) == 0 || memcmp(found, after, sizeof(found)) == 0);
    allowedips_open(&ips, shared->nodes, NODES, &shared->roots[0], &shared->roots[1]);
    allowedips_recover(&ips, ROWS, (uint8_t *)shared->heads, 4);
    uint32_t again[PROBES];
    trie_lookups(again);
    check(memcmp(found, again, sizeof(found)) == 0);
    check(trie_walk(0, shared->roots[0], owned) == ips.live);
    for (uint32_t number = ips.waiting_head; number; number = shared->nodes[number].waiting_next)
        waiting++;
    check(ips.live + waiting == ips.used);
    for (uint32_t row = 0; row < ROWS; row++) {
        for (uint32_t number = shared->heads[row]; number; number = shared->nodes[number].peer_next)
            check(shared->nodes[number].peer == row + 1 && owned[row]-- > 0);
        check(owned[row] == 0);
    }
    trie_operate();  /* control does it again */
    trie_lookups(found);
    check(memcmp(found, after, sizeof(found)) == 0);
}

/* ---- chains ---- */

static int removing;

static void chains_open(void)
{
    keys = (struct publickeys){ .buckets = &shared->bucket, .bucket_count = 1, .key = { 3, 4 }, .rows = shared->rows, .stride = STRIDE, .chain_offset = 32, .max_rows = ROWS };
}

static void chains_prepare(void)
{
    memset(shared->rows, 0, sizeof(shared->rows));
    shared->bucket = 0;
    chains_open();
    for (uint32_t row = 0; row < ROWS; row++) {
        memset(shared->rows + row * STRIDE, (int)row + 1, 32);
        if (row != 3 || removing)
            publickeys_insert(&keys, row);
    }
}

static void chains_operate(void)
{
    if (removing)
        publickeys_remove(&keys, 3);
    else
        publickeys_insert(&keys, 3);
}

static void chains_inspect(void)
{
    chains_open();
    for (int turn = 0; turn < 2; turn++) {
        for (uint32_t row = 0; row < ROWS; row++) {
            uint32_t found = publickeys_lookup(&keys, shared->rows + row * STRIDE);
            if (row != 3)
                check(found == row);
            else if (turn)
                check(found == (removing ? UINT32_MAX : 3));
            else
                check(found == 3 || found == UINT32_MAX);
        }
        chains_operate();  /* repeated, it comes to its end */
    }
}

static int stepping_allowed(void)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0)
            _exit(77);
        raise(SIGSTOP);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
        return 0;
    int allowed = ptrace(PTRACE_SINGLESTEP, child, 0, 0) == 0;
    if (allowed)
        waitpid(child, &status, 0);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return allowed;
}

int main(void)
{
    const uint64_t jumps[] = { 1, 60, 64, 200, 8000, 8192, 20000 };
    long states = 0;

    if (!stepping_allowed()) {
        fputs("engine_kills: ptrace is not allowed here, so nothing was tested. "
              "Run it where a process may trace its child.\n",
              stderr);
        return 77;
    }
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(shared != MAP_FAILED);
    for (uint32_t i = 0; i < sizeof(jumps) / sizeof(jumps[0]); i++) {
        jump = jumps[i];
        states += kill_everywhere(window_prepare, window_operate, window_inspect);
    }
    states += kill_everywhere(nonces_prepare, nonces_operate, nonces_inspect);
    for (trie_case = 0; trie_case < TRIE_CASES; trie_case++) {
        trie_prepare();
        trie_lookups(before);
        trie_operate();
        trie_lookups(after);
        states += kill_everywhere(trie_prepare, trie_operate, trie_inspect);
    }
    for (removing = 0; removing < 2; removing++)
        states += kill_everywhere(chains_prepare, chains_operate, chains_inspect);
    printf("%ld states\n", states);
    return 0;
}
