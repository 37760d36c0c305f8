/* counters: what happened to each packet, by cause. One line set a worker, one writer each. */
#ifndef SHM_COUNTERS_H
#define SHM_COUNTERS_H

#include "segment.h"

/* cdef begin */
/* Every UDP datagram that reaches a receiver is counted once in UDP_RECEIVED, every packet of the host once in
 * TUN_RECEIVED, and each ends in exactly one of the counters that are marked so. Whoever balances packets takes
 * the marks from here (shm/marks.py):
 *
 *     end in, end out   of a datagram that came from the network, of a packet of the host; end both: of either
 *     end message       of a handshake message that a receiver gave to control
 *     end knock         of the head of a data message for a dead gateway that a receiver gave to control
 *     fine              the packet or message arrived where it should; the other ends are losses
 *     wire              a datagram left by it
 *     event             control emits an event of it (workers/control/losses.py)
 */
enum counter {
    UDP_RECEIVED,
    DROP_MESSAGE_LENGTH,       /* (end in) under 16 bytes, or a length no message of its type has */
    DROP_MESSAGE_TYPE,         /* (end in) type word not 1..4 */
    HANDSHAKE_TO_CONTROL,      /* (end in, fine) control's HS_* counters say what became of it */
    DROP_MAILBOX_FULL,         /* (end in, event) */
    DROP_INDEX_UNKNOWN,        /* (end in, event) receiver index names no keypair */
    DROP_PEER_SHARE,           /* (end in) the peer holds its 1/8 of the slots */
    DROP_NO_SLOT,              /* (end in) larger than a small slot, and no train slot is free */
    DROP_QUEUE_FULL_INBOUND,   /* (end in) */
    DROP_KEYPAIR_GONE,         /* (end in) not in the peer's key word (any more) */
    DROP_KEYPAIR_EXPIRED,      /* (end in) 180 s or 2^64-8130 messages */
    DROP_DATA_TAG,             /* (end in, event) AEAD refused */
    DROP_REPLAY,               /* (end in) */
    KEEPALIVE_RECEIVED,        /* (end in, fine) */
    DROP_INNER_HEADER,         /* (end in) version, lengths */
    DROP_INNER_SOURCE,         /* (end in, event) source is not an allowed IP of this peer */
    DROP_ECN,                  /* (end in) CE outside, not ECN-capable inside */
    DROP_TUN_WRITE,            /* (end in) the kernel refused */
    TUN_SENT,                  /* (end in, fine) delivered */
    TUN_RECEIVED,
    DROP_TUN_HEADER,           /* (end out) neither IPv4 nor IPv6, or cut short */
    DROP_NO_PEER,              /* (end out, event) no allowed IP for the destination */
    DROP_NO_PEER_MULTICAST,    /* (end out, fine) likewise, a group: the host speaking of itself, as a rule; no fault */
    DROP_NO_ENDPOINT,          /* (end out, event) */
    DROP_PEER_SHARE_OUTBOUND,  /* (end out) */
    DROP_NO_SLOT_OUTBOUND,     /* (end out) */
    DROP_QUEUE_FULL_OUTBOUND,  /* (end out) */
    DROP_STAGED,               /* (end out) oldest of more than 128 waiting for a session, or the handshake was given up, or the interface is down */
    DROP_SESSION_ENDED,        /* (end out) outbound: the session ran out between the look and the seal */
    DROP_NO_SOCKET,            /* (end out, event) this host has no socket of the endpoint's family */
    DROP_UDP_FULL,             /* (end out, event) the UDP socket's buffer stayed full */
    DROP_UDP_SEND,             /* (end out, event) the kernel refused, for another reason */
    DROP_LOOP,                 /* (end out, event) a message of ours that came back, or one in too many tunnels */
    UDP_SENT,                  /* (end out, fine, wire) */
    KEEPALIVE_SENT,            /* (wire) */
    DROP_PEER_GONE,            /* (end both) removed while the packet waited */
    DROP_KILLED,               /* (end both) was in hand of a killed process; counted by the repairer */
    HS_MESSAGE_LENGTH,         /* (end message) wrong length for its type */
    HS_MAC1_BAD,               /* (end message) also a receiver's, of what it turns away itself */
    HS_COOKIE_SENT,            /* (end message, fine, wire) answered with a cookie reply */
    HS_MAC2_BAD,
    HS_RATE_LIMITED,           /* (end message) more than its source may send under load */
    HS_NO_ROOM,                /* (end message) an authentic initiation, and no keypair or memory for its session */
    HS_NO_KEY,                 /* (end message) we have no private key, so nothing can be checked */
    HS_UNKNOWN_PEER,           /* (end message) static key opened, no such peer */
    HS_INITIATION_TAG,         /* (end message) AEAD refused */
    HS_TIMESTAMP_REPLAYED,     /* (end message) */
    HS_INITIATION_FLOOD,       /* (end message) within 20 ms of the last */
    HS_RAN_OUT,                /* (end message) of a peer whose quota is used up, or whose time is over */
    HS_LOW_ORDER,              /* (end message) zero shared secret */
    HS_INITIATION_ACCEPTED,    /* (end message, fine) */
    HS_RESPONSE_UNKNOWN,       /* (end message) no handshake of that index in progress */
    HS_RESPONSE_TAG,           /* (end message) also a wrong preshared key */
    HS_RESPONSE_ACCEPTED,      /* (end message, fine) */
    HS_COOKIE_UNEXPECTED,      /* (end message) */
    HS_COOKIE_TAG,             /* (end message) */
    HS_COOKIE_ACCEPTED,        /* (end message, fine) */
    HS_DOWN,                   /* (end message) the interface is down */
    HS_KILLED,                 /* (end message) was in hand of a control that was killed; counted by the next */
    HS_INITIATION_SENT,        /* (wire) */
    HS_RESPONSE_SENT,          /* (wire) */
    HS_SEND_FAILED,
    LOST_WAKES,
    SLOTS_STARVED,             /* times a receiver stopped reading for want of slots */
    ICMP_SENT,                 /* unreachable, back into the TUN: for DROP_NO_PEER and DROP_NO_ENDPOINT */
    BATCHES_SHARED,            /* batches of which a holder offered parts to others (workers/datapath/sharing.h) */
    PARTS_HELPED,              /* parts of others' batches that a worker sealed or opened */
    DEATHS_KILLED,             /* of workers that nobody had asked to end: by a signal */
    DEATHS_ENDED,              /* by themselves */
    DEATHS_STUCK,              /* killed by the supervisor, which had found them so */
    GIVEN_UP,                  /* what control died of three times: sets, peers, steps of a recovery, news */
    UNKNOWN_ASKED,             /* questions about keys that are no peer's (workers/control/lookups.py) */
    UNKNOWN_ANSWERED,          /* parked initiations whose peer was added in time */
    UNKNOWN_REFUSED,           /* by the provider */
    UNKNOWN_CACHED,            /* not asked about: the provider refused the key lately */
    UNKNOWN_TIMEOUT,           /* no answer came, and no set */
    UNKNOWN_NO_PROVIDER,       /* nobody is there to be asked */
    UNKNOWN_WINDOW,            /* the provider has as many questions as it wants */
    UNKNOWN_BUCKET,            /* more questions than there may be in a second */
    PEERS_EVICTED,             /* peers on demand that were idle */
    /* Of a data message for a dead gateway, counted in DROP_INDEX_UNKNOWN as well: one of these. All but the last are
     * control's (workers/control/neighbours.py); one in hand of a control that was killed is in HS_KILLED. */
    KNOCK_INITIATED,           /* (end knock) its peer was sent an initiation where it came from */
    KNOCK_UNKNOWN,             /* (end knock) its index is that of no session of the dead gateway */
    KNOCK_NO_PEER,             /* (end knock) its session's peer is none here */
    KNOCK_ANSWERED,            /* (end knock) its peer has a session here that is newer than the death */
    KNOCK_PEER_LIMIT,          /* (end knock) its peer was sent a handshake message less than 5 s ago */
    KNOCK_SOURCE_LIMIT,        /* (end knock) its source was sent 20 initiations within a second */
    KNOCK_ALIVE,               /* (end knock) the gateway is not dead (any more) */
    KNOCK_REFUSED,             /* (end knock) no initiation can be sent now: interface down, no key, no room, quota used up */
    KNOCK_HELD_BACK,           /* a receiver told control of another one of its index, or of as many as it may */
    COUNTERS
};
void counter_add(const struct segment *segment, uint32_t worker, enum counter counter, uint64_t n);
/* Sum over all workers. */
uint64_t counter_sum(const struct segment *segment, enum counter counter);
/* cdef end */

#endif
