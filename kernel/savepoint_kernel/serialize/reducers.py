"""How objects of types that the C pickler does not know, or gets wrong, are taken apart.

Each reducer returns what ``__reduce__`` would, NotImplemented to leave it to Python, or raises
`NotPicklable`. Functions, classes and arrays are not here: `pickler` knows more about them.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import gc
import io
import logging
import os
import stat
import sys
import types
import typing
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from . import portable
from .refusals import reason_against, refuse
from .sources import CellRecord
from .tokens import is_importable, token_of

Reducer = Callable[[Any], Any]

PROTOCOL = 5


def reducer_for(kind: type) -> Reducer | None:
    """Return what takes objects of a type apart; None if Python does.

    Raises:
        NotPicklable: they are not saved.
    """
    reason = reason_against(kind)
    if reason is not None:
        raise refuse(kind, reason)
    if issubclass(kind, enum.Enum):
        return None if is_importable(kind) else _member
    if issubclass(kind, BaseException):
        return _exception
    if issubclass(kind, weakref.ref):
        raise refuse(kind, "it is a weak reference of a kind of its own")
    if kind is type(sys.stdout) or kind is type(sys.stderr):
        return _stream
    if kind.__module__ == "itertools":
        return _iterator
    named = _BY_NAME.get((kind.__module__, kind.__qualname__))
    if named is None and _asks_for_setstate(kind):
        return _without_asking
    return named


def _asks_for_setstate(kind: type) -> bool:
    """Tell whether unpickling would call code of an object that is still empty.

    ``__getattr__`` is asked for ``__setstate__``; many answer from an attribute that is not there
    yet, by asking themselves again without end. ``__setattr__`` sets slots; those of immutable
    classes refuse.
    """
    own: Any = kind
    plain = own.__reduce_ex__ is object.__reduce_ex__ and own.__reduce__ is object.__reduce__
    if not plain or hasattr(kind, "__setstate__"):
        return False
    return hasattr(kind, "__getattr__") or (
        own.__setattr__ is not object.__setattr__
        and any("__slots__" in vars(base) for base in kind.__mro__)
    )


def _without_asking(obj: Any) -> Any:
    reduced: Any = object.__reduce_ex__(obj, PROTOCOL)
    make, args, state, *items = reduced
    if state is None:
        return make, args, state, *items
    return make, args, state, *items, portable.set_state


def _closure_cell(cell: types.CellType) -> Any:
    try:
        contents = cell.cell_contents
    except ValueError:
        return portable.make_cell, ()
    return portable.make_cell, (), (contents,), None, None, portable.set_cell


def _cell_record(cell: CellRecord) -> Any:
    record = cell.filename, cell.text, cell.digest, cell.execution_count, cell.cell_id
    return portable.load_cell, record


def _property(found: property) -> Any:
    return property, (found.fget, found.fset, found.fdel, found.__doc__)


def _method_wrapper(wrapper: Any) -> Any:
    return type(wrapper), (wrapper.__func__,)


def _method(method: types.MethodType) -> Any:
    # Not by its name, as Python does: an attribute of the object may have the same.
    return types.MethodType, (method.__func__, method.__self__)


def _lru_cache(cached: Any) -> Any:
    if is_importable(cached):
        return NotImplemented
    options = cached.cache_parameters()
    args = cached.__wrapped__, options["maxsize"], options["typed"]
    return portable.make_lru_cache, args, dict(vars(cached)), None, None, portable.update


def reduce_singledispatch(function: Any) -> Any:
    """Take a function made by `functools.singledispatch` apart; its cache is left out."""
    registry = dict(function.registry)
    attributes = {k: v for k, v in vars(function).items() if k not in _OF_SINGLEDISPATCH}
    state = registry, attributes
    args = (registry.pop(object),)
    return functools.singledispatch, args, state, None, None, portable.set_singledispatch


_OF_SINGLEDISPATCH = {"registry", "dispatch", "register", "_clear_cache", "__wrapped__"}


def _singledispatchmethod(method: Any) -> Any:
    registry = {k: v for k, v in method.dispatcher.registry.items() if k is not object}
    args: tuple[Any, ...] = (method.func,)
    state: tuple[Any, ...] = (registry, {})
    return functools.singledispatchmethod, args, state, None, None, portable.set_singledispatch


def _cached_property(found: Any) -> Any:
    state = {name: value for name, value in vars(found).items() if name != "lock"}
    return portable.make_cached_property, (found.attrname,), state


def _typing(kind: str) -> Reducer:
    def reduce(made: Any) -> Any:
        known: Any = getattr(sys.modules.get(made.__module__), made.__name__, None)
        if made.__module__ != "__main__" and known is made:
            return portable.load_constant, (made.__module__, made.__name__)
        args: tuple[Any, ...]
        options: dict[str, Any] = {}
        if kind == "NewType":
            args = made.__name__, made.__supertype__
        elif kind == "TypeAliasType":
            if _mentions(made.__value__, made):
                raise refuse(type(made), "it refers to itself")
            args = made.__name__, made.__value__
            options["type_params"] = made.__type_params__
        else:
            args = made.__name__, *getattr(made, "__constraints__", ())
            for option in ("bound", "covariant", "contravariant", "infer_variance"):
                value = getattr(made, f"__{option}__", None)
                if value:
                    options[option] = value
            if getattr(made, "has_default", bool)():  # since 3.13
                options["default"] = made.__default__
        token = token_of(made) if kind != "TypeAliasType" else None
        return portable.make_typing, (token, made.__module__, kind, args, options)

    return reduce


def _mentions(value: Any, alias: Any) -> bool:
    return value is alias or any(_mentions(arg, alias) for arg in getattr(value, "__args__", ()))


def _dataclass_params(params: Any) -> Any:
    options = {name: getattr(params, name) for name in params.__slots__}
    return portable.make_dataclass_params, (options,)


def _constant(module: str, name: str) -> Reducer:
    return lambda obj: (portable.load_constant, (module, name))


def _field_kind(kind: Any) -> Any:
    return portable.load_constant, ("dataclasses", kind.name)


def _member(member: Any) -> Any:
    if member.name in type(member).__members__:
        return portable.load_member, (type(member), member.name)
    return NotImplemented  # a combination of flags


def _exception(error: BaseException) -> Any:
    """Save what Python's own reduction leaves out, but for tracebacks."""
    origin = error.__cause__, error.__context__
    alone = origin == (None, None) and not error.__suppress_context__
    made_otherwise = _is_made_otherwise(type(error))
    if alone and not made_otherwise:
        return NotImplemented
    reduced = error.__reduce_ex__(PROTOCOL)
    if not isinstance(reduced, tuple) or len(reduced) > 3:
        return reduced
    if made_otherwise:
        reduced = portable.make_exception, (type(error), reduced[1]), *reduced[2:]
    if alone:
        return reduced
    state = (*reduced[2:3], None)[0], *origin, error.__suppress_context__
    return *reduced[:2], state, None, None, portable.set_exception_state


