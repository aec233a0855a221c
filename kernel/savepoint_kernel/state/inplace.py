"""Rolling back in place: what a pickle brought back is put into the objects it was made of.

Unpickling makes new objects. Caches, callbacks and other threads hold the old ones, so these get
their former contents again and stay the objects they are. At commit time `anchor` walks the values
of a co-variable and remembers each mutable object by its place in the structure; `put_back` walks
the new objects, pairs them with the remembered ones place by place, and refills.

    structure        what a place is: the order in which the objects of a graph are numbered
    kinds            how a value of a class is taken apart: payload, attributes, neither
    payloads         contents of built-in types; `payload_arrays`, those of arrays and frames
    memory           arrays that see common memory
    sameness         what need not be written, as it is there already

Any pairing that is one to one and keeps types gives a graph isomorphic to the new one, so a wrong
pair could never lose sharing or a value. Where the structures disagree (``__getstate__`` left
something out), or an object has died, the new object is used. Members of sets that look the same
(`structure`) may be paired either way; if parts of them are shared in different ways, some of these
parts are new objects.

All of it is replaced, that is ``put_back`` returns its argument, if exactness would need more:

* an object of a C type that is not known here (an iterator, an lru_cache, a frame with an object
  column) or a class without a name holds a paired object, and nobody makes it hold the other one;
* an original can't be refilled: its class, shape, dtype or closure was changed, its buffer is
  exported and has another size, memory is shared in a way that can't be made again.

Lists, dicts, bytearrays, tuples and cells can't be referenced weakly. Anchors keep them, and what
they hold, alive until the next commit of the co-variable.

Immutable values (numbers, strings, tuples of these) have no identity here: those in containers that
did not change are the old ones, the others are new.

Order: plan; buffers; contents of the originals; then the new objects that stay in use. User code
runs at most in ``__hash__`` and ``__eq__`` of keys and members, before the last step. Up to that
step nothing of the new graph is touched, so it still is a correct result if something fails. What
the failed cell had put into the originals is let go only when all is in place.

Threads: the one that owns the namespace, with interrupts held back.
"""

from __future__ import annotations

import collections
import gc
import itertools
import logging
import operator
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..serialize.flat import FLAT, LARGE, items_of
from ..serialize.tensors import tensor_under
from .kinds import CLASS, Kind
from .leftout import MOST, leaves_out, left_out
from .memory import share_memory
from .payload_arrays import Array
from .payloads import FUNCTION, NO_PAYLOAD, InexactError, write_dict
from .sameness import same
from .structure import Walk

_log = logging.getLogger(__name__)


