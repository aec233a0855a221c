"""The kernel application: ``python -m savepoint_kernel -f FILE``.

Threads: everything here runs on the main thread.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp
from tornado.ioloop import IOLoop
from traitlets import Dict, Float, Type, default

from .exceptions import LimitTooLow
from .history.savepoints import Savepoints
from .interrupts import Interrupts, Redelivery
from .iopub import QUEUE_LENGTH, IOPub
from .kernel import SavepointKernel
from .limits import Limits
from .session import SharedSession
from .shell import ZMQInteractiveShell

_PORT_PATIENCE = 3.0
"""Seconds the kernel waits for a port that is taken."""

_TERMINATION = 1.0
"""Seconds the main thread waits for the end, when told to end."""


class SavepointKernelApp(IPKernelApp):  # type: ignore[misc]
    """Starts a Savepoint kernel."""

    iopub_port: int
    name = "savepoint-kernel"
    description = "The Savepoint kernel: IPython whose messages never wait for user code."
    kernel_class = Type(SavepointKernel, klass="ipykernel.kernelbase.Kernel").tag(config=True)
    classes = [SavepointKernel, Limits, Savepoints, ZMQInteractiveShell, *IPKernelApp.classes[2:]]
    subcommands = Dict(
        {
            "install": (
                "savepoint_kernel.kernelspec.InstallSavepointKernelSpecApp",
                "Install the Savepoint kernelspec.",
            )
        }
    )
    output_interval = Float(
        0.01,
        min=0.0,
        help="""Seconds over which a burst of output is gathered into one message. The first line
        of a burst is sent at once.""",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._interrupts = Interrupts()

    @default("config_file_name")
    def _default_config_file_name(self) -> str:
        return "ipython_kernel_config.py"  # ipykernel's, so what is set there goes on to hold

    @default("outstream_class")
    def _default_outstream_class(self) -> str:
        return "savepoint_kernel.output.OutStream"

    def _session_default(self) -> SharedSession:
        return SharedSession(parent=self)

    def _bind_socket(self, s: zmq.Socket[Any], port: int) -> int:
        """Bind a socket, and wait for a port that something else has for a moment.

        The client chose the ports when they were free. Until the kernel binds them, any connection
        of this machine may be given one of them as its own end, and keep it as long as it lasts.
        """
        deadline = time.monotonic() + (_PORT_PATIENCE if port else 0)
        while True:
            try:
                bound: int = super()._bind_socket(s, port)
                return bound
            except zmq.ZMQError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                    raise
            time.sleep(0.02)

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Bind the iopub channel and start its thread."""
        socket = context.socket(zmq.XPUB)
        socket.linger = 1000
        socket.sndhwm = QUEUE_LENGTH
        self._apply_curve_server_options(socket)
        try:
            self.iopub_port = self._bind_socket(socket, self.iopub_port)
        except zmq.ZMQError:
            socket.close(linger=0)  # the end of the process would wait for it
            raise
        self.log.debug("iopub PUB Channel on port: %i", self.iopub_port)
        self.configure_tornado_logger()
        self.iopub_thread = IOPub(socket, self.session, self._interrupts, self.output_interval)
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def init_signal(self) -> None:
        """Decide from now on when SIGINT raises."""
        self._pid = os.getpid()
        self._interrupts.install()
        Redelivery(self._interrupts, self.iopub_thread.io_loop).watch()
        if self._interrupts.enabled and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        """Write what is committed, then end as if there were no handler.

        On a thread: the main thread, which runs this in the middle of whatever it does, may hold
        the locks it takes. It is held back for as long as that can't be what is waited for.
        """

        def finish() -> None:
            if os.getpid() == self._pid:  # not in a forked child
                self.kernel.savepoints.flush()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        terminator = threading.Thread(target=finish, name="Terminator", daemon=True)
        terminator.start()
        terminator.join(_TERMINATION)  # a cell that kills its kernel goes no further

    def start(self) -> Any:
        """Run the kernel until it is shut down.

        The main loop is started again if something else ended it: user code that stops it (which
        kills the stock kernel), or a KeyboardInterrupt raised in a task or callback beside the
        cell, which asyncio lets through. Then the interrupt ends the cell.
        """
        if self.subapp is not None:
            return super().start()
        try:
            self.kernel.limits.enforce()
        except LimitTooLow as error:
            self.log.critical("%s", error)
            self.exit(1)
        if self.trio_loop:
            return super().start()
        if self.poller is not None:
            self.poller.start()
        self.kernel.start()
        self.io_loop = IOLoop.current()
        while not self.kernel.shell.exit_now:
            try:
                self.io_loop.start()
            except KeyboardInterrupt:
                self.kernel.executor.cancel()
        self.kernel.savepoints.close(self.kernel.restarting)
        return None


main = SavepointKernelApp.launch_instance
