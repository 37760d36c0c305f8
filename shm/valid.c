/* valid: checks that every structure of a segment is whole, while no process works on it. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "parts.h"
#include "queue.h"
#include "ready.h"
#include "repair.h"
#include "token.h"

struct report {
    char *text;
    uint32_t bytes;
    uint32_t faults;
};

__attribute__((format(printf, 2, 3))) static void fault(struct report *report, const char *format, ...)
{
    va_list arguments;
    if (report->faults++ != 0 || report->bytes == 0)
        return;
    va_start(arguments, format);
    vsnprintf(report->text, report->bytes, format, arguments);
    va_end(arguments);
}

static int mark_is_alive(const struct segment *segment, uint32_t mark)
{
    uint32_t worker = mark_worker(mark);
    return worker < MAX_WORKERS && mark == worker_mark(worker, segment->workers[worker].incarnation);
}

/* A node of a list: in no other list, in a state that a list may have, of this peer and direction. */
static void node_check(const struct segment *segment, uint32_t queue, uint32_t number, uint8_t *met,
                       struct report *report)
{
    uint32_t state = segment->states[number], token = segment->tokens[token_place(queue)];
    if (met[number]++)
        fault(report, "queue %u: node %u stands in a list twice", queue, number);
    if (state != NODE_QUEUED && !(state & NODE_IN_HAND && token == (TOKEN_HELD | (state & ~NODE_IN_HAND))))
        fault(report, "queue %u: node %u is listed, but its state is %#x", queue, number, state);
    if (segment->node[number].peer != queue / 2)
        fault(report, "queue %u: node %u names peer %u", queue, number, segment->node[number].peer);
    if ((number - 1) / segment->geometry.nodes_a_pool % 2 != queue % 2)
        fault(report, "queue %u: node %u is of the other direction", queue, number);
}

static void queue_check(const struct segment *segment, uint32_t queue, uint8_t *met, struct report *report)
{
    const struct peer_row *row = &segment->rows[queue / 2];
    uint64_t end = row->ends[queue % 2].end;
    uint32_t stub = STUB_FIRST + queue, number = row->heads[queue % 2].head, count = 0;
    int end_met = 0, stub_met = 0;
    if (number == NODE_NIL && end == 0)
        return; /* never initialised: an unused row */
    while (number != NODE_NIL && count++ <= segment->nodes + 1) {
        uint64_t next;
        if (number == stub) {
            next = row->ends[queue % 2].stub_next;
            if (stub_met++)
                fault(report, "queue %u: the stub stands in the list twice", queue);
        } else if (number - 1 < segment->nodes) {
            next = segment->node[number].next;
            node_check(segment, queue, number, met, report);
        } else {
            fault(report, "queue %u: %#x is no node", queue, number);
            return;
        }
        if ((uint32_t)end == number) {
            end_met = 1;
            if (end >> 32 != next >> 32)
                fault(report, "queue %u: the end names another generation of node %u", queue, number);
        }
        number = (uint32_t)next;
    }
    if (number != NODE_NIL)
        fault(report, "queue %u: the list runs in a circle", queue);
    if (!end_met)
        fault(report, "queue %u: the end names %#x, which head does not reach", queue, (uint32_t)end);
}

static void token_check(const struct segment *segment, uint32_t queue, struct report *report)
{
    uint32_t token = segment->tokens[token_place(queue)];
    int found = 0;
    if (token & TOKEN_HELD && !mark_is_alive(segment, token & ~TOKEN_HELD))
        fault(report, "queue %u: the token is held by nobody alive (%#x)", queue, token);
    if (!(token & TOKEN_HELD) && token > TOKEN_DEAD)
        fault(report, "queue %u: the token reads %#x", queue, token);
    if (token != TOKEN_QUEUED)
        return;
    for (uint32_t set = 1; set <= segment->geometry.max_consumers; set++)
        found |= ready_is_set(segment, set, queue);
    if (!found)
        fault(report, "queue %u: queued, but in no consumer's ready set", queue);
}

static void nodes_check(const struct segment *segment, const uint8_t *met, struct report *report)
{
    for (uint32_t number = 1; number <= segment->nodes; number++) {
        uint32_t state = segment->states[number];
        if (state & NODE_IN_HAND) {
            if (!mark_is_alive(segment, state & ~NODE_IN_HAND))
                fault(report, "node %u: in hand of nobody alive (%#x)", number, state);
        } else if (state > NODE_QUEUED) {
            fault(report, "node %u: state %#x", number, state);
        }
        if (state == NODE_QUEUED && !met[number])
            fault(report, "node %u: queued, but no list reaches it", number);
    }
}

static void sets_check(const struct segment *segment, struct report *report)
{
    for (uint32_t set = 0; set <= segment->geometry.max_consumers; set++) {
        const uint64_t *level0 = segment->ready + (uint64_t)set * segment->ready_words;
        for (uint32_t place = 0; place < DIRECTIONS * segment->geometry.max_peers; place++)
            if (level0[place / 64] >> (place % 64) & 1 && !ready_is_set(segment, set, place))
                fault(report, "ready set %u: place %u is set without its summaries", set, place);
    }
}

static void parts_check(const struct segment *segment, uint32_t worker, struct report *report)
{
    if (!segment->workers[worker].lends)
        return; /* there may be no memory */
    for (uint32_t number = 0; number < PARTS; number++) {
        uint32_t state = part_of(segment, worker, number)->state;
        if (state & PART_TAKEN && !mark_is_alive(segment, state & ~PART_TAKEN))
            fault(report, "worker %u: part %u is taken by nobody alive (%#x)", worker, number, state);
        if (!(state & PART_TAKEN) && state > PART_LOST)
            fault(report, "worker %u: part %u reads %#x", worker, number, state);
    }
}

uint32_t segment_valid(const struct segment *segment, char *text, uint32_t text_bytes)
{
    struct report report = { text, text_bytes, 0 };
    uint32_t rows = segment->device->rows_used;
    uint8_t *met = calloc((size_t)segment->nodes + 1, 1);
    if (text_bytes)
        text[0] = 0;
    if (!met) {
        fault(&report, "no memory for the check itself");
        return report.faults;
    }
    if (rows > segment->geometry.max_peers) {
        fault(&report, "device: %u rows used of %u", rows, segment->geometry.max_peers);
        rows = segment->geometry.max_peers;
    }
    for (uint32_t row = 0; row < rows; row++) {
        queue_check(segment, 2 * row + INBOUND, met, &report);
        queue_check(segment, 2 * row + OUTBOUND, met, &report);
        token_check(segment, 2 * row + INBOUND, &report);
        token_check(segment, 2 * row + OUTBOUND, &report);
    }
    nodes_check(segment, met, &report);
    sets_check(segment, &report);
    for (uint32_t worker = 0; worker < MAX_WORKERS; worker = segment_next_worker(segment, worker)) {
        if (segment->workers[worker].journal_queue != 0)
            fault(&report, "worker %u: a push in its journal", worker);
        if (worker >= WORKER_RECEIVER)
            parts_check(segment, worker, &report);
    }
    for (uint32_t ring = 0; ring < segment->geometry.max_receivers; ring++)
        if (segment->mailbox[ring].put - segment->mailbox[ring].got > segment->geometry.mailbox_cells)
            fault(&report, "mailbox %u: more messages than cells", ring);
    free(met);
    return report.faults;
}
