"""What this process and the processes below it use: memory, CPU time, their number.

Memory is what belongs to nobody else and can't be read again from a file: anonymous pages, shared
memory, swap. So reading a large memory-mapped file uses none. Forked children share pages with
their parent, and the sum over processes counts such a page once for each. The exact sum takes the
system 80 ms per gigabyte, so it is asked for only if there are children and the plain sum is above
what the caller minds.

A process that detached itself (its parent ended) is below nobody and is not found.

Elsewhere than on Linux psutil tells, and memory is the sum of what is resident.

Threads: any.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traitlets.utils.importstring import import_item

_HELD = re.compile(rb"(?:RssAnon|RssShmem|VmSwap):\s*(\d+) kB")
_EXACT = re.compile(rb"(?:Pss_Anon|Pss_Shmem|SwapPss):\s*(\d+) kB")
_EXACT_FIELDS = 3

_LOOKS = 5
"""Times to look at most, while processes end meanwhile."""

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 1


@dataclass(frozen=True, slots=True)
class Child:
    """A process below this one.

    Attributes:
        pid: its number.
        started: when; comparable with that of others.
        cpu: its CPU seconds, and those of its children that have ended.
    """

    pid: int
    started: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What is used.

    Attributes:
        memory: bytes.
        own: bytes of it that are this process's, at most.
        cpu: seconds of CPU, of children that have ended too.
        children: processes below this one, at any depth.
    """

    memory: int
    own: int
    cpu: float
    children: tuple[Child, ...]


def measure(exact_above: float = 0.0) -> Usage:
    """Look at this process and those below it.

    Args:
        exact_above: bytes of memory up to which it need not be exact.
    """
    ended = os.times()
    cpu = time.process_time() + ended.children_user + ended.children_system
    if sys.platform != "linux":
        return _portable(cpu)
    for _ in range(_LOOKS):
        children = tuple(_children())
        pids = [os.getpid(), *(child.pid for child in children)]
        held = {pid: _kilobytes(pid, "status", _HELD, 0) for pid in pids}
        memory = sum(held.values()) * 1024
        if not children or memory <= exact_above:
            break
        exact = (_kilobytes(pid, "smaps_rollup", _EXACT, held[pid]) for pid in pids)
        memory = sum(exact) * 1024
        # Once one has ended, what it shared counts for the others, and so would count twice.
        if {*pids[1:]} <= {child.pid for child in _children()}:
            break
    cpu += sum(child.cpu for child in children)
    return Usage(memory, held[pids[0]] * 1024, cpu, children)


def trim() -> None:
    """Have the C library give back to the system what was freed, which it keeps otherwise."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if give_back is not None:  # glibc's
        give_back(0)


def _kilobytes(pid: int, file: str, fields: re.Pattern[bytes], otherwise: int) -> int:
    """Add up fields of a file of /proc; ``otherwise`` if it can't be read or has not all of them.

    It can't if the process is another user's (sudo).
    """
    try:
        found = fields.findall(Path(f"/proc/{pid}/{file}").read_bytes())
    except OSError:
        return otherwise
    return sum(map(int, found)) if len(found) == _EXACT_FIELDS else otherwise


def _children() -> Iterable[Child]:
    """Find the processes below this one."""
    try:
        # A walk through /proc takes 1 ms; most kernels have no child, which one call tells.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    for pid in _below(os.getpid()):
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            continue  # it has ended
        fields = stat.rpartition(b")")[2].split()
        if fields[0] != b"Z":
            yield Child(pid, int(fields[19]), sum(map(int, fields[11:15])) / _TICKS)


def _below(pid: int) -> Iterable[int]:
    if not os.path.exists("/proc/thread-self/children"):  # not built into every Linux
        yield from (child.pid for child in _psutil().Process().children(recursive=True))
        return
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return  # it has ended
    for task in tasks:
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_bytes()
        except OSError:
            continue  # the thread has ended
        for child in map(int, children.split()):
            yield child
            yield from _below(child)


def _psutil() -> Any:
    """Import psutil, which takes 10 ms; most kernels do without."""
    return import_item("psutil")


def _portable(cpu: float) -> Usage:
    psutil = _psutil()
    process = psutil.Process()
    memory = own = process.memory_info().rss
    children = []
    for each in process.children(recursive=True):
        try:
            times = each.cpu_times()
            memory += each.memory_info().rss
            children.append(Child(each.pid, each.create_time(), times.user + times.system))
        except psutil.Error:
            continue  # it has ended, or is another user's
        cpu += children[-1].cpu
    return Usage(memory, own, cpu, tuple(children))
