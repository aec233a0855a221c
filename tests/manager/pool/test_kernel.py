"""What a kernel can do, it can do when it comes from the pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.harness import Gate, Kernel

from .harness import Pool


def test_timeline_and_undo(kernel: Kernel) -> None:
    kernel.ok("x = [1]")
    kernel.ok("x.append(2)")
    kernel.ok("%undo")
    assert kernel.eval("x") == "[1]"
    assert (
        "x.append(2)"
        in kernel.ok("%timeline").of_types({"display_data", "execute_result", "stream"}).__repr__()
    )


def test_input(kernel: Kernel) -> None:
    cell = kernel.start("name = input('who? ')")
    kernel.answer(kernel.prompt(cell), "me")
    kernel.finish(cell)
    assert kernel.eval("name") == "'me'"


@pytest.mark.parametrize("how", ["signal", "message"])
def test_interrupt(kernel: Kernel, tmp_path: Path, how: str) -> None:
    gate = Gate(tmp_path / "gate")
    cell = kernel.start(f"print('in it')\n{gate.wait}")
    kernel.stream(cell, "in it")
    kernel.interrupt(how)
    assert kernel.finish(cell).content["ename"] == "KeyboardInterrupt"
    gate.close()


def test_interrupt_by_the_manager(kernel: Kernel, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    cell = kernel.start(
        f"import subprocess\nprint('in it')\nsubprocess.run(['cat', {str(tmp_path / 'gate')!r}])"
    )
    kernel.stream(cell, "in it")
    kernel.manager.interrupt_kernel()  # of the group, as a terminal does
    assert kernel.finish(cell).content["ename"] == "KeyboardInterrupt"
    gate.close()


def test_debugger(pool: Pool) -> None:
    arguments = {"clientID": "test", "adapterID": ""}
    with pool.warm_kernel() as kernel:  # of its own: its child processes wait for a debugger
        for command in ("debugInfo", "initialize"):
            request = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
            sent = kernel.send("debug_request", request, channel="control")
            reply = kernel.reply(sent, channel="control")
            assert reply["content"]["success"], reply["content"]


def test_shell_command(kernel: Kernel) -> None:
    assert kernel.ok("!echo from a shell").text().strip() == "from a shell"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(kernel: Kernel, method: str) -> None:
    kernel.ok(
        "import math, multiprocessing\n"
        f"with multiprocessing.get_context({method!r}).Pool(2) as workers:\n"
        "    roots = workers.map(math.isqrt, [16, 25])"
    )
    assert kernel.eval("roots") == "[4, 5]"


@pytest.mark.parametrize("backend", [None, "agg"])
def test_plots_where_the_zygote_has_imported_matplotlib(
    plotting: Pool, backend: str | None
) -> None:
    env = {name: value for name, value in plotting.env.items() if name != "MPLBACKEND"}
    if backend:
        env["MPLBACKEND"] = backend
    with plotting.warm_kernel(env=env) as kernel:
        assert kernel.eval("'matplotlib.pyplot' in __import__('sys').modules") == "True"
        kernel.ok("import matplotlib, matplotlib.pyplot as plt")
        shown = kernel.ok("plt.plot([1, 2]);").of("display_data")
        if backend is None:
            assert "image/png" in shown[0]["content"]["data"]
            assert kernel.eval("'inline' in matplotlib.get_backend()") == "True"
        else:
            assert not shown
            assert kernel.eval("matplotlib.get_backend().lower()") == "'agg'"
