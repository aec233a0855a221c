"""stdout, stderr and displays: prompt, complete, ordered, in the right cell, in bounded memory."""

from __future__ import annotations

import itertools
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from .harness import PATIENCE, Kernel, Message, Result, parent_id, start_kernel

MB = 1_000_000

C_LIBRARY = "import ctypes, os, subprocess, sys, threading\nlibc = ctypes.CDLL(None)\n"

HOLD_GIL = """
import ctypes, os, time

def quiet():
    '''Return once the output of earlier cells is no burst any more (it lasts 10 ms).'''
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass

def wait_holding_the_gil(path):
    '''Wait for the test; no other thread of the kernel runs meanwhile.'''
    fd = os.open(path, os.O_RDONLY)
    ctypes.PyDLL(None).read(fd, ctypes.create_string_buffer(1), 1)
    os.close(fd)
"""

BOTH_STREAMS = pytest.mark.parametrize("stream", ["stdout", "stderr"])


def in_order(messages: list[Message]) -> list[tuple[str, str]]:
    """Text of stream messages, with neighbours of the same stream put together."""
    pairs = ((m["content"]["name"], m["content"]["text"]) for m in messages)
    return [
        (name, "".join(text for _, text in group))
        for name, group in itertools.groupby(pairs, key=lambda pair: pair[0])
    ]


# -- when: as soon as a line is complete, soon otherwise -----------------------------------------


@BOTH_STREAMS
@pytest.mark.parametrize("end", ["\n", ""], ids=["line", "line without an end"])
def test_text_arrives_while_the_cell_still_runs(kernel, gate, stream, end):
    cell = kernel.start(f"import sys\nprint('first', end={end!r}, file=sys.{stream})\n{gate.wait};")
    message = kernel.stream(cell, "first")
    assert message["content"] == {"name": stream, "text": f"first{end}"}
    gate.open()
    assert kernel.finish(cell).content["status"] == "ok"


@pytest.mark.parametrize("fd", [1, 2])
def test_text_of_c_code_arrives_while_the_cell_still_runs(kernel, gate, fd):
    cell = kernel.start(f"import os\nos.write({fd}, b'no end')\n{gate.wait};")
    message = kernel.stream(cell, "no end")
    assert message["content"] == {"name": ["stdout", "stderr"][fd - 1], "text": "no end"}
    gate.open()
    assert kernel.finish(cell).content["status"] == "ok"


def test_text_of_a_child_process_arrives_while_it_runs(kernel, gate):
    cell = kernel.start(
        "import subprocess, sys\n"
        f"child = [sys.executable, '-c', \"print('child', flush=True); {gate.wait}\"]\n"
        "subprocess.run(child).returncode"
    )
    kernel.stream(cell, "child")
    gate.open()
    assert kernel.finish(cell).value == "0"


@pytest.mark.parametrize(
    "first",
    ["print('first')", "print('first', end='', flush=True)", "sys.stdout.write('first\\n');"],
    ids=["line", "flushed", "write"],
)
def test_start_of_a_burst_leaves_before_anything_else_happens(kernel, gate, tmp_path, first):
    """The writing thread itself sends it: with the GIL held from then on, no other could."""
    kernel.ok(HOLD_GIL)
    path = str(tmp_path / "gate")
    cell = kernel.start(f"import sys\nquiet()\n{first}\nwait_holding_the_gil({path!r})")
    kernel.stream(cell, "first")
    gate.open()
    assert kernel.finish(cell).content["status"] == "ok"


def test_flush_sends_the_rest_of_a_burst(kernel, gate, tmp_path):
    kernel.ok(HOLD_GIL)
    path = str(tmp_path / "gate")
    cell = kernel.start(
        "import sys\nfor i in range(100): print(i)\nprint('last', end='')\n"
        f"sys.stdout.flush()\nwait_holding_the_gil({path!r})"
    )
    kernel.stream(cell, "last")
    gate.open()
    assert kernel.finish(cell).content["status"] == "ok"


def test_prompt_of_input_comes_after_all_output(kernel):
    cell = kernel.start(
        "import os\nprint('python', end='')\nos.write(1, b' and C')\nname = input('?')"
    )
    prompt = kernel.prompt(cell)
    # Published before the prompt was sent: it is here without waiting for anything in the kernel.
    kernel.answer(prompt, "")
    result = kernel.finish(cell)
    assert result.text() == "python and C"


