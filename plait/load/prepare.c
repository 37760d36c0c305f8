/* Computed before the clock starts: each peer's public key and static-static secret, and a stock of ephemerals with
 * their secrets. Each call does one range with contexts of its own, so that threads can share the work. */
#include <stdlib.h>
#include <string.h>

#include "plait/load/state.h"

#define SECRETS_BYTES (2 * NOISE_KEY)

int load_prepare_peers(struct load *load, uint32_t first, uint32_t count)
{
    struct noise *noise = noise_new(load->setup.gateway_key);

    if (!noise)
        return -1;
    for (uint32_t i = first; i < first + count; i++) {
        struct load_peer *peer = &load->peers[i];
        uint8_t private_key[NOISE_KEY];

        load_private_key(load->setup.seed, load->setup.first_peer + i, private_key);
        /* A gateway's key of low order gives zeros. Such a gateway answers nothing, and the run shows just that. */
        (void)noise_derive(noise, private_key, peer->public_key, peer->static_static);
    }
    noise_free(noise);
    return 0;
}

void load_secrets_read(const struct load *load, uint8_t *secrets)
{
    for (uint32_t i = 0; i < load->setup.peers; i++, secrets += SECRETS_BYTES) {
        memcpy(secrets, load->peers[i].public_key, NOISE_KEY);
        memcpy(secrets + NOISE_KEY, load->peers[i].static_static, NOISE_KEY);
    }
}

void load_secrets_write(struct load *load, const uint8_t *secrets)
{
    for (uint32_t i = 0; i < load->setup.peers; i++, secrets += SECRETS_BYTES) {
        memcpy(load->peers[i].public_key, secrets, NOISE_KEY);
        memcpy(load->peers[i].static_static, secrets + NOISE_KEY, NOISE_KEY);
    }
}

uint32_t load_stock_room(struct load *load, uint32_t wanted)
{
    load->stock = calloc(wanted, sizeof *load->stock);
    return load->stock ? wanted : 0;
}

int load_prepare_ephemerals(struct load *load, uint32_t first, uint32_t count)
{
    struct noise *noise = noise_new(load->setup.gateway_key);
    int bad = !noise;

    for (uint32_t i = first; !bad && i < first + count; i++)
        bad = noise_draw(noise, &load->stock[i]);
    noise_free(noise);
    return bad ? -1 : 0;
}

void load_stock_filled(struct load *load, uint32_t count)
{
    load->stocked = count;
}
