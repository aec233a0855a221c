"""What the namespace holds, as committed; and what has changed since.

The names are kept in groups: co-variables (`graph`), each with the image (`fingerprint`) it had
when it was looked at last. `Tracker.look` takes names that may have changed, follows what they lead
to, and compares. It changes nothing; `Tracker.adopt` makes what was seen the known state.

From a suspect name a look goes to

* the other names of its co-variable, before and after;
* names that the code of its value may use (functions, and classes defined in cells);
* the names of these classes, whose attributes an instance can change;
* any co-variable that now shares something with it.

A value that can't be pickled is a `Dropped` one: its name and the reason are all that is kept. It
does not keep those linked with it from being saved.

Threads: the one that owns the namespace, between cells.
"""

from __future__ import annotations

import bisect
import builtins
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..serialize.flat import dumps_flat
from .fingerprint import Digests, Image, Put
from .graph import PLAIN_ATOM, Footprint, covariables, footprint, is_atom
from .imager import Group, Guard, Imager, Limits
from .liverefs import LiveReferences, reason_of
from .namespace import Uses, unlimited, uses
from .view import is_output

KEPT_BYTES = 16 << 20
"""What pickles that a look is going to need may take; those of all else are made once more."""

NOTHING_STORED: Mapping[frozenset[str], Image] = types.MappingProxyType({})

CompileCell = Callable[[str], "types.CodeType | None"]


@dataclass(frozen=True, slots=True)
class Look:
    """What a look has seen.

    Attributes:
        defeat: why every name was verified; None if only those touched were.
        seen: the co-variables looked at, as they are now.
        gone: those known before that are no more, or are not as they were.
        new: those of ``seen`` that were not known.
        relinked: names in ``new`` that are as they were, but belong to another co-variable now.
        touched: names that the suspects led to, before all others were looked at too.
        footprints: of the names in ``seen``.
        values: what the names in ``seen`` stand for.
    """

    defeat: str | None
    seen: tuple[Group, ...]
    gone: tuple[Group, ...]
    new: tuple[Group, ...]
    relinked: frozenset[str]
    touched: frozenset[str]
    footprints: Mapping[str, Footprint]
    values: Mapping[str, Any]

    @property
    def changed(self) -> bool:
        """True if there is anything to commit."""
        return bool(self.gone or self.new)