# -- in which order ------------------------------------------------------------------------------


def test_python_c_code_and_children_keep_their_order(kernel):
    result = kernel.ok(
        "import os, subprocess\n"
        "for i in range(5):\n"
        "    print('python', i)\n"
        "    os.write(1, b'C\\n')\n"
        "    os.system('echo shell')\n"
        "    subprocess.run(['echo', 'child'])\n"
        "    print('again')\n"
    )
    assert result.text() == "".join(f"python {i}\nC\nshell\nchild\nagain\n" for i in range(5))


def test_parts_of_a_line_from_python_and_c_code_keep_their_order(kernel):
    result = kernel.ok(
        "import os\n"
        "for i in range(200):\n"
        "    print('a', end='')\n"
        "    os.write(1, b'b')\n"
        "    print('c')\n"
    )
    assert result.text() == "abc\n" * 200


def test_output_of_a_child_comes_before_the_end_of_the_line_that_announced_it(kernel):
    result = kernel.ok(
        "import os\n"
        "for i in range(20):\n"
        "    print('build... ', end='', flush=True)\n"
        "    os.system('printf compiling')\n"
        "    print(' done')\n"
    )
    assert result.text() == "build... compiling done\n" * 20


def test_stdout_and_stderr_keep_their_order(kernel):
    result = kernel.ok(
        "import sys\n"
        "for i in range(50):\n"
        "    print('out', i)\n"
        "    print('err', i, file=sys.stderr)\n"
        "    print('part', end='')\n"
        "    print('err', end='', file=sys.stderr)\n"
    )
    expected = []
    for i in range(50):
        expected += [("stdout", f"out {i}\n"), ("stderr", f"err {i}\n")]
        expected += [("stdout", "part"), ("stderr", "err")]
    assert in_order(result.of("stream")) == expected


def test_c_code_on_stderr_and_python_on_stdout_keep_their_order(kernel):
    result = kernel.ok(
        "import os, sys\n"
        "for i in range(20):\n"
        "    os.write(2, b'C\\n')\n"
        "    print('python')\n"
        "    os.write(1, b'C\\n')\n"
        "    print('python', file=sys.stderr)\n"
    )
    expected = [("stderr", "C\n"), ("stdout", "python\nC\n"), ("stderr", "python\n")] * 20
    # stderr ends one round and begins the next
    merged: list[tuple[str, str]] = []
    for name, text in expected:
        if merged and merged[-1][0] == name:
            merged[-1] = (name, merged[-1][1] + text)
        else:
            merged.append((name, text))
    assert in_order(result.of("stream")) == merged


def test_text_display_and_result_keep_their_order(kernel):
    result = kernel.ok("print('before')\ndisplay('shown')\nprint('after', end='')\n'result'")
    shape = [
        m["content"].get("text") or m["content"]["data"]["text/plain"]
        for m in result.iopub
        if m["msg_type"] in ("stream", "display_data", "execute_result")
    ]
    assert shape == ["before\n", "'shown'", "after", "'result'"]


def test_text_comes_before_the_traceback(kernel):
    result = kernel.run("import os\nprint('python')\nos.write(1, b'C\\n')\n1 / 0")
    order = [m["msg_type"] for m in result.iopub if m["msg_type"] in ("stream", "error")]
    assert order[-1] == "error"
    assert "error" not in order[:-1]
    assert result.text() == "python\nC\n"


# -- all of it: C code and children, before the cell is idle -------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        "libc.write(1, b'x' * 100_000, 100_000)",
        "libc.printf(b'%s', b'x' * 100_000), libc.fflush(None)",
        "os.write(1, b'x' * 100_000)",
        "subprocess.run([sys.executable, '-c', 'print(\"x\" * 100_000, end=\"\")'])",
        "threading.Thread(target=os.write, args=(1, b'x' * 100_000)).run()",
    ],
    ids=["write", "printf", "os.write", "child", "thread"],
)
def test_output_below_python_is_complete_when_the_cell_is_idle(kernel, write):
    assert kernel.ok(f"{C_LIBRARY}{write};").text() == "x" * 100_000


def test_c_code_that_prints_100_kb_with_the_gil_held_does_not_hang(kernel):
    result = kernel.ok(
        "import ctypes\nlibc = ctypes.PyDLL(None)\n"
        "_ = libc.printf(b'%s', b'x' * 100_000), libc.fflush(None)"
    )
    assert result.text() == "x" * 100_000


