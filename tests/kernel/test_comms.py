"""Comm messages: handled also while a cell runs, in order, one at a time, on the right thread."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from .harness import Gate, Kernel, Message, parent_id

SETUP = """
import asyncio, os, threading, time

got = []       # what the handler was given
threads = []   # the names of the threads it ran on
comms = []

def handle(msg):
    got.append(msg['content']['data'])
    threads.append(threading.current_thread().name)

def opened(comm, msg):
    comms.append(comm)
    comm.on_msg(lambda msg: handle(msg))  # looked up when called: cells may replace it

get_ipython().kernel.comm_manager.register_target('target', opened)
"""

COMM = "test-comm"

# What occupies the main thread while a comm message comes. Each prints "running" and ends when
# {gate} opens; the awaiting ones leave the event loop free.
BLOCKED = {
    "blocked": "print('running')\n{gate};",
    "blocked in an async cell": "await asyncio.sleep(0)\nprint('running')\n{gate};",
    "at a prompt": "print('running')\ninput();",
}
AWAITING = {
    "awaiting": "print('running')\nawait asyncio.to_thread(lambda: {gate});",
}
EVERY_CELL = pytest.mark.parametrize(
    "cell", [*BLOCKED.values(), *AWAITING.values()], ids=[*BLOCKED, *AWAITING]
)
BLOCKED_CELL = pytest.mark.parametrize("cell", BLOCKED.values(), ids=BLOCKED)


def send(kernel: Kernel, data: Any, comm_id: str = COMM, **options: Any) -> str:
    return kernel.send("comm_msg", {"comm_id": comm_id, "data": data}, **options)


def open_comm(kernel: Kernel, comm_id: str = COMM, **options: Any) -> str:
    content = {"comm_id": comm_id, "target_name": "target", "data": {}}
    return kernel.send("comm_open", content, **options)


def close_comm(kernel: Kernel, comm_id: str = COMM) -> str:
    return kernel.send("comm_close", {"comm_id": comm_id, "data": {}})


def states(messages: list[Message]) -> list[str]:
    """States published for a request, the idle that `Kernel.idle` waits for left out."""
    return [m["content"]["execution_state"] for m in messages if m["msg_type"] == "status"]


class Running:
    """A cell that occupies the main thread until `end`."""

    def __init__(self, kernel: Kernel, gate: Gate, code: str) -> None:
        self._kernel, self._gate = kernel, gate
        self.cell = kernel.start(code.replace("{gate}", gate.wait))
        self._prompt = kernel.prompt(self.cell) if "input()" in code else None
        kernel.stream(self.cell, "running")

    def end(self):
        if self._prompt is None:
            self._gate.open()
        else:
            self._kernel.answer(self._prompt, "")
        result = self._kernel.finish(self.cell)
        assert result.content["status"] == "ok", result.content
        return result


@pytest.fixture
def kernel(kernel: Kernel) -> Kernel:
    """A kernel with an open comm."""
    kernel.ok(SETUP)
    kernel.idle(open_comm(kernel))
    yield kernel
    kernel.idle(close_comm(kernel))


# -- the life of a comm --------------------------------------------------------------------------


def test_comm_is_opened_told_something_and_closed(kernel):
    kernel.ok("closed = []\ncomms[-1].on_close(lambda msg: closed.append(msg['content']['data']))")
    kernel.idle(send(kernel, {"value": 1}))
    assert kernel.ok("got").value == "[{'value': 1}]"
    kernel.idle(close_comm(kernel))
    assert kernel.ok("closed").value == "[{}]"
    request = kernel.send("comm_info_request", {"target_name": "target"})
    assert kernel.reply(request)["content"]["comms"] == {}


def test_comm_info_lists_open_comms(kernel):
    request = kernel.send("comm_info_request", {"target_name": "target"})
    assert kernel.reply(request)["content"]["comms"] == {COMM: {"target_name": "target"}}
    request = kernel.send("comm_info_request", {"target_name": "no such"})
    assert kernel.reply(request)["content"]["comms"] == {}


def test_handler_answers_on_the_comm(kernel):
    kernel.ok("handle = lambda msg: comms[-1].send({'echo': msg['content']['data']})")
    request = send(kernel, "hello")
    (answer,) = [m for m in kernel.idle(request) if m["msg_type"] == "comm_msg"]
    assert answer["content"] == {"comm_id": COMM, "data": {"echo": "hello"}}


@EVERY_CELL
def test_comm_is_opened_and_closed_while_a_cell_runs(kernel, gate, cell):
    running = Running(kernel, gate, cell)
    assert states(kernel.idle(open_comm(kernel, "another"))) == ["busy"]
    assert states(kernel.idle(send(kernel, 1, "another"))) == ["busy"]
    assert states(kernel.idle(close_comm(kernel, "another"))) == ["busy"]
    request = kernel.send("comm_info_request", {"target_name": "target"})
    assert list(kernel.reply(request)["content"]["comms"]) == [COMM]
    running.end()
    assert kernel.ok("got, len(comms)").value == "([1], 2)"


def test_comm_of_an_unknown_target_is_closed_at_once(kernel):
    request = kernel.send("comm_open", {"comm_id": "x", "target_name": "no such", "data": {}})
    (answer,) = [m for m in kernel.idle(request) if m["msg_type"] == "comm_close"]
    assert answer["content"]["comm_id"] == "x"
    kernel.ok("1 + 1")


@pytest.mark.parametrize("msg_type", ["comm_msg", "comm_close"])
def test_message_to_an_unknown_comm_is_ignored(kernel, msg_type):
    messages = kernel.idle(kernel.send(msg_type, {"comm_id": "no such", "data": {}}))
    assert states(messages) == ["busy"]
    kernel.ok("1 + 1")


@pytest.mark.parametrize("content", [{}, {"comm_id": COMM}], ids=["empty", "no data"])
@pytest.mark.parametrize("msg_type", ["comm_open", "comm_msg", "comm_close"])
def test_incomplete_message_leaves_the_kernel_alive(kernel, msg_type, content):
    kernel.idle(kernel.send(msg_type, content))
    kernel.ok("1 + 1")


@EVERY_CELL
def test_buffers_reach_the_handler(kernel, gate, cell):
    kernel.ok("handle = lambda msg: got.append([bytes(b) for b in msg['buffers']])")
    running = Running(kernel, gate, cell)
    session = kernel.client.session
    msg = session.msg("comm_msg", {"comm_id": COMM, "data": {}})
    session.send(kernel.client.shell_channel.socket, msg, buffers=[b"one", b"two" * 100_000])
    kernel.idle(msg["header"]["msg_id"])
    running.end()
    assert kernel.ok("got == [[b'one', b'two' * 100_000]]").value == "True"


# -- a cell can wait for a widget ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        "while not got: time.sleep(.01)",
        "while not got: pass",
        "while not got: await asyncio.sleep(.01)",
        "await asyncio.sleep(0)\nwhile not got: time.sleep(.01)",
    ],
)
def test_cell_that_waits_for_a_message_ends_when_it_comes(kernel, wait):
    cell = kernel.start(f"print('running')\n{wait}\ngot")
    kernel.stream(cell, "running")
    send(kernel, {"value": 1})
    assert kernel.finish(cell).value == "[{'value': 1}]"


def test_message_that_comes_at_the_very_start_of_a_cell_is_not_stranded(own_kernel, gate):
    """No cell ran when it came, and the main loop did not run again before the cell blocked it."""
    own_kernel.ok(SETUP)
    own_kernel.idle(open_comm(own_kernel))
    own_kernel.ok(
        "publisher = get_ipython().display_pub\n"
        "def slow(parent):\n"
        "    del publisher.set_parent\n"
        "    print('starting')\n"
        f"    {gate.wait}\n"
        "    publisher.set_parent(parent)\n"
        "publisher.set_parent = slow"
    )
    cell = own_kernel.start("while not got: time.sleep(.01)\ngot")
    own_kernel.wait("iopub", lambda m: m["content"].get("text") == "starting\n")
    send(own_kernel, 1)
    # Requests are taken in order, so when this one is answered the message is there.
    own_kernel.reply(own_kernel.send("kernel_info_request"))
    gate.open()
    assert own_kernel.finish(cell).value == "[1]"


def test_message_sent_right_behind_a_cell_that_waits_for_it_ends_it(kernel):
    for _ in range(100):
        kernel.ok("got.clear()")
        cell = kernel.start("while not got: time.sleep(.0001)")
        send(kernel, 1)
        assert kernel.finish(cell).content["status"] == "ok"


def test_cell_waits_for_an_answer_to_what_it_sends(kernel):
    cell = kernel.start("comms[-1].send({'question': 6})\nwhile not got: time.sleep(.01)\ngot")
    question = kernel.wait("iopub", lambda m: m["msg_type"] == "comm_msg")
    assert parent_id(question) == cell
    send(kernel, {"answer": question["content"]["data"]["question"] * 7})
    assert kernel.finish(cell).value == "[{'answer': 42}]"


def test_cell_waits_for_a_click_on_a_button(kernel):
    kernel.ok(
        "import ipywidgets\nbutton = ipywidgets.Button()\n"
        "clicks = []\nbutton.on_click(clicks.append)"
    )
    model = kernel.eval("button.model_id").strip("'")
    cell = kernel.start("print('running')\nwhile not clicks: time.sleep(.01)\nclicks == [button]")
    kernel.stream(cell, "running")
    click = send(kernel, {"method": "custom", "content": {"event": "click"}}, model)
    assert states(kernel.idle(click)) == ["busy"]
    assert kernel.finish(cell).value == "True"


def test_cell_waits_for_a_slider_to_be_moved(kernel):
    kernel.ok("import ipywidgets\nslider = ipywidgets.IntSlider()")
    model = kernel.eval("slider.model_id").strip("'")
    cell = kernel.start("print('running')\nwhile slider.value < 7: time.sleep(.01)\nslider.value")
    kernel.stream(cell, "running")
    for value in range(1, 8):
        update = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        messages = kernel.idle(send(kernel, update, model))
        assert states(messages) == ["busy"]
        # The front end is told that its value was taken, or the next one would wait.
        echo = [m["content"]["data"] for m in messages if m["msg_type"] == "comm_msg"]
        assert {"method": "echo_update", "state": {"value": value}, "buffer_paths": []} in echo
    assert kernel.finish(cell).value == "7"


def test_observer_of_a_slider_sees_every_value_in_order_while_a_cell_runs(kernel, gate):
    kernel.ok(
        "import ipywidgets\nslider = ipywidgets.IntSlider()\nseen = []\n"
        "slider.observe(lambda change: seen.append(change.new), 'value')"
    )
    model = kernel.eval("slider.model_id").strip("'")
    running = Running(kernel, gate, BLOCKED["blocked"])
    for value in range(1, 101):
        last = send(kernel, {"method": "update", "state": {"value": value}}, model)
    kernel.idle(last)
    running.end()
    assert kernel.ok("seen == list(range(1, 101))").value == "True"


# -- status --------------------------------------------------------------------------------------


def test_message_to_an_idle_kernel_is_busy_then_idle(kernel):
    assert states(kernel.idle(send(kernel, 1))) == ["busy"]


@EVERY_CELL
def test_message_beside_a_cell_is_busy_then_idle_and_the_cell_busy_again(kernel, gate, cell):
    running = Running(kernel, gate, cell)
    request = send(kernel, 1)
    seen = []
    while not seen or seen[-1] != (running.cell, "busy"):
        message = kernel.client.get_iopub_msg(timeout=60)
        if message["msg_type"] == "status":
            seen.append((parent_id(message), message["content"]["execution_state"]))
    assert seen == [(request, "busy"), (request, "idle"), (running.cell, "busy")]
    running.end()


# -- threads -------------------------------------------------------------------------------------


def test_handler_runs_on_the_main_thread_of_an_idle_kernel(kernel):
    kernel.idle(send(kernel, 1))
    assert kernel.ok("threads").value == "['MainThread']"


@pytest.mark.parametrize("cell", AWAITING.values(), ids=AWAITING)
def test_handler_runs_on_the_main_thread_beside_an_awaiting_cell(kernel, gate, cell):
    kernel.ok("%config SavepointKernel.comm_grace = 60")  # a busy machine may take a while
    running = Running(kernel, gate, cell)
    kernel.idle(send(kernel, 1))
    running.end()
    kernel.ok("%config SavepointKernel.comm_grace = 0.02")
    assert kernel.ok("threads").value == "['MainThread']"


@BLOCKED_CELL
def test_handler_runs_on_the_comm_thread_beside_a_blocked_cell(kernel, gate, cell):
    running = Running(kernel, gate, cell)
    kernel.idle(send(kernel, 1))
    running.end()
    assert kernel.ok("threads").value == "['Comm']"


def test_handler_returns_to_the_main_thread_after_the_cell(kernel, gate):
    running = Running(kernel, gate, BLOCKED["blocked"])
    kernel.idle(send(kernel, 1))
    running.end()
    kernel.idle(send(kernel, 2))
    assert kernel.ok("threads").value == "['Comm', 'MainThread']"


def test_handler_may_set_an_asyncio_event_the_cell_awaits(kernel):
    kernel.ok("event = asyncio.Event()\nhandle = lambda msg: event.set()")
    cell = kernel.start("print('running')\nawait event.wait()")
    kernel.stream(cell, "running")
    send(kernel, 1)
    assert kernel.finish(cell).value == "True"


def test_handler_may_create_a_task_on_the_running_loop(kernel):
    kernel.ok(
        "async def work(value):\n    await asyncio.sleep(0)\n    got.append(value)\n"
        "def handle(msg):\n"
        "    tasks.append(asyncio.get_running_loop().create_task(work(msg['content']['data'])))\n"
        "tasks = []"
    )
    kernel.idle(send(kernel, 1))
    assert kernel.ok("await asyncio.wait(tasks)\ngot").value == "[1]"


def test_handler_beside_a_blocked_cell_shares_the_namespace(kernel):
    kernel.ok("def handle(msg):\n    global answer\n    answer = msg['content']['data']")
    cell = kernel.start(
        "print('running')\nwhile 'answer' not in globals(): time.sleep(.01)\nanswer"
    )
    kernel.stream(cell, "running")
    send(kernel, 42)
    assert kernel.finish(cell).value == "42"


# -- order ---------------------------------------------------------------------------------------


def test_messages_sent_before_a_cell_are_seen_by_it(kernel):
    for number in range(100):
        send(kernel, number)
    assert kernel.ok("got == list(range(100))").value == "True"


def test_order_of_arrival_is_kept_over_200_messages_and_a_cell(kernel):
    for number in range(80):
        send(kernel, number)
    cell = kernel.start("before = len(got)\nwhile len(got) < 160: time.sleep(.001)\nbefore")
    for number in range(80, 160):
        send(kernel, number)
    other = kernel.start("await asyncio.sleep(0)\nlen(got)")
    for number in range(160, 200):
        last = send(kernel, number)
    assert int(kernel.finish(cell).value) >= 80
    assert int(kernel.finish(other).value) >= 160
    kernel.idle(last)
    assert kernel.ok("got == list(range(200))").value == "True"


def test_order_is_kept_when_the_main_thread_becomes_free_and_blocked_in_turns(kernel):
    numbers = iter(range(1000))
    cells = []
    for _ in range(20):
        for _ in range(5):
            send(kernel, next(numbers))
        cells.append(kernel.start("time.sleep(.005)"))
        for _ in range(5):
            last = send(kernel, next(numbers))
    for cell in cells:
        assert kernel.finish(cell).content["status"] == "ok"
    kernel.idle(last)
    assert kernel.ok("got == list(range(200))").value == "True"


def test_open_message_and_close_keep_their_order_beside_a_blocked_cell(kernel, gate):
    kernel.ok(
        "log = []\n"
        "def opened(comm, msg):\n"
        "    log.append('open')\n"
        "    comm.on_msg(lambda msg: log.append(msg['content']['data']))\n"
        "    comm.on_close(lambda msg: log.append('close'))\n"
        "get_ipython().kernel.comm_manager.register_target('target', opened)"
    )
    running = Running(kernel, gate, BLOCKED["blocked"])
    for number in range(20):
        open_comm(kernel, f"comm {number}")
        send(kernel, number, f"comm {number}")
        last = close_comm(kernel, f"comm {number}")
    kernel.idle(last)
    running.end()
    expected = [item for number in range(20) for item in ("open", number, "close")]
    assert kernel.ok(f"log == {expected}").value == "True"


def test_one_handler_runs_at_a_time(kernel, gate, tmp_path):
    """The first begins beside a blocked cell and is not over when the main thread is free again."""
    handler_gate = Gate(tmp_path / "handler")
    kernel.ok(
        "log = []\n"
        "def handle(msg):\n"
        "    name = msg['content']['data']\n"
        "    log.append(f'{name} begins')\n"
        "    print('in', name)\n"
        f"    if name == 'first': {handler_gate.wait}\n"
        "    log.append(f'{name} ends')"
    )
    running = Running(kernel, gate, BLOCKED["blocked"])
    first = send(kernel, "first")
    kernel.stream(first, "in first")
    running.end()
    second = send(kernel, "second")
    following = kernel.start("log.append('cell')\nlog")
    handler_gate.open()
    kernel.idle(first)
    kernel.idle(second)
    handler_gate.close()
    assert kernel.finish(following).content["status"] == "ok"
    assert kernel.ok("log").value == (
        "['first begins', 'first ends', 'second begins', 'second ends', 'cell']"
    )


def test_interrupt_ends_the_wait_of_a_cell_for_a_handler_that_hangs(kernel, gate, tmp_path):
    handler_gate = Gate(tmp_path / "handler")
    kernel.ok(f"def handle(msg):\n    print('in handler')\n    {handler_gate.wait}")
    running = Running(kernel, gate, BLOCKED["blocked"])
    message = send(kernel, 1)
    kernel.stream(message, "in handler")
    running.end()
    cell = kernel.start("6 * 7")
    reply = None
    while reply is None:
        # One that comes while the cell before is being committed is for neither.
        kernel.interrupt("message")
        with suppress(AssertionError):
            reply = kernel.reply(cell, timeout=5.0)
    assert reply["content"]["status"] == "ok"
    handler_gate.open()
    kernel.idle(message)
    handler_gate.close()


# -- handlers that fail or hang ------------------------------------------------------------------


FAIL_ON_1 = """
working = handle
def handle(msg):
    if msg['content']['data'] == 1:
        raise {error}('mine')
    working(msg)
