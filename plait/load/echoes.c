/* Echo requests through sessions: what is measured as traffic. */
#include "plait/load/state.h"

static uint32_t draw_size(struct load *load)
{
    const struct load_phase *phase = load->phase;
    double share = draw_share(load);
    uint32_t which = 0;

    if (!phase->mix)
        return phase->inner_bytes;
    while (which + 1 < phase->mix && share > phase->mix_share[which])
        which++;
    return phase->mix_bytes[which];
}

int load_ask(struct load *load, struct load_peer *peer, uint64_t due)
{
    count(load, LOAD_ASKED);
    if (!load_has_session(load, peer)) {
        count(load, LOAD_UNSENT);
        /* As an initiator does whose session ended while nothing came back. */
        if (peer->current.born)
            load_handshake_renew(load, peer, 1);
        return 0;
    }
    /* As an initiator does: a new session before this one expires. */
    if (load->now - peer->current.born >= REKEY_NS)
        load_handshake_renew(load, peer, 0);
    uint32_t bytes = draw_size(load);

    count_many(load, LOAD_INNER_OUT, bytes);
    load_echo(load, peer, bytes, STAMP_TRAFFIC, due);
    return 1;
}

void load_traffic_next(struct load *load, struct load_peer *peer)
{
    uint32_t i = (uint32_t)(peer - load->peers);

    peer->asked_at = 0;
    if (i >= load->phase->traffic_outstanding || load->now >= load->end)
        return;
    if (!load_has_session(load, peer))
        return;
    load_ask(load, peer, load->now);
    peer->asked_at = load->now;
}
