/* layout: every byte that the processes of one interface share, and who owns it.
 *
 * One data segment, mapped by every worker at an address of its own choosing, so no
 * pointer ever stands in it: peers are rows, packets are node numbers, places are byte
 * offsets from the start. The text between the cdef marks is also read by cffi; Python
 * derives its numpy dtypes from it (shm/layout.py), so nothing here is written twice.
 *
 * Owners, one for each word:
 *   producers   any receiver, by the atomic protocol of queue.h
 *   holder      whoever holds the token of the peer's direction (token.h): of a row, "inbound" and "outbound"
 *   control     the control process alone
 *   receiver    the receiver of that pool alone
 *   supervisor  the supervisor alone; it also repairs what a reaped process owned
 * A word with two writers names its protocol beside it.
 */
#ifndef SHM_LAYOUT_H
#define SHM_LAYOUT_H

#include <stdint.h>

/* cdef begin */
#define LAYOUT_MAGIC 0x7469616c70  /* "plait", little-endian */
#define MAX_RECEIVERS 256  /* a TUN has no more queues */
#define MAX_CONSUMERS 256
/* Worker numbers: one line of memory each. */
#define WORKER_SUPERVISOR 0
#define WORKER_CONTROL 1
#define WORKER_RECEIVER 2   /* the first receiver */
#define WORKER_CONSUMER 258 /* the first consumer */
#define MAX_WORKERS 514    /* at most 1,024: ten bits of a mark (token.h) */

#define INBOUND 0   /* from UDP, to be opened */
#define OUTBOUND 1  /* from the TUN, to be sealed */
#define DIRECTIONS 2

#define PEER_ROW_BYTES 512
#define KEYPAIR_BYTES 1152
#define TRIE_NODE_BYTES 64
#define INDEX_ENTRY_BYTES 16
#define SMALL_SLOT_BYTES 2048
#define TRAIN_SLOT_BYTES 69632  /* 68 KiB: 10 + 65,535 and the room before it */
/* The packet of a slot starts here: before it stand the sender's endpoint (first 64
 * bytes), then room for a vnet header and a data message's header. */
#define SLOT_ROOM 128
#define MAILBOX_CELL_BYTES 256
#define MAILBOX_MESSAGE_BYTES 192
#define MAC1_KEY_BYTES 32
#define TIMER_COLUMNS 18
#define QUEUE_LIMIT 1024   /* wire-size packets a queue; the kernel's MAX_QUEUED_PACKETS */
#define STAGED_LIMIT 128   /* the kernel's MAX_STAGED_PACKETS */
#define TAKE_BUDGET 64     /* wire-size packets of one peer before the next has its turn */

/* What a holder lends of one batch (parts.h). */
#define PARTS 8              /* at most so many parts, */
#define PART_MESSAGES 32     /* each of so many messages */
#define PART_ROOM_BYTES 393216 /* for what helpers seal and open, of each lender */

/* Node numbers: 0 is nil, pools count from 1, and the stub of queue q is STUB_FIRST + q. */
#define NODE_NIL 0
#define STUB_FIRST 0x80000000

/* node_state[number]. The receiver of the pool issues, withdraws and pushes; the peer's holder pops and brings
 * home; repair does the next step for the dead. In hand: IN_HAND | worker_mark (token.h).
 *
 *     FREE --issue--> OWNED --push--> QUEUED --pop--> IN_HAND --bring home--> FREE
 *       ^---withdraw---' */
#define NODE_FREE 0
#define NODE_OWNED 1
#define NODE_QUEUED 2
#define NODE_IN_HAND 0x80000000

/* token[queue], queue = 2 * row + direction: one for each direction of a peer. Held: TOKEN_HELD | worker_mark.
 *
 *     IDLE --schedule--> QUEUED --take--> HELD --give--> IDLE, or QUEUED again, or DEAD: the peer is removed
 *       '----------take idle (inline)------^ */
#define TOKEN_BLOCK 256
#define TOKEN_IDLE 0
#define TOKEN_QUEUED 1
#define TOKEN_DEAD 2
#define TOKEN_HELD 0x80000000

/* part.state. The lender offers, takes back and frees; a helper takes and is done; repair declares lost what the dead
 * had taken, and frees what the dead offered. Taken: PART_TAKEN | worker_mark.
 *
 *     FREE --offer--> OFFERED --take--> TAKEN --done--> DONE --read--> FREE
 *       ^--take back----'                 '--its helper died--> LOST --read--> FREE */
