/* peer_table: what control does to many rows at once: add, change, take away, show.
 *
 * Control alone calls these; one call does a slice, so that handshakes do not wait. The rules stand in
 * workers/peers.py and workers/configuration.py, which also do, one by one, all that is out of the ordinary:
 * a function here stops in front of such a record, and Python takes it. */
#ifndef WORKERS_PEER_TABLE_H
#define WORKERS_PEER_TABLE_H

#include "engine/allowedips.h"
#include "engine/publickeys.h"
#include "shm/segment.h"

/* cdef begin */
enum peer_state { PEER_UNUSED, PEER_LIVE, PEER_RETIRING };

/* What control alone may see or change of a peer, in the vault. 96 bytes. */
struct vault_row {
    uint8_t preshared_key[32];
    uint8_t static_static[32];
    uint8_t timestamp_seen[12];  /* latest TAI64N of an accepted initiation */
    uint8_t timestamp_sent[12];  /* latest TAI64N of ours */
    uint32_t flags;
    uint32_t first_allowed;      /* head of the list of trie nodes that name this peer */
};

struct peer_table {
    const struct segment *segment;
    struct publickeys *keys;
    struct allowedips *ips;
    struct vault_row *vault;
    uint32_t *free;        /* rows to use again, the last first; room for max_peers */
    uint32_t free_count;
    uint32_t count;        /* live peers */
    uint32_t consumers;
    uint32_t rows_ready;   /* memory is there for so many rows and as many buckets, trie nodes */
    uint32_t trie_ready;
};

/* ---- rows ---- */
/* Where the lists of each row's allowed IPs begin: row 0's, with a stride of sizeof(struct vault_row). */
uint8_t *table_allowed(const struct peer_table *table);
/* No prefix belongs to the row any more. How many did. */
uint32_t table_disallow_all(const struct peer_table *table, uint32_t row);
/* A new peer in a free row or the next one, below rows_ready. */
uint32_t table_add(struct peer_table *table, const uint8_t public_key[32]);
/* Live rows leave trie and public keys, secrets wiped, state retiring. */
void table_take_away(struct peer_table *table, const uint32_t *rows, uint32_t count);
/* They get the order to retire. */
void table_retire(const struct peer_table *table, const uint32_t *rows, uint32_t count);
/* Rows that nobody looks at any more are wiped and free. */
void table_free(struct peer_table *table, const uint32_t *rows, uint32_t count);
/* Every row belongs to the consumer that it has among so many, from now on. A bit that is set at another
 * consumer is passed on by that one; what publishers set there later, they began before. */
void table_share_out(struct peer_table *table, uint32_t consumers);
/* Public keys of all live rows into empty buckets; counts them. */
void table_recover(struct peer_table *table);
/* Of rows first..last-1: live ones with a key word or outbound packets (is_down), or with a persistent
 * interval or outbound packets. Returns how many; found: room for last - first. */
uint32_t table_find_active(const struct peer_table *table, uint32_t first, uint32_t last, int is_down,
                           uint32_t *found);

/* ---- a set ---- */
enum changes_stop {
    CHANGES_DONE,
    CHANGES_SLICE,  /* there is more */
    CHANGES_RARE    /* the record at `at` is Python's, which moves `at` past it */
};
#define CHANGES_TOLD 8

struct peer_changes {
    struct peer_table *table;
    const uint8_t *records;   /* engine/uapi_sections.h */
    uint64_t bytes;
    uint64_t at;              /* of the next record */
    const uint8_t *own_key;   /* NULL = none */
    uint8_t *kept;            /* a byte a row when the set replaces all peers, else NULL */
    uint32_t tick;            /* now */
    uint32_t interface_is_up;
    /* told */
    uint32_t added;
    uint32_t told[CHANGES_TOLD];  /* the first of them */
};

/* What a set will need, worked out before anything is changed. */
struct changes_need {
    uint32_t *slots;          /* zeros; place in the records + 1, top bit: a peer at this point */
    uint32_t slot_mask;       /* slots - 1, a power of two above twice the records */
    uint32_t count;           /* peers at this point, */
    uint32_t peak;            /* at most, */
    uint32_t fresh;           /* and new ones */
    uint64_t nodes;           /* trie nodes at most */
    uint64_t zone_is_known;   /* place + 1 of a record whose zone Python has looked at */
};

/* Each does up to `most` records and returns enum changes_stop. */
int changes_measure(struct peer_changes *changes, struct changes_need *need, uint32_t most);
/* kept[row] = 1 for peers that need not be taken away and added again, since nothing would show it. */
int changes_mark(struct peer_changes *changes, uint32_t most);
int changes_apply(struct peer_changes *changes, uint32_t most);

/* ---- a get ---- */
/* Text of live peers from row *row on, at most `bytes`. Moves *row past what is written. Stops at a peer that
 * does not fit; when it is the first, nothing is written and *row stays. */
uint64_t table_show(const struct peer_table *table, uint32_t *row, uint32_t last, char *text, uint64_t bytes);
/* cdef end */

#endif
