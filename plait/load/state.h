/* state: one process's generator from the inside. Private to the C files of plait/load.
 *
 * A message on its way out stands in the batch of its socket until the batch is full or the loop
 * comes round: then all of its data messages are sealed, and the kernel gets it in one call. */
#ifndef PLAIT_LOAD_STATE_H
#define PLAIT_LOAD_STATE_H

#include <stddef.h>
#include <sys/socket.h>
#include <time.h>

#include "engine/cookie.h"
#include "engine/keypair.h"
#include "engine/timers.h"
#include "plait/load/generator.h"
#include "plait/load/initiator.h"

#define NOBODY 0xffffffffu
#define WHEEL_SLOTS 512            /* of 2^24 ns: 8.6 s, more than a retry takes */
#define WHEEL_SHIFT TIMER_TICK_SHIFT
#define SAMPLES 256                /* messages kept to be replayed, of each kind */
#define SAMPLE_BYTES 256
#define STRANGERS 64
#define FLOOD_NS 25000000ull       /* a gateway takes one initiation of a peer in 20 ms */
#define INITIATIONS_MOST (TIMER_HANDSHAKES_MOST + 2)  /* of one handshake */
#define SECOND_NS 1000000000ull
#define COOKIE_NS ((COOKIE_SECRET_SECONDS - COOKIE_LATENCY_SECONDS) * SECOND_NS)  /* a cookie is shown for so long */
#define REKEY_NS (REKEY_AFTER_SECONDS * SECOND_NS)
#define REJECT_NS (REJECT_AFTER_SECONDS * SECOND_NS)
#define PASSIVE_NS (KEEPALIVE_SECONDS * SECOND_NS)
#define BEHIND_NS 10000000ull
#define SEEN_WORDS 8               /* of 64 data messages each */

struct load_session {
    uint8_t send_key[NOISE_KEY], receive_key[NOISE_KEY];
    uint64_t counter;              /* next to send */
    uint64_t top, seen[SEEN_WORDS];  /* received: greatest + 1, and which of those before it */
    uint64_t taken, missing;       /* of those below top: received; not received, as far as counted */
    uint64_t born;                 /* 0: no session */
    uint32_t local, remote;        /* receiver indices */
};

enum peer_state {
    PEER_IDLE,
    PEER_INITIATED,
    PEER_CONFIRMING
};
#define PEER_HOLDS_PLACE 1         /* in the closed loop of handshakes */
#define PEER_HAS_COOKIE 2
#define PEER_SHOWED_MAC1 4         /* a cookie reply to it is accepted, once */
#define PEER_RECOVERS 8            /* it renews its session for want of answers */

struct load_peer {
    uint8_t public_key[NOISE_KEY], static_static[NOISE_KEY];
    struct noise_flight flight;
    uint8_t mac1[MAC_BYTES], cookie[MAC_BYTES];
    uint64_t cookie_born;
    uint64_t intended;             /* when the handshake in flight was meant to begin */
    uint64_t departed;             /* when its first initiation left */
    uint64_t initiated;            /* when its latest initiation was made */
    uint64_t deadline;             /* of what the state waits for */
    uint64_t asked_at;             /* closed loop of traffic: its echo in flight, 0: none */
    uint64_t owes_since;           /* data came and nothing was sent since; 0: nothing is owed */
    uint64_t silent_at;            /* a handshake is due unless something is heard before; 0: nothing was sent */
    uint64_t waits_since;          /* when the first echo since the last answer left; 0: none did */
    uint64_t gap;                  /* the longest such wait of the phase */
    struct load_session current, previous;
    uint32_t index;                /* of the handshake in flight */
    uint32_t sequence;             /* of the echo sent last */
    uint32_t sample;               /* its echo kept to be replayed; SAMPLES: none */
    uint32_t timer_next, timer_previous, timer_slot;  /* NOBODY: in no slot */
    uint16_t generation;
    uint16_t port;
    uint32_t source;
    uint8_t state, flags, attempts;
};

#define MARK_TRAFFIC 1             /* an echo that is counted in LOAD_ASKED */
#define MARK_LATE 2                /* and in LOAD_ECHOES_LATE, or LOAD_ONEWAY_LATE */
#define MARK_ONEWAY 4              /* a packet that is counted in LOAD_ONEWAY */
#define MARK_INNER 8               /* and in LOAD_INNER_PACKETS */