"""
COMMON_ERRORS = pytest.mark.parametrize("error", ["ValueError", "KeyboardInterrupt"])


@COMMON_ERRORS
def test_handler_that_raises_loses_no_idle_and_no_message_in_an_idle_kernel(kernel, error):
    kernel.ok(FAIL_ON_1.format(error=error))
    assert states(kernel.idle(send(kernel, 1))) == ["busy"]
    assert states(kernel.idle(send(kernel, 2))) == ["busy"]
    assert kernel.ok("got").value == "[2]"


@COMMON_ERRORS
@EVERY_CELL
def test_handler_that_raises_loses_no_idle_and_no_message_beside_a_cell(kernel, gate, cell, error):
    kernel.ok(FAIL_ON_1.format(error=error))
    running = Running(kernel, gate, cell)
    assert states(kernel.idle(send(kernel, 1))) == ["busy"]
    assert states(kernel.idle(send(kernel, 2))) == ["busy"]
    running.end()
    assert kernel.ok("got").value == "[2]"


def test_handler_that_calls_sys_exit_does_not_end_an_idle_kernel(own_kernel):
    own_kernel.ok(SETUP)
    own_kernel.idle(open_comm(own_kernel))
    own_kernel.ok(FAIL_ON_1.format(error="SystemExit"))
    assert states(own_kernel.idle(send(own_kernel, 1))) == ["busy"]
    assert states(own_kernel.idle(send(own_kernel, 2))) == ["busy"]
    assert own_kernel.ok("got").value == "[2]"


@EVERY_CELL
def test_handler_that_calls_sys_exit_beside_a_cell_harms_nothing(own_kernel, gate, cell):
    own_kernel.ok(SETUP)
    own_kernel.idle(open_comm(own_kernel))
    own_kernel.ok(FAIL_ON_1.format(error="SystemExit"))
    running = Running(own_kernel, gate, cell)
    assert states(own_kernel.idle(send(own_kernel, 1))) == ["busy"]
    assert states(own_kernel.idle(send(own_kernel, 2))) == ["busy"]
    running.end()
    assert own_kernel.ok("got").value == "[2]"


@pytest.mark.parametrize("how", ["signal", "message"])
@pytest.mark.parametrize("block", ["time.sleep(100)", "while True: pass"])
def test_handler_that_hangs_in_an_idle_kernel_can_be_interrupted(kernel, block, how):
    kernel.ok(
        f"def hang(msg):\n    print('in handler')\n    {block}\nworking, handle = handle, hang"
    )
    message = send(kernel, 1)
    kernel.stream(message, "in handler")
    kernel.interrupt(how)
    kernel.idle(message)
    kernel.ok("handle = working")
    kernel.idle(send(kernel, 2))
    assert kernel.ok("got").value == "[2]"


def test_interrupt_ends_the_cell_and_not_the_handler_beside_it(kernel, gate):
    kernel.ok(
        f"def handle(msg):\n    print('in handler')\n    {gate.wait}\n    got.append('finished')"
    )
    cell = kernel.start("print('running')\ntime.sleep(100)")
    kernel.stream(cell, "running")
    message = send(kernel, 1)
    kernel.stream(message, "in handler")
    kernel.interrupt()
    assert kernel.finish(cell).content["ename"] == "KeyboardInterrupt"
    gate.open()
    kernel.idle(message)
    assert kernel.ok("got").value == "['finished']"


def test_interrupt_with_nothing_running_spares_the_next_handler(kernel):
    for _ in range(5):
        kernel.interrupt("message")
    kernel.idle(send(kernel, 1))
    assert kernel.ok("got").value == "[1]"


# -- what else sees a comm message ---------------------------------------------------------------


@EVERY_CELL
def test_cell_events_are_not_triggered_beside_a_running_cell(kernel, gate, cell):
    """Matplotlib's inline backend, for one, would flush the figures the cell still draws."""
    kernel.ok(
        "fired = []\nevents = get_ipython().events\n"
        "pre, post = lambda: fired.append('pre'), lambda: fired.append('post')"
    )
    try:
        running = Running(
            kernel,
            gate,
            "events.register('pre_execute', pre)\nevents.register('post_execute', post)\n"
            f"{cell}\nprint(fired)",
        )
        kernel.idle(send(kernel, 1))
        assert "[]" in running.end().text()
    finally:
        kernel.ok("events.unregister('pre_execute', pre)\nevents.unregister('post_execute', post)")
    assert kernel.ok("got").value == "[1]"


