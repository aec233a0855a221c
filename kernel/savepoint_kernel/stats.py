"""What a cell cost: wall time, CPU time, peak memory.

On Linux the peak is that of the cell alone: the kernel's record of it (VmHWM) is reset when the
cell starts, which also resets what ``resource.getrusage().ru_maxrss`` says. Elsewhere ru_maxrss is
the best there is, the peak since the process started; on Windows there is none (None).
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from dataclasses import asdict, dataclass

if sys.platform != "win32":
    import resource

_PEAK = re.compile(rb"VmHWM:\s*(\d+) kB")


@dataclass(frozen=True, slots=True)
class CellStats:
    """Cost of one cell, as it goes into the reply.

    Attributes:
        wall_ms: milliseconds from the first to the last line, prompts included.
        cpu_ms: milliseconds of CPU of all threads of the kernel and of children that have ended.
        peak_rss_bytes: most memory resident at one time; None where the system cannot tell.
        output_bytes: bytes of stream text, displays, results and errors as sent (JSON).
        dropped_bytes: bytes of output that a subscriber, or after an interrupt nobody, received.
    """

    wall_ms: float
    cpu_ms: float
    peak_rss_bytes: int | None
    output_bytes: int
    dropped_bytes: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields as the protocol spells them."""
        return asdict(self)


class CellClock:
    """Measures one cell; start it right before, read it right after."""

    def __init__(self) -> None:
        _reset_peak()
        self._cpu = _cpu_seconds()
        self._wall = time.perf_counter()

    def read(self, output_bytes: int, dropped_bytes: int) -> CellStats:
        """Return the cost since the clock was made."""
        wall = time.perf_counter() - self._wall
        cpu = _cpu_seconds() - self._cpu
        return CellStats(
            round(wall * 1e3, 3), round(cpu * 1e3, 3), _peak(), output_bytes, dropped_bytes
        )


def _cpu_seconds() -> float:
    ended_children = os.times()
    # os.times has the process itself too, but in ticks of 10 ms.
    return time.process_time() + ended_children.children_user + ended_children.children_system


class _ProcPeak:
    """Peak memory by /proc; the files stay open, since opening them costs more than reading.

    After a reset ru_maxrss is the larger of the peak since then and of what it was inherited as at
    exec (the peak of whoever started the kernel). Once it is above what it was at the start, it is
    exact, and cheaper than reading /proc (1 against 15-80 us per cell).
    """

    def __init__(self) -> None:
        self._inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        try:
            self._clear: int | None = os.open("/proc/self/clear_refs", os.O_WRONLY)
        except OSError:
            self._clear = None  # not allowed in some containers: the peak is the process's

    def reset(self) -> None:
        if self._clear is not None:
            os.write(self._clear, b"5")

    def read(self) -> int | None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak > self._inherited:
            return peak * 1024
        found = _PEAK.search(os.pread(self._status, 4096, 0))
        return int(found[1]) * 1024 if found else None


@functools.cache
def _proc_peak(pid: int) -> _ProcPeak:
    """The files of process ``pid``, which is this one: /proc/self is resolved when opened."""
    return _ProcPeak()


def _reset_peak() -> None:
    if sys.platform == "linux":
        _proc_peak(os.getpid()).reset()


def _peak() -> int | None:
    if sys.platform == "linux":
        return _proc_peak(os.getpid()).read()
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
