"""Requests for the main thread: served one at a time, in the order of arrival.

A cell that fails aborts the cells that have arrived by then, and no later one. A client may send
the next cell as soon as it has the failed one's reply, so what has arrived is settled before that
reply is sent; stock ipykernel does it afterwards, and may abort the next cell too.

Threads: `add` the Shell channel thread; `consume` and `abort` the main thread, which also makes it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import Any

from ipykernel.utils import _async_in_context
from tornado.ioloop import IOLoop

from .sockets import Frames

_TAKE_IN = 1.0
"""Seconds a failed cell's reply waits at most for the channel thread; it takes well under 1 ms."""

Item = Frames | Callable[[], Awaitable[None]]
"""A message, or something else to be done in its turn."""

_STOP_ABORTING: Frames = []
"""Queued behind the requests that a failed cell aborts."""


class Inbox:
    """The queue of execution requests and its one consumer.

    Args:
        channel_loop: loop of the Shell channel thread.
        receive: takes in what waits on the shell socket; called on the Shell channel thread.
        serve: serves one item; context variables it sets are there for the next.
        wake: has `consume` called on the main thread.
    """

    def __init__(
        self,
        channel_loop: IOLoop,
        receive: Callable[[], None],
        serve: Callable[[Item], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        self._channel_loop = channel_loop
        self._receive = receive
        self._serve = serve
        self._wake = wake
        self._main_loop = asyncio.get_event_loop()
        self._context = copy_context()
        self._start_task = self._task_starter()
        self._queue: deque[Item] = deque()
        self._consuming = False
        self.aborting = False
        """True while requests come that arrived before a failed cell's reply."""

    def add(self, item: Item) -> None:
        """Queue one request."""
        self._queue.append(item)
        self._wake()

    def consume(self) -> None:
        """Serve what is queued, in a task of its own, unless one is at it."""
        if not self._consuming:
            self._consuming = True
            self._task = self._start_task()

    def _task_starter(self) -> Callable[[], asyncio.Task[None]]:
        if sys.version_info >= (3, 11):
            return lambda: self._main_loop.create_task(self._consume(), context=self._context)
        in_context: Callable[[], Coroutine[Any, Any, None]] = _async_in_context(self._consume)
        return lambda: self._main_loop.create_task(in_context())

    async def _consume(self) -> None:
        """Serve what is queued; ends with the queue empty and the next wake-up meant."""
        try:
            while self._queue:
                item = self._queue.popleft()
                if item is _STOP_ABORTING:
                    self.aborting = False
                else:
                    await self._serve(item)
        finally:
            self._consuming = False

    def abort(self, seconds: float) -> None:
        """Abort the requests that have arrived by now; to be called before a failed cell's reply.

        Args:
            seconds: abort what arrives within this time too.
        """
        self.aborting = True
        if seconds > 0:
            self._channel_loop.add_callback(
                self._channel_loop.call_later, seconds, self._stop_aborting
            )
            return
        taken_in = threading.Event()
        self._channel_loop.add_callback(self._stop_aborting, taken_in)
        taken_in.wait(_TAKE_IN)

    def _stop_aborting(self, taken_in: threading.Event | None = None) -> None:
        """End the abortion behind everything that has arrived. On the Shell channel thread."""
        self._receive()
        self.add(_STOP_ABORTING)
        if taken_in is not None:
            taken_in.set()
