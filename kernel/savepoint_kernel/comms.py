"""Comm messages: delivered to their handlers also while a cell runs.

Messages wait in one queue. The main loop takes from it whenever it runs, that is when no cell runs
or the cell awaits; there, handlers see the thread and the event loop users expect. If a cell blocks
the main thread, the "Comm" thread takes over after a short grace, so a cell can wait for a widget.
Order of arrival is kept and one handler runs at a time, whichever thread it is on.

Threads: `add` the channel thread; `_drain` the main thread or the Comm thread, one at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar

from ipykernel.thread import BaseThread
from tornado.ioloop import IOLoop

from .sockets import Frames

THREAD_NAME = "Comm"

beside_cell: ContextVar[bool] = ContextVar("beside_cell", default=False)
"""True in the context of a handler that runs while a cell does."""


class CommQueue:
    """Queue of comm messages with two possible consumers.

    Args:
        main_loop: loop of the main thread.
        serve: handles one message; runs on the consuming thread.
        cell_running: tells whether a cell has the main thread.
        grace: gives the seconds a message waits for the main loop before the Comm thread takes it.
    """

    def __init__(
        self,
        main_loop: IOLoop,
        serve: Callable[[Frames], None],
        cell_running: Callable[[], bool],
        grace: Callable[[], float],
    ) -> None:
        self._main_loop = main_loop
        self._serve = serve
        self._cell_running = cell_running
        self._grace = grace
        self._queue: deque[Frames] = deque()
        self._turn = threading.Lock()
        self._thread: BaseThread | None = None

    def add(self, frames: Frames) -> None:
        """Queue one message."""
        self._queue.append(frames)
        self._main_loop.add_callback(self._drain)
        # Also if no cell runs now: one that starts next may keep the main loop from its callback.
        loop = self._start_thread().io_loop
        loop.add_callback(loop.call_later, self._grace(), self._take_over)

    def _start_thread(self) -> BaseThread:
        if self._thread is None:
            self._thread = BaseThread(name=THREAD_NAME, daemon=True)
            self._thread.start()
        return self._thread

    def _take_over(self) -> None:
        if self._queue and self._cell_running():
            self._drain(self._cell_running)
            self._main_loop.add_callback(self._drain)  # what came once the cell had ended

    def _drain(self, wanted: Callable[[], bool] = lambda: True) -> None:
        """Serve what is queued, unless the other thread is at it: then it will.

        Args:
            wanted: tells whether to go on.
        """
        while self._queue and wanted() and self._turn.acquire(blocking=False):
            try:
                while self._queue and wanted():
                    self._serve(self._queue.popleft())
            finally:
                self._turn.release()

    def settle(self, give_up: Callable[[], bool]) -> None:
        """Serve everything that came before now, so that the next cell sees it. Main thread.

        A handler still running on the Comm thread is waited for, until ``give_up`` says so.
        """
        while not self._turn.acquire(timeout=0.05):
            if give_up():
                return
        self._turn.release()
        self._drain()

    def stop(self) -> None:
        """End the Comm thread."""
        if self._thread is not None:
            self._thread.stop()
