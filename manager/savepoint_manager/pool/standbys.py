"""The standbys of one key, and the zygote that makes them.

A standby is made when there are too few and the machine has time for it. Which are left when the
environment changes (`fingerprint`) are ended, with their zygote, and made anew.

Threads: the daemon's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from typing import IO, Any

from savepoint_kernel.orders import Order, OrderRefused

from ..load import quiet_moment
from .cancelling import end_all
from .channel import Channel
from .config import Pool
from .fingerprint import Fingerprint
from .keys import Key
from .reaper import Reaper

ZYGOTE = "savepoint_kernel.zygote"

START_TIMEOUT = 60.0
"""Seconds a zygote may take for its imports, or a standby for its making."""

QUIET_INTERVAL = 0.2
"""Seconds between two looks at the load."""

MAX_REASONS = 20
"""Reasons for misses that are counted one by one: some name paths and processes."""

MAX_LOSSES = 3
"""Zygotes and standbys that may end unasked before one is handed out. More, and none are made."""

RETRY_AFTER = 60.0
"""Seconds after which what was given up is tried again, if somebody asks. What was in the way may
have been an installation under way."""

CHECK_INTERVAL = 5.0
"""Seconds between two looks at the age of standbys and at the environment."""


class NoStandby(Exception):
    """There is none, and none can be made now. The text is a reason for statistics."""


class StartedAnew(NoStandby):
    """The zygote has just been ended."""


class StandbyLost(NoStandby):
    """A standby, or the zygote, has ended unasked or is of no use."""


@dataclass(slots=True, eq=False)
class Standby:
    """A process that waits for an order, and ends when its channel is closed."""

    pid: int
    channel: Channel
    born: float = field(default_factory=time.monotonic)


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


class Standbys:
    """Standbys of one key.

    Args:
        key: theirs.
        order: one of this key; the zygote starts in its environment.
        config: of the pool.
        reaper: waits for the processes.
        forking: limits how many are made at once, over all keys.
        log_file: stdout and stderr of processes nobody has taken.
    """

    def __init__(
        self,
        key: Key,
        order: Order,
        config: Pool,
        reaper: Reaper,
        forking: asyncio.Semaphore,
        log_file: IO[Any],
    ) -> None:
        self.key = key
        self.order = order
        self.counts = Counts()
        self.min_idle = config.min_idle
        self.preload = list(config.preload)
        self.idle: deque[Standby] = deque()
        self.warming = 0
        self.problem: str | None = None
        """Why there is no zygote and none will be tried."""
        self.zygote: int | None = None
        """Its process, once it serves."""
        self.last_used = time.monotonic()
        self._config = config
        self._reaper = reaper
        self._forking = forking
        self._log_file = log_file
        self._log: logging.Logger | logging.LoggerAdapter[Any] = config.log
        self._control: Channel | None = None
        self._fingerprint: Fingerprint | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._awaited = 0
        self._losses = 0
        self._retry_at = 0.0
        self._watched: dict[Standby, asyncio.Task[None]] = {}

    # -- life

    def start(self) -> None:
        """Begin to keep standbys ready."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End the zygote and all that wait."""
        if self._keeper is not None:
            await end_all([self._keeper])
            self._keeper = None
        self.problem = self.problem or "no standbys are kept for it any more"
        self._settled.set()
        self._drop_all()

    def _drop_all(self) -> None:
        while self.idle:
            self._end(self.idle[0])
        if self._control is not None:
            self._control.close()  # the zygote ends by that
        self._control = self._fingerprint = self.zygote = None

    def configure(self, min_idle: int | None, preload: list[str] | None) -> None:
        """Change how many are kept, or what is imported beforehand; try again what failed."""
        if min_idle is not None:
            self.min_idle = min_idle
        if preload is not None and preload != self.preload:
            self.preload = preload
            self.counts.recycled += len(self.idle)
            self._drop_all()
        while len(self.idle) > self.min_idle:
            self.counts.recycled += 1
            self._end(self.idle[0])
        self.problem = None
        self._losses = 0
        self._settled.clear()
        self._wake.set()

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

    # -- handing out

    def take(self) -> Standby:
        """Take a standby that fits.

        Raises:
            NoStandby: none is there.
        """
        self.last_used = time.monotonic()
        self._check_fresh()
        if self.problem and time.monotonic() > self._retry_at:
            self.problem = None
            self._losses = 0
        self._wake.set()
        if not self.idle:
            raise NoStandby("none ready" if self.zygote else "starting")
        self._losses = 0
        return self._release(self.idle[0])

    async def fork(self) -> Standby:
        """Have a standby made for somebody who waits.

        Raises:
            NoStandby: there is no zygote, or it can't.
        """
        if self.zygote is None:
            raise NoStandby(self.problem or "starting")
        try:
            async with self._forking:
                return await self._make()
        except (OSError, OrderRefused, asyncio.TimeoutError) as error:
            raise NoStandby(f"the zygote does not answer: {error!r}") from None

    def _release(self, standby: Standby) -> Standby:
        self.idle.remove(standby)
        self._watched.pop(standby).cancel()
        return standby

    def _end(self, standby: Standby) -> None:
        self._release(standby).channel.close()
        self._reaper.discard(standby.pid)

    def _check_fresh(self) -> None:
        changed = self._fingerprint and self._fingerprint.changed()
        if changed:
            self._log.info("%s: %s has changed, starting anew", self.key.name, changed)
            self.counts.recycled += len(self.idle)
            self.problem = None
            self._drop_all()

    # -- making

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            try:
                self._check_fresh()
                self._drop_old()
                if self.zygote is None and self.problem is None:
                    await self._quiet()
                    await self._start_zygote()
                while self.zygote is not None and len(self.idle) < self.min_idle:
                    await self._quiet()
                    async with self._forking:
                        self._add(await self._make())
                self._settled.set()
            except StartedAnew:
                self._wake.set()
            except StandbyLost as error:
                self._lose(str(error))
            except (NoStandby, OSError, OrderRefused, asyncio.TimeoutError) as error:
                self._give_up(str(error) or f"not ready after {START_TIMEOUT:g} s")
            except Exception as error:  # a zygote of another version, say
                self._log.exception("%s: no standbys", self.key.name)
                self._give_up(f"{error!r} (see the pool's log)")
            await self._next_time()

    async def _next_time(self) -> None:
        """Wait until a standby was taken, and then a while; or for the next look at their age."""
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

    async def _start_zygote(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            process = subprocess.Popen(
                [
                    self.order.executable,
                    *self.order.options,
                    "-m",
                    ZYGOTE,
                    str(its.fileno()),
                ],
                cwd=self.key.cwd,
                env=dict(self.order.env),
                stdin=subprocess.DEVNULL,
                stdout=self._log_file,
                stderr=self._log_file,
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        process.returncode = 0  # it is the reaper that waits for it, not Popen
        ended = self._reaper.status(process.pid)
        control = Channel(ours)
        preload = self.preload
        try:
            control.send({"preload": preload, "arguments": list(self.key.arguments)})
            message, _ = await asyncio.wait_for(control.receive(), START_TIMEOUT)
        except BaseException:
            control.close()
            if not ended.done():
                os.kill(process.pid, signal.SIGKILL)
            raise
        if preload != self.preload:
            control.close()
            raise StartedAnew("starting")
        if "ready" not in message:
            control.close()
            if "refused" in message:
                raise NoStandby(message["refused"])
            raise StandbyLost("the zygote ended while it was made")
        fingerprint = Fingerprint(**message["watch"])
        changed = fingerprint.changed_since(message["began"])
        if changed:  # an installation is under way, and what was imported may be of before
            control.close()
            raise StandbyLost(f"{changed} changed while the zygote started")
        self._check_fresh()  # there may be standbys of another zygote
        self._control = control
        self._fingerprint = fingerprint
        self.zygote = process.pid
        ended.add_done_callback(lambda ended: self._on_zygote_end(control, ended.result()))

    def _on_zygote_end(self, control: Channel, code: int) -> None:
        if self._control is control:
            control.close()
            self._control = self.zygote = None  # its standbys need it no more
            self._lose(f"the zygote ended with status {code}")

    def _lose(self, what: str) -> None:
        self._losses += 1
        self._log.warning("%s: %s", self.key.name, what)
        if self._losses > MAX_LOSSES:
            self._give_up(f"{what} (see the pool's log)")
        self._wake.set()

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        self._retry_at = time.monotonic() + RETRY_AFTER
        self._log.warning("No standbys for %s: %s", self.key.executable, problem)
        self._drop_all()
        self._settled.set()

    @property
    def environment(self) -> str | None:
        """A short name for what the zygote has imported its modules from."""
        return self._fingerprint.name if self._fingerprint else None

    async def _make(self) -> Standby:
        control = self._control
        if control is None:
            raise StartedAnew("starting")
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = Channel(ours)
        self.warming += 1
        try:
            with its:
                try:
                    control.send({"fork": True}, [its.fileno()])
                except OSError as error:  # it has ended, and we are about to hear of it
                    raise StandbyLost(f"the zygote can't be asked: {error}") from None
            message, _ = await asyncio.wait_for(channel.receive(), START_TIMEOUT)
            if self._control is not control:
                raise StartedAnew("starting")
            if "pid" not in message:
                raise StandbyLost("a standby ended while it was made")
        except BaseException:
            channel.close()
            raise
        finally:
            self.warming -= 1
        self.counts.created += 1
        if self._fingerprint is not None:
            self._fingerprint.add(message["watch"])
        return Standby(message["pid"], channel)

    def _add(self, standby: Standby) -> None:
        self.idle.append(standby)
        self._watched[standby] = asyncio.create_task(self._watch(standby))

    async def _watch(self, standby: Standby) -> None:
        """Notice the end of a standby that nobody has taken."""
        await asyncio.shield(self._reaper.status(standby.pid))
        self.counts.died += 1
        self._end(standby)
        self._lose(f"standby {standby.pid} ended")

    def _drop_old(self) -> None:
        oldest = time.monotonic() - self._config.max_age
        while self._config.max_age and self.idle and self.idle[0].born < oldest:
            self.counts.recycled += 1
            self._end(self.idle[0])
