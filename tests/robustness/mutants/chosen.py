"""A plugin of pytest: of the collected tests those that the file PLAIT_CHOSEN names, in its order.

    {TEST: seconds after which it has hung}

The test that runs is written beside it: one that hangs cannot say its name any more. What does not even get
collected has hung, too.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

CHOSEN = Path(os.environ["PLAIT_CHOSEN"])
COLLECTED_SECONDS = 120
PATIENCE = threading.Timer(COLLECTED_SECONDS, os._exit, (1,))
PATIENCE.daemon = True
PATIENCE.start()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    PATIENCE.cancel()
    limits: dict[str, float] = json.loads(CHOSEN.read_text())
    found = {item.nodeid: item for item in items}
    items[:] = [found[test] for test in limits if test in found]
    for item in items:
        item.add_marker(pytest.mark.timeout(limits[item.nodeid], method="thread"))


def pytest_runtest_logstart(nodeid: str) -> None:
    CHOSEN.with_suffix(".now").write_text(nodeid)
