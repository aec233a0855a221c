"""Memory that several objects see is common again after a rollback, or nothing is refilled."""

from __future__ import annotations

import array
import sys
from collections.abc import Collection, Iterator
from typing import Any

from ..serialize.arrays import owner_of
from .payload_arrays import Array, address_of
from .payloads import InexactError
from .structure import Walk


def share_memory(walk: Walk, paired: Collection[int], targets: dict[int, Any]) -> None:
    """See that objects with common memory in a new graph will have it in the result.

    Args:
        walk: of the new graph.
        paired: numbers of the objects that have an original.
        targets: what stands for each object. A new array over memory that an original has too
            becomes a view of the original's.

    Raises:
        InexactError: the originals don't see common memory in the same way.
    """
    for group in _groups(walk):
        refilled = [number for number in group if number in paired]
        if len(group) < 2 or not refilled:
            continue
        if -1 in group:
            raise InexactError("memory shared with an object that can't be refilled")
        shifts = set()
        for number in refilled:
            here, there = _span_of(targets[number]), _span_of(walk.objects[number])
            if here is None or there is None or here[1] - here[0] != there[1] - there[0]:
                raise InexactError("memory shared in another way")
            shifts.add(here[0] - there[0])
        if len(shifts) > 1:
            raise InexactError("memory shared in another way")
        (shift,) = shifts
        originals = [targets[number] for number in refilled]
        for number in group.difference(refilled):
            targets[number] = _view(walk.objects[number], originals, shift)


def _groups(walk: Walk) -> Iterator[set[int]]:
    """Yield numbers of objects with common memory; -1 is whatever an opaque one hides."""
    spans: list[tuple[int, int, int]] = []
    for number, (item, kind) in enumerate(zip(walk.objects, walk.kinds, strict=True)):
        span = _span_of(item) if kind.payload.buffer or isinstance(kind.payload, Array) else None
        if span:
            spans.append((*span, number))
        if kind.opaque or kind.payload.adopts:
            spans += [(*span, -1) for span in _hidden_spans(walk, item)]
    group: set[int] = set()
    end = 0
    for start, stop, number in sorted(spans):
        if start >= end:
            yield group
            group = set()
        group.add(number)
        end = max(end, stop)
    yield group


def _hidden_spans(walk: Walk, item: Any) -> Iterator[tuple[int, int]]:
    for value in walk.hidden(item):
        if value is not item and id(value) not in walk.numbers:
            span = _span_of(value)
            if span:
                yield span


def _view(item: Any, originals: list[Any], shift: int) -> Any:
    """Return an array like the new one, over the memory of the originals."""
    span = _span_of(item)
    numpy = sys.modules["numpy"]
    if not issubclass(type(item), numpy.ndarray) or span is None:
        raise InexactError("memory shared in another way")
    for owner in originals:
        if issubclass(type(owner), numpy.ndarray):
            owner = owner_of(owner)
        memory = _span_of(owner)
        if memory and memory[0] <= span[0] + shift and span[1] + shift <= memory[1]:
            offset = address_of(item) + shift - memory[0]
            how = item.shape, item.dtype, owner, offset, item.strides
            view = numpy.ndarray.__new__(type(item), *how)
            if not item.flags.writeable:
                view.setflags(write=False)
            return view
    raise InexactError("memory shared in another way")


def _span_of(value: Any) -> tuple[int, int] | None:
    """Return the addresses of an object's memory, None if it has none or it can't be asked."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if not issubclass(type(value), numpy.ndarray):
        if not issubclass(type(value), (bytearray, array.array, memoryview)) or not len(value):
            return None
        value = numpy.frombuffer(value, "u1")
    if not value.size:
        return None
    low = address_of(value)
    high = low + value.itemsize
    for length, stride in zip(value.shape, value.strides, strict=True):
        extent = (length - 1) * stride
        low, high = (low + extent, high) if extent < 0 else (low, high + extent)
    return low, high
