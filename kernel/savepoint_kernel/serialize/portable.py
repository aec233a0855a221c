"""Loading: what a pickle of `pickler` calls, in this interpreter or in one of another version.

Needs the standard library only, so that a checkpoint opens where neither IPython nor ZeroMQ is
installed. Functions here are named in stored pickles: rename none, and keep accepting
the arguments they were ever written with.

A pickle is two: first the dictionaries that stand for themselves and are never copied (the live
namespace, that of builtins), then the object, which refers to them through the common memo. So a
function finds the globals of the process that loads it, and a plain dict costs no call of ours.

Loading is running code: never load what was not signed by this user.
"""

from __future__ import annotations

import builtins
import ctypes
import dataclasses
import functools
import importlib
import inspect
import io
import marshal
import os
import pickle
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import UnrestorableState
from .cellcode import Place, code_at
from .depth import bounded_recursion
from .librarycode import LibraryPlace, library_code_at
from .sources import REGISTRY, CellRecord
from .tokens import object_of, remember


@dataclass
class Loading:
    """What one call of `loads` knows.

    Attributes:
        namespace: the live namespace.
        deferred: what is to be done to classes that exist already; None if it is done at once.
        made: classes made by this call whose attributes are not set yet, by id.
    """

    namespace: dict[str, Any]
    deferred: dict[type, Callable[[], None]] | None
    made: dict[int, type] = field(default_factory=dict)


_loading: ContextVar[Loading] = ContextVar("savepoint_loading")


def loads(
    data: bytes | bytearray,
    namespace: dict[str, Any],
    buffers: Iterable[Any] | None = None,
    *,
    deferred: dict[type, Callable[[], None]] | None = None,
) -> Any:
    """Make the object again that `pickler.dumps` has pickled.

    A class that a cell defined is the same object as before if this process still has it: instances
    loaded later are of the class that instances alive are of.

    Args:
        data: the pickle.
        namespace: the live namespace; functions that had the live one as globals get it.
        buffers: the out-of-band buffers, in order.
        deferred: filled with what gives such a class its saved attributes back, in place. Nothing
            that exists is then touched by loading. None does it at once.

    Raises:
        UnrestorableState: made by a Python of another version, from code that has no source.
    """
    token = _loading.set(Loading(namespace, deferred))
    try:
        unpickler = pickle.Unpickler(io.BytesIO(data), buffers=buffers)
        with bounded_recursion():
            unpickler.load()
            return unpickler.load()
    finally:
        _loading.reset(token)


def current() -> Loading:
    """Return the `loads` under way."""
    return _loading.get()


def live_namespace() -> dict[str, Any]:
    """Return the namespace given to `loads`."""
    return current().namespace


def builtins_namespace() -> dict[str, Any]:
    """Return the dict of `builtins`: the ``__builtins__`` of namespaces made by exec()."""
    return vars(builtins)


def module_namespace(name: str) -> dict[str, Any]:
    """Return the dict of a module: the globals of functions that libraries made."""
    return vars(importlib.import_module(name))


def load_cell(
    filename: str, text: str, digest: str, execution_count: int, cell_id: str | None
) -> CellRecord:
    """Return a cell; `inspect` can show its source from now on."""
    return REGISTRY.add(CellRecord(filename, text, digest, execution_count, cell_id))


def load_code(
    cell: CellRecord, path: tuple[str, ...], line: int, ordinal: int, features: int
) -> types.CodeType:
    """Compile a cell and pick the code of one function."""
    what = f"function {'.'.join(path)!r} of the cell {cell.filename!r}, line {line}"
    try:
        code = code_at(cell.text, cell.filename, Place(path, line, ordinal), features)
    except SyntaxError as error:
        raise UnrestorableState(
            f"{what}: Python {_dotted(sys.version_info[:2])} can't compile the cell "
            f"({error.msg}, line {error.lineno}). Restore it on the version that ran it."
        ) from None
    if code is None:
        raise UnrestorableState(f"{what}: there is none. The checkpoint is damaged.")
    return code


def load_library_code(
    module: str, path: tuple[str, ...], ordinal: int, signature: tuple[str, ...]
) -> types.CodeType:
    """Return code that a function of a library has among its constants."""
    code = library_code_at(LibraryPlace(module, path, ordinal), signature)
    if code is None:
        raise UnrestorableState(
            f"function {'.'.join(path)!r} of the module {module!r} is not what it was when the "
            "state was saved. Restore it with the versions of Python and libraries of that time."
        )
    return code


def load_bytecode(version: tuple[int, int], name: str, code: bytes) -> types.CodeType:
    """Load code that has no source; bytecode means something else in every minor version."""
    here = sys.version_info[:2]
    if tuple(version) != here:
        raise UnrestorableState(
            f"function {name!r} has no source (it was made by exec(), by a library or by a magic) "
            f"and its bytecode is for Python {_dotted(version)}; this is {_dotted(here)}. "
            f"Restore it on {_dotted(version)}, or define it in a cell and save again."
        )
    loaded: types.CodeType = marshal.loads(code)
    return loaded


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def make_function(
    code: types.CodeType,
    namespace: dict[str, Any],
    closure: tuple[types.CellType, ...] | None,
) -> types.FunctionType:
    """Make a function; what may refer to it is set afterwards."""
    return types.FunctionType(code, namespace, None, None, closure)


