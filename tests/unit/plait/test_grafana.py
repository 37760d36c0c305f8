"""The dashboard and the alert rules: a real Prometheus scrapes a real engine, and evaluates every expression.

    host initiator (plaitd, plait exporter, prometheus)  10.200.1.1 ──── 10.200.1.2  responder (plaitd)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plait.lab.namespaces import PLAIT, Host, Lab
from tests.support.tunnel import Tunnel, two_hosts
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
BOARD: dict[str, Any] = json.loads((ROOT / "configs/grafana/plait.json").read_text())
RULES = ROOT / "configs/prometheus/plait-alerts.yml"
PAGE = (ROOT / "docs/observe.md").read_text()
CONFIG = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [/run/alerts.yml]
scrape_configs: [{job_name: plait, static_configs: [{targets: ["127.0.0.1:9586"]}]}]
"""
# Answers of Prometheus's API, in the order of the paths on standard input.
ASK = """
import json, sys, urllib.error, urllib.request
def ask(path):
    try:
        return json.load(urllib.request.urlopen("http://127.0.0.1:9090/api/v1/" + path, timeout=60))
    except urllib.error.HTTPError as error:
        return json.load(error)
    except OSError as error:
        return {"status": str(error)}
print(json.dumps([ask(path) for path in json.load(open(sys.argv[1]))]))
"""
PROGRAMS = [program for program in ("prometheus", "promtool") if shutil.which(program) is None]


def targets(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each panel's title with each of its expressions."""
    for panel in panels:
        yield from targets(panel.get("panels", []))
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


EXPRESSIONS = list(targets(BOARD["panels"]))
# No rule of these holds in a healthy engine, and what they are made of must be there all the same.
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.M)


def metrics(text: str) -> set[str]:
    return set(re.findall(r"\b(?:plait|wireguard)_\w+", text))


def test_dashboard_and_rules_speak_of_metrics_that_there_are() -> None:
    known = set(re.findall(r"^\| `((?:plait|wireguard)_\w+)`", PAGE, re.M))
    said = {name for _, expression in EXPRESSIONS for name in metrics(expression)}
    assert len(EXPRESSIONS) > 25 and said <= known
    assert metrics("\n".join(re.findall(r"expr: (.*(?:\n {10,}.*)*)", RULES.read_text()))) <= known
    for variable in BOARD["templating"]["list"]:
        assert metrics(json.dumps(variable)) <= known


GONE = """
rule_files: [RULES]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'plait_up{instance="a",interface="wg0"}', values: '1x10 _x100'}
      - {series: 'plait_up{instance="a",interface="wg1"}', values: '1x110'}
      - {series: 'up{instance="a",job="plait"}', values: '1x110'}
      - {series: 'plait_up{instance="b",interface="wg0"}', values: '1x10 stale'}
      - {series: 'up{instance="b",job="plait"}', values: '1x10 0x100'}
    alert_rule_test:
      - {eval_time: 9m, alertname: PlaitEngineGone}
      - eval_time: 20m
        alertname: PlaitEngineGone
        exp_alerts: [{exp_labels: {severity: critical, instance: a, interface: wg0}, exp_annotations: SAID}]
      - {eval_time: 100m, alertname: PlaitEngineGone}
"""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool missing: apt-get install prometheus")
def test_an_engine_that_has_ended_is_told_and_no_silent_exporter(tmp_path: Path) -> None:
    """Its socket is gone, and so is every series of it: `plait_up` is not 0."""
    file = tmp_path / "gone.yml"
    words = RULES.read_text().partition("PlaitEngineGone")[2].partition("annotations:")[2].splitlines()[1:3]
    said = "{" + ", ".join(line.strip() for line in words) + "}"
    said = said.replace("{{ $labels.interface }}", "wg0").replace("{{ $labels.instance }}", "a")
    file.write_text(GONE.replace("RULES", str(RULES)).replace("SAID", said))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_panel_lies_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))


