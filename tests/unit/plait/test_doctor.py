"""`plait doctor` on hosts that lack something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine._engine import lib
from engine.aead import PROVIDERS
from plait import doctor
from plait.lab.namespaces import Lab


def findings(text: str) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in json.loads(text)}


def run(*prefix: str) -> tuple[int, dict[str, dict[str, Any]]]:
    command = [*prefix, sys.executable, "-m", "plait", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, findings(done.stdout)


@pytest.mark.network
def test_a_host_that_runs_the_other_tests_lacks_nothing_required() -> None:
    code, found = run()
    assert code == 0
    assert not [name for name, finding in found.items() if finding["state"] == "missing"]


def test_every_lack_has_a_mend_and_nothing_else_has() -> None:
    _, found = run()
    for finding in found.values():
        assert (finding["mend"] == "") == (finding["state"] == "ok"), finding


@pytest.mark.network
def test_without_the_capability_it_is_missing_and_the_exit_code_says_so() -> None:
    code, found = run("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    assert code == 1
    assert found["privilege"]["state"] == "missing"
    assert "docker run --cap-add NET_ADMIN" in found["privilege"]["mend"]


@pytest.mark.network
def test_a_small_dev_shm_is_missing_with_the_size_that_is_needed() -> None:
    with Lab() as lab:
        host = lab.host("a", shm_bytes=1 << 20)
        done = host.run(["plait", "doctor"], check=False)
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        (at,) = [number for number, line in enumerate(lines) if line.startswith("MISSING")]
        assert "/dev/shm has 1 MiB free" in lines[at]
        assert "mend: mount -o remount,size=" in lines[at + 1]
        # The mend is enough, and is a command as it stands.
        host.run(lines[at + 1].partition("mend: ")[2].partition(" (")[0].split())
        assert host.run(["plait", "doctor"], check=False).returncode == 0


def test_the_memory_that_is_needed_is_what_an_engine_takes() -> None:
    """Against a segment as plaitd makes it."""
    from shm.segment import create
    from workers.settings import geometry, load

    settings = load("doctor", environment={})
    data = create(geometry(settings), receivers=settings.receivers)
    taken = os.fstat(data.fd).st_blocks * 512
    data.close()
    assert taken <= doctor.needed_memory() < 1.1 * taken


def test_settings_are_those_that_plaitd_would_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PLAIT_CONFIG's file comes before all others, and what it asks for is what must be there."""
    (tmp_path / "wg1.toml").write_text("train_slots = 44\n")
    monkeypatch.delenv("PLAIT_CONFIG", raising=False)
    assert doctor.settings_files(directory=tmp_path) == [tmp_path / "wg1.toml"]
    plain, more = doctor.needed_memory([]), doctor.needed_memory([tmp_path / "wg1.toml"])
    assert more - plain > 22 * 4 * 68 * 1024 // 2
    (tmp_path / "other.toml").write_text("train_slots = 44\n")
    monkeypatch.setenv("PLAIT_CONFIG", str(tmp_path / "other.toml"))
    assert doctor.settings_files(directory=tmp_path) == [tmp_path / "other.toml"]
    assert doctor.needed_memory() == more
    assert doctor.settings().found == str(tmp_path / "other.toml")
    (tmp_path / "other.toml").write_text("train_slots = 0\n")
    refused = doctor.settings()
    assert refused.state == "missing"
    assert "other.toml, line 1: cannot use `train_slots = 0`" in refused.found
    assert "train_slots takes" in refused.mend
    assert doctor.run(as_json=False) == 1
    assert "MISSING  settings" in capsys.readouterr().out
    monkeypatch.setenv("PLAIT_CONFIG", str(tmp_path / "absent.toml"))
    assert doctor.settings().state == "missing"


def test_a_tun_device_that_is_absent_or_dead(tmp_path: Path) -> None:
    assert doctor.tun_device(tmp_path / "tun").state == "missing"
    assert "modprobe tun" in doctor.tun_device(tmp_path / "tun").mend
    dead = tmp_path / "dead"
    dead.symlink_to("dead")
    assert doctor.tun_device(dead).state == "missing"
    assert doctor.tun_device(Path("/dev/null")).state == "ok"


def test_capabilities_are_read_from_the_effective_set() -> None:
    status = "CapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\n"
    assert doctor.has_capability(12, status)
    assert not doctor.has_capability(13, status)
    assert not doctor.has_capability(12, "CapPrm: ffff\n")


@pytest.mark.network
def test_a_host_without_proc_is_told_to_mount_it() -> None:
    hidden = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")
    _, found = run(*hidden)
    assert found["AEAD"] == run()[1]["AEAD"]
    why = "there is no /proc to look at"
    lacks = {name: each["mend"] for name, each in found.items() if why in each["found"]}
    assert lacks.keys() >= {"privilege", "ipv6", "promise victims", "promise threads"}
    assert set(lacks.values()) == {"mount it (mount -t proc proc /proc)"}


@pytest.mark.parametrize(
    ("best", "mend"),
    [
        ("boringssl", "apt-get install android-libboringssl"),
        ("ipsec-mb", "apt-get install libipsec-mb-dev; rm .venv/setup.stamp; scripts/setup"),
    ],
)
def test_a_faster_provider_is_advised(best: str, mend: str) -> None:
    taken, fastest = PROVIDERS["evp"], PROVIDERS[best]
    found = doctor.compare_aead("OpenSSL EVP", taken.number, fastest.number)
    assert (found.state, found.mend) == ("advice", mend)
    assert found.found == f"OpenSSL EVP, slower than {fastest.library} would be here"
    assert doctor.compare_aead("any", fastest.number, fastest.number).state == "ok"


@pytest.mark.network
def test_a_provider_whose_library_is_gone_is_advised() -> None:
    """BoringSSL's library is hidden; the other one is linked in."""
    best = next(name for name, provider in PROVIDERS.items() if provider.number == lib.aead_best())
    hide = 'mount -t tmpfs none /usr/lib/*-linux-gnu/android && exec "$@"'
    hidden = ("unshare", "-m", "sh", "-c", hide, "sh")
    finding = run(*hidden)[1]["AEAD"]
    if best == "boringssl":
        assert finding["state"] == "advice" and "slower than BoringSSL" in finding["found"]
        assert finding["mend"] == "apt-get install android-libboringssl"
    else:
        assert finding["state"] == ("ok" if finding["found"] == PROVIDERS[best].library else "advice")


def test_programs_that_are_absent_are_advice_with_their_package() -> None:
    found = list(doctor.programs(which=lambda name, path: None if name == "wg" else f"/usr/bin/{name}"))
    (lack,) = [finding for finding in found if finding.state != "ok"]
    assert (lack.name, lack.state, lack.mend) == ("wg", "advice", "apt-get install wireguard-tools")


def test_a_directory_for_the_socket(tmp_path: Path) -> None:
    assert doctor.socket_directory(tmp_path / "run" / "wireguard").state == "ok"
    if os.geteuid() != 0:
        assert doctor.socket_directory(Path("/wireguard")).state == "missing"
