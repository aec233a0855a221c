"""Asking the daemon: for kernels, and about itself.

Threads: any; each request has a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from savepoint_kernel import launch, orders
from savepoint_kernel.orders import Message, Order, OrderRefused

from .adoption import Adoption
from .directory import private_directory

_STATUS_TIMEOUT = 1.0
"""Seconds the daemon has to tell how a kernel has ended that has."""

UNKNOWN = 1
"""Exit status of a kernel whose daemon has ended."""


class NoPool(Exception):
    """There is no daemon."""


class NoAnswer(Exception):
    """There is one that does not answer."""


class PoolMissed(Exception):
    """The daemon has no kernel for this order; the text says why."""


def directory_of(env: Mapping[str, str]) -> str:
    """Return the pool's directory; empty if there is to be no pool."""
    if env.get(launch.SWITCH_VARIABLE) == "0" or not hasattr(os, "pidfd_open"):
        return ""
    return launch.pool_directory(env)


def connect(directory: str) -> socket.socket:
    """Connect to the daemon.

    Raises:
        NoPool: there is none, or it is somebody else's.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(launch.ANSWER_TIMEOUT)
    try:
        sock.connect(str(Path(directory, launch.SOCKET)))
    except OSError as error:
        sock.close()
        raise NoPool(f"No pool runs in {directory}: {error.strerror or error}") from None
    _, owner = orders.peer_of(sock)
    if owner != os.getuid():  # orders hold the environment: they are not for everybody
        sock.close()
        raise NoPool(f"The pool that runs in {directory} is that of user {owner}")
    return sock


def request(directory: str, message: Message) -> Message:
    """Ask something that has one answer.

    Raises:
        NoPool: there is no daemon.
        NoAnswer: it does not answer.
    """
    with connect(directory) as sock:
        return ask(sock, message)


def ask(sock: socket.socket, message: Message) -> Message:
    """Send a request on a connection, and wait for the first answer.

    Raises:
        NoAnswer: none comes.
    """
    try:
        orders.send(sock, message)
    except (OSError, OrderRefused) as error:
        raise NoAnswer(f"{_pool_on(sock)} can't be asked: {error}") from None
    return answer_on(sock)


def answer_on(sock: socket.socket) -> Message:
    """Wait for a further answer; an empty one means that the daemon has ended.

    Raises:
        NoAnswer: none comes.
    """
    try:
        answer, descriptors = orders.receive(sock)
    except (OSError, OrderRefused) as error:
        raise NoAnswer(f"{_pool_on(sock)} does not answer: {error}") from None
    orders.close_all(descriptors)
    return answer


def _pool_on(sock: socket.socket) -> str:
    return f"The pool, process {orders.peer_of(sock)[0]},"


def readable(descriptor: int, timeout: float | None) -> bool:
    """Wait until there is something to read, as of a pidfd when its process has ended.

    Args:
        descriptor: of a file.
        timeout: seconds; None for no limit.

    Returns:
        Whether there is.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


def start_daemon(directory: str, order: Order | Adoption) -> None:
    """Start a daemon, and do not wait for it.

    Args:
        directory: its own.
        order: one it shall have standbys or kernels for.

    Raises:
        OSError: there can be none in this directory.
    """
    private_directory(directory)
    with spawn_daemon(directory) as sock, contextlib.suppress(OrderRefused):
        # One that is too large starts its kernels by itself; the next may be another's.
        orders.send(sock, {"op": "warm", **order.as_message()})


def spawn_daemon(directory: str, options: Sequence[str] = ()) -> socket.socket:
    """Start a daemon.

    Args:
        directory: its own.
        options: as on a command line.

    Returns:
        A connection to it. An answer on it says that the daemon can be connected to; its end, that
        the daemon has ended, because there is another or because it can't start.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        first = its.fileno()
        command = [sys.executable, "-m", launch.DAEMON, *options, f"--directory={directory}"]
        subprocess.Popen(
            # By way of a process that ends at once: the daemon is not our child.
            ["/bin/sh", "-c", '"$@" &', "sh", *command, f"--first={first}"],
            pass_fds=[first],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ).wait()
    return ours


class PooledProcess:
    """A kernel of the pool, as `subprocess.Popen` would have it.

    Args:
        answer: what the daemon says of it.
        pidfd: its process, for good.
        sock: where the daemon tells its exit status.

    Attributes:
        pid: its process.
        ports: those it has bound, by name, if they are others than it was asked for.
        connection: what would be in its connection file, if it ran before it was asked for.
    """

    stdin: IO[bytes] | None = None
    stdout: IO[bytes] | None = None
    stderr: IO[bytes] | None = None

    def __init__(self, answer: Message, pidfd: int, sock: socket.socket) -> None:
        self.pid: int = answer["pid"]
        self.ports: Mapping[str, int] = answer.get("ports", {})
        self.connection: Message = answer.get("connection", {})
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._sock = sock

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while self._wait(None if until is None else max(0.0, until - time.monotonic())) is None:
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired("savepoint_kernel", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and readable(self._pidfd, timeout):
            self._end()
        return self.returncode

    def _end(self) -> None:
        """It has ended: the daemon knows how, if it lives."""
        self._sock.settimeout(_STATUS_TIMEOUT)
        try:
            answer, _ = orders.receive(self._sock)
        except (OSError, OrderRefused):
            answer = {}
        self.returncode = answer.get("exit", UNKNOWN)
        self.close()

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel; none if it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Forget it; it runs on if it does."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
            self._sock.close()

    def discard(self) -> None:
        """Kill it, with its process group, and forget it: nobody has got to know it."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.close()
        for stream in filter(None, (self.stdin, self.stdout, self.stderr)):
            stream.close()


def launch_kernel(directory: str, order: Order, stdio: Sequence[int]) -> PooledProcess:
    """Get a kernel from the pool; its ports are bound when this returns.

    Args:
        directory: the pool's.
        order: what kernel.
        stdio: descriptors for its stdin, stdout and stderr.

    Raises:
        NoPool: there is no daemon, or it does not answer.
        PoolMissed: it has no kernel for this order.
    """
    return _ask_for(directory, "launch", order, stdio)


def adopt_kernel(directory: str, adoption: Adoption) -> PooledProcess:
    """Get a kernel that runs already.

    Args:
        directory: the pool's.
        adoption: what kernel.

    Raises:
        NoPool: there is no daemon, or it does not answer.
        PoolMissed: it has no such kernel.
    """
    try:
        return _ask_for(directory, "adopt", adoption, [])
    except NoPool:
        if adoption.unfit:  # a pool would be of no use
            raise PoolMissed(adoption.unfit) from None
        raise


def _ask_for(
    directory: str, operation: str, order: Order | Adoption, stdio: Sequence[int]
) -> PooledProcess:
    sock = connect(directory)
    try:
        us = [] if order.detached else [os.pidfd_open(os.getpid())]
        try:
            orders.send(sock, {"op": operation, **order.as_message()}, [*stdio, *us])
        finally:
            orders.close_all(us)
        answer, descriptors = orders.receive(sock)
    except OrderRefused as error:
        sock.close()
        raise PoolMissed(str(error)) from None
    except OSError as error:
        sock.close()
        raise NoPool(f"the pool in {directory} does not answer: {error}") from None
    if "pid" not in answer:
        sock.close()
        orders.close_all(descriptors)
        raise PoolMissed(answer.get("miss", "the pool has ended"))
    return PooledProcess(answer, descriptors[0], sock)