def test_background_child_that_never_stops_writing_does_not_hold_up_the_end(kernel):
    cell = kernel.start(
        "import subprocess\nchild = subprocess.Popen(['sh', '-c', 'while :; do echo on; done'])"
    )
    kernel.stream(cell, "on")
    kernel.idle(cell)
    assert kernel.reply(cell)["content"]["status"] == "ok"
    end = kernel.start("child.kill(); child.wait()")
    kernel.idle(end)
    assert kernel.reply(end)["content"]["status"] == "ok"


# -- as text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", ["é", "€", "😀"])
@pytest.mark.parametrize("size", [1, 3, 999, 4097, 65537])
def test_code_points_written_in_pieces_stay_whole(kernel, character, size):
    count = 100_000 if size > 3 else 5_000
    result = kernel.ok(
        f"import os\ndata = {character!r}.encode() * {count}\n"
        f"for i in range(0, len(data), {size}): os.write(1, data[i : i + {size}])"
    )
    assert result.text() == character * count


def test_code_points_printed_at_the_edge_of_a_message_stay_whole(kernel):
    text = "a" + "😀é" * 100_000
    assert kernel.ok("print('a' + '😀é' * 100_000, end='')").text() == text


def test_invalid_bytes_are_replaced(kernel):
    result = kernel.ok("import os\nos.write(1, b'a\\xffb\\xc3(\\xf0\\x9f\\n');")
    assert result.text() == "a\ufffdb\ufffd(\ufffd\n"


def test_bytes_of_half_a_code_point_wait_for_the_other_half(kernel):
    first = kernel.ok("import os\nos.write(1, b'caf\\xc3');")
    second = kernel.ok("os.write(1, b'\\xa9\\n');")
    assert first.text() == "caf"
    assert second.text() == "é\n"


@pytest.mark.parametrize("before", ["", "print('first')\n"], ids=["alone", "in a burst"])
def test_lone_surrogate_costs_no_other_output(kernel, before):
    """It has no UTF-8; a terminal refuses it too. Whatever becomes of it, the cell gets a reply."""
    result = kernel.run(f"{before}print('\\ud800')\nprint('last')")
    assert "savepoint" in result.reply["metadata"]
    if result.content["status"] == "ok":
        assert result.text().endswith("last\n")
    else:
        assert result.content["ename"] == "UnicodeEncodeError"
    assert kernel.ok("print('next')").text() == "next\n"


# -- which cell: threads, tasks, children --------------------------------------------------------


THREADS = """
import asyncio, logging, queue, sys, threading
orders = queue.Queue()

def run_orders(orders=orders):
    '''Run what later cells ask for, in the thread this was started in.'''
    while (order := orders.get()) is not None:
        order()
        orders.task_done()

def order(function):
    orders.put(function)
    orders.join()
"""


@contextmanager
def thread_started_by(kernel: Kernel, code: str) -> Iterator[str]:
    """Run ``code``, which starts a thread that does `run_orders`; gives the cell's id."""
    kernel.ok(THREADS)
    cell = kernel.start(code)
    kernel.finish(cell)
    yield cell
    kernel.ok("orders.put(None)")


def let_other_requests_pass(kernel: Kernel) -> None:
    """Run a cell and a completion: stock ipykernel would take each for the source of output."""
    kernel.ok("print('another cell')")
    kernel.reply(kernel.send("complete_request", {"code": "imp", "cursor_pos": 3}))


@pytest.mark.parametrize(
    "start",
    [
        "threading.Thread(target=run_orders).start()",
        "threading.Thread(target=lambda: threading.Thread(target=run_orders).start()).start()",
        "threading.Timer(0, run_orders).start()",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(1)\n_ = pool.submit(run_orders)",
        "await asyncio.sleep(0)\nthreading.Thread(target=run_orders).start()",
    ],
    ids=["thread", "nested thread", "timer", "executor", "async cell"],
)
@BOTH_STREAMS
def test_thread_prints_into_the_cell_that_started_it(kernel, start, stream):
    with thread_started_by(kernel, start) as cell:
        for number in range(3):
            let_other_requests_pass(kernel)
            other = kernel.ok(f"order(lambda: print('late', {number}, file=sys.{stream}))")
            assert other.of("stream") == []
            message = kernel.stream(cell, f"late {number}\n")
            assert message["content"]["name"] == stream


