"""How the contents of a value are read and written, by the built-in type it derives from.

A payload is what C code keeps of a value; attributes that Python classes add are not in it
(`kinds`). Arrays and frames are in `payload_arrays`.

Methods of the base type are called by its name, as a subclass may have overridden them. For the
same reason types are asked, not objects: `isinstance` looks up ``__class__``.
"""

from __future__ import annotations

import collections
import functools
import gc
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from .sameness import is_object, same, same_items, same_members

NO_ITEMS: tuple[Any, ...] = ()
_FACTORY: Any = vars(collections.defaultdict)["default_factory"]

ATTRIBUTES = 1000
"""Items up to which a dict is not emptied to be filled. That takes 1.5 µs for a string key more."""

Now = Callable[[Any], Any]
"""Maps an object of the new graph to the one that stands for it in the result."""


class InexactError(Exception):
    """The co-variable has to be replaced as a whole."""


class Payload:
    """What C code keeps of a value; here nothing."""

    frozen = False
    """Can't be refilled; a new one is made if something it holds is another object now."""
    buffer = False
    """Raw memory: no objects in it, refilled before everything else."""
    adopts = False
    """Takes over the data of the new one."""
    unordered = False
    """A set: has `members`."""

    def parts(self, value: Any) -> Sequence[Any]:
        """Return what it holds, in an order that follows from its structure."""
        return NO_ITEMS

    def members(self, value: Any) -> Sequence[Any]:
        """Return what it holds in no order."""
        return NO_ITEMS

    def fact(self, value: Any) -> Any:
        """Return what must still hold for the value to be refilled."""

    def outline(self, value: Any) -> str:
        """Describe what `parts` does not give."""
        return ""

    def check(self, original: Any, loaded: Any, fact: Any, now: Now) -> None:
        """Raise InexactError if ``original`` can't be refilled."""

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        """Return what is to be in it; for frozen ones, the new value."""

    def holds(self, target: Any, content: Any) -> bool:
        """Return True if it is in there already; for frozen ones, if they are the same."""
        return True

    def write(self, target: Any, content: Any, fact: Any) -> None:
        """Put it in. Runs no user code and does not fail."""


class _List(Payload):
    def parts(self, value: Any) -> Sequence[Any]:
        return value if type(value) is list else list.copy(value)

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        items = self.parts(loaded)
        return [*map(now, items)] if moved else items

    def holds(self, target: Any, content: Any) -> bool:
        return same_items(self.parts(target), content)

    def write(self, target: Any, content: Any, fact: Any) -> None:
        list.__setitem__(target, slice(None), content)


class _Deque(_List):
    def parts(self, value: Any) -> Sequence[Any]:
        return [*collections.deque.__iter__(value)]

    def write(self, target: Any, content: Any, fact: Any) -> None:
        collections.deque.clear(target)
        collections.deque.extend(target, content)


def write_dict(target: Any, content: dict[Any, Any]) -> None:
    """Make a dict's items those of ``content``; attributes are never missing meanwhile."""
    if len(content) <= ATTRIBUTES and {*map(type, dict.keys(target)), *map(type, content)} <= {str}:
        for key in [key for key in dict.keys(target) if key not in content]:
            dict.__delitem__(target, key)
        dict.update(target, content)
        if [*dict.keys(target)] == [*content]:
            return
    # From one dict to an empty one, with the hashes it knows: no key is asked.
    dict.clear(target)
    dict.update(target, content)


class _Dict(Payload):
    base: type[dict[Any, Any]] = dict

    def parts(self, value: Any) -> Sequence[Any]:
        return (*self.base.keys(value), *self.base.values(value))

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        items = self.base.items(loaded)
        if moved:
            return {now(key): now(value) for key, value in items}
        return loaded if type(loaded) is dict else dict(items)

    def holds(self, target: Any, content: Any) -> bool:
        return (
            same_items([*self.base.keys(target)], [*content])
            and same_items([*self.base.values(target)], [*content.values()])
            # A key may have been put in while its hash was another one.
            and all(dict.__contains__(target, key) for key in content if is_object(key))
        )

    def write(self, target: Any, content: Any, fact: Any) -> None:
        write_dict(target, content)


