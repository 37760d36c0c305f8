"""The log: what a line looks like where, and that nobody waits for a destination that stands still."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.scarce import pids_cgroup
from tests.support.waiting import PATIENCE
from workers.log import choose, unknown_level

ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
# A supervisor's log, and a worker that it starts. Orders come on stdin, what was done is said on stdout.
ENGINE = """
import logging, os, subprocess, sys
from workers import log
WORKER = '''
import logging, os, sys
from workers import log
log.configure("t0 worker")
logging.getLogger("x").error("of a worker")
os.write(2, b"raw words\\\\n")
'''
with log.opened("t0 supervisor", os.environ, in_background="TEST_BACKGROUND" in os.environ,
                dev_log=os.environ.get("TEST_DEV_LOG", log.DEV_LOG)):
    for order in sys.stdin:
        name, _, words = order.rstrip("\\n").partition(" ")
        if name == "many":
            for number in range(int(words)):
                logging.getLogger("plait").info("line %d", number)
        elif name == "worker":
            subprocess.run([sys.executable, "-c", WORKER], stderr=log.worker_stderr(), check=True)
        elif name == "raw":
            os.write(log.worker_stderr(), words.encode() + b"\\n")
        elif name == "exec":  # that is not possible
            log.hold()
            logging.getLogger("plait").info("held")
            log.release()
        elif name == "reopen":
            log.reopen()
        elif name == "look":
            log.look()
        else:
            logging.getLogger("plait").log(int(name), words.replace("|", "\\n"))
        print("done", flush=True)
"""


class Engine:
    def __init__(self, stderr: Any, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENGINE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**clean, "LOG_LEVEL": "debug", "TERM": "xterm", **environment},
        )

    def order(self, text: str) -> None:
        """Returns when it is done; it is not done when it waits for its log."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], 30)[0], f"{text!r} waits"
        assert self.process.stdout.readline() == b"done\n"

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0
        self.process.stdout.close()


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)
    return value


def drain(fd: int) -> bytes:
    """Everything up to the end."""
    whole = b""
    while part := os.read(fd, 1 << 16):
        whole += part
    return whole


# -- forms ----------------------------------------------------------------------------------------


def said(engine: Engine) -> None:
    for order in ("10 to debug", "20 a line", "30 careful", "40 bad", "50 worse", "20 two|lines", "worker"):
        engine.order(order)
    engine.end()


