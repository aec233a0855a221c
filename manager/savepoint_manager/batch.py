r"""Runs a notebook from first to last cell with nobody at the keyboard.

This is nbclient's life cycle with three things added: `input()` and `getpass()` get answers, the
notebook is written however the run ends (Ctrl-C included, which nbclient 0.11 answers with an
AssertionError), and it keeps what the kernel says about each cell.

nbclient declares a client that takes no input (``allow_stdin = False``), so a kernel raises
StdinNotImplementedError at the first `input()`. With answers at hand we declare the opposite and
read the stdin channel beside each running cell:

    async_execute_cell ---- super().async_execute_cell    shell + iopub, as in nbclient
                       \--- StdinPump.answer              stdin; ends only at a missing answer
                        \-- StdinPump.refuse              from then on: interrupt what still asks
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_core.utils import ensure_async, run_sync
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets import Bool, Callable, Dict, Float, Instance, Unicode, Union

from savepoint_kernel.protocol import METADATA_KEY

from .answers import Answers, open_answers
from .exceptions import NoAnswerError, RunInterrupted
from .stdin import Message, StdinPump, Unanswered

MASK = "·" * 8


class NotebookRunner(NotebookClient):
    """Executes a notebook on the Savepoint kernel, with answers for its `input()` calls.

    Every option of `nbclient.NotebookClient` works. For example::

        notebook = nbformat.read("report.ipynb", as_version=4)
        NotebookRunner(notebook, answers={"Station": "Dresden"}).execute()
    """

    kernel_name = Unicode(
        "savepoint",
        help="""Name of the kernel to run the notebook on. Empty: the one the notebook names.""",
    ).tag(config=True)

    answers = Union(
        [Dict(key_trait=Unicode()), Unicode(), Instance(os.PathLike), Callable()],
        default_value=None,
        allow_none=True,
        help="""Answers to input() and getpass(): the path of a text file with one answer per line,
        in order; the path of a .json file, or a mapping, of prompts (or a piece of one) to an
        answer or a list of answers; or a function (prompt, password) that returns the answer, or
        None if it has none. Without answers a cell that asks fails with StdinNotImplementedError.
        """,
    ).tag(config=True)

    echo_answers = Bool(
        True,
        help="""Put each prompt and its answer into the output of the cell that asked, as a front
        end does. The answer to getpass() is masked.""",
    ).tag(config=True)

    output_path = Unicode(
        "",
        help="""Write the notebook with its outputs to this file when the run ends, also when it
        fails. Empty: don't write it.""",
    ).tag(config=True)

    interrupt_grace = Float(
        10.0,
        min=0.0,
        help="""Seconds that a cell interrupted for want of an answer gets to end. After that its
        kernel is killed, or left alone if it was not started by this run.""",
    ).tag(config=True)

    def __init__(self, nb: NotebookNode, *args: Any, **kwargs: Any) -> None:
        """Prepare a run of ``nb``, which is changed in place; options are traits."""
        super().__init__(nb, *args, **kwargs)
        self._answers: Answers | None = None
        self._echoes: list[Message] = []
        self._stopping: asyncio.Task[None] | None = None

    async def async_execute(self, reset_kc: bool = False, **kwargs: Any) -> NotebookNode:
        """Run every cell in order and write the notebook.

        Args:
            reset_kc: start with a fresh client if this run owns its kernel.
            **kwargs: passed to the kernel manager's start_kernel(), such as ``cwd``.

        Returns:
            The notebook, with outputs.

        Raises:
            AnswersError: the answers can't be used; nothing was started.
            NoAnswerError: a cell asked for something that has no answer.
            nbclient.exceptions.CellExecutionError: a cell failed.
            nbclient.exceptions.CellTimeoutError: a cell took longer than ``timeout``.
            nbclient.exceptions.DeadKernelError: the kernel died.
            RunInterrupted: SIGINT or SIGTERM came. The first one interrupts the running cell, a
                second one kills its kernel.
        """
        self._answers = self._open_answers()
        self._stopping = None
        if self.output_path:
            # Now, not after an hour of computing.
            Path(self.output_path).parent.mkdir(parents=True, exist_ok=True)
        try:
            return await super().async_execute(reset_kc=reset_kc, **kwargs)
        finally:
            self.set_widgets_metadata()
            self._write_output()

    execute = run_sync(async_execute)

    @asynccontextmanager
    async def async_setup_kernel(self, **kwargs: Any) -> AsyncGenerator[None, None]:
        """Start the kernel if there is none, and end it afterwards if this run started it.

        Args:
            **kwargs: passed to the kernel manager's start_kernel().
        """
        async with super().async_setup_kernel(**kwargs):
            loop = asyncio.get_running_loop()
            try:
                # In place of the handlers nbclient has just set; it removes these with its own.
                loop.add_signal_handler(signal.SIGINT, self._stop)
                loop.add_signal_handler(signal.SIGTERM, self._stop)
            except RuntimeError:  # not the main thread, or Windows (a NotImplementedError)
                self.log.debug("No signal handlers here; signals act as elsewhere in this process")
            yield

    async def async_execute_cell(
        self,
        cell: NotebookNode,
        cell_index: int,
        execution_count: int | None = None,
        store_history: bool = True,
    ) -> NotebookNode:
        """Run one cell, answering what it asks.

        Args:
            cell: the cell; its outputs are replaced.
            cell_index: its position in the notebook, from 0.
            execution_count: number to give it; default: the kernel's.
            store_history: whether the kernel should keep it in its history.

        Returns:
            The cell.

        Raises:
            NoAnswerError: the cell asked for something that has no answer. It was interrupted, and
                its outputs are in the notebook.
            RunInterrupted: SIGINT or SIGTERM came.
        """
        if self._answers is None:
            self._answers = self._open_answers()
        running = super().async_execute_cell(cell, cell_index, execution_count, store_history)
        try:
            if self._answers is None or cell.cell_type != "code":
                return await running
            return await self._answer_while(running, self._answers)
        except Unanswered as question:
            assert self._answers is not None
            raise NoAnswerError(
                cell_index=cell_index,
                execution_count=self.code_cells_executed,
                source=cell.source,
                prompt=question.prompt,
                password=question.password,
                way_out=self._answers.way_out,
            ) from None
        finally:
            while self._echoes:  # left over only if the kernel died, and said nothing more
                self._show_echo(cell, cell_index)
            if self._stopping is not None:
                await self._stopping
                raise RunInterrupted("The run was interrupted.")

    execute_cell = run_sync(async_execute_cell)

    def process_message(
        self, msg: Message, cell: NotebookNode, cell_index: int
    ) -> NotebookNode | None:
        """Add what the kernel published to the cell, and prompts where they belong between it.

        A prompt and the output before it travel on two channels, so they arrive in any order. The
        kernel's clock tells which came first.

        Args:
            msg: what the kernel published.
            cell: the cell it belongs to.
            cell_index: its position in the notebook, from 0.

        Returns:
            The output that holds it, if it is an output.

        Raises:
            nbclient.exceptions.CellExecutionComplete: the message says that the cell has ended.
        """
        while self._echoes and self._echoes[0]["header"]["date"] <= msg["header"]["date"]:
            self._show_echo(cell, cell_index)
        if super().process_message(msg, cell, cell_index) is None:
            return None
        return _merge_last(cell.outputs)

    async def _answer_while(
        self, running: Coroutine[Any, Any, NotebookNode], answers: Answers
    ) -> NotebookNode:
        """Run one cell beside the stdin channel; raise what kept a question from being answered."""
        assert self.kc is not None
        assert self.km is not None
        self.kc.allow_stdin = True
        self._echoes.clear()
        pump = StdinPump(self.kc, self.km, answers, self._echo)
        cell_task = asyncio.ensure_future(running)
        stdin_task = asyncio.ensure_future(pump.answer())
        try:
            await asyncio.wait({cell_task, stdin_task}, return_when=asyncio.FIRST_COMPLETED)
            if not stdin_task.done():
                return await cell_task
            failure = stdin_task.exception()
            assert failure is not None
            stdin_task = asyncio.ensure_future(pump.refuse())
            await asyncio.wait({cell_task}, timeout=self.interrupt_grace)
            if not cell_task.done() and self.owns_km:
                self.log.error("The cell ignores the interrupt; killing its kernel")
                await ensure_async(self.km.shutdown_kernel(now=True))
                await asyncio.wait({cell_task})
            raise failure
        finally:
            for task in (cell_task, stdin_task):
                task.cancel()
            await asyncio.gather(cell_task, stdin_task, return_exceptions=True)

    def _stop(self) -> None:
        """React to SIGINT or SIGTERM: interrupt the cell; if that came before, kill the kernel."""
        assert self.km is not None
        if self._stopping is None:
            stopping = ensure_async(self.km.interrupt_kernel())
        else:
            stopping = ensure_async(self.km.shutdown_kernel(now=True))
        self._stopping = asyncio.ensure_future(stopping)

    def _echo(self, request: Message, value: str) -> None:
        """Keep a prompt and its answer for the outputs of the cell that asked."""
        if self.echo_answers:
            content = request["content"]
            shown = MASK if content["password"] else value
            self._echoes.append(
                {
                    "msg_type": "stream",
                    "header": {"msg_type": "stream", "date": request["header"]["date"]},
                    "parent_header": request["parent_header"],
                    "content": {"name": "stdout", "text": f"{content['prompt']}{shown}\n"},
                }
            )

    def _show_echo(self, cell: NotebookNode, cell_index: int) -> None:
        """Move the oldest kept prompt into the outputs."""
        super().process_message(self._echoes.pop(0), cell, cell_index)
        _merge_last(cell.outputs)

    async def _check_raise_for_error(
        self, cell: NotebookNode, cell_index: int, exec_reply: Message | None
    ) -> None:
        """Keep what the kernel said about the cell, then let nbclient judge the reply.

        nbclient hands out the reply of a failed cell only here and in a hook that is the user's.
        """
        said = (exec_reply or {}).get("metadata", {}).get(METADATA_KEY)
        if said and self.record_timing:
            cell.metadata[METADATA_KEY] = said
        await super()._check_raise_for_error(cell, cell_index, exec_reply)

    def _open_answers(self) -> Answers | None:
        return None if self.answers is None else open_answers(self.answers)

    def _write_output(self) -> None:
        """Write the notebook in one step: a reader sees the old file or the new one."""
        if self.output_path:
            path = Path(self.output_path)
            partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
            nbformat.write(self.nb, partial)  # type: ignore[no-untyped-call]
            partial.replace(path)


def _merge_last(outputs: list[NotebookNode]) -> NotebookNode:
    """Join the newest output with the one before it if both are of one stream, as front ends do.

    A kernel sends a line in as many pieces as it flushes; the notebook should not depend on that.
    """
    last = outputs[-1]
    if last.output_type == "stream" and len(outputs) > 1:
        before = outputs[-2]
        if before.output_type == "stream" and before.name == last.name:
            before.text += last.text
            outputs.pop()
    return outputs[-1]
