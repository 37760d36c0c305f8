/* peer_changes: the records of a set, measured, marked and applied a slice at a time.
 *
 * A set that replaces all peers takes those away that stand, then adds its own: so says the protocol, and so
 * a session ends with it. But a peer that never had one and would come back the same shows no
 * difference, and most peers of a large set are such. They are marked as kept: not taken away; and the first
 * record that would add one anew makes it what it would be (`claim`). What came before that in the
 * kernel's order (a record with update_only, which finds nobody) finds nobody here either. */
#include <string.h>
#include <sys/socket.h>

#include "engine/handshake.h"
#include "engine/timers.h"
#include "engine/uapi/sections.h"
#include "shm/orders.h"
#include "shm/queue.h"
#include "shm/schedule.h"
#include "workers/control/endpoints.h"
#include "workers/control/peer_table.h"

#define NOBODY 0xffffffffu
#define IS_THERE 0x80000000u

/* A record, its parts pointed at; NULL = not given. */
struct record {
    const uint8_t *public_key;
    const uint8_t *preshared_key;
    const uint8_t *endpoint;
    const uint8_t *numbers[UAPI_NUMBERS_COUNT];
    const uint8_t *timestamp;
    const uint8_t *name;      /* its length before it */
    const uint8_t *ips;
    uint32_t ip_count;
    uint16_t flags;
    uint8_t zone_bytes;
    uint64_t bytes;
};

static uint16_t load16(const uint8_t *from)
{
    return (uint16_t)(from[0] | from[1] << 8);
}

static uint32_t load32(const uint8_t *from)
{
    return (uint32_t)load16(from) | (uint32_t)load16(from + 2) << 16;
}

static uint64_t load_number(const uint8_t *from, uint32_t bytes)
{
    return bytes == 2 ? load16(from) : load32(from) | (bytes == 8 ? (uint64_t)load32(from + 4) << 32 : 0);
}

/* 0 when the records end within it: they are ours, but a damaged redo record must not lead astray. */
static int read_record(const uint8_t *from, uint64_t left, struct record *record)
{
    *record = (struct record){ .public_key = from };
    uint64_t at = RECORD_HEAD_BYTES;

    if (left < at)
        return 0;
    record->flags = load16(from + 32);
    record->ip_count = load32(from + 34);
    if (record->flags & RECORD_PSK) {
        record->preshared_key = from + at;
        at += 32;
    }
    if (record->flags & RECORD_ENDPOINT) {
        record->endpoint = from + at;
        at += RECORD_ENDPOINT_BYTES;
        if (left < at)
            return 0;
        record->zone_bytes = record->endpoint[19];
        at += record->zone_bytes;
    }
    for (uint32_t i = 0; i < UAPI_NUMBERS_COUNT; i++)
        if (record->flags & RECORD_NUMBER << i) {
            record->numbers[i] = from + at;
            at += uapi_number(i)->bytes;
        }
    if (record->flags & RECORD_TIMESTAMP) {
        record->timestamp = from + at;
        at += TIMESTAMP_BYTES;
    }
    if (record->flags & RECORD_NAME) {
        record->name = from + at;
        if (left <= at || *record->name > NAME_MOST)
            return 0;
        at += 1 + (uint64_t)*record->name;
    }
    record->ips = from + at;
    record->bytes = at + RECORD_ALLOWED_BYTES * (uint64_t)record->ip_count;
    return record->bytes <= left;
}

static uint32_t added_ips(const struct record *record)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < record->ip_count; i++)
        count += !(record->ips[RECORD_ALLOWED_BYTES * (uint64_t)i + 17] & ALLOWED_REMOVED);
    return count;
}

static int is_own(const struct peer_changes *changes, const struct record *record)
{
    return changes->own_key && memcmp(record->public_key, changes->own_key, 32) == 0;
}

/* ---- allowed IPs of a row, in the order in which they were given ---- */

