"""Classes that cells define: taken apart for a pickle, and made again from the parts.

A class is saved as an outline (what has to be known when it is made: metaclass, bases, slots) and a
state (everything else, which may refer to the class). The class statement does not run again, nor
do decorators, metaclasses and ``__init_subclass__`` that cells wrote; those of libraries do, on the
outline, as they may keep what no attribute shows.

What a library makes of a class is not saved but made again by the library that is there at load
time, so that it fits that version of Python: the methods of a dataclass and of a named tuple, the
tables of an enumeration, the internals of a protocol.

Not saved either is what Python keeps for itself: caches of ABCs, empty ``__annotations__``,
``__static_attributes__``. Using a class does not change its pickle.

Limit: keywords of the class statement are not known afterwards; a library's metaclass that needs
them finds them missing.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import enum
import functools
import sys
import types
import typing
from collections import namedtuple
from collections.abc import Iterable, Iterator
from typing import Any

from .portable import current
from .sources import REGISTRY
from .tokens import known_token, object_of, remember, token_of

_OWN = ("__name__", "__qualname__", "__module__", "__doc__")

_KEPT_BY_PYTHON = {
    *_OWN,
    *("__dict__", "__weakref__", "__slots__", "_abc_impl"),
    *("__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__"),
    *("__annotations_cache__", "__slotnames__"),  # the latter is copyreg's
}

_KEPT_BY_ENUM = {
    *("__new__", "__new_member__", "_new_member_", "_use_args_", "_member_names_"),
    *("_member_map_", "_value2member_map_", "_unhashable_values_", "_unhashable_values_map_"),
    *("_hashable_values_", "_member_type_", "_value_repr_", "_boundary_", "_flag_mask_"),
    *("_singles_mask_", "_all_bits_", "_inverted_"),
}

_KEPT_BY_PROTOCOL = {
    *("__protocol_attrs__", "__callable_proto_members_only__", "__non_callable_proto_members__"),
    *("_is_protocol", "_is_runtime_protocol"),
}

_OF_A_MEMBER = {"_name_", "_value_", "__objclass__", "_sort_order_", "_inverted_"}

State = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""A class's names and docstring; its attributes; what needs a treatment of its own."""


# -- saving ----------------------------------------------------------------------------------------


def reduce_class(cls: Any) -> tuple[Any, ...]:
    """Take a class apart, the way ``__reduce__`` of its metaclass would."""
    if issubclass(cls, enum.Enum):
        maker: Any = make_enum
        args: tuple[Any, ...] = _enum_outline(cls)
    elif _is_namedtuple(cls):
        fields, defaults = cls._fields, tuple(cls._field_defaults.values())
        maker, args = make_namedtuple, (cls.__name__, cls.__bases__, fields, defaults)
    else:
        maker, args = make_class, (type(cls), cls.__name__, cls.__bases__, _namespace(cls))
    return maker, (token_of(cls), *args), _state(cls), None, None, set_class_state


def _namespace(cls: type) -> dict[str, Any]:
    """Return what has to be in a class's namespace when it is made."""
    own = vars(cls)
    namespace = {name: own[name] for name in ("__module__", "__orig_bases__") if name in own}
    if "__slots__" in own:
        slots = own["__slots__"]
        if not isinstance(slots, (str, tuple, list, dict)):  # an iterator, used up
            slots = tuple(name for name, value in own.items() if _is_slot_of(cls, value))
        namespace["__slots__"] = slots
    if getattr(cls, "_is_protocol", False):
        # Names are all that typing looks at.
        namespace.update(dict.fromkeys(attributes(cls)))
        if "__annotations__" in namespace:
            namespace["__annotations__"] = dict.fromkeys(own["__annotations__"])
    return namespace


