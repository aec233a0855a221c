"""The pool: who may have a session, first come first served, and what becomes of its kernel after.

Two queues, because two things can be short. `_permits` counts sessions in use, against
``max_sessions``; `spares` has the kernels for them. A permit comes back when the kernel of its
session has ended or is ready again, so that there are never more kernels than ``max_sessions``.

Threads: one event loop; `blocking` has a pool for everybody else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import zmq.asyncio

from savepoint_kernel.protocol import FailureKind

from ..exceptions import (
    AcquireTimeout,
    EvaluationFailed,
    KernelDied,
    PoolClosed,
    PoolExhausted,
    RequestFailed,
    UnsupportedByKernel,
    WarmupFailed,
)
from .config import Launch, PathName, PoolConfig
from .kernel import Kernel
from .lib_paths import existing_directories
from .preparation import make_kernel, prepare
from .session import Session
from .spares import Left, Spares
from .states import SessionState
from .waiters import TooLate, Waiters

_EVALUATE_GRACE = 5.0
"""Seconds that code given to `SessionPool.evaluate` has after its time limit."""

_RELEASE_GRACE = 5.0
"""Seconds a cell has to end when its session is released and the kernel is to be kept."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool at one moment.

    Attributes:
        max_sessions: how many kernels there may be.
        in_use: sessions that are in use, or whose kernels are ending.
        waiting: callers of `SessionPool.acquire` that wait.
        ready: kernels that can be taken at once.
        starting: kernels on their way.
    """

    max_sessions: int
    in_use: int
    waiting: int
    ready: int
    starting: int


class SessionPool:
    """Keeps kernels ready and lends them out as sessions; an async context manager, used once.

    Args:
        config: its options.

    Raises:
        LibPathNotFound: a directory in ``lib_paths`` is not there.
    """

    def __init__(self, config: PoolConfig | None = None) -> None:
        self.config = config or PoolConfig()
        config = self.config
        self._launch = Launch(
            kernel_name=config.kernel_name,
            warmup_code=config.warmup_code,
            preload=tuple(config.preload),
            lib_paths=existing_directories(config.lib_paths),
            start_timeout=config.start_timeout,
            env=dict(config.env),
            cwd=config.cwd,
        )
        self._context: zmq.asyncio.Context | None = None
        self._opened = False
        self._in_use = 0
        self._permits: Waiters[None] = Waiters(lambda permit: self._give_back())
        self._spares = Spares(config, self._launch, self._start)
        self._sessions: dict[Session, None] = {}
        self._releases: set[asyncio.Task[None]] = set()
        self._shared: Session | None = None
        self._evaluating = asyncio.Lock()

    # -- life

    async def __aenter__(self) -> SessionPool:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Start ``min_idle`` kernels and wait until they are ready.

        Raises:
            PoolClosed: it was opened before.
            WarmupFailed: the warm-up raised.
            jupyter_client.kernelspec.NoSuchKernel: there is no such kernelspec.
            KernelDied: a kernel ended before it was ready.
            KernelStartTimeout: it took too long.
        """
        if self._opened:
            raise PoolClosed("A pool can be opened once; make another one.")
        self._opened = True
        self._context = zmq.asyncio.Context()
        try:
            await self._spares.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all kernels, those in use too, and wait until they are gone."""
        context, self._context = self._context, None
        if context is None:
            return
        while self._permits.fail(PoolClosed("The pool was closed.")):
            pass
        await asyncio.gather(*(session.release() for session in self._sessions))
        try:
            await self._spares.close()
            while self._releases:
                await asyncio.wait(self._releases)
            await self._spares.close()  # of what was released just before
        finally:
            context.destroy(linger=0)

    @property
    def status(self) -> PoolStatus:
        """What there is at the moment."""
        return PoolStatus(
            self.config.max_sessions,
            self._in_use - self._spares.waiting,
            len(self._permits) + self._spares.waiting,
            self._spares.ready,
            self._spares.starting,
        )

    # -- sessions

    async def acquire(
        self, *, timeout: float | None = None, lib_paths: Sequence[PathName] = ()
    ) -> Session:
        """Return a session; `Session.release` gives it back.

        Args:
            timeout: seconds to wait for one; 0: not at all; default: ``acquire_timeout``.
            lib_paths: directories put first in its ``sys.path``, before those of the pool. They get
                a kernel of their own, started for this session.

        Raises:
            LibPathNotFound: one of them is not there.
            PoolExhausted: there is none at once, and ``timeout`` is 0.
            AcquireTimeout: there was none in time.
            PoolClosed: the pool is closed, or not open yet.
            Exception: a kernel had to be started, and could not be; see `open`.
        """
        launch = self._launch
        if lib_paths:
            paths = existing_directories([*lib_paths, *launch.lib_paths])
            launch = replace(launch, lib_paths=paths)
        if timeout is None:
            timeout = self.config.acquire_timeout
        began = time.monotonic()

        def left() -> float | None:
            return None if timeout is None else max(0.0, timeout - (time.monotonic() - began))

        try:
            await self._get_permit(timeout)
            try:
                kernel = await self._get_kernel(launch, left)
            except BaseException:
                self._give_back()
                raise
        except TooLate:
            status = self.status
            error = AcquireTimeout if timeout else PoolExhausted
            waited = time.monotonic() - began
            raise error(status.max_sessions, status.in_use, status.waiting, waited) from None
        session = Session(kernel, self._replace, self._released)
        self._sessions[session] = None
        return session

    async def evaluate(
        self,
        code: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        lib_paths: Sequence[PathName] = (),
    ) -> Any:
        """Return the value of the code's last expression, as JSON data.

        All calls share one kernel, in which they take turns; it has the names of the warm-up. One
        that does not end in time, or is cancelled, takes the kernel with it. With ``lib_paths`` the
        call has a kernel of its own.

        Args:
            code: the code; see `Session.evaluate`.
            inputs: names for it, with JSON data.
            timeout: seconds it may take.
            lib_paths: see `acquire`.

        Raises:
            EvaluationFailed: the code raised, or took too long.
            NotJSON: the value is none, or ``inputs`` are none.
            KernelDied: the kernel ended.
            Exception: there was no session; see `acquire`.
        """
        if lib_paths:
            async with await self.acquire(lib_paths=lib_paths) as session:
                return await _evaluate(session, code, inputs, timeout)
        async with self._evaluating:
            if self._shared is not None and self._shared.state is not SessionState.IDLE:
                await self._drop_shared()  # it has died since
            session = self._shared or await self.acquire()
            self._shared = session
            try:
                return await _evaluate(session, code, inputs, timeout)
            finally:
                usable = session.state is SessionState.IDLE
                if not usable or self._is_worn(session.executions) or self._permits:
                    await self._drop_shared()

    # -- permits and kernels

    async def _get_permit(self, timeout: float | None) -> None:
        if self._context is None:
            raise PoolClosed("The pool is not open: use it in `async with`.")
        if self._in_use >= self.config.max_sessions and not self._evaluating.locked():
            await self._drop_shared()
        if self._in_use < self.config.max_sessions and not self._permits:
            self._in_use += 1
        elif timeout == 0:
            raise TooLate
        else:
            await self._permits.wait(timeout)

    def _give_back(self) -> None:
        if not self._permits.hand(None):
            self._in_use -= 1

    async def _get_kernel(self, launch: Launch, left: Left) -> Kernel:
        while True:
            if launch is self._launch:
                kernel = await self._spares.take(left)
            else:
                kernel = await self._spares.take_apart(launch, left)
            if kernel.exit is None:
                return kernel
            self._spares.end(kernel)

    async def _start(self, launch: Launch) -> Kernel:
        if self._context is None:
            raise PoolClosed("The pool was closed.")
        return await make_kernel(launch, self._context)

    async def _replace(self, old: Kernel) -> Kernel:
        reason = "was ended: its session was reset"
        ended = self._spares.end(old, reason=reason)
        if not (old.launch is self._launch and self._spares.ready):
            await asyncio.shield(ended)
        return await self._get_kernel(old.launch, lambda: None)

    # -- after use

    async def _drop_shared(self) -> None:
        session, self._shared = self._shared, None
        if session is not None:
            await session.release()

    def _released(self, session: Session, kernel: Kernel) -> None:
        del self._sessions[session]
        task = asyncio.ensure_future(self._take_back(kernel))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _take_back(self, kernel: Kernel) -> None:
        cleared = False
        try:
            cleared = self._is_reusable(kernel) and await _is_cleared(kernel)
        finally:
            try:
                if cleared:
                    self._spares.put(kernel)
                else:
                    await self._spares.end(kernel, reason="was ended: its session was released")
            finally:
                self._give_back()

    def _is_reusable(self, kernel: Kernel) -> bool:
        config = self.config
        young = config.max_age is None or time.monotonic() - kernel.started < config.max_age
        return (
            self._context is not None
            and not config.reset_on_release
            and kernel.launch is self._launch
            and young
            and not self._is_worn(kernel.executions)
        )

    def _is_worn(self, executions: int) -> bool:
        limit = self.config.recycle_after_executions
        return limit is not None and executions >= limit


async def _evaluate(
    session: Session, code: str, inputs: Mapping[str, Any] | None, timeout: float | None
) -> Any:
    evaluation = session.evaluate(code, inputs, timeout=timeout)
    if timeout is None:
        return await evaluation
    try:
        return await asyncio.wait_for(evaluation, timeout + _EVALUATE_GRACE)
    except asyncio.TimeoutError:
        text = f"the code took longer than {timeout:g} s and ignored the interrupt"
        kind = FailureKind.TIMEOUT.value
        raise EvaluationFailed("ExecutionTimeout", text, (), kind) from None


async def _is_cleared(kernel: Kernel) -> bool:
    """Make a used kernel as good as new, as far as its names go; False if that did not work."""
    try:
        if (running := kernel.running) is not None:
            await kernel.interrupt()
            await asyncio.wait_for(running.replied.wait(), _RELEASE_GRACE)
        kernel.require(kernel.is_python, "%reset")
        wipe = kernel.run_silently("%reset -f")
        reply = await asyncio.wait_for(wipe, kernel.launch.start_timeout)
        if reply["status"] != "ok":
            raise RequestFailed(reply["ename"], reply["evalue"])
        await asyncio.wait_for(prepare(kernel), kernel.launch.start_timeout)
        kernel.take_late()
    except (
        asyncio.TimeoutError,
        KernelDied,
        RequestFailed,
        UnsupportedByKernel,
        WarmupFailed,
    ) as error:
        _log.warning("Kernel %s is not used again: %s", kernel.id, str(error) or "no answer")
        return False
    return True
