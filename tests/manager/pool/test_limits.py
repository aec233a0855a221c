"""Limits of a kernel: the same whether it was started or comes from the pool."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

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

LEAK = "held = []\nwhile True: held.append(bytearray(100_000))"
STUBBORN = "while True:\n    try:\n        {}\n    except KeyboardInterrupt:\n        {}"
NEVER_RETURNS = "import itertools; sum(itertools.repeat(0))"
"""It keeps the GIL and takes no interrupt."""

CHILD = "bytearray(600_000_000); import time; time.sleep(600)"


@pytest.fixture(params=["started", "from the pool"])
def limited(request: pytest.FixtureRequest, pool: Pool) -> Limited:
    """Opens a kernel with options, whose grace is short."""

    @contextmanager
    def open_kernel(*options: str) -> Iterator[Kernel]:
        arguments = ["--Limits.grace=0.5", *(f"--Limits.{option}" for option in options)]
        if request.param == "started":
            with pool.kernel(*arguments, env={**pool.env, "SAVEPOINT_POOL": "0"}) as kernel:
                yield kernel
        else:
            with pool.warm_kernel(*arguments) as kernel:
                yield kernel

    return open_kernel


def use(kernel: Kernel) -> dict[str, dict[str, float | None]]:
    """Ask for the limits and what is used."""
    asked = kernel.send("savepoint_status_request", channel="control")
    return kernel.reply(asked, channel="control")["content"]["limits"]


def failed(kernel: Kernel, code: str, ename: str, kind: str = "limit") -> Result:
    """Run a cell that must fail so."""
    result = kernel.run(code)
    assert (result.content["status"], result.content.get("ename")) == ("error", ename)
    assert result.savepoint["failure_kind"] == kind
    return result


def notices(kernel: Kernel, request: str) -> str:
    """Return what a cell without an end has had on stderr, up to the last word of the kernel."""
    return kernel.stream(request, "The kernel ends")["content"]["text"]


# -- memory


def test_cell_that_takes_too_much_memory_ends_and_the_session_does_not(
    limited: Limited, kernel: Kernel
) -> None:
    with limited("memory=300MB") as limit:
        limit.ok("before = 1")
        result = failed(limit, LEAK, "MemoryLimitExceeded")
        assert "it may use 300 MB (Limits.memory)" in result.content["evalue"]
        assert result.text("stderr").count("it may use 300 MB (Limits.memory)") == 1
        limit.ok("del held")
        assert limit.eval("before") == "1"
        memory = use(limit)["memory"]
        assert memory["limit"] == 300_000_000
        assert memory["peak"] is not None
        assert memory["peak"] > 270_000_000
    assert kernel.eval("6 * 7") == "42"


def test_what_a_function_held_is_let_go(limited: Limited) -> None:
    with limited("memory=300MB") as limit:
        failed(limit, f"def leak():\n    {LEAK.replace(chr(10), chr(10) + '    ')}\nleak()", LIMIT)
        assert (use(limit)["memory"]["used"] or 0) < 150_000_000


LIMIT = "MemoryLimitExceeded"


@pytest.mark.parametrize("code", ["list(range(10**9))", "import numpy; numpy.ones(10**9)"])
def test_allocation_far_over_the_limit_fails_at_once(limited: Limited, code: str) -> None:
    with limited("memory=300MB") as limit:
        result = failed(limit, code, "MemoryError", "exception")
        assert "it may use 300 MB (Limits.memory)" in result.text("stderr")
        assert limit.eval("6 * 7") == "42"


def test_kernel_whose_cell_goes_on_ends_and_keeps_its_commits(
    limited: Limited, pool: Pool, tmp_path: Path
) -> None:
    session = [f"--Savepoints.directory={tmp_path}", "--Savepoints.session=full"]
    with limited("memory=300MB", *(each.replace("--", "--", 1) for each in ())) as limit:
        limit.ok("kept = 1")
        cell = limit.start(STUBBORN.format(LEAK.replace("\n", "; "), "pass"))
        assert session
        assert cell