def test_thread_prints_into_its_cell_while_no_cell_runs(kernel, gate):
    kernel.ok(THREADS)
    cell = kernel.start(
        f"def work():\n    {gate.wait}\n    print('late')\n"
        "thread = threading.Thread(target=work)\nthread.start()"
    )
    kernel.finish(cell)
    let_other_requests_pass(kernel)
    gate.open()
    kernel.stream(cell, "late\n")
    kernel.ok("thread.join()")


def test_thread_started_late_prints_into_the_cell_of_the_thread_that_started_it(kernel):
    with thread_started_by(kernel, "threading.Thread(target=run_orders).start()") as cell:
        let_other_requests_pass(kernel)
        other = kernel.ok(
            "def start_another():\n"
            "    inner = threading.Thread(target=print, args=('from within',))\n"
            "    inner.start()\n    inner.join()\n"
            "order(start_another)"
        )
        assert other.text() == ""
        kernel.stream(cell, "from within\n")


def test_each_thread_prints_into_its_own_cell(kernel):
    kernel.ok(THREADS + "barrier = threading.Barrier(6)")
    cells = [
        kernel.start(
            f"def work{n}():\n"
            "    barrier.wait()\n"
            f"    for i in range(100): print('thread {n}')\n"
            f"thread{n} = threading.Thread(target=work{n})\nthread{n}.start()"
        )
        for n in range(5)
    ]
    for cell in cells:
        kernel.reply(cell)
    end = kernel.ok(
        "barrier.wait()\n"
        "for t in (thread0, thread1, thread2, thread3, thread4): t.join()\n"
        "import sys\nsys.stdout.flush()"
    )
    assert end.text() == ""
    for n, cell in enumerate(cells):
        mine = Result({}, kernel.unclaimed("iopub", [cell]))
        assert mine.text() == f"thread {n}\n" * 100


def test_thread_displays_in_the_cell_that_started_it(kernel):
    with thread_started_by(kernel, "threading.Thread(target=run_orders).start()") as cell:
        let_other_requests_pass(kernel)
        other = kernel.ok("order(lambda: display('late'))")
        assert other.of("display_data") == []
        message = kernel.wait("iopub", lambda m: m["msg_type"] == "display_data")
        assert parent_id(message) == cell
        assert message["content"]["data"]["text/plain"] == "'late'"


def test_thread_logs_into_the_cell_that_started_it(kernel):
    with thread_started_by(kernel, "threading.Thread(target=run_orders).start()") as cell:
        let_other_requests_pass(kernel)
        other = kernel.ok("order(lambda: logging.getLogger('mine').warning('careful'))")
        assert other.of("stream") == []
        kernel.stream(cell, "careful")


def test_exception_of_a_thread_is_reported_in_the_cell_that_started_it(kernel, gate):
    cell = kernel.start(
        f"import threading\ndef work():\n    {gate.wait}\n    raise RuntimeError('in thread')\n"
        "thread = threading.Thread(target=work)\nthread.start()"
    )
    kernel.finish(cell)
    let_other_requests_pass(kernel)
    gate.open()
    assert kernel.stream(cell, "in thread")["content"]["name"] == "stderr"
    kernel.ok("thread.join()")


def test_running_cell_keeps_its_output_beside_a_printing_thread(kernel):
    with thread_started_by(kernel, "threading.Thread(target=run_orders).start()") as cell:
        other = kernel.ok(
            "for i in range(20):\n"
            "    print('mine', i)\n"
            "    order(lambda: print('theirs'))\n"
            "sys.stdout.flush()"
        )
        assert other.text() == "".join(f"mine {i}\n" for i in range(20))
        theirs = Result({}, kernel.unclaimed("iopub", [cell]))
        assert theirs.text() == "theirs\n" * 20


def test_background_task_prints_into_the_cell_that_created_it(kernel):
    kernel.ok(THREADS + "go = asyncio.Event()")
    cell = kernel.start(
        "async def work():\n    await go.wait()\n    print('late')\n"
        "task = asyncio.create_task(work())"
    )
    kernel.finish(cell)
    let_other_requests_pass(kernel)
    other = kernel.ok("go.set()\nawait task\nprint('mine')")
    assert other.text() == "mine\n"
    kernel.stream(cell, "late\n")


