"""Which names share mutable state? Those are one co-variable: saved and restored together.

The word and the idea are Kishu's (VLDB 18(4), 2025). There, names are linked through everything a
pickler memoises, so that any two arrays share their dtype and any two dicts an equal key, and in
practice all data is one co-variable. Here names are linked only through what can change:

* a mutable object that both reach (a list, an instance, a function with its closure, ...);
* memory that both see (numpy views, frames with a common block, a memoryview and its owner).

Not through immutable values, modules, dtypes, pandas indexes, classes, or importable functions.
Classes that cells define are no links either: an instance is pickled with a reference to its class,
which is one object per process whatever comes with it.

The walk asks the garbage collector for referents, which sees what C types hold; numpy arrays hide
theirs and are asked themselves. A container of atoms (numbers, strings) is one step, however long.

Limits: what a C type does not tell the collector (and is no buffer) is not seen. A graph of more
than `LIMIT` objects is not walked to its end; such names count as linked with each other.

Threads: whoever owns the namespace; nothing here is kept.
"""

from __future__ import annotations

import array
import asyncio
import builtins
import collections
import datetime
import decimal
import enum
import fractions
import gc
import itertools
import logging
import operator
import re
import sys
import types
import uuid
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..serialize.snapshots import is_copy, used_by
from ..serialize.tensors import storage_span

LIMIT = 2_000_000
"""Objects visited for one name at most; a walk takes about a microsecond for each."""

_FEW = 16
"""Objects of a type that are looked at one by one: to find out more of it takes longer."""

_TOGETHER = 4096
"""Objects whose contents are looked at together: lists of these should stay in a CPU's cache."""

_MANY = 100_000
"""Members from which on a container is asked whether all are atoms: to list them takes memory."""

ATOMS: frozenset[type] = frozenset(
    {
        bool,
        bytes,
        complex,
        datetime.date,
        datetime.datetime,
        datetime.time,
        datetime.timedelta,
        datetime.timezone,
        decimal.Decimal,
        float,
        fractions.Fraction,
        int,
        range,
        re.Match,
        re.Pattern,
        str,
        type(None),
        type(...),
        type(NotImplemented),
        types.CodeType,
        types.FrameType,
        types.MethodDescriptorType,
        types.WrapperDescriptorType,
        uuid.UUID,
    }
)
"""Exact types without mutable state of their own, that hold nothing mutable either."""

_BUILTIN = frozenset({types.BuiltinFunctionType, types.MethodWrapperType})
_SHOWN_OR_BOUND = _BUILTIN | {types.MappingProxyType}
"""Exact types of which some are atoms, and the others hold what they show or are bound to."""

_PLAIN_ATOMS = frozenset({bool, bytes, complex, float, int, str, type(None)})
_PLAIN = _PLAIN_ATOMS | {dict, frozenset, list, set, tuple}
"""Exact types that any pickler saves as they are, with no code of Python's."""

_CONTAINERS = frozenset({dict, frozenset, list, set, tuple, collections.deque})
_OF_THE_PROCESS = (logging.Logger, logging.Manager, asyncio.AbstractEventLoop)
"""They lead to everything there is, and a co-variable with one of them would have all names."""

_KERNEL = frozenset({"ipykernel", "savepoint_kernel"})
"""What these made does so too: the shell, its streams, comms."""

_GENERATORS = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
_INLINE_VALUES = 1 << 2
"""Flag of classes whose instances have a dict only when somebody asks for it (3.13)."""

_SPECIAL = (types.FunctionType, types.ModuleType, array.array, memoryview, weakref.ref)
_IMMUTABLE_CONTAINERS = (tuple, frozenset, types.MethodType, slice, *_SHOWN_OR_BOUND)
"""Not links themselves, but what they hold is."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The mutable state a value reaches.

    Attributes:
        objects: ids of its mutable objects; valid while the value is alive and unchanged.
        memory: address ranges ``(start, stop)`` of its buffers.
        code: what may run when the value is used: functions of the live namespace, methods of
            classes that cells defined.
        classes: ids of these classes.
        own_class: id of the value if it is such a class, else None.
        plain: True if there is nothing but lists, dicts, sets and tuples of numbers and strings.
        complete: False if the walk was given up at `LIMIT`.
    """

    objects: frozenset[int]
    memory: tuple[tuple[int, int], ...] = ()
    code: frozenset[types.CodeType] = frozenset()
    classes: frozenset[int] = frozenset()
    own_class: int | None = None
    plain: bool = False
    complete: bool = True


