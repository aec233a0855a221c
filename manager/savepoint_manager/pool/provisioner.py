"""``savepoint-provisioner``: kernels from the pool for everything that uses jupyter_client.

Whenever the pool has no kernel it is jupyter_client's LocalProvisioner, and for kernelspecs that
are not Savepoint's, unless the user wants their kernels kept ready (`Pool.adopt`).

A kernel of Savepoint's takes the ports of the front end, so it comes when others are launched. One
that is adopted has ports and a key of its own, so it comes before any are chosen: where there is no
connection file yet, jupyter_client writes it from what `launch_kernel` returns.

Threads: whatever jupyter_client runs it on; asking the daemon is left to a worker thread, but in a
forked process (a worker of multiprocessing).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from jupyter_client.connect import KernelConnectionInfo, LocalPortCache, port_names
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool

from savepoint_kernel import launch
from savepoint_kernel.orders import Order

from ..aside import is_fork
from ..causes import OutOfMemory, cause_of, oom_counter
from ..sandbox.provisioner import SandboxProvisioner, refuses
from .adoption import CONNECTION_FILE, Adoption
from .client import (
    NoPool,
    PooledProcess,
    PoolMissed,
    adopt_kernel,
    directory_of,
    launch_kernel,
    start_daemon,
)

Wanted = TypeVar("Wanted", Order, Adoption)

_KNOWN = {"env", "cwd", "stdin", "stdout", "stderr", "independent", "kernel_id", "extra_arguments"}
"""What may be asked of a kernel of the pool, of all that Popen can do."""

_STREAMS = ("stdin", "stdout", "stderr")

_WORKERS = ThreadPoolExecutor(thread_name_prefix="savepoint-pool")
"""Not the loop's own: it may have ended when a kernel comes that nobody waits for any more."""


