"""`plait`: the command line. Only click is imported here; each command imports what it needs when it runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from plait import checkout, completion, standard_streams
from plait.failure import Failure
from plait.handoff_option import HandoffChoice
from plait.later import Later
from workers.handoffs import PIPELINE

LATER = {
    "bench": "plait.bench:bench", "fleet": "plait.fleet.commands:fleet", "load": "plait.load.commands:load",
}  # fmt: skip

EXAMPLES = """\b
Examples:
  (umask 077; plait genkey > private.key); plait pubkey < private.key
  plait show                     all interfaces, as `wg show` prints them
  plait show wg0 KEY             one peer, by its public key
  plait show --engine wg0        processes, queues, slots and drops by cause
  plait top wg0                  a live view: rates, busiest peers, CPU, drops
  plait exporter                 metrics for Prometheus at http://127.0.0.1:9586/metrics
  plait events wg0               why nothing happens: refusals by cause, milestones
  plait peers wg0 --file FILE    peers that are set when they first come, out of a file
  plait sync wg0 postgres://…    peers that follow a table of a database
  plait routes wg0               a kernel route for each peer that is connected, to be announced
  plait drain wg0                withdraw it before it is stopped
  plait why KEY|NAME             why that peer is offline
  plait capture wg0 -w FILE      inner and outer packets, for Wireshark
  plait scale wg0 +1             one receiver and one consumer more, while it runs
  plait upgrade wg0              the program that is installed now takes over, sessions and all
  plait up /etc/wireguard/wg0.conf
  plait reload wg0               the changed file, without an interruption
  plait exec ./home.conf -- curl https://intranet.example    without root
  plait doctor                   what this host lacks, and how to mend it
  plait demo                     two hosts and one tunnel, on this machine alone
  plait fleet demo               three gateways on one database; one of them is killed
  plait bench aead               what sealing and opening a packet costs
  plait bench floods             what bad packets cost, and what honest peers keep
  plait load --help              simulated peers against any gateway

The engine itself is started by `plaitd wg0`, and configured by wg(8).
"""


class Plait(Later):
    """The group, with failures printed as one sentence (what: why. Next step.) and exit code 1."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command; what cannot be written, help included, is a failure as well."""
        standard_streams.prepare()
        try:
            if stale := checkout.why_stale():
                raise Failure("the program is not complete", stale, checkout.NEXT_STEP)
            try:
                return super().main(*args, **extra)
            finally:
                sys.stdout.flush()  # now, since a failure at Python's own end would be a traceback
        except Failure as failure:
            click.echo(f"plait: {failure}", err=True)
        except BrokenPipeError:
            pass  # the reader has seen enough
        sys.exit(1)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly
        except OSError as error:
            place = f"{error.filename}: " if error.filename is not None else ""
            step = "Look at that file or device." if place else "See what this host lacks: plait doctor"
            what = f"`plait {ctx.invoked_subcommand}` did not finish"
            why = f"{place}{error.strerror or error}"
            raise Failure(what, why, standard_streams.NEXT_STEPS.get(error.errno or 0, step)) from error


