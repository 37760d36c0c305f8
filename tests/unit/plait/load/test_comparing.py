"""`plait load compare` and `plait load report`: no figure is left out, no difference is hidden."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plait.failure import Failure
from plait.load import compare as load_compare
from plait.load import document as load_json
from plait.load import lab_run as load_lab
from plait.load import profile as load_profile
from plait.load import report as load_report
from plait.load import result as load_result
from plait.load.progress import Run
from plait.load.result import PhaseResult
from plait.load.series import COUNTERS, Point
from plait.load.thresholds import METRICS
from plait.load.thresholds import parse as threshold


def run(
    rate: float = 1000, trip_ns: int = 1_000_000, lost: int = 0, more: str = "", finished: bool = True
) -> Run:
    """What a run of two phases came to, as the generator would have told it."""
    text = (
        '[[phase]]\nname = "storm"\nhandshakes = { outstanding = 4 }\n'
        f'[[phase]]\nname = "steady <b>"\nseconds = 2\ntraffic = {{ rate = {rate} }}\n{more}'
    )
    made = Run(load_profile.parse(text, "p"), [0], range(100), began=1_900_000_000.0)
    asked = int(rate * 2)
    for number, counted in enumerate(
        ({"initiations": 100, "handshakes": 100}, {"asked": asked, "answered": asked - lost})
    ):
        counters = dict.fromkeys(load_result.counter_names(), 0) | counted
        rows = np.zeros((len(load_result.HISTOGRAMS), len(load_result.bucket_middles())), dtype=np.uint64)
        if number:
            at = int(np.searchsorted(load_result.bucket_middles(), trip_ns))
            rows[load_result.HISTOGRAMS.index("round_trip"), at] = asked - lost
        name = made.profile.phase[number].name
        began = made.began + 3 * number
        made.phases.append(
            PhaseResult(
                name, counters, rows, seconds=2.0, cpu_shares=[0.5], began=began, is_finished=finished
            )
        )
        for tick in range(4):
            counts = np.array([counted.get(counter, 0) / 4 for counter in COUNTERS], dtype=np.int64)
            buckets = np.flatnonzero(rows[load_result.HISTOGRAMS.index("round_trip")])
            begin = 3 * number + tick / 2
            made.series.add(
                Point(begin, begin + 0.5, number, 1, 100, 0, counts, buckets.astype(np.uint16),
                      np.array([asked // 4] * len(buckets), dtype=np.uint32))
            )  # fmt: skip
    return made


def saved(path: Path, made: Run, verdicts: list[dict[str, Any]] | None = None) -> str:
    path.write_text(load_json.text(load_json.document(made, verdicts or [], {"gateway": "test 1.2"})))
    return str(path)


def lab(path: Path, turns: list[tuple[str, Run]]) -> str:
    contest = [
        load_lab.Candidate(name, f"{name} -f {{iface}}") for name in dict.fromkeys(name for name, _ in turns)
    ]
    made = []
    for name, each in turns:
        turn = load_lab.Turn(next(one for one in contest if one.name == name), len(made))
        turn.found = load_json.document(each, [])
        turn.gateway = {"configure_seconds": 0.1, "cpu_seconds": 1.0, "pss_bytes_idle": 1 << 20,
                        "pss_bytes_after": 2 << 20, "ended": None}  # fmt: skip
        made.append(turn.as_json())
    found = load_lab.document(
        turns[0][1].profile, contest, len(made), made, [threshold("loss<1%")], {}, 0.0, "finished", None
    )
    path.write_text(load_json.text(found))
    return str(path)


def compared(
    *words: str, capsys: pytest.CaptureFixture[str], fail_if: tuple[str, ...] = ()
) -> tuple[Any, int]:
    code = load_compare.run(*words, as_json=True, fail_if=fail_if)
    return json.loads(capsys.readouterr().out), code


def test_nothing_is_a_figure_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No loss and nothing wrong are shown; what was not measured is not."""
    both = [saved(tmp_path / f"{at}.json", run()) for at in range(2)]
    found, _ = compared(*both, capsys=capsys)
    lines = {(line["phase"], line["metric"]): line for line in found["lines"]}
    assert lines["steady <b>", "loss"]["before"] == 0 == lines["steady <b>", "loss"]["after"]
    assert lines["steady <b>", "wrong"]["after"] == 0
    assert ("storm", "loss") not in lines and ("storm", "p99") not in lines
    assert found["differs"] == [] and found["failed"] == []
    load_compare.run(*both, as_json=False)
    assert "0.000 %" in capsys.readouterr().out
    page = load_report.page(load_json.read(both[0]))
    assert "<th scope=row>loss</th><td>-</td><td>0.000 %</td>" in page
    assert "<th scope=row>wrong</th><td>0</td><td>0</td>" in page


