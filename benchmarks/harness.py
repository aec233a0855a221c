"""Kernels as processes of our own, driven the way a front end drives them.

Why no KernelManager: it hides the moment of `Popen`, retries, and restarts by itself. A benchmark
must own the process (and end it), and must notice a kernel that answers nothing without waiting
for it. The client is the ordinary `BlockingKernelClient` over tcp, so its cost is in every number,
for every kernel alike. POSIX only: interrupts go to the process group, as jupyter_client does.
"""

from __future__ import annotations

import enum
import os
import random
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

Message = dict[str, Any]

START_TIMEOUT = 30.0
"""Seconds a kernel may take to answer its first kernel_info_request."""


class KernelError(Exception):
    """A kernel died, would not start, or did not answer what every kernel must answer."""


class Interrupt(enum.Enum):
    """The two ways a front end interrupts a kernel."""

    SIGNAL = "SIGINT"
    MESSAGE = "interrupt_request"


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """What is needed to start one kind of kernel.

    Args:
        name: How tables call it.
        distribution: The package whose version is printed.
        argv: The command; `{connection_file}` is replaced.
        interrupts: The ways it can be interrupted, its own choice first.
        env: Variables on top of this process's own.
    """

    name: str
    distribution: str
    argv: tuple[str, ...]
    interrupts: tuple[Interrupt, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class KernelProcess:
    """One kernel process and its connection file; `kill` is safe at any time, more than once."""

    def __init__(self, spec: KernelSpec, directory: Path) -> None:
        """Choose ports and a key; start nothing yet."""
        self.spec = spec
        stem = directory / f"{spec.name}-{uuid.uuid4().hex}"
        self._log = stem.with_suffix(".log")
        self._key = uuid.uuid4().hex.encode()
        self.connection_file, self.connection = write_connection_file(
            str(stem.with_suffix(".json")), ip="127.0.0.1", key=self._key, transport="tcp"
        )
        self._env = {
            **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
            # pip compiles what it installs; a checkout is compiled when first run, if that may be.
            # No user configuration, and no history file that grows from run to run.
            "IPYTHONDIR": str(directory / "ipython"),
            # As jupyter_client does: the kernel ends itself should this process be killed.
            "JPY_PARENT_PID": str(os.getpid()),
            **spec.env,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; the kernel also leads a process group of that number."""
        assert self._process is not None
        return self._process.pid

    def launch(self) -> None:
        """Start the process in a session of its own and return at once."""
        argv = [part.format(connection_file=self.connection_file) for part in self.spec.argv]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._env,
            )

    def wait_until_answering(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        msg_type: str = "kernel_info_request",
        content: Message | None = None,
    ) -> None:
        """Send a shell request on a raw DEALER and return when its reply is there.

        The socket reconnects every 5 ms; libzmq's default of 100 ms would be most of the noise of a
        cold start.

        Raises:
            KernelError: The process ended, or was silent too long; carries its last output.
        """
        session = Session(key=self._key)
        socket = context.socket(zmq.DEALER)
        try:
            socket.linger = 0
            socket.setsockopt(zmq.RECONNECT_IVL, 5)
            socket.setsockopt(zmq.IDENTITY, session.bsession)
            socket.connect(f"tcp://127.0.0.1:{self.connection['shell_port']}")
            session.send(socket, msg_type, content or {})
            deadline = time.perf_counter() + START_TIMEOUT
            while not socket.poll(200):
                if not self.alive or time.perf_counter() > deadline:
                    raise KernelError(f"{self.spec.name} did not start: {self._last_words()}")
        finally:
            socket.close()

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End the process and reap it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        Path(self.connection_file).unlink(missing_ok=True)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


class Kernel(KernelProcess):
    """A running kernel with a client on its channels."""

    def __init__(self, spec: KernelSpec, directory: Path) -> None:
        """Choose ports and a key; start nothing yet."""
        super().__init__(spec, directory)
        self.client = BlockingKernelClient()
        self._connected = False

    def start(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Launch, wait for the first answer, connect the client and run one cell.

        Raises:
            KernelError: The kernel did not start.
        """
        self.launch()
        self.wait_until_answering(context)
        self.client.load_connection_file(self.connection_file)
        # Without the heartbeat thread: nothing reads it here.
        self.client.start_channels(hb=False)
        self._connected = True
        self._await_subscription()
        self.run("1+1")

    def kill(self) -> None:
        """End the process and close the client's sockets."""
        super().kill()
        if self._connected:
            self._connected = False
            self.client.stop_channels()

    def execute(
        self, code: str, metadata: Mapping[str, Any] | None = None, **content: object
    ) -> str:
        """Send an execute_request and return its message id.

        Args:
            code: The cell.
            metadata: Of the request.
            content: Fields that differ from those of a front end's ordinary request.
        """
        fields: Message = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": True,
            "stop_on_error": False,
            **content,
        }
        message = self.client.session.msg("execute_request", fields, metadata=dict(metadata or {}))
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def ask(self, msg_type: str, content: Message, timeout: float = 60.0) -> Message:
        """Send a control request and return the content of its reply.

        Raises:
            KernelError: No reply, or an error.
        """
        message = self.client.session.msg(msg_type, content)
        self.client.control_channel.send(message)
        msg_id = message["header"]["msg_id"]
        reply = self._receive(self.client.get_control_msg, timeout, lambda m: _answers(m, msg_id))
        if reply is None or reply["content"]["status"] != "ok":
            raise KernelError(f"{self.spec.name}: {msg_type}: {reply and reply['content']}")
        return dict(reply["content"])

    def reply(self, msg_id: str, timeout: float) -> Message | None:
        """The reply to a shell request, or None when there was none within `timeout` seconds."""
        return self._receive(self.client.get_shell_msg, timeout, lambda m: _answers(m, msg_id))

    def first_reply(self, msg_ids: Sequence[str], timeout: float) -> str | None:
        """Which of these shell requests is answered first, or None if none is in time."""
        reply = self._receive(
            self.client.get_shell_msg,
            timeout,
            lambda message: message["parent_header"].get("msg_id") in msg_ids,
        )
        return None if reply is None else str(reply["parent_header"]["msg_id"])

    def idle(self, msg_id: str, timeout: float) -> bool:
        """Read iopub up to the idle status of a request; False if it did not come in time."""
        return self.published(timeout, lambda message: is_idle(message, msg_id)) is not None

    def published(self, timeout: float, wanted: Callable[[Message], bool]) -> Message | None:
        """The next iopub message that is wanted; those before it are dropped."""
        return self._receive(self.client.get_iopub_msg, timeout, wanted)

    def input_requested(self, timeout: float) -> bool:
        """Whether an input_request arrives within `timeout` seconds."""
        found = self._receive(
            self.client.get_stdin_msg, timeout, lambda m: m["msg_type"] == "input_request"
        )
        return found is not None

    def run(self, code: str, timeout: float = 30.0) -> Message:
        """Execute a cell to its reply and idle status.

        Raises:
            KernelError: No reply, or the cell failed.
        """
        msg_id = self.execute(code)
        reply = self.reply(msg_id, timeout)
        if reply is None or reply["content"]["status"] != "ok":
            raise KernelError(f"{self.spec.name}: no ok reply to {code!r}")
        self.idle(msg_id, timeout)
        return reply

    def begin(self, code: str) -> str:
        """Send a cell that is going to block, and return its message id once it is running.

        Raises:
            KernelError: The kernel never echoed the cell as its input.
        """
        msg_id = self.execute(code)
        running = self.published(
            5.0, lambda m: m["msg_type"] == "execute_input" and _answers(m, msg_id)
        )
        if running is None:
            raise KernelError(f"{self.spec.name}: a cell did not begin")
        # From the echo to the first bytecode; random, so that no phase of a timer is favoured.
        time.sleep(random.uniform(0.02, 0.04))
        return msg_id

    def interrupt(self, how: Interrupt) -> None:
        """Interrupt the kernel; with `MESSAGE`, call `interrupt_settled` afterwards."""
        if how is Interrupt.SIGNAL:
            os.killpg(self.pid, signal.SIGINT)
        else:
            channel = self.client.control_channel
            channel.send(self.client.session.msg("interrupt_request", {}))

    def interrupt_settled(self, how: Interrupt) -> None:
        """Wait for the interrupt_reply: until then the interrupt may still hit the next cell."""
        if how is Interrupt.MESSAGE:
            self._receive(
                self.client.get_control_msg, 3.0, lambda m: m["msg_type"] == "interrupt_reply"
            )

    def stop(self, msg_id: str) -> None:
        """Interrupt a running cell and wait for its end.

        Raises:
            KernelError: It did not end.
        """
        how = self.spec.interrupts[0]
        self.interrupt(how)
        if self.reply(msg_id, 10.0) is None:
            raise KernelError(f"{self.spec.name}: a cell could not be interrupted")
        self.interrupt_settled(how)
        self.drain()

    def drain(self, silence: float = 0.01) -> list[Message]:
        """Empty all channels until iopub is silent for that long; return what it still held."""
        published = []
        while (message := self.published(silence, lambda _: True)) is not None:
            published.append(message)
        for get in (
            self.client.get_shell_msg,
            self.client.get_control_msg,
            self.client.get_stdin_msg,
        ):
            while self._receive(get, 0.0, lambda _: True) is not None:
                pass
        return published

    def _await_subscription(self) -> None:
        """Return when iopub delivers: messages sent before the subscription arrives are dropped."""
        for _ in range(20):
            msg_id = self.client.kernel_info()
            if self.reply(msg_id, 5.0) is not None and self.idle(msg_id, 0.2):
                return
        raise KernelError(f"{self.spec.name}: nothing arrives on iopub")

    def _receive(
        self,
        get: Callable[..., Message],
        timeout: float,
        wanted: Callable[[Message], bool],
    ) -> Message | None:
        deadline = time.perf_counter() + timeout
        while True:
            try:
                message = get(timeout=max(0.0, deadline - time.perf_counter()))
            except Empty:
                return None
            except (ValueError, IndexError, KeyError):
                # A multipart message that an interrupt cut short; what it carried counts as lost.
                continue
            if wanted(message):
                return message


_STAMP = re.compile(r"t=([\d.]+);")


def stamp_in(text: str) -> float | None:
    """The kernel's `time.perf_counter()` that a cell printed as `t=...;`, once it is complete.

    That clock is system-wide (the Python documentation says so), so both processes may read it.
    """
    found = _STAMP.search(text)
    return float(found.group(1)) if found else None


def is_idle(message: Message, msg_id: str) -> bool:
    """Whether this is the idle status of that request."""
    return (
        message["msg_type"] == "status"
        and message["content"]["execution_state"] == "idle"
        and _answers(message, msg_id)
    )


def _answers(message: Message, msg_id: str) -> bool:
    return bool(message["parent_header"].get("msg_id") == msg_id)
