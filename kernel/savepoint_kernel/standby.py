"""A standby: a kernel that is ready but for what makes it somebody's.

    configured      by the zygote, once for all: options and configuration files are read, and a
                    shell exists
    made            kernel, service threads and sockets exist; one expression was evaluated, one
                    request answered
    waiting         nothing is bound; there is no key, no history session, no store
    handed out      takes the order's limits, directory, environment and stdio; binds the ports of
                    its connection file and says so; answers kernel_info, runs start-up files, and
                    serves the rest

It says so when the ports are bound, not before: a client that connects to a port where nobody
listens tries again only after 100 ms (ZMQ_RECONNECT_IVL), ten times what it takes to bind them.

What a kernel reads when it is made can't be told it later: configuration files, most options and
some environment variables are part of the pool's key (`orders.split_arguments`, the manager's
`keys`).

Processes: `configured` runs in the zygote, all else in a process of the standby's own.

Threads: the main thread. Service threads run while the standby waits; they have answered one
request, and have nothing to do.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import importlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import zmq
from IPython.core.application import BaseIPythonApplication
from jupyter_client.connect import port_names
from traitlets import TraitError
from traitlets.config import Config
from traitlets.config.loader import DeferredConfigString

from . import blas, handover, orders, protocol
from .app import SavepointKernelApp
from .gil import hurry
from .kernel import SavepointKernel
from .machine import is_busy
from .orders import Message, Order, OrderRefused
from .parent import ParentWatch
from .shell import RecordingCompiler, ZMQInteractiveShell

_BIND_TIMEOUT = 10.0
"""Seconds; a service thread that has nothing to do binds a socket in less than a millisecond."""

_REHEARSAL = "inproc://rehearsal"

_GREETING = 0.01
"""Seconds in which a client that waited for the ports asks for kernel_info. Nothing else is done
meanwhile: beside the rest of the start the answer took 24 ms from the request, else 16."""

_OPENING_DELAY = 0.05
"""Seconds from the start to the opening of the timeline, which takes as long: time for requests
that are answered at once."""


class _ConfiguredBefore(BaseIPythonApplication):  # type: ignore[misc]
    """What `initialize` of an application does before it turns to the kernel, made a step."""

    def read_configuration(self, arguments: Sequence[str]) -> None:
        """Read the command line and the configuration files."""
        super().initialize(list(arguments))

    def initialize(self, argv: Sequence[str] | None = None) -> None:
        """Do nothing: `read_configuration` has."""


class StandbyApp(SavepointKernelApp, _ConfiguredBefore):
    """A kernel application initialized in parts: `configure`, `prepare`, `take_over`, `begin`."""

    hb_port: int
    waiting = True
    """True until it is handed out; then it is an application like any."""

    moved = False
    """True if a port of the connection file was taken, and another was bound."""

    _other_ports = False

    def configure(self, arguments: Sequence[str]) -> None:
        """Do what can be done for all kernels that this process will fork.

        Args:
            arguments: their early ones.
        """
        self.read_configuration(arguments)
        if self.kernel_class is SavepointKernel:  # another one may have a shell of another class
            shell = ZMQInteractiveShell.instance(
                parent=self,
                profile_dir=self.profile_dir,
                user_ns=self.user_ns,
                compiler_class=RecordingCompiler,
            )
            atexit.unregister(shell.atexit_operations)  # until there is a kernel

    def prepare(self) -> None:
        """Do what can be done before it is known for whom."""
        # With tcp, the default, ipykernel warns of sockets without encryption, and there are none.
        self.transport = "ipc"
        self.initialize()
        self.kernel.listen()
        self.shell.run_cell("None", silent=True)
        self._rehearse()

    def _rehearse(self) -> None:
        """Answer a request: what is done for the first time takes ten times as long."""
        shell = self.kernel.shell_stream
        shell.use(lambda sock: sock.bind(_REHEARSAL))
        with self.context.socket(zmq.DEALER) as client:
            client.connect(_REHEARSAL)
            self.session.send(client, protocol.KERNEL_INFO)
            self.kernel.greeted.wait(_BIND_TIMEOUT)
        self.kernel.greeted.clear()
        shell.use(lambda sock: sock.unbind(_REHEARSAL))

    def take_over(self, order: Order, stdio: Sequence[int]) -> None:
        """Become the kernel that somebody wants, up to the point where clients can connect.

        Args:
            order: what is wanted.
            stdio: descriptors for stdin, stdout and stderr.

        Raises:
            OSError: the connection file can't be read.
            TraitError: an option has no such value.
            zmq.ZMQError: a port is taken.
        """
        self.waiting = False
        # Read from the environment when ipykernel is imported; it prints a note without one.
        self.parent_handle = int(os.environ.get("JPY_PARENT_PID") or 0)
        handover.default_backend()
        self.shell.init_environment()
        self._take_stdio(stdio)
        sys.argv[1:] = ["-f", order.connection_file, *order.arguments]
        sys.orig_argv[:] = [order.executable, *order.options, "-m", __package__, *sys.argv[1:]]
        self._configure(orders.split_arguments(order.arguments)[1])
        self.connection_file = order.connection_file
        self.init_connection_file()
        self._other_ports = order.other_ports
        self._bind()
        if self.moved:
            self.init_heartbeat()
            self.write_connection_file()

    def begin(self) -> None:
        """Do the rest, which clients wait for connected; the heartbeat is asked for later."""
        if not self.moved:
            self.init_heartbeat()
            self.write_connection_file()
        importlib.invalidate_caches()
        self.shell.events.register("pre_execute", self._restore_threads)
        self.log_connection_info()
        self.kernel.record_ports({f"{name}_port": port for name, port in self._ports.items()})
        self.shell.init_history()
        self.shell.init_user_ns()
        session = os.environ.get("JPY_SESSION_NAME")
        if session:
            self.shell.user_ns["__session__"] = session
        self.init_extensions()
        self.init_code()
        sys.stdout.flush()
        sys.stderr.flush()
        asyncio.get_event_loop().call_later(_OPENING_DELAY, self._open_timeline)

    def _restore_threads(self) -> None:
        """Start the threads of BLAS with the first cell: OpenBLAS' spin for 100 ms first."""
        self.shell.events.unregister("pre_execute", self._restore_threads)
        blas.restore()

    def _open_timeline(self) -> None:
        if not is_busy():  # else the first cell does it, if there is one
            self.kernel.open_timeline()

    def configuration_files(self) -> list[str]:
        """List the files that this application has read its options from, or would have."""
        names = {"ipython_config", self.config_file_name.removesuffix(".py")}
        return [
            os.path.join(directory, name + suffix)
            for directory in self.config_file_paths
            for name in sorted(names)
            for suffix in (".py", ".json")
        ]

    def watch(self, parent: int) -> None:
        """End when the process behind a pidfd has ended."""
        self.poller = ParentWatch(parent, lambda: self.kernel.savepoints.flush())

    def _take_stdio(self, stdio: Sequence[int]) -> None:
        os.dup2(stdio[0], 0)
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            # Where output goes is captured; what the capture repeats it on is the order's.
            target = getattr(stream, "_original_stdstream_copy", None)
            os.dup2(stdio[number], number if target is None else target, target is None)
        orders.close_all(stdio)

    def _configure(self, arguments: Iterable[str]) -> None:
        """Set the options of a command line, each ``--Class.option=value``.

        The application's own parser would take 5 ms for none.
        """
        config = Config()
        for argument in arguments:
            name, _, value = argument.removeprefix("--").partition("=")
            section, _, option = name.partition(".")
            config[section][option] = DeferredConfigString(value)
        if config:
            kernel = self.kernel
            for configurable in (self, self.shell, kernel, kernel.limits, kernel.savepoints):
                configurable.update_config(config)

    def _bind(self) -> None:
        bound: Future[None] = Future()
        self.control_thread.io_loop.add_callback(self._bind_control, bound)
        kernel = self.kernel
        self.iopub_thread.shared.use(partial(self._bind_port, "iopub_port"))
        kernel.shell_stream.use(partial(self._bind_port, "shell_port"))
        kernel.stdin_stream.use(partial(self._bind_port, "stdin_port"))
        bound.result(_BIND_TIMEOUT)
        self._find_heartbeat_port()
        self._apply_curve_client_options(self.debug_shell_socket)
        self.debug_shell_socket.connect(self.shell_socket.getsockopt(zmq.LAST_ENDPOINT))

    def _bind_control(self, bound: Future[None]) -> None:
        """Bind the one socket that only its thread may use."""
        try:
            self._bind_port("control_port", self.control_socket)
        except Exception as error:
            bound.set_exception(error)
        else:
            bound.set_result(None)

    def _bind_port(self, name: str, sock: zmq.Socket[Any]) -> None:
        self._apply_curve_server_options(sock)
        port = getattr(self, name)
        try:
            bound = self._bind_socket(sock, port)
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE or not self._other_ports:
                raise
            bound = self._bind_socket(sock, 0)
            self.moved = True
        setattr(self, name, bound)

    def _find_heartbeat_port(self) -> None:
        """Look whether the heartbeat's port is free; its thread binds it a moment later."""
        if not self._other_ports or self.transport != "tcp":
            return
        with socket.socket() as probe:
            try:
                probe.bind((self.ip, self.hb_port))
            except OSError:
                self.hb_port = 0  # it takes any
                self.moved = True

    # -- halves of `initialize` that wait

    def _bind_socket(self, s: zmq.Socket[Any], port: int) -> int:
        bound: int = 0 if self.waiting else super()._bind_socket(s, port)
        return bound

    def init_connection_file(self) -> None:
        """Read the connection file."""
        self._unless_waiting(super().init_connection_file)

    def init_heartbeat(self) -> None:
        """Start the heartbeat."""
        self._unless_waiting(super().init_heartbeat)

    def write_connection_file(self, **kwargs: Any) -> None:
        """Write the ports to the connection file, if some were not given."""
        self._unless_waiting(super().write_connection_file)

    def log_connection_info(self) -> None:
        """Remember and log how to connect."""
        self._unless_waiting(super().log_connection_info)

    def init_extensions(self) -> None:
        """Load IPython extensions."""
        self._unless_waiting(super().init_extensions)

    def init_code(self) -> None:
        """Run start-up files."""
        self._unless_waiting(super().init_code)

    def init_poller(self) -> None:
        """Do nothing: the order says whom to watch."""

    def _unless_waiting(self, step: Callable[[], None]) -> None:
        if not self.waiting:
            step()


