/* peer_table: rows from unused to unused (workers/control/peers.py tells a row's life). */
#include "workers/control/peer_table.h"

#include <string.h>
#include <unistd.h>

#include "engine/bytes.h"
#include "engine/timers.h"
#include "shm/orders.h"
#include "shm/point.h"
#include "shm/queue.h"
#include "shm/schedule.h"
#include "shm/token.h"

_Static_assert(sizeof(struct vault_row) == 96, "a vault row has 96 bytes");

static void wipe(struct peer_table *table, uint32_t row)
{
    struct peer_row *peer = &table->segment->rows[row];
    uint32_t generation = peer->generation;
    uint64_t in = peer->ends[INBOUND].stub_next, out = peer->ends[OUTBOUND].stub_next;

    memset(peer, 0, sizeof *peer);
    peer->generation = generation;
    /* Rule 1 of shm/queue.c, over the lives of a row: its stubs' generations only rise. */
    peer->ends[INBOUND].stub_next = in;
    peer->ends[OUTBOUND].stub_next = out;
}

#define SEEN_OTHER (1ull << 63)
#define TAI64_1970 0x400000000000000aull /* engine/tai64n.py */
#define SENT_NS_BITS 30

static uint64_t load_be64(const uint8_t *from)
{
    return (uint64_t)load_be32(from) << 32 | load_be32(from + 4);
}

static void store_stamp(uint8_t stamp[12], uint64_t seconds, uint32_t ns)
{
    store_be32(stamp, (uint32_t)(seconds >> 32));
    store_be32(stamp + 4, (uint32_t)seconds);
    store_be32(stamp + 8, ns);
}

static void store_seen(struct vault_row *row, const uint8_t stamp[12])
{
    uint64_t seconds = load_be64(stamp), other = ~row->seen_seconds & SEEN_OTHER;
    uint32_t ns = load_be32(stamp + 8);

    if (seconds & SEEN_OTHER) {
        seconds = SEEN_OTHER - 1;
        ns = UINT32_MAX;
    }
    /* The ns go where nobody looks; one store then names both parts. Release: in this order. */
    __atomic_store_n(&row->seen_ns[other != 0], ns, __ATOMIC_RELAXED);
    __atomic_store_n(&row->seen_seconds, seconds | other, __ATOMIC_RELEASE);
}

void table_store_seen(struct vault_row *vault, const uint32_t *rows, const uint8_t *stamps, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        store_seen(&vault[rows[i]], stamps + 12 * (uint64_t)i);
}

void table_load_seen(const struct vault_row *vault, const uint32_t *rows, uint8_t *stamps, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct vault_row *row = &vault[rows[i]];

        store_stamp(stamps + 12 * (uint64_t)i, row->seen_seconds & ~SEEN_OTHER,
                    row->seen_ns[(row->seen_seconds & SEEN_OTHER) != 0]);
    }
}

void table_store_sent(struct vault_row *row, const uint8_t stamp[12])
{
    uint64_t seconds = load_be64(stamp) - TAI64_1970;

    __atomic_store_n(&row->sent, seconds << SENT_NS_BITS | load_be32(stamp + 8), __ATOMIC_RELAXED);
}

void table_load_sent(const struct vault_row *row, uint8_t stamp[12])
{
    uint64_t sent = row->sent;

    store_stamp(stamp, sent ? TAI64_1970 + (sent >> SENT_NS_BITS) : 0, sent & ((1u << SENT_NS_BITS) - 1));
}

uint8_t *table_allowed(const struct peer_table *table)
{
    return (uint8_t *)&table->vault[0].first_allowed;
}

uint32_t table_disallow_all(const struct peer_table *table, uint32_t row)
{
    return allowedips_remove_peer(table->ips, row, table_allowed(table), sizeof *table->vault);
}

static off_t name_place(const struct peer_table *table, uint32_t row)
{
    return (off_t)(table->names_at + (uint64_t)row * NAME_MOST);
}

