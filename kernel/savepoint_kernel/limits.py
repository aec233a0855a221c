"""Limits of one kernel: memory, CPU time, open files, child processes, time per cell.

    below 90 %       nothing
    90 %             a message on stderr of the cell, once
    over the limit   the cell is interrupted, with an error that says so; the session lives on
    it does not help the kernel ends: commits are written, its processes killed, and its exit
                     status says which limit it was (`exits`)

A cgroup would hold these limits too, but not so that a session survives them: it kills without a
word and before the commits are written, it does not count what a process had before it was moved
into it, a kernel can seldom make one, and it would outlive the kernel. So a thread looks at what is
used, as often as the distance to the limit asks for, and what it can't stop while somebody holds
the GIL, the system does (`fences`).

They are against accidents. Code that means to get round them can.

Threads: the "Limits" thread looks, interrupts and ends; `cell_begins`, `cell_ends`, `release` and
`enforce` are for the main thread; `status` for any.
"""

from __future__ import annotations

import gc
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from traitlets import Float, Int, TraitType
from traitlets.config import LoggingConfigurable

from . import fences
from .exceptions import (
    CpuLimitExceeded,
    LimitExceeded,
    LimitTooLow,
    MemoryLimitExceeded,
    ProcessLimitExceeded,
)
from .exits import FLUSH_TIMEOUT, Exceeded, leave
from .usage import Child, Usage, measure, trim

if TYPE_CHECKING:
    from .executor import Cell
    from .kernel import SavepointKernel

WARN_AT = 0.9
WARN_AGAIN_BELOW = 0.8

TOLERATED = 1.1
"""Where a session is over its limit of memory, a cell may take this part of what is used before it:
it may be there to delete some of it."""

_GROWTH = 2e9
"""Bytes per second that memory may grow by: it is looked at before it can be at the limit."""

_PAUSE = (0.01, 0.25)
"""Seconds between two looks, at least and at most."""

_SHARE = 10
"""Looking takes at most this part of the time of one CPU (a tenth), up to `_LONGEST`."""

_LONGEST = 0.5

_FENCE = 3.0
"""Seconds the kernel has, after the grace, to end by itself before the system ends it."""

_IDLE = 10
"""Times the grace that a kernel may be over its limit of memory while no cell runs: it may have to
save what one made, or somebody may be about to delete some of it."""

_TRIM_EVERY = 2.0
"""Seconds between two times that the C library is told to give back what it keeps for later."""

_FLUSHING = 2.0
"""Seconds to write the latest commits while memory may go on growing."""

_HEARD = 0.2
"""Seconds in which the last words go out: zmq sends them on a thread, and does not tell when."""

_KILLING = 1.0
"""Seconds until a kernel that ends gives up on processes that can't be killed."""

_UNITS = {
    "": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(("", "k", "M", "G", "T"))},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), 1)},
}

Message = dict[str, Any]


