"""Ways to get a kernel, as the pool's benchmark sees them."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Protocol

import nbformat
import psutil  # type: ignore[import-untyped]
import zmq
from jupyter_client import connect, kernelspec
from jupyter_client.manager import start_new_kernel
from jupyter_client.session import Session
from nbclient import NotebookClient

from savepoint_kernel.orders import Message, Order
from savepoint_manager.pool import client
from savepoint_manager.pool.provisioner import without_shim

IMPORTS = "import numpy, pandas, matplotlib"
PATIENCE = 120.0
"""Seconds after which something that should have happened counts as a failure."""


class Process(Protocol):
    """What a Popen and a `PooledProcess` have in common."""

    pid: int

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Subject:
    """One way to get a kernel.

    Args:
        name: column of the table.
        directory: where it may keep files.
    """

    kernel_name = "savepoint"

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory / name
        self.directory.mkdir()
        self.env = {
            **os.environ,
            "IPYTHONDIR": str(self.directory),
            "JUPYTER_DATA_DIR": str(self.directory),
            "SAVEPOINT_POOL": "0",
        }
        # As an installation has it: modules are compiled once.
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._files = 0

    def start(self) -> None:
        """Get ready."""

    def stop(self) -> None:
        """Leave nothing behind."""
        self._context.destroy(linger=0)

    def settle(self) -> object:
        """Wait until a sample may begin."""

    # -- what is measured; seconds, or bytes

    def launch(self) -> float:
        """Time from the request to a kernel's first reply."""
        with self._connection_file() as (path, info):
            began = time.perf_counter()
            process = self._request(path)
            self._first_reply(info)
            seconds = time.perf_counter() - began
            _end(process)
        return seconds

    def spawn(self) -> float:
        """The same for a front end that spawns the kernelspec's argv."""
        spec = kernelspec.get_kernel_spec(self.kernel_name)
        with self._connection_file() as (path, info):
            names = {"connection_file": path, "resource_dir": spec.resource_dir}
            command = [argument.format_map(names) for argument in spec.argv]
            began = time.perf_counter()
            process = self._popen([sys.executable, *command[1:]])
            self._first_reply(info)
            seconds = time.perf_counter() - began
            process.send_signal(signal.SIGTERM)  # to the shim too, so that it ends its kernel
            process.wait(PATIENCE)
        return seconds

    def ready(self) -> float:
        """Time that jupyter_client takes until it calls a kernel ready."""
        began = time.perf_counter()
        with _environment(self.env):
            manager, kernel_client = start_new_kernel(kernel_name=self.kernel_name)
        seconds = time.perf_counter() - began
        kernel_client.stop_channels()
        manager.shutdown_kernel(now=True)
        return seconds

    def notebook(self) -> float:
        """Time that nbclient takes for a notebook, its own start not counted."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IMPORTS)])
        began = time.perf_counter()
        with _environment(self.env):
            NotebookClient(notebook, kernel_name=self.kernel_name).execute()
        return time.perf_counter() - began

    def crowd(self, size: int) -> float:
        """Time until ``size`` kernels asked for at once have answered."""
        with ExitStack() as stack:
            files = [stack.enter_context(self._connection_file()) for _ in range(size)]
            with ThreadPoolExecutor(size) as threads:
                began = time.perf_counter()
                processes = list(threads.map(lambda file: self._request(file[0]), files))
                try:
                    list(threads.map(lambda file: self._first_reply(file[1]), files))
                    seconds = time.perf_counter() - began
                finally:
                    for process in processes:
                        _end(process)
        return seconds

    def memory(self, size: int) -> float:
        """PSS of one of ``size`` kernels that have imported the usual and run one cell."""
        with ExitStack() as stack:
            processes = []
            for _ in range(size):
                path, info = stack.enter_context(self._connection_file())
                processes.append(self._request(path))
                self._first_reply(info, IMPORTS)
            sizes = [pss(process.pid) for process in processes]
            for process in processes:
                _end(process)
        return sum(sizes) / size

    # -- how

    @cached_property
    def _command(self) -> list[str]:
        return without_shim(kernelspec.get_kernel_spec(self.kernel_name).argv)

    def _request(self, connection_file: str) -> Process:
        names = {"connection_file": connection_file}
        return self._popen(
            [sys.executable, *(part.format_map(names) for part in self._command[1:])]
        )

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        with open(self.directory / "log", "ab") as log:
            return subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @contextmanager
    def _connection_file(self) -> Iterator[tuple[str, connect.KernelConnectionInfo]]:
        self._files += 1
        name = str(self.directory / f"{self._files}.json")
        ports = {port: _free_port() for port in connect.port_names}
        path, info = connect.write_connection_file(name, key=secrets.token_hex().encode(), **ports)
        yield path, info
        Path(path).unlink(missing_ok=True)

    def _first_reply(self, info: connect.KernelConnectionInfo, code: str | None = None) -> None:
        session = Session(key=info["key"].encode())
        with self._context.socket(zmq.DEALER) as socket:
            socket.reconnect_ivl = 5
            socket.linger = 0
            socket.connect(f"tcp://127.0.0.1:{info['shell_port']}")
            if code is None:
                session.send(socket, "kernel_info_request")
            else:
                content = {"code": code, "silent": False, "store_history": True}
                session.send(socket, "execute_request", content)
            if not socket.poll(PATIENCE * 1000):
                files = filter(Path.is_file, self.directory.rglob("*log"))
                logs = "\n".join(log.read_text()[-2000:] for log in files)
                raise TimeoutError(f"{self.name}: no reply. Its logs end with\n{logs}")
            _, reply = session.recv(socket)
            assert reply is not None
            assert reply["content"]["status"] == "ok", reply["content"]


class Cold(Subject):
    """Savepoint's kernel, started."""


