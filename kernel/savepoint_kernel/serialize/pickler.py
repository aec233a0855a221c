"""Saving: objects to a pickle that `portable.loads` makes them of again, here or in another Python.

What the C pickler knows goes through it at its speed, large buffers without a copy. Every other
type is looked up once per pickle in a table of reducers:

* functions and classes that cells define are saved by the source of their cell (`cellcode`,
  `classes`), other code by its place in a library (`librarycode`), or as bytecode that only the
  same minor version of Python takes;
* a function's globals are not copied: the live namespace and modules stand for themselves;
* other types have reducers (`reducers`), or are refused (`refusals`) if something else would come
  back.

The bytes are compared to see whether an object changed. So whatever changes by merely using an
object stays out: caches, counters, the order of sets that Python keeps for itself.

A weak reference is saved with its referent. That lives on after loading if the pickle holds it
otherwise, as it did where it came from; if not, the reference is dead.

dill is not used. Tried with all examples it comes with, it saves nothing more that comes back as
what it was: locks and queues come back without who waits, proxies by searching the collector.

Threads: the one that owns the objects.
"""

from __future__ import annotations

import builtins
import enum
import functools
import hashlib
import io
import linecache
import marshal
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from ..exceptions import NotPicklable
from . import portable
from .arrays import ArrayTracker, saves_alike
from .cellcode import ANNOTATIONS, place_of
from .classes import reduce_class
from .depth import bounded_recursion
from .librarycode import library_place_of, signature_of
from .pandascaches import may_cache, without_caches
from .reducers import PROTOCOL, REDUCERS, Reducer, reduce_singledispatch, reducer_for
from .snapshots import Snapshots, names_in
from .sources import REGISTRY, CellRecord
from .tensors import Storages
from .tokens import is_importable

_HEAP_TYPE = 1 << 9
"""Flag of classes that a class statement made (Py_TPFLAGS_HEAPTYPE)."""

_SERIES_MANAGER = ("pandas.core.internals.managers", "SingleBlockManager")

_TENSORS = {("torch", "Tensor"), ("torch.nn.parameter", "Parameter")}

_NAMES_IN_TYPES = {kind: name for name, kind in vars(types).items() if isinstance(kind, type)}


def dumps(
    obj: Any, namespace: dict[str, Any], *, limit: int | None = None, in_band: bool = False
) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle an object.

    Args:
        obj: what to save; what it shares is shared again after loading.
        namespace: the live namespace. Functions with these globals get those of the process that
            loads them; nothing in it is saved unless ``obj`` refers to it otherwise.
        limit: bytes that stream and buffers may have together; None for no limit.
        in_band: copy large buffers into the stream, and return none.

    Returns:
        The stream, and the buffers that belong to it: memory of the objects themselves, which must
        not change before the buffers are used.

    Raises:
        NotPicklable: an object would not come back as what it is, or the limit is exceeded.
        BaseException: whatever the ``__reduce__`` of an object raises.
    """
    shared: frozenset[int] = frozenset()
    used: Mapping[int, frozenset[str]] = {}
    with bounded_recursion():
        while True:
            target = _Target(limit, in_band)
            pickler = _Pickler(target, namespace, shared, used)
            pickler.dump_all(obj)
            found, used = pickler.arrays.shared_owners(), pickler.snapshots.missed
            if found <= shared and not used:
                return target.getvalue(), target.buffers
            # Known beforehand, it is written otherwise.
            shared |= found


class _Target(io.BytesIO):
    """Where the pickle goes; counts if there is a limit."""

    def __init__(self, limit: int | None, in_band: bool) -> None:
        super().__init__()
        self._in_band = in_band
        self.buffers: list[pickle.PickleBuffer] = []
        self._limit = limit
        self._left = sys.maxsize if limit is None else limit

    def write(self, data: Any) -> int:
        self._count(len(data))
        return super().write(data)

    def add_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer; return True if it is to be written into the stream instead."""
        if not self._in_band:
            self._count(buffer.raw().nbytes)
            self.buffers.append(buffer)
        return self._in_band

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            assert self._limit is not None
            raise too_large(self._limit)


