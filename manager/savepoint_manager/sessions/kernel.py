"""One kernel process and its client: jupyter_client's manager and channels, and who reads them.

    shell, control ──▶ reply   ─┐
    iopub          ──▶ output  ─┼──▶ the `Request` its parent header names
    stdin          ──▶ prompt  ─┘
    the process    ──▶ its end ──▶ all requests

Every channel has a task that reads it, whether or not somebody waits: a reply nobody asks for any
more does not stand in the way of the next one. An input_request overtakes the output before it, as
they travel on two channels. So it is held until a request on the control channel has come back
whose idle status is behind that output on iopub.

Threads: one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from queue import Empty
from typing import Any

import zmq.asyncio
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir

from savepoint_kernel import exceptions as kernel_errors
from savepoint_kernel.launch import MODULE
from savepoint_kernel.protocol import EXECUTE, FEATURE

from ..exceptions import KernelDied, RequestFailed, UnsupportedByKernel
from .config import Launch
from .events import NO_EVENTS, Event, event_of
from .exits import Exit, wait_for_exit
from .requests import Request

Message = dict[str, Any]

KERNEL_INFO = "kernel_info_request"

LATE = 1000
"""Events kept of those that belong to no running request."""

_ANSWERED_WITHIN = 1.0
"""Seconds after which a kernel that starts is asked again. When the request was sent, the
port may have been another's."""

_SUBSCRIBED_WITHIN = 0.1
"""Seconds after which a reply without an idle status means that iopub is not connected yet."""

_CONTROL_PATIENCE = 1.0
"""Seconds a prompt waits for a kernel that is not known to answer while its cell waits."""

_DRAINED_AFTER = 0.05
"""Seconds without a message after which a dead kernel has nothing left to say."""

_IPYTHON = frozenset({MODULE, "ipykernel_launcher"})
"""Modules in the commands of kernels whose history is IPython's."""

_HISTORY_IN_MEMORY = "--HistoryManager.hist_file=:memory:"
"""What programs run is not in the user's history. And a hundred kernels that write to one database
find it locked, upon which IPython says so in the middle of a cell, and saves no more."""

_log = logging.getLogger(__name__)


