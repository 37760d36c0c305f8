"""Write the manual pages and the completions of shells below share/, where packages install them from.

usage: manual.py [DIRECTORY]

Names, options and texts are those of `--help` (plait/command.py, plait/plaitd_help.py) and of the schema of
the settings (workers/settings.py). tests/docs/test_manual.py holds share/ to them.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = {"examples": "EXAMPLES", "exit codes": "EXIT STATUS"}  # headings within help texts -> sections
EXIT_STATUS = """\
0 when the command did what it was asked for, 1 when it did not, with the reason on standard error, 2 for a
wrong command line. The description says what differs."""
Page = Callable[[], str]

SETTINGS = """What `wg` has no word for, for the engine of the interface IFACE. plaitd(8) reads the file when
it starts, or the one that `PLAIT_CONFIG` names; without one the defaults hold. A file is taken whole or
refused whole, with file, line, what, why and the next step (exit code 3). `plait doctor` says whether the
files of this host would be taken."""
AT_THE_START = """Nothing needs to be set. An engine that runs is not touched: settings are read at the start,
and `plait scale` alone changes numbers of a running engine. `WG_THREADS` in the environment takes the place
of the default of `receivers` and `consumers`."""

VALUES = {"integer": "N", "float": "NUMBER"}

# roff: nothing of a text may be taken for a request, an escape or a typographer's dash.
_ROFF = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})
_SIGNS = {"\u2026": "...", "\u00d7": "x", "\u2019": "\\(aq"}


def roff(text: str) -> str:
    """One line of roff that shows this text, `code` in bold."""
    made = []
    for number, part in enumerate(re.split(r"`([^`]+)`", " ".join(text.split()))):
        part = part.translate(_ROFF)
        for sign, plain in _SIGNS.items():
            part = part.replace(sign, plain)
        made.append(f"\\fB{part}\\fR" if number % 2 else part)
    line = "".join(made)
    return f"\\&{line}" if line.startswith(".") else line


def verbatim(line: str) -> str:
    """A line of an example, as it stands."""
    text = line.rstrip().translate(_ROFF)
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    return f"\\&{text}" if text.startswith(".") else text


def head(name: str, section: int, brief: str) -> list[str]:
    """The title and the section NAME. No date: the same sources make the same bytes."""
    from workers.version import VERSION

    return [
        f'.TH {roff(name.upper())} {section} "" "Plait {VERSION}" "Plait Manual"',
        ".SH NAME",
        f"{roff(name)} \\- {roff(brief[0].lower() + brief[1:].rstrip('.'))}",
    ]


def entry(term: str, text: str) -> list[str]:
    """A term and what it means; a term alone, when there is nothing to say of it."""
    bold = f"\\fB{roff(term)}\\fR"
    return [".TP", bold, roff(text)] if text else [".PP", bold]


def listed(lines: list[str]) -> Iterator[str]:
    """Lines of terms, their meaning two columns behind and continued further in; or plain examples."""
    shift = min(len(line) - len(line.lstrip()) for line in lines)
    lines = [line[shift:] for line in lines]
    found: list[tuple[str, str]] = []
    for line in lines:
        term, gap, text = re.findall(r"^(\S+(?: ?\S+)*)?( {2,}|$)(.*)", line)[0]
        if term:
            found.append((term, text))
        elif gap and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {text}")
    if not any(text for _, text in found):
        yield from (".PP", ".EX", *map(verbatim, lines), ".EE")
        return
    for term, text in found:
        yield from entry(term, text)


def paragraphs(*texts: str | None) -> tuple[list[str], dict[str, list[str]]]:
    """roff of help texts: their prose, and what stands below a heading of BLOCKS, by section."""
    prose: list[str] = []
    sections: dict[str, list[str]] = {}
    for block in "\n\n".join(inspect.cleandoc(text) for text in texts if text).split("\n\n"):
        # \b alone in a line is click's mark of what must not be wrapped.
        lines = [line for line in block.splitlines() if line.strip(" \b")]
        if not lines:
            continue
        heading, _, behind = lines[0].strip().partition(":")
        section = BLOCKS.get(heading.lower())
        if section and not behind:
            sections.setdefault(section, []).extend(listed(lines[1:]))
        elif section:
            sections.setdefault(section, []).extend([".PP", roff(" ".join([behind, *lines[1:]]))])
        else:
            prose += [".PP", roff(" ".join(lines))]
    return prose[1:], sections


def brief_of(command: click.Command) -> str:
    return command.get_short_help_str(limit=200).removeprefix("Plait, a ")


# What follows takes of click only what its documentation names: its own wording of usage and options changes
# between versions, and the pages must not.
def usage_of(command: click.Command) -> str:
    words = ["[OPTION]..."]
    for argument in (each for each in command.params if isinstance(each, click.Argument)):
        word = argument.metavar or (argument.name or "").upper()
        word += "..." * (argument.nargs == -1 and not word.endswith("..."))
        words.append(word if argument.required or word.startswith("[") else f"[{word}]")
    return " ".join([*words, "COMMAND [ARGUMENT]..."] if isinstance(command, click.Group) else words)


def options_of(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def option_entry(option: click.Option) -> list[str]:
    """An option with its value's kind, what it does, and within which bounds."""
    kind, text = option.type, option.help or ""
    value = option.metavar
    if option.is_flag or option.flag_value is True:
        value = ""
    elif not value:
        value = "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else ""
        value = value or VALUES.get(kind.name.removesuffix(" range"), "TEXT")
    facts = []
    if isinstance(kind, click.types._NumberRangeBase) and kind.min is not None:
        facts.append(f"at least {kind.min:g}" if kind.max is None else f"{kind.min:.12g} to {kind.max:.12g}")
    if option.show_default and option.default is not None:
        facts.append(f"default {option.default}")
    if option.multiple and "again" not in text:
        facts.append("may be given again")
    words = ", ".join(facts)
    term = ", ".join([*option.opts, *option.secondary_opts])
    if words:
        text = f"{text} {words[0].upper()}{words[1:]}."
    return entry(f"{term} {value}".strip(), text)


