"""Can anyone tell two values apart? What an original holds already is not written to it again.

Mutable objects are compared by identity, others by type and value. No code of users runs.
"""

from __future__ import annotations

import array
import datetime
import operator
import struct
from collections.abc import Sequence
from typing import Any

from .graph import ATOMS

_EQUAL_IS_SAME = frozenset({bool, bytes, int, str, type(None)})


def same(one: Any, other: Any) -> bool:
    """Return True if nobody can tell the two apart, mutable ones by identity."""
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _EQUAL_IS_SAME:
        return bool(one == other)
    if kind is float:
        return struct.pack("d", one) == struct.pack("d", other)
    if kind is tuple:
        return same_items(one, other)
    if kind in (datetime.date, datetime.timedelta):
        return bool(one == other)
    return False


def same_items(items: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return True if these are the same one by one."""
    if len(items) != len(others):
        return False
    kinds = [*map(type, items)]
    if not all(map(operator.is_, kinds, map(type, others))):
        return False
    # In C, for what long lists are made of.
    known = {*kinds}
    if known <= _EQUAL_IS_SAME:
        return [*items] == [*others]
    if known == {float}:
        return array.array("d", items).tobytes() == array.array("d", others).tobytes()
    return all(map(same, items, others))


def same_members(members: Any, others: Any) -> bool:
    """Return True if two sets, or frozensets, have the same members."""
    base: Any = set if isinstance(members, set) else frozenset
    old, new = [*base.__iter__(members)], [*base.__iter__(others)]
    known = {id(item) for item in old}
    rest = [item for item in new if id(item) not in known]
    if len(old) != len(new) or any(is_object(item) for item in rest):
        return False
    by_value = {item: item for item in old if type(item) in ATOMS} if rest else {}
    return all(item in by_value and same(by_value[item], item) for item in rest)


def is_object(item: Any) -> bool:
    """Return True if ``item`` has an identity, or may hold what has one."""
    return type(item) not in ATOMS
