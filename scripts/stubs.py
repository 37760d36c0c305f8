"""Print the type stub of an extension module, for mypy: what its C headers declare, as Python sees it.

usage: stubs.py CDEF > OUT.pyi

CDEF is what cdef.py prints. A stub is printed at every build beside the module and is not kept in the
repository: the headers are the reference, and a second copy of each name would have to be changed with them.

What a stub says of C, for `struct peer_row` and `uint32_t`:

    peer_row            one of them in its place: rows[3], or a field
    peer_row_p          a pointer to one: ffi.new("struct peer_row *"), ffi.addressof(rows[3])
    Pointer[peer_row]   what a parameter `struct peer_row *` takes: a pointer or an array
    Ints[uint32_t]      what a parameter `uint32_t *` takes, and what a field of that type is
    counter             a value of `enum counter`: the constants of lib, or a cast of an int

A stub holds at type-checking time only: a module names these types in annotations, under TYPE_CHECKING.
"""

import keyword
import re
import sys
from collections.abc import Iterator

from pycparser import c_ast, c_parser

# What cffi knows without being told.
_INTS = [f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)] + ["uintptr_t"]
_BYTES = ("char", "int8_t", "uint8_t")  # a parameter that points to const ones of these takes bytes

_HEAD = '''\
"""Printed by scripts/stubs.py at every build from the C headers of this module, between their cdef marks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from mmap import mmap
from typing import (
    Any, Final, Generic, Literal, NewType, Protocol, SupportsIndex, TypeAlias, TypeVar, overload,
)

from typing_extensions import Buffer

_T = TypeVar("_T")
_Int = TypeVar("_Int")

class CType:
    """What ffi.typeof returns."""
    @property
    def cname(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def fields(self) -> list[tuple[str, _Field]]: ...
    @property
    def elements(self) -> dict[int, str]: ...
    @property
    def relements(self) -> dict[str, int]: ...
    @property
    def item(self) -> CType: ...
    @property
    def length(self) -> int | None: ...

class _Field(Protocol):
    @property
    def type(self) -> CType: ...
    @property
    def offset(self) -> int: ...

class CData:
    """Anything that lives in C's memory."""
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class Null(CData):
    """NULL, which every pointer may be."""

class Address(CData):
    """A pointer or an array of anything."""

class Pointer(Address, Generic[_T]):
    """Points to structs, or to pointers; an array of them is one, too."""
    def __getitem__(self, at: SupportsIndex, /) -> _T: ...
    def __setitem__(self, at: SupportsIndex, value: _T, /) -> None: ...
    def __add__(self, count: SupportsIndex, /) -> Pointer[_T]: ...

class Array(Pointer[_T]):
    """A Pointer that knows its length."""
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_T]: ...

class Ints(Address, Generic[_Int]):
    """Points to integers of the C type that stands in brackets; what is read is a Python int."""
    @overload
    def __getitem__(self, at: SupportsIndex, /) -> int: ...
    @overload
    def __getitem__(self, at: slice[int, int, None], /) -> IntArray[_Int]: ...
    @overload
    def __setitem__(self, at: SupportsIndex, value: SupportsIndex, /) -> None: ...
    @overload
    def __setitem__(self, at: slice[int, int, None], value: Iterable[int] | bytes, /) -> None: ...
    def __add__(self, count: SupportsIndex, /) -> Ints[_Int]: ...

class IntArray(Ints[_Int]):
    """An Ints that knows its length."""
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[int]: ...

class Chars(Address):
    """Points to text."""
    @overload
    def __getitem__(self, at: SupportsIndex, /) -> bytes: ...
    @overload
    def __getitem__(self, at: slice[int, int, None], /) -> CharArray: ...
    def __setitem__(self, at: SupportsIndex | slice[int, int, None], value: bytes, /) -> None: ...
    def __add__(self, count: SupportsIndex, /) -> Chars: ...

class CharArray(Chars):
    """A Chars that knows its length."""
    def __len__(self) -> int: ...

class Doubles(Address):
    """Points to floats."""
    def __getitem__(self, at: SupportsIndex, /) -> float: ...
    def __setitem__(self, at: SupportsIndex, value: float, /) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[float]: ...

class _CBuffer(mmap):
    """What ffi.buffer returns: C's memory as bytes, not a copy.

    numpy's stub lists the buffers that it takes; of those an mmap is the one whose slices are bytes, too.
    """

class _CInt(CData):
    """What a cast to an integer's type returns."""
    def __int__(self) -> int: ...

class _Array(Protocol):
    """numpy's arrays, which are buffers too."""
    @property
    def __array_interface__(self) -> dict[str, Any]: ...

_Memory: TypeAlias = Buffer | _Array
'''