static const struct trie_node *node_of(const struct allowedips *ips, uint32_t number)
{
    return number ? &ips->nodes[number] : NULL;
}

static int has_same_allowed(const struct peer_table *table, uint32_t row, const struct record *record)
{
    const struct trie_node *node = node_of(table->ips, table->vault[row].first_allowed);

    for (uint32_t i = 0; i < record->ip_count; i++) {
        const uint8_t *ip = record->ips + RECORD_ALLOWED_BYTES * (uint64_t)i;
        uint32_t bits = ip[17] & ALLOWED_IPV6 ? 128 : 32;
        if (!node || ip[17] & ALLOWED_REMOVED || node->bits != bits || node->cidr != ip[16] ||
            memcmp(node->address, ip, bits / 8) != 0)
            return 0;
        node = node_of(table->ips, node->peer_next);
    }
    return !node;
}

static int has_room(const struct peer_table *table, uint32_t wanted)
{
    const struct allowedips *ips = table->ips;
    uint32_t limit = table->trie_ready < ips->max_nodes ? table->trie_ready : ips->max_nodes;

    return (uint64_t)ips->used + wanted + 1 <= (uint64_t)limit + ips->free;
}

/* ---- before anything is changed ---- */

/* Whether a peer has only what a set gave it; its token may be with a holder, which has nothing to do. */
static int is_untouched(const struct peer_table *table, uint32_t row)
{
    const struct peer_row *peer = &table->segment->rows[row];
    const struct vault_row *secrets = &table->vault[row];
    struct endpoint endpoint;

    if (peer->key_word || peer->tx_bytes || peer->rx_bytes || peer->handshake_sec ||
        (uint32_t)__atomic_load_n(&peer->orders, __ATOMIC_RELAXED) || peer->handshake_tx || peer->handshake_rx ||
        peer->pending_endpoint[0] ||
        secrets->seen_seconds || secrets->sent ||
        !queue_is_empty(table->segment, 2 * row + INBOUND) || !queue_is_empty(table->segment, 2 * row + OUTBOUND))
        return 0;
    endpoint_load(table->segment, row, &endpoint);
    return memcmp(endpoint.source, (uint8_t[16]){ 0 }, 16) == 0;
}

/* Whether `claim` can make the row what the record says of a new peer. No order takes an endpoint away. */
static int is_keepable(const struct peer_table *table, uint32_t row, const struct record *record)
{
    struct endpoint endpoint;

    if (record->flags & (RECORD_REMOVE | RECORD_UPDATE_ONLY) || !is_untouched(table, row))
        return 0;
    endpoint_load(table->segment, row, &endpoint);
    return record->endpoint || !endpoint.family;
}

static uint32_t hash_of(const uint8_t key[32])
{
    uint64_t words[4], sum = 0;

    memcpy(words, key, sizeof words);
    for (int i = 0; i < 4; i++) {  /* the upper half comes down before each product: keys may be small numbers */
        sum ^= words[i];
        sum = (sum ^ sum >> 32) * 0x9e3779b97f4a7c15ull;
    }
    return (uint32_t)(sum ^ sum >> 32);
}

/* The slot of a key that the set mentions: its own, or the empty one where it goes. */
static uint32_t *slot_of(const struct peer_changes *changes, struct changes_need *need, const uint8_t key[32])
{
    uint32_t place = hash_of(key) & need->slot_mask;

    for (;; place = (place + 1) & need->slot_mask) {
        uint32_t *slot = &need->slots[place];
        if (!*slot || memcmp(changes->records + (*slot & ~IS_THERE) - 1, key, 32) == 0)
            return slot;
    }
}

