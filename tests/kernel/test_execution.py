"""Cells: order, replies, cost, time limits, and requests that are not what they should be."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
from typing import Any

import pytest
from jupyter_client.session import Session

from savepoint_kernel import __version__

from .harness import PATIENCE, Message, Result, parent_id, start_kernel

MB = 1 << 20

ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

OUTPUT_TYPES = ("stream", "display_data", "update_display_data", "execute_result", "error")


def limit(seconds: Any) -> Message:
    """Metadata of a request with a time limit."""
    return {"savepoint": {"timeout": seconds}}


def assert_timed_out(result: Result) -> None:
    assert result.content["status"] == "error"
    assert result.content["ename"] == "ExecutionTimeout"
    assert result.savepoint["failure_kind"] == "timeout"
    (error,) = result.of("error")
    assert error["content"]["ename"] == "ExecutionTimeout"
    assert "limit" in error["content"]["evalue"]


# -- what a cell cost ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["print('x')", "print('x'); 1/0", "await asyncio.sleep(0)", "this is no Python"]
)
def test_reply_says_what_the_cell_cost(kernel, code):
    kernel.ok("import asyncio")
    stats = kernel.run(code).savepoint["stats"]
    assert set(stats) == {"wall_ms", "cpu_ms", "peak_rss_bytes", "output_bytes", "dropped_bytes"}
    assert 0 < stats["wall_ms"] < PATIENCE * 1e3
    assert 0 < stats["cpu_ms"] < PATIENCE * 1e3
    assert 10 * MB < stats["peak_rss_bytes"] < 100_000 * MB
    assert stats["dropped_bytes"] == 0


@pytest.mark.parametrize("end", ["", "\n1/0"], ids=["ok", "error"])
def test_wall_time_includes_waiting_for_the_user(kernel, end):
    cell = kernel.start(f"_ = input(){end}")
    prompt = kernel.prompt(cell)
    asked = time.perf_counter()
    for _ in range(20):
        kernel.reply(kernel.send("kernel_info_request", channel="control"), channel="control")
    waited = time.perf_counter() - asked
    kernel.answer(prompt, "")
    stats = kernel.finish(cell).savepoint["stats"]
    assert stats["wall_ms"] >= waited * 1e3


def test_cpu_time_counts_threads_and_children_and_not_sleep(kernel):
    kernel.ok(
        "import subprocess, sys, threading, time\n"
        "burn = 'import time\\nwhile time.process_time() < 0.1: pass'\n"
        "def burn_here():\n"
        "    end = time.thread_time() + 0.1\n"
        "    while time.thread_time() < end: pass"
    )
    for code in (
        "burn_here()",
        "thread = threading.Thread(target=burn_here); thread.start(); thread.join()",
        "subprocess.run([sys.executable, '-S', '-c', burn], check=True);",
    ):
        # Time of ended children comes in ticks of 10 ms.
        assert kernel.ok(code).savepoint["stats"]["cpu_ms"] >= 80
    stats = kernel.ok("time.sleep(0.2)").savepoint["stats"]
    assert stats["wall_ms"] >= 200
    assert stats["cpu_ms"] < stats["wall_ms"]


@pytest.mark.parametrize("end", ["", "\n1/0"], ids=["ok", "error"])
def test_peak_memory_is_that_of_the_cell(kernel, end):
    before = kernel.ok("1 + 1").savepoint["stats"]["peak_rss_bytes"]
    big = kernel.run(f"block = b'x' * {200 * MB}\ndel block{end}").savepoint["stats"]
    after = kernel.ok("1 + 1").savepoint["stats"]["peak_rss_bytes"]
    assert big["peak_rss_bytes"] >= before + 190 * MB
    if sys.platform == "linux":  # elsewhere it is the peak since the start of the process
        assert after <= big["peak_rss_bytes"] - 190 * MB


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "print('x' * 1000)",
        "import sys; print('x' * 1000, file=sys.stderr)",
        "'x' * 1000",
        "print('äöü🙂' * 100)",
        "from IPython.display import HTML, display; display(HTML('<b>' * 1000))",
        "print('x' * 1000); 1/0",
        "import os; os.write(1, b'x' * 1000);",
        "for i in range(3000): print(i)",
    ],
)
def test_output_bytes_are_those_published(kernel, code):
    result = kernel.run(code)
    published = sum(
        len(kernel.client.session.pack(m["content"])) for m in result.of_types(OUTPUT_TYPES)
    )
    assert result.savepoint["stats"]["output_bytes"] == published


def test_output_of_another_cell_is_not_counted(kernel):
    kernel.ok("print('x' * 10000)")
    assert kernel.ok("pass").savepoint["stats"]["output_bytes"] == 0


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("1 + 1", "none"),
        ("1 / 0", "exception"),
        ("await missing", "exception"),
        ("def", "exception"),
        ("raise SystemExit", "exception"),
        ("%%nosuchmagic", "exception"),
        ("raise KeyboardInterrupt", "interrupt"),
    ],
)
def test_failure_kind(kernel, code, kind):
    result = kernel.run(code)
    assert result.savepoint["failure_kind"] == kind
    assert result.content["status"] == ("ok" if kind == "none" else "error")


# -- time limits ---------------------------------------------------------------------------------

TOO_LONG = {
    "sleep": "import time\ntime.sleep(100)",
    "busy loop": "while True: pass",
    "await": "import asyncio\nawait asyncio.sleep(100)",
    "sleep in an async cell": "import asyncio, time\nawait asyncio.sleep(0)\ntime.sleep(100)",
    "child task": (
        "import asyncio, time\nasync def child(): time.sleep(100)\n"
        "await asyncio.create_task(child())"
    ),
    "input": "input()",
    "subprocess": (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(100)'])"
    ),
    "shell": "!sleep 100",
    "output": "while True: print('flood')",
}


@pytest.mark.parametrize("code", TOO_LONG.values(), ids=TOO_LONG)
def test_time_limit_of_the_request_ends_the_cell(kernel, code):
    result = kernel.run(code, metadata=limit(0.2))
    assert_timed_out(result)
    assert result.savepoint["stats"]["wall_ms"] >= 200
    assert kernel.ok("6 * 7").value == "42"


@pytest.mark.parametrize("code", [TOO_LONG["sleep"], TOO_LONG["await"]], ids=["sync", "async"])
def test_timed_out_cell_cleans_up(kernel, code):
    lines = code.split("\n")
    wrapped = f"{lines[0]}\ntry:\n    {lines[1]}\nfinally:\n    print('cleaned up')"
    result = kernel.run(wrapped, metadata=limit(0.1))
    assert_timed_out(result)
    assert result.text() == "cleaned up\n"


def test_timed_out_cell_shows_the_line_it_was_at(kernel):
    result = kernel.run("import time\ntime.sleep(100)  # here", metadata=limit(0.1))
    assert_timed_out(result)
    assert "# here" in ANSI_COLOUR.sub("", "\n".join(result.content["traceback"]))


def test_time_limit_that_is_not_reached_changes_nothing(kernel):
    result = kernel.ok("6 * 7", metadata=limit(1000))
    assert result.value == "42"
    assert result.savepoint["failure_kind"] == "none"


def test_error_before_the_time_limit_stays_that_error(kernel):
    result = kernel.run("1 / 0", metadata=limit(1000))
    assert result.content["ename"] == "ZeroDivisionError"
    assert result.savepoint["failure_kind"] == "exception"


def test_interrupt_before_the_time_limit_stays_an_interrupt(kernel):
    cell = kernel.start("print('started')\nwhile True: pass", metadata=limit(1000))
    kernel.stream(cell, "started")
    kernel.interrupt()
    result = kernel.finish(cell)
    assert result.content["ename"] == "KeyboardInterrupt"
    assert result.savepoint["failure_kind"] == "interrupt"


@pytest.mark.parametrize("seconds", [1000, 1.5, 1e300, 10**400, None], ids=str)
def test_number_of_seconds_is_accepted(kernel, seconds):
    assert kernel.ok("6 * 7", metadata=limit(seconds)).value == "42"


@pytest.mark.parametrize("ours", [None, {}], ids=str)
def test_metadata_without_a_limit_is_accepted(kernel, ours):
    assert kernel.ok("6 * 7", metadata={"savepoint": ours}).value == "42"


@pytest.mark.parametrize(
    "ours",
    [
        *({"timeout": seconds} for seconds in (0, -1, -0.5, "5", "", True, False, [1], {})),
        5,
        "timeout",
        [],
    ],
    ids=lambda ours: str(ours)[:30],
)
def test_invalid_time_limit_is_refused_and_the_cell_not_run(kernel, ours):
    kernel.ok("ran = False")
    result = kernel.run("ran = True", metadata={"savepoint": ours})
    assert result.content["status"] == "error"
    assert result.content["ename"] == "InvalidRequest"
    assert result.savepoint["failure_kind"] == "exception"
    (error,) = result.of("error")
    assert error["content"]["ename"] == "InvalidRequest"
    assert kernel.eval("ran") == "False"


def test_time_limit_by_config_applies_to_later_cells(own_kernel):
    own_kernel.ok("%config SavepointKernel.cell_timeout = 0.2")
    assert_timed_out(own_kernel.run("import time\ntime.sleep(100)"))
    # The request's own limit goes before it.
    assert own_kernel.ok("time.sleep(0.4)\n'slept'", metadata=limit(1000)).value == "'slept'"
    own_kernel.ok("%config SavepointKernel.cell_timeout = 0")
    assert own_kernel.ok("time.sleep(0.4)\n'slept'").value == "'slept'"


def test_time_limit_by_command_line():
    with start_kernel("--SavepointKernel.cell_timeout=0.5") as kernel:
        assert kernel.ok("get_ipython().kernel.cell_timeout").value == "0.5"
        assert_timed_out(kernel.run("import time\ntime.sleep(100)"))
        assert kernel.ok("6 * 7").value == "42"


def test_negative_time_limit_by_config_is_refused(kernel):
    kernel.run("%config SavepointKernel.cell_timeout = -1")
    assert kernel.ok("get_ipython().kernel.cell_timeout").value == "0.0"


@pytest.mark.parametrize("how", ["sync", "async"])
def test_cell_that_ignores_its_interrupt_is_reported(own_kernel, how):
    own_kernel.ok("%config SavepointKernel.timeout_grace = 0.05\nimport asyncio, time")
    wait, error = {
        "sync": ("time.sleep(100)", "KeyboardInterrupt"),
        "async": ("await asyncio.sleep(100)", "asyncio.CancelledError"),
    }[how]
    cell = own_kernel.start(
        f"try:\n    {wait}\nexcept {error}:\n    print('I go on')\n_ = input('still here')",
        metadata=limit(0.1),
    )
    prompt = own_kernel.prompt(cell)
    notice = own_kernel.stream(cell, "ignores the interrupt")
    assert notice["content"]["name"] == "stderr"
    assert "0.1 s" in notice["content"]["text"]
    own_kernel.answer(prompt, "")
    result = own_kernel.finish(cell)
    assert result.text() == "I go on\n"
    assert_timed_out(result)
    assert own_kernel.ok("6 * 7").value == "42"


def test_cell_that_obeys_within_the_grace_is_not_reported(own_kernel):
    own_kernel.ok("%config SavepointKernel.timeout_grace = 1\nimport time")
    own_kernel.run("1 / 0")  # loads what formats tracebacks
    result = own_kernel.run("time.sleep(100)", metadata=limit(0.05))
    assert_timed_out(result)
    assert own_kernel.ok("time.sleep(1.2)").text("stderr") == ""
    assert result.text("stderr") == ""


def test_time_limit_of_an_earlier_cell_never_hits_a_later_one(kernel):
    """The limit expires just about when its cell ends."""
    kernel.ok("import time")
    timed_out = 0
    for number in range(40):
        first = kernel.start(
            "time.sleep(0.02)", metadata=limit(0.0195 + number * 5e-5), stop_on_error=False
        )
        second = kernel.start("time.sleep(0.01)\n'slept'")
        result = kernel.finish(first)
        if result.content["status"] == "error":
            assert_timed_out(result)
            timed_out += 1
        assert kernel.finish(second).value == "'slept'"
    assert timed_out > 0, "no limit expired: the race is not being tested"


# -- order and abortion --------------------------------------------------------------------------


def test_queued_cells_run_and_are_answered_in_order(kernel):
    kernel.ok("ran = []")
    cells = []
    for number in range(50):
        pause = "await __import__('asyncio').sleep(0)\n" if number % 3 == 0 else ""
        cells.append(kernel.start(f"{pause}ran.append({number})"))
        kernel.send("complete_request", {"code": "ran.app", "cursor_pos": 7})
    answered = [parent_id(kernel.wait("shell", lambda m: parent_id(m) in cells)) for _ in range(50)]
    assert answered == cells
    assert kernel.eval("ran == list(range(50))") == "True"
    for cell in cells:
        kernel.idle(cell)


def test_status_is_busy_then_idle_around_all_output(kernel):
    result = kernel.run("print('x')\n1/0")
    kinds = [
        m["content"]["execution_state"] if m["msg_type"] == "status" else m["msg_type"]
        for m in result.iopub
    ]
    # The final idle is what the harness waited for. A print may come in two parts, and "busy" is
    # said again when another request, such as an earlier client's kernel_info, ends meanwhile.
    assert kinds[0] == "busy"
    others = [kind for kind in kinds if kind != "busy"]
    assert [kind for kind, _ in itertools.groupby(others)] == ["execute_input", "stream", "error"]


def test_error_aborts_queued_cells(kernel):
    kernel.ok("ran = []")
    cell = kernel.start("_ = input()\n1/0")
    queued = [kernel.start(f"ran.append({number})") for number in range(3)]
    kernel.answer(kernel.prompt(cell), "")
    assert kernel.finish(cell).content["ename"] == "ZeroDivisionError"
    for other in queued:
        result = kernel.finish(other)
        assert result.content["status"] == "aborted"
        assert result.of("execute_input") == []
    assert kernel.ok("ran").value == "[]"


def test_error_without_stop_on_error_aborts_nothing(kernel):
    kernel.ok("ran = []")
    cell = kernel.start("_ = input()\n1/0", stop_on_error=False)
    queued = [kernel.start(f"ran.append({number})") for number in range(3)]
    kernel.answer(kernel.prompt(cell), "")
    kernel.finish(cell)
    assert [kernel.finish(other).content["status"] for other in queued] == ["ok"] * 3
    assert kernel.ok("ran").value == "[0, 1, 2]"


def test_time_limit_aborts_queued_cells(kernel):
    kernel.ok("ran = []")
    cell = kernel.start("import time\ntime.sleep(100)", metadata=limit(0.1))
    queued = kernel.start("ran.append(1)")
    assert_timed_out(kernel.finish(cell))
    assert kernel.finish(queued).content["status"] == "aborted"
    assert kernel.ok("ran").value == "[]"


def test_abortion_leaves_other_requests_alone(kernel):
    cell = kernel.start("_ = input()\n1/0")
    queued = kernel.start("1 + 1")
    kernel.answer(kernel.prompt(cell), "")
    info = kernel.send("kernel_info_request")
    assert kernel.reply(info)["content"]["status"] == "ok"
    kernel.finish(cell)
    assert kernel.finish(queued).content["status"] == "aborted"


# -- fields of the request -----------------------------------------------------------------------


def test_execution_count_grows_by_one_per_stored_cell(kernel):
    first = kernel.ok("1 + 1")
    failed = kernel.run("1 / 0")
    third = kernel.ok("2 + 2")
    count = first.content["execution_count"]
    assert failed.content["execution_count"] == count + 1
    assert third.content["execution_count"] == count + 2
    for result in (first, third):
        (shown,) = result.of("execute_input")
        assert shown["content"]["execution_count"] == result.content["execution_count"]
        (value,) = result.of("execute_result")
        assert value["content"]["execution_count"] == result.content["execution_count"]


def test_silent_cell_leaves_no_trace(kernel):
    before = kernel.ok("1 + 1").content["execution_count"]
    silent = kernel.ok("mark = 1\nmark", silent=True, store_history=False)
    assert [m["msg_type"] for m in silent.iopub] == ["status"]
    assert kernel.ok("mark").content["execution_count"] == before + 1
    assert kernel.eval("'mark = 1' in In[-1] or 'mark = 1' in In[-2]") == "False"


def test_silent_error_aborts_nothing(kernel):
    cell = kernel.start("_ = input()\n1/0", silent=True)
    queued = kernel.start("6 * 7")
    kernel.answer(kernel.prompt(cell), "")
    assert kernel.finish(cell).content["status"] == "error"
    assert kernel.finish(queued).value == "42"


def test_cell_not_stored_in_history_shows_its_result(kernel):
    before = kernel.ok("1 + 1").content["execution_count"]
    assert kernel.ok("6 * 7", store_history=False).value == "42"
    assert kernel.ok("2 + 2").content["execution_count"] == before + 1
    assert kernel.ok("In[-2]").value == "'2 + 2'"


def test_user_expressions_are_evaluated_one_by_one(kernel):
    result = kernel.ok("a = 6", user_expressions={"good": "a * 7", "bad": "a / 0"})
    expressions = result.content["user_expressions"]
    assert expressions["good"]["data"]["text/plain"] == "42"
    assert expressions["bad"]["ename"] == "ZeroDivisionError"


def test_user_expressions_of_a_failed_cell_are_not_evaluated(kernel):
    result = kernel.run("1 / 0", user_expressions={"a": "6 * 7"})
    assert result.content["user_expressions"] == {}


def test_pager_is_a_payload(kernel):
    (payload,) = kernel.ok("print?").content["payload"]
    assert payload["source"] == "page"
    assert "Prints the values" in payload["data"]["text/plain"]
    assert kernel.ok("1").content["payload"] == []


def test_next_input_is_a_payload(kernel):
    (payload,) = kernel.ok("get_ipython().set_next_input('x = 1')").content["payload"]
    assert payload == {"source": "set_next_input", "text": "x = 1", "replace": False}


# -- what code may do ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("def", "SyntaxError"),
        ("  a = 1\n b = 2", "IndentationError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("await missing()", "NameError"),
        ("import asyncio\nawait asyncio.sleep(0)\nraise SystemExit(3)", "SystemExit"),
        ("chr(0xD800).encode()", "UnicodeEncodeError"),
        ("raise LookupError(chr(0xD800))", "LookupError"),
        ("%nosuchmagic", "UsageError"),
    ],
)
def test_error_is_reported_and_the_kernel_lives(kernel, code, name):
    result = kernel.run(code)
    assert result.content["status"] == "error"
    assert result.content["ename"] == name
    assert kernel.ok("6 * 7").value == "42"


@pytest.mark.parametrize("name", ["__repr__", "_repr_html_"])
def test_error_while_a_result_is_shown_is_reported(kernel, name):
    result = kernel.run(
        f"class Broken:\n    def {name}(self):\n        raise LookupError('no repr')\nBroken()"
    )
    assert [m["content"]["ename"] for m in result.of("error")] == ["LookupError"]
    assert kernel.ok("6 * 7").value == "42"
    if result.content["status"] == "error":
        assert result.content["ename"] == "LookupError"


def test_namespace_is_kept_after_an_error(kernel):
    kernel.run("a = 1\n1 / 0\na = 2")
    assert kernel.ok("a").value == "1"


@pytest.mark.parametrize("setter", ["variable.set(1)", "await asyncio.sleep(0)\nvariable.set(1)"])
@pytest.mark.parametrize("getter", ["variable.get()", "await asyncio.sleep(0)\nvariable.get()"])
def test_context_variable_set_in_a_cell_is_there_in_the_next(kernel, setter, getter):
    kernel.ok("import asyncio, contextvars\nvariable = contextvars.ContextVar('v', default=0)")
    kernel.ok(f"{setter};")
    assert kernel.ok(getter).value == "1"


def test_top_level_await(kernel):
    assert kernel.ok("import asyncio\nawait asyncio.sleep(0, 'slept')").value == "'slept'"


def test_background_task_lives_between_cells(kernel):
    cell = kernel.start(
        "import asyncio\ngo = asyncio.Event()\n"
        "async def background():\n"
        "    await go.wait()\n"
        "    await asyncio.sleep(0.02)\n"
        "    print('done in the background')\n"
        "    return 42\n"
        "task = asyncio.create_task(background())"
    )
    assert kernel.finish(cell).content["status"] == "ok"
    kernel.ok("go.set()")
    kernel.stream(cell, "done in the background")  # no cell runs
    assert kernel.ok("await task").value == "42"


def test_task_created_by_a_sync_cell_runs(kernel):
    cell = kernel.start(
        "import asyncio\nasync def hello():\n    print('hello from a task')\n"
        "task = asyncio.get_event_loop().create_task(hello())"
    )
    kernel.stream(cell, "hello from a task")
    assert kernel.reply(cell)["content"]["status"] == "ok"
    kernel.idle(cell)


def test_line_and_cell_magics(kernel):
    assert "Wall time" in kernel.ok("%%time\na = 1").text()
    assert kernel.ok("a").value == "1"
    assert kernel.ok("%timeit -n1 -r1 pass").text().count("per loop") == 1


def test_shell_command(kernel):
    assert kernel.ok("!echo from the shell").text().split("\n")[0].rstrip() == "from the shell"
    assert kernel.ok("out = !echo captured\nout[0]").value == "'captured'"


def test_shell_command_is_shown_in_its_cell_in_order(kernel):
    result = kernel.ok("print('before')\n!echo during\nprint('after')")
    assert result.text().split() == ["before", "during", "after"]


def test_matplotlib_inline_figure(kernel):
    kernel.ok("%matplotlib inline\nimport matplotlib.pyplot as plt")
    (figure,) = kernel.ok("plt.plot([1, 2, 3]);").of("display_data")
    assert figure["content"]["data"]["image/png"].startswith("iVBOR")
    assert kernel.ok("1 + 1").of("display_data") == []


def test_display_can_be_updated(kernel):
    result = kernel.ok(
        "from IPython.display import display\n"
        "handle = display('first', display_id=True)\nhandle.update('second')"
    )
    (shown,), (updated,) = result.of("display_data"), result.of("update_display_data")
    assert updated["content"]["data"]["text/plain"] == "'second'"
    assert updated["content"]["transient"] == shown["content"]["transient"]


def test_exit_ends_the_kernel(own_kernel):
    process = own_kernel.manager.provisioner.process
    cell = own_kernel.start("exit")
    (payload,) = own_kernel.reply(cell)["content"]["payload"]
    assert payload["source"] == "ask_exit"
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_shutdown_request_ends_the_kernel(own_kernel, channel):
    process = own_kernel.manager.provisioner.process
    request = own_kernel.send("shutdown_request", {"restart": False}, channel=channel)
    content = own_kernel.reply(request, channel=channel)["content"]
    assert content == {"status": "ok", "restart": False}
    assert process.wait(PATIENCE) == 0


def test_shutdown_while_a_cell_runs_ends_the_kernel(own_kernel):
    cell = own_kernel.start("print('started')\nwhile True: pass")
    own_kernel.stream(cell, "started")
    process = own_kernel.manager.provisioner.process
    own_kernel.manager.request_shutdown()
    own_kernel.manager.interrupt_kernel()
    process.wait(PATIENCE)


# -- large and malformed requests ----------------------------------------------------------------


def test_large_result(kernel):
    result = kernel.ok("'x' * 5_000_000")
    assert len(result.value) == 5_000_002
    assert result.savepoint["stats"]["output_bytes"] > 5_000_000


def test_large_cell(kernel):
    assert kernel.ok(f"len('{'x' * 5_000_000}')").value == "5000000"


@pytest.mark.parametrize(
    ("msg_type", "content"),
    [
        ("execute_request", {"code": None}),
        ("execute_request", {"code": 5}),
        ("execute_request", {"code": "1", "user_expressions": 5}),
        ("complete_request", {}),
        ("inspect_request", {"code": 5, "cursor_pos": "x"}),
        ("is_complete_request", {}),
        ("history_request", {"hist_access_type": "range"}),
        ("history_request", {"unknown": 1}),
    ],
)
def test_malformed_request_gets_an_error_and_the_kernel_lives(kernel, msg_type, content):
    request = kernel.send(msg_type, content)
    reply = kernel.reply(request)
    assert reply["msg_type"] == msg_type.replace("_request", "_reply")
    assert reply["content"]["status"] == "error"
    kernel.idle(request)
    assert kernel.ok("6 * 7").value == "42"


@pytest.mark.parametrize("msg_type", ["execute_request", "no_such_request"])
def test_request_that_cannot_be_served_ends_with_idle(kernel, msg_type):
    kernel.idle(kernel.send(msg_type, {}))
    assert kernel.ok("6 * 7").value == "42"


def test_request_signed_with_another_key_is_ignored(kernel):
    kernel.ok("touched = False")
    stranger = Session(key=b"another key")
    stranger.send(kernel.client.shell_channel.socket, "execute_request", {"code": "touched = True"})
    assert kernel.eval("touched") == "False"


def test_request_that_is_sent_again_is_ignored(kernel):
    """A recorded message cannot be replayed."""
    kernel.ok("count = 0")
    session, socket = kernel.client.session, kernel.client.shell_channel.socket
    message = session.msg("execute_request", {"code": "count += 1"})
    frames = session.serialize(message)
    socket.send_multipart(frames)
    socket.send_multipart(frames)
    assert kernel.reply(message["header"]["msg_id"])["content"]["status"] == "ok"
    assert kernel.eval("count") == "1"


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"nonsense"],
        [b"<IDS|MSG>"],
        [b"<IDS|MSG>", b"signature", b"{}", b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"signature", b"not json", b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"", b'{"msg_type": "execute_request"}', b"{}", b"{}", b'{"code": "1"}'],
        [b"<IDS|MSG>", b"", b'{"msg_type": []}', b"{}", b"{}", b"{}"],
    ],
    ids=lambda frames: b" ".join(frames).decode()[:40],
)
@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
def test_frames_that_are_no_message_are_ignored(kernel, channel, frames):
    getattr(kernel.client, f"{channel}_channel").socket.send_multipart(frames)
    assert kernel.ok("6 * 7").value == "42"
    kernel.reply(kernel.send("kernel_info_request", channel="control"), channel="control")
    cell = kernel.start("input()")
    kernel.answer(kernel.prompt(cell), "asked")
    assert kernel.finish(cell).value == "'asked'"


# -- what the kernel says about itself -----------------------------------------------------------


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_kernel_info(kernel, channel):
    info = kernel.reply(kernel.send("kernel_info_request", channel=channel), channel=channel)
    content = info["content"]
    assert content["implementation"] == "savepoint"
    assert content["implementation_version"] == __version__
    assert {"kernel subshells", "savepoint"} <= set(content["supported_features"])
    assert len(content["supported_features"]) == len(set(content["supported_features"]))
    assert content["language_info"]["name"] == "python"
    assert content["protocol_version"].startswith("5.")


def test_config_lists_the_options_with_their_help(kernel):
    text = kernel.ok("%config SavepointKernel").text()
    for option in (
        "cell_timeout",
        "timeout_grace",
        "comm_grace",
        "warm_completer",
        "warm_completer_after",
    ):
        _, _, rest = text.partition(f"SavepointKernel.{option}=")
        assert rest, option
        lines = rest.splitlines()
        assert lines[1].startswith("    "), option
        assert len(lines[1].split()) >= 5, option


def test_command_line_help_lists_the_options():
    shown = subprocess.run(
        [sys.executable, "-m", "savepoint_kernel", "--help-all"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--SavepointKernel.cell_timeout=<Float>" in shown
    assert "--SavepointKernelApp.output_interval=<Float>" in shown


def test_kernels_do_not_share_anything(own_kernel, kernel):
    kernel.ok("a = 1")
    assert own_kernel.run("a").content["ename"] == "NameError"


def test_kernel_starts_in_its_directory(tmp_path):
    (tmp_path / "logging.py").write_text("raise RuntimeError('shadowed')")
    (tmp_path / "mine.py").write_text("value = 42")
    with start_kernel(cwd=tmp_path) as kernel:
        kernel.ok("import os, mine")
        assert kernel.eval("os.getcwd()") == repr(str(tmp_path))
        assert kernel.eval("mine.value") == "42"
