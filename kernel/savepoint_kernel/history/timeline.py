"""The timeline: a commit after every cell, and ways back to any of them.

HEAD is the commit the namespace was last equal to. A checkout moves it; the next commit is a child
of it, on a branch of its own if HEAD has a child on this branch already.

    present      what the namespace is known to be, and what may have changed
    checkout     undo, restore and rollback: load what differs, then bind
    log, store   the commits

Threads: the main thread, between cells or in a cell that calls one of these methods.
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from ..exceptions import CheckpointNotFound, UnrestorableState
from ..serialize.pickler import dumps
from ..state.imager import Dropped, Group, measure, names_of, unsaved
from ..state.namespace import Uses
from ..state.process import Participants, ProcessState
from ..state.tracker import Look
from ..state.view import is_output
from .checkout import Base, Checkout, Restored
from .commit import CellInfo, Commit
from .log import MAIN, CommitLog
from .present import Present
from .store import Store
from .table import Table, TableWriter
from .transaction import Unsaved


@dataclass(frozen=True, slots=True)
class _Missed:
    """What no commit says, as making it failed: the next one does.

    Attributes:
        before: the names of the last commit there is.
        changed: those that may have changed since.
        process: what has of the process.
    """

    before: frozenset[str]
    changed: frozenset[str] = frozenset()
    process: Sequence[str] = ()


class Timeline:
    """The commits of one session.

    Args:
        present: the namespace, and the process around it.
        store: where commits go.
        hold: keeps interrupts back while the namespace, or what is known of it, is changed.

    Attributes:
        branch: that of the next commit.
    """

    def __init__(
        self, present: Present, store: Store, hold: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._present = present
        self._store = store
        self._hold = hold
        self._tables = TableWriter(store.put)
        self.log = CommitLog(store)
        self._checkout = Checkout(present, store, self.log, hold)
        self._undone: list[Commit] = []
        self._missed: _Missed | None = None
        self.branch = MAIN
        self._head: Commit | None = None
        self.commit("start", full=True)

    # -- what happened since the last commit

    def note_code(self, code: types.CodeType) -> None:
        """Take note of code of a cell that runs. Any thread."""
        self._present.note_code(code)

    def suspect_all(self, reason: str) -> None:
        """Take note that something ran that no analysis sees. Any thread."""
        self._present.suspect_all(reason)

    def note_modules(self) -> None:
        """Take note that a cell begins, which may import some."""
        self._present.note_modules()

    def suspect_references(self) -> None:
        """Take note that some may not be made again as the latest commit says."""
        self._present.suspect_references()

    @property
    def has_suspects(self) -> bool:
        """True if something ran that was not committed or rolled back."""
        return self._present.has_suspects

    @property
    def suspects_all(self) -> bool:
        """True if something ran that no analysis sees, so that the next look is at all names."""
        return self._present.suspects_all

    def forget_suspects(self) -> None:
        """Take note that all that ran is over, and committed or rolled back."""
        self._present.forget_suspects()

    def differs(self, name: str) -> bool:
        """Tell whether a co-variable is not as committed, though no code may have touched it."""
        present = self._present
        suspects = Uses(frozenset(), unsuspected=frozenset([name]))
        return present.tracker.look(present.view.read(), suspects, measure).changed

    # -- commits

    @property
    def participants(self) -> Participants:
        """What takes part in commits besides the namespace."""
        return self._present.participants

    @property
    def head(self) -> Commit:
        """The commit the namespace was last equal to."""
        assert self._head is not None
        return self._head

    @property
    def groups(self) -> Collection[Group]:
        """The co-variables of the namespace, as committed."""
        return self._present.tracker.groups

    @property
    def unsaved(self) -> dict[str, Dropped]:
        """The values that the latest commit neither has nor can have made again, by name."""
        return unsaved(self.groups)

    @property
    def saving(self) -> frozenset[str]:
        """The names being saved, or saved last."""
        return self._present.tracker.saving

    def commit(
        self,
        kind: str,
        cell: CellInfo | None = None,
        message: str = "",
        *,
        full: bool = False,
        only_changes: bool = False,
        policy: Unsaved = Unsaved.WARN_DROP,
    ) -> Commit | None:
        """Commit what has changed.

        Args:
            kind: see `Commit.kind`.
            cell: the cell that has ended.
            message: what the user says about it.
            full: look at every name.
            only_changes: make no commit if nothing has changed.
            policy: what to do if a value can't be saved.

        Raises:
            UnrestorableState: a value can't be saved, and the policy says so.
        """
        began = time.perf_counter()
        stored = self._store.stored_bytes
        present = self._present
        view = present.view.read()
        suspects = present.take_suspects(view, verify=full)
        look = present.tracker.look(view, suspects, self._store.put)
        if policy is Unsaved.HARD_ERROR:
            _require_saved(unsaved(look.seen), "nothing was committed")
        process = present.capture()
        tokens_changed = Participants.changed(present.process, process)
        process_changed = present.by_users(tokens_changed)
        ranks = present.ranked(view)
        reordered = ranks != present.ranks
        missed = self._missed or _Missed(present.tracker.names)
        before = missed.before
        process_changed = [*dict.fromkeys((*missed.process, *process_changed))]
        changes = names_of((*look.new, *look.gone)) - look.relinked
        changed = any(not is_output(name) for name in changes) or self._missed is not None
        if only_changes and not changed and not process_changed and not reordered:
            return None  # what a front end displays is no change to come back to
        # Of a library that was imported there is a state now, where there was none.
        old, new = present.process.tokens, process.tokens
        came = {name for name in new if new[name] is not None and old.get(name) is None}
        addresses = present.process_addresses
        if tokens_changed or came or process.names != addresses.keys():
            kept = process.names.difference(tokens_changed, came)
            addresses = self._store_process(process, kept)
        # An interrupt in between would leave a change that is known, and that no commit names.
        with self._hold():
            present.adopt(look)
            present.ranks, present.process = ranks, process
            present.process_addresses = addresses
            dropped = {
                name: str(reason)
                for group in self.groups
                if group.dropped
                for name, reason in group.dropped.items()
            }
            names_changed, touched = self._changes(look, dropped)
            names_changed |= missed.changed
            self._missed = _Missed(before, names_changed, process_changed)
            commit = Commit(
                number=self.log.next_number,
                parent=None if self._head is None else self._head.number,
                time=time.time(),
                branch=self.log.branch_after(self._head, self.branch),
                kind=kind,
                cell=cell,
                message=message,
                added=_ordered(view.keys() - before, view),
                changed=_ordered(names_changed & before & view.keys(), view),
                removed=tuple(sorted(before - view.keys())),
                touched=_ordered(touched & before & view.keys(), view),
                process_changed=tuple(process_changed),
                dropped=dropped,
                stored_bytes=0,
                ms=0.0,
                verified="touched" if look.defeat is None else "full",
                buckets=tuple(address.hex() for address in self._tables.write(self.groups, ranks)),
                process=addresses,
            )
            commit = replace(
                commit,
                stored_bytes=self._store.stored_bytes - stored,
                ms=round((time.perf_counter() - began) * 1000, 3),
            )
            self._add(commit)
            self._missed = None
            present.caches.note(commit.number, view)
        if policy is Unsaved.PICKLE_OR_ERROR:
            _require_saved(self.unsaved, f"commit {commit.number} was made without them")
        return commit

    def _changes(
        self, look: Look, dropped: Collection[str]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Return the names that have changed, and those not saved that may have."""
        changed = names_of(look.new) - look.relinked
        # Attributes of modules are looked at every time, whether or not something touches them.
        touched = look.touched.intersection(dropped) - self._present.view.attributes - changed
        if touched and self._present.stores:
            return changed | touched, frozenset()
        return changed, touched

    def _add(self, commit: Commit) -> None:
        self.log.add(commit)
        if _says_something(commit):
            self._undone.clear()
        self.branch = commit.branch
        self._head = commit

    def give_up(self) -> None:
        """Free what was stored for a commit that could not be made.

        Raises:
            CorruptStore: what other commits need can't be told.
            OSError: the disk fails.
        """
        self._store.abandon()
        self.store_again()
        self.log.remove(())

    def store_again(self) -> None:
        """Have the next commit store everything: pieces of earlier ones were lost."""
        self._present.forget_stored()
        self._tables = TableWriter(self._store.put)

    def _store_process(self, state: ProcessState, kept: Collection[str]) -> dict[str, str]:
        """Store the tokens; returns their addresses, empty where there is nothing to restore.

        Args:
            state: has the tokens.
            kept: the participants whose token is as it was.
        """
        known = self._present.process_addresses
        addresses = dict.fromkeys(state.errors, "") | {n: known[n] for n in kept if n in known}
        for name, token in state.tokens.items():
            if name in addresses:
                continue
            try:
                data, _ = dumps(token, self._present.view.namespace, in_band=True)
                addresses[name] = self._store.put(data).hex()
            except Exception:  # also if it is larger than a chunk; a restore names it
                addresses[name] = ""
        return addresses

    def begin_branch(self, name: str) -> None:
        """Let the next commits go on a branch of their own."""
        self.log.begin_branch(name, self.head)
        self.branch = name

    def spare(self, pinned: Collection[int]) -> list[Commit]:
        """Return the commits that nothing leads to but their number, oldest first.

        Args:
            pinned: numbers of commits that are needed for something else.
        """
        named = (*self.log.branches.values(), *self.log.checkpoints.values(), *self._undone)
        kept = {commit.number for commit in named} | {self.head.number, *pinned}
        if self.log.previous is not None:
            kept.add(self.log.previous.number)
        return [commit for commit in self.log.commits if commit.number not in kept]

    # -- ways back

    def undo(self, count: int = 1) -> Restored:
        """Go back ``count`` cells that changed something besides their output.

        Raises:
            CheckpointNotFound: there are not as many.
        """
        self.commit_outside()
        target: Commit | None = self.head
        left, changed = count, False
        while target is not None and left:
            changed |= _says_something(target)  # what was found after a cell counts as its own
            if changed and target.kind == "cell":
                left, changed = left - 1, False
            target = self.log.parent(target)
        if target is None:
            raise CheckpointNotFound(self._why_no_undo(count))
        undone, branch = [*self._undone, self.head], self.branch
        restored = self.checkout(target, strict=False)
        self._undone, self.branch = undone, branch
        return restored

    def _why_no_undo(self, count: int) -> str:
        what = f"there are no {count} cells to undo" if count > 1 else "there is nothing to undo"
        first = self.head
        while (parent := self.log.parent(first)) is not None:
            first = parent
        if first.parent is not None:
            return f"{what}: the commits before {first.number} were removed"
        if self.log.previous is not None:
            left = self.log.previous.number
            what += (
                f" in this process; %restore goes to where the one before left off, commit {left}"
            )
        return what

    def redo(self) -> Restored:
        """Go to where the latest undo came from.

        Raises:
            CheckpointNotFound: nothing was undone since the last commit.
        """
        self.commit_outside()
        if not self._undone:
            raise CheckpointNotFound(
                "there is nothing to redo: no undo since something changed. %restore NUMBER goes "
                "to any commit"
            )
        undone = self._undone[:-1]
        restored = self.checkout(self._undone[-1], strict=False)
        self._undone = undone
        return restored

    def is_of_before(self, commit: Commit) -> bool:
        """Tell whether another process made a commit."""
        return self._checkout.is_of_before(commit)

    def checkout(
        self, target: Commit, names: Iterable[str] | None = None, *, strict: bool = True
    ) -> Restored:
        """Make the namespace equal to a commit; see `Checkout.go`.

        What is not committed is lost: `commit_outside` comes first.
        """

        def arrive() -> None:
            self._head, self.branch = target, target.branch
            self._undone.clear()
            self.log.set_head(target)

        restored, differs = self._checkout.go(target, arrive, names, strict=strict)
        if differs:
            self.commit("outside")  # what it is now is no commit's yet
        return restored

    def prepare_rollback(self) -> Base:
        """Get ready to undo what comes next: commit what is outside, note which objects are which.

        Unlike a commit's, the state before a cell that is rolled back is that of the very objects.
        """
        if self.has_suspects:
            self.commit("outside", only_changes=True)
        present = self._present
        return Base(
            head=self.head,
            branch=self.branch,
            anchors=present.anchored(),
            ranks=present.ranks,
            process=present.process,
            process_addresses=present.process_addresses,
        )

    def roll_back(self, base: Base, *, over: bool) -> Restored:
        """Undo what happened since `prepare_rollback`; see `Checkout.roll_back`.

        Args:
            base: what that returned.
            over: whether all code that is noted has ended, and so is undone.
        """

        def arrive() -> None:
            self._head, self.branch = base.head, base.branch
            self._undone.clear()
            if over:  # what makes objects again comes later
                self.forget_suspects()

        return self._checkout.roll_back(base, self._head is not base.head, arrive)

    def table(self, commit: Commit) -> Table:
        """Return what a commit holds."""
        return self._checkout.table(commit)

    def load(self, group: Group) -> dict[str, Any]:
        """Make the saved values of a co-variable anew; nothing that exists is touched.

        Raises:
            UnrestorableState: that is not possible here.
        """
        return self._checkout.load(group)

    def commit_outside(self) -> None:
        """Keep what no commit has yet, so that a way back leads to it."""
        self.commit("outside", full=True, only_changes=True)


def _ordered(names: Collection[str], view: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in view if name in names) if names else ()


def _require_saved(lost: Mapping[str, Dropped], outcome: str) -> None:
    lost = {name: dropped for name, dropped in lost.items() if not is_output(name)}
    if lost:
        listed = "; ".join(f"{name}: {dropped}" for name, dropped in lost.items())
        raise UnrestorableState(
            f"these can't be saved, and {outcome}: {listed}. Delete them, or say how to make them "
            "again (savepoint.refs.put), or use warn_drop"
        )


def _says_something(commit: Commit) -> bool:
    names = (*commit.added, *commit.changed, *commit.removed)
    return bool(commit.process_changed) or any(not is_output(name) for name in names)