_FFI = """
    NULL: Final[Null]
    error: type[Exception]
    @property
    def errno(self) -> int: ...
    @errno.setter
    def errno(self, value: int) -> None: ...
    def buffer(self, cdata: CData, size: int = ...) -> _CBuffer: ...
    def memmove(self, dest: _Place, src: _Place, n: int) -> None: ...
    def string(self, cdata: Chars, maxlen: int = ...) -> bytes: ...
    def unpack(self, cdata: Ints[Any], length: int) -> list[int]: ...
    def gc(self, cdata: _P, destructor: _Destructor[_P], size: int = ...) -> _P: ...
    def release(self, cdata: CData) -> None: ...
    def list_types(self) -> tuple[list[str], list[str], list[str]]: ...
    def sizeof(self, cdecl: TypeName | CType | CData) -> int: ...
    def alignof(self, cdecl: TypeName | CType) -> int: ...
    def offsetof(self, cdecl: TypeName | CType, *fields: str | int) -> int: ...
    @overload
    def typeof(self, cdecl: TypeName) -> CType: ...
    @overload
    def typeof(self, cdecl: CData) -> CType: ...
    @overload
    def from_buffer(self, memory: _Memory, /, *, require_writable: bool = ...) -> CharArray: ...
    @overload
    def from_buffer(
        self, cdecl: Literal["char[]"], memory: _Memory, /, require_writable: bool = ...
    ) -> CharArray: ...
"""


