"""Opening a store, looking into one without trust, and trusting one.

Threads: the caller's; there is no writer yet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..exceptions import CorruptStore, UntrustedStore
from .catalog import (
    Catalog,
    CommitRecord,
    Committed,
    Entry,
    Kept,
    References,
    SignedCommit,
    event_of,
)
from .index import Index, IndexDamaged
from .lock import StoreLock
from .packs import Damage, Found, Kind, Packs
from .recovery import PACKS, open_format, open_index, read_chunk, read_commit, read_format, rebuild
from .signing import SigningKey


@dataclass(slots=True)
class Parts:
    """What a store consists of; ``directory`` and ``lock`` are None for one in memory."""

    directory: Path | None
    store_id: bytes
    lock: StoreLock | None
    packs: Packs
    index: Index
    catalog: Catalog

    @classmethod
    def open(cls, directory: Path | None, opened: ExitStack, note: Callable[[str], None]) -> Parts:
        """Lock a store and open its files, which ``opened`` closes.

        Raises:
            StoreLocked: another process has it open.
            CorruptStore: its format file is damaged.
            OSError: it can't be written.
        """
        lock = None
        store_id = bytes(16)
        if directory is not None:
            try:
                lock = _lock(directory)
            except FileNotFoundError:  # `sessions.remove` took it away just now
                lock = _lock(directory)
            opened.callback(lock.release)
            (directory / PACKS).mkdir(mode=0o700, exist_ok=True)
            store_id = open_format(directory)
        packs = Packs(None if directory is None else directory / PACKS)
        opened.callback(packs.close)
        index, catalog = open_index(directory, packs, note)
        parts = cls(directory, store_id, lock, packs, index, catalog)
        opened.callback(lambda: parts.index.close())  # that of the moment
        return parts

    def read_commits(self, note: Callable[[str], None]) -> list[tuple[Entry, SignedCommit]]:
        """Read all commits; damaged ones leave the catalog.

        Raises:
            OSError: a file can't be read or written.
        """
        try:
            return self._read_commits(note)
        except IndexDamaged as error:
            assert self.directory is not None
            note(f"the index was made anew from the packs: {error}")
            self.index.close()
            self.index, self.catalog = rebuild(self.directory, self.packs, note)
            return self._read_commits(note)

    def _read_commits(self, note: Callable[[str], None]) -> list[tuple[Entry, SignedCommit]]:
        commits = []
        damaged = []
        for entry in self.catalog.commits.values():
            try:
                commits.append((entry, read_commit(self.packs, entry)))
            except LookupError as error:
                raise IndexDamaged(str(error)) from None
            except CorruptStore as error:
                note(f"commit {entry.id.hex()} is lost: {error}")
                damaged.append(entry.id)
        if damaged:
            self.catalog.remove(damaged)
            for name in self.catalog.drop_dangling_refs():
                note(f"the ref {name!r} is gone: it named a commit that is lost")
            self.index.update((), self.catalog, (), self.packs.ends(), gone_commits=damaged)
        return commits

    def read_chunk(self, address: bytes) -> bytes:
        """Read a chunk.

        Raises:
            CorruptStore: it is damaged or missing.
        """
        place = self.index.find(address)
        if place is None:
            raise CorruptStore(f"chunk {address.hex()} is missing")
        try:
            return read_chunk(self.packs, place, address)
        except LookupError as error:
            raise CorruptStore(str(error)) from None

    def require_signed(self, key: SigningKey, note: Callable[[str], None]) -> None:
        """Verify all commits.

        Raises:
            UntrustedStore: one is not signed with ``key``.
            OSError: a file can't be read or written.
        """
        commits = self.read_commits(note)
        others = [c for _, c in commits if not c.is_signed_by(key, self.store_id)]
        if others:
            ids = {c.key_id.hex() for c in others}
            forged = key.id.hex() in ids
            raise UntrustedStore(
                f"{len(others)} of {len(commits)} commits in {self.directory} "
                + ("were changed after you signed them" if forged else "were not signed by you")
                + f" (your key: {key.id.hex()}, theirs: {', '.join(sorted(ids))}). Loading them "
                "runs code they contain: look at the list, and trust the store only if you know "
                "who wrote it"
            )


def _lock(directory: Path) -> StoreLock:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return StoreLock(directory / "lock")


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """What an unverified commit says of itself.

    Attributes:
        id: hash over parent and manifest.
        seq: its number.
        parent: None for a first one.
        time: nanoseconds since 1970.
        manifest_bytes: how long the manifest is.
        key_id: which key it says it was signed with.
        signed: whether it is signed with the key that `inspect` was given.
        label: what `inspect` was told to make of the manifest.
    """

    id: bytes
    seq: int
    parent: bytes | None
    time: int
    manifest_bytes: int
    key_id: bytes
    signed: bool
    label: str


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What is in a store nobody vouches for.

    Attributes:
        commits: oldest first.
        refs: commit ids by name.
        disk_bytes: in packs.
        damaged_bytes: in packs, of what is no whole record.
    """

    commits: tuple[CommitInfo, ...]
    refs: dict[str, bytes]
    disk_bytes: int
    damaged_bytes: int


