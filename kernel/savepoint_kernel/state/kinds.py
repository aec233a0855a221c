"""What there is to a value of a class: its payload, and the attributes that Python classes add.

A class is known from its layout: payload, slots, dict and weak references of Python's, and not one
byte more. Anything else is opaque: a C type that keeps what can't be seen or set from here.
"""

from __future__ import annotations

import array
import enum
import functools
import logging
import struct
import sys
import types
from collections.abc import Sequence
from typing import Any

from .graph import dict_descriptor
from .payload_arrays import BYTES, FRAME, Array
from .payloads import BY_BASE, BY_TYPE, NO_PAYLOAD, Payload

_NOT_WALKED_IN_CLASSES = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__slots__"}
)


class Kind:
    """How values of a class are handled.

    Attributes:
        payload: what C code keeps of them.
        weak: True if they can be referenced weakly.
        opaque: True if they hold more than can be seen here; they are not refilled.
        slots: descriptors of their slots.
        get_dict: returns a value's attributes, those in slots apart; None if there is no dict.
        set_dict: gives a value another dict; None if that can't be done.
        attributed: True if there may be any attributes.
    """

    __slots__ = ("attributed", "get_dict", "opaque", "payload", "set_dict", "slots", "weak")

    def __init__(
        self,
        payload: Payload,
        weak: bool,
        *,
        opaque: bool = False,
        dict_descriptor: Any = None,
        slots: Sequence[Any] = (),
    ) -> None:
        self.payload = payload
        self.weak = weak
        self.opaque = opaque
        self.slots = slots
        self.get_dict: Any = dict_descriptor.__get__ if dict_descriptor else None
        self.set_dict: Any = getattr(dict_descriptor, "__set__", None)
        self.attributed = bool(dict_descriptor or slots)

    def attributes(self, value: Any) -> dict[Any, Any]:
        """Return attributes by name, those in slots by descriptor; no copy if there are none."""
        own: dict[Any, Any] = self.get_dict(value) if self.get_dict else {}
        if not self.slots:
            return own
        return {**own, **self.slot_values(value)}

    def slot_values(self, value: Any) -> dict[Any, Any]:
        """Return what its slots hold; empty slots are left out."""
        found = {}
        for slot in self.slots:
            try:
                found[slot] = slot.__get__(value)
            except AttributeError:
                continue
        return found


class _ClassKind(Kind):
    """A class that a cell made and a name stands for: its attributes are walked, as in `graph`."""

    def __init__(self) -> None:
        super().__init__(NO_PAYLOAD, True)
        self.attributed = True

    def attributes(self, value: Any) -> dict[Any, Any]:
        own = type.__dict__["__dict__"].__get__(value)
        return {name: held for name, held in own.items() if name not in _NOT_WALKED_IN_CLASSES}


PAYLOADS: dict[type, Payload] = {**BY_BASE, bytearray: BYTES, array.array: BYTES}
"""By base; that of numpy's arrays is not among them, as numpy may never be imported."""

CLASS = _ClassKind()
OPAQUE = Kind(NO_PAYLOAD, True, opaque=True)
_OPAQUE_UNREFERENCEABLE = Kind(NO_PAYLOAD, False, opaque=True)


def kind_of(cls: type) -> Kind | None:
    """Return how values of a type are handled; None if they count as immutable."""
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if issubclass(cls, (type, enum.Enum, logging.Logger)):
        return None
    if numpy is not None and issubclass(cls, (numpy.generic, numpy.dtype, numpy.ufunc)):
        return _OPAQUE_UNREFERENCEABLE if issubclass(cls, numpy.void) else None
    weak = cls.__weakrefoffset__ != 0
    opaque = OPAQUE if weak else _OPAQUE_UNREFERENCEABLE
    if pandas is not None and cls in (pandas.DataFrame, pandas.Series):
        return Kind(FRAME, weak)
    if cls is types.ModuleType:  # one that was made by hand; the imported count as immutable
        return Kind(NO_PAYLOAD, weak, dict_descriptor=vars(cls)["__dict__"])
    if cls in BY_TYPE:
        descriptor = vars(cls).get("__dict__") if cls is functools.partial else None
        return Kind(BY_TYPE[cls], weak, dict_descriptor=descriptor)
    payloads = dict(PAYLOADS)
    if numpy is not None:
        payloads[numpy.ndarray] = Array(numpy)
        if issubclass(cls, numpy.memmap):
            return opaque
    base = next(known for known in cls.__mro__ if known in payloads)
    slots: list[Any] = []
    descriptor = None
    for part in cls.__mro__:
        own = vars(part)
        descriptor = descriptor or dict_descriptor(own)
        if part in base.__mro__:
            continue
        members = [held for held in own.values() if type(held) is types.MemberDescriptorType]
        # Py_TPFLAGS_HEAPTYPE. C types may have it too, but neither __slots__ nor the right size.
        if not part.__flags__ & (1 << 9) or (members and "__slots__" not in own):
            return opaque
        slots += members
    # An offset that is not positive is one of a dict or list outside the object, since 3.11; -8 is
    # that of a dict behind the items of a tuple, before.
    extra = len(slots)
    extra += not base.__dictoffset__ and (cls.__dictoffset__ > 0 or cls.__dictoffset__ == -8)
    extra += not base.__weakrefoffset__ and cls.__weakrefoffset__ > 0
    if cls.__basicsize__ - base.__basicsize__ != extra * struct.calcsize("P"):
        return opaque
    return Kind(payloads[base], weak, dict_descriptor=descriptor, slots=slots)
