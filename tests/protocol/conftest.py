"""The tests of this directory share the tunnels of the interoperability tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "interop"))