class Tracker:
    """The known co-variables of one namespace.

    Args:
        namespace: the live one, in which functions have their globals.
        compile_cell: compiles a text as a cell, for magics that run one; None if it can't.
        references: knows the values that can't be pickled.
        guard: see `imager.Imager`, as for
        limits: what saving one co-variable may take.
        digests: see `fingerprint.image`.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        compile_cell: CompileCell,
        references: LiveReferences,
        guard: Guard,
        limits: Limits,
        digests: Digests,
    ) -> None:
        self._imager = Imager(namespace, references, guard, limits, digests)
        self._references = references
        self._namespace = namespace
        self._compile_cell = compile_cell
        self._groups: dict[str, Group] = {}
        self._by_id: dict[int, Group] = {}
        self._footprints: dict[str, Footprint] = {}
        self._owners: dict[int, str] = {}
        self._atoms: dict[str, Any] = {}
        self._unlimited: dict[str, str] = {}
        self._known_spans: _Spans | None = None

    @property
    def names(self) -> frozenset[str]:
        """All known names."""
        return frozenset(self._groups)

    @property
    def groups(self) -> Collection[Group]:
        """All known co-variables."""
        return self._by_id.values()

    def uses(self, codes: Iterable[types.CodeType]) -> Uses:
        """Tell what code may touch, judged by what names stand for now and stood for before."""
        return uses(codes, self._defeat_of, self._compile_cell)

    def reached(self, view: Mapping[str, Any], suspects: Uses) -> frozenset[str]:
        """Return the names that these suspects lead to."""
        search = _Search(self, view, self._namespace)
        search.start(suspects)
        return frozenset(search.names)

    def look(
        self,
        view: Mapping[str, Any],
        suspects: Uses,
        put: Put,
        stored: Mapping[frozenset[str], Image] = NOTHING_STORED,
    ) -> Look:
        """Compare the namespace with what is known.

        Args:
            view: the names to track, and their values.
            suspects: what may have changed; names that came or went need not be among it.
            put: stores a piece that was not known; see `fingerprint.image`.
            stored: images that co-variables were just loaded from, by their names.
        """
        search = _Search(self, view, self._namespace)
        search.start(suspects)
        search.follow(self._groups.keys() - view.keys())
        search.follow(view.keys() - self._groups.keys())
        fresh = search.footprints
        seen: list[Group] = []
        new: list[Group] = []
        relinked: set[str] = set()
        plain = {name for name, found in fresh.items() if found.plain}
        for names in covariables(fresh):
            known = self._groups.get(next(iter(names)))
            if known is not None and (
                self._is_same_atom(names, view)
                or (search.touched.isdisjoint(names) and self._is_tired(known, names, view))
            ):
                seen.append(known)
                continue
            values = {name: view[name] for name in names}
            broken = next((search.broken[name] for name in names if name in search.broken), None)
            if broken is None:
                old = known.image if known is not None and known.names == names else None
                old = stored.get(names, old)
                group = self._imager.take(values, old, put, plain, search.flat.get(names))
            else:
                group = self._imager.drop(values, broken)
            if known is not None and (
                group == known
                or (
                    search.by_request
                    and search.touched.isdisjoint(names)
                    and self._only_pickles_otherwise(group, known, values, plain)
                )
            ):
                seen.append(known)
            else:
                seen.append(group)
                new.append(group)
                relinked |= self._same_dropped(group)
                if known is None or known.names != names or any(map(is_output, names)):
                    asked = search.by_request and search.touched.isdisjoint(names)
                    relinked |= self._unchanged(names, view, plain, untouched=asked)
        kept = set(map(id, seen))
        before = [self._groups[name] for name in search.names if name in self._groups]
        gone = {id(group): group for group in before if id(group) not in kept}
        return Look(
            search.defeat,
            tuple(seen),
            tuple(gone.values()),
            tuple(new),
            frozenset(relinked),
            search.touched,
            fresh,
            {name: view[name] for name in fresh},
        )

    def adopt(self, look: Look) -> list[Group]:
        """Let what was seen be what is known.

        Returns:
            The co-variables that are not known to be made of the objects they were made of.
        """
        renewed = [group for group in look.seen if not self._is_as_known(group, look)]
        if renewed or look.gone:
            self._known_spans = None
        kept = {dropped.key for group in look.seen for dropped in group.dropped.values()}
        for group in look.gone:
            for dropped in group.dropped.values():
                if dropped.key not in kept:
                    self._references.release(dropped.key)
        # Of a name that shares nothing, before or after, only what differs has to be written down.
        owned = {
            name: self._footprints[name].objects
            for name in look.footprints.keys() & self._footprints.keys()
            if len(self._groups[name].all_names) == 1
        }
        for group in (*look.gone, *renewed):
            self._by_id.pop(id(group), None)
            for name in group.all_names:
                self._forget(name, look.footprints.get(name, PLAIN_ATOM).objects)
        for group in renewed:
            self._by_id[id(group)] = group
            for name in group.all_names:
                known = look.footprints[name]
                self._groups[name] = group
                self._footprints[name] = known
                former = owned.get(name) if len(group.all_names) == 1 else None
                added = known.objects - former if former else known.objects
                self._owners.update(dict.fromkeys(added, name))
                value = look.values[name]
                if is_atom(value):
                    self._atoms[name] = value
                defeat = unlimited(value)
                if defeat is not None:
                    self._unlimited[name] = defeat
        return renewed

    def reject(self, look: Look) -> None:
        """Let go what was seen and is not to be known: it is undone."""
        kept = {dropped.key for group in self.groups for dropped in group.dropped.values()}
        for group in look.new:
            for dropped in group.dropped.values():
                if dropped.key not in kept:
                    self._references.release(dropped.key)

    def _is_as_known(self, group: Group, look: Look) -> bool:
        """Tell whether a co-variable is the known one, made of the same objects."""
        return all(
            self._groups.get(name) is group
            and self._footprints[name] == look.footprints[name]
            and (name not in self._atoms or self._atoms[name] is look.values[name])
            for name in group.all_names
        )

    def forget_images(self) -> None:
        """Have the next look that sees everything store everything."""
        bare = {id(group): Group(None, group.names, group.dropped) for group in self.groups}
        self._groups = {name: bare[id(group)] for name, group in self._groups.items()}
        self._by_id = {id(group): group for group in bare.values()}
        self._atoms.clear()

    def _forget(self, name: str, kept: frozenset[int]) -> None:
        """Forget a name, which goes on to own some objects."""
        self._groups.pop(name, None)
        self._atoms.pop(name, None)
        self._unlimited.pop(name, None)
        known = self._footprints.pop(name, PLAIN_ATOM)
        for item in known.objects - kept:
            self._owners.pop(item, None)

    def _is_same_atom(self, names: frozenset[str], view: Mapping[str, Any]) -> bool:
        """True for one name that is bound to the immutable object it was bound to."""
        if len(names) > 1:
            return False
        (name,) = names
        missing = object()
        return self._atoms.get(name, missing) is view[name]

    def _is_tired(self, known: Group, names: frozenset[str], view: Mapping[str, Any]) -> bool:
        """True if saving these very objects took too long the last time."""
        return (
            any(dropped.tired for dropped in known.dropped.values())
            and known.all_names == names
            and all(
                self._references.get(dropped.key) is view[name]
                for name, dropped in known.dropped.items()
            )
        )

    def _only_pickles_otherwise(
        self, group: Group, known: Group, values: Mapping[str, Any], plain: set[str]
    ) -> bool:
        """Tell whether values that nothing has touched differ as they do at every look.

        Pickling a matplotlib figure, for one, changes a counter in it.
        """
        same_names = group.names == known.names and group.dropped == known.dropped
        return same_names and not self._imager.is_stable(values, group, plain)

    def _same_dropped(self, group: Group) -> set[str]:
        """Return the names that are not saved and stand for the very objects they stood for."""
        return {
            name
            for name, dropped in group.dropped.items()
            if (known := self._groups.get(name)) and known.dropped.get(name) == dropped
        }

    def _unchanged(
        self,
        names: frozenset[str],
        view: Mapping[str, Any],
        plain: set[str],
        *,
        untouched: bool,
    ) -> frozenset[str]:
        """Return the variables among names that only belong to another co-variable than before."""
        former = {id(group): group for name in names if (group := self._groups.get(name))}
        unchanged = [
            self._imager.variables_unchanged(group, view, plain, untouched=untouched)
            for group in former.values()
        ]
        return names & frozenset().union(*unchanged)

    def _defeat_of(self, name: str) -> str | None:
        value = self._namespace.get(name, vars(builtins).get(name))
        return self._unlimited.get(name) or unlimited(value)

    def group_of(self, name: str) -> Group | None:
        """Return the known co-variable of a name."""
        return self._groups.get(name)

    def footprint_of(self, name: str) -> Footprint:
        """Return the known footprint of a name."""
        return self._footprints.get(name, PLAIN_ATOM)

    def is_leaf(self, name: str) -> bool:
        """Tell whether a name stands for one object that holds numbers and strings only."""
        known = self._footprints[name]
        return known.plain and len(known.objects) == 1

    def owners_of(self, found: Footprint, known: Footprint) -> Iterator[str]:
        """Yield a name at least of each co-variable that shares something with ``found``.

        That one may be left out in which a name has the footprint ``known``.
        """
        for name in set(map(self._owners.get, found.objects - known.objects)):
            if name is not None:
                yield name
        for start, stop in found.memory:
            yield from self._spans.overlapping(start, stop)
        if not found.complete:
            yield from (name for name, known in self._footprints.items() if not known.complete)

    def instances_of(self, cls: int | None) -> Iterator[str]:
        """Yield the names through which instances of a class are reached: they pickle with it.

        Args:
            cls: its id; None for no class.
        """
        if cls is not None:
            yield from (name for name, known in self._footprints.items() if cls in known.classes)

    @property
    def saving(self) -> frozenset[str]:
        """The names being saved, or saved last."""
        return self._imager.saving

    @property
    def _spans(self) -> _Spans:
        if self._known_spans is None:
            self._known_spans = _Spans(self._footprints)
        return self._known_spans

    def atom(self, name: str, value: Any) -> bool:
        """Tell whether ``name`` stands for the very immutable object it is known to stand for."""
        return name in self._atoms and self._atoms[name] is value


class _Search:
    """One look's way from name to name."""

    def __init__(
        self,
        tracker: Tracker,
        view: Mapping[str, Any],
        namespace: dict[str, Any],
    ) -> None:
        self._tracker = tracker
        self._view = view
        self._namespace = namespace
        self._class_names: dict[int, list[str]] | None = None
        self._followed: set[int] = set()
        self._code_followed: set[types.CodeType] = set()
        self.names: set[str] = set()
        self.footprints: dict[str, Footprint] = {}
        self.broken: dict[str, str] = {}
        self.flat: dict[frozenset[str], bytes] = {}
        """Pickles of large values that hold numbers and strings only."""
        self._flat_room = KEPT_BYTES
        self.defeat: str | None = None
        self.by_request = False
        """True if names are looked at that no code may have touched."""
        self._touched: frozenset[str] = frozenset()

    @property
    def touched(self) -> frozenset[str]:
        """The names gone to for themselves, not because every name is looked at."""
        everything = self.defeat is None and not self.by_request
        return frozenset(self.names) if everything else self._touched

    def start(self, suspects: Uses) -> None:
        """Go to all suspects, and to what else is to be looked at."""
        self.follow(suspects.names)
        if suspects.defeat is not None:
            self.everything(suspects.defeat)
        elif suspects.verify and self.defeat is None:
            self.everything("asked for")
            self.by_request = True
        elif suspects.unsuspected and self.defeat is None:
            self._touched = frozenset(self.names)
            self.by_request = True
            self.follow(suspects.unsuspected)

    def everything(self, reason: str) -> None:
        """Go to every name there is."""
        if self.defeat is None:
            self._touched = frozenset(self.names)
            self.defeat = reason
            self.follow([*self._view, *self._tracker.names])

    def follow(self, suspects: Iterable[str]) -> None:
        """Go to these names and to all they lead to."""
        waiting = list(suspects)
        while waiting:
            name = waiting.pop()
            if name in self.names or not (
                name in self._view or self._tracker.group_of(name) is not None
            ):
                continue
            self.names.add(name)
            waiting.extend(self._leads_to(name))

    def _leads_to(self, name: str) -> Iterator[str]:
        known = self._tracker.group_of(name)
        if known is not None and id(known) not in self._followed:
            self._followed.add(id(known))  # once for all its names
            yield from known.all_names
        if name in self._view:
            value = self._view[name]
            if self._tracker.atom(name, value):
                self.footprints[name] = self._tracker.footprint_of(name)
                return
            found = self.footprints[name] = self._footprint(name, value)
            yield from self._tracker.instances_of(found.own_class)
            yield from self._used_by(found)
            yield from self._tracker.owners_of(found, self._tracker.footprint_of(name))
        # Of a class that has no name any more, the attributes are its instances'.
        yield from self._tracker.instances_of(self._tracker.footprint_of(name).own_class)
        yield from self._used_by(self._tracker.footprint_of(name))

    def _footprint(self, name: str, value: Any) -> Footprint:
        try:
            pickled = dumps_flat(name, value)
            if pickled is None:
                return footprint(value, self._namespace)
        except Exception as error:  # of users: a __class__ property, a metaclass
            self.broken[name] = reason_of(error)
            return Footprint(frozenset({id(value)}))
        if self._flat_room >= len(pickled):
            self._flat_room -= len(pickled)
            self.flat[frozenset([name])] = pickled
        return Footprint(frozenset([id(value)]), plain=True)

    def _used_by(self, found: Footprint) -> Iterator[str]:
        """Yield what the code and the classes of a value may touch."""
        if self.defeat is not None or self.by_request:
            return
        if found.classes:
            if self._class_names is None:
                self._class_names = {}
                for name, value in self._view.items():
                    if issubclass(type(value), type):
                        self._class_names.setdefault(id(value), []).append(name)
            for cls in found.classes:
                yield from self._class_names.get(cls, ())
        code = found.code - self._code_followed
        if code:
            self._code_followed |= code
            used = self._tracker.uses(code)
            if used.defeat is not None:
                self.everything(used.defeat)
            yield from used.names


class _Spans:
    """Which names have arrays in which memory: found by bisection."""

    def __init__(self, footprints: Mapping[str, Footprint]) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._names: list[str] = []
        spans = sorted((*span, name) for name, known in footprints.items() for span in known.memory)
        for start, stop, name in spans:
            if self._stops and start < self._stops[-1]:  # of one co-variable: one name will do
                self._stops[-1] = max(stop, self._stops[-1])
            else:
                self._starts.append(start)
                self._stops.append(stop)
                self._names.append(name)

    def overlapping(self, start: int, stop: int) -> Iterator[str]:
        """Yield a name of each co-variable that has something between two addresses."""
        at = max(bisect.bisect_right(self._starts, start) - 1, 0)
        for index in range(at, bisect.bisect_left(self._starts, stop)):
            if self._stops[index] > start:
                yield self._names[index]
