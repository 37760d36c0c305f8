/* session: a batch of one peer's data messages. The caller holds the token of the direction. Inbound alone changes
 * the key word and the replay windows, outbound the send counters; both stamp the timers (timers.c).
 *
 * session_open makes three passes over a batch: it chooses keypairs, opens all messages, and then decides in
 * order of arrival. It stores a new key word last, since control may wipe and reuse a keypair as soon as no key
 * word names it. After a kill before that store, the next data under the keypair `next` confirms it again. */
#include "session.h"

#include <assert.h>
#include <string.h>

/* The initiator rekeys, once per session, when data arrives in the session's last 15 s. */
#define REFRESH_SECONDS (REJECT_AFTER_SECONDS - KEEPALIVE_SECONDS - REKEY_TIMEOUT_SECONDS)

/* The keypair with this number if it is in range and belongs to this peer, else NULL. */
static struct keypair *keypair_of(const struct session *session, uint32_t number)
{
    if (!number || number >= session->max_keypairs)
        return NULL;
    struct keypair *keypair = &session->keypairs[number];
    return keypair->peer == session->peer && keypair->peer_generation == session->peer_generation ? keypair : NULL;
}

/* Which of the keypairs in the key word has the receiver index of the message: its number, 0 = none. */
static uint32_t find_number(const struct session *session, uint64_t word, uint32_t index)
{
    const uint32_t numbers[3] = { key_word_current(word), key_word_previous(word), key_word_next(word) };

    for (int i = 0; i < 3; i++) {
        const struct keypair *keypair = keypair_of(session, numbers[i]);
        if (keypair && keypair->local_index == index)
            return numbers[i];
    }
    return 0;
}

/* Outbound's view: the other direction's holder writes it. Acquire: the keypair was written before its number. */
static uint64_t key_word_load(const struct session *session)
{
    return __atomic_load_n(session->key_word, __ATOMIC_ACQUIRE);
}

static int receives(const struct keypair *keypair, uint64_t now)
{
    return !keypair_is_older(keypair, now, REJECT_AFTER_SECONDS) &&
           keypair->window.top < REJECT_AFTER_MESSAGES;
}

static int sends(const struct keypair *keypair, uint64_t now)
{
    return !keypair_is_older(keypair, now, REJECT_AFTER_SECONDS) &&
           __atomic_load_n(&keypair->send_counter, __ATOMIC_RELAXED) < REJECT_AFTER_MESSAGES;
}

/* Whether to rekey now that an authenticated packet came in. True once per session, which is noted here. */
static int wants_refresh(const struct session *session, uint64_t word, uint64_t now)
{
    struct keypair *current = keypair_of(session, key_word_current(word));

    if (!current || current->rekey_asked || !(current->flags & KEYPAIR_INITIATOR) || !sends(current, now) ||
        !keypair_is_older(current, now, REFRESH_SECONDS))
        return 0;
    current->rekey_asked = 1;
    return 1;
}

/* The verdict on the inner packet of an authenticated, new message; sets the packet's ECN bits, trims its length. */
static enum verdict inner_verdict(const struct session *session, struct packet *packet)
{
    const uint8_t *source;
    uint32_t trimmed;
    int version = packet_source(packet->data, packet->length, &source, &trimmed);

    if (!version)
        return VERDICT_INNER_HEADER;
    if (packet_ecn_decapsulate(packet->data, packet->ecn) < 0)
        return VERDICT_ECN;
    uint32_t owner = allowedips_lookup(session->trie, session->max_trie_nodes,
                                       version == 4 ? session->root4 : session->root6, source,
                                       version == 4 ? 32 : 128);
    if (owner != session->peer)
        return VERDICT_INNER_SOURCE;
    packet->length = trimmed;
    return VERDICT_DELIVER;
}

/* First pass: the number of the keypair that opens this message; 0, with the verdict set, when none may. */
static uint32_t choose_keypair(const struct session *session, uint64_t word, struct packet *packet, uint64_t now)
{
    if (packet->length < DATA_OVERHEAD) {
        packet->verdict = VERDICT_TAG;  /* the message is too short for a tag */
        return 0;
    }
    uint32_t number = find_number(session, word, data_receiver_index(packet->data));
    if (!number) {
        packet->verdict = VERDICT_KEYPAIR_GONE;
        return 0;
    }
    if (!receives(&session->keypairs[number], now) || data_counter(packet->data) >= REJECT_AFTER_MESSAGES) {
        packet->verdict = VERDICT_KEYPAIR_EXPIRED;
        return 0;
    }
    return number;
}

void session_open_begin(struct session *session, struct packet *packets, uint32_t count, uint64_t now,
                        struct session_jobs *jobs)
{
    assert(count <= SESSION_BATCH);
    session->news = 0;
    session->last_authenticated = 0;
    jobs->found_word = *session->key_word;
    jobs->count = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = choose_keypair(session, jobs->found_word, &packets[i], now);
        if (!number)
            continue;
        jobs->jobs[jobs->count] = (struct aead_job){
            .data = packets[i].data + DATA_HEADER_BYTES,
            .length = packets[i].length - DATA_HEADER_BYTES,
            .refused = -1,
            .counter = data_counter(packets[i].data),
            .key = session->keypairs[number].receive_key,
        };
        jobs->packets[jobs->count] = &packets[i];
        jobs->numbers[jobs->count++] = number;
    }
}