def _state(cls: Any) -> State:
    own = {name: getattr(cls, name) for name in _OWN}
    own["__doc__"] = vars(cls).get("__doc__")  # as it is: it may be a property
    extra: dict[str, Any] = {}
    if "__dataclass_fields__" in vars(cls):
        extra["generated"] = sorted(name for name in vars(cls) if _is_generated(cls, name))
    if isinstance(cls, abc.ABCMeta):
        # The only way to know what was registered; pure Python and C version have it.
        registry = [ref() for ref in abc._get_dump(cls)[0]]  # type: ignore[attr-defined]
        registered = [sub for sub in registry if sub is not None]
        if registered:
            extra["registered"] = sorted(registered, key=_place_in_order)
    if vars(cls).get("_is_runtime_protocol"):
        extra["runtime_checkable"] = True
    if issubclass(cls, enum.Enum):
        extra["members"] = {
            name: {key: value for key, value in vars(member).items() if key not in _OF_A_MEMBER}
            for name, member in cls.__members__.items()
        }
        extra["new"] = vars(cls).get("__new_member__")
    located = REGISTRY.locate_class(cls)
    if located is not None:
        extra["source"] = (REGISTRY.first(located[0]), located[1])
    return own, attributes(cls), extra


def attributes(cls: Any) -> dict[str, Any]:
    """Return a class's own attributes, without what is made again when the class is."""
    skipped = _KEPT_BY_PYTHON
    if issubclass(cls, enum.Enum):
        skipped = skipped | _KEPT_BY_ENUM | set(cls.__members__)
    if typing.Protocol in cls.__mro__:
        skipped = skipped | _KEPT_BY_PROTOCOL
    return {
        name: value
        for name, value in list(vars(cls).items())
        if name not in skipped
        and not _is_slot_of(cls, value)
        and not _is_generated(cls, name)
        and not (name == "__annotations__" and not value)  # made when somebody asked
    }


def _is_slot_of(cls: type, value: Any) -> bool:
    return isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls


def _is_generated(cls: Any, name: str) -> bool:
    """Tell whether a library made this attribute, and would make it again."""
    value = vars(cls)[name]
    function = getattr(value, "__func__", value)
    if isinstance(function, types.FunctionType):
        made_in = function.__globals__.get("__name__")
        if "__dataclass_fields__" in vars(cls):
            # dataclasses compiles text that it calls "<string>"; repr and replace are its own.
            generated = function.__code__.co_filename == "<string>"
            if (generated and name in _DATACLASS_METHODS) or (
                made_in in ("dataclasses", "reprlib") and name in ("__repr__", "__replace__")
            ):
                return True
        if issubclass(cls, enum.Enum):
            return made_in == "enum"
        if typing.Protocol in cls.__mro__:
            return made_in == "typing"
        if _is_namedtuple(cls):
            return made_in in ("collections", f"namedtuple_{cls.__name__}")
        return False
    if _is_namedtuple(cls):
        return name in ("_fields", "_field_defaults", "__match_args__") or (
            type(value).__name__ == "_tuplegetter"
        )
    return False


_DATACLASS_METHODS = {
    *("__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"),
    *("__setattr__", "__delattr__", "__replace__"),
}


def _is_namedtuple(cls: Any) -> bool:
    own = vars(cls)
    return cls.__bases__[:1] == (tuple,) and "_fields" in own and "_field_defaults" in own


def _enum_outline(cls: Any) -> tuple[Any, ...]:
    members = {name: (_newargs(member), member.value) for name, member in cls.__members__.items()}
    own = {name: vars(cls)[name] for name in ("__module__",) if name in vars(cls)}
    boundary = vars(cls).get("_boundary_")
    return (
        *(type(cls), cls.__name__, cls.__bases__, own, members),
        None if boundary is None else boundary.name,
    )


def _newargs(member: Any) -> tuple[Any, ...]:
    """Return what the data type of an enumeration's member makes it from."""
    kind = _data_type(type(member))
    if kind is object:
        return ()
    if hasattr(kind, "__getnewargs__"):
        arguments: tuple[Any, ...] = kind.__getnewargs__(member)
        return arguments
    if kind.__reduce__ is not object.__reduce__:
        arguments = kind.__reduce__(member)[1]
        return arguments
    return (member.value,)