@EVERY_CELL
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_of_a_handler_belongs_to_its_message_and_that_of_the_cell_to_the_cell(
    kernel, gate, cell, stream
):
    kernel.ok(
        "import sys\n"
        f"def handle(msg):\n    print('in handler', file=sys.{stream})\n    display('shown')"
    )
    running = Running(kernel, gate, f"{cell}\nprint('in cell')\ndisplay('cell')")
    messages = kernel.idle(send(kernel, 1))
    result = running.end()
    (text,) = [m["content"] for m in messages if m["msg_type"] == "stream"]
    assert text == {"name": stream, "text": "in handler\n"}
    (display,) = [m for m in messages if m["msg_type"] == "display_data"]
    assert display["content"]["data"]["text/plain"] == "'shown'"
    assert result.text() == "in cell\n"
    assert result.text("stderr") == ""
    assert len(result.of("display_data")) == 1


def test_output_of_a_handler_in_an_idle_kernel_belongs_to_its_message(kernel):
    kernel.ok("handle = lambda msg: print('in handler')")
    kernel.ok("print('a cell')")
    (text,) = [m for m in kernel.idle(send(kernel, 1)) if m["msg_type"] == "stream"]
    assert text["content"]["text"] == "in handler\n"


@EVERY_CELL
def test_thread_started_by_a_handler_prints_into_its_message(kernel, gate, cell):
    kernel.ok(
        "def handle(msg):\n"
        "    thread = threading.Thread(target=print, args=('in thread',))\n"
        "    thread.start()\n    thread.join()"
    )
    running = Running(kernel, gate, cell)
    (text,) = [m for m in kernel.idle(send(kernel, 1)) if m["msg_type"] == "stream"]
    assert text["content"]["text"] == "in thread\n"
    assert "in thread" not in running.end().text()


