"""Time limit of a cell.

An interrupt can get lost in code that swallows it, CPython's own fork hooks among them, so a cell
that goes on after the grace is interrupted once more.

Threads: one "Deadline" thread per cell that has a limit; it shares ``_lock`` with the main thread,
so that it never interrupts a cell that has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Deadline:
    """Interrupts a cell once its time is up, and says so if the cell goes on regardless.

    Args:
        seconds: the limit.
        grace: seconds after the interrupt until it is repeated and ``on_ignored`` is called.
        interrupt: ends the cell; called on the deadline thread.
        on_ignored: called there if the cell still runs after the grace.
    """

    def __init__(
        self,
        seconds: float,
        grace: float,
        interrupt: Callable[[], None],
        on_ignored: Callable[[], None],
    ) -> None:
        self._seconds = seconds
        self._grace = grace
        self._interrupt = interrupt
        self._on_ignored = on_ignored
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.expired = False
        self._thread = threading.Thread(target=self._run, name="Deadline", daemon=True)
        self._thread.pydev_do_not_trace = True  # type: ignore[attr-defined]
        self._thread.is_pydev_daemon_thread = True  # type: ignore[attr-defined]

    def start(self) -> None:
        """Start the clock."""
        self._thread.start()

    def cancel(self) -> None:
        """Stop the clock: the cell has ended. Afterwards it interrupts nothing."""
        with self._lock:
            self._over.set()

    def _run(self) -> None:
        for seconds in (self._seconds, self._grace):
            if self._over.wait(seconds) or not self._try_interrupt():
                return
        self._on_ignored()

    def _try_interrupt(self) -> bool:
        """Interrupt the cell unless it has ended."""
        with self._lock:
            if self._over.is_set():
                return False
            self.expired = True
            self._interrupt()
            return True
