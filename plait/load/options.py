"""Checks the options of `plait load run`; an option that would have no effect is refused."""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Sequence

import click

from plait.failure import Failure

OF_NO_PROFILE = ("rate", "size", "seconds", "outstanding")  # they stand in for a profile
OF_ONE_TARGET = ("target", "public_key", "owned", "outs", "peers_range", "start_at", "gateway_pid")
OF_A_LAB = ("rounds", "gateway_cores", "provider")
CORES_MOST = 1 << 16  # of a range; more than any host has
OF_A_RATE = ("size", "seconds")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")


def check_effects(context: click.Context, *, has_profile: bool, has_lab: bool, has_rate: bool) -> None:
    """Failure for the first option that was given and has no effect beside the others."""
    refused: list[tuple[Sequence[str], str, str]] = []
    if has_profile:
        mend = "Change the profile, or a key of it: --set phase.NAME.traffic.rate=5000."
        refused.append((OF_NO_PROFILE, "the profile says what happens", mend))
    elif not has_rate:
        refused.append((OF_A_RATE, "without --rate no echoes are sent", "Add --rate."))
    if has_lab:
        why, mend = "a lab makes its own gateway and its own times", "Leave it out, or leave --lab out."
        refused.append((OF_ONE_TARGET, why, mend))
    else:
        refused.append((OF_A_LAB, "it is about a lab", "Add --lab COMMAND, or leave it out."))
    for names, why, mend in refused:
        refuse_given(context, names, why, mend)


def refuse_given(context: click.Context, names: Sequence[str], why: str, mend: str) -> None:
    """Failure for the first of these options that was given."""
    flags = {option.name: option.opts[0] for option in context.command.params if option.name}
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source not in (
            click.core.ParameterSource.DEFAULT,
            click.core.ParameterSource.DEFAULT_MAP,
        ):
            raise Failure(f"{flags[name]} has no effect here", why, mend)


def cores(context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """A callback of click: CPU numbers, 0,2 or 0-3, each of which this process may use."""
    if value is None:
        return None
    found: list[int] = []
    try:
        for part in value.split(","):
            first, dash, last = part.strip().partition("-")
            numbers = range(int(first), int(last if dash else first) + 1)
            if not numbers:
                raise ValueError("the last comes before the first")
            found += numbers[:CORES_MOST]
    except ValueError as error:
        raise click.BadParameter("CPU numbers with commas between, for example 0,1 or 0-3") from error
    usable = sorted(os.sched_getaffinity(0))
    if unusable := sorted(set(found) - set(usable)):
        listed = ", ".join(map(str, usable))
        raise click.BadParameter(f"there is no core {unusable[0]} for this process: it has {listed}")
    if len(set(found)) < len(found):
        raise click.BadParameter("a core is named twice: two processes would share it")
    return found


def peers_range(context: click.Context, parameter: click.Parameter, value: str | None) -> range | None:
    """A callback of click: A-B, numbers of the first and the last peer."""
    if value is None:
        return None
    first, _, last = value.partition("-")
    if not (first.isdecimal() and last.isdecimal()) or int(first) > int(last):
        raise click.BadParameter("numbers of the first and the last peer, for example 0-49999")
    return range(int(first), int(last) + 1)


def check_range(span: range | None, peers: int) -> None:
    """Failure when the range ends behind the last peer."""
    if span is not None and span.stop > peers:
        why = f"the profile has peers 0 to {peers - 1}"
        mend = "Name the same --peers on each machine: all of them together."
        raise Failure(f"cannot use --peers-range {span.start}-{span.stop - 1}", why, mend)


def start_at(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A callback of click: 14:30, 14:30:05, 2030-01-02T14:30:05+01:00, or seconds since 1970."""
    if value is None:
        return None
    try:
        if _CLOCK.fullmatch(value):
            clock = datetime.time.fromisoformat(
                value.rjust(5, "0") if len(value) < 6 else value.rjust(8, "0")
            )
            at = datetime.datetime.combine(datetime.date.today(), clock).timestamp()
        elif re.fullmatch(r"\d+(\.\d+)?", value):
            at = float(value)
        else:
            at = datetime.datetime.fromisoformat(value).timestamp()
        datetime.datetime.fromtimestamp(at, datetime.UTC)  # a year of four digits
    except (ValueError, OverflowError) as error:
        raise click.BadParameter("a time: 14:30:05, 2030-01-02T14:30:05Z, or seconds since 1970") from error
    if at <= time.time():
        raise click.BadParameter("that time has passed")
    return at


def tags(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """A callback of click: NAME=TEXT, several times."""
    found: dict[str, str] = {}
    for text in value:
        name, equals, words = text.partition("=")
        if not name or not equals:
            raise click.BadParameter("NAME=TEXT, for example gateway='wireguard-go 0.0.20250522'")
        found[name] = words
    return found