def test_output_widget_filled_by_a_handler_beside_a_blocked_cell(kernel, gate):
    kernel.ok(
        "import ipywidgets\nout = ipywidgets.Output()\n"
        "def handle(msg):\n    with out:\n        print('captured')"
    )
    running = Running(kernel, gate, BLOCKED["blocked"])
    request = send(kernel, 1)
    messages = kernel.idle(request)
    running.end()
    updates = [
        m["content"]["data"]["state"]["msg_id"]
        for m in messages
        if m["msg_type"] == "comm_msg" and "msg_id" in m["content"]["data"].get("state", {})
    ]
    assert updates == [request, ""], "the widget takes the output of this message, then of none"


# -- subshells -----------------------------------------------------------------------------------


@pytest.fixture
def subshell(kernel: Kernel) -> str:
    """The id of a subshell."""
    request = kernel.send("create_subshell_request", channel="control")
    subshell_id = kernel.reply(request, channel="control")["content"]["subshell_id"]
    yield subshell_id
    request = kernel.send(
        "delete_subshell_request", {"subshell_id": subshell_id}, channel="control"
    )
    assert kernel.reply(request, channel="control")["content"]["status"] == "ok"


@BLOCKED_CELL
def test_message_sent_to_a_subshell_is_handled_while_the_main_shell_is_blocked(
    kernel, gate, subshell, cell
):
    running = Running(kernel, gate, cell)
    assert states(kernel.idle(send(kernel, 1, subshell_id=subshell))) == ["busy"]
    running.end()
    assert kernel.ok("got").value == "[1]"


