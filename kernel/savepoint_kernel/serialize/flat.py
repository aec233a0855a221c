"""Saving what has numbers and strings only: a tenth of the work of `pickler`, and the same format.

Large lists, dicts and sets of nothing else are known by their own pickle: whether there is anything
else in them turns out as they are written, or costs less than a walk.

Threads: the one that owns the objects.
"""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Collection, Mapping
from typing import Any

from .depth import bounded_recursion
from .pickler import too_large
from .reducers import PROTOCOL

LARGE = 10_000
"""Items from which on a container is looked at for whether it holds numbers and strings only."""

FLAT = frozenset({list, dict, set})
"""Types of containers of which one that holds numbers and strings only is copied in no time."""

_ATOMS = frozenset({bool, bytes, complex, float, int, str, type(None)})
_NOTHING = pickle.dumps(None, PROTOCOL)
_SAMPLE = 1000
_MEMO = 3
"""The dict, the name and the value."""


def dumps_plain(named: Mapping[str, Any], *, limit: int | None = None) -> bytes:
    """Pickle what consists of lists, dicts, sets and tuples of numbers and strings only.

    `portable.loads` reads it as it reads the other format: the first of the two pickles is empty.

    Raises:
        NotPicklable: the limit, in bytes, is exceeded.
    """
    with bounded_recursion():
        alone = [value for value in named.values() if _is_large(value)] if len(named) == 1 else []
        once = any(not _starts_with_numbers(v) and _has_each_string_once(v) for v in alone)
        pickled = _plain(named, fast=once)
    if limit is not None and len(pickled) > limit:
        raise too_large(limit)
    return pickled


def dumps_flat(name: str, value: Any) -> bytes | None:
    """Pickle what `dumps_plain` makes of ``{name: value}`` if there are only numbers or strings.

    Finding that out by a walk takes as long as pickling, or longer.

    Args:
        name: of the value.
        value: anything.

    Returns:
        The pickle; None if it is no large list, dict or set, or holds anything else.
    """
    if not _is_large(value):
        return None
    if _starts_with_numbers(value):
        return _dumps_numbers(name, value)
    return _plain({name: value}, fast=True) if _has_each_string_once(value) else None


def items_of(container: Any) -> Collection[Any]:
    """Return what a list, dict or set holds, but for the keys of a dict."""
    items: Collection[Any] = container.values() if type(container) is dict else container
    return items


def _dumps_numbers(name: str, value: Any) -> bytes | None:
    """Pickle a value and see in the same pass that it has numbers, None, True and False only."""
    target = io.BytesIO()
    target.write(_NOTHING)
    pickler = _NumberPickler(target, PROTOCOL)
    try:
        pickler.dump({name: value})
    except _NotFlatError:
        return None
    # Numbers are not memoised; every string, bytearray and container is.
    return target.getvalue() if len(pickler.memo.copy()) == _MEMO else None


def _plain(named: Mapping[str, Any], *, fast: bool) -> bytes:
    target = io.BytesIO()
    target.write(_NOTHING)
    pickler = pickle.Pickler(target, PROTOCOL)
    # Without the memo, which takes four fifths of the time for 200 000 strings.
    pickler.fast = fast
    pickler.dump(named)
    return target.getvalue()


def _is_large(value: Any) -> bool:
    return type(value) in FLAT and len(value) >= LARGE


def _starts_with_numbers(value: Any) -> bool:
    return {type(next(iter(value))), type(next(iter(items_of(value))))} <= {int, float}


def _has_each_string_once(value: Any) -> bool:
    """Tell whether there are only numbers and strings, and no string seems to be repeated.

    One that is would be loaded as many. Some are looked at, neighbours and others: a column of
    labels shows, and so does a sorted one.
    """
    items = items_of(value)
    sample = [*itertools.islice(items, _SAMPLE)]
    sample += itertools.islice(items, _SAMPLE, None, len(value) // _SAMPLE)
    strings = [item for item in sample if type(item) in {str, bytes}]
    return (
        len({*map(id, strings)}) == len(strings)
        and {*map(type, sample)} <= _ATOMS
        and {*map(type, value), *map(type, items)} <= _ATOMS
    )


class _NotFlatError(Exception):
    pass


class _NumberPickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        raise _NotFlatError  # called for all but exact built-in types