void table_store_name(struct peer_table *table, uint32_t row, const uint8_t *name, uint32_t bytes)
{
    struct peer_row *peer = &table->segment->rows[row];

    if (bytes && pwrite(table->names_fd, name, bytes, name_place(table, row)) != (ssize_t)bytes) {
        table->names_lost++;
        bytes = 0;
    }
    __atomic_store_n(&peer->name_bytes, (uint16_t)bytes, __ATOMIC_RELAXED);
}

uint32_t table_load_name(const struct peer_table *table, uint32_t row, uint8_t *name)
{
    uint32_t bytes = __atomic_load_n(&table->segment->rows[row].name_bytes, __ATOMIC_RELAXED);

    /* The row's word may be anything. */
    if (!bytes || bytes > NAME_MOST || pread(table->names_fd, name, bytes, name_place(table, row)) != (ssize_t)bytes)
        return 0;
    return bytes;
}

void table_note_rules(struct peer_table *table, uint32_t row)
{
    const struct peer_row *peer = &table->segment->rows[row];
    uint8_t rules = (uint8_t)((peer->quota ? RULE_QUOTA : 0) | (peer->expires ? RULE_EXPIRES : 0));
    uint8_t before = table->rules[row];

    if (!rules && !before) /* the pages of rows without rules stay untouched */
        return;
    table->rules[row] = rules | (before & RULE_OUT) | RULE_CHANGED;
    if (table->expiries[row] != peer->expires)
        table->expiries[row] = peer->expires;
    table->rules_changed = 1;
}

static void forget_rules(const struct peer_table *table, uint32_t row)
{
    if (table->rules[row])
        table->rules[row] = 0;
    if (table->expiries[row])
        table->expiries[row] = 0;
}

/* The row is found by its key from now on. */
static void enter(struct peer_table *table, uint32_t row)
{
    uint32_t most = table->segment->geometry.public_key_buckets;

    table->count++;
    if (table->keys->bucket_count < table->count && table->keys->bucket_count < table->rows_ready &&
        table->keys->bucket_count < most)
        publickeys_grow(table->keys);
    publickeys_insert(table->keys, row);
}

uint32_t table_disallow_some(const struct peer_table *table, uint32_t row, uint32_t most)
{
    return allowedips_remove_some(table->ips, row, most, table_allowed(table), sizeof *table->vault);
}

uint32_t table_count_allowed(const struct peer_table *table, uint32_t row, uint32_t most)
{
    uint32_t count = 0, number = table->vault[row].first_allowed;

    for (; number && count < most; count++)
        number = table->ips->nodes[number].peer_next;
    return count;
}

/* The consumer that a direction of a row belongs to: another than the other direction's, if there is one. */
static uint32_t owner_of(const struct peer_table *table, uint32_t row, uint32_t direction)
{
    uint32_t owner = (row + direction) % table->consumers;

    return table->away[owner] && table->here_count ? table->here[(row / table->consumers + direction) % table->here_count] : owner;
}

uint32_t table_add(struct peer_table *table, const uint8_t public_key[32])
{
    const struct segment *segment = table->segment;
    uint32_t row;

    if (table->free_count) {
        row = table->free[--table->free_count];
    } else {
        row = segment->device->rows_used;
        for (uint32_t direction = 0; direction < DIRECTIONS; direction++)
            token_give_dead(segment, DIRECTIONS * row + direction);
        __atomic_store_n(&segment->device->rows_used, row + 1, __ATOMIC_RELEASE);
    }
    struct peer_row *peer = &segment->rows[row];
    wipe(table, row);
    POINT("publication: row wiped, not filled");
    if (++peer->generation == 0)
        peer->generation = 1;
    for (uint32_t direction = 0; direction < DIRECTIONS; direction++) {
        peer->consumer[direction] = owner_of(table, row, direction);
        queue_initialise(segment, DIRECTIONS * row + direction);
    }
    timers_initialise(segment->columns, segment->geometry.max_peers, row);
    memset(&table->vault[row], 0, sizeof table->vault[row]);
    memcpy(peer->public_key, public_key, 32);
    POINT("publication: row filled, token still dead");
    /* Outbound's last: a row whose outbound token is dead is one that nobody holds. */
    for (uint32_t direction = 0; direction < DIRECTIONS; direction++)
        token_initialise(segment, DIRECTIONS * row + direction);
    POINT("publication: token idle, row not live");
    /* Release: whoever finds the row live, a control after a kill too, finds it whole. */
    __atomic_store_n(&peer->state, PEER_LIVE, __ATOMIC_RELEASE);
    POINT("publication: row live, in no table");
    enter(table, row);
    return row;
}