static void measure(const struct peer_changes *changes, struct changes_need *need, const struct record *record)
{
    const struct peer_table *table = changes->table;
    uint32_t row = publickeys_lookup(table->keys, record->public_key);
    uint32_t *slot = slot_of(changes, need, record->public_key);
    int is_first = !*slot, was_there = row != NOBODY && !changes->kept;
    int is_there = is_first ? was_there : (*slot & IS_THERE) != 0;
    uint32_t place = (uint32_t)changes->at + 1;

    if (record->flags & RECORD_REMOVE) {
        need->count -= (uint32_t)is_there;
        *slot = place;
        return;
    }
    if (!is_there) {
        if (record->flags & RECORD_UPDATE_ONLY)
            return;
        if (row == NOBODY || !changes->kept || !is_first || !is_keepable(table, row, record))
            need->fresh++;
        if (++need->count > need->peak)
            need->peak = need->count;
    } else if (record->flags & RECORD_REPLACE && is_first) {
        need->nodes -= table_count_allowed(table, row, UINT32_MAX);
    }
    *slot = place | IS_THERE;
    need->nodes += 2ull * added_ips(record);
}

/* Steps that are left of `most` after a record that was looked at. */
static uint32_t after_look(uint32_t most, const struct record *record)
{
    uint32_t cost = 1 + record->ip_count / 8;

    return most > cost ? most - cost : 0;
}

int changes_measure(struct peer_changes *changes, struct changes_need *need, uint32_t most)
{
    struct record record;

    for (; most && changes->at < changes->bytes; changes->at += record.bytes, most = after_look(most, &record)) {
        if (!read_record(changes->records + changes->at, changes->bytes - changes->at, &record))
            return CHANGES_RARE;
        if (record.zone_bytes && need->zone_is_known != changes->at + 1)
            return CHANGES_RARE;
        if (!is_own(changes, &record))
            measure(changes, need, &record);
    }
    return changes->at < changes->bytes ? CHANGES_SLICE : CHANGES_DONE;
}

int changes_mark(struct peer_changes *changes, uint32_t most)
{
    struct record record;

    for (; most && changes->at < changes->bytes; changes->at += record.bytes, most = after_look(most, &record)) {
        if (!read_record(changes->records + changes->at, changes->bytes - changes->at, &record))
            return CHANGES_RARE;
        uint32_t row = publickeys_lookup(changes->table->keys, record.public_key);
        if (row != NOBODY && !is_own(changes, &record) && is_keepable(changes->table, row, &record))
            changes->kept[row] = 1;
    }
    return changes->at < changes->bytes ? CHANGES_SLICE : CHANGES_DONE;
}

/* ---- the changes ---- */

static enum endpoint_moved move_endpoint(const struct peer_changes *changes, uint32_t row, const uint8_t *endpoint)
{
    struct endpoint wanted = { .family = endpoint[18] == 4 ? AF_INET : AF_INET6 };

    memcpy(&wanted.port, (uint8_t[2]){ endpoint[17], endpoint[16] }, 2);  /* to network order */
    memcpy(wanted.address, endpoint, endpoint[18]);
    return endpoint_move(changes->table->segment, row, &wanted);
}

static uint32_t change_keepalive(const struct peer_changes *changes, uint32_t row, uint16_t seconds)
{
    const struct segment *segment = changes->table->segment;
    struct peer_row *peer = &segment->rows[row];
    uint16_t before = peer->keepalive;
    uint32_t stride = segment->geometry.max_peers;

    peer->keepalive = seconds;
    if (seconds)
        timers_keepalive_changed(segment->columns, stride, row, changes->tick, seconds);
    return seconds && !before && changes->interface_is_up ? ORDER_KEEPALIVE : 0;
}

#define STORE(place, key, field, most) \
    case place: \
        peer->field = (__typeof__(peer->field))value; \
        break;

/* Bits to order. */
static uint32_t change_number(const struct peer_changes *changes, uint32_t row, uint32_t place, uint64_t value)
{
    struct peer_row *peer = &changes->table->segment->rows[row];

    if (place == UAPI_KEEPALIVE)
        return change_keepalive(changes, row, (uint16_t)value);
    switch (place) {
        UAPI_NUMBERS(STORE)
    }
    if (place == UAPI_EXPIRES || place == UAPI_QUOTA)
        table_note_rules(changes->table, row);
    return 0;
}

