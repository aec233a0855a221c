"""The state of a namespace as chunks: which name has which image.

A table is complete, but most of it is shared with the commit before: co-variables are spread over
buckets by the hash of their first name, each bucket is one chunk, and a chunk that is in the store
already is not stored again. A cell that changes one of 300 names writes about 5 kB.

    manifest --> bucket, bucket, ...     JSON: co-variables with names, ranks, runs
                   '--> run              of more than `INLINE` pieces: a chunk of its own
                          '--> piece     bytes of a pickle or of a buffer

Ranks are the order of the names: the dict they came from had them in ascending order.

Threads: any.
"""

from __future__ import annotations

import binascii
import json
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from ..exceptions import CorruptStore
from ..state.fingerprint import WHOLE, Get, Image, Piece, Put
from ..state.imager import Dropped, Group
from ..state.liverefs import Again

INLINE = 8
"""Pieces that a bucket holds itself."""

PER_BUCKET = 32
"""Co-variables in a bucket, on average, at most."""

LARGEST = 1 << 20
"""Bytes of a bucket that is one chunk; some ten thousand linked names take more."""

RESULTS = 16
"""Numbered results that follow each other in a bucket."""

_PIECE = struct.Struct("<16sI32s")

_encoder = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Table:
    """A namespace.

    Attributes:
        groups: its co-variables.
        ranks: a number for each name; of variables, ascending in their order, and so of outputs.
    """

    groups: tuple[Group, ...]
    ranks: Mapping[str, int]


class TableWriter:
    """Stores tables, of which most is the same each time.

    Args:
        put: stores a chunk unless it is there, and returns its address.
    """

    def __init__(self, put: Put) -> None:
        self._put = put
        self._entries: dict[int, _Entry] = {}
        self._buckets: list[dict[int, _Entry]] = []
        self._addresses: list[bytes] = []
        self._ranks: Mapping[str, int] = {}

    def write(self, groups: Collection[Group], ranks: Mapping[str, int]) -> list[bytes]:
        """Store a table; returns the addresses of its buckets.

        Args:
            groups: see `Table`.
            ranks: the same; never changed afterwards.
        """
        try:
            self._update(groups, ranks)
        except BaseException:
            self._buckets = []  # which of them are stored is not known: begin anew the next time
            raise
        return list(self._addresses)

    def _update(self, groups: Collection[Group], ranks: Mapping[str, int]) -> None:
        count = 1
        while count * PER_BUCKET < len(groups):
            count *= 2  # by steps, so that buckets seldom move
        if count != len(self._buckets):
            self._entries = {}
            self._buckets = [{} for _ in range(count)]
            self._addresses = [b""] * count
        # Set operations, as this runs after every cell and most entries stay.
        by_id = {id(group): group for group in groups}
        gone = self._entries.keys() - by_id.keys()
        fresh = by_id.keys() - self._entries.keys()
        if ranks is not self._ranks:
            moved = {name for name, _ in self._ranks.items() - ranks.items()}
            if moved:
                named = ((key, group.all_names) for key, group in by_id.items())
                fresh |= {key for key, names in named if not moved.isdisjoint(names)}
            self._ranks = ranks
        dirty = {index for index, address in enumerate(self._addresses) if not address}
        for key in gone | (fresh & self._entries.keys()):
            index = self._entries.pop(key).hash % count
            del self._buckets[index][key]
            dirty.add(index)
        for key in fresh:
            entry = self._entries[key] = self._entry(by_id[key], ranks)
            self._buckets[entry.hash % count][key] = entry
            dirty.add(entry.hash % count)
        for index in dirty:
            self._addresses[index] = self._put_bucket(_joined(self._buckets[index].values()))

    def _put_bucket(self, bucket: memoryview) -> bytes:
        if len(bucket) <= LARGEST:
            return self._put(bucket)
        starts = range(0, len(bucket), LARGEST)
        parts = [self._put(bucket[start : start + LARGEST]).hex() for start in starts]
        return self._put(memoryview(_encoder.encode({"parts": parts}).encode()))

    def _entry(self, group: Group, ranks: Mapping[str, int]) -> _Entry:
        runs = () if group.image is None else group.image.runs
        encoded = {
            "names": sorted(group.names),
            "ranks": {name: ranks[name] for name in sorted(group.all_names)},
            "runs": [self._run(run) for run in runs],
            "dropped": {
                name: (dropped.type, dropped.reason, dropped.key, *self._again(dropped.again))
                for name, dropped in sorted(group.dropped.items())
            },
        }
        first = min(group.all_names).encode("utf-8", "surrogatepass")
        return _Entry(group, first, _hash(first), _encoder.encode(encoded))

    def _again(self, again: Again | None) -> Iterator[tuple[str, str, dict[str, str]]]:
        if again is not None:
            piece = again.pickled if again.pickled.size <= WHOLE else self._stored(again.pickled)
            yield again.key, again.label, self._run((piece,))

    def _run(self, pieces: tuple[Piece, ...]) -> dict[str, str]:
        if len(pieces) == 1 and pieces[0].data is not None:
            return {"whole": binascii.b2a_base64(pieces[0].data, newline=False).decode()}
        pieces = tuple(self._stored(piece) for piece in pieces)
        packed = b"".join(_PIECE.pack(piece.digest, piece.size, piece.address) for piece in pieces)
        if len(pieces) > INLINE:
            return {"chunk": self._put(memoryview(packed)).hex()}
        return {"pieces": binascii.b2a_base64(packed, newline=False).decode()}

    def _stored(self, piece: Piece) -> Piece:
        """Return the piece with an address: the last one of a run may be short."""
        if piece.data is None:
            return piece
        return Piece(piece.digest, piece.size, self._put(memoryview(piece.data)))


