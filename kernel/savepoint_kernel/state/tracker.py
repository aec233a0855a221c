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

import builtins
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from traceback import format_exception_only
from typing import Any

from .fingerprint import Image, Put, image
from .graph import PLAIN_ATOM, Footprint, covariables, footprint, is_atom
from .liverefs import DroppedReference, LiveReferences, what_was_dropped
from .namespace import Uses, unlimited, uses

CompileCell = Callable[[str], "types.CodeType | None"]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A value that is not saved.

    Attributes:
        type: its type, with the module.
        reason: what pickling it raised.
        key: of the object in `liverefs.LiveReferences`.
    """

    type: str
    reason: str
    key: str


@dataclass(frozen=True, slots=True)
class Group:
    """A co-variable.

    Attributes:
        names: of its values that are saved; their order is no part of it.
        image: of these values; None if there are none.
        dropped: the others.
    """

    image: Image | None
    names: frozenset[str]
    dropped: Mapping[str, Dropped] = field(default_factory=dict)

    @property
    def all_names(self) -> frozenset[str]:
        """The names, saved or not."""
        return self.names | self.dropped.keys() if self.dropped else self.names


@dataclass(frozen=True, slots=True)
class Look:
    """What a look has seen.

    Attributes:
        defeat: why every name was verified; None if only those touched were.
        seen: the co-variables looked at, as they are now.
        gone: those known before that are no more, or are not as they were.
        new: those of ``seen`` that were not known.
        relinked: names in ``new`` that are as they were, but belong to another co-variable now.
        footprints: of the names in ``seen``.
        values: what the names in ``seen`` stand for.
    """

    defeat: str | None
    seen: tuple[Group, ...]
    gone: tuple[Group, ...]
    new: tuple[Group, ...]
    relinked: frozenset[str]
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
        guard: lets an interrupt raise while users' code may run, which never may end.

    Attributes:
        saving: the names being pickled.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        compile_cell: CompileCell,
        references: LiveReferences,
        guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._guard = guard
        self.saving: frozenset[str] = frozenset()
        self._references = references
        self._namespace = namespace
        self._compile_cell = compile_cell
        self._groups: dict[str, Group] = {}
        self._footprints: dict[str, Footprint] = {}
        self._owners: dict[int, str] = {}
        self._atoms: dict[str, Any] = {}
        self._unlimited: dict[str, str] = {}

    @property
    def names(self) -> frozenset[str]:
        """All known names."""
        return frozenset(self._groups)

    @property
    def groups(self) -> Iterator[Group]:
        """All known co-variables."""
        seen: set[int] = set()
        for group in self._groups.values():
            if id(group) not in seen:
                seen.add(id(group))
                yield group

    def uses(self, codes: Iterable[types.CodeType]) -> Uses:
        """Tell what code may touch, judged by what names stand for now and stood for before."""
        return uses(codes, self._defeat_of, self._compile_cell)

    def reached(self, view: Mapping[str, Any], suspects: Uses) -> frozenset[str]:
        """Return the names that these suspects lead to."""
        search = _Search(self, view, self._namespace)
        search.start(suspects)
        return frozenset(search.names)

    def look(self, view: Mapping[str, Any], suspects: Uses, put: Put) -> Look:
        """Compare the namespace with what is known.

        Args:
            view: the names to track, and their values.
            suspects: what may have changed; names that came or went need not be among it.
            put: stores a piece that was not known; see `fingerprint.image`.
        """
        search = _Search(self, view, self._namespace)
        search.start(suspects)
        search.follow(self._groups.keys() - view.keys())
        search.follow(view.keys() - self._groups.keys())
        fresh = search.footprints
        seen: list[Group] = []
        new: list[Group] = []
        relinked: set[str] = set()
        for names in covariables(fresh):
            known = self._groups.get(next(iter(names)))
            if known is not None and self._is_same_atom(names, view):
                seen.append(known)
                continue
            plain = all(fresh[name].plain for name in names)
            group = self._image(names, view, known, put, plain)
            if known is not None and group == known:
                seen.append(known)
            else:
                seen.append(group)
                new.append(group)
                relinked |= self._unchanged(names, view)
        kept = set(map(id, seen))
        before = [self._groups[name] for name in search.names if name in self._groups]
        gone = {id(group): group for group in before if id(group) not in kept}
        return Look(
            search.defeat,
            tuple(seen),
            tuple(gone.values()),
            tuple(new),
            frozenset(relinked),
            fresh,
            {name: view[name] for name in fresh},
        )

    def adopt(self, look: Look) -> None:
        """Let what was seen be what is known."""
        for group in (*look.gone, *look.seen):
            for name in group.all_names:
                self._forget(name)
        for group in look.seen:
            for name in group.all_names:
                known = look.footprints[name]
                self._groups[name] = group
                self._footprints[name] = known
                for item in known.objects:
                    self._owners[item] = name
                value = look.values[name]
                if is_atom(value):
                    self._atoms[name] = value
                defeat = unlimited(value)
                if defeat is not None:
                    self._unlimited[name] = defeat

    def forget_images(self) -> None:
        """Have the next look that sees everything store everything."""
        bare = {id(group): Group(None, group.names, group.dropped) for group in self.groups}
        self._groups = {name: bare[id(group)] for name, group in self._groups.items()}
        self._atoms.clear()

    def _forget(self, name: str) -> None:
        self._groups.pop(name, None)
        self._atoms.pop(name, None)
        self._unlimited.pop(name, None)
        known = self._footprints.pop(name, PLAIN_ATOM)
        for item in known.objects:
            self._owners.pop(item, None)

    def _is_same_atom(self, names: frozenset[str], view: Mapping[str, Any]) -> bool:
        """True for one name that is bound to the immutable object it was bound to."""
        if len(names) > 1:
            return False
        (name,) = names
        missing = object()
        return self._atoms.get(name, missing) is view[name]

    def _image(
        self,
        names: frozenset[str],
        view: Mapping[str, Any],
        known: Group | None,
        put: Put,
        plain: bool,
    ) -> Group:
        values = {name: view[name] for name in names}
        old = known.image if known is not None and known.names == names else None
        self.saving = names
        try:
            if plain:
                return Group(image(values, self._namespace, put, old, plain=True), names)
            with self._guard():
                return Group(image(values, self._namespace, put, old), names)
        except Exception as error:
            dropped = {name: self._dropped(view[name], error) for name in names}
        if len(names) > 1:
            for name in names:
                self.saving = frozenset({name})
                try:
                    with self._guard():
                        image({name: view[name]}, self._namespace, measure)
                except Exception as error:
                    dropped[name] = self._dropped(view[name], error)
                else:
                    del dropped[name]
        saved = names - dropped.keys()
        if not saved or saved == names:
            return Group(None, frozenset(), dropped)
        values = {name: view[name] for name in saved}
        try:
            return Group(image(values, self._namespace, put, None), saved, dropped)
        except Exception as error:
            dropped |= {name: self._dropped(view[name], error) for name in saved}
            return Group(None, frozenset(), dropped)

    def _unchanged(self, names: frozenset[str], view: Mapping[str, Any]) -> set[str]:
        """Return those names whose former co-variables have only become part of another one."""
        unchanged: set[str] = set()
        former = {id(group): group for name in names if (group := self._groups.get(name))}
        for group in former.values():
            if group.image is not None and group.names < names:
                values = {name: view[name] for name in group.names}
                try:
                    now = image(values, self._namespace, measure, group.image)
                except Exception:  # reported by the look itself
                    continue
                if now == group.image:
                    unchanged |= group.names
        return unchanged

    def _dropped(self, value: Any, error: Exception) -> Dropped:
        key = self._references.key_of(value)
        if type(value) is DroppedReference:
            _, kind, reason = what_was_dropped(value)
            return Dropped(kind, reason, key)
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return Dropped(kind, "".join(format_exception_only(error)).strip()[:300], key)

    def _defeat_of(self, name: str) -> str | None:
        value = self._namespace.get(name, vars(builtins).get(name))
        return self._unlimited.get(name) or unlimited(value)

    # -- for _Search

    def group_of(self, name: str) -> Group | None:
        """Return the known co-variable of a name."""
        return self._groups.get(name)

    def footprint_of(self, name: str) -> Footprint:
        """Return the known footprint of a name."""
        return self._footprints.get(name, PLAIN_ATOM)

    def owners_of(self, found: Footprint) -> Iterator[str]:
        """Yield a name at least of each known co-variable that shares something with ``found``."""
        for item in found.objects & self._owners.keys():
            yield self._owners[item]
        if found.memory or not found.complete:
            for name, known in self._footprints.items():
                if _overlap(known.memory, found.memory) or not (known.complete or found.complete):
                    yield name

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
        self._code_followed: set[types.CodeType] = set()
        self.names: set[str] = set()
        self.footprints: dict[str, Footprint] = {}
        self.defeat: str | None = None

    def start(self, suspects: Uses) -> None:
        """Go to all suspects."""
        if suspects.defeat is not None:
            self.everything(suspects.defeat)
        self.follow(suspects.names)

    def everything(self, reason: str) -> None:
        """Go to every name there is."""
        if self.defeat is None:
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
        if known is not None:
            yield from known.all_names
        if name in self._view:
            value = self._view[name]
            if self._tracker.atom(name, value):
                self.footprints[name] = self._tracker.footprint_of(name)
                return
            found = self.footprints[name] = footprint(value, self._namespace)
            yield from self._used_by(found)
            yield from self._tracker.owners_of(found)
        yield from self._used_by(self._tracker.footprint_of(name))

    def _used_by(self, found: Footprint) -> Iterator[str]:
        """Yield what the code and the classes of a value may touch."""
        if self.defeat is not None:
            return
        if found.classes:
            if self._class_names is None:
                self._class_names = {}
                for name, value in self._view.items():
                    if isinstance(value, type):
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


def _overlap(known: tuple[tuple[int, int], ...], found: tuple[tuple[int, int], ...]) -> bool:
    return any(a < d and c < b for a, b in known for c, d in found)


def measure(piece: memoryview) -> bytes:
    """Stand in for a store: what is only compared need not be kept."""
    return bytes(32)
