"""The interactive shell of this kernel: IPython's, told which cell runs.

Threads: code runs on the main thread, but for cells of subshells.
"""

from __future__ import annotations

import atexit
import sys
import time
import traceback
from contextlib import nullcontext
from typing import Any

from ipykernel import zmqshell
from ipykernel.compiler import XCachingCompiler
from IPython.core.error import UsageError
from IPython.core.events import EventManager, available_events

from .comms import beside_cell
from .interrupts import Interrupts, without_handlers
from .magics import SourceMagics, TimelineMagics, without_transaction_line
from .serialize.sources import REGISTRY

HISTORY_DELAY = 0.2
"""Seconds the history thread waits before it writes. Woken by the cell that just began, it would
take the GIL when the cell first lets it go, often on the way of a short cell's reply: 0.3 ms."""


class RecordingCompiler(XCachingCompiler):  # type: ignore[misc]
    """Records the source of every cell it names."""

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        """Name a cell's code and remember its source."""
        name: str = super().cache(transformed_code, number, raw_code)
        raw = transformed_code if raw_code is None else raw_code
        REGISTRY.record(name, raw, transformed_code, number)
        return name


class CellEvents(EventManager):  # type: ignore[misc]
    """IPython's events, kept to cells, and interruptible.

    Every comm message triggers pre_execute and post_execute. Beside a running cell that would, for
    one, flush the half-drawn figures of matplotlib's inline backend.
    """

    def trigger(self, event: str, *args: Any, **kwargs: Any) -> None:
        """Call the callbacks of ``event``, unless a comm message asks beside a running cell."""
        if beside_cell.get() or not self.callbacks[event]:
            return
        interrupts: Interrupts = self.shell.interrupts
        for callback in self.callbacks[event]:
            if getattr(callback, "__globals__", None) is self.shell.user_ns:
                self.shell.kernel.savepoints.note_code(callback.__code__)
        outer = interrupts.suspend()
        try:
            try:
                interrupts.arm()
                super().trigger(event, *args, **kwargs)
            finally:
                interrupts.disarm()
        finally:
            interrupts.resume(outer)


