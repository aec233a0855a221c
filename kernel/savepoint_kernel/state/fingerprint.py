"""Has a co-variable changed? Its pickle says so, and brings it back.

The names of a co-variable are pickled together, so that what they share is shared again after a
restore. The C pickler at protocol 5 hands large buffers (arrays, frames) out instead of copying
them. Stream and buffers are cut into pieces, and each piece is compared with the committed one at
its place by xxh3-128 (12 GB/s where it was measured; a list of 1e6 integers costs 20 ms, most of it
the pickler's). Only pieces that differ are stored, under the store's own address: xxh3 detects
changes, it is not collision-safe against an attacker.

A pickle is no canonical form: equal values may have unequal ones (an equal string that was one
object and is two now, a set filled in another order). Such a change is stored and restored without
harm. The reverse, a change that leaves the pickle as it was, would need a ``__reduce__`` that hides
state; restoring cannot bring that back either.

Threads: the one that owns the namespace; nothing else may change the values meanwhile.
"""

from __future__ import annotations

import ctypes
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pickle import PickleBuffer
from typing import Any, NamedTuple, Protocol

import xxhash

from ..serialize.flat import dumps_plain
from ..serialize.pickler import dumps
from ..serialize.portable import loads

STREAM_PIECE = 1 << 16
"""Bytes. A pickle has frames of this size, so appending to a list changes the last piece only."""

BUFFER_PIECE = 1 << 20
"""Bytes. Changing one element of an array stores this much."""

WHOLE = 256
"""Bytes up to which a piece is kept in the table of names: a chunk costs 100 bytes and 40 µs."""

Put = Callable[[memoryview], bytes]
Digests = Callable[[memoryview, int], Sequence[bytes]]
Get = Callable[[bytes], bytes]


_bytearray_of = ctypes.pythonapi.PyByteArray_FromStringAndSize
_bytearray_of.argtypes = ctypes.c_char_p, ctypes.c_ssize_t
_bytearray_of.restype = ctypes.py_object


class Source(Protocol):
    """Where stored pieces come from, verified."""

    def get(self, address: bytes) -> bytes:
        """Return a piece."""

    def fill(self, wanted: Iterable[tuple[bytes, memoryview]]) -> None:
        """Read pieces to where they are wanted."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stored run of bytes. Pieces are equal if what they stand for is.

    Attributes:
        digest: xxh3-128 of the bytes.
        size: in bytes.
        address: what the store calls them; empty if the piece is so short that it is kept whole.
        data: the bytes then.
    """

    digest: bytes
    size: int
    address: bytes = field(compare=False)
    data: bytes | None = field(default=None, compare=False)

    def read(self, get: Get) -> bytes:
        """Return the bytes."""
        return get(self.address) if self.data is None else self.data

    @classmethod
    def whole(cls, data: bytes) -> Piece:
        """Make a piece that is kept whole."""
        return cls(xxhash.xxh3_128_digest(data), len(data), b"", data)


@dataclass(frozen=True, slots=True)
class Image:
    """A co-variable as it was when it was looked at; equal images are equal states."""

    stream: tuple[Piece, ...]
    buffers: tuple[tuple[Piece, ...], ...]

    @property
    def runs(self) -> tuple[tuple[Piece, ...], ...]:
        """The stream and the buffers."""
        return (self.stream, *self.buffers)

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.size for run in self.runs for piece in run)