def test_child_that_outlives_its_cell_prints_into_the_last_cell(kernel, gate):
    """Bytes have no sender, but no completion may swallow them."""
    cell = kernel.start(
        "import subprocess, sys\n"
        f'child = subprocess.Popen([sys.executable, "-c", "{gate.wait}; print(\'late\')"])'
    )
    kernel.finish(cell)
    kernel.reply(kernel.send("complete_request", {"code": "imp", "cursor_pos": 3}))
    gate.open()
    kernel.stream(cell, "late")
    kernel.ok("child.wait()")


# -- forked children -----------------------------------------------------------------------------


def test_forked_child_prints_into_the_cell(kernel):
    result = kernel.ok(
        "import os\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    for i in range(10): print('child', i)\n"
        "    print('end of child')\n"
        "    os._exit(0)\n"
        "_ = os.waitpid(pid, 0)\n"
        "print('end of parent')",
    )
    assert result.text() == "".join(f"child {i}\n" for i in range(10)) + (
        "end of child\nend of parent\n"
    )


def test_forked_child_does_not_repeat_what_its_parent_has_not_sent_yet(kernel):
    result = kernel.ok(
        "import os\n"
        "print('burst')\nprint('unsent')\nprint('unfinished', end=' ')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    print('end of child')\n    os._exit(0)\n"
        "_ = os.waitpid(pid, 0)\n"
        "print('end of parent')",
    )
    for word in ("burst", "unsent", "unfinished", "end of child", "end of parent"):
        assert result.text().count(word) == 1, result.text()


def test_forked_process_of_multiprocessing_prints_into_the_cell(kernel):
    result = kernel.ok(
        "import multiprocessing\n"
        "context = multiprocessing.get_context('fork')\n"
        "print('unsent')\nprint('unfinished', end=' ')\n"
        "process = context.Process(target=print, args=('end of child',))\n"
        "process.start()\nprocess.join()\n"
        "print('end of parent', process.exitcode)",
    )
    assert result.text() == "unsent\nunfinished end of child\nend of parent 0\n"


def test_forked_pool_of_multiprocessing_works(kernel):
    result = kernel.ok(
        "import multiprocessing\n"
        "print('burst')\nprint('unsent')\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    squares = pool.map(abs, range(-5, 0))\n"
        "squares"
    )
    assert result.value == "[5, 4, 3, 2, 1]"
    assert result.text() == "burst\nunsent\n"


def test_forked_child_writes_below_python_into_the_cell(kernel):
    result = kernel.ok(
        "import os\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    os.write(1, b'child\\n')\n    os._exit(0)\n"
        "_ = os.waitpid(pid, 0)"
    )
    assert result.text() == "child\n"


# -- much of it ----------------------------------------------------------------------------------


def test_100_000_prints_lose_no_line_and_make_few_messages(kernel):
    result = kernel.ok("for i in range(100_000): print(i)")
    assert result.text() == "".join(f"{i}\n" for i in range(100_000))
    assert len(result.of("stream")) < 10_000


def test_tail_of_a_burst_arrives_while_the_cell_still_runs(kernel, gate):
    cell = kernel.start(f"for i in range(1000): print(i)\nprint('tail', end='')\n{gate.wait};")
    kernel.stream(cell, "tail")
    gate.open()
    kernel.finish(cell)


FLOODS = {
    "one print of 100 MB": ("text = 'x' * 100_000_000", "print(text, end='')"),
    "100 prints of 1 MB": (
        "text = 'x' * 1_000_000",
        "for _ in range(100): print(text, end='')",
    ),
    "100 000 prints of 1 kB": (
        "text = 'x' * 1_000",
        "for _ in range(100_000): print(text, end='')",
    ),
    "C code": (
        "import os; data = b'x' * 1_000_000",
        "for _ in range(100): os.write(1, data)",
    ),
    "child process": (
        "import subprocess, sys",
        "_ = subprocess.run(['sh', '-c', \"head -c 100000000 /dev/zero | tr '\\\\0' x\"])",
    ),
}
EVERY_FLOOD = pytest.mark.parametrize(("setup", "flood"), FLOODS.values(), ids=FLOODS)