class Stub:
    """One module's declarations, as text."""

    def __init__(self, text: str) -> None:
        self.constants = re.findall(r"^#define\s+(\w+)\s+\S", text, re.MULTILINE)
        plain = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
        known = "".join(f"typedef int {name};\n" for name in _INTS)
        self.structs: dict[str, c_ast.Struct] = {}  # those with fields
        self.opaque: dict[
            str, None
        ] = {}  # those that Python has pointers to only, in the order of their names
        self.enums: dict[str, list[str]] = {}
        self.nameless: set[str] = set()
        self.functions: list[c_ast.Decl] = []
        for node in c_parser.CParser().parse(known + plain).ext:
            self._note(node)
        self.opaque = {name: None for name in self.opaque if name not in self.structs}

    def _note(self, node: c_ast.Node) -> None:
        if isinstance(node, c_ast.Typedef):
            return
        kind = node.type
        if isinstance(kind, c_ast.FuncDecl):
            self.functions.append(node)
            for _, struct in _named(kind):
                self.opaque[struct] = None
        elif isinstance(kind, c_ast.Struct):
            self._note_struct(kind)
        elif isinstance(kind, c_ast.Enum):
            self.enums[kind.name] = [each.name for each in kind.values.enumerators]
        else:
            raise SystemExit(
                f"stubs.py: cannot read a declaration at {node.coord}. Teach it this kind of one."
            )

    def _note_struct(self, struct: c_ast.Struct) -> None:
        if struct.decls is None:
            self.opaque[struct.name] = None
            return
        self.structs[struct.name] = struct
        for field in struct.decls:
            inner = field.type
            while not isinstance(inner, c_ast.TypeDecl):
                inner = inner.type
            if isinstance(inner.type, c_ast.Struct):
                if inner.type.name is None:  # called after its field here; C has no name to make one by
                    inner.type.name = f"{struct.name}_{field.name}"
                    self.nameless.add(inner.type.name)
                if inner.type.decls is not None:
                    self._note_struct(inner.type)
                else:
                    self.opaque[inner.type.name] = None

    def text(self) -> Iterator[str]:
        yield _HEAD
        for name in _INTS:
            yield f"class {name}: ...\n"
        for name, members in self.enums.items():
            yield f'\n{name} = NewType("{name}", int)  # {", ".join(members[:2])}, ...\n'
        for name in self.opaque:
            yield f"\nclass {name}(CData): ...\n"
        for name, struct in self.structs.items():
            yield from self._class(name, struct)
        yield f"\n_Place: TypeAlias = Address | _Memory | {' | '.join(self.structs)}\n"
        structs = [name for name in self.structs if name not in self.nameless]
        names = [f"struct {name}" for name in structs] + [f"enum {name}" for name in self.enums] + _INTS
        yield f"TypeName: TypeAlias = Literal[{', '.join(map(repr, [*names, 'char', 'int', 'void *']))}]\n"
        yield '_P = TypeVar("_P", bound=Address)\n'
        yield '_P_contra = TypeVar("_P_contra", contravariant=True)\n'
        yield "class _Destructor(Protocol[_P_contra]):\n"
        yield "    def __call__(self, cdata: _P_contra, /) -> object: ...\n"
        yield from self._ffi()
        yield from self._lib()

    def _class(self, name: str, struct: c_ast.Struct) -> Iterator[str]:
        yield f"\nclass _{name}_fields(CData):\n"
        # A field that is called like a word of Python's is read with getattr or ffi.addressof.
        for field in struct.decls:
            if keyword.iskeyword(field.name):
                continue
            value = self._value(field.type)
            if (given := self._assigned(field.type)) is None:
                yield f"    {field.name}: {value}\n"
            else:
                yield f"    @property\n    def {field.name}(self) -> {value}: ...\n"
                yield f"    @{field.name}.setter\n    def {field.name}(self, value: {given}) -> None: ...\n"
        yield f"\nclass {name}(_{name}_fields): ...\n"
        yield f"class {name}_p(Pointer[{name}], _{name}_fields):\n"
        yield f"    def __add__(self, count: SupportsIndex, /) -> {name}_p: ...\n"

    def _ffi(self) -> Iterator[str]:
        yield "\nclass _FFI:"
        yield _FFI
        for name in _INTS:
            yield from _overload(
                "from_buffer",
                f'cdecl: Literal["{name}[]"], memory: _Memory, /, require_writable: bool = ...',
                f"IntArray[{name}]",
            )
        makes = []
        structs = [name for name in self.structs if name not in self.nameless]
        for name in structs:
            makes.append((f"struct {name} *", "Mapping[str, object] | Sequence[object]", f"{name}_p"))
            makes.append((f"struct {name}[]", "int | Sequence[Mapping[str, object]]", f"Array[{name}]"))
        for name in _INTS:
            makes.append((f"{name} *", "SupportsIndex", f"Ints[{name}]"))
            makes.append(
                (f"{name}[]", "SupportsIndex | Iterable[int]", f"IntArray[{name}]")
            )  # bytes are such
        makes.append(("char[]", "int | bytes", "CharArray"))
        makes.append(("char *[]", "int | Sequence[Chars | Null]", "Array[Chars]"))
        makes.append(("double[]", "int | Sequence[float]", "Doubles"))
        for kind, init, made in makes:
            yield from _overload("new", f'cdecl: Literal["{kind}"], init: {init} = ...', made)
        for name in structs:
            yield from _overload(
                "cast", f'cdecl: Literal["struct {name} *"], value: int | Address', f"{name}_p"
            )
        for name in self.opaque:
            yield from _overload(
                "cast", f'cdecl: Literal["struct {name} *"], value: int | Address', f"Pointer[{name}]"
            )
        for name in _INTS:
            yield from _overload("cast", f'cdecl: Literal["{name} *"], value: int | Address', f"Ints[{name}]")
            yield from _overload("cast", f'cdecl: Literal["{name}"], value: int | float | Address', "_CInt")
        yield from _overload("cast", 'cdecl: Literal["char *"], value: int | Address', "Chars")
        yield from _overload("cast", "cdecl: CType, value: int", "_CInt")
        for name, struct in self.structs.items():
            yield from _overload("addressof", f"cdata: {name}, /", f"{name}_p")
            for field in struct.decls:
                if (to := self._pointer_to(field.type)) is not None:
                    yield from _overload(
                        "addressof", f'cdata: _{name}_fields, field: Literal["{field.name}"], /', to
                    )
        yield "\nffi: _FFI\n"

    def _lib(self) -> Iterator[str]:
        # Within the class a function hides the struct that has its name.
        hidden = [each.name for each in self.functions if each.name in (*self.structs, *self.opaque)]
        yield "".join(f"\n_{name}: TypeAlias = {name}\n" for name in hidden)
        yield "\nclass _Lib:\n"
        for name in self.constants:
            yield f"    {name}: Final[int]\n"
        for enum, members in self.enums.items():
            for name in members:
                yield f"    {name}: Final[{enum}]\n"
        for declared in self.functions:
            function = declared.type
            parameters = [each for each in function.args.params if not _is_void(each.type)]
            texts = [f"{_safe(each.name)}: {self._parameter(each.type)}" for each in parameters]
            listed = "".join(f", {text}" for text in [*texts, *(["/"] if texts else [])])
            line = f"    def {declared.name}(self{listed}) -> {self._value(function.type)}: ...\n"
            for name in hidden:
                line = re.sub(rf"\[{name}\]", f"[_{name}]", line)
            yield line
        yield "\nlib: _Lib\n"

    def _value(self, kind: c_ast.Node) -> str:
        """What Python reads of a field, or gets from a function."""
        if isinstance(kind, c_ast.PtrDecl | c_ast.ArrayDecl):
            inner = kind.type
            is_array = isinstance(kind, c_ast.ArrayDecl)
            if not isinstance(inner, c_ast.TypeDecl):
                return f"{'Array' if is_array else 'Pointer'}[{self._value(inner)}]"
            name = _name(inner)
            if isinstance(inner.type, c_ast.Struct):
                has_fields = name in self.structs and not is_array
                return f"{name}_p" if has_fields else f"{'Array' if is_array else 'Pointer'}[{name}]"
            if name in ("char", "double", "void"):
                return {"char": "CharArray" if is_array else "Chars", "double": "Doubles", "void": "Address"}[
                    name
                ]
            return f"{'IntArray' if is_array else 'Ints'}[{name}]"
        name = _name(kind)
        if isinstance(kind.type, c_ast.Struct | c_ast.Enum):
            return name
        return {"void": "None", "double": "float"}.get(name, "int")

    def _assigned(self, kind: c_ast.Node) -> str | None:
        """What a field takes, where that is more than what is read of it."""
        if not isinstance(kind, c_ast.PtrDecl | c_ast.ArrayDecl) or not isinstance(kind.type, c_ast.TypeDecl):
            return None
        name = _name(kind.type)
        if isinstance(kind, c_ast.ArrayDecl):
            if name in _INTS:
                return f"IntArray[{name}] | Iterable[int]"  # bytes are such
            return "Doubles | Sequence[float]" if name == "double" else None
        if isinstance(kind.type.type, c_ast.Struct):
            return f"Pointer[{name}] | Null"
        return f"Ints[{name}] | Null" if name in _INTS else f"{self._value(kind)} | Null"

    def _parameter(self, kind: c_ast.Node) -> str:
        """What Python may give for a parameter."""
        if not isinstance(kind, c_ast.PtrDecl | c_ast.ArrayDecl):
            if isinstance(kind.type, c_ast.Enum):
                return _name(kind)
            return {"double": "float"}.get(_name(kind), "SupportsIndex")
        inner = kind.type
        if not isinstance(inner, c_ast.TypeDecl):
            pointed = self._value(inner)
            return f"Pointer[{pointed}] | Sequence[{pointed} | Null] | Null"
        name = _name(inner)
        if isinstance(inner.type, c_ast.Struct):
            return f"Pointer[{name}] | Null"
        # cffi passes the address of bytes, and takes no copy: only where C promises not to write.
        more = " | bytes" if name in (*_BYTES, "void") and "const" in inner.quals else ""
        if name in ("char", "double", "void"):
            return (
                {"char": "Chars", "double": "Doubles | Sequence[float]", "void": "Address"}[name]
                + more
                + " | Null"
            )
        if "const" in inner.quals:
            more += " | Sequence[int]"
        return f"Ints[{name}]{more} | Null"

    def _pointer_to(self, kind: c_ast.Node) -> str | None:
        """What ffi.addressof(struct, field) returns; of arrays nobody asks that."""
        if not isinstance(kind, c_ast.TypeDecl) or isinstance(kind.type, c_ast.Enum):
            return None
        name = _name(kind)
        if name == "double":
            return "Doubles"
        return f"{name}_p" if isinstance(kind.type, c_ast.Struct) else f"Ints[{name}]"


def _named(function: c_ast.FuncDecl) -> Iterator[tuple[str, str]]:
    """The structs that a function's declaration names."""
    kinds = [function.type, *(each.type for each in function.args.params)]
    for kind in kinds:
        while isinstance(kind, c_ast.PtrDecl | c_ast.ArrayDecl):
            kind = kind.type
        if isinstance(kind, c_ast.TypeDecl) and isinstance(kind.type, c_ast.Struct):
            yield kind.declname, kind.type.name


def _name(kind: c_ast.TypeDecl) -> str:
    """The C type's name without its tag's kind; `int` is what cffi calls int."""
    if isinstance(kind.type, c_ast.IdentifierType):
        name = " ".join(kind.type.names)
        return "int32_t" if name == "int" else name
    return str(kind.type.name)


def _is_void(kind: c_ast.Node) -> bool:
    return isinstance(kind, c_ast.TypeDecl) and _name(kind) == "void"


def _safe(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name


def _overload(name: str, parameters: str, returned: str) -> Iterator[str]:
    yield f"    @overload\n    def {name}(self, {parameters}) -> {returned}: ...\n"


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print("".join(Stub(file.read()).text()), end="")
