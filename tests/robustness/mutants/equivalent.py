"""Random mutants that nobody can see, each with the reason: what the drawn ones that survived turned out to be."""

# ruff: noqa: E501 (a mutant a line)

from __future__ import annotations

from dataclasses import replace

from .mutant import Mutant

# (path, the changed lines before and after it with single blanks, why no test can see it)
EQUIVALENT: list[tuple[str, str, str, str]] = [
    ('workers/control/peers.py', 'for some in range(self.vault.ready("trie_ready") + NODES_AT_ONCE, most, NODES_AT_ONCE):', 'for some in range(self.vault.ready("trie_ready") - NODES_AT_ONCE, most, NODES_AT_ONCE):',
     'two turns more that ask for memory which is there'),
    ('workers/supervisor/segments.py', 'VAULT_FIRST_BYTES = 4096', 'VAULT_FIRST_BYTES = 4097',
     'the kernel gives and maps whole pages, and the vault grows before it is used'),
    ('workers/system_calls.c', '#define PROGRAM_MOST (2 * LISTED + (3 * CHECKS_MOST + 3) * RULES + 16)', '#define PROGRAM_MOST (2 * LISTED + (3 * CHECKS_MOST + 3) * RULES - 16)',
     'room for the longest program and more: each rule of the lists has fewer checks than the most'),
    ('workers/control/memory.py', 'self._extend(lib.REGION_INDEX, ready * lib.INDEX_ENTRY_BYTES, last * lib.INDEX_ENTRY_BYTES)', 'self._extend(lib.REGION_INDEX, ready + lib.INDEX_ENTRY_BYTES, last * lib.INDEX_ENTRY_BYTES)',
     'from an earlier page on: what is there already is given once more'),
    ('workers/supervisor/sockets.py', 'data, ancillary, _, _ = sock.recvmsg(1 << 16, 256)', 'data, ancillary, _, _ = sock.recvmsg(1 << 17, 256)',
     'no datagram is longer than the first size'),
    ('workers/sandbox.c', 'for (unsigned long capability = 0; capability < CAPABILITIES_MOST; capability++)', 'for (unsigned long capability = 0; capability <= CAPABILITIES_MOST; capability++)',
     'the kernel knows no capability 64 to drop'),
    ('workers/control/peer_changes.c', 'return (uint64_t)ips->used + wanted + 1 <= (uint64_t)limit + ips->free;', 'return (uint64_t)ips->used + wanted + 1 < (uint64_t)limit + ips->free;',
     'the table takes the long way, which asks for the same memory and comes to the same'),
    ('workers/control/routes.py', 'return None', 'pass',
     'the function ends there, which is None as well'),
    ('workers/control/handshake_batch.c', 'while (next + run < count && run < HANDSHAKE_BATCH && outgoing[next + run].to.family == family)', 'while (next + run < count && run <= HANDSHAKE_BATCH && outgoing[next + run].to.family == family)',
     'control sends no more than a batch at once: its array has no more'),
    ('shm/schedule.c', 'bell_ring(segment, WORKER_CONSUMER + consumer, -1);', 'bell_ring(segment, WORKER_CONSUMER + consumer, -2);',
     'whatever is below zero is no eventfd'),
    ('shm/pool.c', 'pool->cursor = pool->order_got;', ';',
     'where the second pass begins: it comes round to all of them in turn'),
    ('shm/ready.c', 'else if (level == 1 && word_load(l, 1, place / 64) == 0)', 'else if (level == 1 && word_load(l, 0, place / 64) == 0)',
     'how often a bit of level 2 is tried: cleared in vain it is set again at the second look, and what finds nothing tries all'),
    ('shm/valid.c', 'if (met[number]++)', 'if (met[number]--)',
     'zero before the first time and another number at the second, either way'),
    ('shm/valid.c', 'if (stub_met++)', 'if (stub_met--)',
     'zero before the first time and another number at the second, either way'),
    ('shm/valid.c', 'if (level0[place / 64] >> (place % 64) & 1 && !ready_is_set(segment, set, place))', 'if (level0[place / 64] >> (place + 64) & 1 && !ready_is_set(segment, set, place))',
     'the processor shifts by the count modulo 64'),
    ('workers/datapath/holder_orders.c', '__atomic_store_n(&peer->key_word, after, __ATOMIC_RELEASE);', '__atomic_store_n(&peer->key_word, after, __ATOMIC_RELAXED);',
     'x86-64 stores in order, and the compiler moves arithmetic in registers alone'),
    ('workers/control/peer_table.c', '__atomic_store_n(place, owner, __ATOMIC_RELEASE);', '__atomic_store_n(place, owner, __ATOMIC_RELAXED);',
     'x86-64 stores in order, and the compiler moves arithmetic in registers alone'),
    ('shm/node.c', 'return offset - (offset - small) % SMALL_SLOT_BYTES;', 'return offset - (offset + small) % SMALL_SLOT_BYTES;',
     'the region begins at a multiple of a small slot'),
    ('engine/uapi/requests.py', 'return data.find(b"\\n\\n", first) >= 0 or data.find(b"\\n" + _PEER_KEY, first) >= 0', 'return data.find(b"\\n\\n", first) >= 1 or data.find(b"\\n" + _PEER_KEY, first) >= 0',
     'what waits begins with public_key=, so that neither is found at its first byte'),
    ('engine/uapi/requests.py', 'return data.find(b"\\n\\n", first) >= 0 or data.find(b"\\n" + _PEER_KEY, first) >= 0', 'return data.find(b"\\n\\n", first) >= 0 or data.find(b"\\n" + _PEER_KEY, first) >= 1',
     'what waits begins with public_key=, so that neither is found at its first byte'),
    ('workers/system_calls.c', '#define PROGRAM_MOST (2 * LISTED + (3 * CHECKS_MOST + 3) * RULES + 16)', '#define PROGRAM_MOST (2 * LISTED + (3 * CHECKS_MOST + 2) * RULES + 16)',
     'room for the longest program and more: each rule of the lists has fewer checks than the most'),
    ('engine/coalescing.c', 'if (next->tcp != flow->tcp || next->ip != flow->ip || next->header != flow->header ||', 'if (next->tcp != flow->tcp || next->ip != flow->ip && next->header != flow->header ||',
     'headers_agree compares the bytes that say both lengths'),
    ('workers/datapath/tun.c', 'return 0;', ';',
     'the kernel gives a header with each packet; the answer ends the batch, and of what is below zero the caller asks for EBADFD alone'),
    ('workers/control/handshake_batch.c', 'same[i] = memcmp(&now, &cells[where[i]].from, sizeof now) == 0;', 'same[i] = memcmp(&cells[where[i]].from, &now, sizeof now) == 0;',
     'memcmp tells only whether they differ'),
    ('shm/pool.c', '__atomic_store_n(&node->next, ((next >> 32) + 1) << 32 | NODE_NIL, __ATOMIC_RELAXED);', '__atomic_store_n(&node->next, ((next >> 32) - 1) << 32 | NODE_NIL, __ATOMIC_RELAXED);',
     'any other generation than the last does'),
    ('workers/system_calls.c', '#define LISTED (LENGTH(common) + LENGTH(of_control) + LENGTH(escapes))', '#define LISTED (LENGTH(common) - LENGTH(of_control) + LENGTH(escapes))',
     'room for the longest program and more: each rule of the lists has fewer checks than the most'),
    ('workers/datapath/mac1_filter.c', 'fence_release(); /* whoever sees what follows of a copy sees that the turn had left it */', '; /* whoever sees what follows of a copy sees that the turn had left it */',
     'x86-64 stores in order, and the compiler moves a read of the new key alone'),
    ('workers/datapath/mac1_filter.c', 'fence_acquire(); /* the copy, then the second look */', '; /* the copy, then the second look */',
     'x86-64 loads in order, and the compiler leaves the second look behind the copy'),
    ('workers/datapath/receive_tun.c', '__atomic_load_n(root, __ATOMIC_ACQUIRE), destination, version == 4 ? 32 : 128);', '__atomic_load_n(root, __ATOMIC_RELAXED), destination, version == 4 ? 32 : 128);',
     'x86-64 loads in order, and only the root leads to what was written before it'),
    ('workers/system_calls.c', '#define RULES (LENGTH(common_rules) + LENGTH(rules_of_control) + 2 /* own signals */)', '#define RULES (LENGTH(common_rules) + LENGTH(rules_of_control) - 2 /* own signals */)',
     'room for the longest program and more: each rule of the lists has fewer checks than the most'),
    ('engine/index.c', 'uint64_t word = (uint64_t)round << 32 | half;', 'uint64_t word = (uint64_t)round << 31 | half;',
     'another permutation of the same kind: a half has fewer than 31 bits'),
    ('workers/control/responder.py', 'return is_first', 'pass',
     'a short way: where nobody is the first, nobody is below'),
    ('workers/datapath/intake.c', 'int is_held = !is_small && arrival->at < intake->trains_held && arrival->slot == intake->trains[arrival->at];', 'int is_held = !is_small && arrival->at < intake->trains_held || arrival->slot == intake->trains[arrival->at];',
     'a slot of the pool is taken only when all INTAKE_TRAINS are held, so that the second look is behind the list, where no number of a slot stands'),
    ('workers/control/eviction.py', 'if not used or not self.lookups.has_room:', 'if not used and not self.lookups.has_room:',
     'a short way: without room the look ends at the first row that is idle, where the next one begins'),
]
_WHY = {each[:3]: each[3] for each in EQUIVALENT}


def explained(mutant: Mutant, text: str) -> Mutant:
    """The same, with the reason when it is one of those."""
    why = _WHY.get((mutant.path, *mutant.lines(text)), "")
    return replace(mutant, equivalent=why) if why else mutant
