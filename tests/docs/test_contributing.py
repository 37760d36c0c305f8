"""CONTRIBUTING.md has each folder of tests and each PLAIT_ variable; CHANGELOG.md has the version."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
READ = re.compile(  # Python's, C's and a shell's ways to ask for one
    r"""(?:environ|environment)(?:\.get\(|\[)"(PLAIT_\w+)"|^(?:VARIABLE|.*getenv\().*"(PLAIT_\w+)"|"""
    r"""\$\{(PLAIT_\w+)""",
    re.M,
)


def sources() -> list[Path]:
    folders = ("engine", "shm", "workers", "plait", "tests", "scripts")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    kinds = (".py", ".c", ".h", "")
    return [path for path in found if path.suffix in kinds and "corpus" not in path.parts]


def test_every_variable_has_a_row() -> None:
    texts = [path.read_text(errors="replace") for path in sources()]
    read = {name for text in texts for match in READ.findall(text) for name in match if name}
    assert {"PLAIT_CONFIG", "PLAIT_CLOCK", "PLAIT_KEYLOG", "PLAIT_TEST_AEAD", "PLAIT_POINTS"} <= read
    assert {name for name in read if f"`{name}`" not in TEXT} == set()


def test_every_folder_of_tests_has_a_row() -> None:
    modules = [path for path in ROOT.glob("tests/*/**/*.py") if path.name != "__init__.py"]
    folders = {str(path.parent.relative_to(ROOT)) for path in modules}
    assert set(re.findall(r"`(tests/[\w/]+)`", TEXT.split("| folder |")[1].split("\n\n")[0])) == folders


def test_the_changelog_has_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    heads = re.findall(r"^## \[([\w.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heads[0] == "Unreleased" and heads[1] == version
