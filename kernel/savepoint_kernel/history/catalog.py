"""The catalog of a store: which commits there are and what the refs name.

It is the sum of the records in the packs, which are the truth; the index only saves reading them.
Three kinds of records change it, each with a number (``seq``) that is never given twice:

* COMMIT: a commit is there, and the refs it lists name it.
* REF: a ref names a commit, or is gone.
* KEPT: of everything before, exactly these commits and refs are left. Collecting garbage writes
  one; it is what keeps a removed commit from coming back when the index is made anew while its
  record still lies in a pack.

Applied in the order of their numbers they give the same catalog wherever the records lie, so
records may be moved from pack to pack.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from blake3 import blake3

from ..exceptions import CorruptStore
from .packs import Found, Kind, Place
from .signing import MAC_BYTES, SigningKey

ID_BYTES = 32
NO_COMMIT = bytes(ID_BYTES)

_COMMIT = struct.Struct("<QQ32s16sH")  # seq, time, parent, key id, number of refs
_NAME = struct.Struct("<H")
_SEQ = struct.Struct("<QI")
_SIGNED_AS = b"savepoint store 1\0"


def commit_id(manifest: bytes, parent: bytes | None) -> bytes:
    """Return the id of a commit: a hash over its parent's id and its manifest."""
    hasher = blake3(parent or NO_COMMIT, derive_key_context="savepoint 2026 commit id")
    return hasher.update(manifest).digest()


@dataclass(frozen=True, slots=True)
class SignedCommit:
    """A commit as its record has it.

    Attributes:
        seq: its number.
        time: when it was made, nanoseconds since 1970.
        parent: the id of the commit before; None for a first one.
        key_id: which key signed it.
        mac: over everything else here, the store and the id.
        refs: those that named it from then on.
        manifest: what the caller committed.
    """

    seq: int
    time: int
    parent: bytes | None
    key_id: bytes
    mac: bytes
    refs: tuple[str, ...]
    manifest: bytes

    @property
    def id(self) -> bytes:
        """The commit's id."""
        return commit_id(self.manifest, self.parent)

    def _fields(self, key_id: bytes) -> bytes:
        return _COMMIT.pack(
            *(self.seq, self.time, self.parent or NO_COMMIT, key_id, len(self.refs)),
        ) + b"".join(map(_name_bytes, self.refs))

    def _message(self, store_id: bytes, key_id: bytes) -> bytes:
        return _SIGNED_AS + store_id + self.id + self._fields(key_id) + self.manifest

    def signed(self, key: SigningKey, store_id: bytes) -> bytes:
        """Return the record's payload, signed with ``key``."""
        mac = key.mac(self._message(store_id, key.id))
        return mac + self._fields(key.id) + self.manifest

    def is_signed_by(self, key: SigningKey, store_id: bytes) -> bool:
        """Tell whether the MAC is that of ``key``, for this store."""
        return self.key_id == key.id and key.verifies(
            self._message(store_id, self.key_id), self.mac
        )

    @classmethod
    def parse(cls, payload: bytes) -> SignedCommit:
        """Read a record's payload.

        Raises:
            CorruptStore: it is none of a commit.
        """
        try:
            seq, time, parent, key_id, count = _COMMIT.unpack_from(payload, MAC_BYTES)
            at = MAC_BYTES + _COMMIT.size
            refs = []
            for _ in range(count):
                name, at = _read_name(payload, at)
                refs.append(name)
        except (struct.error, UnicodeDecodeError):
            raise CorruptStore("a commit's record makes no sense") from None
        return cls(
            *(seq, time, None if parent == NO_COMMIT else parent, key_id, payload[:MAC_BYTES]),
            *(tuple(refs), payload[at:]),
        )


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """A commit as a store's user sees it.

    Attributes:
        id: 32 bytes.
        seq: its number; higher than those of all commits made before.
        parent: the id of the commit it follows, which may have been removed; None for a first one.
        time: when it was made, nanoseconds since 1970.
        manifest: what the caller committed.
    """

    id: bytes
    seq: int
    parent: bytes | None
    time: int
    manifest: bytes

    @classmethod
    def of(cls, commit: SignedCommit) -> CommitRecord:
        """Return it without its signature."""
        return cls(commit.id, commit.seq, commit.parent, commit.time, commit.manifest)


References = Callable[[CommitRecord, Callable[[bytes], bytes]], Iterable[bytes]]
"""Gives the addresses of all chunks a commit needs; its second argument reads a chunk. It must not
unpickle anything: it is asked about commits that nobody has vouched for, too."""


class Entry(NamedTuple):
    """A commit in the catalog."""

    id: bytes
    seq: int
    parent: bytes | None
    time: int
    place: Place


class RefChange(NamedTuple):
    """A ref set to a commit, or removed if that is None."""

    seq: int
    name: str
    commit: bytes | None

    def payload(self) -> bytes:
        """Return the record's payload."""
        return _SEQ.pack(self.seq, 0) + (self.commit or NO_COMMIT) + _name_bytes(self.name)