def _dropped(kind: str, reason: str, key: str, again: Any = None) -> Dropped:
    if again is None:
        return Dropped(kind, reason, key)
    made_by, label, run = again
    (piece,) = _pieces(run, bytes)  # one is never in a chunk of its own
    return Dropped(kind, reason, key, again=Again(made_by, label, piece))


@dataclass(frozen=True, slots=True)
class _Entry:
    group: Group  # kept, so that its id stays its own
    first: bytes
    hash: int
    text: str


def _hash(name: bytes) -> int:
    """Spread names, but not results: of these, a cell changes several at a time."""
    number = name.strip(b"Out[]_")
    if number.isdigit():
        return int(number) // RESULTS
    return 0 if name.startswith((b"_", b"displayhook")) else zlib.crc32(name)


def _joined(bucket: Iterable[_Entry]) -> memoryview:
    texts = (entry.text for entry in sorted(bucket, key=attrgetter("first")))
    return memoryview(f"[{','.join(texts)}]".encode())


def read(addresses: Iterable[bytes], get: Get) -> Table:
    """Read a table back.

    Raises:
        CorruptStore: it is none.
    """
    groups: list[Group] = []
    ranks: dict[str, int] = {}
    for address in addresses:
        for entry in _decoded(address, get):
            try:
                image = None
                if entry["runs"]:
                    stream, *buffers = (tuple(_pieces(run, get)) for run in entry["runs"])
                    image = Image(stream, tuple(buffers))
                dropped = {name: _dropped(*fields) for name, fields in entry["dropped"].items()}
                groups.append(Group(image, frozenset(entry["names"]), dropped))
                ranks.update(entry["ranks"])
            except (KeyError, TypeError, ValueError, struct.error) as error:
                raise CorruptStore(f"a table of names can't be read: {error!r}") from error
    return Table(tuple(groups), ranks)


def references(addresses: Iterable[bytes], get: Get) -> Iterator[bytes]:
    """Yield the address of every chunk that a table needs."""
    for address in addresses:
        yield address
        yield from _parts(json.loads(get(address)))
        for entry in _decoded(address, get):
            made_by = (again[2] for _, _, _, *more in entry["dropped"].values() for again in more)
            for run in (*entry["runs"], *made_by):
                if "chunk" in run:
                    yield binascii.unhexlify(run["chunk"])
                yield from (piece.address for piece in _pieces(run, get) if piece.address)


def _pieces(run: Mapping[str, str], get: Get) -> Iterator[Piece]:
    if "whole" in run:
        yield Piece.whole(binascii.a2b_base64(run["whole"]))
        return
    if "chunk" in run:
        packed = get(binascii.unhexlify(run["chunk"]))
    else:
        packed = binascii.a2b_base64(run["pieces"])
    for digest, size, address in _PIECE.iter_unpack(packed):
        yield Piece(digest, size, address)


def _decoded(address: bytes, get: Get) -> list[dict[str, Any]]:
    bucket = json.loads(get(address))
    parts = _parts(bucket)
    entries: list[dict[str, Any]] = json.loads(b"".join(map(get, parts))) if parts else bucket
    return entries


def _parts(bucket: list[Any] | dict[str, list[str]]) -> list[bytes]:
    """Return the addresses of the parts of a bucket that is too large for one chunk."""
    return [*map(bytes.fromhex, bucket["parts"])] if isinstance(bucket, dict) else []