#define PART_FREE 0
#define PART_OFFERED 1
#define PART_DONE 2
#define PART_LOST 3
#define PART_TAKEN 0x80000000

enum region {
    REGION_WORKERS,      /* struct worker[MAX_WORKERS] */
    REGION_BELLS,        /* struct bell[MAX_WORKERS] */
    REGION_STARVING,     /* struct starving */
    REGION_COUNTERS,     /* uint64_t[MAX_WORKERS][COUNTERS_A_WORKER] */
    REGION_DEVICE,       /* struct device */
    REGION_TOKENS,       /* uint32_t[2 * max_peers, rounded up to TOKEN_BLOCK], a queue's at token_place(queue) */
    REGION_READY,        /* per set (0 control, 1 + j consumer j): three bitmap levels */
    REGION_ROWS,         /* struct peer_row[max_peers] */
    REGION_COLUMNS,      /* uint32_t[TIMER_COLUMNS][max_peers] */
    REGION_INDEX,        /* INDEX_ENTRY_BYTES * max_keypairs, read-only outside control */
    REGION_PUBLIC_KEYS,  /* uint32_t[public_key_buckets], control alone */
    REGION_TRIE,         /* TRIE_NODE_BYTES * max_trie_nodes, read-only outside control */
    REGION_KEYPAIRS,     /* KEYPAIR_BYTES * max_keypairs */
    REGION_PARTS,        /* struct lending, then struct part[PARTS] of each worker but control */
    REGION_PART_ROOMS,   /* PART_ROOM_BYTES likewise. Whoever has no keypairs has neither */
    REGION_MAILBOX,      /* struct mailbox_ring[receivers], then the cells */
    REGION_STATES,       /* uint32_t[1 + pools * nodes_a_pool] */
    REGION_NODES,        /* struct node[1 + pools * nodes_a_pool] */
    REGION_SMALL_SLOTS,  /* SMALL_SLOT_BYTES * small_slots * pools */
    REGION_TRAIN_SLOTS,  /* TRAIN_SLOT_BYTES * train_slots * pools */
    REGIONS
};

/* What the supervisor decides once, before anybody else is there. Pools: two for each
 * possible receiver, 2 * receiver + direction. */
struct geometry {
    uint32_t max_peers;           /* a multiple of 64 */
    uint32_t max_keypairs;        /* a power of two, at most 2^21 */
    uint32_t max_receivers;       /* pools and mailbox rings that exist */
    uint32_t max_consumers;
    uint32_t nodes_a_pool;
    uint32_t small_slots;         /* of one pool */
    uint32_t train_slots;         /* of one pool */
    uint32_t mailbox_cells;       /* of one receiver's ring, a power of two */
    uint32_t max_trie_nodes;
    uint32_t public_key_buckets;  /* a power of two */
};

/* The segment's first page. Written by the supervisor before the first worker starts. */
struct header {
    uint64_t magic;
    uint64_t layout_hash;
    uint64_t bytes;
    uint64_t generation;  /* of the boot: workers of another one refuse the segment */
    struct geometry geometry;
    uint32_t reserved[2];
    uint64_t offset[REGIONS];
};

/* Words of the whole interface, written by control alone. A reader loads each word once, as it may change. */
struct device {
    uint32_t mtu;
    uint32_t fwmark;
    uint32_t trie_root4;      /* 0 = empty */
    uint32_t trie_root6;
    uint32_t rows_used;       /* high-water mark of peer rows: no row above was ever used */
    uint32_t under_load;
    uint32_t receivers;       /* running now; consumers likewise */
    uint32_t consumers;
    uint64_t index_key[3];    /* key of the receiver index permutation, and the gateway (engine/index.h) */
    uint32_t up;              /* 1 while the TUN is up */
    uint32_t keypairs_ready;  /* memory is there for so many keypairs and index entries; only grows */
    /* Up to here one cache line, which each data packet needs. */
    uint32_t mac1_turn;       /* selects a copy of mac1_keys; bit 0: there is a key (workers/datapath/mac1_filter.c) */
    uint32_t reserved;
    uint8_t mac1_keys[2][32]; /* of messages to us; it follows from our public key */
    uint64_t dead_gateways[4]; /* a bit a number: their clients' data is told to control (workers/control/neighbours.py) */
};

/* An address and port in host-neutral bytes, and the local address it was heard at.
 * family is AF_INET, AF_INET6 or 0 for none. 48 bytes. */
