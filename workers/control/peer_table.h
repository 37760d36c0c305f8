/* peer_table: what control does to many rows at once: add, change, take away, show.
 *
 * Control alone calls these; one call does a slice, so that handshakes do not wait. The rules stand in
 * workers/control/peers.py and workers/control/configuration.py, which also do, one by one, all that is out of the ordinary:
 * a function here stops in front of such a record, and Python takes it. */
#ifndef WORKERS_CONTROL_PEER_TABLE_H
#define WORKERS_CONTROL_PEER_TABLE_H

#include "engine/allowedips.h"
#include "engine/publickeys.h"
#include "engine/uapi/sections.h"
#include "shm/segment.h"

/* cdef begin */
enum peer_state {
    PEER_UNUSED,
    PEER_LIVE,
    PEER_RETIRING,
    PEER_LEFT_OUT  /* control died of it, three times (workers/attempts.py): nobody touches the row again */
};

/* struct peer_row's `ran_out`. */
enum ran_out {
    RAN_OUT_NOT,
    RAN_OUT_QUOTA,  /* as many bytes went as it may use */
    RAN_OUT_EXPIRED /* its time is over */
};

/* What control keeps of a row in memory of its own, a byte each: bits (workers/control/quotas.py). */
#define RULE_QUOTA 1    /* it has a quota */
#define RULE_EXPIRES 2  /* it expires, at `expiries[row]` */
#define RULE_CHANGED 4  /* by a set, and nobody looked since */
#define RULE_OUT 8      /* it ran out: no handshake with it */

/* What control alone may see or change of a peer, in the vault. 96 bytes. */
struct vault_row {
    uint8_t preshared_key[32];
    uint8_t static_static[32];
    uint64_t seen_seconds;       /* latest TAI64N of an accepted initiation: its label, | SEEN_OTHER */
    uint32_t seen_ns[2];         /* and its ns: [1] where SEEN_OTHER is set */
    uint64_t sent;               /* latest TAI64N of ours: seconds since 1970 << 30 | ns, 0 for none */
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
    uint32_t here_count;
    uint32_t here[MAX_CONSUMERS];  /* the consumers that are not away */
    uint8_t away[MAX_CONSUMERS];   /* 1 for each whose peers belong to others */
    int names_fd;          /* the vault's: NAME_MOST bytes a row from names_at on, read and written by system calls, */
    uint64_t names_at;     /* so that rows without a name take no memory */
    uint32_t names_lost;   /* names that no memory was there for */
    uint8_t *rules;        /* RULE_ bits of each row, and when it expires (seconds since 1970): control's own */
    uint32_t *expiries;    /* memory, pages of which are there where a row has a rule; filled by table_recover */
    uint32_t rules_changed; /* some row has RULE_CHANGED */
    uint32_t rows_ready;   /* memory is there for so many rows and as many buckets, trie nodes */
    uint32_t trie_ready;
};

/* ---- timestamps: 12 bytes, big-endian. A kill inside a store leaves the old one or the new one ---- */
/* A label from 2^63, which TAI64 does not have, is taken for the last one below. rows: distinct. */
void table_store_seen(struct vault_row *vault, const uint32_t *rows, const uint8_t *stamps, uint32_t count);
void table_load_seen(const struct vault_row *vault, const uint32_t *rows, uint8_t *stamps, uint32_t count);
/* Of our own clock: from 1970 to the year 2514. */
void table_store_sent(struct vault_row *row, const uint8_t stamp[12]);
void table_load_sent(const struct vault_row *row, uint8_t stamp[12]);

/* ---- rows ---- */
/* Where the lists of each row's allowed IPs begin: row 0's, with a stride of sizeof(struct vault_row). */
uint8_t *table_allowed(const struct peer_table *table);
/* No prefix belongs to the row any more. How many did. */
uint32_t table_disallow_all(const struct peer_table *table, uint32_t row);
/* Likewise at most so many of them. */
uint32_t table_disallow_some(const struct peer_table *table, uint32_t row, uint32_t most);
/* A new peer in a free row or the next one, below rows_ready. */
uint32_t table_add(struct peer_table *table, const uint8_t public_key[32]);
/* Live rows leave trie and public keys, secrets wiped, state retiring. */
void table_take_away(struct peer_table *table, const uint32_t *rows, uint32_t count);
/* They get the order to retire. */
void table_retire(const struct peer_table *table, const uint32_t *rows, uint32_t count);
/* Rows that nobody looks at any more are wiped and free. */
void table_free(struct peer_table *table, const uint32_t *rows, uint32_t count);
/* Every row belongs to the consumer that it has among so many, from now on; the rows of those that are away to
 * the others by turns. A bit that is set at another consumer is passed on by that one; what publishers set there
 * later, they began before. away: numbers of consumers, `count` of them. */
