"""Format the C sources as .clang-format says; with --check tell which are not. `scripts/format` runs this.

Kept mutants (tests/robustness/mutants/kept.py) quote the sources. A quote that a format breaks is rewritten
where only white space differs; others are listed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEND = "run: scripts/format"


def files() -> list[str]:
    """The C sources and headers of the repository."""
    command = ["git", "ls-files", "*.c", "*.h"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [name for name in listed.stdout.split() if (ROOT / name).is_file()]
    assert len(found) >= 150, f"{len(found)} files of C are too few"
    return found


def program() -> str:
    """The clang-format beside this Python."""
    return str(Path(sys.executable).parent / "clang-format")


def unformatted() -> list[str]:
    """Each file that would change, by one look of several processes."""
    command = [program(), "--dry-run", "-Werror", "--style=file"]
    names = files()
    parts = [names[first::2] for first in range(2)]
    running = [
        subprocess.Popen([*command, *part], cwd=ROOT, stderr=subprocess.PIPE, text=True) for part in parts
    ]
    said = "".join(process.communicate()[1] for process in running)
    return sorted(set(re.findall(r"^(\S+?):\d+:\d+: error: code should be clang-formatted", said, re.M)))


def open_lists() -> None:
    """What clang-format 23 breaks badly, here before it looks: an enum of one line gets a line a value, and
    an initializer with names over several lines a comma at its end, by which it gets a line a name."""
    for path in map(ROOT.joinpath, files()):
        text = path.read_text()
        opened = re.sub(
            r"^([ ]*(?:typedef )?enum(?: \w+)?) \{ ((?:\w+(?: = [^,{}]+)?, )*\w+(?: = [^,{}]+)?) \}",
            lambda m: m[1] + " {\n" + ",\n".join("    " + v for v in m[2].split(", ")) + "\n}",
            text,
            flags=re.M,
        )
        opened = re.sub(r"(\{ ?\.\w+ = [^{}#]*\n[^{}#]*?[^,\s{}#]) ?\}", r"\1, }", opened)
        if opened != text:
            path.write_text(opened)


def requote(before: dict[str, str]) -> list[str]:
    """Quotes of kept mutants follow their text. Returns those that no longer stand in it."""
    sys.path.insert(0, str(ROOT))
    from tests.robustness.mutants import kept

    place = ROOT / "tests/robustness/mutants/kept.py"
    text, lost = place.read_text(), []
    for mutant in kept.KEPT:
        source = (ROOT / mutant.path).read_text()
        if source.count(mutant.old) == 1 or mutant.path not in before:
            continue
        # The same words with any white space between them.
        words = r"\s*".join(re.escape(word) for word in re.findall(r"\w+|[^\w\s]", mutant.old))
        found = re.findall(words, source)
        if len(found) != 1:
            lost.append(f"{mutant.path}: {mutant.name}")
            continue
        old, new = (repr(part)[1:-1].replace('"', '\\"') for part in (mutant.old.strip("\n"), found[0]))
        if text.count(old) == 1:
            text = text.replace(old, new)
        else:
            lost.append(f"{mutant.path}: {mutant.name}")
    place.write_text(text)
    return lost


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        wrong = unformatted()
        for name in wrong:
            print(f"{name} is not formatted; {MEND}")
        return int(bool(wrong))
    before = {name: (ROOT / name).read_text() for name in files()}
    open_lists()
    for _ in range(4):  # what one run moves, the next aligns
        subprocess.run([program(), "-i", "--style=file", *files()], cwd=ROOT, check=True)
    for quote in requote(before):
        print(f"mend by hand: {quote}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
