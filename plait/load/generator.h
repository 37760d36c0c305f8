/* generator: what the parts of the load generator share: its peers, a phase's plan, what is counted.
 *
 * A load process owns all of it alone (one thread, one core), but for `struct load_area`, which it
 * writes and the command reads, and whose last fields the command writes and it reads. */
#ifndef PLAIT_LOAD_GENERATOR_H
#define PLAIT_LOAD_GENERATOR_H

#include <stdint.h>

#include "engine/aead.h"

/* cdef begin */
#define LOAD_BATCH 64
#define LOAD_MESSAGE_MOST 2048     /* bytes of one datagram, either way */
#define LOAD_INNER_LEAST 64        /* IPv4, ICMP and the stamp, and some room */
#define LOAD_INNER6_LEAST 80       /* IPv6, ICMPv6 and the stamp */
#define LOAD_PEERS_MOST 1048576    /* a process; 20 bits of a receiver index */
#define LOAD_PORTS_MOST 256        /* sockets of a process */

/* Buckets of a histogram: nanoseconds, 256 to each power of two (0.4 %), up to 2^40. */
#define LOAD_BUCKET_BITS 8
#define LOAD_BUCKETS 8448
#define LOAD_RECOVERY_EVEN 6144    /* of LOAD_RECOVERY: the first, 2^22 ns each */

enum load_histogram {
    LOAD_RESPONSE_TIME,            /* when an initiation was due, to the response */
    LOAD_HANDSHAKE_TIME,           /* the same to the answer to the first data packet */
    LOAD_ROUND_TRIP,               /* when an echo was due, to its answer */
    LOAD_RESPONSE_DEPARTED,        /* these three from when the (first) message left */
    LOAD_HANDSHAKE_DEPARTED,
    LOAD_ROUND_TRIP_DEPARTED,
    LOAD_RECOVERY,                 /* peers that renewed their session after silence: first unanswered echo to answer */
    LOAD_GAP,                      /* each peer that sent echoes: its longest wait for any answer */
    LOAD_CONFIRMED_AT,             /* beginning of the phase to the end of a handshake */
    LOAD_HISTOGRAMS
};

