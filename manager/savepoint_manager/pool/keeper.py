"""Keeping some of a kind ready: when to make one, when to end one, and when to give up.

What is kept is made when there is too little and the machine has time. It is ended when it is old,
and when what it was made from has changed. If it ends unasked again and again, none is made for a
while. `Standbys` and `ForeignKernels` say what it is and how it is made.

Threads: the daemon's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from savepoint_kernel.orders import OrderRefused

from ..load import quiet_moment
from .cancelling import end_all
from .config import Pool
from .keys import Key

START_TIMEOUT = 60.0
"""Seconds a process may take until it is ready."""

QUIET_INTERVAL = 0.2
"""Seconds between two looks at the load."""

MAX_REASONS = 20
"""Reasons for misses that are counted one by one: some name paths and processes."""

MAX_LOSSES = 3
"""Processes that may end unasked before one is handed out. More, and none are made."""

RETRY_AFTER = 60.0
"""Seconds after which what was given up is tried again, if somebody asks. What was in the way may
have been an installation under way."""

CHECK_INTERVAL = 5.0
"""Seconds between two looks at the age of what is kept and at what it was made from."""


class NoStandby(Exception):
    """There is none, and none can be made now. The text is a reason for statistics."""


class StartedAnew(NoStandby):
    """What it was made from has just changed."""


class StandbyLost(NoStandby):
    """A process has ended unasked or is of no use."""


class Ready(Protocol):
    """A process that is kept."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def born(self) -> float:
        """When it was ready, by the monotonic clock."""


R = TypeVar("R", bound=Ready)


@dataclass(slots=True)
class Counts:
    """What happened so far."""

    hits: dict[str, int] = field(default_factory=lambda: {"standby": 0, "fork": 0})
    missed: dict[str, int] = field(default_factory=dict)
    created: int = 0
    recycled: int = 0
    died: int = 0
    acquire_ms: deque[float] = field(default_factory=lambda: deque(maxlen=1000))

    def miss(self, reason: str) -> None:
        """Count an order that had to be refused."""
        if reason not in self.missed and len(self.missed) >= MAX_REASONS:
            reason = "other reasons"
        self.missed[reason] = self.missed.get(reason, 0) + 1


class Keeper(Generic[R]):
    """Keeps what fits one key.

    Args:
        key: that one.
        config: of the pool.
    """

    kind: ClassVar[str]
    """What is kept, for the log."""

    def __init__(self, key: Key, config: Pool) -> None:
        self.key = key
        self.counts = Counts()
        self.min_idle = config.min_idle
        self.preload: list[str] = []
        self.idle: deque[R] = deque()
        self.warming = 0
        self.problem: str | None = None
        """Why there is none and none will be made."""
        self.zygote: int | None = None
        """The process that makes them, if one does."""
        self.last_used = time.monotonic()
        self._config = config
        self._log: logging.Logger | logging.LoggerAdapter[Any] = config.log
        self._keeping: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._awaited = 0
        self._losses = 0
        self._retry_at = 0.0

    @property
    def environment(self) -> str | None:
        """A short name for what they are made from, if it is known."""
        return None

    # -- what is kept

    @abstractmethod
    async def _fill(self) -> None:
        """Make what is missing."""

    @abstractmethod
    def _check_fresh(self) -> None:
        """End what was made from something that has changed."""

    @abstractmethod
    def _end(self, ready: R) -> None:
        """End one that nobody has taken."""

    def _drop_all(self) -> None:
        while self.idle:
            self._end(self.idle[0])

    # -- life

    def start(self) -> None:
        """Begin to keep some ready."""
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End all that nobody has taken."""
        if self._keeping is not None:
            await end_all([self._keeping])
            self._keeping = None
        self.problem = self.problem or "none are kept for it any more"
        self._settled.set()
        self._drop_all()

    def configure(self, min_idle: int | None, preload: list[str] | None) -> None:
        """Change how many are kept, or what is imported beforehand; try again what failed.

        Raises:
            OrderRefused: these can't import anything beforehand.
        """
        if preload is not None and preload != self.preload:
            self._import_beforehand(preload)
        if min_idle is not None:
            self.min_idle = min_idle
        self._recycle(len(self.idle) - self.min_idle)
        self.problem = None
        self._losses = 0
        self._settled.clear()
        self._wake.set()

    def _import_beforehand(self, modules: list[str]) -> None:
        raise OrderRefused("only Savepoint's own kernels import modules beforehand")

    async def settled(self, *, hurry: bool) -> None:
        """Wait until there are as many as shall be kept, or a problem.

        Args:
            hurry: somebody waits for them: do not wait until the machine has time.
        """
        self._awaited += hurry
        try:
            await self._settled.wait()
        finally:
            self._awaited -= hurry

    def ask(self) -> None:
        """Take note that somebody wants one."""
        self.last_used = time.monotonic()
        self._check_fresh()
        if self.problem and time.monotonic() > self._retry_at:
            self.problem = None
            self._losses = 0
        self._wake.set()

    # -- keeping

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            try:
                self._check_fresh()
                self._drop_old()
                await self._fill()
                self._settled.set()
            except StartedAnew:
                self._wake.set()
            except StandbyLost as error:
                self._lose(str(error))
            except (NoStandby, OSError, OrderRefused, asyncio.TimeoutError) as error:
                self._give_up(str(error) or f"not ready after {START_TIMEOUT:g} s")
            except Exception as error:  # a process of another version, say
                self._log.exception("%s: no %s", self.key.name, self.kind)
                self._give_up(f"{error!r} (see the pool's log)")
            await self._next_time()

    async def _next_time(self) -> None:
        """Wait until one was taken, and then a while; or for the next look at their age."""
        try:
            await asyncio.wait_for(self._wake.wait(), CHECK_INTERVAL)
        except asyncio.TimeoutError:
            return
        if not self._awaited:
            await asyncio.sleep(self._config.refill_delay)

    async def _quiet(self) -> None:
        """Wait until the machine has time."""
        await quiet_moment(
            QUIET_INTERVAL,
            self._config.refill_patience,
            busy=self._config.refill_load,
            hurried=lambda: self._awaited > 0,
        )

    def _drop_old(self) -> None:
        oldest = time.monotonic() - self._config.max_age
        while self._config.max_age and self.idle and self.idle[0].born < oldest:
            self._recycle(1)

    def _recycle(self, count: int) -> None:
        for _ in range(count):
            self.counts.recycled += 1
            self._end(self.idle[0])

    def _lose(self, what: str) -> None:
        self._losses += 1
        self._log.warning("%s: %s", self.key.name, what)
        if self._losses > MAX_LOSSES:
            self._give_up(f"{what} (see the pool's log)")
        self._wake.set()

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        self._retry_at = time.monotonic() + RETRY_AFTER
        self._log.warning("No %s for %s: %s", self.kind, self.key.executable, problem)
        self._drop_all()
        self._settled.set()
