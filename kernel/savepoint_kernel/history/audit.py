"""The audit: while the kernel idles, a look at what no cell seems to have touched.

After a cell only the names are looked at that its code can have touched. A library that changes an
object it was given earlier is no code of a cell's. Every way back finds such a change, as it looks
at all names first; the audit finds it sooner, so that it has a commit of its own.

It goes on in slices, one co-variable at least in each, so that a cell waits for one slice at most:
10 ms, or what it takes to hash the one value (0.1 s for a gigabyte).

Threads: the main thread, in callbacks of its loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .timeline import Timeline

SLICE = 0.01
"""Seconds of work at a time."""

PAUSE = 0.03
"""Seconds between: no more than a quarter of one CPU."""


class Audit:
    """Verifies the names of a timeline, round and round, as far as cells leave time.

    Args:
        timeline: gives it; None if there is none.
        busy: tells whether a cell runs.
        missed: called with the names of a commit that the audit has made.
    """

    def __init__(
        self,
        timeline: Callable[[], Timeline | None],
        busy: Callable[[], bool],
        missed: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._timeline = timeline
        self._busy = busy
        self._missed = missed
        self._delay = 0.0
        self._due = 0.0
        self._waiting = False
        self._left: list[str] | None = None
        self._next = ""

    def cell_ended(self, delay: float) -> None:
        """Begin anew after as many seconds without a cell."""
        self._delay = delay
        self._due = time.monotonic() + delay
        self._left = None
        if not self._waiting:
            self._wait(delay)

    def _wait(self, seconds: float) -> None:
        self._waiting = True
        asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._waiting = False
        timeline = self._timeline()
        if timeline is None:
            return
        early = self._due - time.monotonic()
        if self._busy():  # its end may be no commit, which would begin it anew
            self._wait(max(self._delay, PAUSE))
        elif early > 0:
            self._wait(early)
        elif not timeline.suspects_all:  # else the next look is at all names anyway
            self._slice(timeline)
            if self._left:
                self._wait(PAUSE)

    def _slice(self, timeline: Timeline) -> None:
        if self._left is None:
            self._left = self._from_next(timeline)
        end = time.monotonic() + SLICE
        try:
            while self._left and time.monotonic() < end:
                self._next = self._left.pop()
                if timeline.differs(self._next):
                    # A silent cell, which is not committed, may have done it knowingly.
                    kind = "outside" if timeline.has_suspects else "audit"
                    commit = timeline.commit(kind, full=True, only_changes=True)
                    self._left.clear()
                    if commit is not None and kind == "audit":
                        self._missed((*commit.added, *commit.changed, *commit.removed))
        except KeyboardInterrupt:  # a value's pickling took long
            self._left.clear()

    def _from_next(self, timeline: Timeline) -> list[str]:
        """Return the names, last the one that was the next when a cell came."""
        names = sorted(name for group in timeline.groups for name in [min(group.all_names)])
        at = sum(name <= self._next for name in names)
        return [*names[at:], *names[:at]][::-1]
