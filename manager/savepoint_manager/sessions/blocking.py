"""The pool and its sessions for programs without an event loop, and for notebooks, which have one.

The pool's loop runs in a thread of its own: in a cell of a notebook the loop of the main thread is
running, so nothing can wait on it there.

    any thread ── run ──▶ "savepoint-sessions" thread: the loop, the pool, its sockets

Threads: methods any, also several at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..exceptions import PoolClosed
from .config import PathName, PoolConfig
from .events import Event, InputRequired
from .pool import PoolStatus, SessionPool
from .session import CancelOutcome, Checkpoint, Restored, Session
from .states import SessionState

T = TypeVar("T")


class _LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="savepoint-sessions", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it; an interrupt of the wait cancels it, and waits."""
        tasks: list[asyncio.Task[T]] = []

        async def end() -> None:
            await asyncio.wait(tasks)

        self._loop.call_soon_threadsafe(lambda: tasks.append(self._loop.create_task(coroutine)))
        ended = asyncio.run_coroutine_threadsafe(end(), self._loop)
        try:
            ended.result()
        except BaseException:
            self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            ended.result()
            raise
        return tasks[0].result()

    def close(self) -> None:
        """End loop and thread."""
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class BlockingSessionPool:
    """`SessionPool`, blocking; a context manager.

    Args:
        config: its options.

    Raises:
        LibPathNotFound: a directory in ``lib_paths`` is not there.
    """

    def __init__(self, config: PoolConfig | None = None) -> None:
        self._pool = SessionPool(config)
        self._thread: _LoopThread | None = None

    def __enter__(self) -> BlockingSessionPool:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self) -> None:
        """See `SessionPool.open`."""
        if self._thread is None:
            self._thread = _LoopThread()
            try:
                self._thread.run(self._pool.open())
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """End all kernels and the thread, and wait until they are gone."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self._pool.close())
            finally:
                thread.close()

    @property
    def status(self) -> PoolStatus:
        """What there is at the moment."""
        return self._pool.status

    def acquire(
        self, *, timeout: float | None = None, lib_paths: Sequence[PathName] = ()
    ) -> BlockingSession:
        """See `SessionPool.acquire`."""
        thread = self._opened()
        return BlockingSession(
            thread.run(self._pool.acquire(timeout=timeout, lib_paths=lib_paths)), thread
        )

    def evaluate(
        self,
        code: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        lib_paths: Sequence[PathName] = (),
    ) -> Any:
        """See `SessionPool.evaluate`."""
        return self._opened().run(
            self._pool.evaluate(code, inputs, timeout=timeout, lib_paths=lib_paths)
        )

    def _opened(self) -> _LoopThread:
        if self._thread is None:
            raise PoolClosed("The pool is not open: use it in `with`.")
        return self._thread


class BlockingSession:
    """`Session`, blocking; a context manager that releases it.

    Args:
        session: the session.
        thread: where it lives.
    """

    def __init__(self, session: Session, thread: _LoopThread) -> None:
        self._session = session
        self._thread = thread

    def __enter__(self) -> BlockingSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    @property
    def id(self) -> str:
        """Stays the same for as long as the session lives."""
        return self._session.id

    @property
    def state(self) -> SessionState:
        """What it does at the moment."""
        return self._session.state

    @property
    def kernel_id(self) -> str:
        """Id of its kernel; `reset` changes it."""
        return self._session.kernel_id

    @property
    def lib_paths(self) -> tuple[Path, ...]:
        """The directories put first in ``sys.path``."""
        return self._session.lib_paths

    @property
    def executions(self) -> int:
        """How many cells its kernel has run."""
        return self._session.executions

    def execute(
        self,
        code: str,
        *,
        timeout: float | None = None,
        transaction: str | None = None,
        silent: bool = False,
        store_history: bool = True,
        allow_stdin: bool = True,
    ) -> Generator[Event, None, None]:
        """See `Session.execute`."""
        events = self._session.execute(
            code,
            timeout=timeout,
            transaction=transaction,
            silent=silent,
            store_history=store_history,
            allow_stdin=allow_stdin,
        )

        async def following() -> Event | None:
            return await anext(events, None)

        async def leave() -> None:
            await events.aclose()

        try:
            while (event := self._thread.run(following())) is not None:
                yield event
        finally:
            self._thread.run(leave())

    def evaluate(
        self,
        code: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        """See `Session.evaluate`."""
        return self._thread.run(self._session.evaluate(code, inputs, timeout=timeout))

    def reply(self, text: str, prompt: InputRequired | None = None) -> None:
        """See `Session.reply`."""
        self._thread.run(self._session.reply(text, prompt))

    def interrupt(self) -> bool:
        """See `Session.interrupt`."""
        return self._thread.run(self._session.interrupt())

    def cancel(self, grace: float = 5.0) -> CancelOutcome:
        """See `Session.cancel`."""
        return self._thread.run(self._session.cancel(grace))

    def take_late_events(self) -> tuple[list[Event], int]:
        """See `Session.take_late_events`."""
        return self._thread.run(self._session.take_late_events())

    def checkpoint(
        self, name: str | None = None, message: str = "", policy: str = "pickle_or_error"
    ) -> Checkpoint:
        """See `Session.checkpoint`."""
        return self._thread.run(self._session.checkpoint(name, message, policy))

    def restore(self, commit: str | int, names: Sequence[str] = ()) -> Restored:
        """See `Session.restore`."""
        return self._thread.run(self._session.restore(commit, names))

    def undo(self, count: int = 1) -> Restored:
        """See `Session.undo`."""
        return self._thread.run(self._session.undo(count))

    def redo(self) -> Restored:
        """See `Session.redo`."""
        return self._thread.run(self._session.redo())

    def request(self, msg_type: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        """See `Session.request`."""
        return self._thread.run(self._session.request(msg_type, content))

    def clear(self) -> None:
        """See `Session.clear`."""
        self._thread.run(self._session.clear())

    def reset(self) -> None:
        """See `Session.reset`."""
        self._thread.run(self._session.reset())

    def release(self) -> None:
        """See `Session.release`."""
        self._thread.run(self._session.release())