def test_different_profiles_are_called_different(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = saved(tmp_path / "a.json", run(rate=1000))
    after = saved(tmp_path / "b.json", run(rate=5000, more="drain = 3\n"))
    found, _ = compared(before, after, capsys=capsys)
    assert {each["key"]: (each["before"], each["after"]) for each in found["differs"]} == {
        "phase steady <b>: traffic.rate": (1000.0, 5000.0), "phase steady <b>: drain": (1.0, 3.0),
    }  # fmt: skip
    load_compare.run(before, after, as_json=False)
    captured = capsys.readouterr()
    assert "phase steady <b>: traffic.rate differs: 1000.0 and 5000.0" in captured.err
    assert "of different runs" in captured.out


@pytest.mark.parametrize(
    ("words", "fails"),
    [
        ("p99>1.1x", True),
        ("p99>2.5x", False),
        ("steady <b>:p50>=1.9x", True),
        ("p99>3ms", False),
        ("p99>1500us", True),
        ("loss>+0.1%", True),
        ("loss>+3%", False),
        ("loss>1x", True),
        ("answers/s<0.9x", False),
        ("answers/s<1x", True),
        ("cookies>1x", False),
        ("storm:p99>1.1x", True),  # not measured on either side
    ],
)
def test_fail_if(words: str, fails: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """B answers in twice the time, and loses one in a hundred."""
    before = saved(tmp_path / "a.json", run())
    after = saved(tmp_path / "b.json", run(trip_ns=2_000_000, lost=20))
    found, code = compared(before, after, capsys=capsys, fail_if=(words,))
    assert (code, bool(found["failed"])) == ((99, True) if fails else (0, False))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("p99", "it is not METRIC"),
        ("p98>1x", "no metric p98"),
        ("p99>5", "not given in a bare number"),
        ("p99>+5x", "not given in x"),
        ("none:p99>1x", "there is no phase none"),
    ],
)
def test_fail_if_refused(words: str, why: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "a.json", run())
    with pytest.raises(Failure, match=why):
        load_compare.run(file, file, as_json=True, fail_if=(words,))


def test_a_phase_that_was_ended_early_is_compared_with_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = saved(tmp_path / "a.json", run()), saved(tmp_path / "b.json", run(finished=False))
    found, code = compared(before, after, capsys=capsys, fail_if=("p99>1.1x",))
    assert all(line["after"] is None for line in found["lines"]) and code == 99
    load_compare.run(before, after, as_json=False)
    said = capsys.readouterr().err
    for phase in ("storm", "steady <b>"):
        assert f"load: {after}: {phase} was ended early: its figures are not compared" in said
    assert f"load: {before}" not in said
    with pytest.raises(Failure, match="Neither run has a phase that was finished"):
        load_compare.run(after, after, as_json=True, fail_if=("storm:p99>1.1x",))


