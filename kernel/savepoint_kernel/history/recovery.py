"""Opening what a process left, however it ended.

The packs are the truth. A commit's record is written when its chunks are safe on disk, so a whole
record of a commit means a whole commit. Opening reads what lies behind the point up to which the
index knows each pack, cuts off a torn end, and makes the index anew if it is missing or damaged.
What was cut off, skipped or made anew is told in notes.

Threads: that which opens the store, or the writer.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from ..exceptions import CorruptStore
from .catalog import Catalog, Entry, Event, SignedCommit, event_of
from .compression import decompress
from .index import Index, IndexDamaged
from .packs import Damage, Packs, Place, sync_directory

FORMAT = "format"
INDEX = "index.sqlite"
PACKS = "packs"
VERSION = 1
_FORMAT = re.compile(rb"savepoint store (\d+)\nid ([0-9a-f]{32})\ncheck ([0-9a-f]{8})\n")

Note = Callable[[str], None]


def open_format(directory: Path) -> bytes:
    """Read the store's id from its format file; make that in an empty directory.

    Raises:
        CorruptStore: it is damaged or missing, or of a later version.
        OSError: it can't be read or made.
    """
    path = directory / FORMAT
    packs = directory / PACKS
    if not path.exists() and not (packs.exists() and any(packs.iterdir())):
        store_id = secrets.token_bytes(16)
        draft = path.with_name(f"{FORMAT}.new")
        with open(draft, "wb") as file:
            file.write(_format_text(VERSION, store_id))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        sync_directory(directory)
        sync_directory(directory.parent)
    return read_format(directory)


def read_format(directory: Path) -> bytes:
    """Read the store's id from its format file.

    Raises:
        CorruptStore: it is damaged or missing, or of a later version.
        OSError: it can't be read.
    """
    path = directory / FORMAT
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise CorruptStore(
            f"{directory} has no file {FORMAT!r}: it is no store, or a part of one; "
            "choose another directory"
        ) from None
    match = _FORMAT.fullmatch(text)
    if match is None or text != _format_text(int(match[1]), bytes.fromhex(match[2].decode())):
        raise CorruptStore(
            f"{path} is damaged, so its commits can't be verified; restore it from a backup, or "
            "choose another directory"
        )
    if int(match[1]) != VERSION:
        raise CorruptStore(
            f"{path}: format {int(match[1])} is not known here, only {VERSION}; "
            "open it with the version of Savepoint that made it, or a later one"
        )
    return bytes.fromhex(match[2].decode())


def _format_text(version: int, store_id: bytes) -> bytes:
    text = f"savepoint store {version}\nid {store_id.hex()}\n".encode()
    return text + f"check {zlib.crc32(text):08x}\n".encode()


def open_index(directory: Path | None, packs: Packs, note: Note) -> tuple[Index, Catalog]:
    """Open the index and bring it up to date with the packs.

    Raises:
        OSError: that is not possible.
    """
    if directory is None:
        return Index(None), Catalog()
    path = directory / INDEX
    try:
        index = Index(path)
        try:
            catalog, ends = index.load()
            if any(end > packs.ends().get(number, -1) for number, end in ends.items()):
                raise IndexDamaged("it knows more than the packs hold")
            catalog = _catch_up(index, packs, catalog, ends, note)
        except BaseException:
            index.close()
            raise
    except (IndexDamaged, sqlite3.Error) as error:
        note(f"the index {path} was made anew from the packs: {error}")
        return rebuild(directory, packs, note)
    return index, catalog


def rebuild(directory: Path, packs: Packs, note: Note) -> tuple[Index, Catalog]:
    """Make the index anew from the packs.

    Raises:
        OSError: that is not possible.
    """
    try:
        Index.set_aside(directory / INDEX)
        index = Index(directory / INDEX)
        return index, _catch_up(index, packs, Catalog(), {}, note)
    except (IndexDamaged, sqlite3.Error) as error:
        raise OSError(f"no index can be made in {directory}: {error}") from error


def _catch_up(
    index: Index, packs: Packs, catalog: Catalog, ends: dict[int, int], note: Note
) -> Catalog:
    """Take into the index what lies behind ``ends`` in the packs."""
    if ends == packs.ends():
        return catalog
    chunks: list[tuple[bytes, Place]] = []
    events: list[Event] = []
    for number in packs.numbers:
        torn: Damage | None = None
        for item in packs.scan(number, ends.get(number, 0)):
            torn = None
            if isinstance(item, Damage):
                torn = item
                note(f"bytes {item.start} to {item.end} of pack {number} are no whole record")
                continue
            try:
                event = event_of(item)
            except CorruptStore as error:
                note(f"a record at byte {item.place.offset} of pack {number} is left out: {error}")
                continue
            if event is None:
                chunks.append((item.header.address, item.place))
            elif event.seq > catalog.last_seq:  # else known, or removed since
                events.append(event)
        if torn is not None and number == packs.active:
            note(f"they were the end of pack {number}, torn by a crash, and are cut off")
            packs.truncate(number, torn.start)
    known = set(catalog.commits)
    catalog.apply(events)
    for name in catalog.drop_dangling_refs():
        note(f"the ref {name!r} is gone: it named a commit that is not there")
    index.update(
        *(chunks, catalog, catalog.commits.values(), packs.ends()),
        gone_commits=known - set(catalog.commits),
    )
    return catalog


def read_commit(packs: Packs, entry: Entry) -> SignedCommit:
    """Read a commit's record and check all but who signed it.

    Raises:
        LookupError: it is not at the place the catalog gives.
        CorruptStore: it is damaged.
    """
    _, payload = packs.read(entry.place, entry.id)
    commit = SignedCommit.parse(payload)
    if commit.id != entry.id or commit.seq != entry.seq:
        raise CorruptStore(f"the record of commit {entry.id.hex()} is that of another one")
    return commit


def read_chunk_into(packs: Packs, place: Place, address: bytes, into: memoryview) -> None:
    """Read a chunk of known length to where it is wanted, and check its hash.

    Raises:
        LookupError: it is not at that place.
        CorruptStore: it is damaged, or has another length.
    """
    if packs.read_raw(place, address, into) and blake3(into).digest() == address:
        return
    data = read_chunk(packs, place, address)
    if len(data) != len(into):
        raise CorruptStore(f"chunk {address.hex()} has not the length it should have")
    into[:] = data


def read_chunk(packs: Packs, place: Place, address: bytes) -> bytes:
    """Read a chunk and check its hash.

    Raises:
        LookupError: it is not at that place.
        CorruptStore: it is damaged.
    """
    data = decompress(*packs.read(place, address))
    if blake3(data).digest() != address:
        raise CorruptStore(f"chunk {address.hex()} is not what was stored")
    return data
