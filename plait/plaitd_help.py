"""What plaitd says of itself: `plaitd --help`, and what is wrong with a command line."""

from __future__ import annotations

import argparse

from workers.failure import Exit

DESCRIPTION = """\
Run the engine of one WireGuard interface. The interface exists as long as the engine runs:
configure it with wg(8), bring it up with ip(8), or let wg-quick do both."""

EPILOG = """\
examples:
  plaitd wg0                       in the background; returns when the interface is ready
  plaitd --foreground wg0          in the foreground, talking to stderr
  WG_QUICK_USERSPACE_IMPLEMENTATION=plaitd wg-quick up wg0
  PLAIT_CONFIG=./one-core.toml plaitd wg0
  wg set wg0 listen-port 51820     then talk to it as to any WireGuard interface

a persistent TUN of that name that nobody uses (ip tuntap add dev wg0 mode tun multi_queue) is
adopted, and left as it was found. Without multi_queue it has one queue, so one receiver.

it ends on SIGINT or SIGTERM, when the interface is deleted (ip link delete wg0), and when its
socket /var/run/wireguard/wg0.sock is removed. When the interface is renamed (ip link set wg0 name
vpn7), so is the socket.

while it runs:
  plait scale wg0 +1     one receiver and one consumer more: up to the room that was laid out at the
                         start (max_receivers, max_consumers in the settings)
  plait upgrade wg0      every process becomes one of the program that is installed now, under the
                         same pid, sessions and all. Refused, with the reason, when that program does
                         not start or lays its memory out in another way

signals to the supervisor (MAINPID of a service manager):
  SIGTTIN, SIGTTOU   one of each more, fewer; the log has the answer
  SIGUSR2            upgrade; the log has the answer
  SIGHUP             reopen WG_LOG_FILE (logrotate renames it, then sends this); without one it is only logged
  SIGINT, SIGQUIT, SIGTERM   end
  SIGUSR1, SIGALRM, SIGVTALRM, SIGPROF, SIGPOLL, SIGPWR, SIGSTKFLT, SIGXCPU   nothing

environment:
  PLAIT_CONFIG           settings file instead of /etc/plait/IFACE.toml
  LOG_LEVEL              verbose or debug, info (default), error, silent; WG_LOG_LEVEL likewise. Another word
                         is told once, and means info
  WG_LOG_FILE            append the log to this file
  WG_PROCESS_FOREGROUND  1: as --foreground
  WG_TUN_FD, WG_UAPI_FD  use these inherited descriptors: a TUN queue, a listening socket
  PLAIT_UDP4_FD, PLAIT_UDP6_FD   likewise: UDP sockets, bound to one port, of whatever network namespace. One
                         receiver then, and the listen port stays
  WG_THREADS             receivers and consumers, where the settings do not say it
  NOTIFY_SOCKET, WATCHDOG_USEC   a service manager is told of readiness and life (sd_notify)
  PLAIT_KEYLOG           append the keys of every handshake to this file, for Wireshark: whoever
                         reads it can read the traffic

the log goes to
  WG_LOG_FILE        when it is set
  stderr             in the foreground, and in the background when a level is set; with the priorities of
                     sd-daemon when it is a stream to journald (JOURNAL_STREAM)
  syslog, /dev/log   in the background with neither; where there is none, plaitd says so
It never holds the engine up: what its destination does not take in time is dropped, and the number told.

exit codes:
  0 clean end   1 fault of Plait   2 usage    3 settings    4 privileges   5 interface or TUN
  6 UAPI socket 7 UDP port         8 memory   9 a worker process failed to start
  128 + N ended by signal N while it waited for an engine in the background, which then ends too"""


def parser() -> argparse.ArgumentParser:
    """Of the command line that daemon.Options has."""
    made = argparse.ArgumentParser(
        prog="plaitd",
        usage="plaitd [-f | --foreground] IFACE",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    made.add_argument("--inherit", type=int, metavar="FD", help=argparse.SUPPRESS)  # supervisor/upgrade.py
    made.add_argument("--trial", action="store_true", help=argparse.SUPPRESS)
    said = "print version, memory layout and commit"
    made.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help=said)
    made.add_argument("interface", metavar="IFACE", help="name of the interface to make, for example wg0")
    return made


class _Version(argparse.Action):
    """Looks the version up only when asked: a checkout asks git."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from workers import version

        print(f"plaitd {version.words()}")
        parser.exit(Exit.OK)
