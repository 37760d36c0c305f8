/* queue: chains issued, pushed, popped and brought home in any order, with repairs, against lists; or
 * with the words that several processes may write changed to anything. */
#include "memory.h"

#include "shm/pool.h"
#include "shm/schedule.h"

#define CHAIN_MOST 6
#define WAITING_MOST 96
#define CONSUMER WORKER_CONSUMER

struct world {
    struct segment segment;
    struct pool pool;
    int hostile;
    uint32_t waiting[MEMORY_ROWS][WAITING_MOST], count[MEMORY_ROWS];  /* nodes in each inbound queue, the oldest first */
    uint32_t hand[WAITING_MOST], in_hand;
};

static uint32_t mark_of(const struct world *world)
{
    return worker_mark(CONSUMER, world->segment.workers[CONSUMER].incarnation);
}

/* A chain of nodes, pushed or withdrawn. */
static void push(struct world *world, struct input *input)
{
    const struct segment *s = &world->segment;
    uint32_t row = take_below(input, MEMORY_ROWS), wanted = 1 + take_below(input, CHAIN_MOST), nodes[CHAIN_MOST];
    uint32_t packets = 1 + take_below(input, 600), count = 0;
    uint32_t slot = take8(input) & 1 ? pool_take_train(&world->pool) : pool_take_small(&world->pool);
    int refused, was_full = queue_packets(s, 2 * row) >= QUEUE_LIMIT;

    if (slot == 0xffffffff)
        return;
    must(pool_slot(&world->pool, slot) + pool_slot_bytes(&world->pool, slot) <= (uint8_t *)s->base + s->bytes);
    while (count < wanted && (nodes[count] = pool_issue(&world->pool, slot, row)) != 0) {
        must(world->hostile || s->states[nodes[count]] == NODE_OWNED);
        s->node[nodes[count]].packets = count ? 1 : (uint16_t)packets;
        if (count)
            queue_link(s, nodes[count - 1], nodes[count]);
        count++;
    }
    if (!count) {
        pool_put_slot(&world->pool, slot);
        return;
    }
    refused = queue_push_mpsc(s, WORKER_RECEIVER, 2 * row, nodes[0], nodes[count - 1], packets + count - 1);
    must(world->hostile || (refused != 0) == was_full);
    for (uint32_t i = 0; refused && i < count; i++)
        pool_withdraw(&world->pool, nodes[i]);
    for (uint32_t i = 0; !refused && !world->hostile && i < count; i++)
        world->waiting[row][world->count[row]++] = nodes[i];
    queue_schedule(s, 2 * row);
}

static void pop(struct world *world, struct input *input)
{
    const struct segment *s = &world->segment;
    uint32_t row = take_below(input, MEMORY_ROWS), most = take_below(input, 8), numbers[8], taken;
    uint32_t packets = 0, most_packets = 1 + take_below(input, 1500);

    if (!world->hostile && (world->in_hand + most > WAITING_MOST || !token_take(s, 2 * row, mark_of(world))))
        return;
    taken = queue_pop_sc(s, mark_of(world), 2 * row, numbers, most, most_packets);
    must(taken <= most);
    for (uint32_t i = 0; i < taken; i++) {
        must(numbers[i] - 1 < s->nodes);
        if (world->hostile)
            continue;
        must(i < world->count[row] && numbers[i] == world->waiting[row][i]);
        must(s->states[numbers[i]] == (NODE_IN_HAND | mark_of(world)));
        must(packets < most_packets);  /* enough before this one: it stays */
        packets += s->node[numbers[i]].packets;
        world->hand[world->in_hand++] = numbers[i];
    }
    if (world->hostile)
        return;
    must(taken || !world->count[row] || !most);
    world->count[row] -= taken;
    memmove(world->waiting[row], world->waiting[row] + taken, world->count[row] * sizeof(uint32_t));
    must(queue_is_empty(s, 2 * row) == !world->count[row]);
    if (world->count[row])
        queue_give_back(s, 2 * row);
    else
        queue_give(s, 2 * row, 0);
    must(token_read(s, 2 * row) == (world->count[row] ? TOKEN_QUEUED : TOKEN_IDLE));
}

