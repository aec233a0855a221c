"""Objects that are not saved: live references, and the placeholders of those that are lost.

A generator, a lock, a connection can't be pickled. While it lives in this process, a way back to a
commit that had it binds the very object again; its own state stays as it is. When it is gone, or in
another process, its name is bound to a `DroppedReference`: any use of it raises and says why.

Objects are held weakly where their type allows it, so that a file or a socket that the user lets go
is closed as without this registry. The others are held while the present state has them, and the
last hundred of those it had.

What the user `put` here is held until it is removed, whatever is undone, and may come with a
function that makes it again. That function is pickled at once: so `put` can tell whether it can be
saved, and a commit has it as it was, next to the name it is for (`Again`).

Threads: the one that owns the namespace.
"""

from __future__ import annotations

import inspect
import itertools
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from traceback import format_exception_only
from typing import Any, NoReturn

from ..exceptions import DroppedReferenceError, NotPicklable, ReferencesFull
from ..serialize.pickler import dumps
from ..serialize.portable import loads
from .fingerprint import Get, Piece

KEPT = 100
"""Objects held that the present state no longer has, for an undo."""

CAPACITY = 10_000
"""Objects held without being asked for."""

LARGEST = 1 << 18
"""Bytes of a pickled ``recreate``, with the text of its cell: it is one chunk of the store."""