void table_take_away(struct peer_table *table, const uint32_t *rows, uint32_t count)
{
    const struct segment *segment = table->segment;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t row = rows[i];
        table_disallow_all(table, row);
        POINT("removal: out of the trie, still live");
        publickeys_remove(table->keys, row);
        __atomic_store_n(&segment->rows[row].state, PEER_RETIRING, __ATOMIC_RELEASE);
        __atomic_store_n(&segment->columns[(uint64_t)NEXT_DUE * segment->geometry.max_peers + row], TIMER_NEVER,
                         __ATOMIC_RELAXED);
        POINT("removal: retiring, secrets there");
        memset(&table->vault[row], 0, sizeof table->vault[row]);
        forget_rules(table, row);
        table->count--;
    }
}

void table_retire(const struct peer_table *table, const uint32_t *rows, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        orders_give(table->segment, rows[i], ORDER_RETIRE);
        peer_schedule(table->segment, rows[i]);
    }
}

void table_free(struct peer_table *table, const uint32_t *rows, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        POINT("removal: token dead, row not wiped");
        wipe(table, rows[i]);
        POINT("removal: row wiped, not free");
        table->free[table->free_count++] = rows[i];
    }
}

void table_share_out(struct peer_table *table, uint32_t consumers, const uint32_t *away, uint32_t count)
{
    const struct segment *segment = table->segment;

    table->consumers = consumers < MAX_CONSUMERS ? consumers : MAX_CONSUMERS;
    memset(table->away, 0, sizeof table->away);
    for (uint32_t i = 0; i < count; i++)
        if (away[i] < MAX_CONSUMERS)
            table->away[away[i]] = 1;
    table->here_count = 0;
    for (uint32_t consumer = 0; consumer < table->consumers; consumer++)
        if (!table->away[consumer])
            table->here[table->here_count++] = consumer;
    for (uint32_t row = 0; row < segment->device->rows_used; row++) {
        for (uint32_t direction = 0; direction < DIRECTIONS; direction++) {
            uint32_t owner = owner_of(table, row, direction), *place = &segment->rows[row].consumer[direction];
            /* release, as its readers acquire (shm/schedule.c) */
            if (*place != owner)
                __atomic_store_n(place, owner, __ATOMIC_RELEASE);
        }
    }
}

void table_recover(struct peer_table *table, uint32_t *place)
{
    for (uint32_t row = 0; row < table->segment->device->rows_used; row++) {
        if (table->segment->rows[row].state != PEER_LIVE)
            continue;
        /* Atomic: stored for each row, since a death anywhere in the loop is judged by it. */
        __atomic_store_n(place, row + 1, __ATOMIC_RELAXED);
        enter(table, row);
        table_note_rules(table, row);
    }
}

uint32_t table_find_active(const struct peer_table *table, uint32_t first, uint32_t last, int is_down,
                           uint32_t *found)
{
    uint32_t count = 0;

    for (uint32_t row = first; row < last; row++) {
        const struct peer_row *peer = &table->segment->rows[row];
        if (peer->state == PEER_LIVE &&
            ((is_down ? __atomic_load_n(&peer->key_word, __ATOMIC_RELAXED) != 0 ||
                            orders_read(table->segment, row) & (ORDER_INSTALL | ORDER_INSTALL_NEXT)
                      : peer->keepalive != 0) ||
             !queue_is_empty(table->segment, 2 * row + OUTBOUND)))
            found[count++] = row;
    }
    return count;
}
