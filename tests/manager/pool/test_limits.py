"""Limits of a kernel: the same whether it was started or comes from the pool."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from traitlets import TraitError

from savepoint_kernel.exits import CELL_SIGNAL, Exceeded
from savepoint_kernel.limits import Bytes
from savepoint_manager.causes import OutOfMemory, cause_of, oom_counter
from tests.kernel.harness import Kernel, Result

from .harness import Pool, await_end, until
from .test_lifetimes import exit_status

Limited = Callable[..., AbstractContextManager[Kernel]]

UNSAVED = "--Savepoints.enabled=False"

LEAK = "held = []\nwhile True: held.append(bytearray(1_000_000))"
STUBBORN = """
import time
while True:
    try:
        while True: {}; time.sleep(0.001)
    except (KeyboardInterrupt, MemoryError):
        pass
"""
WITHOUT_END = "import itertools; sum(itertools.repeat(0))"
"""It keeps the GIL and takes no interrupt."""

CHILD = """
import subprocess, sys
def start(code="0"):
    child = subprocess.Popen([sys.executable, "-c", f"{code}; input()"], stdin=subprocess.PIPE,
                             start_new_session=True)
    return child
"""


@pytest.fixture(params=["started", "from the pool"])
def limited(request: pytest.FixtureRequest, pool: Pool) -> Limited:
    """Opens a kernel with options; the grace is short."""

    @contextmanager
    def open_kernel(*options: str) -> Iterator[Kernel]:
        given = any(option.startswith("--Limits.grace=") for option in options)
        arguments = [*options] if given else ["--Limits.grace=1", *options]
        if request.param == "started":
            with pool.kernel(*arguments, env={**pool.env, "SAVEPOINT_POOL": "0"}) as kernel:
                yield kernel
        else:
            with pool.warm_kernel(*arguments) as kernel:
                yield kernel

    return open_kernel


def limits_of(kernel: Kernel) -> dict[str, dict[str, Any]]:
    """Ask for the limits and what is used."""
    asked = kernel.send("savepoint_status_request", channel="control")
    return kernel.reply(asked, channel="control")["content"]["limits"]


def failed(kernel: Kernel, code: str, ename: str, kind: str = "limit", **request: Any) -> Result:
    """Run a cell that must fail so."""
    result = kernel.run(code, **request)
    assert (result.content["status"], result.content.get("ename")) == ("error", ename)
    assert result.savepoint["failure_kind"] == kind
    return result


# -- memory


def test_cell_that_takes_too_much_memory_ends_and_the_session_does_not(
    limited: Limited, kernel: Kernel
) -> None:
    with limited("--Limits.memory=300MB") as limit:
        limit.ok("before = 1")
        result = failed(limit, LEAK, "MemoryLimitExceeded")
        assert "it may use 300 MB (Limits.memory)" in result.content["evalue"]
        assert result.text("stderr").count("it may use 300 MB (Limits.memory)") == 1
        limit.ok("del held")
        assert limit.eval("before") == "1"
        memory = limits_of(limit)["memory"]
        assert memory["limit"] == 300_000_000
        assert memory["peak"] > 270_000_000
    assert kernel.eval("6 * 7") == "42"


def test_what_a_failed_function_held_is_let_go(limited: Limited) -> None:
    with limited("--Limits.memory=300MB", UNSAVED) as limit:
        limit.ok("def leak():\n    held = []\n    while True: held.append(bytearray(1_000_000))")
        failed(limit, "leak()", "MemoryLimitExceeded")
        assert limits_of(limit)["memory"]["used"] < 150_000_000


def test_allocation_far_over_the_limit_fails_at_once(limited: Limited) -> None:
    with limited("--Limits.memory=300MB") as limit:
        result = failed(limit, "list(range(10**10))", "MemoryError", "exception")
        assert "it may use 300 MB (Limits.memory)" in result.text("stderr")
        assert limit.eval("6 * 7") == "42"


def test_kernel_that_goes_on_taking_memory_ends_with_its_commits_written(
    limited: Limited, tmp_path: Path
) -> None:
    session = f"--Savepoints.directory={tmp_path}", "--Savepoints.session=full"
    with limited("--Limits.memory=300MB", *session) as limit:
        limit.ok("kept = 1")
        cell = limit.start("held = []\n" + STUBBORN.format("held.append(bytearray(1_000_000))"))
        assert "it may use 300 MB" in limit.stream(cell, "The kernel ends")["content"]["text"]
        assert exit_status(limit) == Exceeded.MEMORY
    with limited(*session, "--Savepoints.restore_on_start=True") as again:
        assert again.eval("kept") == "1"


def test_idle_kernel_that_stays_over_its_limit_ends(limited: Limited) -> None:
    with limited("--Limits.memory=300MB", "--Limits.grace=0.2", UNSAVED) as limit:
        limit.ok("import threading")
        cell = limit.start(
            "threading.Timer(0.3, lambda: globals().update(held=bytes(1) * 400_000_000)).start()"
        )
        limit.stream(cell, "or ends in 2 s")
        assert exit_status(limit) == Exceeded.MEMORY


def test_memory_of_child_processes_counts(limited: Limited) -> None:
    with limited("--Limits.memory=300MB") as limit:
        limit.ok(CHILD)
        failed(limit, "start('x = bytes(1) * 400_000_000').wait()", "MemoryLimitExceeded")


def test_kernel_ends_with_the_child_that_takes_too_much_in_the_background(
    limited: Limited,
) -> None:
    with limited("--Limits.memory=300MB") as limit:
        limit.ok(CHILD)
        result = limit.ok("start('x = bytes(1) * 400_000_000').pid")
        assert exit_status(limit) == Exceeded.MEMORY
        await_end(int(result.value))


def test_memory_that_forked_children_share_counts_once(limited: Limited) -> None:
    with limited("--Limits.memory=400MB", UNSAVED) as limit:
        limit.ok(
            "import os, time\n"
            "shared = bytes(1) * 200_000_000\n"
            "pids = []\n"
            "for _ in range(4):\n"
            "    pids.append(os.fork())\n"
            "    if not pids[-1]: time.sleep(600); os._exit(0)\n"
        )
        found = limits_of(limit)
        assert found["processes"]["used"] == 4
        assert 200_000_000 < found["memory"]["used"] < 360_000_000
        result = limit.ok("time.sleep(1)\nfor pid in pids: os.kill(pid, 9); os.waitpid(pid, 0)")
        assert result.text("stderr") == ""


# -- CPU time


def test_kernel_that_has_used_its_cpu_time_ends_once_the_cell_has_failed(
    limited: Limited, tmp_path: Path
) -> None:
    session = f"--Savepoints.directory={tmp_path}", "--Savepoints.session=cpu"
    with limited("--Limits.cpu_seconds=1.5", *session) as limit:
        result = failed(limit, "done = 1\nwhile True: pass", "CpuLimitExceeded")
        assert "(Limits.cpu_seconds)" in result.content["evalue"]
        assert exit_status(limit) == Exceeded.CPU
    with limited(*session, "--Savepoints.restore_on_start=True") as again:
        assert again.eval("done") == "1"


def test_cpu_time_ends_where_the_kernel_can_do_nothing(limited: Limited) -> None:
    with limited("--Limits.cpu_seconds=0.5") as limit:
        limit.start(WITHOUT_END)
        assert exit_status(limit) == -signal.SIGXCPU


# -- time of a cell


def test_cell_over_its_time_is_interrupted(limited: Limited) -> None:
    with limited("--Limits.cell_seconds=0.5") as limit:
        longer = {"savepoint": {"timeout": 60}}
        result = failed(
            limit, "__import__('time').sleep(60)", "ExecutionTimeout", "timeout", metadata=longer
        )
        assert "Limits.cell_seconds" in result.content["evalue"]
        assert limit.eval("6 * 7") == "42"


@pytest.mark.parametrize(
    ("cell", "status"),
    [(STUBBORN.format("pass"), Exceeded.CELL), (WITHOUT_END, -CELL_SIGNAL)],
    ids=["ignores the interrupt", "keeps the GIL"],
)
def test_kernel_whose_cell_goes_on_ends(limited: Limited, cell: str, status: int) -> None:
    with limited("--Limits.cell_seconds=0.5") as limit:
        limit.start(cell)
        assert exit_status(limit) == status


# -- processes and files


def test_newest_processes_over_the_limit_are_killed(limited: Limited) -> None:
    with limited("--Limits.processes=2") as limit:
        limit.ok(CHILD + "children = [start() for _ in range(2)]")
        result = failed(
            limit, "children.append(start())\nchildren[-1].wait()", "ProcessLimitExceeded"
        )
        assert "(Limits.processes)" in result.content["evalue"]
        limit.ok("children[-1].wait()")
        assert limits_of(limit)["processes"] == {"limit": 2, "used": 2}


def test_files_over_the_limit_do_not_open(limited: Limited) -> None:
    with limited("--Limits.open_files=300") as limit:
        code = "files = []\nfor _ in range(300): files.append(open('/dev/null'))"
        result = failed(limit, code, "OSError", "exception")
        assert "Too many open files" in result.content["evalue"]
        limit.ok("for file in files: file.close()")
        assert limits_of(limit)["open_files"]["used"] < 300


# -- what is asked for and told


def test_limits_that_are_not_reached_change_nothing(limited: Limited) -> None:
    with limited(
        "--Limits.memory=2GiB",
        "--Limits.cpu_seconds=600",
        "--Limits.processes=100",
        "--Limits.open_files=5000",
        "--Limits.cell_seconds=600",
    ) as limit:
        result = limit.ok("import subprocess; subprocess.run(['true']); print('done')")
        assert (result.text(), result.text("stderr")) == ("done\n", "")
        found = limits_of(limit)
        assert {name: each["limit"] for name, each in found.items()} == {
            "memory": 2 << 30,
            "cpu_seconds": 600,
            "processes": 100,
            "open_files": 5000,
            "cell_seconds": 600,
        }
        assert found["cell_seconds"]["used"] is None
        (shown,) = limit.ok("%savepoint status").of("display_data")
        assert "of 2.15 GB, " in shown["content"]["data"]["text/plain"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("memory=plenty", "'memory' trait"),
        ("memory=1MB", "the kernel itself uses"),
        ("open_files=10", "Limits.open_files=10: the kernel itself needs"),
        ("cpu_seconds=-1", "cpu_seconds"),
    ],
)
@pytest.mark.parametrize("pooled", ["0", "1"], ids=["started", "from the pool"])
def test_limit_that_can_not_be_is_named(
    pool: Pool, tmp_path: Path, option: str, said: str, pooled: str
) -> None:
    pool.have_standbys()
    manager = KernelManager(kernel_name="savepoint")
    with (tmp_path / "log").open("wb") as log:
        manager.start_kernel(
            extra_arguments=[f"--Limits.{option}"],
            env={**pool.env, "SAVEPOINT_POOL": pooled},
            stderr=log,
        )
    assert manager.provisioner.process.wait(timeout=60) == 1
    manager.cleanup_resources()
    manager.context.destroy(linger=0)
    assert said in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("1048576", 1 << 20), ("1.5 GB", 1_500_000_000), ("512MiB", 512 << 20)],
)
def test_bytes_have_units(text: str, number: int) -> None:
    assert Bytes().from_string(text) == number


@pytest.mark.parametrize("text", ["", "-1", "2 gigs", "GB", "1.2.3 MB", "1e9"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(TraitError):
        Bytes().from_string(text)


# -- why it ended


def test_end_nobody_asked_for_is_logged_once(
    limited: Limited, caplog: pytest.LogCaptureFixture
) -> None:
    with limited("--Limits.cell_seconds=0.5") as limit:
        manager = limit.manager
        limit.start(STUBBORN.format("pass"))
        until(lambda: not manager.is_alive(), "the kernel has ended")
        manager.is_alive()
        manager.restart_kernel(now=True)
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.getMessage() == f"Kernel {manager.kernel_id} {cause_of(Exceeded.CELL)}"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (Exceeded.MEMORY, "Limits.memory"),
        (Exceeded.CPU, "Limits.cpu_seconds"),
        (-signal.SIGXCPU, "Limits.cpu_seconds"),
        (Exceeded.PROCESSES, "Limits.processes"),
        (Exceeded.CELL, "Limits.cell_seconds"),
        (-CELL_SIGNAL, "Limits.cell_seconds"),
        (0, "ended with exit status 0"),
        (3, "ended with exit status 3"),
        (-signal.SIGSEGV, "was killed by SIGSEGV (segmentation fault)"),
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-signal.SIGRTMIN - 1, f"was killed by signal {signal.SIGRTMIN + 1}"),
        (None, "not known"),
    ],
)
def test_every_end_has_its_words(status: int | None, said: str) -> None:
    assert said in cause_of(status)


def test_kill_for_want_of_memory_is_told_from_another(tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 1\noom_kill 1\noom_group_kill 0\n")
    out_of_memory = OutOfMemory(counter)
    assert not out_of_memory
    counter.write_text("low 0\noom 2\noom_kill 2\noom_group_kill 0\n")
    assert "no memory left" in cause_of(-signal.SIGKILL, out_of_memory=bool(out_of_memory))
    assert "no memory left" not in cause_of(-signal.SIGTERM, out_of_memory=bool(out_of_memory))
    assert "oom_kill" in oom_counter(os.getpid()).read_text()