@dataclass(frozen=True, slots=True)
class Again:
    """How a commit has an object made again.

    Attributes:
        key: of the object.
        label: what the user calls it; may be empty.
        pickled: the function, as it was.
    """

    key: str
    label: str
    pickled: Piece


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that was put among the live references.

    Attributes:
        key: its key.
        type: its type, with the module.
        name: what the user calls it; empty if it has no name.
        alive: False if a restore could not make it again.
        recreate: whether a function makes it again.
    """

    key: str
    type: str
    name: str
    alive: bool
    recreate: bool


@dataclass(frozen=True, slots=True)
class _Put:
    label: str
    value: Any  # a placeholder if it could not be made again
    pickled: Piece | None  # None if there is no function

    @property
    def alive(self) -> bool:
        return type(self.value) is not DroppedReference


class LiveReferences:
    """Keys for objects of this process.

    Args:
        namespace: the live one, in which functions have their globals.
        capacity: tells how many objects users may put here.
        guard: lets an interrupt raise while users' code runs, which may never end.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        capacity: Callable[[], int],
        guard: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._namespace = namespace
        self._capacity = capacity
        self._guard = guard
        self._process = uuid.uuid4().hex  # keys of other processes mean nothing here
        self._numbers = itertools.count(1)
        self._objects: OrderedDict[str, Callable[[], Any]] = OrderedDict()
        self._released: OrderedDict[str, None] = OrderedDict()
        self._put: dict[str, _Put] = {}
        self._labels: dict[str, str] = {}
        self._keys: dict[int, str] = {}

    # -- what is not saved

    def key_of(self, value: Any) -> str:
        """Return the key of an object; the same one as long as it lives."""
        key = self._known_key(value) or self._new_key(value)
        self._released.pop(key, None)  # the present state has it again
        if key not in self._objects:
            try:
                self._objects[key] = weakref.ref(value, _Forget(self, key, id(value)))
            except TypeError:
                self._objects[key] = lambda: value
                if len(self._objects) > CAPACITY:
                    self._let_go(next(iter(self._objects)))
        return key

    def _known_key(self, value: Any) -> str | None:
        key = self._keys.get(id(value))
        return key if key is not None and self.get(key) is value else None

    def _new_key(self, value: Any) -> str:
        key = self._keys[id(value)] = f"{self._process}-{next(self._numbers)}"
        return key

    def release(self, key: str) -> None:
        """Let an object go that is held because its type allows no weak reference.

        Not at once: an undo may lead back to it.
        """
        self._released[key] = None
        if len(self._released) > KEPT:
            oldest, _ = self._released.popitem(last=False)
            self._let_go(oldest)

    def _let_go(self, key: str) -> None:
        held = self._objects.get(key)
        if held is not None and not isinstance(held, weakref.ref):
            self.forget(key, id(held()))

    def get(self, key: str) -> Any:
        """Return the object of a key, or None if it is gone."""
        put = self._put.get(key)
        if put is not None:
            return put.value if put.alive else None
        held = self._objects.get(key)
        return None if held is None else held()

    def forget(self, key: str, identity: int) -> None:
        """Hold an object no longer, unless it was put here."""
        self._objects.pop(key, None)
        if key not in self._put and self._keys.get(identity) == key:
            del self._keys[identity]

    # -- what users put here

    def put(self, value: Any, name: str = "", recreate: Callable[[], Any] | None = None) -> str:
        """Hold an object until it is removed, and take note how it is made again.

        Args:
            value: the object. One that is here already gets the new name and function.
            name: what to call it; an object that has the name already is removed.
            recreate: makes it again; called without arguments.

        Returns:
            Its key.

        Raises:
            ReferencesFull: there are as many as there may be.
            NotPicklable: ``recreate`` can't be saved with a commit.
            TypeError: it can't be called without arguments, or the name is none.
            DroppedReferenceError: ``value`` is no object, but the placeholder of one.
        """
        if type(value) is DroppedReference:
            _refuse(value)
        if not isinstance(name, str):
            raise TypeError(f"a name is a string, not {name!r}")
        pickled = None if recreate is None else self._pickled(recreate)
        key = self._known_key(value)
        replaced = self._labels.get(name)
        if key not in self._put and replaced is None and len(self._put) >= self._capacity():
            raise ReferencesFull(
                f"there are {len(self._put)} live references already, and Savepoints.references "
                f"is {self._capacity()}: set it higher, or remove some (savepoint.refs.list(), "
                "savepoint.refs.remove())"
            )
        key = key or self._new_key(value)
        if replaced is not None and replaced != key:
            self.remove(replaced)
        self._enter(key, _Put(name, value, pickled))
        return key

    def _enter(self, key: str, put: _Put) -> None:
        self._unname(key)
        if put.label:
            self._labels[put.label] = key
        self._put[key] = put

    def _unname(self, key: str) -> None:
        known = self._put.get(key)
        if known is not None:
            self._labels.pop(known.label, None)

    def _pickled(self, recreate: Callable[[], Any]) -> Piece:
        if not callable(recreate):
            raise TypeError(f"recreate must be a function, not {recreate!r}")
        if inspect.iscoroutinefunction(recreate):
            raise TypeError("recreate can't be async: a restore does not await it")
        try:
            signature = inspect.signature(recreate)
        except ValueError:
            pass  # of C code, some have none
        else:
            try:
                signature.bind()
            except TypeError as error:
                raise TypeError(f"recreate is called without arguments: {error}") from None
        try:
            data, _ = dumps(recreate, self._namespace, limit=LARGEST, in_band=True)
        except Exception as error:
            raise NotPicklable(
                f"recreate can't be saved with a commit: {reason_of(error)}. Let it take what it "
                "needs from the names of the session when it is called"
            ) from error
        return Piece.whole(data)

    def remove(self, key: str) -> None:
        """Let go what was put here.

        Args:
            key: its key or its name.

        Raises:
            DroppedReferenceError: there is none.
        """
        key, put = self._find(key)
        self._unname(key)
        del self._put[key]
        if key not in self._objects:
            self.forget(key, id(put.value))

    def object_of(self, key: str) -> Any:
        """Return what was put here.

        Args:
            key: its key or its name.

        Raises:
            DroppedReferenceError: there is none, or it could not be made again.
        """
        _, put = self._find(key)
        if not put.alive:
            _refuse(put.value)
        return put.value

    def references(self) -> Sequence[Reference]:
        """Return what was put here, oldest first."""
        return [
            Reference(key, type_of(put.value), put.label, put.alive, put.pickled is not None)
            for key, put in self._put.items()
        ]

    def _find(self, key: str) -> tuple[str, _Put]:
        found = key if key in self._put else self._labels.get(key)
        if found is None:
            raise DroppedReferenceError(
                f"there is no live reference {key!r}: it was removed, or put in another process "
                "without a way to make it again. savepoint.refs.list() lists those there are"
            )
        return found, self._put[found]

    # -- making them again

    def again(self, key: str) -> Again | None:
        """Return how an object, or what a placeholder stands for, is made again; None if in no way.

        Args:
            key: see `key_of`.
        """
        put = self._put.get(key)
        if put is not None:
            return None if put.pickled is None else Again(key, put.label, put.pickled)
        held = self.get(key)
        return way_back(held) if type(held) is DroppedReference else None

    def make_again(self, missing: Mapping[str, DroppedReference], get: Get) -> dict[str, Any]:
        """Make objects again, each once, and hold them as those they stand for were held.

        There may be more of them then than could be put here: none is lost for that.

        Args:
            missing: placeholders of them, by name.
            get: reads the store.

        Returns:
            What the names are to be bound to: the object, or a placeholder that says why not.
        """
        made: dict[str, Any] = {}  # by key
        bound: dict[str, Any] = {}
        interrupted = False
        for name, placeholder in missing.items():
            again = way_back(placeholder)
            assert again is not None
            if again.key not in made:
                value = self.get(again.key)  # by an earlier restore, perhaps
                reason = "the restore was interrupted before recreate() was called"
                if value is None and not interrupted:
                    try:
                        value, reason = self._make(again, get)
                    except KeyboardInterrupt:
                        reason, interrupted = "recreate() was interrupted", True
                if value is None:
                    value = DroppedReference(name, type_of(placeholder), reason, again)
                self._adopt(again, value)
                made[again.key] = value
            bound[name] = made[again.key]
        return bound

    def _make(self, again: Again, get: Get) -> tuple[Any, str]:
        """Return an object, or None and the reason why there is none."""
        try:
            with self._guard():
                value = loads(again.pickled.read(get), self._namespace)()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # users' code may raise SystemExit
            return None, f"recreate() raised {reason_of(error)}"
        if type(value) is DroppedReference:
            return None, f"recreate() returned {value!r}"
        return value, "recreate() returned None"

    def _adopt(self, again: Again, value: Any) -> None:
        """Hold what was made again as what it stands for was held."""
        taken = self._labels.get(again.label, again.key) != again.key
        self._enter(again.key, _Put("" if taken else again.label, value, again.pickled))
        if type(value) is not DroppedReference:  # that has a key of its own
            self._keys[id(value)] = again.key


