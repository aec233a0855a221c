"""The kernels that are ready, and those on their way: taking, replacing, checking, recycling.

    start ──▶ ready ──▶ taken            a caller who waits gets the next one that is ready,
      ▲         │                        whoever it was started for: first come, first served
      └─ refill ┴──▶ ended

A start for a caller who waits begins at once. One that only refills waits for a quiet moment, as
the machine has just been given something to do: the session whose kernel is to be replaced.

Threads: one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ..exceptions import PoolClosed
from ..load import quiet_moment
from .config import Launch, PoolConfig
from .kernel import Kernel
from .waiters import TooLate, Waiters

PATIENCE = 10.0
"""Seconds a ready kernel has to give a sign of life."""

_PATIENCE_WITH_LOAD = 10
"""How many times the delay of a refill a busy machine is waited for."""

_SLOWEST_RETRY = 60.0
"""Seconds between attempts to start a kernel after many that failed."""

Left = Callable[[], float | None]

_log = logging.getLogger(__name__)


class Spares:
    """All kernels of a pool: those that are ready, and the count of the others.

    Args:
        config: how many, for how long.
        launch: how to start those that anybody may take.
        start: makes a kernel.
    """

    def __init__(
        self,
        config: PoolConfig,
        launch: Launch,
        start: Callable[[Launch], Coroutine[Any, Any, Kernel]],
    ) -> None:
        self._config = config
        self._launch = launch
        self._start = start
        self._open = True
        self._ready: dict[Kernel, float] = {}
        """Since when each has been; the one that waits longest is first."""
        self._alive: set[Kernel] = set()
        """Ready, in use or ending."""
        self._failures = 0
        self._apart = 0
        """Callers who wait for room: the next is theirs."""
        self._waiters: Waiters[Kernel] = Waiters(self.put)
        self._starts: set[asyncio.Task[Kernel]] = set()
        self._starts_apart: set[asyncio.Task[Kernel]] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._refilling: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    # -- numbers

    @property
    def ready(self) -> int:
        """How many can be taken at once."""
        return len(self._ready)

    @property
    def starting(self) -> int:
        """How many are on their way to be ready."""
        return len(self._starts)

    @property
    def waiting(self) -> int:
        """How many callers wait for one."""
        return len(self._waiters)

    @property
    def _full(self) -> bool:
        count = len(self._alive) + len(self._starts) + len(self._starts_apart)
        return count >= self._config.max_sessions

    @property
    def _lacks(self) -> bool:
        wanted = self._config.min_idle + self.waiting
        room = self._open and not self._apart and not self._full
        return room and self.ready + self.starting < wanted

    # -- life

    async def open(self) -> None:
        """Start the first ones, and wait until they are ready.

        Raises:
            Exception: one could not be started.
        """
        starts = [self._begin() for _ in range(self._config.min_idle)]
        await asyncio.gather(*starts)
        self._watching = asyncio.ensure_future(self._watch())

    async def close(self) -> None:
        """End those that are not in use; whoever waits for one has an error."""
        self._open = False
        while self._waiters.fail(PoolClosed("The pool was closed.")):
            pass
        others = filter(None, (self._refilling, self._watching))
        tasks = [*self._starts, *self._starts_apart, *others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for kernel in list(self._ready):
            self.end(kernel)
        while self._ends:
            await asyncio.wait(self._ends)

    # -- in and out

    async def take(self, left: Left) -> Kernel:
        """Return a kernel that is ready, now or in time.

        Args:
            left: tells how many seconds the caller has; None: all there are.

        Raises:
            TooLate: there was none.
            Exception: one was started for this caller, and could not be.
        """
        if self._ready:
            kernel = next(iter(self._ready))
            del self._ready[kernel]
            self.balance()
            return kernel
        if left() == 0:
            raise TooLate
        # Once the caller stands in the queue.
        asyncio.get_running_loop().call_soon(self.balance)
        return await self._waiters.wait(left())

    async def take_apart(self, launch: Launch, left: Left) -> Kernel:
        """Return a kernel that is started for this caller alone.

        Args:
            launch: how.
            left: see `take`.

        Raises:
            TooLate: there was none.
            Exception: it could not be started.
        """
        self._apart += 1
        try:
            await self._room(left)
        finally:
            self._apart -= 1
            asyncio.get_running_loop().call_soon(self.balance)  # once the room is taken
        caller: Waiters[Kernel] = Waiters(self.end)
        task = self._begin(launch, caller)
        try:
            return await caller.wait(left())
        except BaseException:
            task.cancel()
            raise

    async def _room(self, left: Left) -> None:
        while self._full and left() != 0:
            if self._ready:
                self.end(next(iter(self._ready)))
            changes = {*self._starts, *self._starts_apart, *self._ends}
            await asyncio.wait(changes, timeout=left(), return_when=asyncio.FIRST_COMPLETED)
        if left() == 0:
            raise TooLate

    def put(self, kernel: Kernel) -> None:
        """Take in a kernel that may be used, or end it if there are enough."""
        kernel.on_exit = self._died
        if not self._open or kernel.exit is not None:
            self.end(kernel)
        elif self._waiters.hand(kernel):
            pass
        elif self.ready < self._config.most_idle:
            self._ready[kernel] = time.monotonic()
        else:
            self.end(kernel)

    def end(
        self, kernel: Kernel, *, reason: str = "was ended by its pool", now: bool = False
    ) -> asyncio.Task[None]:
        """End a kernel in the background; until it has, it counts."""
        self._ready.pop(kernel, None)
        kernel.on_exit = lambda kernel: None
        task = asyncio.ensure_future(self._end(kernel, reason, now))
        self._ends.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def balance(self) -> None:
        """Start what callers wait for, and see to the rest later."""
        while self._lacks and self.starting < self.waiting:
            self._begin()
        if self._lacks and self._refilling is None:
            self._refilling = asyncio.ensure_future(self._refill())

    # -- starting and ending

    def _begin(
        self, launch: Launch | None = None, caller: Waiters[Kernel] | None = None
    ) -> asyncio.Task[Kernel]:
        """Start a kernel for a caller, or for anybody."""
        starts = self._starts if caller is None else self._starts_apart

        def has_started(task: asyncio.Task[Kernel]) -> None:
            starts.discard(task)
            if not task.cancelled():
                self._has_started(task, caller)
            self.balance()

        task = asyncio.ensure_future(self._start(launch or self._launch))
        starts.add(task)
        task.add_done_callback(has_started)
        return task

    def _has_started(self, task: asyncio.Task[Kernel], caller: Waiters[Kernel] | None) -> None:
        error = task.exception()
        if error is None:
            self._failures = 0
            kernel = task.result()
            self._alive.add(kernel)
            if caller is None:
                self.put(kernel)
            elif not caller.hand(kernel):
                self.end(kernel)
        else:
            self._failures += 1
            waiters = self._waiters if caller is None else caller
            if not (isinstance(error, Exception) and waiters.fail(error)):
                _log.warning("A kernel could not be started: %s", error)

    async def _end(self, kernel: Kernel, reason: str, now: bool) -> None:
        try:
            await kernel.stop(reason, now=now)
        finally:
            self._alive.discard(kernel)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._ends.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("A kernel could not be ended", exc_info=error)
        self.balance()

    async def _refill(self) -> None:
        try:
            while self._lacks:
                delay = self._config.refill_delay
                if self._failures:
                    delay = min(max(delay, 1.0) * 2 ** (self._failures - 1), _SLOWEST_RETRY)
                await quiet_moment(delay, _PATIENCE_WITH_LOAD * delay)
                if self._lacks:
                    await asyncio.wait({self._begin()})
        finally:
            self._refilling = None

    # -- watching

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._config.health_interval)
            await asyncio.gather(*(self._inspect(kernel) for kernel in self._ready))

    async def _inspect(self, kernel: Kernel) -> None:
        config, now = self._config, time.monotonic()
        waited = now - self._ready[kernel]
        old = config.max_age is not None and now - kernel.started > config.max_age
        spare = self.ready > config.min_idle
        unused = spare and config.idle_timeout is not None and waited > config.idle_timeout
        if old or unused:
            self.end(kernel)
        elif not await kernel.check(PATIENCE) and kernel in self._ready:
            _log.warning("The ready kernel %s does not answer; it is replaced", kernel.id)
            self.end(kernel, now=True)

    def _died(self, kernel: Kernel) -> None:
        if kernel in self._ready:
            assert kernel.exit is not None
            _log.warning("The ready kernel %s %s; it is replaced", kernel.id, kernel.exit.what)
            self.end(kernel)
