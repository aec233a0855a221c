"""The process between front end and sandbox, at the moments that are hard to meet with a kernel."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import psutil

from savepoint_manager.sandbox import supervisor
from tests.manager.pool.harness import await_end, environ, until

from .harness import processes_of

BUBBLEWRAP = "exec bwrap --unshare-user --unshare-pid --die-with-parent --ro-bind / /"


def command_of(directory: Path, bubblewrap: str) -> list[str]:
    """Return what a front end would start, with another bubblewrap."""
    program = directory / "bwrap"
    program.write_text(f"#!/bin/sh\n{bubblewrap}")
    program.chmod(0o700)
    root = directory / "session"
    root.mkdir()
    (root / supervisor.FILTER).touch()
    return [sys.executable, "-I", "-S", supervisor.__file__, str(root), str(program)]


def test_sandbox_that_is_being_made_ends_with_the_front_end(tmp_path: Path) -> None:
    """Before its first process is told when to end: it waits for its outer one, which is gone."""
    never = tmp_path / "never"
    os.mkfifo(never)
    command = command_of(tmp_path, f'{BUBBLEWRAP} --userns-block-fd 9 "$@" sleep 600 9<>{never}')
    start = (
        "import os, subprocess, sys\n"
        "os.environ['JPY_PARENT_PID'] = str(os.getpid())\n"
        "subprocess.run(sys.argv[1:])\n"
    )
    front_end = subprocess.Popen([sys.executable, "-c", start, *command])

    def made() -> list[int] | None:
        found = psutil.Process(front_end.pid).children(recursive=True)
        return [process.pid for process in found] if len(found) == 3 else None

    pids = until(made, "a supervisor, bubblewrap, and its first process")
    front_end.kill()
    front_end.wait()
    for pid in pids:
        await_end(pid)
    assert not (tmp_path / "session").exists()


def test_sandbox_can_be_killed_though_nobody_reads_its_output(tmp_path: Path) -> None:
    command = command_of(tmp_path, f'{BUBBLEWRAP} "$@" yes')
    with subprocess.Popen(command, env=environ(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None

        def full() -> bool:
            waiting = fcntl.ioctl(process.stdout, termios.FIONREAD, struct.pack("i", 0))
            return struct.unpack("i", waiting)[0] >= 65536 - select.PIPE_BUF

        until(full, "a full pipe")
        pids = processes_of(process.pid)
        process.send_signal(supervisor.KILL)
        assert process.wait() == -signal.SIGKILL
        for pid in pids:
            await_end(pid)