def set_function_state(
    function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any], Any]
) -> None:
    """Set the attributes of a function; the third part only has to be loaded (submodules)."""
    attributes, own, _ = state
    function.__dict__.update(attributes)
    for name, value in own.items():
        # Names are interned, as compilers do: what is one string pickles as one.
        setattr(function, name, sys.intern(value) if name in _NAMES and value else value)


_NAMES = ("__name__", "__qualname__", "__module__")


def make_cell() -> types.CellType:
    """Make an empty cell of a closure."""
    return types.CellType()


def set_cell(cell: types.CellType, contents: tuple[Any]) -> None:
    """Fill a cell; functions that share it see each other's changes."""
    (cell.cell_contents,) = contents


def load_module(name: str) -> types.ModuleType:
    """Import a module."""
    return importlib.import_module(name)


def load_view(method: str, owner: Any) -> Any:
    """Return ``owner.keys()``, ``.values()`` or ``.items()``."""
    return getattr(owner, method)()


def load_member(enumeration: Any, name: str) -> Any:
    """Return a member of an enumeration."""
    return enumeration[name]


def load_descriptor(owner: type, name: str) -> Any:
    """Return what a class has under a name, without binding it."""
    return vars(owner)[name]


def load_constant(module: str, name: str) -> Any:
    """Return an object that is recognised by its identity."""
    return getattr(importlib.import_module(module), name)


def make_lru_cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Wrap a function with an empty cache."""
    return functools.lru_cache(maxsize, typed)(function)


def set_singledispatch(function: Any, state: tuple[dict[Any, Any], dict[str, Any]]) -> None:
    """Register the functions for all types but `object`."""
    registered, attributes = state
    dispatcher = getattr(function, "dispatcher", function)
    for kind, implementation in registered.items():
        dispatcher.register(kind, implementation)
    vars(function).update(attributes)


def make_cached_property(name: str | None) -> Any:
    """Make a cached property without its function; before 3.12 it has a lock of its own."""
    made: functools.cached_property[Any] = functools.cached_property(_nothing)
    made.attrname = name
    return made


def _nothing(_: Any) -> None:
    pass


def update(obj: Any, attributes: dict[str, Any]) -> None:
    """Set attributes past any ``__setattr__`` and ``__setstate__``."""
    vars(obj).update(attributes)


def set_state(obj: Any, state: Any) -> None:
    """Set the state of an object as unpickling does, without asking it for ``__setstate__``."""
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        vars(obj).update(
            {sys.intern(k) if type(k) is str else k: attributes[k] for k in attributes}
        )
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


def make_typing(
    token: str | None, module: str, kind: str, args: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """Make a type variable or a new type, or return the one that this process has."""
    existing = object_of(token) if token else None
    if existing is None:
        try:
            existing = getattr(typing, kind)(*args, **options)
        except (AttributeError, TypeError) as error:
            raise UnrestorableState(
                f"typing.{kind} {args[0]!r}: Python {_dotted(sys.version_info[:2])} does not have "
                f"it like that ({error}). Restore it on the version that made it."
            ) from None
        if token is not None:
            existing.__module__ = module
            remember(token, existing)
    return existing


def make_dataclass_params(options: dict[str, bool]) -> Any:
    """Return what `dataclasses` notes of a decorator's arguments."""
    known = inspect.signature(dataclasses.dataclass).parameters
    options = {name: value for name, value in options.items() if name in known}
    decorated: Any = dataclasses.dataclass(**options)(type("C", (), {}))
    return decorated.__dataclass_params__


def make_weakref(kind: Any, referent: Any, callback: Any) -> Any:
    """Refer to an object: it lives on if something else that is loaded holds it."""
    if referent is None:
        return kind(_Nobody(), callback)
    return kind(referent, callback)


class _Nobody:
    pass


def make_memoryview(owner: Any, form: str, shape: tuple[int, ...], readonly: bool) -> memoryview:
    """Look at a buffer as a whole again."""
    view = memoryview(owner)
    if (view.format, view.shape) != (form, shape):
        view = view.cast("B")
        # A cast to bytes is not one to numbers.
        view = view.cast(form, shape) if len(shape) != 1 else view.cast(form)  # type: ignore[call-overload]
    return view.toreadonly() if readonly else view


def make_file(path: Any, mode: str, buffering: int, text: dict[str, Any], position: int) -> Any:
    """Open a file for reading where it was read."""
    try:
        file = open(path, mode, buffering, **text)  # noqa: SIM115
    except OSError as error:
        raise UnrestorableState(
            f"the file {path!r} was open for reading and can't be opened: {error.strerror}. "
            "Put it where it was, or close it before the state is saved."
        ) from None
    file.seek(position)
    return file


