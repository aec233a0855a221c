from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from savepoint_kernel.exceptions import CheckpointNotFound
from savepoint_manager import Session, SessionPool
from savepoint_manager.exceptions import (
    IllegalTransition,
    KernelDied,
    PoolClosed,
    UnsupportedByKernel,
    WarmupFailed,
)
from savepoint_manager.sessions import CancelOutcome, Event, InputRequired, SessionState
from savepoint_manager.sessions.states import TRANSITIONS, check_transition

from .harness import done, names, ok, output, pid, pool_of, run, text, value

STUBBORN = """
import time
while True:
    try:
        print("begun", flush=True)
        time.sleep(1000)
    except KeyboardInterrupt:
        pass
"""


# -- turns


async def test_leaving_the_loop_early_does_not_spoil_the_next_cell(session: Session) -> None:
    async for _ in session.execute("for i in range(1000): print(i, flush=True)\nlast = i"):
        break
    assert session.state is SessionState.BUSY
    events = await ok(session, "print(last)")
    assert text(events) == "999\n"


async def test_leaving_a_flood_early_and_cancelling_it(session: Session) -> None:
    async for _ in session.execute("while True: print('x' * 1000)"):
        break
    assert await session.cancel() is CancelOutcome.ENDED
    assert await value(session, "1") == "1"


async def test_cells_of_two_tasks_take_turns_and_a_failure_aborts_nothing(session: Session) -> None:
    first = asyncio.ensure_future(run(session, "import time; time.sleep(0.2); 1 / 0"))
    second = asyncio.ensure_future(run(session, "print('second')"))
    third = asyncio.ensure_future(run(session, "print('third')"))
    ends = [done(await task) for task in (first, second, third)]
    assert [end.status for end in ends] == ["error", "ok", "ok"]
    counts = [end.execution_count for end in ends]
    assert counts == sorted(counts)
    assert text(await second) == "second\n"


