"""Why a kernel has ended, for people.

A parent has an exit status and nothing else. Savepoint's kernels have one for each limit (`exits`,
in the kernel's package). A SIGKILL is told apart by the count that the system keeps of what it
killed for want of memory: that of the kernel's cgroup, or else the machine's, which may mean
another process.

Threads: any.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

from savepoint_kernel.exits import Exceeded, exceeded_by

_LIMITS = {
    Exceeded.MEMORY: "passed its limit of memory (Limits.memory)",
    Exceeded.CPU: "passed its limit of CPU time (Limits.cpu_seconds)",
    Exceeded.PROCESSES: "passed its limit of child processes (Limits.processes)",
    Exceeded.CELL: "had a cell that passed its time limit and could not be interrupted "
    "(Limits.cell_seconds)",
}

_COUNT = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


def cause_of(code: int | None, *, out_of_memory: bool = False) -> str:
    """Say how a kernel ended.

    Args:
        code: return code of its process, as of `subprocess`; None if it is not known.
        out_of_memory: the system has killed for want of memory since it started.

    Returns:
        What completes "The kernel ...".
    """
    if code is None:
        return "ended; its exit status is not known"
    limit = exceeded_by(code)
    if limit is not None:
        return _LIMITS[limit]
    if code >= 0:
        return f"ended with exit status {code}"
    name, meaning = signal_name(-code), _meaning(-code)
    if name == "SIGKILL":
        return f"was killed by {name}" + (
            ", probably by the system, which had no memory left" if out_of_memory else ""
        )
    return f"was killed by {name}" + (f" ({meaning.lower()})" if meaning else "")


def signal_name(number: int) -> str:
    """Return the name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _meaning(number: int) -> str | None:
    try:
        return signal.strsignal(number)
    except ValueError:
        return None


def oom_counter(pid: int) -> Path:
    """Return the file with the count that a process killed for want of memory adds to."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        groups = ""
    found = re.search(r"^0::(.*)$", groups, re.MULTILINE)
    own = Path(f"/sys/fs/cgroup{found[1]}", "memory.events") if found else None
    return own if own is not None and own.exists() else Path("/proc/vmstat")


class OutOfMemory:
    """Tells whether the system has killed for want of memory since this was made.

    Args:
        counter: see `oom_counter`.
    """

    def __init__(self, counter: Path) -> None:
        self._counter = counter
        self._before = self._count()

    def __bool__(self) -> bool:
        return self._count() > self._before

    def _count(self) -> int:
        try:
            found = _COUNT.search(self._counter.read_bytes())
        except OSError:  # not Linux; or its cgroup has gone with it
            found = None
        return int(found[1]) if found else 0