def contexts(
    command: click.Command, name: str, parent: click.Context | None = None
) -> Iterator[click.Context]:
    """A context of this command and of all below it, in the order of `--help`."""
    context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            if below is not None and not below.hidden:
                yield from contexts(below, each, context)


def page_name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def command_page(context: click.Context) -> str:
    """The page of one command of plait, section 1."""
    command = context.command
    prose, sections = paragraphs(command.help, command.epilog)
    path = context.command_path
    lines = [*head(page_name(context), 1, brief_of(command)),
             ".SH SYNOPSIS", f"\\fB{roff(path)}\\fR {roff(usage_of(command))}",
             ".SH DESCRIPTION", *prose, ".SH OPTIONS"]  # fmt: skip
    for option in options_of(command):
        lines += option_entry(option)
    lines += entry(", ".join(context.help_option_names), "Show the help, and end.")
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for each in list(contexts(command, context.info_name or "", context.parent))[1:]:
            if each.parent and each.parent.command is command:
                lines += [".TP", f"\\fB{roff(page_name(each))}\\fR(1)", roff(brief_of(each.command))]
    if "EXAMPLES" in sections:
        lines += [".SH EXAMPLES", *sections["EXAMPLES"]]
    lines += [".SH EXIT STATUS", *sections.get("EXIT STATUS", [EXIT_STATUS])]
    above = [f"{page_name(context.parent)}(1)"] if context.parent else []
    return page_of(lines, [*above, "plaitd(8)", "plait.toml(5)", "wg(8)"])


def page_of(lines: list[str], others: list[str]) -> str:
    """The text of a page, with the other pages below it. A paragraph needs no mark where a section begins."""
    lines = [line for before, line in zip(["", *lines], lines, strict=False)
             if not (line == ".PP" and before.startswith(".SH"))]  # fmt: skip
    names = [re.sub(r"(.*)(\(\d\))", r"\\fB\1\\fR\2", roff(each)) for each in others]
    return "\n".join([*lines, ".SH SEE ALSO", ", ".join(names)]) + "\n"


def plaitd_page() -> str:
    """plaitd(8): its parser's words. A block of the epilog is a paragraph, or a heading with terms below."""
    from plait import plaitd_help

    parser = plaitd_help.parser()
    usage = parser.format_usage().removeprefix("usage: plaitd").strip()
    lines = [*head("plaitd", 8, "the engine of one WireGuard interface"),
             ".SH SYNOPSIS", f"\\fBplaitd\\fR {roff(usage)}",
             ".SH DESCRIPTION", roff(plaitd_help.DESCRIPTION), ".SH OPTIONS"]  # fmt: skip
    for action in plaitd_actions():
        lines += entry(", ".join(action.option_strings) or str(action.metavar), str(action.help))
    notes: list[str] = []
    sections: list[str] = []
    for block in plaitd_help.EPILOG.split("\n\n"):
        first, *rest = block.splitlines()
        below = [line for line in rest if line.startswith(" ")]
        if not below:
            notes += [".PP", roff(block[0].upper() + block[1:])]
            continue
        title = BLOCKS.get(first.rstrip(":"), first.rstrip(":").upper())
        sections.append(f".SH {roff(title)}")
        if title == "EXIT STATUS":
            for code, text in exit_codes(rest):
                sections += entry(code, text)
            continue
        sections += listed(below)
        for line in rest:
            if not line.startswith(" "):
                sections += [".PP", roff(line)]
    lines += [".SH NOTES", *notes[1:], *sections, ".SH FILES"]
    lines += entry("/etc/plait/IFACE.toml", "settings of the engine, plait.toml(5)")
    lines += entry("/var/run/wireguard/IFACE.sock", "the configuration socket, which wg(8) finds by itself")
    return page_of(lines, ["plait(1)", "plait.toml(5)", "wg(8)", "wg-quick(8)", "ip-link(8)"])


