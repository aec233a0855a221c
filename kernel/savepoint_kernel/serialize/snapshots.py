"""Globals that are a copy of ``__main__``: those of the methods attrs generates, of ``%run``.

attrs copies all of ``vars(sys.modules[cls.__module__])`` for the methods of each class. With such a
copy, a class of three lines would be saved together with every value the notebook had then. So only
what the functions use is saved.

Which functions that is turns out as they are pickled. If one comes after the copy was written and
uses more, the pickle is made once more.

Threads: the one that pickles.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

_ANY = frozenset({"globals", "eval", "exec", "locals", "vars"})
"""A function that uses one of these may use any name."""


class Snapshots:
    """The copies met in one pickle.

    Args:
        namespace: the live namespace.
        known: names used of each copy, by id, as an earlier pickle of the same objects found them.
    """

    def __init__(self, namespace: dict[str, Any], known: Mapping[int, frozenset[str]]) -> None:
        self._namespace = namespace
        self._used = dict(known)
        self._written: dict[int, frozenset[str]] = {}
        self._stand_ins: dict[int, _Copy] = {}

    def stand_in(self, function: types.FunctionType) -> Any:
        """Return what is pickled for a function's globals; None if they are no such copy."""
        found = function.__globals__
        if not is_copy(found, self._namespace):
            return None
        used = self._used.get(id(found), frozenset({"__name__"})) | names_in(function.__code__)
        self._used[id(found)] = used
        return self._stand_ins.setdefault(id(found), _Copy(self, found))

    def items(self, copy: dict[str, Any]) -> dict[str, Any]:
        """Return what of a copy is used."""
        used = self._written[id(copy)] = self._used[id(copy)]
        return _used(copy, used)

    @property
    def missed(self) -> Mapping[int, frozenset[str]]:
        """What to know for the next pickle; empty if this one has everything."""
        complete = all(self._used[copy] == used for copy, used in self._written.items())
        return {} if complete else self._used


class _Copy:
    def __init__(self, snapshots: Snapshots, copy: dict[str, Any]) -> None:
        self._snapshots = snapshots
        self._copy = copy

    def __reduce__(self) -> tuple[Any, ...]:
        # The items come after the dict: they may lead back to it.
        return dict, (), None, None, iter(self._snapshots.items(self._copy).items())


def is_copy(found: dict[str, Any], namespace: Mapping[str, Any]) -> bool:
    """Tell whether globals are a copy of ``__main__`` rather than the live namespace."""
    return found is not namespace and found.get("__name__") == "__main__"


def used_by(function: types.FunctionType) -> dict[str, Any]:
    """Return what of its globals a function may use."""
    return _used(function.__globals__, names_in(function.__code__))


def _used(found: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    if not names.isdisjoint(_ANY):
        return found
    return {name: found[name] for name in sorted(names & found.keys())}


def names_in(code: types.CodeType) -> frozenset[str]:
    """Return the names of globals and attributes that code and the functions in it use."""
    inner = (names_in(const) for const in code.co_consts if isinstance(const, types.CodeType))
    return frozenset(code.co_names).union(*inner)
