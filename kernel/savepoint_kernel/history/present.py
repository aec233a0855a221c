"""The namespace, and the process around it, as the timeline knows them.

What was committed last, or restored; what may have changed since; and which objects it is made of.

What ran outside cells (widget callbacks, threads, tasks) is not analysed: it makes every name
suspect (`Present.suspect_all`), and the next look finds what it did.

Threads: the main thread, but `note_code` and `suspect_all`, which any thread may call.
"""

from __future__ import annotations

import dis
import sys
import time
import types
from collections.abc import Iterable, Mapping
from typing import Any

from ..activity import Activity
from ..state.caches import Caches
from ..state.fingerprint import Put
from ..state.imager import Group
from ..state.inplace import Anchors, anchor
from ..state.liverefs import LiveReferences
from ..state.namespace import Uses
from ..state.pairing import Past, refillable
from ..state.process import Participants, ProcessState
from ..state.tracker import Look, Tracker
from ..state.view import LAST_RESULTS, NamespaceView, is_attribute, is_variable
from .patch import Live

_OF_COMPLETIONS = frozenset(
    {"garbage collector", "logging", "recursion limit", "sys.path", "warnings.filters"}
)
"""State of the process that completing changes; see `activity`."""

_OF_IMPORTS = frozenset(
    {"decimal context", "logging", "random", "recursion limit", "warnings.filters"}
)
"""State of the process that libraries change when they are imported or first used."""

PATIENCE = 1.0
"""Seconds that a commit or a way back waits for completions; the first one takes half of it."""

COPIED_BYTES = 32 << 20
"""What copies of lists, dicts and sets of numbers and strings may take while cells may be rolled
back; the numbers and strings are not copied. It is half of what commits may take in all (`docs`:
64 MB and a tenth of the namespace)."""

_STORES = frozenset(
    dis.opmap[name] for name in ("STORE_ATTR", "STORE_SUBSCR", "DELETE_ATTR", "DELETE_SUBSCR")
)
"""What sets attributes and items. Code that only calls mostly reads: if it touches a value that can
be neither saved nor compared, that is no change worth going back to."""