async def test_a_cell_that_is_given_up_before_its_turn_is_never_run(session: Session) -> None:
    running = await output(session, "print('begun', flush=True); input()", "begun")
    waiting = asyncio.ensure_future(run(session, "ran = True"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await session.cancel()
    await running
    assert "ran" not in await names(session)


# -- ends


@pytest.mark.parametrize("code", ["input()", "__import__('time').sleep(1000)"])
async def test_cancel_interrupts(session: Session, code: str) -> None:
    running = await output(session, f"print('begun', flush=True); {code}", "begun")
    assert await session.cancel() is CancelOutcome.ENDED
    assert done(await running).failure_kind == "interrupt"
    assert session.state is SessionState.IDLE
    assert await session.cancel() is CancelOutcome.IDLE


async def test_cancel_kills_what_ignores_the_interrupt(session: Session) -> None:
    running = await output(session, STUBBORN, "begun")
    assert await session.cancel(grace=0.2) is CancelOutcome.KILLED
    assert session.state is SessionState.DEAD
    with pytest.raises(KernelDied, match="SIGKILL"):
        await running


async def test_an_interrupted_prompt_takes_no_answer(session: Session) -> None:
    code = "try: input('a')\nexcept KeyboardInterrupt: print(input('b'))"
    events = []
    async for event in session.execute(code):
        events.append(event)
        if isinstance(event, InputRequired):
            if event.prompt == "a":
                assert await session.interrupt()
            else:
                await session.reply("answer")
    assert text(events) == "answer\n"
    assert not await session.interrupt()


@pytest.mark.parametrize(
    ("end", "exit_code", "signal"),
    [("os._exit(3)", 3, None), ("os.kill(os.getpid(), 11)", None, "SIGSEGV")],
)
async def test_death_ends_the_loop_and_says_how(
    session: Session, end: str, exit_code: int | None, signal: str | None
) -> None:
    seen: list[Event] = []

    async def collect() -> None:
        async for event in session.execute(f"import os; print('last words'); input(); {end}"):
            seen.append(event)
            if isinstance(event, InputRequired):
                await session.reply("")

    with pytest.raises(KernelDied) as death:
        await collect()
    assert (death.value.exit_code, death.value.signal) == (exit_code, signal)
    assert text(seen) == "last words\n"
    assert session.state is SessionState.DEAD
    for use in (run(session, "1"), session.evaluate("1"), session.undo(), session.reply("")):
        with pytest.raises(KernelDied):
            await use
    old = session.id, session.kernel_id
    await session.reset()
    assert session.state is SessionState.IDLE
    assert (session.id, session.kernel_id) != old
    assert session.id == old[0]
    assert await names(session) == {"warm"}


# -- state


async def test_checkpoint_restore_undo_redo(session: Session) -> None:
    await ok(session, "a = [1]; alias = a")
    checkpoint = await session.checkpoint("first", message="one item")
    assert checkpoint.dropped == {}
    await ok(session, "a.append(2)")
    undone = await session.undo()
    assert undone.changed == ("a", "alias")
    assert await value(session, "a, alias is a") == "([1], True)"
    await session.redo()
    assert await value(session, "a") == "[1, 2]"
    restored = await session.restore("first")
    assert restored.commit == checkpoint.commit
    assert await value(session, "a") == "[1]"
    timeline = await session.request("savepoint_timeline_request")
    assert timeline["checkpoints"]["first"] == checkpoint.commit
    with pytest.raises(CheckpointNotFound, match="nowhere"):
        await session.restore("nowhere")


async def test_undo_stops_at_the_warm_up(session: Session) -> None:
    await session.reset()
    await ok(session, "warm.append('x')")
    await session.undo()
    assert await value(session, "warm") == "['up']"
    with pytest.raises(CheckpointNotFound):
        await session.undo()


async def test_clear_leaves_the_warm_up_and_can_be_undone(session: Session) -> None:
    await ok(session, "a = 1; warm = 2")
    process = await pid(session)
    await session.clear()
    assert await names(session) == {"warm"}
    assert await value(session, "warm") == "['up']"
    assert await pid(session) == process
    await session.undo()
    assert await value(session, "a, warm") == "(1, 2)"


async def test_reset_ends_the_running_cell(session: Session) -> None:
    running = await output(session, STUBBORN, "begun")
    waiting = asyncio.ensure_future(run(session, "print('in the fresh one', 'STUBBORN' in dir())"))
    await session.reset()
    with pytest.raises(KernelDied, match="session was reset"):
        await running
    assert text(await waiting) == "in the fresh one False\n"


async def test_a_reset_that_fails_leaves_a_dead_session_that_can_be_reset(tmp_path: Path) -> None:
    needed = tmp_path / "needed"
    needed.touch()
    async with pool_of(warmup_code=f"open({str(needed)!r}).close()") as pool:
        session = await pool.acquire()
        needed.unlink()
        with pytest.raises(WarmupFailed, match="FileNotFoundError"):
            await session.reset()
        assert session.state is SessionState.DEAD
        with pytest.raises(KernelDied, match="reset"):
            await run(session, "1")
        needed.touch()
        await session.reset()
        assert await value(session, "1") == "1"


async def test_a_released_session_is_closed(pool: SessionPool) -> None:
    async with await pool.acquire() as session:
        running = await output(session, "print('begun', flush=True); input()", "begun")
    assert session.state is SessionState.CLOSED
    with pytest.raises(KernelDied, match="released"):
        await running
    await session.release()
    for use in (run(session, "1"), session.reset(), session.checkpoint(), session.clear()):
        with pytest.raises(PoolClosed):
            await use


async def test_the_stock_kernel_does_what_it_can() -> None:
    async with pool_of(kernel_name="python3", warmup_code="a = 1") as pool:
        session = await pool.acquire()
        async for event in session.execute("a = 2; print(input('? ')); a"):
            if isinstance(event, InputRequired):
                await session.reply("yes")
        assert await session.evaluate("a") == 2
        await session.clear()
        assert await value(session, "a") == "1"
        for use in (run(session, "1", timeout=1), session.undo()):
            with pytest.raises(UnsupportedByKernel, match="python3"):
                await use
        assert session.state is SessionState.IDLE


def test_only_the_transitions_of_the_table_are_allowed() -> None:
    for old, new in itertools.product(SessionState, repeat=2):
        if new in TRANSITIONS[old]:
            check_transition(old, new)
        else:
            with pytest.raises(IllegalTransition, match=f"{old.value}.*{new.value}"):
                check_transition(old, new)
    reached = {SessionState.IDLE}
    for _ in SessionState:
        reached |= {new for old in reached for new in TRANSITIONS[old]}
    assert reached == set(SessionState)


async def test_what_a_session_runs_is_not_in_the_user_s_history(session: Session) -> None:
    file = await session.evaluate("get_ipython().history_manager.hist_file")
    assert file == ":memory:"
    await ok(session, "mine = 1")
    assert "mine = 1" in await session.evaluate("In")
