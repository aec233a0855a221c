"""Limits the system enforces, for when the kernel can't.

A call that keeps the GIL (``list(range(10**10))``, ``sum(itertools.repeat(0))``) keeps it from the
threads of the kernel too. What holds then is what the system does by itself:

    memory       RLIMIT_DATA        an allocation fails: MemoryError in the cell
    CPU time     RLIMIT_CPU         SIGXCPU ends the process
    a cell       a POSIX timer      `exits.CELL_SIGNAL` ends the process
    open files   RLIMIT_NOFILE      an open fails: OSError in the cell

RLIMIT_AS would count what is reserved and never used, gigabytes in many libraries. RLIMIT_DATA
counts private memory that may be written to, used or not: more than a limit of memory is meant to,
which is why there is a `reserve`. RLIMIT_NPROC counts all processes of the user and none of root's,
so it is no limit for a kernel.

Children inherit the rlimits, each for itself.

Threads: the main thread.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
import time
from pathlib import Path

from .exceptions import LimitTooLow
from .exits import CELL_SIGNAL

if sys.platform != "win32":
    import resource

_DATA = re.compile(rb"VmData:\s*(\d+) kB")

_MORE_FILES = 64
"""Descriptors the kernel may come to need besides those it has when it starts."""


def reserve(memory: int) -> int:
    """Return how many bytes a single process may have over the limit before allocations fail.

    Saving what a cell made takes as much again at worst, until it is on disk. Stacks and buffers of
    the threads of a BLAS are 40 MB for each CPU, of which little is used.
    """
    return memory + (256 << 20) + (64 << 20) * (os.cpu_count() or 1)


def limit_memory(memory: int, used: int) -> None:
    """Let allocations fail that go beyond a limit and its reserve. Linux only.

    Args:
        memory: the limit in bytes.
        used: what of it the process uses now.
    """
    if sys.platform == "linux":
        found = _DATA.search(Path("/proc/self/status").read_bytes())
        assert found is not None
        _lower(resource.RLIMIT_DATA, int(found[1]) * 1024 - used + memory + reserve(memory))


def lift_memory() -> None:
    """Let allocations fail no more, for what the kernel has to do before it ends."""
    if sys.platform == "linux":
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def limit_cpu(seconds: float) -> None:
    """End the process after this many seconds of CPU more."""
    if sys.platform != "win32":
        _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))


def open_files() -> int | None:
    """Count the open files of this process; None on Windows."""
    if sys.platform == "win32":
        return None
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # which needs one more
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def limit_open_files(count: int) -> None:
    """Let opening fail when this process, or one of its children, has as many open files.

    Raises:
        LimitTooLow: the kernel would not work.
    """
    if sys.platform == "win32":
        return
    least = (open_files() or 0) + _MORE_FILES
    if count < least:
        raise LimitTooLow(f"Limits.open_files={count}: the kernel itself needs {least}")
    _lower(resource.RLIMIT_NOFILE, count)


def _lower(which: int, wanted: int) -> None:
    """Set the soft limit, unless there is a lower one already."""
    soft, hard = resource.getrlimit(which)
    if soft == resource.RLIM_INFINITY or wanted < soft:
        resource.setrlimit(which, (wanted, hard))


class _SigEvent(ctypes.Structure):
    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * 48),  # how to notify a thread
    ]


class _TimerSpec(ctypes.Structure):
    _fields_ = [("interval", ctypes.c_long * 2), ("value", ctypes.c_long * 2)]


class CellTimer:
    """Ends the process when a cell has run for too long. Linux only; a fork does not inherit it."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._libc, "timer_create"):  # glibc before 2.34
            self._libc = ctypes.CDLL("librt.so.1", use_errno=True)
        self._id = ctypes.c_void_p()
        event = _SigEvent(signal=CELL_SIGNAL)
        self._call(
            "timer_create", time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._id)
        )

    def set(self, seconds: float) -> None:
        """Start the clock; 0 stops it."""
        fraction, whole = math.modf(seconds)
        spec = _TimerSpec(value=(int(whole), int(fraction * 1e9)))
        self._call("timer_settime", self._id, 0, ctypes.byref(spec), None)

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
