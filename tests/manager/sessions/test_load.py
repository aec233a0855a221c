"""A hundred sessions at once, on whatever machine this is."""

from __future__ import annotations

import asyncio

import pytest

from savepoint_manager import Session
from tests.manager.pool.harness import alive, open_pool

from .harness import connection_files, ok, pid, pool_of, text, until, value

SESSIONS = 100
CELLS = 3
LINES = 200


async def _work(session: Session, number: int) -> None:
    """Run cells that depend on each other, and look at all they print."""
    await ok(session, f"number, total = {number}, 0")
    for _ in range(CELLS):
        code = f"for i in range({LINES}):\n    total += number\n    print(number, i)"
        printed = text(await ok(session, code))
        assert printed == "".join(f"{number} {i}\n" for i in range(LINES))
    assert await value(session, "total") == str(CELLS * LINES * number)
    await ok(session, "%undo")
    assert await value(session, "total") == str((CELLS - 1) * LINES * number)


@pytest.mark.timeout(600)  # two CPUs
async def test_a_hundred_sessions_execute_at_once_and_nothing_is_lost() -> None:
    files = connection_files()
    with open_pool() as machine:
        machine.have_standbys()
        options = {"max_sessions": SESSIONS, "acquire_timeout": None, "start_timeout": 300.0}
        async with pool_of(env=machine.env, **options) as pool:
            sessions = await asyncio.gather(*(pool.acquire() for _ in range(SESSIONS)))
            assert pool.status.in_use == SESSIONS
            pids = await asyncio.gather(*map(pid, sessions))
            assert len(set(pids)) == SESSIONS
            assert machine.hits() >= SESSIONS - 1, machine.status()
            await asyncio.gather(*map(_work, sessions, range(SESSIONS)))
            assert await asyncio.gather(*map(pid, sessions)) == pids
            await asyncio.gather(*(session.release() for session in sessions))
        await until(lambda: not any(map(alive, pids)), "the end of all kernels")
        machine.await_status(lambda status: not status["kernels"], "no kernel is in use")
    assert connection_files() <= files
