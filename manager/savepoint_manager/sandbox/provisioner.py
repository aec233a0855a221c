"""Starting kernels in a sandbox, as a layer of the provisioner.

The connection is by sockets in a directory that is bound into the sandbox: it has no network. There
is no way from a standby into a sandbox, so these kernels are started, not taken from the pool.

Threads: whatever jupyter_client runs it on; what waits is left to a worker thread.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Enum, List, Unicode

from savepoint_kernel.launch import split_command

from ..aside import aside
from ..exceptions import SandboxUnavailable
from . import supervisor
from .bubblewrap import SHARED_DIRECTORY, Wish, command_line, environment
from .interpreter import Interpreter
from .session import Session


class SandboxProvisioner(LocalProvisioner):
    """Starts kernels in a sandbox if told to."""

    isolation = Enum(
        ["process", "sandbox"],
        "process",
        help="""What is between a kernel and everything else of the user: "process" nothing but
        that it is one; "sandbox" bubblewrap: no network, nothing writable but a home directory
        and /tmp of its own, no other process and nobody else's file in sight.""",
    ).tag(config=True)
    sandbox_directory = Enum(
        ["hidden", "read-only", "writable"],
        SHARED_DIRECTORY,
        help="""How a sandboxed kernel sees the directory it is started in, usually that of the
        notebook. Hidden, it starts in its own home directory.""",
    ).tag(config=True)
    sandbox_show = List(
        Unicode(), help="More files and directories that sandboxed kernels may read."
    ).tag(config=True)
    sandbox_variables = List(
        Unicode(),
        help="""Names of variables of the environment that sandboxed kernels get beside the
        harmless ones and those of the kernelspec's env.""",
    ).tag(config=True)

    _session: Session | None = None
    _interpreter: Interpreter | None = None
    _had_kernel = False

    @property
    def sandboxed(self) -> bool:
        """True if the kernel is to be in a sandbox."""
        return bool(self.isolation == "sandbox")

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose where the kernel is to be reached before that is written down.

        Raises:
            SandboxUnavailable: a sandbox can't be made, or its kernelspec did not come with one.
        """
        if not self.sandboxed:
            if refuses(self.kernel_spec.argv):
                raise SandboxUnavailable(
                    "The kernelspec's command is for kernels in a sandbox, and there is no "
                    '"isolation": "sandbox" in its kernel_provisioner\'s config'
                )
            return await super().pre_launch(**kwargs)
        _bubblewrap()
        if self._session is None:
            self._session = await aside(Session.make)
        try:
            manager: Any = self.parent
            manager.transport = "ipc"
            manager.ip = str(self._session.sockets / "kernel")
            return await super().pre_launch(**kwargs)
        except BaseException:
            await self._forsake()
            raise

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel, in its sandbox if it is to have one.

        Raises:
            SandboxUnavailable: it can't be made. There is no kernel without it then.
        """
        if not self.sandboxed:
            return await super().launch_kernel(cmd, **kwargs)
        session, parts = self._session, split_command(cmd[1:])
        try:
            if session is None:
                raise SandboxUnavailable("pre_launch() was not called")
            if parts is None:
                raise SandboxUnavailable(
                    f"Only Savepoint's kernels can be in a sandbox, not {' '.join(cmd)}"
                )
            cwd = os.path.abspath(os.path.expanduser(kwargs.get("cwd") or "."))
            if self._interpreter is None:
                self._interpreter = await aside(Interpreter.ask, cmd[0], kwargs["env"])
            wish = Wish(
                interpreter=self._interpreter,
                cwd=cwd,
                env=kwargs["env"],
                connection_file=parts[1],
                directory=self.sandbox_directory,
                show=self.sandbox_show,
                variables=[*self.sandbox_variables, *(self.kernel_spec.env or ())],
            )
            sandbox, left_out = await aside(_prepared, session, wish)
            if left_out:
                self.log.warning(
                    "Not shown in the sandbox, as it has your home directory, other sessions or "
                    "Jupyter's own files in it: %s",
                    ", ".join(left_out),
                )
            kwargs.update(env=environment(wish), cwd="/")
            command = [sys.executable, "-I", "-S", supervisor.__file__, str(session.root)]
            info = await super().launch_kernel([*command, *sandbox, *cmd], **kwargs)
        except BaseException:
            await self._forsake()
            raise
        self.cwd, self._had_kernel = cwd, True
        return info

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel; a sandbox that is killed has ended when its process has."""
        sandboxed = self._session is not None and signum == getattr(signal, "SIGKILL", None)
        await super().send_signal(supervisor.KILL if sandboxed else signum)

    async def cleanup(self, restart: bool = False) -> None:
        """Remove the sandbox's directories; a restarted kernel finds its files and timeline."""
        await super().cleanup(restart)
        if not restart:
            await self._remove()

    async def _forsake(self) -> None:
        """Remove a session that no kernel was in; others are kept, as they can be restarted."""
        if not self._had_kernel:
            await self._remove()

    async def _remove(self) -> None:
        session, self._session = self._session, None
        self._interpreter, self._had_kernel = None, False
        if session is not None:
            await aside(session.remove)
            if session.root.exists():
                self.log.warning("Files of a sandbox are left in %s", session.root)


def refuses(command: Sequence[str]) -> bool:
    """Tell a command that refuses to start without a sandbox, see ``__main__``."""
    return list(command[1:3]) == ["-m", __package__]


def _bubblewrap() -> str:
    """Return the path of bwrap."""
    if sys.platform != "linux":
        raise SandboxUnavailable("Sandboxes need Linux")
    if not hasattr(os, "pidfd_open"):
        raise SandboxUnavailable("Sandboxes need Linux 5.3 or later, and a Python built on it")
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxUnavailable(
            "Sandboxes need bubblewrap, and there is no program bwrap in PATH: install the "
            "package bubblewrap (sudo apt install bubblewrap)"
        )
    return path


def _prepared(session: Session, wish: Wish) -> tuple[list[str], list[str]]:
    """Spell a sandbox that is known to work."""
    shutil.copyfile(wish.connection_file, session.connection_file)
    sandbox, left_out = command_line(_bubblewrap(), session, wish)
    filtered, calls = supervisor.filtering(str(session.root))
    command = [sandbox[0], *filtered, *sandbox[1:], wish.interpreter.executable]
    # The kernel's own failure would be "Kernel died", and why in some log.
    try:
        trial = subprocess.run(
            [*command, "-I", "-S", "-c", ""],
            env=environment(wish),
            pass_fds=[calls],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    finally:
        os.close(calls)
    if trial.returncode:
        raise SandboxUnavailable(
            f"bubblewrap can't make a sandbox here: {trial.stderr.strip() or trial.returncode}"
        )
    return sandbox, left_out
