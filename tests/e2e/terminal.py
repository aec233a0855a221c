"""A program in a real terminal: tmux draws the screen, the test types and reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .harness import PATIENCE

POLL = 0.05


class Terminal:
    """The only window of a tmux server of its own."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def tmux(self, *arguments: str) -> str:
        """Run a tmux command on this server and return what it prints."""
        command = ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def type(self, text: str) -> None:
        """Type a line and press Enter."""
        self.tmux("send-keys", "-l", text)
        self.press("Enter")

    def press(self, key: str) -> None:
        """Press one key by its tmux name, such as C-c."""
        self.tmux("send-keys", key)

    def screen(self) -> str:
        """Return the text on the screen and above it."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-")

    def wait(self, pattern: str, timeout: float = PATIENCE) -> None:
        """Wait until a line of the screen matches from its start.

        tmux has no event for "the screen shows", so this looks again and again.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout
        while not wanted.search(screen := self.screen()):
            if time.monotonic() > deadline:
                raise AssertionError(f"no {pattern!r} within {timeout} s on the screen:\n{screen}")
            time.sleep(POLL)

    def wait_closed(self, timeout: float = PATIENCE) -> None:
        """Wait until the program has ended, which ends the tmux server too."""
        deadline = time.monotonic() + timeout
        while self.is_open():
            if time.monotonic() > deadline:
                raise AssertionError(f"still open after {timeout} s:\n{self.screen()}")
            time.sleep(POLL)

    def is_open(self) -> bool:
        """Tell whether the program still runs."""
        command = ["tmux", "-L", self._socket, "has-session"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def terminal(command: list[str], cwd: Path) -> Iterator[Terminal]:
    """Run a command in a terminal of 120 by 40 characters."""
    assert shutil.which("tmux"), "The end-to-end tests need tmux."
    window = Terminal(f"savepoint-{uuid.uuid4().hex[:12]}")
    window.tmux("new-session", "-d", "-x", "120", "-y", "40", "-c", str(cwd), *command)
    try:
        yield window
    finally:
        if window.is_open():
            window.tmux("kill-server")