enum load_counter {
    LOAD_INITIATIONS,              /* first initiations of a handshake */
    LOAD_RETRIES,                  /* initiations sent again, 5 s later */
    LOAD_RENEWALS,                 /* of INITIATIONS: begun by the peer itself, not by the plan */
    LOAD_RECOVERIES,               /* of RENEWALS: because nothing came back for so long */
    LOAD_RECOVERED,                /* peers that got an answer after that */
    LOAD_UNRECOVERED,              /* peers that were still without an answer at the end */
    LOAD_SESSIONS_HELD,            /* peers that had a session at the end */
    LOAD_RESPONSES,                /* opened */
    LOAD_HANDSHAKES,               /* opened, and the first data packet answered */
    LOAD_UNCONFIRMED,              /* opened, and the first data packet not answered */
    LOAD_UNANSWERED,               /* no response within the phase's patience */
    LOAD_COOKIES,                  /* cookie replies that opened */
    LOAD_COOKIES_HONOURED,         /* initiations with mac2 */
    LOAD_UNPREPARED,               /* initiations whose ephemeral was made while the clock ran */
    LOAD_ASKED,                    /* echo requests of traffic */
    LOAD_ANSWERED,
    LOAD_UNSENT,                   /* of ASKED: the peer had no session */
    LOAD_ANSWERED_AFTER,           /* answers to an earlier phase; they count as lost there */
    LOAD_ONEWAY,                   /* packets that want no answer, given to the kernel or refused by it */
    LOAD_ONEWAY_OUT,               /* their inner bytes */
    LOAD_INNER_PACKETS,            /* that left: echoes, of traffic and of handshakes, and one-way packets */
    LOAD_NUMBERED,                 /* data of the gateway that came, */
    LOAD_NUMBERS_MISSING,          /* and of its numbers in each session, those that did not */
    LOAD_STRANGERS_BEGUN,          /* handshakes of peers that nobody knows; not in INITIATIONS */
    LOAD_STRANGERS_SILENT,         /* without an answer, as should be */
    LOAD_STRANGERS_ANSWERED,       /* expected 0 */
    LOAD_KEEPALIVES,
    LOAD_KEEPALIVES_BACK,
    LOAD_DATAGRAMS_OUT,
    LOAD_DATAGRAMS_IN,
    LOAD_BYTES_OUT,                /* of datagrams, UDP payload */
    LOAD_BYTES_IN,
    LOAD_INNER_OUT,                /* inner bytes of traffic asked */
    LOAD_INNER_IN,                 /* and answered */
    LOAD_ROAMED,
    LOAD_ELSEWHERE,                /* data that came to a port its peer had left */
    LOAD_SEND_REFUSED,             /* by the kernel */
    LOAD_SEND_WAITED,              /* full socket buffer: times */
    LOAD_OWN_DROPS,                /* lost in our own sockets' buffers */
    LOAD_UNREACHABLE,              /* ICMP errors: no way there, or no socket at that port */
    /* Events at a rate (open loop): due by the end; of these, left more than 10 ms late; never left. The
     * generator stood still, or was busy, where the name gives no other cause. Of a closed loop of handshakes
     * those are due, and not begun, that its `count` still had when the time was over. */
    LOAD_ECHOES_DUE,
    LOAD_ECHOES_LATE,
    LOAD_ECHOES_NOT_SENT,          /* besides UNSENT and ECHOES_REFUSED */
    LOAD_ECHOES_REFUSED,           /* by the kernel */
    LOAD_HANDSHAKES_DUE,
    LOAD_HANDSHAKES_LATE,
    LOAD_HANDSHAKES_LATE_WAITING,  /* every peer waited for the gateway */
    LOAD_HANDSHAKES_LATE_FEW,      /* every peer had just begun one: too few peers for the rate */
    LOAD_HANDSHAKES_NOT_SENT,
    LOAD_HANDSHAKES_NOT_BEGUN_WAITING,  /* as above; or the closed loop's places were taken until the end */
    LOAD_HANDSHAKES_NOT_BEGUN_FEW,
    LOAD_ONEWAY_DUE,
    LOAD_ONEWAY_LATE,
    LOAD_ONEWAY_NOT_SENT,
    LOAD_ONEWAY_IDLE,              /* never left: the peer had no session */
    LOAD_ONEWAY_REFUSED,
    LOAD_OTHERS_DUE,               /* keepalives, roaming, garbage */
    LOAD_OTHERS_LATE,
    LOAD_OTHERS_NOT_SENT,
    LOAD_OTHERS_IDLE,              /* never left: no session, or nothing to replay yet */
    LOAD_BAD_MESSAGE,              /* no message of the protocol */
    LOAD_BAD_INDEX,                /* of no handshake or session */
    LOAD_BAD_RESPONSE,
    LOAD_BAD_COOKIE,
    LOAD_BAD_TAG,
    LOAD_REPEATED,                 /* data seen before */
    LOAD_TOO_OLD,                  /* data so far behind that we cannot say whether it was seen before */
    LOAD_WRONG_PEER,               /* an answer inside another peer's session */
    LOAD_STRANGE,                  /* echo replies that answer nothing of ours */
    LOAD_INNER_OTHER,              /* other inner packets: a gateway's host may send some */
    LOAD_GATEWAY_INITIATIONS,      /* not answered */
    LOAD_GARBAGE_MAC1,
    LOAD_GARBAGE_STRANGER,
    LOAD_GARBAGE_SHORT,
    LOAD_GARBAGE_RANDOM,
    LOAD_GARBAGE_TAG,
    LOAD_GARBAGE_REPLAYED_DATA,
    LOAD_GARBAGE_REPLAYED_INITIATION,
    LOAD_GARBAGE_TIMESTAMP,
    LOAD_GARBAGE_COOKIES,          /* cookie replies to garbage */
    LOAD_GARBAGE_ANSWERS,          /* any other answer to garbage; expected 0 */
    LOAD_HANDSHAKE_NS,             /* CPU for handshake cryptography */
    LOAD_CPU_NS,                   /* all CPU of the phase */
    LOAD_WALL_NS,
    LOAD_COUNTERS
};
#define LOAD_GARBAGE_KINDS 8       /* LOAD_GARBAGE_MAC1 and the seven after it */

struct load_tally {
    uint64_t counters[112];
    uint64_t lag_most;             /* ns; the latest that anything left, by the generator's doing */
    uint64_t gap_most;             /* ns; the longest that echoes were out and no peer got an answer */
    uint64_t confirmed_last;       /* ns of the phase at which its last handshake was confirmed */
    uint64_t histograms[9][8448];
};

/* Shared with the command: memory of a nameless file. */
struct load_area {
    uint64_t prepared;             /* phases that are ready to begin, + 1 */
    uint64_t finished;             /* phases that are over */
    uint64_t steps;                /* of preparation done, and in all: for a progress line */
    uint64_t steps_all;
    uint64_t sessions;             /* peers that have one now */
    uint64_t outstanding;          /* handshakes in flight now */
    uint64_t begin[32];            /* the command's: when phase i begins, CLOCK_BOOTTIME; 0: not yet */
    double scale[32];              /* the command's, before begin: factor of the rates of phase i; 0: 1 */
    uint64_t length[32];           /* the command's, likewise: ns of phase i; 0: as planned */
    uint64_t stop;                 /* the command's: 1 ends the phase, which drains, and the run; 2 at once */
    struct load_tally tallies[32];
};

/* How large packets are: all alike, or drawn from a mix. */
struct load_sizes {
    uint32_t bytes;                /* inner */
    uint32_t mix;                  /* sizes that follow; 0: `bytes` */
    uint32_t mix_bytes[8];
    double mix_share[8];           /* of all packets, of this size and those before it */
};

