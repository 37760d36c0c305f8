"""The smaller benches: `aead` and `scale`, and the plots."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from engine._engine import lib
from plait import extras
from plait.bench import aead, figures, plot, scale
from plait.bench import bench as command
from plait.failure import Failure


def test_aead_has_every_figure() -> None:
    """Each provider of this build and each size once, sealed and opened; larger packets cost more."""
    answer = CliRunner().invoke(command, ["aead", "--rounds", "1", "--json"], catch_exceptions=False)
    found = json.loads(answer.stdout)
    costs = [aead.Cost(**cost) for cost in found["ns_per_packet"]]
    assert {(c.provider, c.size) for c in costs} == {(p, s) for p in aead.providers() for s in aead.SIZES}
    assert "OpenSSL EVP" in aead.providers() and found["used"] in aead.providers()
    assert all(0 < c.seal_least <= c.seal <= c.seal_most and 0 < c.open_least <= c.open for c in costs)
    for provider in aead.providers():
        small, large = (next(c for c in costs if (c.provider, c.size) == (provider, s)) for s in (64, 8920))
        assert large.seal > small.seal and large.open > small.open


def test_aead_refuses_what_does_not_open() -> None:
    """A provider that opens wrongly would be a figure of something else."""
    batch = aead.Batch(64)
    state = next(iter(aead.providers().values()))
    batch.seal(state)
    batch.jobs[7].data[3] ^= 1
    with pytest.raises(Failure, match="does not open"):
        batch.open(state)
    assert [batch.jobs[n].refused for n in (6, 7, 8)] == [0, -1, 0]
    assert batch.jobs[0].length == 64 + lib.AEAD_TAG_BYTES


def test_the_load_has_cores_of_its_own_where_there_are_some() -> None:
    """Beside the gateway's n first cores; on the same ones where none is left."""
    assert scale.cores_of_load([0, 1, 4, 5], 1) == ([1, 4, 5], True)
    assert scale.cores_of_load([0, 1, 4, 5], 3) == ([5], True)
    assert scale.cores_of_load([0, 1, 4, 5], 4) == ([0, 1, 4, 5], False)
    assert scale.clients_of([3]) == 2 and scale.clients_of([0, 1, 2]) == 3
    addresses = {scale._address(number) for number in range(300)}
    assert len(addresses) == 300 and scale.GATEWAY not in addresses


def test_busy_time_goes_on() -> None:
    """Of the whole machine: at least what this process burns; neither idle nor waiting for a disk."""
    ticks = os.sysconf("SC_CLK_TCK")
    text = "cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert scale._busy_seconds(text) == pytest.approx(87_600_321 / ticks)
    before, own = scale._busy_seconds(), os.times().user
    while os.times().user - own < 0.1:
        pass
    assert scale._busy_seconds() - before >= 0.05


def result() -> dict[str, Any]:
    metric = figures.FIGURES[0].metrics[0]
    found = {
        title: {"median": 2.0, "min": 1.0, "max": 3.0, "values": [1.0, 2.0, 3.0]} for title in ("plait", "x")
    }
    names = [{"title": "plait", "name": "plait 0.1.0"}, {"title": "x", "name": "x 1"}]
    described = {"key": metric.key, "title": metric.title, "unit": metric.unit, "better": metric.better}
    return {"implementations": names, "figures": [described | {"found": found}]}


def test_a_plot_a_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra plait[report] is not installed")
    (file,) = plot.tunnel(result(), tmp_path / "plots")
    assert file.name == "tcp1.ab.gbit.png"
    assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5000


@pytest.mark.parametrize("module", extras.LIBRARIES)
def test_without_a_library_of_an_extra_it_says_so(module: str) -> None:
    extras.require(module, "cannot plot")
    library = re.escape(extras.LIBRARIES[module])
    words = rf"cannot plot: the Python library {library} is not installed\. "
    with pytest.raises(Failure, match=rf"{words}Install it where Plait is: .* -m pip install {library}"):
        extras.require(module, "cannot plot", find=lambda name: "there" if name == "pip" else None)
    with pytest.raises(Failure, match=rf"{words}Put Plait's wheel into .*: pip install {library}"):
        extras.require(module, "cannot plot", find=lambda name: None)


def test_the_extras_are_of_the_package_and_its_developers() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    optional = dict(project["optional-dependencies"])
    dev = {re.split("[>=]", each)[0] for each in optional.pop("dev")}
    named = {re.split("[>=]", each)[0] for extra in optional.values() for each in extra}
    assert named == set(extras.LIBRARIES.values()) and named <= dev
    assert not named & {re.split("[>=]", each)[0] for each in project["dependencies"]}
