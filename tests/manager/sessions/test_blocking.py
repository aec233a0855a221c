from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from savepoint_manager import BlockingSessionPool, PoolConfig, Session
from savepoint_manager.exceptions import KernelDied, PoolClosed, PoolExhausted
from savepoint_manager.sessions import CancelOutcome, InputRequired, Result, SessionState

from .harness import Kernels, done, of, ok, text


def pool_of(**options: object) -> BlockingSessionPool:
    return BlockingSessionPool(PoolConfig(**{"min_idle": 0, "refill_delay": 0.0, **options}))


def use(pool: BlockingSessionPool) -> None:
    with pool, pool.acquire() as session:
        events = []
        for event in session.execute("print(input('Name? ')); 6 * 7"):
            events.append(event)
            if isinstance(event, InputRequired):
                assert session.state is SessionState.INPUT_REQUIRED
                session.reply("Ann")
        assert text(events) == "Ann\n"
        assert of(Result, events)[0].data["text/plain"] == "42"
        assert done(events).status == "ok"

        for _ in session.execute("while True: print('x')"):
            break
        assert session.cancel() is CancelOutcome.ENDED

        list(session.execute("a = 1"))
        session.checkpoint("one")
        list(session.execute("a = 2"))
        session.undo()
        assert session.evaluate("a + b", {"b": 1}) == 2
        session.redo()
        session.restore("one")
        assert session.evaluate("a") == 1
        session.clear()
        assert session.evaluate("'a' in dir()") is False
        assert session.request("savepoint_status_request")["available"] is True
        session.reset()
        assert session.executions == 0
        with pytest.raises(KernelDied):
            list(session.execute("import os; os._exit(1)"))
        assert pool.status.in_use == 1
        with pytest.raises(PoolExhausted):
            pool.acquire(timeout=0)


def test_without_a_loop(kernels: Kernels) -> None:
    pool = pool_of()
    use(pool)
    assert not kernels()
    assert "savepoint-sessions" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(PoolClosed):
        pool.acquire()


async def test_inside_a_running_loop() -> None:
    assert asyncio.get_running_loop().is_running()
    use(pool_of())


async def test_in_a_cell_of_a_notebook(session: Session) -> None:
    code = """
from savepoint_manager import BlockingSessionPool, PoolConfig
with BlockingSessionPool(PoolConfig(min_idle=0)) as pool:
    print([event.type for event in pool.acquire().execute("2")])
"""
    assert text(await ok(session, code)) == "['result', 'done']\n"


def test_several_threads_at_once() -> None:
    with pool_of(max_sessions=2) as pool, ThreadPoolExecutor(4) as threads:

        def work(number: int) -> int:
            with pool.acquire() as session:
                return session.evaluate("n * n", {"n": number})

        assert list(threads.map(work, range(4))) == [0, 1, 4, 9]