void table_share_out(struct peer_table *table, uint32_t consumers, const uint32_t *away, uint32_t count);
/* The row's name is this one; bytes: at most NAME_MOST, 0 for none. */
void table_store_name(struct peer_table *table, uint32_t row, const uint8_t *name, uint32_t bytes);
/* Returns its bytes. name: room for NAME_MOST. */
uint32_t table_load_name(const struct peer_table *table, uint32_t row, uint8_t *name);
/* The row's quota or expiry is another one, or none. */
void table_note_rules(struct peer_table *table, uint32_t row);
/* Public keys of all live rows into empty buckets, their rules to where control looks for them; counts them. *place is row + 1 of the one in hand. */
void table_recover(struct peer_table *table, uint32_t *place);
/* Of rows first..last-1: live ones with a key word or outbound packets (is_down), or with a persistent
 * interval or outbound packets. Returns how many; found: room for last - first. */
uint32_t table_find_active(const struct peer_table *table, uint32_t first, uint32_t last, int is_down,
                           uint32_t *found);

/* ---- a set ---- */
enum changes_stop {
    CHANGES_DONE,
    CHANGES_SLICE,  /* there is more */
    CHANGES_RARE,   /* the record at `at` begins with what is Python's: a removal, which moves `at` past it (see
                     * changes_pass), or an endpoint, which Python moves and sets `is_placed` */
    CHANGES_NO_ROW, /* it goes on when a removed peer's row is free */
    CHANGES_NO_NODE /* likewise two trie nodes */
};
#define CHANGES_EMITTED 8

struct peer_changes {
    struct peer_table *table;
    const uint8_t *records;   /* engine/uapi/sections.h */
    uint64_t bytes;
    uint64_t at;              /* of the next record */
    const uint8_t *own_key;   /* NULL = none */
    uint8_t *kept;            /* a byte a row when the set replaces all peers, else NULL */
    uint32_t tick;            /* now */
    uint32_t interface_is_up;
    uint32_t is_placed;       /* the endpoint of the record in hand is dealt with */
    /* the record in hand, for one with more allowed IPs than a slice */
    uint32_t stage;
    uint32_t row;
    uint32_t orders;
    uint32_t ip;              /* the next of its allowed IPs */
    uint32_t done;            /* records that are done */
    uint32_t *place;          /* the same for a control that comes after a death here (workers/attempts.py) */
    /* of events */
    uint32_t added;
    uint32_t emitted[CHANGES_EMITTED];  /* the first of them */
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

/* Each does up to `most` steps, a record or an allowed IP each, and returns enum changes_stop. What is only
 * looked at costs an eighth of what is changed. */
int changes_measure(struct peer_changes *changes, struct changes_need *need, uint32_t most);
/* kept[row] = 1 for peers that need not be taken away and added again, since nothing would show it. */
int changes_mark(struct peer_changes *changes, uint32_t most);
int changes_apply(struct peer_changes *changes, uint32_t most);
/* Python did the record in hand; or it does not exist, where the records end within one: 0. */
int changes_pass(struct peer_changes *changes);

/* ---- a get ---- */
/* How far a get has come. `place` is held (engine/allowedips.h) from its beginning to its end. */
struct peer_show {
    uint32_t row;                  /* the next one, or the one in hand */
    uint32_t is_inside;            /* its first lines are written, its allowed IPs up to `place` too */
    struct allowedips_place place;
};
/* Text of live peers below row `last`, at most `bytes`, which are UAPI_PEER_TEXT or more. A peer with more
 * allowed IPs than fit goes on in the next call, without those that are taken away until then and with those
 * that are added; when the peer itself is taken away, its text ends. */
uint64_t table_show(const struct peer_table *table, struct peer_show *show, uint32_t last, char *text,
                    uint64_t bytes);
/* How many allowed IPs the row has, counted up to `most`. */
uint32_t table_count_allowed(const struct peer_table *table, uint32_t row, uint32_t most);
/* cdef end */

#endif
