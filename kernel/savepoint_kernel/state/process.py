"""The process around the namespace: current directory, environment, generators, settings.

None of it hangs below a name, so no fingerprint of the namespace sees it. Each kind of state is a
`Participant`; `Participants` calls them all. `interpreter` and `libraries` have the built-in ones.

In this process a state comes back as it was. In another one (a new kernel, another machine, another
Python) the environment, `sys.path` and the like are that process's own to begin with, and only what
the session changed is put on top: ``PATH`` and the standard library stay those of the interpreter
that restores, and a store does not get a copy of every variable.

Not covered, as it can't be read or can't be put back: the umask (reading it means setting it, which
other threads would see), resource limits, signal handlers, `os.putenv` past `os.environ`, open
files and sockets, threads, and what C libraries keep to themselves.

What an import changed goes with the rest (a warning filter, an environment variable), although the
module stays imported and won't do it again: it can't be told from what the user changed.

Threads: everything here belongs to the thread that runs the cells, between cells, and to the
context (`contextvars`) they run in: the decimal context is per thread and per context.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class Participant(Protocol):
    """One kind of process state that joins in every commit and rollback.

    The contract is that of a data manager of Zope's `transaction`, with savepoints only. A
    participant joins by `Participants.register` and is then called like this:

    1. `capture` before a cell: a savepoint.
    2. `capture` after it: tokens that differ are what the cell changed.
    3. On a rollback: `capture` once more and, if that differs from the token, `restore`.

    Participants are called in the order in which they joined, in restores too: yours come after
    those for the current directory and the environment, and may rely on them. One thread calls
    them all, never two at a time.

    Attributes:
        name: what reports call it. Unique, and the same in every process.
    """

    name: str

    def capture(self) -> Any:
        """Return a token of the state as it is, or None if there is no such state yet.

        Runs at every cell: cheap, and without changing anything. A token is a value: it does not
        follow later changes, it compares with ``==``, and it can be pickled.

        May fail: the state then has no token of this participant, but the reason.
        """

    def restore(self, token: Any) -> None:
        """Roll back to a token, which stays valid: it may be restored again, in any order.

        Or in another process, where what the token speaks of may be missing. None means that there
        was no such state then, and now there is: make it what it is at first.

        Should never fail. If it does, the state of this participant is not expected to be
        consistent; the failure is reported, and the others are restored all the same.
        """


class Failure(NamedTuple):
    """A participant that could not be restored, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What the participants captured at one moment.

    Attributes:
        tokens: by participant name. They can be pickled one by one.
        errors: why a participant has no token, by name.
    """

    tokens: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """The participants that took part."""
        return {*self.tokens, *self.errors}

    def knows(self, name: str) -> bool:
        """Tell whether the participant took part, with a token or an error."""
        return name in self.tokens or name in self.errors

    def agrees(self, other: ProcessState, name: str) -> bool:
        """Tell whether the participant reported the same in both."""
        if name in self.tokens and name in other.tokens:
            try:
                return bool(self.tokens[name] == other.tokens[name])
            except Exception:  # tokens that can't be compared, such as arrays
                return False
        return name in self.errors and self.errors.get(name) == other.errors.get(name)


class Participants:
    """The participants of this process, in the order of their calls.

    Args:
        participants: the first to register.
    """

    def __init__(self, participants: Iterable[Participant] = ()) -> None:
        self._participants: dict[str, Participant] = {}
        self._built_in: frozenset[str] = frozenset()
        for participant in participants:
            self.register(participant)
        self._built_in = frozenset(self._participants)

    def register(self, participant: Participant) -> None:
        """Let a participant join, after those that are there, or in place of one of its name.

        Raises:
            TypeError: it lacks ``name``, ``capture`` or ``restore``, or is a class.
            ValueError: one of the first has this name.
        """
        # A class has the attributes as well, and would fail at every cell.
        if isinstance(participant, type) or not isinstance(participant, Participant):
            raise TypeError(f"{participant!r} is no object with name, capture and restore")
        if participant.name in self._built_in:
            raise ValueError(f"{participant.name!r} is the kernel's own: take another name")
        self._participants[participant.name] = participant

    def unregister(self, name: str) -> None:
        """Let a participant leave.

        Raises:
            KeyError: there is none of this name.
        """
        if name not in self._participants:
            raise KeyError(f"no participant is named {name!r}")
        del self._participants[name]

    def capture(self) -> ProcessState:
        """Capture all participants."""
        return self._capture(self._participants.values())

    @staticmethod
    def _capture(participants: Iterable[Participant]) -> ProcessState:
        tokens: dict[str, Any] = {}
        errors: dict[str, str] = {}
        for participant in participants:
            try:
                tokens[participant.name] = participant.capture()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                errors[participant.name] = _reason(error)
        return ProcessState(tokens, errors)

    @staticmethod
    def changed(before: ProcessState, after: ProcessState) -> list[str]:
        """Name the participants that reported something before, and something else after.

        What came into being in between is not named: that would name every library at its import.
        """
        had = (name for name, token in before.tokens.items() if token is not None)
        both = [name for name in (*had, *before.errors) if after.knows(name)]
        return [name for name in both if not before.agrees(after, name)]

    def restore(self, state: ProcessState) -> list[Failure]:
        """Bring back a state, as far as it differs from the present.

        A participant that joined after the capture is left alone. Restoring twice is harmless.

        Returns:
            Those that are not as in the state, and why.

        Raises:
            KeyboardInterrupt: the rest was not restored. Hold interrupts back.
        """
        failures = []
        for name, participant in list(self._participants.items()):
            if not state.knows(name) or state.agrees(self._capture([participant]), name):
                continue
            if name in state.errors:
                failures.append(Failure(name, f"it could not be captured: {state.errors[name]}"))
                continue
            try:
                participant.restore(state.tokens[name])
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                failures.append(Failure(name, _reason(error)))
        for name, token in state.tokens.items():
            if token is not None and name not in self._participants:
                failures.append(Failure(name, "no participant of this name is registered"))
        return failures


def _reason(error: BaseException) -> str:
    # Not str(error), which may raise again.
    return "".join(traceback.format_exception_only(error)).strip()
