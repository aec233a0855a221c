"""``%savepoint``: what there is to look after besides the timeline itself.

    %savepoint status                        where the store is, how large; limits and use
    %savepoint gc                            remove what has no name
    %savepoint config [NAME [VALUE]]         the options of this kernel
    %savepoint sessions                      those in the directory
    %savepoint delete NAME [--yes]           one of them
    %savepoint trust [DIRECTORY] [--yes]     the store of someone else

What deletes or trusts a store asks first, or wants ``--yes`` where nobody can be asked.

Threads: that of the cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from IPython.core.display_functions import display
from IPython.core.error import StdinNotImplementedError, UsageError
from traitlets import TraitType

from .display import Option, OptionTable, SessionTable, Status, StoreContents
from .history.options import only_at_start

_YES = "--yes"


class Upkeep:
    """The commands of one shell.

    Args:
        shell: the shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._actions: dict[str, tuple[Callable[..., None], int, str]] = {
            "status": (self.status, 0, ""),
            "gc": (self.collect, 0, ""),
            "config": (self.configure, 2, "[NAME [VALUE]]"),
            "sessions": (self.sessions, 0, ""),
            "delete": (self.delete, 1, f"NAME [{_YES}]"),
            "trust": (self.trust, 1, f"[DIRECTORY | SESSION] [{_YES}]"),
        }

    @property
    def names(self) -> Sequence[str]:
        """The words after ``%savepoint`` that are no name of a savepoint."""
        return [*self._actions]

    def run(self, words: Sequence[str]) -> bool:
        """Do what the words after ``%savepoint`` say; returns False if they are no command.

        Raises:
            UsageError: the command takes other arguments.
        """
        name, *arguments = words or ["status"]
        if name not in self._actions:
            return False
        action, most, usage = self._actions[name]
        yes = {"yes": True} if _YES in usage and _YES in arguments else {}
        if yes:
            arguments.remove(_YES)
        if len(arguments) > most or (name == "delete" and not arguments):
            raise UsageError(f"usage: %savepoint {name} {usage}".rstrip())
        action(*arguments, **yes)
        return True

    @property
    def _savepoints(self) -> Any:
        return self._shell.kernel.savepoints

    def status(self) -> None:
        """Show where the timeline is, and what is used of what may be."""
        kernel = self._shell.kernel
        display(Status({**kernel.commands.status(), **kernel.limits.describe()}))

    def collect(self) -> None:
        """Remove commits that have no name."""
        removed, freed = self._shell.kernel.commands.collect()
        print(f"{removed} commits removed, {freed / 1e6:.1f} MB freed")

    # -- options

    def configure(self, name: str | None = None, value: str | None = None) -> None:
        """Show the options, or set one.

        Raises:
            ValueError: there is none of this name, it can't be set now, or not to this value.
            TraitError: likewise.
        """
        traits: dict[str, TraitType[Any, Any]] = self._savepoints.traits(config=True)
        if name is not None and name not in traits:
            raise ValueError(f"there is no option {name!r}; there are {', '.join(sorted(traits))}")
        if name is None or value is None:
            shown = sorted(traits) if name is None else [name]
            display(OptionTable([self._option(each, traits[each]) for each in shown]))
            return
        converted = traits[name].from_string(value)
        if traits[name].metadata.get("at_start"):
            raise ValueError(only_at_start(name, converted))
        setattr(self._savepoints, name, converted)
        print(f"Savepoints.{name} = {getattr(self._savepoints, name)!r}, in this kernel")

    def _option(self, name: str, trait: TraitType[Any, Any]) -> Option:
        first, _, _ = " ".join(trait.help.split()).partition(". ")
        at_start = bool(trait.metadata.get("at_start"))
        return Option(name, getattr(self._savepoints, name), f"{first.rstrip('.')}.", at_start)

    # -- stores

    def sessions(self) -> None:
        """List the sessions."""
        sessions = self._savepoints.sessions
        own = sessions.own
        with suppress(OSError):  # which `status` shows
            self._savepoints.flush()
        display(SessionTable(sessions.all(), own and own.name, str(sessions.root)))

    def delete(self, name: str, yes: bool = False) -> None:
        """Remove a session.

        Raises:
            CheckpointNotFound: there is none of this name.
            StoreLocked: it is open.
            OSError: it can't be removed.
        """
        sessions = self._savepoints.sessions
        found = [session for session in sessions.all() if session.name == name]
        if not found:
            sessions.find(name)
        display(SessionTable(found))
        if self._agreed("Delete this session for good?", yes):
            sessions.delete(name)
            print(f"Session {name} is deleted")

    def trust(self, wanted: str | None = None, yes: bool = False) -> None:
        """Show what is in a store, and sign it.

        Raises:
            CheckpointNotFound: there is no such store.
            StoreLocked: a kernel has it open.
            UntrustedStore: it has changed since it was shown.
            CorruptStore: its format file is damaged.
            OSError: it can't be read or written.
        """
        sessions = self._savepoints.sessions
        contents = sessions.look(wanted)
        display(StoreContents(contents))
        if not contents.foreign:
            print("All its commits are signed by you: there is nothing to trust")
            return
        question = "Trust it? Unpickling runs code, and what you trust will be unpickled."
        if not self._agreed(question, yes):
            return
        report = sessions.trust(contents)
        print(f"{len(report.signed)} commits are signed by you now. {self._way_to(contents)}")
        for commit, reason in report.removed.items():
            print(f"Commit {commit.hex()[:12]} was not whole and is removed: {reason}")
        for note in report.notes:
            print(note)

    def _way_to(self, contents: Any) -> str:
        sessions, place = self._savepoints.sessions, contents.directory
        with suppress(OSError):
            if sessions.refused is not None and place.samefile(sessions.refused):
                return "The next start of this kernel uses it"
            if place.parent.samefile(sessions.root):
                return f"A kernel with --Savepoints.session={place.name} uses it"
        return (
            f"A kernel with --Savepoints.directory={place.parent} "
            f"--Savepoints.session={place.name} uses it"
        )

    def _agreed(self, question: str, yes: bool) -> bool:
        """Ask.

        Raises:
            UsageError: nobody can be asked.
        """
        if yes:
            return True
        try:
            answer = self._shell.kernel.raw_input(f"{question} (yes/no) ")
        except StdinNotImplementedError:
            raise UsageError(f"{question} Nobody can be asked here: add {_YES}") from None
        if answer.strip().lower() in {"y", "yes"}:
            return True
        print("Nothing was done")
        return False