class SavepointProvisioner(SandboxProvisioner):
    """Takes kernels from the pool, or starts them; in a sandbox, if told to."""

    use_pool = Bool(True, help="Take kernels from the pool.").tag(config=True)

    _adopted: PooledProcess | None = None
    _out_of_memory: OutOfMemory | None = None
    _end_is_news = False
    _launched = False

    @property
    def _asks_pool(self) -> bool:
        """A kernel that runs already can't be put into a sandbox, whatever the user configured."""
        return bool(self.use_pool) and not self.sandboxed

    async def order(self) -> Order | Adoption | None:
        """Spell what the pool would be asked for; None if it can't have such kernels."""
        if self.sandboxed:
            return None
        # Not LocalProvisioner's own, which takes ports and writes a connection file.
        kwargs = await super(LocalProvisioner, self).pre_launch()
        manager: Any = self.parent
        order = _order_of(without_shim(manager.format_kernel_cmd()), kwargs)
        return order or await self._adoption({})

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Adopt a kernel of the pool, or prepare the start of one."""
        adoption = await self._adoption(kwargs) if self._asks_pool else None
        if adoption is not None:
            self._adopted = await _aside(self._from_pool, adopt_kernel, adoption)
        if adoption is None or self._adopted is None:
            return await super().pre_launch(**kwargs)
        connection = self._adopted.connection
        connection["key"] = connection["key"].encode()  # as jupyter_client compares it
        self.connection_info = cast(KernelConnectionInfo, connection)
        self.ports_cached = True  # or a restart would choose others
        launched = await super(LocalProvisioner, self).pre_launch(**kwargs)
        return {**launched, "cmd": adoption.command}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Get a kernel that has bound its ports, or start one."""
        command = without_shim(cmd)
        process, self._adopted = self._adopted, None
        order = _order_of(command, kwargs)
        if order is not None and self.ports_cached and not self._launched:
            order = replace(order, other_ports=True)  # clients of a restart know the ports
        self._launched = True
        if process is None and self._asks_pool and order is not None:
            process = await _aside(self._from_pool, partial(_launch, kwargs), order)
        if process is None:
            info = await super().launch_kernel(command, **kwargs)
        else:
            self.process = process  # type: ignore[assignment]
            self.pid = self.pgid = process.pid
            self.cwd = _cwd_of(kwargs)
            info = self._connection_to(process)
        self._end_is_news = True
        self._out_of_memory = OutOfMemory(oom_counter(self.pid or 0))
        return info

    async def poll(self) -> int | None:
        """Return the exit status, None while the kernel runs; an end nobody asked for is logged."""
        status = await super().poll()
        if status and self._end_is_news:
            self._end_is_news = False
            cause = cause_of(status, out_of_memory=bool(self._out_of_memory))
            self.log.warning("Kernel %s %s", self.kernel_id, cause)
        return status

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel and its process group."""
        if signum != signal.SIGINT:
            self._end_is_news = False
        await super().send_signal(signum)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Take note that the kernel is asked to end."""
        self._end_is_news = False
        await super().shutdown_requested(restart)

    async def cleanup(self, restart: bool = False) -> None:
        """Give back what the kernel had, and one that was adopted for a start that has failed."""
        if self._adopted is not None:
            self._adopted.discard()
            self._adopted = None
        await super().cleanup(restart)

    def _connection_to(self, process: PooledProcess) -> KernelConnectionInfo:
        """Return how to connect, after what the kernel has bound."""
        if process.ports:
            manager: Any = self.parent
            cache = LocalPortCache.instance()
            for name, port in process.ports.items():
                if port != getattr(manager, name):
                    cache.return_port(getattr(manager, name))
                    setattr(manager, name, port)
            self.connection_info = manager.get_connection_info()
        return self.connection_info

    async def _adoption(self, kwargs: Mapping[str, Any]) -> Adoption | None:
        """Spell the adoption the user wants for this kernelspec; None if it is to be started."""
        manager: Any = self.parent
        specified = self.kernel_spec.argv
        env = os.environ if kwargs.get("env") is None else kwargs["env"]
        if launch.split_command(without_shim(specified)[1:]) is not None or not directory_of(env):
            return None
        # Here, as most front ends start Savepoint's kernels only, and do not need it.
        from .config import adoptions

        try:
            code = adoptions().get(manager.kernel_name)
        except Exception as error:  # a file runs, and may raise anything
            self.log.warning("Starting a kernel, as the pool's configuration is wrong: %s", error)
            return None
        if code is None:
            return None
        # A kernel that runs has read a file of another name: in its place is what no argument has.
        marked = [part.replace(CONNECTION_FILE, "\0") for part in specified]
        program, *formatted = manager.format_kernel_cmd(marked)
        if len(formatted) != 2 * len(specified) - 1:
            self.log.info("Starting a kernel, as its command is not that of the kernelspec")
            return None
        options = [part.replace("\0", CONNECTION_FILE) for part in formatted[len(specified) :]]
        launched = await super(LocalProvisioner, self).pre_launch(**kwargs)
        order = Order(
            executable=os.path.expanduser(program),
            options=options,
            arguments=[],
            connection_file=CONNECTION_FILE,
            cwd=_cwd_of(kwargs),
            env=launched["env"],
            detached=bool(kwargs.get("independent")),
        )
        kernelspec = os.path.join(self.kernel_spec.resource_dir, "kernel.json")
        return Adoption(order, code, kernelspec, _unfit(manager, kwargs))

    def _from_pool(
        self, get: Callable[[str, Wanted], PooledProcess], order: Wanted
    ) -> PooledProcess | None:
        directory = directory_of(order.env)
        if not directory:
            return None
        try:
            return get(directory, order)
        except PoolMissed as miss:
            self.log.debug("Starting a kernel, as the pool has none: %s", miss)
        except NoPool as error:
            try:
                start_daemon(directory, order)
            except OSError as problem:
                self.log.info("Starting a kernel, and there can be no pool: %s", problem)
            else:
                self.log.debug("Starting a kernel, and the pool for the next: %s", error)
        return None


async def _aside(get: Callable[..., PooledProcess | None], *arguments: Any) -> PooledProcess | None:
    """Get a kernel on another thread, if there is one."""
    if is_fork():
        return get(*arguments)
    kernel = _WORKERS.submit(get, *arguments)
    try:
        return await asyncio.wrap_future(kernel)
    except asyncio.CancelledError:
        kernel.add_done_callback(_discard)
        raise