class Kernel:
    """A kernel.

    Args:
        launch: how to start it.
        context: for its sockets.
    """

    def __init__(self, launch: Launch, context: zmq.asyncio.Context) -> None:
        self.launch = launch
        self.started = time.monotonic()
        self.executions = 0
        self.exit: Exit | None = None
        """How it ended; None while it lives."""
        self.on_exit: Callable[[Kernel], None] = lambda kernel: None
        """Called when it ends by itself."""
        self._late: deque[Message] = deque()
        self._late_dropped = 0
        self._info: Message = {}
        self._context = context
        self.id = str(uuid.uuid4())
        # Where Jupyter's programs look for it.
        connection_file = os.path.join(jupyter_runtime_dir(), f"kernel-{self.id}.json")
        self._manager = AsyncKernelManager(
            kernel_name=launch.kernel_name,
            kernel_id=self.id,
            connection_file=connection_file,
            context=context,
        )
        self._client: Any = None
        self._requests: dict[str, Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: asyncio.Task[None] | None = None

    # -- life

    async def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            jupyter_client.kernelspec.NoSuchKernel: there is no such kernelspec.
            KernelDied: it ended before it answered.
        """
        assert self._manager.kernel_spec is not None  # or NoSuchKernel, without a log of it
        os.makedirs(jupyter_runtime_dir(), mode=0o700, exist_ok=True)
        arguments = self.launch.arguments()
        if not _IPYTHON.isdisjoint(self._manager.kernel_spec.argv):
            arguments["extra_arguments"] = [_HISTORY_IN_MEMORY]
        await self._manager.start_kernel(**arguments)
        self._client = self._manager.client(context=self._context)
        self._client.start_channels(hb=False)
        for channel in ("shell", "iopub", "stdin", "control"):
            self._spawn(self._read(channel))
        self._spawn(self._watch())
        while True:
            probe = self.send("shell", KERNEL_INFO, {})
            try:
                await asyncio.wait_for(probe.replied.wait(), _ANSWERED_WITHIN)
                self._info = probe.result()["content"]
                await asyncio.wait_for(probe.finished.wait(), _SUBSCRIBED_WITHIN)
                return
            except asyncio.TimeoutError:
                pass
            finally:
                probe.withdraw()

    async def stop(self, reason: str, *, now: bool = False) -> None:
        """End the process, and everything that belongs to it here.

        Args:
            reason: what requests still under way are told, as in "The kernel {reason}".
            now: kill it; otherwise it is asked first, and has five seconds. If it is dead, this
                goes for its child processes.
        """
        if self._end is None:
            now = now or self.exit is not None
            self._fail(Exit(reason))
            self._end = asyncio.ensure_future(self._stop(now))
        await asyncio.shield(self._end)

    async def _stop(self, now: bool) -> None:
        await self._cancel(self._tasks)
        try:
            await self._manager.shutdown_kernel(now=now)
        except asyncio.CancelledError:  # the loop is about to close
            await self._manager.shutdown_kernel(now=True)
            raise
        finally:
            if self._client is not None:
                self._client.stop_channels()

    async def kill(self) -> None:
        """Kill the process; requests fail as after any other death."""
        assert self._manager.provisioner is not None
        await self._manager.provisioner.kill()

    async def interrupt(self) -> None:
        """Interrupt what runs, as Ctrl-C does."""
        await self._manager.interrupt_kernel()

    @property
    def is_savepoint(self) -> bool:
        """True if it commits cells, keeps time limits and so on."""
        return FEATURE in self._info.get("supported_features", ())

    @property
    def is_python(self) -> bool:
        """True if it runs Python."""
        return bool(self._info.get("language_info", {}).get("name") == "python")

    @property
    def running(self) -> Request | None:
        """The cell that runs; None if there is none."""
        for request in self._requests.values():
            if request.message["header"]["msg_type"] == EXECUTE and not request.replied.is_set():
                return request
        return None

    def require(self, supported: bool, what: str) -> None:
        """Pass if it can do it.

        Raises:
            UnsupportedByKernel: it can't.
        """
        if not supported:
            raise UnsupportedByKernel(
                f"The kernel {self.launch.kernel_name!r} has no {what}; the kernel 'savepoint' has."
            )

    # -- requests

    def send(
        self,
        channel: str,
        msg_type: str,
        content: Message,
        metadata: Message | None = None,
        *,
        keep: bool = False,
    ) -> Request:
        """Send a request.

        Args:
            channel: "shell" or "control".
            msg_type: its type.
            content: its content.
            metadata: its metadata.
            keep: keep what is published for it.

        Raises:
            KernelDied: there is nobody to send it to.
        """
        if self.exit is not None:
            raise self.exit.error()
        message = self._client.session.msg(msg_type, content, metadata=metadata)
        # A stock kernel that is held back loses messages, so it never is.
        request = Request(message, keep=keep, lossless=self.is_savepoint)
        self._requests[request.id] = request
        request.on_end = self._forget
        getattr(self._client, f"{channel}_channel").send(message)
        return request

    def _forget(self, request: Request) -> None:
        self._requests.pop(request.id, None)

    def execute(self, code: str, metadata: Message | None = None, **content: Any) -> Request:
        """Send a cell; ``content`` goes before the defaults of an execute_request."""
        defaults = {
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": True,
            # It would abort a cell that comes right after one that failed.
            "stop_on_error": False,
        }
        content = {"code": code, **defaults, **content}
        return self.send("shell", EXECUTE, content, metadata, keep=True)

    async def run_silently(self, code: str) -> Message:
        """Run code that leaves no trace of itself; returns the content of the reply.

        Raises:
            KernelDied: the kernel ended.
        """
        request = self.execute(code, silent=True, allow_stdin=False)
        try:
            content: Message = (await request.end())["content"]
            return content
        finally:
            request.withdraw()

    async def call(self, msg_type: str, content: Message) -> Message:
        """Send a request on the control channel; returns the content of its reply.

        Raises:
            KernelDied: the kernel ended.
            Exception: the error the kernel replied, of `savepoint_kernel.exceptions` if it is one
                of those, else `RequestFailed`.
        """
        request = self.send("control", msg_type, content)
        try:
            await request.replied.wait()
            reply: Message = request.result()["content"]
        finally:
            request.withdraw()
        if reply.get("status") == "error":
            raise _error_named(reply["ename"], reply["evalue"])
        return reply

    async def check(self, patience: float) -> bool:
        """Return whether it answers within so many seconds."""
        try:
            await asyncio.wait_for(self.call(KERNEL_INFO, {}), patience)
        except (asyncio.TimeoutError, KernelDied):
            return False
        return True

    def answer(self, prompt: Message, text: str) -> None:
        """Answer an input_request."""
        # The parent names the request this answers; kernels that check it refuse any other.
        content = {"value": text, "status": "ok"}
        reply = self._client.session.msg("input_reply", content, parent=prompt)
        self._client.stdin_channel.send(reply)

    def take_late(self) -> tuple[list[Event], int]:
        """Return what came for no running request since the last call, and how much was dropped."""
        taken = [event_of(message) for message in self._late], self._late_dropped
        self._late.clear()
        self._late_dropped = 0
        return taken

    # -- reading

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        cancelled = list(tasks)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)

    async def _read(self, channel: str) -> None:
        while True:
            request = await self._receive(channel, None)
            if request is not None:
                await request.room()

    async def _receive(self, channel: str, timeout: float | None) -> Request | None:
        """Take one message; returns the request it was published for.

        Raises:
            queue.Empty: there is none.
        """
        try:
            message = await getattr(self._client, f"{channel}_channel").get_msg(timeout=timeout)
        except ValueError:  # a wrong signature, say
            _log.exception("Invalid message on %s of kernel %s", channel, self.id)
            return None
        request = self._requests.get(message["parent_header"].get("msg_id", ""))
        if channel == "iopub":
            self._take_published(message, request)
        elif channel == "stdin":
            self._take_prompt(message, request)
        elif request is not None:  # else the one who asked has given up
            request.answer(message)
        return request

    def _take_published(self, message: Message, request: Request | None) -> None:
        msg_type, content = message["header"]["msg_type"], message["content"]
        if msg_type == "status" and request is not None:
            if content["execution_state"] == "idle":
                request.idle()
        elif msg_type in NO_EVENTS:
            pass
        elif request is not None:
            request.publish(message)
        else:
            self._keep_late(message)

    def _keep_late(self, message: Message) -> None:
        if len(self._late) == LATE:
            self._late.popleft()
            self._late_dropped += 1
        self._late.append(message)

    def _take_prompt(self, prompt: Message, request: Request | None) -> None:
        if request is None:
            self._keep_late(prompt)
        elif self.exit is None:
            self._spawn(self._ask(request, prompt, self.send("control", KERNEL_INFO, {})))

    async def _ask(self, request: Request, prompt: Message, barrier: Request) -> None:
        patience = None if self.is_savepoint else _CONTROL_PATIENCE
        try:
            await asyncio.wait_for(barrier.replied.wait(), patience)
            await barrier.finished.wait()
        except asyncio.TimeoutError:
            _log.info("Kernel %s serves no control requests beside a cell", self.id)
        finally:
            barrier.withdraw()
        request.ask(prompt)

    # -- its end

    async def _watch(self) -> None:
        end = await wait_for_exit(self._manager)
        await self._cancel(task for task in self._tasks if task is not asyncio.current_task())
        for channel in ("iopub", "shell", "control"):
            await self._drain(channel)
        self._fail(end)
        self.on_exit(self)

    async def _drain(self, channel: str) -> None:
        try:
            while True:
                await self._receive(channel, _DRAINED_AFTER)
        except Empty:
            return

    def _fail(self, end: Exit) -> None:
        if self.exit is None:
            self.exit = end
        for request in list(self._requests.values()):
            request.fail(self.exit)


def _error_named(ename: str, evalue: str) -> Exception:
    known = getattr(kernel_errors, ename, None)
    if isinstance(known, type) and issubclass(known, Exception):
        return known(evalue)
    return RequestFailed(ename, evalue)
