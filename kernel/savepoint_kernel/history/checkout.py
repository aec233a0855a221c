"""The ways back: to a commit, and of a cell that failed.

    stage    load what differs beside the living; may fail, and nothing has been touched then
    apply    refill objects, bind names, restore the process, with interrupts held back

Threads: the main thread, between cells or in a cell that goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

from ..exceptions import CheckpointNotFound, CorruptStore, UnrestorableState
from ..serialize.portable import loads
from ..state.fingerprint import Contents, Image, read
from ..state.imager import Group, measure, names_of
from ..state.inplace import Anchors
from ..state.liverefs import DroppedReference
from ..state.process import Failure, ProcessState
from ..state.tracker import Look
from ..state.view import is_attribute, is_output, is_variable
from .commit import Commit
from .log import CommitLog
from .patch import Live
from .present import Present
from .read_ahead import ReadAhead
from .staging import Read, Staging, load, lost, same_object
from .store import Store
from .table import Table
from .table import read as read_table


@dataclass(frozen=True, slots=True)
class Restored:
    """What a checkout did, to the names users know: `report` makes it.

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

    @classmethod
    def report(
        cls,
        commit: Commit,
        changed: Iterable[str],
        removed: Iterable[str],
        unrestorable: Mapping[str, str],
        recreated: Iterable[str],
    ) -> Restored:
        """Leave out results as IPython keeps them, but for ``_5`` where it is not as it was."""
        return cls(
            commit,
            tuple(sorted(name for name in changed if not is_output(name))),
            tuple(sorted(name for name in removed if not is_output(name))),
            {name: reason for name, reason in unrestorable.items() if is_variable(name)},
            tuple(sorted(filter(is_variable, recreated))),
        )


@dataclass(frozen=True, slots=True)
class Base:
    """The state that a rollback goes back to.

    Attributes:
        head: its commit.
        branch: the branch it was on.
        anchors: its co-variables, and the objects they were made of.
        ranks: of its names.
        process: the state of the process.
        process_addresses: where that is stored.
    """

    head: Commit
    branch: str
    anchors: Sequence[tuple[Group, Anchors]]
    ranks: Mapping[str, int]
    process: ProcessState
    process_addresses: Mapping[str, str]