struct endpoint {
    uint16_t family;
    uint16_t port;            /* network byte order */
    uint32_t scope;           /* IPv6 zone of a link-local address, else 0 */
    uint8_t address[16];      /* IPv4 in the first four bytes */
    uint8_t source[16];       /* sticky source, same family; all zero = none */
    uint32_t source_ifindex;  /* 0 = none */
    uint32_t reserved;
};

/* The words of a queue that any producer may change (queue.h has the protocol).
 * A tagged word is generation << 32 | node number. */
struct queue_producers {
    uint64_t end;        /* tagged: the last node, or one that lags behind it */
    uint64_t stub_next;  /* tagged next of this queue's stub */
    uint32_t produced;   /* wire-size packets ever announced; fetch_add, once a chain */
    uint32_t reserved[11]; /* receivers of one direction and of the other push at once: a line each */
};

/* The words of a queue that its holder alone writes. */
struct queue_holder {
    uint32_t head;      /* node number */
    uint32_t consumed;  /* wire-size packets ever taken; one store a batch */
};

/* One peer: 512 bytes. */
struct peer_row {
    /* lines 0 and 1: the producers' */
    struct queue_producers ends[2];

    /* line 2: the inbound holder's, and what control writes once a handshake */
    uint64_t rx_bytes;
    uint64_t handshake_sec;  /* last_handshake_time */
    uint64_t handshake_tx;   /* bytes of handshake messages; tx_bytes and rx_bytes have the holders' data */
    uint64_t handshake_rx;
    uint64_t pending_endpoint[3]; /* control: 24 bytes of an endpoint that waits; 0 = none (workers/control/endpoints.h) */
    /* each direction's holder: inbound's stands at the end of line 2, outbound's at the beginning of line 3 */
    struct queue_holder heads[2];

    /* line 3: the outbound holder's, and the like */
    uint64_t tx_bytes;       /* bytes of data messages sent, with WireGuard's headers, without outer IP and UDP */
    uint32_t holder_flags;
    uint32_t holder_reserved;
    uint8_t public_key[32];  /* control */
    uint64_t outbound_seen;  /* control: `produced` of the outbound queue when a handshake was last wanted */

    /* lines 4 and 5: what all read and hardly anybody writes: endpoints and key word, the inbound holder's */
    struct endpoint endpoints[2];
    uint64_t key_word;       /* engine/keypair.h: current, previous, next */
    uint32_t endpoint_turn;  /* even/odd selects endpoints[turn & 1]; bumped after the copy is whole */
    uint32_t generation;     /* control: bumped at each reuse of the row */
    uint32_t consumer[2];    /* control: which consumer the direction belongs to, from 0 */
    uint32_t handshake_nsec; /* control */
    uint32_t key_chain;      /* next row in its public-key bucket; 0 = last (stored + 1) */

    /* line 6: what control and holders tell each other; each word its own protocol (orders.h) */
    uint64_t orders;         /* count << 32 | bits: control adds, the other direction's holder too; compare-exchange */
    uint64_t events;         /* likewise: holders (EVENT_LOOP: a receiver, too) add, control clears */
    struct endpoint ordered_endpoint;  /* control: meant by ORDER_ENDPOINT; one change at a time */

    /* line 7: control alone */
    uint32_t installing;     /* keypair number meant by ORDER_INSTALL */
    uint32_t installing_next; /* keypair number meant by ORDER_INSTALL_NEXT */
    uint32_t state;          /* enum peer_state (workers/control/peer_table.h) */
    uint16_t keepalive;      /* persistent keepalive in seconds, 0 = off */
    uint16_t on_demand;      /* 1: a provider set it, and gets it back when it is idle (workers/control/eviction.py) */
    uint32_t swept[2];       /* per direction: what the last sweep suspected here (schedule.h) */
    uint32_t idle_after;     /* seconds without traffic until an on-demand peer is idle; 0: as of the interface */
    uint32_t added;          /* tick at which the peer was added */
    uint64_t quota;          /* bytes in both directions together, after which the peer ran out; 0: none */
    uint32_t expires;        /* seconds since 1970 at which it does; 0: never */
    uint16_t ran_out;        /* enum ran_out: what it was cut off for (workers/control/quotas.py) */
    uint16_t name_bytes;     /* of its name, which stands in the vault; 0: it has none */
    uint64_t control_reserved[2];
};

/* A packet, or a train of equal packets, on its way from receiver to holder. 64 bytes.
 * Written by the receiver while the node is `owned`, except `next` (queue.h). */
