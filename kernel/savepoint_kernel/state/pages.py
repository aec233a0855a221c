"""Digests of large buffers at the price of the pages that were written to.

Hashing a gigabyte takes 70 ms, after a cell that changed one element too. Since 6.7 Linux can tell
which pages were written: userfaultfd write-protects them (``UFFD_FEATURE_WP_ASYNC``), the first
write to each lifts the protection without anybody being asked, and ``PAGEMAP_SCAN`` lists those
without it: 0.1 ms for a clean gigabyte. It sees writes by C code, by other threads and by the
operating system on behalf of the process. Soft-dirty bits can't be read and cleared in one step,
and many systems lack them; ``mprotect`` with a signal handler makes ``read()`` fail.

A digest is kept only as long as all of this holds; else it is computed:

* The pages of the piece were protected *before* it was hashed. A write that comes later is seen.
* No page is written to since, or gone: what ``MADV_DONTNEED`` drops reads as zeros, and older
  kernels don't call that written.
* The written state was not lost: who protects pages again marks the pieces of all buffers that
  the written ones among them belong to.
* The memory is the same mapping still, registered with this userfaultfd: a new mapping at the
  address, or one that was moved or grown, is not.
* It is private and anonymous: files and shared memory are written without our page tables.

The first write to a protected page costs the user's code 1.4 µs, 35 ms for 100 MB; `_Entry` says
how that is kept rare. It also splits a huge page, whose random reads become 10 % slower. Reading
costs nothing.

Not seen is what a device, or the operating system in its own time, writes to memory pinned before:
``O_DIRECT`` reads that are under way in another thread during a call, and io_uring's registered
buffers. For GPUs and RDMA tracking ends for good once their driver's library is loaded.

Threads: one calls the methods; others may write to the memory at any time.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress

import xxhash

from .userfaultfd import PAGE, Tracking, address_of

MAX_BUFFERS = 2000
"""Buffers that are tracked. Each may split a mapping in three, of 65530 that a process may have."""

MAX_PIECES = 1 << 16
"""Pieces that are tracked: 64 GB, whose digests take 6 MB."""

MAX_PATIENCE = 32
"""Calls that a piece must be unchanged before it is protected, at most."""

DRIVERS = ("libcuda.so.1", "libhsa-runtime64.so.1", "libze_loader.so.1", "libibverbs.so.1")
"""Libraries that let devices write to memory: NVIDIA, AMD, Intel, RDMA."""

DRIVER_CHECK = 0.02
"""Seconds between looks for drivers, which take 0.1 ms. Loading and starting one takes longer."""


class PageDigests:
    """Digests of the pieces of buffers, of which only those written to since are computed again.

    A cache of a pure function of memory. Calls need not know of each other; buffers may overlap, be
    freed, and their addresses be used again. In a forked child everything is computed.

    Attributes:
        hashed: bytes that were hashed so far.

    Args:
        tracking: None to compute every digest.
    """

    def __init__(self, tracking: Tracking | None = None) -> None:
        self.hashed = 0
        self._tracking = tracking
        # By address, size and piece; the one used last is the last.
        self._entries: OrderedDict[tuple[int, int, int], _Entry] = OrderedDict()
        self._pieces = 0
        self._unsure: tuple[int, int] | None = None
        self._drivers_checked = -DRIVER_CHECK

    @classmethod
    def open(cls) -> PageDigests | None:
        """Start tracking; None where the system can't or does not let us."""
        tracking = Tracking.open()
        return None if tracking is None else cls(tracking)

    @property
    def active(self) -> bool:
        """Whether pages are tracked still. Without, every digest is computed."""
        return self._tracking is not None

    def digests(self, data: memoryview, piece: int) -> Sequence[bytes]:
        """Return xxh3-128 of each piece of a buffer.

        Args:
            data: C-contiguous. The buffer must stay mapped for the time of the call.
            piece: bytes; the last one may be shorter.

        Raises:
            TypeError: the buffer is not C-contiguous.
        """
        data = data.cast("B")
        size = len(data)
        tracking = self._usable()
        if tracking is None or size < tracking.smallest or size > piece * MAX_PIECES:
            return self._hash_all(data, piece)
        key = address_of(data), size, piece
        entry = self._entries.get(key)
        if entry is None:
            entry = _Entry(*key, self._hash_all(data, piece))
            self._entries[key] = entry
            self._pieces += len(entry.digests)
            while len(self._entries) > MAX_BUFFERS or self._pieces > MAX_PIECES:
                self._drop_oldest(tracking)
            return list(entry.digests)
        self._entries.move_to_end(key)
        try:
            self._update(tracking, entry, data)
        except OSError:  # not memory that can be tracked, or no more of it
            self._release(tracking, entry)
            return self._hash_all(data, piece)
        return list(entry.digests)

    def close(self) -> None:
        """Stop tracking; digests are computed from now on."""
        tracking, self._tracking = self._tracking, None
        if tracking is not None:
            # In a forked child the memory is the parent's, who goes on.
            if tracking.pid == os.getpid() and tracking.intact():
                while self._entries:
                    self._drop_oldest(tracking)
            tracking.close()
        self._entries.clear()

    def _hash_all(self, data: memoryview, piece: int) -> list[bytes]:
        return [self._hash(data[at : at + piece]) for at in range(0, len(data), piece)]

    def _hash(self, data: memoryview) -> bytes:
        self.hashed += len(data)
        return xxhash.xxh3_128_digest(data)

    def _usable(self) -> Tracking | None:
        """Return the tracking, unless it was lost: then it ends for good."""
        tracking = self._tracking
        if tracking is None or os.getpid() != tracking.pid:
            return None  # A forked child leaves it alone: it would see its parent's memory.
        if not tracking.intact():
            self.close()
            return None
        now = time.monotonic()
        if now - self._drivers_checked >= DRIVER_CHECK:
            if any(tracking.is_loaded(name) for name in DRIVERS):
                self.close()
                return None
            self._drivers_checked = now
        return tracking

    def _update(self, tracking: Tracking, entry: _Entry, data: memoryview) -> None:
        """Hash the pieces that are not known to be as they were."""
        if self._unsure is not None:
            self._mark(*self._unsure)
            self._unsure = None
        if entry.registered:
            try:
                self._mark_written(tracking, entry)
                # Fails if it is somebody else's by now, with protections of their own.
                tracking.register(entry.start, entry.end)
            except OSError:
                self._release(tracking, entry)
        ready = [number for number in entry.unprotected if not entry.wait[number]]
        if ready and not entry.registered:
            tracking.register_private(entry.start, entry.end)
            entry.registered = True
        # Until it is noted which pages had been written, an error or interrupt may lose that.
        self._unsure = entry.start, entry.end
        for start, end in entry.runs(ready):
            for written in tracking.protect(start, end):
                self._mark(*written)
        self._unsure = None
        changed = []
        for number in sorted(entry.unprotected):
            start = number * entry.piece
            if entry.note(number, self._hash(data[start : start + entry.piece])):
                changed.append(number)
        for start, end in entry.runs(changed):
            # The page at either end may belong to a protected piece as well.
            if start + 2 * PAGE < end:
                tracking.unprotect(start + PAGE, end - PAGE)

    @staticmethod
    def _mark_written(tracking: Tracking, entry: _Entry) -> None:
        position = entry.start
        while position < entry.end:
            ranges, walked = tracking.written(position, entry.end)
            for start, end in ranges:
                if end > position:
                    # The rest of a piece need not be known once a page of it was written.
                    position = max(position, entry.mark(start, end))
            position = max(position, walked)

    def _mark(self, start: int, end: int) -> None:
        for entry in self._entries.values():
            entry.mark(start, end)

    def _drop_oldest(self, tracking: Tracking) -> None:
        _, entry = self._entries.popitem(last=False)
        self._pieces -= len(entry.digests)
        self._release(tracking, entry)

    def _release(self, tracking: Tracking, entry: _Entry) -> None:
        """Have no page of an entry protected, except for other entries."""
        entry.mark(entry.start, entry.end)
        if entry.registered:
            entry.registered = False
            for start, end in self._only_in(entry):
                # The memory may be gone. Registering tells whether it is somebody else's, which
                # older kernels would unregister all the same.
                with suppress(OSError):
                    tracking.register(start, end)
                    tracking.unregister(start, end)

    def _only_in(self, entry: _Entry) -> Iterator[tuple[int, int]]:
        """Yield what no other entry has registered."""
        others = (each for each in self._entries.values() if each.registered)
        position = entry.start
        for start, end in sorted((each.start, each.end) for each in others):
            if start > position:
                yield position, min(start, entry.end)
            position = max(position, end)
            if position >= entry.end:
                return
        yield position, entry.end


