"""Which pages were written to: Linux's userfaultfd and PAGEMAP_SCAN, by ctypes.

`pages` says what they are for. Structures and numbers are those of the headers named with them.

Threads: one calls the methods; others may write to the memory at any time.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import sys
from collections.abc import Iterator

if sys.platform != "win32":
    import fcntl

PAGE = mmap.PAGESIZE

SMALLEST = 1 << 20
"""Bytes. A call takes 20 µs when nothing was written; hashing this much takes 90 µs."""

SMALLEST_WITHOUT_QUERY = 8 << 20
"""Bytes, on Linux before 6.11: to learn what kind of memory it is takes 1 ms there, once."""


class _PyBuffer(ctypes.Structure):
    """``Py_buffer`` of the C API."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def address_of(data: memoryview) -> int:
    """Return where a buffer is in memory."""
    # ctypes' from_buffer refuses memory that is read-only.
    view = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(view), 0)
    try:
        return int(view.buf or 0)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


# asm/unistd.h
_SYSCALL = {"x86_64": 323, "aarch64": 282}

# linux/userfaultfd.h
_UFFD_USER_MODE_ONLY = 1
_UFFD_API = 0xAA
_FEATURES = 1 << 0 | 1 << 13 | 1 << 15  # PAGEFAULT_FLAG_WP, WP_UNPOPULATED, WP_ASYNC
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_UNREGISTER = 0x8010AA01
_UFFDIO_WRITEPROTECT = 0xC018AA06
_REGISTER_MODE_WP = 2

# linux/fs.h
_PAGEMAP_SCAN = 0xC0606610
_PM_SCAN_WP_MATCHING = 1
_PM_SCAN_CHECK_WPASYNC = 2
_PAGE_IS_WRITTEN = 1 << 1
_PAGE_IS_PRESENT = 1 << 3
_PAGE_IS_SWAPPED = 1 << 4
_PROCMAP_QUERY = 0xC0686611
_VMA_SHARED = 8


class _Api(ctypes.Structure):
    """``struct uffdio_api``."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("api", "features", "ioctls")]


class _Register(ctypes.Structure):
    """``struct uffdio_register``; ``uffdio_range`` and ``uffdio_writeprotect`` begin it."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("start", "length", "mode", "ioctls")]


class _Scan(ctypes.Structure):
    """``struct pm_scan_arg``."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    ]


class _Query(ctypes.Structure):
    """``struct procmap_query``."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("size", "query_flags", "address", "start", "end")),
        *((name, ctypes.c_uint64) for name in ("flags", "page_size", "offset", "inode")),
        *((name, ctypes.c_uint32) for name in ("major", "minor", "name_size", "build_id_size")),
        *((name, ctypes.c_uint64) for name in ("name_address", "build_id_address")),
    ]


