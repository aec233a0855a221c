"""Errors a user or a client can meet; named the same in Python, in ``ename`` and in REST codes."""

from __future__ import annotations


class ExecutionTimeout(KeyboardInterrupt):
    """A cell ran longer than its time limit.

    It derives from KeyboardInterrupt because that is how it reaches user code: the clock presses
    "interrupt". Code that cleans up on Ctrl-C (pools, progress bars, subprocess.run) does so, and a
    retry loop with ``except Exception`` does not swallow it.
    """


class InvalidRequest(ValueError):
    """A request carried metadata that cannot be honoured; the cell was not run."""


class SourceNotAvailable(OSError):
    """The source of an object is not known: it was not made by a cell or a file."""