class Memory:
    """Growth of a process's resident memory at its highest point."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # begin the record of the peak anew
        self._before = psutil.Process(pid).memory_info().rss

    def growth(self) -> int:
        """Return bytes between the beginning and the highest point since."""
        (line,) = (
            line for line in self._status.read_text().splitlines() if line.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024 - self._before


def received_bytes(kernel: Kernel, messages: list[Message]) -> int:
    """Size of stream messages as the kernel counts it: that of their content in JSON."""
    return sum(
        len(kernel.client.session.pack(m["content"])) for m in messages if m["msg_type"] == "stream"
    )


def read_what_was_not_dropped(kernel: Kernel, cell: str, stats: dict[str, Any]) -> int:
    """Read iopub until all that ``stats`` says was sent is here; returns how much came."""
    received = 0
    while received < stats["output_bytes"] - stats["dropped_bytes"]:
        message = kernel.wait(
            "iopub",
            lambda m: parent_id(m) == cell and m["msg_type"] == "stream",
            timeout=10,  # it is on its way: nothing has to happen in the kernel first
        )
        received += received_bytes(kernel, [message])
    return received


@pytest.fixture
def lean_kernel() -> Iterator[Kernel]:
    """A kernel that loads nothing of its own accord while its memory is measured."""
    with start_kernel("--SavepointKernel.warm_completer=False") as kernel:
        yield kernel


@EVERY_FLOOD
def test_flood_with_a_client_that_reads_is_complete_and_takes_little_memory(
    lean_kernel, setup, flood
):
    lean_kernel.ok(setup)
    memory = Memory(lean_kernel.pid)
    cell = lean_kernel.start(flood)
    messages = lean_kernel.idle(cell)
    reply = lean_kernel.reply(cell)
    growth = memory.growth()
    stats = reply["metadata"]["savepoint"]["stats"]
    assert reply["content"]["status"] == "ok"
    assert stats["dropped_bytes"] == 0
    text = Result(reply, messages).text()
    assert len(text) == 100 * MB
    assert text.count("x") == 100 * MB
    assert stats["output_bytes"] == received_bytes(lean_kernel, messages)
    assert growth < 64 * MB


@EVERY_FLOOD
def test_flood_with_a_client_that_does_not_read_ends_and_takes_little_memory(
    lean_kernel, setup, flood
):
    lean_kernel.ok(setup)
    memory = Memory(lean_kernel.pid)
    cell = lean_kernel.start(flood)
    reply = lean_kernel.reply(cell)
    growth = memory.growth()
    assert reply["content"]["status"] == "ok"
    stats = reply["metadata"]["savepoint"]["stats"]
    assert 0 < stats["dropped_bytes"] < stats["output_bytes"]
    assert stats["output_bytes"] >= 100 * MB
    assert growth < 64 * MB

    # The client comes back: what it missed is what was said to be dropped, and nothing else is.
    received = read_what_was_not_dropped(lean_kernel, cell, stats)
    assert received == stats["output_bytes"] - stats["dropped_bytes"]
    following = lean_kernel.start("print('next')")
    messages = lean_kernel.idle(following)
    assert Result(lean_kernel.reply(following), messages).text() == "next\n"
    assert [m["content"]["execution_state"] for m in messages if m["msg_type"] == "status"] == [
        "busy"
    ]


@pytest.mark.parametrize("write", ["print(text, end='')", "os.write(1, data)"])
def test_flood_with_a_client_that_reads_slower_than_it_comes_takes_little_memory(
    lean_kernel, progress, write
):
    """It is never stuck, so nothing is dropped: the cell has to go at its pace."""
    lean_kernel.ok(f"{progress.setup}\ndata = text.encode()")
    memory = Memory(lean_kernel.pid)
    cell = lean_kernel.start(f"for _ in range(250):\n    {write}\n    os.write(progress, b'.')")
    received = 0
    while progress.steps < 250:
        progress.moves(0.005)
        for _ in range(10):
            received += received_bytes(lean_kernel, [lean_kernel.client.get_iopub_msg(timeout=10)])
    growth = memory.growth()
    messages = lean_kernel.idle(cell)
    reply = lean_kernel.reply(cell)
    assert growth < 64 * MB
    assert reply["metadata"]["savepoint"]["stats"]["dropped_bytes"] == 0
    assert received + received_bytes(lean_kernel, messages) > 250 * MB


class Progress:
    """What a cell has written, told on a way of its own: one byte for each MB."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.steps = 0
        self.setup = (
            f"import itertools, os\nprogress = os.open({str(path)!r}, os.O_WRONLY)\n"
            "text = 'x' * 1_000_000"
        )
        self.flood = (
            "for steps in itertools.count(1):\n"
            "    print(text, end='')\n"
            "    os.write(progress, b'.')"
        )

    def wait_for(self, steps: int) -> None:
        while self.steps < steps:
            assert self.moves(PATIENCE)

    def wait_for_a_stop(self) -> None:
        while self.moves(0.3):
            pass

    def moves(self, timeout: float) -> bool:
        ready, _, _ = select.select([self.fd], [], [], timeout)
        if ready:
            self.steps += len(os.read(self.fd, 1000))
        return bool(ready)


