from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from jupyter_client.kernelspec import NoSuchKernel

from savepoint_manager.exceptions import (
    AcquireTimeout,
    KernelDied,
    KernelStartTimeout,
    PoolClosed,
    PoolExhausted,
    WarmupFailed,
)
from savepoint_manager.sessions import PoolStatus
from tests.manager.pool.harness import open_pool

from .harness import (
    PATIENCE,
    Kernels,
    alive,
    belongings,
    connection_files,
    names,
    ok,
    output,
    pid,
    pool_of,
    run,
    until,
    value,
)

# -- opening and closing


async def test_an_open_pool_has_kernels_ready_with_preload_and_warm_up() -> None:
    async with pool_of(min_idle=2, preload=["colorsys"], warmup_code="import json as j") as pool:
        assert pool.status == PoolStatus(10, in_use=0, waiting=0, ready=2, starting=0)
        session = await pool.acquire(timeout=0)
        assert await names(session) == {"j"}
        assert await session.evaluate("'colorsys' in __import__('sys').modules") is True
        assert await value(session, "1") == "1"
        assert (await ok(session, "1"))[-1].execution_count == 1


async def test_closing_leaves_nothing_behind(kernels: Kernels) -> None:
    async with pool_of(min_idle=1):  # what is loaded or opened once stays: selectors, a port cache
        pass
    before = belongings()
    async with pool_of(min_idle=2, max_sessions=3, acquire_timeout=None) as pool:
        sessions = [await pool.acquire() for _ in range(3)]
        running = await output(sessions[0], "print('begun', flush=True); input()", "begun")
        orphans = []
        for session in sessions[1:]:
            code = "import subprocess; child = subprocess.Popen(['sleep', '1000'])"
            await ok(session, code)
            orphans.append(psutil.Process(int(await value(session, "child.pid"))))
        with pytest.raises(KernelDied):
            await run(session, "__import__('os')._exit(1)")
        waiting = asyncio.ensure_future(pool.acquire())
        await asyncio.sleep(0)
        await pool.close()
        assert not kernels()
        await until(lambda: not any(map(alive, orphans)), "the end of the kernels' children")
    for task in (running, waiting):
        with pytest.raises((KernelDied, PoolClosed)):
            await task
    with pytest.raises(PoolClosed):
        await pool.acquire()
    del running, waiting, task
    assert not belongings() - before


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"warmup_code": "1 / 0"}, WarmupFailed, "ZeroDivisionError"),
        ({"warmup_code": "__import__('os')._exit(7)"}, KernelDied, "status 7"),
        ({"preload": ["no_such_module_"]}, WarmupFailed, "no_such_module_"),
        ({"kernel_name": "no-such-kernel"}, NoSuchKernel, "no-such-kernel"),
        (
            {"warmup_code": "import time; time.sleep(1000)", "start_timeout": 2.0},
            KernelStartTimeout,
            "after 2 s",
        ),
    ],
)
async def test_a_pool_that_can_not_be_opened_says_why_and_leaves_nothing(
    options: dict[str, object], error: type[Exception], text: str, kernels: Kernels
) -> None:
    files = connection_files()
    with pytest.raises(error, match=text):
        await pool_of(min_idle=1, **options).open()
    assert not kernels()
    assert connection_files() <= files


async def test_who_waits_for_a_kernel_that_can_not_start_is_told(tmp_path: Path) -> None:
    async with pool_of(warmup_code=f"open({str(tmp_path / 'no')!r})") as pool:
        with pytest.raises(WarmupFailed, match="FileNotFoundError"):
            await pool.acquire()
        (tmp_path / "no").touch()
        assert await value(await pool.acquire(), "1") == "1"


# -- waiting


