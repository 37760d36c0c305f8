"""Programs of Debian that a test cannot do without."""

from __future__ import annotations

import os

import pytest


def needed(package: str, *, is_there: bool) -> None:
    """Without the package the test is skipped, and with CI=true it fails."""
    if is_there:
        return
    said = f"no {package}: install the package of that name, or run scripts/setup --dev"
    if os.environ.get("CI") == "true":
        pytest.fail(said, pytrace=False)
    pytest.skip(said)