class Kept(NamedTuple):
    """What was left of everything before ``seq``."""

    seq: int
    commits: frozenset[bytes]
    refs: Mapping[str, bytes]

    def payload(self) -> bytes:
        """Return the record's payload."""
        refs = b"".join(commit + _name_bytes(name) for name, commit in self.refs.items())
        return _SEQ.pack(self.seq, len(self.commits)) + b"".join(sorted(self.commits)) + refs


class Committed(NamedTuple):
    """A commit that came, with the refs it lists."""

    entry: Entry
    refs: tuple[str, ...]

    @property
    def seq(self) -> int:
        """The commit's number."""
        return self.entry.seq


Event = Committed | RefChange | Kept


def event_of(found: Found) -> Event | None:
    """Return what a record does to the catalog; None for a chunk.

    Raises:
        CorruptStore: the payload makes no sense, though its checksum is right.
    """
    if found.header.kind is Kind.CHUNK or found.payload is None:
        return None
    payload = found.payload
    if found.header.kind is Kind.COMMIT:
        commit = SignedCommit.parse(payload)
        if commit.id != found.header.address:
            raise CorruptStore("a commit's record has another commit's id")
        entry = Entry(commit.id, commit.seq, commit.parent, commit.time, found.place)
        return Committed(entry, commit.refs)
    try:
        seq, count = _SEQ.unpack_from(payload)
        at = _SEQ.size
        if found.header.kind is Kind.REF:
            target = payload[at : at + ID_BYTES]
            name, _ = _read_name(payload, at + ID_BYTES)
            return RefChange(seq, name, None if target == NO_COMMIT else target)
        ids = payload[at : at + count * ID_BYTES]
        refs = {}
        at += len(ids)
        while at < len(payload):
            target = payload[at : at + ID_BYTES]
            name, at = _read_name(payload, at + ID_BYTES)
            refs[name] = target
    except (struct.error, UnicodeDecodeError):
        raise CorruptStore("a record about refs makes no sense") from None
    commits = (ids[i : i + ID_BYTES] for i in range(0, len(ids), ID_BYTES))
    return Kept(seq, frozenset(commits), refs)


@dataclass
class Catalog:
    """Commits in the order of their numbers, and refs.

    Attributes:
        commits: by id.
        refs: commit ids by name.
        last_seq: the highest number given so far.
    """

    commits: dict[bytes, Entry] = field(default_factory=dict)
    refs: dict[str, bytes] = field(default_factory=dict)
    last_seq: int = 0
    # Over the commits, kept up to date while they only get more: hashing 10 000 costs 37 ms.
    _hasher: blake3 | None = None

    def copy(self) -> Catalog:
        """Return a catalog that can change by itself."""
        hasher = self._hasher.copy() if self._hasher else None
        return Catalog(dict(self.commits), dict(self.refs), self.last_seq, hasher)

    def apply(self, events: Iterable[Event]) -> None:
        """Take in events, in any order; of two for one number the later in ``events`` counts."""
        for event in sorted(events, key=lambda event: event.seq):
            self.last_seq = max(self.last_seq, event.seq)
            if isinstance(event, Committed):
                if event.entry.id in self.commits:
                    self._hasher = None
                elif self._hasher is not None:
                    self._hasher.update(repr(event.entry).encode())
                self.commits[event.entry.id] = event.entry
                self.refs.update(dict.fromkeys(event.refs, event.entry.id))
            elif isinstance(event, RefChange):
                if event.commit is None:
                    self.refs.pop(event.name, None)
                else:
                    self.refs[event.name] = event.commit
            else:
                self._hasher = None
                self.commits = {
                    id: entry for id, entry in self.commits.items() if id in event.commits
                }
                self.refs = dict(event.refs)

    def move(self, entries: Iterable[Entry]) -> None:
        """Take in new places of commits."""
        self._hasher = None
        self.commits.update((entry.id, entry) for entry in entries)

    def remove(self, commits: Iterable[bytes]) -> None:
        """Remove commits, but not the refs that name them."""
        self._hasher = None
        for id in commits:
            del self.commits[id]

    def drop_dangling_refs(self) -> list[str]:
        """Remove the refs whose commit is not there, and name them."""
        dangling = [name for name, commit in self.refs.items() if commit not in self.commits]
        for name in dangling:
            del self.refs[name]
        return dangling

    def checksum(self, ends: Mapping[int, int]) -> bytes:
        """Hash the catalog, and how far the packs were read for it.

        SQLite has no checksums: a flipped bit in its file may hide the newest commits, and nothing
        would look wrong.
        """
        if self._hasher is None:
            self._hasher = blake3()
            for entry in self.commits.values():
                self._hasher.update(repr(entry).encode())
        rest = (sorted(ends.items()), self.last_seq, sorted(self.refs.items()))
        return self._hasher.copy().update(repr(rest).encode()).digest()


def _name_bytes(name: str) -> bytes:
    encoded = name.encode()
    return _NAME.pack(len(encoded)) + encoded


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    (length,) = _NAME.unpack_from(data, at)
    at += _NAME.size
    if at + length > len(data):
        raise struct.error("a name ends behind its record")
    return data[at : at + length].decode(), at + length
