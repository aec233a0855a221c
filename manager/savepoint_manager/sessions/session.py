"""A session: what a caller has of a kernel, and what stays when the kernel is replaced.

Cells take turns here, not in the kernel: there the second one would be aborted because the first
one fails. A turn ends with the cell, not with the loop that reads its events, so a caller may leave
the loop early; what the cell still says is dropped then, and the next cell waits for its end.

Threads: one event loop.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from savepoint_kernel.protocol import METADATA_KEY, FailureKind

from ..exceptions import EvaluationFailed, NoInputRequired, NotJSON, PoolClosed, RequestFailed
from .events import Event, InputRequired, done_of, error_of, event_of, failure_kind
from .kernel import Kernel
from .preparation import CHECKPOINT, prepare
from .remote import VALUE, call, not_json
from .requests import Request
from .states import SessionState, check_transition

Message = dict[str, Any]

RESTORE = "savepoint_restore_request"


class CancelOutcome(str, Enum):
    """What `Session.cancel` came to."""

    IDLE = "idle"
    """No cell was running."""
    ENDED = "ended"
    """The cell has ended; the kernel lives."""
    KILLED = "killed"
    """It did not end in time, so its kernel was killed."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A commit that was asked for.

    Attributes:
        commit: its number.
        dropped: names whose values are not saved, and why.
    """

    commit: int
    dropped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Restored:
    """What going to a commit did.

    Attributes:
        commit: number of the commit.
        changed: names that have another value now.
        removed: names that are gone.
        unrestorable: names that could not be restored, and why.
        recreated: names whose values were made again.
    """

    commit: int
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unrestorable: Mapping[str, str]
    recreated: tuple[str, ...]


class Session:
    """One kernel of a pool, until it is released; an async context manager that releases it.

    `SessionPool.acquire` makes them.

    Args:
        kernel: a kernel that is ready.
        replace: gets another kernel for this one, which it ends.
        release: called once, with the session and the kernel it had last.
    """

    def __init__(
        self,
        kernel: Kernel,
        replace: Callable[[Kernel], Awaitable[Kernel]],
        release: Callable[[Session, Kernel], None],
    ) -> None:
        self.id = uuid.uuid4().hex
        """Stays the same for as long as the session lives, whatever becomes of its kernel."""
        self._replace = replace
        self._release = release
        self._state = SessionState.IDLE
        self._turns = asyncio.Lock()
        self._resetting = asyncio.Lock()
        self._current: Request | None = None
        self._prompts: list[InputRequired] = []
        self._kernel = kernel
        kernel.on_exit = self._died

    @property
    def state(self) -> SessionState:
        """What it does at the moment."""
        return self._state

    @property
    def kernel_id(self) -> str:
        """Id of its kernel; `reset` changes it."""
        return self._kernel.id

    @property
    def lib_paths(self) -> tuple[Path, ...]:
        """The directories put first in ``sys.path``."""
        return self._kernel.launch.lib_paths

    @property
    def executions(self) -> int:
        """How many cells its kernel has run."""
        return self._kernel.executions

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.release()

    async def release(self) -> None:
        """Give the session back to its pool; does nothing the second time.

        A cell that still runs is ended. The pool sees to the kernel in the background.
        """
        async with self._resetting:
            if self._state is not SessionState.CLOSED:
                self._enter(SessionState.CLOSED)
                self._release(self, self._kernel)

    # -- cells

    async def execute(
        self,
        code: str,
        *,
        timeout: float | None = None,
        transaction: str | None = None,
        silent: bool = False,
        store_history: bool = True,
        allow_stdin: bool = True,
    ) -> AsyncGenerator[Event, None]:
        """Run a cell and yield what it says, in order; the last event is `Done`.

        The cell is sent when the iteration begins, or when the cell before it has ended. It goes on
        if the caller leaves the loop; `cancel` ends it.

        Args:
            code: the cell.
            timeout: seconds after which the kernel interrupts it; it fails with ExecutionTimeout.
            transaction: policy for its effects, such as "rollback_on_failure".
            silent: leave no trace in history, and show no result.
            store_history: count it, and keep it in the history.
            allow_stdin: it may ask for input.

        Raises:
            KernelDied: the kernel ended, before the cell or with it.
            PoolClosed: the session was released, or its pool closed.
            UnsupportedByKernel: the kernel knows no time limits or transactions.
        """
        ours = {"timeout": timeout, "transaction": transaction}
        metadata = {name: value for name, value in ours.items() if value is not None}
        request = await self._submit(
            code,
            metadata,
            silent=silent,
            store_history=store_history and not silent,
            allow_stdin=allow_stdin,
        )
        try:
            async for event in _events(request):
                yield event
        finally:
            request.discard()

    async def evaluate(
        self,
        code: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Any:
        """Return the value of the code's last expression, as JSON data.

        It sees the names of the session, and its own are gone afterwards. Objects that it changes
        stay changed. What it prints is dropped, and it can't ask for input.

        Args:
            code: the code; ``await`` and magics work.
            inputs: names for it, with JSON data.
            timeout: seconds after which the kernel interrupts it.

        Raises:
            EvaluationFailed: the code raised.
            NotJSON: the value is none, or ``inputs`` are none.
            KernelDied: the kernel ended.
        """
        names = dict(inputs or {})
        if strange := not_json(names, "inputs"):
            raise NotJSON(strange)
        cell = call("evaluate", code, names, awaits=True)
        self._kernel.require(self._kernel.is_python, "evaluate")
        metadata = {} if timeout is None else {"timeout": timeout}
        request = await self._submit(
            cell, metadata, silent=True, store_history=False, allow_stdin=False
        )
        return _value(await request.end())

    async def reply(self, text: str, prompt: InputRequired | None = None) -> None:
        """Answer ``input()`` or ``getpass()``.

        Args:
            text: the answer.
            prompt: what it answers; by default the latest that is open.

        Raises:
            NoInputRequired: nothing was asked.
            KernelDied: there is nobody to answer.
        """
        kernel = self._living()
        if prompt is None:
            if not self._prompts:
                raise NoInputRequired(f"The session is {self._state.value}: it asks for nothing.")
            prompt = self._prompts[-1]
        if prompt in self._prompts:
            self._prompts.remove(prompt)
        kernel.answer(prompt.request, text)
        if self._state is SessionState.INPUT_REQUIRED and not self._prompts:
            self._enter(SessionState.BUSY)

    async def interrupt(self) -> bool:
        """Interrupt the running cell, as Ctrl-C does; returns False if there is none."""
        if self._current is None or self._current.replied.is_set():
            return False
        kernel = self._living()
        self._prompts.clear()
        if self._state is SessionState.INPUT_REQUIRED:
            self._enter(SessionState.BUSY)
        await kernel.interrupt()
        return True

    async def cancel(self, grace: float = 5.0) -> CancelOutcome:
        """Interrupt the running cell, and kill its kernel if it has not ended in time.

        Cells that wait for their turn are not affected, unless the kernel is killed.

        Args:
            grace: seconds it has to end.
        """
        request, kernel = self._current, self._kernel
        if request is None or not await self.interrupt():
            return CancelOutcome.IDLE
        try:
            await asyncio.wait_for(request.replied.wait(), grace)
        except asyncio.TimeoutError:
            await kernel.kill()
            await request.finished.wait()
        return CancelOutcome.ENDED if request.exit is None else CancelOutcome.KILLED

    async def take_late_events(self) -> tuple[list[Event], int]:
        """Return what came since the last call and belongs to no running cell.

        Threads go on printing when their cell has ended, for example.

        Returns:
            The events, the latest 1000 at most, and how many older ones were dropped.
        """
        return self._kernel.take_late()

    # -- state

    async def checkpoint(
        self, name: str | None = None, message: str = "", policy: str = "pickle_or_error"
    ) -> Checkpoint:
        """Commit the state, in turn with the cells.

        Args:
            name: a name to find it by.
            message: what to say of it.
            policy: what to do about values that can't be saved.

        Raises:
            savepoint_kernel.exceptions.UnrestorableState: a value can't be saved.
            UnsupportedByKernel: the kernel has no timeline.
            KernelDied: the kernel ended.
        """
        content = {"name": name, "message": message, "policy": policy}
        reply = await self.request(CHECKPOINT, content)
        return Checkpoint(reply["commit"], reply["dropped"])

    async def restore(self, commit: str | int, names: Sequence[str] = ()) -> Restored:
        """Go to a commit, in turn with the cells.

        Args:
            commit: its name or number.
            names: take only these from it.

        Raises:
            savepoint_kernel.exceptions.CheckpointNotFound: there is no such commit.
            savepoint_kernel.exceptions.UnrestorableState: it can't be restored.
        """
        return await self._restore({"commit": str(commit), "names": list(names)})

    async def undo(self, count: int = 1) -> Restored:
        """Go back to before the latest cell, or so many, that changed something.

        Raises:
            savepoint_kernel.exceptions.CheckpointNotFound: there are not as many.
        """
        return await self._restore({"undo": count})

    async def redo(self) -> Restored:
        """Go to where the latest undo came from.

        Raises:
            savepoint_kernel.exceptions.CheckpointNotFound: nothing was undone.
        """
        return await self._restore({"redo": True})

    async def request(self, msg_type: str, content: Message | None = None) -> Message:
        """Send one of the kernel's control requests; returns the content of its reply.

        Raises:
            UnsupportedByKernel: the kernel does not know them.
            KernelDied: the kernel ended.
            Exception: the error the kernel replied.
        """
        kernel = await self._settled()
        kernel.require(kernel.is_savepoint, msg_type)
        return await kernel.call(msg_type, content or {})

    async def clear(self) -> None:
        """Delete all names and run the warm-up again; the process stays. `undo` takes it back.

        Raises:
            RequestFailed: the names could not be deleted; an interrupt came, for example.
            WarmupFailed: the warm-up raised.
            KernelDied: the kernel ended.
        """
        async with self._turns:
            kernel = await self._free()
            kernel.require(kernel.is_python, "clear")
            code = "%clear" if kernel.is_savepoint else "%reset -f"
            request = self._send(kernel, code, {}, store_history=False)
            content = (await request.end())["content"]
            if content["status"] != "ok":
                raise RequestFailed(content["ename"], content["evalue"])
            await prepare(kernel)

    async def reset(self) -> None:
        """Take a fresh kernel with the same warm-up and library paths; the id stays.

        The kernel before it is ended, with the cell that runs there.

        Raises:
            PoolClosed: the session was released, or its pool closed.
            Exception: the fresh kernel did not start; the session is dead.
        """
        async with self._resetting:
            self._check_open()
            self._enter(SessionState.STARTING)
            self._prompts.clear()
            old = self._kernel
            old.on_exit = lambda kernel: None
            try:
                kernel = await self._replace(old)
            except BaseException:
                if self.state is SessionState.STARTING:
                    self._enter(SessionState.DEAD)
                raise
            self._kernel = kernel
            kernel.on_exit = self._died
            self._enter(SessionState.IDLE)

    async def _restore(self, content: Message) -> Restored:
        reply = await self.request(RESTORE, content)
        return Restored(
            reply["commit"],
            tuple(reply["changed"]),
            tuple(reply["removed"]),
            reply["unrestorable"],
            tuple(reply["recreated"]),
        )

    # -- turns

    async def _submit(self, code: str, metadata: Message, **content: Any) -> Request:
        async with self._turns:
            return self._send(await self._free(), code, metadata, **content)

    async def _free(self) -> Kernel:
        """Wait until no cell runs."""
        while self._current is not None:
            await self._current.finished.wait()
        return await self._settled()

    def _send(self, kernel: Kernel, code: str, metadata: Message, **content: Any) -> Request:
        if metadata:
            kernel.require(kernel.is_savepoint, ", ".join(metadata))
        request = kernel.execute(code, {METADATA_KEY: metadata} if metadata else None, **content)
        kernel.executions += 1
        request.on_prompt = self._asked
        request.on_finished = self._cell_ended
        self._current = request
        self._enter(SessionState.BUSY)
        return request

    async def _settled(self) -> Kernel:
        """Return the kernel, once a reset that is under way has ended."""
        async with self._resetting:
            return self._living()

    def _living(self) -> Kernel:
        self._check_open()
        if self._kernel.exit is not None:
            raise self._kernel.exit.error()
        return self._kernel

    def _check_open(self) -> None:
        if self._state is SessionState.CLOSED:
            raise PoolClosed(f"Session {self.id} was released, or its pool closed.")

    def _asked(self, message: Message) -> None:
        prompt = event_of(message)
        assert isinstance(prompt, InputRequired)
        self._prompts.append(prompt)
        if self._state is SessionState.BUSY:
            self._enter(SessionState.INPUT_REQUIRED)

    def _cell_ended(self) -> None:
        self._current = None
        self._prompts.clear()
        if self._state in {SessionState.BUSY, SessionState.INPUT_REQUIRED}:
            alive = self._kernel.exit is None
            self._enter(SessionState.IDLE if alive else SessionState.DEAD)

    def _died(self, kernel: Kernel) -> None:
        if self._state not in {SessionState.DEAD, SessionState.CLOSED}:
            self._enter(SessionState.DEAD)

    def _enter(self, state: SessionState) -> None:
        check_transition(self._state, state)
        self._state = state


async def _events(request: Request) -> AsyncGenerator[Event, None]:
    """Yield what a cell says.

    An error is held until the reply says why the cell ended, or more comes, whichever is first.
    """
    held: Message | None = None
    shown = False
    while (message := await request.next()) is not None:
        if held is not None:
            yield error_of(held, request.reply)
            held = None
        if message is request.reply:
            continue
        if message["header"]["msg_type"] != "error":
            yield event_of(message)
            continue
        shown = True
        if request.reply is None:
            held = message["content"]
        else:
            yield error_of(message["content"], request.reply)
    if held is not None:
        yield error_of(held, request.reply)
    reply = request.result()
    if reply["content"]["status"] == "error" and not shown:
        yield error_of(reply["content"], reply)
    yield done_of(reply)


def _value(reply: Message) -> Any:
    content = reply["content"]
    for payload in content.get("payload", ()):
        if payload.get("source") == VALUE:
            content = payload
    if "text" in content:
        return json.loads(content["text"])
    if "strange" in content:
        raise NotJSON(f"{content['strange']}; make JSON data of it.")
    kind = FailureKind.EXCEPTION if content is not reply["content"] else failure_kind(reply)
    raise EvaluationFailed(
        content.get("ename", content.get("status")),
        content.get("evalue", ""),
        tuple(content.get("traceback", ())),
        kind.value,
    )
