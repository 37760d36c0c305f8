/* What a gateway must drop: made up, cut short, forged or said before. It leaves from a socket of
 * its own, so that whatever comes back there is an answer to garbage. Only a cookie may: mac1 of
 * some of it is right, and a gateway under load asks such a sender to show its address. */
#include <stdlib.h>
#include <string.h>

#include "engine/bytes.h"
#include "engine/packet.h"
#include "plait/load/state.h"

enum {
    MAC1,
    STRANGER,
    SHORT,
    RANDOM,
    TAG,
    REPLAYED_DATA,
    REPLAYED_INITIATION,
    TIMESTAMP
};

static void fill(struct load *load, uint8_t *data, uint32_t length)
{
    for (uint32_t at = 0; at < length; at += 8) {
        uint64_t bits = draw_bits(load);

        memcpy(data + at, &bits, length - at < 8 ? length - at : 8);
    }
}

/* Right in all but this: nobody at the gateway has that static key. */
static void stranger_write(struct load *load, uint8_t *message, uint32_t number)
{
    struct noise_ephemeral self, ephemeral;
    struct noise_flight flight;
    static const uint8_t stamp[12] = { 0x40 };

    if (noise_draw(load->noise, &self) || noise_draw(load->noise, &ephemeral))
        return;
    noise_initiation(load->noise, message, &flight, self.public_key, self.secret, &ephemeral, number, stamp,
                     NULL);
}

/* What anybody can make who knows a peer's public key: its static key opens, its timestamp does not, for that
 * takes a secret of the peer's. */
static void timestamp_write(struct load *load, uint8_t *message)
{
    const struct load_peer *peer = &load->peers[draw_bits(load) % load->setup.peers];
    uint8_t secret[NOISE_KEY], stamp[12];
    struct noise_flight flight;

    fill(load, secret, sizeof secret);
    fill(load, stamp, 8);
    memset(stamp + 8, 0, 4);
    noise_initiation(load->noise, message, &flight, peer->public_key, secret, load->forged,
                     (uint32_t)draw_bits(load), stamp, NULL);
}

int load_garbage_open(struct load *load)
{
    load->samples[0] = calloc(SAMPLES, sizeof(struct load_sample));
    load->samples[1] = calloc(SAMPLES, sizeof(struct load_sample));
    load->strangers = calloc(STRANGERS, sizeof *load->strangers);
    load->forged = calloc(1, sizeof *load->forged);
    if (!load->samples[0] || !load->samples[1] || !load->strangers || !load->forged ||
        noise_draw(load->noise, load->forged))
        return -1;
    for (uint32_t i = 0; i < STRANGERS; i++)
        stranger_write(load, load->strangers[i], i);
    return 0;
}

void load_sample_answered(struct load *load, const struct load_peer *peer, uint32_t sequence)
{
    struct load_sample *sample;

    if (peer->sample >= SAMPLES)
        return;
    sample = &load->samples[1][peer->sample];
    if (sample->asker == (uint32_t)(peer - load->peers) && sample->sequence == sequence)
        sample->answered = 1;
}

/* Whether the gateway has taken the message: what it never saw would be no replay, but late. */
static int was_taken(const struct load *load, uint32_t which, const struct load_sample *sample)
{
    uint32_t index = load_le32(sample->data + 4);
    const struct load_peer *peer = &load->peers[index & (LOAD_PEERS_MOST - 1)];

    return which ? sample->answered
                 : (peer->current.born && peer->current.local == index) ||
                       (peer->previous.born && peer->previous.local == index);
}

static uint8_t *place(struct load *load, uint32_t length)
{
    uint32_t sources = load->setup.sources ? load->setup.sources : 1;

    return load_out_place(load, load->setup.ports, length, (uint32_t)(draw_bits(load) % sources));
}

static int replay(struct load *load, uint32_t which)
{
    uint32_t have = load->sampled[which] < SAMPLES ? load->sampled[which] : SAMPLES;
    struct load_sample *sample;

    if (!have)
        return 0;
    sample = &load->samples[which][draw_bits(load) % have];
    if (!was_taken(load, which, sample))
        return 0;
    memcpy(place(load, sample->length), sample->data, sample->length);
    count(load, which ? LOAD_GARBAGE_REPLAYED_DATA : LOAD_GARBAGE_REPLAYED_INITIATION);
    return 1;
}

/* Data for a session that exists, sealed by nobody. Returns 0 when there is none. */
static int forge(struct load *load)
{
    struct load_peer *peer = &load->peers[draw_bits(load) % load->setup.peers];
    uint8_t *message;

    if (!load_has_session(load, peer))
        return 0;
    message = place(load, DATA_OVERHEAD + 64);
    fill(load, message, DATA_OVERHEAD + 64);
    data_header_write(message, peer->current.remote, peer->current.counter + 1000);
    return 1;
}

int load_garbage_send(struct load *load, uint32_t kind)
{
    uint32_t length;
    uint8_t *message;

    switch (kind) {
    case MAC1:
        message = place(load, INITIATION_BYTES);
        fill(load, message, INITIATION_BYTES);
        store_le32(message, MESSAGE_INITIATION);
        break;
    case STRANGER:
        memcpy(place(load, INITIATION_BYTES), load->strangers[draw_bits(load) % STRANGERS], INITIATION_BYTES);
        break;
    case SHORT:  /* of each type, cut anywhere */
        length = 1 + (uint32_t)(draw_bits(load) % (DATA_OVERHEAD - 1));
        message = place(load, length);
        fill(load, message, length);
        message[0] = (uint8_t)(1 + draw_bits(load) % 4);
        if (length > 3)
            memset(message + 1, 0, 3);
        break;
    case RANDOM:
        length = 1 + (uint32_t)(draw_bits(load) % 1472);
        fill(load, place(load, length), length);
        break;
    case TAG:
        if (!forge(load))
            return 0;
        break;
    case TIMESTAMP:
        timestamp_write(load, place(load, INITIATION_BYTES));
        break;
    default:
        return replay(load, kind == REPLAYED_DATA);
    }
    count(load, (enum load_counter)(LOAD_GARBAGE_MAC1 + kind));
    return 1;
}
