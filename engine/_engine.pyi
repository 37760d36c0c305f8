"""The C of this package as cffi shows it: engine/*.h between their cdef marks."""

from typing import Any

ffi: Any
lib: Any