static void bring_home(struct world *world, struct input *input)
{
    if (world->hostile) {
        node_bring_home(&world->segment, take_below(input, world->segment.nodes + 3));
    } else if (world->in_hand) {
        uint32_t at = take_below(input, world->in_hand);

        node_bring_home(&world->segment, world->hand[at]);
        world->hand[at] = world->hand[--world->in_hand];
    }
}

/* The consumer dies with what it has in hand, the next one starts. */
static void repair(struct world *world)
{
    struct repair repair;

    repair_worker(&world->segment, CONSUMER, &repair);
    if (world->hostile)
        return;
    must(repair.nodes_home == world->in_hand && !repair.nodes_requeued && !repair.pushes_undone);
    world->in_hand = 0;
}

/* The receiver starts anew and takes stock. */
static void reopen(struct world *world)
{
    struct repair repair;

    pool_close(&world->pool);
    repair_worker(&world->segment, WORKER_RECEIVER, &repair);
    must(pool_open(&world->pool, &world->segment, INBOUND) == 0);
}

/* One word that a broken worker may have written. */
static void scribble(struct world *world, struct input *input)
{
    const struct segment *s = &world->segment;
    uint8_t what = take8(input);
    uint32_t row = take_below(input, MEMORY_ROWS), node = 1 + take_below(input, s->nodes);
    struct peer_row *peer = &s->rows[row];
    struct worker *worker = &s->workers[what & 128 ? WORKER_RECEIVER : CONSUMER];
    uint64_t small = take_below(input, s->nodes + 2), word = what & 64 ? take64(input) : small;

    switch (what % 16) {
    case 0: peer->ends[0].end = word; break;
    case 1: peer->ends[0].stub_next = word; break;
    case 2: peer->ends[0].produced = (uint32_t)word; break;
    case 3: peer->heads[0].head = (uint32_t)word; break;
    case 4: peer->heads[0].consumed = (uint32_t)word; break;
    case 5: s->node[node].next = word; break;
    case 6: s->node[node].peer = (uint32_t)word; break;
    case 7: s->node[node].slot = (uint32_t)word; break;
    case 8: s->states[node] = (uint32_t)word; break;
    case 9: s->tokens[token_place(2 * row)] = (uint32_t)word; break;
    case 10: worker->journal_queue = (uint32_t)word; break;
    case 11: worker->journal_first = (uint32_t)word; break;
    case 12: worker->journal_last = word; break;
    case 13: worker->journal_packets = (uint32_t)word; break;
    case 14: peer->consumer[word >> 63] = (uint32_t)word; break;
    case 15:
        worker->peer_in_hand = (uint32_t)word;
        worker->journal_latest = (uint32_t)(word >> 32);
        break;
    }
}

void fuzz_one(struct input *input)
{
    static struct world world;
    uint8_t first = take8(input);
    int scribbles = 20;

    memset(&world, 0, sizeof world);
    world.hostile = first & 1;
    memory_begin(&world.segment);
    must(pool_open(&world.pool, &world.segment, INBOUND) == 0);
    for (int steps = 0; input->left && steps < 200; steps++) {
        uint8_t what = take8(input);

        switch (what % 16) {
        default: push(&world, input); break;
        case 6:
        case 7:
        case 8: pop(&world, input); break;
        case 9:
        case 10:
        case 11: bring_home(&world, input); break;
        case 12: pool_sweep(&world.pool); break;
        case 13: repair(&world); break;
        case 14: reopen(&world); break;
        case 15:
            if (world.hostile && scribbles-- > 0)
                scribble(&world, input);
            else
                schedule_sweep(&world.segment, 0, MEMORY_ROWS);
            break;
        }
        if (!world.hostile && what & 128)
            memory_check(&world.segment);
    }
    if (!world.hostile)
        memory_check(&world.segment);
    pool_close(&world.pool);
}
