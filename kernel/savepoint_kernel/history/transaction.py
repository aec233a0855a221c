"""What becomes of a cell that ends, and transactions over several cells.

The words are SQL's. A policy says what happens when a cell ends; `Transactions` is for the user who
says when: begin, commit, rollback, and named savepoints inside. Savepoints nest like SQL's: a
rollback to one keeps it and ends those made after it; releasing one ends it and those made after
it, and undoes nothing.

Threads: the main thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ..exceptions import TransactionConflict
from .commit import Commit


class Policy(str, Enum):
    """What becomes of the effects of a cell."""

    COMMIT_ALWAYS = "commit_always"
    ROLLBACK_ON_FAILURE = "rollback_on_failure"
    ROLLBACK_ALWAYS = "rollback_always"
    EXPLICIT = "explicit"

    @property
    def may_roll_back(self) -> bool:
        """True if the end of a cell may undo it."""
        return self in {Policy.ROLLBACK_ON_FAILURE, Policy.ROLLBACK_ALWAYS}

    def undoes(self, failed: bool) -> bool:
        """Tell whether a cell that ended so is undone."""
        return self is Policy.ROLLBACK_ALWAYS or (self is Policy.ROLLBACK_ON_FAILURE and failed)


class Unsaved(str, Enum):
    """What becomes of a commit if a value can neither be saved nor made again."""

    WARN_DROP = "warn_drop"  # it is made, and names the value
    PICKLE_OR_ERROR = "pickle_or_error"  # it is made, and an error names the value
    HARD_ERROR = "hard_error"  # an error names the value, and there is no commit


POLICIES = [policy.value for policy in Policy]
ALIASES = {"commit_on_success": Policy.ROLLBACK_ON_FAILURE}


def policy_named(name: object) -> Policy:
    """Return the policy of this name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if isinstance(name, str):
        alias = ALIASES.get(name)
        if alias is not None:
            return alias
        if name in POLICIES:
            return Policy(name)
    raise ValueError(f"there is no transaction policy {name!r}; choose {', '.join(POLICIES)}")


@dataclass(slots=True)
class Transactions:
    """The transaction in progress, if there is one."""

    base: Commit | None = None
    """Where it began."""
    savepoints: list[tuple[str, Commit]] = field(default_factory=list)

    @property
    def in_progress(self) -> bool:
        """True between begin and commit or rollback."""
        return self.base is not None

    def begin(self, here: Commit) -> None:
        """Begin.

        Raises:
            TransactionConflict: one is in progress.
        """
        if self.in_progress:
            raise TransactionConflict(
                "there is already a transaction in progress; %commit or %rollback it first, "
                "or set a savepoint inside with %savepoint NAME"
            )
        self.base = here

    def end(self) -> None:
        """End.

        Raises:
            TransactionConflict: none is in progress.
        """
        self._in_progress()
        self.base = None
        self.savepoints.clear()

    def target(self, savepoint: str | None) -> Commit:
        """Return where a rollback leads.

        Args:
            savepoint: its name; None for where the transaction began.

        Raises:
            TransactionConflict: none is in progress, or there is no savepoint of this name.
        """
        base = self._in_progress()
        return base if savepoint is None else self.savepoints[self._index(savepoint)][1]

    def savepoint(self, name: str, here: Commit) -> None:
        """Set a savepoint; one of the same name is hidden until this one is released.

        Raises:
            TransactionConflict: no transaction is in progress.
        """
        self._in_progress()
        self.savepoints.append((name, here))

    def end_after(self, name: str) -> None:
        """End all savepoints after the one named.

        Raises:
            TransactionConflict: there is none of this name.
        """
        del self.savepoints[self._index(name) + 1 :]

    def release(self, name: str) -> None:
        """End a savepoint and those after it.

        Raises:
            TransactionConflict: there is none of this name.
        """
        del self.savepoints[self._index(name) :]

    def _in_progress(self) -> Commit:
        if self.base is None:
            raise TransactionConflict("there is no transaction in progress; %begin starts one")
        return self.base

    def _index(self, name: str) -> int:
        self._in_progress()
        for index in reversed(range(len(self.savepoints))):
            if self.savepoints[index][0] == name:
                return index
        names = ", ".join(known for known, _ in self.savepoints) or "none"
        raise TransactionConflict(f"savepoint {name!r} does not exist; there are: {names}")