class Present:
    """What is known of the present state.

    Args:
        view: the namespace.
        tracker: its co-variables, and what has changed in them.
        participants: process state that goes with it.
        references: the values that commits don't have.
        put: stores a piece.
        completions: those under way.

    Attributes:
        past: which objects former co-variables were made of.
        caches: of functions; they are no state, but may be made of it.
        ranks: a number for each name, in the order of the names; see `table.Table`.
        process: the state of the process.
        process_addresses: where that is stored, by participant; empty if it is not.
    """

    def __init__(
        self,
        view: NamespaceView,
        tracker: Tracker,
        participants: Participants,
        references: LiveReferences,
        put: Put,
        completions: Activity,
    ) -> None:
        self.view = view
        self.tracker = tracker
        self.participants = participants
        self.references = references
        self._put = put
        self.past = Past()
        self.caches = Caches()
        self.ranks: dict[str, int] = {}
        self._completions = completions
        self._completions_known = 0
        self._modules_known = len(sys.modules)
        self.process = ProcessState()
        self.process = self.capture()
        self.process_addresses: dict[str, str] = {}
        self._anchors: dict[int, tuple[Group, Anchors]] = {}
        self._results: dict[str, int] = {}
        self._codes: list[types.CodeType] = []
        self._suspects = Uses(frozenset())
        self._references_differ = False

    # -- what may have changed

    def note_code(self, code: types.CodeType) -> None:
        """Take note of code of a cell that runs."""
        self._codes.append(code)
        self.view.note_code(code)

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
            for group in self.tracker.groups
            for name, gone in group.dropped.items()
            if gone.again != self.references.again(gone.key)
        }

    def take_suspects(self, view: Mapping[str, Any], *, verify: bool = False) -> Uses:
        """Return what may have been touched.

        Args:
            view: the names and their values.
            verify: look at everything else as well.
        """
        uses = self.tracker.uses(self._codes)
        names = uses.names | self.view.attributes | self._names_made_otherwise()
        # Bound by the display hook. What they stand for (a figure) may take long to look at.
        results = {name for name in LAST_RESULTS if id(view.get(name)) != self._results.get(name)}
        return Uses(names, self._suspects.defeat or uses.defeat, verify, frozenset(results))

    @property
    def stores(self) -> bool:
        """True if code that ran assigns to attributes or items, as opposed to calls."""
        return any(not _STORES.isdisjoint(code.co_code[::2]) for code in self._codes)

    @property
    def has_suspects(self) -> bool:
        """True if something ran that was not committed or rolled back."""
        return self._suspects.defeat is not None or bool(self._codes) or self._references_differ

    @property
    def suspects_all(self) -> bool:
        """True if something ran that no analysis sees, so that the next look is at all names."""
        return self._suspects.defeat is not None

    def forget_suspects(self) -> None:
        """Take note that all that ran is over, and committed or rolled back."""
        self._codes.clear()
        self._suspects = Uses(frozenset())
        self._references_differ = False

    # -- what is known

    def adopt(self, look: Look) -> None:
        """Take what was seen for what is known."""
        self._completions_known = self._completions.begun
        # Equal values may be other objects than before.
        renewed = self.tracker.adopt(look)
        for name in LAST_RESULTS & look.values.keys():
            self._results[name] = id(look.values[name])
        for group in (*renewed, *look.gone):
            self._anchors.pop(id(group), None)
        namespace, footprint_of = self.view.namespace, self.tracker.footprint_of
        self.past.note(look.gone, renewed, look.values, namespace, footprint_of)

    def ranked(self, view: Iterable[str]) -> dict[str, int]:
        """Return the ranks of names; the known ones if nothing was added, removed or moved."""
        return self.ranks if list(view) == list(self.ranks) else _ranked(view, self.ranks)

    def await_completions(self) -> None:
        """Wait for what changes the process beside the cells, and then puts back what it met."""
        self._completions.wait(PATIENCE)

    def capture(self) -> ProcessState:
        """Return the state of the process, but for what a long completion changes meanwhile."""
        until = time.monotonic() + PATIENCE
        while True:
            self.await_completions()
            begun, active = self._completions.begun, self._completions.active
            state = self.participants.capture()
            if not active and self._completions.begun == begun:
                return state
            if time.monotonic() >= until:
                break
        kept = _OF_COMPLETIONS & self.process.tokens.keys()
        return ProcessState(
            {**state.tokens, **{name: self.process.tokens[name] for name in kept}}, state.errors
        )

    def by_users(self, changed: list[str]) -> list[str]:
        """Leave out the participants that a completion or an import may have changed since."""
        others: frozenset[str] = frozenset()
        if self._completions.begun != self._completions_known:
            others |= _OF_COMPLETIONS
        if len(sys.modules) > self._modules_known:
            others |= _OF_IMPORTS
        return [name for name in changed if name not in others]

    def note_modules(self) -> None:
        """Take note of which modules there are: what is imported from now on may change more."""
        self._modules_known = len(sys.modules)

    def settle(
        self,
        values: Mapping[str, Any],
        ranks: Mapping[str, int],
        process: ProcessState | None = None,
        addresses: Mapping[str, str] | None = None,
        groups: Iterable[Group] = (),
    ) -> None:
        """Take what was just restored for the known state.

        Args:
            values: the names that were bound.
            ranks: of all names.
            process: the state of the process that was restored; None if it was not touched.
            addresses: where that is stored.
            groups: what the values were loaded from.
        """
        view = self.view.read()
        stored = {group.names: group.image for group in groups if group.image is not None}
        look = self.tracker.look(view, Uses(frozenset(values)), self._put, stored)
        self.adopt(look)
        self.ranks = _ranked(view, ranks)
        if process is not None and addresses is not None:
            self.process = self.capture()
            # What could not be restored is stored anew by the next commit.
            self.process_addresses = {
                name: address
                for name, address in addresses.items()
                if process.agrees(self.process, name)
            }

    def import_modules(self, names: Iterable[str], view: dict[str, Any]) -> dict[str, Any]:
        """Import modules of which these names are attributes: equal data is then left alone."""
        self.view.require(names)
        now = self.view.read()
        if now.keys() != view.keys():
            self.adopt(self.tracker.look(now, Uses(frozenset()), self._put))
            self.ranks = _ranked(now, self.ranks)
        return now

    def forget_stored(self) -> None:
        """Take note that nothing is stored."""
        self.tracker.forget_images()
        self.process = ProcessState()
        self.suspect_all("what was stored was lost")

    # -- the objects it is made of

    def anchored(self) -> list[tuple[Group, Anchors]]:
        """Return the co-variables and the objects they are made of, which this keeps alive."""
        view = self.view.read()
        groups = self.tracker.groups
        known = set(map(id, groups))
        self._anchors = {key: kept for key, kept in self._anchors.items() if key in known}
        room = COPIED_BYTES - sum(anchors.copied_bytes for _, anchors in self._anchors.values())
        for group in groups:
            if id(group) not in self._anchors:
                values = {name: view[name] for name in group.names}
                leaves = [id(v) for n, v in values.items() if self.tracker.is_leaf(n)]
                anchors = anchor(values, self.view.namespace, leaves, room)
                self._anchors[id(group)] = group, anchors
                room -= anchors.copied_bytes
        return [*self._anchors.values()]

    def live(self, wanted: Group, view: Mapping[str, Any]) -> Live | None:
        """Return a co-variable as it is known; None if other names belong to it now."""
        group = self.tracker.group_of(next(iter(wanted.all_names)))
        if group is None or group.all_names != wanted.all_names:
            return None
        values = {name: view[name] for name in wanted.all_names}
        known = {name: self.tracker.footprint_of(name) for name in values}
        return Live(group, values, known)

    def are_live(self, group: Group, view: Mapping[str, Any]) -> bool:
        """Tell whether names that are not saved stand for the objects they stood for."""
        return all(
            view.get(name) is self.references.get(dropped.key)
            for name, dropped in group.dropped.items()
        )

    def refillable(self, view: Mapping[str, Any], let_go: set[str]) -> dict[int, Any]:
        """Return, by address, the objects of co-variables of which no name stays as it is."""
        names = [
            group.all_names for group in self.tracker.groups if group.all_names.issubset(let_go)
        ]
        values = {name: view[name] for name in frozenset().union(*names) if name in view}
        return refillable(values, self.tracker.footprint_of)


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
