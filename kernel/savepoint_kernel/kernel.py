"""SavepointKernel: the request handlers, and who calls them on which thread.

    main thread        cells, in order; comm handlers while no cell blocks it
    Shell channel      reads shell and stdin, routes; nothing else
    Introspection      complete, inspect, is_complete, history, kernel_info, comm_info, connect
    Comm               comm handlers while a cell blocks the main thread (from the first comm on)
    Control            control channel
    IOPub              subscriptions, output timers
    fd capture         C-level output
    savepoint-store    writes commits to disk; savepoint-reader reads them for a restore
    savepoint-expiry   removes sessions nobody has used for long, once
    Watchdog           ends the saving of a value that takes too long
    Limits             looks at memory, CPU time and processes, if they are limited
    Heartbeat, subshell threads, history saving: ipykernel's and IPython's own

Replies and iopub messages are sent by the thread that makes them (`sockets`, `iopub`).

This class overrides semi-private parts of ipykernel 7; the pin in pyproject.toml and the suite say
which versions that was tried with.
"""

from __future__ import annotations

import asyncio
import builtins
import getpass
import inspect
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

from ipykernel import kernel_protocol_version
from ipykernel.ipkernel import IPythonKernel
from ipykernel.thread import BaseThread
from IPython.core.completer import ProvisionalCompleterWarning
from tornado.ioloop import IOLoop
from traitlets import Any as AnyTrait
from traitlets import Bool, DottedObjectName, Float, Type, default
from traitlets.utils.importstring import import_item
from zmq.eventloop.zmqstream import ZMQStream

from . import __version__, parents, protocol
from .comms import CommQueue, beside_cell
from .completion import WarmUp, complete
from .exceptions import InvalidRequest
from .executor import Cell, CellRequest, Executor
from .gil import hurry
from .history.commands import Commands
from .history.savepoints import Savepoints
from .inbox import Inbox, Item
from .interrupts import Interrupts, interrupt_main_thread
from .limits import Limits
from .postponed import (
    debugger_available,
    module_files,
    postponed_debugger,
    unlisted_modules,
)
from .requests import TimelineRequests
from .routing import Lane, Router
from .serialize.sources import REGISTRY
from .shell import RecordingCompiler, ZMQInteractiveShell
from .sockets import Frames, SharedSocket
from .stdin import StdinBridge

Message = dict[str, Any]
Handler = Callable[..., Any]

_WAKE = b"wake"
"""Sent through ipykernel's inproc pair to end a GUI event loop that has the main thread."""