@pytest.fixture
def progress(tmp_path: Path) -> Iterator[Progress]:
    progress = Progress(tmp_path / "progress")
    yield progress
    os.close(progress.fd)


def assert_interrupted(reply: Message) -> None:
    assert reply["content"]["ename"] == "KeyboardInterrupt", reply["content"]
    assert reply["metadata"]["savepoint"]["failure_kind"] == "interrupt"


@pytest.mark.parametrize("how", ["signal", "message"])
def test_flood_nobody_reads_can_be_interrupted_at_any_point(lean_kernel, progress, how):
    lean_kernel.ok(progress.setup)
    for steps in (1, 30, 60, 200):
        before = progress.steps
        cell = lean_kernel.start(progress.flood)
        progress.wait_for(before + steps)
        lean_kernel.interrupt(how)
        assert_interrupted(lean_kernel.reply(cell))


@pytest.mark.parametrize("how", ["signal", "message"])
def test_writer_held_back_by_a_client_that_does_not_read_can_be_interrupted(
    lean_kernel, progress, how
):
    lean_kernel.ok(progress.setup)
    memory = Memory(lean_kernel.pid)
    cell = lean_kernel.start(progress.flood)
    progress.wait_for_a_stop()
    held_at = progress.steps
    lean_kernel.interrupt(how)
    reply = lean_kernel.reply(cell)
    assert_interrupted(reply)
    while progress.moves(0):
        pass
    assert progress.steps == held_at, "the print that was held back went on to its end"
    assert memory.growth() < 64 * MB
    stats = reply["metadata"]["savepoint"]["stats"]
    assert stats["dropped_bytes"] > 0  # the rest of the print that was interrupted
    read_what_was_not_dropped(lean_kernel, cell, stats)
    following = lean_kernel.start("print('next')")
    assert Result({}, lean_kernel.idle(following)).text() == "next\n"


def test_completion_is_answered_while_a_flood_is_held_back(lean_kernel, progress):
    lean_kernel.ok(progress.setup)
    cell = lean_kernel.start(progress.flood)
    progress.wait_for_a_stop()
    request = lean_kernel.send("complete_request", {"code": "itertools.cou", "cursor_pos": 13})
    reply = lean_kernel.reply(request)
    assert any(match.endswith("count") for match in reply["content"]["matches"])
    lean_kernel.interrupt()
    assert_interrupted(lean_kernel.reply(cell))


# -- the stream objects --------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["b'bytes'", "1", "None"])
def test_write_takes_only_text(kernel, value):
    result = kernel.run(f"import sys\nsys.stdout.write({value})")
    assert result.content["ename"] == "TypeError"
    assert result.text() == ""


def test_write_returns_the_number_of_characters(kernel):
    result = kernel.ok("import sys\nsys.stdout.write('é😀\\n')")
    assert result.value == "3"
    assert result.text() == "é😀\n"


def test_stream_is_a_text_stream(kernel):
    result = kernel.ok(
        "import io, sys\nsys.stdout.writelines(['a\\n', 'b\\n'])\n"
        "isinstance(sys.stdout, io.TextIOBase), sys.stdout.encoding, sys.stdout.writable(), "
        "sys.stdout.isatty(), sys.stdout.closed"
    )
    assert result.text() == "a\nb\n"
    assert result.value == "(True, 'UTF-8', True, False, False)"


def test_child_gets_stdout_as_its_stream(kernel):
    result = kernel.ok(
        "import subprocess, sys\nsubprocess.run(['echo', 'child'], stdout=sys.stdout).returncode"
    )
    assert result.value == "0"


@pytest.mark.parametrize("line", ["print()", "print('')", "print('', end='')"])
def test_empty_text(kernel, line):
    assert kernel.ok(line).text() == ("" if "end" in line else "\n")


