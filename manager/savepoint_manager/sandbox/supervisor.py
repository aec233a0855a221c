"""The process between a front end and a kernel in a sandbox: its signals and its end.

    python -I -S supervisor.py DIRECTORY bwrap ... python -m savepoint_kernel -f FILE

is what the front end takes for the kernel. A signal to its process group must reach the kernel, not
bubblewrap, which would end; the pid of the kernel is known by bubblewrap only. The kernel must end
with the front end, but the system's way (PR_SET_PDEATHSIG, --die-with-parent) would end it with the
front end's *thread* that started it; here is one thread only. And somebody must remove the
session's directory if the front end was killed.

It runs outside of the sandbox and reads nothing that comes from it.

Threads: one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys

KILL = getattr(signal, "SIGRTMIN", 0)
"""Ends the sandbox at once. SIGKILL does too, but then nobody waits until it has ended."""

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGWINCH")


def main() -> None:
    """Start the sandbox, and stand for the kernel in it."""
    directory, command = sys.argv[1], sys.argv[2:]
    parent = os.environ.get("JPY_PARENT_PID")  # without it the kernel may outlive the front end
    os.environ["JPY_PARENT_PID"] = "1"  # in there; ipykernel watches no process 1
    front_end = os.pidfd_open(os.getppid())
    signals, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (KILL, *(getattr(signal, name) for name in _FORWARDED)):
        signal.signal(number, lambda number, frame: None)

    read, write = os.pipe()
    # In a session of its own, else a signal to our group would end it.
    sandbox = subprocess.Popen(
        [command[0], "--info-fd", str(write), *command[1:]],
        pass_fds=[write],
        start_new_session=True,
    )
    os.close(write)
    with os.fdopen(read) as info:
        text = info.read()
    group = json.loads(text)["child-pid"] if text else 0  # 0: it could not be made, and has said so

    inside = _opened(group)
    end = os.pidfd_open(sandbox.pid)
    poll = select.poll()
    poll.register(end, select.POLLIN)
    poll.register(signals, select.POLLIN)
    if parent:
        poll.register(front_end, select.POLLIN)
    gone = parent is not None and os.getppid() != int(parent)  # before there was a descriptor of it
    ready: list[int] = []
    while end not in ready:
        if gone or front_end in ready:
            sandbox.kill()  # --die-with-parent: and all that is in it
            break
        if signals in ready:
            for number in os.read(signals, 4096):
                if number == KILL:
                    sandbox.kill()
                elif group:
                    _send(group, number)
        ready = [descriptor for descriptor, _ in poll.poll()]
    status = sandbox.wait()
    if inside is not None:  # bubblewrap waits for the kernel, not for what that has left behind
        select.select([inside], [], [])
    if gone or select.select([front_end], [], [], 0)[0]:
        remove(directory)
    _end(status)


def remove(directory: str) -> None:
    """Remove the directory of a sandbox that has ended, whatever was made in it.

    Directories that can't be written to, or are nested deeper than Python's stack goes.
    """
    subprocess.run(["chmod", "-R", "u+rwx", directory], stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", directory], stderr=subprocess.DEVNULL)


def _opened(pid: int) -> int | None:
    """Return a descriptor of the first process in the sandbox: all others end before it has."""
    try:
        return os.pidfd_open(pid) if pid else None
    except ProcessLookupError:
        return None


def _send(group: int, number: int) -> None:
    """Send a signal to the kernel and its children; what leads the group takes none of these."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # it has ended: its status comes next


def _end(status: int) -> None:
    """End as the kernel did; bubblewrap has 128 + its number for a signal."""
    number = -status if status < 0 else status - 128
    if 0 < number < signal.NSIG:
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
