"""Restoring the bytes of arrays and frames where only these differ.

Loading a co-variable reads, verifies and copies all of it: 0.5 s for an array of 100 MB. If its
pickle is the same but for the contents of buffers, the pieces that differ are written into the
memory the live objects have, and nothing else is touched.

Threads: the one that owns the namespace.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..serialize.pickler import dumps
from ..state.fingerprint import Piece, Source, missing
from ..state.graph import Footprint
from ..state.imager import Group
from ..state.payload_arrays import address_of


@dataclass(frozen=True, slots=True)
class Live:
    """A co-variable as it is now.

    Attributes:
        group: what it looked like when it was looked at, just before.
        values: its values.
        footprints: of these.
    """

    group: Group
    values: Mapping[str, Any]
    footprints: Mapping[str, Footprint]

    def buffers(self, namespace: dict[str, Any]) -> list[memoryview] | None:
        """Return the memory of the buffers in its image; None if it has other ones by now.

        Raises:
            Exception: what pickling raises.
        """
        assert self.group.image is not None
        ordered = {name: self.values[name] for name in sorted(self.group.names)}
        raw = [buffer.raw() for buffer in dumps(ordered, namespace)[1]]
        sizes = [sum(piece.size for piece in run) for run in self.group.image.buffers]
        return raw if [len(view) for view in raw] == sizes else None


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes, and where they belong."""

    writes: tuple[tuple[memoryview, bytearray], ...]

    def apply(self) -> None:
        """Write them."""
        for place, data in self.writes:
            place[:] = data


def may_be_patched(wanted: Group, live: Live) -> bool:
    """Tell whether pickles differ in the contents of buffers only."""
    a, b = wanted.image, live.group.image
    if a is None or b is None or wanted.names != live.group.all_names or wanted.dropped:
        return False
    return a.stream == b.stream and _same_sizes(a.buffers, b.buffers)


def find_patch(
    wanted: Group, live: Live, namespace: dict[str, Any], source: Source
) -> Patch | None:
    """Return what turns the live co-variable into the wanted one; None if more than bytes differs.

    Args:
        wanted: the co-variable as it is to be.
        live: as it is; `may_be_patched` says yes, and it consists of the objects it did then.
        namespace: the live namespace.
        source: the store.

    Raises:
        Exception: what reading the store or pickling raises.
    """
    a, b = wanted.image, live.group.image
    assert a is not None
    assert b is not None
    raw = live.buffers(namespace)
    if raw is None:
        return None
    spans = [span for name in live.values for span in live.footprints[name].memory]
    writes: list[tuple[memoryview, bytearray]] = []
    stored: list[tuple[bytes, memoryview]] = []
    for view, run, now in zip(raw, a.buffers, b.buffers, strict=True):
        differing = list(_differing(run, now))
        if differing and (view.readonly or not _lies_in(view, spans)):
            return None  # a copy that pickling made would be patched
        for start, piece in differing:
            data = bytearray(piece.size)
            stored += missing([piece], memoryview(data))
            writes.append((view[start : start + piece.size], data))
    source.fill(stored)
    return Patch(tuple(writes))


def _same_sizes(a: tuple[tuple[Piece, ...], ...], b: tuple[tuple[Piece, ...], ...]) -> bool:
    return [[p.size for p in run] for run in a] == [[p.size for p in run] for run in b]


def _differing(wanted: tuple[Piece, ...], now: tuple[Piece, ...]) -> Iterator[tuple[int, Piece]]:
    start = 0
    for piece, other in zip(wanted, now, strict=True):
        if piece != other:
            yield start, piece
        start += piece.size


def _lies_in(view: memoryview, spans: list[tuple[int, int]]) -> bool:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    start = address_of(numpy.frombuffer(view, "u1"))
    return any(low <= start and start + len(view) <= high for low, high in spans)
