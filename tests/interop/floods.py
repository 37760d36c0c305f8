"""What floods of initiations leave of a TCP stream. usage: python -m tests.interop.floods [SECONDS [RATE]]

For each kind (flooder.py): a stream through a tunnel of two Plait engines, then one while the flood goes to
the engine that receives it, from the sender's host. Both on this machine, the flooder beside them. Prints
rates, their ratio and what the engine counted; exits with 99 when a stream kept less than KEPT of its rate.
"""

from __future__ import annotations

import sys
from base64 import b64decode
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tunnel import PORT, two_hosts

from plait.lab import PLAIT, Lab

KINDS = ("nothing", "mac1", "cookie")
KEPT = 0.7
FLOODER = Path(__file__).with_name("flooder.py")


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3
    rate = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    kept_all = True
    print(f"{'right':<8} {'Gbit/s':>7} {'flooded':>8} {'kept':>5} {'sent/s':>8}  ends of the flood")
    for kind in KINDS:
        with Lab() as lab:
            tunnel = two_hosts(lab, PLAIT, PLAIT)
            one, two = tunnel.sides
            one.echo(two.address4)
            calm = one.host.iperf3(two.host, two.address4, seconds).bits_per_second / 1e9
            before = two.counters()
            key = b64decode(two.public_key)
            words = [tunnel.link.address(two.host), PORT, key.hex(), kind, rate, seconds + 1.5]
            flooder = one.host.popen([sys.executable, str(FLOODER), *map(str, words)])
            stream = one.host.iperf3(two.host, two.address4, seconds, extra=["-O", "1"])
            flooded = stream.bits_per_second / 1e9
            flooder.wait(seconds + 30)
            sent, _ = map(int, flooder.output().split())
            after = two.counters()
            tunnel.check()
        counted = {name: after[name] - before[name] for name in after
                   if name.startswith("hs_") or name == "drop_mailbox_full"}
        ends = ", ".join(f"{name} {count}" for name, count in counted.items() if count)
        kept = flooded / calm
        kept_all &= kept >= KEPT
        rates = f"{calm:>7.2f} {flooded:>8.2f} {kept:>5.2f} {sent / (seconds + 1.5):>8.0f}"
        print(f"{kind:<8} {rates}  {ends}", flush=True)
    return 0 if kept_all else 99


if __name__ == "__main__":
    sys.exit(main())