def test_every_line_of_a_file_has_time_zone_and_level(tmp_path: Path) -> None:
    """Those of workers, and what never was a log record, as well."""
    path = tmp_path / "log"
    said(Engine(subprocess.DEVNULL, WG_LOG_FILE=str(path), TZ="XXX-05:30"))
    lines = path.read_text().splitlines()
    levels = [re.fullmatch(rf"({ISO}) (\w+) plait: (.*)", line) for line in lines]
    assert all(levels), lines
    assert [(found[2], found[3]) for found in levels if found] == [
        ("debug", "t0 supervisor: to debug"),
        ("info", "t0 supervisor: a line"),
        ("warning", "t0 supervisor: careful"),
        ("error", "t0 supervisor: bad"),
        ("critical", "t0 supervisor: worse"),
        ("info", "t0 supervisor: two"),
        ("info", "t0 supervisor: lines"),
        ("error", "t0 worker: of a worker"),
        ("error", "raw words"),
    ]
    assert all(found and found[1].endswith("+05:30") for found in levels)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_journald_gets_priorities_and_no_time(kind: str) -> None:
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())
    found = os.fstat(writer)
    engine = Engine(writer, JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
    os.close(writer)
    said(engine)
    lines = drain(reader).decode().splitlines()
    os.close(reader)
    assert lines == [
        "<7>plait: t0 supervisor: to debug",
        "<6>plait: t0 supervisor: a line",
        "<4>plait: t0 supervisor: careful",
        "<3>plait: t0 supervisor: bad",
        "<2>plait: t0 supervisor: worse",
        "<6>plait: t0 supervisor: two",
        "<6>plait: t0 supervisor: lines",
        "<3>plait: t0 worker: of a worker",
        "<3>plait: raw words",
    ]


@pytest.mark.parametrize("stream", ["{device}:{other}", "{otherdevice}:{inode}", "", "nonsense", "1:2:3"])
def test_an_inherited_journal_stream_is_not_believed(stream: str) -> None:
    reader, writer = os.pipe()
    found = os.fstat(writer)
    names = {"device": found.st_dev, "inode": found.st_ino}
    names |= {"other": found.st_ino + 1, "otherdevice": found.st_dev + 1}
    engine = Engine(writer, JOURNAL_STREAM=stream.format(**names))
    os.close(writer)
    engine.order("20 a line")
    engine.end()
    assert re.fullmatch(rf"{ISO} info plait: t0 supervisor: a line\n", drain(reader).decode())
    os.close(reader)


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_gets_what_is_readable(environment: dict[str, str]) -> None:
    """And nothing that was logged of somebody reaches it as a command."""
    ours, theirs = pty.openpty()
    engine = Engine(theirs, **environment)
    engine.order("20 a line")
    engine.order("40 bad \033[2J\x9b")
    engine.end()
    text = ""
    while text.count("\n") < 2:
        text += os.read(ours, 1 << 16).decode()
    os.close(theirs)
    os.close(ours)
    on, off = ("", "") if environment else ("\033[31m", "\033[0m")
    wanted = r"\d\d:\d\d:\d\d info  plait: t0 supervisor: a line\r\n"
    wanted += (
        re.escape(on) + r"\d\d:\d\d:\d\d error plait: t0 supervisor: bad \\x1b\[2J\\x9b" + re.escape(off)
    )
    assert re.fullmatch(wanted + r"\r\n", text), text


# -- a destination that stands still ------------------------------------------------------------------


def full_pipe() -> tuple[int, int, int]:
    """(reader, writer, bytes in it); another process may be in the middle of reading it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    count = 0
    for size in (1 << 16, 1):
        try:
            while True:
                count += os.write(writer, b"." * size)
        except BlockingIOError:
            pass
    os.set_blocking(writer, True)
    return reader, writer, count


def test_nobody_waits_for_a_pipe_that_nobody_reads() -> None:
    """What is dropped is counted, and told when it goes on; the pipe, which is not ours, keeps its flags."""
    reader, writer, count = full_pipe()
    engine = Engine(writer)
    engine.order("many 5000")
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(writer)
    text = b""
    while b"missing" not in text:  # told without another line
        assert select.select([reader], [], [], 30)[0], "dropped lines are never told"
        text += os.read(reader, 1 << 16)
    engine.order("20 the next")
    engine.end()
    lines = (text + drain(reader))[count:].decode().splitlines()
    os.close(reader)
    numbers = [int(found[1]) for line in lines if (found := re.search(r": line (\d+)$", line))]
    missing = [
        int(found[1]) for line in lines if (found := re.search(r": (\d+) lines are missing here", line))
    ]
    assert numbers == sorted(set(numbers)) and 300 < len(numbers) < 5000
    assert sum(missing) + len(numbers) == 5000
    assert lines[-1].endswith(": the next") and "missing here" in lines[-2]


def test_the_end_does_not_wait_for_it_either() -> None:
    reader, writer, _ = full_pipe()
    engine = Engine(writer)
    engine.order("many 100")
    engine.end()
    os.close(writer)
    os.close(reader)


def test_a_pipe_whose_reader_is_gone_costs_lines_and_nothing_else() -> None:
    reader, writer = os.pipe()
    engine = Engine(writer)
    os.close(writer)
    os.close(reader)
    engine.order("many 100")
    engine.end()


# -- syslog -----------------------------------------------------------------------------------------


def test_syslog_gets_every_line_also_past_its_own_restart(tmp_path: Path) -> None:
    path = tmp_path / "dev-log"

    def listen() -> socket.socket:
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(path))
        sock.settimeout(PATIENCE)
        return sock

    with listen() as sock:
        engine = Engine(subprocess.DEVNULL, TEST_BACKGROUND="1", TEST_DEV_LOG=str(path), LOG_LEVEL="")
        engine.order("20 100 % of it")
        engine.order("40 bad")
        head = f"plaitd[{engine.process.pid}]: t0 supervisor: "
        assert [sock.recv(4096).decode() for _ in range(2)] == [
            f"<30>{head}100 % of it\0",
            f"<27>{head}bad\0",
        ]
    engine.order("20 nobody listens")
    engine.order("20 still nobody")
    with listen() as sock:
        assert [sock.recv(4096).decode() for _ in range(2)] == [
            f"<30>{head}nobody listens\0",
            f"<30>{head}still nobody\0",
        ]
    engine.order("20 for ever")
    engine.end()


def test_nobody_waits_for_a_syslog_that_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "dev-log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        engine = Engine(subprocess.DEVNULL, TEST_BACKGROUND="1", TEST_DEV_LOG=str(path), LOG_LEVEL="")
        engine.order("many 5000")
        sock.settimeout(PATIENCE)
        while "missing here" not in sock.recv(4096).decode():
            pass
        engine.end()


# -- where it goes ------------------------------------------------------------------------------------


def test_choice(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert choose({}, in_background=False) == choose({"LOG_LEVEL": "silent"}, False) == "stderr"
    assert choose({"WG_LOG_FILE": "x"}, False) == choose({"WG_LOG_FILE": "x"}, True) == "file"
    assert choose({"WG_LOG_LEVEL": "info"}, True) == choose({"LOG_LEVEL": "error"}, True) == "stderr"
    assert choose({"LOG_LEVEL": "silent"}, True) == "nowhere"
    assert choose({}, True, str(path)) == "nowhere"
    path.touch()
    assert choose({}, True, str(path)) == "nowhere", "a file is no syslog"
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        assert choose({}, True, str(path)) == "syslog"


def test_a_log_that_was_held_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    engine = Engine(subprocess.DEVNULL, WG_LOG_FILE=str(path))
    for order in ("20 before", "exec", "20 after"):
        engine.order(order)
    until(lambda: "after" in path.read_text(), "a line")
    engine.end()
    assert [line.rpartition(" ")[2] for line in path.read_text().splitlines()] == ["before", "held", "after"]


def test_reopened_file(tmp_path: Path) -> None:
    """As logrotate has it; and a file that cannot be had leaves the log where it was."""
    directory, old = tmp_path / "a", tmp_path / "a/log"
    directory.mkdir()
    engine = Engine(subprocess.DEVNULL, WG_LOG_FILE=str(old))
    engine.order("20 first")
    until(lambda: "first" in old.read_text(), "the first line")
    old.rename(tmp_path / "a/log.1")
    engine.order("reopen")
    until(lambda: old.exists() and "was reopened" in old.read_text(), "the new file")
    engine.order("worker")
    until(lambda: "of a worker" in old.read_text(), "a worker's line in it")
    assert "worker" not in (tmp_path / "a/log.1").read_text()
    directory.rename(tmp_path / "b")
    engine.order("reopen")
    kept = tmp_path / "b/log"
    until(lambda: f"cannot reopen the log file {old}: No such file" in kept.read_text(), "the word")
    engine.order("20 last")
    engine.end()
    assert kept.read_text().splitlines()[-1].endswith("t0 supervisor: last")


@pytest.mark.parametrize("name", ["LOG_LEVEL", "WG_LOG_LEVEL"])
def test_a_level_that_is_none_is_told_once_and_is_info(name: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    given = {"LOG_LEVEL": "", name: "Warn"}
    engine = Engine(subprocess.DEVNULL, WG_LOG_FILE=str(path), **given)
    for order in ("10 to debug", "20 a line", "worker"):
        engine.order(order)
    engine.end()
    first, *others = [line.partition(" plait: ")[2] for line in path.read_text().splitlines()]
    assert first == (
        f"t0 supervisor: cannot use {name}=Warn: it is not known, so the level is info; "
        "set it to silent, error, info, debug, verbose or trace, or unset it"
    )
    assert "t0 supervisor: a line" in others and not any("to debug" in line for line in others)
    assert not any("cannot use" in line for line in others)


def test_levels_in_any_case_are_known() -> None:
    assert not any(unknown_level({"LOG_LEVEL": word}) for word in ("", "info", "DEBUG", "Silent"))
    assert unknown_level({"LOG_LEVEL": "", "WG_LOG_LEVEL": "loud"}).startswith("cannot use WG_LOG_LEVEL=loud")


@pytest.mark.parametrize("created", ["9" * 17, "9" * 400, "253402300800"], ids=["far", "infinite", "10000"])
def test_a_line_of_a_worker_that_lies_about_its_time_silences_nobody(created: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    engine = Engine(subprocess.DEVNULL, WG_LOG_FILE=str(path))
    engine.order(f"raw <6>{created}.000 t0 worker: of a liar")
    engine.order("20 afterwards")
    engine.end()
    liar, afterwards = path.read_text().splitlines()
    assert liar.endswith(f"error plait: <6>{created}.000 t0 worker: of a liar")
    assert afterwards.endswith("info plait: t0 supervisor: afterwards")


# -- scarce threads -------------------------------------------------------------------------------


def test_a_log_without_a_thread_waits_until_there_is_one() -> None:
    """As after the exec of an upgrade, when another process took the place of the thread before."""
    with pids_cgroup() as group:
        engine = Engine(subprocess.PIPE)
        engine.order("20 before")
        group.take([engine.process.pid])
        group.limit("1")
        for order in ("exec", "look", "40 meanwhile", "look", "exec"):
            engine.order(order)
        group.limit("max")
        engine.order("look")
        engine.end()
        assert engine.process.stderr is not None
        words = engine.process.stderr.read().decode()
        engine.process.stderr.close()
    told = [line.rpartition(": ")[2] for line in words.splitlines()]
    assert told == ["before", "held", "the kernel had no thread for the log, which waited for it in the pipe",
                    "meanwhile", "held"]  # fmt: skip
