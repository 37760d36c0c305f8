"""The kept list: faults that survived once, or that must never survive, each with the area that ought to see it."""

# ruff: noqa: E501 (a mutant a line)

from __future__ import annotations

from .mutant import Kept

FENCE = "fence_seq_cst();"
CLEANSE = "    OPENSSL_cleanse({});\n"
SYSTEM_CALLS, SANDBOX = "workers/system_calls.c", "workers/sandbox.c"
ENDPOINTS = "workers/control/endpoints.c"
COMMON, OF_CONTROL = "static const uint16_t common[] = {\n", "static const uint16_t of_control[] = {\n"
OVERWRITTEN = "overwritten before the step is over: engine_secrets looks for it in all memory, at -O0, -O1 and -O2 too"


def without(area: str, path: str, name: str, line: str, equivalent: str = "") -> Kept:
    """The same without this text."""
    return Kept(area, path, name, line, ";" if line.endswith(";") else "", equivalent)


def allowed(name: str, where: str) -> Kept:
    """A system call more in a list of the filter."""
    who = "everybody" if where == COMMON else "control"
    return Kept("confinement", SYSTEM_CALLS, f"{name} allowed to {who}", where, f"{where}    SYS_{name},\n")


FENCES = [
    Kept("fences", "shm/bell.c", "bell_announce without its fence",
         f'not looked once more");\n    {FENCE}', 'not looked once more");\n'),
    without("fences", "shm/bell.c", "bell_ring without its fence", f"{FENCE} /* the caller's publication, then the look */"),
    without("fences", "shm/bell.c", "bell_starve without its fence", f"{FENCE} /* announced, then the last sweep */"),
    without("fences", "shm/bell.c", "bell_ring_starving without its fence", f"{FENCE} /* the nodes came home, then the look */"),
    without("fences", "shm/bell.c", "a starving receiver sets no bit",
            "        __atomic_fetch_or(&segment->starving->receivers, starving_bit(worker), __ATOMIC_RELEASE);"),
    without("fences", "shm/schedule.c", "queue_schedule without its fence", f"{FENCE} /* the publication, then the token */"),
    without("fences", "shm/schedule.c", "peer_schedule without its fence", f"{FENCE} /* the order, then the tokens */"),
    without("fences", "shm/schedule.c", "peer_mend without its fence", f"{FENCE} /* what the dead did, then the tokens: a holder that gives one now looks behind its own fence */"),
    without("fences", "shm/schedule.c", "queue_give without its fence", f"{FENCE} /* idle, then the last look */"),
    Kept("fences", "shm/epoch.c", "epoch_turn without its fence", f"+ 2, __ATOMIC_RELEASE);\n    {FENCE}", "+ 2, __ATOMIC_RELEASE);\n"),
    without("fences", "shm/epoch.c", "epoch_wake without its fence", f"{FENCE} /* awake first, then look: control sees one or we see its unpublication */"),
    without("fences", "shm/epoch.c", "grace_begin without its fence", f"{FENCE} /* the caller's unpublication stands before the words are read */"),
    without("fences", "shm/ready.c", "ready_set without its fences", f"{FENCE} /* the level below, then this one */"),
    without("fences", "shm/ready.c", "summary_clear without its fence", f"{FENCE} /* cleared, then the second look */"),
    without("fences", "engine/timers.c", "arm without its fence", "__atomic_thread_fence(__ATOMIC_SEQ_CST);  /* the stamp before NEXT_DUE is read: see the top */"),
    without("fences", "engine/timers.c", "timers_look without its fence", "__atomic_thread_fence(__ATOMIC_SEQ_CST);  /* before the stamps are read: see the top */"),
    Kept("fences", "shm/bell.c", "bell_announce fences before it announces",
         "    __atomic_store_n(&segment->bells[worker].sleeping, 1, __ATOMIC_RELAXED);\n",
         f"    {FENCE}\n    __atomic_store_n(&segment->bells[worker].sleeping, 1, __ATOMIC_RELAXED);\n    return;\n"),
    Kept("fences", "shm/fence.h", "no full fence at all", "__atomic_thread_fence(__ATOMIC_SEQ_CST);", ";"),
    Kept("fences", "shm/fence.h", "the full fence only acquires", "__atomic_thread_fence(__ATOMIC_SEQ_CST);", "__atomic_thread_fence(__ATOMIC_ACQUIRE);"),
    Kept("fences", "workers/datapath/mac1_filter.c", "no second look after the mac1 key",
         "    if (__atomic_load_n(&device->mac1_turn, __ATOMIC_RELAXED) != turn)\n        return 0;\n", ""),
    Kept("fences", "workers/datapath/mac1_filter.c", "the turn is stored before the mac1 key",
         "    fence_release(); /* whoever", "    __atomic_store_n(&device->mac1_turn, turn, __ATOMIC_RELEASE);\n    fence_release(); /* whoever"),
]

