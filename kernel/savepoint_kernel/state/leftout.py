"""Attributes that a pickle leaves out, of objects that are as they were.

A ``__getstate__`` leaves a lock or a cache out, and ``__setstate__`` makes others. Of an object
that was changed, these are what is put back. Of one that was not, but shares something with what
was, the lock that a thread waits for and the cache that took an hour have to stay.

Threads: the one that owns the namespace. ``__reduce_ex__`` of users' classes runs here.
"""

from __future__ import annotations

from typing import Any

from ..serialize.pickler import dumps
from ..serialize.reducers import PROTOCOL

MOST = 10_000
"""Objects that are compared at a time: it takes 0.1 ms for each."""


def leaves_out(cls: type) -> bool:
    """Tell whether pickles of instances may leave attributes out: what they have is in code."""
    own: Any = cls
    plain = own.__reduce_ex__ is object.__reduce_ex__ and own.__reduce__ is object.__reduce__
    ordinary = getattr(object, "__getstate__", None)  # since 3.11
    return not plain or getattr(cls, "__getstate__", None) is not ordinary


def left_out(original: Any, loaded: Any, namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of an object that its pickle does not have; none if it has changed.

    Args:
        original: an object with a ``__dict__``.
        loaded: what a pickle of it gave.
        namespace: the live namespace.
    """
    try:
        reduced = original.__reduce_ex__(PROTOCOL)
        state: Any = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
        state = state[0] if isinstance(state, tuple) and len(state) == 2 else state
        attributes = vars(original)
        # Else it is a state of another form, and nobody knows what is in it.
        known = type(state) is dict and all(
            name in attributes and attributes[name] is value for name, value in state.items()
        )
        if not known or len(state) == len(attributes):
            return {}
        now, then = (dumps(each, namespace, in_band=True)[0] for each in (original, loaded))
    except Exception:  # of users: then it is put back as it was loaded
        return {}
    if now != then:
        return {}
    return {name: value for name, value in attributes.items() if name not in state}
