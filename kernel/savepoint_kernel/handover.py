"""From a forked process to the process somebody asked for: limits, directory, environment, stdio.

A kernel that a front end starts inherits from it what the system hands down: limits, priority,
umask, CPUs, ignored signals. A standby is a child of the pool's zygote, so it takes them from the
process that asked, which waits for its answer meanwhile. What can't be had (a limit that was
lowered for good) refuses the order; the front end then starts a kernel of its own.

Threads: the main thread, before the kernel serves anything.
"""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from pathlib import Path

from .orders import Order, OrderRefused

_LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_")]

_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def take_limits_of(pid: int) -> None:
    """Take over what a child inherits: resource limits, priority, CPUs, umask and the like.

    Raises:
        OrderRefused: one of them can't be had.
    """
    try:
        for name in _LIMITS:
            limit = getattr(resource, name)
            wanted = resource.prlimit(pid, limit)
            if resource.getrlimit(limit) != wanted:
                resource.setrlimit(limit, wanted)
        cpus = os.sched_getaffinity(pid)
        if os.sched_getaffinity(0) != cpus:
            os.sched_setaffinity(0, cpus)
        nice = os.getpriority(os.PRIO_PROCESS, pid)
        if os.getpriority(os.PRIO_PROCESS, 0) != nice:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        score = Path(f"/proc/{pid}/oom_score_adj").read_text()
        ours = Path("/proc/self/oom_score_adj")
        if ours.read_text() != score:
            ours.write_text(score)
        status = Path(f"/proc/{pid}/status").read_text()
        os.umask(int(_field(status, "Umask"), 8))
        _ignore(int(_field(status, "SigIgn"), 16))
    except (OSError, ValueError) as error:
        raise OrderRefused(f"a limit of process {pid} can't be taken over: {error}") from error


def _field(status: str, name: str) -> str:
    return status.partition(f"\n{name}:")[2].split(maxsplit=1)[0]


def _ignore(ignored: int) -> None:
    """Ignore the signals of a set, and no others of those that nobody handles."""
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        before = signal.getsignal(number)
        wanted = signal.SIG_IGN if ignored >> (number - 1) & 1 else signal.SIG_DFL
        if before in (signal.SIG_IGN, signal.SIG_DFL) and before != wanted:
            signal.signal(number, wanted)


def enter(order: Order) -> None:
    """Go to the order's directory and put its environment in place.

    Raises:
        OrderRefused: there is no such directory.
    """
    try:
        os.chdir(order.cwd)
    except OSError as error:
        raise OrderRefused(f"its directory: {error}") from error
    os.environ.clear()
    os.environ.update(order.env)
    time.tzset()
    tempfile.tempdir = None  # was found out by the old environment


def default_backend() -> None:
    """Have matplotlib draw into the notebook unless told otherwise, as ipykernel does."""
    if not os.environ.get("MPLBACKEND"):
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