struct load_out {
    uint32_t count, jobs;
    struct aead_job job[LOAD_BATCH];
    uint32_t length[LOAD_BATCH];
    uint32_t source[LOAD_BATCH];
    uint32_t asker[LOAD_BATCH], sequence[LOAD_BATCH];  /* of an echo or initiation: whose, and its number; else NOBODY */
    uint8_t mark[LOAD_BATCH];      /* MARK_* */
    uint8_t key[LOAD_BATCH][AEAD_KEY_BYTES];  /* of each job: a session may end before the batch leaves */
    uint8_t data[LOAD_BATCH][LOAD_MESSAGE_MOST];
};

struct load_pacer {
    const double *rate;            /* at the beginning and end of the phase: its plan's, or `level` */
    double level[2];
    double event;                  /* number of the next */
    uint64_t due;                  /* UINT64_MAX: none */
    uint64_t blocked_at;           /* when an event last found no peer that could carry it out */
    uint32_t why;                  /* enum cause */
    int is_blocked;                /* the next one still finds none */
};

struct load_sample {
    uint32_t length, asker, sequence;
    int answered;
    uint8_t data[SAMPLE_BYTES];
};

struct load {
    struct load_setup setup;
    struct load_area *area;
    struct load_tally *tally;
    const struct load_phase *phase;
    struct noise *noise;
    struct aead *aead;
    struct load_peer *peers;
    struct noise_ephemeral *stock;
    uint32_t stocked;
    struct load_out *outs;         /* setup.ports of peers, then the garbage's */
    uint8_t (*inbox)[LOAD_MESSAGE_MOST];
    int32_t fds[LOAD_PORTS_MOST + 1];
    int epoll;
    uint64_t now, begin;
    uint64_t end;                  /* what is due then or later is not begun; an early end brings it forward */
    uint8_t *mark;                 /* of the message that was placed last */
    uint64_t arrived;              /* when the kernel took in the datagram in hand */
    uint64_t waits_since;          /* as a peer's, of all of them */
    int has_errors;                /* a socket's error queue may hold something */
    uint64_t last_stamp;
    uint64_t wheel_tick;
    uint32_t wheel[WHEEL_SLOTS];
    uint32_t handshake_cursor, traffic_cursor, oneway_cursor, keepalive_cursor, roam_cursor;
    uint32_t places;               /* held in the closed loop */
    uint32_t in_flight;            /* handshakes: initiated or confirming */
    uint64_t begun;                /* handshakes, in this phase */
    uint32_t sessions;
    uint64_t random;
    struct load_sample *samples[2];  /* initiations, data; each SAMPLES */
    uint32_t sampled[2];
    uint64_t sampled_at;
    uint8_t (*strangers)[148];
    struct noise_ephemeral *forged;  /* of initiations whose timestamp does not open */
    uint64_t swept;                /* when closed-loop echoes were last looked through */
};

static inline void count(struct load *load, enum load_counter counter)
{
    load->tally->counters[counter]++;
}

static inline void count_many(struct load *load, enum load_counter counter, uint64_t n)
{
    load->tally->counters[counter] += n;
}

static inline void note_span(struct load *load, enum load_histogram which, uint64_t from, uint64_t to)
{
    load->tally->histograms[which][load_bucket(to > from ? to - from : 0)]++;
}

/* Until the datagram in hand arrived. */
static inline void note_time(struct load *load, enum load_histogram which, uint64_t from)
{
    note_span(load, which, from, load->arrived);
}

/* Counts the numbers of a session that did not come, once each. */
static inline void note_missing(struct load *load, struct load_session *session)
{
    uint64_t missing = session->top - session->taken;

    if (!session->born || missing <= session->missing)
        return;
    count_many(load, LOAD_NUMBERS_MISSING, missing - session->missing);
    session->missing = missing;
}

