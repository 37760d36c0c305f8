"""`plait upgrade` and `plait scale`: change an engine that runs, and say what became of it.

Both are operations on the engine's configuration socket (workers/supervisor/changes.py). Nobody looks for a
process, so the engine may be in any pid namespace, and no other process can be hit.
"""

from __future__ import annotations

import json
from typing import Any

import click

from plait import plaitd_client
from plait.failure import Failure

OLDER = {  # what an engine without these operations can do instead
    "upgrade": "SIGUSR2 upgrades it",
    "scale": "SIGTTIN and SIGTTOU add and take away one of each",
}


def upgrade(interface: str, *, dry_run: bool, as_json: bool) -> None:
    """Have the engine become the program that is installed now, or only try whether it could."""
    told = _ask(interface, "upgrade", "0" if dry_run else "1", as_json)
    if as_json:
        return
    if dry_run:
        click.echo(f"{interface}: {told['program']} can take over: it is {told['says']}")
    else:
        which = "{version} (memory layout {layout}, commit {commit})".format(**told)
        click.echo(f"{interface}: upgraded, every process runs {told['program']} {which}")


def scale(interface: str, receivers: str, consumers: str, *, as_json: bool) -> None:
    """Have so many of each; a sign before a number makes it a difference."""
    told = _ask(interface, "scale", f"{receivers},{consumers}", as_json)
    if not as_json:
        before, after = told["before"], told["after"]
        kinds = (f"{kind} {before[kind]} -> {after[kind]}" for kind in ("receivers", "consumers"))
        click.echo(f"{interface}: {', '.join(kinds)}")


def _ask(interface: str, key: str, value: str, as_json: bool) -> dict[str, Any]:
    """What the engine tells when it is done. Failure in its own words when it refuses."""
    told = plaitd_client.await_change(interface, key, value)
    if told is None:
        raise _unknown(interface, key)
    if as_json:
        click.echo(json.dumps({"interface": interface, **told}, indent=2))
    if refused := told["refused"]:
        mend = refused["next"]
        raise Failure(refused["what"], refused["why"], f"{mend[:1].upper()}{mend[1:]}.")
    return told


def _unknown(interface: str, key: str) -> Failure:
    """Of an engine that did not take the request for what it is."""
    what = f"{interface} cannot be changed by `plait {key}`"
    try:
        plaitd_client.engine(interface)
    except Failure:
        return Failure(what, "its engine does not know what is asked", "Is it an engine other than plaitd?")
    mend = f"Its supervisor takes signals: {OLDER[key]}; `plait show --engine {interface}` tells its pid."
    return Failure(what, "its engine is an older Plait, which does not know what is asked", mend)