class Checkout:
    """Makes the present what it was.

    Args:
        present: what is known of it.
        store: where commits are.
        log: the commits.
        hold: keeps interrupts back while the namespace is changed.
    """

    def __init__(
        self,
        present: Present,
        store: Store,
        log: CommitLog,
        hold: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._present = present
        self._store = store
        self._log = log
        self._hold = hold
        self._first = log.next_number  # those before it are of other processes

    def is_of_before(self, commit: Commit) -> bool:
        """Tell whether another process made a commit."""
        return commit.number < self._first

    def go(
        self,
        target: Commit,
        arrive: Callable[[], None],
        names: Iterable[str] | None = None,
        *,
        strict: bool = True,
    ) -> tuple[Restored, bool]:
        """Make the namespace equal to a commit; what is equal already is left alone.

        Args:
            target: the commit.
            arrive: called when the state is that of the commit, unless only some names are taken.
            names: take only these from it, and leave all others and HEAD as they are.
            strict: raise if a value can't be loaded; else it stays as it is, or a placeholder says
                why it is missing.

        Returns:
            What was done, and whether some attributes were left to their modules: then the state
            is not that of the commit.

        Raises:
            CheckpointNotFound: the commit has no such name.
            UnrestorableState: a value could not be loaded; nothing was changed.
        """
        self._present.await_completions()
        table = self.table(target)
        view = self._present.view.read()
        wanted = set(table.ranks) if names is None else set(names)
        unknown = wanted - table.ranks.keys()
        if unknown:
            raise CheckpointNotFound(f"commit {target.number} has no {', '.join(sorted(unknown))}")
        view = self._present.import_modules(wanted, view)
        own = self._own_of_modules(table, target) if names is None else set()
        wanted -= own
        now = {name: group for group in self._present.tracker.groups for name in group.all_names}
        differing = [
            group
            for group in table.groups
            if group.all_names & wanted and now.get(next(iter(group.all_names))) != group
        ]
        names_differing = {name for group in differing for name in group.all_names}
        removed = set(view) - table.ranks.keys() if names is None else set()
        live = self._present.refillable(view, removed | (names_differing & wanted))
        try:
            staging = self._stage(differing, view, live)
        except UnrestorableState:
            staging = self._stage_elsewhere(differing, view, live, target, strict)
        others = (value for name, value in view.items() if name not in names_differing)
        unrestorable = {n: reason for n, reason in staging.unrestorable.items() if n in wanted}
        order = sorted(table.ranks, key=table.ranks.__getitem__) if names is None else list(view)
        with self._hold():
            values = {n: value for n, value in staging.apply(others).items() if n in wanted}
            self._present.view.write(values, removed, order)
            process = ProcessState()
            if names is None:
                process, failures = self._restore_process(target)
                unrestorable |= failures
            unrestorable |= self._present.view.write_attributes(values, removed)
            self._present.caches.go_back(target.number, self._present.view.read())
            if names is None:
                self._present.settle(values, table.ranks, process, target.process, differing)
                arrive()
        again = self._make_again(staging, values, unrestorable, settle=names is None)
        reason = "its file was edited since, and no cell had changed it: it is as imported"
        unrestorable |= dict.fromkeys(own, reason)
        removed -= self._present.view.attributes  # of modules that stay imported
        return Restored.report(target, values, removed, unrestorable, again), bool(own)

    def roll_back(self, base: Base, inside: bool, arrive: Callable[[], None]) -> Restored:
        """Undo what happened since `prepare_rollback`, after a look at every name.

        What can't be loaded stays as it is, and is named.

        Args:
            base: what to go back to.
            inside: whether there are commits in between, of a block in the cell.
            arrive: called when the state is that one.
        """
        self._present.await_completions()
        view = self._present.view.read()
        dropped = {name for group in self._present.tracker.groups for name in group.dropped}
        touched = (
            self._present.tracker.reached(view, self._present.take_suspects(view))
            if dropped
            else frozenset()
        )
        # Commits in between have to be known to get back.
        put = self._store.put if inside else measure
        look = self._present.tracker.look(view, self._present.take_suspects(view, verify=True), put)
        if inside:
            self._present.adopt(look)
        else:
            self._present.tracker.reject(look)
        now = {name: group for group in look.seen for name in group.all_names}
        staging = self._staging(self._read)
        names: set[str] = set()
        for group, anchors in base.anchors:
            same = all(now.get(name) == group for name in group.all_names)
            if not (same and anchors.are_bound(view) and self._present.are_live(group, view)):
                try:
                    staging.add(group, _live(group, look), anchors)
                except UnrestorableState as error:
                    staging.unrestorable |= dict.fromkeys(group.all_names, str(error))
                else:
                    names |= group.all_names
        kept = names_of(group for group, _ in base.anchors)
        removed = view.keys() - kept
        order = sorted(base.ranks, key=base.ranks.__getitem__)
        with self._hold():
            values = staging.apply(value for name, value in view.items() if name not in names)
            self._present.view.write(values, removed, order)
            for failure in self._present.participants.restore(base.process):
                staging.unrestorable[failure.name] = failure.reason
            staging.unrestorable |= self._present.view.write_attributes(values, removed)
            self._present.caches.go_back(base.head.number, self._present.view.read())
            arrive()
            groups = [group for group, _ in base.anchors]
            # But for commits in between, what is known is the state that this is.
            known = () if inside else {*staging.as_known(self._present.tracker.footprint_of)}
            fresh = {name: value for name, value in values.items() if name not in known}
            self._present.settle(fresh, base.ranks, base.process, base.process_addresses, groups)
        for group, _ in base.anchors:
            for name in group.dropped.keys() & touched:
                if type(view.get(name)) is not DroppedReference:  # no use can change a placeholder
                    staging.unrestorable.setdefault(name, same_object(group.dropped[name]))
        removed -= self._present.view.attributes  # of modules that stay imported
        unrestorable = staging.unrestorable
        again = self._make_again(staging, values, unrestorable, settle=True)
        return Restored.report(base.head, values, removed, unrestorable, again)

    def _make_again(
        self,
        staging: Staging,
        names: Container[str],
        unrestorable: dict[str, str],
        *,
        settle: bool,
    ) -> set[str]:
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
            return set()
        self._present.suspect_all("making objects again may have changed anything")
        made = self._present.references.make_again(missing, self._store.get)
        with self._hold():
            self._present.view.write(made, (), list(self._present.view.read()))
            failures = self._present.view.write_attributes(made, ())
            if settle:
                self._present.settle(made, self._present.ranks)
        for name, value in made.items():
            if type(value) is DroppedReference:
                unrestorable[name] = lost(value)
            else:
                unrestorable.pop(name, None)
        unrestorable |= failures
        return made.keys() - unrestorable.keys()

    def _own_of_modules(self, table: Table, target: Commit) -> set[str]:
        """Return attributes of modules that only an edited source file makes differ."""
        if not self.is_of_before(target):
            return set()  # this process has the modules as they were
        first: dict[str, Commit] = {}
        commit: Commit | None = target
        while commit is not None:
            first |= dict.fromkeys(filter(is_attribute, commit.added), commit)
            commit = self._log.parent(commit)
        own = set[str]()
        for group in table.groups:
            if group.all_names <= first.keys():
                begun = first[min(group.all_names)]
                edited = any(
                    self._present.view.edited_since(name, begun.time) for name in group.all_names
                )
                if edited and group in self.table(begun).groups:
                    own |= group.all_names
        return own

    def _stage(
        self,
        groups: list[Group],
        view: Mapping[str, Any],
        live: Mapping[int, Any],
        required: Container[str] | None = None,
    ) -> Staging:
        """Load co-variables; raise if one of the required names (all, for None) can't be.

        Loading may run code of cells (``__setstate__``, ``__hash__`` of a key), which uses other
        names. In a new process these are not there yet, and lent until all is loaded.
        """
        # Of what there is, only what differs may have to be read.
        anew = (group for group in groups if view.keys().isdisjoint(group.names))
        images = [group.image for group in anew if group.image is not None]
        with closing(ReadAhead(self._store, images)) as ahead:
            return self._stage_with(ahead.take, groups, view, live, required)

    def _stage_with(
        self,
        read: Read,
        groups: list[Group],
        view: Mapping[str, Any],
        live: Mapping[int, Any],
        required: Container[str] | None,
    ) -> Staging:
        staging = self._staging(read)
        namespace = self._present.view.namespace
        lent: dict[str, Any] = {}
        waiting = groups
        failed: dict[int, tuple[Group, UnrestorableState]] = {}
        try:
            while waiting:
                failed = {}
                for group in waiting:
                    try:
                        anchors = self._present.past.find(group, live)
                        staging.add(group, self._present.live(group, view), anchors)
                    except UnrestorableState as error:
                        failed[id(group)] = group, error
                if len(failed) == len(waiting):
                    break
                waiting = [group for group, _ in failed.values()]
                fresh = {n: v for n, v in staging.loaded.items() if n not in namespace}
                lent |= fresh
                namespace |= fresh
        finally:
            for name, value in lent.items():
                if namespace.get(name) is value:
                    del namespace[name]
        for group, failure in failed.values():
            if required is None or any(name in required for name in group.all_names):
                raise failure
            staging.keep(group, view, str(failure))
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
        before = self._present.participants.capture()
        try:
            self._restore_process(target)
            # A module that is gone from this place is no reason to restore nothing.
            names = names_of(groups) if strict else ()
            return self._stage(groups, view, live, {n for n in names if not is_attribute(n)})
        except UnrestorableState as error:
            raise UnrestorableState(
                f"{error}, so nothing was restored; %restore {target.number} followed by the names "
                "of others restores those"
            ) from error
        finally:
            self._present.participants.restore(before)

    def table(self, commit: Commit) -> Table:
        """Return what a commit holds.

        Raises:
            CorruptStore: that can't be read.
        """
        try:
            return read_table(map(bytes.fromhex, commit.buckets), self._store.get)
        except CorruptStore as error:
            raise CorruptStore(
                f"commit {commit.number} is damaged: {error}; %restore goes to any other"
            ) from error

    def load(self, group: Group) -> dict[str, Any]:
        """Make the saved values of a co-variable anew; nothing that exists is touched.

        Raises:
            UnrestorableState: that is not possible here.
        """
        return load(group, self._present.view.namespace, self._read).values

    def _staging(self, read: Read) -> Staging:
        present = self._present
        return Staging(present.view.namespace, self._store, read, present.references)

    def _read(self, image: Image) -> Contents:
        return read(image, self._store)

    def _restore_process(self, target: Commit) -> tuple[ProcessState, dict[str, str]]:
        """Restore the process; returns its state, and why it is not quite that."""
        tokens: dict[str, Any] = {}
        failures: list[Failure] = []
        for name, address in target.process.items():
            if not address:
                failures.append(Failure(name, "its state could not be captured or saved"))
                continue
            try:
                tokens[name] = loads(
                    self._store.get(bytes.fromhex(address)), self._present.view.namespace
                )
            except Exception as error:
                failures.append(Failure(name, f"{type(error).__name__}: {error}"))
        state = ProcessState(tokens)
        failures += self._present.participants.restore(state)
        return state, {failure.name: failure.reason for failure in failures}


def _live(wanted: Group, look: Look) -> Live | None:
    """Return a co-variable as a look has just seen it; None if other names belong to it now."""
    for group in look.seen:
        if group.all_names == wanted.all_names:
            values = {name: look.values[name] for name in wanted.all_names}
            return Live(group, values, look.footprints)
    return None
