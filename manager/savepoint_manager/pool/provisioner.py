"""``savepoint-provisioner``: kernels from the pool for everything that uses jupyter_client.

For kernelspecs that are not Savepoint's, and whenever the pool has no kernel, it is
jupyter_client's LocalProvisioner.

Threads: whatever jupyter_client runs it on; asking the daemon is left to a worker thread, but in a
forked process (a worker of multiprocessing).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from jupyter_client.connect import KernelConnectionInfo, LocalPortCache
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool

from savepoint_kernel import launch
from savepoint_kernel.orders import Order

from .. import sandbox
from ..causes import OutOfMemory, cause_of, oom_counter
from ..sandbox.provisioner import SandboxProvisioner
from .client import NoPool, PooledProcess, PoolMissed, directory_of, launch_kernel, start_daemon

_KNOWN = {"env", "cwd", "stdin", "stdout", "stderr", "independent", "kernel_id", "extra_arguments"}
"""What may be asked of a kernel of the pool, of all that Popen can do."""

_IMPORTED_BY = os.getpid()


class SavepointProvisioner(SandboxProvisioner):
    """Takes kernels from the pool, or starts them; in a sandbox, if told to."""

    use_pool = Bool(True, help="Take kernels from the pool.").tag(config=True)

    _out_of_memory: OutOfMemory | None = None
    _end_is_news = False
    _launched = False

    async def order(self) -> Order | None:
        """Spell what the pool would be asked for; None if it can't have such kernels."""
        if self.sandboxed:
            return None
        # Not LocalProvisioner's own, which takes ports and writes a connection file.
        kwargs = await super(LocalProvisioner, self).pre_launch()
        manager: Any = self.parent
        return _order_of(without_shim(manager.format_kernel_cmd()), kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Get a kernel that has bound its ports, or start one."""
        command = without_shim(cmd)
        process = None
        order = _order_of(command, kwargs)
        if order is not None and self.ports_cached and not self._launched:
            order = replace(order, other_ports=True)  # clients of a restart know the ports
        self._launched = True
        if self.use_pool and order is not None and not self.sandboxed:
            if os.getpid() == _IMPORTED_BY:
                process = await asyncio.to_thread(self._from_pool, order, kwargs)
            else:  # a fork, whose loop may be its parent's and count on threads that are not here
                process = self._from_pool(order, kwargs)
        if process is None:
            info = await super().launch_kernel(command, **kwargs)
        else:
            self.process = process  # type: ignore[assignment]
            self.pid = self.pgid = process.pid
            self.cwd = order.cwd if order is not None else None
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

    def _from_pool(self, order: Order, kwargs: Mapping[str, Any]) -> PooledProcess | None:
        directory = directory_of(order.env)
        if not directory:
            return None
        try:
            with _stdio(kwargs) as (descriptors, streams):
                process = launch_kernel(directory, order, descriptors)
                for name, stream in streams.items():
                    setattr(process, name, stream)
                return process
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


def without_shim(command: Sequence[str]) -> list[str]:
    """Return the command a kernelspec means, without what front ends of their own kind begin with.

    That is the shim, or the refusal to start without a sandbox.
    """
    if list(command[1:3]) == ["-m", sandbox.__name__]:
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
    cwd = os.path.abspath(os.path.expanduser(kwargs.get("cwd") or "."))
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

        for number, name in enumerate(("stdin", "stdout", "stderr")):
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
