"""What cffi makes of the benches' headers, of shm/'s and of engine/allowedips.h, between their cdef marks."""

from typing import Any

ffi: Any
lib: Any
