"""The daemon: ``python -m savepoint_manager.pool.daemon``, one per user and machine.

    launch    an order, with stdio and a pidfd -> {"pid"} when the ports are bound, and a pidfd, and
              {"ports"} if the order allows others and its own were taken; {"exit"} when the kernel
              has ended. {"miss": reason}: start one yourself
    adopt     an adoption, with a pidfd -> {"pid", "connection"}, and a pidfd; then as for launch
    warm      an order or adoption -> {"key"}; standbys like it are kept from now on. With min_idle
              or preload, as many and with these modules. Then {"ready": how many}, or {"problem"}:
              all is as it was before. With wait, it does not wait until the machine has time
    status    -> what `status` says
    stop      -> {"pid", "kernels"}; the kernels go on

It is started by whoever finds none, and ends when it is no longer used. Killing it ends no kernel:
their front ends hold pidfds of them and connections to their ports.

Only processes of the same user and the same namespaces are answered. The directory of the socket is
0700 and the socket 0600, and the system tells who connects (SO_PEERCRED).

Threads: one, an asyncio event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from jupyter_core.application import JupyterApp, base_aliases
from traitlets import Int, Unicode, default

from savepoint_kernel import launch, orders
from savepoint_kernel.orders import Message, Order, OrderRefused

from .adoption import Adoption, adoption_of
from .cancelling import end_all
from .channel import Channel
from .config import ALIASES, CONFIG_FILE, Pool
from .directory import LOG, private_directory
from .guarding import Guard
from .keeper import Keeper, NoStandby
from .keys import Key, key_of
from .namespaces import foreign_namespace
from .reaper import Reaper
from .standbys import Standbys
from .status import describe
from .zygotes import Standby

if TYPE_CHECKING:
    from .foreign import ForeignKernels

BACKLOG = 512
ACCEPT_AGAIN = 0.5
"""Seconds between two attempts to accept a connection without a descriptor for it."""

LOG_SIZE = 1 << 20
"""Bytes at which the log of the last daemon is not continued."""


class AnotherDaemon(Exception):
    """There is one already."""


class Daemon:
    """Answers on the pool's socket.

    Args:
        directory: where that is.
        config: of the pool.
        log_file: stdout and stderr of zygotes.
    """

    def __init__(self, directory: Path, config: Pool, log_file: IO[Any]) -> None:
        self.config = config
        self.pools: dict[Key, Keeper[Any]] = {}
        self.kernels: dict[int, Key] = {}
        self.started = time.time()
        self._directory = directory
        self._log_file = log_file
        self._log: Any = config.log
        self._reaper = Reaper()
        self._guard: Guard | None = None
        self._stopped = asyncio.Event()
        self._clients: set[asyncio.Task[None]] = set()
        self._forking = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        self._last_used = time.monotonic()

    async def serve(self, first: socket.socket | None) -> None:
        """Answer until told to stop, or for long not needed.

        Args:
            first: a connection that is there already.

        Raises:
            AnotherDaemon: there is one already.
        """
        lock = _lock(self._directory)
        try:
            self._reaper.start()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stopped.set)
            listener = _listen(self._directory / launch.SOCKET)
            try:
                if first is not None:
                    self._accept(first, ours=True)
                loop.add_reader(listener, self._accept_next, listener)
                await self._until_unused()
            finally:
                loop.remove_reader(listener)
                (self._directory / launch.SOCKET).unlink(missing_ok=True)
                listener.close()
            await end_all(self._clients)
            await asyncio.gather(*(pool.stop() for pool in self.pools.values()))
        finally:
            os.close(lock)

    async def _until_unused(self) -> None:
        while not self._stopped.is_set():
            timeout = self.config.idle_timeout
            wait = None
            if timeout:
                wait = max(0.1, self._last_used + timeout - time.monotonic())
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), wait)
            if timeout and not self.kernels and time.monotonic() >= self._last_used + timeout:
                self._log.info("Not used for %g s, ending", timeout)
                return
            if self.kernels:
                self._last_used = time.monotonic()

    def _accept_next(self, listener: socket.socket) -> None:
        try:
            self._accept(listener.accept()[0], ours=False)
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptor is free; one will be when a kernel ends
            self._log.warning("A client has to wait: %s", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(ACCEPT_AGAIN, self._accept_again, listener)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept_next, listener)

    def _accept(self, sock: socket.socket, *, ours: bool) -> None:
        """Serve a connection; ours is that of the process which has started us, and may be gone."""
        task = asyncio.create_task(self._serve_client(Channel(sock), ours))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve_client(self, channel: Channel, ours: bool) -> None:
        descriptors: list[int] = []
        try:
            pid, uid = channel.peer()
            if uid != os.getuid():
                raise OrderRefused(f"user {uid} is not {os.getuid()}")
            message, descriptors = await channel.receive()
            if not ours and (name := foreign_namespace(pid)):
                raise OrderRefused(f"this is another namespace of the system ({name})")
            if message:
                await self._serve_request(channel, pid, message, descriptors)
        except OrderRefused as error:
            self._log.warning("Refused: %s", error)
            with contextlib.suppress(OSError):
                channel.send({"miss": str(error)})
        except OSError as error:
            self._log.info("A client is gone: %s", error)
        except Exception:
            self._log.exception("A request failed")
        finally:
            orders.close_all(descriptors)
            channel.close()

    async def _serve_request(
        self, channel: Channel, client: int, message: Message, descriptors: list[int]
    ) -> None:
        kind = message.get("op")
        if kind == "status":
            channel.send(describe(self))
        elif kind == "stop":
            channel.send({"pid": os.getpid(), "kernels": len(self.kernels)})
            self._stopped.set()
        elif kind == "warm":
            await self._warm(channel, message)
        elif kind == "launch":
            if len(descriptors) < 3:
                raise OrderRefused("a launch needs descriptors for stdin, stdout and stderr")
            await self._launch(channel, client, orders.order_of(message), descriptors)
        elif kind == "adopt":
            await self._adopt(channel, client, adoption_of(message), descriptors)
        else:
            raise OrderRefused(f"{kind!r} is no request")

    async def _warm(self, channel: Channel, message: Message) -> None:
        min_idle, preload, wait = _wishes(message)
        self._last_used = time.monotonic()
        pool: Keeper[Any]
        if "adopt" in message:
            pool = self._foreign_for(adoption_of(message))
        else:
            pool = self._pool_for(orders.order_of(message))
        before = (pool.min_idle, pool.preload)
        pool.configure(min_idle, preload)
        with contextlib.suppress(OSError):  # not everybody stays for the answer
            channel.send({"key": pool.key.name})
        if not wait and preload is None:
            return
        await pool.settled(hurry=wait)
        if pool.problem is None:
            answer: Message = {"ready": len(pool.idle)}
        else:
            answer = {"problem": pool.problem}
            pool.configure(*before)
        channel.send(answer)

    # -- launching

    async def _launch(
        self, channel: Channel, client: int, order: Order, descriptors: list[int]
    ) -> None:
        self._last_used = began = time.monotonic()
        pool = self._pool_for(order)
        try:
            standby, how = await self._standby_of(pool)
        except NoStandby as miss:
            pool.counts.miss(str(miss))
            channel.send({"miss": str(miss)})
            return
        status = self._reaper.status(standby.pid)
        try:
            ports = await asyncio.wait_for(
                self._hand_out(standby, client, order, descriptors), self.config.acquire_timeout
            )
            pidfd = os.pidfd_open(standby.pid)
        except (NoStandby, OrderRefused, OSError, asyncio.TimeoutError) as error:
            reason = str(error) or "a standby did not answer"
            pool.counts.miss(reason)
            await self._kill(standby.pid, status)
            channel.send({"miss": reason})
            return
        finally:
            standby.channel.close()
            orders.close_all(descriptors)  # the kernel has them; a pipe's reader waits for its end
            descriptors.clear()
        pool.counts.hits[how] += 1
        pool.counts.acquire_ms.append((time.monotonic() - began) * 1000)
        answer = {"pid": standby.pid, **ports}
        await self._stay(channel, pool.key, answer, pidfd, status)

    async def _adopt(
        self, channel: Channel, client: int, adoption: Adoption, descriptors: list[int]
    ) -> None:
        self._last_used = began = time.monotonic()
        if adoption.unfit:
            if adoption.key in self.pools:
                self.pools[adoption.key].counts.miss(adoption.unfit)
            channel.send({"miss": adoption.unfit})
            return
        pool = self._foreign_for(adoption)
        pool.ask()
        try:
            kernel = await pool.adopt(adoption, client, next(iter(descriptors), None))
            try:
                pidfd = os.pidfd_open(kernel.pid)
            except OSError:
                await self._kill(kernel.pid, kernel.ended)
                raise
        except (NoStandby, OrderRefused, OSError) as miss:
            pool.counts.miss(str(miss))
            channel.send({"miss": str(miss)})
            return
        finally:
            orders.close_all(descriptors)
            descriptors.clear()
        pool.counts.hits["standby"] += 1
        pool.counts.acquire_ms.append((time.monotonic() - began) * 1000)
        answer = {"pid": kernel.pid, "connection": kernel.connection}
        await self._stay(channel, pool.key, answer, pidfd, kernel.ended)

    async def _stay(
        self, channel: Channel, key: Key, answer: Message, pidfd: int, status: asyncio.Future[int]
    ) -> None:
        """Answer with a kernel, and tell of its end."""
        pid: int = answer["pid"]
        self.kernels[pid] = key
        try:
            try:
                channel.send(answer, [pidfd])
            except OSError:  # nobody knows it: nobody would end it
                await self._kill(pid, status)
                raise
            finally:
                os.close(pidfd)
            code = await asyncio.shield(status)
            self._log.info("Kernel %d has ended: %d", pid, code)
            with contextlib.suppress(OSError):
                channel.send({"exit": code})
        finally:
            if status.done():
                del self.kernels[pid]

    async def _standby_of(self, pool: Standbys) -> tuple[Standby, str]:
        try:
            return pool.take(), "standby"
        except NoStandby:
            return await pool.fork(), "fork"

    async def _hand_out(
        self, standby: Standby, client: int, order: Order, descriptors: list[int]
    ) -> Message:
        """Hand a standby out; returns its ``ports`` if they are others than it was told.

        Raises:
            NoStandby: it refuses, or has ended.
        """
        message = {"order": order.as_message(), "client": client}
        standby.channel.send(message, descriptors)
        answer, _ = await standby.channel.receive()
        if "bound" not in answer:
            raise NoStandby(answer.get("refused", "a standby ended when it was handed out"))
        return {name: answer[name] for name in ("ports",) if name in answer}

    async def _kill(self, pid: int, status: asyncio.Future[int]) -> None:
        if not status.done():
            os.killpg(pid, signal.SIGKILL)
            await asyncio.shield(status)

    def _pool_for(self, order: Order) -> Standbys:
        key = key_of(order)
        pool = self.pools.get(key)
        if not isinstance(pool, Standbys):
            pool = Standbys(key, order, self.config, self._reaper, self._forking, self._log_file)
            self._add(pool)
        return pool

    def _foreign_for(self, adoption: Adoption) -> ForeignKernels:
        if adoption.unfit:
            raise OrderRefused(adoption.unfit)
        # Here, as it imports jupyter_client, which takes half as long again as all the daemon does.
        from .foreign import ForeignKernels, remove_connection_files

        if self._guard is None:
            self._guard = Guard(self._reaper, self._log_file)
            remove_connection_files(self._directory)
        pool = self.pools.get(adoption.key)
        if not isinstance(pool, ForeignKernels):
            pool = ForeignKernels(
                adoption,
                self.config,
                self._reaper,
                self._forking,
                self._guard,
                self._directory,
                self._log_file,
            )
            self._add(pool)
        return pool

    def _add(self, pool: Keeper[Any]) -> None:
        """Keep kernels for one key more; of its kind, the one asked for longest ago makes room."""
        alike = [other for other in self.pools.values() if other.kind == pool.kind]
        if len(alike) >= self.config.max_keys:
            oldest = min(alike, key=lambda pool: pool.last_used)
            del self.pools[oldest.key]
            task = asyncio.create_task(oldest.stop())
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)
        self.pools[pool.key] = pool
        pool.start()


def _wishes(message: Message) -> tuple[int | None, list[str] | None, bool]:
    min_idle, preload = message.get("min_idle"), message.get("preload")
    if min_idle is not None and (type(min_idle) is not int or min_idle < 0):
        raise OrderRefused(f"min_idle is {min_idle!r}; it is a number of standbys")
    if preload is not None and not (
        isinstance(preload, list) and all(isinstance(name, str) for name in preload)
    ):
        raise OrderRefused(f"preload is {preload!r}; it is a list of names of modules")
    return min_idle, preload, message.get("wait") is True


def _lock(directory: Path) -> int:
    """Hold the lock of a directory until this process ends."""
    lock = os.open(directory / "pool.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AnotherDaemon(f"the pool in {directory} has a daemon") from None
    return lock


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # of a daemon that was killed; the lock is ours
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.setblocking(False)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


class DaemonApp(JupyterApp):
    """Starts the daemon."""

    name = "jupyter-savepoint-pool"
    description = "Keeps warm kernels for all front ends of a user."
    classes = [Pool]
    aliases = {
        **base_aliases,
        **ALIASES,
        "first": "DaemonApp.first",
        "directory": "DaemonApp.directory",
    }
    first = Int(-1, help="Descriptor of a connection that is there already.").tag(config=True)
    directory = Unicode(help="Directory of the socket.").tag(config=True)

    @default("config_file_name")
    def _config_file_name_default(self) -> str:
        return CONFIG_FILE

    def start(self) -> None:
        """Serve; whoever started us has gone on."""
        super().start()
        directory = private_directory(self.directory or launch.pool_directory(os.environ))
        first = socket.socket(fileno=self.first) if self.first >= 0 else None
        log_file = _redirect(directory / LOG)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each kernel takes one
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell has started us, in the background
        self.log.setLevel(logging.INFO)
        with log_file:
            daemon = Daemon(directory, Pool(parent=self), log_file)
            with contextlib.suppress(AnotherDaemon):
                asyncio.run(daemon.serve(first))


def _redirect(path: Path) -> IO[Any]:
    """Make a log of stdout and stderr, which belong to whoever started us."""
    too_long = path.exists() and path.stat().st_size > LOG_SIZE
    log_file = open(path, "w" if too_long else "a", opener=_private)  # noqa: SIM115
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(log_file.fileno(), 1)
    os.dup2(log_file.fileno(), 2)
    os.chdir("/")
    return log_file


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


if __name__ == "__main__":
    if sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
    DaemonApp.launch_instance()
