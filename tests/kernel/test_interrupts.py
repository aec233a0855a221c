"""SIGINT and interrupt_request: what they end, what they leave alone, and that no reply is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from .harness import Kernel, Result

BOTH_WAYS = pytest.mark.parametrize("how", ["signal", "message"])

ANNOUNCE = """
import asyncio, socket, subprocess, sys, threading, time

def announce(function):
    '''Print "blocked" once the main thread is inside `function` and nothing it called.'''
    main = threading.main_thread().ident
    def watch():
        while sys._current_frames()[main].f_code is not function.__code__:
            pass
        print("blocked")
    threading.Thread(target=watch).start()

def announce_parked():
    '''Print "blocked" once the event loop waits for something to happen.'''
    announce(type(asyncio.get_running_loop()._selector).select)
"""

IN_C_OR_PYTHON = {
    "sleep": "def block():\n    time.sleep(100)",
    "busy loop": "def block():\n    while True: pass",
    "socket": "here, there = socket.socketpair()\ndef block():\n    here.recv(1)",
    "lock": "lock = threading.Lock(); lock.acquire()\ndef block():\n    lock.acquire()",
    "numpy": (
        "import numpy\na = numpy.ones(1000)\ndef block(sine=numpy.sin):\n    while True: sine(a, a)"
    ),
}
"""Definitions of a function `block` that does not return."""

CHILD = """
child_code = '''
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("child waits", flush=True)
signal.sigwait([signal.SIGINT])
print("child interrupted", flush=True)
'''
"""


def assert_interrupted(result: Result) -> None:
    assert result.content["status"] == "error"
    assert result.content["ename"] == "KeyboardInterrupt"
    assert result.savepoint["failure_kind"] == "interrupt"
    (error,) = result.of("error")
    assert error["content"]["ename"] == "KeyboardInterrupt"


def assert_works(kernel: Kernel) -> None:
    assert kernel.ok("6 * 7").value == "42"


# -- what an interrupt ends ----------------------------------------------------------------------


@BOTH_WAYS
@pytest.mark.parametrize("definition", IN_C_OR_PYTHON.values(), ids=IN_C_OR_PYTHON)
def test_ends_blocking_code(kernel, definition, how):
    kernel.ok(ANNOUNCE)
    cell = kernel.start(f"{definition}\nannounce(block)\nblock()")
    kernel.stream(cell, "blocked")
    kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
@pytest.mark.parametrize("definition", IN_C_OR_PYTHON.values(), ids=IN_C_OR_PYTHON)
def test_ends_blocking_code_of_an_async_cell(kernel, definition, how):
    kernel.ok(ANNOUNCE)
    cell = kernel.start(f"{definition}\nawait asyncio.sleep(0)\nannounce(block)\nblock()")
    kernel.stream(cell, "blocked")
    kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
@pytest.mark.parametrize("definition", IN_C_OR_PYTHON.values(), ids=IN_C_OR_PYTHON)
def test_ends_blocking_code_of_a_child_task(kernel, definition, how):
    kernel.ok(ANNOUNCE)
    cell = kernel.start(
        f"{definition}\nasync def child():\n    announce(block)\n    block()\n"
        "await asyncio.create_task(child())"
    )
    kernel.stream(cell, "blocked")
    kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
@pytest.mark.parametrize(
    "awaited",
    [
        "asyncio.sleep(100)",
        "asyncio.Event().wait()",
        "asyncio.create_task(asyncio.sleep(100))",
        "asyncio.gather(asyncio.sleep(100), asyncio.sleep(100))",
        "asyncio.wait_for(asyncio.sleep(100), timeout=100)",
    ],
)
def test_ends_await(kernel, awaited, how):
    kernel.ok(ANNOUNCE)
    cell = kernel.start(f"announce_parked()\nawait {awaited}")
    kernel.stream(cell, "blocked")
    kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
def test_ends_await_also_if_it_hits_a_callback_of_the_loop(kernel, how):
    kernel.ok(ANNOUNCE)
    cell = kernel.start(
        "def block():\n    time.sleep(100)\nannounce(block)\n"
        "asyncio.get_running_loop().call_soon(block)\nawait asyncio.sleep(100)"
    )
    kernel.stream(cell, "blocked")
    kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
def test_ends_await_also_if_it_hits_a_background_task(kernel, how):
    kernel.ok(ANNOUNCE)
    background = kernel.start(
        "def block():\n    time.sleep(100)\n"
        "start = asyncio.Event()\n"
        "async def background():\n    await start.wait()\n    announce(block)\n    block()\n"
        "task = asyncio.create_task(background())"
    )
    kernel.finish(background)
    cell = kernel.start("start.set()\nawait asyncio.sleep(100)")
    kernel.stream(background, "blocked")
    kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert kernel.ok("task.done()").value == "True"


@BOTH_WAYS
def test_ends_subprocess_run(kernel, how):
    kernel.ok(CHILD)
    cell = kernel.start(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', child_code])"
    )
    kernel.stream(cell, "child waits")
    kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
@pytest.mark.parametrize("ask", ["input()", "__import__('getpass').getpass()"])
def test_ends_input(kernel, ask, how):
    cell = kernel.start(ask)
    kernel.prompt(cell)
    kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
def test_ends_input_of_an_async_cell(kernel, how):
    cell = kernel.start("import asyncio\nawait asyncio.sleep(0)\ninput()")
    kernel.prompt(cell)
    kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
def test_ends_a_flood_of_output(kernel, how):
    cell = kernel.start("while True: print('flood' * 100)")
    kernel.stream(cell, "flood")
    kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
def test_ends_user_expressions(kernel, how):
    kernel.ok(ANNOUNCE + "\ndef block():\n    time.sleep(100)")
    cell = kernel.start("announce(block)", user_expressions={"slow": "block()"})
    kernel.stream(cell, "blocked")
    kernel.interrupt(how)
    assert kernel.finish(cell).content["status"] in ("ok", "error")
    assert_works(kernel)


def test_child_in_the_process_group_is_interrupted_by_request(kernel):
    check_child_is_interrupted(kernel, lambda: kernel.interrupt("message"))


def test_child_in_the_process_group_is_interrupted_by_the_manager(kernel):
    check_child_is_interrupted(kernel, kernel.manager.interrupt_kernel)


def check_child_is_interrupted(kernel, interrupt):
    kernel.ok(CHILD)
    cell = kernel.start(
        "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', child_code])\n"
        "child.wait()"
    )
    kernel.stream(cell, "child waits")
    interrupt()
    result = kernel.finish(cell)
    assert_interrupted(result)
    assert kernel.ok("child.wait()").value == "0"


# -- what user code sees of it -------------------------------------------------------------------


def test_finally_and_except_blocks_run(kernel):
    cell = kernel.start(
        "try:\n    print('started')\n    while True: pass\n"
        "except KeyboardInterrupt:\n    print('caught')\n    raise\n"
        "finally:\n    print('cleaned up')"
    )
    kernel.stream(cell, "started")
    kernel.interrupt()
    result = kernel.finish(cell)
    assert_interrupted(result)
    assert result.text() == "caught\ncleaned up\n"


def test_finally_block_around_an_await_runs(kernel):
    kernel.ok(ANNOUNCE)
    cell = kernel.start(
        "announce_parked()\ntry:\n    await asyncio.sleep(100)\nfinally:\n    print('cleaned up')"
    )
    kernel.stream(cell, "blocked")
    kernel.interrupt()
    result = kernel.finish(cell)
    assert_interrupted(result)
    assert "cleaned up" in result.text()


def test_cell_that_handles_its_interrupt_ends_well(kernel):
    cell = kernel.start(
        "try:\n    print('started')\n    while True: pass\nexcept KeyboardInterrupt:\n    'handled'"
    )
    kernel.stream(cell, "started")
    kernel.interrupt()
    result = kernel.finish(cell)
    assert result.content["status"] == "ok"
    assert result.savepoint["failure_kind"] == "none"


def test_user_code_sees_the_default_handler(kernel):
    """asyncio.run and trio install theirs only over this very object."""
    kernel.ok("import signal")
    result = kernel.ok("signal.getsignal(signal.SIGINT) is signal.default_int_handler")
    assert result.value == "True"


def test_thread_of_user_code_is_not_interrupted(kernel):
    kernel.ok(ANNOUNCE)
    cell = kernel.start(
        "done = threading.Event()\n"
        "waiter = threading.Thread(target=done.wait)\nwaiter.start()\n"
        "def block():\n    time.sleep(100)\nannounce(block)\nblock()"
    )
    kernel.stream(cell, "blocked")
    kernel.interrupt()
    assert_interrupted(kernel.finish(cell))
    assert kernel.ok("waiter.is_alive()").value == "True"
    kernel.ok("done.set(); waiter.join()")


def test_handler_for_another_signal_works(kernel):
    result = kernel.ok(
        "import signal\nseen = []\n"
        "before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
        "_ = signal.signal(signal.SIGUSR1, before)\n"
        "seen == [signal.SIGUSR1]"
    )
    assert result.value == "True"


def test_interval_timer_breaks_a_sleep(kernel):
    result = kernel.run(
        "import signal, time\n"
        "def alarm(number, frame):\n    raise TimeoutError('alarm')\n"
        "signal.signal(signal.SIGALRM, alarm)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.02)\n"
        "time.sleep(100)"
    )
    assert result.content["ename"] == "TimeoutError"
    assert result.savepoint["failure_kind"] == "exception"


@pytest.mark.parametrize("last_line", ["", "\nawait asyncio.sleep(0)"], ids=["sync", "async"])
def test_own_handler_survives_to_the_next_cell(own_kernel, last_line):
    own_kernel.ok(
        "import asyncio, signal, threading\nhit = threading.Event()\n"
        "_ = signal.signal(signal.SIGINT, lambda number, frame: hit.set())"
    )
    own_kernel.ok("1 + 1")
    cell = own_kernel.start(f"print('waiting')\nwhile not hit.is_set(): pass\n'handled'{last_line}")
    own_kernel.stream(cell, "waiting")
    own_kernel.interrupt()
    assert own_kernel.finish(cell).content["status"] == "ok"


def test_own_handler_set_in_an_async_cell_survives(own_kernel):
    own_kernel.ok(
        "import asyncio, signal, threading\nhit = threading.Event()\nawait asyncio.sleep(0)\n"
        "_ = signal.signal(signal.SIGINT, lambda number, frame: hit.set())"
    )
    cell = own_kernel.start("print('waiting')\nwhile not hit.is_set(): pass")
    own_kernel.stream(cell, "waiting")
    own_kernel.interrupt()
    assert own_kernel.finish(cell).content["status"] == "ok"


def test_default_handler_can_be_put_back(own_kernel):
    own_kernel.ok("import signal\n_ = signal.signal(signal.SIGINT, signal.SIG_IGN)")
    own_kernel.ok("_ = signal.signal(signal.SIGINT, signal.default_int_handler)")
    cell = own_kernel.start("print('started')\nwhile True: pass")
    own_kernel.stream(cell, "started")
    own_kernel.interrupt()
    assert_interrupted(own_kernel.finish(cell))


@pytest.mark.parametrize(
    "code",
    [
        "raise KeyboardInterrupt('mine')",
        "import asyncio\nawait asyncio.sleep(0)\nraise KeyboardInterrupt('mine')",
        "import asyncio\nasync def child():\n    raise KeyboardInterrupt('mine')\n"
        "await asyncio.create_task(child())",
    ],
    ids=["sync", "async", "child task"],
)
def test_keyboard_interrupt_raised_by_the_user(kernel, code):
    result = kernel.run(code)
    assert_interrupted(result)
    assert result.content["evalue"] == "mine"
    assert_works(kernel)


def test_cancelled_error_of_the_user_is_no_interrupt(kernel):
    result = kernel.run("import asyncio\nraise asyncio.CancelledError('mine')")
    assert result.content["ename"] == "CancelledError"
    assert result.savepoint["failure_kind"] == "exception"
    assert_works(kernel)


# -- the kernel lives on -------------------------------------------------------------------------


@BOTH_WAYS
def test_ten_interrupted_cells_in_a_row(kernel, how):
    for number in range(10):
        cell = kernel.start(f"import time\nprint('cell {number}')\ntime.sleep(100)")
        kernel.stream(cell, f"cell {number}")
        kernel.interrupt(how)
        assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
@pytest.mark.parametrize("wait", ["time.sleep(100)", "await asyncio.sleep(100)"])
def test_ten_interrupts_for_one_cell(kernel, wait, how):
    cell = kernel.start(f"import asyncio, time\nprint('started')\n{wait}")
    kernel.stream(cell, "started")
    for _ in range(10):
        kernel.interrupt(how)
    assert_interrupted(kernel.finish(cell))
    assert_works(kernel)


@BOTH_WAYS
def test_interrupts_with_no_cell_running_leave_the_next_one_unharmed(kernel, how):
    for _ in range(10):
        kernel.interrupt(how)
    assert_works(kernel)
    assert kernel.ok("import asyncio\nawait asyncio.sleep(0.01, 'slept')").value == "'slept'"


@pytest.mark.parametrize("code", ["loop.stop()", "loop.stop(); await asyncio.sleep(0.01)"])
def test_stopping_the_event_loop_does_not_end_the_kernel(kernel, code):
    kernel.ok("import asyncio\nasync def running():\n    return asyncio.get_running_loop()")
    kernel.ok("loop = await running()")
    kernel.ok(code)
    assert_works(kernel)
    assert kernel.ok("await asyncio.sleep(0.01, 'slept')").value == "'slept'"


def test_interrupt_aborts_the_queue(kernel):
    kernel.ok("ran = []")
    cell = kernel.start("import time\nprint('started')\ntime.sleep(100)")
    queued = [kernel.start(f"ran.append({number})") for number in range(3)]
    kernel.stream(cell, "started")
    kernel.interrupt()
    assert_interrupted(kernel.finish(cell))
    assert [kernel.finish(other).content["status"] for other in queued] == ["aborted"] * 3
    assert kernel.ok("ran").value == "[]"


def test_interrupt_leaves_the_queue_alone_without_stop_on_error(kernel):
    kernel.ok("ran = []")
    cell = kernel.start("import time\nprint('started')\ntime.sleep(100)", stop_on_error=False)
    queued = [kernel.start(f"ran.append({number})") for number in range(3)]
    kernel.stream(cell, "started")
    kernel.interrupt()
    assert_interrupted(kernel.finish(cell))
    assert [kernel.finish(other).content["status"] for other in queued] == ["ok"] * 3
    assert kernel.ok("ran").value == "[0, 1, 2]"


# -- one interrupt is one interrupt --------------------------------------------------------------


@pytest.mark.parametrize("sleep", ["time.sleep(0.2)", "await asyncio.sleep(0.2)"])
def test_cell_that_goes_on_after_its_interrupt_is_not_hit_again(kernel, sleep):
    """It is soon at the same line again, which must not be taken for not having moved."""
    cell = kernel.start(
        "import asyncio, time\nhits = 0\n"
        "for number in range(3):\n"
        f"    try:\n        if number == 0: print('started')\n        {sleep}\n"
        "    except (KeyboardInterrupt, asyncio.CancelledError):\n        hits += 1\n"
        "hits"
    )
    kernel.stream(cell, "started")
    kernel.interrupt()
    assert kernel.finish(cell).value == "1"


def test_interrupt_does_not_hit_the_same_code_run_again(kernel):
    kernel.ok("import time\ndef wait(seconds):\n    time.sleep(seconds)")
    for _ in range(5):
        cell = kernel.start("print('started')\nwait(100)")
        kernel.stream(cell, "started")
        kernel.interrupt()
        assert_interrupted(kernel.finish(cell))
        assert kernel.ok("wait(0.1)\n'slept'").value == "'slept'"


@pytest.mark.parametrize("event", ["pre_execute", "pre_run_cell", "post_execute", "post_run_cell"])
def test_interrupt_of_an_event_callback_lets_the_kernel_go_on(own_kernel, event):
    """What matplotlib does after a cell, drawing its figures, runs as such a callback."""
    own_kernel.ok(
        f"{ANNOUNCE}\n"
        "def block(*info):\n    if active: time.sleep(100)\n"
        f"active = False\nget_ipython().events.register({event!r}, block)"
    )
    if event.startswith("pre"):
        own_kernel.ok("active = True; announce(block)")
        cell = own_kernel.start("active = False")
    else:
        cell = own_kernel.start("active = True; announce(block)")
    own_kernel.wait("iopub", lambda m: "blocked" in m["content"].get("text", ""))
    own_kernel.interrupt()
    result = own_kernel.finish(cell)
    assert len(result.of("error")) <= 1
    assert own_kernel.manager.is_alive()


# -- races ---------------------------------------------------------------------------------------

SHORT_CELLS = {
    "sync": "sum(range(3000))",
    "async": "import asyncio\nawait asyncio.sleep(0.0005)",
    "printing": "for i in range(20): print(i)",
    "child task": "import asyncio\nawait asyncio.create_task(asyncio.sleep(0, sum(range(3000))))",
}


@pytest.mark.parametrize("code", SHORT_CELLS.values(), ids=SHORT_CELLS)
def test_interrupt_racing_the_end_of_a_cell_loses_no_reply(kernel, code):
    """Stock ipykernel loses about 40 % of the replies here, and cuts messages in half."""
    generator = random.Random(code)
    interrupted = 0
    cells = []
    for _ in range(150):
        cell = kernel.start(code)
        time.sleep(generator.uniform(0.0003, 0.005))  # the race is what is tested
        os.kill(kernel.pid, signal.SIGINT)
        # A message that was cut in half raises "Invalid Signature" in here.
        result = kernel.finish(cell)
        cells.append(cell)
        errors = result.of("error")
        if result.content["status"] == "ok":
            assert errors == []
        else:
            assert_interrupted(result)
            interrupted += 1
    assert_works(kernel)
    assert kernel.unclaimed("shell", cells) == []
    assert kernel.unclaimed("iopub", cells) == []
    kernel.ok("import signal")
    assert kernel.eval("signal.getsignal(signal.SIGINT) is signal.default_int_handler") == "True"
    assert interrupted > 0, "no interrupt hit a cell: the delays are wrong for this machine"


@pytest.mark.parametrize("delay", [0, 0.01, 0.02, 0.05, 0.2])
def test_interrupt_racing_the_start_of_a_shell_command_ends_it(kernel, delay):
    """Before a fork Python runs callbacks (IPython's history has one), which swallow errors."""
    for _ in range(3):
        cell = kernel.start("print('started')\n!sleep 100")
        kernel.stream(cell, "started")
        time.sleep(delay)  # the race is what is tested
        kernel.interrupt()
        kernel.finish(cell)
    assert_works(kernel)


SWALLOWED = {
    "finalizer": "class Held:\n    def __del__(self):\n        block()\nHeld()",
    "weak reference": (
        "import weakref\nclass Held: pass\nheld = Held()\n"
        "reference = weakref.ref(held, lambda _: block())\ndel held"
    ),
    "fork hook": (
        "import warnings\nwarnings.simplefilter('ignore')  # 3.12: of forking with threads\n"
        "os.register_at_fork(before=block)\nchild = os.fork()\nif not child:\n    os._exit(0)"
    ),
}
"""Code in which Python swallows what `block` raises."""


@pytest.mark.parametrize("code", SWALLOWED.values(), ids=SWALLOWED)
def test_interrupt_where_errors_are_swallowed_ends_the_cell_all_the_same(own_kernel, code):
    own_kernel.ok(ANNOUNCE)
    cell = own_kernel.start(
        f"import os\ndef block():\n    time.sleep(100)\nannounce(block)\n{code}\ntime.sleep(100)"
    )
    own_kernel.stream(cell, "blocked")
    own_kernel.interrupt()
    result = own_kernel.finish(cell)
    assert_interrupted(result)
    assert result.text("stderr") == ""
    assert_works(own_kernel)


def test_interrupt_of_a_forked_child_is_none_of_the_kernel(own_kernel):
    """The child has a copy of the descriptor that tells the kernel about lost signals."""
    own_kernel.ok("import os, signal, time")
    result = own_kernel.ok(
        "child = os.fork()\n"
        "if not child:\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    signal.signal(signal.SIGINT, lambda *_: os._exit(3))\n"
        "    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])\n"
        "    os._exit(4)\n"
        "_, status = os.waitpid(child, 0)\n"
        "time.sleep(0.3)  # longer than the kernel waits before it sends a lost signal again\n"
        "os.waitstatus_to_exitcode(status)"
    )
    assert result.value == "3"


def test_interrupts_racing_queued_cells_answer_each_of_them_once(kernel):
    generator = random.Random(1)
    cells = []
    for _ in range(10):
        batch = [kernel.start("sum(range(3000))", stop_on_error=False) for _ in range(15)]
        for _ in range(15):
            time.sleep(generator.uniform(0.0003, 0.003))  # the race is what is tested
            os.kill(kernel.pid, signal.SIGINT)
        statuses = [kernel.finish(cell).content["status"] for cell in batch]
        assert set(statuses) <= {"ok", "error"}
        cells += batch
    assert_works(kernel)
    assert kernel.unclaimed("shell", cells) == []
    assert kernel.unclaimed("iopub", cells) == []


AIM = """
import inspect, signal, sys
from jupyter_client.session import Session

deserialize = Session.deserialize.__code__

def aim(count, files, apart, path):
    '''Interrupt this process at the count-th call or return in files, but for those set apart.

    Gives up when the request for the second cell from now is read.
    '''
    ours, cells = {}, 0
    def profile(frame, event, argument):
        nonlocal count, cells
        code = frame.f_code
        if code not in ours:
            name = code.co_filename
            ours[code] = any(part in name for part in files) and not any(
                part in name for part in apart
            )
        if event == "call" and code is deserialize:
            cells += 1
            if cells == 2:
                sys.setprofile(None)
                return
        if not ours[code] or event.startswith("c_"):
            return
        if code.co_flags & (inspect.CO_COROUTINE | inspect.CO_GENERATOR) and (
            event == "return" or frame.f_lineno != code.co_firstlineno
        ):
            return  # suspended or resumed: Python raises no signal there
        count -= 1
        if count == 0:
            sys.setprofile(None)
            with open(path, "w") as file:
                print(event, code.co_name, code.co_filename, frame.f_lineno, file=file)
            signal.raise_signal(signal.SIGINT)
    sys.setprofile(profile)
"""

MACHINERY = (
    "savepoint_kernel",
    "ipykernel",
    "IPython/core/interactiveshell.py",
    "IPython/core/history.py",
    "IPython/core/events.py",
    "threading.py",
)


TIMELINE = tuple(f"savepoint_kernel/{room}/" for room in ("history", "state", "serialize"))
"""Thousands of calls for each cell, in which nothing raises."""


def walk(
    kernel: Kernel,
    code: str,
    files: tuple[str, ...],
    step: int,
    place: Path,
    apart: tuple[str, ...] = TIMELINE,
) -> None:
    """Interrupt the end of a cell, then what lies between, then all of the next: at each point.

    Behind the reply another interrupt is sent, which is for nobody.
    """
    kernel.ok(AIM)
    kernel.run("1 / 0")  # loads what formats tracebacks
    for count in range(1, 100_000, step):
        place.unlink(missing_ok=True)
        try:
            cells = [kernel.start(f"aim({count}, {files!r}, {apart!r}, {str(place)!r})")]
            results = [kernel.finish(cells[0])]
            cells.append(kernel.start(code))
            reply = kernel.reply(cells[1])
            kernel.interrupt()
            results.append(Result(reply, kernel.idle(cells[1])))
            for result in results:
                if result.content["status"] == "ok":
                    assert result.of("error") == []
                else:
                    assert_interrupted(result)
            assert_works(kernel)
            for channel in ("shell", "iopub"):
                assert kernel.unclaimed(channel, cells) == []
        except Exception as error:
            where = place.read_text() if place.exists() else "nowhere"
            raise AssertionError(f"interrupted at {where}: {error!r}") from error
        if not place.exists():
            assert count > 20, "the walk ended too soon"
            return


@pytest.mark.parametrize(
    "code",
    [
        "1 + 1",
        "print(1)",
        "import asyncio\nawait asyncio.sleep(0)",
        "import asyncio\nawait asyncio.create_task(asyncio.sleep(0, 1))",
    ],
    ids=["sync", "printing", "async", "child task"],
)
def test_interrupt_anywhere_in_the_kernels_code_loses_nothing(own_kernel, tmp_path, code):
    walk(own_kernel, code, MACHINERY, 7, tmp_path / "place")


def test_interrupt_anywhere_in_a_write_leaves_the_next_one_in_time(own_kernel, gate, tmp_path):
    files = ("savepoint_kernel/output.py", "tornado/platform/asyncio.py", "asyncio/base_events.py")
    walk(own_kernel, "print(1, end='')", files, 1, tmp_path / "place")
    cell = own_kernel.start(f"print('no end', end='')\n{gate.wait};")
    own_kernel.stream(cell, "no end")
    gate.open()
    own_kernel.finish(cell)


def test_interrupt_anywhere_in_the_timeline_loses_nothing(own_kernel, tmp_path):
    walk(own_kernel, "x = [1, 2]", TIMELINE, 250, tmp_path / "place", apart=())


@pytest.mark.parametrize("code", ["1 + 1", "import os\nprint(1)\n_ = os.write(1, b'2')\nprint(3)"])
def test_interrupt_anywhere_around_a_lock_leaves_none_locked(own_kernel, tmp_path, code):
    """One that is leaves the kernel hanging, not in this cell but in the next."""
    walk(own_kernel, code, ("threading.py", "interrupts.py"), 2, tmp_path / "place")
