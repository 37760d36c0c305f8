#!/usr/bin/env python3
"""Print docs/load-schema.json: the shape of what `plait load` writes (plait/load/schema.py)."""

import json

from plait.load.schema import json_schema

print(json.dumps(json_schema(), indent=1))
