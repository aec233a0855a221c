"""A time limit for work on the main thread that is short nearly always, and cheap for that.

A thread of its own for each limit, as `deadline` has for cells, would cost more than what it
watches. Here one thread stays, and looks at the clock when the latest limit may have passed: at
most once in that time while limits come and go, and not at all when none comes.

Threads: `limit` is for the main thread; the "Watchdog" thread shares ``_changed`` with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """Interrupts the main thread when something takes too long.

    Args:
        interrupt: raises KeyboardInterrupt there; called on the watchdog's thread.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._seconds = 0.0
        self._due: float | None = None
        self._wakes: float | None = None  # when the thread looks at the clock
        self._fired = False

    @contextmanager
    def limit(self, seconds: float, exceeded: Exception) -> Iterator[None]:
        """Limit the time a block takes; blocks do not nest.

        Args:
            seconds: the limit; 0 for none. If the block swallows the interrupt, there is another
                one after as many.
            exceeded: raised then, in place of the KeyboardInterrupt.
        """
        if not seconds:
            yield
            return
        assert threading.current_thread() is threading.main_thread()
        self._fired = False
        try:
            try:
                self._arm(seconds)
                yield
            finally:
                self._disarm()
        except KeyboardInterrupt:
            if not self._disarm():  # it may have been interrupted itself
                raise
            raise exceeded from None

    def _arm(self, seconds: float) -> None:
        with self._changed:
            self._seconds = seconds
            self._due = time.monotonic() + seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="Watchdog", daemon=True)
                self._thread.pydev_do_not_trace = True  # type: ignore[attr-defined]
                self._thread.is_pydev_daemon_thread = True  # type: ignore[attr-defined]
                self._thread.start()
            elif self._wakes is None or self._wakes > self._due:
                self._changed.notify()

    def _disarm(self) -> bool:
        """Stop the clock; tell whether it had run down."""
        with self._changed:
            self._due = None
            return self._fired

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                if self._due is not None and self._due <= now:
                    self._fired = True
                    self._due = now + self._seconds
                    self._interrupt()  # with the lock: never after `limit` has been left
                self._wakes = self._due
                self._changed.wait(None if self._due is None else self._due - now)
