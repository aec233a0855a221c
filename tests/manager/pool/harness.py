"""A pool of the test's own, the front ends that use it, and its processes as the system shows them.

A daemon starts as it does for a user: by whoever finds none.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any, TypeVar

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from savepoint_kernel.orders import order_of
from savepoint_manager.pool.client import NoPool, request, start_daemon
from tests.kernel.harness import PATIENCE, Kernel

Message = dict[str, Any]
T = TypeVar("T")

CONFIGURATION = """
c.Pool.refill_delay = 0.0
c.Pool.refill_load = 1000.0
"""
"""Nothing waits for a quiet machine."""

LOOK = 0.01
"""Seconds between two looks at something that tells nobody when it changes."""

FRONT_END = Path(__file__).with_name("front_end.py")


def until(look: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """Return the first true value that a look gives.

    Raises:
        AssertionError: there was none.
    """
    deadline = time.monotonic() + patience
    while not (value := look()):
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(LOOK)
    return value


def environ(**variables: str | None) -> dict[str, str]:
    """Return this process's environment with some variables set, or removed if None."""
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    env.update({name: value for name, value in variables.items() if value is not None})
    return {name: value for name, value in env.items() if variables.get(name, "") is not None}


@dataclass
class Pool:
    """A daemon's directory, and the environment of front ends that use it."""

    directory: Path
    config_directory: Path

    # -- the daemon

    @property
    def env(self) -> dict[str, str]:
        return environ(
            SAVEPOINT_POOL="1",
            SAVEPOINT_POOL_DIR=str(self.directory),
            JUPYTER_CONFIG_DIR=str(self.config_directory),
        )

    @property
    def log(self) -> str:
        return (self.directory / "pool.log").read_text()

    def ask(self, **message: Any) -> Message:
        return request(str(self.directory), message)

    def status(self) -> Message | None:
        """Describe the daemon; None if there is none."""
        try:
            return self.ask(op="status")
        except NoPool:
            return None

    @property
    def key(self) -> Message:
        """The newest key."""
        status = self.status()
        assert status is not None, "there is no daemon"
        return status["keys"][-1]

    def await_status(self, wanted: Callable[[Message], bool], what: str) -> Message:
        """Wait until the daemon says something."""

        def look() -> Message | None:
            status = self.status()
            return status if status and wanted(status) else None

        return until(look, f"{what}; the pool says {self.status()}")

    def await_ready(self, count: int = 1) -> Message:
        """Wait until every key has standbys, and none is being made."""
        return self.await_status(
            lambda status: (
                bool(status["keys"])
                and all(
                    len(key["standbys"]) >= min(count, key["min_idle"]) and not key["warming"]
                    for key in status["keys"]
                )
            ),
            "every key has standbys",
        )

    def processes(self) -> dict[int, str]:
        """Return all processes below the daemon, and what they are called."""
        status = self.status()
        assert status is not None
        daemon = psutil.Process(status["pid"])
        return {child.pid: child.status() for child in daemon.children(recursive=True)}

    def stop(self) -> None:
        """Stop the daemon and wait for its end."""
        status = self.status()
        if status is not None:
            waiting = [
                *(pid for key in status["keys"] for pid in (key["zygote"], *key["standbys"])),
                status["pid"],
            ]
            self.ask(op="stop")
            for pid in filter(None, waiting):
                await_end(pid)

    # -- kernels

    @contextmanager
    def kernel(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        manager: KernelManager | None = None,
        **options: Any,
    ) -> Iterator[Kernel]:
        """Start a kernel as a front end does, and end it afterwards."""
        manager = manager or KernelManager(kernel_name="savepoint")
        manager.start_kernel(
            extra_arguments=list(arguments),
            env=dict(self.env if env is None else env),
            **options,
        )
        try:
            with connected(manager) as kernel:
                yield kernel
        finally:
            manager.shutdown_kernel(now=True)
            manager.cleanup_resources()
            manager.context.destroy(linger=0)

    @contextmanager
    def warm_kernel(self, *arguments: str, **options: Any) -> Iterator[Kernel]:
        """Start a kernel that must come from the pool."""
        self.have_standbys(*arguments, env=options.get("env"))
        before = self.hits()
        with self.kernel(*arguments, **options) as kernel:
            assert self.hits() == before + 1, self.status()
            yield kernel

    def have_standbys(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> None:
        """Have standbys made for such kernels; without a daemon, start it as a kernel does."""
        order = self.order(*arguments, env=self.env if env is None else env, cwd=cwd)
        if self.status() is None:
            start_daemon(str(self.directory), order_of(order))
            self.await_status(lambda status: True, "there is a daemon")
        key = self.ask(op="warm", **order)["key"]

        def ready(status: Message) -> bool:
            (found,) = (k for k in status["keys"] if k["key"] == key)
            assert not found["problem"], found["problem"]
            return bool(found["standbys"])

        self.await_status(ready, f"there is a standby of {key}")

    def order(self, *arguments: str, **parts: Any) -> Message:
        """Spell an order as the provisioner would."""
        return {
            "protocol": 1,
            "executable": sys.executable,
            "options": ["-Xfrozen_modules=off"],
            "arguments": list(arguments),
            "connection_file": "/nonexistent",
            "cwd": "/",
            "env": self.env,
            "detached": False,
            **parts,
        }

    def hits(self) -> int:
        """Count the kernels that came from the pool, of all keys."""
        status = self.status()
        return sum(sum(key["hits"].values()) for key in status["keys"]) if status else 0

    @contextmanager
    def front_end(
        self, setup: str = "", *, kernel: str = "savepoint", **options: Any
    ) -> Iterator[FrontEnd]:
        """Start a process that starts a kernel."""
        process = subprocess.Popen(
            [sys.executable, str(FRONT_END)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.env,
        )
        front_end = None
        try:
            front_end = FrontEnd(process, {"setup": setup, "kernel": kernel, "options": options})
            yield front_end
        finally:
            process.kill()
            process.communicate()
            if front_end is not None and alive(front_end.pid):  # detached, or about to end
                with suppress(ProcessLookupError):
                    os.kill(front_end.pid, signal.SIGKILL)


class FrontEnd:
    """A process that has started a kernel, and ends with it when told to."""

    def __init__(self, process: subprocess.Popen[str], request: Message) -> None:
        self.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        self.pid: int = answer["pid"]
        """The kernel's process."""
        self.connection_file: str = answer["connection_file"]

    def kernel(self) -> AbstractContextManager[Kernel]:
        """Connect to the kernel."""
        return connected_by(self.connection_file)


@contextmanager
def connected(manager: KernelManager) -> Iterator[Kernel]:
    """Connect a client of a running kernel."""
    client = manager.blocking_client()
    with _channels(client):
        client.wait_for_ready(timeout=PATIENCE)
        yield Kernel(manager, client)


@contextmanager
def connected_by(connection_file: str) -> Iterator[Kernel]:
    """Connect to a kernel that somebody else has started, or is about to."""
    client = BlockingKernelClient(connection_file=connection_file)
    client.load_connection_file()
    with _channels(client):
        kernel = Kernel(KernelManager(), client)
        subscribed = False
        while not subscribed:
            kernel.reply(kernel.send("kernel_info_request"))
            with suppress(Empty):
                subscribed = bool(client.get_iopub_msg(timeout=1))
        yield kernel


@contextmanager
def _channels(client: BlockingKernelClient) -> Iterator[None]:
    client.start_channels()
    try:
        yield
    finally:
        client.stop_channels()
        client.context.destroy(linger=0)


@contextmanager
def open_pool(configuration: str = "") -> Iterator[Pool]:
    """Give a pool its directory, and stop its daemon afterwards."""
    with tempfile.TemporaryDirectory(prefix="sp") as base:  # short: it names a socket
        pool = Pool(Path(base, "pool"), Path(base, "config"))
        pool.config_directory.mkdir()
        (pool.config_directory / "jupyter_savepoint_config.py").write_text(
            "c = get_config()\n" + CONFIGURATION + configuration
        )
        before = os.environ["JUPYTER_CONFIG_DIR"]
        os.environ["JUPYTER_CONFIG_DIR"] = str(pool.config_directory)
        try:
            yield pool
        finally:
            os.environ["JUPYTER_CONFIG_DIR"] = before
            pool.stop()


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def await_end(pid: int) -> None:
    """Wait until a process has ended."""
    until(lambda: not alive(pid), f"process {pid} has ended")


def kill(pid: int) -> None:
    """Kill a process and wait for its end."""
    os.kill(pid, signal.SIGKILL)
    await_end(pid)
