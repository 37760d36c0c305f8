"""0xffffffff, the row of nobody: no pointer is made of it, not even one that is never followed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.sources import sources

ROOT = Path(__file__).resolve().parents[3]


def test_no_pointer_is_made_of_nobodys_row(tmp_path: Path) -> None:
    """Under UBSan, with the rows at the end of the address space, where such a pointer wraps."""
    shared = [str(path) for path in sources("shm/**/*.c", at_least=14)]
    flags = ["-std=gnu11", "-D_GNU_SOURCE", f"-I{ROOT}", "-ffunction-sections", "-fdata-sections",
             "-Wl,--gc-sections", "-fsanitize=undefined", "-fno-sanitize-recover=all"]  # fmt: skip
    compiled = [str(ROOT / "tests/unit/workers/nobody.c"), str(ROOT / "workers/control/handshake_batch.c"),
                str(ROOT / "workers/control/endpoints.c"), str(ROOT / "engine/index.c"), *shared]  # fmt: skip
    program = str(tmp_path / "nobody")
    command = ["cc", *flags, *compiled, "-o", program]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "no pointer of nobody's\n"), done.stderr