/* One of the record's allowed IPs. */
static void change_allowed(const struct peer_changes *changes, uint32_t row, const uint8_t *ip)
{
    struct allowedips *ips = changes->table->ips;
    uint8_t *first = table_allowed(changes->table);
    uint32_t bits = ip[17] & ALLOWED_IPV6 ? 128 : 32;

    if (ip[17] & ALLOWED_REMOVED)
        allowedips_remove(ips, ip, bits, ip[16], row, first, sizeof(struct vault_row));
    else
        allowedips_insert(ips, ip, bits, ip[16], row, first, sizeof(struct vault_row));
}

/* A kept row is made what a new one would be, but for what the record goes on to give. */
static void claim(const struct peer_changes *changes, uint32_t row, const struct record *record)
{
    struct peer_table *table = changes->table;
    struct peer_row *peer = &table->segment->rows[row];

    changes->kept[row] = 0;
    if (!record->preshared_key)
        memset(table->vault[row].preshared_key, 0, 32);
#define CLEAR(place, key, field, most) peer->field = 0;
    UAPI_NUMBERS(CLEAR)
    peer->name_bytes = 0;
    table_note_rules(table, row);
}

/* It comes back from who kept it. A smaller one than the row has would let in a replay. */
static void raise_seen(const struct peer_table *table, uint32_t row, const uint8_t *stamp)
{
    uint8_t seen[TIMESTAMP_BYTES];

    table_load_seen(table->vault, &row, seen, 1);
    if (memcmp(stamp, seen, TIMESTAMP_BYTES) > 0)
        table_store_seen(table->vault, &row, stamp, 1);
}

static void note_added(struct peer_changes *changes, uint32_t row)
{
    if (changes->added < CHANGES_EMITTED)
        changes->emitted[changes->added] = row;
    changes->added++;
}

/* ---- a record is applied in stages, so that one with a million allowed IPs is done in slices ---- */

enum stage {
    STAGE_BEGIN,
    STAGE_CLEAR,
    STAGE_ALLOW,
    STAGE_END
};

/* All but allowed IPs and orders. It may stop, and begin once more. */
static int begin(struct peer_changes *changes, const struct record *record)
{
    struct peer_table *table = changes->table;
    const struct segment *segment = table->segment;
    uint32_t row = publickeys_lookup(table->keys, record->public_key), orders = 0;
    int is_new = row == NOBODY, is_kept = !is_new && changes->kept && changes->kept[row];
    int has_endpoint = record->endpoint && !changes->is_placed;

    if (record->flags & RECORD_REMOVE || (record->flags & RECORD_UPDATE_ONLY && (is_new || is_kept))) {
        changes->stage = STAGE_END;
        changes->row = NOBODY;
        return is_new || !(record->flags & RECORD_REMOVE) ? CHANGES_SLICE : CHANGES_RARE;
    }
    if (is_new) {
        if (!table->free_count && segment->device->rows_used >= table->rows_ready)
            return CHANGES_NO_ROW;
        row = table_add(table, record->public_key);
        segment->rows[row].added = changes->tick;
        if (record->numbers[UAPI_ON_DEMAND]) /* before an initiation can find the row: its floor depends on it */
            segment->rows[row].on_demand = load16(record->numbers[UAPI_ON_DEMAND]);
        note_added(changes, row);
    }
    if (has_endpoint) {
        enum endpoint_moved moved =
            record->zone_bytes ? ENDPOINT_WAITS : move_endpoint(changes, row, record->endpoint);
        if (moved == ENDPOINT_WAITS)
            return CHANGES_RARE;
        orders = moved == ENDPOINT_ORDERED ? ORDER_ENDPOINT : 0;
    }
    if (is_kept)
        claim(changes, row, record);
    if (record->preshared_key)
        memcpy(table->vault[row].preshared_key, record->preshared_key, 32);
    if (record->timestamp)
        raise_seen(table, row, record->timestamp);
    if (record->name)
        table_store_name(table, row, record->name + 1, *record->name);
    changes->row = row;
    changes->orders |= orders;
    changes->ip = 0;
    int is_replaced = is_kept || record->flags & RECORD_REPLACE;
    changes->stage = is_replaced && !has_same_allowed(table, row, record) ? STAGE_CLEAR : STAGE_ALLOW;
    return CHANGES_SLICE;
}

