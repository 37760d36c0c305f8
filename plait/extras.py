"""Libraries that one or two commands need, and no engine: the extras of pyproject.toml."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

from plait.failure import Failure

LIBRARIES = {
    "hdrh": "hdrhistogram", "matplotlib": "matplotlib", "nats": "nats-py[nkeys]",
    "prometheus_client": "prometheus-client", "psycopg": "psycopg[binary]",
}  # fmt: skip


def require(module: str, what: str, find: Callable[[str], object] = importlib.util.find_spec) -> None:
    """Raise Failure, with `what` cannot be done, where the library of this module is not installed. To be
    called before a command begins, not after it has measured."""
    if find(module) is None:
        library = LIBRARIES[module]
        # Not `pip install 'plait[…]'`: that would ask an index for another program called plait.
        next_step = f"Install it where Plait is: {sys.executable} -m pip install {library}"
        if find("pip") is None:  # a package of a distribution: what is there is the package's business
            next_step = f"Put Plait's wheel into a virtual environment, and there: pip install {library}"
        raise Failure(what, f"the Python library {library} is not installed", next_step)
