"""Kernels of other kernelspecs than Savepoint's: started beforehand, adopted as they are.

    daemon ─┬─ kernels: ports and key are the daemon's choice, and become the front end's
            └─ guard: ends them with the process they belong to

They know nothing of the pool. The daemon writes a connection file, starts one, waits for its
kernel_info, and removes the file. Later it runs the user's code for the hand-over and gives the
connection away. The life of a `ForeignKernels` is that of `Standbys`, but there is no zygote:
kernels are started, and if none is ready the front end starts one itself, which takes as long.

Threads: the daemon's event loop; zmq has one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import math
import os
import resource
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import KernelConnectionInfo, write_connection_file

from savepoint_kernel.orders import Message

from .adoption import CONNECTION_FILE, Adoption
from .config import Pool
from .fingerprint import Fingerprint
from .guarding import Guard
from .keeper import START_TIMEOUT, Keeper, NoStandby, StandbyLost, StartedAnew
from .reaper import Reaper

_LIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}

_CODE = "the code for the hand-over (c.Pool.adopt)"

_FILE = "adopt-{}.json"
"""Name of a connection file; kernel-*.json in the same directory may be a front end's."""

_REASON = 200
"""Characters of what a kernel says about an error."""


@dataclass(slots=True, eq=False)
class ForeignKernel:
    """A kernel that runs.

    Attributes:
        pid: of its process, the leader of a process group.
        ended: its exit status.
        connection: what would be in its connection file.
        client: connected to its shell channel.
        born: when it was ready.
    """

    pid: int
    ended: asyncio.Future[int]
    connection: KernelConnectionInfo = field(repr=False)
    client: AsyncKernelClient
    born: float = field(default_factory=time.monotonic)

    async def reply(self, request: Awaitable[Message]) -> Message:
        """Wait for an answer.

        Raises:
            StandbyLost: the kernel ends before.
            TimeoutError: it does not answer.
        """
        reply = asyncio.ensure_future(request)
        try:
            either: set[asyncio.Future[Any]] = {reply, self.ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not reply.done():
                raise StandbyLost(f"the kernel ended with status {self.ended.result()}")
            content: Message = reply.result()["content"]
            return content
        finally:
            reply.cancel()

    def kill(self) -> None:
        """Send SIGKILL to its process group."""
        self.client.stop_channels()
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


class ForeignKernels(Keeper[ForeignKernel]):
    """Kernels of one key.

    Args:
        adoption: one of this key.
        config: of the pool.
        reaper: waits for the processes.
        starting: limits how many are started at once, over all keys.
        guard: ends them.
        directory: for connection files.
        log_file: stdout and stderr of the kernels, for good.
    """

    kind = "kernels"

    def __init__(
        self,
        adoption: Adoption,
        config: Pool,
        reaper: Reaper,
        starting: asyncio.Semaphore,
        guard: Guard,
        directory: Path,
        log_file: IO[Any],
    ) -> None:
        super().__init__(adoption.key, config)
        self._adoption = adoption
        self._reaper = reaper
        self._starting = starting
        self._guard = guard
        self._directory = directory
        self._log_file = log_file
        self._fingerprint = _fingerprint_of(adoption)

    # -- handing out

    async def adopt(self, adoption: Adoption, client: int, owner: int | None) -> ForeignKernel:
        """Hand a kernel out.

        Args:
            adoption: of this key.
            client: the process that asks.
            owner: pidfd of the process whose end shall end the kernel; None if nothing shall.

        Raises:
            NoStandby: none is there, or none that is as if that process had started it.
            OrderRefused: the directory can't be put into the code.
        """
        code = adoption.handover_code()
        _check_inherited(client)
        if not self.idle:
            raise NoStandby(self.problem or "starting")
        kernel = self._release(self.idle[0])
        try:
            _take_limits(client, kernel.pid)
            if code:
                await self._run(kernel, code)
            self._guard.hand_over(kernel.pid, owner)
        except BaseException as error:
            kernel.kill()
            if isinstance(error, StandbyLost):
                self._lose(str(error))
            if isinstance(error, (OSError, psutil.Error)):
                raise NoStandby(f"a kernel can't be handed out: {error}") from error
            raise
        kernel.client.stop_channels()
        self._losses = 0
        return kernel

    async def _run(self, kernel: ForeignKernel, code: str) -> None:
        timeout = self._config.acquire_timeout
        request = kernel.client.execute(
            code,
            silent=True,
            store_history=False,
            allow_stdin=False,
            reply=True,
            timeout=timeout,
        )
        try:
            reply = await kernel.reply(request)
        except (TimeoutError, asyncio.TimeoutError):
            raise StandbyLost(f"{_CODE} did not end within {timeout:g} s") from None
        if reply["status"] != "ok":
            said = f"{reply.get('ename', 'error')}: {reply.get('evalue', '')}"[:_REASON]
            raise StandbyLost(f"{_CODE} failed: {said}")

    def _release(self, kernel: ForeignKernel) -> ForeignKernel:
        self.idle.remove(kernel)
        kernel.ended.remove_done_callback(self._on_end)
        return kernel

    # -- what is kept

    async def _fill(self) -> None:
        while self.problem is None and len(self.idle) < self.min_idle:
            await self._quiet()
            async with self._starting:
                self._add(await self._start_kernel())

    def _check_fresh(self) -> None:
        changed = self._fingerprint.changed()
        if changed:
            self._log.info("%s: %s has changed, starting anew", self.key.name, changed)
            self._recycle(len(self.idle))
            self._fingerprint = _fingerprint_of(self._adoption)
            self.problem = None

    def _end(self, kernel: ForeignKernel) -> None:
        self._release(kernel).kill()

    # -- starting

    async def _start_kernel(self) -> ForeignKernel:
        fingerprint = self._fingerprint
        path = self._directory / _FILE.format(secrets.token_hex(8))
        _, connection = write_connection_file(
            str(path), ip="127.0.0.1", key=secrets.token_hex(32).encode()
        )
        self.warming += 1
        try:
            kernel = self._popen(path, connection)
            try:
                self._guard.watch(kernel.pid)
                request = kernel.client.kernel_info(reply=True, timeout=START_TIMEOUT)
                await kernel.reply(request)
                if fingerprint is not self._fingerprint or fingerprint.changed():
                    raise StartedAnew("starting")
            except BaseException:
                kernel.kill()
                raise
        finally:
            self.warming -= 1
            path.unlink(missing_ok=True)  # it has read it, and its front end writes another
        self.counts.created += 1
        return kernel

    def _popen(self, path: Path, connection: KernelConnectionInfo) -> ForeignKernel:
        command = [part.replace(CONNECTION_FILE, str(path)) for part in self._adoption.command]
        client = AsyncKernelClient(context=zmq.asyncio.Context.instance())
        client.load_connection_info(connection)
        try:
            client.start_channels(iopub=False, stdin=False, hb=False, control=False)
            process = subprocess.Popen(
                command,
                cwd=self._adoption.cwd,
                env=self._adoption.env,
                stdin=subprocess.DEVNULL,
                stdout=self._log_file,
                stderr=self._log_file,
                start_new_session=True,
            )
        except BaseException:
            client.stop_channels()
            raise
        process.returncode = 0  # it is the reaper that waits for it, not Popen
        return ForeignKernel(process.pid, self._reaper.status(process.pid), connection, client)

    def _add(self, kernel: ForeignKernel) -> None:
        self.idle.append(kernel)
        kernel.ended.add_done_callback(self._on_end)

    def _on_end(self, ended: asyncio.Future[int]) -> None:
        """Notice the end of a kernel that nobody has adopted."""
        for kernel in [kernel for kernel in self.idle if kernel.ended is ended]:
            self.counts.died += 1
            self._end(kernel)
            self._lose(f"kernel {kernel.pid} ended with status {ended.result()}")


def remove_connection_files(directory: Path) -> None:
    """Remove those of kernels a daemon was starting when it was killed."""
    for path in directory.glob(_FILE.format("*")):
        path.unlink(missing_ok=True)


def _fingerprint_of(adoption: Adoption) -> Fingerprint:
    """Watch the kernelspec, the program, and Python packages in the program's environment."""
    search_path = adoption.env.get("PATH")
    executable = shutil.which(adoption.order.executable, path=search_path)
    paths = [adoption.kernelspec]
    if executable:
        prefix = glob.escape(os.path.dirname(os.path.dirname(executable)))
        paths += [executable, *glob.glob(f"{prefix}/lib/python3*/*-packages")]
    return Fingerprint(paths)


def _check_inherited(client: int) -> None:
    """Make sure that a process would hand down what the daemon has handed down, or can change.

    Raises:
        NoStandby: it would not.
    """
    ours, its = _inherited(os.getpid()), _inherited(client)
    for name, value in its.items():
        if value != ours[name]:
            raise NoStandby(f"its {name} is {value}, and the pool's is {ours[name]}")
    for name, limit in _LIMITS.items():
        if _highest(client, limit) > _highest(os.getpid(), limit):
            raise NoStandby(f"its {name} may be higher than the pool's")


def _highest(pid: int, limit: int) -> float:
    _, hard = resource.prlimit(pid, limit)
    return math.inf if hard == resource.RLIM_INFINITY else hard


def _inherited(pid: int) -> dict[str, object]:
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        "umask": status.partition("\nUmask:")[2].split(maxsplit=1)[0],
        "priority": os.getpriority(os.PRIO_PROCESS, pid),
        "set of CPUs": sorted(os.sched_getaffinity(pid)),
        "oom_score_adj": Path(f"/proc/{pid}/oom_score_adj").read_text().strip(),
    }


def _take_limits(client: int, kernel: int) -> None:
    """Give a kernel, and all that it has started, the resource limits of another process.

    Raises:
        OSError: one can't be had.
    """
    for process in (kernel, *psutil.Process(kernel).children(recursive=True)):
        pid = process if isinstance(process, int) else process.pid
        for limit in _LIMITS.values():
            resource.prlimit(pid, limit, resource.prlimit(client, limit))
