"""Arrays that share memory, in one pickle.

numpy pickles a view as an array of its own. So a pickle is made once, during which all arrays are
noted; if some of them overlap, it is made again, with those saved as views of the array that owns
the memory, which is saved whole. Arrays that share nothing cost a call each.

Of subclasses numpy forgets the attributes too, which come along here. So does the mask of a masked
array, as an array like others. A class that has its own way to be pickled is left to it.

pandas shares memory between frames as long as nobody writes (copy on write) and keeps account of
it. After loading there is no such account, so arrays that it has on it are saved apart.

Limits: memory that no array owns (a bytearray under an array) is not shared again, nor is that of
an instance that its class saves, nor arrays that an object's ``__reduce__`` makes anew each time.
"""

from __future__ import annotations

import copyreg
import itertools
import sys
from typing import Any

from . import portable
from .tensors import Storages

_REDUCTION = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")


class ArrayTracker:
    """The arrays of one pickle.

    Args:
        shared: ids of owners found to be shared before.
        storages: those of tensors, which may be the owners.
    """

    def __init__(self, shared: frozenset[int], storages: Storages) -> None:
        self._shared = shared
        self._storages = storages
        self._apart: set[int] = set()
        # By owner: address ranges of the array and its views.
        self._whole: set[int] = set()
        self._views: dict[int, list[tuple[int, int]]] = {}
        # By owner of a subclass: the same as a plain array, which it and its views are views of.
        self._plain: dict[int, Any] = {}
        self._stand_ins: set[int] = set()

    def note_block(self, block: Any) -> None:
        """Take note of a frame's block whose memory pandas has on account."""
        # Private, but all that tells. Without it (before 2.0) there is no copy on write.
        refs = getattr(block, "refs", None)
        if refs is not None and refs.has_reference():
            values = getattr(block.values, "_ndarray", block.values)
            self._apart.add(id(values))

    def reduce(self, array: Any) -> Any:
        """Return what a pickle is to hold of an array."""
        of_tensor = self._storages.reduce_array(array)
        if of_tensor is not None:
            return of_tensor if array.flags.writeable else _read_only(of_tensor)
        view = self._as_view(array)
        if view is not None:
            return view if array.flags.writeable else _read_only(view)
        return NotImplemented if array.flags.writeable else _read_only(array.__reduce_ex__(5))

    def reduce_instance(self, array: Any) -> Any:
        """Return what a pickle is to hold of an instance of a subclass that `saves_alike`."""
        attributes, writeable = _attributes(array), array.flags.writeable
        view = self._as_view(array)
        contents = None
        if view is not None:
            make, args = view[0], (*view[1], type(array))
        else:
            # Not __reduce_ex__, which asks the class.
            make, args, contents = sys.modules["numpy"].ndarray.__reduce__(array)
        if view is None and attributes is None and writeable:
            return make, args, contents
        state = contents, attributes, writeable
        return make, args, state, None, None, portable.set_array_instance

    def _as_view(self, array: Any) -> tuple[Any, ...] | None:
        """Return how to make the array of its owner; None if it is to be saved by itself."""
        owner = array if array.base is None else owner_of(array)
        key = id(owner)
        plain = type(owner) is sys.modules["numpy"].ndarray
        if key == id(array):
            self._whole.add(key)
            if plain or key not in self._shared:
                return None
        elif id(array) in self._apart or id(array) in self._stand_ins:
            self._whole.add(id(array))
            return None
        if not _describable(array, owner):
            return None
        span = _span(array)
        self._views.setdefault(key, []).append(span)
        # One that sees memory twice (a sliding window) would be saved as often as it sees it.
        repeats = span[1] - span[0] < array.nbytes >= owner.nbytes
        if key not in self._shared and not repeats:
            return None
        if not plain:
            owner = self._stand_in(owner)
        offset = _address(array) - _address(owner)
        return portable.make_array_view, (owner, offset, array.shape, array.strides, array.dtype)

    def _stand_in(self, owner: Any) -> Any:
        if id(owner) not in self._plain:
            ndarray = sys.modules["numpy"].ndarray
            self._plain[id(owner)] = made = ndarray.view(owner, ndarray)
            self._stand_ins.add(id(made))
        return self._plain[id(owner)]

    def shared_owners(self) -> frozenset[int]:
        """Return the ids of arrays whose memory others in the pickle see too."""
        return frozenset(
            owner
            for owner, spans in self._views.items()
            if owner in self._whole or _overlap(sorted(spans))
        )


def _describable(array: Any, owner: Any) -> bool:
    """Tell whether the array can be made of the owner's elements as they are pickled."""
    low, high = _span(array)
    start = _address(owner)
    return (
        owner.flags.forc
        and start <= low <= high <= start + owner.nbytes
        and (array.dtype == owner.dtype or not array.dtype.hasobject)
    )


def saves_alike(kind: type) -> bool:
    """Tell whether a subclass of ndarray is pickled as numpy does it, no more and no less."""
    numpy, masked = sys.modules["numpy"], sys.modules.get("numpy.ma.core")
    known = [numpy.ndarray]
    if masked is not None:
        known.append(masked.MaskedArray)
    return any(
        all(getattr(kind, name, None) is getattr(base, name, None) for name in _REDUCTION)
        for base in known
    )


def owner_of(array: Any) -> Any:
    """Return the array whose memory it is: itself if that is no other's, or a file's."""
    numpy = sys.modules["numpy"]
    owner = array
    while True:
        base = owner.base
        if type(base).__name__ == "DummyArray":  # between an array and a view of `as_strided`
            base = getattr(base, "base", None)
        if not isinstance(base, numpy.ndarray) or isinstance(base, numpy.memmap):
            return owner
        owner = base


def _attributes(array: Any) -> tuple[Any, Any] | None:
    """Return the dict and the slots of an instance; None if there is nothing in them."""
    own = getattr(array, "__dict__", None)
    if own and _is_masked(array):
        own = _without_default(array, own)
    names: Any = copyreg._slotnames(type(array))  # type: ignore[attr-defined]
    slots = {name: getattr(array, name) for name in names if hasattr(array, name)}
    return (own or None, slots or None) if own or slots else None


def _is_masked(array: Any) -> bool:
    masked = sys.modules.get("numpy.ma.core")
    return masked is not None and isinstance(array, masked.MaskedArray)


def _without_default(array: Any, own: dict[str, Any]) -> dict[str, Any]:
    """Leave out what showing a masked array puts there: the value that is shown for its dtype."""
    value, dtype = own.get("_fill_value"), array.dtype
    if value is None or dtype.names is not None:
        return own
    default = sys.modules["numpy"].array(sys.modules["numpy.ma.core"].default_fill_value(dtype))
    same = value.dtype == default.dtype and value.tobytes() == default.tobytes()
    return {**own, "_fill_value": None} if same else own


def _read_only(reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    function, args, *rest = reduced
    contents = tuple(part for part in rest[:1] if part is not None)
    return function, args, contents, None, None, portable.set_array_state


def _address(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _span(array: Any) -> tuple[int, int]:
    """Return the addresses between which an array's elements are."""
    low = high = _address(array)
    if not array.size:
        return low, low
    for length, stride in zip(array.shape, array.strides, strict=True):
        extent = (length - 1) * stride
        low, high = (low + extent, high) if extent < 0 else (low, high + extent)
    return low, high + array.itemsize


def _overlap(spans: list[tuple[int, int]]) -> bool:
    return any(one[1] > other[0] for one, other in itertools.pairwise(spans))
