"""Results that functions of cells remember (`functools.lru_cache`), which no pickle has.

They may have been computed from what a way back undoes. One of them alone can't be taken out, so a
cache that got any since is emptied: its function computes again.

Threads: the one that owns the namespace.
"""

from __future__ import annotations

import bisect
import functools
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from ..serialize.tokens import is_importable


class Caches:
    """The caches of functions and methods that names stand for, by what they had at each commit."""

    def __init__(self) -> None:
        # How many results each had computed, and from which commit on.
        self._misses: WeakKeyDictionary[Any, list[tuple[int, int]]] = WeakKeyDictionary()

    def note(self, commit: int, view: Mapping[str, Any]) -> None:
        """Note what they have.

        Args:
            commit: its number, higher than those before.
            view: the names and their values.
        """
        for cached in _found(view.values()):
            known, misses = self._misses.setdefault(cached, []), cached.cache_info().misses
            if not known or known[-1][1] != misses:
                known.append((commit, misses))

    def go_back(self, commit: int, view: Mapping[str, Any]) -> None:
        """Empty those that got something since a commit, or are not as they were there.

        Args:
            commit: its number.
            view: the names and their values.
        """
        for cached in _found(view.values()):
            known = self._misses.get(cached, [])
            at = bisect.bisect(known, commit, key=operator.itemgetter(0))
            if not at or known[at - 1][1] != cached.cache_info().misses:
                cached.cache_clear()
                self._misses.pop(cached, None)  # it counts from zero, and may come to the same


def _found(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        kind = type(value)
        if kind is functools._lru_cache_wrapper:
            if not is_importable(value):
                yield value
        elif issubclass(kind, type) and type.__getattribute__(value, "__module__") == "__main__":
            held = type.__dict__["__dict__"].__get__(value).values()
            for attribute in [*held]:
                if type(attribute) in {classmethod, staticmethod}:
                    attribute = attribute.__func__
                if type(attribute) is functools._lru_cache_wrapper:
                    yield attribute