static void end(struct peer_changes *changes, const struct record *record)
{
    const struct segment *segment = changes->table->segment;
    uint32_t row = changes->row, orders = changes->orders;

    if (row != NOBODY) {
        for (uint32_t i = 0; i < UAPI_NUMBERS_COUNT; i++)
            if (record->numbers[i])
                orders |= change_number(changes, row, i, load_number(record->numbers[i], uapi_number(i)->bytes));
        if (!queue_is_empty(segment, 2 * row + OUTBOUND))
            orders |= ORDER_LOOK;
        if (orders & ORDER_ENDPOINT && changes->interface_is_up && segment->rows[row].keepalive &&
            !segment->rows[row].key_word)
            orders |= ORDER_KEEPALIVE;  /* those of before had nowhere to go */
        if (orders) {
            orders_give(segment, row, orders);
            peer_schedule(segment, row);
        }
    }
    changes->at += record->bytes;
    /* Atomic: stored for each record, since a death at the next one is judged by it. */
    __atomic_store_n(changes->place, ++changes->done, __ATOMIC_RELAXED);
    changes->stage = STAGE_BEGIN;
    changes->orders = changes->is_placed = 0;
}

/* Goes on with the record, *most steps at the most. CHANGES_SLICE: it is done, or the steps are. */
static int apply(struct peer_changes *changes, const struct record *record, uint32_t *most)
{
    const struct peer_table *table = changes->table;

    if (changes->stage == STAGE_BEGIN) {
        int stop = begin(changes, record);
        *most = after_look(*most, record);
        if (stop != CHANGES_SLICE) {
            changes->stage = STAGE_BEGIN;
            return stop;
        }
    }
    if (changes->stage == STAGE_CLEAR) {
        *most -= table_disallow_some(table, changes->row, *most);
        if (table->vault[changes->row].first_allowed)
            return CHANGES_SLICE;
        changes->stage = STAGE_ALLOW;
    }
    if (changes->stage == STAGE_ALLOW) {
        for (; changes->ip < record->ip_count; changes->ip++, --*most) {
            if (!*most)
                return CHANGES_SLICE;
            const uint8_t *ip = record->ips + RECORD_ALLOWED_BYTES * (uint64_t)changes->ip;
            if (!(ip[17] & ALLOWED_REMOVED) && !has_room(table, 2))
                return CHANGES_NO_NODE;
            change_allowed(changes, changes->row, ip);
        }
    }
    end(changes, record);
    return CHANGES_SLICE;
}

int changes_apply(struct peer_changes *changes, uint32_t most)
{
    struct record record;

    changes->added = 0;
    while (most && changes->at < changes->bytes) {
        if (!read_record(changes->records + changes->at, changes->bytes - changes->at, &record))
            return CHANGES_RARE;
        if (is_own(changes, &record)) {
            changes->row = NOBODY;
            end(changes, &record);
            most--;
            continue;
        }
        int stop = apply(changes, &record, &most);
        if (stop != CHANGES_SLICE)
            return stop;
    }
    return changes->at < changes->bytes ? CHANGES_SLICE : CHANGES_DONE;
}

int changes_pass(struct peer_changes *changes)
{
    struct record record;

    if (!read_record(changes->records + changes->at, changes->bytes - changes->at, &record))
        return 0;
    changes->row = NOBODY;
    end(changes, &record);
    return 1;
}
