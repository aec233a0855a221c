"""The timeline: a commit after every cell, and ways back to any of them.

    cell --> `Timeline.note_code` --> `Timeline.commit` --> look, store what is new, one commit
    undo, redo, restore --> `Timeline.checkout` --> load what differs, then bind: all or nothing

HEAD is the commit the namespace was last equal to. A checkout moves it; the next commit is a child
of it, on a branch of its own if HEAD has a child on this branch already.

What ran outside cells (widget callbacks, threads, tasks) is not analysed: it makes every name
suspect (`suspect_all`), and the next look finds what it did.

Threads: the main thread, between cells or in a cell that calls one of these methods.
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from ..exceptions import CheckpointNotFound, UnrestorableState
from ..serialize.pickler import dumps
from ..serialize.portable import loads
from ..state.imager import Dropped, Group, measure, names_of, unsaved
from ..state.inplace import Anchors, anchor
from ..state.liverefs import DroppedReference, LiveReferences, what_was_dropped
from ..state.namespace import Uses
from ..state.pairing import Past, refillable
from ..state.process import Failure, Participants, ProcessState
from ..state.tracker import Look, Tracker
from ..state.view import LAST_RESULTS, NamespaceView, is_attribute, is_output, is_variable
from .commit import CellInfo, Commit
from .log import MAIN, CommitLog
from .patch import Live
from .staging import Staging, load, same_object
from .store import Store
from .table import Table, TableWriter
from .table import read as read_table
from .transaction import Unsaved


@dataclass(frozen=True, slots=True)
class Restored:
    """What a checkout did.

    Attributes:
        commit: the commit whose state it is now.
        changed: names that are bound, or bound to something else, than before.
        removed: names that were unbound.
        unrestorable: why names or process state are not as in the commit.
        recreated: names bound to an object that the user's ``recreate`` made in place of theirs.
    """

    commit: Commit
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unrestorable: Mapping[str, str]
    recreated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Base:
    """The state that a rollback goes back to.

    Attributes:
        head: its commit.
        branch: the branch it was on.
        anchors: its co-variables, and the objects they were made of.
        ranks: of its names.
        process: the state of the process.
    """

    head: Commit
    branch: str
    anchors: Mapping[int, tuple[Group, Anchors]]
    ranks: Mapping[str, int]
    process: ProcessState


class Timeline:
    """The commits of one session.

    Args:
        view: the namespace.
        tracker: finds what has changed in it.
        participants: process state that goes with it.
        store: where commits go.
        references: the values that commits don't have.
        hold: keeps interrupts back while the namespace is changed.
    """

    def __init__(
        self,
        view: NamespaceView,
        tracker: Tracker,
        participants: Participants,
        store: Store,
        references: LiveReferences,
        hold: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._hold = hold
        self._references = references
        self._view = view
        self._tracker = tracker
        self.participants = participants
        self._store = store
        self._tables = TableWriter(self._store.put)
        self.log = CommitLog(store)
        self._ranks: dict[str, int] = {}
        self._undone: list[Commit] = []
        self._anchors: dict[int, tuple[Group, Anchors]] = {}
        self._past = Past()
        self._codes: list[types.CodeType] = []
        self._suspects = Uses(frozenset())
        self._references_differ = False
        self._process = participants.capture()
        self._process_addresses: dict[str, str] = {}
        self.branch = MAIN
        self._head: Commit | None = None
        self._first = self.log.next_number  # those before it are of other processes
        self.commit("start", full=True)

    # -- what happened since the last commit

    def note_code(self, code: types.CodeType) -> None:
        """Take note of code of a cell that runs."""
        self._codes.append(code)
        self._view.note_code(code)

    def suspect_all(self, reason: str) -> None:
        """Take note that something ran that no analysis sees."""
        self._suspects = Uses(frozenset(), reason)

    def suspect_references(self) -> None:
        """Take note that some may not be made again as the latest commit says."""
        self._references_differ = True

    def _names_made_otherwise(self) -> set[str]:
        if not self._references_differ:
            return set()
        return {
            name
            for group in self._tracker.groups
            for name, gone in group.dropped.items()
            if gone.again != self._references.again(gone.key)
        }

    def _take_suspects(self, *, verify: bool = False) -> Uses:
        uses = self._tracker.uses(self._codes)
        names = uses.names | LAST_RESULTS | self._view.attributes | self._names_made_otherwise()
        return Uses(names, self._suspects.defeat or uses.defeat, verify)

    @property
    def has_suspects(self) -> bool:
        """True if something ran that was not committed or rolled back."""
        return self._suspects.defeat is not None or bool(self._codes) or self._references_differ

    def forget_suspects(self) -> None:
        """Take note that all that ran is over, and committed or rolled back."""
        self._codes.clear()
        self._suspects = Uses(frozenset())
        self._references_differ = False

    # -- commits

    @property
    def head(self) -> Commit:
        """The commit the namespace was last equal to."""
        assert self._head is not None
        return self._head

    @property
    def groups(self) -> Collection[Group]:
        """The co-variables of the namespace, as committed."""
        return self._tracker.groups

    @property
    def unsaved(self) -> dict[str, Dropped]:
        """The values that the latest commit neither has nor can have made again, by name."""
        return unsaved(self._tracker.groups)

    def differs(self, name: str) -> bool:
        """Tell whether a co-variable is not as committed, though no code may have touched it."""
        suspects = Uses(frozenset(), unsuspected=frozenset([name]))
        return self._tracker.look(self._view.read(), suspects, measure).changed

    @property
    def saving(self) -> frozenset[str]:
        """The names being saved, or saved last."""
        return self._tracker.saving

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
        suspects = self._take_suspects(verify=full)
        view = self._view.read()
        look = self._tracker.look(view, suspects, self._store.put)
        if policy is Unsaved.HARD_ERROR:
            _require_saved(unsaved(look.seen), "nothing was committed")
        process = self.participants.capture()
        process_changed = Participants.changed(self._process, process)
        ranks = self._ranks
        if list(view) != list(ranks):
            ranks = _ranked(view, ranks)
        reordered = ranks != self._ranks
        before = self._tracker.names
        changes = names_of((*look.new, *look.gone)) - look.relinked
        changed = any(not is_output(name) for name in changes)
        if only_changes and not changed and not process_changed and not reordered:
            return None  # what a front end displays is no change to come back to
        self._adopt(look)
        self._ranks = ranks
        if process_changed or process.names != self._process_addresses.keys():
            self._process_addresses = self._store_process(process)
        self._process = process
        groups = self._tracker.groups
        dropped = {
            name: str(reason)
            for group in groups
            if group.dropped
            for name, reason in group.dropped.items()
        }
        names_changed = names_of(look.new) - look.relinked
        # What can't be compared may have changed if something has touched it; of attributes of
        # modules, which are looked at every time, that is not known.
        names_changed |= look.touched & dropped.keys() - self._view.attributes
        commit = Commit(
            number=self.log.next_number,
            parent=None if self._head is None else self._head.number,
            time=time.time(),
            branch=self.log.branch_after(self._head, self.branch),
            kind=kind,
            cell=cell,
            message=message,
            added=tuple(name for name in view if name not in before),
            changed=tuple(name for name in view if name in names_changed and name in before),
            removed=tuple(sorted(before - view.keys())),
            process_changed=tuple(process_changed),
            dropped=dropped,
            stored_bytes=0,
            ms=0.0,
            verified="touched" if look.defeat is None else "full",
            buckets=tuple(address.hex() for address in self._tables.write(groups, ranks)),
            process=self._process_addresses,
        )
        commit = replace(
            commit,
            stored_bytes=self._store.stored_bytes - stored,
            ms=round((time.perf_counter() - began) * 1000, 3),
        )
        self._add(commit)
        if policy is Unsaved.PICKLE_OR_ERROR:
            _require_saved(self.unsaved, f"commit {commit.number} was made without them")
        return commit

    def _add(self, commit: Commit) -> None:
        self.log.add(commit)
        if _says_something(commit):
            self._undone.clear()
        self.branch = commit.branch
        self._head = commit

    def _adopt(self, look: Look) -> None:
        # Equal values may be other objects than before.
        renewed = self._tracker.adopt(look)
        for group in (*renewed, *look.gone):
            self._anchors.pop(id(group), None)
        namespace, footprint_of = self._view.namespace, self._tracker.footprint_of
        self._past.note(look.gone, renewed, look.values, namespace, footprint_of)

    def store_again(self) -> None:
        """Have the next commit store everything: pieces of earlier ones were lost."""
        self._tracker.forget_images()
        self._tables = TableWriter(self._store.put)
        self._process = ProcessState()
        self.suspect_all("what was stored was lost")

    def _store_process(self, state: ProcessState) -> dict[str, str]:
        """Store the tokens; returns their addresses, empty where there is nothing to restore."""
        addresses = dict.fromkeys(state.errors, "")
        for name, token in state.tokens.items():
            try:
                data, _ = dumps(token, self._view.namespace, in_band=True)
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
            raise CheckpointNotFound(
                f"there are no {count} cells to undo" if count > 1 else "there is nothing to undo"
            )
        undone, branch = [*self._undone, self.head], self.branch
        restored = self.checkout(target, strict=False)
        self._undone, self.branch = undone, branch
        return restored

    def redo(self) -> Restored:
        """Go to where the latest undo came from.

        Raises:
            CheckpointNotFound: nothing was undone since the last commit.
        """
        self.commit_outside()
        if not self._undone:
            raise CheckpointNotFound("there is nothing to redo: no undo since the last commit")
        undone = self._undone[:-1]
        restored = self.checkout(self._undone[-1], strict=False)
        self._undone = undone
        return restored

    def prepare_rollback(self) -> Base:
        """Get ready to undo what comes next: commit what is outside, note which objects are which.

        Unlike a commit's, the state before a cell that is rolled back is that of the very objects.
        """
        if self.has_suspects:
            self.commit("outside", only_changes=True)
        view = self._view.read()
        groups = self._tracker.groups
        known = set(map(id, groups))
        self._anchors = {key: kept for key, kept in self._anchors.items() if key in known}
        for group in groups:
            if id(group) not in self._anchors:
                values = {name: view[name] for name in group.names}
                leaves = [id(v) for n, v in values.items() if self._tracker.is_leaf(n)]
                self._anchors[id(group)] = group, anchor(values, self._view.namespace, leaves)
        return Base(self.head, self.branch, self._anchors.copy(), self._ranks, self._process)

    def roll_back(self, base: Base) -> Restored:
        """Undo what happened since `prepare_rollback`, after a look at every name.

        What can't be loaded stays as it is, and is named.
        """
        view = self._view.read()
        dropped = {name for group in self._tracker.groups for name in group.dropped}
        touched = self._tracker.reached(view, self._take_suspects()) if dropped else frozenset()
        # Commits in between, of a block in the cell, have to be known to get back.
        inside = self._head is not base.head
        put = self._store.put if inside else measure
        look = self._tracker.look(view, self._take_suspects(verify=True), put)
        if inside:
            self._adopt(look)
        now = {name: group for group in look.seen for name in group.all_names}
        staging = self._staging()
        names: set[str] = set()
        for group, anchors in base.anchors.values():
            same = all(now.get(name) == group for name in group.all_names)
            if not (same and anchors.are_bound(view) and self._are_live(group, view)):
                try:
                    staging.add(group, _live(group, look), anchors)
                except UnrestorableState as error:
                    staging.unrestorable |= dict.fromkeys(group.all_names, str(error))
                else:
                    names |= group.all_names
        kept = names_of(group for group, _ in base.anchors.values())
        removed = view.keys() - kept
        order = sorted(base.ranks, key=base.ranks.__getitem__)
        with self._hold():
            values = staging.apply(value for name, value in view.items() if name not in names)
            self._view.write(values, removed, order)
            for failure in self.participants.restore(base.process):
                staging.unrestorable[failure.name] = failure.reason
            staging.unrestorable |= self._view.write_attributes(values, removed)
            self._head, self.branch = base.head, base.branch
            self._settle(values, base.ranks)
        for group, _ in base.anchors.values():
            for name in group.dropped.keys() & touched:
                staging.unrestorable.setdefault(name, same_object(group.dropped[name]))
        removed -= self._view.attributes  # of modules that stay imported
        unrestorable = staging.unrestorable
        again = self._make_again(staging, values, unrestorable, settle=True)
        return Restored(
            self.head, tuple(sorted(values)), tuple(sorted(removed)), unrestorable, again
        )

    def checkout(
        self, target: Commit, names: Iterable[str] | None = None, *, strict: bool = True
    ) -> Restored:
        """Make the namespace equal to a commit; what is equal already is left alone.

        What is not committed is lost: `commit_outside` comes first.

        Args:
            target: the commit.
            names: take only these from it, and leave all others and HEAD as they are.
            strict: raise if a value can't be loaded; else it stays as it is, or a placeholder says
                why it is missing.

        Raises:
            CheckpointNotFound: the commit has no such name.
            UnrestorableState: a value could not be loaded; nothing was changed.
        """
        table = self.table(target)
        view = self._view.read()
        wanted = set(table.ranks) if names is None else set(names)
        unknown = wanted - table.ranks.keys()
        if unknown:
            raise CheckpointNotFound(f"commit {target.number} has no {', '.join(sorted(unknown))}")
        view = self._import_modules(wanted, view)
        own = self._own_of_modules(table, target) if names is None else set()
        wanted -= own
        now = {name: group for group in self._tracker.groups for name in group.all_names}
        differing = [
            group
            for group in table.groups
            if group.all_names & wanted and now.get(next(iter(group.all_names))) != group
        ]
        names_differing = {name for group in differing for name in group.all_names}
        removed = set(view) - table.ranks.keys() if names is None else set()
        live = self._refillable(view, removed | (names_differing & wanted))
        try:
            staging = self._stage(differing, view, live)
        except UnrestorableState:
            staging = self._stage_elsewhere(differing, view, live, target, strict)
        others = (value for name, value in view.items() if name not in names_differing)
        unrestorable = {n: reason for n, reason in staging.unrestorable.items() if n in wanted}
        order = sorted(table.ranks, key=table.ranks.__getitem__) if names is None else list(view)
        with self._hold():
            values = {n: value for n, value in staging.apply(others).items() if n in wanted}
            self._view.write(values, removed, order)
            if names is None:
                unrestorable |= self._restore_process(target)
            unrestorable |= self._view.write_attributes(values, removed)
            if names is None:
                self._settle(values, table.ranks)
                self._head, self.branch = target, target.branch
                self.log.set_head(target)
        again = self._make_again(staging, values, unrestorable, settle=names is None)
        if own:
            self.commit("outside")  # what it is now is no commit's yet
            reason = "its file was edited since, and no cell had changed it: it is as imported"
            unrestorable |= dict.fromkeys(own, reason)
        removed -= self._view.attributes  # of modules that stay imported
        return Restored(target, tuple(sorted(values)), tuple(sorted(removed)), unrestorable, again)

    def _make_again(
        self,
        staging: Staging,
        names: Container[str],
        unrestorable: dict[str, str],
        *,
        settle: bool,
    ) -> tuple[str, ...]:
        """Bind names to new objects in place of those that are gone, where users gave a way.

        It comes after all else, with placeholders bound: the process is as it was then, and users'
        code may be interrupted here.

        Args:
            staging: what was restored.
            names: those that were bound.
            unrestorable: the report, which is brought up to date.
            settle: take the result for the known state.

        Returns:
            The names of new objects.
        """
        missing = {name: gone for name, gone in staging.missing.items() if name in names}
        if not missing:
            return ()
        self.suspect_all("making objects again may have changed anything")
        made = self._references.make_again(missing, self._store.get)
        with self._hold():
            self._view.write(made, (), list(self._view.read()))
            failures = self._view.write_attributes(made, ())
            if settle:
                self._settle(made, self._ranks)
        for name, value in made.items():
            if type(value) is DroppedReference:
                _, kind, reason = what_was_dropped(value)
                unrestorable[name] = f"a {kind} was not saved, and {reason}"
            else:
                unrestorable.pop(name, None)
        unrestorable |= failures
        return tuple(sorted(made.keys() - unrestorable.keys()))

    def _import_modules(self, names: Iterable[str], view: dict[str, Any]) -> dict[str, Any]:
        """Import modules of which these names are attributes: equal data is then left alone."""
        self._view.require(names)
        now = self._view.read()
        if now.keys() != view.keys():
            self._adopt(self._tracker.look(now, Uses(frozenset()), self._store.put))
            self._ranks = _ranked(now, self._ranks)
        return now

    def _own_of_modules(self, table: Table, target: Commit) -> set[str]:
        """Return attributes of modules that only an edited source file makes differ."""
        if target.number >= self._first:
            return set()  # of this process, which has the modules as they were
        first: dict[str, Commit] = {}
        commit: Commit | None = target
        while commit is not None:
            first |= dict.fromkeys(filter(is_attribute, commit.added), commit)
            commit = self.log.parent(commit)
        own = set[str]()
        for group in table.groups:
            if group.all_names <= first.keys():
                begun = first[min(group.all_names)]
                edited = any(self._view.edited_since(name, begun.time) for name in group.all_names)
                if edited and group in self.table(begun).groups:
                    own |= group.all_names
        return own

    def _refillable(self, view: Mapping[str, Any], let_go: set[str]) -> dict[int, Any]:
        """Return, by address, the objects of co-variables of which no name stays as it is."""
        names = [
            group.all_names for group in self._tracker.groups if group.all_names.issubset(let_go)
        ]
        values = {name: view[name] for name in frozenset().union(*names) if name in view}
        return refillable(values, self._tracker.footprint_of)

    def _stage(
        self,
        groups: list[Group],
        view: Mapping[str, Any],
        live: Mapping[int, Any],
        required: Container[str] | None = None,
    ) -> Staging:
        """Load co-variables; raise if one of the required names (all, for None) can't be."""
        staging = self._staging()
        for group in groups:
            try:
                staging.add(group, self._live(group, view), self._past.find(group, live))
            except UnrestorableState as error:
                if required is None or any(name in required for name in group.all_names):
                    raise
                staging.keep(group, view, str(error))
        return staging

    def _stage_elsewhere(
        self,
        groups: list[Group],
        view: Mapping[str, Any],
        live: Mapping[int, Any],
        target: Commit,
        strict: bool,
    ) -> Staging:
        """Load with the process as it was: a module may be on the path of that time only."""
        before = self.participants.capture()
        self._restore_process(target)
        try:
            # A module that is gone from this place is no reason to restore nothing.
            names = names_of(groups) if strict else ()
            return self._stage(groups, view, live, {n for n in names if not is_attribute(n)})
        except UnrestorableState:
            self.participants.restore(before)
            raise

    def _settle(self, values: Mapping[str, Any], ranks: Mapping[str, int]) -> None:
        """Take what was just restored for the known state."""
        view = self._view.read()
        look = self._tracker.look(view, Uses(frozenset(values)), self._store.put)
        self._adopt(look)
        self._ranks = _ranked(view, ranks)
        self._process = self.participants.capture()
        self._process_addresses = {}  # the next commit's are not those of the one before
        self._undone.clear()

    def table(self, commit: Commit) -> Table:
        """Return what a commit holds."""
        return read_table(map(bytes.fromhex, commit.buckets), self._store.get)

    def load(self, group: Group) -> dict[str, Any]:
        """Make the saved values of a co-variable anew; nothing that exists is touched.

        Raises:
            UnrestorableState: that is not possible here.
        """
        return load(group, self._view.namespace, self._store).values

    def _staging(self) -> Staging:
        return Staging(self._view.namespace, self._store, self._references)

    def _live(self, wanted: Group, view: Mapping[str, Any]) -> Live | None:
        """Return a co-variable as it is known; None if other names belong to it now."""
        group = self._tracker.group_of(next(iter(wanted.all_names)))
        if group is None or group.all_names != wanted.all_names:
            return None
        values = {name: view[name] for name in wanted.all_names}
        known = {name: self._tracker.footprint_of(name) for name in values}
        return Live(group, values, known)

    def _are_live(self, group: Group, view: Mapping[str, Any]) -> bool:
        """Tell whether names that are not saved stand for the objects they stood for."""
        return all(
            view.get(name) is self._references.get(dropped.key)
            for name, dropped in group.dropped.items()
        )

    def _restore_process(self, target: Commit) -> dict[str, str]:
        tokens: dict[str, Any] = {}
        failures: list[Failure] = []
        for name, address in target.process.items():
            if not address:
                failures.append(Failure(name, "its state could not be captured or saved"))
                continue
            try:
                tokens[name] = loads(self._store.get(bytes.fromhex(address)), self._view.namespace)
            except Exception as error:
                failures.append(Failure(name, f"{type(error).__name__}: {error}"))
        failures += self.participants.restore(ProcessState(tokens))
        return {failure.name: failure.reason for failure in failures}

    def commit_outside(self) -> None:
        """Keep what no commit has yet, so that a way back leads to it."""
        self.commit("outside", full=True, only_changes=True)


