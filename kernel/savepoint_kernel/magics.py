"""Magics of this kernel: where code came from, and the ways through the timeline.

The same is to be had from Python (`api`) and by control requests (`requests`); errors there are
exceptions and error replies, here one line that says what to do. What is shown is displayed and not
returned: a result would be kept in Out, and a look at the timeline be a change of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from IPython.core.display_functions import display
from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class
from traitlets import TraitError

from .display import Change, Difference, ReferenceTable, TimelineTable
from .exceptions import (
    CheckpointNotFound,
    CorruptStore,
    QuotaExceeded,
    SourceNotAvailable,
    StoreLocked,
    TimelineNotAvailable,
    TransactionConflict,
    UnrestorableState,
    UntrustedStore,
)
from .history.commit import as_number
from .serialize.sources import REGISTRY
from .upkeep import Upkeep

if TYPE_CHECKING:
    from .history.commands import Commands
    from .history.timeline import Timeline

_EXPECTED = (
    CheckpointNotFound,
    CorruptStore,
    QuotaExceeded,
    TimelineNotAvailable,
    TransactionConflict,
    UnrestorableState,
    UntrustedStore,
    OSError,
    ValueError,
)


def without_transaction_line(lines: list[str]) -> list[str]:
    """Make a comment of the line ``%%transaction`` a cell begins with: the executor has read it.

    An input transformer. The line stays, so that line numbers are those of the cell.
    """
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if lines and lines[first].split()[:1] == ["%%transaction"]:
        before, line, rest = lines[:first], lines[first], lines[first + 1 :]
        if rest and rest[0].startswith("%%"):  # which has to be the first line then
            return [*rest, *before, "\n"]
        return [*before, f"# {line}", *rest]
    return lines


# So IPython leaves it out when it tells whether a cell is complete: as one that begins with a cell
# magic, it is once it ends in an empty line.
without_transaction_line.has_side_effects = True  # type: ignore[attr-defined]


@magics_class
class SourceMagics(Magics):  # type: ignore[misc]
    """``%source``."""

    @line_magic  # type: ignore[untyped-decorator]
    def source(self, line: str) -> None:
        """Show the source of a function or class, and which cell made it.

        Usage: ``%source NAME``, where NAME may be dotted.
        """
        name = line.strip()
        if not name:
            raise UsageError("%source needs the name of a function or class: %source NAME")
        info = self.shell._ofind(name)
        if not info.found:
            raise UsageError(f"%source: {name!r} is not defined")
        try:
            found = REGISTRY.source(info.obj)
        except SourceNotAvailable as error:
            raise UsageError(f"%source {name}: {error}") from None
        if found.cell is None:
            print(f"# {found.filename}, line {found.line}")
        else:
            cell_id = f", cell id {found.cell.cell_id}" if found.cell.cell_id else ""
            print(f"# In [{found.cell.execution_count}], line {found.line}{cell_id}")
        print(found.text, end="")


@contextmanager
def _usage(magic: str, *more: type[Exception]) -> Iterator[None]:
    expected: tuple[type[Exception], ...] = (*_EXPECTED, *more)
    try:
        yield
    except expected as error:
        raise UsageError(f"{magic}: {error}") from None


@magics_class
class TimelineMagics(Magics):  # type: ignore[misc]
    """``%timeline``, ``%undo`` and their like."""

    @property
    def _commands(self) -> Commands:
        commands: Commands = self.shell.kernel.commands
        return commands

    @property
    def _timeline(self) -> Timeline:
        timeline: Timeline = self.shell.kernel.savepoints.timeline
        return timeline

    @line_magic  # type: ignore[untyped-decorator]
    def timeline(self, line: str) -> None:
        """List the commits: what each cell changed.

        Usage: ``%timeline [N] [--all]``: the latest N (default 20; 0 for no limit); with ``--all``
        also those of cells that changed nothing.
        """
        words = line.split()
        everything = "--all" in words
        number = " ".join(word for word in words if word != "--all")
        count = _number(number, "%timeline", 20, least=0)
        with _usage("%timeline"):
            commands, head = self._commands, self._timeline.head
            commits = commands.log(count) if everything else commands.changes(count)
            display(TimelineTable(commits, head.number, commands.names()))

    @line_magic  # type: ignore[untyped-decorator]
    def undo(self, line: str) -> None:
        """Go back to before the latest cell that changed something.

        Usage: ``%undo [N]``: N cells.
        """
        count = _number(line, "%undo", 1, least=1)
        with _usage("%undo"):
            display(Change("Undone", self._commands.undo(count)))

    @line_magic  # type: ignore[untyped-decorator]
    def redo(self, line: str) -> None:
        """Go to where the latest ``%undo`` came from."""
        _nothing(line, "%redo")
        with _usage("%redo"):
            display(Change("Redone", self._commands.redo()))

    @line_magic  # type: ignore[untyped-decorator]
    def checkpoint(self, line: str) -> None:
        """Commit now, and give the commit a name.

        Usage: ``%checkpoint [NAME] [-m TEXT]``
        """
        words = _words(line, "%checkpoint")
        message = ""
        if "-m" in words:
            at = words.index("-m")
            message, words = " ".join(words[at + 1 :]), words[:at]
        if len(words) > 1:
            raise UsageError("%checkpoint takes one name: %checkpoint [NAME] [-m TEXT]")
        with _usage("%checkpoint"):
            commands = self._commands
            former = self._timeline.log.checkpoints.get(words[0]) if words else None
            commit = commands.checkpoint(words[0] if words else None, message)
            dropped = commands.dropped()
        named = f" {words[0]!r}" if words else ""
        moved = f" (it was commit {former.number})" if former else ""
        print(f"Checkpoint{named}: commit {commit.number}{moved}, {len(dropped)} not saved")
        for name, reason in dropped.items():
            print(f"  {name}: {reason}")
        error = self.shell.kernel.savepoints.store.error
        if error is not None:
            print(f"  not on disk yet: {error}")

    @line_magic  # type: ignore[untyped-decorator]
    def restore(self, line: str) -> None:
        """Go to a commit, or take some names from it.

        Usage: ``%restore [NAME | NUMBER] [names...]``. Without arguments: where the session was
        left by the process before this one.
        """
        words = _words(line, "%restore")
        with _usage("%restore"):
            restored = self._commands.restore(words[0] if words else None, words[1:])
        display(Change("Restored", restored))

    @line_magic  # type: ignore[untyped-decorator]
    def diff(self, line: str) -> None:
        """Compare two commits.

        Usage: ``%diff A [B]``, each a name or a number; without B, with the present state.
        """
        words = _words(line, "%diff")
        if not 1 <= len(words) <= 2:
            raise UsageError("%diff compares two commits: %diff A [B]")
        with _usage("%diff"):
            older, newer = words[0], words[1] if words[1:] else None
            lines = self._commands.diff(older, newer)
        display(Difference(older, newer or "now", lines))

    @line_magic  # type: ignore[untyped-decorator]
    def branch(self, line: str) -> None:
        """List the branches, or begin one here, or go to its end.

        Usage: ``%branch [NAME]``
        """
        words = _words(line, "%branch")
        if len(words) > 1:
            raise UsageError("%branch takes one name: %branch [NAME]")
        with _usage("%branch"):
            if words:
                restored = self._commands.switch(words[0])
                if restored is None:
                    print(f"Branch {words[0]!r} begins at commit {self._timeline.head.number}")
                else:
                    display(Change(f"On branch {words[0]!r}", restored))
                return
            for name, tip in self._commands.branches().items():
                here = "*" if name == self._timeline.branch else " "
                print(f"{here} {name}: commit {tip}")

    @line_magic  # type: ignore[untyped-decorator]
    def refs(self, line: str) -> None:
        """List what was put among the live references, and the names that are not saved."""
        _nothing(line, "%refs")
        with _usage("%refs"):
            dropped = self._commands.dropped()
            references = self._commands.references.references()
        if references:
            display(ReferenceTable(references))
        for name, reason in dropped.items():
            print(f"{name}: {reason}")
        if not dropped:
            print("All names are saved.")

    @line_magic  # type: ignore[untyped-decorator]
    def clear(self, line: str) -> None:
        """Delete the user's names; ``%undo`` brings them back.

        Usage: ``%clear [--keep-imports]``; what cells imported stays with that.
        """
        words = _words(line, "%clear")
        if words not in ([], ["--keep-imports"]):
            raise UsageError(
                "%clear takes no names: %clear [--keep-imports]. %reset_selective does"
            )
        removed = self._commands.clear(keep_imports=bool(words))
        back = "; %undo brings them back" if self.shell.kernel.savepoints.available else ""
        print(f"Names deleted: {len(removed)}{back}" if removed else "There was nothing to delete.")

    @line_magic  # type: ignore[untyped-decorator]
    def transaction(self, line: str) -> None:
        """Show or set what becomes of the effects of the cells from the next one on.

        Usage: ``%transaction [POLICY]``; as the first line of a cell, ``%%transaction [POLICY]``
        sets it for that cell (rollback_on_failure if none is named).
        """
        with _usage("%transaction"):
            if line.strip():
                self._commands.set_policy(line.strip())
        print(self.shell.kernel.savepoints.transaction)

    @line_magic  # type: ignore[untyped-decorator]
    def begin(self, line: str) -> None:
        """Begin a transaction that ``%commit`` or ``%rollback`` ends."""
        _nothing(line, "%begin")
        with _usage("%begin"):
            self._commands.begin()

    @line_magic  # type: ignore[untyped-decorator]
    def commit(self, line: str) -> None:
        """End the transaction and keep what it did."""
        _nothing(line, "%commit")
        with _usage("%commit"):
            self._commands.commit()

    @line_magic  # type: ignore[untyped-decorator]
    def rollback(self, line: str) -> None:
        """Undo the transaction and end it, or undo what came after a savepoint.

        Usage: ``%rollback [[to] SAVEPOINT]``
        """
        words = _words(line, "%rollback")
        to = words[:1] in (["to"], ["TO"])
        words = words[to:]
        if len(words) > 1 or (to and not words):
            raise UsageError("%rollback takes one savepoint or none: %rollback [[to] SAVEPOINT]")
        with _usage("%rollback"):
            restored = self._commands.rollback(words[0] if words else None)
        display(Change("Rolled back", restored))

    @line_magic  # type: ignore[untyped-decorator]
    def release(self, line: str) -> None:
        """Forget a savepoint and those after it, and keep what was done since.

        Usage: ``%release SAVEPOINT``
        """
        words = _words(line, "%release")
        if len(words) != 1:
            raise UsageError("%release takes one savepoint: %release SAVEPOINT")
        with _usage("%release"):
            self._commands.transactions.release(words[0])

    @line_magic  # type: ignore[untyped-decorator]
    def savepoint(self, line: str) -> None:
        """Set a savepoint in the transaction, or look after the store and its options.

        Usage: ``%savepoint NAME``, where NAME is none of:

        * ``status``: where the store is, how large, whether it can be written; limits and use
        * ``gc``: removes all commits but the ends of branches and the checkpoints
        * ``config [NAME [VALUE]]``: lists the options of this kernel, or sets one
        * ``sessions``: lists the sessions there are on disk
        * ``delete NAME [--yes]``: removes one that is not open
        * ``trust [DIRECTORY | SESSION] [--yes]``: shows a store that you have not signed, the one
          this kernel was refused by default, and signs it if you say so
        """
        words = _words(line, "%savepoint")
        upkeep = Upkeep(self.shell)
        with _usage("%savepoint", StoreLocked, TraitError):
            if upkeep.run(words):
                return
            if len(words) > 1:
                raise UsageError("%savepoint takes one name: %savepoint NAME")
            if not self._commands.transactions.in_progress:
                raise UsageError(
                    f"%savepoint {words[0]} would set a savepoint, and there is no transaction in "
                    f"progress: %begin starts one. What else there is: {', '.join(upkeep.names)}"
                )
            self._commands.savepoint(words[0])


def _words(line: str, magic: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f'{magic}: {error}; put quotes around quotes: "it\'s"') from None


def _nothing(line: str, magic: str) -> None:
    if line.strip():
        raise UsageError(f"{magic} takes no arguments, not {line.strip()!r}")


def _number(line: str, magic: str, default: int, *, least: int) -> int:
    text = line.strip()
    if not text:
        return default
    number = as_number(text)
    if number is None or number < least:
        raise UsageError(f"{magic} takes a number from {least} up, not {text!r}")
    return number
