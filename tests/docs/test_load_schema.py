"""docs/load-schema.json is what scripts/load_schema.py prints from plait/load/schema.py."""

from __future__ import annotations

import json
import subprocess
import sys

from plait.load.schema import VERSION
from tests.docs import tables

ROOT = tables.DOCS.parent


def test_the_schema_is_what_the_script_prints() -> None:
    printed = subprocess.check_output([sys.executable, "scripts/load_schema.py"], cwd=ROOT, text=True)
    assert printed == (tables.DOCS / "load-schema.json").read_text(), "run: scripts/pages"
    made = json.loads(printed)
    for name, key in (("Run", "plait_load"), ("LabRun", "plait_load_lab")):
        assert made["$defs"][name]["properties"][key] == {"enum": [VERSION]}
        assert key in made["$defs"][name]["required"]
