"""What cffi makes of generator.h, which is the reference for every name."""

from typing import Any

ffi: Any
lib: Any
