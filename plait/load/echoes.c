/* Echo requests through sessions, and packets that want no answer: what is measured as traffic. */
#include "plait/load/state.h"

static uint32_t draw_size(struct load *load, const struct load_sizes *sizes)
{
    double share = draw_share(load);
    uint32_t which = 0;

    if (!sizes->mix)
        return sizes->bytes;
    while (which + 1 < sizes->mix && share > sizes->mix_share[which])
        which++;
    return sizes->mix_bytes[which];
}

/* Whether the peer can send data. It sees to its session as an initiator does that has data. */
static int can_send(struct load *load, struct load_peer *peer)
{
    if (!load_has_session(load, peer)) {
        /* It ended while nothing came back. */
        if (peer->current.born)
            load_handshake_renew(load, peer, 1);
        return 0;
    }
    /* A new session before this one expires. */
    if (load->now - peer->current.born >= REKEY_NS)
        load_handshake_renew(load, peer, 0);
    return 1;
}

int load_tell(struct load *load, struct load_peer *peer)
{
    uint32_t bytes;

    if (!can_send(load, peer)) {
        count(load, LOAD_ONEWAY_IDLE);
        return 0;
    }
    bytes = draw_size(load, &load->phase->oneway);
    count(load, LOAD_ONEWAY);
    count_many(load, LOAD_ONEWAY_OUT, bytes);
    load_oneway(load, peer, bytes);
    return 1;
}

int load_ask(struct load *load, struct load_peer *peer, uint64_t due)
{
    uint32_t bytes;

    count(load, LOAD_ASKED);
    if (!can_send(load, peer)) {
        count(load, LOAD_UNSENT);
        return 0;
    }
    bytes = draw_size(load, &load->phase->echo);
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
