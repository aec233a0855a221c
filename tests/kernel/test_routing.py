"""No request waits for a cell but the next cell: what is answered when, and by whom."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_client.manager import KernelManager

from .harness import PATIENCE, Gate, Kernel, Message, Result, parent_id

SETUP = "import asyncio, os, sys, threading, time, warnings\nsecret_value = 1\n"


class Running:
    """A cell that has the main thread until `end`."""

    def __init__(self, kernel: Kernel, code: str, let_go: Callable[[Message | None], None]) -> None:
        self._kernel, self._let_go = kernel, let_go
        self.cell = kernel.start(code)
        self._prompt = kernel.prompt(self.cell) if "input()" in code else None
        kernel.stream(self.cell, "running")
        # The busy it starts with; a later one is news.
        kernel.wait("iopub", lambda m: is_state(m, self.cell, "busy"))

    def let_go(self) -> None:
        let_go, self._let_go = self._let_go, lambda prompt: None
        let_go(self._prompt)

    def end(self) -> Result:
        self.let_go()
        result = self._kernel.finish(self.cell)
        assert result.content["status"] == "ok", result.content
        return result


def is_state(msg: Message, request: str, state: str) -> bool:
    return (
        msg["msg_type"] == "status"
        and parent_id(msg) == request
        and msg["content"]["execution_state"] == state
    )


class Situation:
    """A way for a cell to have the main thread."""

    def __init__(self, kernel: Kernel, gate: Gate, flag: Path, kind: str) -> None:
        self._kernel = kernel
        wait, self._let_go = {
            "blocked": (gate.wait, lambda prompt: gate.open()),
            "at a prompt": ("input()", lambda prompt: kernel.answer(prompt, "")),
            "spinning": (
                f"while not os.path.exists({str(flag)!r}): pass",
                lambda prompt: flag.touch(),
            ),
            "awaiting": (
                f"await asyncio.to_thread(lambda: {gate.wait})",
                lambda prompt: gate.open(),
            ),
        }[kind]
        self._wait = wait
        self._running: Running | None = None

    def begin(self, before: str = "pass", after: str = "pass") -> Running:
        code = f"{before}\nprint('running')\n{self._wait}\n{after}"
        self._running = Running(self._kernel, code, self._let_go)
        return self._running

    def close(self) -> None:
        """Let go of the cell if the test did not get that far."""
        if self._running is not None:
            self._running.let_go()


SITUATIONS = ["blocked", "at a prompt", "spinning", "awaiting"]


@pytest.fixture(params=SITUATIONS)
def situation(
    kernel: Kernel, gate: Gate, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Situation]:
    kernel.ok(SETUP)
    situation = Situation(kernel, gate, tmp_path / "flag", request.param)
    yield situation
    situation.close()


@pytest.fixture
def blocked(kernel: Kernel, gate: Gate, tmp_path: Path) -> Iterator[Situation]:
    kernel.ok(SETUP)
    situation = Situation(kernel, gate, tmp_path / "flag", "blocked")
    yield situation
    situation.close()


def content(kernel: Kernel, msg_type: str, request: Message, channel: str = "shell") -> Message:
    reply = kernel.reply(kernel.send(msg_type, request, channel=channel), channel=channel)
    assert reply["msg_type"] == msg_type.replace("_request", "_reply")
    return reply["content"]


# -- requests beside a cell ----------------------------------------------------------------------


REQUESTS: dict[str, tuple[Message, Callable[[Message], bool]]] = {
    "complete_request": (
        {"code": "secret_va", "cursor_pos": 9},
        lambda c: c["matches"] == ["secret_value"],
    ),
    "inspect_request": (
        {"code": "secret_value", "cursor_pos": 5, "detail_level": 0},
        lambda c: c["found"] and "int" in c["data"]["text/plain"],
    ),
    "is_complete_request": ({"code": "if True:"}, lambda c: c["status"] == "incomplete"),
    "history_request": (
        {"hist_access_type": "tail", "n": 100, "output": False, "raw": True},
        lambda c: any("secret_value = 1" in line for _, _, line in c["history"]),
    ),
    "kernel_info_request": ({}, lambda c: c["implementation"] == "savepoint"),
    "comm_info_request": ({}, lambda c: "comms" in c),
    "connect_request": ({}, lambda c: {"shell_port", "iopub_port"} <= set(c)),
}
EVERY_REQUEST = pytest.mark.parametrize("msg_type", REQUESTS)


@EVERY_REQUEST
def test_request_is_answered_while_a_cell_runs(kernel, situation, msg_type):
    running = situation.begin()
    request, expected = REQUESTS[msg_type]
    answer = content(kernel, msg_type, request)
    assert answer.get("status") != "error"
    assert expected(answer), answer
    running.end()


@EVERY_REQUEST
def test_request_is_answered_by_an_idle_kernel(kernel, msg_type):
    kernel.ok("secret_value = 1")
    request, expected = REQUESTS[msg_type]
    answer = content(kernel, msg_type, request)
    assert expected(answer), answer


@EVERY_REQUEST
def test_last_status_seen_beside_a_running_cell_is_busy(kernel, situation, msg_type):
    """Servers and front ends take the last status they see for the state of the kernel."""
    running = situation.begin()
    request = kernel.send(msg_type, REQUESTS[msg_type][0])
    seen: list[tuple[str | None, str]] = []
    while (request, "idle") not in seen[:-1]:  # and the one that comes after it
        message = kernel.client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "status":
            seen.append((parent_id(message), message["content"]["execution_state"]))
    assert seen == [(request, "busy"), (request, "idle"), (running.cell, "busy")]
    kernel.reply(request)
    messages = running.end().iopub
    assert [m for m in messages if m["msg_type"] == "status"] == []


def test_last_status_after_a_cell_is_idle(kernel, situation):
    """A request that ends together with the cell must not leave a busy behind."""
    for _ in range(20):
        cell = kernel.start("pass")
        request = kernel.send("kernel_info_request")
        kernel.reply(cell)
        kernel.reply(request)
        last: dict[str | None, str] = {}
        while not (last.get(cell) == "idle" and last.get(request) == "idle"):
            message = kernel.client.get_iopub_msg(timeout=PATIENCE)
            if message["msg_type"] == "status":
                state = message["content"]["execution_state"]
                last[parent_id(message)] = state
                final = state
        assert final == "idle"


def test_many_requests_beside_a_cell_are_all_answered(kernel, situation):
    running = situation.begin()
    sent = [
        kernel.send(msg_type, request)
        for _ in range(20)
        for msg_type, (request, _) in REQUESTS.items()
    ]
    for msg_id in sent:
        assert kernel.reply(msg_id)["content"].get("status") != "error"
    running.end()


def test_completion_sees_what_the_running_cell_has_made(kernel, situation):
    running = situation.begin(before="made_just_now = {'key': 1}")
    answer = content(kernel, "complete_request", {"code": "made_just", "cursor_pos": 9})
    assert answer["matches"] == ["made_just_now"]
    answer = content(kernel, "inspect_request", {"code": "made_just_now", "cursor_pos": 3})
    assert "dict" in answer["data"]["text/plain"]
    running.end()


# -- what a request beside a cell leaves alone ---------------------------------------------------


WRITE = (
    "print('python')\nprint('python', file=sys.stderr)\nos.write(1, b'C\\n')\ndisplay('shown')\n"
    "thread = threading.Thread(target=print, args=('thread',))\nthread.start()\nthread.join()"
)


@EVERY_REQUEST
def test_output_of_the_running_cell_stays_its_own(kernel, situation, msg_type):
    running = situation.begin(after=WRITE)
    request = kernel.send(msg_type, REQUESTS[msg_type][0])
    kernel.reply(request)
    result = running.end()
    assert result.text() == "python\nC\nthread\n"
    assert result.text("stderr") == "python\n"
    assert len(result.of("display_data")) == 1
    published = {m["msg_type"] for m in kernel.idle(request)}
    assert published == {"status"}


def test_output_of_the_running_cell_stays_its_own_beside_control_requests(kernel, situation):
    running = situation.begin(after=WRITE)
    request = kernel.send("kernel_info_request", channel="control")
    kernel.reply(request, channel="control")
    result = running.end()
    assert result.text() == "python\nC\nthread\n"
    assert {m["msg_type"] for m in kernel.idle(request)} == {"status"}


def test_traceback_of_the_running_cell_stays_its_own(kernel, blocked):
    running = blocked.begin(after="1 / 0")
    content(kernel, "complete_request", {"code": "secret", "cursor_pos": 6})
    running.let_go()
    (error,) = kernel.finish(running.cell).of("error")
    assert error["content"]["ename"] == "ZeroDivisionError"


def test_warning_filters_set_by_a_cell_survive_a_completion_that_overlaps(kernel, gate):
    """A completion enters warnings.catch_warnings in IPython: leaving it would undo them."""
    kernel.ok(
        SETUP + "entered = threading.Event()\n"
        "class Slow:\n"
        "    def __dir__(self):\n"
        "        if not entered.is_set():\n"
        "            entered.set()\n"
        f"            {gate.wait}\n"
        "        return ['attribute']\n"
        "slow = Slow()"
    )
    cell = kernel.start(
        "with warnings.catch_warnings():\n"
        "    print('running')\n"
        "    entered.wait()\n"
        "    warnings.simplefilter('error', UserWarning)\n"
        "    before = list(warnings.filters)\n"
        "    input()\n"
        "    after = list(warnings.filters)\n"
        "after == before"
    )
    kernel.stream(cell, "running")
    request = kernel.send("complete_request", {"code": "slow.attr", "cursor_pos": 9})
    prompt = kernel.prompt(cell)
    gate.open()
    matches = kernel.reply(request)["content"]["matches"]
    assert [match.lstrip(".") for match in matches] == ["attribute"]
    kernel.answer(prompt, "")
    assert kernel.finish(cell).value == "True"


def test_completer_does_not_set_warning_filters(kernel):
    """What the completer uses sets them for a moment, and sets them back to what was before."""
    content(kernel, "complete_request", {"code": "import os; os.pa", "cursor_pos": 16})
    kernel.ok(
        "import jedi.inference.docstrings, jedi.inference.compiled.access, warnings\n"
        "before, inside = list(warnings.filters), []\n"
        "for module in (jedi.inference.docstrings, jedi.inference.compiled.access):\n"
        "    with module.warnings.catch_warnings(record=True):\n"
        "        module.warnings.simplefilter('ignore')\n"
        "        inside.append(list(warnings.filters))"
    )
    assert kernel.eval("inside == [before, before]") == "True"


def test_completion_does_not_print_what_user_hooks_print_into_the_cell(kernel, blocked):
    kernel.ok(
        "class Chatty:\n    def __dir__(self):\n        print('hook')\n"
        "        return ['x']\nc = Chatty()"
    )
    running = blocked.begin()
    request = kernel.send("complete_request", {"code": "c.", "cursor_pos": 2})
    kernel.reply(request)
    assert "hook" not in running.end().text()


@pytest.mark.parametrize(
    ("definition", "msg_type", "request_content"),
    [
        (
            "def __dir__(self): raise RuntimeError('hook')",
            "complete_request",
            {"code": "x.", "cursor_pos": 2},
        ),
        (
            "def __repr__(self): raise RuntimeError('hook')",
            "inspect_request",
            {"code": "x", "cursor_pos": 1},
        ),
        (
            "def __getattr__(self, name): raise RuntimeError('hook')",
            "inspect_request",
            {"code": "x.y", "cursor_pos": 3},
        ),
    ],
)
def test_user_hook_that_raises_costs_only_its_own_answer(
    kernel, blocked, definition, msg_type, request_content
):
    kernel.ok(f"class X:\n    {definition}\nx = X()")
    running = blocked.begin()
    assert "status" in content(kernel, msg_type, request_content)
    assert content(kernel, "complete_request", {"code": "secret_va", "cursor_pos": 9})["matches"]
    running.end()


def test_history_has_the_cell_that_runs(kernel, blocked):
    running = blocked.begin(before="unmistakable = 1")
    request = {"hist_access_type": "tail", "n": 1, "output": False, "raw": True}
    ((_, _, line),) = content(kernel, "history_request", request)["history"]
    assert line.startswith("unmistakable = 1")
    running.end()


# -- execution is strictly in order --------------------------------------------------------------


def test_cells_run_in_the_order_they_were_sent(kernel):
    kernel.ok("order = []")
    cells = [kernel.start(f"order.append({number})\norder") for number in range(30)]
    for number, cell in enumerate(cells):
        assert "".join(kernel.finish(cell).value.split()) == json.dumps(
            list(range(number + 1)), separators=(",", ":")
        )


def test_awaiting_cell_is_not_overtaken_by_the_next(kernel, gate):
    kernel.ok("import asyncio\norder = []")
    first = kernel.start(f"await asyncio.to_thread(lambda: {gate.wait})\norder.append('first')")
    second = kernel.start("order.append('second')\norder")
    content(kernel, "kernel_info_request", {})
    gate.open()
    kernel.finish(first)
    assert kernel.finish(second).value == "['first', 'second']"


# -- control -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("msg_type", "expected"),
    [
        ("kernel_info_request", "implementation"),
        ("usage_request", "pid"),
        ("list_subshell_request", "subshell_id"),
    ],
)
def test_control_request_is_answered_while_a_cell_runs(kernel, situation, msg_type, expected):
    running = situation.begin()
    assert expected in content(kernel, msg_type, {}, channel="control")
    running.end()


def test_usage_is_that_of_the_kernel(kernel):
    assert content(kernel, "usage_request", {}, channel="control")["pid"] == kernel.pid


INITIALIZE = {
    "type": "request",
    "seq": 1,
    "command": "initialize",
    "arguments": {"clientID": "test", "adapterID": "", "pathFormat": "path"},
}


@pytest.mark.parametrize("kind", SITUATIONS)
def test_debugger_starts_while_a_cell_runs(own_kernel, gate, tmp_path, kind):
    own_kernel.ok(SETUP)
    running = Situation(own_kernel, gate, tmp_path / "flag", kind).begin()
    answer = content(own_kernel, "debug_request", INITIALIZE, channel="control")
    assert answer["success"], answer
    running.end()


def test_interrupt_is_taken_while_the_debugger_starts(own_kernel):
    cell = own_kernel.start("import time\nprint('running')\ntime.sleep(100)")
    own_kernel.stream(cell, "running")
    initialize = own_kernel.send("debug_request", INITIALIZE, channel="control")
    own_kernel.interrupt("message")
    assert own_kernel.finish(cell).content["ename"] == "KeyboardInterrupt"
    assert own_kernel.reply(initialize, channel="control")["content"]["success"]
    cell = own_kernel.start("import time\nprint('again')\ntime.sleep(100)")
    own_kernel.stream(cell, "again")
    own_kernel.interrupt("message")
    assert own_kernel.finish(cell).content["ename"] == "KeyboardInterrupt"


@pytest.mark.parametrize("kind", SITUATIONS)
def test_cell_sent_on_control_runs_beside_the_one_on_shell(kernel, gate, tmp_path, kind):
    kernel.ok(SETUP)
    running = Situation(kernel, gate, tmp_path / "flag", kind).begin(after="print('on shell')")
    request = kernel.send(
        "execute_request",
        {"code": "print('on control')\nanswer = secret_value + 41", "silent": False},
        channel="control",
    )
    assert kernel.reply(request, channel="control")["content"]["status"] == "ok"
    aside = Result({}, kernel.idle(request))
    assert aside.text() == "on control\n"
    result = running.end()
    assert result.text() == "on shell\n"
    assert kernel.ok("answer").value == "42"


# -- subshells -----------------------------------------------------------------------------------


def create_subshell(kernel: Kernel) -> str:
    return content(kernel, "create_subshell_request", {}, channel="control")["subshell_id"]


def list_subshells(kernel: Kernel) -> list[str]:
    return content(kernel, "list_subshell_request", {}, channel="control")["subshell_id"]


def delete_subshell(kernel: Kernel, subshell_id: str) -> Message:
    request = {"subshell_id": subshell_id}
    return content(kernel, "delete_subshell_request", request, channel="control")


@pytest.fixture
def subshell(kernel: Kernel) -> Iterator[str]:
    subshell_id = create_subshell(kernel)
    yield subshell_id
    assert delete_subshell(kernel, subshell_id)["status"] == "ok"


def test_subshells_are_listed_and_deleted(kernel):
    assert list_subshells(kernel) == []
    first, second = create_subshell(kernel), create_subshell(kernel)
    assert sorted(list_subshells(kernel)) == sorted([first, second])
    assert delete_subshell(kernel, first)["status"] == "ok"
    assert list_subshells(kernel) == [second]
    assert delete_subshell(kernel, second)["status"] == "ok"
    assert list_subshells(kernel) == []


def test_kernel_says_that_it_has_subshells(kernel):
    features = content(kernel, "kernel_info_request", {})["supported_features"]
    assert {"kernel subshells", "savepoint"} <= set(features)


def test_subshell_runs_a_cell_beside_the_main_shell(kernel, situation, subshell):
    running = situation.begin(after="print('main')")
    result = kernel.ok(
        "print('subshell')\nanswer = secret_value + 41\nthreading.current_thread().name",
        subshell_id=subshell,
    )
    assert result.text() == "subshell\n"
    assert "MainThread" not in result.value
    assert result.reply["parent_header"]["subshell_id"] == subshell
    assert running.end().text() == "main\n"
    assert kernel.ok("answer").value == "42"


def test_output_of_cells_side_by_side_stays_apart(kernel, subshell):
    kernel.ok("import sys, threading\nbarrier = threading.Barrier(2)")
    code = (
        "for i_{name} in range(200):\n    barrier.wait()\n    print({name!r}, i_{name})\n"
        "sys.stdout.flush()"
    )
    main = kernel.start(code.format(name="main"))
    beside = kernel.start(code.format(name="subshell"), subshell_id=subshell)
    assert kernel.finish(main).text() == "".join(f"main {i}\n" for i in range(200))
    assert kernel.finish(beside).text() == "".join(f"subshell {i}\n" for i in range(200))


def test_thread_started_in_a_subshell_prints_into_its_cell(kernel, blocked, subshell):
    running = blocked.begin()
    result = kernel.ok(
        "thread = threading.Thread(target=print, args=('thread',))\nthread.start()\nthread.join()",
        subshell_id=subshell,
    )
    assert result.text() == "thread\n"
    assert running.end().text() == ""


def test_error_in_a_subshell_stays_there(kernel, blocked, subshell):
    running = blocked.begin(after="print('main goes on')")
    queued = kernel.start("'queued on main'")
    failed = kernel.run("1 / 0", subshell_id=subshell)
    assert failed.content["ename"] == "ZeroDivisionError"
    assert len(failed.of("error")) == 1
    assert running.end().text() == "main goes on\n"
    assert kernel.finish(queued).value == "'queued on main'"


def test_main_shell_runs_while_a_subshell_is_blocked(kernel, gate, subshell):
    beside = kernel.start(f"print('blocked')\n{gate.wait};", subshell_id=subshell)
    kernel.stream(beside, "blocked")
    assert kernel.ok("6 * 7").value == "42"
    request = kernel.send("complete_request", {"code": "imp", "cursor_pos": 3})
    assert "import" in kernel.reply(request)["content"]["matches"]
    gate.open()
    assert kernel.finish(beside).content["status"] == "ok"


def test_subshells_run_beside_each_other(kernel, gate, subshell):
    another = create_subshell(kernel)
    first = kernel.start(f"print('blocked')\n{gate.wait};", subshell_id=subshell)
    kernel.stream(first, "blocked")
    assert kernel.ok("6 * 7", subshell_id=another).value == "42"
    gate.open()
    kernel.finish(first)
    assert delete_subshell(kernel, another)["status"] == "ok"


def test_subshell_asks_for_input_beside_a_prompt_of_the_main_shell(kernel, subshell):
    main = kernel.start("input('main?')")
    at_main = kernel.prompt(main)
    beside = kernel.start("input('subshell?')", subshell_id=subshell)
    at_subshell = kernel.prompt(beside)
    assert at_main["content"]["prompt"] == "main?"
    assert at_subshell["content"]["prompt"] == "subshell?"
    kernel.answer(at_main, "for main")
    kernel.answer(at_subshell, "for subshell")
    assert kernel.finish(main).value == "'for main'"
    assert kernel.finish(beside).value == "'for subshell'"


@EVERY_REQUEST
def test_request_to_a_subshell_is_answered(kernel, blocked, subshell, msg_type):
    running = blocked.begin()
    request, expected = REQUESTS[msg_type]
    reply = kernel.reply(kernel.send(msg_type, request, subshell_id=subshell))
    assert expected(reply["content"]), reply["content"]
    running.end()


def test_deleting_an_unknown_subshell_is_an_error(kernel):
    assert delete_subshell(kernel, "no such")["status"] == "error"
    assert list_subshells(kernel) == []


# -- requests nobody understands -----------------------------------------------------------------


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("msg_type", ["made_up_request", "made_up", "execute_reply", ""])
def test_unknown_message_type_leaves_the_kernel_alive(kernel, channel, msg_type):
    kernel.send(msg_type, {}, channel=channel)
    assert content(kernel, "kernel_info_request", {}, channel=channel)["status"] == "ok"
    assert kernel.ok("6 * 7").value == "42"


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"no delimiter"],
        [b"<IDS|MSG>"],
        [b"<IDS|MSG>", b"signature", b"not json", b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"signature", b"{}", b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"wrong", b'{"msg_type": "execute_request"}', b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"wrong", b'{"msg_type": ["a", "list"]}', b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"wrong", b"[]", b"{}", b"{}", b"{}"],
    ],
    ids=[
        "empty",
        "no delimiter",
        "delimiter only",
        "no JSON",
        "no type",
        "wrong signature",
        "type not text",
        "header not an object",
    ],
)
def test_garbage_leaves_the_kernel_alive(kernel, channel, frames):
    getattr(kernel.client, f"{channel}_channel").socket.send_multipart(frames)
    assert content(kernel, "kernel_info_request", {})["status"] == "ok"
    assert content(kernel, "kernel_info_request", {}, channel="control")["status"] == "ok"
    assert kernel.ok("6 * 7").value == "42"


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize(
    "msg_type",
    [
        "execute_request",
        "complete_request",
        "inspect_request",
        "is_complete_request",
        "history_request",
    ],
)
def test_request_without_its_fields_gets_an_error_reply(kernel, channel, msg_type):
    reply = content(kernel, msg_type, {}, channel=channel)
    assert reply["status"] == "error"
    assert reply["ename"]
    assert kernel.ok("6 * 7").value == "42"


def test_execute_request_with_impossible_fields_gets_an_error_reply(kernel):
    reply = content(kernel, "execute_request", {"code": 1, "silent": False})
    assert reply["status"] == "error"
    assert kernel.ok("6 * 7").value == "42"


def test_debug_request_without_a_command_gets_a_reply(own_kernel):
    assert content(own_kernel, "debug_request", {}, channel="control")["status"] == "error"
    own_kernel.ok("1 + 1")


# -- the end -------------------------------------------------------------------------------------


def exit_code(manager: KernelManager) -> int:
    """Wait for the end of the process."""
    return manager.provisioner.process.wait(PATIENCE)


@pytest.mark.parametrize("channel", ["control", "shell"])
def test_shutdown_ends_the_process_with_code_0(own_kernel, channel):
    request = own_kernel.send("shutdown_request", {"restart": False}, channel=channel)
    reply = own_kernel.reply(request, channel=channel)
    assert reply["content"] == {"status": "ok", "restart": False}
    message = own_kernel.wait("iopub", lambda m: m["msg_type"] == "shutdown_reply")
    assert message["content"]["restart"] is False
    assert exit_code(own_kernel.manager) == 0


def test_shutdown_for_a_restart_says_so(own_kernel):
    request = own_kernel.send("shutdown_request", {"restart": True}, channel="control")
    reply = own_kernel.reply(request, channel="control")
    assert reply["content"] == {"status": "ok", "restart": True}
    assert exit_code(own_kernel.manager) == 0


@pytest.mark.parametrize("code", ["import atexit\natexit.register(os.write, told, b'over')"])
def test_shutdown_runs_exit_handlers(own_kernel, tmp_path, code):
    told = tmp_path / "told"
    own_kernel.ok(f"import os\ntold = os.open({str(told)!r}, os.O_CREAT | os.O_WRONLY)\n{code}")
    own_kernel.send("shutdown_request", {"restart": False}, channel="control")
    assert exit_code(own_kernel.manager) == 0
    assert told.read_bytes() == b"over"


def test_shutdown_with_threads_and_tasks_of_the_user_ends_the_process(own_kernel):
    own_kernel.ok(
        "import asyncio, threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "task = asyncio.create_task(asyncio.sleep(1000))"
    )
    create_subshell(own_kernel)
    own_kernel.send("shutdown_request", {"restart": False}, channel="control")
    assert exit_code(own_kernel.manager) == 0


@pytest.mark.parametrize("wait", ["await asyncio.sleep(1000)", "time.sleep(1000)", "input()"])
def test_shutdown_and_interrupt_end_a_kernel_that_runs_a_cell(own_kernel, wait):
    """A manager that shuts a busy kernel down interrupts it first."""
    cell = own_kernel.start(f"import asyncio, time\nprint('running')\n{wait}")
    own_kernel.stream(cell, "running")
    if "input" in wait:
        own_kernel.prompt(cell)
    own_kernel.interrupt("message")
    own_kernel.send("shutdown_request", {"restart": False}, channel="control")
    assert exit_code(own_kernel.manager) == 0


@pytest.mark.parametrize("code", ["exit()", "quit()", "exit"])
def test_exit_in_a_cell_ends_the_process(own_kernel, code):
    reply = own_kernel.reply(own_kernel.start(code))
    assert {"source": "ask_exit", "keepkernel": False} in reply["content"]["payload"]
    assert exit_code(own_kernel.manager) == 0


def test_sys_exit_in_a_cell_does_not_end_the_process(kernel):
    result = kernel.run("import sys\nsys.exit()")
    assert result.content["status"] in ("ok", "error")
    assert kernel.ok("6 * 7").value == "42"


@contextlib.contextmanager
def kernel_that_may_not_be_ready() -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """Start a kernel and connect to it without waiting for anything."""
    manager = KernelManager(kernel_name="savepoint")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels(hb=False)
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_shutdown_sent_before_the_kernel_is_up_ends_the_process():
    with kernel_that_may_not_be_ready() as (manager, client):
        request = client.session.msg("shutdown_request", {"restart": False})
        client.control_channel.send(request)
        reply = client.get_control_msg(timeout=PATIENCE)
        assert reply["content"]["status"] == "ok"
        assert exit_code(manager) == 0


def test_cell_sent_before_the_kernel_is_up_runs():
    with kernel_that_may_not_be_ready() as (_, client):
        client.execute("1 + 1")
        reply = client.get_shell_msg(timeout=PATIENCE)
        assert reply["content"]["status"] == "ok"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


@contextlib.contextmanager
def kernel_without_a_manager(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, Path, Kernel]]:
    """Start a kernel that makes its own connection file."""
    file = tmp_path / "connection.json"
    environ = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    process = subprocess.Popen(
        [sys.executable, "-Xfrozen_modules=off", "-m", "savepoint_kernel", "-f", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
    )
    with process:
        try:
            for line in process.stdout:
                if str(file) in line:  # "To connect another client to this kernel, use: ..."
                    break
            client = BlockingKernelClient(connection_file=str(file))
            client.load_connection_file()
            client.start_channels(hb=False)
            client.wait_for_ready(timeout=PATIENCE)
            yield process, file, Kernel(KernelManager(), client)
            client.stop_channels()
        finally:
            process.kill()


def test_kernel_removes_its_connection_file_and_frees_its_ports(tmp_path):
    with kernel_without_a_manager(tmp_path) as (process, file, kernel):
        connection = json.loads(file.read_text())
        ports = [value for name, value in connection.items() if name.endswith("_port")]
        assert len(ports) == 5
        assert all(listens(port) for port in ports)
        kernel.send("shutdown_request", {"restart": False}, channel="control")
        assert process.wait(PATIENCE) == 0
        assert not file.exists()
        assert not any(listens(port) for port in ports)


@pytest.mark.parametrize("name", ["shell", "iopub", "stdin", "control"])
def test_kernel_whose_port_is_taken_ends_and_says_so(tmp_path, name):
    file = str(tmp_path / "connection.json")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        write_connection_file(file, key=b"key", **{f"{name}_port": port})
        ended = subprocess.run(
            [sys.executable, "-m", "savepoint_kernel", "-f", file],
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
    assert ended.returncode == 1
    assert f"Address already in use (addr='tcp://127.0.0.1:{port}')" in ended.stderr


def test_kernel_in_a_terminal_survives_ctrl_c_and_ends_on_sigterm(tmp_path):
    with kernel_without_a_manager(tmp_path) as (process, _, kernel):
        process.send_signal(signal.SIGINT)
        assert kernel.ok("6 * 7").value == "42"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM
