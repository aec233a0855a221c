"""The thread that writes a store.

    cells' thread                         writer thread
    put: copy, hash, known already? --.
    commit: id, sign                --+-> queue --> packs (chunks, fsync, commits, fsync) --> index
                                                    then the memory is let go

What is queued stays in memory, and can be read from there, until it is safe on disk: after a failed
fsync nobody knows which of the pages before it were written, so everything since the last good one
is written again from memory. The queue is bounded. While the disk keeps up, `add_chunk` waits for
room; if writes fail, the whole queue is dropped instead, its commits are reported as lost, and so
are all that follow until the caller knows that it has to put its chunks anew: a commit never
becomes visible without all of them.

An address counts as known if its chunk is queued or in the index, which names only what was synced.

Threads: every attribute under "shared" is guarded by ``changed``. A batch being written stays in
the queue; only the writer takes from its front. The lock is reentrant, so that a signal handler may
flush in the middle of a put.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..exceptions import QuotaExceeded
from .catalog import Catalog, Committed, Entry, Event, RefChange
from .compression import Compressor
from .index import IndexDamaged
from .opening import Parts
from .packs import Kind, Place
from .queued import Buffers, Loss, Queued, QueuedChunk, QueuedCommit, QueuedRef
from .recovery import rebuild

QUEUE_BYTES = 64 << 20
"""Unsynced bytes at which a put waits."""

_EAGER_BYTES = 16 << 20  # written at once when that much is queued
_GATHER_SECONDS = 0.2  # else after this time: commits in quick succession share their fsyncs
_RETRY_SECONDS = (1.0, 30.0)  # after failures, if no commit or flush asks earlier: first, longest
_ALIVE_SECONDS = 1.0  # how often a wait looks whether the writer still lives


@dataclass(slots=True)
class _Call:
    run: Callable[[], Any]
    result: Any = None
    error: BaseException | None = None
    done: bool = False


class Writer:
    """Queue and thread of one store.

    Args:
        parts: what to write to; it becomes the writer's own.
        buffers: where the data of queued chunks comes from.
        quota: bytes; None for no limit.
        note: called with what a user should know.
    """

    def __init__(
        self, parts: Parts, buffers: Buffers, quota: int | None, note: Callable[[str], None]
    ) -> None:
        self._directory = parts.directory
        self.packs = parts.packs
        self._buffers = buffers
        self._quota = quota
        self._note = note
        self._compressor = Compressor()
        self._pid = os.getpid()
        # Shared:
        self.changed = threading.Condition(threading.RLock())
        self.index = parts.index
        self.catalog = parts.catalog
        self.queue: list[Queued] = []
        self.queued_bytes = 0
        self.failure: Exception | None = None
        self._losses: list[Loss] = []
        self.seq = parts.catalog.last_seq
        self.stored_bytes = 0
        self._pending: dict[bytes, QueuedChunk] = {}
        self._absent: set[bytes] = set()  # in the index, but damaged or about to be removed
        self._pinned: set[bytes] = set()  # spoken of since the last commit
        self._pins = 0  # collections under way: all that is spoken of stays pinned
        self._new_bytes = 0  # queued since the last commit
        self._incomplete = False  # chunks were dropped, and the caller does not know yet
        self._oldest = 0.0  # when the first of the queue came
        self._added = self._finished = self._failures = self._drops = 0  # counts
        self._retry_at = self._retry_after = 0.0
        self._urgent = self._busy = self._stopping = self._healed = False
        self._calls: list[_Call] = []
        self._thread = threading.Thread(target=self._run, name="savepoint-store", daemon=True)
        self._thread.start()

    # ---- any thread

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child: it has the memory, but no writer thread."""
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"the store belongs to process {self._pid}; this process was forked from it and "
                "can't use it: commit and restore in the notebook's own process"
            )
        if self._stopping:
            raise RuntimeError("the store is closed")

    def is_forked(self) -> bool:
        """Tell whether this process is a forked child."""
        return os.getpid() != self._pid

    def knows(self, address: bytes) -> bool:
        """Tell whether a chunk need not be put again before the next commit."""
        with self.changed:
            self._pinned.add(address)
            return self._knows(address)

    def _knows(self, address: bytes) -> bool:
        if address in self._pending:
            return True
        try:
            return address not in self._absent and self.index.find(address) is not None
        except IndexDamaged:  # written once more, then; the writer will meet the damage too
            return False

    def queued(self, address: bytes) -> bytes | None:
        """Return a chunk that is not on disk yet."""
        with self.changed:
            chunk = self._pending.get(address)
            return None if chunk is None else bytes(chunk.data)

    def add_chunk(self, chunk: QueuedChunk) -> None:
        """Queue a chunk unless it is known; the data must not change any more.

        Raises:
            QuotaExceeded: the next commit needs more new bytes than the quota.
        """
        with self.changed:
            self._pinned.add(chunk.address)
            if self._knows(chunk.address):
                self._buffers.give(chunk.buffer)
                return
            size = self._new_bytes + chunk.size
            if self._quota is not None and size > self._quota:
                self._buffers.give(chunk.buffer)
                raise QuotaExceeded(
                    f"{size} bytes and more are not stored yet, and the session may take "
                    f"{self._quota} (Savepoints.quota): delete large values, or raise the quota"
                )
            self._make_room(chunk.size)
            if self._incomplete:
                self._buffers.give(chunk.buffer)
                return
            self._new_bytes = size
            self.stored_bytes += chunk.size
            self._pending[chunk.address] = chunk
            self._append(chunk)

    def add_commit(self, make: Callable[[int], QueuedCommit], id: bytes) -> None:
        """Queue a commit, or report it as lost if a chunk of it was.

        Args:
            make: called with the commit's number.
            id: the commit's. If there is one of this id, only its refs are set.
        """
        with self.changed:
            commit = make(self.seq + 1)
            if self.find(id) is not None:
                for name in commit.refs:
                    self.add_ref(name, id)
            else:
                self._make_room(commit.size)
                if self._incomplete:
                    self._losses.append(Loss(id, commit.refs, str(self.failure)))
                else:
                    self.seq += 1
                    self._append(commit)
            self._new_bytes = 0
            if not self._pins:
                self._pinned.clear()
            self._retry_at = 0.0
            self.changed.notify_all()

    def abandon(self) -> None:
        """Forget what was put for a commit that will not be made: it counts and stays no more."""
        with self.changed:
            self._new_bytes = 0
            if not self._pins:
                self._pinned.clear()

    def add_ref(self, name: str, commit: bytes | None) -> None:
        """Queue a change of a ref."""
        with self.changed:
            change = QueuedRef(RefChange(self.seq + 1, name, commit))
            self._make_room(change.size)
            if commit is not None and self.find(commit) is None:  # dropped to make room
                self._losses.append(Loss(None, (name,), str(self.failure)))
                return
            self.seq += 1
            self._append(change)

    def find(self, id: bytes) -> Entry | QueuedCommit | None:
        """Return a commit, queued or written."""
        with self.changed:
            queued = (c for c in self.queue if isinstance(c, QueuedCommit) and c.id == id)
            return self.catalog.commits.get(id) or next(queued, None)

    def refs(self) -> dict[str, bytes]:
        """Return the refs with the changes that are queued."""
        with self.changed:
            refs = dict(self.catalog.refs)
            for item in self.queue:
                if isinstance(item, QueuedCommit):
                    refs.update(dict.fromkeys(item.refs, item.id))
                elif isinstance(item, QueuedRef) and item.change.commit is not None:
                    refs[item.change.name] = item.change.commit
                elif isinstance(item, QueuedRef):
                    refs.pop(item.change.name, None)
            return refs

    def distrust(self, address: bytes) -> None:
        """Remember that a chunk is damaged, so that the next put writes it again."""
        with self.changed:
            self._absent.add(address)

    def take_losses(self) -> list[Loss]:
        """Return what was lost, each once; the caller knows then."""
        with self.changed:
            losses, self._losses = self._losses, []
            self._incomplete = False
            return losses

    def flush(self) -> None:
        """Wait until everything queued so far is safe on disk.

        Raises:
            OSError: it is not. What was not dropped stays queued.
        """
        with self.changed:
            goal, failures, drops = self._added, self._failures, self._drops
            while self._finished < goal:
                self._urgent = True
                self._wait()
                if self._failures > failures or self._drops > drops:
                    break
            if self._finished < goal or self._drops > drops:
                raise OSError(f"not everything is on disk: {self.failure}") from self.failure

    def call(self, run: Callable[[], Any]) -> Any:
        """Let the writer's thread run something between two batches, and wait for the result."""
        call = _Call(run)
        with self.changed:
            self._calls.append(call)
            while not call.done:
                self._wait()
        if call.error is not None:
            raise call.error
        return call.result

    def pin(self, by: int) -> None:
        """With 1: keep what is spoken of pinned; with -1: as before."""
        with self.changed:
            self._pins += by

    def heal(self) -> bool:
        """Make the index anew if that was not done before; tell whether it was now."""
        with self.changed:
            if self._healed or self._directory is None:
                return False
            self._healed = True
        self.call(lambda: self._rebuild("a chunk was not where it should be"))
        return True

    def stop(self) -> None:
        """Write what is queued, end the thread, close the files.

        Raises:
            OSError: something could not be written.
        """
        try:
            self.flush()
        finally:
            with self.changed:
                self._stopping = True
                self.changed.notify_all()
            self._thread.join()
            self.index.close()
            self.packs.close()

    def _append(self, item: Queued) -> None:
        if not self.queue:
            self._oldest = time.monotonic()
        self.queue.append(item)
        self.queued_bytes += item.size
        self._added += 1
        # Each wake-up costs the GIL: only for the first, and for what is not gathered.
        if len(self.queue) == 1 or self.queued_bytes >= _EAGER_BYTES:
            self.changed.notify_all()

    def _make_room(self, size: int) -> None:
        while self.queue and self.queued_bytes + size > QUEUE_BYTES:
            if self.failure is not None and not self._busy:
                self._drop()
            else:
                self._urgent = True
                self._wait()

    def _drop(self) -> None:
        reason = str(self.failure)
        self._losses.append(Loss(None, (), reason))  # chunks, of whatever commit
        for item in self.queue:
            if isinstance(item, QueuedCommit):
                self._losses.append(Loss(item.id, item.refs, reason))
            elif isinstance(item, QueuedRef):
                self._losses.append(Loss(None, (item.change.name,), reason))
        self._finish(len(self.queue))
        self._incomplete = True
        self._drops += 1

    def _finish(self, count: int) -> None:
        for item in self.queue[:count]:
            self.queued_bytes -= item.size
            if isinstance(item, QueuedChunk) and self._pending.get(item.address) is item:
                del self._pending[item.address]
                self._buffers.give(item.buffer)
        del self.queue[:count]
        self._finished += count

    def _wait(self) -> None:
        """Wait for the writer to get on."""
        self.changed.notify_all()
        self.changed.wait(_ALIVE_SECONDS)
        if not self._thread.is_alive():
            raise RuntimeError(f"the store's writer has ended: {self.failure!r}")

    # ---- the writer's thread

    def _run(self) -> None:
        try:
            while True:
                with self.changed:
                    work = self._next()
                    if work is None:
                        return
                    self._busy = True
                try:
                    if isinstance(work, _Call):
                        self._do(work)
                    else:
                        self._attempt(work)
                finally:
                    with self.changed:
                        self._busy = False
                        self.changed.notify_all()
        except BaseException as error:  # a mistake in here; waits notice that the thread is gone
            self.failure = RuntimeError(f"the store's writer has ended: {error!r}")
            raise

    def _next(self) -> _Call | list[Queued] | None:
        """Wait for something to do; None if there will be nothing more."""
        while True:
            if self._calls:
                return self._calls.pop(0)
            wait = None
            if self.queue:
                now = time.monotonic()
                if self.failure is not None:
                    wait = self._retry_at - now
                elif self.queued_bytes < _EAGER_BYTES:
                    wait = self._oldest + _GATHER_SECONDS - now
                if wait is None or wait <= 0 or self._urgent:
                    self._urgent = False
                    return list(self.queue)
            if self._stopping:
                return None
            self._urgent = False
            self.changed.wait(wait)

    @staticmethod
    def _do(call: _Call) -> None:
        try:
            call.result = call.run()
        except BaseException as error:
            call.error = error
        call.done = True

    def _attempt(self, batch: list[Queued]) -> None:
        try:
            try:
                chunks, catalog = self._write(batch)
            except IndexDamaged as error:
                self._rebuild(str(error))
                chunks, catalog = self._write(batch)
        except (OSError, sqlite3.Error, IndexDamaged, MemoryError) as error:
            with self.changed:
                self.failure = error
                self._failures += 1
                first, longest = _RETRY_SECONDS
                self._retry_after = min(longest, max(first, self._retry_after * 2))
                self._retry_at = time.monotonic() + self._retry_after
        else:
            with self.changed:
                self.catalog = catalog
                self._absent.difference_update(chunks)
                self._finish(len(batch))
                self._oldest = time.monotonic()
                self.failure = None
                self._retry_after = 0.0

    def _write(self, batch: list[Queued]) -> tuple[list[bytes], Catalog]:
        assert threading.current_thread() is self._thread
        packs = self.packs
        with packs.batch():
            places: list[tuple[bytes, Place]] = []
            for item in batch:
                if isinstance(item, QueuedChunk):
                    codec, payload = self._compressor.compress(item.data)
                    place = packs.append(
                        *(Kind.CHUNK, payload, item.address, codec), raw_length=item.size
                    )
                    places.append((item.address, place))
            if places:
                packs.sync()  # before the first byte of a commit that needs them
            events: list[Event] = []
            for item in batch:
                if isinstance(item, QueuedCommit):
                    events.append(item.at(packs.append(Kind.COMMIT, item.payload, item.id)))
                elif isinstance(item, QueuedRef):
                    packs.append(Kind.REF, item.change.payload())
                    events.append(item.change)
            if events:
                packs.sync()
            catalog = self.catalog.copy()
            catalog.apply(events)
            commits = [event.entry for event in events if isinstance(event, Committed)]
            self.index.update(places, catalog, commits, packs.ends())
        return [address for address, _ in places], catalog

    @contextmanager
    def condemning(self, live: set[bytes]) -> Iterator[tuple[set[bytes], int]]:
        """Give the chunks that are neither live nor pinned, and a number for a KEPT record.

        Nothing is queued at that moment, so that number is higher than all that were written. To
        a put, the condemned chunks are absent already.

        Raises:
            OSError: what was queued can't be written.
        """
        assert threading.current_thread() is self._thread
        addresses = {address for address, _ in self.index.chunks()}
        while True:
            with self.changed:
                batch = list(self.queue)
                if not batch:
                    dead = addresses - live - self._pinned
                    self._absent |= dead
                    self.seq += 1
                    seq = self.seq
                    break
            self._attempt(batch)
            if self.failure is not None:
                raise OSError(f"not everything is on disk: {self.failure}") from self.failure
        try:
            yield dead, seq
        finally:
            with self.changed:
                self._absent -= dead

    def replace_catalog(self, catalog: Catalog) -> None:
        """Show a changed catalog to everybody."""
        assert threading.current_thread() is self._thread
        with self.changed:
            self.catalog = catalog

    def _rebuild(self, why: str) -> None:
        assert threading.current_thread() is self._thread
        assert self._directory is not None
        self._note(f"the index was made anew from the packs: {why}")
        self.index.close()
        index, catalog = rebuild(self._directory, self.packs, self._note)
        with self.changed:
            self.index, self.catalog = index, catalog