struct node {
    uint64_t next;          /* tagged; generation changes each time the node leaves home */
    uint64_t offset;        /* of the first byte of the packet in the segment */
    uint32_t length;        /* bytes, all packets of the train together */
    uint32_t peer;          /* row */
    uint32_t peer_generation;
    uint32_t receiver_index;/* inbound: as on the wire */
    uint32_t slot;          /* in its pool: small slots first, then trains */
    uint16_t gso_size;      /* bytes of each packet of a train but the last; length if alone */
    uint16_t packets;       /* wire-size packets */
    uint8_t ecn;            /* inbound: outer ECN bits */
    uint8_t gso_type;       /* outbound: of the vnet header */
    uint16_t vnet_flags;    /* outbound: of the vnet header, as the next three */
    uint16_t checksum_start;
    uint16_t checksum_offset;
    uint32_t reserved[4];
};

/* One process. Its own words, except where said. 128 bytes. */
struct worker {
    uint32_t epoch;          /* epoch.h: odd while awake, even while asleep */
    uint32_t incarnation;    /* supervisor: 1, 2, … at each start */
    uint32_t pid;            /* supervisor */
    uint32_t state;          /* supervisor: WORKER_ABSENT … */
    uint32_t peer_in_hand;   /* row + 1; 0 = none (for the watchdog's message) */
    uint32_t cpu;            /* where it is pinned, or 0xffffffff */
    uint64_t beat;           /* CLOCK_BOOTTIME ns of its latest turn */
    /* journal of a push: set before the chain is published, cleared after (queue.h) */
    uint32_t journal_queue;  /* queue + 1; 0 = no push under way */
    uint32_t journal_first;
    uint64_t journal_last;   /* tagged */
    uint32_t journal_packets;
    uint32_t journal_latest; /* queue + 1 of the latest push, kept: its wake may be missing */
    uint32_t arriving;       /* receiver: packets of its receive call that have no nodes yet */
    uint32_t lends;          /* supervisor: 1 when there is memory for its parts (parts.h) */
    uint32_t reserved[16];
};

enum worker_state {
    WORKER_ABSENT,
    WORKER_STARTING,
    WORKER_RUNNING,
    WORKER_STOPPING,
    WORKER_REPAIRING
};

/* What a sleeper announces, and others take (bell.h): on a line of its own, since others write it. */
struct bell {
    uint32_t sleeping;       /* sleeper stores 1, whoever rings exchanges it for 0; a futex */
    uint32_t starving;       /* receiver: waits for slots to come home */
    uint32_t rung;           /* ring count, fetch_add */
    uint32_t reserved[13];
};

/* Which receivers wait for slots. On a line of its own: nearly always nobody waits, so that the line stays in the
 * cache of every holder. */
struct starving {
    uint64_t receivers;      /* bit (number % 64): one of these may wait. A receiver sets its bit, a ringer takes all (bell.h) */
    uint64_t reserved[7];
};

/* Who has parts to offer and who looks for some: hints, a bit for each of receivers and then consumers, number % 64. A bit
 * that is wrong costs one look, or one part less that is shared. */
struct lending {
    uint64_t offering;       /* lenders set and clear theirs */
    uint64_t helpers;        /* helpers that are awake and have nothing else to do likewise */
    uint64_t reserved[6];
};

/* One message of a part, to be sealed or opened. The lender writes all of it before it offers, the helper `refused`. */
struct part_message {
    uint64_t counter;        /* nonce */
    uint64_t source;         /* byte of the segment where it stands; 0: it stands in its place already */
    uint32_t place;          /* byte of the lender's room where it stands afterwards, with DATA_HEADER_BYTES before it */
    uint32_t length;         /* as in struct aead_job */
    uint32_t keypair;        /* number */
    int32_t refused;         /* helper: as in struct aead_job */
};

/* Neighbours of one batch. On lines of its own: the first one has the word that lender and helpers compete for. */
struct part {
    uint32_t state;          /* PART_* */
    uint32_t count;          /* lender: messages */
    uint32_t opens;          /* lender: 1 to be opened, 0 to be sealed */
    uint32_t reserved[13];
    struct part_message messages[PART_MESSAGES];
};

/* Handshake messages, and heads of data messages that knock, on their way to control: a ring per receiver, one
 * producer, one reader. */
struct mailbox_ring {
    uint32_t put;            /* receiver: cells ever filled */
    uint32_t reserved0[15];
    uint32_t got;            /* control: cells ever read */
    uint32_t reserved1[15];
};

struct mailbox_cell {
    struct endpoint from;
    uint32_t length;
    uint32_t reserved[3];
    uint8_t message[192];
};
/* cdef end */

#endif
