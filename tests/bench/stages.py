"""Where a sample of the engine's CPU belongs: from its call chain to a stage of a packet's way.

The kernel's part of a chain is complete, so a sample there is told by what the system call was for. The
extension modules keep no frame pointers: a sample in user space is told by its innermost function alone. A
function of the engine that the compiler has put into its caller is counted where its caller is.
"""

from __future__ import annotations

from collections.abc import Sequence

CIPHER = "cipher"
CUT_AND_JOIN = "segmentation, coalescing, checksums"
QUEUE = "queue, tokens, slots"
LOOPS = "engine's own loops, lookups, sessions"
COPIES = "copies in user space"
UDP_SEND = "kernel: UDP send"
UDP_RECEIVE = "kernel: UDP receive"
TUN_READ = "kernel: TUN read"
TUN_WRITE = "kernel: TUN write, and the TCP behind it"
WAKES = "kernel: scheduling, wakes, waiting"
KERNEL = "kernel: other"
OTHER = "user space: other (Python, libc)"
STAGES = (
    CIPHER,
    CUT_AND_JOIN,
    QUEUE,
    LOOPS,
    COPIES,
    UDP_SEND,
    UDP_RECEIVE,
    TUN_READ,
    TUN_WRITE,
    WAKES,
    KERNEL,
    OTHER,
)

# Any of these in the kernel's part of a chain; the first rule that fits holds. A wake belongs to waking,
# whatever call it happens in. A veth delivers in the sender's call: that half belongs to receiving.
KERNEL_RULES = (
    (WAKES, ("schedule", "__schedule", "try_to_wake_up", "__wake_up", "__wake_up_common", "do_futex",
             "ep_poll_callback", "do_epoll_wait", "do_epoll_ctl", "eventfd_write", "eventfd_read",
             "do_sys_poll", "exit_to_user_mode_loop")),
    (TUN_WRITE, ("tun_chr_write_iter",)),
    (TUN_READ, ("tun_chr_read_iter",)),
    (UDP_RECEIVE, ("__sys_recvmmsg", "do_recvmmsg", "__sys_recvmsg", "__netif_receive_skb_core",
                   "net_rx_action")),
    (UDP_SEND, ("__sys_sendmmsg", "__sys_sendmsg", "__sys_sendto")),
    (TUN_WRITE, ("do_writev", "ksys_write")),
    (TUN_READ, ("do_readv", "ksys_read")),
)  # fmt: skip
NOT_KERNEL = ("[unknown]", "[vdso]", "[vsyscall]", "[heap]", "[stack]")
CIPHER_MODULES = ("libcrypto.", "libIPSec_MB.")
ENGINE_MODULES = ("_workers.", "_engine.", "_shm.")
# Innermost functions of the extension modules, by how they begin. What has no rule is LOOPS.
ENGINE_RULES = (
    (CIPHER, ("aead_", "evp_", "ipsec_mb_")),
    (CUT_AND_JOIN, ("segmentation_", "coalescing_", "checksums_", "follows", "flow_read", "collapse")),
    (QUEUE, ("queue_", "chain_publish", "end_help", "token_", "ready_", "pool_", "node_", "summary_",
             "sweep_from", "bell_", "burst_", "peer_schedule", "intake_", "take_node",
             "epoch_")),
)  # fmt: skip
# Functions of libc, by what they contain: OpenSSL compares names of parameters for every message.
LIBC_RULES = (
    (CIPHER, ("strcmp", "strcasecmp")),
    (COPIES, ("memcpy", "memmove", "memset", "memcmp")),
)

Frame = tuple[str, str]  # symbol, file


def stage_of(frames: Sequence[Frame]) -> str:
    """The stage of one sample; frames from the innermost outwards, as `perf script` prints them."""
    kernel = {
        symbol.partition(".")[0]
        for symbol, place in frames
        if place.startswith("[") and place not in NOT_KERNEL
    }
    if kernel:
        return next((stage for stage, names in KERNEL_RULES if kernel.intersection(names)), KERNEL)
    if not frames:
        return OTHER
    symbol, place = frames[0]
    module = place.rpartition("/")[2]
    if module.startswith(CIPHER_MODULES):
        return CIPHER
    if module.startswith(ENGINE_MODULES):
        return next((stage for stage, names in ENGINE_RULES if symbol.startswith(names)), LOOPS)
    if module.startswith("libc"):
        for stage, names in LIBC_RULES:
            if any(name in symbol for name in names):
                return stage
    return OTHER
