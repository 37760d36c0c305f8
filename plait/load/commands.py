"""`plait load`: simulated peers against a WireGuard gateway: the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from plait.failure import Failure
from plait.load import options as load_options

EXAMPLES = """\b
Examples:
  plait load config --peers 1000 > gateway.conf; wg setconf wg0 gateway.conf
  ip address add 10.64.0.1/10 dev wg0; ip link set wg0 up
  plait load run --peers 1000 --rate 20000 --seconds 10
  plait load run configs/load/storm.toml --require 'handshake_loss<0.1%'
  plait load run --peers 1000 --rate 5000 --lab 'plaitd -f {iface}' --lab 'wireguard-go -f {iface}'
  plait load find 'loss<0.1%' 'p99<5ms' --peers 1000
  plait load report run.json > run.html
  plait load compare before.json after.json --fail-if 'p99>1.1x'
  plait load merge one.json two.json > both.json
"""
RULE = """\b
It sends to loopback addresses, to addresses of this host or network namespace, and to those named
exactly with --i-own-this-target; to nobody else.
"""


@click.group(short_help="Simulate peers, and measure a gateway with them.", epilog=EXAMPLES)
def load() -> None:
    """Simulated peers against a WireGuard gateway: real handshakes, real packets, no TUN on this side.

    The gateway may be any implementation; `plait load config` writes the configuration that knows the peers.
    """


def _gateway_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that simulates peers; a profile has keys of the same names."""
    options = [
        click.option("--target", metavar="ADDRESS:PORT", help="The gateway.  [default: 127.0.0.1:51820]"),
        click.option("--peers", type=click.IntRange(1, 1 << 20), help="How many.  [default: 100]"),
        click.option("--seed", help="Their keys follow from it.  [default: plait]"),
        click.option("--public-key", metavar="KEY", help="The gateway's, when it is not the seed's."),
        click.option("--psk", is_flag=True, default=None, help="Each peer has a preshared key."),
        click.option("--sources", metavar="FIRST+COUNT", help="Consecutive addresses, e.g. 127.1.0.1+500."),
        click.option("--ports", type=click.IntRange(1, 256), help="Of each process.  [default: 1]"),
        click.option("--inner", metavar="NETWORK", help="Of the inner addresses.  [default: 10.64.0.0/10]"),
        click.option(
            "--give-up",
            type=float,
            metavar="SECONDS",
            help="Of silence while handshakes wait.  [default: 15]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@load.command(short_help="Run a profile against a gateway.", epilog=RULE)
@click.argument("profile", required=False, metavar="[PROFILE.toml]")
@_gateway_options
@click.option("--rate", type=float, help="Without a profile: echoes a second, after a storm of handshakes.")
@click.option(
    "--bytes", "size", type=click.IntRange(64, 1920), default=84, help="Of an echo.", show_default=True
)
@click.option("--seconds", type=float, default=10, help="Of echoes.", show_default=True)
@click.option(
    "--outstanding", type=click.IntRange(1), default=64, help="Handshakes at once.", show_default=True
)
@click.option(
    "--cores",
    callback=load_options.cores,
    metavar="LIST",
    help="A process on each, e.g. 0,2 or 0-3.  [default: the last]",
)
@click.option(
    "--require", multiple=True, metavar="TEXT", help="e.g. 'loss<0.1%', 'steady:p99<5ms'; else exit 99."
)
@click.option(
    "--abort-on", multiple=True, metavar="TEXT", help="End when it holds for 5 s, e.g. 'loss>50%'; exit 99."
)
@click.option("--json", "json_file", metavar="FILE", help="Write everything there; - is standard output.")
@click.option("--i-own-this-target", "owned", multiple=True, metavar="ADDRESS", help="It may be sent to.")
@click.option(
    "--lab",
    "engines",
    multiple=True,
    metavar="[NAME=]COMMAND",
    help="A gateway to start in a lab of namespaces; repeat it to compare, e.g. 'plaitd -f {iface}'.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=1, help="Of a lab: engines take turns.", show_default=True
)
@click.option(
    "--gateway-cores",
    callback=load_options.cores,
    metavar="LIST",
    help="Of a lab: where engines may run.",
)
@click.option(
    "--gateway-pid",
    type=click.IntRange(1),
    metavar="PID",
    help="A process in the gateway's network namespace: its counters tell what was lost on the way there.",
)
@click.option(
    "--provider",
    metavar="COMMAND",
    help="Of a lab: who answers for peers that only a provider knows.  "
    "[default: plait peers {iface} --file {file}]",
)
@click.option(
    "--set",
    "changed",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of a profile: phase.steady.rate=5000, retry=2.",
)
@click.option(
    "--peers-range",
    callback=load_options.peers_range,
    metavar="A-B",
    help="Of several machines: the peers of this one, with their share of each rate and count.",
)
@click.option(
    "--start-at",
    callback=load_options.start_at,
    metavar="TIME",
    help="Of several machines: when all begin, e.g. 14:30:05.",
)
@click.option(
    "--out",
    "outs",
    multiple=True,
    metavar="FORMAT=PLACE",
    help="While it runs: csv=FILE, ndjson=FILE, prometheus=[ADDRESS]:PORT.",
)
@click.option(
    "--tag",
    "tags",
    multiple=True,
    callback=load_options.tags,
    metavar="NAME=TEXT",
    help="Kept in the JSON and shown on the page; gateway=TEXT: the gateway's version.",
)
@click.pass_context
def run(
    context: click.Context,
    /,
    profile: str | None,
    rate: float | None,
    size: int,
    seconds: float,
    outstanding: int,
    cores: list[int] | None,
    require: tuple[str, ...],
    abort_on: tuple[str, ...],
    json_file: str | None,
    owned: tuple[str, ...],
    engines: tuple[str, ...],
    rounds: int,
    gateway_cores: list[int] | None,
    provider: str | None,
    changed: tuple[str, ...],
    peers_range: range | None,
    start_at: float | None,
    gateway_pid: int | None,
    outs: tuple[str, ...],
    tags: dict[str, str],
    **given: Any,
) -> None:
    """Run a profile, or what options say: a storm of handshakes, then echoes at a rate.

    A peer's handshake counts when it has opened the response and its first data packet was answered. An echo
    is an ICMP echo request in the tunnel, to the gateway's inner address, so its kernel answers.
    At a rate, times count from when an event was due, not from when it left. Ctrl-C, SIGTERM and SIGHUP end a
    run early, exit code 105, and so does a gateway that says nothing for --give-up seconds, exit code 1: what
    was measured until then is printed and written.

    \b
    Exit codes:
      0    all that was due left, and all that was required holds
      1    nobody answered, or the run could not be made
      98   the generator was the limit: it left out what was due, or a requirement failed by its doing alone
      99   a requirement failed, or --abort-on was met
      105  stopped by a signal
    """
    import msgspec

    from plait import extras
    from plait.load import profile as load_profile
    from plait.load import run as load_run
    from plait.load.arrivals import counts_of
    from plait.load.profile import LAB_PORTS

    if json_file or engines:
        extras.require("hdrh", "cannot write histograms")
    load_options.check_effects(
        context, has_profile=profile is not None, has_lab=bool(engines), has_rate=rate is not None
    )
    changes = {key: value for key, value in given.items() if value is not None}
    under = {"ports": LAB_PORTS} if engines else {}
    if profile is None:
        steady = {"name": "steady", "seconds": seconds, "traffic": {"rate": rate, "bytes": size}}
        storm = {"name": "storm", "handshakes": {"outstanding": outstanding}}
        made = load_profile.of_options(
            {"phase": [storm, *([steady] if rate is not None else [])], **under, **changes}, changed
        )
    else:
        made = load_profile.load(profile, changes, changed, under)
    made = msgspec.structs.replace(made, abort_on=(*made.abort_on, *abort_on))
    load_options.check_range(peers_range, made.peers)
    required = (*made.require, *require)
    if engines:
        from plait.load import lab_run as load_lab

        code = load_lab.run(
            made, engines, rounds, cores, gateway_cores, required, json_file, tags, provider
        )
    else:
        code = _run_one(
            made, cores or load_run.default_cores(), list(owned), required, json_file, outs, tags,
            span=peers_range, start_at=start_at,
            arrivals=counts_of(gateway_pid, is_here=not owned),
        )  # fmt: skip
    sys.exit(code)


def _run_one(
    made: Any,
    cores: list[int],
    owned: list[str],
    require: tuple[str, ...],
    json_file: str | None,
    outs: tuple[str, ...],
    tags: dict[str, str],
    **where: Any,
) -> int:
    """One run against one target: screen, summary, JSON, thresholds. The exit code."""
    from contextlib import ExitStack

    from plait.load import abort as load_abort
    from plait.load import document as load_json
    from plait.load import output as load_output
    from plait.load import result as load_result
    from plait.load import run as load_run
    from plait.load import screen as load_screen
    from plait.load import stop as load_stop
    from plait.load import thresholds as load_thresholds
    from plait.load.answers import check_answered
    from plait.result_file import ResultFile

    thresholds = [load_thresholds.parse(text) for text in require]
    names = [phase.name for phase in made.phase]
    load_thresholds.check_phases(thresholds, made.places())
    load_abort.check(made.abort_on, names)

    def text(run: Any) -> str:
        return load_json.text(load_json.document(run, load_json.judge(run, thresholds), tags))

    with ExitStack() as stack:
        stop = load_stop.Stop()
        stack.enter_context(stop.listening())
        screens = stack.enter_context(load_output.opened(outs))
        file = None if json_file is None else stack.enter_context(ResultFile(json_file))
        if file is not None:
            screens.append(load_output.Kept(file, text))
        screen, shown = load_screen.screen()
        with shown:
            done = load_run.execute(
                made, cores, owned, load_output.Several([screen, *screens]), stop, **where
            )
        verdicts = load_json.judge(done, thresholds)
        if file is not None:
            file.last(text(done))
        if json_file != "-":
            load_screen.summary(done)
    for verdict in verdicts:
        if not verdict["holds"]:
            found = load_thresholds.in_its_unit(verdict["text"], verdict["found"])
            why = ": the generator's doing, not the gateway's" if verdict["blame"] else ""
            click.echo(f"plait: load: required {verdict['text']}, found {found}{why}", err=True)
    if done.failure is not None:
        raise done.failure
    if done.signal is not None:
        return load_stop.EXIT_CODE
    if done.aborted is not None:
        click.echo(f"plait: load: ended early: {done.aborted}", err=True)
        return load_thresholds.EXIT_CODE
    check_answered(done)
    blames = [verdict["blame"] for verdict in verdicts if not verdict["holds"]]
    has_limit = load_result.is_limit([phase.counters for phase in done.phases])
    code = load_thresholds.exit_code(blames, has_limit=has_limit)
    if code == load_thresholds.EXIT_GENERATOR:
        words = "the generator was the limit, see above: this says little of the gateway"
        click.echo(f"plait: load: {words}", err=True)
    return code


@load.command(short_help="Find the greatest rate that a gateway bears.", epilog=RULE)
@click.argument("requirements", nargs=-1, required=True, metavar="REQUIREMENT ...")
@_gateway_options
@click.option(
    "--of", "kind", type=click.Choice(["echoes", "handshakes"]), default="echoes", show_default=True
)
@click.option(
    "--bytes", "size", type=click.IntRange(64, 1920), default=84, help="Of an echo.", show_default=True
)
@click.option(
    "--from", "first", type=click.FloatRange(1), default=1000, help="First rate.", show_default=True
)
@click.option("--most", type=click.FloatRange(1), default=1_000_000, help="Last rate.", show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=3, help="Of a trial.", show_default=True)
@click.option(
    "--confirm", type=click.FloatRange(0.1), default=15, help="Seconds of the last one.", show_default=True
)
@click.option(
    "--within",
    type=click.FloatRange(0.1, 50),
    default=5,
    help="Percent that may be missed.",
    show_default=True,
)
@click.option(
    "--cores",
    callback=load_options.cores,
    metavar="LIST",
    help="A process on each, e.g. 0,2 or 0-3.  [default: the last]",
)
@click.option("--json", "json_file", metavar="FILE", help="Write all trials there; - is standard output.")
@click.option("--i-own-this-target", "owned", multiple=True, metavar="ADDRESS", help="It may be sent to.")
@click.pass_context
def find(
    context: click.Context,
    /,
    requirements: tuple[str, ...],
    kind: str,
    size: int,
    first: float,
    most: float,
    seconds: float,
    confirm: float,
    within: float,
    cores: list[int] | None,
    json_file: str | None,
    owned: tuple[str, ...],
    **given: Any,
) -> None:
    """Search the greatest rate of echoes, or of handshakes, at which all REQUIREMENTs hold, e.g. 'loss<0.1%'.

    The rate doubles until a trial fails, then the interval is halved; a longer trial confirms the end.

    \b
    Exit codes: 0 found; 98 found, but the generator was the limit: the gateway may bear more;
    99 nothing holds; 1 nobody answers; 105 stopped by a signal.
    """
    from plait.load import find as load_find
    from plait.load import profile as load_profile
    from plait.load import run as load_run

    if kind == "handshakes":
        load_options.refuse_given(context, ("size",), "--of handshakes sends no echoes", "Leave it out.")
    changes = {key: value for key, value in given.items() if value is not None}
    made = load_profile.of_options({"phase": load_find.phases(kind, size), **changes})
    if kind == "handshakes":
        most = min(most, made.peers * load_profile.RATE_OF_A_PEER)
    search = load_find.Search(min(first, most), most, seconds, confirm, within / 100)
    code = load_find.run(
        made, kind, requirements, search, cores or load_run.default_cores(), list(owned), json_file
    )
    sys.exit(code)


@load.command(short_help="Write the gateway's configuration.")
@click.argument("profile", required=False, metavar="[PROFILE.toml]")
@click.option("--peers", type=click.IntRange(1, 1 << 20), help="How many.  [default: 100]")
@click.option("--seed", help="Keys follow from it: for tests, never for use.  [default: plait]")
@click.option("--inner", metavar="NETWORK", help="Of the inner addresses.  [default: 10.64.0.0/10]")
@click.option("--listen-port", type=click.IntRange(1, 65535), default=51820, show_default=True)
@click.option("--psk", is_flag=True, default=None, help="Each peer has a preshared key.")
@click.option("--format", "form", type=click.Choice(["wg", "uapi"]), default="wg", show_default=True)
@click.option(
    "--for",
    "who",
    type=click.Choice(["gateway", "provider"]),
    default="gateway",
    show_default=True,
    help="provider: the peers of populations that only the provider knows.",
)
def config(
    profile: str | None, listen_port: int, form: str, who: str, **given: Any
) -> None:
    """Write what the gateway must know: `wg setconf` text, or one operation of its configuration socket.

    The gateway's inner address is the first of the network (10.64.0.1), peer n has the one n + 1 after it. Of
    a PROFILE those peers are written that the gateway itself knows; what stands there, options go over.
    """
    from plait.load import key_derivation as load_keys
    from plait.load import profile as load_profile
    from plait.load.process_orders import known_to

    changes = {key: value for key, value in given.items() if value is not None}
    if profile is None:
        # What its peers would do is not told here.
        storm = {"name": "storm", "handshakes": {"outstanding": 1}}
        made = load_profile.of_options({"phase": [storm], **changes})
    else:
        made = load_profile.load(profile, changes)
    groups = known_to(made, who)
    if who == "provider" and not groups:
        raise Failure(
            "there is nothing for a provider",
            "no population of the profile has known = \"provider\"",
            "Name a PROFILE.toml with one.",
        )
    keys = load_keys.Keys(load_keys.seed_bytes(made.seed))
    text = load_keys.setconf_text if form == "wg" else load_keys.uapi_text
    for part in text(keys, groups, port=listen_port if who == "gateway" else None, psk=made.psk):
        sys.stdout.write(part)


@load.command(short_help="A page with plots of a run or a lab.")
@click.argument("run_json", metavar="FILE.json")
@click.option("--output", "-o", metavar="FILE", help="Where to.  [default: stdout]")
def report(run_json: str, output: str | None) -> None:
    """Write one self-contained HTML page: figures, and plots over time."""
    from plait import extras
    from plait.load import report as load_report

    extras.require("hdrh", "cannot read histograms")
    load_report.write(run_json, output)


COMPARE = """\b
Examples:
  plait load compare before.json after.json --fail-if 'p99>1.1x' --fail-if 'steady:loss>+0.1%'
  plait load compare 'lab.json#wireguard-go' 'lab.json#plaitd'
"""


@load.command(short_help="Two runs or labs side by side.", epilog=COMPARE)
@click.argument("before", metavar="A.json")
@click.argument("after", metavar="B.json")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.option(
    "--fail-if",
    multiple=True,
    metavar="TEXT",
    help="'p99>1.1x' times A's, 'loss>+0.1%' more than A's, 'p99>5ms': then exit 99.",
)
def compare(before: str, after: str, as_json: bool, fail_if: tuple[str, ...]) -> None:
    """Put two runs side by side, phase by phase, with B : A as ratios; of labs each engine, with its rounds.

    FILE#NAME is one engine of a lab. What differs in profile, host or version is said first.
    """
    from plait.load import compare as load_compare

    sys.exit(load_compare.run(before, after, as_json=as_json, fail_if=fail_if))


@load.command(short_help="Runs of several machines as one.")
@click.argument("files", nargs=-1, required=True, metavar="FILE.json ...")
@click.option("--output", "-o", metavar="FILE", default="-", help="Where to.  [default: stdout]")
@click.option("--require", multiple=True, metavar="TEXT", help="As of `plait load run`; else exit 99.")
def merge(files: tuple[str, ...], output: str, require: tuple[str, ...]) -> None:
    """Put together what several machines found at once, each with its --peers-range of one profile.

    Counts add up, and so do histograms: percentiles are of all together. The profile's own requirements, and
    those given here, are held against the whole.
    """
    from plait import extras
    from plait.load import merge as load_merge

    extras.require("hdrh", "cannot read histograms")
    sys.exit(load_merge.run(files, output, require))
