"""What a user may ask of the timeline: one method for each magic, request and function of the API.

Threads: the main thread, in a cell or between cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from traitlets.utils.importstring import import_item

from ..exceptions import CheckpointNotFound, UnrestorableState
from ..serialize.sources import REGISTRY
from ..state.view import is_output
from .savepoints import Savepoints
from .transaction import Transactions, Unsaved, policy_named

if TYPE_CHECKING:
    from ..state.imager import Group
    from ..state.liverefs import LiveReferences
    from .checkout import Restored
    from .commit import Commit
    from .imports import Imports
    from .timeline import Timeline

SHOWN = 1 << 20
"""Bytes of a saved value up to which `Commands.diff` loads it to show it."""

_NAME = re.compile(r"[^\W\d][\w.~ -]*")


class Commands:
    """The commands of one kernel.

    Args:
        savepoints: its timeline.
    """

    def __init__(self, savepoints: Savepoints) -> None:
        self._savepoints = savepoints
        self.transactions = Transactions()

    @property
    def _timeline(self) -> Timeline:
        return self._savepoints.timeline

    # -- looking

    def log(self, count: int = 0) -> Sequence[Commit]:
        """Return the latest ``count`` commits, oldest first; all for 0.

        Raises:
            ValueError: it is no such number.
        """
        return self._timeline.log.commits[-_whole(count, 0, "count") :]

    def changes(self, count: int = 0) -> Sequence[Commit]:
        """Return the latest commits that changed something, have a name, or are the present state.

        Args:
            count: how many; 0 for all.

        Raises:
            ValueError: it is no such number.
        """
        marked = {self._timeline.head.number, *self.names()}
        shown = [each for each in self.log() if each.has_changes or each.number in marked]
        return shown[-_whole(count, 0, "count") :]

    def names(self) -> dict[int, list[str]]:
        """Return the checkpoints' names by commit number."""
        names: dict[int, list[str]] = {}
        for name, commit in self._timeline.log.checkpoints.items():
            names.setdefault(commit.number, []).append(name)
        return names

    def dropped(self) -> dict[str, str]:
        """Return the names whose values are not saved, and why."""
        self._timeline.commit_outside()
        return {n: why for n, why in self._timeline.head.dropped.items() if not is_output(n)}

    def diff(self, first: str, second: str | None) -> list[tuple[str, str, str]]:
        """Compare two commits, or one with the present.

        Returns:
            Name, first value and second value of each name that is not the same in both.

        Raises:
            CheckpointNotFound: there is no such commit.
        """
        if second is None:
            self._timeline.commit_outside()
        older = self._timeline.log.find(first)
        newer = self._timeline.head if second is None else self._timeline.log.find(second)
        before, after = self._by_name(older), self._by_name(newer)
        differing = [
            name
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name) and not is_output(name)
        ]
        values: dict[int, dict[str, Any]] = {}
        rows = [self._row(name, before, after, values) for name in differing]
        return [row for row in rows if row is not None]

    def _by_name(self, commit: Commit) -> dict[str, Group]:
        table = self._timeline.table(commit)
        return {name: group for group in table.groups for name in group.all_names}

    def _row(
        self,
        name: str,
        before: dict[str, Group],
        after: dict[str, Group],
        values: dict[int, dict[str, Any]],
    ) -> tuple[str, str, str] | None:
        """Describe the values of a name; None if its own is the same in both.

        Co-variables change together, and not all of their names need have another value.
        """
        words = import_item(f"{__package__}.difference")  # brings the pickler, which takes long
        groups = before.get(name), after.get(name)
        first, second = (self._unshowable(name, group, values) for group in groups)
        if first is None and second is None:
            older, newer = (values[id(group)][name] for group in groups if group is not None)
            shown = words.difference(older, newer, self._savepoints.view.namespace)
            return None if shown is None else (name, *shown)
        texts = [
            text if text is not None else words.describe(values[id(group)][name])
            for text, group in zip((first, second), groups, strict=True)
        ]
        return name, texts[0], texts[1]

    def _unshowable(
        self, name: str, group: Group | None, values: dict[int, dict[str, Any]]
    ) -> str | None:
        """Load a co-variable into ``values``; returns what to say if that can't be."""
        if group is None:
            return ""
        if name in group.dropped:
            return f"<a {group.dropped[name].type}, not saved>"
        assert group.image is not None
        if group.image.size > SHOWN:
            return f"<{group.image.size / 1e6:.1f} MB>"
        if id(group) not in values:
            try:
                values[id(group)] = self._timeline.load(group)
            except UnrestorableState as error:
                return f"<{error}>"
        return None

    def collect(self) -> tuple[int, int]:
        """Remove every commit but the ends of branches, checkpoints and what undo and redo need.

        Returns:
            How many, and the bytes freed on disk.
        """
        spare = self._timeline.spare(self._savepoints.pinned)
        return len(spare), self._timeline.log.remove(spare)

    def status(self) -> dict[str, str]:
        """Return where the timeline is, how large it is, and whether it can be written."""
        timeline, stats = self._timeline, self._savepoints.store.stats()
        return {
            "commit": f"{timeline.head.number} on {timeline.branch}",
            "commits": str(len(timeline.log.commits)),
            "policy": self._savepoints.transaction,
            "transaction": "in progress" if self.transactions.in_progress else "none",
            "store": str(self._savepoints.location),
            "durability": self._savepoints.durability,
            "pages": "watched" if self._savepoints.tracks_pages else "hashed",
            "on disk": f"{stats.disk_bytes / 1e6:.3f} MB",
            "writing": str(self._savepoints.store.error or "works"),
        }

    # -- going

    def undo(self, count: int = 1) -> Restored:
        """Go back; see `Timeline.undo`.

        Raises:
            ValueError: ``count`` is no whole number from 1 up.
        """
        _whole(count, 1, "the number of cells")
        self._savepoints.navigated = True
        return self._timeline.undo(count)

    def redo(self) -> Restored:
        """Go to where the latest undo came from; see `Timeline.redo`."""
        self._savepoints.navigated = True
        return self._timeline.redo()

    def restore(self, wanted: str | None, names: Sequence[str] = ()) -> Restored:
        """Go to a commit, or take some names from it.

        Args:
            wanted: its name or number; None for where the process before this one left off.
            names: take only these.

        Raises:
            CheckpointNotFound: there is no such commit or name.
            TypeError: a name is no string.
            UnrestorableState: a value can't be loaded; nothing was changed.
        """
        for name in names:
            _string(name, "a name to restore")
        timeline = self._timeline
        target = timeline.log.previous if wanted is None else timeline.log.find(wanted)
        if target is None:
            raise CheckpointNotFound("no process before this one has left a state of this session")
        timeline.commit_outside()
        if not names:
            self._savepoints.navigated = True
        # Of another process, as much as can be had: the report says what is missing.
        return timeline.checkout(target, names or None, strict=not timeline.is_of_before(target))

    def switch(self, name: str) -> Restored | None:
        """Go to the end of a branch, or begin one here.

        Returns:
            What going there did; None if one begins.

        Raises:
            ValueError: it can't be a name.
        """
        timeline = self._timeline
        tip = timeline.log.branches.get(_checked(name))
        self._timeline.commit_outside()
        if tip is None:
            timeline.begin_branch(name)
            return None
        self._savepoints.navigated = True
        return timeline.checkout(tip, strict=not timeline.is_of_before(tip))

    def branches(self) -> dict[str, int]:
        """Return the number of the newest commit of each branch, that one included we are on."""
        tips = {name: tip.number for name, tip in self._timeline.log.branches.items()}
        return {self._timeline.branch: self._timeline.head.number} | tips

    def checkpoint(self, name: str | None, message: str = "", policy: str = "warn_drop") -> Commit:
        """Commit now, after a look at every name, and name the commit.

        Args:
            name: what to call it; None for no name.
            message: what to say about it.
            policy: what to do if a value can't be saved, nor made again: "warn_drop" reports it;
                "pickle_or_error" raises, after a commit without a name; "hard_error" raises, and
                nothing is committed.

        Raises:
            TypeError: name or message is no string.
            UnrestorableState: a value can't be saved, and ``policy`` is not "warn_drop".
            ValueError: no such policy, or the name can't be one.
        """
        _string(message, "the message")
        policies = [known.value for known in Unsaved]
        if policy not in policies:
            raise ValueError(f"policy {policy!r}: choose {', '.join(policies)}")
        if name is not None:
            _checked(name)
        commit = self._timeline.commit(
            "checkpoint", message=message, full=True, policy=Unsaved(policy)
        )
        assert commit is not None
        if name is not None:
            self._timeline.log.name(name, commit)
        return commit

    def clear(self, keep_imports: bool = False) -> list[str]:
        """Delete the user's names; returns them.

        Args:
            keep_imports: keep those that cells imported.
        """
        namespace = self._savepoints.view.namespace
        kept: Imports | None = None
        if keep_imports:
            imports = import_item(f"{__package__}.imports.Imports")
            kept = imports(self._cells(), self._savepoints.transform)
        gone = [
            name
            for name, value in self._savepoints.view.read().items()
            if name in namespace
            and not is_output(name)
            and not (name.startswith("__") and name.endswith("__"))  # not the user's
            and not (kept is not None and kept.include(name, value))
        ]
        for name in gone:
            del namespace[name]
        return gone

    def _cells(self) -> list[str]:
        """Return the text of the cells that this process ran, and of those in earlier commits."""
        texts = REGISTRY.texts
        if self._savepoints.available:
            timeline = self._timeline
            before = filter(timeline.is_of_before, timeline.log.commits)
            texts += [commit.cell.text for commit in before if commit.cell is not None]
        return texts

    # -- live references

    @property
    def references(self) -> LiveReferences:
        """The objects that are not saved."""
        return self._savepoints.live_references

    def put(self, obj: Any, name: str, recreate: Callable[[], Any] | None) -> str:
        """Hold an object; see `LiveReferences.put`. The cell's commit says how it is made again."""
        key = self.references.put(obj, name, recreate)
        self._timeline.suspect_references()
        return key

    def remove(self, key: str) -> None:
        """Let an object go; see `LiveReferences.remove`. Commits made so far make it again."""
        self.references.remove(key)
        self._timeline.suspect_references()

    # -- transactions

    def set_policy(self, name: str) -> None:
        """Set the policy of the cells to come.

        Raises:
            TimelineNotAvailable: there is nothing to roll back with.
            ValueError: there is no such policy.
        """
        policy = policy_named(name)
        if policy.may_roll_back:
            assert self._timeline is not None
        self._savepoints.transaction = policy.value

    def begin(self) -> None:
        """Begin a transaction.

        Raises:
            TransactionConflict: one is in progress.
        """
        here = self._here()
        self.transactions.begin(here)
        self._savepoints.pinned.add(here.number)

    def commit(self) -> None:
        """End the transaction and keep what it did.

        Raises:
            TransactionConflict: none is in progress.
        """
        self.transactions.end()
        self._savepoints.pinned.clear()

    def rollback(self, savepoint: str | None = None) -> Restored:
        """Undo the transaction and end it, or undo what came after a savepoint.

        Raises:
            TransactionConflict: there is no transaction, or no such savepoint.
            UnrestorableState: a value can't be loaded; nothing was changed, and nothing has ended.
        """
        target = self.transactions.target(savepoint)
        self._timeline.commit_outside()
        self._savepoints.navigated = True
        restored = self._timeline.checkout(target)
        if savepoint is None:
            self.commit()
        else:
            self.transactions.end_after(savepoint)
        return restored

    def savepoint(self, name: str) -> None:
        """Set a savepoint.

        Raises:
            TransactionConflict: no transaction is in progress.
            ValueError: it can't be a name.
        """
        here = self._here()
        self.transactions.savepoint(_checked(name), here)
        self._savepoints.pinned.add(here.number)

    @contextmanager
    def block(self) -> Iterator[None]:
        """Roll back what the block did if it raises, KeyboardInterrupt included."""
        self._timeline.commit_outside()
        base = self._timeline.prepare_rollback()
        try:
            yield
        except BaseException:
            self._timeline.roll_back(base, over=False)
            raise

    def _here(self) -> Commit:
        self._timeline.commit_outside()
        return self._timeline.head


def _checked(name: str) -> str:
    if not _NAME.fullmatch(_string(name, "the name")):
        raise ValueError(
            f"{name!r} can't be a name: it begins with a letter, as numbers are commits', and goes "
            "on with letters, digits, spaces and any of _ . ~ -"
        )
    return name


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {value!r}")
    return value


def _whole(value: Any, least: int, what: str) -> int:
    if type(value) is not int:
        raise TypeError(f"{what} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{what} must be at least {least}, not {value}")
    return value
