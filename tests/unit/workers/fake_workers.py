"""A supervisor and its fake workers (fake_workers_program.py) as tests see them, and what they heard."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from plait.lab.namespaces import Host, Process, descriptors
from shm._shm import lib
from shm.segment import DataSegment, SegmentError
from tests.support.waiting import until

PROGRAM = str(Path(__file__).with_name("fake_workers_program.py"))
SETTINGS = (
    "receivers = {n}\nconsumers = {n}\nmax_receivers = {room}\nmax_consumers = {room}\n"
    "max_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"
)


class FakeWorkers:
    """A supervisor whose workers are fake, from outside."""

    def __init__(self, host: Host, directory: Path, interface: str) -> None:
        self.host = host
        self.directory = directory
        self.interface = interface
        self.process: Process | None = None

    def begin(self, of_each: int = 1, *, launcher: Sequence[str] = (), **patience: float) -> FakeWorkers:
        """Start a supervisor with so many receivers and consumers. launcher: what starts it."""
        (self.directory / "settings.toml").write_text(SETTINGS.format(n=of_each, room=of_each + 1))
        (self.directory / "patience.json").write_text(json.dumps(patience))
        (self.directory / "ready").unlink(missing_ok=True)
        arguments = [*launcher, sys.executable, PROGRAM, str(self.directory), self.interface]
        self.process = self.host.popen(arguments)
        return self

    def start(self, of_each: int = 1, *, launcher: Sequence[str] = (), **patience: float) -> FakeWorkers:
        """The same, and wait until everybody is ready."""
        self.begin(of_each, launcher=launcher, **patience)
        until(lambda: (self.directory / "ready").exists() or self.ended(), "ready")
        assert not self.ended(), self.words()
        return self

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def words(self) -> str:
        assert self.process is not None
        return self.process.output()

    def expect_words(self, words: str) -> None:
        """Wait until its log has them: a thread writes it."""
        until(lambda: words in self.words(), words)

    def exit_code(self) -> int:
        assert self.process is not None
        return self.process.wait()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.signal(number)

    def heard(self, title: str) -> list[dict[str, Any]]:
        path = self.directory / f"{title}.heard"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]  # the last may be half written

    def news(self, title: str) -> list[dict[str, Any]]:
        """What control was told of a worker."""
        told = [news for message in self.heard("control") for news in message.get("news", [])]
        return [news for news in told if news.get("worker") == title]

    def starts(self, title: str) -> int:
        return sum(message["kind"] == "start" for message in self.heard(title))

    def next_heard(self, title: str, kind: str, after: int) -> dict[str, Any]:
        """The first message of this kind behind the first `after` ones that the fake worker got."""
        found: list[dict[str, Any]] = until(
            lambda: [message for message in self.heard(title)[after:] if message["kind"] == kind],
            f"{kind} for {title}",
        )
        return found[0]

    def change_port(self, port: int) -> dict[str, Any]:
        """Have control ask for a listen port; the answer."""
        after = len(self.heard("control"))
        self.order("control", say={"kind": "listen_port", "port": port})
        return self.next_heard("control", "listen_port", after)

    def port(self) -> int:
        """The port of control's sockets when it heard of them last."""
        return int(self.heard("control")[-1]["ports"]["udp4:0"])

    def expect_replacement(self, title: str, deed: Callable[[], Any]) -> dict[str, Any]:
        """Do the deed, which costs this worker its life; the start message of the next one."""
        after = len(self.heard(title))
        deed()
        return self.next_heard(title, "start", after)

    def order(self, title: str, **order: Any) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(str(self.directory / f"{title}.orders"))
            sock.send(json.dumps(order).encode())

    def pids(self) -> dict[str, int]:
        """Fake workers by title, numbered as outside the host."""
        return self.host.titles(self.interface)

    def counts(self, *names: str) -> list[int]:
        """Counters of the supervisor's segment."""
        with self.segment() as segment:
            return [int(lib.counter_sum(segment, getattr(lib, name))) for name in names]

    @contextlib.contextmanager
    def segment(self) -> Iterator[Any]:
        """The supervisor's data segment, a `struct segment *` of shm._shm."""
        assert self.process is not None
        for fd, name in descriptors(self.process.pid).items():
            if name.startswith("/dev/shm/"):
                ours = os.open(f"/proc/{self.process.pid}/fd/{fd}", os.O_RDWR)
                with contextlib.suppress(SegmentError):  # the vault
                    data = DataSegment.attach(ours, os.fstat(ours).st_size)
                    try:
                        yield data.segment
                    finally:
                        data.close()
                    return
        raise AssertionError("the supervisor has no data segment")

    def kill(self, title: str) -> int:
        pid = self.pids()[title]
        os.kill(pid, signal.SIGKILL)
        return pid

    def leftovers(self) -> list[str]:
        """What of this interface is still there, and any shared memory that has a name."""
        found = list(self.pids()) + os.listdir(self.host.root / "dev/shm")
        directory = self.host.root / "run/wireguard"
        if directory.exists():
            found += [name for name in os.listdir(directory) if name == f"{self.interface}.sock"]
        links = self.host.run(["ip", "-o", "link"]).stdout
        return found + [self.interface] * (f" {self.interface}: " in links)