class _DefaultDict(_Dict):
    def parts(self, value: Any) -> Sequence[Any]:
        return (_FACTORY.__get__(value), *super().parts(value))

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return super().content(loaded, now, moved), now(_FACTORY.__get__(loaded))

    def holds(self, target: Any, content: Any) -> bool:
        items, factory = content
        return super().holds(target, items) and _FACTORY.__get__(target) is factory

    def write(self, target: Any, content: Any, fact: Any) -> None:
        items, factory = content
        super().write(target, items, fact)
        _FACTORY.__set__(target, factory)


class _OrderedDict(_Dict):
    base = collections.OrderedDict

    def write(self, target: Any, content: Any, fact: Any) -> None:
        # It has an order of its own, which only its own methods know.
        collections.OrderedDict.clear(target)
        for key, value in content.items():
            collections.OrderedDict.__setitem__(target, key, value)


class _Set(Payload):
    unordered = True

    def members(self, value: Any) -> Sequence[Any]:
        return [*set.__iter__(value)]

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return {*map(now, set.__iter__(loaded))} if moved else set(loaded)

    def holds(self, target: Any, content: Any) -> bool:
        return same_members(target, content) and all(
            set.__contains__(target, item) for item in content if is_object(item)
        )

    def write(self, target: Any, content: Any, fact: Any) -> None:
        set.clear(target)
        set.update(target, content)


class _Cell(Payload):
    def parts(self, value: Any) -> Sequence[Any]:
        try:
            return (value.cell_contents,)
        except ValueError:  # empty
            return NO_ITEMS

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return [*map(now, self.parts(loaded))]

    def holds(self, target: Any, content: Any) -> bool:
        return same_items(self.parts(target), content)

    def write(self, target: Any, content: Any, fact: Any) -> None:
        if content:
            target.cell_contents = content[0]
        else:
            del target.cell_contents


class _Partial(Payload):
    def parts(self, value: Any) -> Sequence[Any]:
        return value.func, value.args, value.keywords

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return [*map(now, self.parts(loaded))]

    def holds(self, target: Any, content: Any) -> bool:
        return same_items(self.parts(target), content)

    def write(self, target: Any, content: Any, fact: Any) -> None:
        set_state: Any = functools.partial.__setstate__  # type: ignore[attr-defined]
        set_state(target, (*content, vars(target)))


class _Function(Payload):
    _HELD = ("__defaults__", "__kwdefaults__", "__dict__", "__annotations__")
    _SET = (*_HELD, "__name__", "__qualname__", "__module__", "__doc__")

    def parts(self, value: Any) -> Sequence[Any]:
        # Globals are the namespace, or a module's, or made by exec() and then a part like others.
        held = [getattr(value, name) for name in self._HELD]
        return (*(value.__closure__ or ()), value.__globals__, *held)

    def fact(self, value: Any) -> Any:
        return value.__code__

    def outline(self, value: Any) -> str:
        return f"{value.__module__} {value.__qualname__} {value.__code__.co_firstlineno}"

    def check(self, original: Any, loaded: Any, fact: Any, now: Now) -> None:
        cells = [now(cell) for cell in loaded.__closure__ or ()]
        if not same_items(original.__closure__ or (), cells):
            raise InexactError("another closure")
        if now(loaded.__globals__) is not original.__globals__:
            raise InexactError("other globals")

    def rewired(self, loaded: Any, now: Now) -> Any:
        """Return ``loaded`` or, if its cells are others now, a function that has those."""
        cells = tuple(now(cell) for cell in loaded.__closure__ or ())
        globals_ = now(loaded.__globals__)
        if globals_ is loaded.__globals__ and same_items(loaded.__closure__ or (), cells):
            return loaded
        return types.FunctionType(loaded.__code__, globals_, loaded.__name__, None, cells or None)

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return {name: now(getattr(loaded, name)) for name in self._SET}

    def holds(self, target: Any, content: Any) -> bool:
        return all(same(getattr(target, name), value) for name, value in content.items())

    def write(self, target: Any, content: Any, fact: Any) -> None:
        for name, value in content.items():
            setattr(target, name, value)