class Anchors:
    """What `anchor` remembers: objects by number, and the numbers each of them holds.

    Attributes:
        roots: number of each name's value; names of immutable values are left out.
        objects: a weak reference, the object itself if its type allows none, or None.
        types: the type each had.
        held: numbers of the objects each holds.
        labels: attribute names of the last ones of these; empty where position says all.
        facts: layout of arrays, code of functions.
        flat: True if there is one object, known to hold nothing that has an identity.
        contents: a copy of that one; None if there is none.
    """

    __slots__ = ("contents", "facts", "flat", "held", "labels", "objects", "roots", "types")

    def __init__(self, walk: Walk | None) -> None:
        self.roots: dict[str, int] = walk.roots if walk else {}
        self.held = walk.held if walk else []
        self.labels = walk.labels if walk else []
        self.facts: dict[int, Any] = {}
        self.flat = False
        self.contents: Any = None
        self.types: list[type] = []
        self.objects: list[Any] = []
        known = zip(walk.objects, walk.kinds, strict=True) if walk else ()
        for number, (item, kind) in enumerate(known):
            self.types.append(type(item))
            self.objects.append(weakref.ref(item) if kind.weak else None if kind.opaque else item)
            fact = kind.payload.fact(item)
            if fact is not None:
                self.facts[number] = fact

    @property
    def copied_bytes(self) -> int:
        """What the copy takes; what it holds is not copied."""
        return 0 if self.contents is None else sys.getsizeof(self.contents)

    def refill(self) -> dict[str, Any]:
        """Make the one object what it was when it was copied; returns it, by name."""
        (value,) = self.alive()
        if value is None:
            value = self.contents.copy()
        else:
            _fill_flat(value, self.contents)
        return dict.fromkeys(self.roots, value)

    def alive(self) -> list[Any]:
        """Return the objects themselves, None for those that are gone."""
        # A weak reference can itself be what is remembered, as its type allows none to it.
        return [
            item() if type(item) is weakref.ref and kept is not weakref.ref else item
            for item, kept in zip(self.objects, self.types, strict=True)
        ]

    def are_bound(self, view: Mapping[str, Any]) -> bool:
        """Tell whether names stand for the objects they stood for, as far as these live."""
        alive = self.alive()
        return all(
            alive[number] is None or alive[number] is view.get(name)
            for name, number in self.roots.items()
        )

    def are_in(self, values: Mapping[str, Any], namespace: dict[str, Any]) -> bool:
        """Tell whether values consist of these very objects, each at its place."""
        walk = Walk(namespace)
        return (
            walk.run(values)
            and walk.roots == self.roots
            and len(walk.objects) == len(self.objects)
            and all(map(operator.is_, walk.objects, self.alive()))
        )


def anchor(
    values: Mapping[str, Any],
    namespace: dict[str, Any],
    leaves: Iterable[int] = (),
    room: int = 0,
) -> Anchors:
    """Remember the objects of a co-variable.

    Args:
        values: its names and values, as they were pickled.
        namespace: the live namespace, at which the walk stops.
        leaves: ids of objects known to hold nothing that has an identity.
        room: bytes that a copy of such an object may take.

    Returns:
        What `put_back` needs; nothing in it if there are more than `structure.LIMIT` objects.
    """
    leaves = frozenset(leaves)
    walk = Walk(namespace, leaves)
    anchors = Anchors(walk if walk.run(values) else None)
    anchors.flat = leaves == {*map(id, walk.objects)} and len(leaves) == 1
    if anchors.flat and type(walk.objects[0]) in FLAT and sys.getsizeof(walk.objects[0]) <= room:
        anchors.contents = walk.objects[0].copy()
    return anchors


def put_back(loaded: dict[str, Any], anchors: Anchors, namespace: dict[str, Any]) -> dict[str, Any]:
    """Make the originals what they were.

    Args:
        loaded: the names of the co-variable with new values, used by nobody else.
        anchors: of the state that ``loaded`` is.
        namespace: the live namespace. It is not changed.

    Returns:
        What each name is to be bound to; ``loaded`` itself if everything is replaced.

    Raises:
        BaseException: what ``__hash__`` of a key raised, if no Exception; ``loaded`` is intact.
    """
    refilled = _refill_flat(loaded, anchors) if anchors.flat else None
    if refilled is not None:
        return refilled
    try:
        return _Refill(loaded, anchors, namespace).run()
    except InexactError as reason:
        _log.debug("replaced %s: %s", ", ".join(loaded), reason)
    except Exception:
        _log.debug("replaced %s", ", ".join(loaded), exc_info=True)
    return loaded


def _refill_flat(loaded: dict[str, Any], anchors: Anchors) -> dict[str, Any] | None:
    """Do what `_Refill` does for a list, dict or set of numbers and strings, in C."""
    (original,) = anchors.alive()
    (new, *others) = {id(value): value for value in loaded.values()}.values()
    if others or type(original) is not type(new) or type(new) not in FLAT:
        return None
    # It may hold itself, but for the large ones, which were seen to hold nothing of the kind.
    if len(new) < LARGE and any(item is new for item in items_of(new)):
        return None
    _fill_flat(original, new)
    return dict.fromkeys(loaded, original)


