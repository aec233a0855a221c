"""One cell on the main thread: its code, its interrupts, its time limit, its cost, its reply.

    request --> Cell --> IPython's run_cell --> drain output --> reply content
                              '--> arm SIGINT --> a statement of the cell --> disarm   (`shell`)

Between "arm" and "disarm" KeyboardInterrupt may be raised at any bytecode; outside, IPython's code
around the statements included, an interrupt waits for the next "arm". So a request gets exactly one
reply, and no lock of the library is left taken.

Threads: the main thread, but `running` and `actual_error` may be read from any, and `interrupt`
called; it shares ``_ending`` with the main thread.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
import threading
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import ExecutionResult, _asyncio_runner

from .deadline import Deadline
from .exceptions import ExecutionTimeout, InvalidRequest, LimitExceeded
from .history.commit import CellInfo
from .history.savepoints import Outcome
from .history.transaction import Policy
from .interrupts import Interrupts
from .protocol import METADATA_KEY, FailureKind
from .serialize.sources import REGISTRY
from .stats import CellClock

if TYPE_CHECKING:
    from .iopub import IOPub
    from .kernel import SavepointKernel

Message = dict[str, Any]


@dataclass(slots=True)
class CellRequest:
    """What an execute_request asks for, checked."""

    code: str
    silent: bool
    store_history: bool
    user_expressions: Mapping[str, str]
    cell_meta: Mapping[str, Any]
    cell_id: str | None


@dataclass(slots=True)
class Cell:
    """The cell that has the main thread."""

    parent: Message
    timeout: float | None = None
    deadline: Deadline | None = None
    task: asyncio.Task[ExecutionResult] | None = None
    """The cell itself, while it awaits."""
    cancelled: bool = False
    """An interrupt cancelled its await (as opposed to raising in its code)."""
    over: bool = False
    """It can't be interrupted any more."""
    exceeded: LimitExceeded | None = None
    """Why it was interrupted, if it was for a limit of the kernel's."""
    error: BaseException | None = None
    """What is shown for an error the kernel caused."""
    shown: BaseException | None = None
    """The error published last."""
    replied: bool = False
    to_commit: CellInfo | None = None
    """What to commit once its idle status is out."""

    @property
    def timed_out(self) -> bool:
        """True if its time was up before it ended."""
        return self.deadline is not None and self.deadline.expired

    @property
    def cut_short(self) -> bool:
        """True if the kernel interrupted it."""
        return self.timed_out or self.exceeded is not None