def _is_made_otherwise(kind: type[BaseException]) -> bool:
    """Tell whether calling the class with ``args``, as Python's reduction does, may go wrong."""
    own: Any = portable.builtin_base(kind)
    same_reduction = (
        kind.__reduce__ is own.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__
    )
    return same_reduction and (kind.__init__ is not own.__init__ or kind.__new__ is not own.__new__)


def _iterator(iterator: Any) -> Any:
    with warnings.catch_warnings():  # 3.12 warns that 3.14 can't
        warnings.simplefilter("ignore", DeprecationWarning)
        reduced = iterator.__reduce_ex__(PROTOCOL)
    if not isinstance(reduced, tuple) or len(reduced) != 3:
        return reduced
    return *reduced, None, None, portable.set_iterator_state


def _view(method: str) -> Reducer:
    # The owner is hidden from Python behind a read-only proxy, except from the collector.
    return lambda view: (portable.load_view, (method, gc.get_referents(view)[0]))


def _mapping_proxy(proxy: Any) -> Any:
    (owner,) = gc.get_referents(proxy)
    if isinstance(owner, dict) and "__doc__" in owner:
        raise refuse(type(proxy), "it shows the attributes of a class; keep the class instead")
    return types.MappingProxyType, (owner,)


def _descriptor(descriptor: Any) -> Any:
    return portable.load_descriptor, (descriptor.__objclass__, descriptor.__name__)


def _weak(ref: weakref.ref[Any]) -> Any:
    return portable.make_weakref, (type(ref), ref(), ref.__callback__)


def _weak_dictionary(weak: Any) -> Any:
    return type(weak), (), None, None, iter(list(weak.items()))


def _weak_set(weak: weakref.WeakSet[Any]) -> Any:
    return weakref.WeakSet, (list(weak),)


def _memoryview(view: memoryview) -> Any:
    try:
        whole = view.nbytes == memoryview(view.obj).nbytes and view.c_contiguous
    except ValueError:
        raise refuse(memoryview, "it was released") from None
    if not whole:
        raise refuse(memoryview, "it shows a part of an object's memory, Python does not say which")
    return portable.make_memoryview, (view.obj, view.format, view.shape, view.readonly)


