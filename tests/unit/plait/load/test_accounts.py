"""Every due event is accounted for: the figures of the whole command against a packet capture."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from plait.lab.namespaces import Lab, title
from plait.load import profile as load_profile
from plait.load import result as load_result
from plait.load import run as load_run
from plait.load.progress import Look, Run, Screen
from plait.watch.processes import children
from tests.support.waiting import PATIENCE, until
from tests.support.wire import inside
from tests.unit.plait.load.capture import Capture, echoes, quantile
from tests.unit.plait.load.gateway import Gateway

SEED = "tests"
RATE, SECONDS = 500, 6
ECHO_BYTES = 96 + 32  # 84 inner bytes, padded, in a data message
PROFILE = f"""
require = ["steady:loss<0.1%", "steady:p99<100ms"]
[[phase]]
name = "storm"
handshakes = {{ outstanding = 4 }}
[[phase]]
name = "steady"
seconds = {SECONDS}
traffic = {{ rate = {RATE} }}
"""


def start(gateway: Gateway, directory: Path, profile: str, *more: str) -> subprocess.Popen[str]:
    """`plait load run` of a profile against the gateway; run.json is what it found."""
    (directory / "profile.toml").write_text(profile)
    command = [
        sys.executable, "-m", "plait", "load", "run", str(directory / "profile.toml"),
        "--target", gateway.target, "--seed", SEED, "--peers", str(len(gateway.numbers)),
        "--json", str(directory / "run.json"), *more,
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def load_process(command: subprocess.Popen[str]) -> int:
    """Its one load process, by the title that it gives itself: its pid."""

    def found() -> int | None:
        return next((pid for pid in children(command.pid) if title(pid).startswith("plait load ")), None)

    process = until(found, "a load process")
    assert process is not None
    return process


def wait_for_phase(command: subprocess.Popen[str], name: str, seconds: float) -> None:
    """Until a line of the screen tells of so many seconds of that phase."""
    assert command.stderr is not None
    first = None
    for line in command.stderr:
        if f" s {name}: " in line:
            at = float(line.split()[1])
            first = at if first is None else first
            if at - first >= seconds:
                return
    raise AssertionError(f"the run ended before {seconds} s of {name}")


@pytest.mark.network
def test_a_generator_that_stands_still_for_4_s_of_6_is_found_out(tmp_path: Path) -> None:
    """It is stopped over the phase's end. What the capture shows, the counts, both kinds of percentiles and
    the requirements say as well."""
    with Gateway(SEED, 8) as gateway, Capture("lo", gateway.socket.getsockname()[1]) as capture:
        command = start(gateway, tmp_path, PROFILE)
        generator = load_process(command)
        wait_for_phase(command, "steady", 3)
        os.kill(generator, signal.SIGSTOP)
        time.sleep(4)
        resumed = time.time()
        os.kill(generator, signal.SIGCONT)
        words = command.communicate(timeout=PATIENCE)
        ended = time.time()
        seen = echoes(capture.read(), ECHO_BYTES)
    found = json.loads((tmp_path / "run.json").read_text())
    steady = found["phases"][1]
    account, metrics = steady["events"]["echoes"], steady["metrics"]
    due = [steady["began"] + number / RATE for number in range(RATE * SECONDS)]
    # Events leave in the order in which they are due: the first of them left, the others never did.
    assert account["due"] == len(due)
    assert account["not_sent"] == metrics["not_sent"] == len(due) - len(seen) > 0
    assert account["because"] == {"generator": account["not_sent"], "no_session": 0, "refused": 0}
    assert account["in_time"] + account["late"] + account["not_sent"] == account["due"]
    assert steady["counters"]["asked"] == len(seen) == steady["counters"]["answered"]
    assert metrics["loss"] == pytest.approx(account["not_sent"] / len(due)) and metrics["sent_loss"] == 0

    answered = [echo.answered - at for echo, at in zip(seen, due, strict=False) if echo.answered is not None]
    departed = [echo.answered - echo.left for echo in seen if echo.answered is not None]
    assert len(answered) == len(seen)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1)):
        # What never left waited until the generator gave it up: after it went on, and before its end.
        low, high = (
            quantile([*answered, *(given_up - at for at in due[len(seen):])], share)
            for given_up in (resumed, ended)
        )
        assert low * 0.995 - 1e-4 <= metrics[name] <= high * 1.005 + 1e-4, name
        # An echo's own word is written just before the kernel has the packet.
        assert metrics[f"departed_{name}"] >= quantile(departed, share) * 0.995 - 1e-5, name
    assert metrics["departed_p50"] <= metrics["p50"] and metrics["p90"] > 1

    assert command.returncode == 98, words
    assert [(each["holds"], each["blame"]) for each in found["requirements"]] == [(False, "generator")] * 2
    assert f"{account['not_sent']:,} of" in words[0] and "never left" in words[0]
    assert "required steady:loss<0.1%, found" in words[1] and "the generator's doing" in words[1]


# By the length of UDP, its own header with it: the echo of 64 bytes that confirms a handshake, and one of 84.
REFUSING = """
table ip refusing {
    chain out {
        type filter hook output priority 0
        udp dport %d udp length { %d, %d } drop
    }
}
"""


class StandingStill(Screen):
    """Stops the load process for 0.3 s at each of the first looks at the second phase."""

    def look(self, run: Run, look: Look, before: Look | None) -> None:
        if look.phase == 1 and look.elapsed < 1:
            pids = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in pids:
                    os.kill(int(pid), number)
                time.sleep(0.3 if number == signal.SIGSTOP else 0)


@pytest.mark.network
def test_what_the_kernel_refuses_has_one_fate() -> None:
    """Late or not, it was not sent; and only echoes of traffic are in the account of echoes."""
    traffic = {"rate": 400, "mix": {"84": 1, "300": 1}}
    steady = {"name": "steady", "seconds": 2, "drain": 20, "traffic": traffic}
    storm = {"name": "storm", "handshakes": {"outstanding": 4, "patience": 0.2}}

    def refused_run() -> tuple[Gateway, Run]:
        with Gateway(SEED, 4) as gateway:
            port = gateway.socket.getsockname()[1]
            host.run(["nft", "-f", "-"], text=REFUSING % (port, 64 + 32 + 8, 96 + 32 + 8))
            made = load_profile.of_options(
                {"phase": [storm, steady], "peers": 4, "target": gateway.target, "seed": SEED}
            )
            return gateway, load_run.execute(made, load_run.default_cores(), [], StandingStill())

    with Lab() as lab:
        host = lab.host("load")
        gateway, run = inside(host, refused_run)
    first, second = (phase.counters for phase in run.phases)
    assert first["unconfirmed"] == first["send_refused"] == first["responses"] == 4
    assert first["asked"] == first["echoes_refused"] == 0
    account = load_result.events(second)["echoes"]
    refused = account["because"]["refused"]
    assert second["asked"] == second["answered"] + refused and second["answered"] == gateway.seen["echoes"]
    assert account["due"] == 800 == account["in_time"] + account["late"] + account["not_sent"]
    # Half of all are refused, and half of the late ones: late are those alone that came to the gateway so.
    assert refused > 200 and set(gateway.sizes) == {300}
    late = sum(left - due > 10_000_000 for due, left in gateway.traffic)
    assert 0 < account["late"] <= late
