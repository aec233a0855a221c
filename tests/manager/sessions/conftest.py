"""Tests may be coroutines. They run on one loop, so that they can share a pool and a session."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator

import psutil
import pytest

from savepoint_manager import Session, SessionPool
from savepoint_manager.sessions import SessionState

from .harness import children, pool_of


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    pyfuncitem.funcargs["loop"].run_until_complete(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session", autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="session")
def pool(loop: asyncio.AbstractEventLoop, hermetic_user_directories: None) -> Iterator[SessionPool]:
    """A pool shared by the tests of a worker."""
    pool = pool_of(max_sessions=4, warmup_code="warm = ['up']")
    loop.run_until_complete(pool.open())
    yield pool
    loop.run_until_complete(pool.close())


@pytest.fixture(scope="session")
def _shared(loop: asyncio.AbstractEventLoop, pool: SessionPool) -> Session:
    return loop.run_until_complete(pool.acquire())


@pytest.fixture
def session(loop: asyncio.AbstractEventLoop, _shared: Session) -> Session:
    """A session with nothing but the warm-up in it; the kernel is shared with other tests."""
    alive = _shared.state is SessionState.IDLE
    loop.run_until_complete(_shared.clear() if alive else _shared.reset())
    return _shared


@pytest.fixture
def kernels() -> Callable[[], set[psutil.Process]]:
    """The kernels that were started in this test and live: a function."""
    before = children()
    return lambda: children() - before
