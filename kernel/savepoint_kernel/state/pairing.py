"""Which objects an earlier commit was made of, so that an undo refills them and not others.

A rollback has `inplace.Anchors` of the state just before. An undo goes back further, and nothing
may be kept alive for it: of each committed co-variable a `Trace` notes where its objects were in
memory and how they held each other. At a checkout, `Past.find` looks for them among the objects
that are let go or bound anew, and makes anchors of those it finds.

To pair by name or by place would be wrong: a name that was bound to another object since (to
``sys.path``, say) would have the old contents put into that one. So an object is paired only if it
is the one that was there:

* weakly referenced, if its type allows that and does not mind;
* else (list, dict, array, ...) by type and address, if it was seen there by each commit since.

An object that was alive then can't be taken for another one, as no other has its address. One made
since can, if within one cell its address was freed and used again; the result still is isomorphic
to the commit, but whoever else holds that object sees the contents of the one before it.

Objects that only other, unchanged co-variables hold are not looked at: they stay as they are.

Threads: the one that owns the namespace.
"""

from __future__ import annotations

import gc
import logging
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import xxhash

from .fingerprint import Image
from .graph import ATOMS, Footprint
from .imager import Group
from .inplace import Anchors
from .kinds import CLASS, Kind, kind_of
from .payload_arrays import Array
from .payloads import BY_BASE
from .structure import LIMIT, Walk

BUDGET = 100_000
"""Objects noted in all, at 150 to 250 bytes each; the oldest states are forgotten first."""

LARGE = 20_000
"""Objects from which on only what the names themselves stand for is noted."""

_HOLDERS = frozenset({tuple, frozenset, types.MethodType, slice})
"""Immutable, so no part of a footprint, but on the way to what is."""

FootprintOf = Callable[[str], Footprint]

_log = logging.getLogger(__name__)


class Trace:
    """The objects of one co-variable, none of them kept alive.

    Args:
        walk: of its values.
        step: when it was noted.
        flat: see `Anchors`.
    """

    __slots__ = (
        *("_facts", "_flat", "_held", "_labels", "_objects", "_roots", "_types"),
        *("addresses", "step"),
    )

    def __init__(self, walk: Walk, step: int, flat: bool) -> None:
        self._flat = flat
        self.step = step
        self.addresses = [*map(id, walk.objects)]
        self._roots, self._held, self._labels = walk.roots, walk.held, walk.labels
        self._facts: dict[int, Any] = {}
        self._types: list[weakref.ref[type]] = []
        self._objects: list[weakref.ref[Any] | None] = []
        for number, (item, kind) in enumerate(zip(walk.objects, walk.kinds, strict=True)):
            self._types.append(weakref.ref(type(item)))
            # Not arrays: numpy resizes none that is referenced weakly.
            weak = kind.weak and not isinstance(kind.payload, Array)
            self._objects.append(weakref.ref(item) if weak else None)
            fact = kind.payload.fact(item)
            if fact is not None:
                self._facts[number] = fact

    def anchors(self, live: Mapping[int, Any], left: Mapping[int, int]) -> Anchors | None:
        """Return anchors of those objects that are still there; None if none is.

        Args:
            live: the objects that may be refilled, by address.
            left: when an address was last seen to be no part of the namespace any more.
        """
        known = zip(self.addresses, self._objects, self._types, strict=True)
        objects = [
            item
            if (item := live.get(address)) is not None
            and type(item) is cls()
            and (left.get(address, 0) <= self.step if reference is None else reference() is item)
            else None
            for address, reference, cls in known
        ]
        if not any(item is not None for item in objects):
            return None
        found = Anchors(None)
        found.roots, found.held, found.labels = self._roots, self._held, self._labels
        found.facts, found.objects, found.flat = self._facts, objects, self._flat
        found.types = [cls() or type(None) for cls in self._types]
        return found