class SavepointKernel(IPythonKernel):  # type: ignore[misc]
    """IPython kernel whose messages never wait for user code."""

    implementation = "savepoint"
    implementation_version = __version__

    shell_class = Type(ZMQInteractiveShell)
    compiler_class = Type(RecordingCompiler)
    # Not a Type: that would import debugpy when the kernel is made.
    debugger_class = DottedObjectName("savepoint_kernel.debugger.SavepointDebugger")
    shell_stream = AnyTrait(allow_none=True)

    cell_timeout = Float(
        0.0,
        min=0.0,
        help="""Seconds a cell may run before it is interrupted and fails with ExecutionTimeout.
        0 means no limit. A request's metadata.savepoint.timeout goes before it.""",
    ).tag(config=True)
    timeout_grace = Float(
        5.0,
        min=0.0,
        help="""Seconds after the interrupt of a timed-out cell until it is interrupted once more
        and reported, as a message on stderr of the cell, to ignore the interrupt.""",
    ).tag(config=True)
    comm_grace = Float(
        0.02,
        min=0.0,
        help="""Seconds a comm message (a widget's change, say) waits for a running cell to give the
        main thread free before it is handled on another thread.""",
    ).tag(config=True)
    warm_completer = Bool(
        True,
        help="""Load the completer while kernel and machine idle, so that the first completion is as
        fast as the next. It costs about half a second of CPU, once.""",
    ).tag(config=True)
    warm_completer_after = Float(
        1.0,
        min=0.0,
        help="Seconds of idleness after which warm_completer takes effect.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        with postponed_debugger(), unlisted_modules():
            super().__init__(**kwargs)
        self._kernel_modules = module_files()
        self._interrupts = self.iopub_thread.interrupts
        self.executor = Executor(self, self.iopub_thread, self._interrupts)
        self.limits = Limits(self, self._queue_for_main)
        self._status_lock = threading.Lock()
        self._reply_metadata: dict[str, Message] = {}
        self._debug_lock = asyncio.Lock()
        self._debugger: Any = None
        self._listening = False
        self._begun = threading.Event()
        self.greeted = threading.Event()
        """Set when a request was answered beside the main thread."""
        self.restarting = False
        """True if whoever asked for the shutdown will start the kernel again."""
        self.shell.configurables.append(self)
        self.savepoints = Savepoints(
            self.shell,
            lambda: self.session.key,
            lambda text: self.publish_notice(self.get_parent("shell"), text),
            lambda: self.executor.running,
            parent=self,
        )
        self.commands = Commands(self.savepoints)
        self.shell.configurables.append(self.savepoints)
        requests = TimelineRequests(self, self.savepoints, self.commands, self._queue_for_main)
        self.control_handlers.update(requests.handlers)
        REGISTRY.install()

    @default("_execute_sleep")
    def _default_execute_sleep(self) -> float:
        return 0.0  # output is sent before the reply, by the same thread: nothing to wait for

    # -- start and stop ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to answer."""
        if not self._listening:
            self.listen()
        if self.savepoints.restore_on_start:
            self.open_timeline()
        self._begun.set()

    def listen(self) -> None:
        """Take the sockets over and start the service threads.

        A standby does so before it is anybody's. Until `start`, only kernel_info is answered, as it
        needs nothing that comes with the order; cells and all else wait.
        """
        self._listening = True
        channel_loop = self.shell_channel_thread.io_loop
        self._main_loop = asyncio.get_event_loop()
        self._inbox = Inbox(
            channel_loop, lambda: self.shell_stream.receive(), self._serve_queued, self._wake_main
        )
        self._introspection = BaseThread(name="Introspection", daemon=True)
        self._stdin = StdinBridge(self.session, self.log)
        self._comms = CommQueue(
            IOLoop.current(),
            self._serve_comm,
            lambda: self.executor.running,
            lambda: self.comm_grace,
        )
        self._warm_up = WarmUp(
            self._introspection.io_loop,
            lambda: self.shell.Completer,
            lambda: self.executor.running,
            lambda: self.shell.execution_count,
            self.warm_completer_after,
        )

        router = Router(
            self.session,
            self.log,
            {
                Lane.EXECUTION: self._inbox.add,
                Lane.INTROSPECTION: self._queue_introspection,
                Lane.COMM: self._comms.add,
            },
            lambda frames: channel_loop.add_callback(self.shell_channel_thread_main, frames),
        )
        self.shell_stream = _share(self.shell_stream, router.route, self._interrupts)
        # Subshells reply through whatever the channel thread has as its stream.
        self.shell_channel_thread.shell_stream = self.shell_stream
        self.stdin_stream = SharedSocket(
            self.stdin_socket, channel_loop, self._stdin.deliver, self._interrupts
        )
        self._stdin.use(self.stdin_stream)

        super().start()  # from here on the Control thread serves requests
        # Completions must not enter warnings.catch_warnings (see `completion.complete`).
        warnings.filterwarnings("ignore", category=ProvisionalCompleterWarning)
        builtins.input = self.raw_input
        getpass.getpass = self.getpass
        parents.inherit_across_threads(self)
        self._interrupts.guard_forks()
        self._introspection.start()
        self.shell_stream.start()
        self.stdin_stream.start()

    def do_shutdown(self, restart: bool) -> Message:
        """End the running cell and the service threads; the loops are stopped by the caller."""
        self._comms.stop()
        self.restarting = restart
        content: Message = super().do_shutdown(restart)
        if self.executor.running:
            self.interrupt_cell()
        return content

    # -- the lanes; these run on the Shell channel thread --------------------------------------

    def _wake_main(self) -> None:
        if self.eventloop is None:
            self._main_loop.call_soon_threadsafe(self._inbox.consume)
        else:
            # A GUI loop has the main thread; activity on this socket makes it return.
            manager = self.shell_channel_thread.manager
            manager.get_shell_channel_to_subshell_socket(None).send(_WAKE)

    def _queue_for_main(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Have the main thread serve something in its turn. Any thread."""
        self.shell_channel_thread.io_loop.add_callback(self._inbox.add, serve)

    def _queue_introspection(self, frames: Frames) -> None:
        self._introspection.io_loop.add_callback(self._serve_introspection, frames)

    async def shell_main(self, subshell_id: str | None, msg: Frames) -> None:
        """Take a message that came through an inproc pair: a wake-up, or one for a subshell."""
        if subshell_id is None:
            self._inbox.consume()
        else:
            await super().shell_main(subshell_id, msg)

    # -- execution, on the main thread ---------------------------------------------------------

    async def _serve_queued(self, item: Item) -> None:
        if callable(item):
            await item()
            return
        parsed = self._parse(item)
        if parsed is None:
            return
        ident, msg = parsed
        if msg["header"]["msg_type"] == protocol.EXECUTE:
            await self._serve_execute(ident, msg)
        else:
            self.set_parent(ident, msg)
            await self._serve(ident, msg, self.shell_handlers, self.shell_stream)

    async def _serve_execute(self, ident: Any, msg: Message) -> None:
        self._comms.settle(give_up=lambda: self._interrupts.noted)
        self._interrupts.forget()
        self.set_parent(ident, msg)
        cell = Cell(msg)
        with self._status_lock:
            self.executor.cell = cell
            self._publish_status("busy", "shell", parent=msg)
        try:
            if self._inbox.aborting:
                self._send_abort_reply(self.shell_stream, msg, ident)
            else:
                await self.execute_request(self.shell_stream, ident, msg)
        except (Exception, KeyboardInterrupt) as error:
            # A net for what slips through (`Interrupts.disarm` says how): exactly one reply.
            self._interrupts.disarm()
            self.log.exception("Exception in execute_request")
            if not cell.replied:
                self.send_error(self.shell_stream, ident, msg, error)
        finally:
            self._stdin.forget()
            with self._status_lock:
                self.executor.cell = None
                self._publish_status("idle", "shell", parent=msg)
            if cell.to_commit is not None:
                self.savepoints.end_cell(cell.to_commit)
            if self.warm_completer:
                self._warm_up.cell_ended()

    def open_timeline(self) -> None:
        """Open the timeline before the first cell does. Any thread."""
        self._queue_for_main(self._start_savepoints)

    async def _start_savepoints(self) -> None:
        self.savepoints.start()  # where cells run: decimal's context is that of contextvars

    async def execute_request(self, stream: Any, ident: Any, parent: Message) -> None:
        """Serve an execute_request; one without code is an error rather than no reply.

        Raises:
            InvalidRequest: there is no code.
        """
        if not isinstance(parent["content"].get("code"), str):
            raise InvalidRequest("content.code of an execute_request must be a string")
        await super().execute_request(stream, ident, parent)

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: Message | None = None,
        cell_id: str | None = None,
    ) -> Message:
        """Run a cell; returns the content of its reply."""
        cell = self.executor.cell
        if threading.current_thread() is not threading.main_thread() or cell is None:
            # A cell of a subshell, or one sent on the control channel.
            self.savepoints.suspect_all("a subshell may have changed anything")
            content: Message = await super().do_execute(
                code,
                silent,
                store_history,
                user_expressions,
                allow_stdin,
                cell_meta=cell_meta,
                cell_id=cell_id,
            )
            return content
        request = CellRequest(
            code, silent, store_history, user_expressions or {}, cell_meta or {}, cell_id
        )
        content, ours = await self.executor.run(request)
        self._reply_metadata[cell.parent["header"]["msg_id"]] = ours
        wants_stop = cell.parent["content"].get("stop_on_error", True) and not silent
        # After %exit the channel thread, which would be waited for, is about to end or has.
        if content["status"] == "error" and wants_stop and not self.shell.exit_now:
            self._inbox.abort(self.stop_on_error_timeout)
        return content

    def finish_metadata(
        self, parent: Message, metadata: Message, reply_content: Message
    ) -> Message:
        """Add stats and failure kind to the metadata of an execute_reply."""
        metadata = super().finish_metadata(parent, metadata, reply_content)
        cell = self.executor.cell
        if cell is not None and cell.parent is parent:
            cell.replied = True  # the reply is sent next, and nothing raises any more
        ours = self._reply_metadata.pop(parent["header"]["msg_id"], None)
        if ours is not None:
            metadata[protocol.METADATA_KEY] = ours
        return metadata

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        if subshell_id is not None:
            super()._abort_queues(subshell_id)
        # ipykernel calls this after the reply. The main shell did it before (`inbox`).

    def interrupt_cell(self) -> None:
        """Deliver an interrupt as a front end's would be: the children of this process included."""
        if sys.platform == "win32":
            interrupt_main_thread()
        else:
            self._send_interrupt_children()

    def log_failure(self, content: Message) -> None:
        """Log the traceback of a failed cell, as ipykernel does."""
        if content.get("traceback"):
            self.log.info("Exception in execute request:\n%s", "\n".join(content["traceback"]))

    # -- everything else, on the thread of its lane --------------------------------------------

    async def _serve_introspection(self, frames: Frames) -> None:
        parsed = self._parse(frames)
        if parsed is not None:
            if parsed[1]["header"]["msg_type"] != protocol.KERNEL_INFO:
                self._begun.wait()
            parents.adopt(self, *parsed)
            with hurry(self.executor.running):
                await self._serve(*parsed, self.shell_handlers, self.shell_stream)
            self.greeted.set()

    def _serve_comm(self, frames: Frames) -> None:
        copy_context().run(self._serve_comm_in_context, frames)

    def _serve_comm_in_context(self, frames: Frames) -> None:
        suspended = self._interrupts.suspend()  # of a cell that awaits
        if not self.executor.running:
            self._interrupts.forget()
        try:
            parsed = self._parse(frames)
            if parsed is not None:
                self._handle_comm(*parsed)
        finally:
            self._interrupts.resume(suspended)

    def _handle_comm(self, ident: Any, msg: Message) -> None:
        parents.adopt(self, ident, msg)
        self.savepoints.suspect_all("a comm message may have changed anything")
        beside_cell.set(self.executor.running)
        self._publish_status("busy", "shell", parent=msg)
        try:
            try:
                self._interrupts.arm()
                with hurry(self.executor.running):
                    self.shell_handlers[msg["header"]["msg_type"]](self.shell_stream, ident, msg)
            finally:
                self._interrupts.disarm()
        except (Exception, KeyboardInterrupt, SystemExit):
            self.log.exception("Exception in comm handler")
        finally:
            self.iopub_thread.output.flush()
            self._publish_idle(msg)

    async def dispatch_control(self, frames: Frames) -> None:
        """Serve a control request at once; only debug requests wait for each other.

        Stock ipykernel serves one at a time, and starting the debugger waits for the running cell,
        so that nothing could interrupt it any more.
        """
        parsed = self._parse(frames)
        if parsed is None:
            return
        ident, msg = parsed
        is_debug = msg["header"]["msg_type"] == protocol.DEBUG
        async with self._debug_lock if is_debug else self._control_lock:
            parents.adopt(self, ident, msg)  # a cell sent on control prints to itself
            self.set_parent(ident, msg, channel="control")
            await self._serve(ident, msg, self.control_handlers, self.control_stream)

    async def _serve(
        self, ident: Any, msg: Message, handlers: dict[str, Handler], stream: Any
    ) -> None:
        """Answer one request; a handler that fails is an error reply."""
        msg_type = msg["header"]["msg_type"]
        self._publish_status("busy", "shell", parent=msg)
        try:
            handler = handlers.get(msg_type)
            if handler is None:
                self.log.warning("Unknown message type: %r", msg_type)
            else:
                result = handler(stream, ident, msg)
                if inspect.isawaitable(result):
                    await result
        except Exception as error:
            self.log.exception("Exception in the handler of %s", msg_type)
            self.send_error(stream, ident, msg, error)
        finally:
            self._publish_idle(msg)

    def _publish_idle(self, msg: Message) -> None:
        """Publish that ``msg`` is done, and that a running cell is not.

        jupyter_server and JupyterLab take the last status they see for the kernel's state; an idle
        of a completion would let them show, and cull, a busy kernel as idle.
        """
        self._publish_status("idle", "shell", parent=msg)
        with self._status_lock:
            cell = self.executor.cell
            if cell is not None:
                self._publish_status("busy", "shell", parent=cell.parent)

    def send_error(self, stream: Any, ident: Any, msg: Message, error: BaseException) -> None:
        """Answer a request with an error."""
        msg_type = msg["header"]["msg_type"]
        if msg_type.endswith("_request"):
            content = {
                "status": "error",
                "ename": type(error).__name__,
                "evalue": str(error),
                "traceback": [],
            }
            self.session.send(stream, msg_type.replace("_request", "_reply"), content, msg, ident)

    def _parse(self, frames: Frames) -> tuple[Any, Message] | None:
        try:
            ident, parts = self.session.feed_identities(frames, copy=False)
            return ident, self.session.deserialize(parts, content=True, copy=False)
        except Exception:
            self.log.exception("Invalid message")
            return None

    def set_parent(self, ident: Any, parent: Message, channel: str = "shell") -> None:
        """Set what output belongs to: for the process on the main thread, else for the thread."""
        if channel == "shell" and threading.current_thread() is not threading.main_thread():
            parents.adopt(self, ident, parent)
            return
        super().set_parent(ident, parent, channel)
        if channel == "shell":
            # ipykernel sets it on sys.stdout and sys.stderr, which the user may have replaced.
            self._stdout.set_parent(parent)
            self._stderr.set_parent(parent)

    def publish_notice(self, parent: Message, text: str) -> None:
        """Say something on stderr of the cell whose request is ``parent``."""
        self.session.send(
            self.iopub_socket, "stream", {"name": "stderr", "text": text}, parent, b"stream.stderr"
        )

    def pre_handler_hook(self) -> None:
        """Leave SIGINT alone; `Interrupts` decides when it raises."""

    def post_handler_hook(self) -> None:
        """Leave SIGINT alone; `Interrupts` decides when it raises."""

    # -- debugger, on the Control thread -------------------------------------------------------

    @property
    def debugger(self) -> Any:
        """The debugger; made when it is first asked for (see `postponed`)."""
        if self._debugger is None:
            self._debugger = import_item(self.debugger_class)(
                self.log,
                self.debugpy_stream,
                self._publish_debug_event,
                self.debug_shell_socket,
                self.session,
                self._kernel_modules,
                self.debug_just_my_code,
                self.filter_internal_frames,
            )
            asyncio.run_coroutine_threadsafe(
                super().poll_stopped_queue(), self.control_thread.io_loop.asyncio_loop
            )
        return self._debugger

    async def poll_stopped_queue(self) -> None:
        """Do nothing yet: polling begins when the debugger is made."""

    # -- introspection -------------------------------------------------------------------------

    @property
    def kernel_info(self) -> Message:
        """Content of the kernel_info_reply."""
        features = ["kernel subshells", protocol.FEATURE]
        if debugger_available():
            features.append("debugger")
        return {
            "protocol_version": kernel_protocol_version,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": self.banner,
            "help_links": self.help_links,
            "supported_features": features,
        }

    async def comm_info_request(self, stream: Any, ident: Any, parent: Message) -> None:
        """List the open comms; a cell may open and close some meanwhile."""
        wanted = parent["content"].get("target_name")
        comms = {
            comm_id: {"target_name": comm.target_name}
            for comm_id, comm in dict(self.comm_manager.comms).items()
            if wanted is None or comm.target_name == wanted
        }
        content = {"comms": comms, "status": "ok"}
        self.session.send(stream, "comm_info_reply", content, parent, ident)

    def do_history(self, hist_access_type: str, *args: Any, **kwargs: Any) -> Message:
        """Return entries of the history; the current session goes by its number there too.

        IPython calls it 0 in a range, and by its number in a search.
        """
        reply: Message = super().do_history(hist_access_type, *args, **kwargs)
        if hist_access_type == "range":
            current = self.shell.history_manager.session_number
            reply["history"] = [(number or current, *rest) for number, *rest in reply["history"]]
        return reply

    def do_complete(self, code: str, cursor_pos: int | None) -> Message:
        """Complete ``code`` at ``cursor_pos`` (an offset in code points)."""
        if not self.use_experimental_completions:
            plain: Message = super().do_complete(code, cursor_pos)
            return plain
        return complete(self.shell.Completer, code, len(code) if cursor_pos is None else cursor_pos)

    # -- input ---------------------------------------------------------------------------------

    @property
    def _allow_stdin(self) -> bool:
        """Whether the request that the calling thread works for lets it ask."""
        request = self.get_parent("shell")
        return bool(request.get("content", {}).get("allow_stdin", False))

    def _forward_input(self, allow_stdin: bool = False) -> None:
        # `input` and `getpass` were replaced once, at start. Stock ipykernel does it for every
        # cell, which undoes a rebinding by the user and strands threads that ask between cells.
        pass

    def _restore_input(self) -> None:
        pass

    def _input_request(
        self, prompt: str, ident: Any, parent: Message, password: bool = False
    ) -> str:
        self.iopub_thread.output.settle()
        return self._stdin.ask(prompt, password, parent, ident)


def _share(
    stream: ZMQStream, on_message: Callable[[Frames], None], interrupts: Interrupts
) -> SharedSocket:
    """Take the socket of a ZMQStream that has not been read from yet."""
    socket, io_loop = stream.socket, stream.io_loop
    io_loop.add_callback(io_loop.remove_handler, socket)
    return SharedSocket(socket, io_loop, on_message, interrupts)