def test_comm_opened_on_a_subshell_works_while_the_main_shell_is_blocked(kernel, gate, subshell):
    running = Running(kernel, gate, BLOCKED["blocked"])
    assert states(kernel.idle(open_comm(kernel, "another", subshell_id=subshell))) == ["busy"]
    assert states(kernel.idle(send(kernel, 1, "another", subshell_id=subshell))) == ["busy"]
    running.end()
    assert kernel.ok("got").value == "[1]"
    kernel.idle(close_comm(kernel, "another"))


def test_click_sent_to_a_subshell_ends_the_cell_that_waits_for_it(kernel, subshell):
    """What JupyterLab does for a widget; ipykernel 7.4.0 leaves it waiting for the cell."""
    kernel.ok(
        "import ipywidgets\nbutton = ipywidgets.Button()\n"
        "clicks = []\nbutton.on_click(clicks.append)"
    )
    model = kernel.eval("button.model_id").strip("'")
    cell = kernel.start("print('running')\nwhile not clicks: time.sleep(.01)\nlen(clicks)")
    kernel.stream(cell, "running")
    click = {"method": "custom", "content": {"event": "click"}}
    send(kernel, click, model, subshell_id=subshell)
    assert kernel.finish(cell).value == "1"


def test_order_is_kept_between_messages_to_a_subshell(kernel, gate, subshell):
    running = Running(kernel, gate, BLOCKED["blocked"])
    for number in range(100):
        last = send(kernel, number, subshell_id=subshell)
    kernel.idle(last)
    running.end()
    assert kernel.ok("got == list(range(100))").value == "True"