def _discard(kernel: Future[PooledProcess | None]) -> None:
    """End a kernel that came when nobody waited for it any more."""
    if not kernel.cancelled() and (process := kernel.result()):
        process.discard()


def _launch(kwargs: Mapping[str, Any], directory: str, order: Order) -> PooledProcess:
    with _stdio(kwargs) as (descriptors, streams):
        process = launch_kernel(directory, order, descriptors)
        for name, stream in streams.items():
            setattr(process, name, stream)
        return process


def without_shim(command: Sequence[str]) -> list[str]:
    """Return the command a kernelspec means, without what front ends of their own kind begin with.

    That is the shim, or the refusal to start without a sandbox.
    """
    if refuses(command):
        return [command[0], *command[3:]]
    isolated, script = list(command[1:3]) == ["-I", "-S"], Path(*command[3:4]).name
    if isolated and script == Path(launch.__file__).name:
        return [command[0], *command[4:]]
    return list(command)


def _order_of(command: Sequence[str], kwargs: Mapping[str, Any]) -> Order | None:
    """Spell what is wanted as an order; None if the pool can't have it."""
    parts = launch.split_command(command[1:])
    if parts is None or not kwargs.keys() <= _KNOWN:
        return None
    options, connection_file, arguments = parts
    cwd = _cwd_of(kwargs)
    env = dict(os.environ if kwargs.get("env") is None else kwargs["env"])
    detached = bool(kwargs.get("independent"))
    if not detached:
        env["JPY_PARENT_PID"] = str(os.getpid())  # as jupyter_client's launcher
    return Order(
        executable=os.path.expanduser(command[0]),
        options=options,
        arguments=arguments,
        connection_file=os.path.join(cwd, connection_file),
        cwd=cwd,
        env=env,
        detached=detached,
    )


def _cwd_of(kwargs: Mapping[str, Any]) -> str:
    return os.path.abspath(os.path.expanduser(kwargs.get("cwd") or "."))


def _unfit(manager: Any, kwargs: Mapping[str, Any]) -> str:
    """Tell why no kernel that runs already is what is asked for; nothing if it can be."""
    if not kwargs.keys() <= _KNOWN:
        return f"{', '.join(sorted(kwargs.keys() - _KNOWN))} can't be had for a kernel that runs"
    if kwargs.get("extra_arguments"):
        return "extra arguments"
    if any(getattr(manager, name) for name in port_names):
        return "its ports are given, as those of a kernel that is restarted are"
    if (manager.transport, manager.ip) != ("tcp", "127.0.0.1"):
        return f"{manager.transport}://{manager.ip} is not tcp://127.0.0.1"
    if manager.transport_encryption != "disabled":
        return "encryption"
    if any(kwargs.get(name) not in (None, subprocess.DEVNULL) for name in _STREAMS):
        return "standard input or output of its own"
    return ""


@contextmanager
def _stdio(
    kwargs: Mapping[str, Any],
) -> Iterator[tuple[list[int], dict[str, IO[bytes]]]]:
    """Open what Popen would give to a child: yields descriptors, and our ends of pipes by name."""
    with ExitStack() as ours:
        descriptors: list[int] = []
        streams: dict[str, IO[bytes]] = {}

        def opened(descriptor: int) -> int:
            ours.callback(os.close, descriptor)
            return descriptor

        for number, name in enumerate(_STREAMS):
            wanted = kwargs.get(name)
            if wanted is None and name != "stdin":
                descriptors.append(number)
            elif wanted is None or wanted == subprocess.DEVNULL:
                descriptors.append(opened(os.open(os.devnull, os.O_RDWR)))
            elif wanted == subprocess.PIPE:
                read, write = os.pipe()
                its, other = (read, write) if name == "stdin" else (write, read)
                descriptors.append(opened(its))
                streams[name] = os.fdopen(other, "wb" if name == "stdin" else "rb")
            elif wanted == subprocess.STDOUT:
                descriptors.append(descriptors[1])
            else:
                descriptors.append(wanted if isinstance(wanted, int) else wanted.fileno())
        try:
            yield descriptors, streams
        except BaseException:
            for stream in streams.values():
                stream.close()
            raise
