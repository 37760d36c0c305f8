"""The C of this package as cffi sees it: its headers, between their cdef marks."""

from typing import Any

ffi: Any
lib: Any
