"""Digests of buffers are those of the memory as it is, whatever happened to it since."""

from __future__ import annotations

import array
import contextlib
import ctypes
import itertools
import mmap
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from savepoint_kernel.state import pages, userfaultfd
from savepoint_kernel.state.pages import PageDigests
from savepoint_kernel.state.userfaultfd import PAGE, SMALLEST

KIB = 1 << 10
MIB = 1 << 20
SIZE = 4 * MIB
PIECE = 256 * KIB

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
FIXED = 0x10
MAYMOVE = 1

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 2, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def expected(data: Any, piece: int = PIECE) -> list[bytes]:
    data = memoryview(data).cast("B")
    starts = range(0, len(data), piece)
    return [xxhash.xxh3_128_digest(data[start : start + piece]) for start in starts]


class Memory:
    """Pages mapped by hand: they can be replaced, moved and taken away under a buffer."""

    def __init__(self, size: int = SIZE, flags: int = PRIVATE, fill: bool = True) -> None:
        self.size = size
        # Room on both sides: nothing else gets mapped there.
        self._around = libc.mmap(None, size + 32 * MIB, mmap.PROT_READ, PRIVATE, -1, 0)
        self.address = self._around + 16 * MIB
        self.map(0, size, flags)
        if fill:
            self.fill(1)

    def map(self, offset: int, size: int, flags: int = PRIVATE) -> None:
        """Map new pages, in place of those that are there."""
        rights = mmap.PROT_READ | mmap.PROT_WRITE
        place = libc.mmap(self.address + offset, size, rights, flags | FIXED, -1, 0)
        assert place == self.address + offset

    def view(self, offset: int = 0, size: int | None = None) -> memoryview:
        size = self.size - offset if size is None else size
        return memoryview((ctypes.c_char * size).from_address(self.address + offset)).cast("B")

    def fill(self, seed: int, offset: int = 0, size: int | None = None) -> None:
        view = self.view(offset, size)
        view[:] = np.random.default_rng(seed).bytes(len(view))

    def advise(self, offset: int, size: int, advice: int) -> None:
        assert libc.madvise(self.address + offset, size, advice) == 0

    def protect(self, offset: int, size: int, rights: int) -> None:
        assert libc.mprotect(self.address + offset, size, rights) == 0

    def unmap(self) -> None:
        libc.munmap(self._around, self.size + 32 * MIB)


@pytest.fixture
def cache() -> Iterator[PageDigests]:
    """Where pages can't be tracked, digests must be right all the same."""
    cache = PageDigests.open() or PageDigests()
    yield cache
    cache.close()
    assert tracked_mappings() == 0
    assert not descriptors()


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    memory.unmap()


def settle(cache: PageDigests, data: Any, piece: int = PIECE) -> None:
    """Ask until nothing is hashed any more."""
    for _ in range(2 * pages.MAX_PATIENCE):
        before = cache.hashed
        assert cache.digests(memoryview(data).cast("B"), piece) == expected(data, piece)
        if cache.hashed == before or not cache.active:
            return
    raise AssertionError("it is hashed again and again")


def spent(cache: PageDigests, data: Any, piece: int = PIECE) -> int:
    """Check the digests and return how many bytes were hashed for them."""
    before = cache.hashed
    assert cache.digests(memoryview(data).cast("B"), piece) == expected(data, piece)
    return cache.hashed - before


def spares(cache: PageDigests, most: int, data: Any, piece: int = PIECE) -> bool:
    """Check the digests and tell whether at most so many bytes were hashed for them."""
    return spent(cache, data, piece) <= most or not cache.active


def tracked_mappings() -> int:
    """Count mappings that are registered for write protection."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    return sum(" uw" in line for line in lines if line.startswith("VmFlags"))


def descriptors() -> dict[int, str]:
    """Find the open descriptors that tracking needs."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {key: file for key, file in found.items() if file.endswith(("[userfaultfd]", "pagemap"))}


