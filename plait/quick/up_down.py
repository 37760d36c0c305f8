"""`plait up` and `plait down`: a wg-quick(8) file becomes an interface, and goes again.

What wg-quick does with the kernel's module is done with plaitd: engine, keys and peers, addresses, MTU,
DNS, routes, with the hooks between. Each step that changes the host says so on stderr ("[#] ...") and leaves
behind how to undo it; when a step fails, those before it are undone, the latest first. (Hooks are
commands of the user's: what they did is theirs to undo.)
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from engine import uapi
from plait import uapi_client
from plait.failure import Failure
from plait.programs import complaints, ip_json, run_command, undo_command
from plait.quick import conf as wgconf
from plait.quick.quick_file import Conf, check_limits, is_plaitd, read, save
from plait.quick.routes import add_routes, mtu_of, remove_firewall, remove_rules
from plait.signals import interruptible
from workers.environment import tell, unknown

VARIABLE = "WG_QUICK_USERSPACE_IMPLEMENTATION"
START_TIMEOUT = 60.0  # seconds for plaitd to listen, and to end
LONGEST_WAIT = 20.0  # seconds between tries of a name


def up(config: str) -> None:
    """Set up the interface of a wg-quick file. Failure when anything fails; the host is then as before."""
    name, path, conf = read(config)
    _need_root("up", config)
    if ip_json("link", "show", "dev", name):
        mend = f"Take it down first: plait down {config}, or, if no plaitd made it: ip link delete dev {name}"
        raise Failure(f"{name} cannot be set up", "it already exists", mend)
    if conf.interface.dns and not shutil.which("resolvconf"):
        raise Failure(
            f"the DNS lines of {path} cannot be applied",
            "resolvconf is not installed",
            "Install it (apt-get install openresolv), or take these lines out of the file.",
        )
    run_hooks = partial(_run_hooks, name, path, conf)
    with interruptible(), ExitStack() as undo:
        _start_engine(name)
        undo.callback(_undo_engine, name)
        check_limits(name, path, conf)
        run_hooks(conf.interface.pre_up)
        # Added to what PreUp set (a private key, a mark), and with names that PreUp may have made known.
        if any(peer.name for peer in conf.peers) and not is_plaitd(name):
            for peer in conf.peers:  # a comment to others
                peer.name = None
        operation = wgconf.to_set(conf, resolve, append=True)
        print(f"[#] configure {name}: {_peer_count(conf)}", file=sys.stderr)
        uapi_client.change(name, uapi.format_set(operation))
        for address in conf.interface.addresses:
            family = "-4" if address.bits == 32 else "-6"
            run_command("ip", family, "address", "add", str(address), "dev", name)
        device = uapi_client.get(name)
        mtu = conf.interface.mtu or mtu_of(device)
        run_command("ip", "link", "set", "mtu", str(mtu), "up", "dev", name)
        _set_dns(name, conf, undo)
        add_routes(device, conf.interface.table, undo)
        run_hooks(conf.interface.post_up)
        undo.pop_all()


def down(config: str) -> None:
    """Take down the interface of a wg-quick file, and all that `up` did."""
    try:
        name, path, conf = read(config)
    except Failure as failure:
        raise _with_way_out(failure, config) from failure
    _need_root("down", config)
    if not uapi_client.is_live(name):
        mend = "Is it up at all? See `plait show`. What a dead engine left goes with plait up and plait down."
        raise Failure(f"{name} cannot be taken down", "no engine listens for it", mend)
    run_hooks = partial(_run_hooks, name, path, conf)
    with interruptible():
        run_hooks(conf.interface.pre_down)
        device = uapi_client.get(name)
        if conf.interface.save_config:
            save(device, path, conf)
        remove_rules(device, conf.interface.table)
        _stop_engine(name)
        if conf.interface.dns:
            undo_command("resolvconf", "-d", _resolvconf_name(name), "-f")
        remove_firewall(name)
        run_hooks(conf.interface.post_down)


def _with_way_out(failure: Failure, config: str) -> Failure:
    """Why the file is no help, and how its interface, if it is up, goes without it."""
    name = Path(config).name.removesuffix(".conf")
    if not re.fullmatch(r"[a-zA-Z0-9_=+.-]{1,15}", name) or not uapi_client.is_live(name):
        return failure
    way = (
        f"{name} is still up. Without the file it ends by: ip link delete dev {name}. Then no hook of down "
        "runs, and its DNS, rules and firewall stay until plait up and plait down of the mended file."
    )
    return Failure(failure.what, failure.why, f"{failure.next_step} {way}")


def resolve(host: wgconf.Host) -> uapi.Endpoint:
    """The first address of an endpoint's name.

    While no name server answers it is asked again, as wg(8) does: WG_ENDPOINT_RESOLUTION_RETRIES
    times (15), or for ever with `infinity`, at growing intervals.
    """
    variable = "WG_ENDPOINT_RESOLUTION_RETRIES"
    retries = os.environ.get(variable) or "15"
    if retries != "infinity" and not (retries.isascii() and retries.isdecimal()):
        instead = "a name is asked for 15 times more"
        tell("plait", unknown(variable, retries, ("a number", "infinity"), instead))
        retries = "15"
    left = -1 if retries == "infinity" else int(retries)
    wait = 1.0
    while True:
        try:
            answers = socket.getaddrinfo(host.host, host.port, type=socket.SOCK_DGRAM)
            break
        except OSError as error:
            if left == 0 or (isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN):
                mend = "Correct the name, or write its address."
                why = error.strerror or str(error)
                raise Failure(f"the endpoint {host} has no address", why, mend) from error
            print(f"{host}: {error.strerror or error}; trying again in {wait:.1f} s", file=sys.stderr)
        time.sleep(wait)
        left, wait = left - 1, min(wait * 1.2, LONGEST_WAIT)
    family, _, _, _, place = answers[0]
    return uapi.endpoint_of(socket.inet_pton(family, str(place[0]).partition("%")[0]), host.port)


# --- steps --------------------------------------------------------------------------------------


def engine_command() -> str:
    """The program that is started with the interface's name: wg-quick's variable, else plaitd beside us.

    Beside the path of this command first, which may be a link: `plait upgrade` starts what stands there then.
    """
    named = os.environ.get(VARIABLE)
    places = (Path(program).absolute().parent / "plaitd" for program in (sys.argv[0], sys.executable))
    return named or next((str(place) for place in places if os.access(place, os.X_OK)), "plaitd")


def _start_engine(name: str) -> None:
    program = engine_command()
    if not shutil.which(program):
        mend = "Install Plait whole (scripts/setup), so that plaitd stands beside plait."
        if os.environ.get(VARIABLE):
            mend = f"Mend {VARIABLE}, which names it, or unset it for plaitd."
        raise Failure(f"{name} has no engine", f"there is no program {program}", mend)
    from workers.log import level_name

    # With a level plaitd logs to stderr in the background too, and so does wireguard-go.
    run_command(program, name, timeout=START_TIMEOUT, logs_here=bool(level_name(os.environ)))


def _stop_engine(name: str) -> None:
    """Delete the link, which ends its engine, and wait until the engine is gone with its socket."""
    run_command("ip", "link", "delete", "dev", name)
    deadline = time.monotonic() + START_TIMEOUT
    while uapi_client.is_live(name):
        if time.monotonic() > deadline:
            why = f"it still listens {START_TIMEOUT:.0f} s after its interface was deleted"
            raise Failure(f"the engine of {name} does not end", why, "Look at its log, and kill it.")
        time.sleep(0.02)


def _undo_engine(name: str) -> None:
    with complaints():
        _stop_engine(name)


def _set_dns(name: str, conf: Conf, undo: ExitStack) -> None:
    if not conf.interface.dns:
        return
    lines = [f"nameserver {server}" for server in conf.interface.dns]
    if conf.interface.dns_search:
        lines.append(f"search {' '.join(conf.interface.dns_search)}")
    undo.callback(undo_command, "resolvconf", "-d", _resolvconf_name(name), "-f")
    run_command("resolvconf", "-a", _resolvconf_name(name), "-m", "0", "-x", text="\n".join(lines) + "\n")


def _resolvconf_name(name: str) -> str:
    """The name that resolvconf knows the interface by.

    Debian's old resolvconf orders servers by interface patterns; a prefix found there puts ours first. A
    link at its place is systemd's resolvectl, come after it, which knows interfaces by their own names.
    """
    if Path(shutil.which("resolvconf") or "").is_symlink():
        return name
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolvconf/interface-order").read_text().splitlines():
            if match := re.fullmatch(r"([A-Za-z0-9-]+)\*", line.strip()):
                return f"{match[1]}.{name}"
    return name


def _peer_count(conf: Conf) -> str:
    count = len({peer.public_key for peer in conf.peers})
    return f"{count} peer" if count == 1 else f"{count} peers"


def _run_hooks(name: str, path: Path, conf: Conf, hooks: Sequence[str]) -> None:
    """Run commands of the file by bash, %i being the interface. Failure at the first that fails.

    They see what wg-quick's shell would let them see: its options, its variables (not exported) and the
    messages of programs in English.
    """
    interface = conf.interface
    variables = {
        "INTERFACE": name,
        "CONFIG_FILE": str(path),
        "MTU": str(interface.mtu or ""),
        "TABLE": "" if interface.table == "auto" else interface.table,
        "ADDRESSES": interface.addresses,
        "DNS": interface.dns,
        "DNS_SEARCH": interface.dns_search,
    }
    given = " ".join(f"{key}={_shell_value(value)}" for key, value in variables.items())
    for hook in hooks:
        command = hook.replace("%i", name)
        print(f"[#] {command}", file=sys.stderr, flush=True)
        script = f"{given}\neval {shlex.quote(command)}"
        shell = ["bash", "-e", "-o", "pipefail", "-O", "extglob", "-c", script]
        code = subprocess.run(shell, env={**os.environ, "LC_ALL": "C"}, check=False).returncode
        if code:
            mend = "Mend it or take it out of the file."
            raise Failure(f"the hook `{command}` failed", f"exit code {code}", mend)


def _shell_value(value: str | Sequence[object]) -> str:
    """A word of bash, or an array."""
    if isinstance(value, str):
        return shlex.quote(value)
    return f"({' '.join(shlex.quote(str(entry)) for entry in value)})"


def _need_root(verb: str, config: str) -> None:
    if os.geteuid() != 0:
        why = "interfaces, addresses and routes are root's"
        raise Failure(f"{config} cannot be taken {verb}", why, f"Run: sudo {sys.argv[0]} {verb} {config}")