class Past:
    """The traces of the states this process was in."""

    def __init__(self) -> None:
        self._traces: dict[bytes, Trace] = {}  # the state that began first comes first
        self._size = 0
        self._step = 0
        self._left: dict[int, int] = {}

    def note(
        self,
        gone: Iterable[Group],
        made: Iterable[Group],
        values: Mapping[str, Any],
        namespace: dict[str, Any],
        footprint_of: FootprintOf,
    ) -> None:
        """Note what co-variables are made of now.

        Args:
            gone: co-variables that are no more.
            made: co-variables that are new, or made of other objects than before.
            values: of these, by name.
            namespace: the live namespace.
            footprint_of: returns the footprint of a name.
        """
        self._step += 1
        former: set[int] = set()
        for group in gone:
            if group.image is not None and (trace := self._traces.get(_key(group.image))):
                former.update(trace.addresses)
        for group in made:
            own = {name: values[name] for name in group.names}
            if group.image is None or ATOMS.issuperset(map(type, own.values())):
                continue
            key = _key(group.image)
            if key in self._traces:
                former.update(self._forget(key).addresses)
            trace = _trace(own, namespace, footprint_of, self._step)
            if trace is not None:
                self._traces[key] = trace
                self._size += len(trace.addresses)
        for trace in reversed(self._traces.values()):
            if trace.step < self._step:
                break
            former.difference_update(trace.addresses)
        self._left.update(dict.fromkeys(former, self._step))
        self._trim()

    def find(self, group: Group, live: Mapping[int, Any]) -> Anchors | None:
        """Return anchors of a co-variable as it was; None if nothing of it is left.

        Args:
            group: the co-variable.
            live: see `refillable`.
        """
        trace = self._traces.get(_key(group.image)) if group.image is not None else None
        return trace.anchors(live, self._left) if trace else None

    def _forget(self, key: bytes) -> Trace:
        trace = self._traces.pop(key)
        self._size -= len(trace.addresses)
        return trace

    def _trim(self) -> None:
        while self._size > BUDGET:
            self._forget(next(iter(self._traces)))
        if len(self._left) > BUDGET:
            first = next((trace.step for trace in self._traces.values()), self._step)
            self._left = {key: step for key, step in self._left.items() if step > first}
        if len(self._left) > BUDGET:
            self._traces, self._size, self._left = {}, 0, {}


def refillable(values: Mapping[str, Any], footprint_of: FootprintOf) -> dict[int, Any]:
    """Return the objects that these names stand for and hold, by address.

    Args:
        values: names that are about to be unbound or bound anew, all there are of a co-variable.
        footprint_of: returns the footprint of a name.
    """
    # What is no part of a footprint (a module, an index of pandas) others may hold unchanged.
    inside = frozenset().union(*(footprint_of(name).objects for name in values))
    found = {id(value): value for value in values.values() if id(value) in inside}
    level = [value for name, value in values.items() if not _is_leaf(footprint_of(name))]
    kinds: dict[type, Kind | None] = {}
    while level:
        held = gc.get_referents(*level)
        for item in level:
            held += _further(item, kinds)
        fresh = {
            id(item): item
            for item in held
            if id(item) not in found and (id(item) in inside or type(item) in _HOLDERS)
        }
        found |= fresh
        level = [*fresh.values()]
    return found


def _trace(
    values: Mapping[str, Any], namespace: dict[str, Any], footprint_of: FootprintOf, step: int
) -> Trace | None:
    if sum(len(footprint_of(name).objects) for name in values) > LIMIT:
        return None  # `put_back` would give up
    walk = Walk(namespace, _leaves(values, footprint_of))
    try:
        done = walk.run(values)
        flat = len(walk.objects) == 1 and all(_is_flat(footprint_of(name)) for name in values)
        return Trace(walk, step, flat) if done and 0 < len(walk.objects) < BUDGET // 2 else None
    except Exception:  # a value that can't be walked can be committed all the same
        _log.debug("no trace of %s", ", ".join(values), exc_info=True)
        return None


def _leaves(values: Mapping[str, Any], footprint_of: FootprintOf) -> Iterator[int]:
    """Yield the addresses of values not to be walked into."""
    for name, value in values.items():
        if _is_leaf(footprint_of(name)):
            yield id(value)


def _is_leaf(known: Footprint) -> bool:
    return _is_flat(known) or len(known.objects) > LARGE


def _is_flat(known: Footprint) -> bool:
    return known.plain and len(known.objects) == 1


def _further(item: Any, kinds: dict[type, Kind | None]) -> Iterable[Any]:
    """Return what the collector does not tell, or only by way of a dict that is no object yet."""
    cls = type(item)
    if cls in BY_BASE:
        return ()
    if issubclass(cls, type):
        return CLASS.attributes(item).values()
    if issubclass(cls, weakref.ref):
        return (item(),)
    if cls not in kinds:
        kinds[cls] = kind_of(cls)
    kind = kinds[cls]
    if kind is None:
        return ()
    attributes = kind.get_dict(item).values() if kind.get_dict else ()
    return (
        (*attributes, *kind.payload.parts(item)) if isinstance(kind.payload, Array) else attributes
    )


def _key(image: Image) -> bytes:
    digest = xxhash.xxh3_128()
    for run in image.runs:
        digest.update(len(run).to_bytes(8, "little"))
        digest.update(b"".join(piece.digest for piece in run))
    return digest.digest()