void session_open_end(struct session *session, const struct packet *packets, uint64_t now, struct session_jobs *jobs)
{
    uint64_t word = jobs->found_word;
    uint32_t data_packets = 0;

    for (uint32_t i = 0; i < jobs->count; i++) {
        struct packet *packet = jobs->packets[i];
        const struct aead_job *job = &jobs->jobs[i];

        if (job->refused) {
            packet->verdict = job->refused == AEAD_LOST ? VERDICT_LOST : VERDICT_TAG;
            continue;
        }
        if (!window_accept(&session->keypairs[jobs->numbers[i]].window, job->counter)) {
            packet->verdict = VERDICT_REPLAY;
            continue;
        }
        session->news |= SESSION_AUTHENTICATED;
        session->last_authenticated = (uint32_t)(packet - packets);
        uint64_t confirmed = key_word_confirm(word, jobs->numbers[i]);
        if (confirmed != word) {
            session->news |= SESSION_CONFIRMED | (key_word_previous(word) ? SESSION_KEYS : 0);
            word = confirmed;
        }
        packet->data = job->data;
        packet->length -= DATA_OVERHEAD;
        if (packet->length == 0) {
            packet->verdict = VERDICT_KEEPALIVE;
            continue;
        }
        data_packets++;
        packet->verdict = inner_verdict(session, packet);
    }

    if (session->news & SESSION_AUTHENTICATED) {
        uint32_t tick = timers_tick(now);
        if (wants_refresh(session, word, now))
            session->news |= SESSION_HANDSHAKE_WANTED;
        if (timers_authenticated_received(session->columns, session->stride, session->peer, tick))
            session->news |= SESSION_TIMER;
        if (data_packets && timers_data_received(session->columns, session->stride, session->peer, tick))
            session->news |= SESSION_TIMER;
    }
    if (word != jobs->found_word)
        /* Release: a process that finds a keypair no longer named also finds our last access to it complete. */
        __atomic_store_n(session->key_word, word, __ATOMIC_RELEASE);
}

void session_open(struct session *session, struct aead *aead, struct packet *packets,
                  uint32_t count, uint64_t now)
{
    struct session_jobs jobs;

    session_open_begin(session, packets, count, now, &jobs);
    aead_open(aead, jobs.jobs, jobs.count);
    session_open_end(session, packets, now, &jobs);
}

/* Pads the packet, writes its header, and fills the job that seals it. */
static void prepare_seal(const struct session *session, const struct keypair *keypair, uint64_t counter,
                         struct packet *packet, struct aead_job *job)
{
    uint32_t padding = packet_padding(packet->length, session->mtu);

    packet->ecn = packet->length ? packet_ecn(packet->data) : 0;
    memset(packet->data + packet->length, 0, padding);
    *job = (struct aead_job){
        .data = packet->data,
        .length = packet->length + padding,
        .counter = counter,
        .key = keypair->send_key,
    };
    packet->data -= DATA_HEADER_BYTES;
    packet->length += padding + DATA_OVERHEAD;
    packet->verdict = VERDICT_DELIVER;
    data_header_write(packet->data, keypair->remote_index, counter);
}

int session_seal_begin(struct session *session, struct packet *packets, uint32_t count, uint64_t now,
                       struct session_jobs *jobs)
{
    uint32_t number = key_word_current(key_word_load(session));
    struct keypair *keypair = keypair_of(session, number);

    assert(count <= SESSION_BATCH);
    session->news = 0;
    jobs->count = 0;
    jobs->numbers[0] = number;
    jobs->first = keypair ? keypair_take_nonces(keypair, count, now) : UINT64_MAX;
    if (jobs->first == UINT64_MAX) {
        for (uint32_t i = 0; i < count; i++)
            packets[i].verdict = VERDICT_NO_SESSION;
        session->news = SESSION_HANDSHAKE_WANTED;
        return -1;
    }
    for (uint32_t i = 0; i < count; i++) {
        jobs->packets[i] = &packets[i];
        jobs->numbers[i] = number;
        prepare_seal(session, keypair, jobs->first + i, &packets[i], &jobs->jobs[i]);
    }
    jobs->count = count;
    return 0;
}

void session_seal_end(struct session *session, uint64_t now, struct session_jobs *jobs)
{
    const struct keypair *keypair = &session->keypairs[jobs->numbers[0]];
    uint32_t tick = timers_tick(now), data_packets = 0;

    for (uint32_t i = 0; i < jobs->count; i++) {
        struct packet *packet = jobs->packets[i];

        packet->data = jobs->jobs[i].data - DATA_HEADER_BYTES;
        packet->verdict = jobs->jobs[i].refused ? VERDICT_LOST : VERDICT_DELIVER;
        data_packets += packet->length != DATA_OVERHEAD;
    }
    if (jobs->count && timers_authenticated_sent(session->columns, session->stride, session->peer, tick))
        session->news |= SESSION_TIMER;
    if (data_packets && timers_data_sent(session->columns, session->stride, session->peer, tick))
        session->news |= SESSION_TIMER;
    if (jobs->first + jobs->count > REKEY_AFTER_MESSAGES ||
        ((keypair->flags & KEYPAIR_INITIATOR) && keypair_is_older(keypair, now, REKEY_AFTER_SECONDS)))
        session->news |= SESSION_HANDSHAKE_WANTED;
}

int session_seal(struct session *session, struct aead *aead, struct packet *packets,
                 uint32_t count, uint64_t now)
{
    struct session_jobs jobs;

    if (session_seal_begin(session, packets, count, now, &jobs))
        return -1;
    aead_seal(aead, jobs.jobs, jobs.count);
    session_seal_end(session, now, &jobs);
    return 0;
}

uint32_t session_remote_index(const struct session *session)
{
    const struct keypair *keypair = keypair_of(session, key_word_current(key_word_load(session)));

    return keypair ? keypair->remote_index : 0;
}

int session_is_usable(const struct session *session, uint64_t now)
{
    const struct keypair *keypair = keypair_of(session, key_word_current(key_word_load(session)));

    return keypair && sends(keypair, now);
}
