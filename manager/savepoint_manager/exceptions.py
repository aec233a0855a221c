"""Errors of the manager side; each says what happened, where, and what the user can do now."""

from __future__ import annotations


class NoAnswerError(Exception):
    """A cell asked for input in a headless run and there was no answer for it.

    The cell was interrupted, the run ended, and the notebook keeps every output made until then.

    Attributes:
        cell_index: position of the cell in the notebook, from 0.
        execution_count: how many cells ran up to this one; the number a front end shows.
        source: the source of the cell.
        prompt: what the cell asked.
        password: True if it asked through ``getpass()``.
    """

    def __init__(
        self,
        *,
        cell_index: int,
        execution_count: int,
        source: str,
        prompt: str,
        password: bool,
        way_out: str,
    ) -> None:
        """Describe the question nobody answered.

        Args:
            cell_index: position of the cell in the notebook, from 0.
            execution_count: how many cells ran up to this one.
            source: the source of the cell.
            prompt: what the cell asked.
            password: True if it asked through ``getpass()``.
            way_out: one sentence that says how to give the missing answer.
        """
        asked = "a password" if password else "input"
        first, *more = source.strip().splitlines() or [""]
        cell = f"{first} ..." if more else first
        super().__init__(
            f"Cell In [{execution_count}], which begins {cell!r}, asked for {asked} with the "
            f"prompt {prompt!r} and there is no answer for it. {way_out}"
        )
        self.cell_index = cell_index
        self.execution_count = execution_count
        self.source = source
        self.prompt = prompt
        self.password = password


class AnswersError(ValueError):
    """The answers given for a headless run can't be used, and no cell was run because of it."""


class RunInterrupted(Exception):
    """The run was stopped by SIGINT (Ctrl-C) or SIGTERM; its outputs so far are in the notebook."""


class KernelDied(RuntimeError):
    """A kernel ended while something was to be had from it. Its names are gone.

    Attributes:
        exit_code: exit status of its process; None if a signal ended it, or if it is not known.
        signal: name of the signal that killed it, such as "SIGKILL"; None if none did.
    """

    def __init__(self, what: str, exit_code: int | None, signal: str | None) -> None:
        """Say how the kernel ended.

        Args:
            what: such as "was killed by SIGKILL".
            exit_code: exit status of its process.
            signal: name of the signal that killed it.
        """
        super().__init__(f"The kernel {what}. session.reset() starts a fresh one.")
        self.exit_code = exit_code
        self.signal = signal


class KernelStartTimeout(TimeoutError):
    """A kernel was not ready within ``start_timeout`` seconds; it was killed."""


class SandboxUnavailable(RuntimeError):
    """A kernel that must be in a sandbox was not started, as there can be none."""

    def __init__(self, reason: str) -> None:
        """Say why, and what can be done."""
        super().__init__(
            f"{reason}. No kernel was started: choose a kernelspec without a sandbox, or see "
            "docs/sandbox.md, 'When it can't start'."
        )


class WarmupFailed(RuntimeError):
    """The warm-up of a new kernel failed, so that there is no session.

    Attributes:
        ename: name of the exception.
        evalue: its text.
        traceback: its lines, with ANSI colors.
    """

    def __init__(self, ename: str, evalue: str, traceback: tuple[str, ...]) -> None:
        """Say what was raised."""
        super().__init__(f"warmup_code or preload failed in the new kernel: {ename}: {evalue}")
        self.ename = ename
        self.evalue = evalue
        self.traceback = traceback


class PoolExhausted(Exception):
    """There was no session at once, and the caller did not want to wait.

    Attributes:
        max_sessions: how many there may be.
        in_use: how many were in use, or ending.
        waiting: how many callers waited for one.
        waited: seconds this one waited.
    """

    def __init__(self, max_sessions: int, in_use: int, waiting: int, waited: float) -> None:
        """Say the numbers."""
        super().__init__(
            f"No session after {waited:.1f} s: {in_use} of {max_sessions} are in use, {waiting} "
            "callers wait. Release sessions, or raise max_sessions or acquire_timeout."
        )
        self.max_sessions = max_sessions
        self.in_use = in_use
        self.waiting = waiting
        self.waited = waited


class AcquireTimeout(PoolExhausted, TimeoutError):
    """There was no session within ``acquire_timeout`` seconds."""


class PoolClosed(RuntimeError):
    """The pool was closed, or not opened yet."""


class LibPathNotFound(FileNotFoundError):
    """A directory named in ``lib_paths`` is not there; no kernel was started.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: str, *, exists: bool) -> None:
        """Name the path."""
        super().__init__(
            f"lib_paths: {path} {'is not a directory' if exists else 'does not exist'}"
        )
        self.path = path


class IllegalTransition(RuntimeError):
    """What was asked does not fit the state of the session."""

    def __init__(self, old: str, new: str) -> None:
        """Name the states."""
        super().__init__(f"A session that is {old} can't become {new}.")
        self.old = old
        self.new = new


class NoInputRequired(RuntimeError):
    """A session was given an answer that it does not wait for."""


class UnsupportedByKernel(RuntimeError):
    """The kernel can't do what was asked; the message says which kernel could."""


class RequestFailed(RuntimeError):
    """A kernel answered a request with an error that has no class of its own here.

    Attributes:
        ename: name of the error.
        evalue: its text.
    """

    def __init__(self, ename: str, evalue: str) -> None:
        """Say what the kernel said."""
        super().__init__(f"{ename}: {evalue}")
        self.ename = ename
        self.evalue = evalue


class EvaluationFailed(RuntimeError):
    """The code given to ``evaluate`` raised.

    Attributes:
        ename: name of the exception.
        evalue: its text.
        traceback: its lines, with ANSI colors.
        failure_kind: "exception", "interrupt" or "timeout".
    """

    def __init__(
        self, ename: str, evalue: str, traceback: tuple[str, ...], failure_kind: str
    ) -> None:
        """Say what was raised."""
        super().__init__(f"{ename}: {evalue}")
        self.ename = ename
        self.evalue = evalue
        self.traceback = traceback
        self.failure_kind = failure_kind


class NotJSON(TypeError):
    """The value of the code given to ``evaluate`` is no JSON data; the message says which part."""
