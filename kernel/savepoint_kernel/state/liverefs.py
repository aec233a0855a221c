"""Objects that are not saved: live references, and the placeholders of those that are lost.

A generator, a lock, a connection can't be pickled. While it lives in this process, a way back to a
commit that had it binds the very object again; its own state stays as it is. When it is gone, or in
another process, its name is bound to a `DroppedReference`: any use of it raises and says why.

Objects are held weakly where their type allows it, so that a file or a socket that the user lets go
is closed as without this registry. The others are held until a commit no longer has them.

Threads: the one that owns the namespace.
"""

from __future__ import annotations

import itertools
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NoReturn

from ..exceptions import DroppedReferenceError

CAPACITY = 10_000


class LiveReferences:
    """Keys for objects of this process."""

    def __init__(self) -> None:
        self._process = uuid.uuid4().hex  # keys of other processes mean nothing here
        self._numbers = itertools.count(1)
        self._objects: OrderedDict[str, Callable[[], Any]] = OrderedDict()
        self._keys: dict[int, str] = {}

    def key_of(self, value: Any) -> str:
        """Return the key of an object; the same one as long as it lives."""
        key = self._keys.get(id(value))
        if key is not None and self.get(key) is value:
            return key
        key = f"{self._process}-{next(self._numbers)}"
        self._keys[id(value)] = key
        try:
            self._objects[key] = weakref.ref(value, _Forget(self, key, id(value)))
        except TypeError:
            self._objects[key] = lambda: value
            if len(self._objects) > CAPACITY:
                self.release(next(iter(self._objects)))
        return key

    def release(self, key: str) -> None:
        """Let an object go that is held because its type allows no weak reference."""
        held = self._objects.get(key)
        if held is not None and not isinstance(held, weakref.ref):
            self.forget(key, id(held()))

    def get(self, key: str) -> Any:
        """Return the object of a key, or None if it is gone."""
        held = self._objects.get(key)
        return None if held is None else held()

    def forget(self, key: str, identity: int) -> None:
        """Drop a key whose object is gone."""
        self._objects.pop(key, None)
        if self._keys.get(identity) == key:
            del self._keys[identity]


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

    __slots__ = ("_name", "_reason", "_type")

    def __init__(self, name: str, kind: str, reason: str) -> None:
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


def _refuse(self: DroppedReference, *args: Any, **kwargs: Any) -> NoReturn:
    name, kind, reason = what_was_dropped(self)
    raise DroppedReferenceError(
        f"{name} was a {kind} and is not there after the restore, as it could not be saved: "
        f"{reason}. Make it again, or give savepoint.refs.put() a way to"
    )


for _name in """
    add and bool bytes call ceil complex contains delattr delitem divmod enter eq exit float floor
    floordiv format ge getitem gt hash iadd iand ifloordiv ilshift imatmul imod imul index int
    invert ior ipow irshift isub iter itruediv ixor le len lshift lt matmul mod mul ne neg next or
    pos pow radd rand rdivmod reversed rfloordiv rlshift rmatmul rmod rmul ror round rpow rrshift
    rshift rsub rtruediv rxor setattr setitem str sub truediv trunc xor
""".split():
    setattr(DroppedReference, f"__{_name}__", _refuse)
