"""Print what cffi may see of C headers: the text between their cdef marks.

usage: cdef.py HEADER... > OUT

A struct is written once, in its header; this is the only reader of the marks.
"""

import re
import sys
from pathlib import Path


def cdef(path: Path) -> str:
    """Return the marked text of one header; comments stay out, cffi needs none."""
    text = path.read_text()
    parts = re.findall(r"/\* cdef begin \*/\n(.*?)/\* cdef end \*/", text, re.DOTALL)
    if not parts:
        raise SystemExit(f"{path}: no cdef marks. Put the declarations between them.")
    return re.sub(r"/\*.*?\*/", "", "\n".join(parts), flags=re.DOTALL)


if __name__ == "__main__":
    print("\n".join(cdef(Path(name)) for name in sys.argv[1:]))
