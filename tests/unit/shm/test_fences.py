"""Store, fence, look: that each fence is there, in the machine code; without it a wake is lost (fences.c).

The machine code is looked at besides, because a busy machine gives fences.c few chances, and because x86 does
not need the fence where the store is a locked instruction anyway; other processors do.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess

import pytest

from tests.unit.shm.programs import program

STORE, LOAD, FENCE = "a store", "a load", "a fence"
CODES = {  # what objdump prints without the bytes
    "x86_64": {
        FENCE: r"lock or[lq]? +\$0x0,(?:0x0)?\(%rsp\)|mfence",
        STORE: r"mov[lq]? +(?:%\w+|\$0x\w+),\S*\(%(?!rsp)\S+\)|lock (?:or|and)\w? +%\w+,\S*\("
        r"|call .*<token_give_idle>",
        LOAD: r"(?:mov|cmp|test)\w? +\S*\(%(?!rsp)\S*\),?%\w+|bt \S+",
    },
    "aarch64": {
        FENCE: r"dmb\s+ish$",
        STORE: r"st(?:r|p|lr|set|clr|lset)\w*\s|ldset\w*\s|ldclr\w*\s|stl?xr\s|bl\s.*<token_give_idle>",
        LOAD: r"ld(?:r|p|ar|apr)\w*\s",
    },
}
# The order of what matters in each function. Static ones may have got a suffix from the compiler.
ORDERS = {
    "bell_announce": (STORE, FENCE),
    "bell_ring": (FENCE, LOAD),
    "bell_starve": (STORE, FENCE),
    "bell_ring_starving": (FENCE, LOAD),
    "peer_schedule": (FENCE, LOAD),
    "queue_schedule": (FENCE, LOAD),
    "peer_mend": (FENCE, LOAD),
    "queue_give": (STORE, FENCE, LOAD),
    "epoch_turn": (STORE, FENCE),
    "epoch_wake": (STORE, FENCE),
    "grace_begin": (FENCE, LOAD),
    "ready_set": (STORE, FENCE, LOAD, FENCE, LOAD),
    "summary_clear": (STORE, FENCE, LOAD),
    "timers_data_sent": (STORE, FENCE, LOAD),
    "timers_data_received": (STORE, FENCE, LOAD),
    "timers_authenticated_sent": (STORE, FENCE, LOAD),
    "timers_authenticated_received": (STORE, FENCE, LOAD),
    "timers_look": (STORE, FENCE),
}


@pytest.fixture(scope="module")
def functions() -> dict[str, list[str]]:
    """The instructions of each function, as they are built for use."""
    objdump = shutil.which("objdump")
    if objdump is None or platform.machine() not in CODES:
        pytest.skip("no objdump, or no patterns for this processor")
    words = [objdump, "--disassemble", "--no-show-raw-insn", program("fences")]
    text = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
    found = {}
    for part in re.split(r"\n(?=[0-9a-f]+ <)", text):
        if name := re.match(r"[0-9a-f]+ <([\w.]+)>:\n", part):
            found[name[1]] = [line.split(":", 1)[1].strip() for line in part.splitlines()[1:] if ":" in line]
    return found


@pytest.mark.parametrize("function", ORDERS)
def test_fence_stands_between_store_and_look(functions: dict[str, list[str]], function: str) -> None:
    codes = CODES[platform.machine()]
    names = [name for name in functions if name.partition(".")[0] == function]
    assert names, f"{function} is not in the program, so that nobody can look at it"
    for name in names:
        wanted = list(ORDERS[function])
        for instruction in functions[name]:
            if wanted and re.search(codes[wanted[0]], re.sub(r"\s+", " ", instruction)):
                wanted.pop(0)
        assert not wanted, f"{name}: no {wanted[0]} where one must be:\n" + "\n".join(functions[name])


def test_neither_side_misses_the_other() -> None:
    done = subprocess.run([program("fences")], capture_output=True, text=True, timeout=200)
    if done.returncode == 77:
        pytest.skip("one core alone: nobody looks while another stores")
    assert done.returncode == 0, done.stderr
    assert "one always saw the other" in done.stdout