def run(program: str) -> None:
    """Run a program in a process of its own, where it can ruin what it likes."""
    code = "from tests.kernel.test_pages import *\ncache = PageDigests.open() or PageDigests()\n"
    done = subprocess.run(
        [sys.executable, "-c", code + program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_tracks_where_the_system_can() -> None:
    machine = platform.machine()
    number = {"x86_64": 323, "aarch64": 282}.get(machine)
    able = False
    if sys.platform == "linux" and number is not None:
        release = tuple(int(part) for part in platform.release().split(".")[:2])
        descriptor = libc.syscall(number, os.O_CLOEXEC | 1)
        able = descriptor >= 0 and release >= ((6, 7) if machine == "x86_64" else (6, 10))
        if descriptor >= 0:
            os.close(descriptor)
    cache = PageDigests.open()
    assert (cache is not None) == able
    if cache is not None:
        cache.close()


@pytest.mark.parametrize("size", [0, 1, PAGE, MIB - 1, MIB, MIB + 1, 3 * MIB + 12345])
@pytest.mark.parametrize("piece", [777, PAGE, MIB, 5 * MIB])
@pytest.mark.parametrize("offset", [0, 16, 4095])
def test_digests_are_those_of_the_pieces(
    cache: PageDigests, memory: Memory, size: int, piece: int, offset: int
) -> None:
    data = memory.view(offset, size)
    for _ in range(4):
        assert cache.digests(data, piece) == expected(data, piece)
    data[size // 2 : size // 2 + 1] = b"x" * min(size, 1)
    for _ in range(4):
        assert cache.digests(data, piece) == expected(data, piece)


def test_unchanged_memory_is_hashed_twice_only(cache: PageDigests, memory: Memory) -> None:
    assert spent(cache, memory.view()) == SIZE
    spent(cache, memory.view())
    for _ in range(5):
        assert spares(cache, 0, memory.view())


def test_read_only_buffers_are_spared(cache: PageDigests, memory: Memory) -> None:
    settle(cache, memory.view().toreadonly())
    assert spares(cache, 0, memory.view().toreadonly())
    data = bytes(SIZE)
    for _ in range(4):
        spent(cache, data)
    # Before the first byte, on its page, is the reference count.
    assert spares(cache, PIECE, data)


def test_only_the_written_piece_is_hashed(cache: PageDigests, memory: Memory) -> None:
    settle(cache, memory.view())
    memory.view()[PIECE * 5 + 1] ^= 1
    assert spares(cache, PIECE, memory.view())


@pytest.mark.parametrize("piece", [PIECE, 100_000])
def test_both_pieces_of_a_written_page_are_hashed(
    cache: PageDigests, memory: Memory, piece: int
) -> None:
    data = memory.view(64)
    settle(cache, data, piece)
    data[piece * 5] ^= 1
    assert spares(cache, 2 * piece, data, piece)
    data[piece * 5 - 1] ^= 1
    assert spares(cache, 2 * piece, data, piece)
    settle(cache, data, piece)
    data[piece * 5 + 2 * PAGE] ^= 1
    data[piece * 6] ^= 1
    assert spares(cache, 3 * piece, data, piece)


@pytest.mark.parametrize("position", [0, 1, SIZE // 2, SIZE - 77 - 1])
def test_every_byte_counts(cache: PageDigests, memory: Memory, position: int) -> None:
    data = memory.view(33, SIZE - 77)
    settle(cache, data)
    data[position] ^= 255
    assert spares(cache, 2 * PIECE, data)


def test_writes_by_the_system_are_seen(cache: PageDigests, memory: Memory, tmp_path: Path) -> None:
    data = memory.view()
    path = tmp_path / "file"
    path.write_bytes(b"z" * 300_000)
    settle(cache, data)
    with path.open("rb", buffering=0) as file:
        file.readinto(data[500_000:800_000])
        assert spares(cache, 3 * PIECE, data)
        os.preadv(file.fileno(), [data[1_000_000:1_000_001], data[3_000_000:3_000_009]], 0)
        assert spares(cache, 4 * PIECE, data)
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"sent")
        right.recv_into(data[2_000_000:])
    assert spares(cache, 5 * PIECE, data)
    with open("/proc/self/mem", "r+b", buffering=0) as own:
        own.seek(memory.address + 2_500_000)
        own.write(b"poked")
    assert spares(cache, 6 * PIECE, data)


def test_writes_by_c_code_and_threads_are_seen(cache: PageDigests, memory: Memory) -> None:
    settle(cache, memory.view())
    ctypes.memset(memory.address + PIECE, 9, PIECE)
    assert spares(cache, 2 * PIECE, memory.view())
    thread = threading.Thread(target=memory.fill, args=(5, 3 * PIECE, PIECE))
    thread.start()
    thread.join()
    assert spares(cache, 3 * PIECE, memory.view())


def test_a_thread_that_keeps_writing_is_not_missed(cache: PageDigests, memory: Memory) -> None:
    data = memory.view()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 4099 * PAGE + 1
            data[number % SIZE] = number % 256

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(150):
        cache.digests(data, PIECE)
    stop.set()
    thread.join()
    for _ in range(4):
        spent(cache, data)


def test_a_write_right_after_hashing_is_not_missed(
    cache: PageDigests, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = xxhash.xxh3_128_digest

    def digest_and_write(part: memoryview) -> bytes:
        found = digest(part)
        part[77] ^= 1
        return found

    for _ in range(6):
        spent(cache, memory.view())
        with monkeypatch.context() as patch:
            # As another thread may.
            patch.setattr(xxhash, "xxh3_128_digest", digest_and_write)
            cache.digests(memory.view(), PIECE)
        spent(cache, memory.view())


@pytest.mark.parametrize("start", [0, PIECE, SIZE - PAGE])
@pytest.mark.parametrize("flags", [PRIVATE, SHARED])
def test_another_mapping_at_the_address_is_seen(
    cache: PageDigests, memory: Memory, start: int, flags: int
) -> None:
    settle(cache, memory.view())
    memory.map(start, SIZE - start, flags)
    for seed in range(5):
        spent(cache, memory.view())
        memory.fill(seed, start, 1)
        spent(cache, memory.view())


def test_memory_moved_to_the_address_is_seen(cache: PageDigests, memory: Memory) -> None:
    other = Memory()
    for source in (memory, other):
        source.fill(3 if source is memory else 4)
        settle(cache, source.view())
    place = libc.mremap(other.address, SIZE, SIZE, MAYMOVE | 2, memory.address)
    assert place == memory.address
    spent(cache, memory.view())
    # Moved pages must not look protected when they are not.
    for seed in range(6):
        memory.fill(seed, 2 * PIECE, 10)
        spent(cache, memory.view())
    other.unmap()


def test_memory_that_grows_in_place_is_seen(cache: PageDigests, memory: Memory) -> None:
    settle(cache, memory.view())
    libc.munmap(memory.address + SIZE, SIZE)
    assert libc.mremap(memory.address, SIZE, 2 * SIZE, 0, None) == memory.address
    data = memory.view(0, 2 * SIZE)
    settle(cache, data)
    data[SIZE + 5] = 1
    assert spares(cache, PIECE, data)
    memory.view()[7] ^= 1
    assert spares(cache, 2 * PIECE, data)
    spent(cache, memory.view())


def test_python_buffers_that_grow_are_seen(cache: PageDigests) -> None:
    data = bytearray(b"a" * SIZE)
    numbers = array.array("d", bytes(SIZE))
    vector = np.ones(SIZE // 8)
    for number in range(12):
        for buffer in (data, numbers, vector):
            settle(cache, buffer)
        data += bytes([number]) * 100_000
        numbers.extend([number] * 10_000)
        vector.resize(len(vector) + 10_000, refcheck=False)
        vector[-1] = number
        for buffer in (data, numbers, vector):
            spent(cache, buffer)
    del data[: 3 * MIB]
    settle(cache, data)
    data[-1] ^= 1
    spent(cache, data)


def test_addresses_are_used_again(cache: PageDigests) -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        vector = rng.random(SIZE // 8 + number % 3)
        for _ in range(number % 5):
            spent(cache, vector)
        vector[number] = 0
        spent(cache, vector)
        del vector


def test_the_heap_grows_and_shrinks() -> None:
    run(
        """
libc.mallopt(-3, 512 * MIB)  # everything on the heap that brk() moves
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = libc.malloc_trim.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
places = set()
for number in range(12):
    place = libc.malloc(SIZE + number % 2 * 100)
    places.add(place)
    data = memoryview((ctypes.c_char * SIZE).from_address(place)).cast("B")
    for turn in range(number % 4 + 1):
        spent(cache, data)
    data[number] ^= 1
    spent(cache, data)
    libc.free(place)
    if number % 3:
        libc.malloc_trim(0)
assert len(places) < 12
"""
    )


def test_views_with_other_bounds_share_what_is_known(cache: PageDigests, memory: Memory) -> None:
    views = [
        memory.view(),
        memory.view(PIECE),
        memory.view(MIB + 100, 2 * MIB),
        memory.view(0, MIB),
    ]
    for _ in range(20):
        for view in views:
            spent(cache, view)
    assert all(spares(cache, 0, view) for view in views)
    views[2][MIB] ^= 1
    for _ in range(4):
        for view in views:
            spent(cache, view)
    for view in reversed(views):
        settle(cache, view, 2 * PIECE)
        memory.view()[MIB + 300] ^= 1
        for other in views:
            spent(cache, other)


@pytest.mark.parametrize("advice", [mmap.MADV_DONTNEED, mmap.MADV_FREE])
@pytest.mark.parametrize("huge", [mmap.MADV_NOHUGEPAGE, mmap.MADV_HUGEPAGE])
@pytest.mark.parametrize("extent", [PAGE, PIECE, 4 * MIB])
def test_dropped_pages_are_seen(cache: PageDigests, advice: int, huge: int, extent: int) -> None:
    memory = Memory(16 * MIB, fill=False)
    start = -memory.address % (2 * MIB) + 4 * MIB
    memory.advise(0, memory.size, huge)
    for seed in range(3):
        memory.fill(seed)
        settle(cache, memory.view())
        memory.advise(start, extent, advice)
        spent(cache, memory.view())
        settle(cache, memory.view())
        memory.view()[start] ^= 1
        assert spares(cache, 2 * MIB, memory.view())
    memory.unmap()


def test_untouched_pages_are_seen_when_written(cache: PageDigests) -> None:
    memory = Memory(16 * MIB, fill=False)
    settle(cache, memory.view())
    memory.view()[5 * MIB] = 1
    assert spares(cache, PIECE, memory.view())
    memory.unmap()


def test_changed_rights_lose_nothing(cache: PageDigests, memory: Memory) -> None:
    data = memory.view()
    settle(cache, data)
    memory.protect(PIECE, PIECE, mmap.PROT_READ)
    assert spares(cache, 0, data)
    memory.protect(PIECE, PIECE, mmap.PROT_READ | mmap.PROT_WRITE)
    data[PIECE + 1] ^= 1
    assert spares(cache, PIECE, data)
    # A part that nobody may read, beside the buffer but in its mapping.
    memory.protect(SIZE // 2, PAGE, 0)
    part = memory.view(0, SIZE // 2)
    settle(cache, part)
    part[-1] ^= 1
    assert spares(cache, PIECE, part)


def test_a_forked_child_computes_and_disturbs_nothing(cache: PageDigests, memory: Memory) -> None:
    data = memory.view()
    settle(cache, data)
    child = os.fork()
    if child == 0:
        data[5] ^= 1
        right = cache.digests(data, PIECE) == expected(data)
        cache.close()
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert spares(cache, 0, data)
    data[PIECE * 3] ^= 1
    assert spares(cache, PIECE, data)


def test_writes_while_a_child_shares_the_pages_are_seen(cache: PageDigests, memory: Memory) -> None:
    data = memory.view()
    settle(cache, data)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    data[PIECE * 3] ^= 1
    assert spares(cache, PIECE, data)
    settle(cache, data)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    data[PIECE * 3] ^= 1
    assert spares(cache, PIECE, data)


def shared_kinds(directory: Path) -> Iterator[Any]:
    yield mmap.mmap(-1, SIZE)
    for mode in ("r+", "c"):
        path = directory / mode
        path.write_bytes(bytes(SIZE))
        yield np.memmap(path, "u1", mode)


def test_memory_of_others_is_hashed_always(cache: PageDigests, tmp_path: Path) -> None:
    for data in shared_kinds(tmp_path):
        for _ in range(6):
            assert spent(cache, data) == SIZE
            data[7] ^= 1
            spent(cache, data)
    assert tracked_mappings() == 0


def test_a_write_by_another_process_is_seen(cache: PageDigests) -> None:
    shared = SharedMemory(create=True, size=SIZE)
    try:
        for _ in range(5):
            spent(cache, shared.buf)
        child = os.fork()
        if child == 0:
            shared.buf[PIECE] = 77
            os._exit(0)
        os.waitpid(child, 0)
        assert shared.buf[PIECE] == 77
        spent(cache, shared.buf)
    finally:
        shared.close()
        shared.unlink()


def test_a_change_of_the_file_below_is_seen(cache: PageDigests, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(SIZE))
    data = np.memmap(path, "u1", "c")
    for number in range(6):
        spent(cache, data)
        with path.open("r+b") as file:
            file.seek(number * PIECE)
            file.write(b"changed")
        spent(cache, data)


def test_the_kind_of_memory_is_told_without_a_query_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(userfaultfd, "_PROCMAP_QUERY", 0)
    monkeypatch.setattr(userfaultfd, "SMALLEST_WITHOUT_QUERY", MIB)
    cache = PageDigests.open() or PageDigests()
    memory = Memory()
    settle(cache, memory.view())
    assert spares(cache, 0, memory.view())
    for data in shared_kinds(tmp_path):
        assert {spent(cache, data) for _ in range(5)} == {SIZE}
    cache.close()
    memory.unmap()


def test_short_buffers_are_just_hashed(cache: PageDigests, memory: Memory) -> None:
    data = memory.view(0, SMALLEST - 1)
    assert {spent(cache, data) for _ in range(5)} == {SMALLEST - 1}
    assert tracked_mappings() == 0


def test_the_buffers_used_last_are_tracked(
    cache: PageDigests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_BUFFERS", 4)
    memories = [Memory() for _ in range(8)]
    for memory in memories:
        settle(cache, memory.view())
        settle(cache, memories[0].view())
        assert tracked_mappings() <= 4
    assert spares(cache, 0, memories[0].view())
    assert spares(cache, 0, memories[-1].view())
    assert spent(cache, memories[2].view()) == SIZE
    for memory in memories:
        memory.view()[1] ^= 1
        spent(cache, memory.view())
        memory.unmap()


def test_dead_memory_is_forgotten(cache: PageDigests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_PIECES", 3 * SIZE // PIECE)
    for _ in range(20):
        memory = Memory()
        settle(cache, memory.view())
        assert tracked_mappings() <= 3
        memory.unmap()


def test_a_dropped_buffer_leaves_others_protected(
    cache: PageDigests, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_BUFFERS", 2)
    middle = memory.view(MIB, 2 * MIB)
    for _ in range(8):
        spent(cache, memory.view())
        spent(cache, middle)
    other = Memory()
    spent(cache, other.view())  # drops the first
    assert tracked_mappings() == (1 if cache.active else 0)
    assert spares(cache, 0, middle)
    middle[MIB] ^= 1
    assert spares(cache, PIECE, middle)
    other.unmap()


def test_what_is_rewritten_all_the_time_is_not_protected(
    cache: PageDigests, memory: Memory
) -> None:
    settle(cache, memory.view())
    assert sum(rewrite(cache, memory, 1) for _ in range(20)) <= 1
    settle(cache, memory.view())


def test_what_is_rewritten_now_and_then_is_rarely_protected(
    cache: PageDigests, memory: Memory
) -> None:
    assert sum(rewrite(cache, memory, 3) for _ in range(40)) <= 4


def test_a_buffer_that_was_protected_in_vain_is_free_again(
    cache: PageDigests, memory: Memory
) -> None:
    assert [rewrite(cache, memory, 1) for _ in range(4)] == [False] * 4


def rewrite(cache: PageDigests, memory: Memory, calls: int) -> bool:
    """Write everything, ask for digests, and tell if writing met protected pages."""
    value = (memory.view()[0] + 1) % 256
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ctypes.memset(memory.address, value, SIZE)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    for _ in range(calls):
        spent(cache, memory.view())
    return faults > 100  # some are of other causes; all pages are a thousand


def test_closing_all_descriptors_ends_tracking() -> None:
    run(
        """
memory = Memory()
settle(cache, memory.view())
os.closerange(3, 10_000)
files = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
memory.view()[5] ^= 1
for _ in range(4):
    assert spent(cache, memory.view()) == SIZE
assert not cache.active
cache.close()
for file in files:
    os.fstat(file)
assert tracked_mappings() == 0
"""
    )


@pytest.mark.parametrize("lost", ["[userfaultfd]", "pagemap"])
def test_losing_one_descriptor_ends_tracking(memory: Memory, lost: str) -> None:
    cache = PageDigests.open() or PageDigests()
    settle(cache, memory.view())
    mine = [number for number, file in descriptors().items() if file.endswith(lost)]
    with open("/dev/null") as other:
        for descriptor in mine:
            os.dup2(other.fileno(), descriptor)
    memory.view()[5] ^= 1
    assert spent(cache, memory.view()) == SIZE
    assert not cache.active
    assert tracked_mappings() == 0
    cache.close()
    for descriptor in mine:
        os.close(descriptor)


def test_a_driver_of_devices_ends_tracking(
    cache: PageDigests, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(cache, memory.view())
    monkeypatch.setattr(pages, "DRIVERS", ("libm.so.6",))  # numpy has it
    monkeypatch.setattr(pages, "DRIVER_CHECK", 0)
    assert spent(cache, memory.view()) == SIZE
    assert not cache.active
    assert tracked_mappings() == 0


def test_closing_undoes_everything(memory: Memory) -> None:
    cache = PageDigests.open() or PageDigests()
    settle(cache, memory.view())
    cache.close()
    cache.close()
    assert tracked_mappings() == 0
    assert not descriptors()
    assert spent(cache, memory.view()) == SIZE


def test_two_caches_do_not_fool_each_other(cache: PageDigests, memory: Memory) -> None:
    other = PageDigests.open() or PageDigests()
    settle(cache, memory.view())
    for _ in range(4):
        spent(other, memory.view())
    memory.map(0, SIZE)
    memory.fill(9)
    # The memory is new: now the other one has it.
    for _ in range(4):
        spent(other, memory.view())
    for _ in range(4):
        spent(cache, memory.view())
        memory.view()[3] ^= 1
        spent(cache, memory.view())
        spent(other, memory.view())
    other.close()


# A file that was open at that moment is closed by its finalizer, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_call_loses_nothing() -> None:
    left = 0

    def interrupt(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_globals is vars(pages):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return interrupt

    for moment in itertools.count(1):
        cache = PageDigests.open() or PageDigests()
        memory = Memory(MIB + PIECE)
        whole, part = memory.view(), memory.view(PIECE)
        settle(cache, part)
        spent(cache, whole)
        # The next call for the whole protects this page again, and has to tell the part.
        whole[2 * PIECE] ^= 1
        left = moment
        sys.settrace(interrupt)
        try:
            cache.digests(whole, PIECE)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        for view in (part, whole, part, whole):
            spent(cache, view)
        cache.close()
        memory.unmap()
        if left > 0:
            break
    assert moment > 10


STEPS = st.lists(
    st.tuples(
        st.sampled_from("ask ask ask write write fill drop remap".split()),
        st.integers(0, SIZE - 1),
        st.integers(1, SIZE),
    ),
    max_size=40,
)
VIEWS = [(0, SIZE), (0, SIZE), (PIECE, 2 * MIB), (100, SIZE - 200), (MIB - 5, MIB + 9), (0, MIB)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(STEPS)
def test_digests_are_right_whatever_happens(steps: Sequence[tuple[str, int, int]]) -> None:
    cache = PageDigests.open() or PageDigests()
    memory = Memory()
    try:
        for number, (step, position, size) in enumerate(steps):
            size = min(size, SIZE - position)
            page = position - position % PAGE
            extent = max(size - size % PAGE, PAGE)
            if step == "write":
                memory.view()[position] ^= 1
            elif step == "fill":
                ctypes.memset(memory.address + position, number, size)
            elif step == "drop":
                memory.advise(page, min(extent, SIZE - page), mmap.MADV_DONTNEED)
            elif step == "remap":
                memory.map(page, min(extent, SIZE - page))
            else:
                for _ in range(size % 4):
                    spent(cache, memory.view(*VIEWS[position % len(VIEWS)]))
        for view in VIEWS:
            spent(cache, memory.view(*view))
    finally:
        cache.close()
        memory.unmap()