CONFINEMENT = [
    *(allowed(name, COMMON) for name in ("mprotect", "mremap", "remap_file_pages", "ioctl", "io_uring_setup")),
    *(allowed(name, OF_CONTROL) for name in ("ptrace", "rt_sigqueueinfo", "fsopen", "fcntl", "socket", "shmat", "prctl",
                                             "pidfd_getfd", "unlinkat")),
    Kept("confinement", SYSTEM_CALLS, "x32 not refused",
         "    unless(program, BPF_JGE, 0x40000000, 1); /* x32 */\n    answer(program, SECCOMP_RET_KILL_PROCESS);\n", ""),
    Kept("confinement", SYSTEM_CALLS, "i386 not refused", "BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0", "BPF_JEQ | BPF_K, ARCHITECTURE, 1, 1"),
    Kept("confinement", SYSTEM_CALLS, "clone with any flags", "{ 0, ~(uint32_t)CLONE_DETACHED, THREAD }", "{ 0, 0, 0 }"),
    Kept("confinement", SYSTEM_CALLS, "clone with flags of namespaces", "~(uint32_t)CLONE_DETACHED, THREAD", "CLONE_VM, 0"),
    Kept("confinement", SYSTEM_CALLS, "kill of any process", "SYS_kill, { { 0, ALL, pid } }", "SYS_kill, { { 0, 0, pid } }"),
    Kept("confinement", SYSTEM_CALLS, "tgkill of any process", "SYS_tgkill, { { 0, ALL, pid } }", "SYS_tgkill, { { 0, 0, pid } }"),
    Kept("confinement", SYSTEM_CALLS, "openat to write", "{ 2, OPENED_FLAGS, O_RDONLY }", "{ 0, 0, 0 }"),
    Kept("confinement", SYSTEM_CALLS, "openat with O_CREAT", "O_ACCMODE | O_CREAT |", "O_ACCMODE |"),
    Kept("confinement", SYSTEM_CALLS, "openat with O_TRUNC", "O_CREAT | O_TRUNC |", "O_CREAT |"),
    Kept("confinement", SYSTEM_CALLS, "mmap to execute", "{ SYS_mmap, { { 2, PROT_EXEC, 0 } } }", "{ SYS_mmap, { { 0, 0, 0 } } }"),
    Kept("confinement", SYSTEM_CALLS, "netlink of any protocol", ", { 2, ALL, NETLINK_ROUTE }", ""),
    Kept("confinement", SYSTEM_CALLS, "mprotect without PROT_EXEC for packets", "{ SYS_mmap, {", "{ SYS_mprotect, { { 2, PROT_EXEC, 0 } } },\n    { SYS_mmap, {"),
    Kept("confinement", SYSTEM_CALLS, "clone3 refused with EPERM", "#define FIRST_YOUNG 424", "#define FIRST_YOUNG 4240"),
    Kept("confinement", SANDBOX, "Landlock without scopes", "attributes.scopes = 3", "attributes.scopes = 0"),
    Kept("confinement", SANDBOX, "Landlock without network", "attributes.network = 3", "attributes.network = 0"),
    Kept("confinement", SANDBOX, "Landlock left out", "    if (use_landlock(readable, removable))\n        refused |= SANDBOX_FILES;\n", ""),
    Kept("confinement", SANDBOX, "walls that no_new_privs would have brought are said to stand",
         "refused |= SANDBOX_FILES | SANDBOX_SYSTEM_CALLS;", "refused &= SANDBOX_FILES | SANDBOX_SYSTEM_CALLS;"),
    Kept("confinement", SANDBOX, "capabilities kept", "permitted &= (uint32_t)(keep >> 32 * word)", "permitted &= ~0u"),
]

