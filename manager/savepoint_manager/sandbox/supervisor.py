"""The process between a front end and a kernel in a sandbox: its signals and its end.

    python -I -S supervisor.py DIRECTORY bwrap ... python -m savepoint_kernel -f FILE

is what the front end takes for the kernel. A signal to its process group must reach the kernel, not
bubblewrap, which would end; the pid of the kernel is known by bubblewrap only. The kernel must end
with the front end, but the system's way (PR_SET_PDEATHSIG, --die-with-parent) would end it with the
front end's *thread* that started it; here is one thread only. Somebody must remove the session's
directory if the front end was killed. And the kernel gets pipes for its output, which is copied:
by /proc/self/fd it could read the terminal that the front end's goes to, and rewrite its log.

It runs outside of the sandbox, and does nothing with what comes from it but to pass it on.

Threads: one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence

if sys.platform != "win32":  # where this is imported, and no more
    import fcntl

KILL = getattr(signal, "SIGRTMIN", 0)
"""Ends the sandbox at once. SIGKILL does too, but then nobody waits until it has ended."""

FILTER = "calls"
"""File in a session's directory: a filter of system calls, empty if there is none."""

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGWINCH")


def main() -> None:
    """Start the sandbox, and stand for the kernel in it."""
    directory, command = sys.argv[1], sys.argv[2:]
    hold(directory)
    parent = os.environ.get("JPY_PARENT_PID")  # without it the kernel may outlive the front end
    os.environ["JPY_PARENT_PID"] = "1"  # in there; ipykernel watches no process 1
    front_end = os.pidfd_open(os.getppid())
    signals, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (KILL, *(getattr(signal, name) for name in _FORWARDED)):
        signal.signal(number, lambda number, frame: None)

    read, write = os.pipe()
    filtered, calls = filtering(directory)
    outputs = [_Output(target) for target in (1, 2)]
    # In a session of its own, else a signal to our group would end it.
    sandbox = subprocess.Popen(
        [command[0], "--info-fd", str(write), *filtered, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=outputs[0].given,
        stderr=outputs[1].given,
        pass_fds=[write, calls],
        start_new_session=True,
    )
    for descriptor in (write, calls, *(output.given for output in outputs)):
        os.close(descriptor)
    with os.fdopen(read) as info:
        text = info.read()
    group = json.loads(text)["child-pid"] if text else 0  # 0: it could not be made, and has said so

    inside = _opened(group)
    end = os.pidfd_open(sandbox.pid)
    watched = {end, signals, *([front_end] if parent else [])}
    # Before there was a descriptor of it.
    gone = parent is not None and os.getppid() != int(parent)
    while not gone and (end in watched or outputs):  # what it said last comes after its end
        ready = _ready(watched, outputs)
        outputs = _copied(outputs, ready)
        watched -= ready & {end}
        gone = front_end in ready
        if signals in ready:
            numbers = os.read(signals, 4096)
            if KILL in numbers:
                break
            if end in watched:
                for number in numbers:
                    _send(group, number)
    sandbox.kill()
    _kill(inside)  # --die-with-parent does, but not in a sandbox that is still being made
    status = sandbox.wait()
    if inside is not None:  # bubblewrap waits for the kernel, not for what that has left behind
        select.select([inside], [], [])
    while ready := _ready(set(), outputs, timeout=0):  # a front end may read no more
        outputs = _copied(outputs, ready)
    if gone or select.select([front_end], [], [], 0)[0]:
        remove(directory)
    _end(status)


class _Output:
    """What the kernel writes to one of its outputs, on the way to the front end's."""

    def __init__(self, target: int) -> None:
        self.source, self.given = os.pipe()
        self.target = target
        self.waiting = b""

    def copy(self) -> bool:
        """Read or write, whichever is next; False after all that there will be."""
        if not self.waiting:
            self.waiting = os.read(self.source, select.PIPE_BUF)  # can be written without waiting
            return bool(self.waiting)
        try:
            written = os.write(self.target, self.waiting)
        except OSError:  # nobody reads it any more, which is no reason for the kernel to stop
            written = len(self.waiting)
        self.waiting = self.waiting[written:]
        return True


def hold(directory: str) -> int:
    """Keep others from removing the directory of a sandbox; return the descriptor that does."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def filtering(directory: str) -> tuple[list[str], int]:
    """Return bubblewrap's options for the filter of system calls, and the descriptor they name."""
    descriptor = os.open(os.path.join(directory, FILTER), os.O_RDONLY)
    known = os.fstat(descriptor).st_size > 0
    return ["--seccomp", str(descriptor)] if known else [], descriptor


def remove(directory: str) -> None:
    """Remove the directory of a sandbox that has ended, whatever was made in it.

    Directories that can't be written to, or are nested deeper than Python's stack goes.
    """
    subprocess.run(["chmod", "-R", "u+rwx", directory], stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", directory], stderr=subprocess.DEVNULL)


def _ready(watched: set[int], outputs: Sequence[_Output], timeout: float | None = None) -> set[int]:
    """Wait for descriptors that are watched, and those that an output waits for."""
    sources = [output.source for output in outputs if not output.waiting]
    targets = [output.target for output in outputs if output.waiting]
    readable, writable, _ = select.select([*watched, *sources], targets, [], timeout)
    return {*readable, *writable}


def _copied(outputs: Sequence[_Output], ready: set[int]) -> list[_Output]:
    """Copy what can be without waiting; return the outputs that may have more."""
    return [
        output
        for output in outputs
        if (output.target if output.waiting else output.source) not in ready or output.copy()
    ]


def _opened(pid: int) -> int | None:
    """Return a descriptor of the first process in the sandbox: all others end before it has."""
    try:
        return os.pidfd_open(pid) if pid else None
    except ProcessLookupError:
        return None


def _kill(inside: int | None) -> None:
    """End the first process in the sandbox, and so all of them."""
    try:
        if inside is not None:
            signal.pidfd_send_signal(inside, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended


def _send(group: int, number: int) -> None:
    """Send a signal to the kernel and its children; what leads the group takes none of these."""
    try:
        if group:
            os.killpg(group, number)
    except ProcessLookupError:
        return  # it has ended: its status comes next


def _end(status: int) -> None:
    """End as the kernel did; bubblewrap has 128 + its number for a signal."""
    number = -status if status < 0 else status - 128
    stops = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    if number in signal.valid_signals() - stops:
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