_ATOM = Footprint(frozenset())
PLAIN_ATOM = Footprint(frozenset(), plain=True)
"""Of a number or a string."""


def is_atom(value: Any) -> bool:
    """Tell whether ``value`` is immutable and holds nothing mutable, without asking any code.

    Built-in functions are, and methods of classes; those bound to any other object are not. A
    mapping proxy is one if it shows the attributes of a class.
    """
    kind = type(value)
    if kind in _BUILTIN:
        owner = type(value.__self__)
        return owner is type(None) or issubclass(owner, (types.ModuleType, type))
    if kind is types.MappingProxyType:
        # Every class has a docstring, be it None, which can't be deleted. ctypes derives from dict.
        (shown,) = gc.get_referents(value)
        return issubclass(type(shown), dict) and dict.__contains__(shown, "__doc__")
    return kind in ATOMS


def footprint(value: Any, namespace: Mapping[str, Any]) -> Footprint:
    """Walk ``value``.

    Args:
        value: what a name stands for. A class is walked into only here: its attributes are its own.
        namespace: the live namespace, at which the walk stops.
    """
    if type(value) in _PLAIN_ATOMS:
        return PLAIN_ATOM
    if is_atom(value):
        return _ATOM
    walk = _Walk(namespace)
    if isinstance(value, type):
        walk.plain = False
        walk.enter_class(value)
        complete = walk.run(_class_attributes(value))
    else:
        complete = walk.run((value,))
    return Footprint(
        frozenset(walk.objects),
        tuple(walk.memory),
        frozenset(walk.code),
        frozenset(walk.classes),
        id(value) if id(value) in walk.classes else None,
        walk.plain,
        complete,
    )