WIPING = [
    Kept("wiping", "engine/aead.c", "aead_forget leaves the provider as it is", "    aead->seal(aead, &job, 1);\n", ""),
    Kept("wiping", "engine/aead.c", "aead_forget leaves the stack as it is", "    stack_wipe();\n", ""),
    Kept("wiping", "engine/aead.c", "the stack is wiped by nothing", "    explicit_bzero(room, sizeof room);\n", ""),
    Kept("wiping", "engine/aead_ipsec_mb.c", "libipsec-mb's memory given back as it is", CLEANSE.format("mb, sizeof(*mb)"), "",
         "nonces and tags alone: the keys are in the manager, which free_mb_mgr clears (engine_secrets looks)"),
    Kept("wiping", "engine/aead_boringssl.c", "BoringSSL's memory given back as it is", CLEANSE.format("boring, sizeof *boring"), ""),
    *(Kept("wiping", "engine/blake2s.c", f"blake2s leaves {what}", CLEANSE.format(line), "", why) for what, line, why in (
        ("the block", "whole, sizeof whole", ""), ("its state", "state, sizeof *state", ""),
        ("HMAC's pad", "pad, sizeof pad", OVERWRITTEN),
        ("HMAC", "&hmac, sizeof hmac", ""), ("HKDF's secret", "secret, sizeof secret", ""))),
    Kept("wiping", "engine/handshake.c", "handshake_wipe wipes nothing", CLEANSE.format("handshakes, count * sizeof *handshakes"), ""),
    Kept("wiping", "engine/handshake.c", "handshake_wipe wipes one too few", "handshakes, count * sizeof *handshakes", "handshakes, (count - 1) * sizeof *handshakes"),
    Kept("wiping", "engine/handshake.c", "a responder keeps its ephemeral", "    OPENSSL_cleanse(h->ephemeral, KEY);  /* used once */\n", ""),
    without("wiping", "engine/x25519.c", "libcrypto keeps a scalar", "    EVP_PKEY_free(scalar->key);  /* wipes it */\n"),
    Kept("wiping", "engine/handshake.c", "mix_psk leaves tau", CLEANSE.format("tau, sizeof tau"), ""),
    Kept("wiping", "engine/handshake.c", "split leaves the chain", CLEANSE.format("chain, KEY"), ""),
    Kept("wiping", "engine/handshake.c", "consume_response leaves the chain", CLEANSE.format("chain, sizeof chain"), ""),
    Kept("wiping", "engine/handshake.c", "consume_response leaves its key", "    " + CLEANSE.format("key, sizeof key") + "    }\n    OPENSSL_cleanse(chain", "    }\n    OPENSSL_cleanse(chain"),
    Kept("wiping", "engine/handshake.c", "consume_response leaves ee", CLEANSE.format("ee, sizeof ee") + CLEANSE.format("se, sizeof se") + "    return result;\n}\n\n/* --- responder", CLEANSE.format("se, sizeof se") + "    return result;\n}\n\n/* --- responder"),
    Kept("wiping", "engine/handshake.c", "create_response leaves ee", CLEANSE.format("ee, sizeof ee") + CLEANSE.format("se, sizeof se") + "    OPENSSL_cleanse(h->eph", CLEANSE.format("se, sizeof se") + "    OPENSSL_cleanse(h->eph"),
    Kept("wiping", "engine/handshake.c", "create_response leaves se", CLEANSE.format("se, sizeof se") + "    OPENSSL_cleanse(h->eph", "    OPENSSL_cleanse(h->eph"),
    Kept("wiping", "engine/handshake.c", "open_initiation leaves the secret", CLEANSE.format("secret, sizeof secret") + "    if (handshake_unseal", "    if (handshake_unseal"),
    Kept("wiping", "engine/handshake.c", "create_initiation leaves the secret", CLEANSE.format("secret, sizeof secret") + "    return HANDSHAKE_FINE;", "    return HANDSHAKE_FINE;"),
    Kept("wiping", "engine/handshake.c", "write_initiation leaves its key", CLEANSE.format("key, sizeof key") + "}\n", "}\n", OVERWRITTEN),
    Kept("wiping", "workers/control/responder.py", "control keeps what it answered with", "            lib.handshake_wipe(self.handshakes, count)\n", "            pass\n"),
    Kept("wiping", "workers/control/initiator.py", "control keeps a handshake that is complete", "        lib.handshake_wipe(handshake, 1)\n", ""),
    Kept("wiping", "workers/control/initiator.py", "control keeps a handshake that is over", "            lib.handshake_wipe(self.in_progress.pop(number).handshake, 1)\n", "            self.in_progress.pop(number)\n"),
    Kept("wiping", "workers/control/keypairs.py", "a free keypair keeps its keys", "            ffi.memmove(self.slab + number, _NO_KEYPAIR, len(_NO_KEYPAIR))\n", ""),
]

