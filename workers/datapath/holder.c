/* What every part of a holder uses: its view of a peer, its counters, its news for control. */
#include "workers/datapath/holder.h"

#include "engine/timers.h"
#include "shm/bell.h"
#include "shm/counters.h"
#include "shm/orders.h"
#include "shm/point.h"
#include "shm/token.h"

#include <stdlib.h>

_Static_assert(sizeof(struct keypair) == KEYPAIR_BYTES, "shm/layout.h and engine/keypair.h disagree");
_Static_assert(sizeof(struct trie_node) == TRIE_NODE_BYTES, "shm/layout.h and engine/allowedips.h disagree");
_Static_assert(sizeof(struct peer_row) == PEER_ROW_BYTES, "a peer row is not what it says");
_Static_assert(sizeof(struct node) == 64 && sizeof(struct worker) == 128, "a line is not a line");
_Static_assert(BATCH_PACKETS + 64 <= SESSION_BATCH, "a usual batch is more than one");
_Static_assert((int)TIMER_COLUMN_COUNT <= TIMER_COLUMNS, "more timer columns than the layout has");

int holder_initialise(struct holder *holder, const struct segment *segment, struct aead *aead,
                      uint32_t worker)
{
    *holder = (struct holder){
        .segment = segment,
        .aead = aead,
        .worker = worker,
        .budget = TAKE_BUDGET,
        .udp4 = -1,
        .udp6 = -1,
        .tun = -1,
        .wait_ms = SEND_WAIT_MS,
        .part_wait_ms = PART_WAIT_MS,
        .loadavg = -1,
    };
    holder->mark = worker_mark(worker, segment->workers[worker].incarnation);
    for (int i = 0; i < MAX_WORKERS; i++)
        holder->bells[i] = -1;
    holder->gso_buffer = malloc(GSO_BUFFER_BYTES);
    return holder->gso_buffer ? 0 : -1;
}

void holder_release(struct holder *holder)
{
    free(holder->gso_buffer);
    holder->gso_buffer = NULL;
}

void holder_count(const struct holder *holder, uint32_t counter, uint64_t n)
{
    if (n)
        counter_add(holder->segment, holder->worker, (enum counter)counter, n);
}

void holder_session(const struct holder *holder, uint32_t row, struct session *session)
{
    const struct segment *s = holder->segment;
    struct peer_row *peer = &s->rows[row];

    *session = (struct session){
        .key_word = &peer->key_word,
        .keypairs = (struct keypair *)s->keypairs,
        .max_keypairs = s->geometry.max_keypairs,
        .peer = row,
        .peer_generation = __atomic_load_n(&peer->generation, __ATOMIC_RELAXED),
        .columns = s->columns,
        .stride = s->geometry.max_peers,
        .trie = (const struct trie_node *)s->trie,
        .max_trie_nodes = s->geometry.max_trie_nodes,
        /* acquire: the nodes that the root leads to were written before it */
        .root4 = __atomic_load_n(&s->device->trie_root4, __ATOMIC_ACQUIRE),
        .root6 = __atomic_load_n(&s->device->trie_root6, __ATOMIC_ACQUIRE),
        .mtu = __atomic_load_n(&s->device->mtu, __ATOMIC_RELAXED),
    };
}

void holder_tell(const struct holder *holder, uint32_t row, uint32_t session_news, uint32_t events)
{
    if (session_news & SESSION_HANDSHAKE_WANTED)
        events |= EVENT_HANDSHAKE_WANTED;
    if (session_news & SESSION_CONFIRMED)
        events |= EVENT_CONFIRMED;
    if (session_news & SESSION_TIMER)
        events |= EVENT_TIMER;
    if (session_news & SESSION_KEYS)
        events |= EVENT_KEYS;
    if (!events)
        return;
    POINT("event: known, not given");
    events_give(holder->segment, row, events);
    POINT("event: given, bell not rung");
    bell_ring(holder->segment, WORKER_CONTROL, holder->bells[WORKER_CONTROL]);
}
