from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from .harness import KERNEL, errors, notebook, read, texts

COMMAND = [sys.executable, "-m", "savepoint_manager.app", "run"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "answers.txt").write_text("Ann\n")
    return tmp_path


def write(path: Path, *sources: str) -> Path:
    nbformat.write(notebook(*sources), path)
    return path


def run(path: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, str(path), "--kernel", KERNEL, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_cells_are_shown_with_their_outputs_and_a_summary(folder: Path) -> None:
    path = write(
        folder / "nb.ipynb",
        "# # Title\n\nText",
        "print('Hello', input('Name? '))",
        "import os\nos.path.samefile('.', os.path.dirname('" + str(folder / "x") + "'))",
        "from IPython.display import Image, display\n"
        "import ipywidgets, matplotlib.pyplot as plt\n"
        "plt.figure(figsize=(4, 3)); plt.plot([1, 2]); plt.show()\n"
        "ipywidgets.Button(description='Go')",
    )
    done = run(path, "--answers", folder / "answers.txt")
    assert done.returncode == 0, done.stderr
    assert "# Title\n\nIn [1]: print('Hello', input('Name? '))" in done.stdout
    assert "        Name? Ann\n        Hello Ann\n" in done.stdout
    assert "        True\n" in done.stdout
    assert re.search(r"^ +\[image/png \d+x\d+\]$", done.stdout, re.MULTILINE)
    assert "[widget: Button(description='Go'" in done.stdout
    assert re.fullmatch(
        r'3 cells, 4 outputs, \d.* on kernel "Python 3 \(.*\)"', done.stdout.splitlines()[-1]
    )
    assert "\x1b" not in done.stdout


def test_failed_cell_is_shown_and_the_outputs_are_written(folder: Path) -> None:
    path = write(folder / "nb.ipynb", "print('one')", "1 / 0", "print('two')")
    done = run(path, "--output", folder / "out.ipynb")
    assert done.returncode == 1
    assert "----> 1 1 / 0" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("2 cells, 2 outputs, ")
    assert "Cell In [2] failed: ZeroDivisionError: division by zero" in done.stderr
    assert errors(read(folder / "out.ipynb").cells[1]) == ["ZeroDivisionError"]


def test_missing_answer_fails_and_the_outputs_are_written(folder: Path) -> None:
    path = write(folder / "nb.ipynb", "input('Name? ')", "print('here'); input('More? ')")
    done = run(path, "--answers", folder / "answers.txt", "--output", folder / "out.ipynb")
    assert done.returncode == 1
    assert "'More? ' and there is no answer for it. Add a line to" in done.stderr
    assert "Traceback" not in done.stderr
    assert texts(read(folder / "out.ipynb"))[1] == "here\n"


def test_input_without_answers_names_the_option(folder: Path) -> None:
    done = run(write(folder / "nb.ipynb", "input('Name? ')"))
    assert done.returncode == 1
    assert "Give the answers to input() with --answers FILE." in done.stderr


def test_cell_that_takes_too_long_fails_the_run(folder: Path) -> None:
    path = write(folder / "nb.ipynb", "import time\nprint('started')\ntime.sleep(100)")
    done = run(path, "--timeout", "1", "--output", folder / "out.ipynb")
    assert done.returncode == 1
    assert "        started\n" in done.stdout
    assert "Cell In [1] took longer than 1 s." in done.stderr
    assert texts(read(folder / "out.ipynb")) == ["started\n"]


def test_dead_kernel_fails_the_run(folder: Path) -> None:
    path = write(folder / "nb.ipynb", "import os; print('x'); input('Q? '); os._exit(1)")
    done = run(path, "--answers", folder / "answers.txt")
    assert done.returncode == 1
    assert "        x\n        Q? Ann\n" in done.stdout
    assert "The kernel died while cell In [1] ran." in done.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signal_interrupts_the_cell_and_the_outputs_are_written(
    folder: Path, sent: signal.Signals
) -> None:
    started = folder / "started"
    os.mkfifo(started)
    code = f"print('one')\nopen({str(started)!r}, 'w').close()\nimport time\ntime.sleep(100)"
    path = write(folder / "nb.ipynb", code, "print('two')")
    process = subprocess.Popen(
        [*COMMAND, str(path), "--kernel", KERNEL, "--output", str(folder / "out.ipynb")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        started.open().close()  # opens when the cell does
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Interrupted at cell In [1]." in stderr
    assert "Traceback" not in stderr
    written = read(folder / "out.ipynb")
    assert texts(written) == ["one\n", ""]
    assert errors(written.cells[0]) == ["KeyboardInterrupt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name one notebook to run"),
        (["a.ipynb", "b.ipynb"], "Name one notebook to run"),
        (["missing.ipynb"], "Can't read the notebook missing.ipynb"),
        (["broken.ipynb"], "Can't read the notebook broken.ipynb"),
        (["good.ipynb", "--kernel", "nope"], "No such kernel named nope. `jupyter kernelspec"),
        (["good.ipynb", "--answers", "nope.txt"], "Can't read the answers from nope.txt"),
    ],
)
def test_wrong_use_is_one_line_on_stderr(folder: Path, arguments: list[str], message: str) -> None:
    write(folder / "good.ipynb", "1")
    (folder / "broken.ipynb").write_text("not a notebook")
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_jupyter_finds_the_command() -> None:
    jupyter = Path(sys.executable).parent / "jupyter"
    done = subprocess.run(
        [jupyter, "savepoint", "run", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "--answers" in done.stdout


def test_without_the_batch_extra_it_says_what_to_install(folder: Path) -> None:
    code = (
        "import sys; sys.modules['nbclient'] = None; import savepoint_manager.app as app; "
        "sys.argv = ['jupyter-savepoint', *sys.argv[1:]]; app.main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        [*command, "run", "nb.ipynb"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "pip install 'jupyter-savepoint[batch]'" in done.stderr
    assert "Traceback" not in done.stderr
    help_text = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "run" in help_text.stdout