OTHERS = [
    Kept("data path", "workers/datapath/receive_udp.c", "a burst is not pushed before it may overflow",
         "if (sorting.burst.chains + TRAIN_PEERS_MOST > BURST_PEERS) {", "if (0) {"),
    Kept("data path", "workers/datapath/receive_udp.c", "mac1 allowance without a cap", "if (allowance_has(&intake->refusals, REFUSALS_AT_ONCE,", "if (allowance_has(&intake->refusals, 1u << 30,"),
    Kept("data path", "workers/datapath/receive_tun.c", "ICMP without a cap", "if (!allowance_has(&intake->answers, ANSWERS_AT_ONCE,", "if (!allowance_has(&intake->answers, 1u << 30,"),
    Kept("data path", "workers/datapath/receive_tun.c", "ICMP does not take from its allowance", "        intake->answers.left--;\n", ""),
    Kept("data path", "workers/datapath/intake.c", "allowances grow without end", "left < most ? (uint32_t)left : most", "(uint32_t)left"),
    Kept("data path", "workers/datapath/intake.c", "slot tail too small by 16 bytes", "#define SLOT_TAIL (16 + AEAD_TAG_BYTES)", "#define SLOT_TAIL (AEAD_TAG_BYTES)"),
    Kept("data path", "workers/udp.c", "EAGAIN drops at once", "(errno == EAGAIN || errno == ENOBUFS) && wait_ms && !waited", "0"),
    Kept("data path", "workers/datapath/holder_inbound.c", "the endpoint of the first message of a batch", "opening->messages[opening->session.last_authenticated]", "opening->messages[0]"),
    Kept("data path", "workers/datapath/holder_inbound.c", "DROP_TUN_WRITE counts a joined run as one", "holder_count(holder, DROP_TUN_WRITE, joined.packets);", "holder_count(holder, DROP_TUN_WRITE, 1);"),
    Kept("data path", "workers/datapath/receive_tun.c", "an endpoint just ordered does not count", "if (endpoint.family || (orders_read(s, peer) & ORDER_ENDPOINT))", "if (endpoint.family)"),
    Kept("link", "workers/udp.c", "no scope id on the wire", "    name->sin6_scope_id = to->scope;\n", ""),
    Kept("link", "workers/udp.c", "no scope id from the wire", "        from->scope = name->sin6_scope_id;\n", ""),
    Kept("netns", "workers/datapath/holder_outbound.c", "a packet that went round is sent again",
         "return *hops && !came_back(sealing, data, length, message);", "(void)came_back;\n    return *hops != 0;"),
    Kept("netns", "engine/packet.h", "a nesting takes one hop", "#define HOPS_A_NESTING 8", "#define HOPS_A_NESTING 1"),
    Kept("netns", "workers/datapath/receive_tun.c", "the handshake of another peer is our own", "&owner) &&\n           owner == peer;", "&owner) && owner != peer;"),
    Kept("netns", "workers/datapath/receive_tun.c", "multicast without a peer is an error", "destination[0] == 0xff)) {", "destination[0] == 0xfe)) {"),
    Kept("netns", "engine/uapi/sections.c", "a mapped endpoint in C stays IPv6", "memcmp(to, mapped, sizeof mapped) == 0", "memcmp(to, mapped, sizeof mapped) == 9"),
    Kept("netns", "workers/supervisor/link_setup.py", "the device sends redirects", 'IPV4_DEVCONF_SEND_REDIRECTS, struct.pack("=I", 0)', 'IPV4_DEVCONF_SEND_REDIRECTS, struct.pack("=I", 1)'),
    Kept("netns", "workers/supervisor/link_setup.py", "all interfaces together send redirects", 'ALL_REDIRECTS.write_text("0")', 'ALL_REDIRECTS.write_text("1")'),
    Kept("netns", "workers/supervisor/link_setup.py", "the interface makes an address", "bytes([IN6_ADDR_GEN_MODE_NONE])", "bytes([3])"),
    Kept("netns", "workers/control/process.py", "an interface that moves is not set up again", 'self.channel.send({"kind": "link_changed"})', "pass"),
    Kept("engine", "engine/icmp.c", "an ICMPv4 error of 577 bytes", "#define ICMP4_QUOTE 548 ", "#define ICMP4_QUOTE 549 "),
    Kept("engine", "engine/allowedips.c", "trie recovery takes a node that two links share", "node->state == NODE_LIVE || node->bits != bits", "node->bits != bits"),
    Kept("shm", "shm/repair.c", "repair does not wake consumers", "        bell_wake(segment, WORKER_CONSUMER + consumer);\n", "        ;\n"),
    Kept("supervisor", "workers/supervisor/roster.py", "deaths are never forgiven", "            worker.deaths = 0\n", "            pass\n"),
    Kept("supervisor", "workers/supervisor/roster.py", "descriptors that were not asked for stay open", "        finally:\n            for fd in fds:\n                os.close(fd)\n", ""),
    Kept("supervisor", "workers/channel.py", "descriptors beside nonsense stay open", "            for fd in fds:\n                os.close(fd)\n", ""),
    Kept("upgrade", "workers/supervisor/upgrade.py", "a failing exec leaves descriptors to be inherited", "                for fd in fds:\n                    os.set_inheritable(fd, False)\n", ""),
    Kept("upgrade", "workers/supervisor/upgrade.py", "a failing exec leaves signals blocked", "                signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)\n                raise", "                raise"),
    Kept("control", "workers/control/routes.py", "no mark in the route question", "interface = self.interface(endpoint, int(self.peers.memory.device.fwmark))", "interface = self.interface(endpoint, 0)"),
    Kept("control", "workers/control/routes.py", "one look instead of three", "LOOKS = 3 ", "LOOKS = 1 "),
    Kept("control", "workers/netlink.py", "an overflow of route news is an error", "        except OSError:  # nothing is left", "        except BlockingIOError:  # nothing is left"),
    Kept("tables", ENDPOINTS, "an ordered endpoint is overwritten while its order stands",
         "    if (is_ordered(segment, row)) {\n", "    if (0) {\n"),
    Kept("tables", ENDPOINTS, "a configured place takes the source away",
         "? sizeof *wanted : PLACE_BYTES;", "? sizeof *wanted : sizeof *wanted;"),
    Kept("tables", ENDPOINTS, "what waits is not said to wait when it comes again", "? ENDPOINT_WAITS : ENDPOINT_STAYS;", "? ENDPOINT_STAYS : ENDPOINT_STAYS;"),
    Kept("tables", ENDPOINTS, "a get does not show what waits", "    if (*pending(segment, row)) {\n", "    if (0) {\n"),
]