class Executor:
    """Runs cells, one at a time.

    Args:
        kernel: whose shell runs them.
        iopub: whose output buffer and meter belong to them.
        interrupts: the SIGINT state.
    """

    def __init__(self, kernel: SavepointKernel, iopub: IOPub, interrupts: Interrupts) -> None:
        self._kernel = kernel
        self._iopub = iopub
        self._interrupts = interrupts
        self.cell: Cell | None = None
        self._ending = threading.Lock()
        self._run_cell: Any = None
        self._run_cell_takes: frozenset[str] = frozenset()

    @property
    def running(self) -> bool:
        """True while a cell has the main thread, awaiting included."""
        return self.cell is not None

    async def run(self, request: CellRequest) -> tuple[Message, Message]:
        """Run one cell to its end.

        Returns:
            Content of the execute_reply, and our part of its metadata.
        """
        assert threading.current_thread() is threading.main_thread()
        cell = self.cell
        assert cell is not None
        shell = self._kernel.shell
        meter = self._iopub.meter
        meter.start(cell.parent["header"]["msg_id"])
        clock = CellClock()
        result: ExecutionResult | None = None
        ours: dict[str, Any] = {}
        try:
            metadata = self._our_metadata(request.cell_meta)
            cell.timeout = self._time_limit(metadata)
            policy = self._begin(metadata, request)
        except InvalidRequest as error:
            self._interrupts.forget()
            shell.showtraceback((InvalidRequest, error, None))
            content = self._error_content(error)
            failure = FailureKind.EXCEPTION
        else:
            self._start_clock(cell)
            REGISTRY.cell_id = request.cell_id
            try:
                result = await self._run_code(cell, request)
                self._interrupts.disarm()  # it is, unless an interrupt hit the call that did it
            except (KeyboardInterrupt, asyncio.CancelledError) as error:
                self._interrupts.disarm()
                cell.error = self.actual_error(error) or error
            finally:
                self._stop_clock(cell)
                REGISTRY.note_classes(shell.user_ns)
            content, failure = self._outcome(cell, result)
            self._kernel.log_failure(content)
            ours = self._conclude(cell, request, policy, failure)
        if content["status"] == "ok" and request.user_expressions:
            try:
                try:
                    self._interrupts.arm()
                    for expression in request.user_expressions.values():
                        self._kernel.savepoints.note_expression(expression)
                    content["user_expressions"] = shell.user_expressions(request.user_expressions)
                finally:
                    self._interrupts.disarm()
            except KeyboardInterrupt as error:
                shell.showtraceback((type(error), error, error.__traceback__))
                content, failure = self._error_content(error), FailureKind.INTERRUPT
        content["payload"] = shell.payload_manager.read_payload()
        shell.payload_manager.clear_payload()
        self._iopub.output.settle()
        stats = clock.read(meter.output_bytes, meter.dropped_bytes)
        return content, {"stats": stats.as_dict(), "failure_kind": failure.value, **ours}

    def cancel(self) -> None:
        """Cancel the await of the running cell, as an interrupt. It takes effect on the loop."""
        cell = self.cell
        if cell is not None and cell.task is not None:
            cell.cancelled = True
            cell.task.get_loop().call_soon_threadsafe(cell.task.cancel)

    def interrupt(self, exceeded: LimitExceeded) -> Cell | None:
        """Interrupt the running cell for a limit; returns it, None if none runs. Any thread."""
        with self._ending:
            cell = self.cell
            if cell is None or cell.over:
                return None
            cell.exceeded = exceeded
            self._kernel.interrupt_cell()
            return cell

    # -- running -------------------------------------------------------------------------------

    async def _run_code(self, cell: Cell, request: CellRequest) -> ExecutionResult:
        shell = self._kernel.shell
        preprocessing_error = None
        try:
            transformed = shell.prepare(request.code)
        except Exception:
            transformed = request.code
            preprocessing_error = sys.exc_info()
        options: dict[str, Any] = {
            "store_history": request.store_history,
            "silent": request.silent,
            **self._cell_options(request),
        }
        on_this_loop = shell.loop_runner is _asyncio_runner and shell.should_run_async(
            request.code,
            transformed_cell=transformed,
            preprocessing_exc_tuple=preprocessing_error,
        )
        if not on_this_loop:
            return shell.run_cell(request.code, **options)
        options["transformed_cell"] = transformed
        options["preprocessing_exc_tuple"] = preprocessing_error
        return await self._run_async(cell, request, options)

    async def _run_async(
        self, cell: Cell, request: CellRequest, options: dict[str, Any]
    ) -> ExecutionResult:
        shell = self._kernel.shell
        shell._last_traceback = None
        shell._last_traceback_during_displayhook = False
        context = copy_context()

        async def run_and_keep_context() -> ExecutionResult:
            nonlocal context
            try:
                return await shell.run_cell_async(request.code, **options)
            finally:
                context = copy_context()

        cell.task = asyncio.ensure_future(run_and_keep_context())
        result: ExecutionResult | None = None
        try:
            result = await cell.task
            return result
        finally:
            cell.task = None
            # A task has a copy of the context; what the cell set in it is for the next cell too.
            for variable, value in context.items():
                variable.set(value)
            shell.events.trigger("post_execute")
            if not request.silent:
                shell.events.trigger("post_run_cell", result)

    def _cell_options(self, request: CellRequest) -> dict[str, Any]:
        """Arguments `run_cell` takes in some versions of IPython only."""
        run_cell = self._kernel.shell.run_cell
        if run_cell != self._run_cell:
            self._run_cell = run_cell
            self._run_cell_takes = frozenset(inspect.signature(run_cell).parameters)
        extra = {"cell_id": request.cell_id, "cell_meta": request.cell_meta}
        return {name: value for name, value in extra.items() if name in self._run_cell_takes}

    # -- transaction ---------------------------------------------------------------------------

    def _begin(self, metadata: Mapping[str, Any], request: CellRequest) -> Policy:
        savepoints = self._kernel.savepoints
        try:
            policy = savepoints.policy_for(metadata, request.code)
            savepoints.begin_cell(policy)
        except Exception as error:
            raise InvalidRequest(f"{error}. The cell was not run") from error
        return policy

    def _conclude(
        self, cell: Cell, request: CellRequest, policy: Policy, failure: FailureKind
    ) -> Message:
        """Roll the cell back if its policy says so; returns what the reply says of it."""
        savepoints = self._kernel.savepoints
        if policy.undoes(failure is not FailureKind.NONE):
            try:
                return {"transaction": savepoints.roll_back(policy).as_dict()}
            except BaseException as error:  # users' code runs, which may raise SystemExit
                self._kernel.log.exception("Rollback failed")
                reason = f"{type(error).__name__}: {error}"
                self._kernel.publish_notice(cell.parent, f"The rollback failed: {reason}\n")
                return {"transaction": {"policy": policy.value, "outcome": "failed"}}
        if request.silent:
            return {}  # a front end's own, no step of the user's; a later commit has what it did
        count = self._kernel.shell.execution_count - bool(request.store_history)
        cell.to_commit = CellInfo(request.code, count, request.cell_id, failure.value)
        commit = savepoints.next_commit
        return {"transaction": Outcome(policy, commit).as_dict(), "commit": commit}

    # -- time limit ----------------------------------------------------------------------------

    def _our_metadata(self, cell_meta: Mapping[str, Any]) -> Mapping[str, Any]:
        ours = cell_meta.get(METADATA_KEY)
        if ours is None:
            ours = {}
        if not isinstance(ours, Mapping):
            raise InvalidRequest(
                f"metadata.{METADATA_KEY} must be an object, not {ours!r}; the cell was not run"
            )
        return ours

    def _time_limit(self, ours: Mapping[str, Any]) -> float | None:
        limit = self._kernel.limits.cell_seconds or math.inf
        seconds = ours.get("timeout")
        if seconds is None:
            seconds = min(self._kernel.cell_timeout or math.inf, limit)
            return None if seconds == math.inf else seconds
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not number or not 0 < seconds < math.inf:
            raise InvalidRequest(
                f"metadata.{METADATA_KEY}.timeout must be a positive number of seconds, "
                f"not {seconds!r}; leave it out for no limit. The cell was not run"
            )
        return float(min(seconds, limit, threading.TIMEOUT_MAX))

    def _start_clock(self, cell: Cell) -> None:
        self._kernel.limits.cell_begins(cell)
        if cell.timeout is None:
            return

        def on_ignored() -> None:
            self._kernel.publish_notice(
                cell.parent,
                f"The cell passed its limit of {cell.timeout:g} s and ignores the interrupt.\n",
            )

        cell.deadline = Deadline(
            cell.timeout, self._kernel.timeout_grace, self._kernel.interrupt_cell, on_ignored
        )
        cell.deadline.start()

    def _stop_clock(self, cell: Cell) -> None:
        """Let nothing interrupt the cell any more."""
        with self._ending:
            cell.over = True
        if cell.deadline is not None:
            cell.deadline.cancel()
        self._kernel.limits.cell_ends()

    # -- outcome -------------------------------------------------------------------------------

    def actual_error(self, error: BaseException | None) -> BaseException | None:
        """Return what ``error`` stands for if the kernel caused it, else ``error``."""
        cell = self.cell
        if cell is None or not isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
            return error
        if isinstance(error, (ExecutionTimeout, LimitExceeded)):
            return error
        if cell.exceeded is not None:
            cell.error = cell.exceeded
        elif cell.timed_out:
            cell.error = ExecutionTimeout(
                f"the cell ran longer than its limit of {cell.timeout:g} s "
                f"(metadata.{METADATA_KEY}.timeout, SavepointKernel.cell_timeout or "
                "Limits.cell_seconds)"
            )
        elif cell.cancelled and isinstance(error, asyncio.CancelledError):
            cell.error = KeyboardInterrupt("Interrupted by user")
        else:
            return error
        return cell.error

    def _outcome(self, cell: Cell, result: ExecutionResult | None) -> tuple[Message, FailureKind]:
        shell = self._kernel.shell
        if result is None:
            error = cell.error
            assert error is not None
            shell.showtraceback((type(error), error, error.__traceback__))
        else:
            error = result.error_before_exec or result.error_in_exec
            if error is not None and cell.error is not None:
                error = cell.error
            elif error is None and cell.cut_short:
                # It caught the interrupt and went on to its end. It still took too much.
                error = self.actual_error(KeyboardInterrupt())
                assert error is not None
                shell.showtraceback((type(error), error, None))
            elif error is None and self._was_shown_an_error(cell):
                error = cell.shown
        if error is None:
            content = {"status": "ok", "execution_count": shell.execution_count - 1}
            return {**content, "user_expressions": {}}, FailureKind.NONE
        self._kernel.limits.release(error)
        if cell.exceeded is not None:
            failure = FailureKind.LIMIT
        elif cell.timed_out:
            failure = FailureKind.TIMEOUT
        elif isinstance(error, KeyboardInterrupt):
            failure = FailureKind.INTERRUPT
        else:
            failure = FailureKind.EXCEPTION
        return self._error_content(error), failure

    def _was_shown_an_error(self, cell: Cell) -> bool:
        """True if IPython published an error, says all went well, and that is not so.

        An error while the result was displayed, or an interrupt that hit IPython's own code: it
        shows what is raised in callbacks of its events and goes on.
        """
        failed_display = self._kernel.shell._last_traceback_during_displayhook
        return failed_display or isinstance(cell.shown, KeyboardInterrupt)

    def _error_content(self, error: BaseException) -> Message:
        shell = self._kernel.shell
        return {
            "status": "error",
            "ename": type(error).__name__,
            "evalue": str(error),
            "traceback": shell._last_traceback or [],
            "execution_count": shell.execution_count - 1,
            "user_expressions": {},
            # Read by ipyparallel.
            "engine_info": {
                "engine_uuid": self._kernel.ident,
                "engine_id": self._kernel.int_id,
                "method": "execute",
            },
        }