class Watched:
    """A tunnel, whose initiator is watched by a Prometheus."""

    def __init__(self, lab: Lab) -> None:
        self.tunnel: Tunnel = two_hosts(lab, PLAIT, PLAIT)
        self.host: Host = self.tunnel.initiator.host
        (self.host.root / "run/alerts.yml").write_text(RULES.read_text())
        (self.host.root / "run/prometheus.yml").write_text(CONFIG)
        self.exporter = self.host.popen(["plait", "exporter"])
        self.host.wait_listening(9586, self.exporter)
        self.prometheus = self.host.popen([
            "prometheus", "--config.file=/run/prometheus.yml", "--storage.tsdb.path=/run/tsdb",
            "--web.listen-address=127.0.0.1:9090", "--log.level=warn",
        ])  # fmt: skip
        self.host.wait_listening(9090, self.prometheus)

    def ask(self, *paths: str) -> list[dict[str, Any]]:
        (self.host.root / "run/paths.json").write_text(json.dumps(paths))
        answers: list[dict[str, Any]] = json.loads(
            self.host.run([sys.executable, "-I", "-c", ASK, "/run/paths.json"]).stdout
        )
        return answers

    def evaluate(self, *expressions: str) -> list[dict[str, Any]]:
        """Each with what Grafana puts for its variables."""
        return self.ask(*("query?query=" + _quoted(each) for each in expressions))


def _quoted(expression: str) -> str:
    from urllib.parse import quote

    for variable, value in ("$__rate_interval", "1m"), ("$interface", ".*"), ("$instance", ".*"):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return quote(expression)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    if PROGRAMS:
        words = f"{', '.join(PROGRAMS)} missing: apt-get install prometheus"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(words)
    with Lab() as lab:
        yield Watched(lab)


@pytest.mark.network
def test_every_expression_of_the_dashboard_has_values(watched: Watched) -> None:
    side, peer = watched.tunnel.sides
    key = b64decode(peer.public_key).hex()
    assert side.engine.uapi(f"set=1\npublic_key={key}\nplait_name=alice\n\n") == "errno=0\n\n"
    assert side.echo(peer.address4, 3) == 3
    wanted = [expression for _, expression in EXPRESSIONS]

    def without() -> list[str]:
        """Expressions without a value so far: a rate needs two scrapes."""
        answers = watched.evaluate(*wanted)
        wrong = [(each, answer) for each, answer in zip(wanted, answers, strict=True)
                 if answer["status"] == "error"]  # fmt: skip
        assert not wrong, wrong
        return [each for each, answer in zip(wanted, answers, strict=True)
                if answer["status"] != "success" or not answer["data"]["result"]]  # fmt: skip

    until(lambda: not without(), "every expression has a value")
    (answer,) = watched.evaluate('wireguard_sent_bytes_total{friendly_name="alice"}')
    assert answer["data"]["result"][0]["metric"]["public_key"] == peer.public_key
    (answer,) = watched.evaluate("plait_peers_connected")
    assert answer["data"]["result"][0]["value"][1] == "1"


@pytest.mark.network
def test_every_alert_rule_is_evaluated_and_fires_for_its_cause(watched: Watched) -> None:
    def rules() -> dict[str, dict[str, Any]]:
        (answer,) = watched.ask("rules")
        groups = answer["data"]["groups"] if answer["status"] == "success" else []
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def evaluated() -> dict[str, dict[str, Any]] | None:
        told = rules()
        return told if all(rule["health"] == "ok" for rule in told.values()) else None

    found = until(evaluated, "all are evaluated")
    assert list(found) == ALERTS
    assert found["PlaitWorkerDied"]["state"] == "inactive"
    os.kill(watched.host.titles()["consumer 0"], 9)
    until(lambda: rules()["PlaitWorkerDied"]["state"] == "firing", "a death is told")
    assert rules()["PlaitEngineDown"]["state"] != "firing"


def test_promtool_takes_the_rules() -> None:
    if PROGRAMS and os.environ.get("CI") != "true":
        pytest.skip("apt-get install prometheus")
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"SUCCESS: {len(ALERTS)} rules found" in done.stdout, done.stderr