def _live(wanted: Group, look: Look) -> Live | None:
    """Return a co-variable as a look has just seen it; None if other names belong to it now."""
    for group in look.seen:
        if group.all_names == wanted.all_names:
            values = {name: look.values[name] for name in wanted.all_names}
            return Live(group, values, look.footprints)
    return None


def _require_saved(lost: Mapping[str, Dropped], outcome: str) -> None:
    if lost:
        listed = "; ".join(f"{name}: {dropped}" for name, dropped in lost.items())
        raise UnrestorableState(
            f"these can't be saved, and {outcome}: {listed}. Delete them, or say how to make them "
            "again (savepoint.refs.put), or use warn_drop"
        )


def _ranked(view: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """Number names so that variables have ascending numbers; outputs and attributes, their own.

    Most keep the number they have; a name that has moved gets a new one.
    """
    ranks: dict[str, int] = {}
    top = max(known.values(), default=-1)
    last: dict[tuple[bool, bool], int] = {}
    for name in view:
        rank, of_kind = known.get(name, -1), (is_variable(name), is_attribute(name))
        if rank <= last.get(of_kind, -1):
            top += 1
            rank = top
        ranks[name] = last[of_kind] = rank
    return ranks


_BY_THE_WAY = frozenset(
    {"decimal context", "logging", "random", "recursion limit", "warnings.filters"}
)
"""Process state that libraries change when they are imported or first used."""


def _says_something(commit: Commit) -> bool:
    names = (*commit.added, *commit.changed, *commit.removed)
    process = set(commit.process_changed) - _BY_THE_WAY
    return bool(process) or any(not is_output(name) for name in names)