def make_closed_file(path: Any, mode: str, buffering: int, text: dict[str, Any]) -> Any:
    """Make a file object that is closed; the file is not looked for."""
    file: Any = open(os.devnull, mode.replace("x", "w"), buffering, **text)  # noqa: SIM115
    raw = file
    while not isinstance(raw, io.FileIO):
        raw = raw.buffer if isinstance(raw, io.TextIOWrapper) else raw.raw
    raw.name = path
    if text:
        file.mode = mode
    file.close()
    return file


def make_array_view(
    owner: Any,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: Any,
    kind: Any = None,
) -> Any:
    """Make an array of another one's memory.

    Args:
        owner: the array whose memory it is.
        offset: of the first element, in bytes.
        shape: of the view.
        strides: of the view, in bytes.
        dtype: of the view.
        kind: its class, if that is not ndarray.
    """
    numpy = importlib.import_module("numpy")
    whole = owner if owner.flags.c_contiguous else owner.T
    if dtype.hasobject:  # numpy makes no such array from a buffer
        flat = whole.reshape(-1)[offset // owner.itemsize :]
        view = numpy.lib.stride_tricks.as_strided(flat, shape, strides)
        return view if kind is None else view.view(kind)
    # Past the class's own __new__, as numpy does it when it unpickles.
    return numpy.ndarray.__new__(kind or numpy.ndarray, shape, dtype, whole, offset, strides)


def make_storage(data: Any) -> Any:
    """Make a tensor of bytes, in memory of torch's own."""
    torch = importlib.import_module("torch")
    made = torch.empty(data.size, dtype=torch.uint8, device="cpu")
    # made.numpy() would mark the storage: it could not be resized any more.
    ctypes.memmove(made.data_ptr(), data.ctypes.data, data.size)
    return made


def make_tensor(
    owner: Any,
    dtype: Any,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,
    parameter: bool,
) -> Any:
    """Make a tensor on the memory of another one.

    Args:
        owner: what `make_storage` made.
        dtype: of the tensor.
        offset: of the first element, in elements.
        shape: of the tensor.
        strides: of the tensor, in elements.
        requires_grad: whether operations on it are recorded.
        parameter: make it a ``torch.nn.Parameter``.
    """
    torch = importlib.import_module("torch")
    made = torch.empty(0, dtype=dtype, device="cpu")
    made.set_(owner.untyped_storage(), offset, shape, strides)
    return (
        torch.nn.Parameter(made, requires_grad) if parameter else made.requires_grad_(requires_grad)
    )


def set_tensor_state(tensor: Any, state: tuple[dict[str, Any], Any]) -> None:
    """Set the attributes and the gradient."""
    attributes, grad = state
    vars(tensor).update(attributes)
    if grad is None or (grad.shape, grad.dtype) == (tensor.shape, tensor.dtype):
        tensor.grad = grad
    else:  # an old one: the tensor was given other data since
        data = tensor.data
        tensor.data = grad.new_empty(grad.shape)
        tensor.grad = grad
        tensor.data = data


def make_array_of_storage(
    owner: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any
) -> Any:
    """Make an array on the memory of what `make_storage` made; see `make_array_view`."""
    return make_array_view(owner.numpy(), offset, shape, strides, dtype)


def set_array_state(array: Any, state: tuple[Any, ...]) -> None:
    """Set the contents, if they don't come in a buffer, and make the array read-only."""
    if state:
        array.__setstate__(*state)
    array.flags.writeable = False


def make_exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception without running a ``__new__`` or ``__init__`` of Python's."""
    base: Any = builtin_base(kind)
    error: BaseException = base.__new__(kind, *args)
    base.__init__(error, *args)
    return error


def builtin_base(kind: type[BaseException]) -> type[BaseException]:
    """Return the first exception that is not written in Python among a class and its bases."""
    return next(
        base
        for base in kind.__mro__
        if base.__module__ == "builtins" and issubclass(base, BaseException)
    )


def set_array_instance(array: Any, state: tuple[Any, Any, bool]) -> None:
    """Set what there is to an instance of a subclass of ndarray.

    Args:
        array: the instance.
        state: contents, as numpy has them, None for a view; attributes and slots; whether it can be
            written to.
    """
    contents, attributes, writeable = state
    if contents is not None:
        importlib.import_module("numpy").ndarray.__setstate__(array, contents)
    own = getattr(array, "__dict__", None)
    if own is not None:
        own.clear()  # of what __array_finalize__ put there
    if attributes is not None:
        set_state(array, attributes)
    if not writeable:
        array.flags.writeable = False


def set_exception_state(error: BaseException, state: tuple[Any, Any, Any, bool]) -> None:
    """Set what an exception says and what it came from; tracebacks are not saved."""
    saved, error.__cause__, error.__context__, suppress = state
    error.__suppress_context__ = suppress
    if saved is not None:
        error.__setstate__(saved)


def set_iterator_state(iterator: Any, state: Any) -> None:
    """Set how far an iterator of `itertools` is; 3.12 warns that 3.14 can't."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        iterator.__setstate__(state)