def _version(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from workers import version

        click.echo(f"plait {version.words()}")
        context.exit()


@click.group(cls=Plait, later=LATER, epilog=EXAMPLES,
             context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
              help="Print version, memory layout and commit, and end.")  # fmt: skip
def plait() -> None:
    """Plait, a multiprocess userspace engine for the WireGuard protocol."""


@plait.command(short_help="Write a new private key.")
def genkey() -> None:
    """Write a new private key to standard output."""
    from plait import keys

    keys.warn_about_public_output(sys.stdout.fileno(), sys.stderr)
    click.echo(keys.private_key())


@plait.command(short_help="Write a new preshared key.")
def genpsk() -> None:
    """Write a new preshared key to standard output."""
    from plait import keys

    keys.warn_about_public_output(sys.stdout.fileno(), sys.stderr)
    click.echo(keys.preshared_key())


@plait.command(short_help="Turn a private key into its public key.")
def pubkey() -> None:
    """Read a private key from standard input and write its public key to standard output."""
    from plait import keys

    click.echo(keys.public_key(sys.stdin.buffer.read()))


@plait.command(short_help="Show interfaces and peers, or the engine's insides.")
@click.argument("interface", required=False, shell_complete=completion.engines)
@click.argument("field", required=False)
@click.option("--engine", is_flag=True, help="Processes, queues, slots, drops by cause, AEAD provider.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def show(interface: str | None, field: str | None, engine: bool, as_json: bool) -> None:
    """Show interfaces and peers as `wg show` does.

    INTERFACE is a name, `all` (the default) or `interfaces`. FIELD is one of public-key, private-key,
    listen-port, fwmark, peers, preshared-keys, endpoints, allowed-ips, latest-handshakes, transfer,
    persistent-keepalive, dump: printed alone and tab-separated, for programs. In its place the public key
    of a peer shows that peer alone, at once among any number of peers; so does its name, or the start of
    its key, for which all peers are asked for.
    """
    from plait.watch import show

    show.run(interface, field, engine=engine, as_json=as_json)


@plait.command(short_help="Inner and outer packets in one file, for Wireshark.")
@click.argument("interface", required=False, shell_complete=completion.engines)
@click.option("--peer", metavar="KEY|NAME", help="Packets of this peer alone.")
@click.option("--keys", "with_keys", is_flag=True,
              help="Put the engine's key log in, so that outer packets open: secret, as said above.")
@click.option("-w", "target", metavar="FILE|-", default="-", show_default=True,
              help="Where to: a file, a FIFO, or standard output.")
# What Wireshark gives an extcap program; a capture by hand needs none of it.
@click.option("--extcap-interfaces", is_flag=True, hidden=True)
@click.option("--extcap-dlts", is_flag=True, hidden=True)
@click.option("--extcap-config", is_flag=True, hidden=True)
@click.option("--extcap-version", hidden=True)
@click.option("--extcap-interface", hidden=True)
@click.option("--extcap-capture-filter", hidden=True)
@click.option("--capture", "by_extcap", is_flag=True, hidden=True)
@click.option("--fifo", hidden=True)
def capture(interface: str | None, peer: str | None, with_keys: bool, target: str, **extcap: Any) -> None:
    """Write the inner packets of INTERFACE (decrypted) and the outer ones (UDP of its port) as pcapng, until
    Ctrl-C: each with its peer as a comment. A new file is readable by its owner alone.

    \b
    Examples:
      plait capture wg0 -w wg0.pcapng
      plait capture wg0 --peer KEY | tshark -r -
      plait capture wg0 --keys -w secret.pcapng
      ssh gateway plait capture wg0 | wireshark -k -i -

    The kernel copies the packets, and the engine has no part in it. Packets that the kernel drops because
    this command does not keep up are counted at the end.

    Without --keys no key is ever written. With --keys the file has what plaitd's key log gets from now on
    (PLAIT_KEYLOG, in the environment that plaitd was started with; nothing here begins one): whoever has the
    file can read the traffic, and has the interface's private key. Such a file is refused where others may
    read it.

    As an extcap, Wireshark lists the interfaces by itself: docs/capture.md says how it is installed.
    """
    from plait.capture import commands

    commands.run(interface, peer, with_keys=with_keys, target=target, **extcap)


@plait.command(short_help="Why is this peer offline? In sentences.")
@click.argument("peer", metavar="KEY|NAME")
@click.argument("interface", required=False, shell_complete=completion.engines)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON, a list of what each engine knows.")
def why(peer: str, interface: str | None, as_json: bool) -> None:
    """Say what is known of the peer with the public key KEY: whether it is configured, its last handshake and
    last refusal with their cause, its endpoint, the route to it, what was dropped, and what it waits for.

    A peer's NAME (`# Name = …` in its file), or the start of its key as `plait events` prints it, stands for
    the key. Without INTERFACE all engines of this host are asked.
    """
    from plait.watch import why

    why.run(peer, interface, as_json=as_json)


@plait.command(short_help="Answer an engine that asks about unknown peers.")
@click.argument("interface", shell_complete=completion.engines)
@click.option("--exec", "command", metavar="'PROGRAM %k'", help="Run it for each key; it prints the answer.")
@click.option("--file", "file", metavar="FILE", help="Look each key up in the [Peer] sections of a file.")
@click.option("--jobs", type=click.IntRange(1, 1000), default=16, show_default=True, help="Programs at once.")
@click.option("--timeout", type=click.FloatRange(0.1, 60), default=4, show_default=True,
              help="Seconds that a program has.")
@click.option("--ttl", type=click.IntRange(0, 3600), default=60, show_default=True,
              help="How long a key that FILE does not have is not asked about again, s.")
@click.option("--window", type=click.IntRange(1, 4096), default=256, show_default=True,
              help="Questions that are open at once.")
def peers(interface: str, command: str | None, file: str | None, jobs: int, timeout: float, ttl: int,
          window: int) -> None:  # fmt: skip
    """Be asked by an engine about keys that are no peer's, until Ctrl-C, and set those that are.

    PROGRAM gets the key for %k, the address that it came from for %s and the interface for %i. It prints what
    stands behind `wg set wg0 peer KEY` (keys in base64 instead of files), or `refuse`, or `refuse 300` for so
    many seconds; nothing is a refusal, too. Another exit code than 0 is a refusal that is not remembered.

    FILE is a file of any size as wg(8) reads it. It is read again when it changes.

    \b
    Examples:
      plait peers wg0 --file /etc/wireguard/accounts.conf
      plait peers wg0 --exec 'psql -qAtX -v key=%k -f lookup.sql'
    """
    from plait.peers import commands

    commands.run(interface, command, file, jobs, timeout, ttl, window)


@plait.command(short_help="Have an engine's peers follow a database.")
@click.argument("interface", shell_complete=completion.engines)
@click.argument("url")
@click.option("--once", is_flag=True, help="End when all that the store has is in force.")
@click.option("--dry-run", is_flag=True, help="Print what would change, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: the same as JSON.")
@click.option("--on-demand", is_flag=True, help="Set peers when they first come, and follow those alone.")
@click.option("--fresh", is_flag=True, help="Forget the position, and read all of the store.")
@click.option("--only", is_flag=True, help="Peers that the store does not have go, whoever set them.")
@click.option("--knock", is_flag=True, help="Begin with clients of gateways that died, when they knock.")
@click.option("--listen", metavar="ADDRESS:PORT", help="Serve metrics for Prometheus here.")
@click.option("--state", "directory", metavar="DIRECTORY", default="/run/plait/sync", show_default=True,
              help="Where the position is kept.")  # fmt: skip
@click.option("--window", type=click.IntRange(1, 4096), default=256, show_default=True,
              help="Of --on-demand: questions that are open at once.")
@click.option("--ttl", type=click.IntRange(0, 3600), default=60, show_default=True,
              help="Of --on-demand: how long an unknown key is not asked about again, s.")
def sync(interface: str, url: str, once: bool, dry_run: bool, as_json: bool, on_demand: bool, fresh: bool,
         only: bool, knock: bool, directory: str, listen: str | None, window: int,
         ttl: int) -> None:  # fmt: skip
    """Have the peers of INTERFACE be those of a PostgreSQL table or a NATS bucket, until Ctrl-C.

    \b
    Examples:
      plait sync wg0 'postgres://gateway@db.example/vpn?sslmode=verify-full' --dry-run
      plait sync wg0 'postgres://gateway@db.example/vpn?sslmode=verify-full' --listen :9587
      plait sync wg0 postgres:///vpn --on-demand
      plait sync wg0 tls://nats.example/plait
      plait sync wg0 'postgres://gateway@db.example/vpn' --knock

    Peers that were set by hand stay, and those that do not change keep their sessions. A row that is no peer
    is refused by itself. While the store is away, everything stays as it is. Passwords stand in a file
    that PGPASSFILE or NATS_CREDS names. Exit code 1 when the store cannot be followed, and of --once when a
    row is refused.
    """
    from plait.sync import commands

    commands.run(interface, url, once=once, dry_run=dry_run, as_json=as_json, on_demand=on_demand,
                 fresh=fresh, only=only, knock=knock, directory=directory, listen=listen, window=window,
                 ttl=ttl)  # fmt: skip


@plait.command(short_help="Keep a kernel route for each peer that is connected.")
@click.argument("interface", shell_complete=completion.engines)
@click.option("--table", type=click.IntRange(1, 2**32 - 1), default=254, show_default=True,
              help="The routing table; 254 is main.")
@click.option("--while-ready", multiple=True, metavar="PREFIX",
              help="Also a route for PREFIX while `plait doctor --ready` finds nothing.")  # fmt: skip
def routes(interface: str, table: int, while_ready: Sequence[str]) -> None:
    """Keep a kernel route for each allowed IP of each connected peer of INTERFACE, until Ctrl-C. A routing
    daemon announces them (configs/routing).

    \b
    Examples:
      plait routes wg0
      plait routes wg0 --while-ready 198.51.100.1/32
      ip route show proto 151        what there is

    A peer is connected from the confirmation of its session until that is over, which is 180 s later unless
    there is a newer one. The routes have the protocol number 151; those that an earlier run left behind are
    taken over, or taken away. At the end, and while the interface drains, there are none.
    """
    from plait.fleet import routes

    routes.run(interface, table=table, while_ready=while_ready)


@plait.command(short_help="Withdraw a gateway before it is stopped.")
@click.argument("interface", shell_complete=completion.engines)
@click.option("--grace", type=click.FloatRange(0, 86400), default=30, show_default=True,
              help="Seconds in which sessions are served still.")
@click.option("--undo", is_flag=True, help="Take it back: the gateway goes on.")
def drain(interface: str, grace: float, undo: bool) -> None:
    """Withdraw the routes of `plait routes INTERFACE`, have `plait doctor --ready INTERFACE` say no, and
    wait: routers send clients elsewhere meanwhile, and those that still come are served.

    \b
    Examples:
      plait drain wg0 --grace 10 && systemctl stop plait@wg0
      plait drain wg0 --undo

    The engine is not stopped, and stays so until it is. Its next start is ready again.
    """
    from plait.fleet import drain

    drain.run(interface, grace=grace, undo=undo)


@plait.command(short_help="Watch an engine: rates, busiest peers, CPU, drops.")
@click.argument("interface", required=False, shell_complete=completion.engines)
@click.option("--interval", type=click.FloatRange(0.5, 30), default=1, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Print one table of one interval, and end.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def top(interface: str | None, interval: float, once: bool, as_json: bool) -> None:
    """Watch a running engine: its processes, busiest peers, queues, drops by cause, handshakes.

    Without INTERFACE the first one that answers; tab goes to the next. The last line tells the keys, and
    those above it what is missing. Of many peers the 200 busiest are looked at: sorting and filtering choose
    among these.
    """
    from plait.watch import top

    top.run(interface, interval=interval, once=once, as_json=as_json)


@plait.command(short_help="Serve metrics for Prometheus.")
@click.option("--listen", metavar="ADDRESS:PORT", default="127.0.0.1:9586", show_default=True)
@click.option(
    "--peers/--no-peers", default=None, help="Series for each peer; without either, up to 1,000 peers."
)
@click.option(
    "--busiest", metavar="N", type=click.IntRange(0, 1000), default=100, show_default=True,
    help="Above 1,000 peers, series for so many that carry most.",
)  # fmt: skip
def exporter(listen: str, peers: bool | None, busiest: int) -> None:
    """Serve what every engine on this host tells of itself, for Prometheus, until Ctrl-C.

    \b
    Examples:
      plait exporter
      plait exporter --listen [::1]:9586 --no-peers

    Per-peer series have the names of prometheus_wireguard_exporter: wireguard_sent_bytes_total,
    wireguard_received_bytes_total, wireguard_latest_handshake_seconds.
    """
    from plait import extras

    extras.require("prometheus_client", "cannot serve metrics")
    from plait.watch import exporter

    exporter.run(listen, peers, busiest)


@plait.command(short_help="Follow what handshakes come to, and why nothing happens.")
@click.argument("interface", required=False, shell_complete=completion.engines)
@click.option("--since", metavar="TIME", help="From 90s, 10m, 2h or 1d ago, 2026-01-31T12:00, or now.")
@click.option("--no-follow", is_flag=True, help="End after what is remembered.")
@click.option("--sessions", is_flag=True, help="Begin and end of each session, however many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def events(
    interface: str | None, since: str | None, no_follow: bool, sessions: bool, as_json: bool
) -> None:
    """Show why a tunnel is silent: each refused handshake with its cause, each milestone of each peer.

    First what the engine remembers (the last 1,000), then what comes, until Ctrl-C. INTERFACE is a name or
    `all` (the default). Each line says what happened, why, and what to do. Of many events of one
    kind 5 are shown at once, then one a second, and the others counted; --sessions leaves out none of
    the sessions' begins and ends.
    """
    from plait.watch import events

    events.run(interface, since=since, follow=not no_follow, sessions=sessions, as_json=as_json)


@plait.command(short_help="Have an engine become the program that is installed now.")
@click.argument("interface", shell_complete=completion.engines)
@click.option("--dry-run", is_flag=True, help="Only try whether that program could take over.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def upgrade(interface: str, dry_run: bool, as_json: bool) -> None:
    """Upgrade the engine of INTERFACE while it runs, sessions and all; wait until that is done or refused.

    \b
    Examples:
      plait upgrade --dry-run wg0
      plait upgrade wg0

    The program at the path that plaitd was started from takes over. Exit code 1 when it is refused, with the
    reason: everything goes on as it was then. Ctrl-C ends the waiting, not the upgrade.
    """
    from plait import change

    change.upgrade(interface, dry_run=dry_run, as_json=as_json)


@plait.command(
    short_help="More or fewer receivers and consumers.", context_settings={"ignore_unknown_options": True}
)
@click.argument("interface", shell_complete=completion.engines)
@click.argument("count", metavar="+N|-N|N")
@click.option("--receivers", "which", flag_value="receivers", help="Of receivers alone.")
@click.option("--consumers", "which", flag_value="consumers", help="Of consumers alone.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def scale(interface: str, count: str, which: str | None, as_json: bool) -> None:
    """Change how many receivers and consumers INTERFACE has while it runs, and wait until that is done.

    \b
    Examples:
      plait scale wg0 +1               one more of each
      plait scale wg0 4                four of each
      plait scale --consumers wg0 -1   one consumer fewer

    Prints the numbers before and after. Exit code 1 when it is refused: there is room for as many as
    max_receivers and max_consumers in the settings say.
    """
    from plait import change

    if not re.fullmatch(r"[+-]?[0-9]{1,4}", count):
        raise click.BadParameter(f"{count!r} is none of +N, -N and N", param_hint="count")
    receivers, consumers = (count if which in (None, kind) else "+0" for kind in ("receivers", "consumers"))
    change.scale(interface, receivers, consumers, as_json=as_json)


@plait.command(short_help="Set up an interface from a wg-quick file.")
@click.argument("config", metavar="FILE|INTERFACE", shell_complete=completion.files)
def up(config: str) -> None:
    """Set up the interface that a wg-quick file describes: engine, keys, addresses, MTU, routes, DNS, hooks.

    A bare INTERFACE means /etc/wireguard/INTERFACE.conf. When a step fails, all steps before it are undone.
    """
    from plait.quick import up_down as quick

    quick.up(config)


@plait.command(short_help="Take down what `plait up` set up.")
@click.argument("config", metavar="FILE|INTERFACE", shell_complete=completion.files)
def down(config: str) -> None:
    """Take down the interface that a wg-quick file describes, with its routes, rules and DNS."""
    from plait.quick import up_down as quick

    quick.down(config)


@plait.command(short_help="Make a running interface what its changed file says.")
@click.argument("config", metavar="FILE|INTERFACE", shell_complete=completion.files)
def reload(config: str) -> None:
    """Apply a changed wg-quick file to the running interface: what it no longer has goes, what is new comes.

    \b
    Examples:
      plait reload wg0
      plait reload /etc/wireguard/wg0.conf

    Peers, keys, addresses, MTU, routes, rules and DNS. What is the same in both goes on without an
    interruption; when a step fails, all steps before it are undone. Hooks are not run, and a changed
    Table is refused: these take effect with `plait down` and `plait up`.
    """
    from plait.quick import commands as quick_commands

    quick_commands.reload(config)


@plait.command(short_help="Write a running interface into its wg-quick file.")
@click.argument("config", metavar="FILE|INTERFACE", shell_complete=completion.files)
def save(config: str) -> None:
    """Write what is in force now into the wg-quick file, as `wg-quick save` does: all or nothing.

    \b
    Examples:
      wg set wg0 peer … allowed-ips 10.0.0.7/32; plait save wg0

    Keys, peers, addresses and MTU are the interface's, DNS, Table and hooks are the file's. Comments go.
    """
    from plait.quick import commands as quick_commands

    quick_commands.save(config)


@plait.command(short_help="Print the part of a wg-quick file that wg(8) reads.")
@click.argument("config", metavar="FILE|INTERFACE", shell_complete=completion.files)
def strip(config: str) -> None:
    """Print what `wg setconf` takes of a wg-quick file: all but the lines that are wg-quick's own.

    \b
    Examples:
      plait strip wg0 | wg setconf wg0 /dev/stdin

    Private and preshared keys are in it.
    """
    from plait.quick import commands as quick_commands

    quick_commands.strip(config)


@plait.command("exec", short_help="Run a program whose only network is a tunnel, without root.",
               context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("config", metavar="FILE|INTERFACE", shell_complete=completion.files)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(config: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in namespaces of its own, whose only way out is the tunnel of a wg-quick file.

    \b
    Examples:
      plait exec ./home.conf -- curl https://intranet.example
      plait exec ./home.conf -- bash

    Needs no root, changes nothing on the host, and leaves nothing behind. DNS is the file's. Its hooks,
    Table, FwMark and SaveConfig have no meaning here. The exit code is COMMAND's, 128 + N when a signal
    ended it; 127 when there is no such program, 126 when it may not be run, 125 when the tunnel cannot be
    made or ended first.
    """
    from plait.rootless import command as rootless

    command = command[command[0] == "--":]  # it may stand between the file and the program
    if not command:
        raise click.UsageError("a program is missing behind --")
    sys.exit(rootless.run(config, command))


@plait.command(short_help="A tunnel as SOCKS5, HTTP proxy or single ports, without root.")
@click.argument("config", metavar="FILE|INTERFACE", shell_complete=completion.files)
@click.option("--socks5", multiple=True, metavar="[ADDRESS:]PORT", help="SOCKS5; names are asked inside.")
@click.option("--http", multiple=True, metavar="[ADDRESS:]PORT", help="An HTTP proxy here, with CONNECT.")
@click.option("-L", "local", multiple=True, metavar="[ADDRESS:]PORT:HOST:PORT",
              help="A port here that leads to HOST:PORT through the tunnel.")  # fmt: skip
@click.option("-R", "remote", multiple=True, metavar="[ADDRESS:]PORT:HOST:PORT",
              help="A port inside the tunnel that leads to HOST:PORT here.")  # fmt: skip
def proxy(config: str, socks5: Sequence[str], http: Sequence[str], local: Sequence[str],
          remote: Sequence[str]) -> None:  # fmt: skip
    """Open the tunnel of a wg-quick file to programs outside of it, until Ctrl-C. Needs no root.

    \b
    Examples:
      plait proxy ./home.conf --socks5 1080 --http 8080
      plait proxy ./home.conf -L 8000:intranet.example:80
      plait proxy ./home.conf -R 8000:localhost:8000

    Without ADDRESS it is 127.0.0.1, for -R 0.0.0.0 inside. With port 0 any that is free is taken, and told.
    """
    from plait.rootless import proxy as rootless

    wishes = rootless.Wishes(
        [rootless.place(text) for text in socks5], [rootless.place(text) for text in http],
        [rootless.forward(text) for text in local], [rootless.forward(text, "0.0.0.0") for text in remote],
    )  # fmt: skip
    if wishes == rootless.Wishes([], [], [], []):
        raise click.UsageError("nothing is asked for: give --socks5, --http, -L or -R")
    sys.exit(rootless.run(config, wishes))


@plait.command(short_help="Say what this host lacks, each line with its mend.")
@click.option("--rootless", is_flag=True, help="What `plait exec` needs, for this user.")
@click.option("--ready", metavar="INTERFACE", shell_complete=completion.engines,
              help="Whether this gateway is ready for clients.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def doctor(rootless: bool, ready: str | None, as_json: bool) -> None:
    """Look at what the engine needs of this host. Exit code 1 when something required is missing.

    With --ready it is one interface that is looked at: whether its engine answers, it is up, has a private
    key and a port, has all peers of the database that `plait sync` follows, and is not about to be stopped
    (`plait drain`). Exit code 1 when clients should go elsewhere.
    """
    from plait import doctor

    if rootless and ready:
        raise click.UsageError("--rootless is about this host, --ready about one interface: give one of them")
    sys.exit(doctor.run(as_json=as_json, rootless=rootless, ready=ready))


@plait.command(short_help="Run two hosts and one tunnel on this machine, and measure.")
@click.option("--json", "as_json", is_flag=True, help="The results as JSON.")
@click.option("--seconds", type=click.IntRange(1, 60), default=5, show_default=True, help="Of TCP each way.")
def demo(as_json: bool, seconds: int) -> None:
    """Two network namespaces with an engine in each: handshake, ping, TCP both ways, then a table of results.

    Needs root. It touches nothing outside its own namespaces, and cleans up however it ends.
    """
    from plait import demo

    sys.exit(demo.run(as_json=as_json, seconds=seconds))


@plait.command(short_help="Kill a gateway's processes under traffic, and count what is lost.")
@click.option("--minutes", type=click.FloatRange(0.1, 1440), default=10, show_default=True)
@click.option("--handoff", type=HandoffChoice(), default=PIPELINE, show_default=True)
@click.option("--seed", type=int, help="Repeat the order of an earlier run.")
@click.option("--operations", is_flag=True, help="Also what administrators, containers and laptops do.")
@click.option("--json", "as_json", is_flag=True, help="The results as JSON.")
def soak(minutes: float, handoff: str, seed: int | None, operations: bool, as_json: bool) -> None:
    """A gateway with 200 peers on this machine: kills, roams, new keys and changes at random, then a table.

    With --operations each kill and each operation has a bound on the silence of the tunnel, and the books
    must balance behind it: what went in is what came out plus what was counted. stderr tells each with its
    time; stdout is the table.

    Exit code 1 when anything was lost beyond what docs/reliability.md allows. Needs root. It touches nothing
    outside its own network namespaces.
    """
    if operations:
        from plait.lab import soak_operations

        sys.exit(soak_operations.run(minutes, handoff, seed, as_json=as_json))
    from plait.lab import soak

    sys.exit(soak.run(minutes, handoff, seed, as_json=as_json))


def main() -> NoReturn:
    """The entry point."""
    plait(prog_name="plait")
    raise SystemExit(0)