def test_machines_that_are_alike_are_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of merged runs: two of one kind are that kind."""
    one, two = (json.loads(load_json.text(load_json.document(run(), []))) for _ in range(2))
    two["machines"] *= 2
    for name, made in (("a", one), ("b", two)):
        (tmp_path / name).write_text(load_json.text(made))
    found, _ = compared(str(tmp_path / "a"), str(tmp_path / "b"), capsys=capsys)
    assert [each["key"] for each in found["differs"]] == ["cores", "peers of each machine"]


def test_labs_are_compared_engine_by_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = run(), run(trip_ns=4_000_000)
    before = lab(tmp_path / "a.json", [("one", fast), ("other", slow), ("one", run(trip_ns=3_000_000))])
    after = lab(tmp_path / "b.json", [("one", slow), ("third", fast)])
    found, code = compared(before, after, capsys=capsys, fail_if=("p99>1.5x",))
    (line,) = [each for each in found["lines"] if each["metric"] == "p99"]
    assert (
        line["engine"] == "one"
        and len(line["rounds_before"]) == 2
        and line["ratio"] == pytest.approx(2, rel=0.01)
    )
    assert code == 99 and {each["key"] for each in found["differs"]} == {"rounds"}
    # Two engines of one lab, and a lab's engine with a single run.
    found, _ = compared(f"{before}#other", f"{before}#one", capsys=capsys)
    (line,) = [each for each in found["lines"] if each["metric"] == "p99"]
    assert line["ratio"] == pytest.approx(0.5, rel=0.01) and line["engine"] is None
    assert compared(f"{before}#other", saved(tmp_path / "c.json", slow), capsys=capsys)[0]["lines"]
    with pytest.raises(Failure, match="this lab has no none"):
        load_compare.run(f"{before}#none", after, as_json=True)
    with pytest.raises(Failure, match="no engine is in both"):
        load_compare.run(f"{before}#other", after, as_json=True)
    load_compare.run(before, after, as_json=False)
    assert "(1.000 ms to 3." in capsys.readouterr().out.replace("0.999", "1.000").replace("1.001", "1.000")


class Outline(html.parser.HTMLParser):
    """What a page consists of; it must be balanced."""

    VOID = ("meta", "link", "br", "img", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self._open[-1] in ("li", "dt", "dd", "p") and self._open[-1] != tag:
            self._open.pop()
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page(tmp_path: Path) -> None:
    """It fetches nothing, runs nothing, fits a phone and a dark room, and says all in words as well."""
    made = run(lost=20)
    verdicts = load_json.judge(
        made, [threshold("loss<0.1%"), threshold("p99<5ms"), threshold("storm:p99<1s")]
    )
    file = saved(tmp_path / "a.json", made, verdicts)
    load_report.write(file, str(tmp_path / "a.html"))
    page = (tmp_path / "a.html").read_text()
    outline = Outline(page)
    assert not {tag for tag, _ in outline.tags} & {"script", "img", "link", "iframe", "object"}
    assert "http" not in page and "url(" not in page and "steady <b>" not in page
    assert outline.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in outline.all("meta")
    assert "prefers-color-scheme: dark" in page and "max-width: 560px" in page
    # A requirement that is not met says so in words, with the unit.
    assert "loss&lt;0.1%: <strong class=bad>✗ not met</strong>, found 1%" in page
    assert "p99&lt;5ms: met, found" in page and "found nothing measured" in page
    drawings = [each for each in outline.all("svg") if each.get("role") == "img"]
    assert len(drawings) == 2 * 4 and len(outline.all("figcaption")) == 4
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for drawing in drawings:
        assert set(str(drawing["aria-labelledby"]).split()) <= set(ids)
    for words in ("test 1.2", "commit", "Plait", "traffic", "ms", "a second"):
        assert words in page


def test_phases_are_marked_where_they_begin_on_one_axis() -> None:
    """Short phases have their names in rows of their own, and all plots one place for one second."""
    from plait.load import plots as load_plots

    made = json.loads(load_json.text(load_json.document(run(), [])))
    names = ["storm", "steady", "a phase with a rather long name", "b"]
    marks = [load_plots.Mark(at, name) for at, name in zip((0, 0.1, 0.2, 5), names, strict=True)]
    figures = list(load_plots.over_time(made["series"], marks, "p"))
    assert len(figures) == 3
    for size in ("wide", "narrow"):
        drawings = [figure.partition(f'<svg class="{size}"')[2].partition("</svg>")[0] for figure in figures]
        lines = [
            [part.split('"')[0] for part in drawing.split('class="mark" d="')[1:]] for drawing in drawings
        ]
        across = [[line.split()[0] for line in each] for each in lines]
        assert len(across[0]) == 4 and across[0] == across[1] == across[2]
        assert float(across[0][0].removeprefix("M")) == load_plots.LEFT
        # Rows: no two names in one row stand in each other's place.
        rows = [line.split()[1].partition("V")[0] for line in lines[0]]
        assert len(set(rows[:3])) == 3


def test_the_page_of_a_lab(tmp_path: Path) -> None:
    file = lab(
        tmp_path / "lab.json", [("one", run()), ("other", run(trip_ns=4_000_000)), ("one", run(lost=50))]
    )
    load_report.write(file, str(tmp_path / "lab.html"))
    page = (tmp_path / "lab.html").read_text()
    Outline(page)
    assert "one, round 3" in page and "(0.000 % to 2.500 %)" in page and "loss&lt;1%" in page
    assert "<td>100</td>" in page and "(100 to 100)" not in page  # rounds that are alike have no spread
    with pytest.raises(Failure, match="a page of HTML"):
        load_report.write(file, str(tmp_path / "lab.png"))


def test_each_metric_is_a_figure() -> None:
    assert set(METRICS) <= set(load_compare.FIGURES)


def test_a_file_from_before_populations_is_read_and_differs_in_nothing(tmp_path: Path) -> None:
    """Fields that were added since are missing there, and that is no difference."""
    new = saved(tmp_path / "new.json", run())
    made = json.loads(Path(new).read_text())
    del made["profile"]["population"]
    for phase, plan in zip(made["phases"], made["profile"]["phase"], strict=True):
        del phase["populations"], phase["arrived"], phase["events"]["oneway"]
        del plan["population"], plan["oneway"]
    (tmp_path / "old.json").write_text(json.dumps(made))
    sides = [load_compare.sides(str(tmp_path / name))[""] for name in ("old.json", "new.json")]
    assert list(load_compare.differences(*sides)) == []
    assert {line.ratio for line in load_compare.lines("", *sides)} <= {None, 1}
    load_report.write(str(tmp_path / "old.json"), str(tmp_path / "old.html"))