class _Frozen(Payload):
    frozen = True

    def holds(self, target: Any, content: Any) -> bool:
        return same_items(self.parts(target), self.parts(content))


class _Tuple(_Frozen):
    def parts(self, value: Any) -> Sequence[Any]:
        return value if type(value) is tuple else tuple.__getitem__(value, slice(None))

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return tuple.__new__(type(loaded), map(now, self.parts(loaded)))


class _FrozenSet(_Frozen):
    unordered = True

    def members(self, value: Any) -> Sequence[Any]:
        return [*frozenset.__iter__(value)]

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return frozenset.__new__(type(loaded), map(now, self.members(loaded)))

    def holds(self, target: Any, content: Any) -> bool:
        return same_members(target, content) and all(
            frozenset.__contains__(target, item)
            for item in frozenset.__iter__(content)
            if is_object(item)
        )


class _Method(_Frozen):
    def parts(self, value: Any) -> Sequence[Any]:
        # A function that its class has is the class's matter.
        function, owner = value.__func__, type(value.__self__)
        name = function.__name__ if type(function) is types.FunctionType else ""
        if any(vars(cls).get(name) is function for cls in owner.__mro__):
            return (value.__self__,)
        return value.__self__, function

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return types.MethodType(now(loaded.__func__), now(loaded.__self__))

    def holds(self, target: Any, content: Any) -> bool:
        return target.__self__ is content.__self__ and target.__func__ is content.__func__


class _BuiltinMethod(_Frozen):
    def parts(self, value: Any) -> Sequence[Any]:
        return (value.__self__,)

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return getattr(now(loaded.__self__), loaded.__name__)


class _Slice(_Frozen):
    def parts(self, value: Any) -> Sequence[Any]:
        return value.start, value.stop, value.step

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return slice(*map(now, self.parts(loaded)))


class _WeakReference(_Frozen):
    def parts(self, value: Any) -> Sequence[Any]:
        return value(), value.__callback__

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        return weakref.ref(*map(now, self.parts(loaded)))


class _Proxy(_Frozen):
    """A mappingproxy or a view of a dict; the collector knows what of."""

    def parts(self, value: Any) -> Sequence[Any]:
        return gc.get_referents(value)

    def content(self, loaded: Any, now: Now, moved: bool) -> Any:
        (owner,) = map(now, self.parts(loaded))
        return _PROXIES[type(loaded)](owner)


_PROXIES: dict[type, Callable[[Any], Any]] = {
    types.MappingProxyType: types.MappingProxyType,
    type({}.keys()): dict.keys,
    type({}.values()): dict.values,
    type({}.items()): dict.items,
}

NO_PAYLOAD, FUNCTION = Payload(), _Function()

BY_BASE: dict[type, Payload] = {
    object: NO_PAYLOAD,
    types.SimpleNamespace: NO_PAYLOAD,
    list: _List(),
    collections.deque: _Deque(),
    dict: _Dict(),
    collections.defaultdict: _DefaultDict(),
    collections.OrderedDict: _OrderedDict(),
    set: _Set(),
    frozenset: _FrozenSet(),
    tuple: _Tuple(),
}
"""Of these types and what derives from them; the first one in the MRO of a class counts."""

BY_TYPE: dict[type, Payload] = {
    types.FunctionType: FUNCTION,
    types.CellType: _Cell(),
    types.MethodType: _Method(),
    types.BuiltinFunctionType: _BuiltinMethod(),
    functools.partial: _Partial(),
    slice: _Slice(),
    weakref.ref: _WeakReference(),
    **dict.fromkeys(_PROXIES, _Proxy()),
}
"""Of just these types."""