/* What one process does in a phase. Rates are its own share, a second; 0 is none. */
struct load_phase {
    uint64_t length;               /* ns */
    uint64_t drain;                /* ns to wait for answers afterwards */
    uint64_t patience;             /* ns until a handshake's place in a closed loop is given to another */
    uint64_t handshakes;           /* how many in all; 0: without end */
    uint32_t outstanding;          /* closed loop: at most so many in flight; 0: open loop */
    uint32_t until_done;           /* 1: the phase ends when all handshakes are over, before its length */
    uint32_t confirm;              /* 1: a handshake counts when its first data packet is answered */
    double handshake_rate[2];      /* open loop: at the beginning, at the end */
    double traffic_rate[2];
    uint32_t traffic_outstanding;  /* closed loop: echoes in flight, one a peer; 0: open loop */
    uint32_t traffic_peers;        /* traffic goes round the first so many */
    uint32_t oneway_peers;
    uint32_t number;               /* of this phase: its tally */
    double keepalive_rate;
    double roam_rate;
    double garbage_rate[8];
    double oneway_rate[2];         /* packets that want no answer */
    uint32_t handshakes_random, traffic_random, oneway_random;  /* 1: events come at random, not evenly (Poisson) */
    struct load_sizes echo, oneway;
    double stagger;                /* 0 to 1: this process's place between the events of the others */
};

struct load_setup {
    uint8_t seed[32];
    uint8_t gateway_key[32];
    uint8_t target[16];            /* address, 4 or 16 bytes */
    uint32_t family;               /* AF_INET, AF_INET6 */
    uint32_t port;                 /* host order */
    uint32_t first_peer;           /* number of this process's first peer */
    uint32_t peers;
    uint32_t inner_family;         /* as family, of the addresses inside */
    uint8_t inner_base[16];        /* a network: the gateway has base + 1, peer n base + 2 + n */
    uint32_t strangers;            /* 1: nobody knows these peers; they want no answer and do not try again */
    uint32_t sources;              /* how many source addresses follow `source` */
    uint8_t source[16];            /* the first of them; all zeros: the route decides */
    uint32_t ports;                /* sockets; their fds come besides */
    uint32_t psk;                  /* 1: each peer has a preshared key, from the seed */
    uint64_t retry;                /* ns; REKEY_TIMEOUT */
    uint64_t retry_jitter;
    uint64_t silence;              /* ns without an answer until a peer begins a handshake; 0: never */
};

struct load;  /* one process's generator */
/* NULL without memory or AEAD. fds: setup->ports sockets for peers, then the one for garbage. */
struct load *load_new(const struct load_setup *setup, const int32_t *fds, struct load_area *area);
void load_free(struct load *load);
uint64_t load_bytes_per_peer(void);

/* Keys of peers first to first + count: 32 bytes each, as the seed gives them. NULL: not wanted.
 * 0, or -1 without memory. */
int load_keys(const uint8_t *seed, uint32_t first, uint32_t count, uint8_t *privates, uint8_t *publics,
              uint8_t *psks);
/* The gateway's own private key. */
void load_gateway_key(const uint8_t *seed, uint8_t *private_key);
int load_gateway_public(const uint8_t *private_key, uint8_t *public_key);

/* Before the clock starts: secrets of peers first to first + count, of this process's; threads may each
 * have a range. 0, or -1 without memory. */
int load_prepare_peers(struct load *load, uint32_t first, uint32_t count);
/* The same of all peers from and to memory, 64 bytes each: the public key, the static-static secret. */
void load_secrets_read(const struct load *load, uint8_t *secrets);
void load_secrets_write(struct load *load, const uint8_t *secrets);
/* Room for so many ephemerals, once: how many there is memory for, the rest is made while the clock runs, and
 * counted. Then ranges are filled, as above, and when none is being filled, so many may be used. */
uint32_t load_stock_room(struct load *load, uint32_t wanted);
int load_prepare_ephemerals(struct load *load, uint32_t first, uint32_t count);
void load_stock_filled(struct load *load, uint32_t count);
/* Before the first phase, when any phase has garbage: from then on messages are kept to be replayed.
 * 0, or -1 without memory. */
int load_garbage_open(struct load *load);
/* Runs a phase from `begin` (CLOCK_BOOTTIME ns) to its end, draining included. */
void load_run_phase(struct load *load, const struct load_phase *phase, uint64_t begin);

/* Where a time counts, and the middle of a bucket in ns. */
uint32_t load_bucket(uint64_t ns);
uint64_t load_bucket_middle(uint32_t bucket);
/* The same of LOAD_RECOVERY, whose times are seconds: buckets of 4 ms up to 25 s, then 128 to each power of two. */
uint32_t load_recovery_bucket(uint64_t ns);
uint64_t load_recovery_bucket_middle(uint32_t bucket);
/* Event k (from 0) of a rate that goes from r[0] to r[1] a second within length ns: ns after the
 * beginning, or UINT64_MAX when it lies beyond. A length of 0 is endless, with r[0]. */
uint64_t load_pace(const double *r, uint64_t length, double k);
/* cdef end */

#endif
