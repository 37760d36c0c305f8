"""The entry point of plaitd: nothing but Plait's own modules and its interpreter's are loaded.

A package `engine` or `workers` of somebody else's, which PYTHONPATH names, must not take the place of
ours, so this module imports nothing of Plait before that is settled.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run plait.daemon with what the shell said. Returns its exit code."""
    if os.environ.get("PYTHONPATH") and not sys.flags.ignore_environment:
        os.execv(sys.executable, [sys.executable, "-P", "-E", *sys.argv])
    if not sys.flags.safe_path:
        del sys.path[0]  # the directory of the script
    from plait import checkout

    if stale := checkout.why_stale():
        print(f"plaitd: the program is not complete: {stale}; {checkout.NEXT_STEP}", file=sys.stderr)
        return 1
    from plait import daemon

    return daemon.main()


if __name__ == "__main__":
    sys.exit(main())
