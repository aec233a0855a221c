"""The store of a session: chunks, the commits that need them, and refs that name commits.

A chunk is up to 1 MiB of opaque bytes, found by its hash; a commit is an opaque manifest with a
parent, signed with the user's key. The store knows neither pickles nor notebooks: where it has to
know which chunks a commit needs, the caller says so (`References`).

    <directory>/            0700
        format              version and id of the store
        packs/NNNNNN.pack   the truth: records, append-only (`packs`, `catalog`)
        index.sqlite        where they are; made anew if lost (`index`, `recovery`)
        lock                held by the one process that has it open (`lock`)

A commit record is written when its chunks are safe on disk, so the record is the point where a
commit comes to be, and SQLite only an index. The alternative, a commit that is in SQLite alone,
would lose the whole history with one damaged page of that file, which has no checksums; and every
commit would wait for its journal too.

Addresses are BLAKE3: 8 MiB in 3.5 ms, without the GIL (blake2b: 15 ms, xxh3 is no cryptographic
hash). A put hashes its own copy, so that the address is right even if a thread writes to the
original.

What the caller must do: every chunk a commit needs is `put` since the commit before, found with
``address in store``, or needed by a commit that stays. If the disk is full for so long that the
queue is dropped, all further commits are lost too, until the caller has heard of it from
`take_losses`; then it puts everything anew.

Threads: any; `writer` has the thread that writes, `Store.fill` those it reads with.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from blake3 import blake3

from ..exceptions import CheckpointNotFound, CorruptStore, UntrustedStore
from .catalog import CommitRecord, References, SignedCommit, commit_id
from .gc import GcReport, collect
from .index import IndexDamaged
from .opening import CommitInfo, Parts, StoreInfo, TrustReport, inspect, trust
from .packs import Place
from .queued import Buffers, Loss, QueuedChunk, QueuedCommit
from .recovery import read_chunk, read_chunk_into, read_commit
from .signing import SigningKey
from .writer import Writer

__all__ = [
    "CHUNK_BYTES",
    "MANIFEST_BYTES",
    "CommitInfo",
    "CommitRecord",
    "Durability",
    "GcReport",
    "Loss",
    "References",
    "SigningKey",
    "Store",
    "StoreInfo",
    "StoreStats",
    "TrustReport",
]

CHUNK_BYTES = 1 << 20
MANIFEST_BYTES = 16 << 20
REF_NAME_BYTES = 1000

_PARALLEL = 4  # chunks from which it pays to start threads

_Read = TypeVar("_Read")

Durability = Literal["async", "sync", "memory"]
"""``async``: on disk a second after the commit at the latest; ``sync``: after
`Store.settle`; ``memory``: never, and gone with the process."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How full a store is.

    Attributes:
        commits: how many there are.
        stored_bytes: accepted since the store was opened and not there already; not compressed.
        disk_bytes: in packs; with durability ``memory`` in temporary files.
        queued_bytes: not on disk yet.
        quota: bytes; None for no limit.
    """

    commits: int
    stored_bytes: int
    disk_bytes: int
    queued_bytes: int
    quota: int | None


class Store:
    """An open store; made by `open`."""

    def __init__(
        self,
        parts: Parts,
        key: SigningKey,
        durability: Durability,
        quota: int | None,
        notes: list[str],
    ) -> None:
        self._lock = parts.lock
        self._store_id = parts.store_id
        self._key = key
        self._durability = durability
        self._quota = quota
        self._notes = notes
        self._buffers = Buffers(CHUNK_BYTES)
        self._writer = Writer(parts, self._buffers, quota, notes.append)
        self._closed = False
        atexit.register(self.close)

    inspect = staticmethod(inspect)
    trust = staticmethod(trust)

    @classmethod
    def open(
        cls,
        directory: Path,
        key: SigningKey,
        *,
        durability: Durability = "async",
        quota: int | None = None,
    ) -> Store:
        """Open a store, or make it in a new directory.

        Args:
            directory: of this store alone; not looked at with durability ``memory``.
            key: which commits are signed with, and must be.
            durability: when a commit is on disk.
            quota: bytes the packs may take; `over_quota` tells when it is time for `gc`.

        Raises:
            StoreLocked: another kernel has it open.
            UntrustedStore: it has commits that are not signed with ``key``.
            CorruptStore: its format file is damaged.
            OSError: the directory can't be written.
        """
        notes: list[str] = []
        with ExitStack() as opened:
            place = None if durability == "memory" else directory
            parts = Parts.open(place, opened, notes.append)
            parts.require_signed(key, notes.append)
            store = cls(parts, key, durability, quota, notes)
            opened.pop_all()  # they stay open
        return store

    # ---- chunks

    def put(self, data: bytes | bytearray | memoryview) -> bytes:
        """Accept a chunk and return its address; it is durable before the next commit is.

        Waits if more than 64 MiB are not on disk yet. Never fails because of the disk: see `error`.

        Args:
            data: contiguous, up to 1 MiB; copied unless it is `bytes`.

        Raises:
            QuotaExceeded: the next commit alone would need more than the quota.
            ValueError: it is too long.
        """
        self._writer.check_process()
        kept: bytes | memoryview
        buffer = None
        if type(data) is bytes:
            kept = data
        else:
            view = memoryview(data)
            # An empty view can't be cast.
            view = view.cast("B") if view.nbytes else memoryview(b"")
            _limit("a chunk", len(view), CHUNK_BYTES)
            kept, buffer = self._buffers.copy(view)
        _limit("a chunk", len(kept), CHUNK_BYTES)
        address = blake3(kept).digest()
        self._writer.add_chunk(QueuedChunk(address, kept, buffer))
        return address

    def __contains__(self, address: bytes) -> bool:
        """Tell whether a chunk is there, so that the next commit may need it without a put."""
        self._writer.check_process()
        return self._writer.knows(address)

    def get(self, address: bytes) -> bytes:
        """Read a chunk.

        Raises:
            CorruptStore: it is damaged or missing.
        """
        return self._read(address, lambda place: read_chunk(self._writer.packs, place, address))

    def fill(self, wanted: Iterable[tuple[bytes, memoryview]]) -> None:
        """Read chunks to where they are wanted; large ones on several threads.

        Args:
            wanted: their addresses, and as much memory as each has bytes.

        Raises:
            CorruptStore: one is damaged, missing or has another length.
        """

        def fill(address: bytes, into: memoryview) -> None:
            packs = self._writer.packs
            queued = self._read(address, lambda place: read_chunk_into(packs, place, address, into))
            if queued is not None:
                into[:] = queued

        todo = list(wanted)
        if len(todo) < _PARALLEL:
            for address, into in todo:
                fill(address, into)
            return
        # Reading, hashing and page faults let the GIL go.
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1), "savepoint-reader") as readers:
            for _ in readers.map(lambda item: fill(*item), todo):
                pass

    def _read(self, address: bytes, read: Callable[[Place], _Read]) -> bytes | _Read:
        self._writer.check_process()
        place: Place | None = None
        while True:
            queued = self._writer.queued(address)
            if queued is not None:
                return queued
            before = place
            try:
                place = self._writer.index.find(address)
                if place is not None:
                    return read(place)
            except (LookupError, IndexDamaged):
                if place != before:
                    continue  # it may have been moved
            except CorruptStore:
                self._writer.distrust(address)  # put again, it is written again
                raise
            if not self._writer.heal():
                self._writer.distrust(address)
                raise CorruptStore(
                    f"chunk {address.hex()} is missing from the store; an older checkpoint, or "
                    "another one without this value, may be whole"
                )

    # ---- commits

    def commit(self, manifest: bytes, *, parent: bytes | None, refs: Collection[str] = ()) -> bytes:
        """Make a commit and return its id.

        It is durable after `settle`; a failure to write it shows in `error` and `take_losses`. The
        same manifest with the same parent is the same commit: then only the refs are set.

        Args:
            manifest: opaque, up to 16 MiB.
            parent: the commit before; only a label.
            refs: names that are to name this commit, at the same moment as it comes to be.

        Raises:
            ValueError: the manifest or a name is too long.
        """
        self._writer.check_process()
        manifest = bytes(manifest)
        names = tuple(sorted(set(refs)))
        _limit("a manifest", len(manifest), MANIFEST_BYTES)
        for name in names:
            _limit("the name of a ref", len(name.encode()), REF_NAME_BYTES)
        id = commit_id(manifest, parent)

        def make(seq: int) -> QueuedCommit:
            now = time.time_ns()
            commit = SignedCommit(seq, now, parent, self._key.id, b"", names, manifest)
            payload = commit.signed(self._key, self._store_id)
            return QueuedCommit(id, seq, parent, now, names, manifest, payload)

        self._writer.add_commit(make, id)
        return id

    def abandon(self) -> None:
        """Give up a commit whose chunks were put: they may be collected, and must be put anew."""
        self._writer.abandon()

    def commits(self) -> Iterator[CommitRecord]:
        """Yield the commits, oldest first; damaged ones are left out and noted.

        Raises:
            UntrustedStore: one is not signed with the key, though it was when the store was opened.
        """
        self._writer.check_process()
        with self._writer.changed:
            ids = [*self._writer.catalog.commits]
            ids += [item.id for item in self._writer.queue if isinstance(item, QueuedCommit)]
        for id in ids:
            try:
                yield self.record(id)
            except CheckpointNotFound:  # removed meanwhile
                pass
            except CorruptStore as error:
                if str(error) not in self._notes:
                    self._notes.append(str(error))

    def record(self, id: bytes) -> CommitRecord:
        """Return one commit.

        Raises:
            CheckpointNotFound: there is none of this id.
            CorruptStore: it is damaged.
            UntrustedStore: it is not signed with the key.
        """
        self._writer.check_process()
        while True:
            found = self._writer.find(id)
            if found is None:
                raise CheckpointNotFound(f"the store has no commit {id.hex()}")
            if isinstance(found, QueuedCommit):
                return CommitRecord(id, found.seq, found.parent, found.time, found.manifest)
            try:
                commit = read_commit(self._writer.packs, found)
            except LookupError:
                if self._writer.find(id) == found:
                    raise CorruptStore(f"the record of commit {id.hex()} is damaged") from None
                continue  # it was moved
            if not commit.is_signed_by(self._key, self._store_id):
                raise UntrustedStore(f"commit {id.hex()} is not signed with your key")
            return CommitRecord.of(commit)

    def check(self, id: bytes, references: References) -> None:
        """Read everything a commit needs.

        Raises:
            CheckpointNotFound: there is none of this id.
            CorruptStore: it is not whole.
        """
        for address in references(self.record(id), self.get):
            self.get(address)

    # ---- refs

    def refs(self) -> dict[str, bytes]:
        """Return the ids of the commits that refs name."""
        self._writer.check_process()
        return self._writer.refs()

    def set_ref(self, name: str, id: bytes) -> None:
        """Let a ref name a commit; durable as a commit is.

        Raises:
            CheckpointNotFound: there is no such commit.
            ValueError: the name is too long.
        """
        self._writer.check_process()
        _limit("the name of a ref", len(name.encode()), REF_NAME_BYTES)
        if self._writer.find(id) is None:
            raise CheckpointNotFound(f"the store has no commit {id.hex()}")
        self._writer.add_ref(name, id)

    def delete_ref(self, name: str) -> None:
        """Remove a ref; its commit stays.

        Raises:
            CheckpointNotFound: there is no such ref.
        """
        if name not in self.refs():
            raise CheckpointNotFound(f"the store has no ref {name!r}")
        self._writer.add_ref(name, None)

    # ---- the whole

    def settle(self) -> None:
        """With durability ``sync``, wait until everything accepted so far is on disk.

        Raises:
            OSError: it is not. It stays queued.
        """
        if self._durability == "sync":
            self.flush()

    def flush(self) -> None:
        """Wait until everything accepted so far is on disk.

        Raises:
            OSError: it is not.
        """
        self._writer.check_process()
        self._writer.flush()

    def close(self) -> None:
        """Flush and let others have the store; in a forked child do nothing.

        Raises:
            OSError: something is not on disk and never will be.
        """
        atexit.unregister(self.close)
        if self._closed or self._writer.is_forked():
            return
        self._closed = True
        try:
            self._writer.stop()
        finally:
            if self._lock is not None:
                self._lock.release()

    def gc(self, drop: Collection[bytes], references: References) -> GcReport:
        """Remove commits and the chunks that no other one needs, and free their bytes.

        What commits made meanwhile need is kept, as long as it was put or found with ``in``.

        Args:
            drop: ids of commits; their children stay, with a parent that is only a label.
            references: asked for every commit that stays.

        Raises:
            ValueError: a ref names one of them.
            CheckpointNotFound: one is not there.
            CorruptStore: what a remaining commit needs can't be told; nothing was removed.
            OSError: the disk is full, or fails; the commits may be gone and their bytes not freed.
        """
        self._writer.check_process()
        drop = frozenset(drop)
        self._writer.pin(1)
        try:
            self._writer.flush()
            for name, id in self._writer.refs().items():
                if id in drop:
                    raise ValueError(f"the ref {name!r} names commit {id.hex()}: delete it first")
            for id in drop:
                if self._writer.find(id) is None:
                    raise CheckpointNotFound(f"the store has no commit {id.hex()}")
            live: set[bytes] = set()
            for record in self.commits():
                if record.id not in drop:
                    live.update(references(record, self.get))
            report: GcReport = self._writer.call(lambda: collect(self._writer, drop, live))
        finally:
            self._writer.pin(-1)
        return report

    def stats(self) -> StoreStats:
        """Tell how full the store is."""
        writer = self._writer
        with writer.changed:
            commits = len(writer.catalog.commits)
            commits += sum(isinstance(item, QueuedCommit) for item in writer.queue)
            return StoreStats(
                *(commits, writer.stored_bytes, writer.packs.total_size()),
                *(writer.queued_bytes, self._quota),
            )

    @property
    def stored_bytes(self) -> int:
        """Bytes accepted since the store was opened and not there already; not compressed."""
        return self._writer.stored_bytes

    @property
    def over_quota(self) -> bool:
        """Whether it is time for `gc`."""
        size = self._writer.packs.total_size() + self._writer.queued_bytes
        return self._quota is not None and size > self._quota

    @property
    def error(self) -> Exception | None:
        """Why nothing can be written now; None if it can. It is tried again all the time."""
        return self._writer.failure

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found damaged, cut off or made anew, for a user to read."""
        return tuple(self._notes)

    def take_losses(self) -> list[Loss]:
        """Return what was accepted and then lost, each once.

        After a loss no commit is accepted before this was called. If the list is not empty,
        chunks that the next commit needs may be lost: put all of them, or ask for each with ``in``.
        """
        return self._writer.take_losses()


def _limit(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"{what} has {size} bytes; {limit} are the most")
