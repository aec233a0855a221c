"""Restoring a frame of which most columns are as they were: their memory is not read again.

A frame takes over what was loaded (`payload_arrays`), and nothing is written into what it had. So
blocks whose bytes are those that are wanted can be the new ones, where reading would take 1.5 ms
for each megabyte.

Only where nobody else sees the memory: in a co-variable that is one frame, and as long as no other
frame or column has it on pandas' account (copy on write), of which the loaded one would not know.

Threads: the one that owns the namespace.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pickle import PickleBuffer
from typing import Any

from ..state.fingerprint import Piece
from ..state.inplace import Anchors
from ..state.kinds import kind_of
from ..state.payload_arrays import FRAME, address_of
from .patch import Live

Run = tuple[Piece, ...]


def same_frame(live: Live, anchors: Anchors) -> Any:
    """Return the frame, or column, that is all of a co-variable, and was; None if there is none."""
    value = next(iter(live.values.values()))
    kind = kind_of(type(value))
    if kind is None or kind.payload is not FRAME:
        return None
    was = anchors.alive()
    roots = [was[number] for number in anchors.roots.values()]
    return value if all(item is value for item in (*live.values.values(), *roots)) else None


def reusable(frame: Any, live: Live, namespace: dict[str, Any]) -> Mapping[Run, memoryview]:
    """Return memory of a frame by what is in it.

    Args:
        frame: of pandas.
        live: the co-variable that it is.
        namespace: the live namespace.

    Raises:
        Exception: what pickling raises.
    """
    numpy, blocks = sys.modules["numpy"], frame._mgr.blocks
    if live.group.image is None or any(map(_is_shared, blocks)):
        return {}
    raw = live.buffers(namespace)
    if raw is None:
        return {}
    # Not that of an index, nor of categories: others may have it, and nobody keeps account.
    values = [getattr(block.values, "_ndarray", block.values) for block in blocks]
    own = {address_of(array) for array in values if isinstance(array, numpy.ndarray)}
    return {
        run: _innermost(view)
        for run, view in zip(live.group.image.buffers, raw, strict=True)
        if not view.readonly and address_of(numpy.frombuffer(view, "u1")) in own
    }


def _is_shared(block: Any) -> bool:
    refs = getattr(block, "refs", None)  # before pandas 2.0 nothing is shared behind the scenes
    return refs is not None and refs.has_reference()


def _innermost(view: memoryview) -> memoryview:
    """Return the same memory by the array that had it first, so that no chain of them grows."""
    numpy = sys.modules["numpy"]
    holder: Any = view.obj
    while isinstance(holder, numpy.ndarray):
        base = holder.base
        inner = base.obj if isinstance(base, memoryview) else base
        if not isinstance(inner, numpy.ndarray) or inner.nbytes != len(view):
            return PickleBuffer(holder).raw()
        holder = inner
    return view