def exit_codes(lines: list[str]) -> list[tuple[str, str]]:
    """(code, meaning) of each."""
    return re.findall(r"(\d+(?: \+ N)?) (\D+?)(?= *\d|$)", " ".join(" ".join(lines).split()))


def plaitd_actions() -> list[argparse.Action]:
    """What plaitd's help shows, its argument last."""
    from plait import plaitd_help

    shown = [each for each in plaitd_help.parser()._actions if each.help != argparse.SUPPRESS]
    return sorted(shown, key=lambda each: not each.option_strings)


def settings_page() -> str:
    """plait.toml(5): the schema, and the words of docs/settings.md about limits."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import settings_page as page

    from workers.settings import KEYS

    defaults = page.defaults()
    lines = [*head("plait.toml", 5, "settings of a Plait engine"),
             ".SH SYNOPSIS", "\\fI/etc/plait/IFACE.toml\\fR",
             ".SH DESCRIPTION",
             roff(SETTINGS), ".PP", roff(AT_THE_START),
             ".SH SETTINGS"]  # fmt: skip
    for key, takes in KEYS.items():
        lines += [".TP", f"\\fB{roff(key)}\\fR", roff(f"{takes}."), ".br", roff(f"Default: {defaults[key]}.")]
    lines += [".SH LIMITS", "Whom a limit refuses, and what is read then."]
    for keys, who, reads in page.LIMITS:
        lines += [".TP", f"\\fB{roff(keys)}\\fR", roff(f"{who}."), ".br", roff(f"{reads}.")]
    lines.append(".SH EXAMPLE")
    example = (ROOT / "configs/one-core.toml").read_text().splitlines()
    lines += [".EX", *map(verbatim, example), ".EE"]
    return page_of(lines, ["plaitd(8)", "plait(1)"])


def completion(of_shell: type[ShellComplete]) -> str:
    """Click's own: the shell asks `plait` for what fits."""
    from plait.command import plait

    # Not the class's own source(), which asks the bash of this machine for its version.
    made = ShellComplete.source(of_shell(plait, {}, "plait", "_PLAIT_COMPLETE"))
    return "\n".join(line.rstrip() for line in made.strip().splitlines()) + "\n"


def plaitd_flags() -> list[str]:
    return [flag for action in plaitd_actions() for flag in action.option_strings]


def plaitd_bash() -> str:
    return f"""\
_plaitd() {{
    local names
    names=$(compgen -G '/etc/plait/*.toml' | sed 's,.*/,,; s,[.]toml$,,')
    mapfile -t COMPREPLY < <(compgen -W "{' '.join(plaitd_flags())} $names" -- "${{COMP_WORDS[COMP_CWORD]}}")
}}
complete -F _plaitd plaitd
"""


def plaitd_zsh() -> str:
    def one(action: argparse.Action) -> str:
        names = action.option_strings
        if len(names) == 1:
            return f"'{names[0]}[{action.help}]'"
        return f"'({' '.join(names)})'{{{','.join(names)}}}'[{action.help}]'"

    options = " \\\n    ".join(one(action) for action in plaitd_actions() if action.option_strings)
    return f"""\
#compdef plaitd
local -a interfaces
interfaces=(/etc/plait/*.toml(N:t:r))
_arguments \\
    {options} \\
    '1:interface:($interfaces)'
"""


def plaitd_fish() -> str:
    lines = []
    for action in plaitd_actions():
        names = action.option_strings
        flags = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names]
        if flags:
            lines.append(f"complete -c plaitd {' '.join(flags)} -d '{action.help}'")
    lines.append("complete -c plaitd -f -a \"(path basename -E /etc/plait/*.toml 2>/dev/null)\"")
    return "\n".join(lines) + "\n"


def files() -> dict[str, Page]:
    """Each file below share/ -> what makes its text."""
    from plait.command import plait

    made: dict[str, Page] = {
        f"man/man1/{page_name(each)}.1": partial(command_page, each) for each in contexts(plait, "plait")
    }
    return made | {
        "man/man8/plaitd.8": plaitd_page,
        "man/man5/plait.toml.5": settings_page,
        "bash-completion/completions/plait": partial(completion, BashComplete),
        "bash-completion/completions/plaitd": plaitd_bash,
        "zsh/site-functions/_plait": partial(completion, ZshComplete),
        "zsh/site-functions/_plaitd": plaitd_zsh,
        "fish/vendor_completions.d/plait.fish": partial(completion, FishComplete),
        "fish/vendor_completions.d/plaitd.fish": plaitd_fish,
    }


def main(arguments: list[str]) -> None:
    place = Path(arguments[0]) if arguments else ROOT / "share"
    made = files()
    for old in place.rglob("*"):
        if old.is_file() and str(old.relative_to(place)) not in made:
            old.unlink()  # of a command that is no more
    for name, text in made.items():
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1:])