/* Of this thread, ns; a call costs a system call's time. */
static inline uint64_t thread_cpu(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* splitmix64: for jitter, arrivals and garbage, not for keys. */
static inline uint64_t draw_bits(struct load *load)
{
    uint64_t z = load->random += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* Above 0, up to 1. */
static inline double draw_share(struct load *load)
{
    return (double)((draw_bits(load) >> 11) + 1) * 0x1p-53;
}

/* keys.c: what follows from the seed for one number. */
void load_private_key(const uint8_t *seed, uint32_t number, uint8_t private_key[NOISE_KEY]);
void load_psk(const uint8_t *seed, uint32_t number, uint8_t psk[NOISE_KEY]);

/* send.c. A place for one message of a socket (peer->port, or setup.ports for garbage), sent before when the batch is full; `source` counts from setup.source. */
uint8_t *load_out_place(struct load *load, uint32_t port, uint32_t length, uint32_t source);
void load_flush(struct load *load, uint32_t port);
void load_flush_all(struct load *load);
/* Takes a socket's ICMP errors, which would wake the loop for ever. */
void load_errors_take(struct load *load, int fd);
/* An echo request to the gateway's inner address. kind: STAMP_*. Needs a session. */
enum {
    STAMP_TRAFFIC,
    STAMP_CONFIRM
};
void load_echo(struct load *load, struct load_peer *peer, uint32_t bytes, uint8_t kind, uint64_t intended);
/* An echo reply that answers nothing: a host drops it in silence. */
void load_oneway(struct load *load, struct load_peer *peer, uint32_t bytes);
/* The least that an echo can be. */
uint32_t load_inner_least(const struct load *load);
void load_keepalive(struct load *load, struct load_peer *peer);
int load_has_session(const struct load *load, const struct load_peer *peer);

/* What an echo carries, so that its answer needs no state: behind the headers of IP and ICMP. */
struct load_stamp {
    uint32_t magic, number;        /* of the peer, among all */
    uint64_t intended, departed;
    uint32_t sequence;
    uint8_t phase, kind;
    uint16_t reserved;
};
#define STAMP_MAGIC 0x706c6f61u
#define ICMP_HEADER 8

static inline int inner_is_ip6(const struct load *load)
{
    return load->setup.inner_family == AF_INET6;
}

/* IP's header. */
static inline uint32_t inner_ip(const struct load *load)
{
    return inner_is_ip6(load) ? 40 : 20;
}

static inline uint32_t inner_headers(const struct load *load)
{
    return inner_ip(load) + ICMP_HEADER;
}

/* Number 1 is the gateway, peer n is n + 2: as it stands in a packet, 4 or 16 bytes. */
void load_inner_address(const struct load *load, uint32_t number, uint8_t *address);

/* receive.c: takes all that waits. Returns how many datagrams. */
uint32_t load_receive(struct load *load);

/* handshakes.c */
void load_handshake_begin(struct load *load, uint32_t i, uint64_t intended, int takes_place);
void load_handshake_response(struct load *load, uint32_t i, const uint8_t *message);
void load_handshake_cookie(struct load *load, uint32_t i, const uint8_t *message);
void load_handshake_confirmed(struct load *load, struct load_peer *peer, uint64_t intended);
int load_handshake_ready(const struct load *load, const struct load_peer *peer);
void load_handshakes_end(struct load *load);
/* A peer begins one by itself: its session grows old, or is_silent: nothing came back for so long. */
void load_handshake_renew(struct load *load, struct load_peer *peer, int is_silent);

/* timers.c. Something authentic came from the gateway, or went there and wants an answer. */
void load_heard(struct load_peer *peer);
void load_spoke(struct load *load, struct load_peer *peer);
/* Sets the timer of an idle peer for what is due first. */
void load_idle_timer(struct load *load, struct load_peer *peer);
void load_timer_clear(struct load *load, struct load_peer *peer);
void load_timer_set(struct load *load, uint32_t i, uint64_t deadline);
void load_timers_run(struct load *load);

/* echoes.c: an echo request that is due at that time, 0 when there was no session for it; the next one of a
 * closed loop. */
int load_ask(struct load *load, struct load_peer *peer, uint64_t due);
/* The same of a packet that wants no answer. */
int load_tell(struct load *load, struct load_peer *peer);
void load_traffic_next(struct load *load, struct load_peer *peer);

/* garbage.c */
/* 0 when there was nothing to send: no session to forge for, no answered message to replay. */
int load_garbage_send(struct load *load, uint32_t kind);
/* This peer's echo was answered: if its message is a sample, the gateway has taken it. */
void load_sample_answered(struct load *load, const struct load_peer *peer, uint32_t sequence);

#endif
