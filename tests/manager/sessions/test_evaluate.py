from __future__ import annotations

import asyncio
from typing import Any

import pytest

from savepoint_manager import Session, SessionPool
from savepoint_manager.exceptions import EvaluationFailed, NotJSON, PoolExhausted

from .harness import ok, pid, pool_of, value

PID = "__import__('os').getpid()"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 + 1", 2),
        ("2 ** 100", 2**100),
        ("x = 3\nx * 1.5", 4.5),
        (
            "{'a': [1, None, True, 'ü\\ud800'], 'b': (1, 2)}",
            {"a": [1, None, True, "ü\ud800"], "b": [1, 2]},
        ),
        ("def double(n): return n * factor\nfactor = 2\n[double(n) for n in range(3)]", [0, 2, 4]),
        ("import asyncio\nawait asyncio.sleep(0)\nawait asyncio.sleep(0, 'slept')", "slept"),
        ("warm", ["up"]),
        ("x = 1", None),
        ("", None),
        ("%pwd\n1", 1),
        ("print('not part of it'); 1", 1),
        ("a + b", 3),
    ],
)
async def test_the_last_expression_is_the_value(session: Session, code: str, expected: Any) -> None:
    inputs = {"a": 1, "b": 2} if code == "a + b" else None
    assert await session.evaluate(code, inputs) == expected


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("{'a': [1, {2}]}", r"the value\['a'\]\[1\] is of type builtins.set"),
        ("{'a': {1: 2}}", r"the value\['a'\] has the key 1"),
        ("[float('nan')]", r"the value\[0\] is nan"),
        ("-float('inf')", "the value is -inf"),
        ("x = []; x.append(x); x", r"the value\[0\] contains itself"),
        ("__import__('numpy').int64(1)", "the value is of type numpy.int64"),
        ("b''", "bytes"),
    ],
)
async def test_what_is_not_json_is_named(session: Session, code: str, text: str) -> None:
    with pytest.raises(NotJSON, match=text):
        await session.evaluate(code)


async def test_inputs_that_are_not_json_are_refused(session: Session) -> None:
    with pytest.raises(NotJSON, match=r"inputs\['a'\] is of type builtins.set"):
        await session.evaluate("a", {"a": {1}})


@pytest.mark.parametrize(
    ("code", "ename", "kind"),
    [
        ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError", "exception"),
        ("1 +", "SyntaxError", "exception"),
        ("input()", "StdinNotImplementedError", "exception"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "interrupt"),
        ("import time\ntime.sleep(100)", "ExecutionTimeout", "timeout"),
    ],
)
async def test_an_error_is_that_of_the_code(
    session: Session, code: str, ename: str, kind: str
) -> None:
    with pytest.raises(EvaluationFailed, match=ename) as error:
        await session.evaluate(code, timeout=0.5 if kind == "timeout" else None)
    assert (error.value.ename, error.value.failure_kind) == (ename, kind)
    if ename == "ZeroDivisionError":
        shown = "".join(error.value.traceback)
        assert 'File "<evaluate>", line 2, in f\n    return 1 / 0' in shown
        assert "savepoint" not in shown


async def test_nothing_is_left_behind(session: Session) -> None:
    await ok(session, "mine = [1]")
    everything = "sorted(get_ipython().user_ns)"
    before = await session.evaluate(everything)
    await session.evaluate("import json as js\nleft = mine = 2\ndel warm\n_ = 5")
    with pytest.raises(EvaluationFailed):
        await session.evaluate("more = 1\n1 / 0")
    assert await session.evaluate(everything) == before
    assert await value(session, "mine") == "[1]"
    assert (await ok(session, "7"))[-1].execution_count == (await ok(session, "8"))[
        -1
    ].execution_count - 1
    assert await value(session, "_") == "8"


async def test_calls_share_a_kernel_and_take_turns(pool: SessionPool) -> None:
    code = "busy = __import__('builtins').__dict__.setdefault('busy_', [])\nbusy.append(n)\n" + (
        "__import__('time').sleep(0.01)\nseen = list(busy)\nbusy.remove(n)\nseen, " + PID
    )
    found = await asyncio.gather(*(pool.evaluate(code, {"n": n}) for n in range(10)))
    assert [seen for seen, _ in found] == [[n] for n in range(10)]
    assert len({process for _, process in found}) == 1
    assert await pool.evaluate("'code' in dir()") is False


async def test_the_shared_kernel_makes_room() -> None:
    async with pool_of(max_sessions=1, acquire_timeout=None) as pool:
        shared = await pool.evaluate(PID)
        assert await pool.evaluate(PID) == shared
        async with await pool.acquire() as session:
            assert await pid(session) != shared
            evaluation = asyncio.ensure_future(pool.evaluate("1"))
            with pytest.raises(PoolExhausted):
                await pool.acquire(timeout=0)
        assert await evaluation == 1


async def test_code_that_does_not_end_takes_its_kernel_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("savepoint_manager.sessions.pool._EVALUATE_GRACE", 0.5)
    async with pool_of(min_idle=1) as pool:
        shared = await pool.evaluate(PID)
        code = "import time\nwhile True:\n try: time.sleep(9)\n except KeyboardInterrupt: pass"
        with pytest.raises(EvaluationFailed, match="ignored the interrupt") as error:
            await pool.evaluate(code, timeout=0.2)
        assert error.value.failure_kind == "timeout"
        second = await pool.evaluate(PID)
        assert second != shared
        evaluation = asyncio.ensure_future(pool.evaluate("import time; time.sleep(100)"))
        await asyncio.sleep(0.1)
        evaluation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await evaluation
        assert await pool.evaluate(PID) != second
