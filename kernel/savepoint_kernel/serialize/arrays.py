"""Arrays that share memory, in one pickle.

numpy pickles a view as an array of its own. So a pickle is made once, during which all arrays are
noted; if some of them overlap, it is made again, with those saved as views of the array that owns
the memory, which is saved whole. Arrays that share nothing cost a call each.

pandas shares memory between frames as long as nobody writes (copy on write) and keeps account of
it. After loading there is no such account, so arrays that it has on it are saved apart.

Of subclasses numpy forgets the attributes, which come along here. A class that has its own way to
be pickled is left to it.

Limits: memory that no array owns (a bytearray under an array) is not shared again, nor are
instances of subclasses, nor arrays that an object's ``__reduce__`` makes anew each time.
"""

from __future__ import annotations

import copyreg
import itertools
import sys
from typing import Any

from . import portable
from .tensors import Storages

_REDUCTION = ("__reduce__", "__reduce_ex__", "__setstate__")


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
        owner = array.base
        if owner is None or type(owner) is not type(array) or id(array) in self._apart:
            self._whole.add(id(array))
        else:
            while type(owner.base) is type(array):
                owner = owner.base
            if _describable(array, owner):
                self._views.setdefault(id(owner), []).append(_span(array))
                if id(owner) in self._shared:
                    return _as_view(array, owner)
        return NotImplemented if array.flags.writeable else _read_only(array.__reduce_ex__(5))

    def reduce_instance(self, array: Any) -> Any:
        """Return what a pickle is to hold of an instance of a subclass that `saves_alike`."""
        attributes, writeable = _attributes(array), array.flags.writeable
        # Not __reduce_ex__, which asks the class.
        make, args, contents = sys.modules["numpy"].ndarray.__reduce__(array)
        if attributes is None and writeable:
            return make, args, contents
        state = contents, attributes, writeable
        return make, args, state, None, None, portable.set_array_instance

    def shared_owners(self) -> frozenset[int]:
        """Return the ids of arrays whose memory others in the pickle see too."""
        return frozenset(
            owner
            for owner, spans in self._views.items()
            if owner in self._whole or _overlap(sorted(spans))
        )


def saves_alike(kind: type) -> bool:
    """Tell whether a subclass of ndarray is pickled as numpy does it, no more and no less."""
    numpy = sys.modules["numpy"]
    return all(getattr(kind, name) is getattr(numpy.ndarray, name) for name in _REDUCTION)


def _attributes(array: Any) -> tuple[Any, Any] | None:
    """Return the dict and the slots of an instance; None if there is nothing in them."""
    own = getattr(array, "__dict__", None)
    names: Any = copyreg._slotnames(type(array))  # type: ignore[attr-defined]
    slots = {name: getattr(array, name) for name in names if hasattr(array, name)}
    return (own or None, slots or None) if own or slots else None


def _describable(array: Any, owner: Any) -> bool:
    """Tell whether the array can be made of the owner's elements as they are pickled."""
    low, high = _span(array)
    start = _address(owner)
    return (
        owner.flags.forc
        and start <= low <= high <= start + owner.nbytes
        and (array.dtype == owner.dtype or not array.dtype.hasobject)
    )


def _as_view(array: Any, owner: Any) -> tuple[Any, ...]:
    offset = _address(array) - _address(owner)
    reduced = portable.make_array_view, (owner, offset, array.shape, array.strides, array.dtype)
    return reduced if array.flags.writeable else _read_only(reduced)


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