def inspect(
    directory: Path,
    key: SigningKey | None = None,
    label: Callable[[bytes], str] = lambda manifest: "",
) -> StoreInfo:
    """List a store's commits without trust, without a lock and without writing.

    Takes 9 us for each chunk that is stored.

    Args:
        directory: of the store.
        key: which signatures to look for; None for none.
        label: says in a few words what a manifest is about; it may be anybody's.

    Raises:
        CorruptStore: its format file is damaged.
        OSError: it can't be read.
    """
    store_id = read_format(directory)
    packs = Packs(directory / PACKS, writable=False)
    try:
        catalog = Catalog()
        infos: dict[bytes, CommitInfo] = {}
        events = []
        damaged = 0
        for number in packs.numbers:
            for item in packs.scan(number, chunks=False):
                if isinstance(item, Damage):
                    damaged += item.end - item.start
                    continue
                try:
                    event = event_of(item)
                except CorruptStore:
                    damaged += item.place.length
                    continue
                if isinstance(event, Committed):
                    infos[event.entry.id] = _info(item, key, store_id, label)
                if event is not None:
                    events.append(event)
        catalog.apply(events)
        catalog.drop_dangling_refs()
        commits = tuple(infos[id] for id in catalog.commits)
        return StoreInfo(commits, catalog.refs, packs.total_size(), damaged)
    finally:
        packs.close()


def _info(
    found: Found, key: SigningKey | None, store_id: bytes, label: Callable[[bytes], str]
) -> CommitInfo:
    assert found.payload is not None
    commit = SignedCommit.parse(found.payload)
    return CommitInfo(
        *(commit.id, commit.seq, commit.parent, commit.time),
        *(len(commit.manifest), commit.key_id),
        key is not None and commit.is_signed_by(key, store_id),
        label(commit.manifest),
    )


@dataclass(frozen=True, slots=True)
class TrustReport:
    """What trusting a store did.

    Attributes:
        signed: ids of the commits that are signed now.
        removed: ids of those that are not whole, and why.
        notes: what else was found damaged, cut off or made anew.
    """

    signed: tuple[bytes, ...]
    removed: dict[bytes, str]
    notes: tuple[str, ...]


def trust(
    directory: Path,
    key: SigningKey,
    references: References,
    expected: Collection[bytes] | None = None,
) -> TrustReport:
    """Sign every commit that is whole; remove the others.

    Args:
        directory: of the store.
        key: what to sign with.
        references: as for `Store.gc`; gets commits that are not trusted.
        expected: ids of the commits that the user has seen; None if it does not matter.

    Raises:
        StoreLocked: a kernel has it open.
        UntrustedStore: there are commits that were not expected; nothing was signed.
        CorruptStore: its format file is damaged.
        OSError: it can't be written.
    """
    notes: list[str] = []
    with ExitStack() as opened:
        parts = Parts.open(directory, opened, notes.append)
        commits = parts.read_commits(notes.append)
        if expected is not None and any(entry.id not in expected for entry, _ in commits):
            raise UntrustedStore(f"{directory} has got more commits meanwhile: look at it again")
        packs, catalog = parts.packs, parts.catalog
        signed: list[Entry] = []
        removed: dict[bytes, str] = {}
        opened.enter_context(packs.batch())
        for entry, commit in commits:
            try:
                for address in references(CommitRecord.of(commit), parts.read_chunk):
                    parts.read_chunk(address)
            except CorruptStore as error:
                removed[entry.id] = str(error)
                continue
            payload = commit.signed(key, parts.store_id)
            place = packs.append(Kind.COMMIT, payload, entry.id)
            signed.append(entry._replace(place=place))
        if removed:
            catalog.remove(removed)
            catalog.drop_dangling_refs()
            catalog.last_seq += 1
            kept = Kept(catalog.last_seq, frozenset(catalog.commits), catalog.refs)
            packs.append(Kind.KEPT, kept.payload())
        packs.sync()
        catalog.move(signed)
        parts.index.update((), catalog, signed, packs.ends(), gone_commits=removed)
        parts.index.checkpoint()
    return TrustReport(tuple(entry.id for entry in signed), removed, tuple(notes))