def _fill_flat(original: Any, contents: Any) -> None:
    kept = original.copy()  # what was put there since goes when this is done
    if type(original) is list:
        original[:] = contents
    else:
        original.clear()
        original.update(contents)
    del kept


class _Refill:
    def __init__(self, loaded: dict[str, Any], anchors: Anchors, namespace: dict[str, Any]) -> None:
        self._loaded = loaded
        self._anchors = anchors
        self._alive = anchors.alive()  # strong from here on
        self._namespace = namespace
        self._walk = self._new_walk()
        self._partner: dict[int, int] = {}
        self._target: dict[int, Any] = {}
        """What stands for an object of the new graph. Frozen ones are added as they are needed."""
        self._claimed: set[int] = set()
        self._dropped: list[Any] = []

    def _new_walk(self) -> Walk:
        return Walk(self._namespace, [id(item) for item in self._alive if item is not None])

    def run(self) -> dict[str, Any]:
        if not self._anchors.objects or not self._walk.run(self._loaded):
            return self._loaded
        self._pair()
        if self._keep_left_out():
            self._walk, self._partner = self._new_walk(), {}
            if not self._walk.run(self._loaded):
                return self._loaded
            self._pair()
        walk = self._walk
        for number, (item, kind) in enumerate(zip(walk.objects, walk.kinds, strict=True)):
            if not kind.payload.frozen:
                self._target[number] = self._original(number, item)
        share_memory(walk, self._partner, self._target)
        for number, (item, kind) in enumerate(zip(walk.objects, walk.kinds, strict=True)):
            new = number not in walk.leaves and self._target.get(number) is item
            if new and kind.payload is FUNCTION:
                self._target[number] = FUNCTION.rewired(item, self._now)
        for number in self._refilled():
            fact = self._fact(number)
            original, item = self._target[number], walk.objects[number]
            if number in self._partner:
                walk.kinds[number].payload.check(original, item, fact, self._now)
        self._check_opaque()
        self._write_buffers()
        later = [*map(self._fill, self._post_order())]
        result = {
            name: self._now(value) if name in walk.roots else value
            for name, value in self._loaded.items()
        }
        self._adopt_frames()
        for write in later:
            write()
        for number, item in enumerate(walk.objects):
            if self._target.get(number, item) is not item and hasattr(type(item), "__del__"):
                _disarm(item)
        return result

    def _pair(self) -> None:
        walk, anchors = self._walk, self._anchors
        taken: set[int] = set()
        queue = collections.deque(
            (number, anchors.roots[name])
            for name, number in walk.roots.items()
            if name in anchors.roots
        )
        while queue:
            new, old = queue.popleft()
            same_type = type(walk.objects[new]) is anchors.types[old]
            if new in self._partner or old in taken or not same_type:
                continue
            self._partner[new] = old
            taken.add(old)
            queue.extend(self._correspondence(new, old))

    def _keep_left_out(self) -> bool:
        """Give new objects what their pickles left out, if their originals have not changed."""
        kept = False
        pairs = (
            (self._walk.objects[new], self._alive[old], self._walk.kinds[new].get_dict)
            for new, old in self._partner.items()
            if self._walk.kinds[new].get_dict and leaves_out(type(self._walk.objects[new]))
        )
        for item, original, get_dict in itertools.islice(pairs, MOST):
            if type(original) is type(item):
                found = left_out(original, item, self._namespace)
                get_dict(item).update(found)
                kept = kept or bool(found)
        return kept

    def _correspondence(self, new: int, old: int) -> Iterable[tuple[int, int]]:
        held, was_held = self._walk.held[new], self._anchors.held[old]
        labels, was_labels = self._walk.labels[new], self._anchors.labels[old]
        if labels == was_labels and len(held) == len(was_held):
            return zip(held, was_held, strict=True)
        first, was_first = len(held) - len(labels), len(was_held) - len(was_labels)
        by_label = dict(zip(was_labels, was_held[was_first:], strict=True))
        pairs = [
            (number, by_label[label])
            for label, number in zip(labels, held[first:], strict=True)
            if label in by_label
        ]
        if first == was_first:
            pairs += zip(held[:first], was_held[:was_first], strict=True)
        return pairs

    def _original(self, number: int, item: Any) -> Any:
        """Return the object to be refilled: the one of old if there is one, else ``item``."""
        kind = self._walk.kinds[number]
        old = self._partner.get(number)
        original = self._alive[old] if old is not None else None
        if original is item or number in self._walk.leaves:
            self._partner.pop(number, None)
            return item
        of_tensor = isinstance(kind.payload, Array) and tensor_under(item) is not None
        if original is None or kind.opaque or of_tensor:
            self._partner.pop(number, None)
            return item
        if type(original) is not type(item):
            raise InexactError(f"an object of {type(item)!r} was given another class")
        return original

    def _fact(self, number: int) -> Any:
        return self._anchors.facts.get(self._partner.get(number, -1))

    def _refilled(self) -> list[int]:
        """Return the numbers of objects that are to be written to now, not being new ones."""
        return [
            number
            for number, target in self._target.items()
            if target is not self._walk.objects[number]
        ]

    def _now(self, item: Any) -> Any:
        number = self._walk.numbers.get(id(item))
        if number is None:
            return item
        if number not in self._target:
            self._target[number] = self._frozen(number, item)
        return self._target[number]

    def _holds(self, number: int) -> Sequence[int]:
        """Return the numbers of all that an object holds, members found elsewhere included."""
        walk, kind = self._walk, self._walk.kinds[number]
        if not kind.payload.unordered or number in walk.leaves:
            return walk.held[number]
        members = kind.payload.members(walk.objects[number])
        known = [walk.numbers[id(item)] for item in members if id(item) in walk.numbers]
        return (*known, *walk.held[number])

    def _moved(self, number: int) -> bool:
        items = map(self._walk.objects.__getitem__, self._holds(number))
        return any(self._now(item) is not item for item in items)

    def _frozen(self, number: int, item: Any) -> Any:
        payload = self._walk.kinds[number].payload
        held = (*payload.parts(item), *payload.members(item))
        if all(self._now(part) is part for part in held):
            return item
        made = payload.content(item, self._now, True)
        old = self._partner.get(number)
        original = self._alive[old] if old is not None else None
        if type(original) is type(item) and payload.holds(original, made):
            return original
        return made

    def _post_order(self) -> list[int]:
        """Return the numbers such that what an object holds comes first, cycles apart.

        That is the order in which a pickle sets states: a key has what its hash needs.
        """
        walk = self._walk
        order: list[int] = []
        entered: set[int] = set()
        stack = [(number, False) for number in reversed(range(len(walk.objects)))]
        while stack:
            number, left = stack.pop()
            if left:
                order.append(number)
            elif number not in entered:
                entered.add(number)
                stack.append((number, True))
                stack.extend((other, False) for other in reversed(self._holds(number)))
        return order

    def _fill(self, number: int) -> Callable[[], None]:
        """Write to an original. For a new object, return what will do it."""
        item, kind = self._walk.objects[number], self._walk.kinds[number]
        target = self._now(item)
        if number in self._walk.leaves or kind.opaque or kind.payload.adopts:
            return _nothing
        moved = self._moved(number)
        if target is item and not moved:
            return _nothing
        payload = NO_PAYLOAD if kind.payload.frozen else kind.payload
        content = payload.content(item, self._now, moved)
        attributes = kind.attributes(item) if kind.attributed else {}
        if moved:
            attributes = {label: self._now(value) for label, value in attributes.items()}

        def write() -> None:
            if not payload.buffer and not payload.holds(target, content):
                self._dropped.append(gc.get_referents(target))
                if isinstance(payload, Array):  # numpy does not tell the collector
                    self._dropped.append([*payload.parts(target)])
                payload.write(target, content, self._fact(number))
            if payload is FUNCTION and number in self._partner:
                code = self._fact(number)
                if target.__code__ is not code:
                    target.__code__ = code
            if kind.attributed:
                self._write_attributes(kind, target, item, attributes)

        if target is item:
            return write
        write()
        return _nothing

    def _write_attributes(
        self, kind: Kind, target: Any, item: Any, attributes: dict[Any, Any]
    ) -> None:
        if kind is CLASS:
            for name, value in kind.attributes(target).items():
                if attributes[name] is not value:
                    type.__setattr__(target, name, attributes[name])
            return
        old = kind.slot_values(target) if kind.slots else {}
        self._dropped.append(old)
        for slot in kind.slots:
            if slot not in attributes and slot in old:
                slot.__delete__(target)
            elif slot in attributes and not (slot in old and same(old[slot], attributes[slot])):
                slot.__set__(target, attributes[slot])
        if not kind.get_dict:
            return
        own = kind.get_dict(target)
        loaded_dict = kind.get_dict(item)
        if id(loaded_dict) in self._walk.numbers:
            # Something else holds the dict too; it is filled for itself.
            own = self._now(loaded_dict)
            if kind.get_dict(target) is not own:
                kind.set_dict(target, own)
            return
        if id(own) in self._claimed_dicts():
            own = {}
            kind.set_dict(target, own)  # SimpleNamespace has none, and no way to share its dict
        self._claimed.add(id(own))
        if kind.slots:
            attributes = {key: attributes[key] for key in attributes if key not in kind.slots}
        self._dropped.append([*own.values()])
        write_dict(own, attributes)

    def _claimed_dicts(self) -> set[int]:
        if not self._claimed:
            self._claimed.update(
                id(target) for target in self._target.values() if issubclass(type(target), dict)
            )
        return self._claimed

    def _write_buffers(self) -> None:
        # First what may change its size and so may fail; then owners of memory, then views.
        walk, arrays = self._walk, []
        for number in self._refilled():
            kind, target = walk.kinds[number], self._target[number]
            if kind.payload.buffer:
                kind.payload.write(target, walk.objects[number], None)
            elif isinstance(kind.payload, Array) and not target.dtype.hasobject:
                arrays.append((not target.flags.owndata, number, kind.payload))
        for _, number, payload in sorted(arrays, key=operator.itemgetter(0, 1)):
            payload.write_bytes(self._target[number], walk.objects[number], self._fact(number))

    def _check_opaque(self) -> None:
        walk = self._walk
        for number, (item, kind) in enumerate(zip(walk.objects, walk.kinds, strict=True)):
            if number in walk.leaves or not (kind.opaque or kind.payload.adopts):
                continue
            for value in walk.hidden(item):
                held = walk.numbers.get(id(value), -1)
                if value is not item and self._target.get(held, value) is not value:
                    raise InexactError(f"{type(item)!r} holds an object that is to be kept")
        classes = {base for cls in {*map(type, walk.objects)} for base in cls.__mro__}
        for cls in classes:  # without a name, or with one in another co-variable
            if cls.__module__ != "__main__" or id(cls) in walk.numbers:
                continue
            for value in walk.hidden(cls):
                held = walk.numbers.get(id(value), -1)
                if self._target.get(held, value) is not value:
                    raise InexactError(f"{cls!r} holds an object that is to be kept")

    def _adopt_frames(self) -> None:
        for number in self._refilled():
            item, payload = self._walk.objects[number], self._walk.kinds[number].payload
            target = self._target[number]
            if payload.adopts and not payload.holds(target, item):
                payload.write(target, item, None)


class _Husk:
    """What a new object is made of whose original goes on: one without a finalizer."""


def _disarm(item: Any) -> None:
    """Keep the finalizer of an object from freeing what the original owns."""
    # With __slots__ it can't be: the layout is another one.
    with suppress(TypeError):
        object.__setattr__(item, "__class__", _Husk)


def _nothing() -> None:
    pass
