"""docs/settings.md names each setting, in its order, with its default and the words of a refusal."""

from __future__ import annotations

import json

import msgspec
import tables

from workers.settings import KEYS, Settings


def test_each_setting_is_there_with_its_default() -> None:
    rows = [row for row in tables.rows("settings.md") if row[0] != "key"]
    assert [(row[0].strip("`"), row[2]) for row in rows] == list(KEYS.items())
    fixed = {field.name: field.default for field in msgspec.structs.fields(Settings)
             if field.default not in (None, msgspec.NODEFAULT)}
    told = {row[0].strip("`"): json.loads(row[1].strip("`")) for row in rows if row[1].startswith("`")}
    assert told == fixed and all(row[1] for row in rows)
