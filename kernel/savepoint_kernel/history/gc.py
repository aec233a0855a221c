"""Collecting garbage: removing commits, then packs that are mostly dead.

    1. a KEPT record, synced             the commits are gone, whatever happens next
    2. the index forgets dead chunks     a put of one of them writes it again
    3. for each pack less than half live: append its live records to the newest pack, sync; let the
       index know and sync it; delete the pack

At every moment each live record is in a pack that the index knows or that is read when the store is
opened again. Copying needs less than half a pack of free disk.

Threads: the writer's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from ..exceptions import CorruptStore
from .catalog import Entry, Kept
from .packs import Kind, Place
from .writer import Writer

_WORTH_A_FILE = 1 << 20
"""Bytes below which the newest pack stays; else each collection would start another one."""


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a collection did.

    Attributes:
        commits: how many were removed.
        bytes_before: in packs.
        bytes_after: in packs.
        damaged: what could not be moved, and so keeps its pack from being removed.
    """

    commits: int
    bytes_before: int
    bytes_after: int
    damaged: tuple[str, ...]


def collect(writer: Writer, drop: Collection[bytes], live: set[bytes]) -> GcReport:
    """Remove commits and every chunk that is not live.

    Args:
        writer: in whose thread this runs.
        drop: ids of the commits.
        live: addresses; those that are pinned are live too.

    Raises:
        OSError: the disk is full, or fails. The store is as before, or less was freed.
        sqlite3.Error: likewise.
    """
    packs = writer.packs
    before = packs.total_size()
    damaged: list[str] = []
    with writer.condemning(live) as (dead, seq):
        gone = [id for id in drop if id in writer.catalog.commits]
        if gone or dead:
            _forget(writer, seq, gone, dead)
        live_bytes = _live_bytes(writer)
        sealed = [number for number in packs.numbers if number != packs.active]
        size = packs.size(packs.active)
        if size >= _WORTH_A_FILE and live_bytes[packs.active] * 2 < size:
            sealed.append(packs.active)
            packs.roll()
        for number in sealed:
            if live_bytes[number] * 2 < packs.size(number):
                try:
                    _compact(writer, number)
                except (CorruptStore, LookupError) as error:
                    damaged.append(str(error))
    return GcReport(len(gone), before, packs.total_size(), tuple(damaged))


def _forget(
    writer: Writer, seq: int, commits: Collection[bytes], chunks: Collection[bytes]
) -> None:
    catalog = writer.catalog.copy()
    kept = Kept(
        *(seq, frozenset(catalog.commits).difference(commits)),
        {name: id for name, id in catalog.refs.items() if id not in commits},
    )
    packs = writer.packs
    with packs.batch():
        packs.append(Kind.KEPT, kept.payload())
        packs.sync()
        catalog.apply([kept])
        writer.index.update(
            *((), catalog, (), packs.ends()), gone_chunks=chunks, gone_commits=commits
        )
    writer.replace_catalog(catalog)


def _live_bytes(writer: Writer) -> Counter[int]:
    live: Counter[int] = Counter()
    for _, place in writer.index.chunks():
        live[place.pack] += place.length
    for entry in writer.catalog.commits.values():
        live[entry.place.pack] += entry.place.length
    return live


def _compact(writer: Writer, number: int) -> None:
    """Move what lives in a pack to the newest one and delete the pack.

    Raises:
        CorruptStore: a record is damaged; nothing was changed.
        LookupError: a record is not there; nothing was changed.
    """
    packs = writer.packs
    catalog = writer.catalog.copy()
    chunks: list[tuple[bytes, Place]] = []
    commits: list[Entry] = []
    with packs.batch():
        for address, place in writer.index.chunks():
            if place.pack == number:
                header, payload = packs.read(place, address)
                chunks.append((address, packs.append_raw(header.pack(), payload)))
        for entry in catalog.commits.values():
            if entry.place.pack == number:
                header, payload = packs.read(entry.place, entry.id)
                place = packs.append_raw(header.pack(), payload)
                commits.append(entry._replace(place=place))
        packs.sync()
        catalog.move(commits)
        ends = packs.ends()
        del ends[number]
        writer.index.update(chunks, catalog, commits, ends)
        writer.index.checkpoint()  # else a power cut brings back places in the deleted pack
    writer.replace_catalog(catalog)
    packs.remove(number)
