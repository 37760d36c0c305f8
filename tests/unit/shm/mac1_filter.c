/* mac1_filter: the filter for mac1 while the key changes, stopped after every instruction (as in stalled.c).
 *
 * A reader that is stopped while the key changes and comes back to what it was must not refuse a message that was
 * right before and is right now, whatever half of a key it may have read. A learner that is stopped for ever, since
 * it is killed, leaves the old key or the new one: of a message under the old and one under the new key one passes.
 *
 * usage: mac1_filter        exit 77 where no instruction can be told from the next
 */
#include <string.h>
#include <unistd.h>

#include "engine/blake2s.h"
#include "engine/packet.h"
#include "workers/datapath/mac1_filter.h"
#include "world.h"

#define BODY (INITIATION_BYTES - 32) /* what mac1 covers; mac1 and mac2 follow */

static struct segment segment;
static uint8_t keys[4][MAC1_KEY_BYTES], messages[4][INITIATION_BYTES];
static const char *scenario;
static uint32_t step;
static int refused;

#include "steps.h"

static int refuses(int which) { return mac1_filter_refuses(&segment, messages[which], INITIATION_BYTES); }
static void learn(int which) { mac1_filter_learn(&segment, keys[which]); }

static void before(void)
{
    learn(3); /* the copy that is not in use holds something, too */
    learn(1);
}

static void child_read(void) { refused = refuses(1); }
static void others_change_and_change_back(void)
{
    learn(2);
    learn(3);
    learn(1);
}
static void nothing_refused(void)
{
    CHECK(!refused, "%s, step %u: refused, although it is right before and after", scenario, step);
    CHECK(!refuses(1) && refuses(2) && refuses(3), "%s, step %u: the key is another one", scenario, step);
}

static void child_learn(void) { learn(2); }
static void others_die(void)
{
    /* The learner goes no further: this copy ends here. */
    CHECK(refuses(1) + refuses(2) == 1, "%s, step %u: neither the old nor the new key", scenario, step);
    learn(2); /* its successor */
    CHECK(refuses(1) && !refuses(2), "%s, step %u: the successor's key does not count", scenario, step);
    _exit(0);
}
static void learnt(void) { CHECK(refuses(1) && !refuses(2), "%s: not learnt", scenario); }

static const struct scenario {
    const char *name;
    void (*child)(void);
    void (*others)(void);
    void (*outcome)(void);
} scenarios[] = {
    { "read, change meanwhile", child_read, others_change_and_change_back, nothing_refused },
    { "learn, killed", child_learn, others_die, learnt },
};

#if defined(__x86_64__)
static uint32_t scenario_run(const struct scenario *run)
{
    static const struct geometry geometry = {
        .max_peers = 64, .max_keypairs = 64, .max_receivers = 1, .max_consumers = 1, .nodes_a_pool = 32, .small_slots = 16, .train_slots = 1, .mailbox_cells = 4, .max_trie_nodes = 64, .public_key_buckets = 64
    };
    scenario = run->name;
    world_make(&segment, &geometry, 1, MAP_PRIVATE);
    before();
    step_through(run->child, run->others);
    run->outcome();
    if (is_copy)
        _exit(0);
    munmap(segment.base, segment.bytes);
    return step;
}

int main(void)
{
    uint32_t stops = 0;
    for (uint32_t which = 0; which < 4; which++) {
        memset(keys[which], (int)which + 1, MAC1_KEY_BYTES);
        messages[which][0] = MESSAGE_INITIATION;
        blake2s(messages[which] + BODY, 16, keys[which], MAC1_KEY_BYTES, messages[which], BODY);
    }
    steps_most = 400; /* the hash takes thousands, in which nothing is read that changes */
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        uint32_t steps = scenario_run(&scenarios[i]);
        CHECK(steps > 20, "%s: only %u steps", scenario, steps);
        stops += steps;
    }
    printf("%u stops in %zu scenarios: the old key or the new one\n", stops, sizeof scenarios / sizeof scenarios[0]);
    return 0;
}
#else
int main(void)
{
    return 77;
}
#endif