def _data_type(enumeration: Any) -> Any:
    """Return the class, mixed in or `object`, that allocates the members."""
    return next(
        base
        for base in enumeration.__mro__
        if "__new__" in vars(base) and not issubclass(base, enum.Enum)
    )


def _place_in_order(cls: type) -> tuple[str, str, str]:
    return cls.__module__, cls.__qualname__, known_token(cls) or ""


# -- loading ---------------------------------------------------------------------------------------


def make_class(
    token: str, meta: Any, name: str, bases: tuple[type, ...], namespace: dict[str, Any]
) -> Any:
    """Make a class without its attributes, or return the one that this process has."""
    existing = object_of(token)
    if existing is not None:
        return existing
    constructor = _constructor(meta)
    with _silenced(bases):
        if meta.__name__ == "_TypedDictMeta":
            # Refuses the base that it gives to every class of its own: dict.
            cls = type.__new__(meta, name, bases, namespace)
        else:
            cls = constructor.__new__(meta, name, bases, namespace)
            constructor.__init__(cls, name, bases, namespace)
    return _made(token, cls)


def make_namedtuple(
    token: str, name: str, bases: tuple[type, ...], fields: tuple[str, ...], defaults: Any
) -> Any:
    """Make a named tuple's class, or return the one that this process has."""
    existing = object_of(token)
    if existing is not None:
        return existing
    cls: Any = namedtuple(name, fields, defaults=defaults, rename=True)  # type: ignore[misc]
    if cls.__bases__ != bases:  # Generic
        cls.__bases__ = bases
    return _made(token, cls)


def make_enum(
    token: str,
    meta: Any,
    name: str,
    bases: tuple[type, ...],
    own: dict[str, Any],
    members: dict[str, tuple[tuple[Any, ...], Any]],
    boundary: str | None,
) -> Any:
    """Make an enumeration with its members, or return the one that this process has.

    `enum` makes the members and its tables; what a cell's ``__new__`` and ``__init__`` made of a
    member is saved, so they don't run again.
    """
    existing = object_of(token)
    if existing is not None:
        return existing

    def new(cls: Any, *args: Any) -> Any:
        key: Any = args
        while isinstance(key, tuple):  # enum wraps it for members that are tuples
            key = key[0]
        newargs, value = members[key]
        member = _data_type(cls).__new__(cls, *newargs)
        member._value_ = value
        return member

    constructor = _constructor(meta)
    namespace = constructor.__prepare__(name, bases)
    namespace.update(own)
    namespace["__new__"] = new
    namespace["__init__"] = lambda *_: None
    for member in members:
        namespace[member] = member
    options: dict[str, Any] = {}
    if boundary is not None and sys.version_info >= (3, 11):
        options["boundary"] = enum.FlagBoundary[boundary]
    with _silenced(bases):
        cls = constructor.__new__(meta, name, bases, namespace, **options)
    type.__delattr__(cls, "__init__")
    return _made(token, cls)


def _constructor(meta: Any) -> Any:
    """Return the first class of a metaclass's bases that no cell wrote."""
    return next(kind for kind in meta.__mro__ if known_token(kind) is None)


@contextlib.contextmanager
def _silenced(bases: tuple[Any, ...]) -> Iterator[None]:
    """Keep ``__init_subclass__`` of cells' classes from running: it ran when the class was new."""
    hooks = [
        (base, vars(base)["__init_subclass__"])
        for base in dict.fromkeys(kind for base in bases for kind in base.__mro__)
        if "__init_subclass__" in vars(base) and known_token(base) is not None
    ]
    for base, _ in hooks:
        type.__setattr__(base, "__init_subclass__", classmethod(lambda cls: None))
    try:
        yield
    finally:
        for base, hook in hooks:
            type.__setattr__(base, "__init_subclass__", hook)