class _Walk:
    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self.objects: set[int] = set()
        self.memory: list[tuple[int, int]] = []
        self.code: set[types.CodeType] = set()
        self.classes: set[int] = set()
        self.plain = True
        self._namespace = namespace
        self._seen: set[int] = {id(namespace), id(vars(builtins))}  # or `objects` has it
        self._count = 0
        # Temporaries must outlive the walk: a freed one's id would be taken for another's.
        self._keep: list[Any] = []
        numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
        torch: Any = sys.modules.get("torch")
        self._ndarray: Any = numpy.ndarray if numpy else ()
        # Not yet there, for code that runs while torch is imported.
        self._tensor: Any = getattr(torch, "Tensor", ())
        self._immutable: tuple[Any, ...] = (type, enum.Enum, *_OF_THE_PROCESS)
        if numpy:
            self._immutable += (numpy.generic, numpy.dtype, numpy.ufunc)
        if pandas:
            # Immutable for users; copies of a frame share them.
            placement = pandas._libs.internals.BlockPlacement
            self._immutable += (pandas.Index, pandas.api.extensions.ExtensionDtype, placement)
        if self._tensor:
            self._immutable += (torch.dtype, torch.device, torch.layout, torch.memory_format)

    def run(self, roots: Iterable[Any]) -> bool:
        """Walk, one layer after the other; False if it was given up."""
        layer: dict[type, list[Any]] = {}
        self._sort(list(roots), layer)
        while layer:
            self._keep.append(layer)
            following: dict[type, list[Any]] = {}
            for kind, values in layer.items():
                for start in range(0, len(values), _TOGETHER):
                    fresh, ids = self._unseen(values[start : start + _TOGETHER])
                    self._count += len(fresh)
                    if self._count > LIMIT:
                        return False
                    if fresh:
                        self._sort(self._held_by(kind, fresh, ids), following)
            layer = following
        return True

    def _sort(self, values: list[Any], layer: dict[type, list[Any]]) -> None:
        """Add values to others of their types, but for atoms, of which there may be millions."""
        kinds = [*map(type, values)]
        different = set(kinds)
        self.plain = self.plain and different <= _PLAIN
        different -= ATOMS
        if len(different) * _FEW < len(values):
            for kind in different:
                same = map(operator.is_, kinds, itertools.repeat(kind))
                layer.setdefault(kind, []).extend(itertools.compress(values, same))
        else:
            for value in values:
                if type(value) in different:
                    layer.setdefault(type(value), []).append(value)

    def _unseen(self, values: list[Any]) -> tuple[list[Any], Collection[int]]:
        """Return the values not met before, each once, and their ids."""
        if len(values) > _FEW:
            ids = {*map(id, values)}
            new = self._seen.isdisjoint(ids) and self.objects.isdisjoint(ids)
            if new and len(ids) == len(values):
                return values, ids
        fresh = {
            id(value): value
            for value in values
            if id(value) not in self._seen and id(value) not in self.objects
        }
        return [*fresh.values()], fresh.keys()

    def _held_by(self, kind: type, values: list[Any], ids: Collection[int]) -> list[Any]:
        """Note what values of one type are, and return what they hold."""
        if kind in _CONTAINERS:
            (self._seen if kind in _IMMUTABLE_CONTAINERS else self.objects).update(ids)
            if max(map(len, values)) >= _MANY:
                return gc.get_referents(*itertools.filterfalse(self._has_atoms, values))
            return gc.get_referents(*values)
        self._seen.update(ids)
        held: list[Any] = []
        if kind.__module__ == "__main__":
            held += self.enter_class(kind)
        elif str(kind.__module__).partition(".")[0] in _KERNEL:
            return []
        if len(values) > _FEW and self._is_ordinary(kind):
            self.objects.update(ids)
            held += (item for item in gc.get_referents(*values) if item is not kind)
        else:
            held += itertools.chain.from_iterable(map(self._visit, values))
        return held

    def _has_atoms(self, container: Any) -> bool:
        """Tell whether a large container has nothing else: then no list is made of them."""
        if len(container) < _MANY:
            return False
        items = container.items() if type(container) is dict else (container,)
        kinds = set(map(type, itertools.chain.from_iterable(items)))
        if kinds <= ATOMS:
            self.plain = self.plain and kinds <= _PLAIN_ATOMS
        return kinds <= ATOMS

    def _is_ordinary(self, kind: type) -> bool:
        """Tell whether instances of a type are what they seem, and nothing that is special here."""
        own = [attribute for base in kind.__mro__ if base is not object for attribute in vars(base)]
        return not (
            issubclass(kind, (*_SPECIAL, *_IMMUTABLE_CONTAINERS, *self._immutable))
            or (self._ndarray and issubclass(kind, self._ndarray))
            or (self._tensor and issubclass(kind, self._tensor))
            or "__class__" in own
            or "__getattribute__" in own
        )

    def _visit(self, value: Any) -> Iterable[Any]:
        """Note what ``value`` is, and return what it holds."""
        kind = type(value)
        if kind in _SHOWN_OR_BOUND and is_atom(value):
            return ()
        if isinstance(value, self._immutable):
            return self.enter_class(value) if isinstance(value, type) else ()
        if isinstance(value, types.ModuleType) and sys.modules.get(value.__name__) is value:
            return ()
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, self._ndarray):
            return self._array(value)
        if isinstance(value, self._tensor):
            return self._of_tensor(value)
        if isinstance(value, memoryview):
            self.objects.add(id(value))
            return (value.obj,)
        if isinstance(value, weakref.ref):
            self.objects.add(id(value))
            return (value(), value.__callback__)
        if not isinstance(value, _IMMUTABLE_CONTAINERS):
            self.objects.add(id(value))
        if isinstance(value, array.array):
            return ()
        held = [item for item in gc.get_referents(value) if item is not kind]
        if isinstance(value, _GENERATORS):  # before 3.11 they have their locals by a frame
            held += gc.get_referents(*(item for item in held if type(item) is types.FrameType))
        if kind.__flags__ & _INLINE_VALUES:  # since 3.13 nothing tells of the dict
            held.append(_dict_of(value))
        return held

    def enter_class(self, cls: type) -> list[Any]:
        """Note the code of a class and of its bases, as far as cells defined them.

        Returns:
            What those of them hold that no name stands for: they are saved with what leads to them.
        """
        held: list[Any] = []
        for base in cls.__mro__:
            if base.__module__ != "__main__" or id(base) in self.classes:
                continue
            self.classes.add(id(base))
            attributes = [*dict(vars(base)).values()]
            for attribute in attributes:
                for function in _functions(attribute):
                    if function.__globals__ is self._namespace:
                        self.code.add(function.__code__)
            if not self._has_name(base):
                held += attributes
        return held

    def _has_name(self, cls: type) -> bool:
        return self._namespace.get(cls.__name__) is cls or any(
            value is cls for value in list(self._namespace.values())
        )

    def _function(self, function: types.FunctionType) -> Iterable[Any]:
        if is_importable(function):
            return ()
        self.objects.add(id(function))
        if function.__globals__ is self._namespace:
            self.code.add(function.__code__)
        held: list[Any] = [function.__closure__, function.__defaults__, function.__kwdefaults__]
        own = function.__globals__
        name = own.get("__name__")
        module = sys.modules.get(name) if type(name) is str else None
        if is_copy(own, self._namespace):  # of `%run`, or one that attrs has made
            self.objects.add(id(own))
            held += used_by(function).values()
        elif own is not self._namespace and getattr(module, "__dict__", None) is not own:
            held.append(own)  # of `exec`: what it made shares them, and nothing else
        return [*held, function.__dict__]

    def _array(self, value: Any) -> Iterable[Any]:
        self.objects.add(id(value))
        if value.size:
            start = value.__array_interface__["data"][0]
            low, high = start, start + value.itemsize
            for length, stride in zip(value.shape, value.strides, strict=True):
                extent = (length - 1) * stride
                low, high = (low + extent, high) if extent < 0 else (low, high + extent)
            self.memory.append((low, high))
        held: list[Any] = list(getattr(value, "__dict__", {}).values())
        if not isinstance(value.base, self._ndarray):
            held.append(value.base)
        if value.dtype.hasobject:
            # Not the list: its id could be that of the next value's, and link the two.
            # Of the plain array, as a masked one does not show all it has.
            items = self._ndarray.view(value, self._ndarray).ravel().tolist()
            held += () if self._has_atoms(items) else items
        return held

    def _of_tensor(self, value: Any) -> Iterable[Any]:
        self.objects.add(id(value))
        span = storage_span(value)
        if span is None:
            return gc.get_referents(value)
        self.memory.append(span)
        return [*vars(value).values(), value.grad if value.is_leaf else None]


