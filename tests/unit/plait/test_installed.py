"""An engine that is not what is installed any more: show, doctor and the exporter say so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from plait.lab.namespaces import Engine, Lab
from plait.watch.exporter import EngineFamilies
from tests.support.waiting import until

pytestmark = pytest.mark.network
SETTINGS = "receivers = 1\nconsumers = 1\nmax_peers = 64\nsmall_slots = 64\ntrain_slots = 1\n"
ANOTHER = "#!/bin/sh\necho 'plaitd 9.9.9 (memory layout {}, commit 0123456789ab)'\n"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """One that was started from a place of its own."""
    plaitd = shutil.which("plaitd")
    assert plaitd is not None
    shutil.copy(plaitd, tmp_path / "plaitd")
    with Lab() as lab:
        engine = lab.host("a").engine(command=(str(tmp_path / "plaitd"), "-f", "{iface}"), settings=SETTINGS)
        until(lambda: "is ready" in engine.process.output(), "it is ready")
        yield engine
        assert engine.stop() == 0


def test_another_version_is_put_over_a_running_engine(engine: Engine, tmp_path: Path) -> None:
    host, place = engine.host, str(tmp_path / "plaitd")
    report = json.loads(host.run(["plait", "show", "--engine", "--json"]).stdout)["wg0"]
    assert report["program"] == [place] and report["differs"] == ""
    assert "what is installed runs" in host.run(["plait", "doctor"], check=False).stdout
    (tmp_path / "plaitd").write_text(ANOTHER.format(report["layout"]))
    words = f"installed is not what runs: {place} is version 9.9.9 instead of {report['version']}"
    shown = host.run(["plait", "show", "--engine"]).stdout
    assert words in shown and "plait upgrade wg0" in shown
    found = json.loads(host.run(["plait", "doctor", "--json"], check=False).stdout)
    (finding,) = [each for each in found if each["name"] == "engine wg0"]
    assert finding["state"] == "advice" and finding["found"].startswith(words)
    assert "plait upgrade wg0" in finding["mend"]
    families = EngineFamilies()
    whole = {**report, "processes": [], "pools": []}
    families.add("wg0", whole)
    registry = CollectorRegistry()
    registry.register(type("Told", (), {"collect": lambda _: families.families()})())
    assert registry.get_sample_value("plait_outdated", {"interface": "wg0"}) == 1
    (tmp_path / "plaitd").write_text(ANOTHER.format("0" * 16))
    shown = host.run(["plait", "show", "--engine"]).stdout
    assert "stop the interface and start it again" in shown and "plait upgrade" not in shown
    (tmp_path / "plaitd").unlink()
    assert "does not say its version any more" in host.run(["plait", "show", "--engine"]).stdout
