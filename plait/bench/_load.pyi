"""What cffi makes of load.h, which is the reference for every name."""

from typing import Any

ffi: Any
lib: Any
