"""``jupyter savepoint run``: a notebook executed in a terminal, each cell shown as it finishes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from textwrap import dedent
from time import monotonic
from typing import Any

import nbformat
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_core.application import JupyterApp, base_aliases, base_flags
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from traitlets import default
from traitlets.config import Configurable

from savepoint_kernel.protocol import METADATA_KEY

from . import render
from .batch import NotebookRunner
from .exceptions import AnswersError, NoAnswerError, RunInterrupted


class RunApp(JupyterApp):
    """Executes one notebook and exits with 0 if every cell succeeded, else with 1."""

    name = "jupyter-savepoint-run"
    description = """Execute a notebook and show each cell with its outputs as it finishes.

    The kernel runs in the directory of the notebook. The exit status is 1 if a cell fails.
    """
    examples = dedent(
        """
        jupyter savepoint run report.ipynb
        jupyter savepoint run report.ipynb --output out/report.ipynb --timeout 600
        jupyter savepoint run survey.ipynb --answers answers.txt    # one answer per line
        jupyter savepoint run survey.ipynb --answers answers.json   # {"part of prompt": "answer"}
        """
    )
    aliases: dict[str, Any] = {
        **base_aliases,
        "answers": "NotebookRunner.answers",
        "output": "NotebookRunner.output_path",
        "kernel": "NotebookRunner.kernel_name",
        "timeout": "NotebookRunner.timeout",
    }
    flags: dict[str, Any] = {
        **base_flags,
        "allow-errors": (
            {"NotebookRunner": {"allow_errors": True}},
            "Go on after a cell that fails; the exit status is 0 then.",
        ),
    }
    classes: list[type[Configurable]] = [NotebookRunner]

    @default("log_level")
    def _log_level_default(self) -> int:
        return 30  # warnings: the cells are the output

    def start(self) -> None:
        """Run the notebook named on the command line, print it, and exit with its status."""
        super().start()
        if len(self.extra_args) != 1:
            self.exit("Name one notebook to run, such as: jupyter savepoint run report.ipynb")
        path = Path(self.extra_args[0])
        try:
            notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            self.exit(f"Can't read the notebook {path}: {error}")
        self.exit(_Run(self, notebook, path.parent).status())


class _Run:
    """One run of one notebook, printed while it goes on."""

    def __init__(self, app: RunApp, notebook: NotebookNode, directory: Path) -> None:
        self._color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._kernel = ""
        self._cells = 0
        self._outputs = 0
        self._unfinished: NotebookNode | None = None
        self._runner = NotebookRunner(
            notebook,
            parent=app,
            resources={"metadata": {"path": str(directory)}},
            on_cell_start=self._cell_start,
            on_cell_execute=self._cell_execute,
            on_cell_executed=self._cell_executed,
        )

    def status(self) -> int:
        """Execute the notebook and return the exit status."""
        started = monotonic()
        problem = ""
        try:
            # Here, so that an unknown name is known before anything starts.
            kernel_spec = self._runner.create_kernel_manager().kernel_spec
            self._kernel = kernel_spec.display_name if kernel_spec else self._runner.kernel_name
            self._runner.execute()
        except CellExecutionError as error:
            problem = f"Cell In [{self._cells}] failed: {error.ename}: {error.evalue}"
            if error.ename == "StdinNotImplementedError":
                problem += "\nGive the answers to input() with --answers FILE."
        except NoSuchKernel as error:
            problem = f"{error}. `jupyter kernelspec list` shows the kernels there are."
        except CellTimeoutError:
            problem = f"Cell In [{self._cells}] took longer than {self._runner.timeout} s."
        except DeadKernelError:
            problem = f"The kernel died while cell In [{self._cells}] ran."
        except RunInterrupted:
            problem = f"Interrupted at cell In [{self._cells}]."
        except (AnswersError, NoAnswerError) as error:
            problem = str(error)
        if self._unfinished is not None:
            self._show_outputs(self._unfinished)
        if self._cells or not problem:
            took = render.format_duration(monotonic() - started)
            cells, outputs = _count(self._cells, "cell"), _count(self._outputs, "output")
            print(f'{cells}, {outputs}, {took} on kernel "{self._kernel}"', flush=True)
        if problem:
            print(problem, file=sys.stderr, flush=True)
        return 1 if problem else 0

    def _cell_start(self, cell: NotebookNode, **_: object) -> None:
        if cell.cell_type == "markdown" and (heading := render.render_heading(cell)):
            print(f"{heading}\n", flush=True)

    def _cell_execute(self, cell: NotebookNode, **_: object) -> None:
        self._cells += 1
        self._unfinished = cell
        print(render.render_source(cell, self._cells), flush=True)

    def _cell_executed(
        self, cell: NotebookNode, execute_reply: dict[str, Any], **_: object
    ) -> None:
        self._unfinished = None
        said = execute_reply.get("metadata", {}).get(METADATA_KEY, {})
        self._show_outputs(cell, render.render_stats(said.get("stats", {})))

    def _show_outputs(self, cell: NotebookNode, stats: str = "") -> None:
        rendered = render.render_outputs(cell.outputs, color=self._color)
        self._outputs += len(rendered)
        print(*rendered, *([stats] if stats else []), "", sep="\n", flush=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