def _logger(logger: logging.Logger) -> Any:
    name = None if isinstance(logger, logging.RootLogger) else logger.name
    if logging.getLogger(name) is not logger:
        raise refuse(type(logger), "logging does not know it by its name")
    return logging.getLogger, (name,)


def _stream(stream: Any) -> Any:
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is stream:
            return portable.load_constant, ("sys", name)
    return REDUCERS.get(type(stream), _no_stream)(stream)


def _no_stream(stream: Any) -> Any:
    raise refuse(type(stream), "it was a standard stream, and no longer is one")


_LARGEST_TEXT_READ = 1 << 24


def _file(file: Any) -> Any:
    text: dict[str, Any] = {}
    buffer = file
    if isinstance(file, io.TextIOWrapper):
        text = {"encoding": file.encoding, "errors": file.errors}
        buffer = file.buffer
    raw = getattr(buffer, "raw", buffer)
    if any(file is standard for standard in (sys.stdin, sys.stdout, sys.stderr)):
        return _stream(file)
    if not isinstance(raw, io.FileIO) or not hasattr(file, "mode"):
        return NotImplemented
    what = raw.name, file.mode, 0 if file is raw else -1, text
    if file.closed:
        return portable.make_closed_file, what
    if raw.writable() or not raw.readable():
        raise refuse(type(file), "it is open for writing")
    if not isinstance(raw.name, (str, bytes)) or not _is_regular(raw):
        raise refuse(type(file), "it is no regular file, or has no name")
    try:
        position = file.tell()
    except OSError as error:
        raise refuse(type(file), f"its position is not known ({error})") from None
    if text:
        # With which newline= it was opened is not known. It does not matter if there are none.
        with open(raw.name, "rb") as contents:
            start = contents.read(_LARGEST_TEXT_READ + 1)
        if b"\r" in start or len(start) > _LARGEST_TEXT_READ:
            raise refuse(type(file), "its treatment of line ends is not known")
    return portable.make_file, (os.path.abspath(raw.name), *what[1:], position)


def _is_regular(raw: io.FileIO) -> bool:
    """Tell whether the name still means the file that is open."""
    opened = os.fstat(raw.fileno())
    try:
        return stat.S_ISREG(opened.st_mode) and os.path.samestat(opened, os.stat(raw.name))
    except OSError:
        return False


REDUCERS: dict[type, Reducer] = {
    types.CellType: _closure_cell,
    types.MappingProxyType: _mapping_proxy,
    types.GetSetDescriptorType: _descriptor,
    types.MemberDescriptorType: _descriptor,
    types.ClassMethodDescriptorType: _descriptor,
    types.MethodType: _method,
    property: _property,
    staticmethod: _method_wrapper,
    classmethod: _method_wrapper,
    CellRecord: _cell_record,
    functools._lru_cache_wrapper: _lru_cache,
    functools.cached_property: _cached_property,
    functools.singledispatchmethod: _singledispatchmethod,
    logging.Logger: _logger,
    logging.RootLogger: _logger,
    typing.TypeVar: _typing("TypeVar"),
    typing.ParamSpec: _typing("ParamSpec"),
    typing.NewType: _typing("NewType"),
    type(dataclasses.MISSING): _constant("dataclasses", "MISSING"),
    type(dataclasses.KW_ONLY): _constant("dataclasses", "KW_ONLY"),
    weakref.ref: _weak,
    weakref.WeakMethod: _weak,
    weakref.WeakSet: _weak_set,
    weakref.WeakKeyDictionary: _weak_dictionary,
    weakref.WeakValueDictionary: _weak_dictionary,
    memoryview: _memoryview,
    io.FileIO: _file,
    io.BufferedReader: _file,
    io.BufferedWriter: _file,
    io.BufferedRandom: _file,
    io.TextIOWrapper: _file,
}
_owner: Any
for _owner in ({}, collections.OrderedDict()):
    for _name in ("keys", "values", "items"):
        REDUCERS[type(getattr(_owner, _name)())] = _view(_name)

_BY_NAME: dict[tuple[str, str], Reducer] = {
    ("typing", "TypeVarTuple"): _typing("TypeVarTuple"),
    ("typing", "TypeAliasType"): _typing("TypeAliasType"),
    ("dataclasses", "_DataclassParams"): _dataclass_params,
    ("dataclasses", "_FIELD_BASE"): _field_kind,
    ("dataclasses", "_HAS_DEFAULT_FACTORY_CLASS"): _constant("dataclasses", "_HAS_DEFAULT_FACTORY"),
}
