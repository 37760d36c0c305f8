/* counters: what happened to each packet, by cause. One line set a worker, one writer each. */
#ifndef SHM_COUNTERS_H
#define SHM_COUNTERS_H

#include "segment.h"

/* cdef begin */
/* Every UDP datagram that reaches a receiver is counted once in UDP_RECEIVED and ends in
 * exactly one of the counters marked (end). Likewise TUN_RECEIVED. */
enum counter {
    UDP_RECEIVED,
    DROP_MESSAGE_LENGTH,       /* (end) under 16 bytes, or a length no message of its type has */
    DROP_MESSAGE_TYPE,         /* (end) type word not 1..4 */
    HANDSHAKE_TO_CONTROL,      /* control's HS_* counters say what became of it */
    DROP_MAILBOX_FULL,         /* (end) */
    DROP_INDEX_UNKNOWN,        /* (end) receiver index names no keypair */
    DROP_PEER_SHARE,           /* (end) the peer holds its 1/8 of the slots */
    DROP_NO_SLOT,              /* (end) larger than a small slot, and no train slot is free */
    DROP_QUEUE_FULL_INBOUND,   /* (end) */
    DROP_KEYPAIR_GONE,         /* (end) not in the peer's key word (any more) */
    DROP_KEYPAIR_EXPIRED,      /* (end) 180 s or 2^64-8130 messages */
    DROP_DATA_TAG,             /* (end) AEAD refused */
    DROP_REPLAY,               /* (end) */
    KEEPALIVE_RECEIVED,        /* (end) */
    DROP_INNER_HEADER,         /* (end) version, lengths */
    DROP_INNER_SOURCE,         /* (end) source is not an allowed IP of this peer */
    DROP_ECN,                  /* (end) CE outside, not ECN-capable inside */
    DROP_TUN_WRITE,            /* (end) the kernel refused */
    TUN_SENT,                  /* (end) delivered */
    TUN_RECEIVED,
    DROP_TUN_HEADER,           /* (end) neither IPv4 nor IPv6, or cut short */
    DROP_NO_PEER,              /* (end) no allowed IP for the destination */
    DROP_NO_PEER_MULTICAST,    /* (end) likewise, a group: what the host says of itself, as a rule, and no fault */
    DROP_NO_ENDPOINT,          /* (end) */
    DROP_PEER_SHARE_OUTBOUND,  /* (end) */
    DROP_NO_SLOT_OUTBOUND,     /* (end) */
    DROP_QUEUE_FULL_OUTBOUND,  /* (end) */
    DROP_STAGED,               /* (end) oldest of more than 128 waiting for a session, or given up */
    DROP_SESSION_ENDED,        /* (end) outbound: the session ran out between the look and the seal */
    DROP_NO_SOCKET,            /* (end) this host has no socket of the endpoint's family */
    DROP_UDP_FULL,             /* (end) the UDP socket's buffer stayed full */
    DROP_UDP_SEND,             /* (end) the kernel refused, for another reason */
    DROP_LOOP,                 /* (end) a message of ours that came back, or one in too many tunnels */
    UDP_SENT,                  /* (end) */
    KEEPALIVE_SENT,
    DROP_PEER_GONE,            /* (end) removed while the packet waited */
    DROP_KILLED,               /* (end) was in hand of a killed process; counted by the repairer */
    HS_MESSAGE_LENGTH,         /* control: (end) wrong length for its type */
    HS_MAC1_BAD,               /* (end) also a receiver's, of what it turns away itself */
    HS_COOKIE_SENT,            /* (end) answered with a cookie reply */
    HS_MAC2_BAD,
    HS_RATE_LIMITED,           /* (end) more than its source may send under load */
    HS_NO_ROOM,                /* (end) an authentic initiation, and no keypair or memory for its session */
    HS_NO_KEY,                 /* (end) we have no private key, so nothing can be checked */
    HS_UNKNOWN_PEER,           /* (end) static key opened, no such peer */
    HS_INITIATION_TAG,         /* (end) AEAD refused */
    HS_TIMESTAMP_REPLAYED,     /* (end) */
    HS_INITIATION_FLOOD,       /* (end) within 20 ms of the last */
    HS_LOW_ORDER,              /* (end) zero shared secret */
    HS_INITIATION_ACCEPTED,    /* (end) */
    HS_RESPONSE_UNKNOWN,       /* (end) no handshake of that index in progress */
    HS_RESPONSE_TAG,           /* (end) also a wrong preshared key */
    HS_RESPONSE_ACCEPTED,      /* (end) */
    HS_COOKIE_UNEXPECTED,      /* (end) */
    HS_COOKIE_TAG,             /* (end) */
    HS_COOKIE_ACCEPTED,        /* (end) */
    HS_DOWN,                   /* (end) the interface is down */
    HS_INITIATION_SENT,
    HS_RESPONSE_SENT,
    HS_SEND_FAILED,
    LOST_WAKES,
    SLOTS_STARVED,             /* times a receiver stopped reading for want of slots */
    ICMP_SENT,                 /* unreachable, back into the TUN: for DROP_NO_PEER and DROP_NO_ENDPOINT */
    DEATHS_KILLED,             /* of workers that nobody had asked to end: by a signal */
    DEATHS_ENDED,              /* by themselves */
    DEATHS_STUCK,              /* killed by the supervisor, which had found them so */
    GIVEN_UP,                  /* what control died of three times: sets, peers, steps of a recovery, news */
    COUNTERS
};
void counter_add(const struct segment *segment, uint32_t worker, enum counter counter, uint64_t n);
/* Sum over all workers. */
uint64_t counter_sum(const struct segment *segment, enum counter counter);
/* cdef end */

#endif
