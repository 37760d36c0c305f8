"""What Python knows of the shared layout, all of it read from the C headers through cffi."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from shm._shm import ffi, lib

if TYPE_CHECKING:
    import numpy as np

    from shm._shm import CType, TypeName

REGIONS: tuple[str, ...] = tuple(
    name.removeprefix("REGION_").lower()
    for _, name in sorted(ffi.typeof("enum region").elements.items())
    if name.startswith("REGION_")
)
COUNTERS: tuple[str, ...] = tuple(
    name for _, name in sorted(ffi.typeof("enum counter").elements.items()) if name != "COUNTERS"
)


@cache
def layout_hash() -> int:
    """First 8 bytes of SHA-256 over every struct's fields, offsets and sizes and every constant.

    Two processes whose hashes differ must not share a segment.
    """
    text: list[str] = []
    _, structs, _ = ffi.list_types()
    for name in sorted(structs):
        struct = ffi.typeof(cast("TypeName", f"struct {name}"))
        if name == "pool" or struct.fields is None:
            continue  # private memory of one process
        text.append(f"struct {name} {ffi.sizeof(struct)}")
        text += [f"  {field} {f.type.cname} {f.offset}" for field, f in struct.fields]
    text += sorted(f"{name} {value}" for name in dir(lib) if isinstance(value := getattr(lib, name), int))
    return int.from_bytes(hashlib.sha256("\n".join(text).encode()).digest()[:8], "little")


def dtype(ctype: TypeName | CType) -> np.dtype[Any]:
    """Numpy dtype of a C type (a cffi type or its name), padding and offsets as the compiler has them."""
    import numpy as np

    if isinstance(ctype, str):
        ctype = ffi.typeof(ctype)
    if ctype.kind == "enum":
        return np.dtype(np.uint32)
    if ctype.kind == "primitive":
        kind = "i" if int(ffi.cast(ctype, -1)) < 0 else "u"
        return np.dtype(f"{kind}{ffi.sizeof(ctype)}")
    if ctype.kind == "array":
        return np.dtype((dtype(ctype.item), (ctype.length,)))
    if ctype.kind != "struct":
        raise TypeError(f"no numpy type for {ctype.cname}: only numbers, arrays and structs are shared")
    names, fields = zip(*ctype.fields, strict=True)
    return np.dtype(
        {
            "names": names,
            "formats": [dtype(field.type) for field in fields],
            "offsets": [field.offset for field in fields],
            "itemsize": ffi.sizeof(ctype),
        }
    )
