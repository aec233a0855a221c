"""People in a queue: who came first is served first, and who leaves takes nothing along.

`asyncio.Semaphore` and `asyncio.Queue` are not used because they say neither how many wait nor, on
every Python there is, that the order is kept; and cancelling ``wait_for`` at the moment of success
loses the value on Python 3.10 and 3.11. Here a value handed to somebody who has left is taken back.

Threads: one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class TooLate(Exception):
    """There was nothing to be had in time."""


class Waiters(Generic[T]):
    """A queue for values.

    Args:
        take_back: called with a value whose taker was cancelled at the moment it got it.
    """

    def __init__(self, take_back: Callable[[T], object]) -> None:
        self._take_back = take_back
        self._queue: deque[asyncio.Future[T]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    async def wait(self, timeout: float | None) -> T:
        """Wait for a value.

        Raises:
            TooLate: none came within ``timeout`` seconds.
            Exception: what `fail` was given.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(future)
        try:
            await asyncio.wait({future}, timeout=timeout)
        except asyncio.CancelledError:
            self._leave(future)
            raise
        if not future.done():
            self._queue.remove(future)
            raise TooLate
        return future.result()

    def hand(self, value: T) -> bool:
        """Give a value to who came first; False if nobody waits."""
        if not self._queue:
            return False
        self._queue.popleft().set_result(value)
        return True

    def fail(self, error: Exception) -> bool:
        """Let who came first have an exception instead; False if nobody waits."""
        if not self._queue:
            return False
        self._queue.popleft().set_exception(error)
        return True

    def _leave(self, future: asyncio.Future[T]) -> None:
        if not future.done():
            self._queue.remove(future)
        elif future.exception() is None:  # looking at it also says that it was noticed
            self._take_back(future.result())