class _Forget:
    def __init__(self, references: LiveReferences, key: str, identity: int) -> None:
        self._forget = references.forget
        self._arguments = key, identity

    def __call__(self, gone: Any) -> None:
        self._forget(*self._arguments)


class DroppedReference:
    """Stands where a value was that could not be saved. Any use of it raises.

    Attributes are not for users: whatever they ask for raises too, `repr` excepted.
    """

    __slots__ = ("_again", "_name", "_reason", "_type")

    def __init__(self, name: str, kind: str, reason: str, again: Again | None = None) -> None:
        object.__setattr__(self, "_again", again)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_type", kind)
        object.__setattr__(self, "_reason", reason)

    def __repr__(self) -> str:
        name, kind, reason = what_was_dropped(self)
        return f"<{name} was not saved: a {kind}; {reason}>"

    def __getattribute__(self, name: str) -> Any:
        if name in {"__class__", "__repr__", "__doc__", "__module__"} or "repr_" in name:
            return object.__getattribute__(self, name)  # asked for by whoever displays it
        _refuse(self)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        _refuse(self)


def what_was_dropped(placeholder: DroppedReference) -> tuple[str, str, str]:
    """Return name, type and reason of a placeholder."""
    name, kind, reason = (
        object.__getattribute__(placeholder, slot) for slot in ("_name", "_type", "_reason")
    )
    return name, kind, reason


def way_back(placeholder: DroppedReference) -> Again | None:
    """Return how the object a placeholder stands for is made again; None if there is no way."""
    again: Again | None = object.__getattribute__(placeholder, "_again")
    return again


def reason_of(error: BaseException) -> str:
    """Say in one line what was raised."""
    if isinstance(error, NotPicklable):
        return str(error).rstrip(".")
    return "".join(format_exception_only(error)).strip()[:300]


def type_of(value: Any) -> str:
    """Return the type of a value, with the module; of a placeholder, what it stands for."""
    if type(value) is DroppedReference:
        return what_was_dropped(value)[1]
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _refuse(self: DroppedReference, *args: Any, **kwargs: Any) -> NoReturn:
    name, kind, reason = what_was_dropped(self)
    lost = f"{name} was a {kind} and is not there after the restore"
    if way_back(self) is not None:
        raise DroppedReferenceError(f"{lost}: {reason}. Make it again yourself")
    raise DroppedReferenceError(
        f"{lost}, as it could not be saved: {reason}. Make it again, or give "
        "savepoint.refs.put() a way to"
    )


for _name in """
    add and bool bytes call ceil complex contains delattr delitem divmod enter eq exit float floor
    floordiv format ge getitem gt hash iadd iand ifloordiv ilshift imatmul imod imul index int
    invert ior ipow irshift isub iter itruediv ixor le len lshift lt matmul mod mul ne neg next or
    pos pow radd rand rdivmod reversed rfloordiv rlshift rmatmul rmod rmul ror round rpow rrshift
    rshift rsub rtruediv rxor setattr setitem str sub truediv trunc xor
""".split():
    setattr(DroppedReference, f"__{_name}__", _refuse)