def _made(token: str, cls: Any) -> Any:
    remember(token, cls)
    current().made[id(cls)] = cls
    return cls


def set_class_state(cls: Any, state: State) -> None:
    """Give a class its attributes; for one that was there before, `loads` may defer it."""
    loading = current()
    if id(cls) not in loading.made and loading.deferred is not None:
        loading.deferred[cls] = functools.partial(_apply, cls, state)
    else:
        _apply(cls, state)


def _apply(cls: Any, state: State) -> None:
    own, saved, extra = state
    for name, value in own.items():
        type.__setattr__(cls, name, _interned(value) if name != "__doc__" else value)
    for name in attributes(cls):
        if name not in saved:
            type.__delattr__(cls, name)
    for name, value in saved.items():
        type.__setattr__(cls, name, value)
    if "members" in extra:
        _finish_enum(cls, extra["members"], extra["new"])
    if "generated" in extra and "__dataclass_fields__" in saved:
        _generate_methods(cls, extra["generated"])
    for registered in extra.get("registered", ()):
        cls.register(registered)
    if extra.get("runtime_checkable"):
        typing.runtime_checkable(cls)
    if "source" in extra:
        cell, line = extra["source"]
        REGISTRY.note_class(cls, cell, line)
        if sys.version_info >= (3, 13):
            type.__setattr__(cls, "__firstlineno__", line)


def _interned(name: str) -> str:
    """Return the name as class statements have it; strings that are one object pickle as one."""
    return sys.intern(name)


def _finish_enum(cls: Any, members: dict[str, dict[str, Any]], new: Any) -> None:
    for name, state in members.items():
        vars(cls.__members__[name]).update(state)
    function = getattr(new, "__func__", new)
    if new is not None:
        type.__setattr__(cls, "__new_member__", new)
    elif "__new_member__" in vars(cls):
        type.__delattr__(cls, "__new_member__")
    if "_new_member_" in vars(cls):  # since 3.11
        type.__setattr__(cls, "_new_member_", function or cls._member_type_.__new__)


def _generate_methods(cls: Any, names: Iterable[str]) -> None:
    """Let `dataclasses` write its methods, for a stand-in with the same fields."""
    fields, params = vars(cls)["__dataclass_fields__"], vars(cls)["__dataclass_params__"]
    # Which fields are only arguments of __init__ is known from a private attribute alone.
    kinds = {name: field._field_type.name for name, field in fields.items()}
    used = {name: field for name, field in fields.items() if kinds[name] != "_FIELD_CLASSVAR"}
    namespace: dict[str, Any] = {
        name: dataclasses.field(**{option: getattr(field, option) for option in _FIELD_OPTIONS})
        for name, field in used.items()
    }
    namespace["__annotations__"] = {
        name: dataclasses.InitVar[Any] if kinds[name] == "_FIELD_INITVAR" else object
        for name in used
    }
    if hasattr(cls, "__post_init__"):
        namespace["__post_init__"] = None
    stand_in: Any = type(cls.__name__, (), namespace)
    stand_in.__qualname__, stand_in.__module__ = cls.__qualname__, cls.__module__
    options = {name: getattr(params, name) for name in _PARAMS}
    dataclasses.dataclass(**options)(stand_in)
    for name in names:
        method = vars(stand_in).get(name)
        if not isinstance(method, types.FunctionType):
            continue  # __replace__, before 3.13
        for cell in method.__closure__ or ():
            if cell.cell_contents is stand_in:
                cell.cell_contents = cls
        if name == "__init__":
            method.__annotations__ = {n: f.type for n, f in used.items() if f.init}
            method.__annotations__["return"] = None
        type.__setattr__(cls, name, method)


_FIELD_OPTIONS = (
    *("default", "default_factory", "init", "repr", "hash", "compare", "metadata", "kw_only"),
)
_PARAMS = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