def too_large(limit: int) -> NotPicklable:
    """Make the error of a pickle with more bytes than it may have."""
    return NotPicklable(f"larger than the limit of {limit} bytes")


class _Reduced:
    """Stands in a pickle for what a function returns when it is loaded."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._reduced = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


class _Pickler(pickle.Pickler):
    """One pickle.

    Args:
        target: where it goes.
        namespace: the live namespace.
        shared: ids of arrays that others are views of.
        used: see `snapshots.Snapshots`.
    """

    def __init__(
        self,
        target: _Target,
        namespace: dict[str, Any],
        shared: frozenset[int],
        used: Mapping[int, frozenset[str]],
    ) -> None:
        super().__init__(target, PROTOCOL, buffer_callback=target.add_buffer)
        self._storages = Storages()
        self.arrays = ArrayTracker(shared, self._storages)
        self.snapshots = Snapshots(namespace, used)
        self._namespace = namespace
        self._reducers: dict[type, Reducer | None] = {
            **REDUCERS,
            type: self._class,
            types.FunctionType: self._function,
            types.CodeType: self._code,
            types.ModuleType: self._module,
        }
        self._stand_ins: dict[int, _Reduced] = {}
        self._cells: dict[str, CellRecord | None] = {}

    def dump_all(self, obj: Any) -> None:
        """Write the two pickles that `portable` describes."""
        live, base = _Reduced(portable.live_namespace), _Reduced(portable.builtins_namespace)
        self.dump((live, base))
        stands_for = {id(live): self._namespace, id(base): vars(builtins)}
        self.memo = {
            id(known := stands_for.get(key, saved)): (index, known)
            for key, (index, saved) in self.memo.copy().items()
        }
        try:
            self.dump(obj)
        finally:
            # They hold the pickler, and its memo the objects.
            self._reducers.clear()

    def reducer_override(self, obj: Any) -> Any:
        """Called for all objects but those of the plainest types."""
        kind = type(obj)
        try:
            reducer = self._reducers[kind]
        except KeyError:
            reducer = self._reducers[kind] = self._reducer_for(kind)
        return NotImplemented if reducer is None else reducer(obj)

    def _reducer_for(self, kind: type) -> Reducer | None:
        if issubclass(kind, type):
            return self._class
        if (kind.__module__, kind.__qualname__) == ("numpy", "ndarray"):
            return self.arrays.reduce
        if (kind.__module__, kind.__qualname__) in _TENSORS:
            return self._storages.reduce
        if kind.__module__ == "pandas.core.internals.blocks":
            return self._block
        if (kind.__module__, kind.__qualname__) == _SERIES_MANAGER:
            return self._series_manager
        reducer = reducer_for(kind)
        numpy = sys.modules.get("numpy")
        if reducer is None and numpy is not None and issubclass(kind, numpy.ndarray):
            return self.arrays.reduce_instance if saves_alike(kind) else None
        return without_caches(reducer) if may_cache(kind) else reducer

    # -- functions and classes ---------------------------------------------------------------------

    def _class(self, cls: Any) -> Any:
        if cls is enum.EnumMeta:  # since 3.11 it says it is EnumType
            return portable.load_constant, ("enum", "EnumMeta")
        if is_importable(cls):
            return NotImplemented
        if cls.__flags__ & _HEAP_TYPE:
            return reduce_class(cls)
        name = _NAMES_IN_TYPES.get(cls)
        return NotImplemented if name is None else (portable.load_constant, ("types", name))

    def _function(self, function: types.FunctionType) -> Any:
        if is_importable(function):
            return NotImplemented
        if function.__globals__ is vars(functools) and hasattr(function, "registry"):
            return reduce_singledispatch(function)
        optional = {
            "__defaults__": function.__defaults__,
            "__kwdefaults__": function.__kwdefaults__,
            "__annotations__": function.__annotations__,
            "__type_params__": getattr(function, "__type_params__", ()),
        }
        own = {
            "__name__": function.__name__,
            "__qualname__": function.__qualname__,
            "__module__": function.__module__,
            "__doc__": function.__doc__,
            **{name: value for name, value in optional.items() if value},
        }
        state = dict(function.__dict__), own, _submodules(function)
        args = function.__code__, self._globals(function), function.__closure__
        return portable.make_function, args, state, None, None, portable.set_function_state

    def _globals(self, function: types.FunctionType) -> Any:
        """Return the globals, or what stands for a module's."""
        found = function.__globals__
        module = sys.modules.get(found.get("__name__", ""))
        if id(found) not in self._stand_ins and getattr(module, "__dict__", None) is found:
            name = found["__name__"]
            self._stand_ins[id(found)] = _Reduced(portable.module_namespace, name)
        stand_in = self._stand_ins.get(id(found)) or self.snapshots.stand_in(function)
        return found if stand_in is None else stand_in

    def _code(self, code: types.CodeType) -> Any:
        cell = self._cell(code.co_filename)
        place = None if cell is None else place_of(code, cell.text)
        if place is not None:
            return portable.load_code, (cell, *place, code.co_flags & ANNOTATIONS)
        library = library_place_of(code)
        if library is not None:
            return portable.load_library_code, (*library, signature_of(code))
        # Format 2, as later ones depend on the reference counts of the moment.
        bytecode = marshal.dumps(code, 2)
        return portable.load_bytecode, (tuple(sys.version_info[:2]), code.co_name, bytecode)

    def _cell(self, filename: str) -> CellRecord | None:
        """Return the cell of that name, or what else has its text in linecache only (attrs)."""
        if filename not in self._cells:
            cell = REGISTRY.cell_of(filename)
            if cell is not None:
                self._cells[filename] = REGISTRY.first(cell)
            else:
                entry = linecache.cache.get(filename, ())
                known = len(entry) == 4 and entry[1] is None
                text = "".join(entry[2]) if known else ""  # type: ignore[misc]
                digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
                self._cells[filename] = (
                    CellRecord(filename, text, digest, 0, None) if text else None
                )
        return self._cells[filename]

    def _module(self, module: types.ModuleType) -> Any:
        if sys.modules.get(module.__name__) is module:
            return portable.load_module, (module.__name__,)
        # Functions made in there have its dict as globals.
        self._stand_ins[id(vars(module))] = _Reduced(vars, module)
        state = {k: v for k, v in vars(module).items() if k not in ("__builtins__", "__loader__")}
        state.pop("__spec__", None)
        return types.ModuleType, (module.__name__,), state, None, None, portable.update

    def _block(self, block: Any) -> Any:
        self.arrays.note_block(block)
        return NotImplemented

    def _series_manager(self, manager: Any) -> Any:
        for block in manager.blocks:  # which it pickles without asking them
            self.arrays.note_block(block)
        return NotImplemented


def _submodules(function: types.FunctionType) -> list[types.ModuleType]:
    """Return what a function uses as ``package.module``; importing a package may not load it."""
    names = sorted(names_in(function.__code__))
    found: list[types.ModuleType] = []
    packages: list[Any] = [function.__globals__.get(name) for name in names]
    for package in packages:
        if isinstance(package, types.ModuleType) and hasattr(package, "__path__"):
            for name in names:
                module: Any = getattr(package, name, None)
                known = sys.modules.get(f"{package.__name__}.{name}")
                # A package can be its own attribute (torch.torch), and be met on several ways.
                if known is not None and known is module and module not in found:
                    packages.append(module)
                    found.append(module)
    return found