def image(
    values: Mapping[str, Any],
    namespace: dict[str, Any],
    put: Put,
    known: Image | None = None,
    *,
    plain: bool = False,
    pickled: bytes | None = None,
    limit: int | None = None,
    digests: Digests | None = None,
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Image:
    """Take the image of a co-variable.

    Args:
        values: its names and what they stand for.
        namespace: the live namespace, which functions keep as their globals.
        put: stores bytes and returns their address; called for what ``known`` has not.
        known: the image it had last.
        plain: True if its footprints say so: it is a tenth of the work then.
        pickled: what `dumps_plain` makes of it, if that is known.
        limit: bytes it may have; None for any number.
        digests: hashes the pieces of a buffer.
        guard: entered while code of users may run; never while ``put`` does.

    Raises:
        Exception: whatever pickling one of the values raises.
    """
    # Sorted: the order in which names were grouped says nothing about their state. Interned: a name
    # comes from the namespace, from code, or from the store, where it is another string; whether it
    # is the one that its class is called by says nothing either, and would show in the pickle.
    ordered = {
        sys.intern(name) if type(name) is str else name: values[name] for name in sorted(values)
    }
    buffers: list[PickleBuffer] = []
    if pickled is not None and (limit is None or len(pickled) <= limit):
        stream = pickled
    elif plain:
        stream = dumps_plain(ordered, limit=limit)
    else:
        with guard():
            stream, buffers = dumps(ordered, namespace, limit=limit)
    old = known or Image((), ())
    old_buffers = iter(old.buffers)
    return Image(
        _pieces(memoryview(stream), STREAM_PIECE, old.stream, put, hash_pieces),
        tuple(
            _pieces(buffer.raw(), BUFFER_PIECE, next(old_buffers, ()), put, digests or hash_pieces)
            for buffer in buffers
        ),
    )


def _pieces(
    data: memoryview, size: int, known: tuple[Piece, ...], put: Put, digests: Digests
) -> tuple[Piece, ...]:
    old = iter(known)
    return tuple(
        _piece(data[start : start + size], digest, next(old, None), put)
        for start, digest in zip(range(0, len(data), size), digests(data, size), strict=True)
    )


def hash_pieces(data: memoryview, size: int) -> Sequence[bytes]:
    """Return xxh3-128 of each ``size`` bytes."""
    parts = (data[start : start + size] for start in range(0, len(data), size))
    return [xxhash.xxh3_128_digest(part) for part in parts]


def _piece(data: memoryview, digest: bytes, known: Piece | None, put: Put) -> Piece:
    if known is not None and known.digest == digest and known.size == len(data):
        return known
    if len(data) <= WHOLE:
        return Piece(digest, len(data), b"", bytes(data))
    return Piece(digest, len(data), put(data))


def missing(run: Iterable[Piece], into: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Copy the pieces that are kept whole; yield what is stored, and where it belongs."""
    for piece in run:
        place, into = into[: piece.size], into[piece.size :]
        if piece.data is None:
            yield piece.address, place
        else:
            place[:] = piece.data


NOTHING_PRESENT: Mapping[tuple[Piece, ...], memoryview] = types.MappingProxyType({})


class Contents(NamedTuple):
    """The bytes of a co-variable: its pickle, and the buffers that are not in it."""

    stream: bytearray
    buffers: list[bytearray | memoryview]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A co-variable made anew.

    Attributes:
        values: its names and values; what they shared they share again.
        classes: gives a class that is alive, and is the same object, its saved attributes back.
    """

    values: dict[str, Any]
    classes: dict[type, Callable[[], None]]


def read(
    image: Image, source: Source, present: Mapping[tuple[Piece, ...], memoryview] = NOTHING_PRESENT
) -> Contents:
    """Read what `image` was taken of.

    Args:
        image: of a co-variable.
        source: has its pieces.
        present: memory that buffers of this content may have; no two will have the same.
    """
    left = dict(present)
    buffers: list[bytearray | memoryview] = []
    wanted: list[tuple[bytes, memoryview]] = []

    def filled(run: tuple[Piece, ...]) -> bytearray:
        # Not bytes: arrays made on top of them would be read-only.
        made = _bytearray(sum(piece.size for piece in run))
        wanted.extend(missing(run, memoryview(made)))
        return made

    stream = filled(image.stream)
    for run in image.buffers:
        known = left.pop(run, None)
        buffers.append(filled(run) if known is None else known)
    source.fill(wanted)
    return Contents(stream, buffers)


def _bytearray(size: int) -> bytearray:
    """Make a bytearray that holds anything.

    ``bytearray(size)`` fills it with zeros: 0.65 s for a gigabyte, with the GIL. So its pages are
    made by the threads that read.
    """
    made: bytearray = _bytearray_of(None, size)
    return made


def values_of(contents: Contents, namespace: dict[str, Any]) -> Loaded:
    """Make new objects; what exists is not touched.

    Args:
        contents: of a co-variable; the new arrays are made of their memory.
        namespace: the live namespace, which functions get as their globals.

    Raises:
        Exception: whatever unpickling raises.
    """
    classes: dict[type, Callable[[], None]] = {}
    values = loads(contents.stream, namespace, contents.buffers, deferred=classes)
    return Loaded({sys.intern(name): value for name, value in values.items()}, classes)