class Bytes(TraitType[int, int | str]):
    """A number of bytes, or a text such as "1.5 GB" or "512MiB"."""

    default_value = 0
    info_text = "a number of bytes, or one with a unit: kB, MB, GB, TB, KiB, MiB, GiB, TiB"

    def validate(self, obj: Any, value: Any) -> int:
        """Return bytes."""
        if isinstance(value, str):
            found = re.fullmatch(r"([\d.]+) ?(\w*)", value.strip())
            try:
                value = int(float(found[1]) * _UNITS[found[2]]) if found else None
            except (KeyError, ValueError):
                self.error(obj, value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self.error(obj, value)
        return int(value)

    def from_string(self, s: str) -> int:
        """Read an option of a command line."""
        return self.validate(None, s)


@dataclass(slots=True)
class Excess:
    """A limit that has been passed.

    Attributes:
        until: when the kernel ends if it lasts.
        cell: the one interrupted because of it.
    """

    until: float
    cell: Cell | None


class Limits(LoggingConfigurable):
    """Resource limits of a kernel; each holds for the kernel and its child processes."""

    memory = Bytes(
        help="""Bytes of memory, or a text such as "2GB" (units kB, MB, GB, TB, KiB, MiB, GiB, TiB).
        Over it, the running cell is interrupted with MemoryLimitExceeded; if that does not help
        within the grace, the kernel ends. An allocation far over it fails with MemoryError. 0 means
        no limit."""
    ).tag(config=True)
    cpu_seconds = Float(
        0.0,
        min=0.0,
        help="""Seconds of CPU time of the whole session. Then the running cell is interrupted with
        CpuLimitExceeded and the kernel ends. 0 means no limit.""",
    ).tag(config=True)
    open_files = Int(
        0,
        min=0,
        help="""Files, sockets and pipes open at a time, for each process. Opening more fails. The
        kernel itself takes about 80. 0 means the system's limit.""",
    ).tag(config=True)
    processes = Int(
        0,
        min=0,
        help="""Child processes at a time, at any depth. Of more than that the newest are killed,
        and the running cell is interrupted with ProcessLimitExceeded. 0 means no limit.""",
    ).tag(config=True)
    cell_seconds = Float(
        0.0,
        min=0.0,
        help="""Seconds a cell may run: it is interrupted then (ExecutionTimeout), and the kernel
        ends if the cell goes on for longer than the grace. Other than SavepointKernel.cell_timeout,
        a request can't extend it. 0 means no limit.""",
    ).tag(config=True)
    grace = Float(
        5.0,
        min=0.0,
        help="Seconds an interrupted cell has to end before the kernel does.",
    ).tag(config=True)

    def __init__(
        self,
        kernel: SavepointKernel,
        queue: Callable[[Callable[[], Any]], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(parent=kernel, **kwargs)
        self._kernel = kernel
        self._queue = queue
        self._timer: fences.CellTimer | None = None
        self._began: float | None = None
        self._cpu_before = 0.0
        self._peak = 0
        self._trimmed = -math.inf
        self._before = 0
        """Bytes used at the latest look."""
        self._seen: Cell | None = None
        self._allowed = 0.0
        """Bytes the kernel may use while this cell runs."""
        self._warned: set[str] = set()
        self._parent: Message = {}
        """The request of the latest cell."""
        self._excesses: dict[type[LimitExceeded], Excess] = {}
        self._settled = threading.Event()

    # -- on the main thread

    def enforce(self) -> None:
        """Have the limits hold from now on.

        Raises:
            LimitTooLow: the kernel itself uses more.
        """
        used = measure()
        self._cpu_before = used.cpu
        self._peak = self._before = used.memory
        if self.open_files:
            fences.limit_open_files(self.open_files)
        if self.memory:
            if self.memory < used.memory / WARN_AT:
                raise LimitTooLow(
                    f"Limits.memory={self.memory}: the kernel itself uses {_bytes(used.memory)}"
                )
            fences.limit_memory(self.memory, used.memory)
        if self.cpu_seconds:
            fences.limit_cpu(self.cpu_seconds + self.grace + _FENCE)
        if self.cell_seconds and sys.platform == "linux":
            self._timer = fences.CellTimer()
        if self.memory or self.cpu_seconds or self.processes or self.cell_seconds:
            thread = threading.Thread(target=self._watch, name="Limits", daemon=True)
            thread.pydev_do_not_trace = True  # type: ignore[attr-defined]
            thread.is_pydev_daemon_thread = True  # type: ignore[attr-defined]
            thread.start()

    def cell_begins(self, cell: Cell) -> None:
        """Start the clock of a cell."""
        self._parent = cell.parent
        self._began = time.monotonic()
        if self._timer is not None:
            self._timer.set(self.cell_seconds + self.grace + _FENCE)

    def cell_ends(self) -> None:
        """Stop it."""
        self._began = None
        if self._timer is not None:
            self._timer.set(0)

    def release(self, error: BaseException) -> None:
        """Let go of what a failed cell has in its local variables, if it failed for want of memory.

        IPython keeps the error, the error its frames, and these what the cell took too much of.
        """
        if self.memory and isinstance(error, (MemoryError, MemoryLimitExceeded)):
            each: BaseException | None = error
            while each is not None:
                _clear_frames(each.__traceback__)
                each = each.__context__
            gc.collect()
            trim()
            if isinstance(error, MemoryError):
                self._say(f"The kernel {self._spell_memory(measure())}.")

    # -- on any thread

    def status(self) -> Message:
        """Return each limit (None if there is none) and what is used of it."""
        used = measure()
        began = self._began
        self._peak = max(self._peak, used.memory)
        values: dict[str, float | None] = {
            "memory": used.memory,
            "cpu_seconds": round(used.cpu - self._cpu_before, 3),
            "open_files": fences.open_files(),
            "processes": len(used.children),
            "cell_seconds": began and round(time.monotonic() - began, 3),
        }
        status: Message = {
            name: {"limit": getattr(self, name) or None, "used": value}
            for name, value in values.items()
        }
        status["memory"]["peak"] = self._peak
        return status

    def describe(self) -> dict[str, str]:
        """Return the same for people."""
        status = self.status()

        def row(name: str, spell: Callable[[Any], str]) -> str:
            used, limit = status[name]["used"], status[name]["limit"]
            shown = "none" if used is None else spell(used)
            return f"{shown} of {spell(limit)}" if limit else f"{shown}, no limit"

        return {
            "memory": f"{row('memory', _bytes)}, {_bytes(status['memory']['peak'])} at most",
            "CPU time": row("cpu_seconds", "{:g} s".format),
            "open files": row("open_files", str),
            "processes": row("processes", str),
            "this cell": row("cell_seconds", "{:g} s".format),
        }

    # -- on the Limits thread

    def _watch(self) -> None:
        lifted = False
        while True:
            cost = time.thread_time()
            try:
                used = self._measure()
                if lifted:
                    fences.limit_memory(self.memory, used.own)
                lifted = False
                self._judge(used)
            except MemoryError:
                fences.lift_memory()  # who is at fault is found out at the next look
                lifted = True
            cost = time.thread_time() - cost
            pause = (self.memory - self._before) / _GROWTH if self.memory else math.inf
            pause = min(max(pause, _PAUSE[0]), _PAUSE[1])
            time.sleep(max(pause, min(_SHARE * cost, _LONGEST)))

    def _measure(self) -> Usage:
        return measure(WARN_AT * self.memory if self.memory else math.inf)

    def _judge(self, used: Usage) -> None:
        cell = self._kernel.executor.cell
        now = time.monotonic()
        self._peak = max(self._peak, used.memory)
        if self.memory:
            self._judge_memory(used, cell, now)
        if self.processes:
            self._judge_processes(used.children, now)
        if self.cpu_seconds:
            self._judge_cpu(used.cpu - self._cpu_before, now)
        if self.cell_seconds:
            self._judge_cell(now)

    def _judge_memory(self, used: Usage, cell: Cell | None, now: float) -> None:
        if cell is not self._seen:
            self._seen = cell
            self._allowed = max(self.memory, self._before * TOLERATED)
        excess = self._excesses.get(MemoryLimitExceeded)
        freed_may_count = used.memory > WARN_AT * self.memory and now - self._trimmed > _TRIM_EVERY
        if freed_may_count or (excess is None and self._is_over(used, cell)):
            trim()
            used = self._measure()
            self._trimmed = now
        self._before = used.memory
        self._warn("memory", used.memory / self.memory, self._spell_memory(used))
        over = self._is_over(used, cell)
        if not over:
            self._excesses.pop(MemoryLimitExceeded, None)
            excess = None
        elif excess is None or excess.cell is not cell:
            if cell is not None:
                error = MemoryLimitExceeded(f"the kernel {self._spell_memory(used)}")
                excess = self._interrupt(error, now)
            else:
                grace = self.grace * (_IDLE if used.own > self.memory else 1)
                self._say(f"The kernel {self._spell_memory(used)}, or ends in {grace:g} s.")
                excess = self._excesses[MemoryLimitExceeded] = Excess(now + grace, None)
        too_long = excess is not None and self._is_too_long(excess, now)
        if too_long or used.memory > self.memory + fences.reserve(self.memory):
            self._end(Exceeded.MEMORY, f"it {self._spell_memory(used)}", _FLUSHING)

    def _is_over(self, used: Usage, cell: Cell | None) -> bool:
        return used.memory > (self.memory * TOLERATED if cell is None else self._allowed)

    def _spell_memory(self, used: Usage) -> str:
        limit = _bytes(self.memory)
        return f"uses {_bytes(used.memory)} of memory; it may use {limit} (Limits.memory)"

    def _judge_processes(self, children: Sequence[Child], now: float) -> None:
        over = len(children) - self.processes
        if over <= 0:
            self._excesses.pop(ProcessLimitExceeded, None)
            return
        newest = sorted(children, key=lambda child: (child.started, child.pid))[-over:]
        for child in newest:
            _kill(child.pid)
        text = f"child processes than the {self.processes} it may (Limits.processes)"
        excess = self._excesses.get(ProcessLimitExceeded)
        if excess is None:
            excess = self._interrupt(
                ProcessLimitExceeded(f"the kernel has more {text}; {over} were killed"), now
            )
        if self._is_too_long(excess, now):
            self._end(Exceeded.PROCESSES, f"it goes on starting more {text}")

    def _judge_cpu(self, used: float, now: float) -> None:
        limit = f"{self.cpu_seconds:g} s of CPU time it may (Limits.cpu_seconds)"
        self._warn("cpu", used / self.cpu_seconds, f"uses {used:.1f} s of the {limit}")
        if used <= self.cpu_seconds:
            return
        excess = self._excesses.get(CpuLimitExceeded)
        if excess is None:
            excess = self._interrupt(
                CpuLimitExceeded(f"the kernel has used the {limit}; it ends"), now
            )
            self._queue(self._settle)  # behind the commit of the cell
        if self._settled.is_set() or self._is_too_long(excess, now):
            self._end(Exceeded.CPU, f"it has used the {limit}")

    def _judge_cell(self, now: float) -> None:
        began, cell = self._began, self._kernel.executor.cell
        if began is None or cell is None:
            return
        if self._is_too_long(Excess(began + self.cell_seconds + self.grace, cell), now):
            self._end(
                Exceeded.CELL,
                f"a cell passed its limit of {self.cell_seconds:g} s (Limits.cell_seconds) and did "
                f"not end within {self.grace:g} s of the interrupt",
            )

    async def _settle(self) -> None:
        self._settled.set()

    def _interrupt(self, error: LimitExceeded, now: float) -> Excess:
        excess = Excess(now + self.grace, self._kernel.executor.interrupt(error))
        self._excesses[type(error)] = excess
        return excess

    def _is_too_long(self, excess: Excess, now: float) -> bool:
        """Tell whether the grace is over and the cell's code has not ended; its end may take time.

        Its error has to be shown, which takes seconds on a busy machine.
        """
        ends = excess.cell is not None and excess.cell.error is not None
        return not ends and now >= excess.until

    def _warn(self, name: str, share: float, text: str) -> None:
        if share < WARN_AGAIN_BELOW:
            self._warned.discard(name)
        elif share > WARN_AT and name not in self._warned:
            self._warned.add(name)
            self._say(f"The kernel {text}.")

    def _say(self, text: str) -> None:
        self._kernel.publish_notice(self._parent, f"{text}\n")

    def _end(self, status: Exceeded, why: str, timeout: float = FLUSH_TIMEOUT) -> NoReturn:
        fences.lift_memory()
        self.log.error("The kernel ends: %s", why)
        self._say(f"The kernel ends: {why}.")
        until = time.monotonic() + _KILLING
        while (children := measure(math.inf).children) and time.monotonic() < until:
            for child in children:
                _kill(child.pid)
        time.sleep(_HEARD)
        leave(status, self._kernel.savepoints.flush, timeout)


def _clear_frames(tb: TracebackType | None) -> None:
    traceback.clear_frames(tb)
    for frame, _ in traceback.walk_tb(tb):
        # Before Python 3.13 a frame keeps a copy of them, which looking at it brings up to date.
        frame.f_locals  # noqa: B018


def _kill(pid: int) -> None:
    try:
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    except (ProcessLookupError, PermissionError):
        return  # it has ended, or is another user's (sudo)


def _bytes(number: float) -> str:
    unit = next((unit for unit in ("TB", "GB", "MB", "kB") if number >= _UNITS[unit]), "B")
    return f"{number / _UNITS[unit]:.3g} {unit}"