PARTS, SHARING = "shm/parts.c", "workers/datapath/sharing.c"
SHARED_BATCHES = [
    Kept("sharing", PARTS, "a part that a helper has counts as free", "if (state == PART_OFFERED || state & PART_TAKEN)", "if (state == PART_OFFERED)"),
    Kept("sharing", PARTS, "a helper takes what another one was quicker to take", "part_swap(part, PART_OFFERED, PART_TAKEN | mark)) {", "(part_swap(part, PART_OFFERED, PART_TAKEN | mark), 1)) {"),
    Kept("sharing", PARTS, "a part that is offered counts as free", "if (state == PART_OFFERED || state & PART_TAKEN)", "if (state & PART_TAKEN)"),
    without("sharing", PARTS, "a part that is done is never free again",
            "        if (state != PART_FREE)\n            __atomic_store_n(&part->state, PART_FREE, __ATOMIC_RELAXED);\n"),
    Kept("sharing", PARTS, "a lender waits for a helper that is dead", "state == PART_DONE || state == PART_LOST ? state", "state == PART_DONE ? state"),
    Kept("sharing", PARTS, "a lender takes back what a helper has", "return part_swap(part_of(segment, worker, number), PART_OFFERED, PART_FREE);",
         "return part_swap(part_of(segment, worker, number), PART_OFFERED, PART_FREE) || 1;"),
    Kept("sharing", PARTS, "a helper takes from who has no memory for parts", "% 64 & 1 && lends(segment, worker) && take_from", "% 64 & 1 && take_from"),
    without("sharing", PARTS, "what the dead offered stays offered", "            part_take_back(segment, worker, number);\n"),
    without("sharing", PARTS, "the dead goes on offering", "        parts_say_offering(segment, worker, 0);\n"),
    without("sharing", PARTS, "the dead goes on helping", "        parts_say_helping(segment, worker, 0);\n"),
    Kept("sharing", PARTS, "what anybody has taken is lost with the dead", "__ATOMIC_RELAXED) == (PART_TAKEN | mark))", "__ATOMIC_RELAXED) & PART_TAKEN)"),
    Kept("sharing", PARTS, "what the dead had taken counts as done", "__atomic_store_n(&part->state, PART_LOST, __ATOMIC_RELEASE);", "__atomic_store_n(&part->state, PART_DONE, __ATOMIC_RELEASE);"),
    Kept("sharing", SHARING, "what was not sealed is sent", "if (state != PART_DONE || !is_in_room(message.place, job->length))", "if (!is_in_room(message.place, job->length))"),
    Kept("sharing", SHARING, "a lender goes wherever its helper says", "if (state != PART_DONE || !is_in_room(message.place, job->length))", "if (state != PART_DONE)"),
    without("sharing", SHARING, "a lender waits for ever",
            "        if (now - *begun > holder->part_wait_ms * UINT64_C(1000000))\n            break;\n"),
    Kept("sharing", SHARING, "each part that stands still is waited for", "            read_part(holder, jobs, run[n], n, &begun);", "            begun = 0, read_part(holder, jobs, run[n], n, &begun);"),
    Kept("sharing", SHARING, "a lender writes where a helper still works", " && parts_are_free(s, holder->worker);", ";"),
    Kept("sharing", SHARING, "a holder shares though it is not busy", "if ((!is_busy(holder, now) || now < holder->share_again)", "if ((is_busy(holder, now), now < holder->share_again)"),
    Kept("sharing", SHARING, "a small batch is shared", "#define BATCH_LEAST 64 ", "#define BATCH_LEAST 63 "),
    without("sharing", SHARING, "what nobody takes is offered all the same", "        holder->share_again = clock_now() + PAUSE_NS;\n"),
    Kept("sharing", SHARING, "a holder calls itself", "if (worker == holder->worker || !__atomic_load_n", "if (!__atomic_load_n"),
    Kept("sharing", SHARING, "a helper is called though no core is idle", "        if (core_is_idle(holder))\n", "        if (core_is_idle(holder) || 1)\n"),
    Kept("sharing", SHARING, "a helper believes how many messages a part has", "i < part->count && i < PART_MESSAGES", "i < part->count"),
    without("sharing", SHARING, "a helper says that it did what it left out", "        part->messages[i].refused = AEAD_LOST;\n"),
    Kept("sharing", SHARING, "a helper believes whose keys a part names", "message->keypair && message->keypair < s->geometry.max_keypairs", "message->keypair"),
    Kept("sharing", SHARING, "a helper believes where a part's messages stand", "message->source >= DATA_HEADER_BYTES && message->source < s->bytes &&", "message->source >= DATA_HEADER_BYTES &&"),
    Kept("sharing", SHARING, "a helper believes how long a part's messages are", "length <= PART_ROOM_BYTES - place - AEAD_TAG_BYTES", "length != UINT32_MAX"),
    Kept("sharing", SHARING, "a helper copies a message without its header", "DATA_HEADER_BYTES + message.length);", "message.length);"),
]

KEPT = [*FENCES, *CONFINEMENT, *WIPING, *OTHERS, *SHARED_BATCHES]
