"""Code of functions that a library's functions make: ``contextmanager``'s helper, a decorator's.

Such a function can't be imported, but the one that makes it can, and has its code among its
constants. It is named by the module, the path of names to it, and its rank among those of the same
path. Other than bytecode this means the same in another version of Python or of the library, as
long as names, parameters and closure are the same; that is checked, the body is not.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from typing import NamedTuple


class LibraryPlace(NamedTuple):
    """Where a library has a function's code; the module's text explains the parts."""

    module: str
    path: tuple[str, ...]
    ordinal: int


# The code objects are kept: a freed one's id could be another's.
_places: dict[str, dict[int, tuple[types.CodeType, LibraryPlace]]] = {}


def library_place_of(code: types.CodeType) -> LibraryPlace | None:
    """Return where an imported module has ``code``; None if nowhere."""
    if code.co_filename not in _places:
        module = _module_of(code.co_filename)
        if module is None:
            return None
        _places[code.co_filename] = {id(found): (found, place) for found, place in _codes(module)}
    known = _places[code.co_filename].get(id(code))
    return None if known is None else known[1]


def library_code_at(place: LibraryPlace, signature: tuple[str, ...]) -> types.CodeType | None:
    """Return the code at a place, of the module as it is installed here.

    Args:
        place: where to look.
        signature: what `signature_of` says it is like.

    Returns:
        None if there is none, or none like that.

    Raises:
        ImportError: there is no such module here.
    """
    for code, found in _codes(importlib.import_module(place.module)):
        if found == place and signature_of(code) == signature:
            return code
    return None


def signature_of(code: types.CodeType) -> tuple[str, ...]:
    """Return the names of its parameters and of what it closes over."""
    count = code.co_argcount + code.co_kwonlyargcount
    return (*code.co_varnames[:count], "|", *sorted(code.co_freevars))


def _module_of(filename: str) -> types.ModuleType | None:
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == filename and module.__name__ != "__main__":
            return module
    return None


def _codes(module: types.ModuleType) -> Iterator[tuple[types.CodeType, LibraryPlace]]:
    ranks: dict[tuple[str, ...], int] = {}
    for path, code in _of_namespace(dict(vars(module)), module, ()):
        rank = ranks[path] = ranks.get(path, -1) + 1
        yield code, LibraryPlace(module.__name__, path, rank)


def _of_namespace(
    namespace: dict[str, object], module: types.ModuleType, prefix: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], types.CodeType]]:
    for name, value in namespace.items():
        value = getattr(value, "__func__", value)  # staticmethod, classmethod
        if isinstance(value, types.FunctionType):
            if value.__code__.co_filename == module.__file__:
                yield from _of_code(value.__code__, (*prefix, name))
        elif isinstance(value, type) and value.__module__ == module.__name__ and not prefix:
            yield from _of_namespace(dict(vars(value)), module, (name,))


def _of_code(
    code: types.CodeType, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], types.CodeType]]:
    yield path, code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _of_code(const, (*path, const.co_name))