async def test_limits_are_named_in_numbers() -> None:
    async with pool_of(max_sessions=1, acquire_timeout=None) as pool:
        with pytest.raises(PoolExhausted, match="0 of 1") as nothing_ready:
            await pool.acquire(timeout=0)
        assert nothing_ready.value.in_use == 0
        session = await pool.acquire()
        waiting = asyncio.ensure_future(pool.acquire())
        await asyncio.sleep(0)
        with pytest.raises(PoolExhausted) as exhausted:
            await pool.acquire(timeout=0)
        assert type(exhausted.value) is PoolExhausted
        with pytest.raises(AcquireTimeout, match="1 of 1") as late:
            await pool.acquire(timeout=0.1)
        for error in (exhausted.value, late.value):
            assert (error.max_sessions, error.in_use, error.waiting) == (1, 1, 1)
        assert 0.1 <= late.value.waited < PATIENCE
        await session.release()
        assert await value(await waiting, "1") == "1"


async def test_first_come_first_served() -> None:
    order: list[int] = []
    async with pool_of(max_sessions=2, acquire_timeout=None, reset_on_release=False) as pool:

        async def take(number: int) -> None:
            async with await pool.acquire():
                order.append(number)

        tasks = [asyncio.ensure_future(take(number)) for number in range(6)]
        await asyncio.gather(*tasks)
    assert order == list(range(6))


async def test_there_are_never_more_kernels_than_sessions_allowed(kernels: Kernels) -> None:
    async with pool_of(min_idle=2, max_sessions=3, acquire_timeout=None) as pool:
        counts: list[int] = []

        async def use(number: int) -> None:
            paths = [os.getcwd()] if number % 3 == 2 else []
            async with await pool.acquire(lib_paths=paths) as session:
                counts.append(len(kernels()))
                if number % 3 == 1:
                    await session.reset()
                    counts.append(len(kernels()))

        await asyncio.gather(*(use(number) for number in range(6)))
        await until(lambda: pool.status.ready == 2, "two ready kernels")
        counts.append(len(kernels()))
        assert pool.status.in_use == 0
    assert max(counts) <= 3


async def test_a_thousand_acquirers_that_leave_take_nothing_along() -> None:
    chance = random.Random(4)
    async with pool_of(
        min_idle=1, max_sessions=2, reset_on_release=False, acquire_timeout=None
    ) as pool:

        async def use(patience: float | None) -> None:
            async with await pool.acquire(timeout=patience):
                await asyncio.sleep(0)

        async def use_and_leave() -> None:
            task = asyncio.ensure_future(use(chance.choice([0, 0, 0.001, 0.01, 0.01, None])))
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            if chance.random() < 0.7:
                task.cancel()
            await asyncio.wait({task})
            assert task.cancelled() or isinstance(task.exception(), PoolExhausted | None)

        async def at_rest() -> set[object]:
            await until(lambda: pool.status.in_use == 0 and not pool.status.starting, "rest")
            while pool.status.ready < 2:  # as many as there may be, so that it compares
                sessions = [await pool.acquire() for _ in range(2)]
                for session in sessions:
                    await session.release()
                await until(lambda: pool.status.in_use == 0, "rest")
            return belongings()

        await asyncio.gather(*(use_and_leave() for _ in range(20)))
        before = await at_rest()
        for _ in range(50):
            await asyncio.gather(*(use_and_leave() for _ in range(20)))
        after = await at_rest()
        assert pool.status == PoolStatus(2, in_use=0, waiting=0, ready=2, starting=0)
    assert not after - before


# -- kernels


async def test_a_ready_kernel_that_dies_is_replaced(
    caplog: pytest.LogCaptureFixture, kernels: Kernels
) -> None:
    async with pool_of(min_idle=1) as pool:
        (process,) = kernels()
        process.kill()
        await until(lambda: pool.status.ready == 0, "the death to be noticed")
        await until(lambda: pool.status.ready == 1, "another kernel")
        assert await pid(await pool.acquire(timeout=0)) != process.pid
    assert "was killed by SIGKILL" in caplog.text


async def test_a_ready_kernel_that_hangs_is_replaced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kernels: Kernels
) -> None:
    monkeypatch.setattr("savepoint_manager.sessions.spares.PATIENCE", 3.0)
    async with pool_of(min_idle=1, health_interval=0.1) as pool:
        (process,) = kernels()
        process.send_signal(signal.SIGSTOP)
        await until(lambda: process not in kernels(), "its end")
        await until(lambda: pool.status.ready == 1, "another kernel")
        assert await value(await pool.acquire(timeout=0), "1") == "1"
    assert "does not answer" in caplog.text


