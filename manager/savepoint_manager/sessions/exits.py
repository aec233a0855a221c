"""How a kernel's process ended, and noticing it at once.

Linux tells a descriptor of a process when it ends (pidfd). Elsewhere, and for a kernel that is no
process of this machine, its provisioner is asked ten times a second, as jupyter_client does when it
waits for an end.

Threads: one event loop.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from ..causes import OutOfMemory, cause_of, oom_counter, signal_name
from ..exceptions import KernelDied

_POLL = 0.1


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a kernel.

    Attributes:
        what: such as "was killed by SIGKILL".
        exit_code: exit status; None if a signal ended it, or if it is not known.
        signal: name of that signal.
    """

    what: str
    exit_code: int | None = None
    signal: str | None = None

    def error(self) -> KernelDied:
        """Return the exception that says so."""
        return KernelDied(self.what, self.exit_code, self.signal)


def exit_of(code: int | None, out_of_memory: bool) -> Exit:
    """Return what a return code, as of `subprocess`, means."""
    what = cause_of(code, out_of_memory=out_of_memory)
    if code is None:
        return Exit(what)
    if code >= 0:
        return Exit(what, exit_code=code)
    return Exit(what, signal=signal_name(-code))


async def wait_for_exit(manager: AsyncKernelManager) -> Exit:
    """Wait until the process of a started kernel has ended."""
    provisioner = manager.provisioner
    assert provisioner is not None
    out_of_memory = OutOfMemory(oom_counter(getattr(provisioner, "pid", None) or 0))
    if isinstance(provisioner, LocalProvisioner) and provisioner.pid is not None:
        await _wait_for_process(provisioner.pid)
    while await manager.is_alive():
        await asyncio.sleep(_POLL)
    return exit_of(await provisioner.poll(), bool(out_of_memory))


async def _wait_for_process(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux; an older one; or it is gone
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)