class Stock(Subject):
    """ipykernel, started."""

    kernel_name = "python3"


class Pooled(Subject):
    """Savepoint's kernel, from the pool.

    Args:
        name: see `Subject`.
        directory: see `Subject`.
        preload: modules of the zygote.
        min_idle: standbys.
    """

    def __init__(self, name: str, directory: Path, preload: list[str], min_idle: int) -> None:
        super().__init__(name, directory)
        self.env |= {
            "SAVEPOINT_POOL": "1",
            "SAVEPOINT_POOL_DIR": str(self.directory / "pool"),
            "JUPYTER_CONFIG_DIR": str(self.directory),
        }
        self._min_idle = min_idle
        (self.directory / "jupyter_savepoint_config.py").write_text(
            f"c.Pool.min_idle = {min_idle}\nc.Pool.preload = {preload!r}\n"
            # Standbys are made between samples, not in them.
            "c.Pool.refill_delay = 0.0\nc.Pool.refill_load = 1000.0\n"
        )

    @property
    def _pool(self) -> str:
        return client.directory_of(self.env)

    def start(self) -> None:
        """Start the daemon and wait for its standbys."""
        with _environment(self.env):
            client.start_daemon(self._pool, self._order("none.json"))
        self.settle()

    def stop(self) -> None:
        """Stop the daemon."""
        client.request(self._pool, {"op": "stop"})
        super().stop()

    def settle(self) -> Message:
        """Wait for the standbys; returns what the pool says of them."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                keys = client.request(self._pool, {"op": "status"})["keys"]
            except client.NoPool:
                keys = []
            if keys and all(
                key["zygote"] and len(key["standbys"]) == self._min_idle and not key["warming"]
                for key in keys
            ):
                time.sleep(0.2)  # the last standby settles
                last: Message = keys[-1]
                return last
            time.sleep(0.05)
        raise TimeoutError(f"no standbys, see {self._pool}/pool.log")

    def standby_memory(self, size: int) -> float:
        """PSS of one of ``size`` standbys."""
        usual, self._min_idle = self._min_idle, size
        self._warm()
        key = self.settle()
        self._min_idle = usual
        self._warm()
        return float(key["pss"]["standbys"]) / size

    def _warm(self) -> None:
        order = self._order("none.json").as_message()
        client.request(self._pool, {"op": "warm", **order, "min_idle": self._min_idle})

    def _order(self, connection_file: str) -> Order:
        options = self._command[1 : self._command.index("-m")]
        cwd = str(self.directory)
        return Order(sys.executable, options, [], connection_file, cwd, self.env)

    def _request(self, connection_file: str) -> Process:
        with open(self.directory / "log", "ab") as log:
            stdio = [log.fileno()] * 3
            return client.launch_kernel(self._pool, self._order(connection_file), stdio)


_PORTS = itertools.cycle(range(10_000, 32_000))
"""Below those that the system hands out: no connection takes one before its kernel binds it."""


def _free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("cycle has an end")


def _end(process: Process) -> None:
    process.kill()
    process.wait(PATIENCE)


def pss(pid: int) -> float:
    """Proportional set size: memory that n processes share counts a n-th."""
    size: float = psutil.Process(pid).memory_full_info().pss
    return size


@contextmanager
def _environment(env: dict[str, str]) -> Iterator[None]:
    """Have this environment, which jupyter_client and nbclient hand on."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