async def test_old_kernels_are_replaced(kernels: Kernels) -> None:
    async with pool_of(min_idle=1, max_age=0.5, health_interval=0.1) as pool:
        (process,) = kernels()
        await until(lambda: process not in kernels(), "its end")
        await until(lambda: pool.status.ready == 1, "another kernel")


async def test_unused_kernels_beyond_min_idle_are_ended(kernels: Kernels) -> None:
    async with pool_of(
        min_idle=1, idle_timeout=0.1, health_interval=0.1, reset_on_release=False
    ) as pool:
        sessions = [await pool.acquire() for _ in range(3)]
        for session in sessions:
            await session.release()
        await until(lambda: pool.status.in_use == 0, "the releases")
        await until(lambda: len(kernels()) == 1, "the end of two")
        assert pool.status.ready == 1


@pytest.mark.parametrize("reset_on_release", [True, False])
async def test_a_released_session_leaves_no_names(reset_on_release: bool) -> None:
    options = {"max_sessions": 1, "warmup_code": "a = 1", "reset_on_release": reset_on_release}
    async with pool_of(**options) as pool:
        session = await pool.acquire()
        process = await pid(session)
        await ok(session, "b = 2; a = 3")
        running = await output(session, "print('begun', flush=True); input()", "begun")
        await session.release()
        again = await pool.acquire()
        await asyncio.wait({running})
        running.exception()
        assert (await pid(again) == process) is not reset_on_release
        assert await names(again) == {"a"}
        assert await value(again, "a") == "1"


async def test_a_kernel_is_not_kept_when_it_does_not_let_go_or_has_done_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("savepoint_manager.sessions.pool._RELEASE_GRACE", 0.5)
    async with pool_of(max_sessions=1, reset_on_release=False, recycle_after_executions=3) as pool:
        session = await pool.acquire()
        process = await pid(session)
        code = "while True:\n try: print('on', flush=True); input()\n except KeyboardInterrupt: 0"
        running = await output(session, code, "on")
        await session.release()
        session = await pool.acquire()
        assert await pid(session) != process
        await asyncio.wait({running})
        assert isinstance(running.exception(), KernelDied)
        process = await pid(session)
        await ok(session, "1")
        await session.release()
        assert await pid(await pool.acquire()) != process


async def test_a_refill_waits() -> None:
    async with pool_of(min_idle=1, refill_delay=0.5) as pool:
        await pool.acquire()
        began = time.monotonic()
        while not pool.status.starting:
            await asyncio.sleep(0.01)
        assert time.monotonic() - began >= 0.5
        await until(lambda: pool.status.ready == 1, "the refill")


async def test_reset_takes_a_ready_kernel(kernels: Kernels) -> None:
    async with pool_of(min_idle=2, max_sessions=2, warmup_code="a = 1") as pool:
        session = await pool.acquire()
        (ready,) = {kernel.pid for kernel in kernels()} - {await pid(session)}
        await ok(session, "a = 2")
        await session.reset()
        assert await pid(session) == ready
        assert await value(session, "a") == "1"


async def test_kernels_come_from_the_pool_of_the_machine() -> None:
    with open_pool() as machine:
        variables = ("SAVEPOINT_POOL", "SAVEPOINT_POOL_DIR", "JUPYTER_CONFIG_DIR")
        env = {name: machine.env[name] for name in variables}
        async with pool_of(max_sessions=1, env=env, warmup_code="a = 1") as pool:
            async with await pool.acquire():
                pass
            machine.await_ready()
            session = await pool.acquire()
            assert machine.hits() == 1
            assert await value(session, "a") == "1"
            with pytest.raises(KernelDied, match="status 3"):
                await run(session, "__import__('os')._exit(3)")
            await session.reset()
            assert await value(session, "a") == "1"
