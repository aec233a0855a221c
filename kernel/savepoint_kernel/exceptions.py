"""Errors a user or a client can meet; named the same in Python, in ``ename`` and in REST codes."""

from __future__ import annotations


class ExecutionTimeout(KeyboardInterrupt):
    """A cell ran longer than its time limit.

    It derives from KeyboardInterrupt because that is how it reaches user code: the clock presses
    "interrupt". Code that cleans up on Ctrl-C (pools, progress bars, subprocess.run) does so, and a
    retry loop with ``except Exception`` does not swallow it.
    """


class LimitExceeded(KeyboardInterrupt):
    """A cell was interrupted because the kernel passed one of its limits (``Limits``).

    It derives from KeyboardInterrupt for the same reasons.
    """


class MemoryLimitExceeded(LimitExceeded):
    """The kernel and its child processes use more memory than they may."""


class CpuLimitExceeded(LimitExceeded):
    """The kernel has used the CPU time it may; it ends."""


class ProcessLimitExceeded(LimitExceeded):
    """The kernel has more child processes than it may; the newest ones were killed."""


class LimitTooLow(ValueError):
    """A limit leaves no room for the kernel itself; it was not started."""


class InvalidRequest(ValueError):
    """A request carried metadata that cannot be honoured; the cell was not run."""


class SourceNotAvailable(OSError):
    """The source of an object is not known: it was not made by a cell or a file."""


class UnrestorableState(RuntimeError):
    """A saved object can't be made again in this process; the others can."""


class CorruptStore(RuntimeError):
    """Stored bytes are not those that were written; other checkpoints may be whole."""


class UntrustedStore(RuntimeError):
    """A store holds commits that this user did not sign; loading them would run their code."""


class StoreLocked(RuntimeError):
    """A store is in use by another kernel."""


class QuotaExceeded(RuntimeError):
    """One commit needs more bytes than the store may ever hold."""


class CheckpointNotFound(LookupError):
    """The store has no commit, or no chunk, of this name."""


class DroppedReferenceError(RuntimeError):
    """A name stands for something that could not be saved, and is not there after a restore."""


class ReferencesFull(RuntimeError):
    """There are as many live references as there may be (``Savepoints.references``)."""


class TimelineNotAvailable(RuntimeError):
    """Cells are not committed: it is switched off, or the store can't be had."""


class TransactionConflict(RuntimeError):
    """A transaction command does not fit the state of the transaction."""


class SavingTimeout(TimeoutError):
    """A value was not saved, as that took too long; others are not affected."""


class NotPicklable(TypeError):
    """An object can't be saved so that it comes back as what it is; others are not affected."""
