"""What cffi makes of the headers in this directory; they are the reference for every name."""

from typing import Any

ffi: Any
lib: Any