class _Entry:
    """A buffer whose digests are known.

    A piece is protected once it was found unchanged, not at first sight: writing to protected
    pages costs five times what hashing them does. A piece that is written all the same has to stay
    unchanged twice as often before the next time. So a loop of cells that rewrite an array pays
    for faults once, and a hot corner of a large array does not unprotect the rest.

    Attributes:
        start, end: addresses of its pages. The first and last may have data of others, whose
            changes look like changes of the buffer. Parts of pages would have to be hashed always.
        unprotected: numbers of pieces that must be hashed.
        wait: by piece, how many calls it must still be found unchanged before it is protected.
    """

    __slots__ = (
        "address", "digests", "end", "patience", "piece", "registered", "size", "start",
        "unprotected", "wait",
    )  # fmt: skip

    def __init__(self, address: int, size: int, piece: int, digests: list[bytes]) -> None:
        self.address = address
        self.size = size
        self.piece = piece
        self.start = address - address % PAGE
        self.end = address + size + -(address + size) % PAGE
        self.digests = digests
        self.registered = False
        self.unprotected = set(range(len(digests)))
        self.wait = bytearray(len(digests))
        self.patience = bytearray(b"\1") * len(digests)

    def mark(self, start: int, end: int) -> int:
        """Take note that pages were written to, and return where the last of their pieces ends."""
        if start >= self.end or end <= self.start:
            return end
        first = max(start - self.address, 0) // self.piece
        last = (min(end - self.address, self.size) - 1) // self.piece
        for number in range(first, last + 1):
            if number not in self.unprotected:
                self.unprotected.add(number)
                self._lose_patience(number)
        stop = min(self.address + (last + 1) * self.piece, self.end)
        return stop - stop % PAGE

    def note(self, number: int, digest: bytes) -> bool:
        """Take the digest of an unprotected piece; tell if its pages were protected in vain."""
        same = digest == self.digests[number]
        self.digests[number] = digest
        if self.wait[number]:
            self.wait[number] = self.wait[number] - 1 if same else self.patience[number]
        elif same:
            self.unprotected.discard(number)
        else:
            self._lose_patience(number)
            return True
        return False

    def runs(self, numbers: list[int]) -> Iterator[tuple[int, int]]:
        """Yield the page ranges of pieces, adjacent ones as one."""
        numbers = sorted(numbers)
        first = 0
        for index, number in enumerate(numbers, 1):
            if index == len(numbers) or numbers[index] != number + 1:
                start = self.address + numbers[first] * self.piece
                end = self.address + min((number + 1) * self.piece, self.size)
                yield start - start % PAGE, end + -end % PAGE
                first = index

    def _lose_patience(self, number: int) -> None:
        self.wait[number] = self.patience[number]
        self.patience[number] = min(self.patience[number] * 2, MAX_PATIENCE)
