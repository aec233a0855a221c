from __future__ import annotations

import asyncio

import pytest

from savepoint_kernel.protocol import FailureKind
from savepoint_manager import Session
from savepoint_manager.exceptions import NoInputRequired
from savepoint_manager.sessions import (
    ClearOutput,
    Display,
    Error,
    Event,
    InputRequired,
    Other,
    Output,
    Result,
    SessionState,
)

from .harness import done, merged, names, of, ok, run, text, until


async def test_events_come_in_order_and_done_is_the_last(session: Session) -> None:
    code = """
import sys
from IPython.display import display, update_display, clear_output
print("one")
print("two", file=sys.stderr)
display({"a": 1}, display_id="d")
update_display("new", display_id="d")
clear_output(wait=True)
6 * 7
"""
    *events, last = merged(await run(session, code))
    assert events == [
        Output("stdout", "one\n"),
        Output("stderr", "two\n"),
        Display({"text/plain": "{'a': 1}"}, {}, "d", update=False),
        Display({"text/plain": "'new'"}, {}, "d", update=True),
        ClearOutput(wait=True),
        Result({"text/plain": "42"}, {}, last.execution_count),
    ]
    assert (last.type, last.status, last.failure_kind) == ("done", "ok", FailureKind.NONE)
    assert last.stats["wall_ms"] > 0
    assert last.transaction == {"policy": "commit_always", "outcome": "committed"}
    head = (await session.request("savepoint_timeline_request", {"settled": True}))["head"]
    assert last.commit == head


@pytest.mark.parametrize(
    ("code", "ename", "kind"),
    [
        ("1 / 0", "ZeroDivisionError", FailureKind.EXCEPTION),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", FailureKind.INTERRUPT),
        ("import time; time.sleep(100)", "ExecutionTimeout", FailureKind.TIMEOUT),
        # Only the reply knows that this is because of the time limit.
        (
            "try: __import__('time').sleep(100)\nexcept KeyboardInterrupt: raise ValueError",
            "ValueError",
            FailureKind.TIMEOUT,
        ),
    ],
)
async def test_a_failure_says_why(
    session: Session, code: str, ename: str, kind: FailureKind
) -> None:
    events = await run(session, code, timeout=0.3 if kind is FailureKind.TIMEOUT else None)
    (error,) = of(Error, events)
    assert (error.ename, error.failure_kind) == (ename, kind)
    assert ename in "".join(error.traceback)
    assert (done(events).status, done(events).failure_kind) == ("error", kind)
    assert session.state is SessionState.IDLE


async def test_a_silent_cell_that_fails_says_why(session: Session) -> None:
    (error,) = of(Error, await run(session, "1 / 0", silent=True))
    assert error.ename == "ZeroDivisionError"


async def test_a_transaction_policy_is_honoured(session: Session) -> None:
    events = await run(session, "x = 1; 1 / 0", transaction="rollback_on_failure")
    assert done(events).transaction["outcome"] == "rolled_back"
    assert "x" not in await names(session)


async def test_a_prompt_comes_after_what_was_printed_before_it(session: Session) -> None:
    code = "for i in range(20):\n    print('before', i)\n    print('got', input(f'{i}? '))"
    seen = []
    async for event in session.execute(code):
        if isinstance(event, InputRequired):
            assert session.state is SessionState.INPUT_REQUIRED
            await session.reply(event.prompt.strip("? "))
            assert session.state is SessionState.BUSY
            seen.append(event.prompt)
        elif isinstance(event, Output):
            seen.append(event.text)
    prompts = "".join(f"before {i}\n{i}? got {i}\n" for i in range(20))
    assert "".join(seen) == prompts


async def test_a_password_is_asked_for_as_one(session: Session) -> None:
    async for event in session.execute("len(__import__('getpass').getpass('Key: '))"):
        if isinstance(event, InputRequired):
            assert (event.prompt, event.password) == ("Key: ", True)
            await session.reply("secret")
        if isinstance(event, Result):
            assert event.data["text/plain"] == "6"


async def test_prompts_of_two_threads_get_their_own_answers(session: Session) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as threads:
    print(list(threads.map(input, ["a", "b"])))
"""
    prompts, events = [], []
    async for event in session.execute(code):
        events.append(event)
        if isinstance(event, InputRequired):
            prompts.append(event)
            if len(prompts) == 2:
                for prompt in prompts:
                    await session.reply(prompt.prompt.upper(), prompt)
    assert text(events) == "['A', 'B']\n"


async def test_an_answer_that_nobody_asked_for_is_an_error(session: Session) -> None:
    with pytest.raises(NoInputRequired, match="idle"):
        await session.reply("?")


async def test_without_stdin_a_cell_that_asks_fails(session: Session) -> None:
    (error,) = of(Error, await run(session, "input()", allow_stdin=False))
    assert error.ename == "StdinNotImplementedError"


async def test_messages_without_a_class_of_their_own_are_not_lost(session: Session) -> None:
    events = await ok(
        session, "from comm import create_comm; c = create_comm('here', data=1, buffers=[b'x'])"
    )
    (message,) = of(Other, events)
    assert (message.msg_type, message.content["target_name"]) == ("comm_open", "here")
    assert message.buffers == (b"x",)


async def test_what_a_thread_prints_after_its_cell_is_kept_apart(session: Session) -> None:
    await session.take_late_events()
    code = """
import threading
gate = threading.Event()
thread = threading.Thread(target=lambda: (gate.wait(), print("late", flush=True)))
thread.start()
"""
    await ok(session, code)
    events = await ok(session, "gate.set(); thread.join()")
    assert text(events) == ""
    late: list[Event] = []
    while text(late) != "late\n":
        late += (await session.take_late_events())[0]
        await asyncio.sleep(0.01)
    assert merged(late) == [Output("stdout", "late\n")]


async def test_a_slow_reader_gets_everything_and_holds_the_cell_back(session: Session) -> None:
    code = """
from IPython.display import display
for i in range(5000):
    display(i)
"""
    shown = []
    async for event in session.execute(code):
        if isinstance(event, Display):
            shown.append(int(event.data["text/plain"]))
            if len(shown) == 1:
                # It has to wait for us: there is room for less than half of this.
                await until(lambda: len(session._current._kept) >= 1000, "a full queue")
                await asyncio.sleep(0.1)
                assert len(session._current._kept) == 1000
    assert shown == list(range(5000))