def test_progress_bar_redraws_its_line(kernel):
    result = kernel.ok(
        "import sys\n"
        "for i in range(101):\n    print(f'\\r{i:3d}%', end='', file=sys.stderr)\n"
        "    sys.stderr.flush()\n"
        "print(file=sys.stderr)"
    )
    assert result.text("stderr") == "".join(f"\r{i:3d}%" for i in range(101)) + "\n"


def test_redirected_output_is_not_published(kernel):
    result = kernel.ok(
        "import contextlib, io\n"
        "print('before')\n"
        "with contextlib.redirect_stdout(io.StringIO()) as inside:\n    print('hidden')\n"
        "print('after')\n"
        "inside.getvalue()"
    )
    assert result.text() == "before\nafter\n"
    assert result.value == r"'hidden\n'"


def test_replaced_stdout_stays_replaced_until_the_user_puts_it_back(kernel):
    kernel.ok("import io, sys\noriginal, sys.stdout = sys.stdout, io.StringIO()")
    kernel.reply(kernel.send("complete_request", {"code": "imp", "cursor_pos": 3}))
    assert kernel.ok("print('hidden')").of("stream") == []
    kernel.ok("replaced, sys.stdout = sys.stdout, original")
    assert kernel.ok("print('seen')").text() == "seen\n"
    assert kernel.eval("replaced.getvalue()") == r"'hidden\n'"


def test_stdout_put_back_in_another_cell_prints_into_that_cell(kernel):
    kernel.ok("import io, sys\noriginal, sys.stdout = sys.stdout, io.StringIO()")
    result = kernel.ok("sys.stdout = original\nprint('seen')")
    assert result.text() == "seen\n"


def test_thread_started_while_stdout_is_replaced_prints_into_its_cell_afterwards(kernel):
    kernel.ok(THREADS)
    cell = kernel.start(
        "import contextlib, io\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    threading.Thread(target=run_orders).start()"
    )
    kernel.finish(cell)
    let_other_requests_pass(kernel)
    other = kernel.ok("order(lambda: print('late')); orders.put(None)")
    assert other.text() == ""
    kernel.stream(cell, "late\n")


def test_thread_started_while_stdout_is_replaced_prints_there(kernel):
    result = kernel.ok(
        "import contextlib, io, threading\n"
        "with contextlib.redirect_stdout(io.StringIO()) as inside:\n"
        "    thread = threading.Thread(target=print, args=('hidden',))\n"
        "    thread.start()\n    thread.join()\n"
        "inside.getvalue()"
    )
    assert result.of("stream") == []
    assert result.value == r"'hidden\n'"


def test_capture_magic_takes_text_and_displays(kernel):
    result = kernel.ok(
        "%%capture captured\nimport sys\nprint('out')\nprint('err', file=sys.stderr)\ndisplay('it')"
    )
    assert result.of("stream") == result.of("display_data") == []
    values = kernel.ok("captured.stdout, captured.stderr, len(captured.outputs)").value
    assert values == r"('out\n', 'err\n', 1)"


def test_capture_output_of_ipython_takes_text(kernel):
    result = kernel.ok(
        "from IPython.utils.capture import capture_output\n"
        "with capture_output() as captured:\n    print('hidden')\n"
        "print('seen')\ncaptured.stdout"
    )
    assert result.text() == "seen\n"
    assert result.value == r"'hidden\n'"


def test_shell_escape_publishes_what_the_command_prints(kernel):
    assert kernel.ok("!echo hello").text().replace("\r\n", "\n") == "hello\n"


def test_clear_output_comes_after_the_text_before_it(kernel):
    result = kernel.ok(
        "from IPython.display import clear_output\nprint('old')\nclear_output()\nprint('new')"
    )
    order = [m["msg_type"] for m in result.iopub if m["msg_type"] in ("stream", "clear_output")]
    assert order == ["stream", "clear_output", "stream"]


def test_threads_that_print_at_once_lose_nothing(kernel):
    result = kernel.ok(
        "import threading\n"
        "def work(n):\n    for i in range(1000): print(f'{n}-{i}\\n', end='')\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()"
    )
    lines = result.text().splitlines()
    assert sorted(lines) == sorted(f"{n}-{i}" for n in range(8) for i in range(1000))
    for n in range(8):
        mine = [line for line in lines if line.startswith(f"{n}-")]
        assert mine == [f"{n}-{i}" for i in range(1000)]