def _dict_of(value: Any) -> Any:
    descriptors = (dict_descriptor(vars(base)) for base in type(value).__mro__)
    found = next(filter(None, descriptors), None)
    return None if found is None else found.__get__(value)


def dict_descriptor(own: Mapping[str, Any]) -> Any:
    """Return what gets the dict of an instance, by what is in its class; None if that is users'."""
    found = own.get("__dict__")
    known = (types.GetSetDescriptorType, types.MemberDescriptorType)
    return found if isinstance(found, known) else None


def _functions(attribute: Any) -> Iterator[types.FunctionType]:
    """Functions in an attribute of a class: methods, and those inside the built-in descriptors."""
    inner = ("__func__", "fget", "fset", "fdel", "func", "__wrapped__")
    for candidate in (attribute, *(getattr(attribute, name, None) for name in inner)):
        if isinstance(candidate, types.FunctionType):
            yield candidate


def _class_attributes(cls: type) -> Iterator[Any]:
    if cls.__module__ == "__main__":
        yield from dict(vars(cls)).values()


def is_importable(function: types.FunctionType) -> bool:
    """Tell whether a function is one that its module made, which any process can import."""
    module = sys.modules.get(function.__module__ or "")
    return (
        module is not None
        and function.__module__ != "__main__"
        and getattr(module, "__dict__", None) is function.__globals__
        and "<locals>" not in function.__qualname__
    )


def covariables(footprints: Mapping[str, Footprint]) -> list[frozenset[str]]:
    """Group names that share mutable state.

    Args:
        footprints: of every name, taken of one state of the namespace.

    Returns:
        Disjoint groups that cover all names, in the order of their first names.
    """
    leader = {name: name for name in footprints}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    owners: dict[int, str] = {}
    incomplete: str | None = None
    by_size = sorted(footprints.items(), key=lambda item: len(item[1].objects))
    for rank, (name, known) in enumerate(by_size, 1):
        if not owners.keys().isdisjoint(known.objects):
            for other in {owners[item] for item in known.objects & owners.keys()}:
                leader[find(name)] = find(other)
        if rank < len(by_size):  # nobody asks who owns what the last has, which has most
            owners.update(dict.fromkeys(known.objects, name))
        if not known.complete:
            incomplete = incomplete or name
            leader[find(name)] = find(incomplete)
    ranges = sorted((*span, name) for name, known in footprints.items() for span in known.memory)
    end, owner = -1, ""
    for start, stop, name in ranges:
        if start < end:
            leader[find(name)] = find(owner)
        if stop > end:
            end, owner = stop, name
    groups: dict[str, list[str]] = {}
    for name in footprints:
        groups.setdefault(find(name), []).append(name)
    return [frozenset(names) for names in groups.values()]