def configured(arguments: Sequence[str]) -> StandbyApp:
    """Return the application of all kernels that this process will fork.

    Args:
        arguments: the early ones of the kernels.
    """
    sys.argv = [str(Path(__file__).with_name("__main__.py"))]
    app: StandbyApp = StandbyApp.instance()
    app.configure(arguments)
    return app


def live(sock: socket.socket, app: StandbyApp) -> None:
    """Be a standby, then a kernel; returns when the kernel has ended.

    Args:
        sock: to the daemon.
        app: configured.
    """
    app.prepare()
    message: Message = {}
    with suppress(ConnectionError):  # the daemon may have ended meanwhile
        orders.send(sock, {"pid": os.getpid()})
        message, descriptors = orders.receive(sock)
    if not message:
        os._exit(0)  # nobody's: there is nothing to put in order first
    with hurry(True):  # service threads answer meanwhile
        order = orders.order_of(message["order"])
        try:
            handover.take_limits_of(message["client"])
            handover.enter(order)
            app.take_over(order, descriptors[:3])
        except (OrderRefused, OSError, TraitError, zmq.ZMQError) as error:
            orders.send(sock, {"refused": str(error)})
            return
        if descriptors[3:]:
            app.watch(descriptors[3])
        bound: Message = {"bound": True}
        if app.moved:
            bound["ports"] = {name: getattr(app, name) for name in port_names}
        orders.send(sock, bound)
        sock.close()
        app.kernel.greeted.wait(_GREETING)
        app.begin()
    app.start()
