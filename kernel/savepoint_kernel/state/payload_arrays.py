"""How arrays, frames and raw bytes are read and written.

Frames and Series take over the new data through ``__setstate__``, their pickle protocol, unless
they are unchanged; views of their old data (``to_numpy()``) stay with the old data.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..serialize.pickler import dumps
from .graph import ATOMS
from .payloads import NO_ITEMS, InexactError, Now, Payload
from .sameness import same_items

CHUNK = 1 << 20
"""Bytes. Buffers are compared and written in such runs, so clean memory pages stay clean."""


class _Bytes(Payload):
    """bytearray and array.array."""

    buffer = True

    def outline(self, value: Any) -> str:
        return str(hash(memoryview(value).tobytes()))

    def write(self, target: Any, content: Any, fact: Any) -> None:
        base: Any = bytearray if isinstance(target, bytearray) else array.array
        if memoryview(target).tobytes() != memoryview(content).tobytes():
            base.__setitem__(target, slice(None), content)

    def check(self, original: Any, loaded: Any, fact: Any, now: Now) -> None:
        if memoryview(original).format != memoryview(loaded).format:
            raise InexactError("another typecode")


class Array(Payload):
    """Only of numpy's own memory; numpy is imported if there is one."""

    def __init__(self, numpy: Any) -> None:
        self.numpy = numpy

    def parts(self, value: Any) -> Sequence[Any]:
        """Return the objects in it."""
        if not value.dtype.hasobject:
            return NO_ITEMS
        items = self.numpy.asarray(value).ravel().tolist()
        return items if value.dtype == object else [*_leaves(items)]

    def fact(self, value: Any) -> Any:
        """Return where and how its elements lie, and whether they may be changed."""
        return (*self._layout(value), value.flags.writeable)

    def _layout(self, value: Any) -> tuple[Any, ...]:
        return address_of(value), value.shape, value.strides, value.dtype

    def outline(self, value: Any) -> str:
        """Describe its elements, but for objects."""
        return f"{value.dtype.str}{value.shape}" + (
            "" if value.dtype.hasobject else str(hash(self.numpy.asarray(value).tobytes()))
        )

    def check(self, original: Any, loaded: Any, fact: Any, now: Now) -> None:
        """Raise InexactError if it does not lie where it did, or came back in another form."""
        if self._layout(original) != fact[:-1]:
            raise InexactError("an array was given another shape or dtype")
        if (original.shape, original.dtype) != (loaded.shape, loaded.dtype):
            raise InexactError("the array came back with another shape or dtype")
        parts = [] if loaded.dtype == object else self.parts(loaded)
        if any(now(part) is not part for part in parts):
            raise InexactError("objects in a structured array")

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        """Return an array of the elements."""
        if not moved or loaded.dtype != object:
            return self.numpy.asarray(loaded)
        items = self.numpy.empty(loaded.size, object)
        for index, part in enumerate(self.parts(loaded)):
            items[index] = now(part)
        return items.reshape(loaded.shape)

    def holds(self, target: Any, content: Any) -> bool:
        """Return True if it has these objects; other elements are compared by `write_bytes`."""
        if target.dtype == object:
            return same_items(self.parts(target), content.ravel().tolist())
        return not target.dtype.hasobject

    def write(self, target: Any, content: Any, fact: Any) -> None:
        """Put the elements in, object by object."""
        self.numpy.asarray(target)[...] = content

    def write_bytes(self, target: Any, loaded: Any, fact: Any) -> None:
        """Copy the bytes that differ.

        Raises:
            ValueError: some do, and the memory is read-only.
        """
        was_writeable = target.flags.writeable
        old, new = self.numpy.asarray(target), self.numpy.asarray(loaded)
        if target.size and target.itemsize:
            if old.flags.c_contiguous and new.flags.c_contiguous:
                old = old.reshape(-1).view("u1")
                new = new.reshape(-1).view("u1")
                runs: list[Any] = [*differing(old, new)]
            else:
                runs = [] if old.tobytes() == new.tobytes() else [...]
            if runs and not was_writeable:
                target.setflags(write=True)
                old.setflags(write=True)
            for run in runs:
                old[run] = new[run]
        if fact is not None and target.flags.writeable != fact[-1]:
            target.setflags(write=fact[-1])


class _Frame(Payload):
    """DataFrame and Series."""

    adopts = True

    def holds(self, target: Any, content: Any) -> bool:
        if not (_is_plain_frame(target) and _is_plain_frame(content)):
            return False
        frombuffer = sys.modules["numpy"].frombuffer
        (stream, old), (other, new) = dumps(target, {}), dumps(content, {})
        return stream == other and all(
            one.raw().nbytes == two.raw().nbytes
            and not any(differing(frombuffer(one.raw(), "u1"), frombuffer(two.raw(), "u1")))
            for one, two in zip(old, new, strict=True)
        )

    def write(self, target: Any, content: Any, fact: Any) -> None:
        target.__setstate__(content.__getstate__())


BYTES, FRAME = _Bytes(), _Frame()


def _leaves(items: Any) -> Iterable[Any]:
    if isinstance(items, (list, tuple)):
        for item in items:
            yield from _leaves(item)
    else:
        yield items


def address_of(value: Any) -> int:
    """Return where the first element of an array is in memory."""
    address: int = value.__array_interface__["data"][0]
    return address


def differing(one: Any, other: Any) -> Iterable[slice]:
    """Yield the runs in which two arrays of as many bytes differ."""
    for start in range(0, one.size, CHUNK):
        run = slice(start, start + CHUNK)
        if one[run].tobytes() != other[run].tobytes():
            yield run


def _is_plain_frame(frame: Any) -> bool:
    """Return True if pickling it runs no code of users: there are no objects of theirs in it."""
    columns = [frame] if frame.ndim == 1 else [frame.iloc[:, at] for at in range(frame.shape[1])]
    return all(
        column.dtype != object or ATOMS.issuperset(map(type, column.array)) for column in columns
    )
