"""numpy's arrays without the library that comes with them.

Control works on columns: arrays and their functions, numpy._core. `import numpy` loads numpy.lib as well, and
that loads linear algebra and annotations. `load_arrays` imports numpy with empty modules in their place.
Whoever asks numpy for what is missing gets it, since all of it is loaded then: late, from whatever stands on
disk by then, so no code of the engine may ask (tests/unit/workers/test_arrays.py). Other programs import
numpy as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final, cast

LEFT_OUT: Final = frozenset({"lib", "matrixlib"})  # of numpy
OF_THE_CORE: Final = ("bincount",)  # which numpy.lib passes on from numpy._core.multiarray


class Missing:
    """Stands for what a module that was left out would have."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def load(self) -> Any:
        return getattr(import_module(self.module), self.name)


class LeftOut(ModuleType):
    """An empty module, which has everything that is imported from it."""

    __all__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Missing:
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(self.__name__, name)


class _LeavesOut:
    """Finder and loader of them. Not of importlib.abc's kinds: that loads shutil, random and more."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        if package == "numpy" and rest.partition(".")[0] in LEFT_OUT:
            return ModuleSpec(name, cast(Any, self), is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return LeftOut(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """It stays empty."""


def load_arrays() -> None:
    """Import numpy: its arrays alone, where this numpy can do without the rest. Nothing if it is loaded."""
    spec = PathFinder.find_spec("numpy") if "numpy" not in sys.modules else None
    places = [f"{place}/lib" for place in (spec and spec.submodule_search_locations) or ()]
    if PathFinder.find_spec("numpy.lib._function_base_impl", places) is None:
        return  # or older than 2.0, or not there: whoever imports it sees
    finder = _LeavesOut()
    sys.meta_path.insert(0, finder)
    try:
        numpy: ModuleType | None = import_module("numpy")
    except Exception:  # a numpy that cannot do without
        numpy = None
    finally:
        sys.meta_path.remove(finder)
    if numpy is None:
        _import_whole()
    else:
        _complete_when_asked(numpy)


def _import_whole() -> None:
    """After a failure. What is complete stays, since an extension cannot be loaded twice."""
    for name in _modules():
        module = sys.modules[name]
        if isinstance(module, LeftOut) or any(isinstance(value, Missing) for value in vars(module).values()):
            del sys.modules[name]
    import_module("numpy")
    for name in _modules():
        package, _, own = name.rpartition(".")
        if package:
            setattr(sys.modules[package], own, sys.modules[name])


def _modules() -> list[str]:
    return [name for name in sys.modules if name == "numpy" or name.startswith("numpy.")]


def _complete_when_asked(numpy: Any) -> None:
    """Forget the empty modules, and have numpy load what is missing when it is asked for it."""
    for name in _modules():
        if isinstance(sys.modules[name], LeftOut):
            del sys.modules[name]
    missing = {name: value for name, value in vars(numpy).items() if isinstance(value, Missing)}
    modules = {name: value.__name__ for name, value in vars(numpy).items() if isinstance(value, LeftOut)}
    others = [
        (module, name, value)
        for module in map(sys.modules.__getitem__, _modules())
        for name, value in vars(module).items()
        if module is not numpy and isinstance(value, Missing)
    ]
    for name in (*missing, *modules):
        delattr(numpy, name)
    for name in OF_THE_CORE:
        if hasattr(numpy._core.multiarray, name):
            setattr(numpy, name, getattr(numpy._core.multiarray, name))
    numpy.matrix = type("matrix", (numpy.ndarray,), {})  # numpy.ravel asks whether an array is one
    usual = numpy.__getattr__

    def look(name: str) -> Any:
        if name not in missing and name not in modules:
            return usual(name)
        numpy.__getattr__ = usual
        complete()
        return getattr(numpy, name)

    def complete() -> None:
        for name, left_out in modules.items():
            setattr(numpy, name, import_module(left_out))
        for module, name, value in [(numpy, *each) for each in missing.items()] + others:
            setattr(module, name, value.load())

    numpy.__getattr__ = look
    if others:  # of the core itself, which would stumble over them
        complete()
        numpy.__getattr__ = usual