def _identify(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Tracking:
    """Write tracking as Linux offers it, of page ranges by address.

    Methods raise OSError for what Linux refuses.

    Attributes:
        pid: of the process whose memory it is.
        smallest: bytes of a buffer that is worth it.

    Args:
        syscall: number of userfaultfd.
    """

    def __init__(self, syscall: int) -> None:
        self.pid = os.getpid()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.dlopen.restype = ctypes.c_void_p
        # User mode only: what needs no permission. Writes by the system are tracked all the same.
        flags = os.O_CLOEXEC | os.O_NONBLOCK | _UFFD_USER_MODE_ONLY
        self._uffd = self._libc.syscall(ctypes.c_long(syscall), ctypes.c_int(flags))
        if self._uffd < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        self._files = [(self._uffd, _identify(self._uffd))]
        try:
            fcntl.ioctl(self._uffd, _UFFDIO_API, _Api(_UFFD_API, _FEATURES))
            self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise
        self._files.append((self._pagemap, _identify(self._pagemap)))
        # 64 ranges: a scan goes on behind the piece to which the last one belongs.
        self._ranges = (ctypes.c_uint64 * (3 * 64))()
        self._can_query = True
        self.private(id(self), id(self) + 1)  # learns whether it can
        self.smallest = SMALLEST if self._can_query else SMALLEST_WITHOUT_QUERY

    @classmethod
    def open(cls) -> Tracking | None:
        """Start tracking; None where the system can't or does not let us."""
        number = _SYSCALL.get(platform.machine())
        if sys.platform != "linux" or number is None or sys.maxsize < 1 << 32:
            return None
        try:
            tracking = cls(number)
        except OSError:
            return None
        try:
            works = tracking.works()
        except OSError:
            works = False
        if not works:
            tracking.close()
            return None
        return tracking

    def intact(self) -> bool:
        """Tell whether the descriptors are ours still: user code may close all that are open."""
        return all(_identify(descriptor) == identity for descriptor, identity in self._files)

    def close(self) -> None:
        """Close the descriptors; with the last copy of them all protection ends."""
        for descriptor, identity in self._files:
            if _identify(descriptor) == identity:
                os.close(descriptor)

    def is_loaded(self, library: str) -> bool:
        """Tell whether a library is in the process."""
        return bool(self._libc.dlopen(library.encode(), os.RTLD_NOLOAD | os.RTLD_LAZY))

    def works(self) -> bool:
        """Tell whether it does what it is known to do, on a few pages of its own."""
        with mmap.mmap(-1, 4 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            for page in range(4):
                memory[page * PAGE] = 1
            with memoryview(memory) as view:
                start = address_of(view)
            end = start + 4 * PAGE
            self.register_private(start, end)
            list(self.protect(start, end))
            clean, _ = self.written(start, end)
            memory[PAGE] = 2
            memory.madvise(mmap.MADV_DONTNEED, 3 * PAGE, PAGE)
            changed, _ = self.written(start, end)
            return not clean and changed == [
                (start + page * PAGE, start + (page + 1) * PAGE) for page in (1, 3)
            ]

    def register(self, start: int, end: int) -> None:
        """Have writes tracked; nothing happens to what is registered."""
        fcntl.ioctl(self._uffd, _UFFDIO_REGISTER, _Register(start, end - start, _REGISTER_MODE_WP))

    def register_private(self, start: int, end: int) -> None:
        """Register memory that nobody writes to but through the page tables of this process."""
        self.register(start, end)
        # In this order: memory that is registered can't be another mapping without losing that.
        if not self.private(start, end):
            self.unregister(start, end)
            raise OSError("neither private nor anonymous")
        # Before 6.13 pages that were moved (mremap) look protected, and are not.
        self.unprotect(start, end)

    def unregister(self, start: int, end: int) -> None:
        """Undo registration and protection."""
        fcntl.ioctl(self._uffd, _UFFDIO_UNREGISTER, _Register(start, end - start))

    def unprotect(self, start: int, end: int) -> None:
        """Take pages for written to."""
        fcntl.ioctl(self._uffd, _UFFDIO_WRITEPROTECT, _Register(start, end - start))

    def protect(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Protect pages and yield those that had been written to, both in one step."""
        scan = _Scan(flags=_PM_SCAN_WP_MATCHING | _PM_SCAN_CHECK_WPASYNC, start=start, end=end)
        # Exactly these masks make pages that don't exist yet be protected too.
        scan.category_mask = scan.return_mask = _PAGE_IS_WRITTEN
        while scan.start < end:
            for first, last, _ in self._scan(scan):
                yield first, last
            scan.start = scan.walk_end

    def written(self, start: int, end: int) -> tuple[list[tuple[int, int]], int]:
        """Find the pages that are not as when they were protected.

        Returns:
            Some of them, and the address up to which there are no others.
        """
        scan = _Scan(flags=_PM_SCAN_CHECK_WPASYNC, start=start, end=end)
        # Written, or neither there nor swapped out: a hole in the page tables.
        scan.category_inverted = _PAGE_IS_PRESENT
        scan.category_anyof_mask = _PAGE_IS_WRITTEN | _PAGE_IS_PRESENT
        scan.return_mask = _PAGE_IS_WRITTEN | _PAGE_IS_SWAPPED
        found = [
            (first, last)
            for first, last, categories in self._scan(scan)
            if categories != _PAGE_IS_SWAPPED
        ]
        return found, scan.walk_end

    def _scan(self, scan: _Scan) -> list[tuple[int, int, int]]:
        scan.size = ctypes.sizeof(scan)
        scan.vec = ctypes.addressof(self._ranges)
        scan.vec_len = len(self._ranges) // 3
        count = fcntl.ioctl(self._pagemap, _PAGEMAP_SCAN, scan)
        if scan.walk_end <= scan.start:
            raise OSError("the scan does not get on")
        values = self._ranges[: 3 * count]
        return list(zip(values[::3], values[1::3], values[2::3], strict=True))

    def private(self, start: int, end: int) -> bool:
        """Tell whether all of a range is private and anonymous memory."""
        position = start
        while self._can_query and position < end:
            query = _Query(size=ctypes.sizeof(_Query), address=position)
            try:
                with open("/proc/self/maps", "rb", buffering=0) as maps:
                    fcntl.ioctl(maps, _PROCMAP_QUERY, query)
            except OSError as error:
                if error.errno == errno.ENOENT:  # not mapped
                    return False
                self._can_query = False
                break
            if query.flags & _VMA_SHARED or query.inode or query.major or query.minor:
                return False
            position = query.end
        if position >= end:
            return True
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                addresses, permissions, _, device, inode = line.split(maxsplit=5)[:5]
                low, high = (int(address, 16) for address in addresses.split("-"))
                if high <= position:
                    continue
                if low > position or permissions[3] != "p" or device != "00:00" or inode != "0":
                    return False
                position = high
                if position >= end:
                    return True
        return False
