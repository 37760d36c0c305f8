/* Timers are a wheel of 2^24 ns a slot with a list of peers in each: a peer is in one slot at most. An idle
 * peer waits for what is due first: it owes a keepalive, or has spoken and hears nothing. */
#include "plait/load/state.h"

void load_timer_clear(struct load *load, struct load_peer *peer)
{
    if (peer->timer_slot == NOBODY)
        return;
    if (peer->timer_previous == NOBODY)
        load->wheel[peer->timer_slot] = peer->timer_next;
    else
        load->peers[peer->timer_previous].timer_next = peer->timer_next;
    if (peer->timer_next != NOBODY)
        load->peers[peer->timer_next].timer_previous = peer->timer_previous;
    peer->timer_slot = NOBODY;
}

void load_timer_set(struct load *load, uint32_t i, uint64_t deadline)
{
    struct load_peer *peer = &load->peers[i];
    uint64_t tick = (deadline >> WHEEL_SHIFT) + 1;

    load_timer_clear(load, peer);
    peer->deadline = deadline;
    if (tick <= load->wheel_tick)
        tick = load->wheel_tick + 1;
    /* A later one is looked at once a turn. */
    if (tick >= load->wheel_tick + WHEEL_SLOTS)
        tick = load->wheel_tick + WHEEL_SLOTS - 1;
    peer->timer_slot = (uint32_t)(tick % WHEEL_SLOTS);
    peer->timer_previous = NOBODY;
    peer->timer_next = load->wheel[peer->timer_slot];
    if (peer->timer_next != NOBODY)
        load->peers[peer->timer_next].timer_previous = i;
    load->wheel[peer->timer_slot] = i;
}

void load_heard(struct load_peer *peer)
{
    peer->silent_at = 0;
}

void load_spoke(struct load *load, struct load_peer *peer)
{
    if (peer->silent_at || !load->setup.silence)
        return;
    peer->silent_at = load->now + load->setup.silence;
    if (load->setup.retry_jitter)
        peer->silent_at += draw_bits(load) % load->setup.retry_jitter;
    load_idle_timer(load, peer);
}

void load_idle_timer(struct load *load, struct load_peer *peer)
{
    uint64_t due = peer->silent_at ? peer->silent_at : UINT64_MAX;

    if (peer->owes_since && peer->owes_since + PASSIVE_NS < due)
        due = peer->owes_since + PASSIVE_NS;
    if (peer->state != PEER_IDLE || due == UINT64_MAX)
        return;
    if (peer->timer_slot == NOBODY || peer->deadline > due)
        load_timer_set(load, (uint32_t)(peer - load->peers), due);
}
