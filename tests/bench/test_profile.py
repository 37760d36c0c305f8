"""`python -m tests.bench profile`: samples as perf prints them, and the stage of each."""

from __future__ import annotations

import pytest

from tests.bench import profile, stages
from tests.bench.stages import Frame, stage_of

KERNEL = "[kernel.kallsyms]"
WORKERS = "/x/workers/_workers.cpython-311-x86_64-linux-gnu.so"


def chain(*kernel: str) -> list[Frame]:
    """Innermost first, then the function of libc that made the call."""
    return [*((symbol, KERNEL) for symbol in kernel), ("__sendmmsg", "/usr/lib/libc.so.6")]


@pytest.mark.parametrize(
    ("stage", "frames"),
    [
        (stages.CIPHER, [("[unknown]", "/usr/lib/libcrypto.so.3")]),
        (stages.CIPHER, [("[unknown]", "/usr/lib/libIPSec_MB.so.1")]),
        (stages.CIPHER, [("evp_seal", WORKERS), ("[unknown]", "[unknown]")]),
        (stages.CIPHER, [("__strcmp_avx2", "/usr/lib/libc.so.6")]),
        (stages.COPIES, [("__memmove_avx_unaligned_erms", "/usr/lib/libc.so.6")]),
        (stages.CUT_AND_JOIN, [("checksums_are_right.isra.0", WORKERS)]),
        (stages.QUEUE, [("queue_push_mpsc", WORKERS)]),
        (stages.LOOPS, [("consumer_run", WORKERS)]),
        (stages.OTHER, [("_PyEval_EvalFrameDefault", "/usr/bin/python3.11")]),
        (stages.OTHER, [("__vdso_clock_gettime", "[vdso]")]),
        (stages.OTHER, []),
        (stages.UDP_SEND, chain("udp_sendmsg", "____sys_sendmsg", "__sys_sendmmsg", "do_syscall_64")),
        (stages.UDP_RECEIVE, chain("udp_recvmsg", "do_recvmmsg", "__x64_sys_recvmmsg")),
        (stages.UDP_RECEIVE, chain("__udp4_lib_rcv", "net_rx_action", "udp_sendmsg", "__sys_sendmmsg")),
        (stages.WAKES, chain("try_to_wake_up", "net_rx_action", "udp_sendmsg", "__sys_sendmmsg")),
        (stages.WAKES, chain("finish_task_switch.isra.0", "__schedule", "schedule", "do_epoll_wait")),
        (stages.TUN_WRITE, chain("tcp_v4_rcv", "net_rx_action", "tun_chr_write_iter", "do_writev")),
        (stages.TUN_READ, chain("skb_copy_datagram_iter", "tun_chr_read_iter.constprop.0", "vfs_readv")),
        (stages.KERNEL, chain("handle_softirqs", "sysvec_apic_timer_interrupt")),
    ],
)
def test_stages(stage: str, frames: list[Frame]) -> None:
    assert stage_of(frames) == stage


SCRIPT = """plait: wg0 cons 4711/4712 
\tffffffff81c84b1c udp_sendmsg ([kernel.kallsyms])
\tffffffff816e8054 __sys_sendmmsg ([kernel.kallsyms])
\t           f9ab7 __sendmmsg (/usr/lib/x86_64-linux-gnu/libc.so.6)

swapper     0/0     
\tffffffff81c84b1c pv_native_safe_halt ([kernel.kallsyms])

plait: wg0 cons  4711/4711 
\t   7f0f506088d8 [unknown] (/usr/lib/x86_64-linux-gnu/libcrypto.so.3)

iperf3  99/99 
\tffffffff81c84b1c tcp_sendmsg ([kernel.kallsyms])

"""  # noqa: W291


def test_samples_are_read_as_perf_prints_them() -> None:
    """By process: the engines' by stage, idle cores, all else."""
    found, idle, rest = profile._stages(SCRIPT, {4711})
    one = 1 / profile.FREQUENCY
    assert {stage: seconds for stage, seconds in found.items() if seconds} == {
        stages.UDP_SEND: one,
        stages.CIPHER: one,
    }
    assert (idle, rest) == (one, one)
    assert tuple(found) == stages.STAGES
