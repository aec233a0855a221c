"""The objects that values are made of, in an order that follows from the structure alone.

Two graphs that were built alike get the same numbers: place by place, breadth first, attributes by
name. Members of sets that are found nowhere else have no place; they come in the order of what they
look like (type, atoms, shape of what they hold).
"""

from __future__ import annotations

import collections
import datetime
import gc
import sys
import types
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .graph import ATOMS, is_atom, is_importable
from .kinds import CLASS, OPAQUE, PAYLOADS, Kind, kind_of
from .payload_arrays import Array
from .payloads import InexactError

LIMIT = 500_000
"""Objects per co-variable; larger ones are not anchored. An object costs 150 to 250 bytes."""


class Walk:
    """Numbers the objects of a graph.

    Args:
        namespace: the live namespace, at which it stops.
        live: ids of objects not to be walked into: loading found them instead of making them, or
            they hold nothing that has an identity.

    Attributes:
        objects: the objects, by number.
        kinds: how each is handled.
        held: numbers of the objects each holds.
        labels: attribute names of the last ones of these; empty where position says all.
        numbers: by id.
        roots: number of each name's value; names of immutable values are left out.
        leaves: numbers of live objects.
    """

    def __init__(self, namespace: dict[str, Any], live: Iterable[int] = ()) -> None:
        self.objects: list[Any] = []
        self.kinds: list[Kind] = []
        self.held: list[tuple[int, ...]] = []
        self.labels: list[tuple[Any, ...]] = []
        self.numbers: dict[int, int] = {}
        self.roots: dict[str, int] = {}
        self.leaves: set[int] = set()
        self._live = frozenset(live)
        self._namespace = namespace
        self._known: dict[type, Kind | None] = {}
        self._unordered: collections.deque[int] = collections.deque()
        self._labels: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def run(self, values: Mapping[str, Any]) -> bool:
        """Number what these names stand for; return False if it is more than `LIMIT` objects."""
        for name in sorted(values):
            value = values[name]
            if issubclass(type(value), type) and value.__module__ == "__main__":
                if id(value) not in self.numbers:
                    self._append(value, CLASS)
                self.roots[name] = self.numbers[id(value)]
            else:
                for number in self._number((value,)):
                    self.roots[name] = number
        while len(self.objects) <= LIMIT:
            if len(self.held) < len(self.objects):
                self._visit(len(self.held))
            elif self._unordered:
                self._order_members(self._unordered.popleft())
            else:
                return True
        return False

    def _visit(self, number: int) -> None:
        value, kind = self.objects[number], self.kinds[number]
        held: list[int] = []
        labels: tuple[Any, ...] = ()
        if number not in self.leaves:
            held = self._number(kind.payload.parts(value))
            if kind.attributed:
                attributes = kind.attributes(value)
                if not ATOMS.issuperset(map(type, attributes.values())):
                    found = [(key, self._number((item,))) for key, item in attributes.items()]
                    labels = tuple(key for key, numbers in found if numbers)
                    labels = self._labels.setdefault(labels, labels)
                    held += [numbers[0] for _, numbers in found if numbers]
            if kind.payload.unordered:
                members = kind.payload.members(value)
                if not ATOMS.issuperset(map(type, members)):
                    self._unordered.append(number)
        self.held.append(tuple(held) if held else ())
        self.labels.append(labels)

    def _number(self, items: Sequence[Any]) -> list[int]:
        """Return the numbers of those that have one; new ones get theirs."""
        if ATOMS.issuperset(map(type, items)):
            return []
        found = []
        for item in items:
            if type(item) in ATOMS:
                continue
            number = self.numbers.get(id(item))
            if number is None:
                kind = self.classify(item)
                if kind is None or len(self.objects) > LIMIT:
                    continue
                number = self._append(item, kind)
            found.append(number)
        return found

    def _append(self, item: Any, kind: Kind) -> int:
        number = self.numbers[id(item)] = len(self.objects)
        self.objects.append(item)
        self.kinds.append(kind)
        if id(item) in self._live and kind is not CLASS:
            self.leaves.add(number)
        return number

    def classify(self, item: Any) -> Kind | None:
        """Return how an object is handled; None if it counts as immutable."""
        cls = type(item)
        try:
            kind = self._known[cls]
        except KeyError:
            kind = self._known[cls] = None if cls in ATOMS else kind_of(cls)
        if cls is tuple or cls is frozenset:
            return None if ATOMS.issuperset(map(type, item)) else kind
        if cls is types.FunctionType:
            return None if is_importable(item) else kind
        if cls is dict:
            return None if item is self._namespace or _is_module_dict(item) else kind
        if cls is types.BuiltinFunctionType:
            if is_atom(item):
                return None
            # Only of types whose attributes are looked up without running anything.
            return kind if type(item.__self__) in PAYLOADS else OPAQUE
        if issubclass(cls, types.ModuleType) and sys.modules.get(item.__name__) is item:
            return None
        return kind

    def _order_members(self, number: int) -> None:
        members = self.kinds[number].payload.members(self.objects[number])
        fresh = [
            item
            for item in members
            if type(item) not in ATOMS
            and id(item) not in self.numbers
            and self.classify(item) is not None
        ]
        fresh.sort(key=self._sketch)
        held = self.held[number]
        first = len(held) - len(self.labels[number])
        self.held[number] = (*held[:first], *self._number(fresh), *held[first:])

    def _sketch(self, item: Any) -> str:
        """Describe an object without numbers in a way that does not depend on addresses."""
        words: list[str] = []
        seen: dict[int, int] = {}
        queue = collections.deque([item])
        while queue and len(words) < 1000:
            value = queue.popleft()
            kind = None if type(value) in ATOMS else self.classify(value)
            words.append(str(id(type(value))))
            if id(value) in self.numbers:
                words.append(f"#{self.numbers[id(value)]}")
            elif kind is not None and id(value) in seen:
                words.append(f"@{seen[id(value)]}")
            elif kind is not None:
                seen[id(value)] = len(seen)
                words += [kind.payload.outline(value), str(len(kind.payload.members(value)))]
                queue.extend(kind.payload.parts(value))
                attributes = kind.attributes(value) if kind.attributed else {}
                words.extend(key for key in attributes if type(key) is str)
                queue.extend(attributes.values())
            elif type(value) is tuple:
                queue.extend(value)
            # A time may be of a user's time zone, whose repr would be called.
            elif type(value) in ATOMS and type(value) not in (datetime.datetime, datetime.time):
                words.append(repr(value))
        return "\0".join(words)

    def hidden(self, item: Any) -> Iterable[Any]:
        """Yield what an opaque object holds, directly or not; stop at objects with a number."""
        seen = {id(item), id(self._namespace)}
        stack = [item]
        while stack:
            value = stack.pop()
            yield value
            number = self.numbers.get(id(value)) if value is not item else None
            if number is not None and not self.kinds[number].payload.frozen:
                continue
            if len(seen) > LIMIT:
                raise InexactError("too large an object of a C type")
            held = gc.get_referents(value)
            if issubclass(type(value), weakref.ref):
                held.append(value())
            kind = None if type(value) in ATOMS else self.classify(value)
            if kind is not None and isinstance(kind.payload, Array):
                held += [value.base, *kind.payload.parts(value)]
            for part in held:
                if id(part) in seen or type(part) in ATOMS or self.classify(part) is None:
                    continue
                seen.add(id(part))
                stack.append(part)


def _is_module_dict(item: dict[Any, Any]) -> bool:
    name = item.get("__name__")
    return type(name) is str and getattr(sys.modules.get(name), "__dict__", None) is item
