"""What waits for the writer, and the memory it waits in."""

from __future__ import annotations

from dataclasses import dataclass

from .catalog import Committed, Entry, RefChange
from .packs import Place

_POOL = 16  # buffers kept warm
_POOLED_BYTES = 64 << 10  # smaller chunks are plain bytes


@dataclass(frozen=True, slots=True)
class QueuedChunk:
    """A chunk not yet on disk; ``buffer`` is where its data is, if that came from the pool."""

    address: bytes
    data: bytes | memoryview
    buffer: bytearray | None

    @property
    def size(self) -> int:
        """Its bytes in memory."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class QueuedCommit:
    """A signed commit not yet on disk."""

    id: bytes
    seq: int
    parent: bytes | None
    time: int
    refs: tuple[str, ...]
    manifest: bytes
    payload: bytes

    @property
    def size(self) -> int:
        """Its bytes in memory."""
        return len(self.payload)

    def at(self, place: Place) -> Committed:
        """Return what it does to the catalog once its record is written."""
        return Committed(Entry(self.id, self.seq, self.parent, self.time, place), self.refs)


@dataclass(frozen=True, slots=True)
class QueuedRef:
    """A change of a ref not yet on disk."""

    change: RefChange

    @property
    def size(self) -> int:
        """Its bytes in memory."""
        return 64 + len(self.change.name)


Queued = QueuedChunk | QueuedCommit | QueuedRef


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that was accepted and could not be written.

    Attributes:
        commit: the id of the commit that is lost, or None.
        refs: the refs that were not changed.
        reason: why.
    """

    commit: bytes | None
    refs: tuple[str, ...]
    reason: str


class Buffers:
    """Copies chunks into memory that has been used before.

    8 MiB into fresh memory take 7 ms, nearly all of it page faults; into warm memory 1.6 ms.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[bytearray] = []

    def copy(self, view: memoryview) -> tuple[bytes | memoryview, bytearray | None]:
        """Return a copy of ``view`` and the buffer it is in, if any; give that back."""
        if len(view) < _POOLED_BYTES:
            return bytes(view), None
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = bytearray(self._size)
        copied = memoryview(buffer)[: len(view)]
        copied[:] = view
        return copied, buffer

    def give(self, buffer: bytearray | None) -> None:
        """Take back a buffer nobody reads any more."""
        if buffer is not None and len(self._free) < _POOL:
            self._free.append(buffer)