class ZMQInteractiveShell(zmqshell.ZMQInteractiveShell):  # type: ignore[misc]
    """IPython shell whose errors say what the kernel knows (interrupt, timeout).

    It bears the name of its base, module included: libraries (rich, for one) compare it with
    ``get_ipython().__class__`` to find out that they are in a notebook.
    """

    __module__ = "ipykernel.zmqshell"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._transformed: tuple[str, str] | None = None
        self._error_published = False
        super().__init__(*args, **kwargs)

    @classmethod
    def instance(cls, *args: Any, **kwargs: Any) -> ZMQInteractiveShell:
        """Return the shell; it may be older than the kernel that asks for one (`standby`)."""
        shell: ZMQInteractiveShell = super().instance(*args, **kwargs)
        if "kernel" in kwargs:
            shell.kernel, shell.parent = kwargs["kernel"], kwargs["parent"]
            # At the end it comes before what was there before the kernel: sockets, threads.
            atexit.unregister(shell.atexit_operations)
            atexit.register(shell.atexit_operations)
        return shell

    @property
    def interrupts(self) -> Interrupts:
        """The SIGINT state; known before the kernel has its executor."""
        known: Interrupts = self.kernel.iopub_thread.interrupts
        return known

    def init_history(self) -> None:
        """Set up the history; its thread writes a moment after the cell, not beside its end."""
        application = self.kernel.parent if self.kernel else self.parent
        if getattr(application, "waiting", False):
            return  # a standby gets one when it is handed out
        super().init_history()
        self._delay_history()
        # The thread is stopped when the process forks, and another one made later.
        self.history_manager.observe(self._delay_history, "save_thread")

    def _delay_history(self, change: Any = None) -> None:
        flag, thread = self.history_manager.save_flag, self.history_manager.save_thread
        if thread is None:  # stopped, or history is disabled
            return
        wait = flag.wait

        def wait_and_let_pass(timeout: float | None = None) -> bool:
            is_set: bool = wait(timeout)
            until = time.monotonic() + HISTORY_DELAY
            while not _is_stopped(thread) and (left := until - time.monotonic()) > 0:
                flag.clear()
                if _is_stopped(thread):  # the flag was set for that, just before
                    break
                wait(left)
            return is_set

        flag.wait = wait_and_let_pass

    def init_user_ns(self) -> None:
        """Put IPython's names into the namespace; they need the history, which a standby lacks."""
        if self.history_manager is not None:
            super().init_user_ns()

    def init_events(self) -> None:
        """Set up the event manager."""
        self.events = CellEvents(self, available_events)
        self.events.register("pre_execute", self._clear_warning_registry)

    def init_magics(self) -> None:
        """Add the magics of this kernel to IPython's."""
        super().init_magics()
        self.register_magics(SourceMagics, TimelineMagics)
        self.input_transformers_cleanup.insert(0, without_transaction_line)

    def prepare(self, raw_cell: str) -> str:
        """Transform a cell once, for the checks before its execution and for the execution itself.

        Stock ipykernel transforms every cell twice. The result is used up by the next
        `transform_cell` of the same text.
        """
        transformed: str = super().transform_cell(raw_cell)
        self._transformed = (raw_cell, transformed)
        return transformed

    def transform_cell(self, raw_cell: str) -> str:
        """Turn IPython syntax into Python."""
        prepared, self._transformed = self._transformed, None
        if prepared is not None and prepared[0] == raw_cell:
            return prepared[1]
        transformed: str = super().transform_cell(raw_cell)
        return transformed

    async def run_code(self, code_obj: Any, result: Any = None, *, async_: bool = False) -> bool:
        """Run a statement of a cell: the one place where an interrupt raises."""
        self.kernel.savepoints.note_code(code_obj)
        interrupts, cancel = self.interrupts, self.kernel.executor.cancel
        outer = interrupts.suspend()  # when a cell runs a cell
        try:
            try:
                interrupts.arm()
                with interrupts.cancelling(cancel) if async_ else nullcontext():
                    failed: bool = await super().run_code(code_obj, result, async_=async_)
                return failed
            finally:
                interrupts.disarm()
        finally:
            interrupts.resume(outer)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Publish an error; one the kernel caused is shown as what it was.

        IPython's formatter may itself fail (it asserts that every frame has a line number, which a
        KeyboardInterrupt between two lines has not) and then publishes nothing.
        """
        value = sys.exc_info()[1] if exc_tuple is None else exc_tuple[1]
        if isinstance(value, KeyboardInterrupt):
            without_handlers(value)
        actual = self.kernel.executor.actual_error(value)
        if value is not None and actual is not value:
            tb = value.__traceback__
            exc_tuple = (type(actual), actual.with_traceback(tb), tb)
        with self.interrupts.held(redeliver=False):
            self._error_published = False
            super().showtraceback(exc_tuple, *args, **kwargs)
            unpublished = actual is not None and not self._error_published
            if unpublished and not isinstance(actual, UsageError):
                lines = traceback.format_exception(type(actual), actual, actual.__traceback__)
                self._showtraceback(type(actual), actual, lines)
        # The cell has failed; more interrupts than one make it no more so.
        self.interrupts.forget()

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        self._error_published = True
        cell = self.kernel.executor.cell
        if cell is not None:
            if isinstance(cell.shown, KeyboardInterrupt) and issubclass(etype, KeyboardInterrupt):
                return  # of a burst of interrupts, one is shown
            cell.shown = evalue
        self.kernel.iopub_thread.output.settle()  # what C code has written comes before the error
        super()._showtraceback(etype, evalue, stb)


def _is_stopped(thread: Any) -> bool:
    """Whether the history thread was told to end; the flag's name is that of IPython 9, or 8."""
    return bool(getattr(thread, "_stop_now", False) or getattr(thread, "stop_now", False))
