"""What is to be restored, loaded and not yet bound: all of it works, or nothing has been touched.

    `Staging.add`     loads a co-variable beside the living one       may fail
    `Staging.apply`   live classes get their attributes back, live objects their contents

A class that is alive stays the object it is. Its attributes are part of its own co-variable; an
instance's pickle has them too, and they count only if no name stands for the class.

Threads: the one that owns the namespace.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..exceptions import UnrestorableState
from ..state.fingerprint import Get, Loaded, values_of
from ..state.inplace import Anchors, put_back
from ..state.liverefs import DroppedReference, LiveReferences
from ..state.tracker import Dropped, Group


class Staging:
    """Co-variables about to be restored.

    Args:
        namespace: the live namespace.
        get: reads the store.
        references: the values that are not in it.

    Attributes:
        unrestorable: why names are not, or not quite, as they were.
    """

    def __init__(self, namespace: dict[str, Any], get: Get, references: LiveReferences) -> None:
        self._namespace = namespace
        self._get = get
        self._references = references
        self._loaded: list[tuple[Loaded, Anchors | None]] = []
        self._stand_ins: dict[str, Any] = {}
        self.unrestorable: dict[str, str] = {}

    def add(self, group: Group, anchors: Anchors | None = None) -> None:
        """Load a co-variable.

        Args:
            group: the co-variable.
            anchors: its original objects, to be refilled.

        Raises:
            UnrestorableState: that is not possible here.
        """
        if group.image is not None:
            self._loaded.append((load(group, self._namespace, self._get), anchors))
        for name, dropped in group.dropped.items():
            live = self._references.get(dropped.key)
            if live is None:
                live = DroppedReference(name, dropped.type, dropped.reason)
                self.unrestorable[name] = f"a {dropped.type} was not saved: {dropped.reason}"
            else:
                self.unrestorable[name] = same_object(dropped)
            self._stand_ins[name] = live

    def apply(self, others: Iterable[Any]) -> dict[str, Any]:
        """Refill live classes and objects; returns what the names are to be bound to.

        Args:
            others: the values of names that stay as they are.
        """
        loaded_values = (value for loaded, _ in self._loaded for value in loaded.values.values())
        named = {id(value) for value in (*others, *loaded_values) if isinstance(value, type)}
        values: dict[str, Any] = {}
        for loaded, anchors in self._loaded:
            own = {id(value) for value in loaded.values.values()}
            for cls, restore in loaded.classes.items():
                if id(cls) in own or id(cls) not in named:
                    restore()
            if anchors is None:
                values |= loaded.values
            else:
                values |= put_back(loaded.values, anchors, self._namespace)
        return values | self._stand_ins


def load(group: Group, namespace: dict[str, Any], get: Get) -> Loaded:
    """Make the saved values of a co-variable anew; nothing that exists is touched.

    Raises:
        UnrestorableState: that is not possible here.
    """
    assert group.image is not None
    try:
        return values_of(group.image, namespace, get)
    except Exception as error:
        raise UnrestorableState(
            f"{', '.join(sorted(group.names))} can't be loaded, so nothing was restored: "
            f"{type(error).__name__}: {error}. Name the others to restore those"
        ) from error


def same_object(dropped: Dropped) -> str:
    """Say of a value that is not saved that it still is the object it was."""
    return f"a {dropped.type} was not saved: {dropped.reason}. It is the same object, as it is now"
